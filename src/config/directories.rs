//! Where this host keeps caches and state.

use crate::error::{Error, Kind, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The directories of this user. Both are made 0700 by whoever writes there first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// Copies of what the repositories hold; may be removed at any time.
    pub cache: PathBuf,
    /// What exists nowhere else: open restore points and sessions.
    pub state: PathBuf,
}

impl Directories {
    /// Root has `/var/cache/keepfs` and `/var/lib/keepfs`; others have `keepfs` in `$XDG_CACHE_HOME` (`~/.cache`) and
    /// `$XDG_STATE_HOME` (`~/.local/state`), and without a home a directory of their own in `/tmp`, which is made
    /// here; fails with `Denied` when somebody else made one of its name.
    ///
    /// The XDG variables hold for root too when they are set: a container or a test then stays in its own place.
    pub fn of_user() -> Result<Self> {
        // SAFETY: geteuid reads a number of the process and cannot fail.
        let uid = unsafe { libc::geteuid() };
        let place = |variable, of_root: &str, of_others: &str| -> Result<PathBuf> {
            match directory_in(variable) {
                Some(directory) => Ok(directory.join("keepfs")),
                None if uid == 0 => Ok(PathBuf::from(of_root)),
                None => match directory_in("HOME") {
                    Some(home) => Ok(home.join(of_others)),
                    None => {
                        let own = PathBuf::from(format!("/tmp/keepfs-{uid}"));
                        make_own(&own, uid)?;
                        Ok(own.join(of_others))
                    }
                },
            }
        };
        Ok(Self {
            cache: place("XDG_CACHE_HOME", "/var/cache/keepfs", ".cache/keepfs")?,
            state: place("XDG_STATE_HOME", "/var/lib/keepfs", ".local/state/keepfs")?,
        })
    }
}

/// Makes a directory where everybody may make one, or takes the one that this user made before. Whoever made it could
/// exchange all that lies in it, so anybody else's is refused, and so is one that others may enter.
fn make_own(directory: &Path, uid: u32) -> Result<()> {
    let cannot = |error| Error::io(format_args!("making {}", directory.display()), error);
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(cannot),
    }
    let facts = std::fs::symlink_metadata(directory).map_err(cannot)?;
    if facts.is_dir() && facts.uid() == uid && facts.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!(
        "{} is not a directory of this user alone; set HOME, or remove it if you made it",
        directory.display()
    );
    Err(Error::new(Kind::Denied, message))
}

/// The absolute directory that an environment variable names. XDG says that a relative one is to be ignored.
pub(super) fn directory_in(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_that_somebody_else_prepared_is_refused() {
        let parent = tempfile::tempdir().expect("a directory");
        // SAFETY: geteuid reads a number of the process and cannot fail.
        let uid = unsafe { libc::geteuid() };
        let own = parent.path().join("own");
        make_own(&own, uid).expect("makes it");
        make_own(&own, uid).expect("takes it again");
        let refused = |path: &Path, uid| {
            let error = make_own(path, uid).expect_err("is refused");
            assert_eq!(error.kind(), Kind::Denied, "{error}");
            assert!(error.to_string().contains("set HOME"), "{error}");
        };
        refused(&own, uid + 1);
        symlink(&own, parent.path().join("link")).expect("links");
        refused(&parent.path().join("link"), uid);
        std::fs::set_permissions(&own, PermissionsExt::from_mode(0o770)).expect("is ours");
        refused(&own, uid);
    }
}
