//! A directory of a file system that gets calls, each answered with all that its caller can see: two file systems that
//! get the same calls must give the same answers.

use crate::calls::{Call, HANDLES, Stamp, Step};
use keepfs::clock::Clock;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A time that only an explicit call can have set.
const LONG_AGO: (i64, i64) = (1_000_000_000, 123_456_789);
/// Names with values, or with letters for their types.
type Values<V> = Vec<(Vec<u8>, V)>;

/// What a caller sees of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub mode: u32,
    pub owner: (u32, u32),
    pub links: u64,
    /// None for directories, whose size means something else on every file system.
    pub size: Option<u64>,
    pub device: u64,
    /// None when it is the time of a call, which is never the same.
    pub mtime: Option<Stamp>,
}

/// What a call answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Number(i64),
    Bytes(Vec<u8>),
    Facts(Facts),
    /// Times of access and of change, each none when it is the time of a call.
    Times(Option<Stamp>, Option<Stamp>),
    Names(Values<u8>),
    Values(Values<Vec<u8>>),
}

/// Whether the times of change of content and of anything moved with a call; none for what is not there.
type Moved = Option<(bool, bool)>;

/// What a step shows: the answer of its call, or the errno, and what became of the times of entry and directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub answer: Result<Answer, i32>,
    pub moved: Option<[Moved; 2]>,
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

fn done(answer: impl Into<i64>) -> Result<i64, i32> {
    match answer.into() {
        -1 => Err(errno(&io::Error::last_os_error())),
        answer => Ok(answer),
    }
}

fn whole(result: io::Result<()>) -> Result<Answer, i32> {
    result.map(|()| Answer::Done).map_err(|error| errno(&error))
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no name holds a NUL")
}

/// None for the time of a call: within the life of this test and not set by it.
fn unless_now(seconds: i64, nanoseconds: i64) -> Option<Stamp> {
    let age = Clock::system().now().seconds - seconds;
    (!(-3600..86_400).contains(&age)).then_some((seconds, nanoseconds))
}

fn facts(metadata: &std::fs::Metadata) -> Facts {
    Facts {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        links: metadata.nlink(),
        size: (!metadata.is_dir()).then(|| metadata.size()),
        device: metadata.rdev(),
        mtime: unless_now(metadata.mtime(), metadata.mtime_nsec()),
    }
}

/// A directory of a file system, with the files that are open in it.
#[derive(Debug)]
pub struct Side {
    top: PathBuf,
    handles: [Option<File>; HANDLES],
    /// The times that were looked at last, before a call and after it.
    pub told: String,
}

impl Side {
    pub fn new(top: &Path) -> Self {
        Self {
            top: top.to_owned(),
            handles: Default::default(),
            told: String::new(),
        }
    }

    fn at(&self, name: &[u8]) -> PathBuf {
        self.top.join(OsStr::from_bytes(name))
    }

    fn file(&self, handle: usize) -> Result<&File, i32> {
        self.handles[handle].as_ref().ok_or(libc::EBADF)
    }

    pub fn close_all(&mut self) {
        self.handles = Default::default();
    }

    /// Makes a step.
    pub fn make(&mut self, step: &Step) -> Shown {
        let watched = step.timed.then(|| self.watch(&step.call)).flatten();
        // SAFETY: both set numbers of the calling thread.
        unsafe { (libc::setfsgid(step.user), libc::setfsuid(step.user)) };
        let answer = self.call(&step.call);
        // SAFETY: as above; root again.
        unsafe { (libc::setfsuid(0), libc::setfsgid(0)) };
        if let Some(watched) = &watched {
            let told = watched.each_ref().map(|(path, before)| {
                format!("{}: {before:?}, then {}", path.display(), facts_of(path))
            });
            self.told = told.join("; ");
        }
        Shown {
            answer,
            moved: watched.map(|watched| watched.map(|(path, ctime)| moved(&path, ctime))),
        }
    }

