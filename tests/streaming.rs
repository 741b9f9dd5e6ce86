//! Written bytes on their way into the repository while the tool goes on: what stays on this host's disk, what is
//! stored of a change, what happens when nothing can be stored, and what survives.

use crate::backup::entries;
use crate::daemon_kills::wait_for;
use crate::engine::{Bench, assert_clean, full, seed};
use crate::mount::{back_up, catalog, run};
use crate::mount_writes::settings;
use crate::served::resumed;
use keepfs::error::Kind;
use keepfs::filesystem::{Answer, Answered, Caller, FileSystem, Mode, Options, ROOT};
use keepfs::point::{File, Trees};
use keepfs::store::faults::{FaultyStore, Stop, Verb};
use keepfs::store::{MemoryStore, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const USER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};
const MIB: usize = 1 << 20;

/// Bytes that do not compress, and never repeat.
fn noise(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(name.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// A host that serves one repository.
struct Host {
    memory: MemoryStore,
    store: FaultyStore,
    bench: Bench,
    state: tempfile::TempDir,
    spool_bytes: u64,
    patience: Duration,
}

struct Served(FileSystem);

impl Host {
    fn new(spool_bytes: usize) -> Self {
        let memory = MemoryStore::new();
        let store = FaultyStore::new(Arc::new(memory.clone()));
        let bench = Bench::in_store(Arc::new(store.clone()), &settings());
        catalog(&bench).ensure_backup(b"host").unwrap();
        Self {
            memory,
            store,
            bench,
            state: tempfile::tempdir().unwrap(),
            spool_bytes: spool_bytes as u64,
            patience: Duration::from_secs(30),
        }
    }

    fn serve(&self) -> Served {
        self.serve_from(self.state.path())
    }

    fn serve_from(&self, state: &Path) -> Served {
        self.serve_with(state, &[])
    }

    fn serve_with(&self, state: &Path, others: &[(&str, &Bench)]) -> Served {
        let options = Options {
            spool_bytes: self.spool_bytes,
            patience: self.patience,
            ..Options::new(state.to_owned())
        };
        let others = others.iter().map(|(name, bench)| (*name, *bench));
        let all = others.chain([("repo", &self.bench)]);
        let repositories = all
            .map(|(name, bench)| (name.to_owned(), catalog(bench)))
            .collect();
        Served(resumed(FileSystem::new(repositories, options)))
    }

    /// Bytes of data packs in the store.
    fn data_bytes(&self) -> u64 {
        let packs = self.memory.list("packs/data").unwrap();
        packs.iter().map(|pack| pack.size).sum()
    }

    fn sealed_file(&self, point: &str, name: &str) -> File {
        let repository = self.bench.open();
        assert_clean(point, &repository);
        let contents = catalog(&self.bench).contents();
        let point = contents.point(b"host", point.as_bytes()).unwrap();
        let entries = entries(&Arc::new(Trees::new(repository)), point);
        entries[name.as_bytes()].file().unwrap().clone()
    }

    /// Bytes of spool files on the disk.
    fn on_disk(&self) -> u64 {
        let state = self.state.path().display();
        let found = run(&format!("find '{state}' -path '*/spool/*' -printf '%b\\n'"));
        let blocks = found.lines().map(|line| line.parse::<u64>().unwrap());
        blocks.sum::<u64>() * 512
    }
}

impl Served {
    fn try_ino(&self, path: &str) -> Option<u64> {
        let mut ino = ROOT;
        for name in path.split('/') {
            match self.0.lookup(ino, name.as_bytes(), USER).unwrap() {
                Answered::Found { attributes, .. } => ino = attributes.ino,
                Answered::Missing { .. } => return None,
            }
        }
        Some(ino)
    }

    fn ino(&self, path: &str) -> u64 {
        self.try_ino(path).unwrap_or_else(|| panic!("{path}"))
    }

    fn mkdir(&self, name: &str) -> u64 {
        let mode = Mode {
            mode: 0o755,
            umask: 0,
        };
        let parent = self.ino("repo/host");
        let made = self.0.make_directory(parent, name.as_bytes(), mode, USER);
        match made.unwrap() {
            Answered::Found { attributes, .. } => attributes.ino,
            Answered::Missing { .. } => panic!("{name}"),
        }
    }

    /// A new file in an open point, opened.
    fn create(&self, point: &str, name: &str) -> u64 {
        let mode = Mode {
            mode: 0o644,
            umask: 0,
        };
        let parent = self.ino(&format!("repo/host/{point}"));
        let made = self.0.create(parent, name.as_bytes(), mode, 0, USER);
        made.unwrap().1
    }

    fn open(&self, path: &str) -> u64 {
        self.0.open(self.ino(path), libc::O_RDWR).unwrap()
    }

    /// Writes as `cp` does; how many bytes were taken.
    fn write(&self, handle: u64, offset: usize, bytes: &[u8]) -> Answer<()> {
        for (n, piece) in bytes.chunks(MIB / 4).enumerate() {
            let at = (offset + n * (MIB / 4)) as u64;
            assert_eq!(self.0.write(handle, at, piece, USER)? as usize, piece.len());
        }
        Ok(())
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let handle = self.0.open(self.ino(path), libc::O_RDONLY).unwrap();
        let mut bytes = Vec::new();
        loop {
            let data = self.0.read(handle, bytes.len() as u64, MIB as u32).unwrap();
            if data.is_empty() {
                break;
            }
            bytes.extend_from_slice(&data);
        }
        self.0.close(handle);
        bytes
    }

    fn text(&self, name: &str) -> String {
        let handle = self
            .0
            .open(self.ino(&format!(".keepfs/{name}")), 0)
            .unwrap();
        let text = self.0.read(handle, 0, 1 << 20).unwrap().to_vec();
        self.0.close(handle);
        String::from_utf8(text).unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.text("metrics");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn spooled(&self) -> u64 {
        self.metric("keepfs_spool_bytes")
    }

    fn sync(&self, directory: u64) -> Answer<()> {
        self.0.sync_directory(directory, USER)
    }

    fn mv(&self, from: &str, to: &str) -> Answer<()> {
        let backup = self.ino("repo/host");
        self.0
            .rename((backup, from.as_bytes()), (backup, to.as_bytes()), 0, USER)
    }

    /// Waits for the background until so few bytes are spooled, as long as they become fewer.
    fn comes_down_to(&self, bytes: usize) -> bool {
        let mut before = u64::MAX;
        while self.spooled() < before {
            before = self.spooled();
            let fewer = |_| {
                std::thread::sleep(Duration::from_millis(20));
                self.spooled() < before
            };
            if before <= bytes as u64 || !(0..1000).any(fewer) {
                break;
            }
        }
        self.spooled() <= bytes as u64
    }
}

fn same(one: &[u8], other: &[u8], what: &str) {
    assert_eq!(one.len(), other.len(), "{what}");
    let differs = one.iter().zip(other).position(|(one, other)| one != other);
    assert_eq!(differs, None, "{what}");
}

#[test]
fn what_is_written_in_order_is_stored_while_the_tool_goes_on() {
    let host = Host::new(1 << 30);
    let content = noise("streamed", if full() { 1024 * MIB } else { 48 * MIB });
    let tree = host.serve();
    let top = tree.mkdir("p.partial");
    let handle = tree.create("p.partial", "file");
    tree.write(handle, 0, &content).unwrap();
    // The end of the file, which may grow, and the packs that are not published yet.
    assert!(tree.comes_down_to(16 * MIB), "{}", tree.text("metrics"));
    assert!(host.on_disk() <= 16 * MIB as u64);
    assert!(tree.metric("keepfs_streamed_bytes_total") >= (content.len() - 16 * MIB) as u64);
    assert_eq!(tree.metric("keepfs_spool_limit_bytes"), 1 << 30);
    same(&tree.read("repo/host/p.partial/file"), &content, "open");
    tree.sync(top).unwrap();
    // The last block of a file that is open may be left.
    assert_eq!(tree.spooled(), 0);
    assert!(host.on_disk() <= 1 << 16, "{}", host.on_disk());
    assert_eq!(tree.metric("keepfs_stream_memory_bytes"), 0);
    let stored = host.data_bytes();
    tree.0.close(handle);
    assert_eq!(host.on_disk(), 0);
    drop(tree);
    // Another daemon finds it there.
    let tree = host.serve();
    same(&tree.read("repo/host/p.partial/file"), &content, "resumed");
    tree.mv("p.partial", "p").unwrap();
    assert_eq!(host.data_bytes(), stored);
    same(&tree.read("repo/host/p/file"), &content, "sealed");
}

#[test]
fn a_file_that_has_its_size_before_its_bytes_is_stored_as_it_is_filled() {
    let host = Host::new(1 << 30);
    let content = noise("filled", 40 * MIB);
    let tree = host.serve();
    tree.mkdir("p.partial");
    let handle = tree.create("p.partial", "file");
    let changes = keepfs::filesystem::Changes {
        size: Some(content.len() as u64),
        ..Default::default()
    };
    let ino = tree.ino("repo/host/p.partial/file");
    tree.0.set_attributes(ino, &changes, USER).unwrap();
    tree.write(handle, 0, &content[..30 * MIB]).unwrap();
    assert!(tree.comes_down_to(16 * MIB), "{}", tree.text("metrics"));
    tree.write(handle, 30 * MIB, &content[30 * MIB..]).unwrap();
    tree.0.close(handle);
    tree.mv("p.partial", "p").unwrap();
    same(&tree.read("repo/host/p/file"), &content, "sealed");
    drop(tree);
    let hash = Some(*blake3::hash(&content).as_bytes());
    assert_eq!(host.sealed_file("p", "file").content_hash(), hash);
}

#[test]
fn a_streamed_file_is_what_a_backup_makes_of_it() {
    let host = Host::new(1 << 30);
    let mut content = noise("same", 21 * MIB + 12345);
    // Zeros become holes.
    content[9 * MIB..16 * MIB].fill(0);
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), &content).unwrap();
    let tree = host.serve();
    tree.mkdir("p.partial");
    let handle = tree.create("p.partial", "file");
    tree.write(handle, 0, &content).unwrap();
    assert!(tree.comes_down_to(16 * MIB), "{}", tree.text("metrics"));
    assert!(tree.metric("keepfs_streamed_bytes_total") > 0);
    tree.0.close(handle);
    tree.mv("p.partial", "p").unwrap();
    drop(tree);
    let stored = host.data_bytes();
    back_up(&host.bench, source.path(), "q");
    let (written, backed_up) = (host.sealed_file("p", "file"), host.sealed_file("q", "file"));
    assert_eq!(written, backed_up);
    assert_eq!(
        written.content_hash(),
        Some(*blake3::hash(&content).as_bytes())
    );
    assert_eq!(host.data_bytes(), stored);
}

#[test]
fn images_that_tools_write_are_cut_as_a_backup_cuts_them() {
    let content = noise("image", 40 * MIB + 12345);
    for first_name in ["disk.img", ".disk.img.a1B2c3"] {
        let host = Host::new(1 << 30);
        let tree = host.serve();
        tree.mkdir("p.partial");
        let handle = tree.create("p.partial", first_name);
        for (n, piece) in content.chunks(MIB).enumerate() {
            tree.write(handle, n * MIB, piece).unwrap();
        }
        assert!(tree.comes_down_to(16 * MIB), "{}", tree.text("metrics"));
        tree.0.close(handle);
        if first_name != "disk.img" {
            let open = tree.ino("repo/host/p.partial");
            let names = [first_name, "disk.img"].map(|name| (open, name.as_bytes()));
            tree.0.rename(names[0], names[1], 0, USER).unwrap();
        }
        tree.mv("p.partial", "p").unwrap();
        drop(tree);
        let stored = host.data_bytes();
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("disk.img"), &content).unwrap();
        back_up(&host.bench, source.path(), "q");
        let points = ["p", "q"].map(|point| host.sealed_file(point, "disk.img"));
        assert_eq!(points[0], points[1], "{first_name}");
        assert_eq!(points[0].block, 64 << 10);
        assert_eq!(host.data_bytes(), stored);
    }
}

