//! What one `stat` tells about an entry, with the names of its owners.

use super::owners::OwnerNames;
use crate::clock::Time;
use crate::error::{Error, Result};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

/// What an entry is, with what only this type has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and the bytes it holds.
    Symlink {
        /// Where it points, as it is written in the link.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A UNIX socket.
    Socket,
    /// A character device; `rdev` is major and minor as `stat` encodes them.
    CharacterDevice {
        /// The device number, as `stat` says it.
        rdev: u64,
    },
    /// A block device; `rdev` is major and minor as `stat` encodes them.
    BlockDevice {
        /// The device number, as `stat` says it.
        rdev: u64,
    },
}

/// What `stat` tells about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub file_type: Type,
    /// Permissions with set-id and sticky bits: `mode & 0o7777`.
    pub mode: u32,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Name of the owner on this host; empty when the number has none.
    pub user: Arc<[u8]>,
    /// Name of the group on this host; empty when the number has none.
    pub group: Arc<[u8]>,
    /// Bytes of a file's content or of a symlink's target; of no meaning for other types.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything, extended attributes and ACLs included; nobody can set it.
    pub ctime: Time,
    /// Last read, as far as the host keeps count.
    pub atime: Time,
    /// Number of the file system on this host; with `inode` it tells hard links.
    pub device: u64,
    /// Number of the inode.
    pub inode: u64,
    /// How many names the inode has.
    pub links: u64,
}

impl Metadata {
    /// What tells whether this has changed since.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            size: self.size,
            mtime: self.mtime,
            ctime: self.ctime,
            device: self.device,
            inode: self.inode,
        }
    }
}

/// What tells whether an entry has changed: while all of it is the same, so are content, extended attributes and ACLs.
/// The device's number may change when a host starts anew; a caller that compares across that leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Number of the file system.
    pub device: u64,
    /// Number of the inode.
    pub inode: u64,
}

