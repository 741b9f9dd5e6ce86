//! A restore point, one of its directories or one file, out to plain files: everything `rsync -aHAXS` preserves.
//!
//! One thread walks the tree and makes directories; others write files, in the order of the walk, so that the frames
//! they share are read once. A file is written under a temporary name and renamed when it is whole: what was there
//! before stays until then, and a file that cannot be read leaves nothing behind. A directory gets its attributes
//! when the last thread has written its last name into it. Every name of the target is relative to an open directory
//! and no symlink is followed, so a path may be of any length and nobody can lead the restore elsewhere.

mod attributes;
mod content;
mod directory;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::point::{Entry, Node, Trees, Visit, Walk};
use crate::progress::Progress;
use crate::source::OwnerNumbers;
use content::{Content, Part};
use crossbeam_channel::{Receiver, Sender};
use directory::{Directory, Levels};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// Problems and warnings that a report names; further ones are only counted.
const NAMED_MAX: usize = 1000;
/// Work that waits for a thread. Small: each piece may hold a directory open.
const QUEUE: usize = 64;

/// How to restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Owners by number even where this host knows the name.
    pub numeric: bool,
    /// How many threads write; 0 for one each core, at least four.
    pub threads: usize,
}

/// Something that could not be done, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Path below the target.
    pub path: String,
    /// What happened and what to do.
    pub sentence: String,
}

/// The first of them, and how many there are.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Problems {
    /// At most a thousand.
    pub named: Vec<Problem>,
    /// All of them.
    pub count: u64,
}

impl Problems {
    fn add(&mut self, path: &[u8], error: &Error) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(Problem {
                path: String::from_utf8_lossy(path).into_owned(),
                sentence: error.to_string(),
            });
        }
    }
}

/// What a restore did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Names restored, directories included.
    pub entries: u64,
    /// Bytes of the files restored, holes included.
    pub bytes: u64,
    /// What was left out.
    pub problems: Problems,
    /// What is there but not entirely as it was: owners and attributes that this user may not set.
    pub warnings: Problems,
}

/// What all threads of one restore share.
struct Shared<'a> {
    trees: &'a Arc<Trees>,
    progress: &'a Progress,
    owners: OwnerNumbers,
    report: Mutex<Report>,
    /// The failure that ended the restore: nothing more is written.
    fatal: Mutex<Option<Error>>,
}

impl Shared<'_> {
    fn problem(&self, path: &[u8], error: Error) {
        // A full disk or a store that is gone would fail every file after this one too.
        let ends_all = matches!(
            error.kind(),
            Kind::Full | Kind::Quota | Kind::Unreachable | Kind::Interrupted | Kind::WrongKey
        );
        if ends_all {
            let context = String::from_utf8_lossy(path);
            self.fatal.lock().get_or_insert(error.context(context));
        } else {
            self.report.lock().problems.add(path, &error);
        }
    }

    fn warning(&self, path: &[u8], error: &Error) {
        self.report.lock().warnings.add(path, error);
    }

    fn restored(&self, bytes: u64) {
        let mut report = self.report.lock();
        report.entries += 1;
        report.bytes = report.bytes.saturating_add(bytes);
        drop(report);
        self.progress.done(1, bytes);
    }

    fn go_on(&self) -> bool {
        self.fatal.lock().is_none()
    }
}

/// What has become of the first name of an inode with several.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Waiting,
    Whole,
    Lost,
}

/// The first name of an inode with several: the others are linked to it once it is whole.
struct Inode {
    path: Vec<u8>,
    first: Mutex<First>,
    changed: Condvar,
}

impl Inode {
    fn settle(&self, whole: bool) {
        *self.first.lock() = if whole { First::Whole } else { First::Lost };
        self.changed.notify_all();
    }

    fn is_whole(&self) -> bool {
        let mut first = self.first.lock();
        while *first == First::Waiting {
            self.changed.wait(&mut first);
        }
        *first == First::Whole
    }
}

/// A name to be made: where, and from what.
struct Place<'a> {
    directory: Arc<Directory<'a>>,
    name: CString,
    path: Vec<u8>,
    entry: Arc<Entry>,
    /// Where the inode has other names.
    inode: Option<Arc<Inode>>,
}