#[test]
fn a_small_change_of_a_large_file_stores_little() {
    let size = if full() { 1024 * MIB } else { 64 * MIB };
    let host = Host::new(1 << 30);
    let mut content = noise("image", size);
    let source = tempfile::tempdir().unwrap();
    // An image is cut in blocks, the other file by content.
    for name in ["disk.img", "file"] {
        std::fs::write(source.path().join(name), &content).unwrap();
    }
    back_up(&host.bench, source.path(), "p1");
    let new = noise("new", size / 64);
    let at = size / 3 + 777;
    for (name, block, beside) in [("file", 0, 4 * MIB), ("disk.img", 64 << 10, MIB)] {
        let tree = host.serve();
        let top = tree.mkdir("p2.partial");
        let old = tree.ino(&format!("repo/host/p1/{name}"));
        tree.0.link(old, top, name.as_bytes()).unwrap();
        let handle = tree.open(&format!("repo/host/p2.partial/{name}"));
        let before = host.data_bytes();
        // What is written anew as it was is not stored again.
        tree.write(handle, at, &content[at..at + new.len()])
            .unwrap();
        tree.mv("p2.partial", "again").unwrap();
        let again = host.data_bytes() - before;
        assert!(again <= beside as u64 / 2, "{name}: {again}");
        let top = tree.mkdir("p2.partial");
        tree.0.link(old, top, name.as_bytes()).unwrap();
        let handle = tree.open(&format!("repo/host/p2.partial/{name}"));
        let before = host.data_bytes();
        tree.write(handle, at, &new).unwrap();
        tree.mv("p2.partial", "p2").unwrap();
        let stored = host.data_bytes() - before;
        assert!(stored >= new.len() as u64, "{name}: {stored}");
        assert!(stored <= (new.len() + beside) as u64, "{name}: {stored}");
        let old = content[at..at + new.len()].to_vec();
        content[at..at + new.len()].copy_from_slice(&new);
        same(&tree.read(&format!("repo/host/p2/{name}")), &content, name);
        content[at..at + new.len()].copy_from_slice(&old);
        same(&tree.read(&format!("repo/host/p1/{name}")), &content, name);
        drop(tree);
        assert_eq!(host.sealed_file("p2", name).block, block);
        let tree = host.serve();
        for point in ["p2", "again"] {
            let backup = tree.ino("repo/host");
            tree.0
                .remove_directory(backup, point.as_bytes(), USER)
                .unwrap();
        }
    }
}

