//! The kernel's calls, passed on.

use super::near::Near;
use super::replies::{
    caller, device_number, dot_attr, errno, file_attr, file_type, reply_attr, reply_data,
    reply_empty, reply_entry, reply_opened, reply_written, reply_xattr, time_of,
};
use super::workers::Workers;
use super::{BACKGROUND, REQUEST_BYTES, WANTED};
use crate::filesystem::{Caching, Changes, FileSystem, Mode};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Bytes of a READ or WRITE from which it is a part of a stream; the kernel reads ahead that much for small files, too.
const BULK_BYTES: usize = 64 << 10;

/// Passes the kernel's calls on.
pub(super) struct Shell {
    pub(super) filesystem: Arc<FileSystem>,
    pub(super) workers: Workers,
    pub(super) near: Near,
}

impl Shell {
    /// Counts the call and runs it where it may wait. The reply comes apart: who gets it and calls again at once finds a
    /// thread free.
    fn answer<A>(
        &self,
        request: &Request,
        operation: &'static str,
        call: impl FnOnce(&FileSystem) -> A + Send + 'static,
        reply: impl FnOnce(A) + Send + 'static,
    ) {
        self.filesystem.metrics.request(operation);
        self.near.called(request.pid());
        let filesystem = self.filesystem.clone();
        self.workers.run(move || call(&filesystem), reply);
    }

    /// Bytes are moved: where they are many, whoever calls goes on meanwhile.
    fn bulk(&self, bytes: usize) {
        if bytes >= BULK_BYTES {
            self.near.leave();
        }
    }

    /// Counts a call that is answered at once.
    fn now(&self, request: &Request, operation: &'static str) -> &FileSystem {
        self.near.called(request.pid());
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
            request,
            "lookup",
            move |filesystem| filesystem.lookup(parent.0, &name, caller),
            |answer| reply_entry(reply, answer),
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.filesystem.forget(ino.0, lookups);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(
            request,
            "getattr",
            move |filesystem| filesystem.stat(ino.0),
            |answer| reply_attr(reply, answer),
        );
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        reply_data(reply, self.now(request, "readlink").read_link(ino.0));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let uid = request.uid();
        let open = move |filesystem: &FileSystem| {
            let handle = filesystem.open_for(ino.0, flags.0, uid)?;
            Ok((handle, filesystem.caching(ino.0)))
        };
        match self.filesystem.opens_at_once(ino.0) {
            true => reply_opened(reply, open(self.now(request, "open"))),
            false => self.answer(request, "open", open, |answer| reply_opened(reply, answer)),
        }
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.bulk(size as usize);
        match self.filesystem.read_cached(handle.0, offset, size) {
            Ok(None) => self.answer(
                request,
                "read",
                move |filesystem| filesystem.read(handle.0, offset, size),
                |answer| reply_data(reply, answer),
            ),
            Ok(Some(data)) => {
                self.now(request, "read");
                reply_data(reply, Ok(data));
            }
            Err(failure) => reply.error(errno(&failure)),
        }
    }

    fn release(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(
            request,
            "release",
            move |filesystem| filesystem.close(handle.0),
            |()| reply.ok(),
        );
    }

    fn flush(&self, request: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.now(request, "flush");
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer(
            request,
            "opendir",
            move |filesystem| {
                let handle = filesystem.open_directory(ino.0)?;
                let keep = match filesystem.caching(ino.0) {
                    Caching::Everything => {
                        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
                    }
                    Caching::Nothing | Caching::Bytes => FopenFlags::empty(),
                };
                Ok((handle, keep))
            },
            |answer| match answer {
                Ok((handle, keep)) => reply.opened(FileHandle(handle), keep),
                Err(failure) => reply.error(errno(&failure)),
            },
        );
    }

    fn readdir(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.answer(
            request,
            "readdir",
            move |filesystem| {
                let answer = filesystem.read_directory(handle.0, offset, false, |listed| {
                    let kind = file_type(listed.type_bits);
                    !reply.add(
                        INodeNo(listed.ino),
                        listed.next,
                        kind,
                        OsStr::from_bytes(listed.name),
                    )
                });
                (reply, answer)
            },
            |(reply, answer)| match answer {
                Ok(()) => reply.ok(),
                Err(failure) => reply.error(errno(&failure)),
            },
        );
    }

    fn readdirplus(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.answer(
            request,
            "readdirplus",
            move |filesystem| {
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
                (reply, answer)
            },
            |(reply, answer)| match answer {
                Ok(()) => reply.ok(),
                Err(failure) => reply.error(errno(&failure)),
            },
        );
    }

