//! The walk: every entry of the sources, depth first, in byte order of the names of each directory.

use super::cluster::Cluster;
use super::directory::{Directory, FileRef, Listed};
use super::exclude::{Asked, CACHE_SIGNATURE, CACHE_TAG, Rules};
use super::metadata::{self, Metadata, Reader};
use super::roots::{Group, Root, Roots, is_keepfs};
use crate::clock::Time;
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Once};

/// Directories on the way down that stay open, besides the topmost; those between are opened again when the walk comes
/// back: from below, or by their names from above.
const OPEN_LEVELS: usize = 64;

/// What a walk takes and what it leaves out.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Patterns of what to leave out.
    pub rules: Rules,
    /// Leave out the contents of directories that a `CACHEDIR.TAG` with the right signature marks as caches. The tag
    /// and the directory stay.
    pub exclude_caches: bool,
    /// Leave out the contents of directories that hold one of these names. That entry and the directory stay.
    pub exclude_if_present: Vec<OsString>,
    /// Do not go into other file systems; their mount points stay as empty directories.
    pub one_file_system: bool,
}

/// One step of a walk.
#[derive(Debug)]
pub enum Event {
    /// A directory; its entries follow, then its [`Event::Leave`]. The first event of all is the top, without a name.
    Enter(Entry),
    /// Anything but a directory.
    Entry(Entry),
    /// The end of the directory that was entered last and not left yet.
    Leave,
    /// Something could not be read and is missing, wholly or in part; the walk goes on.
    Problem(Problem),
    /// Something was left out on purpose that a person would want to know about: one sentence.
    Notice(String),
}

/// What could not be read.
#[derive(Debug)]
pub struct Problem {
    /// Its absolute path.
    pub path: PathBuf,
    /// Why; [`Kind::NotFound`](crate::error::Kind::NotFound) when it vanished after it was listed.
    pub error: Error,
}

/// An entry of a directory.
#[derive(Debug)]
pub struct Entry {
    /// Its name as bytes, as it shall be in the backup; empty for the top.
    pub name: Vec<u8>,
    /// What it is. A disk that is read as a file is one, whatever it is on this host.
    pub metadata: Metadata,
    /// Whether it is a disk that was named as one: it is written at random.
    pub is_disk: bool,
    /// Reads its attributes and content, later and from any thread.
    pub file: FileRef,
}

/// A walk through sources; an iterator of [`Event`]s. Holds one directory's names per level in memory, and a bounded
/// number of descriptors however deep the tree is (each [`FileRef`] adds its directory while it lives).
///
/// With one source that is a directory, its contents are the top's. With several, or a source that is no directory,
/// the top is made up (mode 0755, owned by whoever runs this, the newest mtime of the sources) and holds each by its
/// base name.
#[derive(Debug)]
pub struct Walk {
    options: Options,
    reader: Reader,
    levels: Vec<Level>,
    /// The current path from the top, without a leading slash.
    path: Vec<u8>,
    /// How the path becomes absolute: these bytes, then the path without its first `top_len` bytes.
    prefix: Vec<u8>,
    top_len: usize,
    /// The file system of the source being walked.
    source_device: u64,
    /// Events that are known already, in order.
    pending: VecDeque<Event>,
}

/// A directory entered and not yet left.
#[derive(Debug)]
struct Level {
    /// `None` while it is closed, and for a made-up top.
    directory: Option<Arc<Directory>>,
    device: u64,
    inode: u64,
    /// Length of its path from the top.
    path_len: usize,
    rest: Rest,
}

/// What is still to be visited, the next at the end.
#[derive(Debug)]
enum Rest {
    Listed(Vec<Listed>),
    Roots(Vec<Root>),
    Groups(Vec<Group>),
}

impl Walk {
    /// Starts a walk through `sources`. Fails when one cannot be opened, and with [`Kind::Invalid`](crate::error::Kind::Invalid) when two have
    /// the same base name. Raises the process's limit of open files as far as it may.
    pub fn new(sources: &[PathBuf], options: Options) -> Result<Self> {
        let mut walk = Self::empty(options);
        match Roots::open(sources)? {
            Roots::One(directory) => walk.start_in(directory)?,
            Roots::Several(roots) => {
                let newest = newest(&roots)?;
                walk.make_up(vec![], newest, Rest::Roots(reversed(roots)));
            }
        }
        Ok(walk)
    }

    /// Starts a walk through a cluster: `nodes/` holds the source of each node, `shared/` what all of them share. Fails
    /// when one of them cannot be opened.
    pub fn of_cluster(cluster: &Cluster, options: Options) -> Result<Self> {
        let mut walk = Self::empty(options);
        let groups = cluster.open()?;
        let times = groups.iter().map(|group| newest(&group.roots));
        let times = times.collect::<Result<Vec<_>>>()?;
        let newest = times.into_iter().max().unwrap_or_default();
        walk.make_up(vec![], newest, Rest::Groups(reversed(groups)));
        Ok(walk)
    }

