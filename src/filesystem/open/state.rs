//! The entries of an open point in memory: what applying every change in order makes.

use super::change::{Change, Facts, Made, TOP};
use super::content::{OpenContent, Place, Segment, SourceFile};
use super::few::Few;
use super::nodes::Nodes;
use crate::clock::Time;
use crate::id::ObjectId;
use crate::point::{File, Owner, Tree, Trees, Xattr};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A name in a directory: the number of its node, and in the highest bit whether the point it is a copy of has the
/// same name, type and content here.
#[derive(Clone, Copy, Debug)]
pub(in crate::filesystem) struct Name(u64);

const MATCHED: u64 = 1 << 63;

impl Name {
    pub fn new(node: u64, matched: bool) -> Self {
        Self(node & !MATCHED | if matched { MATCHED } else { 0 })
    }

    pub fn node(self) -> u64 {
        self.0 & !MATCHED
    }

    pub fn matched(self) -> bool {
        self.0 & MATCHED != 0
    }
}

/// What a node is.
#[derive(Debug)]
pub(in crate::filesystem) enum Body {
    Directory {
        /// Each is shared with the node's place.
        names: BTreeMap<Arc<[u8]>, Name>,
        /// How many of them are directories.
        subdirectories: u32,
        /// The directory of the same path in the point that this one is a copy of.
        twin: Option<Box<Tree>>,
    },
    File {
        content: OpenContent,
        /// BLAKE3 of the content, while it is known.
        hash: Option<Box<[u8; 32]>>,
    },
    Symlink(Vec<u8>),
    Special(u32, u64),
}

/// Bytes of memory that a node takes with the file that it refers to, a stretch more, and a name beside its letters.
const NODE_BYTES: u64 = 330;
const SEGMENT_BYTES: u64 = 132;
const NAME_BYTES: u64 = 80;

/// Bytes of memory that a name takes in its directory.
fn name_weight(name: &[u8]) -> u64 {
    NAME_BYTES + name.len() as u64
}

/// A node of an open point.
#[derive(Debug)]
pub(in crate::filesystem) struct OpenNode {
    pub body: Body,
    pub facts: Facts,
    /// The access time: as somebody has set it while this daemon runs, otherwise the first time of change.
    pub atime: Time,
    /// When anything of it changed last, as far as this daemon has seen that.
    pub ctime: Time,
    pub xattrs: Box<[Xattr]>,
    /// The owner it had in the complete point it was linked from, with names.
    pub linked_owner: Option<Arc<Owner>>,
    /// Every directory and name it is found at; several for hard links, none once it was removed.
    pub places: Few<(u64, Arc<[u8]>)>,
}

impl OpenNode {
    fn new(body: Body, facts: Facts, now: Time) -> Self {
        Self {
            body,
            facts,
            atime: facts.mtime,
            ctime: now,
            xattrs: Box::default(),
            linked_owner: None,
            places: Few::default(),
        }
    }

    /// Bytes of memory that it takes, without its names; measured in the test of nodes.
    fn weight(&self) -> u64 {
        let outside: usize = match &self.body {
            Body::File { content, .. } => {
                content.segments.len().saturating_sub(1) * SEGMENT_BYTES as usize
            }
            Body::Symlink(target) => target.len(),
            Body::Directory { .. } | Body::Special(..) => 0,
        };
        let xattrs = self.xattrs.iter();
        let xattrs: usize = xattrs
            .map(|(name, value)| name.len() + value.len() + 48)
            .sum();
        NODE_BYTES + (outside + xattrs) as u64
    }

    /// The file type bits of its mode.
    pub fn type_bits(&self) -> u32 {
        match &self.body {
            Body::Directory { .. } => libc::S_IFDIR,
            Body::File { .. } => libc::S_IFREG,
            Body::Symlink(_) => libc::S_IFLNK,
            Body::Special(bits, _) => *bits,
        }
    }

