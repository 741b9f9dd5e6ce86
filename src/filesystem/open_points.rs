//! The open points of a mount, by repository, backup and name.

use super::inode::ROOT;
use super::open::{OpenPoint, Spool, TOP, is_gone, remove};
use super::problems::Problems;
use super::repositories::{CompletePoint, MountedRepository};
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::repository::make_private;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

#[derive(Default)]
struct Known {
    open: Vec<Arc<OpenPoint>>,
    /// Sealed by this daemon, as long as the kernel knows an inode of theirs: those keep their numbers.
    sealed: HashMap<[u8; 40], Weak<OpenPoint>>,
}

/// Open points, and those that were sealed since.
pub(super) struct OpenPoints {
    /// Where journals and spools lie.
    directory: PathBuf,
    known: Mutex<Known>,
    /// What they all have on this host's disk.
    spool: Arc<Spool>,
}

impl Drop for OpenPoints {
    fn drop(&mut self) {
        self.spool.close();
    }
}

impl OpenPoints {
    /// Goes on with every open point of these repositories that lies in the state directory. What keeps one from
    /// that is noted.
    pub(super) fn resume(
        directory: &Path,
        spool: Arc<Spool>,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
        problems: &Problems,
    ) -> Self {
        let directory = directory.join("open");
        let mut known = Known::default();
        // Without a state directory there is nothing to resume; it is made with the first open point.
        let ours = directory.is_dir().then(|| make_private(&directory));
        if let Some(Err(error)) = &ours {
            tracing::warn!("open points are not resumed: {error}");
        }
        let found = std::fs::read_dir(&directory)
            .into_iter()
            .filter(|_| ours.as_ref().is_some_and(Result::is_ok))
            .flatten()
            .flatten();
        for entry in found {
            let path = entry.path();
            if is_gone(&path) {
                std::thread::spawn(move || remove(&path));
                continue;
            }
            let open = match OpenPoint::resume(&path, &spool, repositories) {
                Ok(Some(open)) => open,
                Ok(None) => continue,
                Err(error) => {
                    let sentence = format!("an open point of this host cannot be read: {error}");
                    problems.note(ROOT, sentence);
                    continue;
                }
            };
            match open.make_way(&known.open) {
                Ok(None) => {}
                Ok(Some(sentence)) => problems.note(open.ino(TOP), sentence),
                Err(failure) => problems.note(open.ino(TOP), Error::from(failure).to_string()),
            }
            if let Some(sentence) = open.doubts() {
                problems.note(open.ino(TOP), sentence);
            }
            known.open.push(open);
        }
        Self {
            directory,
            known: Mutex::new(known),
            spool,
        }
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
