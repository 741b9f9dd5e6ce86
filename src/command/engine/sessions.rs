//! Copy sessions, told as reports, and what is asked of them.

use super::{Telling, text};
use crate::command::session::LogLine;
use crate::copy::{self, End, Session, SessionRecord, TransferOptions};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::Catalog;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::store::names::{self, Name};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a session is and did.
#[derive(Clone, Debug, Serialize)]
pub struct SessionFacts {
    /// Its id.
    pub id: String,
    /// The word for its state.
    pub state: &'static str,
    /// One sentence about the state; empty where there is nothing to say.
    pub reason: String,
    /// Whether somebody works on it just now.
    pub alive: bool,
    /// When it began, RFC 3339.
    pub started: String,
    /// When it ended, or began to wait for somebody.
    pub ended: Option<String>,
    /// Where it copies from.
    pub source: String,
    /// Where it copies to.
    pub target: String,
    /// What moves its data.
    pub proxy: String,
    /// The host that worked on it last.
    pub host: String,
    /// The process that did.
    pub process: u32,
    /// Its points, as BACKUP/POINT of the target, with what became of each.
    pub points: Vec<PointFacts>,
    /// What could not be copied: at most [`copy::FAILED_PARTS_MAX`] parts.
    pub failed: Vec<PartFacts>,
    /// How many parts could not be copied.
    pub failed_total: u64,
    /// Stored bytes of data read from the source.
    pub read_bytes: u64,
    /// Bytes that were added to the target.
    pub stored_bytes: u64,
    /// Data packs written.
    pub data_packs: u64,
    /// Chunks that moved.
    pub chunks_moved: u64,
    /// Chunks that the target had.
    pub chunks_present: u64,
}

