//! Merging records into catalogues, so that a new host reads a few objects instead of all.

use super::State;
use crate::id::ObjectId;
use crate::point::record::{Catalogue, CatalogueEntry};
use crate::repository::encode;
use std::collections::HashSet;

/// Records outside any catalogue from which a writer merges them into one.
pub(super) const LOOSE_RECORDS_MAX: usize = 64;
/// Bytes of records from which a catalogue is full: it is not merged again, and later records go into others. Far below
/// what a document may have when it is read.
const CATALOGUE_BYTES: usize = 8 << 20;
/// What a catalogue holds.
#[derive(Default)]
pub(super) struct Held {
    /// Points whose records it has.
    pub keys: Vec<(ObjectId, u64)>,
    /// Points that it says are gone.
    pub graves: Vec<(ObjectId, u64)>,
    /// Bytes of its records.
    pub bytes: usize,
}

/// Catalogues of the records, and of the graves, that no full one holds, when at least `least` lie in none. The last
/// replaces those that are not full: until it is there, nothing is skipped that it stands for.
pub(super) fn merged(state: &State, least: usize) -> Vec<Catalogue> {
    let all = Kept::of(state.catalogues.values());
    let loose = state.records.keys().filter(|key| !all.has_record(key));
    let loose_graves = state.graves.keys().filter(|key| !all.graves.contains(key));
    if loose.count() + loose_graves.count() < least {
        return Vec::new();
    }
    let (full, others): (Vec<_>, Vec<_>) = state
        .catalogues
        .iter()
        .partition(|(_, held)| held.bytes >= CATALOGUE_BYTES);
    let kept = Kept::of(full.into_iter().map(|(_, held)| held));
    let records = state
        .records
        .iter()
        .filter(|(key, _)| !kept.has_record(key) && !state.graves.contains_key(key))
        .map(|(key, point)| (key, encode(&point.record)));
    let graves = state
        .graves
        .iter()
        .filter(|(key, _)| !kept.graves.contains(key))
        .map(|(key, grave)| (key, grave.encode()));
    let mut catalogues = vec![Vec::new()];
    let mut bytes = 0;
    for (key, record) in records.chain(graves) {
        if bytes >= CATALOGUE_BYTES {
            catalogues.push(Vec::new());
            bytes = 0;
        }
        bytes += record.len();
        let entry = CatalogueEntry {
            id: key.0,
            generation: key.1,
            record,
        };
        catalogues
            .last_mut()
            .expect("it begins with one")
            .push(entry);
    }
    let mut catalogues: Vec<_> = catalogues
        .into_iter()
        .map(|points| Catalogue {
            replaces: Vec::new(),
            points,
        })
        .collect();
    let replaces = others.iter().map(|(id, _)| **id);
    catalogues
        .last_mut()
        .expect("it begins with one")
        .replaces
        .extend(replaces.chain(state.replaced.iter().copied()));
    catalogues
}

/// What some catalogues hold.
struct Kept {
    records: HashSet<(ObjectId, u64)>,
    graves: HashSet<(ObjectId, u64)>,
}

impl Kept {
    fn of<'a>(catalogues: impl Iterator<Item = &'a Held>) -> Self {
        let mut kept = Self {
            records: HashSet::new(),
            graves: HashSet::new(),
        };
        for held in catalogues {
            kept.records.extend(&held.keys);
            kept.graves.extend(&held.graves);
        }
        kept
    }

    /// Whether a record need not be written: it is there, or its point is gone.
    fn has_record(&self, key: &(ObjectId, u64)) -> bool {
        self.records.contains(key) || self.graves.contains(key)
    }
}
