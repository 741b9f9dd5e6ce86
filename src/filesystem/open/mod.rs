//! Open points: written by any tool, kept in memory and in a journal, until they are sealed.
//!
//! An open point is a list of changes. Each is written to the journal before it is answered, then applied to the
//! entries in memory; a daemon that starts again applies the journal and goes on. The journal is written anew when it is
//! much longer than what it tells of; what an entry costs in memory is told with the nodes. Bytes that a tool writes lie in one
//! spool file for each node until they are stored behind its back; bytes that it copies from complete points are
//! references, whose chunks are brought into the repository in the same way.

mod anew;
mod attributes;
mod begin;
mod bring;
mod change;
mod content;
mod copied;
mod copying;
mod doubt;
mod durable;
mod few;
mod gone;
mod journal;
mod list;
mod matching;
mod names;
mod nodes;
mod owners;
mod punch;
mod read;
mod recut;
mod refer;
mod seal;
mod spool;
mod state;
mod stream;
mod stretch;
#[cfg(test)]
mod tests;
mod waiting;
mod write;

pub(super) use attributes::CAPABILITY;
pub(super) use change::{Facts, Made, TOP};
pub(super) use copied::SealAs;
pub(super) use copying::{CopyFacts, CopyStage};
pub(super) use doubt::boot_of_host;
pub(super) use gone::{is_gone, remove};
pub use list::{OpenPointFacts, has_open_point, open_points};
pub(super) use read::spool_is_short;
pub(super) use spool::{Spool, SpoolFacts};
pub(super) use state::{Body, OpenNode, State};
pub(super) use waiting::Waiting;

use super::errno::{Answer, Rule};
use super::inode::number;
use super::repositories::{CompletePoint, MountedRepository};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Entry, PARTIAL};
use crate::repository::OpenPointMark;
use attributes::Accepted;
use begin::find_trees;
use bring::Bringer;
use change::Change;
use content::SourceFile;
use journal::Journal;
use matching::is_whole;
use parking_lot::{Condvar, Mutex};
use spool::Share;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use stream::Streamer;
use stretch::{Streaming, touched};

/// How far an open point is on its way to a complete one.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Open,
    /// Being sealed; calls are answered by comparison with the point it will be equal to, if there is one.
    Sealing(Option<Arc<CompletePoint>>),
    Sealed(Arc<CompletePoint>),
    Discarded,
}

struct Inner {
    state: State,
    stage: Stage,
    journal: Journal,
    /// The point it is a copy of, and whether references said so.
    from: Option<(Arc<CompletePoint>, bool)>,
    last_source: Option<Arc<SourceFile>>,
    /// Calls that changed something.
    calls: u64,
    /// Whether a thread waits for the end of the tool's calls to seal the copy.
    waits_for_quiet: bool,
    /// How long nothing must have changed before a whole copy is sealed; nothing at all for most.
    rerun_patience: Duration,
    accepted: Accepted,
    /// Set when nobody waits for the present attempt to seal any more: it ends before its record is made.
    given_up: Arc<AtomicBool>,
    /// Whether bringing has failed: the next attempt brings everything anew.
    bring_again: bool,
    /// How often each node is open.
    handles: HashMap<u64, u32>,
    streaming: Streaming,
    /// What it holds of the spool.
    share: Share,
}

/// A restore point that is being written.
pub(super) struct OpenPoint {
    pub(super) id: ObjectId,
    pub(super) repository: Arc<MountedRepository>,
    pub(super) backup: ObjectId,
    pub(super) started: Time,
    /// The user who made it.
    pub(super) maker: u32,
    directory: PathBuf,
    /// Every mounted repository: where references lead.
    repositories: Arc<Vec<Arc<MountedRepository>>>,
    inner: Mutex<Inner>,
    /// Told when sealing has ended.
    settled: Condvar,
    bringer: Bringer,
    spool: Arc<Spool>,
    streamer: Arc<Streamer>,
    /// Keeps from prune what is stored for it and what it refers to.
    mark: OpenPointMark,
}

impl std::fmt::Debug for OpenPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenPoint({})", self.directory.display())
    }
}

impl OpenPoint {
    /// The inode number of a node.
    pub(super) fn ino(&self, node: u64) -> u64 {
        number(&[b"open", &self.id.0, &node.to_le_bytes()])
    }

    /// The last name on the path to a node, for messages.
    pub(super) fn last_name(&self, node: u64) -> String {
        let inner = self.inner.lock();
        let place = inner
            .state
            .nodes
            .get(&node)
            .and_then(|node| node.places.first());
        let name = place.map_or(&inner.state.name[..], |(_, name)| name);
        String::from_utf8_lossy(name).into_owned()
    }

    /// Its path below the mount, for messages.
    pub(super) fn path(&self) -> String {
        let backup = self.repository.backup_name(self.backup);
        format!("{}/{backup}/{}", self.repository.name, self.last_name(TOP))
    }

    /// Its name now.
    pub(super) fn name(&self) -> Vec<u8> {
        self.inner.lock().state.name.clone()
    }