    /// Gives the entry that a call names and its directory an old time; none when it names none.
    fn watch(&self, call: &Call) -> Option<[(PathBuf, Stamp); 2]> {
        let name = match call {
            Call::MakeDirectory(name, _)
            | Call::MakeNode(name, ..)
            | Call::Symlink(name, _)
            | Call::Open(_, name, ..)
            | Call::Unlink(name)
            | Call::RemoveDirectory(name)
            | Call::Link(_, name)
            | Call::Rename(_, name, _)
            | Call::Mode(name, _)
            | Call::Owner(name, ..)
            | Call::SetXattr(name, ..)
            | Call::RemoveXattr(name, _)
            | Call::List(name)
            | Call::Stat(name) => name,
            _ => return None,
        };
        let path = self.at(name);
        let parent = path.parent()?.to_owned();
        let paths = [path, parent];
        for path in &paths {
            // What is not there has no time. Through a symbolic link both may be the same.
            let _ = set_times(path, LONG_AGO, LONG_AGO);
        }
        Some(paths.map(|path| {
            let ctime = path.symlink_metadata();
            let ctime = ctime.map_or((0, 0), |facts| (facts.ctime(), facts.ctime_nsec()));
            (path, ctime)
        }))
    }

    fn call(&mut self, call: &Call) -> Result<Answer, i32> {
        match call {
            Call::MakeDirectory(name, mode) => {
                let path = c_path(&self.at(name));
                // SAFETY: the path ends in a NUL and lives through the call.
                done(unsafe { libc::mkdir(path.as_ptr(), *mode) })?;
                Ok(Answer::Done)
            }
            Call::MakeNode(name, mode, device) => {
                let path = c_path(&self.at(name));
                // SAFETY: the path ends in a NUL and lives through the call.
                done(unsafe { libc::mknod(path.as_ptr(), *mode, *device) })?;
                Ok(Answer::Done)
            }
            Call::Symlink(name, target) => {
                let target = OsStr::from_bytes(target);
                whole(std::os::unix::fs::symlink(target, self.at(name)))
            }
            Call::Open(handle, name, flags, mode) => self.open(*handle, name, *flags, *mode),
            Call::Close(handle) => {
                self.handles[*handle].take().ok_or(libc::EBADF)?;
                Ok(Answer::Done)
            }
            Call::Unlink(name) => whole(std::fs::remove_file(self.at(name))),
            Call::RemoveDirectory(name) => whole(std::fs::remove_dir(self.at(name))),
            Call::Link(from, to) => whole(std::fs::hard_link(self.at(from), self.at(to))),
            Call::Rename(from, to, flags) => {
                let (from, to) = (c_path(&self.at(from)), c_path(&self.at(to)));
                let here = libc::AT_FDCWD;
                // SAFETY: both paths end in a NUL and live through the call.
                done(unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), *flags) })?;
                Ok(Answer::Done)
            }
            Call::Mode(name, mode) => {
                let path = c_path(&self.at(name));
                // SAFETY: the path ends in a NUL and lives through the call.
                done(unsafe { libc::chmod(path.as_ptr(), *mode) })?;
                Ok(Answer::Done)
            }
            Call::Owner(name, uid, gid) => {
                whole(std::os::unix::fs::lchown(self.at(name), *uid, *gid))
            }
            Call::Times(name, atime, mtime) => {
                let path = self.at(name);
                set_times(&path, *atime, *mtime)?;
                let facts = path.symlink_metadata().map_err(|error| errno(&error))?;
                // Following a symbolic link on the way may have changed it, where reading does that.
                let unknown = atime.1 == libc::UTIME_OMIT || facts.is_symlink();
                let atime = unless_now(facts.atime(), facts.atime_nsec());
                Ok(Answer::Times(
                    atime.filter(|_| !unknown),
                    unless_now(facts.mtime(), facts.mtime_nsec()),
                ))
            }
            Call::Truncate(name, size) => {
                let path = self.at(name);
                // To the size that it has: then the time stays on most file systems, but FUSE cannot tell that from O_TRUNC,
                // where it does not.
                if path
                    .metadata()
                    .is_ok_and(|found| found.is_file() && found.len() == *size)
                {
                    return Err(0);
                }
                let path = c_path(&path);
                // SAFETY: the path ends in a NUL and lives through the call.
                done(unsafe { libc::truncate(path.as_ptr(), *size as i64) })?;
                Ok(Answer::Done)
            }
            Call::SetXattr(name, key, value, flags) => self.set_xattr(name, key, value, *flags),
            Call::RemoveXattr(name, key) => whole(xattr::remove(self.at(name), key)),
            Call::Xattrs(name) => xattrs(&self.at(name)).map(Answer::Values),
            Call::Stat(name) => {
                let found = self.at(name).symlink_metadata();
                found
                    .map(|found| Answer::Facts(facts(&found)))
                    .map_err(|error| errno(&error))
            }
            Call::ReadLink(name) => {
                let target = std::fs::read_link(self.at(name)).map_err(|error| errno(&error))?;
                Ok(Answer::Bytes(target.into_os_string().into_encoded_bytes()))
            }
            Call::List(name) => list(&self.at(name)).map(Answer::Names),
            Call::Access(name, mode) => {
                let path = c_path(&self.at(name));
                // SAFETY: the path ends in a NUL and lives through the call.
                done(unsafe {
                    libc::faccessat(libc::AT_FDCWD, path.as_ptr(), *mode, libc::AT_EACCESS)
                })?;
                Ok(Answer::Done)
            }
            call => self.call_on_handle(call),
        }
    }

    fn call_on_handle(&self, call: &Call) -> Result<Answer, i32> {
        let count = |result: io::Result<usize>| {
            let count = result.map_err(|error| errno(&error))?;
            Ok(Answer::Number(count as i64))
        };
        match call {
            Call::Read(handle, offset, length) => {
                let mut bytes = vec![0; *length];
                let read = self.file(*handle)?.read_at(&mut bytes, *offset);
                bytes.truncate(read.map_err(|error| errno(&error))?);
                Ok(Answer::Bytes(bytes))
            }
            Call::Write(handle, offset, bytes) => {
                count(self.file(*handle)?.write_at(bytes, *offset))
            }
            Call::Append(handle, bytes) => {
                use std::io::{Seek, SeekFrom, Write};
                let mut file = self.file(*handle)?;
                // Where a directory ends is told by no two file systems alike.
                if file.metadata().is_ok_and(|found| found.is_dir()) {
                    return Err(libc::EISDIR);
                }
                file.seek(SeekFrom::End(0)).map_err(|error| errno(&error))?;
                count(file.write(bytes))
            }
            Call::Map(handle, offset, bytes) => map(self.file(*handle)?, *offset, bytes),
            Call::Resize(handle, size) => {
                let file = self.file(*handle)?;
                // SAFETY: ftruncate changes an open file and touches no memory.
                done(unsafe { libc::ftruncate(file.as_raw_fd(), *size as i64) })?;
                Ok(Answer::Done)
            }
            Call::Allocate(handle, offset, length, mode) => {
                allocate(self.file(*handle)?, *offset as i64, *length as i64, *mode)
            }
            Call::HandleMode(handle, mode) => {
                let file = self.file(*handle)?;
                // SAFETY: fchmod changes an open file and touches no memory.
                done(unsafe { libc::fchmod(file.as_raw_fd(), *mode) })?;
                Ok(Answer::Done)
            }
            Call::HandleStat(handle) => {
                let found = self.file(*handle)?.metadata();
                found
                    .map(|found| Answer::Facts(facts(&found)))
                    .map_err(|error| errno(&error))
            }
            Call::Copy(source, offset, target, begin, length) => {
                let (source, target) = (self.file(*source)?, self.file(*target)?);
                let (mut offset, mut begin) = (*offset as i64, *begin as i64);
                // SAFETY: both offsets live through the call.
                let copied = done(unsafe {
                    libc::copy_file_range(
                        source.as_raw_fd(),
                        &mut offset,
                        target.as_raw_fd(),
                        &mut begin,
                        *length,
                        0,
                    )
                } as i64)?;
                Ok(Answer::Number(copied))
            }
            Call::Sync(handle) => whole(self.file(*handle)?.sync_all()),
            Call::Seek(handle, offset, data) => seek(self.file(*handle)?, *offset, *data),
            Call::Lock(handle, how) => {
                let file = self.file(*handle)?;
                // SAFETY: flock takes two numbers.
                done(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) })?;
                Ok(Answer::Done)
            }
            Call::LockRange(handle, kind, begin, length) => {
                let lock = libc::flock {
                    l_type: *kind as libc::c_short,
                    l_whence: libc::SEEK_SET as libc::c_short,
                    l_start: *begin as i64,
                    l_len: *length as i64,
                    l_pid: 0,
                };
                let file = self.file(*handle)?;
                // SAFETY: the lock lives through the call.
                done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) })?;
                Ok(Answer::Done)
            }
            other => unreachable!("{other:?} names no open file"),
        }
    }

    fn open(&mut self, handle: usize, name: &[u8], flags: i32, mode: u32) -> Result<Answer, i32> {
        let path = self.at(name);
        // Devices, fifos and sockets belong to the kernel; opening some would wait.
        if let Ok(found) = path.metadata()
            && !found.is_file()
            && !found.is_dir()
        {
            return Err(libc::ENXIO);
        }
        let path = c_path(&path);
        let flags = flags | libc::O_CLOEXEC;
        // SAFETY: the path ends in a NUL and lives through the call.
        let opened = done(unsafe { libc::open(path.as_ptr(), flags, mode) })?;
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(opened as i32) };
        self.handles[handle] = Some(file);
        Ok(Answer::Done)
    }

    fn set_xattr(&self, name: &[u8], key: &str, value: &[u8], flags: i32) -> Result<Answer, i32> {
        let (path, key) = (
            c_path(&self.at(name)),
            CString::new(key).expect("has no NUL"),
        );
        let (bytes, length) = (value.as_ptr().cast(), value.len());
        // SAFETY: path and name end in a NUL, the value has this length, and all live through the call.
        done(unsafe { libc::lsetxattr(path.as_ptr(), key.as_ptr(), bytes, length, flags) })?;
        Ok(Answer::Done)
    }
}

