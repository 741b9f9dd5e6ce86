//! The records of a session, one after the other: `sessions/<id>/<n>`.
//!
//! Whoever writes the next number has the session: two who act at once write the same number, and create-if-absent lets
//! one of them win. The last word of a session has the highest number there is ([`LAST`]), so that a listing alone tells
//! which sessions are over. A process that works on a session says so again every [`BEAT`]; when its newest record is
//! older than [`DEAD_SECONDS`], or it is of this host and its process is gone, the session may be acted on. Should such a
//! process only have slept, its next record finds the number taken, and it stops; what it brought meanwhile is found by
//! whoever took over, and points are committed by create-if-absent.

use super::{Action, SessionRecord, SessionState};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::repository::{Repository, host_name};
use crate::store::names::{self, Name};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The number of a session's last word.
pub const LAST: u64 = u64::MAX;
/// How often whoever works on a session says so.
pub const BEAT: Duration = Duration::from_secs(5 * 60);
/// Three missed beats: nobody works on it any more.
pub const DEAD_SECONDS: i64 = 15 * 60;

/// Records that are read at a time: a repository gathers some for every copy, and each is a request.
const READERS: usize = 8;
/// [`SessionRecord::more`]: which process of the host it is, should its number be used again.
const PROCESS: &str = "process";

/// A session as it stands.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its id.
    pub id: ObjectId,
    /// Number of its newest record.
    pub number: u64,
    /// Its newest record.
    pub record: SessionRecord,
    /// When that was written, by the store's clock; none for one that this process has just written.
    pub written: Option<Time>,
    target: Arc<Repository>,
}

impl Session {
    /// Begins a session: its first record is written.
    pub fn begin(target: &Arc<Repository>, record: SessionRecord) -> Result<Self> {
        Self::begin_as(ObjectId::random(), target, record)
    }

    /// As [`Self::begin`], with this id.
    pub fn begin_as(
        id: ObjectId,
        target: &Arc<Repository>,
        mut record: SessionRecord,
    ) -> Result<Self> {
        sign(&mut record);
        target.create_document(Name::Session(id, 0), &record)?;
        Ok(Self {
            id,
            number: 0,
            record,
            written: None,
            target: target.clone(),
        })
    }

    /// The session of this id. `NotFound` when there is none, or its newest record cannot be read.
    pub fn find(target: &Arc<Repository>, id: ObjectId) -> Result<Self> {
        let mut newest: Option<(u64, Time)> = None;
        for object in target.store().list(&names::session(id))? {
            if let Some(Name::Session(_, number)) = Name::parse(&object.name) {
                newest = newest.max(Some((number, object.modified)));
            }
        }
        let Some((number, written)) = newest else {
            let message = format!(
                "{} has no session {id}; `keepfs session list` shows all",
                target.location()
            );
            return Err(Error::new(Kind::NotFound, message));
        };
        Ok(Self {
            id,
            number,
            record: target.document(Name::Session(id, number))?,
            written: Some(written),
            target: target.clone(),
        })
    }

    /// The repository whose session it is.
    pub fn target(&self) -> &Arc<Repository> {
        &self.target
    }

    /// Whether somebody works on it.
    pub fn is_alive(&self) -> bool {
        if !self.record.state.works() {
            return false;
        }
        let Some(written) = self.written else {
            return true;
        };
        let silent = self.target.now().seconds.saturating_sub(written.seconds);
        if silent >= DEAD_SECONDS {
            return false;
        }
        self.record.host != host_name() || self.is_process_there()
    }

    fn is_process_there(&self) -> bool {
        let there = process_facts(self.record.process);
        let was = self.record.fact(PROCESS);
        there.is_some_and(|there| was.is_none_or(|was| was == there.as_bytes()))
    }

