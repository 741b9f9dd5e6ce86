//! Pages: how a directory's entries and a file's extents lie in tree chunks.
//!
//! A page is one document. A short sequence is one leaf page; a long one is split into leaves by content (after a
//! name or chunk whose hash says so), whose list is split in turn, until one root is left. A small change
//! therefore rewrites one leaf and the pages above it.

use super::entry::{Attributes, Content, Entry, Extent, Node, Owner, Tree};
use crate::chunk::is_page_boundary;
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::repository::{decode, encode};
use bincode::{Decode, Encode};
use std::sync::Arc;

/// Entries of a leaf page of a directory on average, and at the least and most. Measured: see `repository::format`.
/// One entry of 100,000 that changes rewrites 6 KB with 64 entries a page, 18 KB with 256, 52 KB with 1024; all pages
/// together take the same space within 1 %.
pub const DIRECTORY_PAGE: PageLimits = PageLimits {
    min: 64,
    average: 256,
    max: 1024,
};
/// The same for inner pages: with 256 children, one entry of a million that changes rewrites 120 KB of pages; with 1024
/// it was 224 KB.
pub const INNER_PAGE: PageLimits = PageLimits {
    min: 64,
    average: 256,
    max: 1024,
};
/// The same for the extents of a file.
pub const LIST_PAGE: PageLimits = PageLimits {
    min: 256,
    average: 1024,
    max: 4096,
};
/// A leaf is also closed when its names, targets and attributes have this many bytes.
const PAGE_BYTES: usize = 1 << 20;
/// A file with at most this many extents carries them in its entry.
const INLINE_EXTENTS_MAX: usize = 32;
/// Levels of pages of one directory or file, the root's included: more than any sequence of 2⁶⁴ items needs; deeper ones
/// are hostile.
pub const PAGE_LEVELS_MAX: usize = 16;

/// How many items a page holds.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// No page but the last is shorter (unless its bytes close it).
    pub min: usize,
    /// The usual length.
    pub average: u32,
    /// No page is longer.
    pub max: usize,
}

impl PageLimits {
    /// Whether a page of this length ends behind the item with this hash; a hole has none.
    fn closes(&self, length: usize, hash: Option<&[u8; 32]>) -> bool {
        let is_boundary = |hash| is_page_boundary(hash, self.average);
        length >= self.max || length >= self.min && hash.is_some_and(is_boundary)
    }
}

/// An entry as a page stores it: its owner is a place in the page's list.
#[derive(Encode, Decode)]
struct StoredEntry {
    name: Vec<u8>,
    mode: u32,
    owner: u32,
    mtime: Time,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    links: u32,
    link_group: u64,
    node: Node,
}

/// A page below a directory's or list's inner page.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Child {
    /// Name of the first entry below (empty in lists of extents).
    pub first: Vec<u8>,
    /// The page.
    pub page: ChunkId,
    /// Entries or extents below it in this sequence.
    pub own: u64,
    /// For directories: entries below at all depths; for extents: the same as `own`.
    pub entries: u64,
    /// Bytes of files below, or of the extents below.
    pub bytes: u64,
}

#[derive(Encode, Decode)]
enum StoredDirectory {
    Leaf {
        owners: Vec<Owner>,
        entries: Vec<StoredEntry>,
    },
    Inner(Vec<Child>),
}

/// A page of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryPage {
    /// Entries, ascending by name.
    Leaf(Vec<Arc<Entry>>),
    /// Pages, ascending by first name.
    Inner(Vec<Child>),
}

/// A page of a file's extents.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ContentPage {
    /// Extents, in order.
    Leaf(Vec<Extent>),
    /// Pages, in order.
    Inner(Vec<Child>),
}

impl DirectoryPage {
    /// The page's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let stored = match self {
            Self::Inner(children) => StoredDirectory::Inner(children.clone()),
            Self::Leaf(entries) => stored_leaf(entries),
        };
        encode(&stored)
    }

    /// The first name below; none in an empty directory.
    pub fn first_name(&self) -> Option<&[u8]> {
        match self {
            Self::Leaf(entries) => entries.first().map(|entry| entry.name.as_slice()),
            Self::Inner(children) => children.first().map(|child| child.first.as_slice()),
        }
    }

    /// Reads a page and checks what a reader relies on: names are possible, ascending and unique, owners exist.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged =
            |why: &str| Error::new(Kind::Damaged, format!("a directory page is damaged: {why}"));
        let (owners, entries) = match decode(bytes)? {
            StoredDirectory::Inner(children) => {
                let ascending = children
                    .windows(2)
                    .all(|pair| pair[0].first < pair[1].first);
                return if ascending && !children.is_empty() {
                    Ok(Self::Inner(children))
                } else {
                    Err(damaged("its pages are out of order"))
                };
            }
            StoredDirectory::Leaf { owners, entries } => (owners, entries),
        };
        let owners: Vec<_> = owners.into_iter().map(Arc::new).collect();
        let mut result: Vec<Arc<Entry>> = Vec::with_capacity(entries.len());
        for stored in entries {
            let owner = owners
                .get(stored.owner as usize)
                .ok_or_else(|| damaged("an owner is missing"))?;
            if !is_name(&stored.name) || result.last().is_some_and(|last| last.name >= stored.name)
            {
                return Err(damaged("a name is impossible or out of order"));
            }
            result.push(Arc::new(Entry {
                name: stored.name,
                attributes: Attributes {
                    mode: stored.mode & 0o7777,
                    owner: owner.clone(),
                    mtime: stored.mtime,
                    xattrs: stored.xattrs,
                    links: stored.links,
                    link_group: stored.link_group,
                },
                node: stored.node,
            }));
        }
        Ok(Self::Leaf(result))
    }
}

