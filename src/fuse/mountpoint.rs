//! The mount itself: mount(2), taking it away again, and what a dead daemon left behind.

use super::MountOptions;
use crate::error::{Error, Kind, Result};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the kernel reads ahead once root allows it: +15-50 % for readers in order.
const KERNEL_READ_AHEAD_KIB: &str = "1024";

/// Whether this process may mount by itself.
pub(super) fn is_root() -> bool {
    // SAFETY: geteuid reads a number of the process and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(Kind::Invalid, format!("{} is not a path", path.display())))
}

/// The directory to mount on, free of what a killed daemon may have left there.
pub(super) fn prepare(directory: &Path) -> Result<PathBuf> {
    // Opened, not examined: the kernel still knows the attributes of a dead mount for a while.
    if let Err(error) = File::open(directory)
        && error.raw_os_error() == Some(libc::ENOTCONN)
    {
        tracing::info!(
            "{}: a mount without its daemon is taken away",
            directory.display()
        );
        detach(directory)?;
    }
    let what = || format!("mounting on {}", directory.display());
    let full = directory
        .canonicalize()
        .map_err(|error| Error::io(what(), error))?;
    if !full.is_dir() {
        let message = format!("{} is not a directory; make one first", full.display());
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(full)
}

/// Mounts by mount(2), as root: the kernel's end of the connection.
pub(super) fn mount(directory: &Path, wanted: &MountOptions) -> Result<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|error| Error::io("opening /dev/fuse (is the fuse module loaded?)", error))?;
    let mode = std::fs::metadata(directory)
        .map_err(|error| Error::io(format_args!("mounting on {}", directory.display()), error))?
        .mode();
    let mut options = format!(
        "fd={},rootmode={mode:o},user_id=0,group_id=0,default_permissions",
        device.as_raw_fd()
    );
    if wanted.allow_other {
        options.push_str(",allow_other");
    }
    let (source, target) = (c_path(Path::new(&wanted.source))?, c_path(directory)?);
    let options = CString::new(options).expect("the options hold no NUL");
    // SAFETY: all four strings end in a NUL and live through the call.
    let answer = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            c"fuse.keepfs".as_ptr(),
            wanted.access.flags(),
            options.as_ptr().cast(),
        )
    };
    if answer == 0 {
        return Ok(device.into());
    }
    let error = io::Error::last_os_error();
    Err(Error::io(
        format_args!("mounting on {}", directory.display()),
        error,
    ))
}

/// What the kernel refuses below a mount, whatever owners and modes allow. Set-id bits and devices never count: they are
/// facts of the hosts that were backed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Every change.
    pub read_only: bool,
    /// To run a program.
    pub no_exec: bool,
}

impl Access {
    fn flags(self) -> libc::c_ulong {
        let read_only = if self.read_only { libc::MS_RDONLY } else { 0 };
        let no_exec = if self.no_exec { libc::MS_NOEXEC } else { 0 };
        libc::MS_NOSUID | libc::MS_NODEV | read_only | no_exec
    }
}

/// Shows the directory `from` of a mount at `directory` too. What a dead daemon left there is taken away.
pub fn bind(from: &Path, directory: &Path, access: Access) -> Result<()> {
    let directory = prepare(directory)?;
    bind_call(Some(from), &directory, libc::MS_BIND)?;
    rebind(&directory, access).inspect_err(|_| {
        // Better nothing than something that may be changed; the failure itself is told.
        let _ = umount(&directory, 0);
    })
}

/// Changes what the kernel refuses at what is mounted there.
pub fn rebind(directory: &Path, access: Access) -> Result<()> {
    let flags = libc::MS_REMOUNT | libc::MS_BIND | access.flags();
    bind_call(None, directory, flags)
}

fn bind_call(from: Option<&Path>, directory: &Path, flags: libc::c_ulong) -> Result<()> {
    let from = from.map(c_path).transpose()?;
    let from = from.as_ref().map_or(std::ptr::null(), |from| from.as_ptr());
    let target = c_path(directory)?;
    let (kind, data) = (std::ptr::null(), std::ptr::null());
    // SAFETY: both paths end in a NUL and live through the call; the kernel takes null for what a bind does not need.
    if unsafe { libc::mount(from, target.as_ptr(), kind, flags, data) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(Error::io(
        format_args!("mounting on {}", directory.display()),
        error,
    ))
}

fn umount(directory: &Path, flags: i32) -> io::Result<()> {
    let target = c_path(directory).map_err(io::Error::other)?;
    // SAFETY: the path ends in a NUL and lives through the call.
    match unsafe { libc::umount2(target.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the mount away; true when somebody still uses it and it only left the tree of names.
pub(super) fn unmount(directory: &Path) -> Result<bool> {
    match umount(directory, 0) {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(_) => detach(directory).map(|()| true),
    }
}

/// Takes the mount out of the tree of names, whoever uses it.
fn detach(directory: &Path) -> Result<()> {
    let Err(error) = umount(directory, libc::MNT_DETACH) else {
        return Ok(());
    };
    let helped = error.raw_os_error() == Some(libc::EPERM)
        && Command::new("fusermount3")
            .args(["-u", "-z", "-q", "--"])
            .arg(directory)
            .status()
            .is_ok_and(|status| status.success());
    if helped {
        return Ok(());
    }
    Err(Error::io(
        format_args!("unmounting {}", directory.display()),
        error,
    ))
}

/// Lets the kernel read further ahead; a matter of speed only, so that failure says nothing.
pub(super) fn raise_read_ahead(directory: &Path) {
    let Ok(facts) = std::fs::metadata(directory) else {
        return;
    };
    let (major, minor) = (libc::major(facts.dev()), libc::minor(facts.dev()));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let _ = std::fs::write(setting, KERNEL_READ_AHEAD_KIB);
}

/// The device number of the mount, by which the kernel knows the connection.
pub(super) fn connection(directory: &Path) -> Option<u32> {
    std::fs::metadata(directory)
        .ok()
        .map(|facts| libc::minor(facts.dev()))
}

/// Ends a connection: whoever still waits for an answer gets ENOTCONN.
pub(super) fn abort(connection: u32) {
    let _ = std::fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1");
}
