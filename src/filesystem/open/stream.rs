//! Storing behind the tools' backs: for each repository one thread that reads what open points have spooled, cuts it,
//! and has it hashed, compressed and encrypted by workers, and one writer, whatever the number of open points.
//!
//! It holds an open point for moments only, never while the store is asked: a mount that ends waits for none of it.

use super::OpenPoint;
use super::content::Place;
use super::recut::Recut;
use super::spool::{Drain, Streamed};
use super::stretch::{Cursor, Due, Stretch};
use crate::backup::{Chunks, Contents, Workers};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Content, Extent};
use crate::repository::{Repository, Writer};
use crate::thread;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Bytes of a spool file that are read at a time.
const READ_BYTES: usize = 4 << 20;
/// Bytes that were put after which finished packs are published, so that the spool behind them is released: so many
/// packs, but no more bytes than this.
const PUBLISH_PACKS: u64 = 4;
const PUBLISH_BYTES_MAX: u64 = 64 << 20;
/// After so long without a task what is on its way is made durable, so that a stream that ended leaves little behind.
const REST: Duration = Duration::from_secs(10);
/// Bytes after which an open point's turn ends when others wait.
const TURN_BYTES: u64 = 8 << 20;
/// Threads that hash, compress and encrypt at most; there are no more than cores.
const THREADS_MAX: usize = 8;

enum Task {
    /// Something may be due in this open point.
    Look(ObjectId),
    /// Everything in every open point is to be stored, and its space released.
    Drain(Drain),
    /// Everything in this open point is to be durable; the answer says whether it is.
    Store(ObjectId, Sender<Result<()>>),
    /// What is on its way from this open point is to arrive; then this is told.
    Settle(ObjectId, Sender<()>),
    /// Nothing was asked for a while: what is on its way is to arrive.
    Rest,
}

/// The open points of a repository.
#[derive(Default)]
struct Points {
    closed: bool,
    known: HashMap<ObjectId, Weak<OpenPoint>>,
}

struct Shared {
    repository: Arc<Repository>,
    points: Mutex<Points>,
    /// As in [`Points`], to be looked at between chunks.
    closed: AtomicBool,
    streamed: Arc<Streamed>,
    publish_bytes: u64,
}

/// What stores into one repository behind the tools' backs.
pub(super) struct Streamer {
    shared: Arc<Shared>,
    /// The queue, while there is a thread behind it.
    tasks: Mutex<Option<Sender<Task>>>,
}

impl Streamer {
    /// Stores into this repository; of the spool `bound` bytes may be used.
    pub fn new(repository: Arc<Repository>, streamed: Arc<Streamed>, bound: u64) -> Self {
        let packs = repository
            .settings()
            .pack_bytes
            .saturating_mul(PUBLISH_PACKS);
        let shared = Shared {
            publish_bytes: packs.min(PUBLISH_BYTES_MAX).min(bound / 4),
            repository,
            points: Mutex::default(),
            closed: AtomicBool::new(false),
            streamed,
        };
        Self {
            shared: Arc::new(shared),
            tasks: Mutex::default(),
        }
    }

    /// From now on serves this open point, too.
    pub fn serve(&self, open: &Arc<OpenPoint>) {
        let known = &mut self.shared.points.lock().known;
        known.retain(|_, point| point.strong_count() > 0);
        known.insert(open.id, Arc::downgrade(open));
    }

    /// Nothing more is stored, and no open point is held any more.
    pub fn close(&self) {
        self.shared.closed.store(true, Relaxed);
        self.shared.points.lock().closed = true;
    }

    /// Passes a task to the thread, which begins with the first.
    fn send(&self, task: Task) {
        let mut tasks = self.tasks.lock();
        let begin = || {
            let (tasks, waiting) = unbounded();
            let shared = self.shared.clone();
            thread::spawn(move || shared.work(&waiting));
            tasks
        };
        let sent = tasks.get_or_insert_with(begin).send(task);
        if let Err(unsent) = sent {
            // That thread is gone; another one begins.
            *tasks = None;
            let _ = tasks.get_or_insert_with(begin).send(unsent.into_inner());
        }
    }

