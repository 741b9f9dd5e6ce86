//! `kill -9` of the daemon, of the tool that writes, or of both, at random moments under a mixed load, with a record of
//! all that was acknowledged kept outside: not one acknowledged byte is missing or different afterwards.
//!
//! Every byte that the tool writes follows from where it lies and from a version, so that the record stays small and
//! bytes that were never written are noticed, too.

use crate::cli::Host;
use crate::engine::{full, seed};
use crate::sites::Random;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Files that only grow.
const LOGS: u64 = 4;
/// Files that are written anew beside and renamed.
const DOCUMENTS: u64 = 4;
/// Blocks of one file that are written at random.
const BLOCKS: u64 = 32;
const BLOCK_BYTES: usize = 16 << 10;
/// Kills before a new repository is begun.
const KILLS_A_ROUND: usize = 60;
const DIRECTORY: &str = "KEEPFS_TEST_WRITES";

/// The bytes of one version of one thing, from an offset on.
fn bytes(thing: u64, version: u64, offset: u64, length: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&thing.to_le_bytes());
    hasher.update(&version.to_le_bytes());
    let mut stream = hasher.finalize_xof();
    stream.set_position(offset);
    let mut bytes = vec![0; length];
    stream.fill(&mut bytes);
    bytes
}

/// What of an open point was begun and what was acknowledged.
#[derive(Clone, Debug, Default)]
struct State {
    /// Bytes of logs.
    logs: BTreeMap<u64, u64>,
    /// Versions of documents.
    documents: BTreeMap<u64, u64>,
    /// Versions of blocks.
    blocks: BTreeMap<u64, u64>,
}

/// The record, read again.
#[derive(Debug, Default)]
struct Record {
    /// The number of the open point.
    point: u64,
    /// What was acknowledged of it.
    sure: State,
    /// What may have happened to it.
    begun: State,
    /// Points whose rename was acknowledged, with the same of each.
    complete: Vec<(u64, (State, State))>,
}

impl Record {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut record = Self::default();
        for line in whole.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            let (sure, begun) = (&mut record.sure, &mut record.begun);
            match words[0] {
                "log" => drop(sure.logs.insert(number(1), number(2))),
                "document?" => drop(begun.documents.insert(number(1), number(2))),
                "document" => drop(sure.documents.insert(number(1), number(2))),
                "block?" => drop(begun.blocks.insert(number(1), number(2))),
                "block" => drop(sure.blocks.insert(number(1), number(2))),
                "length" => drop(begun.logs.insert(number(1), number(2))),
                // What was written is in the repository, whether it was synced before or not.
                "sync" => sure.logs = begun.logs.clone(),
                // Renamed, though nobody was told.
                "skip" => {
                    (*sure, *begun) = Default::default();
                    record.point = number(1);
                }
                "commit" => {
                    sure.logs = begun.logs.clone();
                    let states = (std::mem::take(sure), std::mem::take(begun));
                    record.complete.push((number(1), states));
                    record.point = number(1) + 1;
                }
                other => panic!("{other:?} in the record"),
            }
        }
        record
    }

    /// Everything that was acknowledged is in `directory`, and nothing that was never written.
    fn verify(&self, directory: &Path, sure: &State, begun: &State) {
        for log in 0..LOGS {
            let least = sure.logs.get(&log).copied().unwrap_or(0);
            let path = directory.join(format!("log{log}"));
            let found = match std::fs::read(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound && least == 0 => continue,
                Err(error) => panic!("{}: {error}", path.display()),
            };
            assert!(
                found.len() as u64 >= least,
                "{}: {} of {least}",
                path.display(),
                found.len()
            );
            assert!(found == bytes(log, 0, 0, found.len()), "{}", path.display());
        }
        for document in 0..DOCUMENTS {
            let least = sure.documents.get(&document).copied().unwrap_or(0);
            let most = begun.documents.get(&document).copied().unwrap_or(0);
            let path = directory.join(format!("document{document}"));
            let found = match std::fs::read(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound && least == 0 => continue,
                Err(error) => panic!("{}, version {least}: {error}", path.display()),
            };
            let version = (least.max(1)..=most.max(least)).find(|version| {
                found == bytes(100 + document, *version, 0, document_bytes(*version))
            });
            let other = (1..=most + 2).find(|version| {
                found.starts_with(&bytes(100 + document, *version, 0, found.len().min(100)))
            });
            assert!(
                version.is_some(),
                "{}: {least} to {most}, but {} bytes of version {other:?}",
                path.display(),
                found.len()
            );
        }
        let found = match std::fs::read(directory.join("blocks")) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound && sure.blocks.is_empty() => {
                return;
            }
            Err(error) => panic!("blocks: {error}"),
        };
        for block in 0..BLOCKS {
            let least = sure.blocks.get(&block).copied().unwrap_or(0);
            let most = begun.blocks.get(&block).copied().unwrap_or(0).max(least);
            let begin = (block as usize * BLOCK_BYTES).min(found.len());
            let end = (begin + BLOCK_BYTES).min(found.len());
            let versions: Vec<_> = (least..=most)
                .map(|version| block_bytes(block, version))
                .collect();
            let known = found[begin..end]
                .iter()
                .enumerate()
                .all(|(at, byte)| versions.iter().any(|bytes| bytes[at] == *byte));
            assert!(known, "block {block}: {least} to {most}");
            assert!(
                least == 0 || end - begin == BLOCK_BYTES,
                "block {block} is short"
            );
        }
    }
}