#[test]
fn what_is_written_anew_as_it_was_makes_the_same_chunks() {
    let host = Host::new(64 * MIB);
    let content = noise("anew", 64 * MIB);
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), &content).unwrap();
    back_up(&host.bench, source.path(), "p1");
    let tree = host.serve();
    let top = tree.mkdir("p2.partial");
    let old = tree.ino("repo/host/p1/file");
    tree.0.link(old, top, b"file").unwrap();
    let handle = tree.open("repo/host/p2.partial/file");
    let before = host.data_bytes();
    // From the middle of a chunk to the middle of another.
    let range = 20 * MIB + 777..44 * MIB + 778;
    for at in range.clone().step_by(MIB) {
        let piece = at..range.end.min(at + MIB);
        tree.write(handle, piece.start, &content[piece]).unwrap();
    }
    // Some of it is stored while the tool goes on.
    wait_for(|| tree.spooled() < 16 * MIB as u64);
    tree.mv("p2.partial", "p2").unwrap();
    let stored = host.data_bytes() - before;
    assert!(stored < 100_000, "{stored}");
    assert!(tree.read("repo/host/p2/file") == content);
}

#[test]
fn a_full_spool_makes_writers_wait() {
    let host = Host::new(8 * MIB);
    let content = noise("waits", 40 * MIB);
    let tree = host.serve();
    tree.mkdir("p.partial");
    // Bytes in any order, and many small files.
    let handle = tree.create("p.partial", "file");
    for part in [2usize, 0, 3, 1] {
        let range = part * 8 * MIB..(part + 1) * 8 * MIB;
        for (n, piece) in content[range.clone()].chunks(MIB).enumerate() {
            tree.write(handle, range.start + n * MIB, piece).unwrap();
            assert!(tree.spooled() <= 8 * MIB as u64);
        }
    }
    for (n, piece) in content[32 * MIB..].chunks(100_000).enumerate() {
        let small = tree.create("p.partial", &format!("small{n}"));
        tree.write(small, 0, piece).unwrap();
        tree.0.close(small);
        assert!(tree.spooled() <= 8 * MIB as u64);
    }
    same(
        &tree.read("repo/host/p.partial/file"),
        &content[..32 * MIB],
        "open",
    );
    tree.0.close(handle);
    tree.mv("p.partial", "p").unwrap();
    assert_eq!(tree.spooled(), 0);
    same(
        &tree.read("repo/host/p/file"),
        &content[..32 * MIB],
        "sealed",
    );
    for (n, piece) in content[32 * MIB..].chunks(100_000).enumerate() {
        same(&tree.read(&format!("repo/host/p/small{n}")), piece, "small");
    }
    drop(tree);
    assert_clean("full spool", &host.bench.open());
}