    /// Has somebody look at what is due in an open point.
    pub fn look(&self, open: ObjectId) {
        self.send(Task::Look(open));
    }

    /// Has everything stored, until `drain` is dropped.
    pub fn drain(&self, drain: Drain) {
        self.send(Task::Drain(drain));
    }

    /// Returns when everything that this open point has spooled is durable in the repository.
    pub fn store(&self, open: ObjectId) -> Result<()> {
        let (done, wait) = bounded(1);
        self.send(Task::Store(open, done));
        wait.recv().unwrap_or_else(|_| {
            let message = "storing what was written has stopped unexpectedly; try again";
            Err(Error::new(Kind::Failed, message))
        })
    }

    /// Returns when nothing of this open point is on its way any more.
    pub fn settle(&self, open: ObjectId) {
        let (done, wait) = bounded(1);
        self.send(Task::Settle(open, done));
        // What a thread that ended had in hand is in the spool.
        let _ = wait.recv();
    }
}

impl Shared {
    /// Does something with an open point, unless it or the mount is gone.
    fn with_point<T>(&self, id: ObjectId, act: impl FnOnce(&OpenPoint) -> T) -> Option<T> {
        let points = self.points.lock();
        if points.closed {
            return None;
        }
        let open = points.known.get(&id)?.upgrade()?;
        Some(act(&open))
    }

    fn ids(&self) -> Vec<ObjectId> {
        self.points.lock().known.keys().copied().collect()
    }

    fn work(&self, tasks: &Receiver<Task>) {
        // What a thread before this one may have left.
        for id in self.ids() {
            self.with_point(id, OpenPoint::give_stretches_back);
        }
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Workers::during(cores.min(THREADS_MAX), |workers| {
            let mut storing = Storing {
                shared: self,
                workers,
                contents: None,
                marked: HashSet::new(),
                pending: Vec::new(),
                unpublished: 0,
                again: VecDeque::new(),
            };
            while let Some(task) = storing.next(tasks) {
                if self.closed.load(Relaxed) {
                    return;
                }
                storing.run(task, tasks);
            }
        });
    }
}

/// A stretch whose chunks are in packs, not all of them in the index.
struct Put {
    open: ObjectId,
    /// The node, and the number of the stretch.
    stretch: (u64, u64),
    /// Where in the file the extents begin.
    begin: u64,
    extents: Vec<Extent>,
}

/// What the thread of a repository is at.
struct Storing<'a> {
    shared: &'a Shared,
    workers: &'a Workers,
    /// Where chunks go, until something fails or another open point comes.
    contents: Option<Contents>,
    /// Open points whose marks are in the store.
    marked: HashSet<ObjectId>,
    pending: Vec<Put>,
    /// Bytes put since packs were published last.
    unpublished: u64,
    /// Open points in which more is due than was their turn.
    again: VecDeque<ObjectId>,
}

/// Why a stretch was not stored.
enum Broken {
    /// Its bytes cannot be read; others can.
    Reading(Error),
    /// The repository cannot be written, or the journal.
    Storing(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Storing(error)
    }
}

