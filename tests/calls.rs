//! Random file system calls below a directory, each answered with all that its caller can see: two file systems that
//! get the same calls must give the same answers.

use crate::sites::Random;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files that are kept open.
pub const HANDLES: usize = 5;
/// A user who is not root, in a group of the same number.
const OTHER: u32 = 4711;
/// A time that only an explicit call can have set.
const LONG_AGO: (i64, i64) = (1_000_000_000, 123_456_789);
const FALLOCATE_MODES: [i32; 5] = [
    0,
    libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_ZERO_RANGE,
    libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
];

/// A path below the top, in bytes.
type Name = Vec<u8>;
/// Seconds and nanoseconds, or one of the two marks that utimensat knows.
type Stamp = (i64, i64);

#[derive(Clone, Debug)]
pub enum Call {
    MakeDirectory(Name, u32),
    MakeNode(Name, u32, u64),
    Symlink(Name, Name),
    Open(usize, Name, i32, u32),
    Close(usize),
    Unlink(Name),
    RemoveDirectory(Name),
    Link(Name, Name),
    Rename(Name, Name, u32),
    Mode(Name, u32),
    Owner(Name, Option<u32>, Option<u32>),
    Times(Name, Stamp, Stamp),
    Truncate(Name, u64),
    SetXattr(Name, &'static str, Vec<u8>, i32),
    RemoveXattr(Name, &'static str),
    Xattrs(Name),
    Stat(Name),
    ReadLink(Name),
    List(Name),
    Access(Name, i32),
    Read(usize, u64, usize),
    Write(usize, u64, Vec<u8>),
    Append(usize, Vec<u8>),
    Map(usize, u64, Vec<u8>),
    Resize(usize, u64),
    Allocate(usize, u64, u64, i32),
    HandleMode(usize, u32),
    HandleStat(usize),
    Copy(usize, u64, usize, u64, usize),
    /// The next data (or else hole).
    Seek(usize, u64, bool),
    /// flock(2) with these flags.
    Lock(usize, i32),
    /// A lock of this kind on a range, of the open file (not of the process).
    LockRange(usize, libc::c_int, u64, u64),
    Sync(usize),
}

/// A call, by whom, and whether the times of what it names are looked at before and behind it.
#[derive(Clone, Debug)]
pub struct Step {
    pub call: Call,
    pub user: u32,
    pub timed: bool,
}

/// A name: few, so that they are met again; some odd, one too long.
fn name(random: &mut Random) -> Name {
    match random.below(60) {
        0 => vec![b'n'; 256],
        1 | 2 => vec![b'n'; 255],
        3..=5 => b"\xff o'dd\n".to_vec(),
        number => vec![b'a' + (number % 6) as u8],
    }
}

fn directory(random: &mut Random) -> Name {
    vec![b'd' + random.below(2) as u8]
}

fn path_to(random: &mut Random, last: Name) -> Name {
    let mut parts = Vec::new();
    while parts.len() < 4 && random.below(2) == 0 {
        parts.push(directory(random));
    }
    parts.push(last);
    parts.join(&b'/')
}

fn path(random: &mut Random) -> Name {
    let last = name(random);
    path_to(random, last)
}

fn offset(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => random.below(4 << 20),
        1 => 0,
        2 => 4096 * random.below(20),
        _ => random.below(90_000),
    }
}

fn content(random: &mut Random) -> Vec<u8> {
    let length = match random.below(30) {
        0 => 300_000,
        1 => 0,
        _ => random.below(9_000) as usize,
    };
    random.bytes(length)
}

fn stamp(random: &mut Random) -> Stamp {
    match random.below(6) {
        0 => (0, libc::UTIME_NOW),
        1 => (0, libc::UTIME_OMIT),
        2 => (-1_000_000, 999_999_999),
        3 => (5_000_000_000, 1),
        _ => (
            random.below(1 << 30) as i64,
            random.below(1_000_000_000) as i64,
        ),
    }
}

fn mode(random: &mut Random) -> u32 {
    const MODES: [u32; 10] = [
        0o777, 0o755, 0o644, 0o600, 0o4755, 0o2775, 0o6711, 0o1777, 0o2644, 0o000,
    ];
    MODES[random.below(10) as usize]
}

fn flags(random: &mut Random) -> i32 {
    let mut flags =
        [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR][random.below(4) as usize];
    for (flag, one_in) in [
        (libc::O_CREAT, 2),
        (libc::O_EXCL, 6),
        (libc::O_TRUNC, 5),
        (libc::O_APPEND, 5),
        (libc::O_NOFOLLOW, 8),
        (libc::O_DIRECTORY, 25),
    ] {
        if random.below(one_in) == 0 {
            flags |= flag;
        }
    }
    // What the kernel answers to both differs from release to release.
    if flags & libc::O_DIRECTORY != 0 {
        flags &= !libc::O_CREAT;
    }
    flags
}

/// An access control list as the kernel takes it: owner, one user, group, mask, others.
fn acl(random: &mut Random) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut value = 2u32.to_le_bytes().to_vec();
    let full = random.below(3) > 0;
    let entries = [
        (1u16, NOBODY),
        (2, OTHER),
        (4, NOBODY),
        (0x10, NOBODY),
        (0x20, NOBODY),
    ];
    for (tag, id) in entries {
        if full || !matches!(tag, 2 | 0x10) {
            value.extend(tag.to_le_bytes());
            value.extend((random.below(8) as u16).to_le_bytes());
            value.extend(id.to_le_bytes());
        }
    }
    value
}

