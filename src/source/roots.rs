//! The sources of a walk: which directory or which several things it starts from, and what keepfs must stay out of.

use super::cluster::NamedSource;
use super::directory::Directory;
use super::metadata;
use crate::error::{Error, Kind, Result};
use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Where a walk starts.
#[derive(Debug)]
pub(super) enum Roots {
    /// One directory, whose entries are the top's; with its absolute path.
    One(Directory),
    /// Several sources under one top, in byte order of their base names.
    Several(Vec<Root>),
}

/// Several sources under one name of the top.
#[derive(Debug)]
pub(super) struct Group {
    pub name: &'static [u8],
    pub roots: Vec<Root>,
}

/// One of several sources.
#[derive(Debug)]
pub(super) struct Root {
    /// Its base name as it was given, or the name that it was given: its name in what holds it.
    pub base_name: Vec<u8>,
    /// Whether it is read as a disk, unless it is a directory.
    pub is_disk: bool,
    /// Its absolute path as it was given.
    pub path: PathBuf,
    /// The directory that holds it, and its name there, symlinks resolved.
    pub parent: Arc<Directory>,
    pub name: CString,
}

impl Roots {
    /// Opens `sources`. A source that is a symlink is followed: who names it wants what is there.
    /// [`Kind::Invalid`] when there is none, or two have the same base name.
    pub fn open(sources: &[PathBuf]) -> Result<Self> {
        if sources.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                "no source is given: name a directory or a file",
            ));
        }
        if let [source] = sources
            && source.is_dir()
        {
            let path = absolute(source)?;
            let directory = Directory::open(&path).map_err(|error| failed(source, error))?;
            return Ok(Self::One(directory));
        }
        let mut roots = sources
            .iter()
            .map(|source| Root::open(source))
            .collect::<Result<Vec<_>>>()?;
        refuse_equal_names(&roots)?;
        roots.sort_by(|a, b| a.base_name.cmp(&b.base_name));
        Ok(Self::Several(roots))
    }
}

impl Group {
    pub(super) fn open(
        name: &'static [u8],
        sources: &[NamedSource],
        is_disk: bool,
    ) -> Result<Self> {
        let open = |source: &NamedSource| {
            let path = absolute(&source.path)?;
            Root::open_as(source.name.clone(), path, &source.path, is_disk)
        };
        let mut roots = sources.iter().map(open).collect::<Result<Vec<_>>>()?;
        refuse_equal_names(&roots)?;
        roots.sort_by(|a, b| a.base_name.cmp(&b.base_name));
        Ok(Self { name, roots })
    }
}

impl Root {
    fn open(source: &Path) -> Result<Self> {
        let path = absolute(source)?;
        let base_name = path.file_name().ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!(
                    "{} has no name of its own among several sources; back it up alone",
                    source.display()
                ),
            )
        })?;
        let base_name = base_name.as_bytes().to_owned();
        Self::open_as(base_name, path, source, false)
    }

    fn open_as(base_name: Vec<u8>, path: PathBuf, source: &Path, is_disk: bool) -> Result<Self> {
        let target = path.canonicalize().map_err(|error| failed(source, error))?;
        let (parent, name) = match (target.parent(), target.file_name()) {
            (Some(parent), Some(name)) => (parent, name.as_bytes()),
            _ => (target.as_path(), &b"."[..]),
        };
        Ok(Self {
            base_name,
            is_disk,
            parent: Arc::new(Directory::open(parent).map_err(|error| failed(source, error))?),
            name: CString::new(name).expect("a path that was resolved has no NUL"),
            path,
        })
    }
}

fn refuse_equal_names(roots: &[Root]) -> Result<()> {
    let mut seen = HashSet::new();
    match roots.iter().find(|root| !seen.insert(&root.base_name)) {
        None => Ok(()),
        Some(root) => Err(Error::new(
            Kind::Invalid,
            format!(
                "two sources have the name {:?}, the second is {}; back them up separately or name a directory above both",
                String::from_utf8_lossy(&root.base_name),
                root.path.display()
            ),
        )),
    }
}

/// The absolute path as a person would write it: symlinks stay, unless `..` makes that meaningless.
pub(super) fn absolute(source: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(source).map_err(|error| failed(source, error))?;
    if absolute
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return absolute
            .canonicalize()
            .map_err(|error| failed(source, error));
    }
    // Taken apart and put together without a trailing slash.
    Ok(absolute.components().collect())
}

fn failed(source: &Path, error: io::Error) -> Error {
    Error::io(
        format!("cannot open the source {}", source.display()),
        error,
    )
}

/// Whether `directory`, a mount point, is a mount of keepfs. Reading it would back up the backups.
pub(super) fn is_keepfs(directory: &Directory, device: u64) -> bool {
    if !is_fuse(directory) {
        return false;
    }
    let has_control_tree = metadata::of_name(directory.as_fd(), c".keepfs")
        .is_ok_and(|stat| metadata::is_directory(&stat));
    // A bind mount of one repository has no control tree; the table of mounts knows the name.
    has_control_tree
        || std::fs::read("/proc/self/mountinfo").is_ok_and(|table| names_keepfs(&table, device))
}

fn is_fuse(directory: &Directory) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open and `found` has room for one.
    let done = unsafe { libc::fstatfs(directory.as_fd().as_raw_fd(), found.as_mut_ptr()) };
    // SAFETY: read only when the call succeeded and has filled it.
    done == 0 && unsafe { found.assume_init() }.f_type == libc::FUSE_SUPER_MAGIC
}

/// Whether the table of mounts (proc_pid_mountinfo(5)) has `device` as keepfs: by the type after the lone dash
/// (`fuse.keepfs`) or by the source behind it.
fn names_keepfs(table: &[u8], device: u64) -> bool {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    table.split(|&byte| byte == b'\n').any(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let is_device = fields.nth(2) == Some(number.as_bytes());
        let mut behind = fields.skip_while(|field| field != b"-").skip(1);
        let file_system = behind.next().unwrap_or_default();
        let source = behind.next().unwrap_or_default();
        is_device && (file_system == b"fuse.keepfs" || source == b"keepfs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts_tells_keepfs() {
        let table = b"36 35 0:52 / /mnt/keep rw,nosuid shared:5 - fuse.keepfs keepfs rw\n\
            37 35 0:53 /x /mnt/a\\040b rw - fuse keepfs rw\n\
            38 35 0:54 / /mnt/other rw - fuse.sshfs host:/x rw\n";
        let found = [52, 53, 54, 55].map(|minor| names_keepfs(table, libc::makedev(0, minor)));
        assert_eq!(found, [true, true, false, false]);
    }

    #[test]
    fn equal_base_names_are_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/x", "b/x"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let sources = [dir.path().join("a/x/"), dir.path().join("b/x")];
        let refused = Roots::open(&sources).unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid);
        assert!(refused.message().contains("\"x\""), "{refused}");
        assert_eq!(Roots::open(&[]).unwrap_err().kind(), Kind::Invalid);
        let root = [dir.path().join("a"), "/".into()];
        assert_eq!(Roots::open(&root).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_missing_source_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Roots::open(&[dir.path().join("none")]).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
    }
}