fn facts_of(path: &Path) -> String {
    path.symlink_metadata().map_or_else(
        |error| error.to_string(),
        |facts| {
            let (mtime, ctime) = (
                (facts.mtime(), facts.mtime_nsec()),
                (facts.ctime(), facts.ctime_nsec()),
            );
            format!(
                "{mtime:?} {ctime:?}, inode {} with {} links",
                facts.ino(),
                facts.nlink()
            )
        },
    )
}

fn moved(path: &Path, ctime: Stamp) -> Moved {
    let facts = path.symlink_metadata().ok()?;
    let mtime = (facts.mtime(), facts.mtime_nsec());
    let now = (facts.ctime(), facts.ctime_nsec());
    // What has a new time of content was changed, even where a coarse clock says the same time twice.
    Some((mtime != LONG_AGO, mtime != LONG_AGO || now != ctime))
}

fn set_times(path: &Path, atime: Stamp, mtime: Stamp) -> Result<(), i32> {
    let path = c_path(path);
    let times = [atime, mtime].map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    let (here, flags) = (libc::AT_FDCWD, libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: the path ends in a NUL, the times are two, and all live through the call.
    done(unsafe { libc::utimensat(here, path.as_ptr(), times.as_ptr(), flags) })?;
    Ok(())
}

/// Whether what lseek(2) says of data and holes is true: where these begin, each file system decides for itself.
fn seek(file: &File, offset: u64, data: bool) -> Result<Answer, i32> {
    let found = file.metadata().map_err(|error| errno(&error))?;
    if found.is_dir() {
        return Err(libc::EISDIR);
    }
    // What is open for writing only cannot be compared.
    file.read_at(&mut [0], offset)
        .map_err(|error| errno(&error))?;
    let whence = if data {
        libc::SEEK_DATA
    } else {
        libc::SEEK_HOLE
    };
    // SAFETY: lseek moves the offset of an open file and touches no memory.
    let sought = done(unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) });
    let size = found.len();
    if offset >= size {
        return sought.map(Answer::Number);
    }
    let place = match (sought, data) {
        (Err(libc::ENXIO), true) => size,
        (sought, _) => sought? as u64,
    };
    if !data {
        return Ok(Answer::Number((offset..=size).contains(&place).into()));
    }
    let mut passed = vec![0; place.saturating_sub(offset) as usize];
    file.read_exact_at(&mut passed, offset)
        .map_err(|error| errno(&error))?;
    let true_to_say = place >= offset && passed.iter().all(|byte| *byte == 0);
    Ok(Answer::Number(true_to_say.into()))
}

