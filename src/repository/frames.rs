//! Reading: chunk to index to frame, through a cache of decompressed frames that is bounded in bytes. Where several
//! repositories are mounted, compressed frames are kept behind it.

use super::index::Location;
use super::kept::{KeptFrames, Key};
use super::pack::{FrameSpan, PackReader, Payload, decompress, decompress_begin};
use super::{Access, Repository};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::store::names::{Name, PackKind};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// A decompressed frame, or the first bytes of it.
pub type Frame = Arc<Vec<u8>>;
type Slot = Arc<Mutex<Option<Frame>>>;

/// Frames with their decompressed lengths; one of which only the first bytes are there counts as whole.
#[derive(Debug)]
struct Held {
    frames: LruCache<Key, (Slot, u32)>,
    /// Bytes of all of them.
    bytes: u64,
}

/// Decrypting a frame needs its pack's key; this many packs' keys are kept, 200 bytes each.
const READERS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Frames of one pack that lie together are fetched in one request of at most this many bytes.
const FETCH_BYTES_MAX: u64 = 8 << 20;

/// Decompressed frames, least recently used first out. A frame that several readers want is read once.
#[derive(Debug)]
pub(crate) struct FrameCache {
    bytes_max: AtomicU64,
    frames: Mutex<Held>,
    readers: Mutex<LruCache<ObjectId, Arc<PackReader>>>,
    /// Where several repositories are mounted.
    kept: OnceLock<Arc<KeptFrames>>,
}

impl FrameCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max: AtomicU64::new(bytes_max),
            frames: Mutex::new(Held {
                frames: LruCache::unbounded(),
                bytes: 0,
            }),
            readers: Mutex::new(LruCache::new(READERS_MAX)),
            kept: OnceLock::new(),
        }
    }

    /// From now on compressed frames are kept there; so many bytes less are for decompressed ones.
    pub(super) fn keep_in(&self, kept: &Arc<KeptFrames>, bytes: u64) {
        if self.kept.set(kept.clone()).is_ok() {
            self.bytes_max.fetch_sub(bytes, Relaxed);
        }
    }

    /// Where compressed frames are kept.
    pub(super) fn kept(&self) -> Option<&KeptFrames> {
        self.kept.get().map(Arc::as_ref)
    }

    /// The same for the pack that `location` names: tree pages are not kept.
    fn kept_of(&self, location: &Location) -> Option<&KeptFrames> {
        self.kept().filter(|_| location.pack.kind == PackKind::Data)
    }

    fn note(&self, location: &Location, span: &FrameSpan) {
        if let Some(kept) = self.kept_of(location) {
            kept.note(location, span);
        }
    }

    /// The slot of a frame: empty when nobody has read it yet. Whoever fills it holds its lock meanwhile.
    fn slot(&self, key: Key, plain_bytes: u32) -> Slot {
        let mut guard = self.frames.lock();
        let Held {
            frames,
            bytes: held,
        } = &mut *guard;
        if let Some((slot, _)) = frames.get(&key) {
            return slot.clone();
        }
        let slot = Slot::default();
        frames.put(key, (slot.clone(), plain_bytes));
        *held += u64::from(plain_bytes);
        while *held > self.bytes_max.load(Relaxed) && frames.len() > 1 {
            let (_, (_, bytes)) = frames.pop_lru().expect("more than one frame is there");
            *held -= u64::from(bytes);
        }
        slot
    }

    fn reader(&self, access: &Access, location: &Location) -> Result<Arc<PackReader>> {
        if let Some(reader) = self.readers.lock().get(&location.pack.id) {
            return Ok(reader.clone());
        }
        let reader = Arc::new(PackReader::of_entry(&access.ring, &location.pack)?);
        self.readers.lock().put(location.pack.id, reader.clone());
        Ok(reader)
    }
}

impl Repository {
    fn pack_name(location: &Location) -> String {
        Name::Pack(location.pack.kind, location.pack.id).to_string()
    }

    fn stored(&self, location: &Location, range: Range<u64>) -> Result<bytes::Bytes> {
        self.access
            .store
            .get_range(&Self::pack_name(location), range)
            .map_err(|error| match error.kind() {
                Kind::NotFound => {
                    self.note_gone(location.pack.id);
                    let message = format!(
                        "pack {} is missing from {}",
                        location.pack.id,
                        self.location()
                    );
                    Error::new(Kind::Damaged, message)
                }
                _ => error.context(format_args!("reading pack {}", location.pack.id)),
            })
    }

    /// The index that is loaded lists a pack that is not there: prune may have moved what is needed of it.
    fn note_gone(&self, pack: ObjectId) {
        if !self.take_for_gone(pack) {
            return;
        }
        if let Err(error) = self.index.refresh(&self.access) {
            tracing::warn!("the index was not looked at anew: {error}");
        }
    }

