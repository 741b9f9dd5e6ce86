//! Copies that tools make in the mount, as sessions: `cp` and rsync know nothing of them, so their state is looked up, every
//! few seconds, from the open points that they write.
//!
//! The id of an open point is that of its session. A session begins when the point is seen to be a copy of a complete
//! one; it ends with the point. When what it refers to cannot be brought, or nobody has changed it for an hour, it waits in
//! `needs-action`; the tool, run again, goes on with it. Records are written by the thread that looks, never by a call
//! of a tool, and one that cannot be written is written at a later look.

use super::FileSystem;
use super::open::{CopyFacts, CopyStage, OpenPoint};
use crate::copy::{
    self, Action, BEAT, End, FailedPart, OPEN_POINT, Outcome, Session, SessionPoint, SessionRecord,
    SessionState, TransferOptions,
};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::Contents;
use crate::progress::Progress;
use crate::repository::host_name;
use crate::thread;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How often is looked.
const LOOK: Duration = Duration::from_secs(2);
/// Looks between two that ask the stores for sessions of processes that are gone: five minutes.
const LOOKS_FOR_THE_DEAD: u32 = 150;
/// Failed files that a record names at most; it counts them all.
const NAMED_FILES_MAX: usize = 1000;

/// An open point that is watched.
struct Watched {
    open: Arc<OpenPoint>,
    session: Option<Session>,
    /// When it last said that it is worked on.
    said: i64,
}

/// Who hears of sessions that end, or begin to wait for somebody.
pub type Listener = Box<dyn Fn(ObjectId, &SessionRecord) + Send + Sync>;

/// The open points that tools may make copies in.
#[derive(Default)]
pub(super) struct Copies {
    watched: Mutex<Vec<Watched>>,
    /// Whether somebody looks at them: until then none is held.
    looked_at: AtomicBool,
}

impl Copies {
    /// Watches an open point from now on, until its end.
    pub(super) fn watch(&self, open: &Arc<OpenPoint>) {
        if !self.looked_at.load(Relaxed) {
            return;
        }
        self.watched.lock().push(Watched {
            open: open.clone(),
            session: None,
            said: 0,
        });
    }
}

impl FileSystem {
    /// From now on tells of tools' copies, and goes on with sessions whose process is gone, on threads of its own, as long as
    /// there is this tree.
    pub fn keep_telling_copies(self: &Arc<Self>) {
        self.watch_copies();
        let tree = Arc::downgrade(self);
        thread::spawn(move || {
            let mut looks = 0;
            loop {
                let Some(tree) = tree.upgrade() else { return };
                tree.tell_copies();
                if looks % LOOKS_FOR_THE_DEAD == 1 {
                    let tree = tree.clone();
                    thread::spawn(move || tree.resume_sessions());
                }
                looks += 1;
                drop(tree);
                std::thread::sleep(LOOK);
            }
        });
    }

    /// From now on [`Self::tell_copies`] tells of all open points.
    pub fn watch_copies(&self) {
        self.copies.looked_at.store(true, Relaxed);
        for open in self.open_points.all() {
            self.copies.watch(&open);
        }
    }

    /// Writes down how every tool's copy stands.
    pub fn tell_copies(&self) {
        // Not under the lock for long: whoever makes an open point watches it.
        let mut watched = std::mem::take(&mut *self.copies.watched.lock());
        watched.retain_mut(|one| match self.tell_copy(one) {
            Ok(goes_on) => goes_on,
            Err(error) => {
                tracing::info!("{}: its session is told later: {error}", one.open.path());
                true
            }
        });
        self.copies.watched.lock().append(&mut watched);
    }

    /// Writes down how one stands; false when that was its end.
    fn tell_copy(&self, watched: &mut Watched) -> Result<bool> {
        let Some(facts) = watched.open.copy_facts() else {
            return Ok(watched.open.is_open());
        };
        let ended = matches!(facts.stage, CopyStage::Sealed { .. } | CopyStage::Discarded);
        let session = match &mut watched.session {
            Some(session) => session,
            None => watched.session.insert(begin(&watched.open, &facts)?),
        };
        if session.record.state.is_over() {
            return Ok(!ended);
        }
        let now = self.options.clock.now().seconds;
        let quiet = now.saturating_sub(facts.changed.seconds);
        let next = next_state(&session.record, &facts, quiet, self.options.park_after);
        if next != session.record.state {
            self.enter(session, next, &watched.open, &facts)?;
            watched.said = now;
        } else if next.works() && now.saturating_sub(watched.said) >= BEAT.as_secs() as i64 {
            session.beat()?;
            watched.said = now;
        }
        Ok(!ended)
    }

