//! Bringing chunks from one repository into another.
//!
//! Whoever wants chunks calls [`Transfer::want`]; workers read, decrypt and append. Jobs are read side by side and
//! appended one after the other, in the order in which they became ready: a tree is walked as it will be
//! restored, so the packs of the target lie in restore order.
//!
//! Memory, whatever is copied: what waits for the rest of its frame ([`TransferOptions::waiting_max`], about 40 bytes
//! each), and for each worker one job, twice while it is decrypted: [`JOBS_BYTES`] in all, as long as no single chunk
//! is larger than a job. Between want and workers only one job for each worker is queued, and it holds no data yet.

use super::backlog::{Backlog, Job, Limits, Unit};
use super::pages;
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::point::{File, Trees};
use crate::repository::{Lane, Location, Payload, Repository, Writer, decompress};
use crate::store::names::Name;
use crate::thread;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of all jobs that are read at a time, encrypted and decrypted, where the target's memory allows them.
const JOBS_BYTES: u64 = 32 << 20;
/// No request to the source is longer.
const JOB_BYTES_MAX: u64 = 8 << 20;
/// Shorter jobs would cost more requests than the memory is worth.
const JOB_BYTES_MIN: u64 = 2 << 20;
/// More segments than this in the target's index are merged while a long copy runs: every lookup asks all of them.
const SEGMENTS_MAX: usize = 64;

/// How a [`Transfer`] works.
#[derive(Clone, Copy, Debug)]
pub struct TransferOptions {
    /// Threads that read, decrypt and append, at most [`WORKERS_MAX`]; for a store behind a network more than there are
    /// cores.
    pub workers: usize,
    /// Chunks that may wait for the rest of their frame, before the oldest frames are cut.
    pub waiting_max: usize,
    /// Decompress everything and compress it at the target's level.
    pub recompress: bool,
    /// How often whoever runs the transfer asks for what the source did not give, the first time included.
    pub attempts: u32,
    /// Wait before the second attempt; twice as long before each further one, [`PAUSE_MAX`] at most.
    pub pause: Duration,
}

/// The longest wait between two attempts.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

/// More workers would need shorter jobs, or more memory: two buffers of 2 MiB for each are the 32 MiB that jobs may take.
/// All of them work when a store is behind a network, where they mostly wait.
pub const WORKERS_MAX: usize = (JOBS_BYTES / 2 / JOB_BYTES_MIN) as usize;

impl TransferOptions {
    /// What suits these two repositories: more workers when one of them is behind a network.
    pub fn between(source: &Repository, target: &Repository) -> Self {
        let remote = |repository: &Repository| repository.location().contains("://");
        let mut options = Self::default();
        if remote(source) || remote(target) {
            options.workers = WORKERS_MAX;
        }
        options
    }
}

impl Default for TransferOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            workers: cores.clamp(2, WORKERS_MAX),
            waiting_max: 200_000,
            recompress: false,
            attempts: 3,
            pause: Duration::from_secs(2),
        }
    }
}

/// A chunk that the source could not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The chunk.
    pub chunk: ChunkId,
    /// Why.
    pub message: String,
}

/// What a transfer has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferReport {
    /// Frames that moved as they were.
    pub frames_moved: u64,
    /// Frames that were decompressed.
    pub frames_cut: u64,
    /// Stored bytes of data frames read from the source.
    pub data_bytes: u64,
    /// Chunks that were brought.
    pub chunks_moved: u64,
    /// Chunks that were wanted although the target had them or was about to.
    pub chunks_present: u64,
    /// Chunks that the source could not give.
    pub failures: Vec<Failure>,
}

#[derive(Default)]
struct Counters {
    frames_moved: AtomicU64,
    frames_cut: AtomicU64,
    data_bytes: AtomicU64,
    chunks_moved: AtomicU64,
    chunks_present: AtomicU64,
}

