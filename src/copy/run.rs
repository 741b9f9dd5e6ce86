//! Copying restore points: each is brought, then all that was brought is made durable, then the records are written.
//!
//! Small points share packs: the records of several are written together, once a pack's worth of data has moved.
//! Until a record is written its point does not exist in the target, whatever else is there; a run that was killed
//! leaves data that the next run finds in the index and does not move again.

use super::plan::{Step, Verdict};
use super::point::{self, Base, Failed};
use super::session::{Outcome, SessionCounters};
use super::transfer::{PAUSE_MAX, Transfer, TransferOptions, TransferReport};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Catalog, Contents, Draft, Origin, Point, Trees};
use crate::progress::Progress;
use crate::repository::{ReaderLease, Repository, Writer};
use parking_lot::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Points whose records are written together at most: what a kill makes a rerun walk again.
const PENDING_MAX: usize = 64;
/// [`PointRecord::more`](crate::point::PointRecord::more): the session that has made the point.
pub(super) const SESSION: &str = "session";
/// How often a pause looks whether somebody asked to stop.
const LOOK: Duration = Duration::from_millis(100);

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

/// Copies one point into a backup of the target, without a session.
///
/// A point that cannot be copied whole is not committed; the report lists what failed. Fails as [`copy_points`](super::copy_points) does.
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
    let settled = Mutex::new(None);
    let ear = Alone(&settled);
    let result = copying.bring(0, &step).and_then(|()| copying.settle(&ear));
    if result.is_err() {
        copying.save();
    }
    result?;
    let settled = settled.into_inner().expect("one point was brought");
    Ok(PointReport {
        outcome: settled.outcome,
        point: settled.point,
        failed: settled.failed,
        transfer: copying.transfer.report(),
    })
}

/// Who hears of a copy as it goes on.
pub(super) trait Ear {
    /// Parts failed, and are tried again after a pause.
    fn retrying(&self) -> Result<()>;
    /// A point has come to its end: it stays what it is when a later one fails.
    fn settled(&self, settled: Settled) -> Result<()>;
}

/// A copy of one point that is no session.
struct Alone<'a>(&'a Mutex<Option<Settled>>);

impl Ear for Alone<'_> {
    fn retrying(&self) -> Result<()> {
        Ok(())
    }

    fn settled(&self, settled: Settled) -> Result<()> {
        *self.0.lock() = Some(settled);
        Ok(())
    }
}

/// The leases of a copy on what it reads, for whoever renews them.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Vec<Weak<ReaderLease>>>);

impl Leases {
    /// Keeps a point from being forgotten while it is read. A source that this host may only read is read without.
    fn take(
        &self,
        repository: &Arc<Repository>,
        point: ObjectId,
    ) -> Result<Option<Arc<ReaderLease>>> {
        let lease = match ReaderLease::take(repository.clone(), vec![point]) {
            Err(error) if matches!(error.kind(), Kind::Denied | Kind::ReadOnly) => {
                tracing::info!("{point} is copied without a lease: {error}");
                return Ok(None);
            }
            taken => Arc::new(taken?),
        };
        let mut all = self.0.lock();
        all.retain(|lease| lease.strong_count() > 0);
        all.push(Arc::downgrade(&lease));
        Ok(Some(lease))
    }

    /// Renews those that are old. One that ends early lets a point go into the trash, where its data stays for days.
    pub(super) fn renew(&self) {
        let all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for lease in all {
            if let Err(error) = lease.hold() {
                tracing::info!("a lease was not renewed: {error}");
            }
        }
    }
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
    /// Given back when the point has come to its end.
    _lease: Option<Arc<ReaderLease>>,
}

/// What became of a pending point.
pub(super) struct Settled {
    /// Place in the plan.
    pub number: usize,
    pub outcome: Outcome,
    pub point: Option<Arc<Point>>,
    pub failed: Vec<Failed>,
    /// How often its parts were asked for.
    pub attempts: u32,
}

