//! What a tree says of one name: everything `rsync -aHAXS` preserves.

use crate::clock::Time;
use crate::id::ChunkId;
use bincode::{Decode, Encode};
use std::sync::Arc;

/// Who owns an entry, by number and by name; a name is empty where the source's host knew none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Encode, Decode)]
pub struct Owner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// User name.
    pub user: Vec<u8>,
    /// Group name.
    pub group: Vec<u8>,
}

/// An extended attribute: its name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What every entry has besides its name and its kind.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission, set-id and sticky bits: 0..=0o7777.
    pub mode: u32,
    /// Shared by the entries of a page.
    pub owner: Arc<Owner>,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Extended attributes, ACLs included, ascending by name.
    pub xattrs: Vec<Xattr>,
    /// Names that the source's inode had; 1 for most.
    pub links: u32,
    /// The same in all names of one inode within a point; 0 where there is one name.
    pub link_group: u64,
}

/// A piece of a file: a chunk, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Extent {
    /// Bytes, at least 1.
    pub length: u64,
    /// The chunk that holds exactly these bytes; none for a hole.
    pub chunk: Option<ChunkId>,
}

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Content {
    /// The file has no bytes.
    Empty,
    /// One chunk is the whole file.
    One(ChunkId),
    /// A few extents, in order.
    Extents(Vec<Extent>),
    /// Many extents: the root of their pages.
    Pages(ChunkId),
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct File {
    /// Bytes, holes included.
    pub size: u64,
    /// BLAKE3-256 of the whole content, holes as zeros, where it was read whole. A file of one chunk needs none:
    /// it is the chunk's id.
    pub hash: Option<[u8; 32]>,
    /// How it is cut: 0 by content, otherwise in aligned blocks of so many bytes.
    pub block: u32,
    /// Its bytes.
    pub content: Content,
}

impl File {
    /// A file without bytes.
    pub fn empty() -> Self {
        Self {
            size: 0,
            hash: None,
            block: 0,
            content: Content::Empty,
        }
    }

    /// BLAKE3-256 of the whole content, where it is known.
    pub fn content_hash(&self) -> Option<[u8; 32]> {
        match &self.content {
            Content::Empty => Some(*blake3::hash(&[]).as_bytes()),
            Content::One(id) => Some(id.0),
            _ => self.hash,
        }
    }
}

/// The entries of a directory, by the root of their pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tree {
    /// The root page; it names everything below.
    pub root: ChunkId,
    /// Entries in this directory itself.
    pub own: u64,
    /// Entries below, at all depths.
    pub entries: u64,
    /// Bytes of all files below.
    pub bytes: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Node {
    /// A regular file.
    File(File),
    /// A directory.
    Directory(Tree),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A block device: its number.
    Block(u64),
    /// A character device: its number.
    Character(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Node {
    /// The file type bits of `st_mode`.
    pub fn type_bits(&self) -> u32 {
        match self {
            Self::File(_) => libc::S_IFREG,
            Self::Directory(_) => libc::S_IFDIR,
            Self::Symlink(_) => libc::S_IFLNK,
            Self::Block(_) => libc::S_IFBLK,
            Self::Character(_) => libc::S_IFCHR,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
        }
    }

    /// The words for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Directory(_) => "directory",
            Self::Symlink(_) => "symbolic link",
            Self::Block(_) => "block device",
            Self::Character(_) => "character device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1..=255 bytes, without `/` and NUL; empty for a point's top.
    pub name: Vec<u8>,
    /// What every entry has.
    pub attributes: Attributes,
    /// What it is.
    pub node: Node,
}

impl Entry {
    /// Bytes as `stat` tells them.
    pub fn size(&self) -> u64 {
        match &self.node {
            Node::File(file) => file.size,
            Node::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// The tree of a directory.
    pub fn tree(&self) -> Option<&Tree> {
        match &self.node {
            Node::Directory(tree) => Some(tree),
            _ => None,
        }
    }

    /// A regular file.
    pub fn file(&self) -> Option<&File> {
        match &self.node {
            Node::File(file) => Some(file),
            _ => None,
        }
    }
}
