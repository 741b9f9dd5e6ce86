//! Directories of the target: open ones, and names in them. Nothing here follows a symlink.

use super::{Shared, attributes};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Entry, Node};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Directories above the current one that stay open; farther ones are opened anew on the way back, this many at a
/// time. Most processes may open 1024 files.
const OPEN_MAX: usize = 128;

/// A name that no other thread or process uses.
pub(super) fn temporary_name() -> CString {
    CString::new(format!(".keepfs-{}", ObjectId::random())).expect("hexadecimal has no zero byte")
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Opens a name in a directory; a symlink is not followed, and with O_PATH is opened itself.
pub(super) fn open_in(directory: &OwnedFd, name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the descriptor is open and the name ends in a zero; the result is ours alone.
    unsafe {
        checked(libc::openat(
            directory.as_raw_fd(),
            name.as_ptr(),
            flags,
            0o600,
        ))
        .map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

fn open_directory(directory: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    open_in(directory, name, libc::O_RDONLY | libc::O_DIRECTORY)
}

fn c_string(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Error::new(Kind::Damaged, "a name holds a zero byte"))
}

/// An open directory of the target. Whoever is the last to let go of it gives it its attributes.
pub(super) struct Directory<'a> {
    shared: &'a Shared<'a>,
    pub(super) handle: OwnedFd,
    root: Option<Arc<OwnedFd>>,
    path: Vec<u8>,
    entry: Option<Arc<Entry>>,
    complete: AtomicBool,
}

impl Drop for Directory<'_> {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take().filter(|_| self.complete.load(Relaxed)) else {
            return;
        };
        match attributes::of_directory(self.shared, &self.path, &self.handle, &entry) {
            Ok(()) => self.shared.restored(0),
            Err(error) => self.shared.problem(&self.path, error),
        }
    }
}

impl Directory<'_> {
    fn failed(&self, what: &str, name: &CStr, error: io::Error) -> Error {
        Error::io(format_args!("{what} {}", name.to_string_lossy()), error)
    }

    /// A new file for writing.
    pub(super) fn create(&self, name: &CStr) -> Result<OwnedFd> {
        open_in(
            &self.handle,
            name,
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
        )
        .map_err(|error| self.failed("creating", name, error))
    }

    /// Gives what has the name `from` the name `to`; what had that name before is gone.
    pub(super) fn rename(&self, from: &CStr, to: &CStr) -> Result<()> {
        let handle = self.handle.as_raw_fd();
        // SAFETY: the descriptor is open and both names end in a zero.
        checked(unsafe { libc::renameat(handle, from.as_ptr(), handle, to.as_ptr()) })
            .map(|_| ())
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EISDIR | libc::ENOTEMPTY | libc::EEXIST) => Error::new(
                    Kind::AlreadyExists,
                    "a directory of this name is in the way; move it and restore again",
                ),
                _ => self.failed("naming", to, error),
            })
    }

    /// Removes a temporary name, if it is there.
    pub(super) fn unlink(&self, name: &CStr) {
        // SAFETY: the descriptor is open and the name ends in a zero. What cannot be removed is told by its name.
        unsafe { libc::unlinkat(self.handle.as_raw_fd(), name.as_ptr(), 0) };
    }

    /// Makes a symlink, device, fifo or socket.
    pub(super) fn make_node(&self, name: &CStr, node: &Node) -> Result<()> {
        let handle = self.handle.as_raw_fd();
        let result = match node {
            Node::Symlink(target) => {
                let target = c_string(target)?;
                // SAFETY: the descriptor is open and both strings end in a zero.
                unsafe { libc::symlinkat(target.as_ptr(), handle, name.as_ptr()) }
            }
            Node::Block(device) | Node::Character(device) => {
                let mode = node.type_bits() | 0o600;
                // SAFETY: the descriptor is open and the name ends in a zero.
                unsafe { libc::mknodat(handle, name.as_ptr(), mode, *device) }
            }
            _ => {
                let mode = node.type_bits() | 0o600;
                // SAFETY: the descriptor is open and the name ends in a zero.
                unsafe { libc::mknodat(handle, name.as_ptr(), mode, 0) }
            }
        };
        let what = format!("making the {}", node.type_name());
        checked(result)
            .map(|_| ())
            .map_err(|error| Error::io(what, error))
    }

    /// Makes `name` another name of what lies at `path` below the target.
    pub(super) fn link(&self, path: &[u8], name: &CStr) -> Result<()> {
        let root = self
            .root
            .as_ref()
            .expect("every directory of a restore knows its root");
        let (above, last) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        let last = c_string(last)?;
        let above = descend(root, above).map_err(|error| self.failed("linking", name, error))?;
        let temporary = temporary_name();
        // SAFETY: both descriptors are open and both names end in a zero.
        checked(unsafe {
            libc::linkat(
                above.as_raw_fd(),
                last.as_ptr(),
                self.handle.as_raw_fd(),
                temporary.as_ptr(),
                0,
            )
        })
        .map_err(|error| self.failed("linking", name, error))?;
        let renamed = self.rename(&temporary, name);
        // A rename of one name of an inode onto another does nothing, so the temporary one may still be there.
        self.unlink(&temporary);
        renamed
    }
}

