//! Copy sessions: one run of copying restore points from one repository into another, with a state that somebody can act
//! on. It is told by records in the target, `sessions/<id>/<n>`, of which the highest `n` holds.

mod series;
mod state;

pub use series::{
    BEAT, DEAD_SECONDS, LAST, Session, all_sessions, new_sessions, remove_old_sessions,
    unfinished_sessions,
};
pub use state::Action;

use crate::clock::Time;
use crate::error::Result;
use crate::id::ObjectId;
use crate::repository::{Repository, host_name};
use bincode::{Decode, Encode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// [`SessionRecord::more`]: the id of the open point that a tool writes; the session is that tool's copy.
pub const OPEN_POINT: &str = "open-point";

/// [`SessionRecord::more`]: how often a person has asked for it again.
const ROUND: &str = "round";

/// Failed parts that a record lists at most; it counts them all. 10 000 parts are about 2 MB.
pub const FAILED_PARTS_MAX: usize = 10_000;

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionState {
    /// It works, or its process died.
    Running,
    /// It waits for something to become free.
    Waiting,
    /// It tries failed parts again.
    Retrying,
    /// Everything was copied.
    Success,
    /// Everything was copied, and there is something to say about it.
    Warning,
    /// It ended without doing all; run it again.
    Failed,
    /// Parts failed; a person decides.
    NeedsAction,
    /// What it wrote is being removed.
    Undoing,
    /// What it wrote was removed.
    Undone,
}

/// What became of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// Not done yet.
    Waiting,
    /// It is in the target now.
    Copied,
    /// It was in the target already.
    Present,
    /// The target's backup has another point of the same name.
    Conflict,
    /// Parts of it could not be copied; nothing of it is visible in the target.
    Failed,
}

impl Outcome {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copied => "copied",
            Self::Present => "present",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
        }
    }
}

/// One end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Party {
    /// The repository.
    pub repository: ObjectId,
    /// Where it is, without credentials.
    pub location: String,
}

impl Party {
    /// This repository.
    pub fn of(repository: &Repository) -> Self {
        Self {
            repository: repository.id(),
            location: repository.location(),
        }
    }
}

/// One point of a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionPoint {
    /// Name of its backup in the source.
    pub backup: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Its id in the source.
    pub id: ObjectId,
    /// Its generation in the source.
    pub generation: u64,
    /// Name of the backup in the target.
    pub into: Vec<u8>,
    /// Entries in its tree.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// What became of it.
    pub outcome: Outcome,
}

impl SessionPoint {
    /// Whether it is in the target now.
    pub fn is_there(&self) -> bool {
        matches!(self.outcome, Outcome::Copied | Outcome::Present)
    }
}

/// A part of a point that could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FailedPart {
    /// Name of the point's backup in the source.
    pub backup: Vec<u8>,
    /// Name of the point.
    pub point: Vec<u8>,
    /// Path in the point; empty when it concerns the point as a whole.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// What a session has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SessionCounters {
    /// Frames that moved as they were.
    pub frames_moved: u64,
    /// Frames that were decompressed.
    pub frames_cut: u64,
    /// Stored bytes of data read from the source.
    pub data_bytes_read: u64,
    /// Bytes of data packs written to the target.
    pub data_bytes_written: u64,
    /// Data packs written to the target.
    pub data_packs: u64,
    /// Bytes of all packs written to the target.
    pub stored_bytes: u64,
    /// Chunks of content that were brought.
    pub chunks_moved: u64,
    /// Chunks of content that the target had.
    pub chunks_present: u64,
}

/// `sessions/<id>/<n>`: a copy session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionRecord {
    /// How it stands.
    pub state: SessionState,
    /// One sentence about the state; empty where there is nothing to say.
    pub reason: String,
    /// When it began.
    pub started: Time,
    /// When it ended.
    pub ended: Option<Time>,
    /// Where it copies from.
    pub source: Party,
    /// Where it copies to.
    pub target: Party,
    /// The proxy that moves its data.
    pub proxy: String,
    /// The host of its process.
    pub host: String,
    /// Its process.
    pub process: u32,
    /// Its points, in the order in which they are copied.
    pub points: Vec<SessionPoint>,
    /// What could not be copied: at most [`FAILED_PARTS_MAX`] parts.
    pub failed: Vec<FailedPart>,
    /// How many parts could not be copied.
    pub failed_total: u64,
    /// What was done.
    pub counters: SessionCounters,
    /// Facts of later versions that a reader may ignore, by name.
    pub more: Vec<(String, Vec<u8>)>,
}

impl SessionRecord {
    /// The record of a session that begins now, in this process.
    pub fn begin(source: &Repository, target: &Repository, points: Vec<SessionPoint>) -> Self {
        Self {
            state: SessionState::Running,
            reason: String::new(),
            started: target.now(),
            ended: None,
            source: Party::of(source),
            target: Party::of(target),
            proxy: "local".to_owned(),
            host: host_name(),
            process: std::process::id(),
            points,
            failed: Vec::new(),
            failed_total: 0,
            counters: SessionCounters::default(),
            more: Vec::new(),
        }
    }

    /// Adds a failed part.
    pub fn add_failed(&mut self, part: FailedPart) {
        self.failed_total += 1;
        if self.failed.len() < FAILED_PARTS_MAX {
            self.failed.push(part);
        }
    }

    /// What a later version, or another program, says under this name.
    pub fn fact(&self, name: &str) -> Option<&[u8]> {
        let found = self.more.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &value[..])
    }

    /// Says something under this name, or nothing any more.
    pub fn set_fact(&mut self, name: &str, value: Option<&[u8]>) {
        self.more.retain(|(known, _)| known != name);
        let fact = value.map(|value| (name.to_owned(), value.to_vec()));
        self.more.extend(fact);
    }

    /// How often a person has asked for it again.
    pub fn round(&self) -> u32 {
        let told = self.fact(ROUND).and_then(|told| told.try_into().ok());
        told.map_or(0, u32::from_le_bytes)
    }

    /// How many points came to this end.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.points
            .iter()
            .filter(|point| point.outcome == outcome)
            .count()
    }
}

/// The sessions that a repository was the target of, each with its newest record. A record that cannot be read is
/// passed over with a warning.
pub fn sessions(target: &Arc<Repository>) -> Result<BTreeMap<ObjectId, SessionRecord>> {
    let sessions = all_sessions(target)?.into_iter();
    Ok(sessions
        .map(|session| (session.id, session.record))
        .collect())
}