/// Writes until it is refused; how many bytes were taken.
fn write_until_refused(tree: &Served, handle: u64, content: &[u8]) -> (usize, i32, String) {
    let mut taken = 0;
    loop {
        let piece = &content[taken..(taken + 100_000).min(content.len())];
        assert!(!piece.is_empty(), "everything was taken");
        match tree.0.write(handle, taken as u64, piece, USER) {
            Ok(count) => taken += count as usize,
            Err(failure) => {
                let sentence = failure.sentence().unwrap_or_default().to_owned();
                // The first failure of the background is told as it is.
                if failure.errno() == libc::ENOSPC {
                    return (taken, libc::ENOSPC, sentence);
                }
                assert_eq!(failure.errno(), libc::EHOSTDOWN, "{sentence}");
            }
        }
    }
}

#[test]
fn a_spool_that_nothing_leaves_refuses_and_loses_nothing() {
    for hangs in [false, true] {
        let mut host = Host::new(8 * MIB);
        host.patience = Duration::from_millis(100);
        let content = noise("refused", 24 * MIB);
        let tree = host.serve();
        let top = tree.mkdir("p.partial");
        let handle = tree.create("p.partial", "file");
        match hangs {
            true => host.store.delay(Duration::from_secs(3)),
            false => host.store.stop_at(1, Stop::Before),
        }
        let (taken, _, sentence) = write_until_refused(&tree, handle, &content);
        assert!(
            sentence.contains("the spool of this host is full"),
            "{sentence}"
        );
        assert!(
            tree.text("errors")
                .contains("the spool of this host is full")
        );
        assert!(taken >= 4 * MIB && tree.spooled() <= 8 * MIB as u64);
        let read = tree.read("repo/host/p.partial/file");
        same(&read, &content[..taken], "refused");
        if !hangs {
            // Each call that can, tells; nothing is sealed.
            assert!(tree.sync(top).is_err());
            assert!(tree.mv("p.partial", "p").is_err());
        }
        host.store.heal();
        let goes_on = (0..600).any(|_| tree.write(handle, taken, &content[taken..]).is_ok());
        assert!(goes_on, "{}", tree.text("errors"));
        tree.0.close(handle);
        tree.mv("p.partial", "p").unwrap();
        same(&tree.read("repo/host/p/file"), &content, "sealed");
        drop(tree);
        assert_clean("refused", &host.bench.open());
    }
}

