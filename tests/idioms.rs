//! What scripts have done with rsync, `cp -al` and rsnapshot for decades, done to restore points.

use crate::backup::one_of_everything;
use crate::cli::Host;
use crate::mount::{run, same_trees};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// A host with `files`, and backups `home` and `rs` in the repository `primary`, which is mounted.
struct Desk {
    host: Host,
}

impl Desk {
    fn new() -> Self {
        let host = Host::new();
        std::fs::create_dir(host.path("files")).unwrap();
        one_of_everything(&host.path("files"));
        host.expect(0, &["init", "primary"]);
        std::fs::create_dir(host.path("mnt")).unwrap();
        host.expect(0, &["mount", "primary", "mnt"]);
        let desk = Self { host };
        desk.run("mkdir mnt/primary/home mnt/primary/rs");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.path(name)
    }

    /// What a script says in the host's directory; it must succeed.
    fn run(&self, script: &str) -> String {
        run(&format!(
            "cd '{}'; {script}",
            self.host.home.path().display()
        ))
    }

    /// Bytes of file contents in the store.
    fn data(&self) -> u64 {
        let stats = self.host.json(&["stats", "--json", "primary"]);
        let stored = &stats["repositories"][0]["stored"]["data"];
        stored.as_u64().expect("a number")
    }

    /// rsync finds nothing to do from `files` to a point, nor back.
    fn assert_synced(&self, point: &str) {
        for (from, to) in [("files", point), (point, "files")] {
            let todo = self.run(&format!("rsync -aHAXSnic --delete {from}/ {to}/"));
            assert_eq!(todo, "", "{from} to {to}");
        }
    }

    fn commit(&self, point: &str) {
        self.run(&format!("mv {point}.partial {point}"));
        // The kernel may show what it knew of the open point for one second.
        std::thread::sleep(Duration::from_millis(1200));
        self.assert_synced(point);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.host.run(&["umount", "--lazy", "mnt"]);
        // Whatever a test did, a check finds nothing wrong with what it leaves.
        if !std::thread::panicking() {
            self.host.expect(0, &["check", "--read-data", "primary"]);
        }
    }
}

#[test]
fn rsync_makes_points_and_unchanged_files_cost_no_data() {
    let desk = Desk::new();
    desk.run("rsync -aHAXS files/ mnt/primary/home/one.partial/");
    // Again, it finds nothing to do.
    let again = desk.run("rsync -aHAXSi files/ mnt/primary/home/one.partial/");
    assert_eq!(again, "");
    desk.commit("mnt/primary/home/one");
    let (first, kept) = (desk.data(), desk.run("find mnt/primary/home/one | sort"));

    desk.run("rsync -aHAXS --link-dest=../latest/ files/ mnt/primary/home/two.partial/");
    desk.commit("mnt/primary/home/two");
    assert_eq!(desk.data(), first, "links are references");

    // As rsnapshot and many a script do it: links first, then what has changed.
    desk.run("echo more > files/more; chmod 600 files/numbers; rm files/a/hello");
    desk.run("cp -al mnt/primary/home/latest/ mnt/primary/home/three.partial");
    desk.run("rsync -aHAXS --delete files/ mnt/primary/home/three.partial/");
    desk.commit("mnt/primary/home/three");
    assert!(desk.data() < first + 10_000, "{first} {}", desk.data());

    // Nothing that was done to the links has touched what they were links to.
    let now = desk.run("find mnt/primary/home/one | sort");
    assert_eq!(now, kept);
    let differing =
        desk.run("rsync -aHAXSnic --delete mnt/primary/home/one/ mnt/primary/home/two/");
    assert_eq!(differing, "");
    let mode = desk.run("stat -c %a mnt/primary/home/one/numbers mnt/primary/home/three/numbers");
    assert!(mode.ends_with("600\n") && mode != "600\n600\n", "{mode}");
    assert_eq!(desk.run("readlink mnt/primary/home/latest"), "three\n");
}

