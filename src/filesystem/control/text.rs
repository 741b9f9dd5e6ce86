//! The text of an open control file: the same for whoever reads on, a new one for whoever begins again.

use super::ControlPlace;
use crate::clock::Time;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Who is still there at the end of a text after so many seconds waits for more.
const FOLLOWED_AFTER_SECONDS: i64 = 1;

fn is_old(made_seconds: i64, now: Time) -> bool {
    now.seconds.saturating_sub(made_seconds) > FOLLOWED_AFTER_SECONDS
}

/// What is known of the text that a file had last.
#[derive(Debug, Default)]
pub(super) struct LastText {
    bytes: AtomicU64,
    made_seconds: AtomicI64,
    readers: AtomicU64,
}

impl LastText {
    pub(super) fn made(&self, bytes: usize, now: Time) {
        self.bytes.store(bytes as u64, Relaxed);
        self.made_seconds.store(now.seconds, Relaxed);
    }

    pub(super) fn size(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Whether somebody has it open and it was made some time ago.
    pub(super) fn is_followed(&self, now: Time) -> bool {
        self.readers.load(Relaxed) > 0 && is_old(self.made_seconds.load(Relaxed), now)
    }
}

/// An open file of the control tree.
pub(in crate::filesystem) struct ControlText {
    place: Arc<ControlPlace>,
    made: Mutex<Option<Made>>,
}

struct Made {
    text: Vec<u8>,
    at: Time,
    /// Whether some of it was read.
    begun: bool,
}

impl Drop for ControlText {
    fn drop(&mut self) {
        self.place.last.readers.fetch_sub(1, Relaxed);
    }
}

impl ControlText {
    /// Nothing was made yet.
    pub(super) fn new(place: Arc<ControlPlace>) -> Self {
        place.last.readers.fetch_add(1, Relaxed);
        Self {
            place,
            made: Mutex::new(None),
        }
    }

    /// Which file it is.
    pub(in crate::filesystem) fn place(&self) -> &Arc<ControlPlace> {
        &self.place
    }

    /// Whether a new text should be made for whoever reads from `offset`: to begin again, or at the end some time later.
    pub(super) fn is_over(&self, offset: u64, now: Time) -> bool {
        let made = self.made.lock();
        let Some(made) = &*made else { return true };
        let end = offset >= made.text.len() as u64;
        offset == 0 && made.begun || end && is_old(made.at.seconds, now)
    }

    /// A new text. Whoever reads further on keeps the old one, unless the new one only adds to it.
    pub(super) fn set(&self, text: Vec<u8>, offset: u64, now: Time) {
        let mut made = self.made.lock();
        match &mut *made {
            Some(known) if offset > 0 && !text.starts_with(&known.text) => known.at = now,
            made => {
                *made = Some(Made {
                    text,
                    at: now,
                    begun: false,
                });
            }
        }
    }

    /// Up to `size` bytes from `offset`.
    pub(super) fn part(&self, offset: u64, size: u32) -> Vec<u8> {
        let mut made = self.made.lock();
        let Some(made) = &mut *made else {
            return Vec::new();
        };
        made.begun = true;
        let rest = made.text.get(offset as usize..).unwrap_or_default();
        rest[..rest.len().min(size as usize)].to_vec()
    }
}
