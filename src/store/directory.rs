//! A store in a directory: one file an object, durable against power loss.
//!
//! An object is written to `tmp/`, synced, then given its name in one step that fails when the name is taken; at last
//! its directory is synced, and so is every directory above it that this process has not synced before. Whatever is
//! cut off in between leaves a file in `tmp/` that no listing shows and that a later process removes.
//!
//! `tmp/` also tells an unmounted disk from an empty one: it is made once, with the first object, and when it is gone
//! afterwards so is the store. Nothing is ever written into the bare mount point.

use super::{Object, Refused, Space, Store, Trouble, Upload, WHOLE_BYTES_MAX, refusal};
use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Unfinished objects; not part of any listing.
const TEMPORARY: &str = "tmp";
/// Age from which an unfinished object is removed when nobody holds its lock. Its writer, who may pause for days, does;
/// the age is for the moment before it has the lock, and for file systems without locks.
const STALE_SECONDS: i64 = 24 * 60 * 60;
/// Small writes are gathered to this many bytes; larger ones go straight to the kernel.
const BUFFER_BYTES: usize = 1 << 20;
/// The kernel is told to start writing after every this many bytes, so that the sync at the end has little left to do.
const WRITEBACK_BYTES: u64 = 8 << 20;
/// Objects never change, so not even their owner may write them by accident.
const FILE_MODE: u32 = 0o400;
const DIRECTORY_MODE: u32 = 0o700;

/// Objects as files below one directory. Clones share their state.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Device and inode of the root when the store was opened.
    identity: (u64, u64),
    /// `tmp/` was seen or made; from now on its absence means that the disk is gone.
    temporary_seen: AtomicBool,
    /// Directories whose own names are known to be durable.
    durable: Mutex<HashSet<PathBuf>>,
}

impl DirectoryStore {
    /// The store in the existing directory `root`. Fails with [`Kind::NoRepository`] when there is none; changes
    /// nothing except removing what a dead writer left behind.
    pub fn open(root: &Path) -> Result<Self> {
        let found = fs::metadata(root).and_then(|root_now| {
            let directory = root_now.is_dir();
            directory
                .then_some((root_now.dev(), root_now.ino()))
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTDIR))
        });
        let identity = found.map_err(|error| no_directory(root, error))?;
        let store = Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                identity,
                temporary_seen: AtomicBool::new(root.join(TEMPORARY).is_dir()),
                durable: Mutex::default(),
            }),
        };
        store.inner.remove_stale(Clock::system().now());
        Ok(store)
    }

    /// As [`Self::open`], but makes the directory (and those above it) when it is missing.
    pub fn open_or_make(root: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(root)
            .map_err(|error| Error::io(format!("cannot make {}", root.display()), error))?;
        if let Some(parent) = root
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            sync_directory(parent)
                .map_err(|error| Error::io(format!("cannot sync {}", parent.display()), error))?;
        }
        Self::open(root)
    }
}

fn no_directory(root: &Path, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Error::new(
            Kind::NoRepository,
            format!(
                "{} is not a directory; mount the disk that holds it, or run `keepfs init`",
                root.display()
            ),
        )
        .caused_by(error),
        _ => Error::io(format!("cannot open {}", root.display()), error),
    }
}

impl Inner {
    fn path(&self, name: &str) -> Result<PathBuf> {
        refusal::check_name(name)?;
        if name == TEMPORARY || name.starts_with("tmp/") {
            return Err(Error::new(
                Kind::Invalid,
                format!("{name:?} is no object's name"),
            ));
        }
        Ok(self.root.join(name))
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }

    /// What `error` means for `name`: an absent file is only an answer while the store itself is there.
    fn failed(&self, verb: &str, name: &str, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if self.is_there() => {
                refusal::not_found(name, &self.location())
            }
            Some(libc::ENOENT | libc::ENOTDIR) => self.gone(),
            Some(libc::EEXIST) => refusal::already_exists(name, &self.location()),
            Some(libc::ENOSPC) => Error::new(
                Kind::Full,
                format!(
                    "cannot {verb} {name}: the disk of {} is full; make room",
                    self.location()
                ),
            )
            .caused_by(error),
            // Twice in a row, see `twice`: a disk that cannot read one place back often still reads the others. When it
            // reads nothing at all, the object is not to blame.
            Some(libc::EIO) if !self.is_there() => self.gone(),
            Some(libc::EIO) if verb == "read" => Error::new(
                Kind::Damaged,
                format!(
                    "the disk cannot read {name} in {}; run `keepfs check`",
                    self.location()
                ),
            )
            .caused_by(error),
            _ => Error::io(
                format!("cannot {verb} {name} in {}", self.location()),
                error,
            ),
        }
    }

    fn gone(&self) -> Error {
        Error::new(
            Kind::Unreachable,
            format!(
                "the store at {} has vanished; mount its disk again",
                self.location()
            ),
        )
    }

    fn is_there(&self) -> bool {
        if self.temporary_seen.load(Ordering::Acquire) {
            return self.root.join(TEMPORARY).is_dir();
        }
        fs::metadata(&self.root).is_ok_and(|root| (root.dev(), root.ino()) == self.identity)
    }

    /// Makes `tmp/` with the first object, in the very directory that was opened.
    fn ensure_temporary(&self) -> io::Result<()> {
        if self.temporary_seen.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.is_there() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        make_directory(&self.root.join(TEMPORARY))?;
        self.temporary_seen.store(true, Ordering::Release);
        Ok(())
    }

    fn remove_stale(&self, now: Time) {
        let Ok(entries) = fs::read_dir(self.root.join(TEMPORARY)) else {
            return;
        };
        for entry in entries.flatten() {
            let stale = entry
                .metadata()
                .is_ok_and(|file| file.is_file() && file.mtime() < now.seconds - STALE_SECONDS);
            if stale && !is_locked(&entry.path()) {
                // Somebody else may be faster, or the disk read-only: what stays costs room, nothing more.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Makes the directories above `path` and makes their names durable, once in this process for each.
    fn ensure_parents(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent().filter(|parent| *parent != self.root) else {
            return Ok(());
        };
        if self.durable.lock().contains(parent) {
            return Ok(());
        }
        self.ensure_parents(parent)?;
        make_directory(parent)?;
        // Also when it existed: another process may have made it and not synced it yet.
        sync_directory(parent.parent().unwrap_or(&self.root))?;
        self.durable.lock().insert(parent.to_owned());
        Ok(())
    }

    /// Gives the synced temporary file its name, durably, unless the name is taken.
    fn publish(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        // After a lazy unmount the path leads to the bare mount point, where nothing may be made.
        if !self.is_there() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        self.ensure_parents(path)?;
        let result = rename_new(temporary, path);
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            // Somebody removed an empty directory that we made earlier.
            self.durable.lock().clear();
            self.ensure_parents(path)?;
            rename_new(temporary, path)?;
        } else {
            result?;
        }
        sync_directory(path.parent().unwrap_or(&self.root))
    }

    fn walk(&self, directory: &Path, name: &str, objects: &mut Vec<Object>) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let file_name = entry.file_name();
            // We give no such names, so it is nobody's object.
            let Some(part) = file_name.to_str() else {
                continue;
            };
            if name.is_empty() && part == TEMPORARY {
                continue;
            }
            let below = format!("{name}{part}");
            match fs::metadata(entry.path()) {
                Ok(found) if found.is_dir() => {
                    skip_vanished(self.walk(&entry.path(), &format!("{below}/"), objects))?
                }
                Ok(found) => objects.push(object(below, &found)),
                Err(error) => skip_vanished(Err(error))?,
            }
        }
        Ok(())
    }
}

/// Whether a living writer holds this unfinished object.
fn is_locked(path: &Path) -> bool {
    let locked = File::open(path).map(|file| file.try_lock());
    matches!(locked, Ok(Err(TryLockError::WouldBlock)))
}

