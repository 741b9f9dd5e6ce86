//! From entries in the order of the walk to a tree: directories are built as they are left.

use super::content::tree_sink;
use crate::error::Result;
use crate::id::ChunkId;
use crate::point::{Attributes, Content, DirectoryWriter, Entry, Inode, Node, SideWriter, Tree};
use crate::repository::Writer;
use std::sync::Arc;

/// Builds a point's tree and side table.
pub struct Assembly<'a> {
    writer: &'a Writer,
    open: Vec<(Vec<u8>, Attributes, DirectoryWriter)>,
    side: SideWriter,
    /// Entries so far.
    pub entries: u64,
}

/// A finished tree.
pub struct Assembled {
    /// The top directory's own attributes.
    pub top: Attributes,
    /// Its entries.
    pub tree: Tree,
    /// The side table.
    pub side: Content,
    /// Its bytes.
    pub side_bytes: u64,
}

impl<'a> Assembly<'a> {
    /// An assembly that stores its pages with `writer`.
    pub fn new(writer: &'a Writer) -> Self {
        Self {
            writer,
            open: Vec::new(),
            side: SideWriter::default(),
            entries: 0,
        }
    }

    /// Begins a directory; the first is the top and has no name.
    pub fn enter(&mut self, name: Vec<u8>, attributes: Attributes, inode: Inode) -> Result<()> {
        if !self.open.is_empty() {
            self.note(inode)?;
        }
        self.open
            .push((name, attributes, DirectoryWriter::default()));
        Ok(())
    }

    /// Adds an entry to the directory entered last.
    pub fn entry(&mut self, entry: Arc<Entry>, inode: Inode) -> Result<()> {
        self.note(inode)?;
        let writer = self.writer;
        let (_, _, directory) = self
            .open
            .last_mut()
            .expect("an entry lies in a directory that was entered");
        directory.push(entry, &mut tree_sink(writer))
    }

    fn note(&mut self, inode: Inode) -> Result<()> {
        self.entries += 1;
        let writer = self.writer;
        self.side.push(inode, &mut |id: ChunkId, bytes: &[u8]| {
            tree_sink(writer)(id, bytes)
        })
    }

    /// Ends the directory entered last; the whole tree when it was the top.
    pub fn leave(&mut self) -> Result<Option<Assembled>> {
        let (name, attributes, directory) = self.open.pop().expect("only what was entered is left");
        let tree = directory.finish(&mut tree_sink(self.writer))?;
        if let Some((_, _, above)) = self.open.last_mut() {
            let entry = Entry {
                name,
                attributes,
                node: Node::Directory(tree),
            };
            above.push(Arc::new(entry), &mut tree_sink(self.writer))?;
            return Ok(None);
        }
        let (side, side_bytes) =
            std::mem::take(&mut self.side).finish(&mut tree_sink(self.writer))?;
        Ok(Some(Assembled {
            top: attributes,
            tree,
            side,
            side_bytes,
        }))
    }
}
