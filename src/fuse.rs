//! The kernel's side of a mount: the only file that names fuser. Each call is passed to [`FileSystem`] and its
//! answer to the kernel; nothing is decided here.

mod bound;
mod mountpoint;
mod mounts;
mod workers;

pub use bound::locked;
pub use mountpoint::{Access, bind, rebind};
pub use mounts::{is_bound, served};

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::filesystem::{
    Answer, Answered, Attributes, Caching, Caller, Changes, Failure, FileSystem, Mode,
};
use crossbeam_channel::{Receiver, bounded, select};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session, SessionACL,
    TimeOrNow, WriteFlags,
};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use workers::Workers;

/// Threads that receive calls: a second one lets two clients, or a large read and a small one, work at once.
const RECEIVERS: usize = 2;
/// Threads for calls that wait for a store, and when all of them do.
const WAITERS: usize = 8;
const WAITERS_MAX: usize = 256;
/// Bytes of one READ or WRITE at most; the kernel clamps to 1 MiB.
const REQUEST_BYTES: u32 = 1 << 20;
/// Requests of the kernel's own that may be under way; the default of 16 bounds its reading ahead.
const BACKGROUND: u16 = 128;
/// How long users of a mount that is being ended may go on.
const GRACE: Duration = Duration::from_secs(2);
/// How often is looked whether they have ended.
const REST: Duration = Duration::from_millis(10);

/// Capabilities that make the kernel cheaper or more exact; facts were measured for each.
const WANTED: [InitFlags; 8] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    // A default ACL takes the place of the umask, and only we know whether there is one.
    InitFlags::FUSE_DONT_MASK,
];

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Whether other users may enter; the kernel then checks modes and owners for each.
    pub allow_other: bool,
    /// What the kernel refuses whatever the modes allow.
    pub access: Access,
    /// What the kernel's table of mounts names as its source, when root mounts.
    pub source: OsString,
    /// The mount goes when nothing of it is bound elsewhere; whoever binds holds a lock on this file.
    pub while_bound: Option<PathBuf>,
}

impl Default for MountOptions {
    /// Root lets everybody in, as on any file system; an ordinary user needs `user_allow_other` in fuse.conf for that.
    fn default() -> Self {
        Self {
            allow_other: mountpoint::is_root(),
            access: Access::default(),
            source: "keepfs".into(),
            while_bound: None,
        }
    }
}

/// SIGTERM, SIGINT and SIGHUP (the terminal goes), caught from now on. Made before the mount, as a signal that nobody
/// catches yet would kill the process and leave a dead mount.
#[derive(Debug)]
pub struct EndSignals(signal_hook::iterator::Signals);

impl EndSignals {
    /// Catches them for the whole process.
    pub fn catch() -> Result<Self> {
        let mut signals = vec![libc::SIGTERM, libc::SIGINT];
        if !ignored(libc::SIGHUP) {
            signals.push(libc::SIGHUP);
        }
        signal_hook::iterator::Signals::new(signals)
            .map(Self)
            .map_err(|error| Error::io("cannot catch signals", error))
    }
}

/// Whether whoever started this process wants it to live on after the signal, as nohup(1) does.
fn ignored(signal: libc::c_int) -> bool {
    // SAFETY: zero is a valid sigaction to be filled in.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to a valid place.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    connection: Option<u32>,
    filesystem: Arc<FileSystem>,
    ended: Receiver<io::Result<()>>,
    while_bound: Option<PathBuf>,
}

/// Mounts the tree on a directory and serves it from threads of this process. Ready when this returns.
pub fn mount(
    filesystem: Arc<FileSystem>,
    directory: &Path,
    options: MountOptions,
) -> Result<Mounted> {
    let directory = mountpoint::prepare(directory)?;
    let session = start(filesystem.clone(), &directory, &options)?;
    let (end, ended) = bounded(1);
    std::thread::spawn(move || {
        // Nobody listens when the mount was given up.
        let _ = end.send(session.run());
    });
    mountpoint::raise_read_ahead(&directory);
    let connection = mountpoint::connection(&directory);
    Ok(Mounted {
        directory,
        connection,
        filesystem,
        ended,
        while_bound: options.while_bound,
    })
}

fn start(
    filesystem: Arc<FileSystem>,
    directory: &Path,
    options: &MountOptions,
) -> Result<Session<Shell>> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(RECEIVERS);
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let shell = Shell {
        filesystem,
        workers: Workers::new(WAITERS, WAITERS_MAX, RECEIVERS),
    };
    let session = if mountpoint::is_root() {
        let device = mountpoint::mount(directory, options)?;
        let acl = config.acl;
        Session::from_fd(shell, device, acl, config)
    } else {
        config.mount_options = vec![
            fuser::MountOption::FSName("keepfs".into()),
            fuser::MountOption::Subtype("keepfs".into()),
            fuser::MountOption::DefaultPermissions,
            fuser::MountOption::NoSuid,
            fuser::MountOption::NoDev,
        ];
        if options.access.read_only {
            config.mount_options.push(fuser::MountOption::RO);
        }
        if options.access.no_exec {
            config.mount_options.push(fuser::MountOption::NoExec);
        }
        Session::new(shell, directory, &config)
    };
    session.map_err(|error| Error::io(format_args!("mounting on {}", directory.display()), error))
}