#[test]
fn a_full_disk_is_as_a_full_spool() {
    let mut host = Host::new(1 << 30);
    host.patience = Duration::from_secs(5);
    let disk = tempfile::tempdir().unwrap();
    let shown = disk.path().display().to_string();
    run(&format!("mount -t tmpfs -o size=24m keepfs-test '{shown}'"));
    let unmount = || run(&format!("umount '{shown}'"));
    let content = noise("disk", 64 * MIB);
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let tree = host.serve_from(disk.path());
        tree.mkdir("p.partial");
        let handle = tree.create("p.partial", "file");
        tree.write(handle, 0, &content).unwrap();
        let rest = noise("rest", 64 * MIB);
        let other = tree.create("p.partial", "other");
        host.store.stop_at(1, Stop::Before);
        let (taken, _, sentence) = write_until_refused(&tree, other, &rest);
        assert!(sentence.contains("is full"), "{sentence}");
        host.store.heal();
        same(
            &tree.read("repo/host/p.partial/other"),
            &rest[..taken],
            "refused",
        );
        tree.mv("p.partial", "p")
            .or_else(|_| tree.mv("p.partial", "p"))
            .unwrap();
        same(&tree.read("repo/host/p/file"), &content, "sealed");
        same(&tree.read("repo/host/p/other"), &rest[..taken], "sealed");
    }));
    unmount();
    tried.unwrap();
}

