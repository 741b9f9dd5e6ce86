//! Names in directories: looking one up, and listing all.

use super::attributes::{Attributes, FOREVER, SOON};
use super::changes::Caller;
use super::control;
use super::errno::{Answer, Failure, Rule};
use super::inode::{Node, ROOT, What, node, number_in_point};
use super::open::{OpenPoint, TOP};
use super::repositories::{CompletePoint, MountedRepository};
use super::{Answered, FileSystem};
use crate::id::ObjectId;
use crate::point::{Entries, Entry, LATEST, Point, Tree};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One name of a listing.
#[derive(Debug)]
pub struct Listed<'a> {
    /// Inode number.
    pub ino: u64,
    /// What the next call begins with to go on behind this name.
    pub next: u64,
    /// File type bits of the mode.
    pub type_bits: u32,
    /// The name.
    pub name: &'a [u8],
    /// Attributes, and how long the name holds; none for `.` and `..`.
    pub attributes: Option<(Attributes, Duration)>,
}

/// An open directory.
pub(super) struct DirectoryHandle {
    node: Arc<Node>,
    listing: Mutex<Listing>,
    /// Whether the listing was begun; who begins it again sees what has changed.
    begun: AtomicBool,
}

enum Listing {
    /// Names that were there when the listing began.
    Names(Vec<(Vec<u8>, Node)>),
    /// A directory of a complete point, with the number of the entry that comes next.
    Tree {
        tree: Tree,
        entries: Entries,
        next: u64,
        /// An entry that did not fit into the last answer.
        left: Option<Arc<Entry>>,
    },
}

/// `.` and `..` come before the entries.
const DOTS: u64 = 2;

impl FileSystem {
    /// The inode of a name in a directory, once more known to the kernel. None: there is no such name, and the
    /// kernel may remember that for the time told.
    pub fn lookup(&self, parent: u64, name: &[u8], caller: Caller) -> Answer<Answered> {
        if name.len() > 255 {
            return Err(Rule::NameTooLong.into());
        }
        let parent = self.inodes.get(parent)?;
        let kept = match &parent.what {
            What::Complete(..) => FOREVER,
            What::Backup(_, id) if name == LATEST && self.is_latest_hidden(*id, caller) => {
                return Ok(Answered::Missing {
                    kept: Duration::ZERO,
                });
            }
            what => Self::names_kept(what),
        };
        let found = self
            .child(&parent, name)
            .map_err(|failure| self.noted(&parent, failure))?;
        let Some(child) = found else {
            return Ok(Answered::Missing { kept });
        };
        Ok(self.entered(child, kept))
    }

    /// Counts a node as looked up once more.
    pub(super) fn entered(&self, node: Node, kept: Duration) -> Answered {
        let node = self.inodes.remember(node);
        match self.attributes(&self.settled(node.clone())) {
            Some(attributes) => Answered::Found { attributes, kept },
            None => {
                self.inodes.forget(node.ino, 1);
                Answered::Missing { kept: SOON }
            }
        }
    }

    fn is_latest_hidden(&self, backup: ObjectId, caller: Caller) -> bool {
        let now = self.options.clock.now();
        self.hidden_links.from(backup, caller.pid, now)
    }

