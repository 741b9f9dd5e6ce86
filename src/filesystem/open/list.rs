//! Open points as a state directory tells of them, whether or not a daemon serves them now.

use super::change::Change;
use super::gone::is_gone;
use super::journal;
use super::state::{OpenNode, State};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use std::path::{Path, PathBuf};

/// An open point of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPointFacts {
    /// Its repository.
    pub repository: ObjectId,
    /// Its backup there.
    pub backup: ObjectId,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was begun.
    pub started: Time,
    /// User number of who made it.
    pub maker: u32,
    /// Names in it.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// The sentence about files of which the host may have lost bytes, as far as a daemon has noticed.
    pub doubts: Option<String>,
    /// Where its journal and its spool lie.
    pub directory: PathBuf,
}

/// The open points whose journals lie in this state directory, oldest first. Only reads: a daemon may be writing.
pub fn open_points(state_directory: &Path) -> Result<Vec<OpenPointFacts>> {
    let directory = state_directory.join("open");
    let failed = |error| Error::io(format_args!("reading {}", directory.display()), error);
    let found = match std::fs::read_dir(&directory) {
        // It is made with the first open point.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(failed)?,
    };
    let mut points = Vec::new();
    for entry in found {
        let path = entry.map_err(failed)?.path();
        if is_gone(&path) {
            continue;
        }
        match facts_of(path) {
            Ok(facts) => points.extend(facts),
            // One that cannot be read must not hide the others.
            Err(error) => tracing::warn!("{error}"),
        }
    }
    points.sort_by(|one, two| (one.started, &one.name).cmp(&(two.started, &two.name)));
    Ok(points)
}

/// Whether the open point of this id lies in this state directory, readable or not.
pub fn has_open_point(state_directory: &Path, id: ObjectId) -> bool {
    let directory = state_directory.join("open").join(id.to_string());
    directory.join("journal").exists()
}

/// None when the point was sealed or discarded meanwhile, or nothing of it was written down yet.
fn facts_of(directory: PathBuf) -> Result<Option<OpenPointFacts>> {
    let mut state = State::default();
    journal::peek(&directory, &mut |change| state.apply(change, &|_| None))?;
    let doubts = state.doubts();
    let Some(Change::Begin {
        repository,
        backup,
        started,
        facts,
    }) = state.begun
    else {
        return Ok(None);
    };
    let named = state.nodes.values().filter(|node| !node.places.is_empty());
    let bytes = named.filter_map(OpenNode::content);
    Ok(Some(OpenPointFacts {
        repository,
        backup,
        started,
        maker: facts.uid,
        entries: state.entries,
        bytes: bytes.map(|content| content.size).sum(),
        name: state.name,
        doubts,
        directory,
    }))
}
