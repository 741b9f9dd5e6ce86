//! Removing what an open point has on this host's disk. Its directory gets a name that no daemon goes on with, in one
//! step; the rest may then take as long as it does, and may be interrupted.

use super::OpenPoint;
use std::fs;
use std::path::{Path, PathBuf};

/// The ending of such a name.
const GONE: &str = "gone";

/// Whether this is the directory of a point that was sealed or discarded.
pub(in crate::filesystem) fn is_gone(directory: &Path) -> bool {
    directory.extension().is_some_and(|ending| ending == GONE)
}

/// Removes such a directory.
pub(in crate::filesystem) fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!("{} was not removed: {error}", directory.display());
    }
}

impl OpenPoint {
    /// Sees to it that no daemon goes on with this point. What is left is to be removed.
    pub(super) fn set_aside(&self) -> PathBuf {
        let gone = self.directory.with_extension(GONE);
        match fs::rename(&self.directory, &gone) {
            Ok(()) => gone,
            Err(error) => {
                tracing::warn!("{} was not renamed: {error}", self.directory.display());
                // The journal first: what it tells of must be there as long as it is.
                let _ = fs::remove_file(self.directory.join("journal"));
                self.directory.clone()
            }
        }
    }
}
