//! How far long work has come: counters that the worker adds to and that anyone may look at, and a wish to stop.

use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters of one piece of long work.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of content done.
    pub bytes: AtomicU64,
    /// Bytes of content to do, as far as known; 0 when unknown.
    pub bytes_total: AtomicU64,
    /// Files (or packs) done.
    pub items: AtomicU64,
    /// Files (or packs) to do, as far as known; 0 when unknown.
    pub items_total: AtomicU64,
    /// Whether somebody looks at the totals, so that finding them out is worth a walk of its own.
    pub watched: AtomicBool,
    stop: AtomicBool,
}

impl Progress {
    /// Adds a finished item of so many bytes.
    pub fn done(&self, items: u64, bytes: u64) {
        self.items.fetch_add(items, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Sets what there is to do.
    pub fn expect(&self, items: u64, bytes: u64) {
        self.items_total.store(items, Relaxed);
        self.bytes_total.store(bytes, Relaxed);
    }

    /// Asks the work to stop at the next good place.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Fails with `Interrupted` once somebody asked to stop; long loops call it.
    pub fn go_on(&self) -> Result<()> {
        if self.stop.load(Relaxed) {
            return Err(Error::new(
                Kind::Interrupted,
                "stopped on request; run it again to go on",
            ));
        }
        Ok(())
    }
}
