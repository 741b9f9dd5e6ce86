//! Several processes on one repository at once, each the real binary: writers beside each other, and mounts that watch.

use crate::cli::{Host, assert_code};
use crate::engine::full;
use crate::mount::{same_trees, try_run};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
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
    let rounds = if full() { 200 } else { 4 };
    for round in 0..rounds {
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
        std::fs::remove_dir_all(target).unwrap();
    }
    assert_clean(&host, rounds);
}

/// A host of its own that knows the repositories of another one by their places.
fn neighbour(first: &Host) -> Host {
    let host = Host::new();
    let place = |name: &str| text(&first.path(name)).to_owned();
    let config = format!(
        "[repository.primary]\nurl = {:?}\npassword-file = {:?}\n\
         [repository.offsite]\nurl = {:?}\nkey-file = {:?}\n",
        place("primary"),
        place("password"),
        place("offsite"),
        place("offsite.key")
    );
    std::fs::write(host.path("keepfs.toml"), config).unwrap();
    host
}

/// Both repositories mounted by the daemon of one host.
struct Serving<'a> {
    host: &'a Host,
}

impl<'a> Serving<'a> {
    fn begin(host: &'a Host) -> Self {
        std::fs::create_dir(host.path("mnt")).unwrap();
        host.expect(0, &["mount", "mnt"]);
        Self { host }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.host.path("mnt").join(below)
    }

    fn shell(&self, script: &str) -> Output {
        try_run(&format!("cd '{}'; {script}", text(&self.path(""))))
    }

    fn await_complete(&self, point: &str) {
        let state = format!("getfattr --only-values -n user.keepfs.state '{point}'");
        let complete = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            self.shell(&state).stdout == b"complete"
        });
        assert!(complete, "{point} is not complete");
        // The kernel may show what it knew of an open point for one second.
        std::thread::sleep(Duration::from_millis(1200));
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let _ = self.host.run(&["umount", "--lazy", "mnt"]);
    }
}

