//! The index against itself and against a listing of the packs.

use super::{Context, Object, Report, examined};
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::repository::{FrameSpan, PackEntry, Segment};
use crate::store::names::{self, Name};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Chunks whose places are held at a time, 12 bytes each; a segment with more is gone through several times.
const BATCH_CHUNKS: u64 = 2 << 20;

/// A pack as the index describes it.
pub(super) struct Listed {
    pub(super) entry: PackEntry,
    pub(super) frames: Vec<FrameSpan>,
    /// In the order of the stream.
    pub(super) chunks: Vec<(ChunkId, u32)>,
}

impl Listed {
    pub(super) fn name(&self) -> Name {
        Name::Pack(self.entry.kind, self.entry.id)
    }

    /// The chunks that have a part in the stream from `begin` to `end`.
    pub(super) fn chunks_within(&self, begin: u32, end: u32) -> impl Iterator<Item = ChunkId> + '_ {
        let mut at = 0u32;
        self.chunks.iter().filter_map(move |(id, length)| {
            let first = at;
            at += length;
            (first < end && at > begin).then_some(*id)
        })
    }
}

pub(super) fn check(context: &Context, report: &mut Report) -> Result<()> {
    for (id, reason) in context.repository.index_problems() {
        context
            .findings
            .problem(Object::Index, Name::Index(id), reason);
    }
    let mut stored = HashMap::new();
    for object in context.repository.store().list(names::PACKS)? {
        if let Some(Name::Pack(kind, id)) = Name::parse(&object.name) {
            stored.insert((kind, id), object.size);
        }
    }
    let condemned = context.repository.condemned()?;
    let mut seen = HashSet::new();
    let (mut hashed, mut unhashed) = (HashSet::new(), HashSet::new());
    report.segments = context.repository.segments().len() as u64;
    each_pack(context, &mut |_| true, &mut |pack| {
        let listed = match pack {
            Ok(listed) => listed,
            Err((name, error)) => {
                context.findings.problem(Object::Index, name, error);
                return Ok(());
            }
        };
        report.chunks += listed.chunks.len() as u64;
        match listed.entry.hashed() {
            true => hashed.insert(listed.entry.id),
            false => unhashed.insert(listed.entry.id),
        };
        if seen.insert((listed.entry.kind, listed.entry.id)) {
            report.packs += 1;
            report.pack_bytes += u64::from(listed.entry.object_bytes);
            let stored = stored.get(&(listed.entry.kind, listed.entry.id));
            match stored {
                // Prune has deleted it and an index that was merged meanwhile lists it again. Nobody may need it.
                None if condemned.packs.contains(&listed.entry.id) => {
                    context.repository.take_for_gone(listed.entry.id);
                }
                stored => compare(context, &listed, stored),
            }
        }
        Ok(())
    })?;
    unhashed.retain(|id| !hashed.contains(id));
    report.packs_unhashed = unhashed.len() as u64;
    *context.unhashed.lock() = unhashed;
    for (pack, bytes) in stored {
        if condemned.packs.contains(&pack.1) {
            report.condemned_packs += 1;
            report.condemned_bytes += bytes;
        } else if !seen.contains(&pack) {
            report.unreferenced_packs += 1;
            report.unreferenced_bytes += bytes;
        }
    }
    Ok(())
}

fn compare(context: &Context, listed: &Listed, stored: Option<&u64>) {
    let expected = u64::from(listed.entry.object_bytes);
    let problem = |sentence: String| {
        context
            .findings
            .problem(Object::Pack, listed.name(), sentence)
    };
    match stored {
        None => {
            let number = problem("it is missing from the store".to_owned());
            context.findings.pack_is_lost(listed.entry.id, number);
        }
        Some(bytes) if *bytes != expected => {
            let number = problem(format!(
                "it has {bytes} bytes in the store and {expected} in the index"
            ));
            let begin = listed
                .frames
                .iter()
                .find(|frame| u64::from(frame.object_end) > *bytes);
            if let Some(begin) = begin {
                let lost = listed.chunks_within(begin.stream_begin, u32::MAX);
                context
                    .findings
                    .chunks_are_lost(listed.entry.id, lost, number);
            }
        }
        Some(_) => {}
    }
}

/// What is wrong with the index, and in which object.
pub(super) type Wrong = (Name, Error);

/// Goes through the packs of all live segments, as far as `chosen` wants them. What a segment says that cannot be
/// is handed over as an error; failures of the store end it.
pub(super) fn each_pack(
    context: &Context,
    chosen: &mut dyn FnMut(&PackEntry) -> bool,
    visit: &mut dyn FnMut(std::result::Result<Listed, Wrong>) -> Result<()>,
) -> Result<()> {
    for segment in context.repository.segments().iter() {
        if let Err(error) = examined(each_pack_of(context, segment, chosen, visit))? {
            visit(Err((Name::Index(segment.id), error)))?;
        }
    }
    Ok(())
}

