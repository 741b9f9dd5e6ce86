//! The mounted tree without the kernel: asked as FUSE asks it, and stopped at every write to the store.

use crate::crash::assert_restores;
use crate::engine::{Bench, assert_clean};
use crate::mount::{back_up, catalog, run};
use crate::mount_writes::settings;
use keepfs::filesystem::{
    Answer, Answered, Attributes, Caller, Changes, Failure, FileSystem, Listed, Mode, Options, ROOT,
};
use keepfs::point::{Catalog, Trees};
use keepfs::store::faults::{FaultyStore, Stop};
use keepfs::store::{MemoryStore, Store};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A tree of files that is asked for names, attributes and bytes.
pub struct Asked {
    pub filesystem: FileSystem,
}

/// What a listing told before it ended or failed: names with their inodes and file type bits.
pub struct Names {
    pub entries: Vec<(String, u64, u32)>,
    pub failure: Option<Failure>,
}

pub fn caller() -> Caller {
    // SAFETY: both calls read a number of the process and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let pid = std::process::id();
    Caller { uid, gid, pid }
}

impl Asked {
    pub fn of(repositories: Vec<(&str, Arc<Catalog>)>, state: &Path) -> Self {
        let named = repositories
            .into_iter()
            .map(|(name, catalog)| (name.to_owned(), catalog));
        let options = Options::new(state.to_owned());
        let filesystem = FileSystem::new(named.collect(), options);
        Self { filesystem }
    }

    pub fn lookup(&self, parent: u64, name: &str) -> Answer<Option<Attributes>> {
        let found = self.filesystem.lookup(parent, name.as_bytes(), caller())?;
        Ok(match found {
            Answered::Found { attributes, .. } => Some(attributes),
            Answered::Missing { .. } => None,
        })
    }

