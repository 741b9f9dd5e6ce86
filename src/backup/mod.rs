//! A source into a repository: walk, cut, hash, group, compress, encrypt, store, then index, then point.
//!
//! One thread walks the source in step with the backup's newest point and decides what is unchanged; workers read,
//! hash and compress what is not; one thread takes the entries in order and builds the tree. What cannot be read is
//! reported and left out; everything else is in the point.

mod assembly;
mod content;
mod previous;
mod workers;

pub use content::{Contents, Failed, SMALL_FILE_BYTES, tree_sink};
pub use workers::{Job, Workers};

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::point::{
    Attributes, Catalog, Draft, Entry, File, Inode, Node, Owner, Point, PointRecord, Source, Trees,
};
use crate::progress::Progress;
use crate::repository::{Writer, host_name};
use crate::source::{self, Event, Metadata, Problem, Type};
use assembly::{Assembled, Assembly};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use previous::{Before, Previous};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Entries between the walk and the tree, about 300 bytes each.
const ENTRIES_AHEAD: usize = 8192;
/// Files with these endings are written at random, so they are cut in aligned blocks, and unchanged blocks stay.
const IMAGE_ENDINGS: [&[u8]; 8] = [
    b".img", b".raw", b".qcow2", b".vmdk", b".vdi", b".vhd", b".vhdx", b".ibd",
];
/// An image smaller than this is cut by content like any file, bytes.
const IMAGE_BYTES_MIN: u64 = 16 << 20;
/// The blocks of images, bytes.
/// After 2 % of a 2 GiB image changed in runs, and in scattered 4 KiB: 128 KiB adds 24 and 191 MB, 64 KiB 23 and 119,
/// 32 KiB 22 and 72; cut by content 64 and 378.
const IMAGE_BLOCK_BYTES: u32 = 64 << 10;

/// What to back up, and where to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to read. One directory is the point's top itself; several sources lie in it by their base names.
    pub sources: Vec<PathBuf>,
    /// What to leave out.
    pub walk: source::Options,
    /// The backup, made if there is none.
    pub backup: Vec<u8>,
    /// The point's name; its time if none is given.
    pub point: Option<Vec<u8>>,
    /// Threads that hash and compress; 0 for one per core.
    pub threads: usize,
    /// Read every file, changed or not.
    pub force: bool,
}

/// What a backup did.
#[derive(Debug)]
pub struct Report {
    /// The new restore point.
    pub point: Arc<Point>,
    /// The point that unchanged files were taken from.
    pub parent: Option<Arc<Point>>,
    /// Entries in the point.
    pub entries: u64,
    /// Regular files that were read.
    pub files_read: u64,
    /// Regular files that were not opened, as they had not changed.
    pub files_unchanged: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Plain bytes that were new to the repository, trees included.
    pub new_bytes: u64,
    /// Bytes added to the store in packs.
    pub stored_bytes: u64,
    /// What could not be read and is missing, wholly or in part.
    pub problems: Vec<Problem>,
    /// What was left out on purpose and is worth a sentence.
    pub notices: Vec<String>,
}

#[derive(Default)]
struct Counts {
    files_read: u64,
    files_unchanged: u64,
    bytes_read: u64,
    problems: Vec<Problem>,
    notices: Vec<String>,
}

/// Reads the sources into a new restore point. Files that vanish or cannot be read are in the report's `problems`.
/// Fails when the repository cannot be written or the whole source cannot be read; then there is no new point.
pub fn backup(
    catalog: &Catalog,
    trees: &Arc<Trees>,
    options: &Options,
    progress: &Progress,
) -> Result<Report> {
    let repository = catalog.repository();
    let time = catalog.now();
    let contents = catalog.refresh()?;
    let parent = contents
        .backups
        .get(&options.backup)
        .and_then(|backup| contents.latest(backup.id))
        .cloned();
    if let Some(name) = &options.point
        && contents.point(&options.backup, name).is_some()
    {
        let message = format!(
            "the backup {} already has a restore point {}; choose another name",
            String::from_utf8_lossy(&options.backup),
            String::from_utf8_lossy(name)
        );
        return Err(Error::new(Kind::AlreadyExists, message));
    }
    let walk = source::Walk::new(&options.sources, options.walk.clone())?;
    let writer = Arc::new(Writer::new(repository.clone(), None)?);
    let previous = parent
        .as_ref()
        .filter(|_| !options.force)
        .map(|point| Previous::new(trees.clone(), point));
    if let Some(parent) = &parent {
        progress.expect(parent.record.tree.entries, parent.record.tree.bytes);
    }
    let finished = AtomicBool::new(false);
    let (assembled, entries, counts) = std::thread::scope(|scope| {
        if parent.is_none() && progress.watched.load(Relaxed) {
            scope.spawn(|| estimate(options, progress, &finished));
        }
        let result = read(walk, previous, &writer, options, progress);
        finished.store(true, Relaxed);
        result
    })?;
    writer.flush()?;
    let record = PointRecord {
        backup: Default::default(),
        name: Vec::new(),
        time,
        sealed: time,
        sequence: 0,
        previous: [0; 32],
        mode: assembled.top.mode,
        owner: (*assembled.top.owner).clone(),
        mtime: assembled.top.mtime,
        xattrs: assembled.top.xattrs,
        tree: assembled.tree,
        side: assembled.side,
        side_bytes: assembled.side_bytes,
        source: Source {
            host: host_name(),
            paths: options
                .sources
                .iter()
                .map(|path| path.as_os_str().as_bytes().to_vec())
                .collect(),
        },
        origin: None,
        program: String::new(),
        more: Vec::new(),
    };
    let point = commit(catalog, options, record, time)?;
    if let Err(error) = repository.merge_index() {
        tracing::warn!("the index was not merged: {error}");
    }
    Ok(Report {
        point,
        parent,
        entries,
        files_read: counts.files_read,
        files_unchanged: counts.files_unchanged,
        bytes_read: counts.bytes_read,
        new_bytes: writer.written.plain_bytes.load(Relaxed),
        stored_bytes: writer.written.stored_bytes.load(Relaxed),
        problems: counts.problems,
        notices: counts.notices,
    })
}

