//! Programs that people use, at work in an open point: what they made is theirs, also after the point was sealed.

use crate::conformance::{Open, sums};
use crate::engine::full;
use crate::mount::run;
use std::path::Path;

/// Whatever a user has configured has no say here.
const GIT: &str = "export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a \
                   GIT_COMMITTER_EMAIL=a@b";

#[test]
fn git_clones_commits_collects_and_checks() {
    let open = Open::new();
    let origin = tempfile::tempdir().unwrap();
    run(&format!(
        "{GIT}; cd '{}'; git init -q -b main .
         for n in $(seq 1 40); do mkdir -p d$((n % 5)); seq $n $((n * 50)) > d$((n % 5))/f$n; done
         git add .; git commit -q -m first; rm d1/f1; seq 9 > d2/f2; ln -s f2 d2/link; git add -A; git commit -q -m second",
        origin.path().display()
    ));
    run(&format!(
        "{GIT}; cd '{}'; git clone -q --no-hardlinks '{}' clone 2>&1; cd clone; git fsck --strict 2>&1
         test -z \"$(git status --porcelain)\"
         git checkout -q -b other; echo more >> d3/f3; git mv d4 moved; git commit -q -a -m third
         git checkout -q main; git merge -q other; git gc -q 2>&1; git fsck --strict 2>&1
         git stash list; test -z \"$(git status --porcelain)\"",
        open.point.display(),
        origin.path().display()
    ));
    open.seal_and_compare(&|point: &Path| {
        let point = point.display();
        run(&format!(
            "{GIT}; cd '{point}/clone'; git fsck --strict 2>/dev/null; git log --format=%H; git ls-tree -r HEAD; \
             diff <(git show HEAD:d2/f2) d2/f2"
        ))
    });
}

/// Three programs write to one database, in both of its ways to be safe.
#[test]
fn sqlite_keeps_every_row() {
    let open = Open::new();
    let rows = if full() { 60 } else { 12 };
    run(&format!(
        r#"cd '{}'
        for journal in delete wal; do
            sqlite3 $journal "pragma journal_mode=$journal; create table t(n integer primary key, worker, text)" >/dev/null
            writers=()
            for worker in 1 2 3; do
                for n in $(seq {rows}); do
                    echo "insert into t(worker, text) values ($worker, hex(randomblob(3000)));"
                    [ $((n % 5)) -ne 0 ] || echo "update t set text = hex(randomblob(500)) where n % 7 = $worker;"
                done | sqlite3 -bail -cmd '.timeout 60000' $journal & writers+=($!)
            done
            for writer in "${{writers[@]}}"; do wait $writer; done
            test "$(sqlite3 $journal 'select count(*), count(distinct worker) from t')" = "$((3 * {rows}))|3"
            test "$(sqlite3 $journal 'pragma integrity_check')" = ok
        done"#,
        open.point.display()
    ));
    open.seal_and_compare(&|point: &Path| {
        let point = point.display();
        // The sealed one is read-only, where sqlite would make its files of a log.
        run(&format!(
            "for journal in delete wal; do sqlite3 \"file:{point}/$journal?immutable=1\" 'pragma integrity_check; select sum(length(text)) from t'; done"
        ))
    });
}

#[test]
fn a_source_tree_is_unpacked_and_built() {
    let open = Open::new();
    let home = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    run(&format!(
        r#"cd '{0}'; mkdir tree; cp -r '{1}' tree/src; mkdir tree/c
        for n in 1 2 3; do echo "int f$n(void) {{ return $n; }}" > tree/c/f$n.c; done
        echo 'int f1(void); int f2(void); int f3(void); int main(void) {{ return f1() + f2() + f3() - 6; }}' > tree/c/main.c
        tar cf tree.tar tree
        cd '{2}'; tar xf '{0}/tree.tar'; diff -r '{0}/tree' tree
        cd tree/c; for file in *.c; do cc -c -O1 $file; done; ar rcs lib.a f1.o f2.o f3.o; cc -o program main.o lib.a; ./program
        strip program; ./program; rm *.o"#,
        home.path().display(),
        source.display(),
        open.point.display()
    ));
    open.seal_and_compare(&|point: &Path| {
        let point = point.display();
        run(&format!(
            "'{point}/tree/c/program' && echo runs && cd '{point}' && find . | sort"
        ))
    });
}

#[test]
fn fio_verifies_random_writes() {
    let open = Open::new();
    let size = if full() { "256m" } else { "6m" };
    for (name, how) in [
        ("plain", "--ioengine=psync --bsrange=512-128k --fsync=64"),
        ("mapped", "--ioengine=mmap --bs=4k"),
        ("direct", "--ioengine=psync --direct=1 --bs=4k"),
        (
            "appended",
            "--ioengine=psync --bs=16k --file_append=1 --fdatasync=32",
        ),
    ] {
        let rw = if name == "appended" {
            "write"
        } else {
            "randwrite"
        };
        run(&format!(
            "fio --name={name} --directory='{}' --rw={rw} --size={size} {how} --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 \
             --randseed=4711 --output-format=terse",
            open.point.display()
        ));
    }
    open.seal_and_compare(&sums);
}

/// Robustness: nothing hangs, nothing fails that these check, and the daemon serves on.
#[test]
fn stress_is_survived() {
    const STRESSORS: [&str; 32] = [
        "access",
        "chdir",
        "chmod",
        "chown",
        "copy-file",
        "dentry",
        "dir",
        "dirdeep",
        "fallocate",
        "fcntl",
        "filename",
        "flock",
        "fpunch",
        "fstat",
        "getdent",
        "handle",
        "hdd",
        "iomix",
        "lease",
        "link",
        "lockf",
        "mknod",
        "msync",
        "open",
        "rename",
        "revio",
        "seek",
        "sendfile",
        "symlink",
        "touch",
        "utime",
        "xattr",
    ];
    let open = Open::new();
    let all: String = STRESSORS
        .map(|stressor| format!(" --{stressor} 1"))
        .concat();
    let seconds = if full() { 120 } else { 4 };
    let said = run(&format!(
        "timeout 600 stress-ng --temp-path '{}' {all} --hdd-bytes 8m --iomix-bytes 8m --fallocate-bytes 8m \
         --timeout {seconds} --verify 2>&1",
        open.point.display()
    ));
    assert!(!said.contains("fail"), "{said}");
    run(&format!(
        "cd '{}' && rm -rf ./* && echo alive > file && test \"$(cat file)\" = alive",
        open.point.display()
    ));
    open.seal_and_compare(&sums);
}
