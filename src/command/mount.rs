//! `mount` and `umount`: repositories as directories.

use super::{Access, Host, engine};
use crate::config::RepositoryPlace;
use crate::error::{Error, Kind, Result};
use crate::notify::Delivering;
use crate::repository::Credential;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountArguments {
    /// The repositories and the names of their directories; all configured ones when empty.
    pub repositories: Vec<(String, RepositoryPlace)>,
    /// Where.
    pub directory: PathBuf,
    /// Let other users in even if this user is not root; the kernel checks modes.
    pub allow_other: bool,
    /// What the kernel refuses whatever the modes allow.
    pub access: Access,
    /// What the kernel's table of mounts names as the source; without it the configuration file when all of it is
    /// mounted.
    pub source: Option<OsString>,
    /// It goes when nothing of it is bound elsewhere; whoever binds holds a lock on this file.
    pub while_bound: Option<PathBuf>,
}

/// A mount for which everything that a person may be asked is known.
#[derive(Debug)]
pub struct MountPlan {
    arguments: MountArguments,
    repositories: Vec<(String, RepositoryPlace, Vec<Credential>)>,
}

/// Finds the repositories and their passwords. Starts no thread: the caller may fork afterwards.
pub fn plan_mount(host: &Host, mut arguments: MountArguments) -> Result<MountPlan> {
    if arguments.repositories.is_empty() {
        let all = host.config().all()?.into_iter();
        arguments.repositories = all.map(|place| (place.name.clone(), place)).collect();
        let file = host.config().file.as_deref();
        let file = file.and_then(|file| file.canonicalize().ok());
        arguments.source = arguments.source.or(file.map(PathBuf::into_os_string));
    }
    for (name, _) in &arguments.repositories {
        let twice = arguments
            .repositories
            .iter()
            .filter(|(other, _)| other == name);
        if name.is_empty() || name.starts_with('.') || name.contains('/') || twice.count() > 1 {
            let message = format!(
                "{name:?} cannot be a repository's directory; give each a NAME of its own without '/', as NAME=URL"
            );
            return Err(Error::new(Kind::Invalid, message));
        }
    }
    let shown = arguments.directory.display().to_string();
    let failed = |error| Error::io(format_args!("cannot mount at {shown}"), error);
    arguments.directory = std::fs::canonicalize(&arguments.directory).map_err(failed)?;
    match std::fs::metadata(&arguments.directory) {
        // What a killed daemon left there is taken away when the new mount is made.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
        Err(error) => return Err(failed(error)),
        Ok(facts) if facts.is_dir() => {}
        Ok(_) => {
            let message = format!("cannot mount at {shown}: it is not a directory");
            return Err(Error::new(Kind::Invalid, message));
        }
    }
    let alone = arguments.repositories.len() == 1;
    let with_keys = arguments.repositories.iter().map(|(name, place)| {
        let keys = host.keys().of(&place.name, &place.reach, alone)?;
        Ok((name.clone(), place.clone(), keys))
    });
    let repositories = with_keys.collect::<Result<_>>()?;
    Ok(MountPlan {
        arguments,
        repositories,
    })
}

/// Mounts, calls `ready` when the mount answers, and returns when it was unmounted.
pub fn mount(host: &Host, plan: MountPlan, ready: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let mut open = Vec::new();
    for (name, place, keys) in &plan.repositories {
        let store = host.store(place)?;
        let repository = host
            .open_with(place, &store, keys)
            .map_err(|error| error.context(name))?;
        open.push((name.clone(), place.name.clone(), repository));
    }
    let _delivering = keep_delivering(host);
    engine::mount(open, host, &plan.arguments, ready)
}

/// Sends what is queued for as long as the mount lasts. No mount fails by it.
fn keep_delivering(host: &Host) -> Option<Delivering> {
    let notifier = host.notifier().transpose()?;
    let delivering = notifier.and_then(|notifier| notifier.keep_delivering());
    delivering
        .inspect_err(|error| tracing::error!("nobody is told of anything: {error}"))
        .ok()
}

/// Unmounts `directory`. Fails with `Busy` while somebody uses it, unless `lazy`: then it goes when they are done.
pub fn unmount(directory: &Path, lazy: bool) -> Result<()> {
    let path = CString::new(directory.as_os_str().as_bytes())
        .map_err(|_| Error::new(Kind::Invalid, "a path cannot hold a NUL byte"))?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    // Only root may unmount by itself; for others fuse3 has a set-user-id program.
    if error.raw_os_error() == Some(libc::EPERM) {
        return unmount_as_user(directory, lazy);
    }
    let why = match error.raw_os_error() {
        Some(libc::EBUSY) => "; stop what uses it, or use --lazy",
        Some(libc::EINVAL) => "; nothing is mounted there",
        _ => "",
    };
    let failed = Error::io(
        format_args!("cannot unmount {}", directory.display()),
        error,
    );
    Err(Error::new(failed.kind(), format!("{failed}{why}")))
}

fn unmount_as_user(directory: &Path, lazy: bool) -> Result<()> {
    let output = Command::new("fusermount3")
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(directory)
        .output()
        .map_err(|error| Error::io("cannot run fusermount3 (install the package fuse3)", error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let kind = if said.contains("busy") {
        Kind::Busy
    } else {
        Kind::Failed
    };
    let message = format!("cannot unmount {}: {}", directory.display(), said.trim());
    Err(Error::new(kind, message))
}