/// Tells a first backup's totals, by a walk of its own that reads no content. What it cannot see only makes the
/// estimate less good.
fn estimate(options: &Options, progress: &Progress, finished: &AtomicBool) {
    let Ok(walk) = source::Walk::new(&options.sources, options.walk.clone()) else {
        return;
    };
    let (mut entries, mut bytes) = (0, 0u64);
    for event in walk {
        if finished.load(Relaxed) {
            return;
        }
        if let Event::Enter(entry) | Event::Entry(entry) = event {
            entries += 1;
            if entry.metadata.file_type == Type::File {
                bytes = bytes.saturating_add(entry.metadata.size);
            }
        }
    }
    progress.expect(entries, bytes);
}

/// Commits under the wanted name, or under the time's; two backups within one second get names of their own.
fn commit(
    catalog: &Catalog,
    options: &Options,
    mut record: PointRecord,
    time: Time,
) -> Result<Arc<Point>> {
    if let Some(name) = &options.point {
        record.name = name.clone();
        return catalog.commit(&options.backup, Draft { record });
    }
    for attempt in 0.. {
        record.name = match attempt {
            0 => time.name().into_bytes(),
            again => format!("{}-{again}", time.name()).into_bytes(),
        };
        match catalog.commit(
            &options.backup,
            Draft {
                record: record.clone(),
            },
        ) {
            Err(error) if error.kind() == Kind::AlreadyExists && attempt < 100 => {}
            result => return result,
        }
    }
    unreachable!("the loop ends by returning")
}

/// An entry on its way into the tree, in the order of the walk.
enum Item {
    Enter(Vec<u8>, Attributes, Inode),
    Leave,
    Ready(Arc<Entry>, Inode),
    /// A file that a worker is reading.
    Read(Box<Reading>),
    /// Another name of an inode that came before.
    Link(Vec<u8>, Attributes, (u64, u64), Inode),
}

struct Reading {
    name: Vec<u8>,
    attributes: Attributes,
    inode: Inode,
    link: Option<(u64, u64)>,
    result: Receiver<Result<Done, Unread>>,
}

/// A file that was read.
struct Done {
    file: File,
    xattrs: source::Xattrs,
    bytes_read: u64,
    /// Set when the file changed while it was read, or not all of it can be stored.
    problem: Option<Problem>,
}

fn read(
    walk: source::Walk,
    previous: Option<Previous>,
    writer: &Arc<Writer>,
    options: &Options,
    progress: &Progress,
) -> Result<(Assembled, u64, Counts)> {
    let cores = || std::thread::available_parallelism().map_or(2, usize::from);
    let threads = if options.threads == 0 {
        cores()
    } else {
        options.threads
    };
    let workers = Workers::new(threads);
    let (items, taken) = bounded(ENTRIES_AHEAD);
    let (finished, done) = bounded::<()>(0);
    let problems = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (workers, done) = (&workers, &done);
            scope.spawn(move || workers.work(done));
        }
        let assembling = scope.spawn(|| assemble(taken, writer, progress));
        let mut reader = Reader {
            previous,
            contents: Contents::new(writer.clone()),
            workers: &workers,
            items,
            links: HashMap::new(),
            groups: HashSet::new(),
            notices: Vec::new(),
            problems: &problems,
            files_unchanged: 0,
        };
        let walked = reader.walk(walk, progress);
        let (notices, files_unchanged) =
            (std::mem::take(&mut reader.notices), reader.files_unchanged);
        drop(reader);
        let assembled = assembling.join().unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Failed,
                "building the tree stopped unexpectedly",
            ))
        });
        drop(finished);
        // The reader's own failure is mostly that nobody takes its items any more: the assembly knows why.
        let (assembled, entries, mut counts) = match (assembled, walked) {
            (Err(error), _) if error.kind() != Kind::Interrupted => return Err(error),
            (_, Err(error)) | (Err(error), _) => return Err(error),
            (Ok(assembled), Ok(())) => assembled,
        };
        counts.files_unchanged = files_unchanged;
        counts.notices = notices;
        counts.problems.append(&mut problems.lock());
        Ok((assembled, entries, counts))
    })
}