fn xattr(random: &mut Random) -> Call {
    let path = path(random);
    let flags = [0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE][random.below(4) as usize];
    match random.below(6) {
        0 => Call::SetXattr(path, "system.posix_acl_access", acl(random), 0),
        1 => {
            let last = directory(random);
            let path = path_to(random, last);
            Call::SetXattr(path, "system.posix_acl_default", acl(random), 0)
        }
        2 => Call::SetXattr(path, "trusted.t", b"trusted".to_vec(), flags),
        _ => {
            let length = random.below(200) as usize;
            let name = ["user.one", "user.two"][random.below(2) as usize];
            Call::SetXattr(path, name, random.bytes(length), flags)
        }
    }
}

fn call(random: &mut Random) -> Call {
    let handle = random.below(HANDLES as u64) as usize;
    let number = random.below(100);
    match number {
        0..=6 => {
            let last = match random.below(5) {
                0 => name(random),
                _ => directory(random),
            };
            Call::MakeDirectory(path_to(random, last), mode(random) | 0o700)
        }
        7 | 8 => {
            const TYPES: [u32; 5] = [
                libc::S_IFREG,
                libc::S_IFIFO,
                libc::S_IFSOCK,
                libc::S_IFBLK,
                libc::S_IFCHR,
            ];
            let kind = TYPES[random.below(5) as usize];
            let device = match kind {
                libc::S_IFBLK | libc::S_IFCHR => libc::makedev(7, 300 + random.below(9) as u32),
                _ => 0,
            };
            Call::MakeNode(path(random), kind | mode(random), device)
        }
        9 | 10 => {
            let target = match random.below(3) {
                0 => [b"../".to_vec(), path(random)].concat(),
                _ => path(random),
            };
            Call::Symlink(path(random), target)
        }
        11..=25 => Call::Open(handle, path(random), flags(random), mode(random) | 0o600),
        26 => Call::Close(handle),
        27..=31 => Call::Unlink(path(random)),
        32 | 33 => {
            let last = directory(random);
            Call::RemoveDirectory(path_to(random, last))
        }
        34..=36 => Call::Link(path(random), path(random)),
        37..=44 => {
            let flags = [0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE, 3]
                [random.below(6) as usize];
            Call::Rename(path(random), path(random), flags)
        }
        45..=47 => Call::Mode(path(random), mode(random)),
        48 | 49 => {
            let mut id = || match random.below(3) {
                0 => None,
                1 => Some(0),
                _ => Some(OTHER),
            };
            // One that names nobody reaches a FUSE daemon without what it needs to refuse it.
            let (uid, gid) = match (id(), id()) {
                (None, None) => (Some(OTHER), None),
                ids => ids,
            };
            Call::Owner(path(random), uid, gid)
        }
        50..=52 => Call::Times(path(random), stamp(random), stamp(random)),
        53 | 54 => Call::Truncate(path(random), offset(random)),
        55..=57 => xattr(random),
        58 => {
            const NAMES: [&str; 5] = [
                "user.one",
                "user.two",
                "trusted.t",
                "system.posix_acl_access",
                "system.posix_acl_default",
            ];
            Call::RemoveXattr(path(random), NAMES[random.below(5) as usize])
        }
        59 => Call::Xattrs(path(random)),
        60..=63 => Call::Stat(path(random)),
        64 => Call::ReadLink(path(random)),
        65 | 66 => {
            let last = directory(random);
            Call::List(path_to(random, last))
        }
        67 => Call::Access(path(random), random.below(8) as i32),
        68..=73 => Call::Read(handle, offset(random), random.below(200_000) as usize),
        74..=83 => Call::Write(handle, offset(random), content(random)),
        84 | 85 => Call::Append(handle, content(random)),
        86 | 87 => {
            let length = 1 + random.below(9_000) as usize;
            Call::Map(handle, offset(random), random.bytes(length))
        }
        88 | 89 => Call::Resize(handle, offset(random)),
        90..=93 => {
            let mode = FALLOCATE_MODES[random.below(5) as usize];
            Call::Allocate(handle, offset(random), 1 + random.below(60_000), mode)
        }
        94 => Call::HandleMode(handle, mode(random)),
        95 | 96 => Call::HandleStat(handle),
        97 | 98 => {
            let source = random.below(HANDLES as u64) as usize;
            let length = random.below(100_000) as usize;
            Call::Copy(source, offset(random), handle, offset(random), length)
        }
        _ => match random.below(12) {
            0 => Call::Sync(handle),
            1..=4 => Call::Seek(handle, offset(random), random.below(2) == 0),
            5 | 6 => {
                const HOW: [i32; 3] = [libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN];
                Call::Lock(handle, HOW[random.below(3) as usize])
            }
            7 | 8 => {
                const KINDS: [i32; 3] = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK];
                let kind = KINDS[random.below(3) as usize];
                Call::LockRange(handle, kind, random.below(9_000), random.below(9_000))
            }
            _ => Call::Close(handle),
        },
    }
}

