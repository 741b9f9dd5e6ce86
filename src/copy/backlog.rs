//! Wanted chunks on their way to becoming frames that move. Pure: no store is asked.
//!
//! What can move as it is, is a *unit*: a frame whose chunks are all wanted, or the run of frames of one chunk. A frame
//! of which only a part is wanted so far waits. Units that are ready gather in a window of a few megabytes, where
//! they are put in the order of their packs again, so that what lies together is read in one request and stays
//! together.

use crate::error::Result;
use crate::id::{ChunkId, ObjectId};
use crate::repository::{FRAME_CHUNKS_MAX, FrameSpan, Lane, Location};
use std::collections::{HashMap, VecDeque};

/// A wanted chunk of a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub id: ChunkId,
    /// First byte in the pack's stream.
    pub offset: u32,
    pub length: u32,
}

/// A frame, or the run of frames of one chunk, with the chunks that are wanted of it.
#[derive(Debug)]
pub(super) struct Unit {
    pub location: Location,
    pub spans: Vec<FrameSpan>,
    pub chunks: Vec<Wanted>,
    /// Their lengths together.
    bytes: u64,
    /// How the chunks are grouped when the unit is cut.
    pub lane: Lane,
}

impl Unit {
    fn object_begin(&self) -> u32 {
        self.spans[0].object_begin
    }

    fn object_end(&self) -> u32 {
        self.spans[self.spans.len() - 1].object_end
    }

    fn stored_bytes(&self) -> u64 {
        u64::from(self.object_end() - self.object_begin())
    }

    /// Sorts the chunks and tells whether they are all that the frames hold, and no more than a frame may hold.
    fn is_whole(&mut self) -> bool {
        self.chunks.sort_by_key(|chunk| chunk.offset);
        let mut at = self.spans[0].stream_begin;
        let without_gap = self.chunks.iter().all(|chunk| {
            let follows = chunk.offset == at;
            at = at.wrapping_add(chunk.length);
            follows
        });
        without_gap
            && self.chunks.len() <= FRAME_CHUNKS_MAX
            && at == self.spans[self.spans.len() - 1].stream_end
    }
}

/// Units to be worked on together, ordered as their packs are.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub units: Vec<Unit>,
    /// To be decompressed, and their chunks grouped anew.
    pub cut: bool,
}

impl Job {
    /// Units that lie together in one pack: one request each.
    pub(super) fn runs(&self) -> impl Iterator<Item = &[Unit]> {
        self.units.chunk_by(|one, next| {
            one.location.pack.id == next.location.pack.id && one.object_end() == next.object_begin()
        })
    }
}

/// Units that gather until they are worth a job.
#[derive(Default)]
struct Window {
    units: Vec<Unit>,
    bytes: u64,
}

impl Window {
    /// Adds a unit; the window as it was before, when the unit would not fit in.
    fn add(&mut self, unit: Unit, bytes_max: u64) -> Option<Vec<Unit>> {
        let full = self.bytes + unit.stored_bytes() > bytes_max;
        let before = (full && !self.units.is_empty()).then(|| self.take());
        self.bytes += unit.stored_bytes();
        self.units.push(unit);
        before
    }

    /// Everything, pack by pack in order of first appearance, and within a pack as it lies there.
    fn take(&mut self) -> Vec<Unit> {
        let Self { mut units, .. } = std::mem::take(self);
        let mut order: HashMap<ObjectId, usize> = HashMap::new();
        for unit in &units {
            let next = order.len();
            order.entry(unit.location.pack.id).or_insert(next);
        }
        units.sort_by_key(|unit| (order[&unit.location.pack.id], unit.object_begin()));
        units
    }
}

/// Limits of a backlog: together they bound its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// What may wait for the rest of its frame: a chunk counts 1, its frame [`UNIT_WEIGHT`]; 40 bytes each.
    pub weight_max: usize,
    /// Stored bytes of a job, unless a single unit is longer.
    pub job_bytes_max: u64,
}