#[test]
fn chunks_that_are_there_are_not_stored_again() {
    let host = Host::new(1 << 30);
    let content = noise("there", 24 * MIB);
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), &content).unwrap();
    std::fs::write(source.path().join("small"), &content[..5000]).unwrap();
    back_up(&host.bench, source.path(), "p1");
    let tree = host.serve();
    let top = tree.mkdir("p2.partial");
    let is_data = |name: &str| name.starts_with("packs/data");
    let uploads = || {
        let log = host.store.log();
        let uploads = log.iter().filter(|line| line.verb == Verb::Upload);
        uploads.filter(|line| is_data(&line.name)).count()
    };
    let before = uploads();
    for (name, bytes) in [("file", content.as_slice()), ("small", &content[..5000])] {
        let handle = tree.create("p2.partial", name);
        tree.write(handle, 0, bytes).unwrap();
        tree.0.close(handle);
    }
    tree.sync(top).unwrap();
    assert_eq!(tree.spooled(), 0);
    tree.mv("p2.partial", "p2").unwrap();
    assert_eq!(uploads(), before);
    same(&tree.read("repo/host/p2/file"), &content, "sealed");
}

#[test]
fn the_bytes_of_a_point_that_cuts_otherwise_are_stored_once() {
    let host = Host::new(1 << 30);
    let content = noise("otherwise", 40 * MIB);
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), &content).unwrap();
    let elsewhere = Bench::new(&settings());
    back_up(&elsewhere, source.path(), "p1");
    let tree = host.serve_with(host.state.path(), &[("elsewhere", &elsewhere)]);
    tree.mkdir("p1");
    let handle = tree.create("p1", "file");
    tree.write(handle, 0, &content).unwrap();
    tree.0.close(handle);
    let state = || {
        let ino = tree.ino("repo/host/p1");
        tree.0.get_xattr(ino, b"user.keepfs.state").unwrap()
    };
    let complete = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        state() == b"complete"
    });
    assert!(complete, "{}", tree.text("errors"));
    same(&tree.read("repo/host/p1/file"), &content, "sealed");
    assert!(host.data_bytes() < 41 * MIB as u64, "{}", host.data_bytes());
    assert_eq!(tree.spooled(), 0);
}

#[test]
fn what_is_rewritten_while_it_is_stored_is_never_mixed_up() {
    let mut state = seed("what_is_rewritten_while_it_is_stored_is_never_mixed_up");
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let host = Host::new(12 * MIB);
    let mut tree = host.serve();
    tree.mkdir("p.partial");
    tree.0.close(tree.create("p.partial", "file"));
    let mut content: Vec<u8> = Vec::new();
    let mut handle = tree.open("repo/host/p.partial/file");
    for round in 0..if full() { 2000 } else { 150 } {
        let bytes = noise(&round.to_string(), 1 + random(MIB / 2));
        let at = match random(10) {
            0..5 => content.len(),
            5 => content.len() + random(MIB),
            _ => random(content.len() + 1),
        };
        match round % 50 {
            20 => {
                let size = random(content.len() + 1);
                content.truncate(size);
                let changes = keepfs::filesystem::Changes {
                    size: Some(size as u64),
                    ..Default::default()
                };
                let ino = tree.ino("repo/host/p.partial/file");
                tree.0.set_attributes(ino, &changes, USER).unwrap();
                continue;
            }
            30 => {
                tree.sync(tree.ino("repo/host/p.partial")).unwrap();
                assert_eq!(tree.spooled(), 0);
            }
            40 => {
                tree.0.close(handle);
                drop(tree);
                tree = host.serve();
                handle = tree.open("repo/host/p.partial/file");
                same(&tree.read("repo/host/p.partial/file"), &content, "resumed");
            }
            _ => {}
        }
        tree.write(handle, at, &bytes).unwrap();
        content.resize(content.len().max(at + bytes.len()), 0);
        content[at..at + bytes.len()].copy_from_slice(&bytes);
        let (from, length) = (random(content.len()), random(MIB));
        let read = tree.0.read(handle, from as u64, length as u32).unwrap();
        let upto = (from + length).min(content.len());
        same(&read, &content[from..upto], "while it is stored");
    }
    same(&tree.read("repo/host/p.partial/file"), &content, "open");
    tree.0.close(handle);
    tree.mv("p.partial", "p").unwrap();
    same(&tree.read("repo/host/p/file"), &content, "sealed");
    drop(tree);
    let file = host.sealed_file("p", "file");
    let hash = *blake3::hash(&content).as_bytes();
    assert!(file.content_hash().is_none_or(|known| known == hash));
}

