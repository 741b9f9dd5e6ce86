//! What can be copied is what can be named: a point, several, a backup, a repository; by `cp -a` in a mount and by
//! `keepfs copy`, with the same result.

use crate::backup::one_of_everything;
use crate::cli::Host;
use crate::mount::{same_trees, try_run};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

/// Points of backup `web`; backup `db` has one more.
const POINTS: [&str; 3] = ["one", "two", "three"];

struct Scopes {
    host: Host,
}

impl Scopes {
    /// Backups `web` and `db` in `primary`, nothing in `offsite`, both mounted.
    fn mounted() -> Self {
        let host = Host::new();
        std::fs::create_dir(host.path("files")).unwrap();
        one_of_everything(&host.path("files"));
        for name in ["primary", "offsite"] {
            host.expect(0, &["init", name]);
        }
        for point in POINTS {
            std::fs::write(host.path("files/changes"), point).unwrap();
            host.expect(0, &["backup", "files", &format!("primary/web/{point}")]);
            host.expect(0, &["restore", &format!("primary/web/{point}"), point]);
        }
        host.expect(0, &["backup", "files", "primary/db/only"]);
        std::fs::create_dir(host.path("mnt")).unwrap();
        host.expect(0, &["mount", "mnt"]);
        Self { host }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.path("mnt").join(name)
    }

    fn shell(&self, script: &str) -> Output {
        try_run(&format!(
            "cd '{}'; {script}",
            self.host.path("mnt").display()
        ))
    }

    /// The script succeeds and says nothing.
    fn quietly(&self, script: &str) {
        let output = self.shell(&format!("{script} 2>&1"));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{script}");
        assert!(output.status.success(), "{script}");
    }

    fn state(&self, point: &str) -> Vec<u8> {
        let state = self.shell(&format!(
            "getfattr --only-values -n user.keepfs.state {point}"
        ));
        state.stdout
    }

    /// The copies complete by themselves and hold what the points held when they were made.
    fn expect(&self, backup: &str, points: &[&str]) {
        for point in points {
            let copy = format!("offsite/{backup}/{point}");
            let complete = (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                self.state(&copy) == b"complete"
            });
            assert!(complete, "{copy}");
            // The kernel may show what it knew of an open point for one second.
            std::thread::sleep(Duration::from_millis(1200));
            let original = if backup == "db" { "three" } else { point };
            same_trees(&self.host.path(original), &self.path(&copy));
        }
        let listed = self.shell(&format!(
            "cd offsite/{backup}; find . -mindepth 1 -maxdepth 1 -type d -printf '%f\\n'"
        ));
        let mut listed: Vec<_> = std::str::from_utf8(&listed.stdout)
            .unwrap()
            .lines()
            .collect();
        listed.sort_unstable();
        let mut points = points.to_vec();
        points.sort_unstable();
        assert_eq!(listed, points, "nothing else is there");
    }
}

impl Drop for Scopes {
    fn drop(&mut self) {
        let _ = self.host.run(&["umount", "--lazy", "mnt"]);
        // Whatever a test did, a check finds nothing wrong with what it leaves.
        if !std::thread::panicking() {
            self.host.expect(0, &["check", "--read-data", "primary"]);
            self.host.expect(0, &["check", "--read-data", "offsite"]);
        }
    }
}

#[test]
fn cp_copies_a_point_several_a_backup_and_a_repository() {
    let scopes = Scopes::mounted();
    scopes.quietly("mkdir offsite/web; cp -a primary/web/one offsite/web/");
    scopes.expect("web", &["one"]);
    scopes.quietly("cp -a primary/web/t* offsite/web/");
    scopes.expect("web", &POINTS);
    scopes.quietly(
        "find offsite/web -mindepth 1 -maxdepth 1 -type d -exec rmdir {} +; rmdir offsite/web",
    );

    scopes.quietly("cp -a primary/web offsite/");
    scopes.expect("web", &POINTS);
    let latest = scopes.shell("readlink primary/web/latest offsite/web/latest | uniq | wc -l");
    assert_eq!(latest.stdout, b"1\n", "the same point is the newest one");
    scopes.quietly(
        "find offsite/web -mindepth 1 -maxdepth 1 -type d -exec rmdir {} +; rmdir offsite/web",
    );

    scopes.quietly("cp -a primary/. offsite/");
    scopes.expect("web", &POINTS);
    scopes.expect("db", &["only"]);
    // Again with what came meanwhile: what is there is left alone.
    std::fs::write(scopes.host.path("files/changes"), "four").unwrap();
    scopes
        .host
        .expect(0, &["backup", "files", "primary/web/four"]);
    scopes
        .host
        .expect(0, &["restore", "primary/web/four", "four"]);
    std::thread::sleep(Duration::from_millis(1500));
    scopes.quietly("cp -an primary/. offsite/");
    scopes.expect("web", &["one", "two", "three", "four"]);
    // A point stands alone: the others go, it stays whole.
    scopes.quietly("rmdir offsite/web/{one,two,three} offsite/db/only");
    scopes.expect("web", &["four"]);
}

#[test]
fn rsync_copies_a_repository_and_again_what_came_meanwhile() {
    let scopes = Scopes::mounted();
    scopes.quietly("rsync -aHAXS primary/ offsite/");
    scopes.expect("web", &POINTS);
    scopes.expect("db", &["only"]);
    scopes.quietly("rsync -aHAXS primary/ offsite/");
    scopes.quietly("rsync -aHAXSnic --delete primary/web/three/ offsite/web/three/");
}

#[test]
fn df_of_a_repository_is_that_of_its_store() {
    let scopes = Scopes::mounted();
    let room = |path: &str| {
        let said = scopes.shell(&format!("df -B1 --output=size,avail '{path}' | tail -1"));
        let said = String::from_utf8(said.stdout).expect("text");
        let mut numbers = said.split_whitespace().map(|word| word.parse::<u64>());
        let mut next = || numbers.next().expect("two").expect("a number") as f64;
        (next(), next())
    };
    let (size, free) = room("../primary");
    let (shown_size, shown_free) = room("primary");
    assert!(
        (shown_size / size - 1.0).abs() < 0.01,
        "{shown_size} {size}"
    );
    assert!(
        (shown_free / free - 1.0).abs() < 0.01,
        "{shown_free} {free}"
    );
    assert_eq!(room("offsite").0, shown_size);
}

#[test]
fn a_backups_owner_and_mode_are_settings_of_it() {
    let scopes = Scopes::mounted();
    scopes.quietly(
        "chmod 750 primary/web; chown 12:34 primary/web; touch -d 2001-01-01 primary/web primary",
    );
    let shown = "stat -c '%a %u %g' primary/web";
    assert_eq!(scopes.shell(shown).stdout, b"750 12 34\n");
    let refused = scopes.shell("chmod 700 primary 2>&1");
    assert!(!refused.status.success());
    let why = scopes.shell("cat .keepfs/errors");
    assert!(String::from_utf8_lossy(&why.stdout).contains("settings"));
    scopes.host.expect(0, &["umount", "mnt"]);
    scopes.host.expect(0, &["mount", "mnt"]);

    assert_eq!(scopes.shell(shown).stdout, b"750 12 34\n");
}

#[test]
fn latest_may_be_made_and_removed_and_is_what_it_is() {
    let scopes = Scopes::mounted();
    scopes.quietly(
        "cd primary/web; ln -sfn one latest || true; rm latest; ln -s one latest; touch -h latest",
    );
    let latest = scopes.shell("readlink primary/web/latest");
    assert_eq!(latest.stdout, b"three\n");
}