/// Whether a directory can hold this name.
pub fn is_name(name: &[u8]) -> bool {
    (1..=255).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

fn stored_leaf(entries: &[Arc<Entry>]) -> StoredDirectory {
    let mut owners: Vec<Owner> = Vec::new();
    let entries = entries
        .iter()
        .map(|entry| {
            let attributes = &entry.attributes;
            let known = owners.iter().position(|owner| *owner == *attributes.owner);
            let owner = known.unwrap_or_else(|| {
                owners.push((*attributes.owner).clone());
                owners.len() - 1
            });
            StoredEntry {
                name: entry.name.clone(),
                mode: attributes.mode,
                owner: owner as u32,
                mtime: attributes.mtime,
                xattrs: attributes.xattrs.clone(),
                links: attributes.links,
                link_group: attributes.link_group,
                node: entry.node.clone(),
            }
        })
        .collect();
    StoredDirectory::Leaf { owners, entries }
}

/// Takes finished pages: their id and bytes.
pub trait PageSink {
    /// Stores one page.
    fn page(&mut self, id: ChunkId, bytes: &[u8]) -> Result<()>;
}

impl<F: FnMut(ChunkId, &[u8]) -> Result<()>> PageSink for F {
    fn page(&mut self, id: ChunkId, bytes: &[u8]) -> Result<()> {
        self(id, bytes)
    }
}

fn emit(sink: &mut dyn PageSink, bytes: &[u8]) -> Result<ChunkId> {
    let id = ChunkId::of(bytes);
    sink.page(id, bytes)?;
    Ok(id)
}

/// Sums of what three files say can be more than a number holds: a file of holes may claim 2⁶³ - 1 bytes.
fn saturating_sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// The levels of inner pages above a sequence of leaves.
struct Levels {
    levels: Vec<Vec<Child>>,
    encode: fn(Vec<Child>) -> Vec<u8>,
}

impl Levels {
    fn new(encode: fn(Vec<Child>) -> Vec<u8>) -> Self {
        Self {
            levels: Vec::new(),
            encode,
        }
    }

    fn push(&mut self, mut child: Child, sink: &mut dyn PageSink) -> Result<()> {
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let closes = INNER_PAGE.closes(self.levels[level].len() + 1, Some(&child.page.0));
            self.levels[level].push(child);
            if !closes {
                break;
            }
            child = self.close(level, sink)?;
        }
        Ok(())
    }

    fn close(&mut self, level: usize, sink: &mut dyn PageSink) -> Result<Child> {
        let children = std::mem::take(&mut self.levels[level]);
        let sum = |of: fn(&Child) -> u64| saturating_sum(children.iter().map(of));
        let mut parent = Child {
            first: children[0].first.clone(),
            page: ChunkId([0; 32]),
            own: sum(|child| child.own),
            entries: sum(|child| child.entries),
            bytes: sum(|child| child.bytes),
        };
        parent.page = emit(sink, &(self.encode)(children))?;
        Ok(parent)
    }

    /// The root, once every leaf was pushed. A page with a single child is never made.
    fn finish(mut self, sink: &mut dyn PageSink) -> Result<Child> {
        let mut level = 0;
        loop {
            let above_empty = self.levels[level + 1..].iter().all(Vec::is_empty);
            if above_empty && self.levels[level].len() == 1 {
                return Ok(self.levels[level].remove(0));
            }
            if !self.levels[level].is_empty() {
                let child = if self.levels[level].len() == 1 {
                    self.levels[level].remove(0)
                } else {
                    self.close(level, sink)?
                };
                if self.levels.len() == level + 1 {
                    return Ok(child);
                }
                self.levels[level + 1].push(child);
            }
            level += 1;
        }
    }
}

/// Builds a directory's pages from its entries in ascending order of names.
pub struct DirectoryWriter {
    leaf: Vec<Arc<Entry>>,
    leaf_bytes: usize,
    levels: Levels,
}

impl Default for DirectoryWriter {
    fn default() -> Self {
        Self {
            leaf: Vec::new(),
            leaf_bytes: 0,
            levels: Levels::new(|children| DirectoryPage::Inner(children).encode()),
        }
    }
}

