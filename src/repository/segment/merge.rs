//! The merger of several segments, written as it goes: only the lists of packs are held.

use super::Segment;
use super::body::{ChunkEntry, Counts, FRAME_BYTES, PackEntry};
use super::cache::CacheFile;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::store::names::PackKind;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

/// What a merger says otherwise than the segments that it replaces.
#[derive(Default)]
pub(crate) struct Changed {
    /// Packs whose chunks were all hashed here since.
    pub hashed: HashSet<ObjectId>,
    /// Packs that are listed no more.
    pub dropped: HashSet<ObjectId>,
}

/// A pack of the merger, and where its frames stand now.
struct Kept<'a> {
    segment: &'a Segment,
    listed: PackEntry,
    merged: PackEntry,
}

/// What the merger lists.
struct Packs<'a> {
    kept: Vec<Kept<'a>>,
    /// For each segment and each of its packs the pack's place in the merger; none where another segment lists it too, or
    /// where it is dropped.
    places: Vec<Vec<Option<u32>>>,
    frames: u32,
}

/// Writes the merger of several segments, which replaces them (and what they replaced), into a cache file. A pack that
/// several of them list is listed once, as hashed if one of them says so.
pub(crate) fn merge(
    segments: &[Arc<Segment>],
    changed: &Changed,
    output: &mut CacheFile,
) -> Result<()> {
    let replaced = all_replaced(segments)?;
    let packs = packs_of(segments, changed)?;
    let counts = Counts {
        packs: packs.kept.len() as u32,
        replaced: replaced.len() as u32,
        frames: packs.frames.into(),
        chunks: count_chunks(segments, &packs.places)?,
    };
    output.write(&counts.encode())?;
    for id in &replaced {
        output.write(&id.0)?;
    }
    for pack in &packs.kept {
        output.write(&pack.merged.encode())?;
    }
    for pack in &packs.kept {
        output.write(frames_of(pack)?)?;
    }
    write_chunks(segments, &packs.places, output)
}

fn all_replaced(segments: &[Arc<Segment>]) -> Result<Vec<ObjectId>> {
    let mut replaced: Vec<ObjectId> = segments.iter().map(|segment| segment.id).collect();
    for segment in segments {
        replaced.extend(segment.replaced()?);
    }
    replaced.sort_unstable();
    replaced.dedup();
    Ok(replaced)
}

fn packs_of<'a>(segments: &'a [Arc<Segment>], changed: &Changed) -> Result<Packs<'a>> {
    let mut packs = Packs {
        kept: Vec::new(),
        places: Vec::new(),
        frames: 0,
    };
    let mut known: HashMap<(PackKind, ObjectId), u32> = HashMap::new();
    for segment in segments {
        let mut places = Vec::with_capacity(segment.counts.packs as usize);
        for number in 0..segment.counts.packs {
            let mut listed = segment.pack(number)?;
            if changed.dropped.contains(&listed.id) {
                places.push(None);
                continue;
            }
            if changed.hashed.contains(&listed.id) {
                listed.origin = ObjectId::default();
            }
            let key = (listed.kind, listed.id);
            let other = known
                .get(&key)
                .map(|place| &mut packs.kept[*place as usize].merged);
            places.push(match other {
                Some(other) if other.same_pack(&listed) => {
                    if listed.hashed() {
                        other.origin = listed.origin;
                    }
                    None
                }
                // Two that contradict each other stay two: check tells.
                _ => {
                    let place = packs.kept.len() as u32;
                    known.entry(key).or_insert(place);
                    packs.keep(segment, listed)?;
                    Some(place)
                }
            });
        }
        packs.places.push(places);
    }
    Ok(packs)
}

impl<'a> Packs<'a> {
    fn keep(&mut self, segment: &'a Segment, listed: PackEntry) -> Result<()> {
        let merged = PackEntry {
            first_frame: self.frames,
            ..listed
        };
        self.frames = self.frames.checked_add(listed.frames).ok_or_else(|| {
            Error::new(Kind::Damaged, "index segments list more frames than can be")
        })?;
        self.kept.push(Kept {
            segment,
            listed,
            merged,
        });
        Ok(())
    }
}

fn frames_of<'a>(pack: &Kept<'a>) -> Result<&'a [u8]> {
    let begin = pack.segment.counts.frames_at() + pack.listed.first_frame as usize * FRAME_BYTES;
    let end = begin + pack.listed.frames as usize * FRAME_BYTES;
    pack.segment.verified_bytes(begin..end)
}

fn count_chunks(segments: &[Arc<Segment>], places: &[Vec<Option<u32>>]) -> Result<u64> {
    let mut count = 0;
    for (segment, places) in segments.iter().zip(places) {
        if places.iter().all(Option::is_some) {
            count += segment.counts.chunks;
            continue;
        }
        let mut number = 0;
        while let Some((_, next)) = next_chunk(segment, places, number)? {
            number = next;
            count += 1;
        }
    }
    Ok(count)
}

/// The first chunk from `number` on that the merger takes from this segment, with its pack's new place, and the number
/// behind it.
fn next_chunk(
    segment: &Segment,
    places: &[Option<u32>],
    mut number: u64,
) -> Result<Option<(ChunkEntry, u64)>> {
    while number < segment.counts.chunks {
        let chunk = segment.chunk(number)?;
        number += 1;
        let place = places.get(chunk.pack as usize).ok_or_else(|| {
            let message = format!(
                "index segment {} names a pack that it does not list",
                segment.id
            );
            Error::new(Kind::Damaged, message)
        })?;
        if let Some(pack) = *place {
            return Ok(Some((ChunkEntry { pack, ..chunk }, number)));
        }
    }
    Ok(None)
}

fn write_chunks(
    segments: &[Arc<Segment>],
    places: &[Vec<Option<u32>>],
    output: &mut CacheFile,
) -> Result<()> {
    let mut heap = BinaryHeap::new();
    let entry = |place: usize, number: u64| -> Result<_> {
        let next = next_chunk(&segments[place], &places[place], number)?;
        Ok(next.map(|(chunk, next)| {
            let key = (chunk.id, chunk.pack, chunk.offset, chunk.length);
            Reverse((key, place, next))
        }))
    };
    for place in 0..segments.len() {
        heap.extend(entry(place, 0)?);
    }
    while let Some(Reverse(((id, pack, offset, length), place, next))) = heap.pop() {
        let chunk = ChunkEntry {
            id,
            pack,
            offset,
            length,
        };
        output.write(&chunk.encode())?;
        heap.extend(entry(place, next)?);
    }
    Ok(())
}