enum Job<'a> {
    /// A part of a file's content.
    Part(Part<'a>),
    /// A symlink, device, fifo or socket.
    Node(Place<'a>),
    /// A further name of an inode whose first name was queued before.
    Link(Place<'a>),
}

/// Restores `entry` (a point's top, a directory, or anything else) to the directory `target`, which is made if it is
/// missing and merged into if it is not: what has the same name is replaced. A directory's entries come to lie in
/// `target` itself, which gets the directory's attributes if it was made here (somebody's own directory, `/tmp` for one,
/// keeps its mode and owner); anything else comes to lie there under its own name.
///
/// What cannot be read or made is left out and told in the report; the rest is restored. Fails when nothing more can
/// be: the target is full or refuses, the store is gone, or `progress` was asked to stop.
pub fn restore(
    trees: &Arc<Trees>,
    entry: &Arc<Entry>,
    target: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Report> {
    let made = make(target, entry.tree().is_some())?;
    let shared = Shared {
        trees,
        progress,
        owners: OwnerNumbers::new(options.numeric, &Clock::system()),
        report: Mutex::default(),
        fatal: Mutex::default(),
    };
    let (entries, bytes) = entry.tree().map_or((1, entry.size()), |tree| {
        (tree.entries.saturating_add(u64::from(made)), tree.bytes)
    });
    progress.expect(entries, bytes);
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(4, |cores| cores.get().clamp(4, 16)),
        threads => threads,
    };
    let (sender, receiver) = crossbeam_channel::bounded(QUEUE);
    let result = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (receiver, shared) = (receiver.clone(), &shared);
            scope.spawn(move || work(shared, &receiver));
        }
        drop(receiver);
        Walker::new(&shared, sender, target).and_then(|mut walker| walker.restore(entry, made))
    });
    result?;
    match shared.fatal.into_inner() {
        Some(error) => Err(error),
        None => Ok(shared.report.into_inner()),
    }
}

/// Makes the target, and what is missing above it. False when it was there before. One that is to get a directory's
/// attributes is closed to others until then.
fn make(target: &Path, is_directory: bool) -> Result<bool> {
    let cannot = |error| Error::io(format_args!("making {}", target.display()), error);
    if let Some(above) = target.parent() {
        std::fs::create_dir_all(above).map_err(cannot)?;
    }
    let mode = if is_directory { 0o700 } else { 0o777 };
    match std::fs::DirBuilder::new().mode(mode).create(target) {
        Ok(()) => Ok(true),
        Err(_) if target.is_dir() => Ok(false),
        Err(error) => Err(cannot(error)),
    }
}

fn work<'a>(shared: &'a Shared<'a>, jobs: &Receiver<Job<'a>>) {
    for job in jobs {
        match job {
            Job::Part(part) => part.write(shared),
            Job::Node(place) if shared.go_on() => place.finish(shared, place.make_node(shared)),
            Job::Link(place) if shared.go_on() => place.link(shared),
            // Nobody may wait for ever for a first name that is given up.
            Job::Node(place) => place.settle(false),
            Job::Link(_) => {}
        }
    }
}

impl Place<'_> {
    fn make_node(&self, shared: &Shared) -> Result<()> {
        let temporary = directory::temporary_name();
        let made = self
            .directory
            .make_node(&temporary, &self.entry.node)
            .and_then(|()| {
                attributes::of_name(shared, self, &temporary)?;
                self.directory.rename(&temporary, &self.name)
            });
        if made.is_err() {
            self.directory.unlink(&temporary);
        }
        made
    }

    fn link(&self, shared: &Shared) {
        let Some(inode) = &self.inode else { return };
        let result = if inode.is_whole() {
            self.directory.link(&inode.path, &self.name)
        } else {
            let message = format!(
                "it is another name of {}, which could not be restored",
                String::from_utf8_lossy(&inode.path)
            );
            Err(Error::new(Kind::Damaged, message))
        };
        match result {
            Ok(()) => shared.restored(0),
            Err(error) => shared.problem(&self.path, error),
        }
    }

    /// Tells what became of this name.
    fn finish(&self, shared: &Shared, result: Result<()>) {
        self.settle(result.is_ok());
        match result {
            Ok(()) => shared.restored(self.entry.file().map_or(0, |file| file.size)),
            Err(error) => shared.problem(&self.path, error),
        }
    }

    fn settle(&self, whole: bool) {
        if let Some(inode) = &self.inode {
            inode.settle(whole);
        }
    }
}