/// What was deleted during a listing is not in it.
fn skip_vanished(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn object(name: String, file: &fs::Metadata) -> Object {
    Object {
        name,
        size: file.len(),
        modified: Time::new(file.mtime(), file.mtime_nsec() as u32),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Renames `from` to `to`; EEXIST when `to` exists, by one atomic step. File systems without such a rename (NFS)
/// get a hard link, which refuses an existing name as well.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (c_from, c_to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both are NUL-terminated strings that live until the call returns.
    let answer = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            c_from.as_ptr(),
            libc::AT_FDCWD,
            c_to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS) => {
            linked(fs::hard_link(from, to), from)?;
            // The object has its name; a second one in `tmp/` is removed as stale.
            let _ = fs::remove_file(from);
            Ok(())
        }
        _ => Err(error),
    }
}

/// What a link's result means. NFS sends a request whose answer was lost again and is then told that the name is
/// taken: by us, if our file has two names.
fn linked(result: io::Result<()>, from: &Path) -> io::Result<()> {
    match result {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists
                && fs::metadata(from).is_ok_and(|file| file.nlink() == 2) =>
        {
            Ok(())
        }
        result => result,
    }
}

impl Store for DirectoryStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        let path = self.inner.path(name)?;
        let read = || {
            let mut content = Vec::new();
            let file = File::open(&path)?;
            file.take(WHOLE_BYTES_MAX + 1).read_to_end(&mut content)?;
            Ok(content)
        };
        let content = twice(read).map_err(|error| self.inner.failed("read", name, error))?;
        if content.len() as u64 > WHOLE_BYTES_MAX {
            return Err(refusal::too_large(name, &self.location()));
        }
        Ok(content.into())
    }

    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        self.get(name).map_err(|error| match error.kind() {
            // Nothing else makes a directory unreachable than that it, or its disk, is gone.
            Kind::Unreachable => Refused {
                trouble: Trouble::DirectoryMissing,
                error,
            },
            _ => Refused::by_kind(error),
        })
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        refusal::check_range(name, &range)?;
        let failed = |error| self.inner.failed("read", name, error);
        let file = File::open(self.inner.path(name)?).map_err(failed)?;
        // The size first: a damaged index must not make us allocate what no object holds.
        if file.metadata().map_err(failed)?.len() < range.end {
            return Err(refusal::too_short(name, &self.location(), &range));
        }
        let mut content = vec![0; (range.end - range.start) as usize];
        match twice(|| file.read_exact_at(&mut content, range.start)) {
            Ok(()) => Ok(content.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(refusal::too_short(name, &self.location(), &range))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn head(&self, name: &str) -> Result<Object> {
        let found = fs::metadata(self.inner.path(name)?)
            .map_err(|error| self.inner.failed("look at", name, error))?;
        if found.is_dir() {
            return Err(refusal::not_found(name, &self.location()));
        }
        Ok(object(name.to_owned(), &found))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let directory = match prefix.strip_suffix('/') {
            Some(parent) => self.inner.path(parent)?,
            None if prefix.is_empty() => self.inner.root.clone(),
            None => return Err(refusal::not_a_prefix(prefix)),
        };
        let mut objects = Vec::new();
        match self.inner.walk(&directory, prefix, &mut objects) {
            Ok(()) => {}
            Err(error) => match self.inner.failed("list", prefix, error) {
                // No directory, no objects: it is made with the first one.
                absent if absent.kind() == Kind::NotFound => {}
                error => return Err(error),
            },
        }
        // The bare mount point of a disk that is gone lists nothing as well.
        if objects.is_empty() && !self.inner.is_there() {
            return Err(self.inner.gone());
        }
        objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        let mut upload = DirectoryUpload::start(&self.inner, name)?;
        upload.write(content)?;
        Box::new(upload).finish()
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        Ok(Box::new(DirectoryUpload::start(&self.inner, name)?))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.inner.path(name)?;
        let removed = fs::remove_file(&path)
            .and_then(|()| sync_directory(path.parent().unwrap_or(&self.inner.root)));
        match removed.map_err(|error| self.inner.failed("delete", name, error)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            other => other,
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        let failed = |error| self.inner.failed("measure", "the disk", error);
        if !self.inner.is_there() {
            return Err(self.inner.gone());
        }
        let path = c_path(&self.inner.root).map_err(failed)?;
        // SAFETY: all zeroes is a valid statvfs, a structure of integers only.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is NUL-terminated and `found` is a whole statvfs; both live until the call returns.
        if unsafe { libc::statvfs(path.as_ptr(), &mut found) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Some(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        }))
    }
}

/// A file in `tmp/` on its way to a name; removed when dropped without one.
struct DirectoryUpload {
    inner: Arc<Inner>,
    name: String,
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    written: u64,
    failed: bool,
}

impl DirectoryUpload {
    fn start(inner: &Arc<Inner>, name: &str) -> Result<Self> {
        let path = inner.path(name)?;
        let unique = format!("{}-{}", std::process::id(), ObjectId::random());
        let temporary = inner.root.join(TEMPORARY).join(unique);
        let file = inner
            .ensure_temporary()
            .and_then(|()| {
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&temporary)
            })
            .map_err(|error| match inner.failed("write", name, error) {
                // `tmp/` is there and yet the file could not be made in it: it went and came back.
                error if error.kind() == Kind::NotFound => inner.gone(),
                error => error,
            })?;
        // Tells other processes that its writer lives. Where there are no locks, its age alone does.
        let _ = file.try_lock();
        Ok(Self {
            inner: Arc::clone(inner),
            name: name.to_owned(),
            path,
            temporary,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            written: 0,
            failed: false,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let before = self.written / WRITEBACK_BYTES;
        self.written += bytes.len() as u64;
        if self.written / WRITEBACK_BYTES > before {
            start_writeback(self.file.get_ref());
        }
        Ok(())
    }

    fn publish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let file = self.file.get_ref();
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        file.sync_all()?;
        self.inner.publish(&self.temporary, &self.path)
    }

    fn check_alive(&self) -> Result<()> {
        if !self.failed {
            return Ok(());
        }
        Err(Error::new(
            Kind::Failed,
            format!("writing {} has failed before; start it again", self.name),
        ))
    }
}

/// Reads again what the disk or the server under it failed to read: once is a mishap, twice is damage.
fn twice<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match read() {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => read(),
        result => result,
    }
}