impl Storing<'_> {
    /// The next task: what others wait for goes before what is due anyway.
    fn next(&mut self, tasks: &Receiver<Task>) -> Option<Task> {
        match self.again.pop_front() {
            Some(id) if tasks.is_empty() => Some(Task::Look(id)),
            Some(id) => {
                self.again.push_front(id);
                tasks.recv().ok()
            }
            None if self.pending.is_empty() => tasks.recv().ok(),
            None => match tasks.recv_timeout(REST) {
                Err(RecvTimeoutError::Timeout) => Some(Task::Rest),
                task => task.ok(),
            },
        }
    }

    fn run(&mut self, task: Task, tasks: &Receiver<Task>) {
        match task {
            Task::Look(id) => {
                self.shared.with_point(id, OpenPoint::looked_at);
                // Until a call has told of the last failure nothing is tried again.
                let failed = self.shared.with_point(id, |open| open.has_failed());
                if failed == Some(false) {
                    // The next call of a tool tells of a failure.
                    let _ = self.take_turn(id, tasks);
                }
            }
            Task::Drain(drain) => {
                for id in self.shared.ids() {
                    let stored = self.look(id, Due::Much, None);
                    if let Err(error) = stored.and_then(|_| self.flush(id)) {
                        drain.failed(&error);
                    }
                }
            }
            Task::Store(id, done) => {
                // Once more for what was in hand already and written anew meanwhile.
                let mut rounds = (0..2).map(|_| {
                    self.look(id, Due::All, None)?;
                    self.flush(id)
                });
                // Whoever waited may be gone.
                let _ = done.send(rounds.try_for_each(|round| round));
            }
            Task::Settle(id, done) => {
                if self.pending.iter().any(|put| put.open == id) {
                    // What does not arrive is in the spool.
                    let _ = self.flush(id);
                }
                let _ = done.send(());
            }
            Task::Rest => {
                if let Some(id) = self.pending.first().map(|put| put.open) {
                    // The next call of a tool tells of a failure.
                    let _ = self.flush(id);
                }
            }
        }
    }

    /// Stores what is due in an open point, as long as nobody else waits.
    fn take_turn(&mut self, id: ObjectId, tasks: &Receiver<Task>) -> Result<()> {
        if !self.look(id, Due::Streamed, Some(tasks))? && !self.again.contains(&id) {
            self.again.push_back(id);
        }
        let kept = self.keep_what_is_stored();
        kept.map_err(|error| self.failed(id, error))
    }

    /// Stores what is due in an open point. False when it stopped because something else waits in `tasks`.
    fn look(&mut self, id: ObjectId, due: Due, tasks: Option<&Receiver<Task>>) -> Result<bool> {
        let mut from = Cursor::FIRST;
        let mut bytes = 0;
        loop {
            let taken = self
                .shared
                .with_point(id, |open| open.take_stretch(due, from));
            let Some((stretch, place)) = taken.transpose()?.flatten() else {
                return Ok(true);
            };
            let (node, which) = (stretch.node, (stretch.node, stretch.number));
            let end = stretch.range.end;
            from = place;
            match self.put(id, stretch) {
                // Too little to be cut; what lies behind it may be more.
                Ok(0) => from.after = end,
                Ok(put) => bytes += put,
                Err(Broken::Reading(error)) => {
                    self.shared
                        .with_point(id, |open| open.give_stretch_back(which));
                    if due == Due::All {
                        let name = self.shared.with_point(id, |open| open.last_name(node));
                        return Err(error.context(name.unwrap_or_default()));
                    }
                    from = Cursor::of(node + 1);
                }
                Err(Broken::Storing(error)) => return Err(self.failed(id, error)),
            }
            if self.shared.closed.load(Relaxed) {
                return Err(Error::new(Kind::Interrupted, "the mount ends"));
            }
            if bytes >= TURN_BYTES && tasks.is_some_and(|tasks| !tasks.is_empty()) {
                return Ok(false);
            }
        }
    }

    /// Where the chunks of an open point go. Its mark is made before the writer begins: prune deletes nothing that was
    /// listed after the mark, and what was listed before it the writer does not take for stored. That matters more here
    /// than elsewhere, as the bytes leave the spool.
    fn contents(&mut self, open: ObjectId) -> Result<Contents> {
        if !self.marked.contains(&open) {
            // Asked of the store while nothing is held.
            let mark = self.shared.with_point(open, |open| open.mark.clone());
            mark.map_or(Ok(()), |mark| mark.hold())?;
            self.flush(open)?;
            self.contents = None;
            self.marked.insert(open);
        }
        if let Some(contents) = &self.contents {
            return Ok(contents.clone());
        }
        let writer = Writer::new(self.shared.repository.clone(), None)?;
        let contents = Contents::new(Arc::new(writer));
        self.contents = Some(contents.clone());
        Ok(contents)
    }

    /// Puts a stretch into packs, as far as it is cut already; how many bytes.
    fn put(&mut self, open: ObjectId, mut stretch: Stretch) -> Result<u64, Broken> {
        let contents = self.contents(open)?;
        let (begin, extents, hasher) = match stretch.whole {
            true => {
                let extent = self.put_whole(&contents, &stretch)?;
                (stretch.range.start, vec![extent], None)
            }
            false => {
                let hasher = stretch.hasher.take();
                self.put_cut(&contents, &stretch, hasher)?
            }
        };
        let bytes: u64 = extents.iter().map(|extent| extent.length).sum();
        let range = begin..begin + bytes;
        let which = (stretch.node, stretch.number);
        self.shared
            .with_point(open, |open| open.put_stretch(which, range, hasher));
        if bytes == 0 {
            return Ok(0);
        }
        self.pending.push(Put {
            open,
            stretch: which,
            begin,
            extents,
        });
        self.unpublished += bytes;
        if self.unpublished >= self.shared.publish_bytes {
            self.unpublished = 0;
            contents.writer.publish()?;
            self.keep_what_is_stored()?;
        }
        Ok(bytes)
    }

    fn put_whole(&self, contents: &Contents, stretch: &Stretch) -> Result<Extent, Broken> {
        let length = stretch.range.end - stretch.range.start;
        let mut bytes = vec![0; length as usize];
        let mut have = 0;
        while have < bytes.len() {
            // What lies behind the spooled bytes is a hole.
            match read(stretch, &mut bytes[have..], have as u64)? {
                0 => break,
                count => have += count,
            }
        }
        let file = contents.store_whole(&bytes, &stretch.name)?;
        let chunk = match file.content {
            Content::One(id) => Some(id),
            _ => None,
        };
        Ok(Extent { length, chunk })
    }

    /// The beginning of the chunk whose end this stretch was written over.
    fn head(&self, stretch: &Stretch) -> Option<Vec<u8>> {
        let before = stretch.before.as_ref()?;
        let Place::Source(source, offset) = &before.place else {
            return None;
        };
        let there = source.trees().ok()?.repository().settings();
        if !there.cut_as(&self.shared.repository.settings()) {
            return None;
        }
        // Where it cannot be read, cuts fall elsewhere for a while.
        let part = source.begun_before(offset + before.length).ok()??;
        if part.chunk.is_none() || part.length() > before.length {
            return None;
        }
        let mut bytes = Vec::new();
        source.read(&part, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Cuts a stretch. The extents, the byte of the file where the first begins, and the hash of everything up to the
    /// end of the last. A chunk that begins before the stretch is left in the spool until the point is sealed: written
    /// anew as it was, a file makes the chunks that it had.
    fn put_cut(
        &self,
        contents: &Contents,
        stretch: &Stretch,
        hasher: Option<blake3::Hasher>,
    ) -> Result<(u64, Vec<Extent>, Option<blake3::Hasher>), Broken> {
        let head = self.head(stretch).unwrap_or_default();
        let mut begin = stretch.range.start - head.len() as u64;
        let mut extents = VecDeque::new();
        let in_memory = InMemory(&self.shared.streamed, 0.into());
        let mut tell = |extent: Extent| {
            in_memory.left(extent.length);
            extents.push_back(extent);
            Ok(())
        };
        let chunks = Chunks::new(contents, self.workers, &mut tell);
        let mut cut = Recut::new(chunks, contents.cutting.clone(), stretch.block);
        if head.is_empty() {
            cut.hasher = hasher;
        } else {
            in_memory.entered(head.len() as u64);
            cut.bytes(begin, &head)?;
        }
        let mut buffer = vec![0; READ_BYTES];
        let mut at = stretch.range.start;
        while at < stretch.range.end && !self.shared.closed.load(Relaxed) {
            let want = (stretch.range.end - at).min(READ_BYTES as u64) as usize;
            let count = read(stretch, &mut buffer[..want], at)?;
            if count == 0 {
                return Err(Broken::Reading(super::spool_is_short()));
            }
            in_memory.entered(count as u64);
            cut.bytes(at, &buffer[..count])?;
            at += count as u64;
        }
        if stretch.ends && at == stretch.range.end {
            cut.end()?;
        }
        let hasher = cut.finish()?;
        while begin < stretch.range.start
            && let Some(extent) = extents.pop_front()
        {
            begin += extent.length;
        }
        Ok((begin.max(stretch.range.start), extents.into(), hasher))
    }

    /// Makes everything durable that was put; what of it is an open point's takes the place of its spooled bytes.
    fn flush(&mut self, open: ObjectId) -> Result<()> {
        self.unpublished = 0;
        let flushed = match &self.contents {
            Some(contents) => contents.writer.flush(),
            None => Ok(()),
        };
        let kept = flushed.and_then(|()| self.keep_what_is_stored());
        kept.map_err(|error| self.failed(open, error))?;
        if self.pending.is_empty() {
            // A writer goes by what it saw of the repository when it began: the next one sees it anew.
            self.contents = None;
        }
        Ok(())
    }

    /// What is durable and in the index takes the place of spooled bytes, whose space is released.
    fn keep_what_is_stored(&mut self) -> Result<()> {
        let mut concerned = HashSet::new();
        let noted = self.note_what_is_stored(&mut concerned);
        let released = concerned.into_iter().try_for_each(|id| {
            let released = self.shared.with_point(id, OpenPoint::release_stored);
            released.unwrap_or(Ok(()))
        });
        noted.and(released)
    }

    fn note_what_is_stored(&mut self, concerned: &mut HashSet<ObjectId>) -> Result<()> {
        let Some(contents) = self.contents.clone() else {
            return Ok(());
        };
        let mut place = 0;
        while let Some(put) = self.pending.get(place) {
            let mut stored = 0;
            for extent in &put.extents {
                match &extent.chunk {
                    Some(id) if !contents.writer.is_stored(id)? => break,
                    _ => stored += 1,
                }
            }
            if stored > 0 {
                concerned.insert(put.open);
                self.note(put, stored)?;
            }
            let put = &mut self.pending[place];
            let kept = put.extents.drain(..stored);
            put.begin += kept.map(|extent| extent.length).sum::<u64>();
            if put.extents.is_empty() {
                self.pending.swap_remove(place);
            } else {
                place += 1;
            }
        }
        Ok(())
    }

    fn note(&self, put: &Put, count: usize) -> Result<()> {
        let extents = &put.extents[..count];
        let note = |open: &OpenPoint| open.note_stored(put.stretch, put.begin, extents);
        // None: the point was discarded, or the mount ends.
        let kept = self.shared.with_point(put.open, note).unwrap_or(Ok(0))?;
        self.shared.streamed.bytes.fetch_add(kept, Relaxed);
        Ok(())
    }

    /// Gives up what was put and is not in the index: it is in the spool, and is put again by another writer. Each
    /// open point concerned tells of it.
    fn failed(&mut self, open: ObjectId, error: Error) -> Error {
        self.contents = None;
        let pending = std::mem::take(&mut self.pending);
        let mut concerned: HashSet<_> = pending.iter().map(|put| put.open).collect();
        concerned.insert(open);
        for id in concerned {
            self.shared
                .with_point(id, |open| open.storing_failed(&error));
        }
        error
    }
}

fn read(stretch: &Stretch, buffer: &mut [u8], offset: u64) -> Result<usize, Broken> {
    loop {
        match stretch.spool.read_at(buffer, offset) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Reading(Error::io("reading spooled bytes", error))),
            Ok(count) => return Ok(count),
        }
    }
}

/// Bytes of one stretch that are in memory, as the metrics show them.
struct InMemory<'a>(&'a Streamed, std::cell::Cell<u64>);

impl InMemory<'_> {
    fn entered(&self, bytes: u64) {
        self.1.set(self.1.get() + bytes);
        self.0.in_memory.fetch_add(bytes, Relaxed);
    }

    fn left(&self, bytes: u64) {
        self.1.set(self.1.get() - bytes);
        self.0.in_memory.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for InMemory<'_> {
    fn drop(&mut self) {
        self.0.in_memory.fetch_sub(self.1.get(), Relaxed);
    }
}