    /// What lies at this path below the root.
    pub fn find(&self, path: &str) -> Answer<Option<Attributes>> {
        let mut found = self.filesystem.stat(ROOT)?;
        for name in path.split('/') {
            match self.lookup(found.ino, name)? {
                Some(attributes) => found = attributes,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    pub fn names(&self, directory: u64) -> Names {
        let mut entries = Vec::new();
        let listed = self
            .filesystem
            .open_directory(directory)
            .and_then(|handle| {
                let read =
                    self.filesystem
                        .read_directory(handle, 2, true, |listed: &Listed<'_>| {
                            let name = String::from_utf8_lossy(listed.name).into_owned();
                            entries.push((name, listed.ino, listed.type_bits));
                            true
                        });
                self.filesystem.close_directory(handle);
                read
            });
        Names {
            entries,
            failure: listed.err(),
        }
    }

    /// A whole file, read as the kernel reads.
    pub fn read(&self, file: u64) -> Answer<Vec<u8>> {
        let handle = self.filesystem.open(file, libc::O_RDONLY)?;
        let mut content = Vec::new();
        let read = loop {
            match self
                .filesystem
                .read(handle, content.len() as u64, 128 << 10)
            {
                Ok(data) if data.is_empty() => break Ok(()),
                Ok(data) => content.extend_from_slice(&data),
                Err(failure) => break Err(failure),
            }
        };
        self.filesystem.close(handle);
        read.map(|()| content)
    }

    /// Reads everything below a directory. Whatever fails is passed to `failed` with its path.
    pub fn read_below(
        &self,
        directory: u64,
        path: &str,
        failed: &mut dyn FnMut(&str, &Failure),
    ) -> BTreeMap<String, Vec<u8>> {
        let mut contents = BTreeMap::new();
        let names = self.names(directory);
        if let Some(failure) = &names.failure {
            failed(path, failure);
        }
        for (name, ino, type_bits) in names.entries {
            let below = format!("{path}/{name}");
            match type_bits {
                libc::S_IFDIR => contents.extend(self.read_below(ino, &below, failed)),
                libc::S_IFREG => match self.read(ino) {
                    Ok(content) => drop(contents.insert(below, content)),
                    Err(failure) => failed(&below, &failure),
                },
                _ => {}
            }
        }
        contents
    }

    fn state(&self, ino: u64) -> Answer<Vec<u8>> {
        self.filesystem.get_xattr(ino, b"user.keepfs.state")
    }

    fn make_directory(&self, parent: u64, name: &str) -> Answer<u64> {
        let mode = Mode {
            mode: libc::S_IFDIR | 0o755,
            umask: 0o022,
        };
        if let Some(there) = self.lookup(parent, name)? {
            return Ok(there.ino);
        }
        match self
            .filesystem
            .make_directory(parent, name.as_bytes(), mode, caller())?
        {
            Answered::Found { attributes, .. } => Ok(attributes.ino),
            Answered::Missing { .. } => panic!("{name} was made and is not there"),
        }
    }

    fn copy_file(&self, source: u64, parent: u64, name: &str) -> Answer<u64> {
        let size = self.filesystem.stat(source)?.size;
        let (ino, target) = match self.lookup(parent, name)? {
            Some(there) => {
                let emptied = Changes {
                    size: Some(0),
                    ..Changes::default()
                };
                self.filesystem
                    .set_attributes(there.ino, &emptied, caller())?;
                (there.ino, self.filesystem.open(there.ino, libc::O_RDWR)?)
            }
            None => {
                let mode = Mode {
                    mode: 0o600,
                    umask: 0,
                };
                let made = self.filesystem.create(
                    parent,
                    name.as_bytes(),
                    mode,
                    libc::O_RDWR,
                    caller(),
                )?;
                (made.0.ino, made.1)
            }
        };
        let from = self.filesystem.open(source, libc::O_RDONLY)?;
        let mut at = 0;
        while at < size {
            let copied =
                self.filesystem
                    .copy_range((from, at), (target, at), size - at, caller())?;
            assert!(copied > 0, "{name} ends before its size");
            at += u64::from(copied);
        }
        self.filesystem.close(from);
        self.filesystem.close(target);
        Ok(ino)
    }

    /// Copies a directory as `cp -a` does: contents, then what is said of them.
    fn copy(&self, source: u64, target: u64) -> Answer<()> {
        for (name, ino, type_bits) in self.names(source).entries {
            let copy = match type_bits {
                libc::S_IFDIR => {
                    let made = self.make_directory(target, &name)?;
                    self.copy(ino, made)?;
                    continue;
                }
                libc::S_IFREG => self.copy_file(ino, target, &name)?,
                _ => match self.lookup(target, &name)? {
                    Some(there) => there.ino,
                    None => self.copy_link(ino, target, &name)?,
                },
            };
            self.copy_attributes(ino, copy)?;
        }
        self.copy_attributes(source, target)
    }

    fn copy_link(&self, source: u64, parent: u64, name: &str) -> Answer<u64> {
        let leads_to = self.filesystem.read_link(source)?;
        match self
            .filesystem
            .make_symlink(parent, name.as_bytes(), &leads_to, caller())?
        {
            Answered::Found { attributes, .. } => Ok(attributes.ino),
            Answered::Missing { .. } => panic!("{name} was made and is not there"),
        }
    }

    fn copy_attributes(&self, source: u64, target: u64) -> Answer<()> {
        let known = self.filesystem.stat(source)?;
        let link = known.mode & libc::S_IFMT == libc::S_IFLNK;
        let changes = Changes {
            mode: (!link).then_some(known.mode & 0o7777),
            uid: Some(known.uid),
            gid: Some(known.gid),
            mtime: Some(Some(known.mtime)),
            ..Changes::default()
        };
        self.filesystem
            .set_attributes(target, &changes, caller())
            .map(drop)
    }
}

/// How a copied point is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// By a rename from `.partial`.
    Renamed,
    /// By itself, being whole.
    Whole,
}

/// A source repository with one point, and an empty target.
struct Copying {
    source: tempfile::TempDir,
    primary: Bench,
    target: MemoryStore,
    offsite: Bench,
}

impl Copying {
    fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        run(&format!(
            "cd '{}'; mkdir -p a/b; seq 1 20000 > a/numbers; echo hello > a/b/hello; : > nothing
             ln -s a/numbers link; head -c 2500000 /dev/urandom > random; chmod 640 a/numbers; chmod 750 a/b
             touch -h -d 2001-02-03T04:05:06.7Z a/b/hello a/b a link nothing .",
            source.path().display()
        ));
        let primary = Bench::new(&settings());
        back_up(&primary, source.path(), "point");
        let target = MemoryStore::new();
        let offsite = Bench::in_store(Arc::new(target.clone()), &settings());
        Self {
            source,
            primary,
            target,
            offsite,
        }
    }

    /// The target as it was at first, behind a store with faults.
    fn fresh_target(&self) -> (FaultyStore, Bench) {
        let memory = MemoryStore::new();
        for object in self.target.list("").unwrap() {
            memory.overwrite(&object.name, self.target.get(&object.name).unwrap());
        }
        let store = FaultyStore::new(Arc::new(memory));
        let bench = Bench {
            store: Arc::new(store.clone()),
            cache: tempfile::tempdir().unwrap(),
            key: self.offsite.key.clone(),
        };
        (store, bench)
    }

    /// A daemon that serves both.
    fn serve(&self, offsite: &Bench, state: &Path) -> Asked {
        let repositories = vec![
            ("primary", catalog(&self.primary)),
            ("offsite", catalog(offsite)),
        ];
        Asked::of(repositories, state)
    }

