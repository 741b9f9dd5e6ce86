//! What the kernel calls things, and replies to it.

use crate::clock::Time;
use crate::filesystem::{Answer, Answered, Attributes, Caching, Caller, Failure};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};
use std::time::SystemTime;

pub(super) fn errno(failure: &Failure) -> Errno {
    Errno::from_i32(failure.errno())
}

/// A time as fuser takes it. What a tree says is not trusted to be a time at all.
pub(super) fn system_time(time: Time) -> SystemTime {
    Time::new(time.seconds, time.nanoseconds.min(999_999_999)).into()
}

pub(super) fn file_type(mode: u32) -> FileType {
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
pub(super) fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The other way round.
pub(super) fn device_number(device: u32) -> u64 {
    libc::makedev(device >> 8 & 0xfff, device & 0xff | device >> 12 & !0xff)
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

/// The time that the kernel sent. fuser takes a time before 1970 for so many seconds and nanoseconds before it; the
/// kernel means nanoseconds after the (negative) second.
pub(super) fn time_of(time: TimeOrNow) -> Option<Time> {
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

pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
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
pub(super) fn dot_attr(ino: u64) -> FileAttr {
    file_attr(&Attributes::of_dots(ino))
}

pub(super) fn reply_entry(reply: ReplyEntry, answer: Answer<Answered>) {
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

pub(super) fn reply_attr(reply: ReplyAttr, answer: Answer<Attributes>) {
    match answer {
        Ok(attributes) => reply.attr(&attributes.kept, &file_attr(&attributes)),
        Err(failure) => reply.error(errno(&failure)),
    }
}

pub(super) fn reply_opened(reply: ReplyOpen, answer: Answer<(u64, Caching)>) {
    match answer {
        Ok((handle, caching)) => {
            let keep = match caching {
                Caching::Nothing => FopenFlags::FOPEN_DIRECT_IO,
                Caching::Bytes | Caching::Everything => FopenFlags::FOPEN_KEEP_CACHE,
            };
            reply.opened(FileHandle(handle), keep | FopenFlags::FOPEN_NOFLUSH);
        }
        Err(failure) => reply.error(errno(&failure)),
    }
}

pub(super) fn reply_written(reply: ReplyWrite, answer: Answer<u32>) {
    match answer {
        Ok(bytes) => reply.written(bytes),
        Err(failure) => reply.error(errno(&failure)),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(failure) => reply.error(errno(&failure)),
    }
}

pub(super) fn reply_data(reply: ReplyData, answer: Answer<impl std::ops::Deref<Target = [u8]>>) {
    match answer {
        Ok(data) => reply.data(&data),
        Err(failure) => reply.error(errno(&failure)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(failure) => reply.error(errno(&failure)),
    }
}