/// Starts writing what is dirty, without waiting. Only a hint, so its failure means nothing: the sync at the end counts.
fn start_writeback(file: &File) {
    // SAFETY: a call on an open descriptor that touches no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

impl Upload for DirectoryUpload {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.check_alive()?;
        self.append(&bytes).map_err(|error| {
            self.failed = true;
            self.inner.failed("write", &self.name, error)
        })
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.check_alive()?;
        self.publish().map_err(
            |error| match self.inner.failed("write", &self.name, error) {
                // Its own temporary file or directory is missing: no caller asked for something that is not there.
                error if error.kind() == Kind::NotFound => self.inner.gone(),
                error => error,
            },
        )
    }
}

impl Drop for DirectoryUpload {
    fn drop(&mut self) {
        // Gone already when it was finished; what cannot be removed now is removed as stale.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_files_of_dead_writers_go_and_young_ones_stay() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = DirectoryStore::open(directory.path()).expect("opens");
        store
            .create("header", Bytes::from_static(b"x"))
            .expect("creates");
        let temporary = directory.path().join(TEMPORARY);
        let (old, young) = (temporary.join("1-old"), temporary.join("1-young"));
        fs::write(&old, b"o").expect("writes");
        fs::write(&young, b"y").expect("writes");
        let now = Clock::system().now();
        let two_days_ago = Time::new(now.seconds - 2 * STALE_SECONDS, 0);
        File::options()
            .write(true)
            .open(&old)
            .and_then(|file| file.set_modified(two_days_ago.into()))
            .expect("sets the time");
        DirectoryStore::open(directory.path()).expect("opens");
        assert!(!old.exists());
        assert!(young.exists());
    }

