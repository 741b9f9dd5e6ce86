//! What can happen to an open point, as its journal says it.

use crate::clock::Time;
use crate::id::ObjectId;
use crate::point::{File, Owner};
use bincode::{Decode, Encode};

/// The point's top directory.
pub(in crate::filesystem) const TOP: u64 = 0;

/// Permissions, owner and time of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(in crate::filesystem) struct Facts {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
}

/// What a new node is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(in crate::filesystem) enum Made {
    Directory,
    File,
    /// A file that is one of a complete point of the same repository: a hard link to it is a reference.
    Linked(u64),
    Symlink(Vec<u8>),
    /// A device, fifo or socket: the file type bits and the device number.
    Special(u32, u64),
}

/// One change of an open point. The journal holds them in order, and applying them all in order makes the point.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(in crate::filesystem) enum Change {
    /// The first record: which point this is.
    Begin {
        repository: ObjectId,
        backup: ObjectId,
        started: Time,
        facts: Facts,
    },
    /// The point's name.
    Name(Vec<u8>),
    /// The complete point that this one is a copy of.
    From {
        repository: ObjectId,
        point: ObjectId,
        generation: u64,
    },
    Make {
        parent: u64,
        name: Vec<u8>,
        node: u64,
        made: Made,
        facts: Facts,
    },
    Link {
        parent: u64,
        name: Vec<u8>,
        node: u64,
    },
    Remove {
        parent: u64,
        name: Vec<u8>,
    },
    Rename {
        parent: u64,
        name: Vec<u8>,
        new_parent: u64,
        new_name: Vec<u8>,
    },
    Facts {
        node: u64,
        facts: Facts,
    },
    Xattr {
        node: u64,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    Size {
        node: u64,
        size: u64,
    },
    /// Bytes of the node's spool file, at the same offset.
    Written {
        node: u64,
        begin: u64,
        length: u64,
    },
    /// A file of a complete point that references name by number.
    Source {
        number: u64,
        repository: ObjectId,
        file: File,
    },
    /// Bytes of a source.
    Reference {
        node: u64,
        begin: u64,
        length: u64,
        source: u64,
        offset: u64,
    },
    /// What the owner of a node is called where it was linked from.
    Owner {
        node: u64,
        owner: Owner,
    },
    /// The point's record is about to be created. Of no meaning once another change follows.
    Sealing {
        /// What tells that record from others.
        record: [u8; 32],
    },
    /// Bytes that were written are in the repository, as this file.
    Stored {
        node: u64,
        begin: u64,
        file: File,
    },
    /// Two names change places.
    Exchange {
        parent: u64,
        name: Vec<u8>,
        new_parent: u64,
        new_name: Vec<u8>,
    },
    /// Bytes become a hole; the size stays.
    Hole {
        node: u64,
        begin: u64,
        length: u64,
    },
    /// What follows is written in this boot of the host. None: the daemon has ended, and everything before is on disk.
    Boot(Option<u128>),
    /// What was written to the node's spool file so far is on disk.
    Synced {
        node: u64,
    },
    /// The host went down before everything that was written to a file was on disk.
    Doubtful {
        node: u64,
    },
    /// Whoever works on this file has set its time since.
    Trusted {
        node: u64,
    },
}

impl Change {
    /// Whether the open point takes more memory afterwards, or may. Of bytes that were written it is asked before they are
    /// in the spool.
    pub fn takes_memory(&self) -> bool {
        matches!(
            self,
            Self::Make { .. }
                | Self::Link { .. }
                | Self::Xattr { value: Some(_), .. }
                | Self::Reference { .. }
        )
    }
}
