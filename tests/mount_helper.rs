//! `mount -t keepfs` and lines of fstab, with the real mount(8). Everything happens in namespaces of its own, so that the
//! helper is installed nowhere, and whatever a test leaves ends with it.

use crate::cli::Host;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Mounts of other tests are let go of, as a copy of them in here would keep them alive. `/run` is empty, and `/sbin` has
/// the helper and the program.
const PRELUDE: &str = r#"
    set -euo pipefail
    grep ' - fuse.keepfs ' /proc/self/mountinfo | cut -d' ' -f5 | xargs -r umount -l 2>/dev/null || true
    mount -t tmpfs tmpfs /run
    mount -t overlay -o "lowerdir=$HELPERS:$PROGRAM:/usr/sbin" overlay "$(readlink -f /sbin)"
    CONFIG=$PWD/keepfs.toml
    mkdir -p p o all
    fails() { local code=0 wanted=$1; shift; "$@" || code=$?; [ "$code" = "$wanted" ]; }
    waits() { for _ in $(seq 200); do ! "$@" || return 0; sleep 0.1; done; return 1; }
    mounted() { grep -q ' - fuse.keepfs ' /proc/self/mountinfo; }
    daemons() { pgrep -x keepfs; }
    ended() { ! mounted && ! daemons; }
"#;

/// A host with a backup in `primary`; `offsite` is empty.
fn host() -> Host {
    let host = Host::new();
    host.files();
    for name in ["primary", "offsite"] {
        host.expect(0, &["init", name]);
    }
    host.expect(0, &["backup", "--quiet", "files", "primary/home/one"]);
    std::fs::create_dir(host.path("bin")).unwrap();
    let program = host.path("bin/keepfs");
    // Not a link: other users run it too, whoever may enter the place where it was built.
    let built = env!("CARGO_BIN_EXE_keepfs");
    std::fs::hard_link(built, &program)
        .or_else(|_| std::fs::copy(built, &program).map(|_| ()))
        .unwrap();
    host
}

pub fn helpers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers")
}

/// What a script says and answers that has the machine to itself.
fn alone(host: &Host, script: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["bash", "-xc", &format!("{PRELUDE}\n{script}")])
        .env("HELPERS", helpers())
        .env("PROGRAM", host.path("bin"))
        .env("HOME", host.home.path())
        .env("XDG_CACHE_HOME", host.path("cache"))
        .env("XDG_STATE_HOME", host.path("state"))
        .env_remove("KEEPFS_CONFIG")
        .env_remove("KEEPFS_PASSWORD")
        .current_dir(host.home.path())
        .stdin(Stdio::null())
        .output()
        .expect("unshare is there")
}

/// Both outputs of a script that must succeed.
fn succeeds(host: &Host, script: &str) -> (String, String) {
    let output = alone(host, script);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    (out, err)
}

#[test]
fn lines_of_fstab_show_repositories_of_one_superblock_and_cp_between_them_moves_no_data() {
    let host = host();
    let (counts, _) = succeeds(
        &host,
        r#"
        printf '%s %s keepfs %s 0 0\n' "$CONFIG" "$PWD/p" repo=primary,ro,_netdev,nofail \
            "$CONFIG" "$PWD/o" repo=offsite,_netdev,x-systemd.requires=network.target \
            "$CONFIG" "$PWD/all" noauto,user,comment=all > fstab
        # Twice: what is mounted already is left as it is.
        mount -T fstab -a
        mount -T fstab -a
        mount -T fstab "$PWD/all"
        [ "$(stat -c %d p o all | sort -u | wc -l)" = 1 ]
        [ "$(grep -c ' - fuse.keepfs ' /proc/self/mountinfo)" = 4 ]
        [ "$(daemons | wc -l)" = 1 ]
        [ "$(findmnt -no SOURCE o)" = "$CONFIG[/offsite]" ]
        fails 1 touch p/home/new
        mkdir o/home
        cat all/.keepfs/metrics > before
        cp -a p/home/one o/home/
        cat all/.keepfs/metrics > after
        diff -r files o/home/one
        for op in copy_file_range read write; do
            for when in before after; do
                grep "op=\"$op\"" $when | cut -d' ' -f2 | grep . || echo 0
            done
        done
        # Access is that of each directory alone, and changes without the others.
        mount -T fstab -o remount,ro "$PWD/o"
        fails 1 mkdir o/two
        mkdir all/offsite/two
        mount -o remount,rw -T fstab "$PWD/o"
        rmdir o/two
        umount p
        ls o all/primary
        umount all
        ls o
        umount o
        waits ended
        [ "$(ls /run/keepfs | grep -v lock | wc -l)" = 0 ]
        "#,
    );
    let counts: Vec<u64> = counts
        .lines()
        .filter_map(|line| line.parse().ok())
        .take(6)
        .collect();
    let [
        copies_before,
        copies,
        reads_before,
        reads,
        writes_before,
        writes,
    ] = counts[..]
    else {
        panic!("{counts:?}");
    };
    assert_eq!(copies - copies_before, 2, "one for each file");
    assert_eq!((writes_before, writes), (0, 0), "no data was written");
    // Reading the metrics costs reads of its own.
    assert!(reads - reads_before <= 2, "no data was read: {counts:?}");
}

