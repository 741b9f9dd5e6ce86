//! A source into a repository: walk, cut, hash, group, compress, encrypt, store, then index, then point.
//!
//! One thread walks the source in step with the backup's newest point and decides what is unchanged; workers read,
//! hash and compress what is not; one thread takes the entries in order and builds the tree. What cannot be read is
//! reported and left out; everything else is in the point.

mod assembly;
mod chunks;
mod content;
mod images;
mod item;
mod previous;
mod reader;
mod workers;

pub use chunks::{Chunks, Tell};
pub use content::{Contents, Failed, SMALL_FILE_BYTES, tree_sink};
pub use images::block_of;
pub use workers::{Job, Workers};

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::point::{
    Catalog, Draft, Entry, Inode, Node, PARTIAL, Point, PointRecord, Source, Trees,
    require_backup_name, require_point_name,
};
use crate::progress::Progress;
use crate::repository::{Writer, host_name};
use crate::source::{self, Event, Problem, Type};
use assembly::{Assembled, Assembly};
use crossbeam_channel::{Receiver, bounded};
use item::{Item, Link, Reading, Unread};
use parking_lot::Mutex;
use previous::Previous;
use reader::Reader;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Entries between the walk and the tree, about 300 bytes each.
const ENTRIES_AHEAD: usize = 8192;

/// What to back up, and where to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to read. One directory is the point's top itself; several sources lie in it by their base names.
    pub sources: Vec<PathBuf>,
    /// Instead: the nodes of a cluster and what they share, all of it or nothing.
    pub cluster: source::Cluster,
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
    require_names(options)?;
    let repository = catalog.repository();
    repository.require_readable_class()?;
    repository.require_capacity()?;
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
    let walk = walk(options)?;
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
    // What is stored by now need not be sent again by the next run.
    require_whole_cluster(&options.cluster, &counts.problems)?;
    let record = PointRecord {
        mode: assembled.top.mode,
        owner: (*assembled.top.owner).clone(),
        mtime: assembled.top.mtime,
        xattrs: assembled.top.xattrs,
        side: assembled.side,
        side_bytes: assembled.side_bytes,
        source: Source {
            host: host_name(),
            paths: paths(options),
        },
        ..PointRecord::new(b"", time, assembled.tree)
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

/// Names that the commit would refuse, before everything is read.
fn require_names(options: &Options) -> Result<()> {
    require_backup_name(&options.backup)?;
    let Some(name) = &options.point else {
        return Ok(());
    };
    require_point_name(name)?;
    if name.ends_with(PARTIAL) {
        let message = format!(
            "{:?} is the name of an open restore point, and a backup makes a complete one; leave out .partial",
            String::from_utf8_lossy(name)
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(())
}

fn walk(options: &Options) -> Result<source::Walk> {
    match options.cluster.is_empty() {
        true => source::Walk::new(&options.sources, options.walk.clone()),
        false => source::Walk::of_cluster(&options.cluster, options.walk.clone()),
    }
}

/// What is read, as it was named.
fn paths(options: &Options) -> Vec<Vec<u8>> {
    let sources = options.sources.iter();
    let sources = sources.map(|path| path.as_os_str().as_bytes().to_vec());
    sources.chain(options.cluster.described()).collect()
}

/// A cluster is complete as one: a node or a disk that could not be read at all leaves no point. What a node lacks
/// otherwise is in the report, as with every source.
fn require_whole_cluster(cluster: &source::Cluster, problems: &[Problem]) -> Result<()> {
    // Those have been read, if not as they should be.
    let whole = |problem: &Problem| matches!(problem.error.kind(), Kind::Busy | Kind::TooBig);
    let mut lost = problems.iter().filter(|problem| !whole(problem));
    let lost = lost.find_map(|problem| Some((cluster.name_of(&problem.path)?, problem)));
    let Some((name, problem)) = lost else {
        return Ok(());
    };
    let message = format!(
        "{name} could not be read, and a cluster is complete as one, so there is no new restore point: {}; run the backup \
         again when it can be read, only what is missing is stored then",
        problem.error
    );
    Err(Error::new(Kind::Failed, message))
}

/// Tells a first backup's totals, by a walk of its own that reads no content. What it cannot see only makes the
/// estimate less good.
fn estimate(options: &Options, progress: &Progress, finished: &AtomicBool) {
    let Ok(walk) = walk(options) else {
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
        let contents = Contents::new(writer.clone());
        let mut reader = Reader::new(previous, contents, &workers, items, &problems);
        let walked = reader.walk(walk, progress);
        let (notices, files_unchanged) = reader.finish();
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
            Item::Link(link) => {
                let Link {
                    name,
                    attributes,
                    inode,
                    key,
                    path,
                } = *link;
                let Some(node) = linked.get(&key) else {
                    let error = Error::new(
                        Kind::Failed,
                        "it is another name of a file that could not be read",
                    );
                    counts.problems.push(Problem { path, error });
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