    /// Whether it may change.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.inner.lock().stage, Stage::Open)
    }

    /// Whether it may be sealed because nothing has changed for so many seconds. After a restart they begin anew.
    pub(super) fn is_idle(&self, seconds: i64) -> bool {
        let inner = self.inner.lock();
        let now = self.repository.catalog.repository().now();
        let state = &inner.state;
        let half_a_copy = matches!(&inner.from, Some((from, true)) if !is_whole(state, from));
        matches!(inner.stage, Stage::Open)
            && now.seconds - state.now.seconds >= seconds
            && inner.handles.is_empty()
            && state.entries > 0
            && state.doubtful.is_empty()
            && !half_a_copy
            && !state.name.ends_with(PARTIAL)
    }

    /// The complete point that it has become.
    pub(super) fn sealed(&self) -> Option<Arc<CompletePoint>> {
        match &self.inner.lock().stage {
            Stage::Sealed(point) => Some(point.clone()),
            _ => None,
        }
    }

    /// What a node has become in the complete point.
    pub(super) fn sealed_entry(&self, node: u64) -> Option<(Arc<CompletePoint>, Arc<Entry>)> {
        let (point, path) = {
            let inner = self.inner.lock();
            let Stage::Sealed(point) = &inner.stage else {
                return None;
            };
            (point.clone(), inner.state.path(node)?)
        };
        let entry = entry_at(&point, &path)?;
        Some((point, entry))
    }

    /// Looks at a node.
    pub(super) fn node<T>(&self, node: u64, look: impl FnOnce(&OpenNode) -> T) -> Answer<T> {
        let inner = self.inner.lock();
        inner
            .state
            .nodes
            .get(&node)
            .map(look)
            .ok_or_else(|| Rule::Stale.into())
    }

    /// The node of a name in a directory.
    pub(super) fn child(&self, parent: u64, name: &[u8]) -> Option<u64> {
        self.inner.lock().state.child(parent, name)
    }

    /// Every name of a directory with its node.
    pub(super) fn names(&self, directory: u64) -> Answer<Vec<(Vec<u8>, u64)>> {
        self.node(directory, |node| {
            let names = node.names().ok_or(Rule::NotADirectory)?;
            Ok(names
                .iter()
                .map(|(name, known)| (name.to_vec(), known.node()))
                .collect())
        })?
    }

    /// Writes a change down and applies it.
    fn change(&self, inner: &mut Inner, change: Change) -> Answer<()> {
        self.tell_failure(inner)?;
        if change.takes_memory() {
            self.spool.require_memory()?;
        }
        self.note_boot(inner)?;
        Ok(self.record(inner, change)?)
    }

    /// As [`Self::change`], whatever failed before.
    fn record(&self, inner: &mut Inner, change: Change) -> Result<()> {
        inner.journal.append(&change)?;
        if let Some((node, range)) = touched(&change) {
            inner.streaming.mark(node, &range);
        }
        inner.state.now = self.repository.catalog.repository().now();
        inner.state.apply(change, &find_trees(&self.repositories));
        self.hold(inner);
        self.shorten_journal(inner);
        Ok(())
    }

    /// Whether there is a failure that no call has told of, or none has followed since.
    fn has_failed(&self) -> bool {
        self.bringer.check().is_err()
    }

    /// Fails with what the transfer has failed with, once: whoever calls then tries again.
    fn tell_failure(&self, inner: &mut Inner) -> Answer<()> {
        if self.bringer.was_told() {
            self.bringer.try_again();
            inner.bring_again = true;
        }
        Ok(self.bringer.tell()?)
    }

    fn rematch(&self, inner: &mut Inner, parent: u64, name: &[u8]) {
        if let Some((from, _)) = &inner.from {
            matching::rematch(&mut inner.state, from, parent, name);
        }
    }

    fn rematch_node(&self, inner: &mut Inner, node: u64) {
        if let Some((from, _)) = &inner.from {
            matching::rematch_node(&mut inner.state, from, node);
        }
    }

    /// Fails unless the point may change.
    fn require_open(inner: &Inner) -> Answer<()> {
        let sentence = match &inner.stage {
            Stage::Open => return Ok(()),
            Stage::Sealing(None) => {
                let message = "the point is just being sealed; wait for the end of that";
                return Err(Error::new(Kind::Busy, message).into());
            }
            Stage::Sealing(Some(_)) | Stage::Sealed(_) => {
                "the point is complete, and complete points never change"
            }
            Stage::Discarded => "the point was discarded",
        };
        Err(Error::new(Kind::ReadOnly, sentence).into())
    }

    /// The first names, at most `limit`, that the point it may be a copy of does not have so.
    pub(super) fn unmatched(&self, limit: usize) -> Vec<String> {
        let inner = self.inner.lock();
        let names = inner.state.nodes.values().filter_map(OpenNode::names);
        let unmatched = names.flatten().filter(|(_, name)| !name.matched());
        unmatched
            .take(limit)
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    /// Gives the point up with everything in it.
    pub(super) fn discard(&self) -> Answer<()> {
        let gone = {
            let mut inner = self.inner.lock();
            Self::require_open(&inner)?;
            inner.stage = Stage::Discarded;
            self.hold(&mut inner);
            self.set_aside()
        };
        remove(&gone);
        self.mark.give_back_behind();
        Ok(())
    }

    /// Another name for the point, which stays open.
    pub(super) fn set_name(&self, name: &[u8]) -> Answer<()> {
        let mut inner = self.inner.lock();
        Self::require_open(&inner)?;
        self.change(&mut inner, Change::Name(name.to_vec()))
    }
}

/// The entry at a path of a complete point.
fn entry_at(point: &CompletePoint, path: &[Vec<u8>]) -> Option<Arc<Entry>> {
    let top = Arc::new(point.point.record.top());
    point.trees().resolve(&top, &path.join(&b'/')).ok()?
}
