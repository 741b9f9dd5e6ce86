//! Copying restore points: each is brought, then all that was brought is made durable, then the records are written.
//!
//! Small points share packs: the records of several are written together, once a pack's worth of data has moved.
//! Until a record is written its point does not exist in the target, whatever else is there; a run that was killed
//! leaves data that the next run finds in the index and does not move again.

use super::plan::{Selection, Step, Verdict, plan};
use super::point::{self, Base, Failed};
use super::session::{
    FailedPart, Outcome, SessionCounters, SessionPoint, SessionRecord, SessionState,
};
use super::transfer::{Transfer, TransferOptions, TransferReport};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Catalog, Contents, Draft, Origin, Point, Trees};
use crate::progress::Progress;
use crate::repository::{Repository, Writer};
use crate::store::names::Name;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Points whose records are written together at most: what a kill makes a rerun walk again.
const PENDING_MAX: usize = 64;

/// One end of a copy: a repository's points and trees.
#[derive(Clone, Debug)]
pub struct End {
    /// Its points.
    pub catalog: Arc<Catalog>,
    /// Its trees.
    pub trees: Arc<Trees>,
}

impl End {
    /// The end that this repository is.
    pub fn open(repository: Arc<Repository>) -> Result<Self> {
        Ok(Self {
            catalog: Arc::new(Catalog::open(repository.clone())?),
            trees: Arc::new(Trees::new(repository)),
        })
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        self.trees.repository()
    }
}

/// What became of one point.
#[derive(Clone, Debug)]
pub struct PointReport {
    /// What became of it.
    pub outcome: Outcome,
    /// The point in the target, when it is there now.
    pub point: Option<Arc<Point>>,
    /// What could not be copied.
    pub failed: Vec<Failed>,
    /// What was done for it.
    pub transfer: TransferReport,
}

/// What became of a session.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// Its id.
    pub session: ObjectId,
    /// Its last record.
    pub record: SessionRecord,
}

/// Copies every point of a selection that the target lacks, oldest first, as one session.
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
    let steps = plan(
        selection,
        &*source.catalog.refresh()?,
        &*target.catalog.refresh()?,
    )?;
    expect(progress, &steps);
    let mut copying = Copying::new(source, target, *options, progress)?;
    let points = steps.iter().map(session_point).collect();
    let record = SessionRecord::begin(source.repository(), target.repository(), points);
    let mut session = Session {
        id: ObjectId::random(),
        record,
        target: target.repository().clone(),
    };
    session.write(0)?;
    let result = copying.steps(&steps, &mut session.record);
    if result.is_err() {
        copying.save();
    }
    session.record.counters = copying.counters();
    session.end(result)
}

