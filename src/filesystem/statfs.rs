//! What `df` shows.

use super::FileSystem;
use super::errno::Answer;
use super::inode::{Node, What};
use super::repositories::MountedRepository;
use crate::store::Space;
use std::sync::Arc;

/// Room for a store that knows no limit: an exabyte, which every `df` can show.
const ENDLESS: Space = Space {
    total: 1 << 60,
    free: 1 << 60,
};

/// Room where a file or directory lies, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be written.
    pub free: u64,
}

impl FileSystem {
    /// Room in the repository that an inode belongs to; in the root, of all repositories together.
    pub fn room(&self, ino: u64) -> Answer<Room> {
        let node = self.inodes.get(ino)?;
        let spaces = match repository_of(&node) {
            Some(repository) => vec![space(&repository)],
            None => self
                .repositories
                .iter()
                .map(|repository| space(repository))
                .collect(),
        };
        let sum = |of: fn(&Space) -> u64| spaces.iter().map(of).fold(0, u64::saturating_add);
        Ok(Room {
            total: sum(|space| space.total).min(ENDLESS.total),
            free: sum(|space| space.free).min(ENDLESS.free),
        })
    }
}

/// `df` is no place to report that a store is away.
fn space(repository: &MountedRepository) -> Space {
    repository.space().ok().flatten().unwrap_or(ENDLESS)
}

fn repository_of(node: &Node) -> Option<Arc<MountedRepository>> {
    match &node.what {
        What::Root | What::Control(_) | What::Readers => None,
        What::Repository(repository)
        | What::Backup(repository, _)
        | What::Latest(repository, ..) => Some(repository.clone()),
        What::Complete(point, _) => Some(point.repository.clone()),
        What::Open(open, _) => Some(open.repository.clone()),
    }
}