/// Zeros are a hole and space together where they are not known as such: tmpfs.
fn allocate(file: &File, offset: i64, length: i64, mode: i32) -> Result<Answer, i32> {
    let call = |mode| {
        // SAFETY: fallocate changes an open file and touches no memory.
        done(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) })
    };
    match (call(mode), mode & libc::FALLOC_FL_ZERO_RANGE != 0) {
        (Err(libc::EOPNOTSUPP), true) => {
            call(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)?;
            call(mode & !libc::FALLOC_FL_ZERO_RANGE)?;
        }
        (answer, _) => drop(answer?),
    }
    Ok(Answer::Done)
}

/// Writes through a shared mapping, so far as the file reaches.
fn map(file: &File, offset: u64, bytes: &[u8]) -> Result<Answer, i32> {
    let found = file.metadata().map_err(|error| errno(&error))?;
    if found.is_dir() {
        return Err(libc::EISDIR);
    }
    let size = found.len();
    let begin = offset.min(size);
    let end = size.min(begin + bytes.len() as u64);
    if begin == end {
        return Ok(Answer::Number(0));
    }
    // SAFETY: nobody shortens the file while it is mapped.
    let mapped = unsafe { memmap2::MmapMut::map_mut(file) };
    let mut mapped = mapped.map_err(|error| errno(&error))?;
    let (from, count) = (begin as usize, (end - begin) as usize);
    mapped[from..from + count].copy_from_slice(&bytes[..count]);
    Ok(Answer::Number(count as i64))
}

