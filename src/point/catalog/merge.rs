//! Merging records into catalogues, so that a new host reads a few objects instead of all.

use super::State;
use crate::id::ObjectId;
use crate::point::record::{Catalogue, CatalogueEntry};
use crate::repository::encode;
use std::collections::HashSet;

/// Records outside any catalogue from which a writer merges them into one.
const LOOSE_RECORDS_MAX: usize = 64;
/// Bytes of records from which a catalogue is full: it is not merged again, and later records go into others. Far below
/// what a document may have when it is read.
const CATALOGUE_BYTES: usize = 8 << 20;
/// What a catalogue holds.
#[derive(Default)]
pub(super) struct Held {
    /// Points whose records it has.
    pub keys: Vec<(ObjectId, u64)>,
    /// Bytes of its records.
    pub bytes: usize,
}

/// Catalogues of the records that no full one holds, when many lie in none. The last replaces those that are not full:
/// until it is there, nothing is skipped that it stands for.
pub(super) fn merged(state: &State) -> Vec<Catalogue> {
    let all: HashSet<_> = state
        .catalogues
        .values()
        .flat_map(|held| &held.keys)
        .collect();
    let loose = state.records.keys().filter(|key| !all.contains(key));
    if loose.count() < LOOSE_RECORDS_MAX {
        return Vec::new();
    }
    let (full, others): (Vec<_>, Vec<_>) = state
        .catalogues
        .iter()
        .partition(|(_, held)| held.bytes >= CATALOGUE_BYTES);
    let kept: HashSet<_> = full.iter().flat_map(|(_, held)| &held.keys).collect();
    let mut catalogues = vec![Vec::new()];
    let mut bytes = 0;
    for (key, point) in &state.records {
        if kept.contains(key) {
            continue;
        }
        if bytes >= CATALOGUE_BYTES {
            catalogues.push(Vec::new());
            bytes = 0;
        }
        let record = encode(&point.record);
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
