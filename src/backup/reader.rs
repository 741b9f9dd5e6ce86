//! From the walk of the source to items: what is unchanged is taken from the backup's newest point, the rest is read by
//! workers.

use super::content::{Contents, Failed};
use super::images::{block_of, block_of_disk};
use super::item::{Done, Item, Link, Reading, Unread};
use super::previous::{Before, Previous};
use super::workers::Workers;
use crate::error::{Error, Kind, Result};
use crate::point::{Attributes, Entry, File, Inode, Node, Owner};
use crate::progress::Progress;
use crate::source::{self, Event, Metadata, Problem, Type};
use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Walks the source and decides for each entry what is to be done.
pub(super) struct Reader<'a> {
    previous: Option<Previous>,
    contents: Contents,
    workers: &'a Workers,
    items: Sender<Item>,
    /// Link groups by device and inode.
    links: HashMap<(u64, u64), u64>,
    /// Link groups in use: two inodes never share one.
    groups: HashSet<u64>,
    notices: Vec<String>,
    problems: &'a Mutex<Vec<Problem>>,
    files_unchanged: u64,
}

impl<'a> Reader<'a> {
    /// A reader that takes what is unchanged from `previous`, and sends an item for every entry into `items`.
    pub fn new(
        previous: Option<Previous>,
        contents: Contents,
        workers: &'a Workers,
        items: Sender<Item>,
        problems: &'a Mutex<Vec<Problem>>,
    ) -> Self {
        Self {
            previous,
            contents,
            workers,
            items,
            links: HashMap::new(),
            groups: HashSet::new(),
            notices: Vec::new(),
            problems,
            files_unchanged: 0,
        }
    }

    /// Ends the items: the notices of the walk, and how many files were unchanged.
    pub fn finish(self) -> (Vec<String>, u64) {
        (self.notices, self.files_unchanged)
    }

    /// Walks to the end of the source, or until nobody takes its items any more.
    pub fn walk(&mut self, mut walk: source::Walk, progress: &Progress) -> Result<()> {
        let mut depth = 0;
        while let Some(event) = walk.next() {
            progress.go_on()?;
            match event {
                Event::Enter(entry) => {
                    self.enter(entry, depth)?;
                    depth += 1;
                }
                Event::Leave => {
                    depth -= 1;
                    if let Some(previous) = &mut self.previous
                        && depth > 0
                    {
                        previous.leave();
                    }
                    self.send(Item::Leave)?;
                }
                Event::Entry(entry) => self.entry(entry, walk.path())?,
                Event::Problem(problem) => self.problems.lock().push(problem),
                Event::Notice(notice) => self.notices.push(notice),
            }
        }
        Ok(())
    }

    fn send(&self, item: Item) -> Result<()> {
        self.items
            .send(item)
            .map_err(|_| Error::new(Kind::Interrupted, "the backup was given up"))
    }

    fn enter(&mut self, entry: source::Entry, depth: usize) -> Result<()> {
        let before = match &mut self.previous {
            Some(previous) if depth > 0 => {
                let before = previous.find(&entry.name);
                previous.enter(before.as_ref())?;
                before
            }
            _ => None,
        };
        let inode = inode(&entry.metadata);
        let same = before
            .as_ref()
            .filter(|before| before.inode == Some(inode) && before.entry.tree().is_some());
        let mut attributes = match same {
            Some(before) => Attributes {
                xattrs: before.entry.attributes.xattrs.clone(),
                ..attributes(&entry.metadata)
            },
            None => self.attributes_of(&entry),
        };
        attributes.links = 1;
        self.send(Item::Enter(entry.name, attributes, inode))
    }

    /// Attributes with the extended ones; what cannot be read is reported, and the entry stays.
    fn attributes_of(&self, entry: &source::Entry) -> Attributes {
        let mut attributes = attributes(&entry.metadata);
        match entry.file.xattrs() {
            Ok(xattrs) => attributes.xattrs = xattrs,
            Err(error) => self.problems.lock().push(Problem {
                path: entry.file.path(),
                error,
            }),
        }
        attributes
    }

    fn entry(&mut self, entry: source::Entry, path: &[u8]) -> Result<()> {
        let before = self
            .previous
            .as_mut()
            .and_then(|previous| previous.find(&entry.name));
        let inode = inode(&entry.metadata);
        let key = (entry.metadata.device, entry.metadata.inode);
        let (group, seen) = self.link_group(&entry.metadata, before.as_ref(), path);
        if seen {
            let attributes = Attributes {
                link_group: group,
                ..self.attributes_of(&entry)
            };
            return self.send(Item::Link(Box::new(Link {
                path: entry.file.path(),
                name: entry.name,
                attributes,
                inode,
                key,
            })));
        }
        if let Some(same) = before
            .as_ref()
            .filter(|before| !entry.file.is_device() && unchanged(before, &entry.metadata))
        {
            self.files_unchanged += u64::from(same.entry.file().is_some());
            return self.send(Item::Ready(
                with_links(&same.entry, group, entry.metadata.links),
                inode,
            ));
        }
        if entry.metadata.file_type == Type::File {
            return self.read(entry, before, group, key, inode);
        }
        let attributes = Attributes {
            link_group: group,
            ..self.attributes_of(&entry)
        };
        let node = node(&entry.metadata.file_type);
        self.send(Item::Ready(
            Arc::new(Entry {
                name: entry.name,
                attributes,
                node,
            }),
            inode,
        ))
    }