    fn enter(
        &self,
        session: &mut Session,
        next: SessionState,
        open: &OpenPoint,
        facts: &CopyFacts,
    ) -> Result<()> {
        let before = session.record.clone();
        describe(&mut session.record, next, open, facts);
        if let Some(point) = session.record.points.first_mut() {
            point.outcome = match next {
                SessionState::Success => Outcome::Copied,
                SessionState::NeedsAction => Outcome::Failed,
                _ => Outcome::Waiting,
            };
        }
        let entered = session.go_on_as(next);
        match &entered {
            Ok(()) => self.tell_listener(session.id, &session.record),
            Err(_) => session.record = before,
        }
        entered
    }

    /// Hands in who hears of sessions that end here: once, before the tree is served.
    pub fn set_listener(&self, listener: Listener) {
        let set = self.listener.set(listener);
        assert!(set.is_ok(), "a listener is handed in once");
    }

    fn tell_listener(&self, id: ObjectId, record: &SessionRecord) {
        if let Some(listener) = self.listener.get().filter(|_| !record.state.works()) {
            listener(id, record);
        }
    }

    /// Acts on a tool's copy: `retry` brings again what could not be brought, `skip` gives the session up and leaves the
    /// point open, `undo` discards the point. `NotFound` when no open point of this mount has this id.
    pub fn act_on_copy(self: &Arc<Self>, id: ObjectId, action: Action) -> Result<()> {
        let open = self
            .open_points
            .all()
            .into_iter()
            .find(|open| open.id == id);
        let Some(open) = open else {
            let message = format!("no open point of this mount is the session {id}");
            return Err(Error::new(Kind::NotFound, message));
        };
        let Some(mut session) = self.session_of(&open)? else {
            let message = format!("{} is not a copy of another restore point", open.path());
            return Err(Error::new(Kind::Invalid, message));
        };
        let waits = !session.record.state.works();
        session.record.state.begin(action, !waits)?;
        match action {
            Action::Retry => {
                let tree = self.clone();
                thread::spawn(move || match open.bring_what_lacks() {
                    Ok(()) => tree.seal_if_whole(&open),
                    Err(error) => tracing::info!("{}: {error}", open.path()),
                });
            }
            Action::Skip => {
                session.record.reason =
                    "skipped: the point stays open until it is sealed or discarded".to_owned();
                session.go_on_as(SessionState::Warning)?;
                self.tell_listener(session.id, &session.record);
                self.remember(&open, session);
            }
            Action::Undo => {
                open.discard().map_err(Error::from)?;
                self.open_points.remove(&open);
                self.tell_copies();
            }
        }
        Ok(())
    }

