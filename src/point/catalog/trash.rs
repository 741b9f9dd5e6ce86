//! What was forgotten: brought back, or removed for good.
//!
//! A point in the trash is removed in an order that leaves no half of it behind. First a catalogue says that it is gone
//! (a grave); from then on nobody shows it, and its name's next use takes a higher generation. Then its record goes, and
//! then what the trash said of it. The newest record of a backup stays, and with it its record in the trash: the chain
//! of the next point goes on from it, and hosts that have seen it would miss it.

use super::merge::merged;
use super::{Catalog, Point, State};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::record::Grave;
use crate::store::names::{self, Name};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A point in the trash.
#[derive(Clone, Debug)]
pub struct Forgotten {
    /// The point.
    pub point: Arc<Point>,
    /// When the store was told, by its own clock.
    pub at: Time,
}

/// Points that are listed, hidden by the trash, and not gone.
pub(super) fn forgotten(state: &State, listed: &[Name]) -> Vec<Forgotten> {
    let forgotten = listed.iter().filter_map(|name| {
        let Name::Point(id, generation) = name else {
            return None;
        };
        let key = (*id, *generation);
        let hidden = state.hides(&key) && !state.graves.contains_key(&key);
        Some(Forgotten {
            point: state.records.get(&key).filter(|_| hidden)?.clone(),
            at: *state.trash_times.get(&key)?,
        })
    });
    forgotten.collect()
}

impl Catalog {
    /// Takes a point out of the trash: it is visible again. Succeeds when it is not there. `NotFound` when it has been
    /// there for longer than the repository's `trash-days`: prune may be removing it.
    pub fn undelete(&self, point: &Point) -> Result<()> {
        self.refresh()?;
        let key = (point.id, point.generation);
        let forgotten = {
            let state = self.state.lock();
            if state.graves.contains_key(&key) {
                return Err(too_late(point));
            }
            state.trash_times.get(&key).copied()
        };
        self.put_in_trash(point, false)?;
        let (Some(forgotten), Some((n, false))) =
            (forgotten, self.state.lock().trash.get(&key).copied())
        else {
            return Ok(());
        };
        // By the store's own times: prune removes by them, too, and sees what was there before the point's days were over.
        let name = Name::Trash(point.id, point.generation, n).to_string();
        let now = self.repository.store().head(&name)?.modified;
        let lasts = self.repository.settings().trash_seconds();
        if now.seconds.saturating_sub(forgotten.seconds) < lasts {
            return Ok(());
        }
        self.put_in_trash(point, true)?;
        Err(too_late(point))
    }

    /// Every point whose record the store has and that is not gone, forgotten or not: what all of them need must stay.
    pub fn kept(&self) -> Vec<Arc<Point>> {
        let state = self.state.lock();
        let kept = state.listed.iter().filter_map(|name| {
            let Name::Point(id, generation) = name else {
                return None;
            };
            let key = (*id, *generation);
            state
                .records
                .get(&key)
                .filter(|_| !state.graves.contains_key(&key))
                .cloned()
        });
        kept.collect()
    }

    /// Says that these points are gone for good. They must be in the trash.
    pub fn bury(&self, points: &[(ObjectId, u64)]) -> Result<()> {
        let mut state = self.state.lock();
        let new = points.iter().filter_map(|key| {
            let point = state.records.get(key)?;
            let grave = Grave {
                backup: point.record.backup,
                sequence: point.record.sequence,
                hash: point.hash,
            };
            (!state.graves.contains_key(key)).then_some((*key, grave))
        });
        let new: Vec<_> = new.collect();
        if new.is_empty() {
            return Ok(());
        }
        state.graves.extend(new.iter().copied());
        let write = || {
            merged(&state, 0).iter().try_for_each(|catalogue| {
                let name = Name::Catalogue(ObjectId::random());
                self.repository.create_document(name, catalogue)
            })
        };
        let written = write();
        if written.is_err() {
            for (key, _) in new {
                state.graves.remove(&key);
            }
        }
        written
    }

    /// Removes the records of points that are gone, and what the trash says of them. Returns how many points that were.
    pub fn remove_buried(&self) -> Result<u64> {
        self.refresh()?;
        let (buried, newest) = {
            let state = self.state.lock();
            (state.graves.clone(), newest_records(&state))
        };
        let store = self.repository.store();
        let gone = |id, generation| {
            let key = (id, generation);
            buried.contains_key(&key) && !newest.contains(&key)
        };
        let mut removed = 0;
        for object in store.list(names::POINTS)? {
            if let Some(Name::Point(id, generation)) = Name::parse(&object.name)
                && gone(id, generation)
            {
                store.delete(&object.name)?;
                removed += 1;
            }
        }
        for object in store.list(names::TRASH)? {
            if let Some(Name::Trash(id, generation, _)) = Name::parse(&object.name)
                && gone(id, generation)
            {
                store.delete(&object.name)?;
            }
        }
        self.refresh()?;
        Ok(removed)
    }

    /// Deletes catalogues that others replace, if those were there before `time`: nobody who listed the store earlier
    /// looks for the old ones any more. Returns how many that were.
    pub fn remove_replaced_catalogues(&self, time: Time) -> Result<u64> {
        self.refresh()?;
        let replaced = self.state.lock().replaced.clone();
        let store = self.repository.store();
        let (mut old, mut settled) = (Vec::new(), true);
        for object in store.list(names::CATALOGUE)? {
            match Name::parse(&object.name) {
                Some(Name::Catalogue(id)) if replaced.contains(&id) => old.push(object.name),
                Some(_) => settled &= object.modified <= time,
                None => {}
            }
        }
        if !settled {
            return Ok(0);
        }
        old.iter().try_for_each(|name| store.delete(name))?;
        Ok(old.len() as u64)
    }
}

/// Of each backup the record with the highest sequence number that the store has.
fn newest_records(state: &State) -> HashSet<(ObjectId, u64)> {
    let mut newest: HashMap<ObjectId, (u64, Vec<(ObjectId, u64)>)> = HashMap::new();
    for name in &state.listed {
        let Name::Point(id, generation) = name else {
            continue;
        };
        let key = (*id, *generation);
        let Some(point) = state.records.get(&key) else {
            continue;
        };
        let (sequence, keys) = newest.entry(point.record.backup).or_default();
        if point.record.sequence > *sequence {
            *sequence = point.record.sequence;
            keys.clear();
        }
        if point.record.sequence == *sequence {
            keys.push(key);
        }
    }
    newest.into_values().flat_map(|(_, keys)| keys).collect()
}

fn too_late(point: &Point) -> Error {
    let message = format!(
        "{} was forgotten too long ago: its data is being removed",
        String::from_utf8_lossy(point.name())
    );
    Error::new(Kind::NotFound, message)
}