#[test]
fn every_way_in_which_rsync_writes_files_gives_the_same_files() {
    let desk = Desk::new();
    let open = "mnt/primary/home/all.partial";
    desk.run(&format!("rsync -aHAXS files/ {open}/"));
    let spoil = "printf changed | dd of=files/random bs=1 seek=70000 conv=notrunc status=none";
    for (change, options) in [
        (spoil, "--inplace --no-whole-file"),
        (
            "head -c 3000000 /dev/urandom >> files/random",
            "--append-verify",
        ),
        (spoil, "--append"),
        ("touch files/random; rm files/numbers", "--delete"),
        (
            "head -c 100000 /dev/urandom > files/numbers",
            "--delay-updates",
        ),
        (
            spoil,
            "--temp-dir=\"$PWD/mnt/primary/home/all.partial/a\" --no-whole-file",
        ),
        (spoil, "--temp-dir=/tmp"),
        (
            "head -c 50000 /dev/urandom > files/numbers",
            "--inplace --sparse",
        ),
        (
            "head -c 60000 /dev/urandom > files/numbers",
            "--preallocate",
        ),
        ("date > files/new", "--fsync --backup --suffix=.old"),
    ] {
        desk.run(&format!("sleep 0.01; {change}"));
        desk.run(&format!("rsync -aHAXS --no-S {options} files/ {open}/"));
        // It only appends, and what came before has changed as well.
        let checked = if options == "--append" {
            "rsync -aHAXSc files/ "
        } else {
            "true "
        };
        desk.run(&format!("{checked} {open}/"));
        desk.run(&format!("cmp files/random {open}/random"));
    }
    // What an interrupted run has kept is gone on with.
    desk.run(&format!(
        "head -c 20000000 /dev/urandom > files/big; \
         mkdir {open}/.kept; head -c 6000000 files/big > {open}/.kept/big; \
         rsync -a --partial-dir=.kept --no-whole-file files/big {open}/; test ! -e {open}/.kept"
    ));
    // By itself rsync takes times of the same second for the same.
    desk.run(&format!(
        "rsync -aHAXS --modify-window=-1 --delete files/ {open}/"
    ));
    desk.commit("mnt/primary/home/all");
    let temporary =
        desk.run("find mnt/primary/home/all -name '.*.??????' -o -name '.~tmp~' -o -name '*.old'");
    assert_eq!(temporary, "");
    same_trees(&desk.path("files"), &desk.path("mnt/primary/home/all"));
}

#[test]
fn rsnapshot_keeps_its_snapshots_as_restore_points() {
    let desk = Desk::new();
    let script = |name: &str, text: &str| {
        std::fs::write(desk.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(desk.path(name), executable).unwrap();
    };
    let home = desk.host.home.path().display().to_string();
    // A snapshot is a restore point: it is forgotten at once, and complete when rsnapshot is done.
    script("forget", "for last; do :; done; exec rmdir \"$last\"");
    script(
        "seal",
        &format!("exec setfattr -n user.keepfs.state -v complete {home}/mnt/primary/rs/day.0"),
    );
    let lines = [
        "config_version\t1.2",
        "snapshot_root\tHOME/mnt/primary/rs/",
        "no_create_root\t1",
        "cmd_cp\t/bin/cp",
        "cmd_rm\tHOME/forget",
        "cmd_rsync\t/usr/bin/rsync",
        "cmd_postexec\tHOME/seal",
        "retain\tday\t3",
        "link_dest\t1",
        "lockfile\tHOME/rsnapshot.pid",
        "rsync_short_args\t-aHAXS",
        "rsync_long_args\t--delete --numeric-ids",
        "backup\tHOME/files/\thost/",
    ];
    std::fs::write(
        desk.path("rsnapshot.conf"),
        lines.join("\n").replace("HOME", &home) + "\n",
    )
    .unwrap();
    let mut first = 0;
    for day in 1..=5 {
        desk.run(&format!(
            "echo {day} > files/day; rsnapshot -c rsnapshot.conf day"
        ));
        std::thread::sleep(Duration::from_millis(1200));
        desk.assert_synced("mnt/primary/rs/day.0/host");
        if day == 1 {
            first = desk.data();
        }
    }
    let names = desk.run("ls mnt/primary/rs");
    assert_eq!(names, "day.0\nday.1\nday.2\nlatest\n");
    let days = desk.run("cat mnt/primary/rs/day.[012]/host/day; readlink mnt/primary/rs/latest");
    assert_eq!(days, "5\n4\n3\nday.0\n");
    assert!(desk.data() < first + 20_000, "{first} {}", desk.data());
}