    /// `cp -a` of the point and what completes it; goes on where an earlier one stopped.
    fn copy(&self, asked: &Asked, ends: Ends) -> Answer<()> {
        let source = asked.find("primary/host/point")?.expect("it was backed up");
        let offsite = asked.find("offsite")?.expect("it is mounted").ino;
        let backup = asked.make_directory(offsite, "host")?;
        if let Some(there) = asked.lookup(backup, "point")?
            && asked.state(there.ino)? == b"complete"
        {
            return Ok(());
        }
        let name = match ends {
            Ends::Renamed => "point.partial",
            Ends::Whole => "point",
        };
        let point = asked.make_directory(backup, name)?;
        asked.copy(source.ino, point)?;
        if ends == Ends::Renamed {
            let (from, to) = ((backup, name.as_bytes()), (backup, &b"point"[..]));
            return asked.filesystem.rename(from, to, 0, caller());
        }
        Ok(())
    }

    /// Waits for a copy that seals itself in the background, as long as the store answers.
    fn await_sealed(&self, asked: &Asked, store: &FaultyStore) {
        for _ in 0..1000 {
            let point = asked.find("offsite/host/point").ok().flatten();
            let state = point.and_then(|point| asked.state(point.ino).ok());
            if state.is_some_and(|state| state == b"complete") || store.is_stopped() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn assert_complete(&self, case: &str, offsite: &mut Bench) {
        offsite.cache = tempfile::tempdir().unwrap();
        let repository = offsite.open();
        assert_clean(case, &repository);
        let contents = Catalog::open(repository.clone()).unwrap().contents();
        let point = contents.point(b"host", b"point");
        let point = point.unwrap_or_else(|| panic!("{case}: the copy is not complete"));
        let trees = Arc::new(Trees::new(repository));
        assert_restores(&trees, point, self.source.path());
    }
}

/// The next daemon on this state directory, once the threads of the one before have let go of the open point.
fn take_over(copying: &Copying, offsite: &Bench, state: &Path) -> Asked {
    let open = state.join("open");
    for _ in 0..500 {
        let asked = copying.serve(offsite, state);
        let left = std::fs::read_dir(&open).map_or(0, |entries| entries.count());
        let partial = ["point", "point.partial"].map(|name| {
            let found = asked.find(&format!("offsite/host/{name}")).ok().flatten();
            found.is_some_and(|found| asked.state(found.ino).is_ok_and(|state| state == b"open"))
        });
        if left == 0 || partial.contains(&true) {
            return asked;
        }
        drop(asked);
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody serves what is left in {}", open.display());
}

#[test]
fn a_copy_through_the_tree_that_dies_at_any_write_is_finished_by_the_next_daemon() {
    let copying = Copying::new();
    for ends in [Ends::Renamed, Ends::Whole] {
        let (store, mut offsite) = copying.fresh_target();
        let state = tempfile::tempdir().unwrap();
        let before = store.mutations();
        let asked = copying.serve(&offsite, state.path());
        copying.copy(&asked, ends).unwrap();
        copying.await_sealed(&asked, &store);
        drop(asked);
        let whole = (store.mutations() - before) as u64;
        copying.assert_complete("undisturbed", &mut offsite);
        assert!(
            whole >= 5,
            "a backup, packs, an index and a record: {whole}"
        );
        let mut left_open = 0;
        for nth in 1..=whole {
            for stop in [Stop::Before, Stop::After] {
                let case = format!("{ends:?}, write {nth} of {whole}, {stop:?}");
                let (store, mut offsite) = copying.fresh_target();
                let state = tempfile::tempdir().unwrap();
                let asked = copying.serve(&offsite, state.path());
                store.stop_at(nth, stop);
                let died = copying.copy(&asked, ends);
                if let Err(failure) = &died {
                    assert_eq!(failure.errno(), libc::EHOSTDOWN, "{case}: {failure:?}");
                } else {
                    copying.await_sealed(&asked, &store);
                }
                drop(asked);
                store.heal();
                offsite.cache = tempfile::tempdir().unwrap();
                assert_clean(&case, &offsite.open());
                let asked = take_over(&copying, &offsite, state.path());
                let partial = asked.find("offsite/host/point.partial").ok().flatten();
                left_open += u64::from(partial.is_some());
                let finished = copying.copy(&asked, ends);
                // A copy that was whole already is sealed before the tool has gone through it again.
                let refused = finished.err().map(|failure| failure.errno());
                assert!(
                    refused.is_none() || (ends, refused) == (Ends::Whole, Some(libc::EROFS)),
                    "{case}: {refused:?}"
                );
                copying.await_sealed(&asked, &store);
                drop(asked);
                copying.assert_complete(&case, &mut offsite);
            }
        }
        assert!(
            ends == Ends::Whole || left_open > 0,
            "some run left an open point"
        );
    }
}