fn document_bytes(version: u64) -> usize {
    (version as usize * 7919) % 60_000 + 1
}

/// Version 0 is the hole before the first write.
fn block_bytes(block: u64, version: u64) -> Vec<u8> {
    match version {
        0 => vec![0; BLOCK_BYTES],
        _ => bytes(200 + block, version, 0, BLOCK_BYTES),
    }
}

/// The tool: writes below a backup's directory until it is killed or a call fails.
struct Writer {
    backup: PathBuf,
    log: File,
    random: Random,
    record: Record,
}

impl Writer {
    fn note(&mut self, line: &str) {
        // One write: whoever is killed before it has acknowledged nothing.
        let line = format!("{line}\n");
        self.log
            .write_all(line.as_bytes())
            .expect("the record can be written");
    }

    fn open_point(&self) -> PathBuf {
        self.backup.join(format!("p{}.partial", self.record.point))
    }

    fn work(&mut self) -> io::Result<()> {
        loop {
            // What was renamed before a kill, and not acknowledged, may be complete.
            while self.backup.join(format!("p{}", self.record.point)).exists() {
                self.record.point += 1;
                self.record.begun = State::default();
                self.note(&format!("skip {}", self.record.point));
            }
            let point = self.open_point();
            if !point.is_dir() {
                std::fs::create_dir(&point)?;
            }
            match self.random.below(100) {
                0..40 => self.append(&point)?,
                40..60 => self.replace(&point)?,
                60..85 => self.overwrite(&point)?,
                85..97 => self.sync(&point)?,
                _ => self.commit(&point)?,
            }
        }
    }

    fn append(&mut self, point: &Path) -> io::Result<()> {
        let log = self.random.below(LOGS);
        let path = point.join(format!("log{log}"));
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        let length = file.metadata()?.len();
        let more = self.random.below(150_000) as usize + 1;
        for piece in bytes(log, 0, length, more).chunks(10_000) {
            file.write_all(piece)?;
        }
        self.note(&format!("length {log} {}", length + more as u64));
        if self.random.below(2) == 0 {
            file.sync_all()?;
            self.note(&format!("log {log} {}", length + more as u64));
        }
        Ok(())
    }

    fn replace(&mut self, point: &Path) -> io::Result<()> {
        let document = self.random.below(DOCUMENTS);
        let begun = self.record.begun.documents.entry(document).or_default();
        *begun += 1;
        let version = *begun;
        self.note(&format!("document? {document} {version}"));
        let temporary = point.join(format!(".document{document}"));
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes(100 + document, version, 0, document_bytes(version)))?;
        file.sync_all()?;
        std::fs::rename(&temporary, point.join(format!("document{document}")))?;
        file.sync_all()?;
        self.note(&format!("document {document} {version}"));
        Ok(())
    }

    fn overwrite(&mut self, point: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(point.join("blocks"))?;
        let mut written = Vec::new();
        for _ in 0..=self.random.below(4) {
            let block = self.random.below(BLOCKS);
            let begun = self.record.begun.blocks.entry(block).or_default();
            *begun += 1;
            let version = *begun;
            self.note(&format!("block? {block} {version}"));
            file.write_all_at(&block_bytes(block, version), block * BLOCK_BYTES as u64)?;
            written.push((block, version));
        }
        file.sync_data()?;
        for (block, version) in written {
            self.note(&format!("block {block} {version}"));
        }
        Ok(())
    }

    /// `sync DIR`: all of it is in the repository.
    fn sync(&mut self, point: &Path) -> io::Result<()> {
        File::open(point)?.sync_all()?;
        self.note("sync");
        Ok(())
    }

    fn commit(&mut self, point: &Path) -> io::Result<()> {
        let number = self.record.point;
        std::fs::rename(point, self.backup.join(format!("p{number}")))?;
        self.note(&format!("commit {number}"));
        self.record = Record {
            point: number + 1,
            ..Record::default()
        };
        Ok(())
    }
}