fn wrong(sentence: String) -> Error {
    Error::new(Kind::Damaged, sentence)
}

fn each_pack_of(
    context: &Context,
    segment: &Segment,
    chosen: &mut dyn FnMut(&PackEntry) -> bool,
    visit: &mut dyn FnMut(std::result::Result<Listed, Wrong>) -> Result<()>,
) -> Result<()> {
    let counts = counts(segment)?;
    let mut first = 0;
    while first < counts.len() {
        let mut end = first;
        let mut chunks = 0;
        while end < counts.len() && (end == first || chunks + counts[end] <= BATCH_CHUNKS) {
            chunks += counts[end];
            end += 1;
        }
        for (number, places) in places(segment, first as u32..end as u32)? {
            context.progress.go_on()?;
            let entry = segment.pack(number)?;
            if !chosen(&entry) {
                continue;
            }
            let listed = listed(segment, entry, &places);
            visit(listed.map_err(|error| (Name::Index(segment.id), error)))?;
        }
        first = end;
    }
    Ok(())
}

/// How many chunks each pack of a segment has; also sees that ids ascend.
fn counts(segment: &Segment) -> Result<Vec<u64>> {
    let mut counts = vec![0; segment.pack_count() as usize];
    let mut before: Option<ChunkId> = None;
    for number in 0..segment.chunk_count() {
        let chunk = segment.chunk(number)?;
        if before.is_some_and(|before| before > chunk.id) {
            return Err(wrong("its chunks are out of order".to_owned()));
        }
        before = Some(chunk.id);
        match counts.get_mut(chunk.pack as usize) {
            Some(count) => *count += 1,
            None => {
                return Err(wrong(format!(
                    "chunk {} is in a pack that it does not list",
                    chunk.id
                )));
            }
        }
    }
    Ok(counts)
}

/// For each of these packs the places of its chunks in the segment, in the order of its stream.
fn places(segment: &Segment, packs: Range<u32>) -> Result<Vec<(u32, Vec<u32>)>> {
    let mut all = Vec::new();
    for number in 0..segment.chunk_count() {
        let chunk = segment.chunk(number)?;
        if packs.contains(&chunk.pack) {
            // An empty chunk lies before the one that begins at the same place.
            all.push((chunk.pack, chunk.offset, chunk.length > 0, number as u32));
        }
    }
    all.sort_unstable();
    let mut all = all.into_iter().peekable();
    let of_pack = |pack: u32| {
        let mut places = Vec::new();
        while let Some((_, _, _, number)) = all.next_if(|place| place.0 == pack) {
            places.push(number);
        }
        (pack, places)
    };
    Ok(packs.map(of_pack).collect())
}

/// A pack's frames and chunks, once they are seen to fit each other.
fn listed(segment: &Segment, entry: PackEntry, places: &[u32]) -> Result<Listed> {
    let of_pack = |why: &str| {
        wrong(format!(
            "what it says of pack {} cannot be: {why}",
            entry.id
        ))
    };
    let frames = (0..entry.frames)
        .map(|number| segment.frame(&entry, number))
        .collect::<Result<Vec<_>>>()?;
    let mut chunks = Vec::with_capacity(places.len());
    let mut end = 0u32;
    for number in places {
        let chunk = segment.chunk(u64::from(*number))?;
        if chunk.offset != end {
            return Err(of_pack("its chunks do not lie one after the other"));
        }
        end = end
            .checked_add(chunk.length)
            .ok_or_else(|| of_pack("a chunk is too long"))?;
        chunks.push((chunk.id, chunk.length));
    }
    if frames.last().map_or(0, |frame| frame.stream_end) != end {
        return Err(of_pack("its chunks do not fill its frames"));
    }
    if !frames_are_pure(&frames, &chunks) {
        return Err(of_pack(
            "a frame holds a piece of one chunk together with another chunk",
        ));
    }
    Ok(Listed {
        entry,
        frames,
        chunks,
    })
}

/// A frame holds whole chunks, or a piece of one chunk and nothing else: chunks that begin within a frame end in it,
/// unless they fill it.
fn frames_are_pure(frames: &[FrameSpan], chunks: &[(ChunkId, u32)]) -> bool {
    let mut frames = frames.iter().peekable();
    let mut begin = 0u32;
    for (_, length) in chunks.iter().filter(|chunk| chunk.1 > 0) {
        let end = begin + length;
        while frames.next_if(|frame| frame.stream_end <= begin).is_some() {}
        let Some(frame) = frames.peek() else {
            return false;
        };
        let spans_several = end > frame.stream_end;
        if spans_several && frame.stream_begin != begin {
            return false;
        }
        if spans_several {
            while frames.next_if(|frame| frame.stream_end < end).is_some() {}
            if frames.peek().is_none_or(|last| last.stream_end != end) {
                return false;
            }
        }
        begin = end;
    }
    true
}