    fn child(&self, parent: &Arc<Node>, name: &[u8]) -> Answer<Option<Node>> {
        Ok(match &parent.what {
            What::Root if name == control::NAME.as_bytes() => Some(control::top(parent)),
            What::Root => {
                let found = self
                    .repositories
                    .iter()
                    .find(|repository| repository.name.as_bytes() == name);
                found.map(|repository| repository_node(parent, repository))
            }
            What::Control(place) => self.control_child(parent, place, name)?,
            What::Readers => self.readers_child(parent, name),
            What::Repository(repository) => {
                let contents = repository.contents();
                let found = contents.backups.get(name);
                found.map(|backup| backup_node(parent, repository, backup.id))
            }
            What::Backup(repository, id) if name == LATEST => {
                let contents = repository.contents();
                let latest = contents.latest(*id);
                latest.map(|point| latest_node(parent, repository, *id, point.name()))
            }
            What::Backup(repository, id) => {
                if let Some(open) = self.open_points.named(repository, *id, name) {
                    return Ok(Some(open_node(parent, &open, TOP)));
                }
                let contents = repository.contents();
                let point = contents.points.get(id).and_then(|points| points.get(name));
                point.map(|point| self.point_node(parent, repository, point.clone()))
            }
            What::Open(open, directory) => {
                let child = open.child(*directory, name);
                child.map(|child| open_node(parent, open, child))
            }
            What::Complete(point, entry) => {
                let tree = entry.tree().ok_or(Rule::NotADirectory)?;
                let found = point.trees().lookup(tree, name)?;
                found.map(|entry| entry_node(parent, point, entry))
            }
            What::Latest(..) => return Err(Rule::NotADirectory.into()),
        })
    }

    /// Opens a directory for listing.
    pub fn open_directory(&self, ino: u64) -> Answer<u64> {
        let node = self.inodes.get(ino)?;
        let listing = match &node.what {
            What::Complete(point, entry) => {
                let tree = *entry.tree().ok_or(Rule::NotADirectory)?;
                Listing::Tree {
                    tree,
                    entries: point.trees().entries(&tree),
                    next: 0,
                    left: None,
                }
            }
            _ => Listing::Names(self.names(&node)?),
        };
        let listing = Mutex::new(listing);
        Ok(self.directories.insert(DirectoryHandle {
            node,
            listing,
            begun: AtomicBool::new(false),
        }))
    }

    /// All names of a directory that is not in a complete point.
    fn names(&self, node: &Arc<Node>) -> Answer<Vec<(Vec<u8>, Node)>> {
        Ok(match &node.what {
            What::Root => {
                let control = (control::NAME.into(), control::top(node));
                let repositories = self.repositories.iter().map(|repository| {
                    let name = repository.name.clone().into_bytes();
                    (name, repository_node(node, repository))
                });
                std::iter::once(control).chain(repositories).collect()
            }
            What::Control(place) => self.control_names(node, place)?,
            What::Readers => self.readers_names(node),
            What::Repository(repository) => {
                let contents = repository.contents();
                let backups = contents.backups.iter();
                backups
                    .map(|(name, backup)| (name.clone(), backup_node(node, repository, backup.id)))
                    .collect()
            }
            What::Backup(repository, id) => self.names_of_backup(node, repository, *id),
            What::Open(open, directory) => {
                let names = open.names(*directory)?.into_iter();
                names
                    .map(|(name, child)| (name, open_node(node, open, child)))
                    .collect()
            }
            What::Complete(..) | What::Latest(..) => {
                return Err(Rule::NotADirectory.into());
            }
        })
    }

    fn names_of_backup(
        &self,
        node: &Arc<Node>,
        repository: &Arc<MountedRepository>,
        id: ObjectId,
    ) -> Vec<(Vec<u8>, Node)> {
        let contents = repository.contents();
        let open = self.open_points.of_backup(repository, id);
        let names: HashSet<_> = open.iter().map(|open| open.name()).collect();
        let open = open
            .iter()
            .map(|open| (open.name(), open_node(node, open, TOP)));
        // A point that is just being sealed is both for a moment.
        let complete = contents
            .points_of(id)
            .filter(|point| !names.contains(point.name()));
        let points = complete.map(|point| {
            let name = point.name().to_vec();
            (name, self.point_node(node, repository, point.clone()))
        });
        let latest = contents.latest(id).map(|point| {
            let link = latest_node(node, repository, id, point.name());
            (LATEST.to_vec(), link)
        });
        points.chain(open).chain(latest).collect()
    }