/// A point of a session.
#[derive(Clone, Debug, Serialize)]
pub struct PointFacts {
    /// BACKUP/POINT in the target.
    pub point: String,
    /// waiting, copied, present, conflict or failed.
    pub outcome: &'static str,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A part that could not be copied.
#[derive(Clone, Debug, Serialize)]
pub struct PartFacts {
    /// BACKUP/POINT/PATH in the source.
    pub path: String,
    /// Why.
    pub reason: String,
    /// How often it was asked for.
    pub attempts: u32,
}

/// What a session is and did.
pub(in crate::command) fn tell(session: &Session) -> SessionFacts {
    let record = &session.record;
    let points = record.points.iter().map(|point| PointFacts {
        point: SessionFacts::name(&point.into, &point.name),
        outcome: point.outcome.name(),
        bytes: point.bytes,
    });
    let failed = record.failed.iter().map(|part| PartFacts {
        path: format!(
            "{}/{}",
            SessionFacts::name(&part.backup, &part.point),
            text(&part.path)
        ),
        reason: part.reason.clone(),
        attempts: part.attempts,
    });
    SessionFacts {
        id: session.id.to_string(),
        state: record.state.name(),
        reason: reason(session, record),
        alive: session.is_alive(),
        started: record.started.rfc3339(),
        ended: record.ended.map(|ended| ended.rfc3339()),
        source: record.source.location.clone(),
        target: record.target.location.clone(),
        proxy: record.proxy.clone(),
        host: record.host.clone(),
        process: record.process,
        points: points.collect(),
        failed: failed.collect(),
        failed_total: record.failed_total,
        read_bytes: record.counters.data_bytes_read,
        stored_bytes: record.counters.stored_bytes,
        data_packs: record.counters.data_packs,
        chunks_moved: record.counters.chunks_moved,
        chunks_present: record.counters.chunks_present,
    }
}

fn reason(session: &Session, record: &SessionRecord) -> String {
    match record.state.works() && !session.is_alive() {
        true => format!(
            "its process {} on {} is gone; `keepfs session retry {}` goes on, and so does the same copy, run again",
            record.process, record.host, session.id
        ),
        false => record.reason.clone(),
    }
}

/// The sessions of a repository, the oldest first.
pub(in crate::command) fn sessions(
    target: &Arc<Repository>,
    unfinished: bool,
) -> Result<Vec<SessionFacts>> {
    let sessions = match unfinished {
        true => copy::unfinished_sessions(target)?,
        false => copy::all_sessions(target)?,
    };
    Ok(sessions.iter().map(tell).collect())
}

/// The ids of the sessions of a repository.
pub(in crate::command) fn session_ids(target: &Repository) -> Result<BTreeSet<ObjectId>> {
    let objects = target.store().list(names::SESSIONS)?.into_iter();
    let ids = objects.filter_map(|object| match Name::parse(&object.name) {
        Some(Name::Session(id, _)) => Some(id),
        _ => None,
    });
    Ok(ids.collect())
}

/// How a session stands.
pub(in crate::command) fn session(target: &Arc<Repository>, id: ObjectId) -> Result<SessionFacts> {
    Ok(tell(&Session::find(target, id)?))
}

/// What has happened to it.
pub(in crate::command) fn session_log(
    target: &Arc<Repository>,
    id: ObjectId,
) -> Result<Vec<LogLine>> {
    let history = Session::find(target, id)?.history()?;
    let lines = history.into_iter().map(|(written, record)| LogLine {
        time: written.rfc3339(),
        state: record.state.name(),
        by: format!("{} (process {})", record.host, record.process),
        reason: match record.failed_total {
            0 => record.reason,
            failed => format!("{failed} parts failed. {}", record.reason)
                .trim()
                .to_owned(),
        },
    });
    Ok(lines.collect())
}

/// The repository that a session copies from, and where it was.
pub(in crate::command) fn session_source(
    target: &Arc<Repository>,
    id: ObjectId,
) -> Result<(ObjectId, String)> {
    let source = Session::find(target, id)?.record.source;
    Ok((source.repository, source.location))
}

/// Brings what a session lacks. A copy that stopped again is told by the session.
pub(in crate::command) fn retry_session(
    source: &Arc<Repository>,
    target: &Arc<Repository>,
    id: ObjectId,
    telling: &Telling,
    progress: &Progress,
) -> Result<SessionFacts> {
    let session = tools_own(Session::find(target, id)?)?;
    let options = TransferOptions::between(source, target);
    let (from, to) = (End::open(source.clone())?, End::open(target.clone())?);
    let conducted = copy::retry_session(session, &from, &to, &options, progress)?;
    telling.conducted(&conducted);
    if conducted.report.record.state != copy::SessionState::NeedsAction {
        conducted.result?;
    }
    self::session(target, id)
}

/// Gives up what a session lacks.
pub(in crate::command) fn skip_session(
    target: &Arc<Repository>,
    id: ObjectId,
    telling: &Telling,
) -> Result<SessionFacts> {
    let skipped = copy::skip_session(tools_own(Session::find(target, id)?)?)?;
    telling.ended(id, &skipped.record);
    session(target, id)
}

/// Forgets the points that a session made.
pub(in crate::command) fn undo_session(
    target: &Arc<Repository>,
    id: ObjectId,
) -> Result<SessionFacts> {
    let session = Session::find(target, id)?;
    let end = End::open(target.clone())?;
    copy::undo_session(session, &end)?.result?;
    self::session(target, id)
}

/// What a tool writes into a mount is gone on with there.
fn tools_own(session: Session) -> Result<Session> {
    if session.record.fact(copy::OPEN_POINT).is_none() {
        return Ok(session);
    }
    let message = format!(
        "the session {} is a tool's copy into a mount; run the tool again there, or write into .keepfs/sessions/{}/action of that mount",
        session.id, session.id
    );
    Err(Error::new(Kind::Invalid, message))
}

/// A session that is not over and copies a backup that is `wanted`, by the name of its repository in the mount and its own.
pub(in crate::command) fn copy_of(
    catalogs: &[(String, Arc<Catalog>)],
    wanted: impl Fn(&str, &[u8]) -> bool,
) -> Result<Option<ObjectId>> {
    for (_, target) in catalogs {
        for session in copy::unfinished_sessions(target.repository())? {
            let record = &session.record;
            let mut sources = catalogs.iter();
            let source =
                sources.find(|(_, source)| source.repository().id() == record.source.repository);
            let Some((name, _)) = source else { continue };
            if record
                .points
                .iter()
                .any(|point| wanted(name, &point.backup))
            {
                return Ok(Some(session.id));
            }
        }
    }
    Ok(None)
}
