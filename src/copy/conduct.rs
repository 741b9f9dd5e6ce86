//! Copies as sessions: begun, gone on with after whatever ended them, retried, skipped, undone.
//!
//! What makes a session safe to go on with is not its record: what the target has is found in its index and its catalogue,
//! and a point exists when its record does. The session's record says who works on it, which points it is about, what
//! failed and why, and which points are its own, so that `undo` takes away these and no others.

use super::plan::{self, Selection, Step, Verdict, plan};
use super::run::{Copying, Ear, End, Leases, SESSION, Settled};
use super::session::{
    Action, BEAT, FailedPart, Outcome, Session, SessionCounters, SessionPoint, SessionRecord,
    SessionState, unfinished_sessions,
};
use super::transfer::TransferOptions;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Contents, Point};
use crate::progress::Progress;
use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
use std::sync::Arc;

/// What became of a session.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// Its id.
    pub session: ObjectId,
    /// Its last record.
    pub record: SessionRecord,
}

/// A session and how its run ended: with an error when it stopped before its end.
#[derive(Debug)]
pub struct Conducted {
    /// The session as it stands now.
    pub report: SessionReport,
    /// Why it stopped.
    pub result: Result<()>,
}

impl Conducted {
    /// The session, if it came to its end.
    pub fn into_result(self) -> Result<SessionReport> {
        self.result.map(|()| self.report)
    }
}

/// Copies every point of a selection that the target lacks, oldest first, as one session. One that was left by a process
/// that is gone, or that waits for somebody, goes on as this one if all that it lacks is selected again.
///
/// Points that cannot be copied are reported in the session's record, and the others are copied. Fails when nothing
/// more can be done: the selection names nothing (`NotFound`), the target cannot be written, a store does not
/// answer, or the caller asked to stop (`Interrupted`). What has arrived by then is not moved again.
pub fn copy_points(
    selection: &Selection,
    source: &End,
    target: &End,
    options: &TransferOptions,
    progress: &Progress,
) -> Result<SessionReport> {
    conduct_copy(selection, source, target, options, progress)?.into_result()
}

/// As [`copy_points`], for whoever wants to know of the session also when it stopped.
pub fn conduct_copy(
    selection: &Selection,
    source: &End,
    target: &End,
    options: &TransferOptions,
    progress: &Progress,
) -> Result<Conducted> {
    let contents = target.catalog.refresh()?;
    let steps = plan(selection, &*source.catalog.refresh()?, &contents)?;
    let session = match unfinished(source, target, &steps)? {
        Some(mut session) => {
            merge(session.id, &mut session.record, &steps, &contents);
            session.become_ours(SessionState::Running)?;
            session
        }
        None => {
            let points = steps.iter().map(session_point).collect();
            let record = SessionRecord::begin(source.repository(), target.repository(), points);
            Session::begin(target.repository(), record)?
        }
    };
    Ok(conduct(
        session,
        &steps,
        (source, target),
        options,
        progress,
    ))
}