    /// Tells the names of an open directory from number `offset` on, until `tell` answers false: it had no room,
    /// and the name was not taken. With `attributes`, each name that was taken counts as looked up.
    pub fn read_directory(
        &self,
        handle: u64,
        offset: u64,
        attributes: bool,
        mut tell: impl FnMut(&Listed<'_>) -> bool,
    ) -> Answer<()> {
        let handle = self.directories.get(handle)?;
        let node = &handle.node;
        if offset == 0 && handle.begun.swap(true, Ordering::Relaxed) {
            let mut listing = handle.listing.lock();
            if let Listing::Names(names) = &mut *listing {
                *names = self.names(node)?;
            }
        }
        let dots = [(node.ino, b".".as_slice()), (node.parent_ino(), b"..")];
        for (place, (ino, name)) in (0..).zip(dots).skip(offset.min(DOTS) as usize) {
            let listed = Listed {
                ino,
                next: place + 1,
                type_bits: libc::S_IFDIR,
                name,
                attributes: None,
            };
            if !tell(&listed) {
                return Ok(());
            }
        }
        let first = offset.saturating_sub(DOTS);
        let mut listing = handle.listing.lock();
        let result = match &mut *listing {
            Listing::Names(names) => {
                self.read_names(node, names, first, attributes, &mut tell);
                Ok(())
            }
            Listing::Tree { .. } => {
                self.read_tree(node, &mut listing, first, attributes, &mut tell)
            }
        };
        result.map_err(|failure| self.noted(node, failure))
    }

    fn read_names(
        &self,
        directory: &Node,
        names: &[(Vec<u8>, Node)],
        first: u64,
        with_attributes: bool,
        tell: &mut impl FnMut(&Listed<'_>) -> bool,
    ) {
        let kept = Self::names_kept(&directory.what);
        for (place, (name, node)) in (0..).zip(names).skip(first as usize) {
            // A backup that was removed since the listing began is passed over.
            let Some(attributes) = self.attributes_now(node) else {
                continue;
            };
            let listed = Listed {
                ino: node.ino,
                next: DOTS + place + 1,
                type_bits: attributes.mode & libc::S_IFMT,
                name,
                attributes: Some((attributes, kept)),
            };
            if !tell(&listed) {
                return;
            }
            if with_attributes {
                self.inodes.remember(node.again());
            }
        }
    }

    fn read_tree(
        &self,
        directory: &Arc<Node>,
        listing: &mut Listing,
        first: u64,
        with_attributes: bool,
        tell: &mut impl FnMut(&Listed<'_>) -> bool,
    ) -> Answer<()> {
        let What::Complete(point, _) = &directory.what else {
            return Err(Rule::NotADirectory.into());
        };
        let Listing::Tree {
            tree,
            entries,
            next,
            left,
        } = listing
        else {
            return Err(Rule::NotADirectory.into());
        };
        if *next != first {
            *entries = point.trees().entries_from(tree, first);
            *next = first;
            *left = None;
        }
        while let Some(entry) = left.take().map(Ok).or_else(|| entries.next()).transpose()? {
            let ino = number_in_point(point, directory.ino, &entry);
            let attributes =
                with_attributes.then(|| (self.attributes_of(ino, point, &entry), FOREVER));
            let listed = Listed {
                ino,
                next: DOTS + *next + 1,
                type_bits: entry.node.type_bits(),
                name: &entry.name,
                attributes,
            };
            if !tell(&listed) {
                *left = Some(entry);
                return Ok(());
            }
            *next += 1;
            if with_attributes {
                self.inodes.remember(entry_node(directory, point, entry));
            }
        }
        Ok(())
    }

    /// Closes an open directory.
    pub fn close_directory(&self, handle: u64) {
        self.directories.remove(handle);
    }

    /// Notes an error about something in this directory where a person will look for it.
    pub(super) fn noted(&self, node: &Node, failure: Failure) -> Failure {
        if let Some(sentence) = failure.sentence() {
            let directory = match &node.what {
                What::Complete(_, entry) if entry.tree().is_none() => node.parent_ino(),
                What::Control(place) if !place.is_directory() => node.parent_ino(),
                What::Open(open, number)
                    if open
                        .node(*number, |node| node.names().is_none())
                        .unwrap_or(true) =>
                {
                    node.parent_ino()
                }
                _ => node.ino,
            };
            self.problems
                .note(directory, format!("{}: {sentence}", node.path()));
        }
        failure
    }
}

impl Node {
    /// The same node for another listing.
    fn again(&self) -> Self {
        let what = match &self.what {
            What::Root => What::Root,
            What::Control(place) => What::Control(place.clone()),
            What::Readers => What::Readers,
            What::Repository(repository) => What::Repository(repository.clone()),
            What::Backup(repository, id) => What::Backup(repository.clone(), *id),
            What::Latest(repository, id, target) => {
                What::Latest(repository.clone(), *id, target.clone())
            }
            What::Complete(point, entry) => What::Complete(point.clone(), entry.clone()),
            What::Open(open, node) => What::Open(open.clone(), *node),
        };
        Self {
            ino: self.ino,
            parent: self.parent.clone(),
            what,
        }
    }
}

pub(super) fn repository_node(parent: &Arc<Node>, repository: &Arc<MountedRepository>) -> Node {
    let name = repository.name.as_bytes();
    let what = What::Repository(repository.clone());
    node(parent, &[b"repository", name], what)
}

fn backup_node(parent: &Arc<Node>, repository: &Arc<MountedRepository>, id: ObjectId) -> Node {
    let what = What::Backup(repository.clone(), id);
    node(parent, &[b"backup", &id.0], what)
}

/// Every target is another inode: the kernel keeps the target of a symlink as long as it keeps its inode.
pub(super) fn latest_node(
    parent: &Arc<Node>,
    repository: &Arc<MountedRepository>,
    id: ObjectId,
    target: &[u8],
) -> Node {
    let what = What::Latest(repository.clone(), id, target.to_vec());
    node(parent, &[LATEST, target], what)
}

fn open_node(parent: &Arc<Node>, open: &Arc<OpenPoint>, number: u64) -> Node {
    Node {
        ino: open.ino(number),
        parent: Some(parent.clone()),
        what: What::Open(open.clone(), number),
    }
}

impl FileSystem {
    /// Names by which the kernel knows points that were sealed, each with its directory's inode, when entries take more
    /// than half of the memory that they may: as long as it knows them, theirs stay. It may look them up again.
    pub fn to_be_forgotten(&self) -> Vec<(u64, Vec<u8>)> {
        let facts = self.open_points.spool().facts();
        let much = facts.entries > facts.entries_max / 2;
        let Some(root) = self.inodes.get(ROOT).ok().filter(|_| much) else {
            return Vec::new();
        };
        let sealed = self.open_points.all_sealed();
        let named = sealed.iter().filter_map(|open| {
            let point = open.sealed()?;
            let repository = Arc::new(repository_node(&root, &open.repository));
            let directory = backup_node(&repository, &open.repository, open.backup);
            Some((directory.ino, point.point.name().to_vec()))
        });
        named.collect()
    }

    /// The top of a complete point. One that was sealed here keeps its inodes as long as the kernel knows them.
    fn point_node(
        &self,
        parent: &Arc<Node>,
        repository: &Arc<MountedRepository>,
        point: Arc<Point>,
    ) -> Node {
        let top = Arc::new(point.record.top());
        let point = Arc::new(CompletePoint {
            repository: repository.clone(),
            point,
        });
        if let Some(open) = self.open_points.sealed(&point) {
            return open_node(parent, &open, TOP);
        }
        let identity = point.identity();
        node(parent, &[b"point", &identity], What::Complete(point, top))
    }
}

fn entry_node(parent: &Arc<Node>, point: &Arc<CompletePoint>, entry: Arc<Entry>) -> Node {
    Node {
        ino: number_in_point(point, parent.ino, &entry),
        parent: Some(parent.clone()),
        what: What::Complete(point.clone(), entry),
    }
}
