//! Which packs prune is about to delete, or has just deleted: `condemned/<n>`, of which the highest holds.
//!
//! ```text
//!  nothing ──► listed ──► decided ──► done ──► listed ──► …
//!              (may be      (is carried  (names what
//!              decided       out)         is gone; nothing,
//!              when its                   when the list was
//!              time comes)                withdrawn)
//! ```
//! Each step is the creation of the next number, if absent: of several prunes exactly one takes it. There is at most one
//! list at a time. `prune` says what each state promises and why that is enough; here is only what writers ask.

use super::Repository;
use crate::clock::Time;
use crate::error::{Kind, Result};
use crate::id::ObjectId;
use crate::store::names::{self, Name};
use bincode::{Decode, Encode};
use std::collections::HashSet;
use std::sync::Arc;

/// `condemned/<n>`: packs that prune will delete; the highest `n` holds. A point that refers to a pack of a list that
/// is decided or done must not be committed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Condemned {
    /// From when on, by the store's clock, the list may be decided; 1970 in one that is decided or done.
    pub time: Time,
    /// Packs that go, or, when it is done, that are gone.
    pub packs: Vec<ObjectId>,
    /// Index segments that go; none are named so far, as a segment says itself which others it replaces.
    pub segments: Vec<ObjectId>,
    /// Whether the list was carried out or withdrawn.
    pub done: bool,
}

/// How far prune has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No list was ever made.
    Never,
    /// A list was made, and may be decided from this time of the store on. Whatever is committed before is safe.
    Listed(Time),
    /// A list is being carried out.
    Decided,
    /// The last list was carried out.
    Done,
}

/// What the newest record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemnation {
    /// Its number; none when there is none.
    pub number: Option<u64>,
    /// The number that the next record takes: above all that are there, readable or not.
    pub next: u64,
    /// How far prune has come.
    pub stage: Stage,
    /// The packs it names.
    pub packs: HashSet<ObjectId>,
}

impl Default for Condemnation {
    fn default() -> Self {
        Self {
            number: None,
            next: 0,
            stage: Stage::Never,
            packs: HashSet::new(),
        }
    }
}

impl Condemnation {
    /// Packs that go now, or are gone.
    pub fn going(&self) -> HashSet<ObjectId> {
        match self.stage {
            Stage::Decided | Stage::Done => self.packs.clone(),
            Stage::Never | Stage::Listed(_) => HashSet::new(),
        }
    }

    /// Whether no pack is named that could still go.
    pub fn is_calm(&self) -> bool {
        matches!(self.stage, Stage::Never | Stage::Done)
    }

    /// Whether a writer that began when this one held may commit while `now` holds, as nothing was decided meanwhile:
    /// either nothing has happened, or a first list was made, before whose time the commit must come.
    pub fn lasts_until(&self, now: &Self) -> bool {
        let same = self.number == now.number && now.stage != Stage::Decided;
        let follows = now.number == Some(self.next)
            && matches!(now.stage, Stage::Listed(_))
            && self.is_calm();
        same || follows
    }
}

impl Repository {
    /// What the newest record says, asked of the store.
    pub fn condemned(&self) -> Result<Arc<Condemnation>> {
        let listed = self.access.store.list(names::CONDEMNED)?;
        let mut numbers: Vec<u64> = listed
            .iter()
            .filter_map(|object| match Name::parse(&object.name) {
                Some(Name::Condemned(n)) => Some(n),
                _ => None,
            })
            .collect();
        numbers.sort_unstable();
        let next = numbers
            .last()
            .map_or(0, |highest| highest.saturating_add(1));
        let mut now = Condemnation {
            next,
            ..Condemnation::default()
        };
        while let Some(number) = numbers.pop() {
            let known = self.known_condemned();
            if known.number == Some(number) {
                now = Condemnation {
                    next,
                    ..(*known).clone()
                };
                break;
            }
            match self.document::<Condemned>(Name::Condemned(number)) {
                Ok(list) => {
                    now = told(number, next, list);
                    break;
                }
                // Anybody who can write to the store can give an object the highest number.
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::Damaged | Kind::WrongKey | Kind::NotFound
                    ) =>
                {
                    tracing::warn!("{error}");
                }
                Err(error) => return Err(error),
            }
        }
        let now = Arc::new(now);
        *self.condemned.lock() = now.clone();
        Ok(now)
    }

    /// What the newest record said when it was asked for last.
    pub fn known_condemned(&self) -> Arc<Condemnation> {
        self.condemned.lock().clone()
    }

    /// What the newest record said when the oldest of this process's writers began; none when there is no writer.
    pub(crate) fn since_oldest_writer(&self) -> Option<Arc<Condemnation>> {
        let writers = self.writers.lock();
        writers.values().next().cloned()
    }

    /// A writer begins, and is told what it must not take for stored. Whatever it finds in the index afterwards and is
    /// not told of was there when the record was read.
    pub(crate) fn begin_writer(&self) -> Result<(u64, Arc<Condemnation>)> {
        let condemned = self.condemned()?;
        if condemned.number.is_some() {
            // An index that was loaded long ago may list packs of lists that are done with.
            self.refresh_index()?;
        }
        let mut writers = self.writers.lock();
        let number = writers.keys().next_back().map_or(0, |last| last + 1);
        writers.insert(number, condemned.clone());
        Ok((number, condemned))
    }

    /// Takes back a list that is not decided yet, as a point shares its packs: whoever wants to decide it then, fails. If
    /// it was decided a moment ago, nothing happens.
    pub fn withdraw(&self, listed: &Condemnation) -> Result<()> {
        let nothing = Condemned {
            time: Time::default(),
            packs: Vec::new(),
            segments: Vec::new(),
            done: true,
        };
        match self.create_document(Name::Condemned(listed.next), &nothing) {
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    pub(crate) fn end_writer(&self, number: u64) {
        self.writers.lock().remove(&number);
    }
}

fn told(number: u64, next: u64, list: Condemned) -> Condemnation {
    Condemnation {
        number: Some(number),
        next,
        stage: match list {
            Condemned { done: true, .. } => Stage::Done,
            Condemned { time, .. } if time == Time::default() => Stage::Decided,
            Condemned { time, .. } => Stage::Listed(time),
        },
        packs: list.packs.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: Option<u64>, stage: Stage) -> Condemnation {
        Condemnation {
            number,
            next: number.map_or(0, |number| number + 1),
            stage,
            packs: HashSet::new(),
        }
    }

    #[test]
    fn only_the_making_of_a_list_changes_nothing_for_a_writer() {
        let never = record(None, Stage::Never);
        let listed = |number| record(Some(number), Stage::Listed(Time::new(1, 0)));
        let decided = |number| record(Some(number), Stage::Decided);
        let done = |number| record(Some(number), Stage::Done);
        for (began, now, expected) in [
            (never.clone(), never.clone(), true),
            (never.clone(), listed(0), true),
            (never.clone(), decided(1), false),
            (never.clone(), done(2), false),
            (never, listed(3), false),
            (listed(0), listed(0), true),
            (listed(0), decided(1), false),
            (listed(0), done(1), false),
            (listed(0), listed(1), false),
            (decided(1), decided(1), false),
            (decided(1), done(2), false),
            (done(2), done(2), true),
            (done(2), listed(3), true),
            (done(2), listed(4), false),
        ] {
            assert_eq!(began.lasts_until(&now), expected, "{began:?}, {now:?}");
        }
    }
}
