//! Holes of files in complete points: how many bytes they are, and where the next one begins.

use super::errno::{Answer, Rule};
use super::repositories::CompletePoint;
use crate::error::Result;
use crate::id::ChunkId;
use crate::point::{Content, ContentPage, Entry, Extent, File, Trees};
use crate::thread;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Files with paged extents whose holes are remembered: 40 bytes each.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Extents that a `stat` counts at once: some 50 ms. A file with more has its holes counted in the background.
const EXTENTS_AT_ONCE: u64 = 1 << 17;

/// How many bytes of a file are holes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holes {
    pub(super) bytes: u64,
    /// Whether they were counted; otherwise the number is 0 until they are.
    pub(super) exact: bool,
}

impl Holes {
    const NONE: Self = Self {
        bytes: 0,
        exact: true,
    };
    const UNKNOWN: Self = Self {
        bytes: 0,
        exact: false,
    };
}

/// Hole bytes of large files, by the root page of their extents; none while they are being counted.
#[derive(Clone)]
pub(super) struct HoleCounts(Arc<Mutex<LruCache<ChunkId, Option<u64>>>>);

impl Default for HoleCounts {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(FILES_MAX))))
    }
}

fn sum_of_holes(extents: &[Extent]) -> u64 {
    let holes = extents.iter().filter(|extent| extent.chunk.is_none());
    holes.fold(0, |sum, hole| sum.saturating_add(hole.length))
}

impl HoleCounts {
    /// The hole bytes of an entry. Damage is left for the reader of the file: then no hole is known.
    pub(super) fn of(&self, point: &CompletePoint, entry: &Entry) -> Holes {
        let Some(file) = entry.file() else {
            return Holes::NONE;
        };
        match &file.content {
            Content::Empty | Content::One(_) => Holes::NONE,
            Content::Extents(extents) => Holes {
                bytes: sum_of_holes(extents),
                exact: true,
            },
            Content::Pages(root) => self.of_pages(point.trees(), file, *root),
        }
    }

    fn of_pages(&self, trees: &Arc<Trees>, file: &File, root: ChunkId) -> Holes {
        let known = self.0.lock().get(&root).copied();
        match known {
            Some(Some(bytes)) => return Holes { bytes, exact: true },
            Some(None) => return Holes::UNKNOWN,
            None => {}
        }
        let Ok(extents) = count_extents(trees, &root) else {
            return Holes::NONE;
        };
        if extents <= EXTENTS_AT_ONCE {
            let bytes = count(trees, file);
            self.0.lock().put(root, Some(bytes));
            return Holes { bytes, exact: true };
        }
        self.0.lock().put(root, None);
        let (counts, trees, file) = (self.clone(), trees.clone(), file.clone());
        thread::spawn(move || {
            let bytes = count(&trees, &file);
            counts.0.lock().put(root, Some(bytes));
        });
        Holes::UNKNOWN
    }
}

fn count_extents(trees: &Trees, root: &ChunkId) -> Result<u64> {
    Ok(match &*trees.content_page(root)? {
        ContentPage::Leaf(extents) => extents.len() as u64,
        ContentPage::Inner(children) => children
            .iter()
            .fold(0, |sum, child| sum.saturating_add(child.own)),
    })
}

fn count(trees: &Arc<Trees>, file: &File) -> u64 {
    let extents = trees.extents_from(file, 0).map_while(Result::ok);
    extents
        .filter(|(_, extent)| extent.chunk.is_none())
        .fold(0, |sum, (_, hole)| sum.saturating_add(hole.length))
}

/// Where the next data (or hole) begins at or after `offset`. The end of a file is a hole.
pub(super) fn seek(point: &CompletePoint, file: &File, offset: u64, data: bool) -> Answer<u64> {
    if offset >= file.size {
        return Err(Rule::NoSuchOffset.into());
    }
    for extent in point.trees().extents_from(file, offset) {
        let (begin, extent) = extent?;
        if extent.chunk.is_some() == data {
            return Ok(begin.max(offset));
        }
    }
    if data {
        Err(Rule::NoSuchOffset.into())
    } else {
        Ok(file.size)
    }
}