/// Goes through the tree, makes directories and hands everything else to the threads.
struct Walker<'a> {
    shared: &'a Shared<'a>,
    jobs: Sender<Job<'a>>,
    levels: Levels<'a>,
    /// Inodes with names still to come: by group, with how many.
    inodes: HashMap<u64, (Arc<Inode>, u32)>,
}

impl<'a> Walker<'a> {
    fn new(shared: &'a Shared<'a>, jobs: Sender<Job<'a>>, target: &Path) -> Result<Self> {
        Ok(Self {
            shared,
            jobs,
            levels: Levels::new(shared, target)?,
            inodes: HashMap::new(),
        })
    }

    fn restore(&mut self, top: &Arc<Entry>, made: bool) -> Result<()> {
        let Some(tree) = top.tree() else {
            return self.place(top.name.clone(), top.clone());
        };
        if made {
            self.levels.set_top(top.clone());
        }
        let mut walk = Walk::new(self.shared.trees.clone(), tree);
        while let Some(visit) = walk.next() {
            self.shared.progress.go_on()?;
            if !self.shared.go_on() {
                return Ok(());
            }
            match visit {
                Err(error) => self.shared.problem(&self.levels.path(), error),
                Ok(Visit::Leave { .. }) => self.levels.leave()?,
                Ok(Visit::Entry { entry, .. }) if entry.tree().is_some() => {
                    if let Err(error) = self.levels.enter(entry.clone()) {
                        let path = self.levels.path_of(&entry.name);
                        self.shared.problem(&path, error);
                        walk.skip_below();
                    }
                }
                Ok(Visit::Entry { path, entry }) => self.place(path, entry)?,
            }
        }
        Ok(())
    }

    /// Hands over anything but a directory.
    fn place(&mut self, path: Vec<u8>, entry: Arc<Entry>) -> Result<()> {
        let (inode, first) = self.inode_of(&path, &entry);
        let Ok(name) = CString::new(entry.name.clone()) else {
            let message = "its name holds a zero byte, which no file system accepts";
            self.shared
                .problem(&path, Error::new(Kind::Damaged, message));
            return Ok(());
        };
        let place = Place {
            directory: self.levels.current()?,
            name,
            path,
            entry,
            inode,
        };
        match &place.entry.node {
            _ if !first => self.hand_over(Job::Link(place)),
            Node::File(_) => Content::parts(place, self.shared, &mut |part| {
                self.hand_over(Job::Part(part));
            }),
            _ => self.hand_over(Job::Node(place)),
        }
        Ok(())
    }

    fn hand_over(&self, job: Job<'a>) {
        self.jobs
            .send(job)
            .expect("the threads receive until the walker is gone");
    }

    /// The inode of an entry with several names, and whether this is the first of them.
    fn inode_of(&mut self, path: &[u8], entry: &Entry) -> (Option<Arc<Inode>>, bool) {
        let group = entry.attributes.link_group;
        if group == 0 {
            return (None, true);
        }
        if let Some((inode, left)) = self.inodes.get_mut(&group) {
            let inode = inode.clone();
            *left -= 1;
            if *left == 0 {
                self.inodes.remove(&group);
            }
            return (Some(inode), false);
        }
        let inode = Arc::new(Inode {
            path: path.to_vec(),
            first: Mutex::new(First::Waiting),
            changed: Condvar::new(),
        });
        // A tree may hold more or fewer names than the source's inode had; more make a second inode.
        let left = entry.attributes.links.saturating_sub(1);
        if left > 0 {
            self.inodes.insert(group, (inode.clone(), left));
        }
        (Some(inode), true)
    }
}
