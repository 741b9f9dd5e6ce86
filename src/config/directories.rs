//! Where this host keeps caches and state.

use std::path::PathBuf;

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
    /// `$XDG_STATE_HOME` (`~/.local/state`), and without a home a directory of their own in `/tmp`.
    ///
    /// The XDG variables hold for root too when they are set: a container or a test then stays in its own place.
    pub fn of_user() -> Self {
        // SAFETY: geteuid reads a number of the process and cannot fail.
        let uid = unsafe { libc::geteuid() };
        let home = directory_in("HOME")
            .filter(|_| uid != 0)
            .unwrap_or_else(|| PathBuf::from(format!("/tmp/keepfs-{uid}")));
        let place = |variable, of_root: &str, of_others: &str| match directory_in(variable) {
            Some(directory) => directory.join("keepfs"),
            None if uid == 0 => PathBuf::from(of_root),
            None => home.join(of_others),
        };
        Self {
            cache: place("XDG_CACHE_HOME", "/var/cache/keepfs", ".cache/keepfs"),
            state: place("XDG_STATE_HOME", "/var/lib/keepfs", ".local/state/keepfs"),
        }
    }
}

/// The absolute directory that an environment variable names. XDG says that a relative one is to be ignored.
pub(super) fn directory_in(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}
