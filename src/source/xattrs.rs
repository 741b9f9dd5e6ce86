//! Extended attributes and POSIX ACLs of one entry.

use std::ffi::{CStr, CString};
use std::io;

/// Names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is kept: what `rsync -AX` keeps as root. Other file systems list attributes of their own making
/// (`lustre.`, `ceph.`) that mean nothing elsewhere.
const KEPT: [&[u8]; 4] = [b"user.", b"security.", b"trusted.", b"system.posix_acl_"];

/// Bytes of names and values that one entry can have: they lie with the entry in a page of its directory, and no page
/// of more than 8 MiB can be read. Linux takes 64 KiB for one value and for all names (XATTR_SIZE_MAX,
/// XATTR_LIST_MAX); ext4 stores less for a file, but XFS and btrfs a value of that size for every name.
pub const XATTRS_BYTES_MAX: usize = 1 << 20;

/// keepfs's own facts are never part of what is backed up.
const RESERVED: &[u8] = b"user.keepfs.";

/// First size of the buffers, in bytes: one call is enough for nearly every file.
const BUFFER_BYTES: usize = 1024;

/// The attributes of what is at `path`, itself and not what a symlink points to. Without attributes this is one call.
/// More than [`XATTRS_BYTES_MAX`] of them fail with `E2BIG`.
pub(super) fn read(path: &CStr) -> io::Result<Xattrs> {
    let mut found = Xattrs::new();
    let mut bytes = 0;
    for name in names(path)? {
        if let Some(value) = value(path, &name)? {
            bytes += name.count_bytes() + value.len();
            if bytes > XATTRS_BYTES_MAX {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            found.push((name.into_bytes(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn names(path: &CStr) -> io::Result<Vec<CString>> {
    let list = filled(|buffer, len| {
        // SAFETY: `path` ends in a NUL and `buffer` has `len` writable bytes.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), len) }
    });
    let list = match list {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(vec![]),
        list => list?,
    };
    let names = list.split_inclusive(|&byte| byte == 0);
    Ok(names
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        .filter(|name| is_kept(name.to_bytes()))
        .map(CStr::to_owned)
        .collect())
}

fn is_kept(name: &[u8]) -> bool {
    KEPT.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with(RESERVED)
}

/// `None` when the attribute has gone since it was listed.
fn value(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let value = filled(|buffer, len| {
        // SAFETY: both strings end in a NUL and `buffer` has `len` writable bytes.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.cast(), len) }
    });
    match value {
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        value => value.map(Some),
    }
}

/// What `call` writes into a buffer that is made larger until it fits.
fn filled(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if let Ok(len) = usize::try_from(call(buffer.as_mut_ptr(), buffer.len())) {
            buffer.truncate(len);
            return Ok(buffer);
        }
        let error = io::Error::last_os_error();
        // The kernel limits both lists and values to 64 KiB (XATTR_SIZE_MAX, XATTR_LIST_MAX).
        if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() > 1 << 20 {
            return Err(error);
        }
        buffer.resize(buffer.len() * 8, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn of(path: &std::path::Path) -> Xattrs {
        read(&CString::new(path.as_os_str().as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn all_kinds_are_read_sorted_and_our_own_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let long = vec![7; 3000];
        // Version 2, one entry for user 1000 between owner, group, mask and others (acl(5), posix_acl_xattr.h).
        let mut acl = vec![2, 0, 0, 0];
        for (tag, mode, id) in [
            (1u16, 6u16, u32::MAX),
            (2, 4, 1000),
            (4, 4, u32::MAX),
            (16, 4, u32::MAX),
            (32, 4, u32::MAX),
        ] {
            acl.extend(tag.to_le_bytes());
            acl.extend(mode.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        let expected: [(&str, &[u8]); 5] = [
            ("security.keep", b"s"),
            ("system.posix_acl_access", &acl),
            ("trusted.keep", b"t"),
            ("user.empty", b""),
            ("user.long", &long),
        ];
        for (name, value) in expected.iter().rev() {
            xattr::set(&path, name, value).unwrap();
        }
        xattr::set(&path, "user.keepfs.state", b"complete").unwrap();
        let found = of(&path);
        let expected: Xattrs = expected
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_default_acl_of_a_directory_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut acl = vec![2, 0, 0, 0];
        for tag in [1u16, 4, 32] {
            acl.extend(tag.to_le_bytes());
            acl.extend(5u16.to_le_bytes());
            acl.extend(u32::MAX.to_le_bytes());
        }
        xattr::set(dir.path(), "system.posix_acl_default", &acl).unwrap();
        assert_eq!(
            of(dir.path()),
            [(b"system.posix_acl_default".to_vec(), acl)]
        );
    }

    #[test]
    fn a_symlink_has_its_own_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        xattr::set(&file, "user.of", b"file").unwrap();
        xattr::set(&link, "trusted.of", b"link").unwrap();
        assert_eq!(of(&link), [(b"trusted.of".to_vec(), b"link".to_vec())]);
    }

    #[test]
    fn more_than_a_page_of_a_tree_can_hold_are_refused() {
        // Unlike most others this file system takes as many as one likes.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
        let value = vec![7; 65_536];
        for index in 0..15 {
            xattr::set(dir.path(), format!("trusted.{index}"), &value).unwrap();
        }
        assert_eq!(read(&path).unwrap().len(), 15);
        xattr::set(dir.path(), "trusted.15", &value).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
    }

    #[test]
    fn many_names_are_listed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let name = |index| format!("user.a-rather-long-name-that-fills-the-list-{index:03}");
        for index in 0..60 {
            xattr::set(dir.path(), name(index), b"").unwrap();
        }
        let found = of(dir.path());
        assert_eq!(found.len(), 60);
        assert!((0..60).all(|index| found[index].0 == name(index).into_bytes()));
    }
}
