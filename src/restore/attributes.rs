//! Owners, modes, extended attributes and times. Order matters: a change of owner clears set-id bits and
//! capabilities, and everything but the time itself moves a time.

use super::directory::{open_in, path_of_handle};
use super::{Place, Shared};
use crate::error::{Error, Kind, Result};
use crate::point::{Attributes, Entry, Node};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

const ACCESS_ACL: &CStr = c"system.posix_acl_access";
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// What is given its attributes: an open file or directory, or what has a name and cannot be opened.
enum Target<'a> {
    Open(&'a OwnedFd),
    /// Held by O_PATH: the calls that need an open file take its path in /proc instead.
    Held(OwnedFd),
}

impl Target<'_> {
    /// Takes hold of a symlink, device, fifo or socket that was made under this name.
    ///
    /// Whoever may write to the directory may put something else there meanwhile, so it is looked at once, through
    /// the handle that everything else uses, and refused with `Failed` unless it is what was made: of the same type
    /// and without another name.
    fn hold(directory: &OwnedFd, name: &CStr, node: &Node) -> Result<Self> {
        let handle = open_in(directory, name, libc::O_PATH)
            .map_err(|error| Error::io("looking at what was made", error))?;
        let held = File::from(handle);
        let facts = held
            .metadata()
            .map_err(|error| Error::io("looking at what was made", error))?;
        if facts.mode() & libc::S_IFMT != node.type_bits() || facts.nlink() != 1 {
            let message = "somebody replaced it while it was restored; restore to a directory that only you may write to";
            return Err(Error::new(Kind::Failed, message));
        }
        Ok(Self::Held(held.into()))
    }

    fn handle(&self) -> libc::c_int {
        match self {
            Self::Open(handle) => handle.as_raw_fd(),
            Self::Held(handle) => handle.as_raw_fd(),
        }
    }

    fn change_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        // SAFETY: the descriptor is open and the name ends in a zero.
        done(unsafe { libc::fchownat(self.handle(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })
    }

    fn change_mode(&self, mode: u32) -> io::Result<()> {
        let Self::Held(held) = self else {
            // SAFETY: the descriptor is open.
            return done(unsafe { libc::fchmod(self.handle(), mode) });
        };
        // Not fchmodat2, which kernels before 6.6 do not have: this way does for all of them.
        let path = path_of_handle(held).map_err(io::Error::other)?;
        // SAFETY: the path ends in a zero; it leads to what is held, wherever its name leads by now.
        done(unsafe { libc::chmod(path.as_ptr(), mode) })
    }

    fn change_time(&self, attributes: &Attributes) -> io::Result<()> {
        let unchanged = libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        };
        let modified = libc::timespec {
            tv_sec: attributes.mtime.seconds,
            tv_nsec: attributes.mtime.nanoseconds.min(999_999_999).into(),
        };
        let times = [unchanged, modified];
        let Self::Held(held) = self else {
            // SAFETY: the descriptor is open and there are two times.
            return done(unsafe { libc::futimens(self.handle(), times.as_ptr()) });
        };
        let path = path_of_handle(held).map_err(io::Error::other)?;
        // SAFETY: the path ends in a zero and there are two times.
        done(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) })
    }

    fn set_xattr(&self, name: &CStr, value: &[u8]) -> io::Result<()> {
        let (value, bytes) = (value.as_ptr().cast(), value.len());
        let Self::Held(held) = self else {
            // SAFETY: the descriptor is open, the name ends in a zero, and the value has the length given.
            return done(unsafe { libc::fsetxattr(self.handle(), name.as_ptr(), value, bytes, 0) });
        };
        let path = path_of_handle(held).map_err(io::Error::other)?;
        // SAFETY: both strings end in a zero, and the value has the length given.
        done(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value, bytes, 0) })
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets this user work in a directory that was there before; its own mode comes at the end.
pub(super) fn make_ours(directory: &OwnedFd) {
    // SAFETY: geteuid cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        // SAFETY: the descriptor is open. If it fails, the first name that cannot be made says so.
        unsafe { libc::fchmod(directory.as_raw_fd(), 0o700) };
    }
}

/// Gives an open, written file its attributes.
pub(super) fn of_file(shared: &Shared, place: &Place, file: &OwnedFd) -> Result<()> {
    apply(shared, &place.path, &Target::Open(file), &place.entry)
}

/// Gives a symlink, device, fifo or socket its attributes.
pub(super) fn of_name(shared: &Shared, place: &Place, name: &CStr) -> Result<()> {
    let target = Target::hold(&place.directory.handle, name, &place.entry.node)?;
    apply(shared, &place.path, &target, &place.entry)
}