/// A frame that waits takes as much memory as so many chunks: its place in the index, and two allocations.
const UNIT_WEIGHT: usize = 8;
/// Keys of frames that wait no more are swept out when there are so many.
const ORDER_SLACK: usize = 1024;

type Key = (ObjectId, u32);

/// Chunks that wait for the rest of their frame, and units that wait for company.
pub(super) struct Backlog {
    limits: Limits,
    /// Nothing moves as it is.
    recompress: bool,
    waiting: HashMap<Key, Unit>,
    /// Keys of `waiting`, oldest first; keys of units that have become whole meanwhile are passed over.
    order: VecDeque<Key>,
    weight: usize,
    move_window: Window,
    cut_window: Window,
}

impl Backlog {
    pub(super) fn new(limits: Limits, recompress: bool) -> Self {
        Self {
            limits,
            recompress,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            weight: 0,
            move_window: Window::default(),
            cut_window: Window::default(),
        }
    }

    /// Adds a wanted chunk; returns what is worth doing now.
    pub(super) fn add(&mut self, id: ChunkId, location: Location, lane: Lane) -> Result<Vec<Job>> {
        let spans = location.frames()?;
        let wanted = Wanted {
            id,
            offset: location.offset,
            length: location.length,
        };
        let alone = spans.len() > 1 || spans[0].plain_bytes() == location.length;
        if alone {
            let unit = Unit {
                lane: if spans.len() > 1 { Lane::Alone } else { lane },
                location,
                spans,
                chunks: vec![wanted],
                bytes: wanted.length.into(),
            };
            return Ok(self.ready(unit).into_iter().collect());
        }
        Ok(self.wait(wanted, location, spans, lane))
    }

    fn wait(
        &mut self,
        wanted: Wanted,
        location: Location,
        spans: Vec<FrameSpan>,
        lane: Lane,
    ) -> Vec<Job> {
        let key = (location.pack.id, spans[0].number);
        let (order, weight) = (&mut self.order, &mut self.weight);
        let unit = self.waiting.entry(key).or_insert_with(|| {
            order.push_back(key);
            *weight += UNIT_WEIGHT;
            Unit {
                location,
                spans,
                chunks: Vec::new(),
                bytes: 0,
                lane,
            }
        });
        unit.chunks.push(wanted);
        unit.bytes += u64::from(wanted.length);
        *weight += 1;
        if unit.bytes >= u64::from(unit.spans[0].plain_bytes()) {
            let whole = self.remove(&key).and_then(|unit| self.ready(unit));
            return whole.into_iter().collect();
        }
        if self.weight <= self.limits.weight_max {
            return Vec::new();
        }
        self.cut_oldest(self.limits.weight_max - self.limits.weight_max / 4)
    }

    fn remove(&mut self, key: &Key) -> Option<Unit> {
        let unit = self.waiting.remove(key)?;
        self.weight -= UNIT_WEIGHT + unit.chunks.len();
        if self.order.len() > 2 * self.waiting.len() + ORDER_SLACK {
            self.order.retain(|key| self.waiting.contains_key(key));
        }
        Some(unit)
    }

    /// A unit that waits for nothing more: it moves, or it is cut.
    fn ready(&mut self, mut unit: Unit) -> Option<Job> {
        let cut = !unit.is_whole() || self.recompress;
        let window = if cut {
            &mut self.cut_window
        } else {
            &mut self.move_window
        };
        let units = window.add(unit, self.limits.job_bytes_max)?;
        Some(Job { units, cut })
    }

    /// Gives up waiting for the oldest frames until what waits is no heavier than `weight`.
    fn cut_oldest(&mut self, weight: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        while self.weight > weight {
            let Some(key) = self.order.pop_front() else {
                break;
            };
            jobs.extend(self.remove(&key).and_then(|unit| self.ready(unit)));
        }
        jobs
    }

    /// Everything that is left.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        let mut jobs = self.cut_oldest(0);
        self.order.clear();
        for (window, cut) in [(&mut self.move_window, false), (&mut self.cut_window, true)] {
            let units = window.take();
            if !units.is_empty() {
                jobs.push(Job { units, cut });
            }
        }
        jobs
    }
}