/// Brings what a session lacks. Fails as [`Session::take`] does; what happens then is told with the session.
pub fn retry_session(
    mut session: Session,
    source: &End,
    target: &End,
    options: &TransferOptions,
    progress: &Progress,
) -> Result<Conducted> {
    if source.repository().id() != session.record.source.repository {
        let message = format!(
            "the session {} copies from {}, not from {}",
            session.id,
            session.record.source.location,
            source.repository().location()
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    session.take(Action::Retry)?;
    retry_taken(session, source, target, options, progress)
}

/// As [`retry_session`], of one that was taken for it.
pub fn retry_taken(
    mut session: Session,
    source: &End,
    target: &End,
    options: &TransferOptions,
    progress: &Progress,
) -> Result<Conducted> {
    let contents = target.catalog.refresh()?;
    let steps = steps_left(&mut session.record, &*source.catalog.refresh()?, &contents);
    merge(session.id, &mut session.record, &steps, &contents);
    Ok(conduct(
        session,
        &steps,
        (source, target),
        options,
        progress,
    ))
}

/// Gives up what a session lacks. The points that are whole stay; of the others nothing is visible in the target.
pub fn skip_session(mut session: Session) -> Result<SessionReport> {
    let next = session
        .record
        .state
        .begin(Action::Skip, session.is_alive())?;
    let mut dropped = 0;
    for point in session
        .record
        .points
        .iter_mut()
        .filter(|point| !point.is_there())
    {
        dropped += 1;
        if point.outcome == Outcome::Waiting {
            point.outcome = Outcome::Failed;
        }
    }
    session.record.reason = format!("skipped: {dropped} restore points were given up");
    session.become_ours(next)?;
    Ok(report(session))
}

/// Takes away the points that a session has made: they are gone for good, without days in the trash, and the next prunes
/// remove what nobody else needs. What was in the target before, and what others made of it since, stays.
pub fn undo_session(mut session: Session, target: &End) -> Result<Conducted> {
    session.take(Action::Undo)?;
    let result = forget_made(session.id, &session.record, target);
    match &result {
        Ok(()) => {
            session.enter(SessionState::Undone);
            session.record.reason = "undone: the target has none of its points".to_owned();
        }
        Err(error) => {
            session.enter(SessionState::Failed);
            session.record.reason = format!("not undone yet: {error}");
        }
    }
    session.write()?;
    Ok(Conducted {
        report: report(session),
        result,
    })
}

fn forget_made(session: ObjectId, record: &SessionRecord, target: &End) -> Result<()> {
    let contents = target.catalog.refresh()?;
    let made: Vec<_> = record
        .points
        .iter()
        .filter_map(|point| made_by(session, point, &contents))
        .collect();
    for point in &made {
        target.catalog.forget(point)?;
    }
    // What an undo that was stopped had forgotten is among them.
    let contents = target.catalog.refresh()?;
    let is_hidden = |point: &Point| {
        let mut visible = contents.points_of(point.record.backup);
        !visible.any(|there| (there.id, there.generation) == (point.id, point.generation))
    };
    let is_ours = |point: &Point| {
        let mut known = record.points.iter().filter(|known| {
            let into = contents.backups.get(&known.into);
            known.name == point.name() && into.is_some_and(|into| into.id == point.record.backup)
        });
        known.next().is_some() && is_made(session, point)
    };
    let kept = target.catalog.kept();
    let gone = kept
        .iter()
        .filter(|point| is_hidden(point) && is_ours(point));
    let gone: Vec<_> = gone.map(|point| (point.id, point.generation)).collect();
    target.catalog.bury(&gone)
}

/// The point of the target that this session has made of one of its points.
fn made_by(session: ObjectId, point: &SessionPoint, there: &Contents) -> Option<Arc<Point>> {
    let found = there.point(&point.into, &point.name)?;
    is_made(session, found).then(|| found.clone())
}

/// Whether this session has made a point, and nobody else, whatever its record says of it: the session's own record may
/// be older than the point, and somebody may have forgotten the point and copied it once more.
fn is_made(session: ObjectId, found: &Point) -> bool {
    let mut facts = found.record.more.iter();
    facts.any(|(name, value)| name == SESSION && *value == session.0)
}

/// A session between these two that nobody works on, and whose missing points are all among the steps.
fn unfinished(source: &End, target: &End, steps: &[Step]) -> Result<Option<Session>> {
    let source = source.repository().id();
    let mut sessions = unfinished_sessions(target.repository())?;
    sessions.retain(|session| {
        let record = &session.record;
        let mut missing = record.points.iter().filter(|point| !point.is_there());
        record.source.repository == source
            && record.fact(super::session::OPEN_POINT).is_none()
            && record.state != SessionState::Undoing
            && !session.is_alive()
            && missing.all(|point| steps.iter().any(|step| is_of(point, step)))
    });
    Ok(sessions.pop())
}

fn is_of(point: &SessionPoint, step: &Step) -> bool {
    (point.id, point.generation, &point.into) == (step.point.id, step.point.generation, &step.into)
}

/// Steps for what a session lacks. What the source has no more is put down as failed.
fn steps_left(record: &mut SessionRecord, source: &Contents, target: &Contents) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lost = Vec::new();
    for point in record.points.iter_mut().filter(|point| !point.is_there()) {
        let there = source.point(&point.backup, &point.name);
        match there.filter(|there| (there.id, there.generation) == (point.id, point.generation)) {
            Some(there) => steps.push(Step {
                point: there.clone(),
                from: point.backup.clone(),
                into: point.into.clone(),
                verdict: Verdict::Copy,
            }),
            None => {
                point.outcome = Outcome::Failed;
                lost.push(part(point, "the source has this restore point no more", 1));
            }
        }
    }
    plan::judge(&mut steps, target);
    record.failed = lost;
    steps
}

/// Puts the steps behind those points of the record that are not among them.
fn merge(session: ObjectId, record: &mut SessionRecord, steps: &[Step], there: &Contents) {
    let before = std::mem::take(&mut record.points);
    let points = steps.iter().map(|step| {
        let mut point = session_point(step);
        if point.outcome == Outcome::Present && made_by(session, &point, there).is_some() {
            point.outcome = Outcome::Copied;
        }
        point
    });
    let points: Vec<_> = points.collect();
    let others = before
        .iter()
        .filter(|known| !steps.iter().any(|step| is_of(known, step)));
    record.points = others.cloned().chain(points).collect();
}

fn session_point(step: &Step) -> SessionPoint {
    SessionPoint {
        backup: step.from.clone(),
        name: step.point.name().to_vec(),
        id: step.point.id,
        generation: step.point.generation,
        into: step.into.clone(),
        entries: step.point.record.tree.entries,
        bytes: step.point.record.tree.bytes,
        outcome: match step.verdict {
            Verdict::Copy => Outcome::Waiting,
            Verdict::Present => Outcome::Present,
            Verdict::Conflict => Outcome::Conflict,
        },
    }
}

fn expect(progress: &Progress, steps: &[Step]) {
    let to_copy = || {
        steps
            .iter()
            .filter(|step| step.verdict == Verdict::Copy)
            .map(|step| step.point.record.tree)
    };
    // Trees may say what they like.
    let (entries, bytes) = to_copy().fold((0u64, 0u64), |(entries, bytes), tree| {
        (
            entries.saturating_add(tree.entries),
            bytes.saturating_add(tree.bytes),
        )
    });
    progress.expect(entries, bytes);
}

/// A session under way: shared by its own thread and by the one that says that it goes on.
struct Conductor<'a> {
    session: Mutex<Session>,
    /// Place of the first step among the record's points.
    first: usize,
    /// How often parts were asked for in earlier runs.
    attempts: u32,
    progress: &'a Progress,
}