/// Takes items in order and builds the tree.
fn assemble(
    items: Receiver<Item>,
    writer: &Writer,
    progress: &Progress,
) -> Result<(Assembled, u64, Counts)> {
    let mut assembly = Assembly::new(writer);
    let mut counts = Counts::default();
    let mut linked: HashMap<(u64, u64), Node> = HashMap::new();
    for item in items {
        match item {
            Item::Enter(name, attributes, inode) => assembly.enter(name, attributes, inode)?,
            Item::Leave => {
                if let Some(assembled) = assembly.leave()? {
                    return Ok((assembled, assembly.entries, counts));
                }
            }
            Item::Ready(entry, inode) => {
                if entry.attributes.link_group != 0 {
                    linked.insert((inode.device, inode.inode), entry.node.clone());
                }
                progress.done(1, entry.size());
                assembly.entry(entry, inode)?;
            }
            Item::Link(name, attributes, key, inode) => {
                // The first name could not be read; it was reported, and this one is missing with it.
                let Some(node) = linked.get(&key) else {
                    continue;
                };
                let entry = Entry {
                    name,
                    attributes,
                    node: node.clone(),
                };
                progress.done(1, entry.size());
                assembly.entry(Arc::new(entry), inode)?;
            }
            Item::Read(reading) => {
                let Reading {
                    name,
                    mut attributes,
                    inode,
                    link,
                    result,
                } = *reading;
                let result = result
                    .recv()
                    .map_err(|_| Error::new(Kind::Failed, "a worker stopped unexpectedly"))?;
                match result {
                    Ok(done) => {
                        counts.files_read += 1;
                        counts.bytes_read += done.bytes_read;
                        // The next backup reads such a file again, however little it changes, and tells of it again.
                        let inode = match done.problem {
                            Some(_) => Inode::default(),
                            None => inode,
                        };
                        counts.problems.extend(done.problem);
                        progress.done(1, done.file.size);
                        attributes.xattrs = done.xattrs;
                        let node = Node::File(done.file);
                        if let Some(key) = link {
                            linked.insert(key, node.clone());
                        }
                        assembly.entry(
                            Arc::new(Entry {
                                name,
                                attributes,
                                node,
                            }),
                            inode,
                        )?;
                    }
                    // Of the repository's failures no file is to blame: the backup ends.
                    Err(Unread::Repository(error)) => return Err(error),
                    Err(Unread::Source(problem)) => counts.problems.push(problem),
                }
            }
        }
    }
    Err(Error::new(
        Kind::Interrupted,
        "the source was not read to its end",
    ))
}

/// Why a file is not in the point.
enum Unread {
    Source(Problem),
    Repository(Error),
}

/// Walks the source and decides for each entry what is to be done.
struct Reader<'a> {
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

impl Reader<'_> {
    fn walk(&mut self, mut walk: source::Walk, progress: &Progress) -> Result<()> {
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
            return self.send(Item::Link(entry.name, attributes, key, inode));
        }
        if let Some(same) = before
            .as_ref()
            .filter(|before| unchanged(before, &entry.metadata))
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
        let block = old_block.unwrap_or_else(|| block_of(&entry));
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
    let changed = source::Stamp::of(&open).map_err(unread)? != stamp;
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

/// A new image is cut in blocks, everything else by content.
fn block_of(entry: &source::Entry) -> u32 {
    let image = entry.metadata.size >= IMAGE_BYTES_MIN
        && IMAGE_ENDINGS
            .iter()
            .any(|ending| entry.name.ends_with(ending));
    if image { IMAGE_BLOCK_BYTES } else { 0 }
}

fn inode(metadata: &Metadata) -> Inode {
    Inode {
        ctime: metadata.ctime,
        device: metadata.device,
        inode: metadata.inode,
    }
}

/// The test for unchanged entries: size, mtime, ctime and inode. The device may get another number at every boot.
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