    /// From now on a chunk is looked for in this pack only when it is in no other. False when that was known.
    pub fn take_for_gone(&self, pack: ObjectId) -> bool {
        self.gone.write().insert(pack)
    }

    /// Whether reading has found that this pack is not there.
    pub fn is_gone(&self, pack: &ObjectId) -> bool {
        self.gone.read().contains(pack)
    }

    /// Where the chunk is now, when the pack that was to be read is gone and another one has it.
    fn moved(&self, location: &Location, error: Error) -> Result<Location> {
        if !self.is_gone(&location.pack.id) {
            return Err(error);
        }
        match self.find(&location.id)? {
            Some(other) if !self.is_gone(&other.pack.id) => Ok(other),
            _ => Err(error),
        }
    }

    /// A decompressed frame of the pack that `location` names.
    pub fn frame(&self, location: &Location, span: &FrameSpan) -> Result<Frame> {
        self.frame_begin(location, span, span.plain_bytes())
    }

    /// At least the first `upto` bytes of a frame. Whoever reads here and there pays for no more; who comes back for
    /// what lies behind them gets the whole. All of it is authenticated either way.
    pub fn frame_begin(&self, location: &Location, span: &FrameSpan, upto: u32) -> Result<Frame> {
        let slot = self
            .frames
            .slot((location.pack.id, span.number), span.plain_bytes());
        let mut filled = slot.lock();
        let upto = match &*filled {
            Some(frame) if frame.len() >= upto as usize => {
                self.frames.note(location, span);
                return Ok(frame.clone());
            }
            Some(_) => span.plain_bytes(),
            None => upto,
        };
        let payload = match self.kept_payload(location, span) {
            Some(payload) => payload,
            None => {
                let bytes = self.stored(location, span.object_range())?;
                let reader = self.frames.reader(&self.access, location)?;
                reader.payload(span, bytes.into())?
            }
        };
        let frame = Arc::new(self.decompressed(location, span, payload, upto)?);
        self.frames.note(location, span);
        *filled = Some(frame.clone());
        Ok(frame)
    }

    fn kept_payload(&self, location: &Location, span: &FrameSpan) -> Option<Payload> {
        let kept = self.frames.kept_of(location)?;
        kept.payload_at(&(location.pack.id, span.number))
    }

    /// At least the first `upto` plain bytes of a frame. One that is decompressed whole is kept compressed as well.
    fn decompressed(
        &self,
        location: &Location,
        span: &FrameSpan,
        payload: Payload,
        upto: u32,
    ) -> Result<Vec<u8>> {
        let named = |error: Error| {
            error.context(format_args!(
                "frame {} of pack {}",
                span.number, location.pack.id
            ))
        };
        if upto < span.plain_bytes() {
            return decompress_begin(payload, upto as usize).map_err(named);
        }
        let Some(kept) = self.frames.kept_of(location) else {
            return decompress(payload).map_err(named);
        };
        let compressed = (!payload.is_raw()).then(|| payload.bytes.clone());
        let plain = decompress(payload).map_err(named)?;
        kept.keep((location.pack.id, span.number), &plain, compressed);
        Ok(plain)
    }

    /// At least the first `upto` bytes of the frame if they are in memory; never waits.
    pub fn cached_frame(&self, location: &Location, span: &FrameSpan, upto: u32) -> Option<Frame> {
        let slot = {
            let mut guard = self.frames.frames.lock();
            let (slot, _) = guard.frames.get(&(location.pack.id, span.number))?;
            slot.clone()
        };
        let frame = slot.try_lock()?.clone();
        let frame = frame.filter(|frame| frame.len() >= upto as usize)?;
        self.frames.note(location, span);
        Some(frame)
    }

