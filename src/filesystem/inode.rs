//! Inodes: what the kernel has looked up, by number, for as long as it remembers them.

use super::control::ControlPlace;
use super::errno::{Answer, Rule};
use super::open::OpenPoint;
use super::readers;
use super::repositories::{CompletePoint, MountedRepository};
use crate::id::ObjectId;
use crate::point::{Entry, Owner};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// A path, name by name.
type Names = Vec<Vec<u8>>;

/// The number of the mount's root, fixed by the kernel.
pub const ROOT: u64 = 1;
const SHARDS: usize = 16;

/// What an inode is.
#[derive(Debug)]
pub(super) enum What {
    /// The mount's root.
    Root,
    /// `.keepfs`, or anything in it.
    Control(Arc<ControlPlace>),
    /// `.keepfs/readers`: the repositories as their readers see them.
    Readers,
    /// A repository's directory.
    Repository(Arc<MountedRepository>),
    /// A backup's directory.
    Backup(Arc<MountedRepository>, ObjectId),
    /// `latest`, as it pointed when it was looked up.
    Latest(Arc<MountedRepository>, ObjectId, Vec<u8>),
    /// Anything in a complete point, its top included.
    Complete(Arc<CompletePoint>, Arc<Entry>),
    /// Anything in an open point, by its number there; also once that is sealed, as long as the kernel knows it.
    Open(Arc<OpenPoint>, u64),
}

/// An inode that the kernel knows.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: u64,
    /// The directory it was looked up in; none for the root.
    pub(super) parent: Option<Arc<Node>>,
    pub(super) what: What,
}

impl Drop for Node {
    /// The nodes above go one after the other: a tree may be deeper than a thread's stack.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(node) = above {
            above = Arc::into_inner(node).and_then(|mut node| node.parent.take());
        }
    }
}

impl Node {
    /// The inode number of the directory it was looked up in.
    pub(super) fn parent_ino(&self) -> u64 {
        self.parent.as_ref().map_or(ROOT, |parent| parent.ino)
    }

    /// Its path below the mount, for messages.
    pub(super) fn path(&self) -> String {
        let mut names = Vec::new();
        let mut node = self;
        loop {
            names.push(node.last_name());
            match &node.parent {
                Some(parent) if parent.ino != ROOT => node = parent,
                _ => break,
            }
        }
        names.reverse();
        names.join("/")
    }

    fn last_name(&self) -> String {
        match &self.what {
            What::Root => String::new(),
            What::Control(place) => place.name().to_owned(),
            What::Readers => readers::NAME.to_owned(),
            What::Repository(repository) => repository.name.clone(),
            What::Backup(repository, id) => repository.backup_name(*id),
            What::Latest(..) => "latest".into(),
            What::Complete(point, entry) if entry.name.is_empty() => {
                String::from_utf8_lossy(point.point.name()).into_owned()
            }
            What::Complete(_, entry) => String::from_utf8_lossy(&entry.name).into_owned(),
            What::Open(open, number) => open.last_name(*number),
        }
    }

    /// The names that lead to it from the top of its complete point.
    pub(super) fn path_in_point(&self) -> Option<Names> {
        let mut path = Vec::new();
        let mut node = self;
        while let What::Complete(_, entry) = &node.what {
            if entry.name.is_empty() {
                path.reverse();
                return Some(path);
            }
            path.push(entry.name.clone());
            node = node.parent.as_ref()?;
        }
        None
    }

    /// The names that lead from the top of its complete point to the directory that it lies in, and the owners of that one
    /// and all above it, the nearest first.
    pub(super) fn above_in_point(&self) -> Option<(Names, Vec<Arc<Owner>>)> {
        let directory = self.parent.as_ref()?;
        let path = directory.path_in_point()?;
        let (mut owners, mut node) = (Vec::new(), Some(directory));
        while let Some(above) = node
            && let What::Complete(_, entry) = &above.what
        {
            owners.push(entry.attributes.owner.clone());
            node = above.parent.as_ref();
        }
        Some((path, owners))
    }