fn list(path: &Path) -> Result<Values<u8>, i32> {
    use std::os::unix::fs::FileTypeExt;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| errno(&error))? {
        let entry = entry.map_err(|error| errno(&error))?;
        let kind = entry.file_type().map_err(|error| errno(&error))?;
        let letter = match () {
            () if kind.is_dir() => b'd',
            () if kind.is_symlink() => b'l',
            () if kind.is_fifo() => b'p',
            () if kind.is_socket() => b's',
            () if kind.is_block_device() => b'b',
            () if kind.is_char_device() => b'c',
            () => b'f',
        };
        names.push((entry.file_name().into_encoded_bytes(), letter));
    }
    names.sort_unstable();
    Ok(names)
}

fn xattrs(path: &Path) -> Result<Values<Vec<u8>>, i32> {
    let mut found = Vec::new();
    for name in xattr::list(path).map_err(|error| errno(&error))? {
        let value = xattr::get(path, &name).map_err(|error| errno(&error))?;
        found.push((name.into_encoded_bytes(), value.unwrap_or_default()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Everything below a directory as text, one line a name; `links_of_directories` where both sides count them.
pub fn tree(top: &Path, links_of_directories: bool) -> Vec<String> {
    let mut lines = Vec::new();
    // The first name of each file that has several.
    let mut first = std::collections::HashMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let found = path.symlink_metadata().expect("is there");
        let mut facts = facts(&found);
        if found.is_dir() && !links_of_directories {
            facts.links = 0;
        }
        let below = path.strip_prefix(top).expect("lies below").to_owned();
        let linked = (!found.is_dir() && found.nlink() > 1).then(|| {
            first
                .entry(found.ino())
                .or_insert_with(|| below.clone())
                .clone()
        });
        let content = if found.is_file() {
            let bytes = std::fs::read(&path).expect("reads");
            format!("{} bytes {}", bytes.len(), blake3::hash(&bytes).to_hex())
        } else if found.is_symlink() {
            format!("-> {:?}", std::fs::read_link(&path).expect("reads"))
        } else {
            String::new()
        };
        let xattrs = xattrs(&path).expect("lists");
        lines.push(format!(
            "{below:?} {facts:?} same as {linked:?} {content} {xattrs:x?}"
        ));
        if found.is_dir() {
            let mut names = list(&path).expect("lists");
            names.reverse();
            left.extend(
                names
                    .iter()
                    .map(|(name, _)| path.join(OsStr::from_bytes(name))),
            );
        }
    }
    lines
}
