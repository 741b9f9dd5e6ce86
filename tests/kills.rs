//! The real binary, killed at random moments while it backs up and copies: whatever it had done, nothing half shows,
//! everything that shows is whole, and the next run completes.

use crate::cli::{Host, assert_code};
use crate::engine::{assert_clean, full, seed};
use crate::mount::same_trees;
use crate::sites::{Random, chunks_of};
use keepfs::clock::Clock;
use keepfs::copy::End;
use keepfs::repository::{Credential, Local, Repository};
use keepfs::store::DirectoryStore;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kills of each kind before a round is over and a fresh repository begins.
const KILLS_A_ROUND: usize = 4;

/// What a killed process came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Killed,
    Done,
}

struct Round {
    host: Host,
    random: Random,
    /// How long the last whole run took: the next one is killed somewhere within.
    usual: Duration,
    points: usize,
}

impl Round {
    fn new(seed: u64) -> Self {
        let host = Host::new();
        let config = "[repository.primary]\nurl = \"primary\"\nkey-file = \"primary.key\"\npack-size = \"1 MiB\"\n\
                      [repository.offsite]\nurl = \"offsite\"\nkey-file = \"offsite.key\"\npack-size = \"1 MiB\"\n";
        std::fs::write(host.path("keepfs.toml"), config).unwrap();
        host.expect(0, &["init", "primary"]);
        host.expect(0, &["init", "offsite"]);
        let mut round = Self {
            host,
            random: Random(seed),
            usual: Duration::from_millis(400),
            points: 0,
        };
        for number in 0..3 {
            round.write(&format!("base/{number}"), 3 << 20);
        }
        round
    }

    fn source(&self) -> PathBuf {
        self.host.path("files")
    }

