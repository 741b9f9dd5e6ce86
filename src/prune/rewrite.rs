//! Packs of which little is needed: that little goes into new packs. The old ones are condemned like dead ones, and as a
//! chunk is needed in one pack only, and best in one that is not condemned, nothing holds them any more.
//!
//! A frame of which everything is needed moves as it is, decrypted and encrypted again, from a pack whose contents were
//! hashed here. Everything else is read, hashed and written anew.

use super::mark::{LiveChunks, Marks};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::progress::Progress;
use crate::repository::{ChunkEntry, Lane, Location, Repository, Segment, Writer};
use crate::store::names::PackKind;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Packs whose chunks are held at a time: 50 bytes each.
const PACKS_AT_ONCE: usize = 64;
/// Plain bytes from which a chunk is written by itself.
const ALONE_BYTES: u32 = 256 << 10;

type Listed = (Arc<Segment>, ChunkEntry, bool);

/// Writes what is needed of these packs into new ones, durable and in the index when this returns. Returns the bytes that
/// were stored.
pub(super) fn rewrite(
    repository: &Arc<Repository>,
    marks: &Marks,
    packs: &[ObjectId],
    progress: &Progress,
) -> Result<u64> {
    let writer = Writer::new(repository.clone(), None)?;
    let mut written = 0u128;
    for some in packs.chunks(PACKS_AT_ONCE) {
        let live: LiveChunks = marks.live_chunks(&some.iter().copied().collect::<HashSet<_>>())?;
        for id in some {
            let (Some(pack), Some(chunks)) = (marks.pack(id), live.get(id)) else {
                continue;
            };
            for unit in units(repository, chunks)? {
                progress.go_on()?;
                let whole = unit.chunks.iter().all(|(.., marked)| *marked);
                let bytes = unit.location.length > 0;
                if whole && bytes && pack.hashed && pack.kind == PackKind::Data {
                    move_whole(repository, &writer, unit)?;
                    continue;
                }
                for (segment, chunk, _) in unit.chunks.iter().filter(|(.., marked)| *marked) {
                    let location = repository.located(segment, chunk)?;
                    let content = read(repository, &location, chunk)?;
                    written += 1;
                    let lane = match (pack.kind, chunk.length) {
                        (PackKind::Tree, _) => Lane::Tree,
                        (PackKind::Data, ALONE_BYTES..) => Lane::Alone,
                        (PackKind::Data, _) => Lane::Group(written),
                    };
                    writer.put_claimed(lane, chunk.id, &content)?;
                }
            }
            progress.done(1, pack.live_bytes);
        }
    }
    writer.flush()?;
    Ok(writer.written.stored_bytes.load(Relaxed))
}

/// Frames that belong together with their chunks: one frame of whole chunks, or several of one chunk.
struct Unit<'a> {
    location: Location,
    chunks: &'a [Listed],
}

fn units<'a>(repository: &Repository, mut chunks: &'a [Listed]) -> Result<Vec<Unit<'a>>> {
    let mut units = Vec::new();
    while let Some((segment, chunk, _)) = chunks.first() {
        let location = repository.located(segment, chunk)?;
        let end = match chunk.length {
            // It may stand behind the last frame.
            0 => 0,
            _ => location
                .frames()?
                .last()
                .map_or(0, |frame| frame.stream_end),
        };
        let inside = chunks.iter().take_while(|(_, chunk, _)| chunk.offset < end);
        let (unit, rest) = chunks.split_at(inside.count().max(1));
        units.push(Unit {
            location,
            chunks: unit,
        });
        chunks = rest;
    }
    Ok(units)
}

fn move_whole(repository: &Repository, writer: &Writer, unit: Unit) -> Result<()> {
    let payloads = repository.payloads(&unit.location, &unit.location.frames()?)?;
    let chunks = unit.chunks.iter();
    let chunks = chunks.map(|(_, chunk, _)| (chunk.id, chunk.length));
    writer.put_moved(payloads, chunks.collect())
}

fn read(repository: &Repository, location: &Location, chunk: &ChunkEntry) -> Result<Vec<u8>> {
    let mut content = Vec::with_capacity(chunk.length as usize);
    repository.read_located(location, 0..chunk.length, &mut content)?;
    match crate::id::ChunkId::of(&content) == chunk.id {
        true => Ok(content),
        false => Err(Error::new(
            Kind::Damaged,
            format!(
                "chunk {} in pack {} has other content than its id says; run `keepfs check --read-data`",
                chunk.id, location.pack.id
            ),
        )),
    }
}