/// Two scripts at the same time, each on the mount of a host of its own.
fn at_once(mounts: [&Serving<'_>; 2], scripts: [&str; 2]) -> [Output; 2] {
    std::thread::scope(|scope| {
        let running = [0, 1].map(|at| {
            let (mount, script) = (mounts[at], scripts[at]);
            scope.spawn(move || mount.shell(script))
        });
        running.map(|running| running.join().expect("it ran"))
    })
}

#[test]
fn two_daemons_of_two_hosts_copy_into_one_repository_and_one_wins_a_name() {
    let one = Host::new();
    one.expect(0, &["init", "primary"]);
    one.expect(0, &["init", "offsite"]);
    let letters = ["a", "b", "c", "d"].map(|letter| (letter, source(&one, letter)));
    for (letter, directory) in &letters {
        let point = format!("primary/web/{letter}");
        one.expect(0, &["backup", text(directory), &point]);
    }
    let other = neighbour(&one);
    let (first, second) = (Serving::begin(&one), Serving::begin(&other));
    let mounts = [&first, &second];
    // Different points at the same time.
    let copies = [
        "mkdir -p offsite/web; cp -a primary/web/a primary/web/c offsite/web/",
        "mkdir -p offsite/web; cp -a primary/web/b primary/web/d offsite/web/",
    ];
    for ended in at_once(mounts, copies) {
        assert_code(&ended, 0);
    }
    for (mount, points) in [(&first, ["a", "c"]), (&second, ["b", "d"])] {
        points
            .iter()
            .for_each(|point| mount.await_complete(&format!("offsite/web/{point}")));
    }
    for mount in mounts {
        for (letter, directory) in &letters {
            same_trees(directory, &mount.path(&format!("offsite/web/{letter}")));
        }
    }
    // The same name at the same time.
    let (a, b) = (text(&letters[0].1), text(&letters[1].1));
    let writes = [a, b].map(|from| format!("cp -a '{from}' offsite/web/both.partial"));
    for ended in at_once(mounts, [&writes[0], &writes[1]]) {
        assert_code(&ended, 0);
    }
    let seals = at_once(mounts, ["mv offsite/web/both.partial offsite/web/both"; 2]);
    let won: Vec<usize> = (0..2).filter(|at| seals[*at].status.success()).collect();
    assert_eq!(won.len(), 1, "{seals:?}");
    let (winner, loser) = (won[0], 1 - won[0]);
    assert_code(&seals[loser], 1);
    assert!(!seals[loser].stderr.is_empty());
    let errors = std::fs::read_to_string(mounts[loser].path(".keepfs/errors")).unwrap();
    assert!(errors.contains("choose another name"), "{errors}");
    // What lost stays open, and takes another name.
    let renamed = mounts[loser].shell("mv offsite/web/both.partial offsite/web/other");
    assert_code(&renamed, 0);
    std::thread::sleep(Duration::from_millis(1500));
    for mount in mounts {
        same_trees(&letters[winner].1, &mount.path("offsite/web/both"));
        same_trees(&letters[loser].1, &mount.path("offsite/web/other"));
    }
    drop((first, second));
    let checked = one.json(&["check", "--read-data", "--json", "offsite"]);
    assert_eq!(checked[0]["problem_count"], 0, "{checked}");
    assert_eq!(checked[0]["points"], 6, "{checked}");
}

#[test]
fn two_daemons_seal_points_while_a_third_process_prunes() {
    let one = Host::new();
    one.expect(0, &["init", "primary"]);
    one.expect(0, &["init", "--trash-days", "0", "offsite"]);
    let other = neighbour(&one);
    let points = if full() { 20 } else { 4 };
    let sources = ["a", "b"].map(|letter| source(&one, letter));
    let (first, second) = (Serving::begin(&one), Serving::begin(&other));
    let ended = AtomicBool::new(false);
    // Each round leaves what prune may delete: a point that was given up, and one that is forgotten.
    let script = |letter: &str, from: &Path| {
        format!(
            "mkdir -p offsite/{letter}
             for n in $(seq {points}); do
                 p=offsite/{letter}/$n
                 cp -a '{0}' $p.given-up.partial && echo $n {letter} > $p.given-up.partial/mine && rmdir $p.given-up.partial
                 cp -a '{0}' $p.partial && head -c 300000 /dev/urandom > $p.partial/new && mv $p.partial $p
                 cp -a '{0}' $p.gone.partial && head -c 300000 /dev/urandom > $p.gone.partial/new
                 mv $p.gone.partial $p.gone && rmdir $p.gone
             done",
            text(from)
        )
    };
    let scripts = [script("a", &sources[0]), script("b", &sources[1])];
    let pruned = std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut pruned = 0;
            while !ended.load(SeqCst) {
                one.expect(0, &["prune", "--grace", "2s", "offsite"]);
                pruned += 1;
                std::thread::sleep(Duration::from_millis(500));
            }
            pruned
        });
        let outputs = at_once([&first, &second], [&scripts[0], &scripts[1]]);
        ended.store(true, SeqCst);
        outputs.iter().for_each(|output| assert_code(output, 0));
        pruner.join().unwrap()
    });
    assert!(pruned > 2, "{pruned}");
    for (letter, directory) in ["a", "b"].into_iter().zip(&sources) {
        for n in 1..=points {
            let point = format!("offsite/{letter}/{n}");
            let new = first.path(&point).join("new");
            assert_eq!(std::fs::metadata(new).unwrap().len(), 300_000);
            let difference = format!("diff -r -x new '{}' '{point}'", text(directory));
            assert_code(&first.shell(&difference), 0);
        }
    }
    drop((first, second));
    let checked = one.json(&["check", "--read-data", "--json", "offsite"]);
    assert_eq!(checked[0]["problem_count"], 0, "{checked}");
    assert_eq!(checked[0]["points"], 2 * points, "{checked}");
}
