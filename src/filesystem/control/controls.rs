//! What the control tree shows beside the mount's own files, as a value from a higher room.

use crate::error::{Error, Kind, Result};
use crate::filesystem::Caller;
use std::fmt;

/// What is at a name of the control tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlKind {
    /// A directory.
    Directory,
    /// A file with these permission bits, owned by whoever owns the mount. One that may be written to takes verbs.
    File {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link that leads there, from the directory that it is in.
    Link(String),
}

/// A name in a directory of the control tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlEntry {
    /// The name; one that no file can have is not shown.
    pub name: String,
    /// What is there.
    pub kind: ControlKind,
}

impl ControlEntry {
    fn file(name: impl Into<String>, mode: u32) -> Self {
        Self {
            name: name.into(),
            kind: ControlKind::File { mode },
        }
    }

    /// A directory.
    pub fn directory(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ControlKind::Directory,
        }
    }

    /// A file that everybody may read.
    pub fn text(name: impl Into<String>) -> Self {
        Self::file(name, 0o444)
    }

    /// A file that only the owner of the mount may read: it names paths below other users' directories.
    pub fn private(name: impl Into<String>) -> Self {
        Self::file(name, 0o400)
    }

    /// A file to which the owner of the mount may write verbs; reading it tells which there are.
    pub fn action(name: impl Into<String>) -> Self {
        Self::file(name, 0o600)
    }

    /// A file that everybody may read and the owner of the mount may write to.
    pub fn setting(name: impl Into<String>) -> Self {
        Self::file(name, 0o644)
    }

    /// A symbolic link to `target`.
    pub fn link(name: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ControlKind::Link(target.into()),
        }
    }
}

/// A tree of directories, texts and verbs. Paths are names from its top down; the top is the empty path.
///
/// All may be asked at any time from several threads, also about what was listed and is gone since: that is `NotFound`.
/// A call may wait for a store, but whoever made it cannot be killed meanwhile: a verb that starts long work leaves it to
/// another thread and answers when it has begun.
pub trait Controls: fmt::Debug + Send + Sync {
    /// The names in a directory.
    fn list(&self, path: &[&str]) -> Result<Vec<ControlEntry>>;

    /// What is at a path; none when there is nothing. Asked at every use of a name, so worth more than a look through
    /// the listing where that is long.
    fn find(&self, path: &[&str]) -> Result<Option<ControlKind>> {
        let Some((name, directory)) = path.split_last() else {
            return Ok(Some(ControlKind::Directory));
        };
        let entries = match self.list(directory) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            listed => listed?,
        };
        let found = entries.into_iter().find(|entry| entry.name == *name);
        Ok(found.map(|entry| entry.kind))
    }

    /// The text of a file, as it is now.
    fn read(&self, path: &[&str]) -> Result<Vec<u8>>;

    /// Carries out a verb that was written to a file: one line, without blanks around it. The error's kind becomes the
    /// errno of the write(2), its sentence a line of `.keepfs/errors`.
    fn write(&self, path: &[&str], verb: &str, caller: Caller) -> Result<()> {
        let _ = (verb, caller);
        let message = format!("nothing can be written to {}", path.join("/"));
        Err(Error::new(Kind::ReadOnly, message))
    }
}
