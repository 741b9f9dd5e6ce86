//! The newest record of each backup that this host has seen: a store that hides it, or shows an older state again, is
//! noticed.
//!
//! Kept beside the caches, in one small file; when it is lost, the host only begins to remember anew.

use super::catalog::Point;
use crate::id::ObjectId;
use crate::repository::{decode, encode};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A backup, the sequence number of its newest record, and that record's hash.
type Seen = (ObjectId, u64, [u8; 32]);

/// What was seen, and where it is kept.
#[derive(Default)]
pub(super) struct Newest {
    path: PathBuf,
    seen: BTreeMap<ObjectId, (u64, [u8; 32])>,
}

impl Newest {
    /// What this host remembers; nothing when the file is missing or damaged.
    pub(super) fn load(path: PathBuf) -> Self {
        let seen = std::fs::read(&path)
            .ok()
            .and_then(|bytes| decode::<Vec<Seen>>(&bytes).ok())
            .unwrap_or_default();
        Self {
            path,
            seen: seen
                .into_iter()
                .map(|(backup, sequence, hash)| (backup, (sequence, hash)))
                .collect(),
        }
    }

    /// Compares what the store shows (every record there, forgotten or not) with what was seen, and remembers what is
    /// newer. Returns a sentence for each backup whose newest record is missing or another one.
    pub(super) fn compare<'a>(
        &mut self,
        shown: impl Iterator<Item = &'a Arc<Point>>,
    ) -> Vec<(ObjectId, String)> {
        let mut newest: BTreeMap<ObjectId, (u64, [u8; 32])> = BTreeMap::new();
        for point in shown {
            let place = newest.entry(point.record.backup).or_default();
            *place = (*place).max((point.record.sequence, point.hash));
        }
        let mut sentences = Vec::new();
        for (backup, seen) in &self.seen {
            let shown = newest.get(backup).copied().unwrap_or_default();
            if shown.0 < seen.0 {
                let why = format!(
                    "this host has seen record {} of backup {backup}, and the store now shows {} as the newest; somebody removed restore points or brought back an older state of the store",
                    seen.0, shown.0
                );
                sentences.push((*backup, why));
            }
        }
        let before = self.seen.clone();
        for (backup, shown) in newest {
            let seen = self.seen.entry(backup).or_default();
            *seen = (*seen).max(shown);
        }
        if self.seen != before {
            self.save();
        }
        sentences
    }

    /// Failing to remember harms nothing now: the next look tries again.
    fn save(&self) {
        let seen: Vec<Seen> = self
            .seen
            .iter()
            .map(|(backup, (sequence, hash))| (*backup, *sequence, *hash))
            .collect();
        let temporary = self.path.with_extension(ObjectId::random().to_string());
        let saved = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&encode(&seen)))
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = saved {
            tracing::warn!("what was seen of the repository is not remembered: {error}");
        }
    }
}
