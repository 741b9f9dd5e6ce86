//! The index made anew from packs alone.

use super::{Cache, examined};
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::progress::Progress;
use crate::repository::{
    PACK_HEADER_BYTES, PackFacts, PackReader, Repository, Stage, TRAILER_BYTES, Trailer,
};
use crate::store::names::{self, Name, PackKind};
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;

/// A segment is published after so many chunks: 44 bytes each while it is made.
const SEGMENT_CHUNKS: usize = 500_000;

/// What a rebuilding of the index did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rebuilt {
    /// Packs that were in no segment that can be read, and are now.
    pub packs: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Packs that cannot be listed, with the reason.
    pub problems: Vec<(String, String)>,
}

/// Lists every pack that no readable index segment lists in new segments: from the packs' own directories. Segments
/// that cannot be read are replaced, unless a pack cannot be read either: then they may still be of use to somebody.
pub fn rebuild_index(repository: &Arc<Repository>, progress: &Progress) -> Result<Rebuilt> {
    repository.require_writable()?;
    let cache = Cache::of(repository);
    let afresh = repository.afresh(&cache.0)?;
    let mut listed = listed_packs(&afresh)?;
    // What is being deleted just now is not listed again.
    let condemned = afresh.condemned()?;
    if condemned.stage == Stage::Decided {
        listed.extend(&condemned.packs);
    }
    let mut rebuilt = Rebuilt::default();
    let mut facts: Vec<(PackKind, PackFacts)> = Vec::new();
    let packs = repository.store().list(names::PACKS)?;
    progress.expect(packs.len() as u64, 0);
    for object in packs {
        progress.go_on()?;
        progress.done(1, 0);
        let Some(Name::Pack(kind, id)) = Name::parse(&object.name) else {
            continue;
        };
        if listed.contains(&id) {
            continue;
        }
        match examined(read_directory(repository, kind, id, object.size))? {
            Ok(pack) => {
                rebuilt.packs += 1;
                rebuilt.chunks += pack.chunks.len() as u64;
                facts.push((kind, pack));
            }
            Err(error) => rebuilt.problems.push((object.name, error.to_string())),
        }
        let chunks: usize = facts.iter().map(|(_, pack)| pack.chunks.len()).sum();
        if chunks >= SEGMENT_CHUNKS {
            repository.publish_packs(&std::mem::take(&mut facts), &[])?;
        }
    }
    let replaced = match rebuilt.problems.is_empty() {
        true => afresh
            .index_problems()
            .into_iter()
            .map(|(id, _)| id)
            .collect(),
        false => Vec::new(),
    };
    if !facts.is_empty() || !replaced.is_empty() {
        repository.publish_packs(&facts, &replaced)?;
    }
    repository.refresh_index()?;
    Ok(rebuilt)
}

fn listed_packs(repository: &Repository) -> Result<HashSet<ObjectId>> {
    let mut listed = HashSet::new();
    for segment in repository.segments().iter() {
        for number in 0..segment.pack_count() {
            listed.insert(segment.pack(number)?.id);
        }
    }
    Ok(listed)
}

fn read_directory(
    repository: &Repository,
    kind: PackKind,
    id: ObjectId,
    object_bytes: u64,
) -> Result<PackFacts> {
    let name = Name::Pack(kind, id).to_string();
    let store = repository.store();
    if object_bytes < (PACK_HEADER_BYTES + TRAILER_BYTES) as u64
        || object_bytes > u64::from(u32::MAX)
    {
        return Err(Error::new(
            crate::error::Kind::Damaged,
            "it has not the length of a pack",
        ));
    }
    let head = store.get_range(&name, 0..PACK_HEADER_BYTES as u64)?;
    let reader = PackReader::new(repository.ring(), kind, id, &head)?;
    let end = store.get_range(&name, object_bytes - TRAILER_BYTES as u64..object_bytes)?;
    let trailer = Trailer::decode(&end, object_bytes)?;
    let directory = store.get_range(&name, trailer.directory_range())?;
    reader.directory(&trailer, directory.into())
}
