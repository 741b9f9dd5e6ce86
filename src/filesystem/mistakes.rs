//! Signs that somebody took a level of the tree for another one: a line in `.keepfs/errors`, and nothing is refused. Only
//! signs that hardly anything else leaves are told: a warning that is mostly wrong is read by nobody.

use super::FileSystem;
use super::open::{OpenPoint, TOP};
use super::repositories::MountedRepository;
use crate::point::PARTIAL;
use std::sync::Arc;

/// What lies at the top of a home directory. Tools write some of them under temporary names that begin so.
const OF_HOMES: [&[u8]; 6] = [
    b".bashrc",
    b".bash_profile",
    b".profile",
    b".ssh",
    b".zshrc",
    b".config",
];

/// Whether a name is a day's, with or without a time behind it, or says that something is open.
fn is_like_a_point(name: &[u8]) -> bool {
    let fits = |(byte, pattern): (&u8, &u8)| match pattern {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    };
    let dated = name.len() >= 10 && name.iter().zip(b"0000-00-00").all(fits);
    let day = dated && !name.get(10).is_some_and(u8::is_ascii_alphanumeric);
    let time = dated && name.get(10) == Some(&b'T');
    day || time || name.ends_with(PARTIAL)
}

fn is_of_home(name: &[u8]) -> bool {
    OF_HOMES.iter().any(|begin| name.starts_with(begin))
}

impl FileSystem {
    /// Warns of a backup, just made in or renamed within `directory`, whose name looks like a point's.
    pub(super) fn warn_of_backup(
        &self,
        directory: u64,
        repository: &MountedRepository,
        name: &[u8],
    ) {
        if !is_like_a_point(name) {
            return;
        }
        let (top, name) = (&repository.name, String::from_utf8_lossy(name));
        self.problems.note(
            directory,
            format!(
                "{top}/{name}: this is a backup, and its name looks like a restore point's, which is a directory in a \
                 backup: mkdir {top}/BACKUP/{name}; rmdir removes this one while it is empty"
            ),
        );
    }

    /// Warns of a point that is one user's home directory, when the first of its files that tells so was made: it has the
    /// name of a user of this host. `cp -a /home/. primary/home/` makes one of each.
    pub(super) fn warn_of_home(&self, open: &Arc<OpenPoint>, directory: u64, made: &[u8]) {
        if directory != TOP || !is_of_home(made) {
            return;
        }
        let names = open.names(TOP).unwrap_or_default();
        let signs = names.iter().filter(|(name, _)| is_of_home(name));
        let name = open.name();
        let user = name.strip_suffix(PARTIAL).unwrap_or(&name);
        if signs.count() != 1 || !open.repository.owners.knows_user(user) {
            return;
        }
        let (path, user) = (open.path(), String::from_utf8_lossy(user));
        let backup = path.rsplit_once('/').map_or("", |(backup, _)| backup);
        self.problems.note(
            open.ino(TOP),
            format!(
                "{path}: the home directory of {user} becomes a restore point of its own, as every directory in a backup is \
                 one; if all homes belong into one point, discard it with rmdir and copy what is above: cp -a /home \
                 {backup}/POINT"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_days_and_open_points_look_like_points() {
        for name in [
            "2026-11-20T02-00-00Z",
            "2026-11-20",
            "2026-11-20.partial",
            "2026-11-20_evening",
            "nightly.partial",
        ] {
            assert!(is_like_a_point(name.as_bytes()), "{name}");
        }
        for name in [
            "web01",
            "2026",
            "2026-11",
            "2026-11-200",
            "1234-56-78abc",
            "partial",
            "T",
        ] {
            assert!(!is_like_a_point(name.as_bytes()), "{name}");
        }
    }
}
