//! `seal`: an open restore point, seen in a mount, becomes a complete one.

use crate::error::{Error, Result};
use serde::Serialize;
use std::path::Path;
use xattr::FileExt;

/// The attribute that is a point's state, and the one that holds the reason of the last refusal.
const STATE: &str = "user.keepfs.state";
const REASON: &str = "user.keepfs.error";

/// A sealed point.
#[derive(Clone, Debug, Serialize)]
pub struct SealReport {
    /// The directory in the mount.
    pub path: String,
    /// Its state now.
    pub state: String,
}

/// Seals the open restore point that is mounted at `path`. Returns when it is durable in the repository.
pub fn seal(path: &Path) -> Result<SealReport> {
    let failed = |error: std::io::Error| {
        let reason = xattr::get(path, REASON).ok().flatten();
        let failed = Error::io(format_args!("cannot seal {}", path.display()), error);
        match reason {
            Some(reason) => Error::new(
                failed.kind(),
                format!("{failed}: {}", String::from_utf8_lossy(&reason)),
            ),
            None => failed,
        }
    };
    // The open directory stays the same thing when it gets another name.
    let directory = std::fs::File::open(path).map_err(failed)?;
    directory.set_xattr(STATE, b"complete").map_err(failed)?;
    let state = directory.get_xattr(STATE).map_err(failed)?;
    let state = state.unwrap_or_default();
    let path = path.display().to_string();
    let path = path.trim_end_matches('/');
    Ok(SealReport {
        path: path.strip_suffix(".partial").unwrap_or(path).to_owned(),
        state: String::from_utf8_lossy(&state).into_owned(),
    })
}