    fn write(&mut self, name: &str, bytes: usize) {
        let path = self.source().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, self.random.bytes(bytes)).unwrap();
    }

    /// New data, so that the next run has something to do: a large file replaced, and many small ones.
    fn change(&mut self) {
        let large = self.random.below(4);
        self.write(&format!("large/{large}"), 6 << 20);
        let directory = self.random.below(5);
        for number in 0..200 {
            let bytes = self.random.below(20_000) as usize;
            self.write(&format!("small/{directory}/{number}"), bytes);
        }
    }

    /// Runs a command and kills it at a random moment within its usual time.
    fn kill(&mut self, words: &[&str]) -> Fate {
        let span = self.usual.as_micros() as u64 + 1;
        let delay = Duration::from_micros(self.random.below(span));
        let mut child = self
            .host
            .command(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        child.kill().unwrap();
        match child.wait().unwrap().success() {
            true => Fate::Done,
            false => Fate::Killed,
        }
    }

    /// Runs a command to its end.
    #[allow(clippy::disallowed_methods)] // how long a run takes, so that kills are spread over it
    fn complete(&mut self, words: &[&str]) {
        let begin = Instant::now();
        let output = self.host.run(words);
        assert_code(&output, 0);
        self.usual = begin.elapsed();
    }

    /// As a process on another host, which has nothing cached.
    fn open(&self, name: &str) -> (tempfile::TempDir, End) {
        let key = std::fs::read(self.host.path(&format!("{name}.key"))).unwrap();
        let cache = tempfile::tempdir().unwrap();
        let local = Local {
            cache: cache.path().to_owned(),
            frame_cache_bytes: 16 << 20,
            clock: Clock::system(),
        };
        let store = Arc::new(DirectoryStore::open(&self.host.path(name)).unwrap());
        let key = Credential::key_file(&key).unwrap();
        (
            cache,
            End::open(Repository::open(store, &key, local).unwrap()).unwrap(),
        )
    }

    /// A name that no point of the backup has, seen or not.
    fn next_point(&mut self) -> String {
        self.points += 1;
        format!("primary/web/{:04}", self.points)
    }

    fn back_up(&mut self) -> String {
        let point = self.next_point();
        let source = self.source();
        self.complete(&["backup", source.to_str().unwrap(), &point]);
        point
    }

    fn assert_restores(&self, point: &str) {
        let target = tempfile::tempdir().unwrap();
        let directory = target.path().join("restored");
        self.host
            .expect(0, &["restore", point, directory.to_str().unwrap()]);
        same_trees(&self.source(), &directory);
    }

    /// Everything visible in the target is what the source has under that name.
    fn assert_copies_equal(&self) -> usize {
        let ((_first, source), (_second, target)) = (self.open("primary"), self.open("offsite"));
        let (from, to) = (source.catalog.contents(), target.catalog.contents());
        let Some(backup) = to.backups.get(b"web".as_slice()) else {
            return 0;
        };
        let copies: Vec<_> = to.points_of(backup.id).collect();
        for copy in &copies {
            let original = from.point(b"web", copy.name()).expect("it was copied");
            assert!(copy.record.same_content(&original.record));
            let chunks = chunks_of(&target.trees, &copy.record.tree);
            assert_eq!(
                chunks,
                chunks_of(&source.trees, &original.record.tree),
                "the same files"
            );
        }
        copies.len()
    }

    /// Returns how many runs were killed before they were done.
    fn kill_backups(&mut self, case: &str) -> usize {
        let mut killed = 0;
        // Tells how long a backup of a change takes here.
        self.back_up();
        self.change();
        self.back_up();
        for number in 0..KILLS_A_ROUND {
            let case = format!("{case}, backup {number}");
            self.change();
            let point = self.next_point();
            let source = self.source();
            let end = self.kill(&["backup", source.to_str().unwrap(), &point]);
            killed += usize::from(end == Fate::Killed);
            let (_cache, now) = self.open("primary");
            assert_clean(&case, now.repository());
            let name = point.rsplit('/').next().unwrap();
            let shows = now
                .catalog
                .contents()
                .point(b"web", name.as_bytes())
                .is_some();
            assert!(
                shows || end == Fate::Killed,
                "{case}: it said that it was done"
            );
            if shows {
                self.assert_restores(&point);
            }
        }
        let point = self.back_up();
        self.assert_restores(&point);
        killed
    }

    fn kill_copies(&mut self, case: &str) -> usize {
        let mut killed = 0;
        for number in 0..KILLS_A_ROUND {
            let case = format!("{case}, copy {number}");
            self.change();
            let of_copies = self.usual;
            self.back_up();
            if number > 0 {
                self.usual = of_copies;
            }
            let end = self.kill(&["copy", "primary", "offsite"]);
            killed += usize::from(end == Fate::Killed);
            self.complete(&["copy", "primary", "offsite"]);
            assert_clean(&case, self.open("offsite").1.repository());
            self.assert_copies_equal();
        }
        self.complete(&["copy", "primary", "offsite"]);
        let (_cache, source) = self.open("primary");
        let contents = source.catalog.contents();
        let points = contents
            .points_of(contents.backups[b"web".as_slice()].id)
            .count();
        assert_eq!(self.assert_copies_equal(), points, "{case}: all are copied");
        self.assert_restores("offsite/web/latest");
        killed
    }

    /// Kills moves: of each point at least one of the two repositories has all, whatever was killed.
    fn kill_moves(&mut self, case: &str) -> usize {
        let mut killed = 0;
        self.back_up();
        self.complete(&["move", "primary/web", "offsite"]);
        for number in 0..KILLS_A_ROUND {
            let case = format!("{case}, move {number}");
            self.change();
            let of_moves = self.usual;
            let point = self.back_up();
            self.usual = of_moves;
            let end = self.kill(&["move", "primary/web", "offsite"]);
            killed += usize::from(end == Fate::Killed);
            let name = point.rsplit('/').next().unwrap();
            let has = |end: &End| {
                end.catalog
                    .contents()
                    .point(b"web", name.as_bytes())
                    .is_some()
            };
            let ((_first, source), (_second, target)) =
                (self.open("primary"), self.open("offsite"));
            let (there, here) = (has(&source), has(&target));
            assert!(there || here, "{case}: {name} is nowhere");
            assert!(
                end == Fate::Killed || !there,
                "{case}: it said that it was done"
            );
            assert_clean(&case, source.repository());
            assert_clean(&case, target.repository());
            if here {
                self.assert_restores(&format!("offsite/web/{name}"));
            }
            self.complete(&["move", "primary/web", "offsite"]);
            assert!(!has(&self.open("primary").1), "{case}");
            self.assert_restores(&format!("offsite/web/{name}"));
        }
        killed
    }
}

#[test]
fn a_move_that_is_killed_at_any_moment_loses_no_point_and_the_next_completes() {
    let seed = seed("moves");
    let kills = if full() { 52 } else { 8 };
    let mut killed = 0;
    for round in 0..kills / KILLS_A_ROUND {
        let case = format!("seed {seed}, round {round}");
        let mut round = Round::new(seed.wrapping_mul(2 * round as u64 + 1));
        killed += round.kill_moves(&case);
    }
    eprintln!("moves: {killed} of {kills} ended a run before its end");
    assert!(killed > 0);
}

#[test]
fn a_process_that_is_killed_at_any_moment_breaks_nothing_and_the_next_completes() {
    let seed = seed("kills");
    let kills = if full() { 1000 } else { 24 };
    let mut killed = [0, 0];
    for round in 0..kills / (2 * KILLS_A_ROUND) {
        let case = format!("seed {seed}, round {round}");
        let mut round = Round::new(seed.wrapping_mul(2 * round as u64 + 1));
        killed[0] += round.kill_backups(&case);
        killed[1] += round.kill_copies(&case);
        for name in ["primary", "offsite"] {
            assert_clean(&case, round.open(name).1.repository());
        }
    }
    eprintln!(
        "kills: {killed:?} of {} each ended a run before its end",
        kills / 2
    );
    assert!(killed.iter().all(|count| *count > 0), "{killed:?}");
}