    fn empty(options: Options) -> Self {
        raise_open_files();
        Self {
            options,
            reader: Reader::default(),
            levels: vec![],
            path: vec![],
            prefix: vec![],
            top_len: 0,
            source_device: 0,
            pending: VecDeque::new(),
        }
    }

    /// The path from the top of what the last [`Event`] was about, as bytes without a leading slash; after
    /// [`Event::Leave`] the directory the walk is back in.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    fn start_in(&mut self, directory: Directory) -> Result<()> {
        let stat = metadata::of_descriptor(directory.as_fd()).map_err(|error| {
            let path = directory.path().display();
            Error::io(format!("cannot examine the source {path}"), error)
        })?;
        self.source_device = stat.st_dev;
        self.prefix = directory.path().as_os_str().as_bytes().to_owned();
        self.enter(vec![], directory, &stat);
        Ok(())
    }

    /// Enters a directory that exists nowhere but in the walk.
    fn make_up(&mut self, name: Vec<u8>, newest: Time, rest: Rest) {
        self.levels.push(Level {
            directory: None,
            device: 0,
            inode: 0,
            path_len: self.path.len(),
            rest,
        });
        self.pending.push_back(Event::Enter(Entry {
            name,
            metadata: self.reader.made_up_directory(newest),
            is_disk: false,
            file: FileRef::nowhere(),
        }));
    }

    /// Visits the next entry, or leaves a directory whose entries are all visited. False at the end of the walk.
    fn step(&mut self) -> bool {
        let Some(level) = self.levels.last_mut() else {
            return false;
        };
        self.path.truncate(level.path_len);
        match &mut level.rest {
            Rest::Listed(names) => match (names.pop(), &level.directory) {
                (Some(listed), Some(directory)) => {
                    let directory = Arc::clone(directory);
                    self.visit(&directory, listed);
                }
                _ => self.leave(),
            },
            Rest::Roots(roots) => match roots.pop() {
                Some(root) => self.visit_root(root),
                None => self.leave(),
            },
            Rest::Groups(groups) => match groups.pop() {
                Some(group) => self.visit_group(group),
                None => self.leave(),
            },
        }
        true
    }

    fn visit_group(&mut self, group: Group) {
        // A source that has gone since it was opened is told when it is visited.
        let newest = newest(&group.roots).unwrap_or_default();
        self.path = group.name.to_vec();
        self.make_up(
            group.name.to_vec(),
            newest,
            Rest::Roots(reversed(group.roots)),
        );
    }

    fn visit_root(&mut self, root: Root) {
        self.prefix = root.path.as_os_str().as_bytes().to_owned();
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&root.base_name);
        self.top_len = self.path.len();
        match metadata::of_name(root.parent.as_fd(), &root.name) {
            Ok(stat) if self.is_excluded(metadata::is_directory(&stat)) => {}
            Ok(stat) => {
                self.source_device = stat.st_dev;
                if root.is_disk && !metadata::is_directory(&stat) {
                    return self.take_disk(root, &stat);
                }
                self.take(&root.parent, root.name, root.base_name, &stat, stat.st_dev);
            }
            Err(error) => self.problem("cannot examine", error),
        }
    }

    fn visit(&mut self, parent: &Arc<Directory>, listed: Listed) {
        let name = listed.name.to_bytes().to_owned();
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        // Before any call on the entry: a dead network mount that is left out must not stop the walk.
        if listed
            .is_directory
            .is_some_and(|is_directory| self.is_excluded(is_directory))
        {
            return;
        }
        let stat = match metadata::of_name(parent.as_fd(), &listed.name) {
            Ok(stat) => stat,
            Err(error) => return self.problem("cannot examine", error),
        };
        if listed.is_directory.is_none() && self.is_excluded(metadata::is_directory(&stat)) {
            return;
        }
        let around = self.levels.last().map_or(stat.st_dev, |level| level.device);
        self.take(parent, listed.name, name, &stat, around);
    }

    /// Reports an entry and goes down into a directory. `around` is the file system of the directory that holds it.
    fn take(
        &mut self,
        parent: &Arc<Directory>,
        file_name: CString,
        name: Vec<u8>,
        stat: &libc::stat,
        around: u64,
    ) {
        if metadata::is_directory(stat) {
            return self.take_directory(parent, file_name, name, stat, around);
        }
        match self.reader.metadata(parent.as_fd(), &file_name, stat) {
            Ok(metadata) => self.pending.push_back(Event::Entry(Entry {
                name,
                metadata,
                is_disk: false,
                file: FileRef::new(Arc::clone(parent), file_name, stat),
            })),
            Err(error) => self.problem("cannot read the entry", error),
        }
    }

    /// Reports a disk as the file that it is in the backup.
    fn take_disk(&mut self, root: Root, stat: &libc::stat) {
        let file = FileRef::of_disk(Arc::clone(&root.parent), root.name.clone(), stat);
        let metadata = self
            .reader
            .metadata(root.parent.as_fd(), &root.name, stat)
            .and_then(|metadata| file.metadata_as_file(metadata));
        match metadata {
            Ok(metadata) => self.pending.push_back(Event::Entry(Entry {
                name: root.base_name,
                metadata,
                is_disk: true,
                file,
            })),
            Err(error) => self.problem("cannot read the disk", error),
        }
    }

    fn take_directory(
        &mut self,
        parent: &Arc<Directory>,
        file_name: CString,
        name: Vec<u8>,
        stat: &libc::stat,
        around: u64,
    ) {
        let file = FileRef::new(Arc::clone(parent), file_name.clone(), stat);
        if self.options.one_file_system && stat.st_dev != self.source_device {
            return self.enter_empty(name, file, stat);
        }
        let opened = parent
            .open_child(&file_name, self.absolute())
            .and_then(|directory| {
                // What was opened is what is told, should it be another one than what was listed.
                let stat = metadata::of_descriptor(directory.as_fd())?;
                Ok((directory, stat))
            });
        match opened {
            Ok((directory, stat))
                if stat.st_dev != around && is_keepfs(&directory, stat.st_dev) =>
            {
                let notice = format!(
                    "{} is a mount of keepfs; its contents are left out",
                    self.absolute().display()
                );
                self.pending.push_back(Event::Notice(notice));
                self.enter_empty(name, file, &stat);
            }
            Ok((_, stat)) if self.options.one_file_system && stat.st_dev != self.source_device => {
                self.enter_empty(name, file, &stat);
            }
            Ok((directory, stat)) => self.enter(name, directory, &stat),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.problem("cannot open the directory", error);
            }
            Err(error) => {
                self.problem("cannot open the directory", error);
                self.enter_empty(name, file, stat);
            }
        }
    }

    /// A directory that is told without its contents.
    fn enter_empty(&mut self, name: Vec<u8>, file: FileRef, stat: &libc::stat) {
        let metadata = self.reader.directory(stat);
        self.pending.push_back(Event::Enter(Entry {
            name,
            metadata,
            is_disk: false,
            file,
        }));
        self.pending.push_back(Event::Leave);
    }

    fn enter(&mut self, name: Vec<u8>, directory: Directory, stat: &libc::stat) {
        let mut names = directory.list().unwrap_or_else(|error| {
            self.problem("cannot list the directory", error);
            vec![]
        });
        self.keep_marks_only(&directory, &mut names);
        names.reverse();
        let directory = Arc::new(directory);
        self.pending.push_back(Event::Enter(Entry {
            name,
            metadata: self.reader.directory(stat),
            is_disk: false,
            file: FileRef::new(Arc::clone(&directory), c".".to_owned(), stat),
        }));
        self.levels.push(Level {
            directory: Some(directory),
            device: stat.st_dev,
            inode: stat.st_ino,
            path_len: self.path.len(),
            rest: Rest::Listed(names),
        });
        self.close_far_above(self.levels.len() - 1);
    }

    /// Closes the directory that is too far above the level `at`. The topmost stays open: names lead from there to all
    /// others, and nothing leads to it.
    fn close_far_above(&mut self, at: usize) {
        let is_made_up = |level: &&Level| !matches!(level.rest, Rest::Listed(_));
        let topmost = self.levels.iter().take_while(is_made_up).count();
        if let Some(far) = at.checked_sub(OPEN_LEVELS)
            && far > topmost
        {
            self.levels[far].directory = None;
        }
    }

    /// Reduces the names of a directory that is marked as left out to the marks themselves.
    fn keep_marks_only(&self, directory: &Directory, names: &mut Vec<Listed>) {
        let is_cache = self.options.exclude_caches && is_cache(directory, names);
        let is_mark = |listed: &Listed| {
            let name = listed.name.to_bytes();
            let given = &self.options.exclude_if_present;
            (is_cache && name == CACHE_TAG) || given.iter().any(|mark| mark.as_bytes() == name)
        };
        if names.iter().any(is_mark) {
            names.retain(is_mark);
        }
    }

    fn leave(&mut self) {
        let left = self.levels.pop();
        self.pending.push_back(Event::Leave);
        let Some(level) = self.levels.last() else {
            return;
        };
        self.path.truncate(level.path_len);
        if level.directory.is_none()
            && let Rest::Listed(names) = &level.rest
        {
            let is_done = names.is_empty();
            self.reopen(left.and_then(|left| left.directory), is_done);
        }
    }

    /// Opens the innermost directory again: from one `below` it, or by names when that one is somewhere else now. When
    /// it is not found either way, what is left of it is given up with a problem. One that is done with is only a way
    /// to those above it, for which there are names too.
    fn reopen(&mut self, below: Option<Arc<Directory>>, is_done: bool) {
        let last = self.levels.len() - 1;
        let from_below = below.and_then(|below| self.open_level(&below, c"..", last).ok());
        if from_below.is_some() || is_done {
            self.levels[last].directory = from_below;
        } else if let Err(error) = self.reopen_by_names() {
            self.levels[last].rest = Rest::Listed(vec![]);
            self.problem("cannot go on reading the directory", error);
        }
    }

    /// Opens all closed directories between the nearest open one and the innermost.
    fn reopen_by_names(&mut self) -> io::Result<()> {
        let open = |level: &Level| level.directory.is_some();
        let nearest = self.levels.iter().rposition(open);
        let first = nearest.map_or(self.levels.len(), |nearest| nearest + 1);
        for at in first..self.levels.len() {
            let name = self.name_of_level(at);
            if let Some(above) = self.levels[at - 1].directory.clone() {
                self.levels[at].directory = Some(self.open_level(&above, &name, at)?);
            }
            self.close_far_above(at);
        }
        Ok(())
    }

    /// The name by which the directory of the level `at` was found in the one above it. Not for a root: it stays open.
    fn name_of_level(&self, at: usize) -> CString {
        let name = &self.path[self.levels[at - 1].path_len..self.levels[at].path_len];
        let name = name.strip_prefix(b"/").unwrap_or(name);
        CString::new(name).expect("it came from a listing, where no name has a NUL")
    }

    /// The directory `name` in `here`, if it is the one that was entered as the level `at`.
    fn open_level(&self, here: &Directory, name: &CStr, at: usize) -> io::Result<Arc<Directory>> {
        let level = &self.levels[at];
        let path = self.absolute_of(&self.path[..level.path_len]);
        let directory = here.open_child(name, OsString::from_vec(path).into())?;
        let stat = metadata::of_descriptor(directory.as_fd())?;
        if (stat.st_dev, stat.st_ino) == (level.device, level.inode) {
            Ok(Arc::new(directory))
        } else {
            // Whatever is there now, the one that was entered is not.
            Err(io::Error::from_raw_os_error(libc::ENOENT))
        }
    }

    fn problem(&mut self, what: &str, error: io::Error) {
        let path = self.absolute();
        let error = Error::io(format!("{what} {}", path.display()), error);
        self.pending
            .push_back(Event::Problem(Problem { path, error }));
    }

    fn is_excluded(&self, is_directory: bool) -> bool {
        !self.options.rules.is_empty()
            && self.options.rules.exclude(&Asked {
                relative: &self.path,
                absolute: &self.absolute_of(&self.path),
                is_directory,
            })
    }

    fn absolute(&self) -> PathBuf {
        OsString::from_vec(self.absolute_of(&self.path)).into()
    }

    /// The absolute form of a path from the top.
    fn absolute_of(&self, path: &[u8]) -> Vec<u8> {
        let below = path.get(self.top_len..).unwrap_or_default();
        let mut path = self.prefix.clone();
        if !below.is_empty() && !below.starts_with(b"/") && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(below);
        path
    }
}