    fn session_of(&self, open: &Arc<OpenPoint>) -> Result<Option<Session>> {
        let watched = self.copies.watched.lock();
        let known = watched.iter().find(|one| Arc::ptr_eq(&one.open, open));
        if let Some(session) = known.and_then(|one| one.session.clone()) {
            return Ok(Some(session));
        }
        drop(watched);
        match Session::find(open.repository.catalog.repository(), open.id) {
            Ok(session) => Ok(Some(session)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remember(&self, open: &Arc<OpenPoint>, session: Session) {
        let mut watched = self.copies.watched.lock();
        if let Some(one) = watched.iter_mut().find(|one| Arc::ptr_eq(&one.open, open)) {
            one.session = Some(session);
        }
    }

    /// Goes on with copies of the engine, into mounted repositories and from mounted ones, whose process is gone.
    pub fn resume_sessions(self: &Arc<Self>) {
        for mounted in self.repositories.iter() {
            let target = mounted.catalog.repository();
            let sessions = match copy::unfinished_sessions(target) {
                Ok(sessions) => sessions,
                Err(error) => {
                    tracing::info!(
                        "{}: its sessions are looked at later: {error}",
                        mounted.name
                    );
                    continue;
                }
            };
            for session in sessions {
                self.look_after(session);
            }
        }
    }

    /// Goes on with a session whose process is gone; of one that waits for somebody, who worked on this host, that is told
    /// again, and after long enough it is acted on, if that is wished.
    fn look_after(self: &Arc<Self>, session: Session) {
        let record = &session.record;
        let by_tool = record.fact(OPEN_POINT).is_some();
        if record.state.works() {
            match (session.is_alive(), by_tool) {
                (true, _) => {}
                (false, false) => self.go_on_with(session),
                (false, true) => self.end_orphan(session),
            }
            return;
        }
        if record.state != SessionState::NeedsAction || record.host != host_name() {
            return;
        }
        self.tell_listener(session.id, record);
        let since = record.ended.unwrap_or(record.started).seconds;
        let waited = self.options.clock.now().seconds.saturating_sub(since);
        let Some((action, after)) = self.options.auto_action else {
            return;
        };
        if waited < after.as_secs() as i64 {
            return;
        }
        let id = session.id;
        let acted = match (by_tool, action) {
            (true, action) => self.act_on_copy(id, action),
            (false, Action::Retry) => {
                self.go_on_with(session);
                Ok(())
            }
            (false, Action::Skip) => copy::skip_session(session).map(|skipped| {
                self.tell_listener(skipped.session, &skipped.record);
            }),
            (false, Action::Undo) => {
                let target = self.end(record.target.repository);
                target.map_or(Ok(()), |target| {
                    copy::undo_session(session, &target)?.result
                })
            }
        };
        match acted {
            Ok(()) => tracing::info!("session {id} has waited long enough: {}", action.name()),
            Err(error) => tracing::warn!("session {id} has waited long enough, but: {error}"),
        }
    }

    /// A tool's copy of this host whose daemon died just when the point was complete, or whose open point is gone.
    fn end_orphan(&self, mut session: Session) {
        let known = self
            .open_points
            .all()
            .iter()
            .any(|open| open.id == session.id);
        if known || session.record.host != host_name() || self.open_points.lacks_some() {
            return;
        }
        let Some(target) = self.end(session.record.target.repository) else {
            return;
        };
        let made = is_made(&session.record, &target.catalog.contents());
        let record = &mut session.record;
        if let Some(point) = record.points.first_mut() {
            point.outcome = if made {
                Outcome::Copied
            } else {
                Outcome::Failed
            };
        }
        record.reason = match made {
            true => String::new(),
            false => "its open point is gone; run the tool again".to_owned(),
        };
        let next = match made {
            true => SessionState::Success,
            false => SessionState::Failed,
        };
        match session.go_on_as(next) {
            Ok(()) => self.tell_listener(session.id, &session.record),
            Err(error) => tracing::info!("session {} is ended later: {error}", session.id),
        }
    }

    /// A mounted repository as an end of a copy.
    fn end(&self, id: ObjectId) -> Option<End> {
        let mut all = self.repositories.iter();
        let found = all.find(|mounted| mounted.catalog.repository().id() == id)?;
        Some(End {
            catalog: found.catalog.clone(),
            trees: found.trees.clone(),
        })
    }

    fn go_on_with(&self, session: Session) {
        let record = &session.record;
        let (source, target) = (
            self.end(record.source.repository),
            self.end(record.target.repository),
        );
        let (id, undoing) = (session.id, record.state == SessionState::Undoing);
        let Some(target) = target else { return };
        let conducted = match (undoing, source) {
            (true, _) => copy::undo_session(session, &target),
            (false, Some(source)) => {
                let options = TransferOptions::between(source.repository(), target.repository());
                copy::retry_session(session, &source, &target, &options, &Progress::default())
            }
            (false, None) => return,
        };
        if let Ok(conducted) = &conducted {
            self.tell_listener(id, &conducted.report.record);
        }
        match conducted.and_then(|conducted| conducted.result) {
            Ok(()) => tracing::info!("went on with session {id}"),
            Err(error) => tracing::warn!("session {id} was gone on with, and stopped: {error}"),
        }
    }
}

/// Whether the target has a copy of a session's point that was sealed since it began, under whatever name.
fn is_made(record: &SessionRecord, there: &Contents) -> bool {
    let Some(point) = record.points.first() else {
        return false;
    };
    let backup = there.backups.get(&point.into);
    let points = backup
        .into_iter()
        .flat_map(|backup| there.points_of(backup.id));
    let mut copies = points.filter(|there| {
        there.record.origin.as_ref().is_some_and(|origin| {
            origin.repository == record.source.repository
                && (origin.point, origin.generation) == (point.id, point.generation)
        })
    });
    copies.any(|copy| copy.record.sealed.seconds >= record.started.seconds)
}

/// The session of an open point: the one that an earlier daemon began, or a new one.
fn begin(open: &OpenPoint, facts: &CopyFacts) -> Result<Session> {
    let target = open.repository.catalog.repository();
    match Session::find(target, open.id) {
        Ok(mut session) => {
            if session.record.state.works() {
                session.go_on_as(SessionState::Running)?;
            }
            return Ok(session);
        }
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (from, source) = (
        &facts.from.point,
        facts.from.repository.catalog.repository(),
    );
    let name = |repository: &super::repositories::MountedRepository, backup| {
        let backup = repository.backup(backup);
        backup
            .map(|backup| backup.name().to_vec())
            .unwrap_or_default()
    };
    let point = SessionPoint {
        backup: name(&facts.from.repository, from.record.backup),
        name: from.name().to_vec(),
        id: from.id,
        generation: from.generation,
        into: name(&open.repository, open.backup),
        entries: from.record.tree.entries,
        bytes: from.record.tree.bytes,
        outcome: Outcome::Waiting,
    };
    let mut record = SessionRecord::begin(source, target, vec![point]);
    record.started = open.started;
    record.set_fact(OPEN_POINT, Some(open.id.to_string().as_bytes()));
    Session::begin_as(open.id, target, record)
}

/// What a tool's copy is now that was in this state.
fn next_state(
    record: &SessionRecord,
    facts: &CopyFacts,
    quiet: i64,
    park_after: Duration,
) -> SessionState {
    match &facts.stage {
        CopyStage::Sealed { .. } => SessionState::Success,
        CopyStage::Discarded => SessionState::Undone,
        CopyStage::Open(Some(_)) => SessionState::NeedsAction,
        CopyStage::Open(None) if quiet >= park_after.as_secs() as i64 => SessionState::NeedsAction,
        // Nothing has changed since it began to wait.
        CopyStage::Open(None)
            if record.state == SessionState::NeedsAction
                && record
                    .ended
                    .is_some_and(|ended| ended.seconds > facts.changed.seconds)
                && record.failed.is_empty() =>
        {
            SessionState::NeedsAction
        }
        CopyStage::Open(None) | CopyStage::Sealing => SessionState::Running,
    }
}

/// Puts the reason for a state, and what failed, into the record.
fn describe(record: &mut SessionRecord, next: SessionState, open: &OpenPoint, facts: &CopyFacts) {
    record.failed.clear();
    record.failed_total = 0;
    record.reason = match (&facts.stage, next) {
        (CopyStage::Sealed { is_copy: false }, _) => {
            "sealed as it was written: a restore point of its own".to_owned()
        }
        (CopyStage::Discarded, _) => "the open point was discarded".to_owned(),
        (CopyStage::Open(Some(why)), _) => {
            let (paths, count) = open.lacking_files(NAMED_FILES_MAX);
            add_failed(record, paths, count, why);
            why.clone()
        }
        (_, SessionState::NeedsAction) => format!(
            "nobody has changed {} for long; run the same tool again, seal it with `keepfs seal`, or discard it with rmdir",
            open.path()
        ),
        _ => String::new(),
    };
}

fn add_failed(record: &mut SessionRecord, paths: Vec<Vec<u8>>, count: u64, why: &str) {
    let Some(point) = record.points.first().cloned() else {
        return;
    };
    for path in paths {
        record.add_failed(FailedPart {
            backup: point.backup.clone(),
            point: point.name.clone(),
            path,
            reason: why.to_owned(),
            attempts: 1,
        });
    }
    record.failed_total = count;
}