impl Mounted {
    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns when somebody unmounts it, or after one of the signals, which unmount it.
    pub fn wait(self, signals: EndSignals) -> Result<()> {
        let bound = self.while_bound.clone().zip(self.connection);
        let gone = bound.map(|(lock, connection)| {
            bound::end_with_binds(self.directory.clone(), connection, lock)
        });
        let EndSignals(mut signals) = signals;
        let handle = signals.handle();
        let (send, signalled) = bounded(1);
        let listener = std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = send.send(());
            }
        });
        let result = select! {
            recv(self.ended) -> end => {
                // Its directory goes just now.
                let _ = gone.map(|gone| gone.recv_timeout(GRACE));
                self.over(end.unwrap_or(Ok(())))
            }
            recv(signalled) -> _ => self.unmount(),
        };
        handle.close();
        let _ = listener.join();
        result
    }

    /// Unmounts. Users of open files may go on for a moment; then they get errors.
    pub fn unmount(self) -> Result<()> {
        let mut busy = mountpoint::unmount(&self.directory)?;
        for bind in self.binds() {
            // What cannot be taken away is as good as busy: its users get errors.
            busy |= mountpoint::unmount(&bind).unwrap_or(true);
        }
        let end = match self.ended.recv_timeout(GRACE) {
            Err(_) if busy => {
                if let Some(connection) = self.connection {
                    mountpoint::abort(connection);
                }
                self.ended.recv_timeout(GRACE).unwrap_or(Ok(()))
            }
            end => end.unwrap_or(Ok(())),
        };
        self.over(end)
    }

    /// Where else it is bound, and would be dead without us. Nothing is known of it without /proc; whoever mounts there
    /// again takes the dead mount away.
    fn binds(&self) -> Vec<PathBuf> {
        let bound = |minor| mounts::elsewhere(minor, &self.directory).ok();
        self.connection.and_then(bound).unwrap_or_default()
    }

    fn over(&self, end: io::Result<()>) -> Result<()> {
        // A call that is still under way may make a point whole.
        let mut rests = GRACE.as_millis() / REST.as_millis();
        while Arc::strong_count(&self.filesystem) > 1 && rests > 0 {
            std::thread::sleep(REST);
            rests -= 1;
        }
        self.filesystem.settle();
        match end {
            // What the kernel says to a reader of an aborted connection.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            end => end.map_err(|error| {
                Error::io(format_args!("serving {}", self.directory.display()), error)
            }),
        }
    }
}

/// Passes the kernel's calls on.
struct Shell {
    filesystem: Arc<FileSystem>,
    workers: Workers,
}

fn errno(failure: &Failure) -> Errno {
    Errno::from_i32(failure.errno())
}

/// A time as fuser takes it. What a tree says is not trusted to be a time at all.
fn system_time(time: Time) -> SystemTime {
    Time::new(time.seconds, time.nanoseconds.min(999_999_999)).into()
}

fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

/// A device number as the kernel passes it: 12 bits of major between 8 and 12 bits of minor.
fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The other way round.
fn device_number(device: u32) -> u64 {
    libc::makedev(device >> 8 & 0xfff, device & 0xff | device >> 12 & !0xff)
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

/// The time that the kernel sent. fuser takes a time before 1970 for so many seconds and nanoseconds before it; the
/// kernel means nanoseconds after the (negative) second.
fn time_of(time: TimeOrNow) -> Option<Time> {
    let TimeOrNow::SpecificTime(time) = time else {
        return None;
    };
    Some(match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => time.into(),
        Err(before) => {
            let before = before.duration();
            Time::new(-(before.as_secs() as i64), before.subsec_nanos())
        }
    })
}

fn file_attr(attributes: &Attributes) -> FileAttr {
    let time = system_time(attributes.mtime);
    let (atime, ctime) = (system_time(attributes.atime), system_time(attributes.ctime));
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.size,
        blocks: attributes.blocks,
        atime,
        mtime: time,
        ctime,
        crtime: time,
        kind: file_type(attributes.mode),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: kernel_device(attributes.device),
        blksize: 4096,
        flags: 0,
    }
}

/// `.` and `..`: of these the kernel looks at nothing but number and type.
fn dot_attr(ino: u64) -> FileAttr {
    file_attr(&Attributes::of_dots(ino))
}