/// Not a test: the one below runs it as a process of its own.
#[test]
fn write_for_another_test() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let record = PathBuf::from(std::env::var_os("KEEPFS_TEST_RECORD").expect("is set"));
    let seed = std::env::var("KEEPFS_SEED").expect("is set");
    let log = OpenOptions::new().append(true).create(true).open(&record);
    let mut writer = Writer {
        backup: directory.into(),
        log: log.expect("opens"),
        random: Random(seed.parse::<u64>().expect("a number") | 1),
        record: Record::read(&record),
    };
    // It ends when the daemon does.
    let _ = writer.work();
}

/// A host with a mounted repository, whose daemon dies again and again.
struct Site {
    host: Host,
    random: Random,
    daemon: Option<Child>,
}

impl Site {
    fn new(seed: u64) -> Self {
        let host = Host::new();
        host.expect(0, &["init", "primary"]);
        std::fs::create_dir(host.path("mnt")).unwrap();
        let mut site = Self {
            host,
            random: Random(seed),
            daemon: None,
        };
        site.mount();
        std::fs::create_dir(site.backup()).unwrap();
        site
    }

    fn backup(&self) -> PathBuf {
        self.host.path("mnt/primary/host")
    }

    fn mount(&mut self) {
        let mut command = self
            .host
            .command(&["mount", "--foreground", "primary", "mnt"]);
        self.daemon = Some(command.stderr(Stdio::null()).spawn().unwrap());
        let top = self.host.path("mnt/primary");
        // Opened, not looked for: the kernel still knows the names of a mount whose daemon was killed.
        let there = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            std::fs::read_dir(&top).is_ok()
        });
        assert!(there, "the next daemon mounts");
    }

    /// The tool works for a while, then something dies.
    fn kill(&mut self) {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acknowledged::write_for_another_test"])
            .env(DIRECTORY, self.backup())
            .env("KEEPFS_TEST_RECORD", self.host.path("record"))
            .env("KEEPFS_SEED", self.random.next().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + self.random.below(900)));
        let dies = self.random.below(3);
        if dies != 0 {
            writer.kill().unwrap();
        }
        if dies != 1 {
            let mut daemon = self.daemon.take().unwrap();
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        writer.wait().unwrap();
        if dies != 1 {
            self.mount();
        }
    }

    fn verify(&self) {
        let record = Record::read(&self.host.path("record"));
        for (number, (sure, begun)) in record.complete.iter().rev().take(3) {
            let point = self.backup().join(format!("p{number}"));
            record.verify(&point, sure, begun);
        }
        let named = |ending: &str| self.backup().join(format!("p{}{ending}", record.point));
        let open = [named(".partial"), named("")]
            .into_iter()
            .find(|path| path.is_dir());
        match open {
            Some(open) => record.verify(&open, &record.sure, &record.begun),
            None => assert!(record.sure.logs.is_empty() && record.sure.documents.is_empty()),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = self.host.run(&["umount", "--lazy", "mnt"]);
            let _ = daemon.wait();
        }
        if !std::thread::panicking() {
            self.host.expect(0, &["check", "--read-data", "primary"]);
        }
    }
}

#[test]
fn what_was_acknowledged_survives_whatever_dies() {
    let seed = seed("acknowledged");
    let kills: usize = if full() { 2000 } else { 20 };
    let mut commits = 0;
    for round in 0..kills.div_ceil(KILLS_A_ROUND) {
        let mut site = Site::new(seed.wrapping_add(round as u64 * 2));
        for _ in 0..KILLS_A_ROUND.min(kills - round * KILLS_A_ROUND) {
            site.kill();
            site.verify();
        }
        commits += Record::read(&site.host.path("record")).complete.len();
    }
    eprintln!("{kills} kills, {commits} points committed");
}