    /// Writes what the record says now as the next one. `Busy` when somebody else has taken the session.
    pub fn write(&mut self) -> Result<()> {
        let next = match self.record.state.is_over() {
            true => LAST,
            false => self.number + 1,
        };
        let written = self
            .target
            .create_document(Name::Session(self.id, next), &self.record);
        match written {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                let message = format!("somebody else has taken the session {}", self.id);
                Err(Error::new(Kind::Busy, message))
            }
            written => {
                written?;
                self.number = next;
                self.written = None;
                Ok(())
            }
        }
    }

    /// Says again that it is being worked on. The record before, if that was one of these, goes.
    pub fn beat(&mut self) -> Result<()> {
        let before = self.number;
        let again = self.record.fact("beat").is_some();
        self.record.set_fact("beat", Some(b""));
        self.write()?;
        if again {
            // What stays is only read once more.
            let name = Name::Session(self.id, before).to_string();
            let _ = self.target.store().delete(&name);
        }
        Ok(())
    }

    /// Begins an action on it in this process. Fails with `Busy` while somebody works on it, also when somebody began just
    /// now, and with `Invalid` when its state has no such action.
    pub fn take(&mut self, action: Action) -> Result<()> {
        let next = self.record.state.begin(action, self.is_alive())?;
        let round = self.record.round().saturating_add(1);
        self.record
            .set_fact(super::ROUND, Some(&round.to_le_bytes()));
        self.become_ours(next)
    }

    /// Writes a new state down, in this process. Fails with `Busy` when somebody else has taken the session, and with
    /// `Invalid` when it cannot come to that state any more.
    pub fn go_on_as(&mut self, state: SessionState) -> Result<()> {
        if self.record.state != state && !self.record.state.may_become(state) {
            let message = format!(
                "the session {} is {} and cannot become {}",
                self.id,
                self.record.state.name(),
                state.name()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        self.become_ours(state)
    }

    /// Goes on with it in this process.
    pub(in crate::copy) fn become_ours(&mut self, state: SessionState) -> Result<()> {
        sign(&mut self.record);
        self.enter(state);
        self.write()
    }

    /// Puts down a new state; not written yet.
    pub(in crate::copy) fn enter(&mut self, state: SessionState) {
        debug_assert!(
            self.record.state == state || self.record.state.may_become(state),
            "from {:?} to {state:?}",
            self.record.state
        );
        self.record.state = state;
        self.record.set_fact("beat", None);
        self.record.ended = (!state.works()).then(|| self.target.now());
    }

    /// Every record of it that can be read, the oldest first, with when it was written.
    pub fn history(&self) -> Result<Vec<(Time, SessionRecord)>> {
        let mut found = Vec::new();
        for object in self.target.store().list(&names::session(self.id))? {
            if let Some(name @ Name::Session(_, number)) = Name::parse(&object.name) {
                found.push((number, object.modified, name));
            }
        }
        found.sort_by_key(|(number, ..)| *number);
        let mut records = Vec::new();
        for (_, written, name) in found {
            records.extend(readable(&self.target, name)?.map(|record| (written, record)));
        }
        Ok(records)
    }
}

/// Puts this process's name into a record.
fn sign(record: &mut SessionRecord) {
    record.host = host_name();
    record.process = std::process::id();
    let facts = process_facts(record.process);
    record.set_fact(PROCESS, facts.as_deref().map(str::as_bytes));
}

/// The boot of this host and the tick at which a process began (field 22 of proc_pid_stat(5)); none when it is gone.
fn process_facts(process: u32) -> Option<String> {
    let facts = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let began = facts
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .to_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{} {began}", boot.trim()))
}

/// Number and time of the newest record of each session of a repository.
fn newest(target: &Repository) -> Result<BTreeMap<ObjectId, (u64, Time)>> {
    let mut newest: BTreeMap<ObjectId, (u64, Time)> = BTreeMap::new();
    for object in target.store().list(names::SESSIONS)? {
        if let Some(Name::Session(id, number)) = Name::parse(&object.name) {
            let highest = newest.entry(id).or_insert((number, object.modified));
            *highest = (*highest).max((number, object.modified));
        }
    }
    Ok(newest)
}

fn read_all(
    target: &Arc<Repository>,
    newest: Vec<(ObjectId, (u64, Time))>,
) -> Result<Vec<Session>> {
    let share = newest.len().div_ceil(READERS).max(1);
    let read = |share: &[(ObjectId, (u64, Time))]| -> Result<Vec<_>> {
        let sessions = share.iter().map(|(id, (number, written))| {
            let record = readable(target, Name::Session(*id, *number))?;
            Ok(record.map(|record| Session {
                id: *id,
                number: *number,
                record,
                written: Some(*written),
                target: target.clone(),
            }))
        });
        sessions.filter_map(Result::transpose).collect()
    };
    let shares: Vec<_> = std::thread::scope(|scope| {
        let readers = newest
            .chunks(share)
            .map(|share| scope.spawn(|| read(share)));
        let readers: Vec<_> = readers.collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("reading a record does not panic"))
            .collect()
    });
    let mut sessions = Vec::new();
    for share in shares {
        sessions.extend(share?);
    }
    sessions.sort_by_key(|session| (session.record.started, session.id));
    Ok(sessions)
}