impl DirectoryWriter {
    /// Adds the next entry. Names must ascend.
    pub fn push(&mut self, entry: Arc<Entry>, sink: &mut dyn PageSink) -> Result<()> {
        debug_assert!(self.leaf.last().is_none_or(|last| last.name < entry.name));
        let extra: usize = entry
            .attributes
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let target = if let Node::Symlink(target) = &entry.node {
            target.len()
        } else {
            0
        };
        self.leaf_bytes += 192 + entry.name.len() + extra + target;
        let hash = blake3::hash(&entry.name);
        self.leaf.push(entry);
        if DIRECTORY_PAGE.closes(self.leaf.len(), Some(hash.as_bytes()))
            || self.leaf_bytes >= PAGE_BYTES
        {
            self.close_leaf(sink)?;
        }
        Ok(())
    }

    fn close_leaf(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let entries = std::mem::take(&mut self.leaf);
        self.leaf_bytes = 0;
        let below = |entry: &Arc<Entry>| match &entry.node {
            Node::Directory(tree) => (tree.entries.saturating_add(1), tree.bytes),
            _ => (1, entry.file().map_or(0, |file| file.size)),
        };
        let count = saturating_sum(entries.iter().map(|entry| below(entry).0));
        let bytes = saturating_sum(entries.iter().map(|entry| below(entry).1));
        let first = entries
            .first()
            .map(|entry| entry.name.clone())
            .unwrap_or_default();
        let own = entries.len() as u64;
        let page = emit(sink, &DirectoryPage::Leaf(entries).encode())?;
        let child = Child {
            first,
            page,
            own,
            entries: count,
            bytes,
        };
        self.levels.push(child, sink)
    }

    /// The directory's tree.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<Tree> {
        if !self.leaf.is_empty() || self.levels.levels.is_empty() {
            self.close_leaf(sink)?;
        }
        let root = self.levels.finish(sink)?;
        Ok(Tree {
            root: root.page,
            own: root.own,
            entries: root.entries,
            bytes: root.bytes,
        })
    }
}

/// Builds a file's content from its extents in order.
pub struct ContentWriter {
    leaf: Vec<Extent>,
    levels: Levels,
    size: u64,
    paged: bool,
}

impl Default for ContentWriter {
    fn default() -> Self {
        Self {
            leaf: Vec::new(),
            levels: Levels::new(|children| encode(&ContentPage::Inner(children))),
            size: 0,
            paged: false,
        }
    }
}

impl ContentWriter {
    /// Adds the next extent. Holes that follow each other become one.
    pub fn push(&mut self, extent: Extent, sink: &mut dyn PageSink) -> Result<()> {
        if extent.length == 0 {
            return Ok(());
        }
        self.size = self.size.saturating_add(extent.length);
        if let (None, Some(last)) = (
            extent.chunk,
            self.leaf.last_mut().filter(|last| last.chunk.is_none()),
        ) {
            last.length = last.length.saturating_add(extent.length);
            return Ok(());
        }
        self.leaf.push(extent);
        self.paged |= self.leaf.len() > INLINE_EXTENTS_MAX;
        let hash = extent.chunk.as_ref().map(|id| &id.0);
        if self.paged && LIST_PAGE.closes(self.leaf.len(), hash) {
            self.close_leaf(sink)?;
        }
        Ok(())
    }

    fn close_leaf(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let extents = std::mem::take(&mut self.leaf);
        let own = extents.len() as u64;
        let bytes = saturating_sum(extents.iter().map(|extent| extent.length));
        let page = emit(sink, &encode(&ContentPage::Leaf(extents)))?;
        let child = Child {
            first: Vec::new(),
            page,
            own,
            entries: own,
            bytes,
        };
        self.levels.push(child, sink)
    }

    /// The content and its size.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<(Content, u64)> {
        let content = if self.paged {
            if !self.leaf.is_empty() {
                self.close_leaf(sink)?;
            }
            Content::Pages(self.levels.finish(sink)?.page)
        } else {
            match self.leaf.as_slice() {
                [] => Content::Empty,
                [
                    Extent {
                        chunk: Some(id), ..
                    },
                ] => Content::One(*id),
                _ => Content::Extents(self.leaf),
            }
        };
        Ok((content, self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::File;
    use super::*;

    fn file(name: &str, size: u64) -> Arc<Entry> {
        let file = File {
            size,
            ..File::empty()
        };
        Arc::new(Entry {
            name: name.into(),
            attributes: Attributes::default(),
            node: Node::File(file),
        })
    }

    #[test]
    fn sizes_beyond_all_numbers_are_as_many_as_a_number_holds() {
        let mut pages = 0;
        let sink = &mut |_, _: &[u8]| {
            pages += 1;
            Ok(())
        };
        let mut directory = DirectoryWriter::default();
        for number in 0..3000 {
            let name = format!("{number:04}");
            directory.push(file(&name, i64::MAX as u64), sink).unwrap();
        }
        let tree = directory.finish(sink).unwrap();
        assert_eq!((tree.entries, tree.bytes), (3000, u64::MAX));
        let mut content = ContentWriter::default();
        for _ in 0..3 {
            let hole = Extent {
                length: i64::MAX as u64,
                chunk: None,
            };
            content.push(hole, sink).unwrap();
        }
        assert_eq!(content.finish(sink).unwrap().1, u64::MAX);
        assert!(pages > 3);
    }
}
