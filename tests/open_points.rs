//! Open points without a kernel: what survives the daemon, and what is never sealed.

use crate::engine::{Bench, assert_clean};
use crate::mount::{back_up, catalog};
use crate::mount_writes::settings;
use keepfs::filesystem::{
    Answer, Answered, Attributes, Caller, Changes, FileSystem, Mode, Options, ROOT,
};
use keepfs::store::MemoryStore;
use keepfs::store::faults::{FaultyStore, Stop};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const USER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

fn mode(mode: u32) -> Mode {
    Mode { mode, umask: 0 }
}

/// A served tree, and the calls of tools on it.
struct Tree(FileSystem);

impl Tree {
    fn of(repositories: &[(&str, &Bench)], state: &Path) -> Self {
        let repositories = repositories
            .iter()
            .map(|(name, bench)| ((*name).to_owned(), catalog(bench)))
            .collect();
        let options = Options {
            state_directory: state.to_owned(),
            ..Options::default()
        };
        Self(FileSystem::new(repositories, options))
    }

    fn look(&self, path: &str) -> Option<Attributes> {
        let mut found = self.0.stat(ROOT).unwrap();
        for name in path.split('/') {
            match self.0.lookup(found.ino, name.as_bytes(), USER).unwrap() {
                Answered::Found { attributes, .. } => found = attributes,
                Answered::Missing { .. } => return None,
            }
        }
        Some(found)
    }

    fn ino(&self, path: &str) -> u64 {
        self.look(path).unwrap_or_else(|| panic!("{path}")).ino
    }

    /// The inode of the directory, and the last name.
    fn place<'a>(&self, path: &'a str) -> (u64, &'a [u8]) {
        let (directory, name) = path.rsplit_once('/').unwrap();
        (self.ino(directory), name.as_bytes())
    }

    fn try_mkdir(&self, path: &str) -> Answer<u64> {
        let (parent, name) = self.place(path);
        match self.0.make_directory(parent, name, mode(0o755), USER)? {
            Answered::Found { attributes, .. } => Ok(attributes.ino),
            Answered::Missing { .. } => panic!("{path}"),
        }
    }

    fn mkdir(&self, path: &str) -> u64 {
        self.try_mkdir(path).unwrap()
    }

    fn create(&self, path: &str) -> Answer<u64> {
        let (parent, name) = self.place(path);
        let (_, handle) = self.0.create(parent, name, mode(0o644), 0, USER)?;
        Ok(handle)
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let handle = self.create(path).unwrap();
        self.0.write(handle, 0, bytes, USER).unwrap();
        self.0.close(handle);
    }

    fn read(&self, path: &str) -> Answer<Vec<u8>> {
        let handle = self.0.open(self.ino(path), libc::O_RDONLY)?;
        let data = self.0.read(handle, 0, 1 << 20);
        self.0.close(handle);
        Ok(data?.to_vec())
    }

    /// As cp does it, without times and owners.
    fn copy(&self, from: &str, to: &str) -> Answer<()> {
        let source = self.0.open(self.ino(from), libc::O_RDONLY)?;
        let target = self.create(to)?;
        let copied = self.0.copy_range((source, 0), (target, 0), 1 << 20, USER);
        self.0.close(source);
        self.0.close(target);
        copied.map(drop)
    }

    fn copy_point(&self, from: &str, to: &str) {
        self.mkdir(to);
        self.mkdir(&format!("{to}/a"));
        for name in FILES {
            self.copy(&format!("{from}/{name}"), &format!("{to}/{name}"))
                .unwrap();
        }
    }

    fn mv(&self, from: &str, to: &str) -> Answer<()> {
        self.0.rename(self.place(from), self.place(to), 0, USER)
    }

    fn rm(&self, path: &str) -> Answer<()> {
        let (parent, name) = self.place(path);
        self.0.unlink(parent, name)
    }

    fn set(&self, path: &str, changes: &Changes) -> Answer<Attributes> {
        self.0.set_attributes(self.ino(path), changes, USER)
    }

    fn cut(&self, path: &str, size: u64) -> Answer<Attributes> {
        let size = Some(size);
        let changes = Changes {
            size,
            ..Changes::default()
        };
        self.set(path, &changes)
    }

    fn fact(&self, path: &str, name: &str) -> String {
        let name = format!("user.keepfs.{name}");
        let value = self.0.get_xattr(self.ino(path), name.as_bytes()).unwrap();
        String::from_utf8_lossy(&value).into_owned()
    }

    fn errors(&self) -> String {
        String::from_utf8_lossy(&self.read(".keepfs/errors").unwrap()).into_owned()
    }

    fn becomes_complete(&self, path: &str) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            self.fact(path, "state") == "complete"
        })
    }
}

/// The files of the point that is copied.
const FILES: [&str; 3] = ["a/one", "a/two", "three"];

fn content(name: &str) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes());
    let mut bytes = vec![0; 100_000];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Two repositories, the first with a point of three files, and a state directory.