/// Gives a directory its attributes.
pub(super) fn of_directory(
    shared: &Shared,
    path: &[u8],
    directory: &OwnedFd,
    entry: &Entry,
) -> Result<()> {
    apply(shared, path, &Target::Open(directory), entry)
}

fn apply(shared: &Shared, path: &[u8], target: &Target, entry: &Entry) -> Result<()> {
    let attributes = &entry.attributes;
    let mut mode = attributes.mode & 0o7777;
    let owner = &attributes.owner;
    let uid = shared.owners.user(owner.uid, &owner.user).number;
    let gid = shared.owners.group(owner.gid, &owner.group).number;
    if let Err(error) = target.change_owner(uid, gid) {
        let error = Error::io(
            format_args!("giving it to owner {uid} and group {gid}"),
            error,
        );
        shared.warning(path, &error);
        // A set-id bit would lend the rights of another user than the one who had set it. The group may still be allowed.
        mode &= !libc::S_ISUID;
        if target.change_owner(u32::MAX, gid).is_err() {
            mode &= !libc::S_ISGID;
        }
    }
    inherit_no_acl(target, entry);
    for (name, value) in &attributes.xattrs {
        let cannot = |error| {
            Error::io(
                format_args!("setting {}", String::from_utf8_lossy(name)),
                error,
            )
        };
        let set = CString::new(name.as_slice())
            .map_err(io::Error::other)
            .and_then(|name| target.set_xattr(&name, value));
        if let Err(error) = set {
            shared.warning(path, &cannot(error));
        }
    }
    if !matches!(entry.node, Node::Symlink(_)) {
        target
            .change_mode(mode)
            .map_err(|error| Error::io("setting its mode", error))?;
    }
    target
        .change_time(attributes)
        .map_err(|error| Error::io("setting its time", error))
}

/// An ACL that the target's directory bequeathed, or that an older file had, is not one of this entry.
fn inherit_no_acl(target: &Target, entry: &Entry) {
    let Target::Open(handle) = target else { return };
    for acl in [ACCESS_ACL, DEFAULT_ACL] {
        let has = entry
            .attributes
            .xattrs
            .iter()
            .any(|(name, _)| name == acl.to_bytes());
        if !has && (acl == ACCESS_ACL || entry.tree().is_some()) {
            // SAFETY: the descriptor is open and the name ends in a zero. Mostly there is none, or no ACLs at all.
            unsafe { libc::fremovexattr(handle.as_raw_fd(), acl.as_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn opened(directory: &Path) -> OwnedFd {
        File::open(directory).expect("opens").into()
    }

    fn mode_of(path: &Path) -> u32 {
        let facts = std::fs::symlink_metadata(path).expect("is there");
        facts.permissions().mode() & 0o7777
    }

    #[test]
    fn what_somebody_put_in_the_place_of_a_node_is_not_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let other = directory.path().join("other");
        std::fs::write(&other, "secret").expect("writes");
        std::fs::set_permissions(&other, PermissionsExt::from_mode(0o600)).expect("is ours");
        symlink(&other, directory.path().join("symlink")).expect("links");
        std::fs::hard_link(&other, directory.path().join("name")).expect("links");
        let handle = opened(directory.path());
        for swapped in [c"symlink", c"name"] {
            let refused = Target::hold(&handle, swapped, &Node::Fifo);
            assert!(refused.is_err(), "{swapped:?} is no fifo");
        }
        assert_eq!(mode_of(&other), 0o600);
    }

    #[test]
    fn a_node_that_is_held_keeps_its_attributes_whatever_its_name_becomes() {
        let directory = tempfile::tempdir().expect("a directory");
        let handle = opened(directory.path());
        // SAFETY: the descriptor is open and the name ends in a zero.
        let made = unsafe { libc::mkfifoat(handle.as_raw_fd(), c"fifo".as_ptr(), 0o600) };
        assert_eq!(made, 0);
        let target = Target::hold(&handle, c"fifo", &Node::Fifo).expect("it is one");
        let (fifo, other) = (
            directory.path().join("fifo"),
            directory.path().join("other"),
        );
        std::fs::rename(&fifo, directory.path().join("moved")).expect("moves");
        std::fs::write(&other, "secret").expect("writes");
        std::fs::set_permissions(&other, PermissionsExt::from_mode(0o600)).expect("is ours");
        symlink(&other, &fifo).expect("links");
        target.change_mode(0o666).expect("is ours");
        let attributes = Attributes {
            mtime: crate::clock::Time::new(5, 0),
            ..Attributes::default()
        };
        target.change_time(&attributes).expect("is ours");
        assert_eq!(mode_of(&other), 0o600);
        assert_eq!(mode_of(&directory.path().join("moved")), 0o666);
        let moved = std::fs::metadata(directory.path().join("moved")).expect("is there");
        assert_eq!(moved.mtime(), 5);
    }
}