fn reply_entry(reply: ReplyEntry, answer: Answer<Answered>) {
    match answer {
        Ok(Answered::Found { attributes, kept }) => {
            let attr = file_attr(&attributes);
            reply.entry_with_ttls(&attributes.kept, &kept, &attr, Generation(0));
        }
        // Number 0 with a time to live: the kernel remembers that the name is not there.
        Ok(Answered::Missing { kept }) => {
            reply.entry(&kept, &dot_attr(0), Generation(0));
        }
        Err(failure) => reply.error(errno(&failure)),
    }
}

fn reply_attr(reply: ReplyAttr, answer: Answer<Attributes>) {
    match answer {
        Ok(attributes) => reply.attr(&attributes.kept, &file_attr(&attributes)),
        Err(failure) => reply.error(errno(&failure)),
    }
}

fn reply_written(reply: ReplyWrite, answer: Answer<u32>) {
    match answer {
        Ok(bytes) => reply.written(bytes),
        Err(failure) => reply.error(errno(&failure)),
    }
}

fn reply_xattr(reply: ReplyXattr, size: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(failure) => reply.error(errno(&failure)),
    }
}

fn reply_data(reply: ReplyData, answer: Answer<impl std::ops::Deref<Target = [u8]>>) {
    match answer {
        Ok(data) => reply.data(&data),
        Err(failure) => reply.error(errno(&failure)),
    }
}

fn reply_empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(failure) => reply.error(errno(&failure)),
    }
}

impl Shell {
    /// Counts the call and runs it, its reply included, where it may wait.
    fn run(&self, operation: &'static str, call: impl FnOnce(&FileSystem) + Send + 'static) {
        self.answer(operation, call, |()| ());
    }

    /// As [`Self::run`], but the reply comes apart: who gets it and calls again at once finds a thread free.
    fn answer<A>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&FileSystem) -> A + Send + 'static,
        reply: impl FnOnce(A) + Send + 'static,
    ) {
        self.filesystem.metrics.request(operation);
        let filesystem = self.filesystem.clone();
        self.workers.run(move || call(&filesystem), reply);
    }

    fn now(&self, operation: &'static str) -> &FileSystem {
        self.filesystem.metrics.request(operation);
        &self.filesystem
    }
}

