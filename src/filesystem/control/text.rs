//! The text of an open control file: the same for whoever reads on, a new one for whoever begins again.

use super::ControlPlace;
use crate::clock::Time;
use parking_lot::Mutex;
use std::sync::Arc;

/// Who is still there at the end of a text after so many seconds waits for more.
const FOLLOWED_AFTER_SECONDS: i64 = 1;

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

impl ControlText {
    /// Nothing was made yet.
    pub(super) fn new(place: Arc<ControlPlace>) -> Self {
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
        let waited = now.seconds.saturating_sub(made.at.seconds) > FOLLOWED_AFTER_SECONDS;
        offset == 0 && made.begun || end && waited
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