/// Jobs on their way. Numbers count from 0.
#[derive(Default)]
struct Flow {
    /// Jobs given out.
    sent: u64,
    /// Those of them that are not done.
    under_way: BTreeSet<u64>,
    /// Jobs given out that append in order, and the turn of the next that may.
    turns: u64,
    turn: u64,
}

/// A job's number, and its turn to append if it has one.
#[derive(Clone, Copy)]
struct Ticket {
    number: u64,
    turn: Option<u64>,
}

/// What the workers share.
struct Shared {
    source: Arc<Trees>,
    writer: Arc<Writer>,
    failed: Mutex<HashMap<ChunkId, String>>,
    /// Packs that the source did not give although it answers: nobody waits for them again in this attempt.
    silent_packs: Mutex<HashMap<ObjectId, String>>,
    /// Something failed that may succeed when it is asked for again.
    worth_another: AtomicBool,
    stopped: Mutex<Option<(Kind, String)>>,
    flow: Mutex<Flow>,
    flowed: Condvar,
    counters: Counters,
}

/// Brings wanted chunks over. Shared by all threads that want some; one for each [`Writer`], because a chunk that
/// another transfer has claimed may still fail there.
pub struct Transfer {
    shared: Arc<Shared>,
    /// Locked before `Shared::flow`, and while a job is queued: jobs must be queued in the order of their numbers.
    backlog: Mutex<Backlog>,
    queue: Option<Sender<(Job, Ticket)>>,
    workers: Vec<JoinHandle<()>>,
    /// The source's index was looked at anew because of a chunk that it did not know, since the last finish.
    looked: AtomicBool,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = self.shared.source.repository().location();
        write!(f, "Transfer({source} to {:?})", self.shared.writer)
    }
}

impl Transfer {
    /// A transfer from the repository of `source` to that of `writer`, whose origin must be the source's id.
    pub fn new(source: Arc<Trees>, writer: Arc<Writer>, options: TransferOptions) -> Self {
        let workers = options.workers.clamp(1, WORKERS_MAX);
        let memory = writer.repository().local().transfer_bytes();
        let jobs_bytes = JOBS_BYTES.min(memory);
        let limits = Limits {
            weight_max: options.waiting_max,
            job_bytes_max: (jobs_bytes / 2 / workers as u64).clamp(JOB_BYTES_MIN, JOB_BYTES_MAX),
        };
        let shared = Arc::new(Shared {
            source,
            writer,
            failed: Mutex::default(),
            silent_packs: Mutex::default(),
            worth_another: AtomicBool::new(false),
            stopped: Mutex::default(),
            flow: Mutex::default(),
            flowed: Condvar::new(),
            counters: Counters::default(),
        });
        let (queue, jobs) = bounded(workers);
        let workers = (0..workers)
            .map(|_| {
                let (shared, jobs) = (shared.clone(), jobs.clone());
                thread::spawn(move || shared.work(&jobs))
            })
            .collect();
        Self {
            shared,
            backlog: Mutex::new(Backlog::new(limits, options.recompress)),
            queue: Some(queue),
            workers,
            looked: AtomicBool::new(false),
        }
    }

    /// Asks for a chunk; true when it will be brought, false when the target has it, will have it already, or the
    /// source cannot give it ([`Self::failure`]). May block while the target is slower than the caller. `lane` groups
    /// the chunk anew if its frame must be cut. Fails when the transfer has stopped for good.
    pub fn want(&self, id: ChunkId, lane: Lane) -> Result<bool> {
        let shared = &self.shared;
        shared.go_on()?;
        // Whoever is told that a chunk will be there may call finish() next, which must find it: claiming a chunk
        // and adding it to the backlog is one step.
        let mut backlog = self.backlog.lock();
        if shared.failed.lock().contains_key(&id) {
            return Ok(false);
        }
        if !shared.writer.claim(&id)? {
            shared.counters.chunks_present.fetch_add(1, Relaxed);
            return Ok(false);
        }
        let added = self
            .locate(&id)
            .and_then(|location| backlog.add(id, location, lane));
        match added {
            Ok(jobs) => {
                jobs.into_iter().for_each(|job| self.send(job));
                Ok(true)
            }
            Err(error) if error.kind() == Kind::Damaged => {
                shared.fail([id], &error);
                Ok(false)
            }
            Err(error) => {
                shared.writer.release(&id);
                Err(error)
            }
        }
    }