/// Runs the steps, which are the last of the record's points.
fn conduct(
    mut session: Session,
    steps: &[Step],
    (source, target): (&End, &End),
    options: &TransferOptions,
    progress: &Progress,
) -> Conducted {
    expect(progress, steps);
    let attempts = session.record.failed.iter().map(|part| part.attempts);
    let attempts = attempts.max().unwrap_or_default();
    let before = session.record.counters;
    forget_failures(&mut session.record);
    let conductor = Conductor {
        first: session.record.points.len() - steps.len(),
        session: Mutex::new(session),
        attempts,
        progress,
    };
    let id = conductor.session.lock().id;
    let copying = Copying::new(source, target, *options, progress);
    let result = copying.and_then(|copying| {
        let mut copying = copying.of_session(id);
        let leases = copying.leases();
        let result = conductor.beating(&leases, || copying.steps(steps, &conductor));
        if result.is_err() {
            copying.save();
        }
        conductor.session.lock().record.counters = before.and(&copying.counters());
        result
    });
    end(conductor.session.into_inner(), result)
}

/// What failed before is asked for again, but for what the source has no more.
fn forget_failures(record: &mut SessionRecord) {
    let failed = std::mem::take(&mut record.failed);
    record.failed_total = 0;
    let lost = |part: &FailedPart| {
        let points = record.points.iter();
        let mut points =
            points.filter(|point| (&point.backup, &point.name) == (&part.backup, &part.point));
        part.path.is_empty() && points.any(|point| point.outcome == Outcome::Failed)
    };
    let lost: Vec<_> = failed.into_iter().filter(lost).collect();
    lost.into_iter().for_each(|part| record.add_failed(part));
}

impl Ear for Conductor<'_> {
    fn retrying(&self) -> Result<()> {
        let mut session = self.session.lock();
        session.enter(SessionState::Retrying);
        session.write()
    }

    fn settled(&self, settled: Settled) -> Result<()> {
        let mut session = self.session.lock();
        let record = &mut session.record;
        let point = &mut record.points[self.first + settled.number];
        point.outcome = settled.outcome;
        let (backup, name) = (point.backup.clone(), point.name.clone());
        for failed in settled.failed {
            record.add_failed(FailedPart {
                backup: backup.clone(),
                point: name.clone(),
                path: failed.path,
                reason: failed.reason,
                attempts: self.attempts + settled.attempts,
            });
        }
        if session.record.state == SessionState::Retrying {
            session.enter(SessionState::Running);
        }
        Ok(())
    }
}

