//! A file system with nothing behind it: it remembers names and attributes, and forgets bytes. What a tool takes on it
//! is what the kernel and the tool cost by themselves.

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

/// As long as keepfs lets the kernel remember an open point.
const KEPT: Duration = Duration::from_secs(1);

/// The capabilities that keepfs asks for, but those that would bring calls with nothing to answer.
const WANTED: [InitFlags; 4] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
];

struct Node {
    attributes: FileAttr,
    names: BTreeMap<OsString, u64>,
}

/// The empty file system.
pub struct Empty {
    nodes: Mutex<HashMap<u64, Node>>,
    next: AtomicU64,
    requests: Arc<AtomicU64>,
}

fn attributes(ino: u64, kind: FileType, mode: u32) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind,
        perm: (mode & 0o7777) as u16,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Empty {
    /// With one directory, counting what the kernel asks into `requests`.
    pub fn new(requests: Arc<AtomicU64>) -> Self {
        let top = Node {
            attributes: attributes(INodeNo::ROOT.0, FileType::Directory, 0o755),
            names: BTreeMap::new(),
        };
        Self {
            nodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, top)])),
            next: AtomicU64::new(INodeNo::ROOT.0 + 1),
            requests,
        }
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.nodes.lock().expect("no call panics")
    }

    fn make(&self, parent: INodeNo, name: &OsStr, kind: FileType, mode: u32) -> FileAttr {
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let attributes = attributes(ino, kind, mode);
        let mut nodes = self.nodes();
        let names = BTreeMap::new();
        nodes.insert(ino, Node { attributes, names });
        if let Some(parent) = nodes.get_mut(&parent.0) {
            parent.names.insert(name.to_owned(), ino);
        }
        attributes
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut nodes = self.nodes();
        let gone = nodes
            .get_mut(&parent.0)
            .and_then(|parent| parent.names.remove(name));
        match gone {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }
}

impl Filesystem for Empty {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in WANTED {
            // A kernel that lacks one gives a higher floor.
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let nodes = self.nodes();
        let found = nodes
            .get(&parent.0)
            .and_then(|parent| parent.names.get(name));
        match found.and_then(|found| nodes.get(found)) {
            Some(node) => reply.entry(&KEPT, &node.attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.nodes().get(&ino.0) {
            Some(node) => reply.attr(&KEPT, &node.attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
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
        let mut nodes = self.nodes();
        let Some(Node { attributes, .. }) = nodes.get_mut(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        attributes.perm = mode.map_or(attributes.perm, |mode| (mode & 0o7777) as u16);
        attributes.uid = uid.unwrap_or(attributes.uid);
        attributes.gid = gid.unwrap_or(attributes.gid);
        attributes.size = size.unwrap_or(attributes.size);
        attributes.atime = atime.map_or(attributes.atime, time);
        attributes.mtime = mtime.map_or(attributes.mtime, time);
        reply.attr(&KEPT, attributes);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let made = self.make(parent, name, FileType::Directory, mode);
        reply.entry(&KEPT, &made, Generation(0));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut nodes = self.nodes();
        if let Some(parent) = nodes.get_mut(&parent.0) {
            parent.names.insert(name.to_owned(), ino.0);
        }
        let Some(Node { attributes, .. }) = nodes.get_mut(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        attributes.nlink += 1;
        reply.entry(&KEPT, attributes, Generation(0));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(parent, name, FileType::RegularFile, mode);
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        reply.created(&KEPT, &made, Generation(0), FileHandle(0), flags);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        drop(self.nodes());
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Some(node) = self.nodes().get_mut(&ino.0) {
            let end = offset + data.len() as u64;
            node.attributes.size = node.attributes.size.max(end);
            node.attributes.blocks = node.attributes.size.div_ceil(512);
        }
        reply.written(data.len() as u32);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        drop(self.nodes());
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let nodes = self.nodes();
        let names = nodes.get(&ino.0).map(|node| &node.names);
        let listed = names.into_iter().flatten().enumerate();
        for (place, (name, ino)) in listed.skip(offset as usize) {
            let kind = nodes[ino].attributes.kind;
            if reply.add(INodeNo(*ino), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut nodes = self.nodes();
        let moved = nodes
            .get_mut(&parent.0)
            .and_then(|parent| parent.names.remove(name));
        let (Some(moved), Some(target)) = (moved, nodes.get_mut(&new_parent.0)) else {
            return reply.error(Errno::ENOENT);
        };
        target.names.insert(new_name.to_owned(), moved);
        reply.ok();
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        drop(self.nodes());
        reply.error(Errno::EOPNOTSUPP);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        drop(self.nodes());
        match size {
            0 => reply.size(0),
            _ => reply.data(&[]),
        }
    }
}