    /// Whether two nodes of one number are the same thing: false only when two hashes collide.
    fn is(&self, other: &Self) -> bool {
        match (&self.what, &other.what) {
            (What::Complete(one, entry), What::Complete(two, other_entry)) => {
                let group = entry.attributes.link_group;
                let linked = group != 0 && group == other_entry.attributes.link_group;
                let same_place =
                    self.parent_ino() == other.parent_ino() && entry.name == other_entry.name;
                one.is(two) && (linked || same_place)
            }
            (What::Control(one), What::Control(two)) => one == two,
            (one, two) => std::mem::discriminant(one) == std::mem::discriminant(two),
        }
    }
}

/// A 64-bit number from the parts of an inode's identity, never 0 or [`ROOT`].
pub(super) fn number(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let hash = hasher.finalize();
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(ROOT + 1)
}

/// Something in a directory, told from all else there by these parts.
pub(super) fn node(parent: &Arc<Node>, identity: &[&[u8]], what: What) -> Node {
    let parent_ino = parent.ino.to_le_bytes();
    let mut parts = vec![parent_ino.as_slice()];
    parts.extend(identity);
    Node {
        ino: number(&parts),
        parent: Some(parent.clone()),
        what,
    }
}

/// The inode number of a name in a directory of a complete point. All names of a hard link have the same.
pub(super) fn number_in_point(point: &CompletePoint, parent: u64, entry: &Entry) -> u64 {
    match entry.attributes.link_group {
        0 => number(&[b"name", &parent.to_le_bytes(), &entry.name]),
        group => number(&[b"link", &point.identity(), &group.to_le_bytes()]),
    }
}

struct Known {
    node: Arc<Node>,
    /// How often the kernel was told of it and has not forgotten.
    lookups: u64,
}

/// Every inode that the kernel knows; as large as the kernel's own cache.
pub(super) struct Table {
    shards: [Mutex<HashMap<u64, Known>>; SHARDS],
    root: Arc<Node>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            shards: Default::default(),
            root: Arc::new(Node {
                ino: ROOT,
                parent: None,
                what: What::Root,
            }),
        }
    }

    fn shard(&self, ino: u64) -> &Mutex<HashMap<u64, Known>> {
        &self.shards[ino as usize % SHARDS]
    }

    /// The inode of this number.
    pub(super) fn get(&self, ino: u64) -> Answer<Arc<Node>> {
        if ino == ROOT {
            return Ok(self.root.clone());
        }
        let shard = self.shard(ino).lock();
        let known = shard.get(&ino).ok_or(Rule::Stale)?;
        Ok(known.node.clone())
    }

    /// Remembers that the kernel is told of this node once more. Two different things whose numbers collide get
    /// different numbers: the later one takes the next that is free.
    pub(super) fn remember(&self, mut node: Node) -> Arc<Node> {
        loop {
            let mut shard = self.shard(node.ino).lock();
            match shard.get_mut(&node.ino) {
                None => {
                    let node = Arc::new(node);
                    let known = Known {
                        node: node.clone(),
                        lookups: 1,
                    };
                    shard.insert(node.ino, known);
                    return node;
                }
                Some(known) if known.node.is(&node) => {
                    known.lookups += 1;
                    return known.node.clone();
                }
                Some(_) => node.ino = node.ino.wrapping_add(1).max(ROOT + 1),
            }
        }
    }

    /// Whether the kernel knows this inode.
    pub(super) fn knows(&self, ino: u64) -> bool {
        self.shard(ino).lock().contains_key(&ino)
    }

    /// The kernel has forgotten this many of its lookups. The node, if these were all.
    pub(super) fn forget(&self, ino: u64, lookups: u64) -> Option<Arc<Node>> {
        let mut shard = self.shard(ino).lock();
        let gone = shard.get_mut(&ino).is_some_and(|known| {
            known.lookups = known.lookups.saturating_sub(lookups);
            known.lookups == 0
        });
        // To be dropped outside the lock: a node may hold the last reference to its parents.
        let known = if gone { shard.remove(&ino) } else { None };
        known.map(|known| known.node)
    }
}