    #[test]
    fn an_idle_upload_is_no_stale_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = DirectoryStore::open(directory.path()).expect("opens");
        let mut upload = store.upload("packs/data/aa/1").expect("starts");
        upload
            .write(vec![7; 2 * BUFFER_BYTES].into())
            .expect("writes");
        let unfinished = fs::read_dir(directory.path().join(TEMPORARY))
            .expect("lists")
            .next()
            .expect("is there")
            .expect("is read");
        File::options()
            .write(true)
            .open(unfinished.path())
            .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
            .expect("sets the time");
        DirectoryStore::open(directory.path()).expect("opens");
        upload.finish().expect("is still there");
        store.head("packs/data/aa/1").expect("has its name");
    }

    #[test]
    fn a_link_that_was_sent_twice_is_ours() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, b"new").expect("writes");
        fs::write(&to, b"old").expect("writes");
        let taken = linked(fs::hard_link(&from, &to), &from).expect_err("by another");
        assert_eq!(taken.raw_os_error(), Some(libc::EEXIST));
        fs::remove_file(&to).expect("removes");
        fs::hard_link(&from, &to).expect("the first time");
        linked(fs::hard_link(&from, &to), &from).expect("the second time");
    }

    #[test]
    fn nothing_is_made_where_the_disk_was() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let (root, away) = (parent.path().join("mnt"), parent.path().join("away"));
        fs::create_dir(&root).expect("makes");
        let store = DirectoryStore::open(&root).expect("opens");
        store
            .create("header", Bytes::from_static(b"x"))
            .expect("creates");
        let mut upload = store.upload("packs/data/aa/1").expect("starts");
        upload.write(Bytes::from_static(b"x")).expect("writes");
        fs::rename(&root, &away).expect("unmounts");
        fs::create_dir(&root).expect("makes the bare mount point");
        let failed = upload.finish().expect_err("the disk is gone");
        assert_eq!(failed.kind(), Kind::Unreachable);
        assert_eq!(fs::read_dir(&root).expect("lists").count(), 0);
    }

    #[test]
    fn a_read_that_fails_once_is_made_again() {
        let eio = || io::Error::from_raw_os_error(libc::EIO);
        let mut turns = 0;
        let read = twice(|| {
            turns += 1;
            if turns == 1 { Err(eio()) } else { Ok(turns) }
        });
        assert_eq!(read.expect("the second time"), 2);
        twice(|| Err::<(), _>(eio())).expect_err("twice");
    }

    #[test]
    fn a_huge_object_is_not_read_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = DirectoryStore::open(directory.path()).expect("opens");
        fs::create_dir(directory.path().join("points")).expect("makes");
        File::create(directory.path().join("points/1"))
            .and_then(|file| file.set_len(1 << 40))
            .expect("makes");
        let refused = store.get("points/1").expect_err("is too large");
        assert_eq!(refused.kind(), Kind::Damaged);
    }

    #[test]
    fn a_rename_never_replaces() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, b"new").expect("writes");
        fs::write(&to, b"old").expect("writes");
        let refused = rename_new(&from, &to).expect_err("the name is taken");
        assert_eq!(refused.raw_os_error(), Some(libc::EEXIST));
        assert_eq!(fs::read(&to).expect("reads"), b"old");
    }

    #[test]
    fn objects_are_private_and_read_only() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = DirectoryStore::open(directory.path()).expect("opens");
        store
            .create("keys/a", Bytes::from_static(b"x"))
            .expect("creates");
        let mode = |path: &str| {
            let found = fs::metadata(directory.path().join(path)).expect("is there");
            found.permissions().mode() & 0o777
        };
        assert_eq!(
            (mode("keys"), mode("keys/a"), mode("tmp")),
            (0o700, 0o400, 0o700)
        );
    }
}