fn descend(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let mut handle = root.try_clone()?;
    for name in path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
    {
        handle = open_directory(&handle, &CString::new(name)?)?;
    }
    Ok(handle)
}

/// The directories from the target to where the walk is.
pub(super) struct Levels<'a> {
    shared: &'a Shared<'a>,
    root: Arc<OwnedFd>,
    /// The open ones are the top and the last few.
    levels: Vec<(Arc<Entry>, Option<Arc<Directory<'a>>>)>,
}

impl<'a> Levels<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, target: &Path) -> Result<Self> {
        let cannot = |error| Error::io(format_args!("opening {}", target.display()), error);
        let root = std::fs::File::open(target).map_err(cannot)?;
        let root = Arc::new(OwnedFd::from(root));
        let top = Directory {
            shared,
            handle: root.try_clone().map_err(cannot)?,
            root: Some(root.clone()),
            path: Vec::new(),
            entry: None,
            complete: AtomicBool::new(false),
        };
        let nameless = Arc::new(Entry {
            name: Vec::new(),
            attributes: Default::default(),
            node: Node::Fifo,
        });
        Ok(Self {
            shared,
            root,
            levels: vec![(nameless, Some(Arc::new(top)))],
        })
    }

    /// The target itself is to get this directory's attributes.
    pub(super) fn set_top(&mut self, entry: Arc<Entry>) {
        if let Some((_, Some(directory))) = self.levels.first_mut()
            && let Some(top) = Arc::get_mut(directory)
        {
            top.entry = Some(entry);
        }
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let names: Vec<&[u8]> = self.levels[1..]
            .iter()
            .map(|(entry, _)| entry.name.as_slice())
            .collect();
        names.join(&b'/')
    }

    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name);
        path
    }

    /// The directory where the walk is.
    pub(super) fn current(&mut self) -> Result<Arc<Directory<'a>>> {
        if let Some((_, Some(directory))) = self.levels.last() {
            return Ok(directory.clone());
        }
        self.reopen()?;
        match self.levels.last() {
            Some((_, Some(directory))) => Ok(directory.clone()),
            _ => Err(Error::new(
                Kind::Failed,
                "a directory of the target vanished while it was restored",
            )),
        }
    }

    /// Opens the last levels anew, from the top down.
    fn reopen(&mut self) -> Result<()> {
        let cannot = |error| Error::io("opening a directory of the target again", error);
        let first = self.levels.len().saturating_sub(OPEN_MAX).max(1);
        let mut handle = self.root.try_clone().map_err(cannot)?;
        let mut path = Vec::new();
        for (place, (entry, directory)) in self.levels.iter_mut().enumerate().skip(1) {
            handle = open_directory(&handle, &c_string(&entry.name)?).map_err(cannot)?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(&entry.name);
            if place >= first && directory.is_none() {
                *directory = Some(Arc::new(Directory {
                    shared: self.shared,
                    handle: handle.try_clone().map_err(cannot)?,
                    root: Some(self.root.clone()),
                    path: path.clone(),
                    entry: Some(entry.clone()),
                    complete: AtomicBool::new(false),
                }));
            }
        }
        Ok(())
    }

    /// Makes or opens a directory below the current one, and goes there.
    pub(super) fn enter(&mut self, entry: Arc<Entry>) -> Result<()> {
        let above = self.current()?;
        let name = c_string(&entry.name)?;
        let cannot = |error| above.failed("making", &name, error);
        let parent = above.handle.as_raw_fd();
        // SAFETY: the descriptor is open and the name ends in a zero.
        let make = || checked(unsafe { libc::mkdirat(parent, name.as_ptr(), 0o700) });
        let handle = match make() {
            Ok(_) => open_directory(&above.handle, &name),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                open_directory(&above.handle, &name).or_else(|error| match error.raw_os_error() {
                    // A file or symlink of this name is replaced, as a file is.
                    Some(libc::ENOTDIR | libc::ELOOP) => {
                        above.unlink(&name);
                        make()?;
                        open_directory(&above.handle, &name)
                    }
                    _ => Err(error),
                })
            }
            Err(error) => Err(error),
        };
        let directory = Directory {
            shared: self.shared,
            handle: handle.map_err(cannot)?,
            root: Some(self.root.clone()),
            path: self.path_of(&entry.name),
            entry: Some(entry.clone()),
            complete: AtomicBool::new(false),
        };
        attributes::make_ours(&directory.handle);
        self.levels.push((entry, Some(Arc::new(directory))));
        if let Some(far) = self
            .levels
            .len()
            .checked_sub(OPEN_MAX + 1)
            .filter(|far| *far > 0)
        {
            self.levels[far].1 = None;
        }
        Ok(())
    }

    /// Goes back up: the directory gets its attributes once the files handed over are written.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.current()?.complete.store(true, Relaxed);
        self.levels.pop();
        Ok(())
    }
}

/// The path of an open descriptor, for the calls that know no descriptors.
pub(super) fn path_of_handle(handle: &OwnedFd) -> Result<CString> {
    c_string(format!("/proc/self/fd/{}", handle.as_raw_fd()).as_bytes())
}
