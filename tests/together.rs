//! Several processes on one repository at once, each the real binary: writers beside each other, and mounts that watch.

use crate::cli::{Host, assert_code};
use crate::mount::same_trees;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

/// A mount in the background of its own process, taken away when its test ends.
struct Watching<'a> {
    host: &'a Host,
    directory: PathBuf,
}

impl<'a> Watching<'a> {
    fn begin(host: &'a Host, name: &str) -> Self {
        let directory = host.path(name);
        std::fs::create_dir(&directory).unwrap();
        host.expect(0, &["mount", "primary", directory.to_str().unwrap()]);
        Self { host, directory }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.join("primary").join(below)
    }

    /// Waits until it shows; fails after a minute.
    fn await_point(&self, below: &str) -> PathBuf {
        let path = self.path(below);
        let shows = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            path.is_dir()
        });
        assert!(shows, "{} never shows", path.display());
        path
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let directory = self.directory.to_str().expect("UTF-8");
        let _ = self.host.run(&["umount", directory]);
    }
}

fn begin(host: &Host, words: &[&str]) -> Child {
    host.command(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn both(host: &Host, first: &[&str], second: &[&str]) -> [Output; 2] {
    [begin(host, first), begin(host, second)].map(|child| child.wait_with_output().unwrap())
}

/// A source with this letter in it, large enough that two backups run beside each other.
fn source(host: &Host, letter: &str) -> PathBuf {
    let directory = host.path(letter);
    std::fs::create_dir_all(&directory).unwrap();
    for number in 0..300u32 {
        let line = format!("{letter} {number}\n");
        std::fs::write(directory.join(number.to_string()), line.repeat(2000)).unwrap();
    }
    std::fs::write(directory.join("shared"), vec![b'x'; 3 << 20]).unwrap();
    directory
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn assert_clean(host: &Host, points: u64) {
    let checked = host.json(&["check", "--read-data", "--json", "primary"]);
    assert_eq!(checked[0]["problem_count"], 0, "{checked}");
    assert_eq!(checked[0]["points"], points, "{checked}");
}

#[test]
fn two_backups_at_once_and_two_mounts_see_the_points_of_both() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    let (a, b) = (source(&host, "a"), source(&host, "b"));
    host.expect(0, &["backup", text(&a), "primary/early/first"]);
    let mounts = ["one", "two"].map(|name| Watching::begin(&host, name));
    assert!(
        mounts
            .iter()
            .all(|mount| mount.path("early/first/7").is_file())
    );
    assert!(mounts.iter().all(|mount| !mount.path("web").exists()));
    for round in ["first", "second", "third"] {
        let (web, db) = (
            format!("primary/web/{round}"),
            format!("primary/db/{round}"),
        );
        for output in both(
            &host,
            &["backup", text(&a), &web],
            &["backup", text(&b), &db],
        ) {
            assert_code(&output, 0);
        }
        for mount in &mounts {
            same_trees(&a, &mount.await_point(&format!("web/{round}")));
            same_trees(&b, &mount.await_point(&format!("db/{round}")));
        }
    }
    // One goes; the other stays.
    let [one, two] = mounts;
    drop(one);
    host.expect(0, &["backup", text(&b), "primary/db/fourth"]);
    same_trees(&b, &two.await_point("db/fourth"));
    host.expect(0, &["forget", "primary/db/first"]);
    let gone = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        !two.path("db/first").exists()
    });
    assert!(gone, "a point that another process forgot still shows");
    drop(two);
    assert_clean(&host, 7);
}

#[test]
fn of_two_backups_with_the_same_name_exactly_one_wins() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    let (a, b) = (source(&host, "a"), source(&host, "b"));
    for round in 0..4 {
        let point = format!("primary/web/point-{round}");
        let ends = both(
            &host,
            &["backup", text(&a), &point],
            &["backup", text(&b), &point],
        );
        let codes = ends.each_ref().map(|end| end.status.code());
        let won = codes
            .iter()
            .position(|code| *code == Some(0))
            .expect("one wins");
        let lost = &ends[1 - won];
        assert_code(lost, 1);
        let complaint = String::from_utf8_lossy(&lost.stderr);
        assert!(complaint.starts_with("keepfs: "), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(complaint.contains(&format!("point-{round}")), "{complaint}");
        let target = host.path(&format!("out-{round}"));
        host.expect(0, &["restore", &point, text(&target)]);
        same_trees([&a, &b][won], &target);
    }
    assert_clean(&host, 4);
}