impl Iterator for Walk {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if !self.step() {
                return None;
            }
        }
    }
}

/// The newest modification time of these sources.
fn newest(roots: &[Root]) -> Result<Time> {
    let mut newest = Time::new(i64::MIN, 0);
    for root in roots {
        let stat = metadata::of_name(root.parent.as_fd(), &root.name).map_err(|error| {
            let path = root.path.display();
            Error::io(format!("cannot examine the source {path}"), error)
        })?;
        newest = newest.max(Time::new(stat.st_mtime, stat.st_mtime_nsec as u32));
    }
    Ok(newest)
}

/// The next one to visit is the last.
fn reversed<T>(mut some: Vec<T>) -> Vec<T> {
    some.reverse();
    some
}

/// Whether the directory holds a cache tag with the right signature.
fn is_cache(directory: &Directory, names: &[Listed]) -> bool {
    let is_named = names
        .binary_search_by(|listed| listed.name.to_bytes().cmp(CACHE_TAG))
        .is_ok();
    is_named
        && directory.open_file(c"CACHEDIR.TAG").is_ok_and(|file| {
            let mut head = [0; CACHE_SIGNATURE.len()];
            file.read_exact_at(&mut head, 0).is_ok() && &head == CACHE_SIGNATURE
        })
}

/// Raises the soft limit of open files to the hard one, once. Failing is harmless: the walk needs few.
fn raise_open_files() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `limit` is a valid place to read into and to set from.
        unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0
                && limit.rlim_cur < limit.rlim_max
            {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            }
        }
    });
}

#[cfg(test)]
mod tests;