    fn releasedir(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.now(request, "releasedir").close_directory(handle.0);
        reply.ok();
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.answer(
            request,
            "statfs",
            move |filesystem| filesystem.room(ino.0),
            |answer| match answer {
                Ok(room) => {
                    let (total, free) = (room.total / 4096, room.free / 4096);
                    reply.statfs(total, free, free, 0, 0, 4096, 255, 4096);
                }
                Err(failure) => reply.error(errno(&failure)),
            },
        );
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let value = self
            .now(request, "getxattr")
            .get_xattr(ino.0, name.as_bytes());
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self
            .now(request, "listxattr")
            .list_xattrs(ino.0, request.uid());
        reply_xattr(reply, size, names);
    }

    fn lseek(
        &self,
        request: &Request,
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
        self.answer(
            request,
            "lseek",
            move |filesystem| filesystem.seek(handle.0, offset, data),
            |answer| match answer {
                Ok(found) => reply.offset(found as i64),
                Err(failure) => reply.error(errno(&failure)),
            },
        );
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
        self.answer(
            request,
            "mkdir",
            move |filesystem| {
                let mode = Mode { mode, umask };
                filesystem.make_directory(parent.0, &name, mode, caller)
            },
            |answer| reply_entry(reply, answer),
        );
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
        self.answer(
            request,
            "mknod",
            move |filesystem| {
                let mode = Mode { mode, umask };
                let device = device_number(device);
                filesystem.make_node(parent.0, &name, mode, device, caller)
            },
            |answer| reply_entry(reply, answer),
        );
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
        self.answer(
            request,
            "symlink",
            move |filesystem| filesystem.make_symlink(parent.0, &name, &target, caller),
            |answer| reply_entry(reply, answer),
        );
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = name.as_bytes().to_vec();
        self.answer(
            request,
            "link",
            move |filesystem| filesystem.link(ino.0, parent.0, &name),
            |answer| reply_entry(reply, answer),
        );
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
        self.answer(
            request,
            "create",
            move |filesystem| {
                let mode = Mode { mode, umask };
                filesystem.create(parent.0, &name, mode, flags, caller)
            },
            |answer| match answer {
                Ok((attributes, handle)) => reply.created(
                    &attributes.kept,
                    &file_attr(&attributes),
                    Generation(0),
                    FileHandle(handle),
                    FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
                ),
                Err(failure) => reply.error(errno(&failure)),
            },
        );
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
        self.bulk(data.len());
        let caller = caller(request);
        if !self.filesystem.writes_at_once(handle.0, data.len()) {
            let data = data.to_vec();
            return self.answer(
                request,
                "write",
                move |filesystem| filesystem.write(handle.0, offset, &data, caller),
                |answer| reply_written(reply, answer),
            );
        }
        // Here, not on another thread: the bytes go into a file's page cache, and moving them would cost a copy.
        let written = self
            .now(request, "write")
            .write(handle.0, offset, data, caller);
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
        self.answer(
            request,
            "copy_file_range",
            move |filesystem| {
                let (source, target) = ((source.0, source_offset), (target.0, target_offset));
                filesystem.copy_range(source, target, length, caller)
            },
            |answer| reply_written(reply, answer),
        );
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
        self.answer(
            request,
            "setattr",
            move |filesystem| filesystem.set_attributes(ino.0, &changes, caller),
            |answer| reply_attr(reply, answer),
        );
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
        self.answer(
            request,
            "setxattr",
            move |filesystem| filesystem.set_xattr(ino.0, &name, &value, flags, caller),
            |answer| reply_empty(reply, answer),
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.answer(
            request,
            "removexattr",
            move |filesystem| filesystem.remove_xattr(ino.0, &name),
            |answer| reply_empty(reply, answer),
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.answer(
            request,
            "unlink",
            move |filesystem| filesystem.unlink(parent.0, &name),
            |answer| reply_empty(reply, answer),
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        self.answer(
            request,
            "rmdir",
            move |filesystem| filesystem.remove_directory(parent.0, &name, caller),
            |answer| reply_empty(reply, answer),
        );
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
        self.answer(
            request,
            "rename",
            move |filesystem| {
                filesystem.rename(
                    (parent.0, &name),
                    (new_parent.0, &new_name),
                    flags.bits(),
                    caller,
                )
            },
            |answer| reply_empty(reply, answer),
        );
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
        self.answer(
            request,
            "fallocate",
            move |filesystem| filesystem.allocate(handle.0, offset, length, mode, caller),
            |answer| reply_empty(reply, answer),
        );
    }

    fn fsync(&self, request: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let caller = caller(request);
        self.answer(
            request,
            "fsync",
            move |filesystem| filesystem.sync(handle.0, caller),
            |answer| reply_empty(reply, answer),
        );
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let caller = caller(request);
        self.answer(
            request,
            "fsyncdir",
            move |filesystem| filesystem.sync_directory(ino.0, caller),
            |answer| reply_empty(reply, answer),
        );
    }
}