    fn locate(&self, id: &ChunkId) -> Result<Location> {
        let repository = self.shared.repository();
        match repository.find(id)? {
            Some(location) => Ok(location),
            // Only the first of many missing chunks is worth another look at the whole index.
            None if self.looked.swap(true, Relaxed) => {
                let message = format!(
                    "chunk {id} is not in the index of {}; run `keepfs check`",
                    repository.location()
                );
                Err(Error::new(Kind::Damaged, message))
            }
            None => repository.locate(id),
        }
    }

    /// Queues a job; the caller holds the backlog's lock.
    fn send(&self, job: Job) {
        let ticket = {
            let mut flow = self.shared.flow.lock();
            let number = flow.sent;
            flow.sent += 1;
            flow.under_way.insert(number);
            let turn = (!job.cut).then_some(flow.turns);
            flow.turns += u64::from(turn.is_some());
            Ticket { number, turn }
        };
        let queue = self.queue.as_ref().expect("it is there until drop");
        queue
            .send((job, ticket))
            .expect("workers live as long as the queue");
    }

    /// Asks for all chunks of a file; where its extents fill pages, the pages are put into the target as well.
    /// Fails with `Damaged` when a page cannot be read, and as [`Self::want`] does.
    pub fn want_file(&self, file: &File, lane: Lane) -> Result<()> {
        pages::for_each_extent(self, file, &[], &mut |id| self.want(id, lane).map(|_| ()))
    }

    /// The bytes of a page (or another chunk) of a tree, put into the target's tree packs as well. `Damaged` when the source cannot give it.
    pub fn page(&self, id: &ChunkId) -> Result<Vec<u8>> {
        self.shared.go_on()?;
        let read = self.shared.repository().read_chunk(id);
        let bytes = read.map_err(|error| self.shared.of_part(error))?;
        self.shared.writer.put(Lane::Tree, *id, &bytes)?;
        Ok(bytes)
    }

    /// Whether something failed that may succeed when it is asked for again: what is damaged stays so.
    pub fn is_worth_another_attempt(&self) -> bool {
        self.shared.worth_another.load(Relaxed)
    }

    /// Forgets what failed: whoever wants it again has it asked for again. Called after a finish, and before the next
    /// want.
    pub fn begin_attempt(&self) {
        self.shared.failed.lock().clear();
        self.shared.silent_packs.lock().clear();
        self.shared.worth_another.store(false, Relaxed);
    }

    /// Why a chunk could not be brought, if that is so. Certain for chunks wanted before the last [`Self::finish`].
    pub fn failure(&self, id: &ChunkId) -> Option<String> {
        self.shared.failed.lock().get(id).cloned()
    }

    /// The trees it reads from.
    pub fn source(&self) -> &Arc<Trees> {
        &self.shared.source
    }

    /// The writer it writes with.
    pub fn writer(&self) -> &Arc<Writer> {
        &self.shared.writer
    }

    /// Stored bytes of data read from the source so far.
    pub fn data_bytes(&self) -> u64 {
        self.shared.counters.data_bytes.load(Relaxed)
    }

    /// Returns when everything wanted so far is durable in the target and in its index. May be called again and again;
    /// counts go on. Fails when the source could not give a chunk that was wanted: with `Unreachable` when that may be
    /// better later, with `Damaged` when it will not; and as [`Self::finish_what_can`] does.
    pub fn finish(&self) -> Result<TransferReport> {
        let report = self.finish_what_can()?;
        match report.failures.iter().min_by_key(|failure| failure.chunk) {
            None => Ok(report),
            Some(first) => Err(Error::new(
                match self.is_worth_another_attempt() {
                    true => Kind::Unreachable,
                    false => Kind::Damaged,
                },
                format!(
                    "{} chunks cannot be copied from {}; one is {}: {}",
                    report.failures.len(),
                    self.shared.repository().location(),
                    first.chunk,
                    first.message
                ),
            )),
        }
    }