/// The next step of a random run.
pub fn step(random: &mut Random) -> Step {
    let call = call(random);
    // Taking root's number away leaves a thread the right to see `trusted.` names, which keepfs goes by the number for.
    // Removing an access ACL costs who is not in the group its set-id bit on tmpfs, but not on ext4 and here.
    let root = matches!(call, Call::Xattrs(_) | Call::RemoveXattr(..));
    let other = random.below(6) == 0 && !root;
    Step {
        call,
        user: if other { OTHER } else { 0 },
        timed: random.below(6) == 0,
    }
}

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
    Names(Vec<(Vec<u8>, u8)>),
    Values(Vec<(Vec<u8>, Vec<u8>)>),
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
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("is later");
    let age = now.as_secs() as i64 - seconds;
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
}

impl Side {
    pub fn new(top: &Path) -> Self {
        Self {
            top: top.to_owned(),
            handles: Default::default(),
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
        Some([path, parent].map(|path| {
            // What is not there has no time.
            let _ = set_times(&path, LONG_AGO, LONG_AGO);
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
                let omitted = atime.1 == libc::UTIME_OMIT;
                let atime = unless_now(facts.atime(), facts.atime_nsec());
                Ok(Answer::Times(
                    atime.filter(|_| !omitted),
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

fn list(path: &Path) -> Result<Vec<(Vec<u8>, u8)>, i32> {
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

fn xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>, i32> {
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