/// The sessions that a repository was the target of, the oldest first. A record that cannot be read is passed over with
/// a warning.
pub fn all_sessions(target: &Arc<Repository>) -> Result<Vec<Session>> {
    read_all(target, newest(target)?.into_iter().collect())
}

/// The sessions of a repository but those that are `known` to be over: one listing, and one request for each of the
/// others. All ids that there are come with them.
pub fn new_sessions(
    target: &Arc<Repository>,
    known: impl Fn(&ObjectId) -> bool,
) -> Result<(Vec<ObjectId>, Vec<Session>)> {
    let newest = newest(target)?;
    let ids = newest.keys().copied().collect();
    let new = newest.into_iter().filter(|(id, _)| !known(id));
    Ok((ids, read_all(target, new.collect())?))
}

/// Those that are not over: one listing, and one request for each of them.
pub fn unfinished_sessions(target: &Arc<Repository>) -> Result<Vec<Session>> {
    let open = newest(target)?
        .into_iter()
        .filter(|(_, (number, _))| *number != LAST);
    let mut sessions = read_all(target, open.collect())?;
    // Written by a program that gave the last word another number.
    sessions.retain(|session| !session.record.state.is_over());
    Ok(sessions)
}

/// Deletes the records of sessions that ended before `time` by the store's clock. Those that are not over stay.
pub fn remove_old_sessions(target: &Repository, time: Time) -> Result<u64> {
    let objects = target.store().list(names::SESSIONS)?;
    let old = objects.iter().filter(|object| object.modified < time);
    let old: BTreeSet<_> = old
        .filter_map(|object| match Name::parse(&object.name) {
            Some(Name::Session(id, LAST)) => Some(id),
            _ => None,
        })
        .collect();
    let mut last_words = Vec::new();
    for object in objects {
        match Name::parse(&object.name) {
            Some(Name::Session(id, LAST)) if old.contains(&id) => last_words.push(object.name),
            Some(Name::Session(id, _)) if old.contains(&id) => {
                target.store().delete(&object.name)?
            }
            _ => {}
        }
    }
    // After the others: without it the session would seem to go on.
    for name in &last_words {
        target.store().delete(name)?;
    }
    Ok(last_words.len() as u64)
}

/// A session's record; `None` when it cannot be read.
pub(super) fn readable(target: &Repository, name: Name) -> Result<Option<SessionRecord>> {
    match target.document(name) {
        Ok(record) => Ok(Some(record)),
        Err(error) if matches!(error.kind(), Kind::Damaged | Kind::TooNew | Kind::NotFound) => {
            tracing::warn!("{name} cannot be read: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