    /// As [`Self::finish`], for a caller that looks at the report's failures and leaves out what needs them: what the
    /// source could not give is only there. Fails when the transfer has stopped for good.
    pub fn finish_what_can(&self) -> Result<TransferReport> {
        let upto = {
            let mut backlog = self.backlog.lock();
            for job in backlog.drain() {
                self.send(job);
            }
            self.shared.flow.lock().sent
        };
        self.shared.wait_done(upto);
        self.looked.store(false, Relaxed);
        self.shared.go_on()?;
        self.shared.writer.flush()?;
        self.shared.merge_segments();
        Ok(self.report())
    }

    /// Makes durable what has arrived so far, without asking for what is still missing: after a failure.
    pub fn save(&self) -> Result<()> {
        let sent = {
            // Nobody adds jobs meanwhile, and those that are given out end soon: they fail, or they are read already.
            let _backlog = self.backlog.lock();
            self.shared.flow.lock().sent
        };
        self.shared.wait_done(sent);
        self.shared.writer.flush()
    }

    /// What was done so far.
    pub fn report(&self) -> TransferReport {
        let counters = &self.shared.counters;
        let failed = self.shared.failed.lock();
        TransferReport {
            frames_moved: counters.frames_moved.load(Relaxed),
            frames_cut: counters.frames_cut.load(Relaxed),
            data_bytes: counters.data_bytes.load(Relaxed),
            chunks_moved: counters.chunks_moved.load(Relaxed),
            chunks_present: counters.chunks_present.load(Relaxed),
            failures: failed
                .iter()
                .map(|(chunk, message)| Failure {
                    chunk: *chunk,
                    message: message.clone(),
                })
                .collect(),
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // Nobody waits for what was not finished: the claims are given up, so that another transfer may bring it.
        for job in self.backlog.lock().drain() {
            self.shared.abandon(&job.units);
        }
        self.queue = None;
        for worker in self.workers.drain(..) {
            // Workers catch what happens in their jobs.
            let _ = worker.join();
        }
    }
}

/// A job that a worker has in hand. However that ends, the job counts as done and its successor may append.
struct Working<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Working<'_> {
    /// Waits until all jobs before this one are appended.
    fn wait_turn(&self) {
        let Some(turn) = self.ticket.turn else {
            return;
        };
        let mut flow = self.shared.flow.lock();
        while flow.turn < turn {
            self.shared.flowed.wait(&mut flow);
        }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.wait_turn();
        let mut flow = self.shared.flow.lock();
        flow.under_way.remove(&self.ticket.number);
        flow.turn += u64::from(self.ticket.turn.is_some());
        self.shared.flowed.notify_all();
    }
}

impl Shared {
    fn repository(&self) -> &Arc<Repository> {
        self.source.repository()
    }

    fn go_on(&self) -> Result<()> {
        match &*self.stopped.lock() {
            Some((kind, message)) => Err(Error::new(*kind, message.clone())),
            None => Ok(()),
        }
    }

    fn stop(&self, error: &Error) {
        let why = (error.kind(), error.message().to_owned());
        self.stopped.lock().get_or_insert(why);
    }

    /// Notes chunks that cannot be brought.
    fn fail(&self, chunks: impl IntoIterator<Item = ChunkId>, error: &Error) {
        for id in chunks {
            // The failure is noted before the claim is let go: whoever wants the chunk next sees one of the two.
            self.failed.lock().insert(id, error.message().to_owned());
            self.writer.release(&id);
        }
    }

