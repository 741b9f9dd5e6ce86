//! The spool: what tools have written and no repository holds yet, on this host's disk, in one file for each node.
//! All open points together may hold so much; whoever wants to write more waits until some of it is stored.
//!
//! Order of bytes: the page cache of the spool file; the journal, which tells of them; fsync makes both survive the
//! host. Behind the tool's back they become chunks. When these are durable and in the index, the journal says which,
//! and is synced; then their space is released. Nothing is taken from the spool before that, so whatever dies, the
//! bytes are in one place or the other. A stretch that is stored soon after it was written seldom reaches the disk:
//! its pages are dropped before the kernel writes them. What a host that goes down may lose is told with doubt.

use super::stream::Streamer;
use crate::error::{Error, Kind, Result};
use crate::filesystem::Options;
use crate::filesystem::repositories::MountedRepository;
use crate::id::ObjectId;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What is known of the spool of all open points.
#[derive(Clone, Copy, Debug)]
pub(in crate::filesystem) struct SpoolFacts {
    /// Bytes in it.
    pub spooled: u64,
    /// Bytes that may be in it.
    pub bound: u64,
    /// Bytes that were stored behind the tools' backs and released.
    pub streamed: u64,
    /// Bytes in memory between the spool and the packs.
    pub in_memory: u64,
    /// Bytes of memory that entries of open points take.
    pub entries: u64,
    /// Bytes that they may take.
    pub entries_max: u64,
}

/// Counters of what is stored behind the tools' backs.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    pub bytes: AtomicU64,
    pub in_memory: AtomicU64,
}

struct Room {
    used: u64,
    /// Bytes that were ever released.
    released: u64,
    /// Repositories that are storing everything because somebody waits for room.
    draining: usize,
    /// Why the last of them failed.
    why: Option<String>,
}

/// The room of the spool, shared with whoever holds a part of it.
pub(super) struct Rooms {
    bound: u64,
    /// Bytes of memory that entries take, and that they may take.
    entries: AtomicU64,
    entries_max: u64,
    room: Mutex<Room>,
    changed: Condvar,
}

/// What all open points of a mount have on this host's disk.
pub(in crate::filesystem) struct Spool {
    rooms: Arc<Rooms>,
    /// Without progress for so long, whoever waits for room is refused.
    patience: Duration,
    /// The present boot of the host.
    boot: u128,
    streamers: Mutex<HashMap<ObjectId, Arc<Streamer>>>,
    streamed: Arc<Streamed>,
}

impl Spool {
    /// A spool as these options have it.
    pub(in crate::filesystem) fn new(options: &Options) -> Arc<Self> {
        let room = Room {
            used: 0,
            released: 0,
            draining: 0,
            why: None,
        };
        Arc::new(Self {
            rooms: Arc::new(Rooms {
                bound: options.spool_bytes,
                entries: AtomicU64::new(0),
                entries_max: options.entries_bytes,
                room: Mutex::new(room),
                changed: Condvar::new(),
            }),
            patience: options.patience,
            boot: options.boot,
            streamers: Mutex::default(),
            streamed: Arc::default(),
        })
    }

    pub(in crate::filesystem) fn facts(&self) -> SpoolFacts {
        SpoolFacts {
            spooled: self.rooms.room.lock().used,
            entries: self.rooms.entries.load(Relaxed),
            entries_max: self.rooms.entries_max,
            bound: self.rooms.bound,
            streamed: self.streamed.bytes.load(Relaxed),
            in_memory: self.streamed.in_memory.load(Relaxed),
        }
    }

    /// The present boot of the host.
    pub(super) fn boot(&self) -> u128 {
        self.boot
    }

    /// Bytes that it may hold.
    pub(super) fn bound(&self) -> u64 {
        self.rooms.bound
    }

    /// Whether so many bytes can be written without waiting.
    pub(in crate::filesystem) fn has_room(&self, bytes: u64) -> bool {
        self.rooms.room.lock().used.saturating_add(bytes) <= self.rooms.bound
    }

    /// Nothing more is stored behind anybody's back, and no open point is held any more.
    pub(in crate::filesystem) fn close(&self) {
        let streamers: Vec<_> = self.streamers.lock().values().cloned().collect();
        streamers.iter().for_each(|streamer| streamer.close());
    }

    /// What stores into this repository.
    pub(super) fn streamer(&self, repository: &MountedRepository) -> Arc<Streamer> {
        let repository = repository.catalog.repository();
        let mut streamers = self.streamers.lock();
        let new = || {
            let limit = self.rooms.bound;
            Arc::new(Streamer::new(
                repository.clone(),
                self.streamed.clone(),
                limit,
            ))
        };
        streamers.entry(repository.id()).or_insert_with(new).clone()
    }

    /// A part of the spool that holds nothing yet.
    pub(super) fn share(&self) -> Share {
        Share {
            rooms: self.rooms.clone(),
            held: 0,
            entries: 0,
        }
    }