impl Filesystem for Shell {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in WANTED {
            if config.add_capabilities(wanted).is_err() {
                tracing::info!("this kernel lacks {wanted:?}");
            }
        }
        // Refused values fall back to what the kernel proposed.
        let _ = config.set_max_write(REQUEST_BYTES);
        let _ = config.set_max_readahead(REQUEST_BYTES);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let caller = caller(request);
        self.answer(
            "lookup",
            move |filesystem| filesystem.lookup(parent.0, &name, caller),
            |answer| reply_entry(reply, answer),
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.filesystem.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(
            "getattr",
            move |filesystem| filesystem.stat(ino.0),
            |answer| reply_attr(reply, answer),
        );
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        reply_data(reply, self.now("readlink").read_link(ino.0));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let filesystem = self.now("open");
        match filesystem.open(ino.0, flags.0) {
            Ok(handle) => {
                let keep = match filesystem.caching(ino.0) {
                    Caching::Nothing => FopenFlags::FOPEN_DIRECT_IO,
                    Caching::Bytes | Caching::Everything => FopenFlags::FOPEN_KEEP_CACHE,
                };
                reply.opened(FileHandle(handle), keep | FopenFlags::FOPEN_NOFLUSH);
            }
            Err(failure) => reply.error(errno(&failure)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.filesystem.read_cached(handle.0, offset, size) {
            Ok(None) => self.answer(
                "read",
                move |filesystem| filesystem.read(handle.0, offset, size),
                |answer| reply_data(reply, answer),
            ),
            Ok(Some(data)) => {
                self.now("read");
                reply_data(reply, Ok(data));
            }
            Err(failure) => reply.error(errno(&failure)),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.run("release", move |filesystem| {
            filesystem.close(handle.0);
            reply.ok();
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.now("flush");
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.run("opendir", move |filesystem| {
            match filesystem.open_directory(ino.0) {
                Ok(handle) if filesystem.caching(ino.0) == Caching::Everything => reply.opened(
                    FileHandle(handle),
                    FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
                ),
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(failure) => reply.error(errno(&failure)),
            }
        });
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.run("readdir", move |filesystem| {
            let answer = filesystem.read_directory(handle.0, offset, false, |listed| {
                let kind = file_type(listed.type_bits);
                !reply.add(
                    INodeNo(listed.ino),
                    listed.next,
                    kind,
                    OsStr::from_bytes(listed.name),
                )
            });
            match answer {
                Ok(()) => reply.ok(),
                Err(failure) => reply.error(errno(&failure)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.run("readdirplus", move |filesystem| {
            let answer = filesystem.read_directory(handle.0, offset, true, |listed| {
                let (attr, kept) = match &listed.attributes {
                    Some((attributes, kept)) => (file_attr(attributes), *kept),
                    None => (dot_attr(listed.ino), Duration::ZERO),
                };
                !reply.add(
                    INodeNo(listed.ino),
                    listed.next,
                    OsStr::from_bytes(listed.name),
                    &kept,
                    &attr,
                    Generation(0),
                )
            });
            match answer {
                Ok(()) => reply.ok(),
                Err(failure) => reply.error(errno(&failure)),
            }
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.now("releasedir").close_directory(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.run("statfs", move |filesystem| match filesystem.room(ino.0) {
            Ok(room) => {
                let (total, free) = (room.total / 4096, room.free / 4096);
                reply.statfs(total, free, free, 0, 0, 4096, 255, 4096);
            }
            Err(failure) => reply.error(errno(&failure)),
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.now("getxattr").get_xattr(ino.0, name.as_bytes());
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.now("listxattr").list_xattrs(ino.0, request.uid());
        reply_xattr(reply, size, names);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        self.run("lseek", move |filesystem| {
            match filesystem.seek(handle.0, offset, data) {
                Ok(found) => reply.offset(found as i64),
                Err(failure) => reply.error(errno(&failure)),
            }
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        self.run("mkdir", move |filesystem| {
            let mode = Mode { mode, umask };
            let made = filesystem.make_directory(parent.0, &name, mode, caller);
            reply_entry(reply, made);
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        self.run("mknod", move |filesystem| {
            let mode = Mode { mode, umask };
            let device = device_number(device);
            let made = filesystem.make_node(parent.0, &name, mode, device, caller);
            reply_entry(reply, made);
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        let target = target.as_os_str().as_bytes().to_vec();
        self.run("symlink", move |filesystem| {
            let made = filesystem.make_symlink(parent.0, &name, &target, caller);
            reply_entry(reply, made);
        });
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.run("link", move |filesystem| {
            reply_entry(reply, filesystem.link(ino.0, parent.0, &name));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        self.run("create", move |filesystem| {
            let mode = Mode { mode, umask };
            match filesystem.create(parent.0, &name, mode, flags, caller) {
                Ok((attributes, handle)) => reply.created(
                    &attributes.kept,
                    &file_attr(&attributes),
                    Generation(0),
                    FileHandle(handle),
                    FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
                ),
                Err(failure) => reply.error(errno(&failure)),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        if !self.filesystem.writes_at_once(data.len()) {
            let data = data.to_vec();
            return self.run("write", move |filesystem| {
                reply_written(reply, filesystem.write(handle.0, offset, &data, caller));
            });
        }
        // Here, not on another thread: the bytes go into a file's page cache, and moving them would cost a copy.
        let written = self.now("write").write(handle.0, offset, data, caller);
        reply_written(reply, written);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        source: FileHandle,
        source_offset: u64,
        _: INodeNo,
        target: FileHandle,
        target_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        self.run("copy_file_range", move |filesystem| {
            let (source, target) = ((source.0, source_offset), (target.0, target_offset));
            reply_written(reply, filesystem.copy_range(source, target, length, caller));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = Changes {
            mode,
            uid,
            gid,
            size,
            mtime: mtime.map(time_of),
            atime: atime.map(time_of),
        };
        let caller = caller(request);
        self.run("setattr", move |filesystem| {
            reply_attr(reply, filesystem.set_attributes(ino.0, &changes, caller));
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let caller = caller(request);
        self.run("setxattr", move |filesystem| {
            let set = filesystem.set_xattr(ino.0, &name, &value, flags, caller);
            reply_empty(reply, set);
        });
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.run("removexattr", move |filesystem| {
            reply_empty(reply, filesystem.remove_xattr(ino.0, &name));
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.run("unlink", move |filesystem| {
            reply_empty(reply, filesystem.unlink(parent.0, &name));
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        self.run("rmdir", move |filesystem| {
            reply_empty(reply, filesystem.remove_directory(parent.0, &name, caller));
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let caller = caller(request);
        self.run("rename", move |filesystem| {
            let renamed = filesystem.rename(
                (parent.0, &name),
                (new_parent.0, &new_name),
                flags.bits(),
                caller,
            );
            reply_empty(reply, renamed);
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.run("fallocate", move |filesystem| {
            let allocated = filesystem.allocate(handle.0, offset, length, mode, caller);
            reply_empty(reply, allocated);
        });
    }

    fn fsync(&self, request: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let caller = caller(request);
        self.run("fsync", move |filesystem| {
            reply_empty(reply, filesystem.sync(handle.0, caller));
        });
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let caller = caller(request);
        self.run("fsyncdir", move |filesystem| {
            reply_empty(reply, filesystem.sync_directory(ino.0, caller));
        });
    }
}
