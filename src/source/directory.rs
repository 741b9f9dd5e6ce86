//! Open directories, and entries named relative to one: robust against renames above and paths of any length.

use super::metadata::{self, Metadata, Type};
use super::xattrs::{self, Xattrs};
use crate::error::{Error, Kind, Result};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open directory and the path it was reached by, for messages.
#[derive(Debug)]
pub(super) struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// A name from a listing, with the type that the listing told.
#[derive(Debug)]
pub(super) struct Listed {
    pub name: CString,
    /// `None` when the file system does not tell.
    pub is_directory: Option<bool>,
}

impl Directory {
    /// Opens the directory at `path`, through symlinks.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: AT_FDCWD is always a valid place to start from.
        let here = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
        Ok(Self {
            descriptor: open_at(here, &name, libc::O_DIRECTORY)?,
            path: path.to_owned(),
        })
    }

    /// Opens the directory `name` in this one, or `..` above it, not through a symlink; `path` is for messages.
    pub fn open_child(&self, name: &CStr, path: PathBuf) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        Ok(Self {
            descriptor: open_at(self.as_fd(), name, flags)?,
            path,
        })
    }

    /// All names but `.` and `..`, in byte order.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let mut names = vec![];
        let mut buffer = vec![0; 64 << 10];
        loop {
            // SAFETY: `buffer` has as many writable bytes as said.
            let len = unsafe {
                libc::syscall(
                    libc::SYS_getdents64,
                    self.descriptor.as_raw_fd(),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                )
            };
            let Ok(len) = usize::try_from(len) else {
                return Err(io::Error::last_os_error());
            };
            if len == 0 {
                break;
            }
            append_records(&buffer[..len], &mut names)?;
        }
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    /// Opens a file in this directory for reading, if it is regular; symlinks are not followed, a fifo does not block.
    pub fn open_file(&self, name: &CStr) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::from(open_at(self.as_fd(), name, flags)?);
        if metadata::is_file(&metadata::of_descriptor(file.as_fd())?) {
            Ok(file)
        } else {
            Err(io::Error::other("it is not a regular file any more"))
        }
    }

    /// Opens a block device in this directory for reading.
    pub fn open_device(&self, name: &CStr) -> io::Result<File> {
        let file = File::from(open_at(self.as_fd(), name, libc::O_NOFOLLOW)?);
        if metadata::is_block_device(&metadata::of_descriptor(file.as_fd())?) {
            Ok(file)
        } else {
            Err(io::Error::other("it is not a block device any more"))
        }
    }

    /// The path this was reached by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Opens for reading without a trace in the atime, where the kernel allows it: to the owner and to root.
fn open_at(directory: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_RDONLY | libc::O_CLOEXEC;
    let open = |flags| {
        // SAFETY: `name` ends in a NUL, and the descriptor of a successful call is new and ours.
        unsafe {
            match libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) {
                -1 => Err(io::Error::last_os_error()),
                descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
            }
        }
    };
    match open(flags | libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(flags),
        opened => opened,
    }
}

/// Reads records of getdents64(2): inode 8 bytes, offset 8, length of the record 2, type 1, then the name and a NUL.
fn append_records(mut records: &[u8], names: &mut Vec<Listed>) -> io::Result<()> {
    const HEAD_BYTES: usize = 19;
    let broken = || io::Error::other("the kernel's listing makes no sense");
    while !records.is_empty() {
        let head = records.get(..HEAD_BYTES).ok_or_else(broken)?;
        let length = usize::from(u16::from_ne_bytes([head[16], head[17]]));
        let record = records.get(HEAD_BYTES..length).ok_or_else(broken)?;
        let name = CStr::from_bytes_until_nul(record).map_err(|_| broken())?;
        if !matches!(name.to_bytes(), b"." | b".." | b"") {
            names.push(Listed {
                name: name.to_owned(),
                is_directory: match head[18] {
                    libc::DT_UNKNOWN => None,
                    kind => Some(kind == libc::DT_DIR),
                },
            });
        }
        records = &records[length..];
    }
    Ok(())
}

/// Where an entry is: opened and examined later, by any thread. Keeps the directory above it open while it lives.
#[derive(Clone, Debug)]
pub struct FileRef {
    /// `None` for a top that exists nowhere but in the walk.
    parent: Option<Arc<Directory>>,
    name: CString,
    device: u64,
    inode: u64,
    is_device: bool,
}

impl FileRef {
    pub(super) fn new(parent: Arc<Directory>, name: CString, stat: &libc::stat) -> Self {
        Self {
            parent: Some(parent),
            name,
            device: stat.st_dev,
            inode: stat.st_ino,
            is_device: false,
        }
    }

    /// A disk, whose content is read also where it is a block device.
    pub(super) fn of_disk(parent: Arc<Directory>, name: CString, stat: &libc::stat) -> Self {
        Self {
            is_device: metadata::is_block_device(stat),
            ..Self::new(parent, name, stat)
        }
    }

    /// Whether this is a block device whose content is read: nothing that `stat` tells of it changes with that.
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// What is told of a disk: that it is a file, with as many bytes as the device has.
    pub(super) fn metadata_as_file(&self, metadata: Metadata) -> io::Result<Metadata> {
        let (true, Some(parent)) = (self.is_device, &self.parent) else {
            return Ok(metadata);
        };
        Ok(Metadata {
            file_type: Type::File,
            size: parent.open_device(&self.name)?.seek(SeekFrom::End(0))?,
            links: 1,
            ..metadata
        })
    }

    /// The top above several sources: it has no attributes and cannot be opened.
    pub(super) fn nowhere() -> Self {
        Self {
            parent: None,
            name: CString::default(),
            device: 0,
            inode: 0,
            is_device: false,
        }
    }

