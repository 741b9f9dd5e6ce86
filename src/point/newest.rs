//! The newest record of each backup that this host has seen, and where: a store that hides it, or shows an older state
//! again, is noticed, and so are two live copies of one repository.
//!
//! A repository is its objects, so one that was moved, or mirrored, continues what was seen elsewhere and is taken as it
//! is. Two copies that are both written to give the same number to different records, and one of them falls behind the
//! other: either is seen as soon as one host looks at both, at two places or in turns at one. What was seen is replaced
//! only by a higher number, so whoever goes on using both is told again and again, and whoever gives one up no more.
//!
//! Kept beside the caches, in one small file; when it is lost, the host only begins to remember anew.

use super::catalog::Point;
use crate::id::ObjectId;
use crate::repository::{decode, encode};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ADVICE: &str = "write to one of them only, or make the other a repository of its own with `keepfs init` and `keepfs copy`";

/// A backup, the highest sequence number seen in it, the hashes of the records that had it, and the place.
type Seen = (ObjectId, u64, Vec<[u8; 32]>, String);

/// The newest that was seen of a backup.
#[derive(Clone, Default, PartialEq, Eq)]
struct Last {
    sequence: u64,
    /// Two hosts that commit at the same time give a number twice.
    hashes: Vec<[u8; 32]>,
    /// The store's location, without secrets.
    place: String,
}

/// What the store shows of a backup now.
#[derive(Default)]
struct Shown {
    sequence: u64,
    hashes: Vec<[u8; 32]>,
    /// Hashes of the records that have the highest number that was seen before.
    then: Vec<[u8; 32]>,
}

impl Shown {
    fn add(&mut self, point: &Point, last: Option<&Last>) {
        let sequence = point.record.sequence;
        if sequence > self.sequence {
            self.sequence = sequence;
            self.hashes.clear();
        }
        if sequence == self.sequence {
            self.hashes.push(point.hash);
        }
        if last.is_some_and(|last| last.sequence == sequence) {
            self.then.push(point.hash);
        }
    }

    /// The records that were seen are gone and others have their number. Where none has it, prune took them.
    fn forks_from(&self, last: &Last) -> bool {
        !self.then.is_empty() && !self.then.iter().any(|hash| last.hashes.contains(hash))
    }
}

/// What was seen, and where it is kept.
#[derive(Default)]
pub(super) struct Newest {
    path: PathBuf,
    here: String,
    seen: BTreeMap<ObjectId, Last>,
    /// Forks that were told: they stay true when the store's records are the newer ones.
    forks: BTreeMap<ObjectId, String>,
    logged: HashSet<String>,
}

fn read(path: &Path) -> BTreeMap<ObjectId, Last> {
    let seen = std::fs::read(path)
        .ok()
        .and_then(|bytes| decode::<Vec<Seen>>(&bytes).ok())
        .unwrap_or_default();
    let last = |(backup, sequence, hashes, place)| {
        let last = Last {
            sequence,
            hashes,
            place,
        };
        (backup, last)
    };
    seen.into_iter().map(last).collect()
}

impl Newest {
    /// What this host remembers of a repository whose store is at `here`; nothing when the file is missing or damaged.
    pub(super) fn load(path: PathBuf, here: String) -> Self {
        Self {
            seen: read(&path),
            path,
            here,
            ..Self::default()
        }
    }

    /// Compares what the store shows (every record there, forgotten or not) with what was seen, and remembers what is
    /// newer. Returns a sentence for each backup whose newest record is missing or another one.
    pub(super) fn compare<'a>(
        &mut self,
        shown: impl Iterator<Item = &'a Arc<Point>>,
        name_of: impl Fn(ObjectId) -> String,
    ) -> BTreeMap<ObjectId, String> {
        let mut now: BTreeMap<ObjectId, Shown> = BTreeMap::new();
        for point in shown {
            let backup = point.record.backup;
            let last = self.seen.get(&backup);
            now.entry(backup).or_default().add(point, last);
        }
        let none = Shown::default();
        let mut behind = BTreeMap::new();
        for (backup, last) in &self.seen {
            let shown = now.get(backup).unwrap_or(&none);
            if shown.sequence < last.sequence {
                let sentence = self.behind(&name_of(*backup), last, shown);
                behind.insert(*backup, sentence);
            } else if shown.forks_from(last) {
                let sentence = self.fork(&name_of(*backup), last);
                self.forks.insert(*backup, sentence);
            }
        }
        self.remember(now);
        let mut sentences = self.forks.clone();
        sentences.extend(behind);
        for sentence in sentences.values() {
            if self.logged.insert(sentence.clone()) {
                tracing::warn!("{sentence}");
            }
        }
        sentences
    }

    fn behind(&self, backup: &str, last: &Last, shown: &Shown) -> String {
        let (here, there) = (&self.here, &last.place);
        let (seen, newest) = (last.sequence, shown.sequence);
        match here == there {
            true => format!(
                "this host has seen record {seen} of backup {backup}, and the store now shows {newest} as the newest; somebody removed restore points or brought back an older state of the store"
            ),
            false => format!(
                "{here} looks like a second live copy of the repository at {there}, where this host has seen record {seen} of backup {backup}, while the newest here is {newest}; {ADVICE}"
            ),
        }
    }

    fn fork(&self, backup: &str, last: &Last) -> String {
        let (here, there) = (&self.here, &last.place);
        let seen = last.sequence;
        match here == there {
            true => format!(
                "{here} now shows another record {seen} of backup {backup} than this host has seen there: two live copies of the repository take turns at this place, or an older state of it was brought back and written to; {ADVICE}"
            ),
            false => format!(
                "{here} looks like a second live copy of the repository at {there}, where this host has seen another record {seen} of backup {backup} than the one here; {ADVICE}"
            ),
        }
    }

    fn remember(&mut self, now: BTreeMap<ObjectId, Shown>) {
        let mut changed = false;
        for (backup, mut shown) in now {
            shown.hashes.sort_unstable();
            let fork = self
                .seen
                .get(&backup)
                .is_some_and(|last| shown.forks_from(last));
            let last = self.seen.entry(backup).or_default();
            let continues = shown.sequence == last.sequence && !fork;
            let next = Last {
                sequence: shown.sequence,
                hashes: shown.hashes,
                place: self.here.clone(),
            };
            if (continues || next.sequence > last.sequence) && *last != next {
                *last = next;
                changed = true;
            }
        }
        if changed {
            self.save();
        }
    }

    /// Failing to remember harms nothing now: the next look tries again.
    fn save(&self) {
        // Another process may have seen more of other backups meanwhile.
        let mut all = read(&self.path);
        for (backup, last) in &self.seen {
            let kept = all.entry(*backup).or_default();
            if kept.sequence <= last.sequence {
                *kept = last.clone();
            }
        }
        let seen: Vec<Seen> = all
            .into_iter()
            .map(|(backup, last)| (backup, last.sequence, last.hashes, last.place))
            .collect();
        let temporary = self.path.with_extension(ObjectId::random().to_string());
        let saved = std::fs::write(&temporary, encode(&seen))
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = saved {
            tracing::warn!("what was seen of the repository is not remembered: {error}");
        }
    }
}