#[test]
fn what_cannot_be_mounted_is_told_in_a_sentence_and_leaves_no_daemon() {
    let host = host();
    let (_, said) = succeeds(
        &host,
        r#"
        fails 32 mount -t keepfs "$PWD/none.toml" "$PWD/p"
        fails 32 mount -t keepfs "$CONFIG" "$PWD/p" -o repo=nothing
        fails 1 mount -t keepfs "$CONFIG" "$PWD/p" -o ro,frobnicate
        fails 32 mount -t keepfs "$CONFIG" "$PWD/nowhere" -o repo=primary
        fails 1 mount.keepfs "$CONFIG"
        mount.keepfs "$CONFIG" "$PWD/p" -f -n -o ro
        # Nobody is there to be asked, as at boot.
        sed '/password-file/d' keepfs.toml > asks.toml
        fails 32 mount -t keepfs "$PWD/asks.toml" "$PWD/p"
        echo 'memory = "x"' > wrong.toml
        fails 32 mount -t keepfs "$PWD/wrong.toml" "$PWD/p"
        waits ended
        # A sloppy mount, and a repository without a configuration.
        mount -s -t keepfs -o frobnicate,repo=primary "$CONFIG" "$PWD/p"
        mount -t keepfs -o "password-file=$PWD/password,repo=main" "main=$PWD/primary" "$PWD/o"
        diff -r files/deep o/home/one/deep
        diff -r files/deep p/home/one/deep
        umount p o
        waits ended
        "#,
    );
    for sentence in [
        "cannot read the configuration",
        "has no repository \"nothing\" for repo=; it has offsite, primary",
        "knows no mount option \"frobnicate\"",
        "nowhere: No such file or directory",
        "no password for primary is given",
        "wrong.toml cannot be used: line 1",
    ] {
        let told = said.lines().filter(|line| !line.starts_with('+'));
        let told = told.filter(|line| line.contains(sentence));
        assert_eq!(told.count(), 1, "{sentence}\n{said}");
    }
}

#[test]
fn daemons_that_are_killed_or_ended_leave_nothing_that_the_next_mount_does_not_mend() {
    let host = host();
    succeeds(
        &host,
        r#"
        both() { for name in primary offsite; do
            mount -t keepfs -o "repo=$name" "$CONFIG" "$PWD/${name::1}"; done; }
        both
        kill -9 $(daemons)
        waits fails 2 ls p
        both
        diff -r files p/home/one
        ls o
        # An end that it is told to make takes its binds along.
        kill $(daemons)
        waits fails 1 daemons
        [ -z "$(ls p)" ] || fails 2 ls p
        both
        umount p o
        waits fails 1 daemons
        # A mount of all that somebody made is used, and stays.
        umount -l p o || true
        keepfs --config keepfs.toml mount all
        both
        [ "$(stat -c %d p o all | sort -u | wc -l)" = 1 ]
        [ "$(daemons | wc -l)" = 1 ]
        umount p o
        ls all/primary/home/one
        umount all
        waits fails 1 daemons
        "#,
    );
}

#[test]
fn an_ordinary_user_mounts_all_and_is_told_what_takes_root() {
    let host = host();
    let (_, said) = succeeds(
        &host,
        r#"
        chmod 755 . && chmod 0666 /dev/fuse
        chown -R nobody .
        as_user() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
        as_user mount.keepfs "$CONFIG" "$PWD/all" -o ro,noexec,nosuid,nodev,user=nobody
        as_user diff -r files all/primary/home/one
        fails 1 as_user touch all/primary/home/new
        findmnt -no OPTIONS all | grep ro,nosuid,nodev,noexec
        fails 1 as_user mount.keepfs "$CONFIG" "$PWD/p" -o repo=primary
        as_user fusermount3 -u all
        waits ended
        "#,
    );
    assert!(said.contains("only root can mount with repo="), "{said}");
}
