//! Reading ahead: whoever reads in order finds the next frames in memory.
//!
//! The kernel reads ahead too, but at most a megabyte, and each of its requests waits for one frame. Here several
//! frames are fetched at once and in parallel, far enough ahead to hide the latency of a store.

use super::repositories::CompletePoint;
use crate::id::ObjectId;
use crate::point::File;
use crate::repository::{FrameSpan, Location};
use crate::thread;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// The first window, bytes; it doubles with every read in order.
const WINDOW_MIN: u64 = 1 << 20;
/// Reads that the kernel sends in parallel arrive in any order within so many bytes.
const DISORDER: u64 = 2 << 20;
/// Stored bytes that one thread fetches at a time.
const RUN_BYTES: u64 = 2 << 20;
/// Threads that fetch: they mostly wait for a store.
const THREADS: usize = 6;
/// Fetches that may wait; more are not worth having.
const QUEUE: usize = 64;

/// How far a reader has come in order.
#[derive(Debug, Default)]
pub(super) struct Streak {
    /// Where the next read in order begins.
    next: u64,
    /// Bytes to have ahead of it; 0 until the second read in order.
    window: u64,
    /// Up to where fetching was asked for.
    ahead: u64,
}

impl Streak {
    /// Whether a read of `range` goes on where the last one ended, or nearly.
    pub(super) fn in_order(&self, range: &Range<u64>) -> bool {
        range.start.abs_diff(self.next) <= DISORDER
    }

    /// What to fetch after a read of `range` in a file of `size` bytes: nothing unless it was in order.
    pub(super) fn next(
        &mut self,
        range: &Range<u64>,
        size: u64,
        window_max: u64,
    ) -> Option<Range<u64>> {
        if !self.in_order(range) || range.start == 0 {
            *self = Self {
                next: range.end,
                ..Self::default()
            };
            return None;
        }
        self.next = self.next.max(range.end);
        self.window = (self.window * 2).clamp(WINDOW_MIN, window_max.max(WINDOW_MIN));
        if self.ahead >= self.next + self.window / 2 {
            return None;
        }
        let fetch = self.ahead.max(self.next)..(self.next + self.window).min(size);
        self.ahead = fetch.end;
        (!fetch.is_empty()).then_some(fetch)
    }
}

enum Task {
    /// Find the frames of a part of a file.
    Plan(Arc<CompletePoint>, File, Range<u64>),
    /// Fetch frames of one pack.
    Fetch(Arc<CompletePoint>, Location, Vec<FrameSpan>),
}

/// Threads that fetch frames before they are asked for.
pub(super) struct ReadAhead {
    tasks: Arc<Sender<Task>>,
}

impl ReadAhead {
    /// Starts the threads; they end when this is dropped.
    pub(super) fn new() -> Self {
        let (tasks, waiting) = bounded(QUEUE);
        let tasks = Arc::new(tasks);
        for _ in 0..THREADS {
            // Weak: a thread that waits for tasks must not keep itself waiting.
            let (tasks, waiting) = (Arc::downgrade(&tasks), waiting.clone());
            thread::spawn(move || work(&tasks, &waiting));
        }
        Self { tasks }
    }

    /// Fetches the frames of this part of a file soon, or not at all when too much is waiting.
    pub(super) fn fetch(&self, point: &Arc<CompletePoint>, file: &File, range: Range<u64>) {
        let plan = Task::Plan(point.clone(), file.clone(), range);
        // A full queue means that the store is slower than the reader: then reading ahead gains nothing.
        let _ = self.tasks.try_send(plan);
    }

    /// Fetches these frames soon, or not at all.
    pub(super) fn fetch_frames(
        &self,
        point: &Arc<CompletePoint>,
        location: Location,
        frames: Vec<FrameSpan>,
    ) {
        let _ = self
            .tasks
            .try_send(Task::Fetch(point.clone(), location, frames));
    }
}

fn work(tasks: &Weak<Sender<Task>>, waiting: &Receiver<Task>) {
    while let Ok(task) = waiting.recv() {
        match task {
            Task::Fetch(point, location, frames) => fetch(&point, &location, &frames),
            Task::Plan(point, file, range) => {
                for (location, frames) in plan(&point, &file, &range) {
                    let queue = tasks.upgrade();
                    let task = Task::Fetch(point.clone(), location, frames);
                    let refused = match queue {
                        Some(queue) => queue.try_send(task).err(),
                        None => None,
                    };
                    if let Some(TrySendError::Full(Task::Fetch(point, location, frames))) = refused
                    {
                        fetch(&point, &location, &frames);
                    }
                }
            }
        }
    }
}

fn fetch(point: &CompletePoint, location: &Location, frames: &[FrameSpan]) {
    point.trees().repository().prefetch(location, frames);
}

/// The frames of a part of a file, in runs for one thread each. What cannot be found is left to the reader.
fn plan(point: &CompletePoint, file: &File, range: &Range<u64>) -> Vec<(Location, Vec<FrameSpan>)> {
    let mut runs: Vec<(Location, Vec<FrameSpan>)> = Vec::new();
    let repository = point.trees().repository();
    for extent in point.trees().extents_from(file, range.start) {
        let Ok((begin, extent)) = extent else { break };
        if begin >= range.end {
            break;
        }
        let Some(id) = extent.chunk else { continue };
        let Ok(location) = repository.locate(&id) else {
            continue;
        };
        let Ok(frames) = location.frames() else {
            continue;
        };
        for frame in frames {
            add(&mut runs, &location, frame);
        }
    }
    runs
}

fn add(runs: &mut Vec<(Location, Vec<FrameSpan>)>, location: &Location, frame: FrameSpan) {
    if let Some((last, frames)) = runs.last_mut()
        && last.pack.id == location.pack.id
        && let (Some(first), Some(newest)) = (frames.first(), frames.last())
    {
        if newest.number == frame.number {
            return;
        }
        let bytes = u64::from(frame.object_end).saturating_sub(first.object_begin.into());
        if newest.number < frame.number && bytes <= RUN_BYTES {
            frames.push(frame);
            return;
        }
    }
    runs.push((location.clone(), vec![frame]));
}

/// Packs whose last reads of small files are remembered.
const PACKS_MAX: usize = 8;
/// Frames of small files that are fetched ahead, each some 1 MiB of files.
const FRAMES_AHEAD: u32 = 4;

/// Small files that are opened in the order they were stored in: the next frames are theirs.
#[derive(Default)]
pub(super) struct SmallFiles(Mutex<VecDeque<(ObjectId, u32)>>);

impl SmallFiles {
    /// The frames to fetch after a frame that several files share was not in memory.
    pub(super) fn missed(&self, location: &Location, frame: &FrameSpan) -> Vec<FrameSpan> {
        let mut packs = self.0.lock();
        let place = packs.iter().position(|(pack, _)| *pack == location.pack.id);
        let last = place.and_then(|place| packs.remove(place));
        packs.push_back((location.pack.id, frame.number));
        if packs.len() > PACKS_MAX {
            packs.pop_front();
        }
        drop(packs);
        let in_order = last.is_some_and(|(_, last)| {
            (last..=last.saturating_add(2 * FRAMES_AHEAD)).contains(&frame.number)
        });
        if !in_order {
            return Vec::new();
        }
        let ahead = frame.number + 1..=frame.number.saturating_add(FRAMES_AHEAD);
        ahead
            .map_while(|number| location.frame(number).ok())
            .collect()
    }
}