pub(super) struct Copying<'a> {
    source: &'a End,
    target: &'a End,
    progress: &'a Progress,
    transfer: Transfer,
    options: TransferOptions,
    /// The session that it is a run of: written into the record of each point that it makes.
    session: Option<ObjectId>,
    leases: Arc<Leases>,
    pending: Vec<Pending>,
    /// The target's points at the beginning, if every chunk they refer to was hashed there or came from this source.
    trusted: Option<Arc<Contents>>,
    /// Data that had moved when records were written last, bytes.
    settled_bytes: u64,
}

impl<'a> Copying<'a> {
    pub(super) fn new(
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
            options,
            session: None,
            leases: Arc::default(),
            pending: Vec::new(),
            trusted,
            settled_bytes: 0,
        })
    }

    /// The same, as a run of this session.
    pub(super) fn of_session(mut self, session: ObjectId) -> Self {
        self.session = Some(session);
        self
    }

    pub(super) fn leases(&self) -> Arc<Leases> {
        self.leases.clone()
    }

    pub(super) fn steps(&mut self, steps: &[Step], ear: &dyn Ear) -> Result<()> {
        for (number, step) in steps.iter().enumerate() {
            if step.verdict != Verdict::Copy {
                continue;
            }
            self.bring(number, step)?;
            if self.due() {
                self.settle(ear)?;
            }
        }
        self.settle(ear)
    }

    fn due(&self) -> bool {
        let moved = self.transfer.data_bytes() - self.settled_bytes;
        moved >= self.target.repository().settings().pack_bytes || self.pending.len() >= PENDING_MAX
    }

    fn bring(&mut self, number: usize, step: &Step) -> Result<()> {
        let lease = self.leases.take(self.source.repository(), step.point.id)?;
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
            _lease: lease,
        });
        Ok(())
    }

    /// Asks again for what the source did not give, as often as is wished. Returns how often it was asked for.
    fn try_again(&mut self, ear: &dyn Ear) -> Result<(TransferReport, u32)> {
        let mut report = self.transfer.finish_what_can()?;
        let mut attempts = 1;
        while attempts < self.options.attempts && self.transfer.is_worth_another_attempt() {
            ear.retrying()?;
            self.pause(attempts)?;
            attempts += 1;
            self.transfer.begin_attempt();
            for pending in &mut self.pending {
                let record = &pending.step.point.record;
                pending.sound =
                    point::bring_again(&self.transfer, record, &pending.bases, self.progress)?;
            }
            report = self.transfer.finish_what_can()?;
        }
        Ok((report, attempts))
    }

    fn pause(&self, attempts: u32) -> Result<()> {
        let longer = 1 << (attempts - 1).min(10);
        let mut left = (self.options.pause * longer).min(PAUSE_MAX);
        while !left.is_zero() {
            self.progress.go_on()?;
            let nap = left.min(LOOK);
            std::thread::sleep(nap);
            left -= nap;
        }
        self.progress.go_on()
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
    fn settle(&mut self, ear: &dyn Ear) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (report, attempts) = self.try_again(ear)?;
        self.settled_bytes = report.data_bytes;
        let clean = report.failures.is_empty();
        for pending in std::mem::take(&mut self.pending) {
            ear.settled(self.settle_one(pending, clean, attempts)?)?;
        }
        // The points are there; the index only answers faster when it is merged.
        if let Err(error) = self.target.repository().merge_index() {
            tracing::warn!("the index was not merged: {error}");
        }
        Ok(())
    }

    fn settle_one(&self, pending: Pending, clean: bool, attempts: u32) -> Result<Settled> {
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
            attempts,
        })
    }

    fn commit(&self, step: &Step) -> Result<(Outcome, Option<Arc<Point>>)> {
        let mut record = step.point.record.clone();
        record.origin = Some(Origin {
            repository: self.source.repository().id(),
            point: step.point.id,
            generation: step.point.generation,
        });
        // What made the source's point is another one.
        record.more.retain(|(name, _)| name != SESSION);
        let session = self.session.map(|id| (SESSION.to_owned(), id.0.to_vec()));
        record.more.extend(session);
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
    pub(super) fn save(&self) {
        // The caller hears of the failure itself; that this failed too is for those who ask with `--verbose`.
        if let Err(error) = self.transfer.save() {
            tracing::info!("what was copied so far may have to be copied again: {error}");
        }
    }

    pub(super) fn counters(&self) -> SessionCounters {
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
