//! The documents that say which backups and restore points there are.

use super::entry::{Attributes, Content, Entry, Node, Owner, Tree};
use crate::clock::Time;
use crate::id::ObjectId;
use bincode::{Decode, Encode};
use std::sync::Arc;

/// `backups/<id>/<n>`: a backup; the highest `n` holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BackupRecord {
    /// Its name, unique in the repository: 1..=255 bytes.
    pub name: Vec<u8>,
    /// Owner of its directory in a mount.
    pub uid: u32,
    /// Group of its directory in a mount.
    pub gid: u32,
    /// Permission bits of its directory in a mount.
    pub mode: u32,
    /// Users who may read everything in it, by name.
    pub readers: Vec<String>,
    /// When this record was made.
    pub created: Time,
    /// Whether the backup was removed.
    pub removed: bool,
}

/// Where a point's data was read.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub struct Source {
    /// The host.
    pub host: String,
    /// What was read there, as it was named.
    pub paths: Vec<Vec<u8>>,
}

/// The point that a copy was made from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// Its repository.
    pub repository: ObjectId,
    /// Its id there.
    pub point: ObjectId,
    /// Its generation there.
    pub generation: u64,
}

/// `points/<id>.<generation>`: a complete restore point. Written last, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PointRecord {
    /// The backup it belongs to.
    pub backup: ObjectId,
    /// Its name in the backup: 1..=255 bytes.
    pub name: Vec<u8>,
    /// When its source was read: the start of the first writing, kept through every copy.
    pub time: Time,
    /// When this record was written.
    pub sealed: Time,
    /// Counts the records of the backup, from 1.
    pub sequence: u64,
    /// BLAKE3-256 of the encoded record before it in the backup; zeros in the first.
    pub previous: [u8; 32],
    /// Permission bits of its top directory.
    pub mode: u32,
    /// Owner of its top directory.
    pub owner: Owner,
    /// Modification time of its top directory.
    pub mtime: Time,
    /// Extended attributes of its top directory.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its entries.
    pub tree: Tree,
    /// The side table: what the test for unchanged files reads. Empty where the source was no file system.
    pub side: Content,
    /// Bytes of the side table.
    pub side_bytes: u64,
    /// Where the data was read.
    pub source: Source,
    /// The point it is a copy of.
    pub origin: Option<Origin>,
    /// The program that wrote it.
    pub program: String,
    /// Facts of later versions that a reader may ignore, by name.
    pub more: Vec<(String, Vec<u8>)>,
}

impl PointRecord {
    /// A record with these facts. Backup, sequence, the record before it and the program are filled in when it is
    /// committed; everything else is empty.
    pub fn new(name: &[u8], time: Time, tree: Tree) -> Self {
        Self {
            backup: ObjectId::default(),
            name: name.to_vec(),
            time,
            sealed: time,
            sequence: 0,
            previous: [0; 32],
            mode: 0,
            owner: Owner::default(),
            mtime: Time::default(),
            xattrs: Vec::new(),
            tree,
            side: Content::Empty,
            side_bytes: 0,
            source: Source::default(),
            origin: None,
            program: String::new(),
            more: Vec::new(),
        }
    }

    /// Its top directory as an entry without a name.
    pub fn top(&self) -> Entry {
        Entry {
            name: Vec::new(),
            attributes: Attributes {
                mode: self.mode,
                owner: Arc::new(self.owner.clone()),
                mtime: self.mtime,
                xattrs: self.xattrs.clone(),
                links: 1,
                link_group: 0,
            },
            node: Node::Directory(self.tree),
        }
    }

    /// Whether two records name the same tree with the same top directory.
    pub fn same_content(&self, other: &Self) -> bool {
        self.top() == other.top()
    }
}

/// `marks/<point>/<n>`: what may still be said of a complete point; the highest `n` holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    /// Not to be forgotten by retention before.
    pub keep_until: Option<Time>,
    /// Not to be forgotten by anybody before.
    pub lock_until: Option<Time>,
    /// Weekly, monthly and yearly flags: bits 0, 1, 2.
    pub gfs: u8,
    /// Facts of later versions that a reader may ignore, by name.
    pub more: Vec<(String, Vec<u8>)>,
}

/// `trash/<id>.<generation>/<n>`: this point is forgotten, or no more; the highest `n` holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Trash {
    /// When it was forgotten.
    pub time: Time,
    /// Who did it, for the log.
    pub host: String,
    /// Whether the forgetting itself was taken back.
    pub undone: bool,
}

/// One record in a catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CatalogueEntry {
    /// The point's id.
    pub id: ObjectId,
    /// Its generation.
    pub generation: u64,
    /// The encoded [`PointRecord`], byte for byte.
    pub record: Vec<u8>,
}

/// `catalogue/<id>`: many point records in one object, so that a new host reads a few objects instead of all.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Catalogue {
    /// Catalogues that this one replaces.
    pub replaces: Vec<ObjectId>,
    /// Records; more of them may exist than points still do.
    pub points: Vec<CatalogueEntry>,
}

/// `condemned/<n>`: packs that prune will delete. A point that refers to one must not be committed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Condemned {
    /// When the list was made, by the store's clock.
    pub time: Time,
    /// Packs that go.
    pub packs: Vec<ObjectId>,
    /// Index segments that go.
    pub segments: Vec<ObjectId>,
    /// Whether the list was carried out or withdrawn.
    pub done: bool,
}

/// What a lease keeps from being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeaseKind {
    /// A reader of one point.
    Reader,
    /// A writer whose packs are not in any point yet.
    Writer,
    /// An open point: never expires.
    OpenPoint,
}

/// `leases/<id>`: somebody uses the repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lease {
    /// What it protects.
    pub kind: LeaseKind,
    /// The host that holds it.
    pub host: String,
    /// The process that holds it.
    pub process: u32,
    /// When it was taken.
    pub taken: Time,
    /// When it ends unless it is renewed; none for never.
    pub ends: Option<Time>,
    /// The point, for a reader.
    pub point: Option<ObjectId>,
    /// The backup's name and the point's name, for an open point.
    pub name: Option<(Vec<u8>, Vec<u8>)>,
}