/// Writes, with what was acknowledged: bytes of each file by fsync, and whether the point was synced and sealed.
fn write_and_seal(tree: &Served, content: &[u8]) -> (usize, bool) {
    let top = tree.mkdir("p.partial");
    let handle = tree.create("p.partial", "file");
    let mut acknowledged = 0;
    for (n, piece) in content.chunks(MIB).enumerate() {
        if tree.write(handle, n * MIB, piece).is_err() {
            return (acknowledged, false);
        }
        if tree.0.sync(handle, USER).is_ok() {
            acknowledged = n * MIB + piece.len();
        }
    }
    tree.0.close(handle);
    let _ = tree.sync(top);
    (acknowledged, tree.mv("p.partial", "p").is_ok())
}

#[test]
fn whatever_operation_of_the_store_is_the_last_nothing_acknowledged_is_lost() {
    let content = noise("crash", 7 * MIB);
    let whole = {
        let host = Host::new(4 * MIB);
        let tree = host.serve();
        let before = host.store.mutations();
        assert_eq!(write_and_seal(&tree, &content), (content.len(), true));
        host.store.mutations() - before
    };
    assert!(whole >= 8, "packs, index segments and a record: {whole}");
    for nth in 1..=whole as u64 + 2 {
        for stop in [Stop::Before, Stop::After] {
            let case = format!("write {nth} of {whole}, {stop:?}");
            let mut host = Host::new(4 * MIB);
            host.patience = Duration::from_secs(5);
            let tree = host.serve();
            host.store.stop_at(nth, stop);
            let (acknowledged, sealed) = write_and_seal(&tree, &content);
            drop(tree);
            host.store.heal();
            host.bench.cache = tempfile::tempdir().unwrap();
            let tree = host.serve();
            if tree.try_ino("repo/host/p").is_some() {
                same(&tree.read("repo/host/p/file"), &content, &case);
            } else {
                assert!(!sealed, "{case}");
                let read = tree.read("repo/host/p.partial/file");
                assert!(read.len() >= acknowledged, "{case}");
                same(&read, &content[..read.len()], &case);
                let handle = tree.open("repo/host/p.partial/file");
                tree.write(handle, read.len(), &content[read.len()..])
                    .unwrap();
                tree.0.close(handle);
                tree.mv("p.partial", "p").unwrap();
            }
            same(&tree.read("repo/host/p/file"), &content, &case);
            drop(tree);
            assert_clean(&case, &host.bench.open());
        }
    }
}

#[test]
fn a_failure_of_the_background_is_told_by_the_next_call() {
    let host = Host::new(1 << 30);
    let content = noise("told", 20 * MIB);
    let tree = host.serve();
    tree.mkdir("p.partial");
    let handle = tree.create("p.partial", "file");
    host.store
        .fail_at(&[Verb::Upload], "packs/", 0..1, Kind::Unreachable);
    tree.write(handle, 0, &content[..10 * MIB]).unwrap();
    let ino = tree.ino("repo/host/p.partial");
    let told = (0..500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        tree.0.sync(handle, USER).err()
    });
    assert_eq!(told.unwrap().errno(), libc::EHOSTDOWN);
    assert!(tree.text("errors").contains("made to fail by a test"));
    let error = tree.0.get_xattr(ino, b"user.keepfs.error");
    assert!(error.is_ok(), "{error:?}");
    // Once is enough: whoever calls next has it tried again.
    tree.write(handle, 10 * MIB, &content[10 * MIB..]).unwrap();
    tree.0.close(handle);
    tree.mv("p.partial", "p").unwrap();
    same(&tree.read("repo/host/p/file"), &content, "sealed");
}