impl Conductor<'_> {
    /// Works, and says now and then that the session is worked on. Stops the work when somebody else has taken it.
    fn beating<A>(&self, leases: &Leases, work: impl FnOnce() -> Result<A>) -> Result<A> {
        let (done, waiting) = bounded::<()>(0);
        let mut taken = None;
        let result = std::thread::scope(|scope| {
            let heart = scope.spawn(move || {
                while waiting.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                    leases.renew();
                    match self.session.lock().beat() {
                        Err(error) if error.kind() == Kind::Busy => {
                            self.progress.stop();
                            return Some(error);
                        }
                        // The next time, or others take it for dead and go on with it: no harm is done.
                        Err(error) => {
                            tracing::info!("the session's record was not written: {error}")
                        }
                        Ok(()) => {}
                    }
                }
                None
            });
            let result = work();
            drop(done);
            taken = heart.join().unwrap_or_default();
            result
        });
        taken.map_or(result, Err)
    }
}

/// The last record of a run.
fn end(mut session: Session, result: Result<()>) -> Conducted {
    let parked = result.as_ref().err().filter(|error| is_for_a_person(error));
    if let Some(error) = parked {
        park(&mut session.record, error.message());
    }
    add_conflicts(&mut session.record);
    session.enter(match &result {
        Err(_) if parked.is_none() => SessionState::Failed,
        _ if session.record.failed_total > 0 => SessionState::NeedsAction,
        Err(_) => SessionState::Failed,
        Ok(()) => SessionState::Success,
    });
    session.record.reason = match &result {
        Err(error) => error.message().to_owned(),
        Ok(()) => String::new(),
    };
    let written = match &result {
        // Another process has it; what it is now is for that one to say.
        Err(error) if error.kind() == Kind::Busy => Ok(()),
        _ => session.write(),
    };
    let result = match (result, written) {
        // The caller hears of the copy's own failure, and of nothing else: the record says "running" if this fails too.
        (Err(error), Err(other)) => {
            tracing::info!("the end of session {} was not written: {other}", session.id);
            Err(error)
        }
        (result, written) => result.and(written),
    };
    Conducted {
        report: report(session),
        result,
    }
}

/// Whether a copy that stopped for this waits for somebody: it goes on when that has made room, or has brought the store
/// back.
fn is_for_a_person(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Unreachable | Kind::Full | Kind::Quota | Kind::Denied
    )
}

/// No point that was not reached is there, for this reason.
fn park(record: &mut SessionRecord, reason: &str) {
    let missing = record.points.iter();
    let missing = missing.filter(|point| point.outcome == Outcome::Waiting);
    let parts: Vec<_> = missing.map(|point| part(point, reason, 1)).collect();
    parts.into_iter().for_each(|part| record.add_failed(part));
}

fn part(point: &SessionPoint, reason: &str, attempts: u32) -> FailedPart {
    FailedPart {
        backup: point.backup.clone(),
        point: point.name.clone(),
        path: Vec::new(),
        reason: reason.to_owned(),
        attempts,
    }
}

fn report(session: Session) -> SessionReport {
    SessionReport {
        session: session.id,
        record: session.record,
    }
}

fn add_conflicts(record: &mut SessionRecord) {
    let conflicts = record
        .points
        .iter()
        .filter(|point| point.outcome == Outcome::Conflict)
        .map(|point| part(point, &conflict_reason(point), 1));
    let conflicts: Vec<_> = conflicts.collect();
    conflicts
        .into_iter()
        .for_each(|part| record.add_failed(part));
}

fn conflict_reason(point: &SessionPoint) -> String {
    let (backup, name) = (
        String::from_utf8_lossy(&point.into),
        String::from_utf8_lossy(&point.name),
    );
    format!(
        "the target has another restore point {backup}/{name}; rename one of them, or copy into another backup"
    )
}

impl SessionCounters {
    /// What both have done.
    fn and(self, other: &Self) -> Self {
        Self {
            frames_moved: self.frames_moved + other.frames_moved,
            frames_cut: self.frames_cut + other.frames_cut,
            data_bytes_read: self.data_bytes_read + other.data_bytes_read,
            data_bytes_written: self.data_bytes_written + other.data_bytes_written,
            data_packs: self.data_packs + other.data_packs,
            stored_bytes: self.stored_bytes + other.stored_bytes,
            chunks_moved: self.chunks_moved + other.chunks_moved,
            chunks_present: self.chunks_present + other.chunks_present,
        }
    }
}