    /// Its content, if it is a file.
    pub fn content(&self) -> Option<&OpenContent> {
        match &self.body {
            Body::File { content, .. } => Some(content),
            _ => None,
        }
    }

    /// The last name on the path to it, on the first if there are several; empty once it was removed.
    pub fn last_name(&self) -> &[u8] {
        self.places.first().map_or(&[], |(_, name)| name)
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, name: &[u8]) -> Option<&Vec<u8>> {
        let found = self.xattrs.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    /// The names in it, if it is a directory.
    pub fn names(&self) -> Option<&BTreeMap<Arc<[u8]>, Name>> {
        match &self.body {
            Body::Directory { names, .. } => Some(names),
            _ => None,
        }
    }

    /// The directory that it is a copy of, if it is one.
    pub fn twin(&self) -> Option<Tree> {
        match &self.body {
            Body::Directory { twin, .. } => twin.as_deref().copied(),
            _ => None,
        }
    }

    fn names_mut(&mut self) -> Option<&mut BTreeMap<Arc<[u8]>, Name>> {
        match &mut self.body {
            Body::Directory { names, .. } => Some(names),
            _ => None,
        }
    }
}

/// How sources are found again after a restart.
pub(in crate::filesystem) type FindTrees<'a> = &'a dyn Fn(ObjectId) -> Option<Arc<Trees>>;

/// The entries of an open point.
#[derive(Debug, Default)]
pub(in crate::filesystem) struct State {
    /// The first change, as the journal has it.
    pub begun: Option<Change>,
    pub name: Vec<u8>,
    /// The time of what is applied. The journal does not say it: there it is when the journal was read.
    pub now: Time,
    pub nodes: Nodes,
    /// The number of the next node.
    pub next: u64,
    /// Names in all directories.
    pub entries: u64,
    /// Of them, those that the point it is a copy of has too.
    pub matched: u64,
    /// What may still be referred to by number: while a journal is read everything, later only what came last.
    pub sources: HashMap<u64, Arc<SourceFile>>,
    /// The number of the next source.
    pub next_source: u64,
    /// Owners that nodes were linked with, each once.
    pub owners: HashSet<Arc<Owner>>,
    /// The point it is a copy of, as the journal names it.
    pub from: Option<(ObjectId, ObjectId, u64)>,
    /// What it was about to become when the journal ended.
    pub sealing: Option<[u8; 32]>,
    /// Its repository.
    pub repository: ObjectId,
    /// Bytes in the spool.
    pub spooled: u64,
    /// The nodes that have bytes there.
    pub written: BTreeSet<u64>,
    /// The boot of the host in which it was changed last; none when everything is on disk.
    pub boot: Option<u128>,
    /// Of the nodes with bytes in the spool, those to which something was written since they were synced.
    pub unsynced: BTreeSet<u64>,
    /// Files of which the host may have lost bytes.
    pub doubtful: BTreeSet<u64>,
    /// Stretches that were stored and referred to so far.
    pub stored: u64,
    /// Bytes of memory that nodes and names take, as counted by [`OpenNode::weight`] and [`name_weight`].
    pub memory: u64,
}

/// The numbers of stored stretches begin here, those of sources at 0.
const STORED: u64 = 1 << 63;

impl State {
    /// Applies a change. What contradicts the state is passed over: only a damaged journal can hold such a change.
    pub fn apply(&mut self, change: Change, find: FindTrees<'_>) {
        self.sealing = None;
        match change {
            Change::Sealing { record } => self.sealing = Some(record),
            Change::Begin {
                repository, facts, ..
            } => {
                self.begun = Some(change);
                self.repository = repository;
                self.add(TOP, Made::Directory, facts);
                self.next = TOP + 1;
            }
            Change::Name(name) => self.name = name,
            Change::From {
                repository,
                point,
                generation,
            } => self.from = Some((repository, point, generation)),
            Change::Make {
                parent,
                name,
                node,
                made,
                facts,
            } => {
                self.add(node, made, facts);
                self.next = self.next.max(node.saturating_add(1));
                self.enter(parent, name.into(), node);
            }
            Change::Link { parent, name, node } => self.enter(parent, name.into(), node),
            Change::Remove { parent, name } => {
                self.leave(parent, &name);
            }
            Change::Rename {
                parent,
                name,
                new_parent,
                new_name,
            } => {
                if let Some(node) = self.leave(parent, &name) {
                    self.leave(new_parent, &new_name);
                    self.enter(new_parent, new_name.into(), node);
                }
            }
            Change::Exchange {
                parent,
                name,
                new_parent,
                new_name,
            } => {
                if let Some(one) = self.leave(parent, &name)
                    && let Some(other) = self.leave(new_parent, &new_name)
                {
                    self.enter(new_parent, new_name.into(), one);
                    self.enter(parent, name.into(), other);
                }
            }
            Change::Facts { node, facts } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.facts = facts;
                    node.ctime = self.now;
                }
            }
            Change::Xattr { node, name, value } => self.set_xattr(node, name, value),
            Change::Owner { node, owner } => {
                let owner = self.shared_owner(owner);
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.linked_owner = Some(owner);
                }
            }
            Change::Size { node, size } => {
                if size == 0 {
                    self.doubtful.remove(&node);
                }
                self.content(node, |content| content.resize(size));
            }
            Change::Hole {
                node,
                begin,
                length,
            } => self.content(node, |content| {
                content.punch(begin, begin.saturating_add(length));
            }),
            Change::Written {
                node,
                begin,
                length,
            } => {
                self.content(node, |content| {
                    let place = Place::Spool;
                    content.put(Segment {
                        begin,
                        length,
                        place,
                    });
                });
                if self.written.contains(&node) {
                    self.unsynced.insert(node);
                }
            }
            Change::Source {
                number,
                repository,
                file,
            } => {
                let source = SourceFile::new(number, (repository, find(repository)), file, false);
                self.next_source = self.next_source.max(number.saturating_add(1));
                self.sources.insert(number, Arc::new(source));
            }
            Change::Reference {
                node,
                begin,
                length,
                source,
                offset,
            } => {
                let Some(source) = self.sources.get(&source).cloned() else {
                    return;
                };
                self.content(node, |content| {
                    let place = Place::Source(source, offset);
                    content.put(Segment {
                        begin,
                        length,
                        place,
                    });
                });
            }
            Change::Stored { node, begin, file } => self.store(node, begin, file, find),
            Change::Boot(boot) => {
                self.boot = boot;
                if boot.is_none() {
                    self.unsynced.clear();
                }
            }
            Change::Synced { node } => {
                self.unsynced.remove(&node);
            }
            Change::Doubtful { node } => {
                self.doubtful.insert(node);
            }
            Change::Trusted { node } => {
                self.doubtful.remove(&node);
            }
        }
    }

    /// Bytes of the spool are referred to from now on, as the chunks that they have become.
    fn store(&mut self, node: u64, begin: u64, file: File, find: FindTrees<'_>) {
        let repository = (self.repository, find(self.repository));
        let source = SourceFile::new(STORED + self.stored, repository, file, true);
        self.stored += 1;
        self.with_content(node, |content, _| {
            content.stored(Segment {
                begin,
                length: source.size(),
                place: Place::Source(Arc::new(source), 0),
            });
        });
    }

    /// The hash of a file's first bytes is known: that of the file, if they are all of it.
    pub fn hashed(&mut self, node: u64, upto: u64, hasher: &blake3::Hasher) {
        self.with_content(node, |content, hash| {
            if content.size == upto {
                *hash = Some(Box::new(*hasher.finalize().as_bytes()));
            }
        });
    }

    /// Nobody will read this node any more: what it has in the spool is given up.
    pub fn give_up(&mut self, node: u64) {
        self.with_content(node, |content, _| {
            content.segments = Few::default();
            content.spooled = 0;
        });
    }

    /// Whether this node is there and has no name. The top needs none.
    pub fn is_unnamed(&self, number: u64) -> bool {
        let node = self.nodes.get(&number);
        number != TOP && node.is_some_and(|node| node.places.is_empty())
    }

    /// Forgets a node that has no name.
    pub fn forget(&mut self, number: u64) {
        if self.is_unnamed(number) {
            self.give_up(number);
            self.doubtful.remove(&number);
            self.memory -= self.nodes.get(&number).map_or(0, OpenNode::weight);
            self.nodes.remove(&number);
        }
    }

    /// Forgets every node that has no name: whoever had it open is gone.
    pub fn forget_unnamed(&mut self) {
        let nodes = self.nodes.iter().filter(|(_, node)| node.places.is_empty());
        let unnamed: Vec<_> = nodes.map(|(number, _)| number).collect();
        unnamed.into_iter().for_each(|number| self.forget(number));
    }

    fn add(&mut self, number: u64, made: Made, facts: Facts) {
        let node = OpenNode::new(self.body(made), facts, self.now);
        // Only a damaged journal makes a node twice.
        self.memory -= self.nodes.get(&number).map_or(0, OpenNode::weight);
        self.memory += node.weight();
        self.nodes.insert(number, node);
    }

    fn shared_owner(&mut self, owner: Owner) -> Arc<Owner> {
        if let Some(known) = self.owners.get(&owner) {
            return known.clone();
        }
        let owner = Arc::new(owner);
        self.owners.insert(owner.clone());
        owner
    }

    fn body(&self, made: Made) -> Body {
        let file = |content| Body::File {
            content,
            hash: None,
        };
        match made {
            Made::Directory => Body::Directory {
                names: BTreeMap::new(),
                subdirectories: 0,
                twin: None,
            },
            Made::File => file(OpenContent::default()),
            Made::Linked(source) => file(match self.sources.get(&source) {
                Some(source) => OpenContent::of_source(source.clone()),
                None => OpenContent::default(),
            }),
            Made::Symlink(target) => Body::Symlink(target),
            Made::Special(bits, device) => Body::Special(bits, device),
        }
    }

    fn enter(&mut self, parent: u64, name: Arc<[u8]>, number: u64) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        node.places.push((parent, name.clone()));
        node.ctime = self.now;
        let directory = node.names().is_some();
        let Some(Body::Directory {
            names,
            subdirectories,
            ..
        }) = self.nodes.get_mut(&parent).map(|node| &mut node.body)
        else {
            return;
        };
        *subdirectories += u32::from(directory);
        let weight = name_weight(&name);
        if names.insert(name, Name::new(number, false)).is_none() {
            self.entries += 1;
            self.memory += weight;
        }
    }

    fn leave(&mut self, parent: u64, name: &[u8]) -> Option<u64> {
        let names = self.nodes.get_mut(&parent)?.names_mut()?;
        let left = names.remove(name)?;
        self.entries -= 1;
        self.memory -= name_weight(name);
        self.matched -= u64::from(left.matched());
        let mut directory = false;
        if let Some(node) = self.nodes.get_mut(&left.node()) {
            node.places
                .change(|places| places.retain(|(at, known)| *at != parent || **known != *name));
            node.ctime = self.now;
            directory = node.names().is_some();
        }
        if let Some(Body::Directory { subdirectories, .. }) =
            self.nodes.get_mut(&parent).map(|node| &mut node.body)
        {
            *subdirectories = subdirectories.saturating_sub(u32::from(directory));
        }
        Some(left.node())
    }

    fn content(&mut self, node: u64, change: impl FnOnce(&mut OpenContent)) {
        self.with_content(node, |content, hash| {
            change(content);
            *hash = None;
        });
        let now = self.now;
        let known = self.nodes.get_mut(&node);
        if let Some(node) = known.filter(|node| node.content().is_some()) {
            node.ctime = now;
        }
    }

    fn with_content(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut OpenContent, &mut Option<Box<[u8; 32]>>),
    ) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        let weight = node.weight();
        let Body::File { content, hash } = &mut node.body else {
            return;
        };
        self.spooled -= content.spooled;
        change(content, hash);
        self.spooled += content.spooled;
        match content.spooled {
            0 => {
                self.unsynced.remove(&number);
                self.written.remove(&number)
            }
            _ => self.written.insert(number),
        };
        self.memory = self.memory - weight + node.weight();
    }

    fn set_xattr(&mut self, node: u64, name: Vec<u8>, value: Option<Vec<u8>>) {
        let Some(node) = self.nodes.get_mut(&node) else {
            return;
        };
        node.ctime = self.now;
        let weight = node.weight();
        let mut xattrs = std::mem::take(&mut node.xattrs).into_vec();
        let place = xattrs.binary_search_by(|(known, _)| known.cmp(&name));
        match (place, value) {
            (Ok(place), Some(value)) => xattrs[place].1 = value,
            (Ok(place), None) => {
                xattrs.remove(place);
            }
            (Err(place), Some(value)) => xattrs.insert(place, (name, value)),
            (Err(_), None) => {}
        }
        node.xattrs = xattrs.into();
        self.memory = self.memory - weight + node.weight();
    }

    /// Nothing but this source is referred to by number any more; what others refer to they hold.
    pub fn forget_sources(&mut self, but: Option<u64>) {
        self.sources.retain(|number, _| Some(*number) == but);
        self.sources.shrink_to_fit();
    }

    /// Every file of a complete point that is referred to, in the order in which it was copied.
    pub fn sources_in_order(&self) -> Vec<Arc<SourceFile>> {
        let mut sources: Vec<Arc<SourceFile>> = Vec::new();
        for content in self.nodes.values().filter_map(OpenNode::content) {
            for segment in content.segments.iter() {
                if let Place::Source(source, _) = &segment.place
                    && !source.written
                    && sources.last().map(|last| last.number) != Some(source.number)
                {
                    sources.push(source.clone());
                }
            }
        }
        sources.sort_unstable_by_key(|source| source.number);
        sources.dedup_by_key(|source| source.number);
        sources
    }

    /// The node of a name in a directory.
    pub fn child(&self, parent: u64, name: &[u8]) -> Option<u64> {
        let names = self.nodes.get(&parent)?.names()?;
        names.get(name).map(|name| name.node())
    }

    /// What [`State::memory`] is, counted anew.
    #[cfg(test)]
    pub fn memory_counted(&self) -> u64 {
        let nodes = self.nodes.values().map(OpenNode::weight);
        let names = self.nodes.values().filter_map(OpenNode::names);
        let names = names.flatten().map(|(name, _)| name_weight(name));
        nodes.chain(names).sum()
    }

    /// The names that lead from the top to a node, by its first place.
    pub fn path(&self, mut node: u64) -> Option<Vec<Vec<u8>>> {
        let mut path = Vec::new();
        while node != TOP {
            let (parent, name) = self.nodes.get(&node)?.places.first()?;
            path.push(name.to_vec());
            node = *parent;
            // Only a damaged journal leads in circles.
            if path.len() > self.nodes.len() {
                return None;
            }
        }
        path.reverse();
        Some(path)
    }

    /// Whether `below` is `above` or lies in it.
    pub fn lies_in(&self, mut below: u64, above: u64) -> bool {
        // No way up is longer than that; only a damaged journal leads in circles.
        for _ in 0..=self.nodes.len() {
            if below == above {
                return true;
            }
            let parent = self.nodes.get(&below).and_then(|node| node.places.first());
            match parent {
                Some((parent, _)) if below != TOP => below = *parent,
                _ => return false,
            }
        }
        false
    }
}
