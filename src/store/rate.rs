//! How many bytes a second may pass between this process and stores.
//!
//! Bytes that are read and bytes that are written count apart: a copy at 20 MB/s reads and writes 20 MB each second.
//! Whoever passes bytes first takes them from a bucket that fills at the rate and holds a tenth of a second's worth. It
//! may be overdrawn by one piece of half a second's worth, so that nobody waits for longer than that for a piece.

use super::{Object, Offers, Refused, SharedStore, Space, Store, Traffic, Upload};
use crate::error::Result;
use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shorter pieces would cost more requests than an even rate is worth.
const PIECE_BYTES_MIN: u64 = 64 << 10;
/// What the bucket holds: a tenth of a second's worth.
const HELD_SECONDS: f64 = 0.1;

/// A bucket of bytes. Pure: time is given to it, as it passes since any beginning.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Bytes a second; none for no limit.
    rate: Option<u64>,
    /// May be below zero.
    bytes: f64,
    filled: Duration,
}

impl Bucket {
    /// An empty bucket that fills at this rate from `now` on.
    pub fn new(rate: Option<u64>, now: Duration) -> Self {
        Self {
            rate: rate.map(|rate| rate.max(1)),
            bytes: 0.0,
            filled: now,
        }
    }

    /// Changes the rate. What is overdrawn is owed for as long as before.
    pub fn set(&mut self, rate: Option<u64>, now: Duration) {
        self.fill(now);
        let rate = rate.map(|rate| rate.max(1));
        self.bytes *= match (self.rate, rate) {
            (Some(old), Some(new)) => new as f64 / old as f64,
            _ => 0.0,
        };
        self.rate = rate;
    }

    /// Bytes that are taken at once.
    pub fn piece(&self) -> u64 {
        self.rate
            .map_or(u64::MAX, |rate| (rate / 2).max(PIECE_BYTES_MIN))
    }

    /// Takes bytes; how long to wait before asking again when they cannot be had yet.
    pub fn take(&mut self, bytes: u64, now: Duration) -> std::result::Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        self.fill(now);
        if self.bytes < 0.0 {
            return Err(Duration::from_secs_f64(-self.bytes / rate as f64));
        }
        self.bytes -= bytes as f64;
        Ok(())
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = now;
        if let Some(rate) = self.rate {
            let rate = rate as f64;
            self.bytes = (self.bytes + passed * rate).min(rate * HELD_SECONDS);
        }
    }
}

/// A rate that may be changed while bytes pass. Clones share it.
#[derive(Clone, Debug)]
pub struct Rate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    read: Lane,
    written: Lane,
}

#[derive(Debug)]
struct Lane {
    bucket: Mutex<Bucket>,
    changed: Condvar,
}

#[derive(Clone, Copy)]
enum Way {
    Read,
    Written,
}

impl Rate {
    /// This many bytes a second each way; none for no limit.
    #[allow(clippy::disallowed_methods)] // the distance between bytes, not a time that is stored
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let lane = || Lane {
            bucket: Mutex::new(Bucket::new(bytes_per_second, Duration::ZERO)),
            changed: Condvar::new(),
        };
        Self(Arc::new(Shared {
            began: Instant::now(),
            read: lane(),
            written: lane(),
        }))
    }

    /// Changes it, also for those who wait.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        let now = self.0.began.elapsed();
        for lane in [&self.0.read, &self.0.written] {
            lane.bucket.lock().set(bytes_per_second, now);
            lane.changed.notify_all();
        }
    }

    /// What it is.
    pub fn bytes_per_second(&self) -> Option<u64> {
        self.0.read.bucket.lock().rate
    }

    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Read => &self.0.read,
            Way::Written => &self.0.written,
        }
    }

    fn piece(&self, way: Way) -> u64 {
        self.lane(way).bucket.lock().piece()
    }

    /// Returns when so many bytes may pass.
    fn take(&self, way: Way, bytes: u64) {
        let lane = self.lane(way);
        let mut bucket = lane.bucket.lock();
        while let Err(wait) = bucket.take(bytes, self.0.began.elapsed()) {
            lane.changed.wait_for(&mut bucket, wait);
        }
    }
}

/// A store to and from which bytes pass at several rates at once: a job's, the repository's, the host's.
#[derive(Debug)]
pub struct RatedStore {
    inner: SharedStore,
    rates: Arc<[Rate]>,
}

impl RatedStore {
    /// The store within, at the slowest of these rates.
    pub fn new(inner: SharedStore, rates: impl IntoIterator<Item = Rate>) -> Self {
        Self {
            inner,
            rates: rates.into_iter().collect(),
        }
    }

    fn piece(&self, way: Way) -> u64 {
        let pieces = self.rates.iter().map(|rate| rate.piece(way));
        pieces.min().unwrap_or(u64::MAX)
    }
}

fn take(rates: &[Rate], way: Way, bytes: u64) {
    rates.iter().for_each(|rate| rate.take(way, bytes));
}

impl Store for RatedStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        let content = self.inner.get(name)?;
        // Its size is known only now; the next one waits for it.
        take(&self.rates, Way::Read, content.len() as u64);
        Ok(content)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let piece = self.piece(Way::Read);
        let length = range.end.saturating_sub(range.start);
        if length <= piece {
            take(&self.rates, Way::Read, length);
            return self.inner.get_range(name, range);
        }
        let mut content = BytesMut::new();
        let mut begin = range.start;
        while begin < range.end {
            let end = range.end.min(begin.saturating_add(self.piece(Way::Read)));
            take(&self.rates, Way::Read, end - begin);
            content.extend_from_slice(&self.inner.get_range(name, begin..end)?);
            begin = end;
        }
        Ok(content.freeze())
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.inner.head(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix)
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        take(&self.rates, Way::Written, content.len() as u64);
        self.inner.create(name, content)
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        Ok(Box::new(RatedUpload {
            inner: self.inner.upload(name)?,
            rates: self.rates.clone(),
        }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.inner.space()
    }

    fn offers(&self, free: &str) -> Result<Offers> {
        self.inner.offers(free)
    }

    fn prefer_storage_class(&self, class: &str) {
        self.inner.prefer_storage_class(class);
    }

    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        self.inner.ask(name)
    }

    fn archive_class(&self) -> Option<String> {
        self.inner.archive_class()
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }
}

struct RatedUpload {
    inner: Box<dyn Upload>,
    rates: Arc<[Rate]>,
}

impl Upload for RatedUpload {
    fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        loop {
            let pieces = self.rates.iter().map(|rate| rate.piece(Way::Written));
            let piece = pieces.min().unwrap_or(u64::MAX).min(bytes.len() as u64);
            take(&self.rates, Way::Written, piece);
            self.inner.write(bytes.split_to(piece as usize))?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()
    }
}