impl Stamp {
    /// The stamp of an open file as it is now. Compared with the one before reading, it tells a file that was
    /// written meanwhile.
    pub fn of(file: &File) -> Result<Self> {
        let stat = of_descriptor(file.as_fd())
            .map_err(|error| Error::io("cannot examine an open file", error))?;
        Ok(Self {
            size: size(&stat),
            mtime: mtime(&stat),
            ctime: ctime(&stat),
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

/// `fstatat` of `name` in `directory`; does not follow symlinks and mounts nothing.
pub(super) fn of_name(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<libc::stat> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    stat(directory, name, flags)
}

/// `fstat` of an open file or directory.
pub(super) fn of_descriptor(descriptor: BorrowedFd<'_>) -> io::Result<libc::stat> {
    stat(descriptor, c"", libc::AT_EMPTY_PATH)
}

fn stat(directory: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::uninit();
    // SAFETY: `name` ends in a NUL and `stat` has room for one.
    let done = unsafe {
        libc::fstatat(
            directory.as_raw_fd(),
            name.as_ptr(),
            stat.as_mut_ptr(),
            flags,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and has filled it.
    Ok(unsafe { stat.assume_init() })
}

pub(super) fn is_directory(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

pub(super) fn is_block_device(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFBLK
}

pub(super) fn is_file(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
}

fn size(stat: &libc::stat) -> u64 {
    stat.st_size.try_into().unwrap_or(0) // negative sizes do not exist
}

fn mtime(stat: &libc::stat) -> Time {
    Time::new(stat.st_mtime, stat.st_mtime_nsec as u32)
}

fn ctime(stat: &libc::stat) -> Time {
    Time::new(stat.st_ctime, stat.st_ctime_nsec as u32)
}

/// Turns `stat`s into metadata.
#[derive(Debug, Default)]
pub(super) struct Reader {
    owners: OwnerNames,
}

impl Reader {
    /// The metadata of `name` in `directory`, of which `stat` was read before. Reads a symlink's target.
    pub fn metadata(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        stat: &libc::stat,
    ) -> io::Result<Metadata> {
        let file_type = match stat.st_mode & libc::S_IFMT {
            libc::S_IFLNK => Type::Symlink {
                target: target(directory, name, size(stat))?,
            },
            _ => plain_type(stat)?,
        };
        Ok(self.assemble(file_type, stat))
    }

    /// The metadata of an open directory.
    pub fn directory(&mut self, stat: &libc::stat) -> Metadata {
        self.assemble(Type::Directory, stat)
    }

    /// The metadata of a directory that exists nowhere: mode 0755, owned by whoever runs this.
    pub fn made_up_directory(&mut self, time: Time) -> Metadata {
        // SAFETY: both calls always succeed and touch no memory.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Metadata {
            file_type: Type::Directory,
            mode: 0o755,
            uid,
            gid,
            user: self.owners.user(uid),
            group: self.owners.group(gid),
            size: 0,
            mtime: time,
            ctime: time,
            atime: time,
            device: 0,
            inode: 0,
            links: 1,
        }
    }

    fn assemble(&mut self, file_type: Type, stat: &libc::stat) -> Metadata {
        Metadata {
            file_type,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: self.owners.user(stat.st_uid),
            group: self.owners.group(stat.st_gid),
            size: size(stat),
            mtime: mtime(stat),
            ctime: ctime(stat),
            atime: Time::new(stat.st_atime, stat.st_atime_nsec as u32),
            device: stat.st_dev,
            inode: stat.st_ino,
            #[allow(clippy::useless_conversion)] // 32 bits wide on some architectures
            links: stat.st_nlink.into(),
        }
    }
}

fn plain_type(stat: &libc::stat) -> io::Result<Type> {
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => Type::File,
        libc::S_IFDIR => Type::Directory,
        libc::S_IFIFO => Type::Fifo,
        libc::S_IFSOCK => Type::Socket,
        libc::S_IFCHR => Type::CharacterDevice { rdev: stat.st_rdev },
        libc::S_IFBLK => Type::BlockDevice { rdev: stat.st_rdev },
        other => {
            let message = format!("of an unknown type ({other:#o}); it is left out");
            return Err(io::Error::other(message));
        }
    })
}

/// A symlink's bytes. `size` is a hint: some file systems say 0.
fn target(directory: BorrowedFd<'_>, name: &CStr, size: u64) -> io::Result<Vec<u8>> {
    let mut room = usize::try_from(size).map_or(libc::PATH_MAX as usize, |size| size + 1);
    loop {
        let mut target = vec![0u8; room.max(256)];
        // SAFETY: `name` ends in a NUL and `target` has as many writable bytes as said.
        let len = unsafe {
            libc::readlinkat(
                directory.as_raw_fd(),
                name.as_ptr(),
                target.as_mut_ptr().cast(),
                target.len(),
            )
        };
        let Ok(len) = usize::try_from(len) else {
            return Err(io::Error::last_os_error());
        };
        // A full buffer may have cut the target off.
        if len < target.len() {
            target.truncate(len);
            return Ok(target);
        }
        room = target.len() * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn read(dir: &std::path::Path, name: &str) -> Metadata {
        let dir = File::open(dir).unwrap();
        let name = CString::new(name).unwrap();
        let stat = of_name(dir.as_fd(), &name).unwrap();
        let mut reader = Reader::default();
        reader.metadata(dir.as_fd(), &name, &stat).unwrap()
    }

    fn mknod(path: &std::path::Path, mode: u32, rdev: u64) {
        use std::os::unix::ffi::OsStrExt;
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: `path` ends in a NUL.
        assert_eq!(unsafe { libc::mknod(path.as_ptr(), mode, rdev) }, 0);
    }

    #[test]
    fn a_file_is_told_with_owner_mode_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "hello").unwrap();
        std::os::unix::fs::chown(&path, Some(0), Some(4_000_000)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6751)).unwrap();
        std::fs::hard_link(&path, dir.path().join("other")).unwrap();
        let before_1970 = Time::new(-2, 999_999_999);
        File::open(&path)
            .unwrap()
            .set_modified(before_1970.into())
            .unwrap();
        let found = read(dir.path(), "file");
        let truth = std::fs::metadata(&path).unwrap();
        assert_eq!(found.file_type, Type::File);
        assert_eq!((found.mode, found.size, found.links), (0o6751, 5, 2));
        assert_eq!((found.uid, &*found.user), (0, &b"root"[..]));
        assert_eq!((found.gid, &*found.group), (4_000_000, &b""[..]));
        assert_eq!(found.mtime, before_1970);
        assert_eq!(
            found.ctime,
            Time::new(truth.ctime(), truth.ctime_nsec() as u32)
        );
        assert_eq!((found.device, found.inode), (truth.dev(), truth.ino()));
        assert_eq!(
            Stamp::of(&File::open(&path).unwrap()).unwrap(),
            found.stamp()
        );
    }

    #[test]
    fn every_type_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let long = "x/".repeat(1500);
        std::fs::create_dir(at("directory")).unwrap();
        symlink("../no\u{e9}where", at("link")).unwrap();
        symlink(&long, at("long")).unwrap();
        mknod(&at("fifo"), libc::S_IFIFO | 0o600, 0);
        mknod(&at("character"), libc::S_IFCHR | 0o600, libc::makedev(1, 3));
        mknod(
            &at("block"),
            libc::S_IFBLK | 0o600,
            libc::makedev(259, 70_000),
        );
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let expected = [
            ("directory", Type::Directory),
            (
                "link",
                Type::Symlink {
                    target: "../no\u{e9}where".into(),
                },
            ),
            (
                "long",
                Type::Symlink {
                    target: long.into(),
                },
            ),
            ("fifo", Type::Fifo),
            (
                "character",
                Type::CharacterDevice {
                    rdev: libc::makedev(1, 3),
                },
            ),
            (
                "block",
                Type::BlockDevice {
                    rdev: libc::makedev(259, 70_000),
                },
            ),
            ("socket", Type::Socket),
        ];
        for (name, file_type) in expected {
            assert_eq!(read(dir.path(), name).file_type, file_type, "{name}");
        }
    }

    #[test]
    fn an_attribute_set_later_changes_the_stamp() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let before = read(dir.path(), "file").stamp();
        // The kernel's clock for files ticks a few times a hundredth of a second: write until it has.
        let changed = (0..100_000).any(|_| {
            xattr::set(dir.path().join("file"), "user.a", b"b").unwrap();
            read(dir.path(), "file").stamp() != before
        });
        assert!(changed);
    }
}