struct Host {
    primary: Bench,
    offsite: Bench,
    store: FaultyStore,
    state: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("a")).unwrap();
        for name in FILES {
            std::fs::write(source.path().join(name), content(name)).unwrap();
        }
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let primary = Bench::new(&settings());
        let offsite = Bench::in_store(Arc::new(store.clone()), &settings());
        back_up(&primary, source.path(), "p1");
        catalog(&offsite).ensure_backup(b"host").unwrap();
        Self {
            primary,
            offsite,
            store,
            state: tempfile::tempdir().unwrap(),
        }
    }

    fn serve(&self) -> Tree {
        let both = [("primary", &self.primary), ("offsite", &self.offsite)];
        Tree::of(&both, self.state.path())
    }

    /// The directories of open points.
    fn open_points(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.state.path().join("open")).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    }

    /// The spool files of the only open point.
    fn spools(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.open_points()[0].join("spool")).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    }

    fn assert_clean(&self) {
        assert_clean("offsite", &self.offsite.open());
    }
}

fn fails<T>(answer: Answer<T>, errno: i32, words: &str) {
    let Err(failure) = answer else {
        panic!("it succeeded: {words}")
    };
    let sentence = failure.sentence().unwrap_or_default();
    assert_eq!(failure.errno(), errno, "{sentence}");
    assert!(sentence.contains(words), "{sentence}");
}

#[test]
fn what_was_not_brought_before_the_daemon_ended_is_brought_before_sealing() {
    let host = Host::new();
    let tree = host.serve();
    // A part of a point, which says of no point that this is a copy of it.
    tree.mkdir("offsite/host/x.partial");
    tree.copy("primary/host/p1/a/one", "offsite/host/x.partial/renamed")
        .unwrap();
    drop(tree);
    let tree = host.serve();
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    assert_eq!(
        tree.read("offsite/host/x/renamed").unwrap(),
        content("a/one")
    );
    host.assert_clean();
}

#[test]
fn nothing_is_sealed_while_its_source_is_not_mounted() {
    let host = Host::new();
    let tree = host.serve();
    tree.copy_point("primary/host/p1", "offsite/host/y.partial");
    drop(tree);
    let tree = Tree::of(&[("offsite", &host.offsite)], host.state.path());
    for _ in 0..2 {
        let sealed = tree.mv("offsite/host/y.partial", "offsite/host/y");
        fails(sealed, libc::EHOSTDOWN, "is not mounted");
    }
    assert_eq!(tree.fact("offsite/host/y.partial", "state"), "open");
    // It can be written meanwhile.
    tree.put("offsite/host/y.partial/more", b"more");
    drop(tree);
    let tree = host.serve();
    tree.mv("offsite/host/y.partial", "offsite/host/y").unwrap();
    for name in FILES {
        let path = format!("offsite/host/y/{name}");
        assert_eq!(tree.read(&path).unwrap(), content(name));
    }
    host.assert_clean();
}

#[test]
fn a_transfer_that_failed_is_told_once_and_tried_again() {
    let host = Host::new();
    let tree = host.serve();
    let top = tree.mkdir("offsite/host/x.partial");
    host.store.stop_at(1, Stop::Before);
    tree.copy("primary/host/p1/a/one", "offsite/host/x.partial/one")
        .unwrap();
    fails(tree.0.sync_directory(top, USER), libc::EHOSTDOWN, "");
    host.store.heal();
    tree.copy("primary/host/p1/a/two", "offsite/host/x.partial/two")
        .unwrap();
    tree.0.sync_directory(top, USER).unwrap();
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    assert_eq!(tree.read("offsite/host/x/one").unwrap(), content("a/one"));
    host.assert_clean();
}

#[test]
fn spooled_bytes_that_are_lost_are_never_sealed_as_zeros() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", &content("file"));
    drop(tree);
    let spool = std::fs::File::options()
        .write(true)
        .open(&host.spools()[0]);
    spool.unwrap().set_len(5000).unwrap();
    let tree = host.serve();
    fails(
        tree.read("offsite/host/x.partial/file"),
        libc::EBADMSG,
        "lost on this host",
    );
    let sealed = tree.mv("offsite/host/x.partial", "offsite/host/x");
    fails(sealed, libc::EBADMSG, "file: bytes");
    assert!(tree.look("offsite/host/x").is_none());
    // What is left is sealed after the file was cut to it.
    tree.cut("offsite/host/x.partial/file", 5000).unwrap();
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    let sealed = tree.read("offsite/host/x/file").unwrap();
    assert_eq!(sealed, content("file")[..5000]);
}

#[test]
fn bytes_that_the_journal_does_not_tell_of_do_not_come_back() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", b"first");
    drop(tree);
    // The daemon was killed between the spool and the journal, or between the journal and the cut.
    std::fs::write(&host.spools()[0], b"first and not answered").unwrap();
    let tree = host.serve();
    let handle = tree.ino("offsite/host/x.partial/file");
    let handle = tree.0.open(handle, libc::O_RDWR).unwrap();
    tree.0.write(handle, 30, b"last", USER).unwrap();
    tree.0.close(handle);
    tree.mv("offsite/host/x.partial", "offsite/host/x").unwrap();
    let sealed = tree.read("offsite/host/x/file").unwrap();
    assert_eq!(sealed, [&b"first"[..], &[0; 25], b"last"].concat());
}

#[test]
fn a_spool_that_cannot_be_cut_fails_the_cut() {
    let host = Host::new();
    let tree = host.serve();
    tree.mkdir("offsite/host/x.partial");
    tree.put("offsite/host/x.partial/file", b"content");
    let spool = &host.spools()[0];
    std::fs::remove_file(spool).unwrap();
    std::fs::create_dir(spool).unwrap();
    assert!(tree.cut("offsite/host/x.partial/file", 3).is_err());
}