    /// Opens a regular file (or the block device that a disk is) for reading, without changing its atime where the kernel allows it. Fails with
    /// [`Kind::NotFound`] when it has gone or is another file by now.
    pub fn open(&self) -> Result<File> {
        let parent = self.parent.as_ref().ok_or_else(|| self.replaced())?;
        let failed = |error| Error::io(format!("cannot open {}", self.path().display()), error);
        let opened = match self.is_device {
            true => parent.open_device(&self.name),
            false => parent.open_file(&self.name),
        };
        let file = opened.map_err(failed)?;
        let stat = metadata::of_descriptor(file.as_fd()).map_err(failed)?;
        if (stat.st_dev, stat.st_ino) == (self.device, self.inode) {
            Ok(file)
        } else {
            Err(self.replaced())
        }
    }

    /// The extended attributes and ACLs that `rsync -AX` keeps, of a symlink its own. One call when there are none.
    /// Needs `/proc`. Fails with `TooBig` when they are more than [`super::XATTRS_BYTES_MAX`].
    pub fn xattrs(&self) -> Result<Xattrs> {
        let Some(parent) = &self.parent else {
            return Ok(Xattrs::new());
        };
        // The kernel's calls for attributes relative to a directory are too new; this path leads to the same place
        // and is short however deep the directory is.
        let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.as_bytes());
        let path = CString::new(path).expect("neither part has a NUL");
        xattrs::read(&path).map_err(|error| {
            let path = self.path();
            if error.raw_os_error() == Some(libc::E2BIG) {
                let message = format!(
                    "{} has more than {} KiB of extended attributes; they are left out",
                    path.display(),
                    xattrs::XATTRS_BYTES_MAX >> 10
                );
                return Error::new(Kind::TooBig, message);
            }
            Error::io(
                format!("cannot read the extended attributes of {}", path.display()),
                error,
            )
        })
    }

    /// The path it was found at, for messages.
    pub fn path(&self) -> PathBuf {
        let name = OsStr::from_bytes(self.name.as_bytes());
        match &self.parent {
            Some(parent) if name == "." => parent.path().to_owned(),
            Some(parent) => parent.path().join(name),
            None => PathBuf::new(),
        }
    }

    fn replaced(&self) -> Error {
        let path = self.path();
        Error::new(
            Kind::NotFound,
            format!(
                "{} was replaced while it was being read; the next backup takes the new one",
                path.display()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn file_ref(dir: &Path, name: &CStr) -> FileRef {
        let directory = Arc::new(Directory::open(dir).unwrap());
        let stat = metadata::of_name(directory.as_fd(), name).unwrap();
        FileRef::new(directory, name.to_owned(), &stat)
    }

    #[test]
    fn a_listing_is_in_byte_order_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let long = vec![b'n'; 255];
        let names: [&[u8]; 7] = [b"\x01", b"A", b"a", b"a.b", b"a0", &long, b"\xff\xfe"];
        for name in names.iter().rev() {
            std::fs::write(dir.path().join(OsStr::from_bytes(name)), "").unwrap();
        }
        let listed = Directory::open(dir.path()).unwrap().list().unwrap();
        let listed: Vec<_> = listed.iter().map(|listed| listed.name.as_bytes()).collect();
        assert_eq!(listed, names);
    }

    #[test]
    fn a_listing_longer_than_one_call_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..3000 {
            std::fs::create_dir(dir.path().join(format!("directory-with-a-name-{index:04}")))
                .unwrap();
        }
        let listed = Directory::open(dir.path()).unwrap().list().unwrap();
        assert_eq!(listed.len(), 3000);
        assert!(
            listed
                .iter()
                .all(|listed| listed.is_directory != Some(false))
        );
    }

    #[test]
    fn a_broken_record_is_an_error_not_a_panic() {
        for records in [&[1u8; 7][..], &[0; 24], &[255; 40]] {
            assert!(append_records(records, &mut vec![]).is_err());
        }
    }

    #[test]
    fn a_file_is_opened_by_what_it_is_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let file = file_ref(dir.path(), c"file");
        assert_eq!(io::read_to_string(file.open().unwrap()).unwrap(), "one");
        std::fs::rename(&path, dir.path().join("kept")).unwrap();
        assert_eq!(file.open().unwrap_err().kind(), Kind::NotFound);
        std::fs::write(&path, "two").unwrap();
        assert_eq!(file.open().unwrap_err().kind(), Kind::NotFound);
        std::fs::remove_file(&path).unwrap();
        symlink("kept", &path).unwrap();
        assert!(file.open().is_err());
    }

    #[test]
    fn a_fifo_in_a_files_place_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let file = file_ref(dir.path(), c"file");
        std::fs::remove_file(&path).unwrap();
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: `name` ends in a NUL.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(file.open().is_err());
    }

    #[test]
    fn reading_leaves_no_trace_in_the_atime() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let old = std::time::UNIX_EPOCH;
        let times = std::fs::FileTimes::new().set_accessed(old);
        File::open(&path).unwrap().set_times(times).unwrap();
        io::read_to_string(file_ref(dir.path(), c"file").open().unwrap()).unwrap();
        let atime = std::fs::metadata(&path).unwrap().accessed().unwrap();
        assert_eq!(atime, old);
    }

    #[test]
    fn attributes_are_found_after_a_rename_above() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::create_dir(&old).unwrap();
        std::fs::write(old.join("file"), "").unwrap();
        xattr::set(old.join("file"), "user.a", b"b").unwrap();
        let file = file_ref(&old, c"file");
        std::fs::rename(&old, new).unwrap();
        assert_eq!(
            file.xattrs().unwrap(),
            [(b"user.a".to_vec(), b"b".to_vec())]
        );
    }
}