    /// Reads these frames of one pack (ascending, gaps allowed) into the cache with as few requests as sense makes.
    /// Frames that are there already are not read again. Failures are left for the reader who needs the frame.
    pub fn prefetch(&self, location: &Location, spans: &[FrameSpan]) {
        for run in adjacent(spans) {
            // Whoever asks for one of these frames waits for its lock; one that is being read is left to its reader.
            let slots: Vec<_> = run
                .iter()
                .map(|span| {
                    self.frames
                        .slot((location.pack.id, span.number), span.plain_bytes())
                })
                .collect();
            let mut locks: Vec<_> = slots.iter().map(|slot| slot.try_lock()).collect();
            for (span, lock) in run.iter().zip(&mut locks) {
                let is_there = |slot: &Option<Frame>| {
                    let frame = slot.as_ref();
                    frame.is_some_and(|frame| is_whole(span, frame))
                };
                if let Some(slot) = lock
                    && !is_there(slot)
                    && let Some(payload) = self.kept_payload(location, span)
                {
                    let plain = self.decompressed(location, span, payload, span.plain_bytes());
                    **slot = plain.ok().map(Arc::new);
                }
                lock.take_if(|slot| is_there(slot));
            }
            let Some(first) = locks.iter().position(Option::is_some) else {
                continue;
            };
            let last = locks.iter().rposition(Option::is_some).unwrap_or(first);
            let base = run[first].object_range().start;
            let Ok(bytes) = self.stored(location, base..run[last].object_range().end) else {
                continue;
            };
            let Ok(reader) = self.frames.reader(&self.access, location) else {
                continue;
            };
            for (span, lock) in run.iter().zip(&mut locks).take(last + 1).skip(first) {
                let Some(mut slot) = lock.take() else {
                    continue;
                };
                let range = span.object_range();
                let stored =
                    bytes[(range.start - base) as usize..(range.end - base) as usize].to_vec();
                let payload = reader.payload(span, stored);
                let plain = payload.and_then(|payload| {
                    self.decompressed(location, span, payload, span.plain_bytes())
                });
                if let Ok(plain) = plain {
                    *slot = Some(Arc::new(plain));
                }
            }
        }
    }

    /// Decrypted but still compressed frames of one pack, adjacent and ascending, in one request. What the mount has
    /// just read is not asked for again, unless it lies between frames that must be.
    pub fn payloads(&self, location: &Location, spans: &[FrameSpan]) -> Result<Vec<Payload>> {
        let kept = spans.iter().map(|span| self.kept_payload(location, span));
        let mut payloads: Vec<_> = kept.collect();
        let first = payloads.iter().position(Option::is_none);
        let last = payloads.iter().rposition(Option::is_none);
        if let (Some(first), Some(last)) = (first, last) {
            let base = spans[first].object_range().start;
            let bytes = self.stored(location, base..spans[last].object_range().end)?;
            let reader = self.frames.reader(&self.access, location)?;
            for (payload, span) in payloads.iter_mut().zip(spans).take(last + 1).skip(first) {
                let range = span.object_range();
                let stored = &bytes[(range.start - base) as usize..(range.end - base) as usize];
                *payload = Some(reader.payload(span, stored.to_vec())?);
            }
        }
        Ok(payloads.into_iter().flatten().collect())
    }

    /// The whole chunk, its content checked against its id.
    pub fn read_chunk(&self, id: &ChunkId) -> Result<Vec<u8>> {
        let location = self.locate(id)?;
        let mut content = Vec::with_capacity(location.length as usize);
        self.read_located(&location, 0..location.length, &mut content)?;
        if ChunkId::of(&content) != *id {
            let message = format!(
                "chunk {id} in pack {} has other content than its id says",
                location.pack.id
            );
            return Err(Error::new(Kind::Damaged, message));
        }
        Ok(content)
    }

    /// Appends a part of a chunk to `output`. What a frame's authentication does not cover, the id is checked for
    /// when the whole chunk is read.
    pub fn read_located(
        &self,
        location: &Location,
        range: Range<u32>,
        output: &mut Vec<u8>,
    ) -> Result<()> {
        if range.end > location.length || range.start > range.end {
            return Err(Error::new(
                Kind::Damaged,
                "a chunk is shorter than the file that holds it says",
            ));
        }
        let begin = output.len();
        let read = self.append_located(location, &range, output);
        read.or_else(|error| {
            let other = self.moved(location, error)?;
            output.truncate(begin);
            self.read_located(&other, range.clone(), output)
        })
    }

    fn append_located(
        &self,
        location: &Location,
        range: &Range<u32>,
        output: &mut Vec<u8>,
    ) -> Result<()> {
        let mut at = location.offset + range.start;
        let end = location.offset + range.end;
        while at < end {
            let span = location.frame_at(at - location.offset)?;
            let frame = self.frame(location, &span)?;
            let upto = end.min(span.stream_end);
            output.extend_from_slice(
                &frame[(at - span.stream_begin) as usize..(upto - span.stream_begin) as usize],
            );
            at = upto;
        }
        Ok(())
    }
}

fn is_whole(span: &FrameSpan, frame: &Frame) -> bool {
    frame.len() == span.plain_bytes() as usize
}

/// Runs of frames that lie together, none longer than one request should be.
fn adjacent(spans: &[FrameSpan]) -> impl Iterator<Item = &[FrameSpan]> {
    let mut rest = spans;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let begin = first.object_range().start;
        let ends = rest
            .windows(2)
            .take_while(|pair| {
                pair[0].object_end == pair[1].object_begin
                    && pair[1].object_range().end - begin <= FETCH_BYTES_MAX
            })
            .count();
        let (run, others) = rest.split_at(ends + 1);
        rest = others;
        Some(run)
    })
}