    /// The entry's link group (0 for a single name), and whether its inode came before.
    fn link_group(
        &mut self,
        metadata: &Metadata,
        before: Option<&Before>,
        path: &[u8],
    ) -> (u64, bool) {
        if metadata.links < 2 {
            return (0, false);
        }
        let key = (metadata.device, metadata.inode);
        if let Some(group) = self.links.get(&key) {
            return (*group, true);
        }
        // A group keeps its number from point to point, or every directory with a link would change each time.
        let mut group = before.map_or(0, |before| before.entry.attributes.link_group);
        let mut attempt = 0u64;
        while group == 0 || !self.groups.insert(group) {
            let mut hasher = blake3::Hasher::new();
            hasher.update(path).update(&attempt.to_le_bytes());
            group = u64::from_le_bytes(
                hasher.finalize().as_bytes()[..8]
                    .try_into()
                    .expect("8 bytes"),
            );
            attempt += 1;
        }
        self.links.insert(key, group);
        (group, false)
    }

    fn read(
        &mut self,
        entry: source::Entry,
        before: Option<Before>,
        group: u64,
        key: (u64, u64),
        inode: Inode,
    ) -> Result<()> {
        let old_block = before
            .as_ref()
            .and_then(|before| before.entry.file())
            .map(|file| file.block);
        let size = entry.metadata.size;
        let block = match old_block {
            Some(block) if block != 0 || !entry.is_disk => block,
            _ if entry.is_disk => block_of_disk(size, entry.file.is_device()),
            _ => block_of(&entry.name, size),
        };
        let (sender, result) = bounded(1);
        let contents = self.contents.clone();
        let stamp = entry.metadata.stamp();
        let (name, file) = (entry.name.clone(), entry.file);
        self.workers.submit(Box::new(move |workers| {
            // Nobody takes the result when the backup was given up.
            let _ = sender.send(read_file(&contents, &file, &name, block, stamp, workers));
        }));
        let attributes = Attributes {
            link_group: group,
            ..attributes(&entry.metadata)
        };
        let link = (group != 0).then_some(key);
        self.send(Item::Read(Box::new(Reading {
            name: entry.name,
            attributes,
            inode,
            link,
            result,
        })))
    }
}

fn read_file(
    contents: &Contents,
    file: &source::FileRef,
    name: &[u8],
    block: u32,
    stamp: source::Stamp,
    workers: &Workers,
) -> Result<Done, Unread> {
    let problem = |error| Problem {
        path: file.path(),
        error,
    };
    let unread = |error| Unread::Source(problem(error));
    let open = file.open().map_err(unread)?;
    let (xattrs, left_out) = match file.xattrs() {
        Ok(xattrs) => (xattrs, None),
        Err(error) if error.kind() == Kind::TooBig => (Vec::new(), Some(problem(error))),
        Err(error) => return Err(unread(error)),
    };
    let (stored, bytes_read) = contents
        .store(&open, name, block, workers)
        .map_err(|failed| match failed {
            Failed::Reading(error) => unread(error),
            Failed::Storing(error) => Unread::Repository(error),
        })?;
    let changed = !file.is_device() && source::Stamp::of(&open).map_err(unread)? != stamp;
    let note = || {
        problem(Error::new(
            Kind::Busy,
            "it changed while it was read; what is stored may be a mixture",
        ))
    };
    Ok(Done {
        file: stored,
        xattrs,
        bytes_read,
        problem: changed.then(note).or(left_out),
    })
}

fn inode(metadata: &Metadata) -> Inode {
    Inode {
        ctime: metadata.ctime,
        device: metadata.device,
        inode: metadata.inode,
    }
}

/// The test for unchanged entries: size, mtime, ctime and inode. The device may get another number at every boot.
/// An entry whose ctime cannot tell a later change has no inode here.
fn unchanged(before: &Before, metadata: &Metadata) -> bool {
    let Some(inode) = before.inode else {
        return false;
    };
    let entry = &before.entry;
    inode.ctime == metadata.ctime
        && inode.inode == metadata.inode
        && entry.attributes.mtime == metadata.mtime
        && entry.node.type_bits() == node(&metadata.file_type).type_bits()
        && (entry.file().is_none() || entry.size() == metadata.size)
}

fn with_links(entry: &Arc<Entry>, group: u64, links: u64) -> Arc<Entry> {
    let links = if group == 0 {
        1
    } else {
        u32::try_from(links).unwrap_or(u32::MAX)
    };
    if entry.attributes.link_group == group && entry.attributes.links == links {
        return entry.clone();
    }
    let mut entry = (**entry).clone();
    entry.attributes.link_group = group;
    entry.attributes.links = links;
    Arc::new(entry)
}

fn attributes(metadata: &Metadata) -> Attributes {
    Attributes {
        mode: metadata.mode,
        owner: Arc::new(Owner {
            uid: metadata.uid,
            gid: metadata.gid,
            user: metadata.user.to_vec(),
            group: metadata.group.to_vec(),
        }),
        mtime: metadata.mtime,
        xattrs: Vec::new(),
        links: u32::try_from(metadata.links).unwrap_or(u32::MAX),
        link_group: 0,
    }
}

fn node(file_type: &Type) -> Node {
    match file_type {
        Type::File => Node::File(File::empty()),
        Type::Directory => unreachable!("the walk enters directories"),
        Type::Symlink { target } => Node::Symlink(target.clone()),
        Type::Fifo => Node::Fifo,
        Type::Socket => Node::Socket,
        Type::CharacterDevice { rdev } => Node::Character(*rdev),
        Type::BlockDevice { rdev } => Node::Block(*rdev),
    }
}