/// Copies one point into a backup of the target, without a session.
///
/// A point that cannot be copied whole is not committed; the report lists what failed. Fails as [`copy_points`] does.
pub fn copy_point(
    source: &End,
    point: &Arc<Point>,
    target: &End,
    backup: &[u8],
    options: &TransferOptions,
    progress: &Progress,
) -> Result<PointReport> {
    let mut copying = Copying::new(source, target, *options, progress)?;
    let step = Step {
        point: point.clone(),
        from: Vec::new(),
        into: backup.to_vec(),
        verdict: Verdict::Copy,
    };
    let mut settled = None;
    let result = copying
        .bring(0, &step)
        .and_then(|()| copying.settle(|one| settled = Some(one)));
    if result.is_err() {
        copying.save();
    }
    result?;
    let settled = settled.expect("one point was brought");
    Ok(PointReport {
        outcome: settled.outcome,
        point: settled.point,
        failed: settled.failed,
        transfer: copying.transfer.report(),
    })
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

/// A session that is under way.
struct Session {
    id: ObjectId,
    record: SessionRecord,
    target: Arc<Repository>,
}

impl Session {
    fn write(&self, number: u64) -> Result<()> {
        self.target
            .create_document(Name::Session(self.id, number), &self.record)
    }

    fn end(mut self, result: Result<()>) -> Result<SessionReport> {
        self.record.ended = Some(self.target.now());
        self.add_conflicts();
        self.record.state = match &result {
            Err(_) => SessionState::Failed,
            Ok(()) if self.record.failed_total > 0 => SessionState::NeedsAction,
            Ok(()) => SessionState::Success,
        };
        if let Err(error) = result {
            self.record.reason = error.message().to_owned();
            // The caller hears of the copy's own failure, and of nothing else: its record says "running" if this fails too.
            if let Err(other) = self.write(1) {
                tracing::info!("the end of session {} was not written: {other}", self.id);
            }
            return Err(error);
        }
        self.write(1)?;
        Ok(SessionReport {
            session: self.id,
            record: self.record,
        })
    }

    fn add_conflicts(&mut self) {
        let conflicts: Vec<_> = self
            .record
            .points
            .iter()
            .filter(|point| point.outcome == Outcome::Conflict)
            .map(|point| FailedPart {
                backup: point.backup.clone(),
                point: point.name.clone(),
                path: Vec::new(),
                reason: conflict_reason(point),
                attempts: 1,
            })
            .collect();
        for part in conflicts {
            self.record.add_failed(part);
        }
    }
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

/// A point that was brought but not committed.
struct Pending {
    /// Place in the plan.
    number: usize,
    step: Step,
    /// No page of it was found damaged.
    sound: bool,
    /// Complete points of the target that it was compared with.
    bases: Vec<Base>,
}

/// What became of a pending point.
struct Settled {
    number: usize,
    outcome: Outcome,
    point: Option<Arc<Point>>,
    failed: Vec<Failed>,
}

struct Copying<'a> {
    source: &'a End,
    target: &'a End,
    progress: &'a Progress,
    transfer: Transfer,
    pending: Vec<Pending>,
    /// The target's points at the beginning, if every chunk they refer to was hashed there or came from this source.
    trusted: Option<Arc<Contents>>,
    /// Data that had moved when records were written last, bytes.
    settled_bytes: u64,
}

impl<'a> Copying<'a> {
    fn new(
        source: &'a End,
        target: &'a End,
        options: TransferOptions,
        progress: &'a Progress,
    ) -> Result<Self> {
        let origin = source.repository().id();
        let writer = Arc::new(Writer::new(target.repository().clone(), Some(origin))?);
        // In this order: whatever these points refer to was in the index before them.
        let points = target.catalog.contents();
        target.repository().refresh_index()?;
        let trusted = all_trusted(target.repository(), origin)?.then_some(points);
        Ok(Self {
            source,
            target,
            progress,
            transfer: Transfer::new(source.trees.clone(), writer, options),
            pending: Vec::new(),
            trusted,
            settled_bytes: 0,
        })
    }

    fn steps(&mut self, steps: &[Step], record: &mut SessionRecord) -> Result<()> {
        for (number, step) in steps.iter().enumerate() {
            if step.verdict != Verdict::Copy {
                continue;
            }
            self.bring(number, step)?;
            if self.due() {
                self.settle(|settled| note(record, settled))?;
            }
        }
        self.settle(|settled| note(record, settled))
    }

    fn due(&self) -> bool {
        let moved = self.transfer.data_bytes() - self.settled_bytes;
        moved >= self.target.repository().settings().pack_bytes || self.pending.len() >= PENDING_MAX
    }

    fn bring(&mut self, number: usize, step: &Step) -> Result<()> {
        let bases = self.complete_bases(step);
        let mut beside = bases.clone();
        // What the point before it brought is on its way; should some of it fail, both points are looked at again.
        let before = self.pending.last().filter(|before| before.sound);
        beside.extend(before.map(|before| Base {
            trees: self.source.trees.clone(),
            tree: before.step.point.record.tree,
        }));
        let record = &step.point.record;
        let sound = point::bring(&self.transfer, record, &beside, self.progress)?;
        self.pending.push(Pending {
            number,
            step: step.clone(),
            sound,
            bases,
        });
        Ok(())
    }

    /// The complete point of the target's backup that is most like this one: the newest that is not younger. Its
    /// contents were hashed in the target, or came from this source: contents that came unhashed from elsewhere are not
    /// believed. A point that was not copied may refer to such contents, too: links through a mount and files that a
    /// backup finds unchanged take over what another point has.
    fn complete_bases(&self, step: &Step) -> Vec<Base> {
        let contents = self.target.catalog.contents();
        let Some(backup) = contents.backups.get(&step.into) else {
            return Vec::new();
        };
        let source = self.source.repository().id();
        let time = step.point.record.time;
        contents
            .points_of(backup.id)
            .filter(|point| match &point.record.origin {
                Some(origin) => origin.repository == source,
                None => self.is_trusted(step, point),
            })
            .max_by_key(|point| (point.record.time <= time, point.record.time))
            .map(|point| Base {
                trees: self.target.trees.clone(),
                tree: point.record.tree,
            })
            .into_iter()
            .collect()
    }

    /// Whether this point of the target's own was seen to refer only to what is believed.
    fn is_trusted(&self, step: &Step, point: &Point) -> bool {
        let contents = self.trusted.as_ref();
        contents
            .and_then(|contents| contents.point(&step.into, point.name()))
            .is_some_and(|known| (known.id, known.generation) == (point.id, point.generation))
    }

    /// Makes everything durable, then commits the pending points that have arrived whole. Tells of each at once: it
    /// stays what it is when a later one fails.
    fn settle(&mut self, mut tell: impl FnMut(Settled)) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let report = self.transfer.finish_what_can()?;
        self.settled_bytes = report.data_bytes;
        let clean = report.failures.is_empty();
        for pending in std::mem::take(&mut self.pending) {
            tell(self.settle_one(pending, clean)?);
        }
        // The points are there; the index only answers faster when it is merged.
        if let Err(error) = self.target.repository().merge_index() {
            tracing::warn!("the index was not merged: {error}");
        }
        Ok(())
    }

    fn settle_one(&self, pending: Pending, clean: bool) -> Result<Settled> {
        let Pending { number, step, .. } = &pending;
        let record = &step.point.record;
        let whole = clean && pending.sound;
        let mut failed = Vec::new();
        if !whole {
            failed = point::name_failed(&self.transfer, record, &pending.bases)?;
        }
        if !pending.sound && failed.is_empty() {
            // The page can be read now. What lies below it was never asked for.
            failed.push(Failed {
                path: Vec::new(),
                reason: "a page of its trees could not be read at first; run the copy again"
                    .to_owned(),
            });
        }
        let (outcome, point) = match failed.is_empty() {
            true => self.commit(step)?,
            false => (Outcome::Failed, None),
        };
        Ok(Settled {
            number: *number,
            outcome,
            point,
            failed,
        })
    }

    fn commit(&self, step: &Step) -> Result<(Outcome, Option<Arc<Point>>)> {
        let mut record = step.point.record.clone();
        record.origin = Some(Origin {
            repository: self.source.repository().id(),
            point: step.point.id,
            generation: step.point.generation,
        });
        match self.target.catalog.commit(&step.into, Draft { record }) {
            Ok(point) => Ok((Outcome::Copied, Some(point))),
            Err(error) if error.kind() == Kind::AlreadyExists => self.taken(step, error),
            Err(error) => Err(error),
        }
    }

    /// The name was taken meanwhile: perhaps by the same copy, run by another host.
    fn taken(&self, step: &Step, error: Error) -> Result<(Outcome, Option<Arc<Point>>)> {
        let contents = self.target.catalog.refresh()?;
        let Some(other) = contents.point(&step.into, step.point.name()) else {
            return Err(error);
        };
        match other.record.same_content(&step.point.record) {
            true => Ok((Outcome::Present, Some(other.clone()))),
            false => Ok((Outcome::Conflict, None)),
        }
    }

    /// After a failure: what has arrived is put into the index, so that the next run does not move it again.
    fn save(&self) {
        // The caller hears of the failure itself; that this failed too is for those who ask with `--verbose`.
        if let Err(error) = self.transfer.save() {
            tracing::info!("what was copied so far may have to be copied again: {error}");
        }
    }

    fn counters(&self) -> SessionCounters {
        let report = self.transfer.report();
        let written = &self.transfer.writer().written;
        SessionCounters {
            frames_moved: report.frames_moved,
            frames_cut: report.frames_cut,
            data_bytes_read: report.data_bytes,
            data_bytes_written: written.data_bytes.load(Relaxed),
            data_packs: written.data_packs.load(Relaxed),
            stored_bytes: written.stored_bytes.load(Relaxed),
            chunks_moved: report.chunks_moved,
            chunks_present: report.chunks_present,
        }
    }
}

/// Whether all packs of a repository were hashed there or came from `origin`.
fn all_trusted(repository: &Repository, origin: ObjectId) -> Result<bool> {
    for segment in repository.segments().iter() {
        for number in 0..segment.pack_count() {
            if ![ObjectId::default(), origin].contains(&segment.pack(number)?.origin) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Puts down what became of a point.
fn note(record: &mut SessionRecord, settled: Settled) {
    let point = &mut record.points[settled.number];
    point.outcome = settled.outcome;
    let (backup, name) = (point.backup.clone(), point.name.clone());
    for failed in settled.failed {
        record.add_failed(FailedPart {
            backup: backup.clone(),
            point: name.clone(),
            path: failed.path,
            reason: failed.reason,
            attempts: 1,
        });
    }
}
