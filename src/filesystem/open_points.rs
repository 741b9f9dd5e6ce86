//! The open points of a mount, by repository, backup and name.

use super::inode::ROOT;
use super::open::{OpenPoint, Spool, TOP, is_gone, remove};
use super::problems::Problems;
use super::repositories::{CompletePoint, MountedRepository};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::repository::make_private;
use crate::thread;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

#[derive(Default)]
struct Known {
    open: Vec<Arc<OpenPoint>>,
    /// Sealed by this daemon, as long as the kernel knows an inode of theirs: those keep their numbers.
    sealed: HashMap<[u8; 41], Weak<OpenPoint>>,
}

/// Open points, and those that were sealed since.
pub(super) struct OpenPoints {
    /// Where journals and spools lie.
    directory: PathBuf,
    known: Mutex<Known>,
    /// Directories of those that are not resumed yet.
    left: Mutex<Vec<PathBuf>>,
    /// What they all have on this host's disk.
    spool: Arc<Spool>,
}

fn paths_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(directory).and_then(|entries| {
        let paths = entries.map(|entry| Ok(entry?.path()));
        paths.collect()
    });
    listed.map_err(|error| Error::io(format_args!("listing {}", directory.display()), error))
}

impl Drop for OpenPoints {
    fn drop(&mut self) {
        self.spool.close();
    }
}

impl OpenPoints {
    /// Those of the state directory, of which none is known before [`Self::resume`].
    pub(super) fn new(directory: &Path, spool: Arc<Spool>) -> Self {
        let directory = directory.join("open");
        let mut found = Vec::new();
        // Without a state directory there is nothing to resume; it is made with the first open point.
        if directory.is_dir() {
            match make_private(&directory).and_then(|()| paths_in(&directory)) {
                Ok(paths) => found = paths,
                Err(error) => tracing::warn!("open points are not resumed: {error}"),
            }
        }
        Self {
            directory,
            known: Mutex::default(),
            left: Mutex::new(found),
            spool,
        }
    }

    /// Goes on with every open point of these repositories that is left in the state directory, and answers those. What
    /// keeps one from that is noted. What another daemon still has, as one that is just ending, is left.
    pub(super) fn resume(
        &self,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
        problems: &Problems,
    ) -> Vec<Arc<OpenPoint>> {
        let mut resumed = Vec::new();
        self.left.lock().retain(|path| {
            if is_gone(path) {
                let path = path.clone();
                thread::spawn(move || remove(&path));
                return false;
            }
            match OpenPoint::resume(path, &self.spool, repositories) {
                Ok(found) => resumed.extend(found),
                Err(error) if error.kind() == Kind::Busy => return true,
                // That daemon has just finished it.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => {
                    let sentence = format!("an open point of this host cannot be read: {error}");
                    problems.note(ROOT, sentence);
                }
            }
            false
        });
        for open in &resumed {
            match open.make_way(&self.all()) {
                Ok(None) => {}
                Ok(Some(sentence)) => problems.note(open.ino(TOP), sentence),
                Err(failure) => problems.note(open.ino(TOP), Error::from(failure).to_string()),
            }
            if let Some(sentence) = open.doubts() {
                problems.note(open.ino(TOP), sentence);
            }
            self.add(open.clone());
        }
        resumed
    }

    /// Whether another daemon has some of the state directory.
    pub(super) fn lacks_some(&self) -> bool {
        !self.left.lock().is_empty()
    }

    /// What they all have on this host's disk.
    pub(super) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// The state directory for new open points, only for this user.
    pub(super) fn directory(&self) -> Result<&Path> {
        make_private(&self.directory)?;
        Ok(&self.directory)
    }

    pub(super) fn add(&self, open: Arc<OpenPoint>) {
        self.known.lock().open.push(open);
    }

    pub(super) fn remove(&self, open: &Arc<OpenPoint>) {
        self.known
            .lock()
            .open
            .retain(|known| !Arc::ptr_eq(known, open));
    }

    /// Every open point.
    pub(super) fn all(&self) -> Vec<Arc<OpenPoint>> {
        self.known.lock().open.clone()
    }

    /// Moves points that were sealed in the background.
    fn settle(known: &mut Known) {
        let Known { open, sealed } = known;
        open.retain(|point| match point.sealed() {
            Some(complete) => {
                sealed.retain(|_, point| point.strong_count() > 0);
                sealed.insert(complete.identity(), Arc::downgrade(point));
                false
            }
            None => true,
        });
    }

    /// The open points of a backup.
    pub(super) fn of_backup(
        &self,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
    ) -> Vec<Arc<OpenPoint>> {
        let mut known = self.known.lock();
        Self::settle(&mut known);
        let open = known.open.iter();
        open.filter(|open| Arc::ptr_eq(&open.repository, repository) && open.backup == backup)
            .cloned()
            .collect()
    }

    /// The open point of this name.
    pub(super) fn named(
        &self,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        name: &[u8],
    ) -> Option<Arc<OpenPoint>> {
        let mut of_backup = self.of_backup(repository, backup).into_iter();
        of_backup.find(|open| open.name() == name)
    }

    /// Those that were sealed and of which the kernel knows an inode.
    pub(super) fn all_sealed(&self) -> Vec<Arc<OpenPoint>> {
        let mut known = self.known.lock();
        Self::settle(&mut known);
        known.sealed.values().filter_map(Weak::upgrade).collect()
    }

    /// The open point that has become this complete one, while the kernel knows it.
    pub(super) fn sealed(&self, point: &CompletePoint) -> Option<Arc<OpenPoint>> {
        let mut known = self.known.lock();
        Self::settle(&mut known);
        known.sealed.get(&point.identity()).and_then(Weak::upgrade)
    }
}
