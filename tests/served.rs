//! A tree that is served without a kernel, two repositories for it, and the calls of tools.

use crate::engine::{Bench, assert_clean};
use crate::mount::{back_up, catalog};
use crate::mount_writes::settings;
use keepfs::filesystem::{
    Answer, Answered, Attributes, Caller, Changes, FileSystem, Mode, Options, ROOT,
};
use keepfs::store::MemoryStore;
use keepfs::store::faults::FaultyStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const USER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

pub fn mode(mode: u32) -> Mode {
    Mode { mode, umask: 0 }
}

/// With every open point of its state directory. Where no process has ended, a thread of the mount that did may hold a
/// journal for a moment, or a process that another test has just begun.
pub fn resumed(tree: FileSystem) -> FileSystem {
    let mut rounds = 0..500;
    while tree.resume() && rounds.next().is_some() {
        std::thread::sleep(Duration::from_millis(10));
    }
    tree
}

/// A served tree, and the calls of tools on it.
pub struct Tree(pub FileSystem);

impl Tree {
    pub fn of(repositories: &[(&str, &Bench)], state: &Path) -> Self {
        let options = Options {
            rerun_patience: Duration::ZERO,
            ..Options::new(state.to_owned())
        };
        Self::with_options(repositories, options)
    }

    pub fn with_options(repositories: &[(&str, &Bench)], options: Options) -> Self {
        let repositories = repositories
            .iter()
            .map(|(name, bench)| ((*name).to_owned(), catalog(bench)))
            .collect();
        Self(resumed(FileSystem::new(repositories, options)))
    }

    pub fn look(&self, path: &str) -> Option<Attributes> {
        let mut found = self.0.stat(ROOT).unwrap();
        for name in path.split('/') {
            match self.0.lookup(found.ino, name.as_bytes(), USER).unwrap() {
                Answered::Found { attributes, .. } => found = attributes,
                Answered::Missing { .. } => return None,
            }
        }
        Some(found)
    }

    pub fn ino(&self, path: &str) -> u64 {
        self.look(path).unwrap_or_else(|| panic!("{path}")).ino
    }

    /// The inode of the directory, and the last name.
    pub fn place<'a>(&self, path: &'a str) -> (u64, &'a [u8]) {
        let (directory, name) = path.rsplit_once('/').unwrap();
        (self.ino(directory), name.as_bytes())
    }

    pub fn try_mkdir(&self, path: &str) -> Answer<u64> {
        let (parent, name) = self.place(path);
        match self.0.make_directory(parent, name, mode(0o755), USER)? {
            Answered::Found { attributes, .. } => Ok(attributes.ino),
            Answered::Missing { .. } => panic!("{path}"),
        }
    }

    pub fn mkdir(&self, path: &str) -> u64 {
        self.try_mkdir(path).unwrap()
    }

    pub fn create(&self, path: &str) -> Answer<u64> {
        let (parent, name) = self.place(path);
        let (_, handle) = self.0.create(parent, name, mode(0o644), 0, USER)?;
        Ok(handle)
    }

    pub fn put(&self, path: &str, bytes: &[u8]) {
        let handle = self.create(path).unwrap();
        self.0.write(handle, 0, bytes, USER).unwrap();
        self.0.close(handle);
    }

    pub fn read(&self, path: &str) -> Answer<Vec<u8>> {
        let handle = self.0.open(self.ino(path), libc::O_RDONLY)?;
        let data = self.0.read(handle, 0, 1 << 20);
        self.0.close(handle);
        Ok(data?.to_vec())
    }

    /// As cp does it, without times and owners.
    pub fn copy(&self, from: &str, to: &str) -> Answer<()> {
        let source = self.0.open(self.ino(from), libc::O_RDONLY)?;
        let target = self.create(to)?;
        let copied = self.0.copy_range((source, 0), (target, 0), 1 << 20, USER);
        self.0.close(source);
        self.0.close(target);
        copied.map(drop)
    }

    pub fn copy_point(&self, from: &str, to: &str) {
        self.mkdir(to);
        self.mkdir(&format!("{to}/a"));
        for name in FILES {
            self.copy(&format!("{from}/{name}"), &format!("{to}/{name}"))
                .unwrap();
        }
    }

    pub fn mv(&self, from: &str, to: &str) -> Answer<()> {
        self.0.rename(self.place(from), self.place(to), 0, USER)
    }

    pub fn rm(&self, path: &str) -> Answer<()> {
        let (parent, name) = self.place(path);
        self.0.unlink(parent, name)
    }

    pub fn set(&self, path: &str, changes: &Changes) -> Answer<Attributes> {
        self.0.set_attributes(self.ino(path), changes, USER)
    }

    pub fn cut(&self, path: &str, size: u64) -> Answer<Attributes> {
        let size = Some(size);
        let changes = Changes {
            size,
            ..Changes::default()
        };
        self.set(path, &changes)
    }

    pub fn fact(&self, path: &str, name: &str) -> String {
        let name = format!("user.keepfs.{name}");
        let value = self.0.get_xattr(self.ino(path), name.as_bytes()).unwrap();
        String::from_utf8_lossy(&value).into_owned()
    }

    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.read(".keepfs/errors").unwrap()).into_owned()
    }

    pub fn becomes_complete(&self, path: &str) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            self.fact(path, "state") == "complete"
        })
    }
}

/// The files of the point that is copied.
pub const FILES: [&str; 3] = ["a/one", "a/two", "three"];

pub fn content(name: &str) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes());
    let mut bytes = vec![0; 100_000];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Two repositories, the first with a point of three files, and a state directory.
pub struct Host {
    pub primary: Bench,
    pub offsite: Bench,
    pub store: FaultyStore,
    pub state: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
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

    pub fn serve(&self) -> Tree {
        self.serve_with(|_| {})
    }

    pub fn serve_with(&self, set: impl FnOnce(&mut Options)) -> Tree {
        let both = [("primary", &self.primary), ("offsite", &self.offsite)];
        let mut options = Options {
            rerun_patience: Duration::ZERO,
            ..Options::new(self.state.path().to_owned())
        };
        set(&mut options);
        Tree::with_options(&both, options)
    }

    /// The directories of open points.
    pub fn open_points(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.state.path().join("open")).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    }

    /// The spool files of the only open point.
    pub fn spools(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.open_points()[0].join("spool")).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    }

    pub fn assert_clean(&self) {
        assert_clean("offsite", &self.offsite.open());
    }
}

pub fn fails<T>(answer: Answer<T>, errno: i32, words: &str) {
    let Err(failure) = answer else {
        panic!("it succeeded: {words}")
    };
    let sentence = failure.sentence().unwrap_or_default();
    assert_eq!(failure.errno(), errno, "{sentence}");
    assert!(sentence.contains(words), "{sentence}");
}