    /// Room for so many bytes: waits while the spool is full and what lies there is being stored. Fails with `Full`
    /// when that makes no progress.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Share> {
        let mut room = self.rooms.room.lock();
        while room.used.saturating_add(bytes) > self.rooms.bound {
            if !self.drain(&mut room) {
                return Err(self.full(&room));
            }
        }
        room.used += bytes;
        Ok(Share {
            rooms: self.rooms.clone(),
            held: bytes,
            entries: 0,
        })
    }

    /// Fails with `Full` when entries take all the memory that they may.
    pub(super) fn require_memory(&self) -> Result<()> {
        let (entries, max) = (self.rooms.entries.load(Relaxed), self.rooms.entries_max);
        if entries < max {
            return Ok(());
        }
        let message = format!(
            "the entries of this mount's open points take {entries} of {max} bytes of memory; seal or discard some of \
             them, or give them more (`open-memory` at the top of the configuration)"
        );
        Err(Error::new(Kind::Full, message))
    }

    /// As [`Self::reserve`] where not the bound but the disk is full: whether anything was released.
    pub(super) fn make_room(&self) -> bool {
        self.drain(&mut self.rooms.room.lock())
    }

    fn full(&self, room: &Room) -> Error {
        let why = match &room.why {
            Some(why) => format!("cannot be stored: {why}"),
            None => "was not stored in time".to_owned(),
        };
        let message = format!(
            "the spool of this host is full: {} of {} bytes are used, and what lies there {why}; write again when the \
             repository takes it, or give the spool more room (`spool` at the top of the configuration)",
            room.used, self.rooms.bound
        );
        Error::new(Kind::Full, message)
    }

    /// Has everything stored, and returns when some of it was released, or nothing more will be: whether there was.
    fn drain(&self, room: &mut MutexGuard<'_, Room>) -> bool {
        let before = room.released;
        // One that others began may be past what was written last.
        let mut own = false;
        while room.released == before {
            if room.draining == 0 {
                if own {
                    return false;
                }
                self.begin_drain(room);
                own = true;
                continue;
            }
            let waited = self.rooms.changed.wait_for(room, self.patience);
            if waited.timed_out() && room.released == before {
                return false;
            }
        }
        true
    }

    fn begin_drain(&self, room: &mut MutexGuard<'_, Room>) {
        let streamers: Vec<_> = self.streamers.lock().values().cloned().collect();
        room.draining = streamers.len();
        room.why = None;
        MutexGuard::unlocked(room, || {
            for streamer in streamers {
                streamer.drain(Drain(self.rooms.clone()));
            }
        });
    }
}

/// One repository's part in making room; whoever waits for it learns of its end.
pub(super) struct Drain(Arc<Rooms>);

impl Drain {
    /// Says why nothing can be stored.
    pub(super) fn failed(&self, error: &Error) {
        self.0.room.lock().why = Some(error.message().to_owned());
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.0.room.lock().draining -= 1;
        self.0.changed.notify_all();
    }
}

/// A part of the spool's room and of the memory for entries, given back when it is dropped.
pub(super) struct Share {
    rooms: Arc<Rooms>,
    held: u64,
    entries: u64,
}

impl Share {
    /// From now on entries take so many bytes of memory.
    pub(super) fn remember(&mut self, entries: u64) {
        if entries != self.entries {
            self.rooms.entries.fetch_add(entries, Relaxed);
            self.rooms.entries.fetch_sub(self.entries, Relaxed);
            self.entries = entries;
        }
    }

    /// From now on holds so many bytes.
    pub(super) fn hold(&mut self, bytes: u64) {
        if bytes == self.held {
            return;
        }
        let mut room = self.rooms.room.lock();
        room.used = room.used - self.held + bytes;
        if bytes < self.held {
            room.released += self.held - bytes;
            self.rooms.changed.notify_all();
        }
        self.held = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut room = self.rooms.room.lock();
        room.used -= self.held;
        self.rooms.entries.fetch_sub(self.entries, Relaxed);
        self.rooms.changed.notify_all();
    }
}

/// Gives the disk space of a range of a file back; it reads as zeros then.
pub(super) fn punch(file: &fs::File, range: &Range<u64>) -> std::io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (begin, length) = (range.start as i64, (range.end - range.start) as i64);
    // SAFETY: the descriptor is open as long as the borrowed file; fallocate touches no memory.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, begin, length) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Whether so many bytes are free where a file lies. What cannot be asked is not refused.
pub(super) fn has_space(file: &fs::File, bytes: u64) -> bool {
    // SAFETY: a structure of numbers, for which all zeros are a value.
    let mut facts: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open as long as the borrowed file, and `facts` lives through the call.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut facts) } != 0 {
        return true;
    }
    facts.f_bavail.saturating_mul(facts.f_frsize) >= bytes
}
