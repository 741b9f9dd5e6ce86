//! What `stat` shows.

use super::holes::Holes;
use super::inode::{Node, What};
use super::open::{Body, OpenNode, TOP};
use super::owners::ShownOwner;
use super::repositories::{CompletePoint, MountedRepository};
use super::{FileSystem, Options, readers};
use crate::clock::Time;
use crate::id::ObjectId;
use crate::point::{Entry, Node as EntryNode};
use std::time::Duration;

/// What is inside a complete point never changes.
pub(super) const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// What another host may change: repositories' and backups' directories, and the names in them.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// The attributes of an inode, with how long they hold.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks. For files without holes exactly `size / 512` rounded up: with fewer, `cp` looks for holes
    /// and copies bytes instead of asking for a server-side copy.
    pub blocks: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of anything: known in open points only, elsewhere that of content.
    pub ctime: Time,
    /// Time of the last access, which reading does not change: in open points what it was set to, elsewhere the time
    /// of the last change.
    pub atime: Time,
    /// File type and permission bits.
    pub mode: u32,
    /// Hard links. For directories of open points 2 and one for each directory in them; 1 for others, which tells
    /// `find` not to guess from it.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number as `stat` has it.
    pub device: u64,
    /// How long the attributes hold.
    pub kept: Duration,
}

impl Attributes {
    /// A directory of which only the number and the type matter.
    pub fn of_dots(ino: u64) -> Self {
        Self::made_up(ino, libc::S_IFDIR, (0, 0), Time::default())
    }

    /// Attributes of something that keepfs makes up: owned by `owner`, changing.
    pub(super) fn made_up(ino: u64, mode: u32, owner: (u32, u32), mtime: Time) -> Self {
        Self {
            ino,
            size: 0,
            blocks: 0,
            mtime,
            ctime: mtime,
            atime: mtime,
            mode,
            links: 1,
            uid: owner.0,
            gid: owner.1,
            device: 0,
            kept: SOON,
        }
    }

    fn of_root(ino: u64, options: &Options, mtime: Time) -> Self {
        Self::made_up(
            ino,
            libc::S_IFDIR | 0o755,
            (options.uid, options.gid),
            mtime,
        )
    }

    fn of_repository(ino: u64, repository: &MountedRepository) -> Self {
        let settings = repository.catalog.repository().settings();
        let contents = repository.contents();
        let newest = contents
            .backups
            .values()
            .map(|backup| backup.record.created)
            .max();
        Self::made_up(
            ino,
            libc::S_IFDIR | (settings.mode & 0o7777),
            (settings.uid, settings.gid),
            newest.unwrap_or_default(),
        )
    }

    fn of_backup(ino: u64, repository: &MountedRepository, id: ObjectId) -> Option<Self> {
        let contents = repository.contents();
        let backup = contents.backups.values().find(|backup| backup.id == id)?;
        let sealed = contents
            .points_of(id)
            .map(|point| point.record.sealed)
            .max()
            .unwrap_or_default();
        let record = &backup.record;
        Some(Self::made_up(
            ino,
            libc::S_IFDIR | (record.mode & 0o7777),
            (record.uid, record.gid),
            record.created.max(sealed),
        ))
    }

    fn of_open(ino: u64, node: &OpenNode, top: bool) -> Self {
        let facts = node.facts;
        let (size, blocks, device) = match &node.body {
            Body::File { content, .. } => {
                let holes = content.size - content.data_bytes().min(content.size);
                (content.size, (content.size - holes).div_ceil(512), 0)
            }
            Body::Symlink(target) => (target.len() as u64, 0, 0),
            Body::Special(_, device) => (0, 0, *device),
            Body::Directory { .. } => (0, 0, 0),
        };
        let links = match &node.body {
            // Removed, and still open.
            Body::Directory { .. } if !top && node.places.is_empty() => 0,
            Body::Directory { subdirectories, .. } => subdirectories.saturating_add(2),
            _ => node.places.len() as u32,
        };
        Self {
            size,
            blocks,
            links,
            device,
            ctime: node.ctime,
            atime: node.atime,
            ..Self::made_up(
                ino,
                node.type_bits() | facts.mode & 0o7777,
                (facts.uid, facts.gid),
                facts.mtime,
            )
        }
    }

    fn of_entry(ino: u64, entry: &Entry, holes: Holes, owner: ShownOwner) -> Self {
        let attributes = &entry.attributes;
        let size = entry.size();
        let mode = entry.node.type_bits() | (attributes.mode & 0o7777);
        let links = match entry.node {
            EntryNode::Directory(_) => 1,
            _ => attributes.links.max(1),
        };
        Self {
            size,
            blocks: (size - holes.bytes.min(size)).div_ceil(512),
            links,
            device: match entry.node {
                EntryNode::Block(device) | EntryNode::Character(device) => device,
                _ => 0,
            },
            kept: if holes.exact { owner.kept } else { SOON },
            ..Self::made_up(ino, mode, (owner.uid, owner.gid), attributes.mtime)
        }
    }
}

impl FileSystem {
    /// The attributes of a node.
    pub(super) fn attributes(&self, node: &Node) -> Option<Attributes> {
        let ino = node.ino;
        Some(match &node.what {
            What::Root => Attributes::of_root(ino, &self.options, self.started),
            What::Control(place) => self.control_attributes(ino, place),
            What::Readers => self.readers_attributes(ino, self.started),
            What::Repository(repository) => {
                self.as_let_in(repository, None, Attributes::of_repository(ino, repository))
            }
            What::Backup(repository, id) => {
                let attributes = Attributes::of_backup(ino, repository, *id)?;
                self.as_let_in(repository, Some(*id), attributes)
            }
            What::Latest(repository, id, target) => {
                let backup = Attributes::of_backup(ino, repository, *id)?;
                Attributes {
                    mode: libc::S_IFLNK | 0o777,
                    size: target.len() as u64,
                    ..backup
                }
            }
            What::Complete(point, entry) => self.attributes_of(ino, point, entry),
            What::Open(open, number) => open
                .node(*number, |node| {
                    Attributes::of_open(ino, node, *number == TOP)
                })
                .ok()?,
        })
    }

    /// The attributes of an entry of a complete point.
    pub(super) fn attributes_of(
        &self,
        ino: u64,
        point: &CompletePoint,
        entry: &Entry,
    ) -> Attributes {
        let owner = point.repository.owners.of(&entry.attributes.owner);
        let attributes = Attributes::of_entry(ino, entry, self.holes.of(point, entry), owner);
        match point.repository.for_readers {
            true => readers::readable(attributes),
            false => attributes,
        }
    }
}
