//! What the walk hands to the tree.

use crate::error::{Error, Result};
use crate::point::{Attributes, Entry, File, Inode};
use crate::source::{self, Problem};
use crossbeam_channel::Receiver;
use std::path::PathBuf;
use std::sync::Arc;

/// An entry on its way into the tree, in the order of the walk.
pub(super) enum Item {
    Enter(Vec<u8>, Attributes, Inode),
    Leave,
    Ready(Arc<Entry>, Inode),
    /// A file that a worker is reading.
    Read(Box<Reading>),
    /// Another name of an inode that came before.
    Link(Box<Link>),
}

/// A further name of an inode.
pub(super) struct Link {
    pub name: Vec<u8>,
    pub attributes: Attributes,
    pub inode: Inode,
    /// Device and inode number.
    pub key: (u64, u64),
    pub path: PathBuf,
}

/// A file that a worker is reading: all that is known without its content.
pub(super) struct Reading {
    pub name: Vec<u8>,
    pub attributes: Attributes,
    pub inode: Inode,
    pub link: Option<(u64, u64)>,
    pub result: Receiver<Result<Done, Unread>>,
}

/// A file that was read.
pub(super) struct Done {
    pub file: File,
    pub xattrs: source::Xattrs,
    pub bytes_read: u64,
    /// Set when the file changed while it was read, or not all of it can be stored.
    pub problem: Option<Problem>,
}

/// Why a file is not in the point.
pub(super) enum Unread {
    Source(Problem),
    Repository(Error),
}