    /// Gives up what was never read.
    fn abandon(&self, units: &[Unit]) {
        for chunk in units.iter().flat_map(|unit| &unit.chunks) {
            self.writer.release(&chunk.id);
        }
    }

    /// Waits for the jobs with numbers below `upto`.
    fn wait_done(&self, upto: u64) {
        let mut flow = self.flow.lock();
        while flow.under_way.first().is_some_and(|first| *first < upto) {
            self.flowed.wait(&mut flow);
        }
    }

    /// Lookups are only slower when this fails.
    fn merge_segments(&self) {
        let target = self.writer.repository();
        if target.segments().len() > SEGMENTS_MAX
            && let Err(error) = target.merge_index()
        {
            tracing::warn!("the index was not merged: {error}");
        }
    }

    fn work(&self, jobs: &Receiver<(Job, Ticket)>) {
        for (job, ticket) in jobs {
            let working = Working {
                shared: self,
                ticket,
            };
            // A worker outlives whatever happens in a job, or everybody else would wait for ever.
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| match job.cut {
                true => self.cut(job),
                false => self.shift(job, &working),
            }));
            let result = result.unwrap_or_else(|_| {
                Err(Error::new(
                    Kind::Failed,
                    "a worker of the copy stopped unexpectedly",
                ))
            });
            if let Err(error) = result {
                self.stop(&error);
            }
        }
    }

    /// Reads a job's units run by run. What cannot be read is noted, and the others go on.
    fn read(
        &self,
        job: &Job,
        take: &mut dyn FnMut(&Unit, Vec<Payload>) -> Result<()>,
    ) -> Result<()> {
        for run in job.runs() {
            match self.read_run(run) {
                Ok(payloads) => {
                    for (unit, payloads) in run.iter().zip(payloads) {
                        take(unit, payloads)?;
                    }
                }
                Err(error) => match self.of_part(error) {
                    error if error.kind() != Kind::Damaged => return Err(error),
                    error if self.silent(run).is_some() => self.fail_units(run, &error),
                    _ => self.read_singly(run, take)?,
                },
            }
        }
        Ok(())
    }

    /// What failed when something of the source was asked for: `Damaged` when it is that thing alone, and its kind when
    /// the source as a whole is not there.
    fn of_part(&self, error: Error) -> Error {
        let may_be_one = matches!(
            error.kind(),
            Kind::Unreachable | Kind::Denied | Kind::NotFound
        );
        if !may_be_one {
            return error;
        }
        let header = Name::Header.to_string();
        if self.repository().store().head(&header).is_err() {
            return error;
        }
        if error.kind() != Kind::NotFound {
            self.worth_another.store(true, Relaxed);
        }
        Error::new(Kind::Damaged, error.message().to_owned()).caused_by(error)
    }

    /// Why the pack of these units is not asked for again.
    fn silent(&self, run: &[Unit]) -> Option<Error> {
        let silent = self.silent_packs.lock();
        let why = silent.get(&run[0].location.pack.id)?;
        Some(Error::new(Kind::Damaged, why.clone()))
    }

    fn fail_units(&self, units: &[Unit], error: &Error) {
        let chunks = units.iter().flat_map(|unit| &unit.chunks);
        self.fail(chunks.map(|chunk| chunk.id), error);
    }

    /// One request for units that lie together.
    fn read_run(&self, run: &[Unit]) -> Result<Vec<Vec<Payload>>> {
        if let Some(silent) = self.silent(run) {
            return Err(silent);
        }
        let spans: Vec<_> = run.iter().flat_map(|unit| unit.spans.clone()).collect();
        let payloads = self.repository().payloads(&run[0].location, &spans);
        let payloads = payloads.inspect_err(|error| {
            if error.kind() != Kind::Damaged {
                let (pack, why) = (run[0].location.pack.id, error.message().to_owned());
                self.silent_packs.lock().insert(pack, why);
            }
        });
        let mut payloads = payloads?.into_iter();
        Ok(run
            .iter()
            .map(|unit| payloads.by_ref().take(unit.spans.len()).collect())
            .collect())
    }

    fn read_singly(
        &self,
        run: &[Unit],
        take: &mut dyn FnMut(&Unit, Vec<Payload>) -> Result<()>,
    ) -> Result<()> {
        for unit in run {
            match self.repository().payloads(&unit.location, &unit.spans) {
                Ok(payloads) => take(unit, payloads)?,
                Err(error) => match self.of_part(error) {
                    error if error.kind() != Kind::Damaged => return Err(error),
                    error => self.fail_units(std::slice::from_ref(unit), &error),
                },
            }
        }
        Ok(())
    }

    fn count_read(&self, payloads: &[Payload], frames: &AtomicU64) {
        let bytes: u64 = payloads
            .iter()
            .map(|payload| payload.bytes.len() as u64)
            .sum();
        self.counters.data_bytes.fetch_add(bytes, Relaxed);
        frames.fetch_add(payloads.len() as u64, Relaxed);
    }

    /// Moves units as they are.
    fn shift(&self, job: Job, working: &Working<'_>) -> Result<()> {
        let mut arrived = Vec::new();
        let result = self.go_on().and_then(|()| {
            self.read(&job, &mut |unit, payloads| {
                self.count_read(&payloads, &self.counters.frames_moved);
                let chunks: Vec<_> = unit
                    .chunks
                    .iter()
                    .map(|chunk| (chunk.id, chunk.length))
                    .collect();
                arrived.push((payloads, chunks));
                Ok(())
            })
        });
        if result.is_err() {
            self.abandon(&job.units);
            return result;
        }
        working.wait_turn();
        for (payloads, chunks) in arrived {
            let count = chunks.len() as u64;
            self.writer.put_moved(payloads, chunks)?;
            self.counters.chunks_moved.fetch_add(count, Relaxed);
        }
        self.merge_segments();
        Ok(())
    }

    /// Decompresses units, and puts the wanted chunks into frames of the target's own.
    fn cut(&self, job: Job) -> Result<()> {
        if let Err(error) = self.go_on() {
            self.abandon(&job.units);
            return Err(error);
        }
        self.read(&job, &mut |unit, payloads| {
            self.count_read(&payloads, &self.counters.frames_cut);
            self.regroup(unit, payloads)
        })
    }

    fn regroup(&self, unit: &Unit, payloads: Vec<Payload>) -> Result<()> {
        let mut plain = Vec::new();
        for payload in payloads {
            match decompress(payload) {
                Ok(mut frame) => plain.append(&mut frame),
                Err(error) => {
                    let error = error.context(format_args!("pack {}", unit.location.pack.id));
                    self.fail(unit.chunks.iter().map(|chunk| chunk.id), &error);
                    return Ok(());
                }
            }
        }
        for chunk in &unit.chunks {
            let begin = (chunk.offset - unit.spans[0].stream_begin) as usize;
            let content = plain.get(begin..begin + chunk.length as usize);
            match content.filter(|content| ChunkId::of(content) == chunk.id) {
                Some(content) => {
                    self.writer.put_claimed(unit.lane, chunk.id, content)?;
                    self.counters.chunks_moved.fetch_add(1, Relaxed);
                }
                None => self.fail([chunk.id], &other_content(unit, &chunk.id)),
            }
        }
        Ok(())
    }
}

fn other_content(unit: &Unit, id: &ChunkId) -> Error {
    let message = format!(
        "chunk {id} in pack {} has other content than its id says",
        unit.location.pack.id
    );
    Error::new(Kind::Damaged, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_jobs_of_all_workers_are_the_memory_that_is_promised() {
        assert_eq!(WORKERS_MAX, 8);
        assert!(TransferOptions::default().workers <= WORKERS_MAX);
        assert!(2 * JOB_BYTES_MIN * WORKERS_MAX as u64 <= JOBS_BYTES);
    }
}
