//! Index segments: where each chunk of some packs is. The stored body and the local cache file share this layout.
//!
//! ```text
//!  0  "kfix"   4  u16 version (1)   6  u16 zero
//!  8  u32 packs   12  u32 replaced segments   16  u64 frames   24  u64 chunks
//! 32  for each segment that this one replaces: 16 id
//!     for each pack:  16 id, 16 origin (zero: every chunk was hashed here, by the pack's writer or by a check since; else
//!                     as in the pack's head), u32 kind (1 data, 2 tree), u32 object length, u32 number of its first frame record, u32 frames, u32 key epoch, u32 zero, 32 salt
//!     for each frame: u32 end in the stream, u32 end in the object
//!     for each chunk, ascending by id: 32 id, u32 pack (its place in this list), u32 offset in the stream, u32 length
//! ```
//! A segment is ignored when another one that is present replaces it, so merging needs no deletion. Several may list the
//! same pack; if one of them says that it was hashed, it was.
//!
//! The cache file is the body, padded to 4 KiB, then 8 bytes of BLAKE3 for each 4 KiB of it, a filter, and a footer.
//! It is mapped; a block is verified when it is first used. The filter (a blocked Bloom filter, 10 bits a chunk in
//! blocks of 512 bits, 6 bits set) answers "not here" without touching the records.

mod body;
mod cache;
mod merge;

pub(crate) use body::body_of;
pub use body::{ChunkEntry, PackEntry};
pub(crate) use cache::{CacheFile, TEMPORARY};
pub(crate) use merge::{Changed, merge};

use super::codec::Fields;
use super::pack::{CHUNK_BYTES_MAX, FRAME_BYTES_MAX, FrameSpan, HEADER_BYTES};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use body::{CHUNK_BYTES, Counts, FRAME_BYTES, HEAD_BYTES, PACK_BYTES};
use cache::{
    BLOCK, CHECK_BYTES, FILTER_BLOCK_BYTES, FOOTER_BYTES, FOOTER_MAGIC, filter_bits, of_cache,
};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A segment, mapped from its cache file.
#[derive(Debug)]
pub struct Segment {
    /// Its id.
    pub id: ObjectId,
    path: PathBuf,
    map: Mmap,
    /// A block of the cache file is not what was written.
    spoiled: AtomicBool,
    counts: Counts,
    filter: Range<usize>,
    checks_at: usize,
    verified: Vec<AtomicU64>,
}

impl Segment {
    /// Maps the cache file; any failure means that the file must be fetched anew.
    pub(crate) fn map(id: ObjectId, path: &Path) -> Result<Self> {
        let file = File::open(path)
            .map_err(|error| of_cache(format_args!("opening {}", path.display()), error))?;
        // SAFETY: cache files are never changed once they have their name, only unlinked; a foreign writer could at
        // worst make lookups fail their checks or the process stop with SIGBUS, as with any mapped file.
        let map = unsafe { Mmap::map(&file) }
            .map_err(|error| Error::io(format_args!("mapping {}", path.display()), error))?;
        let damaged = || {
            Error::new(
                Kind::Damaged,
                format!("the index cache {} is damaged", path.display()),
            )
        };
        let footer_at = map.len().checked_sub(FOOTER_BYTES).ok_or_else(damaged)?;
        let mut fields = Fields(&map[footer_at..]);
        if fields.bytes(8)? != FOOTER_MAGIC {
            return Err(damaged());
        }
        let (body_bytes, filter_bytes) = (fields.u64()? as usize, fields.u64()? as usize);
        let check: [u8; 8] = fields.array()?;
        let blocks = body_bytes.div_ceil(BLOCK);
        let checks_at = blocks.checked_mul(BLOCK).ok_or_else(damaged)?;
        let filter_at = checks_at
            .checked_add(blocks * CHECK_BYTES)
            .ok_or_else(damaged)?;
        if filter_at.checked_add(filter_bytes) != Some(footer_at) {
            return Err(damaged());
        }
        if blake3::hash(&map[checks_at..map.len() - 8]).as_bytes()[..8] != check {
            return Err(damaged());
        }
        let counts = Counts::decode(&map[..body_bytes])?;
        let segment = Self {
            id,
            path: path.to_owned(),
            spoiled: AtomicBool::new(false),
            counts,
            filter: filter_at..filter_at + filter_bytes,
            checks_at,
            verified: (0..blocks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            map,
        };
        segment.verified_bytes(0..HEAD_BYTES)?;
        segment.verify_packs()?;
        segment.replaced()?;
        Ok(segment)
    }

    /// Every pack's frames must lie within the segment. That they ascend and are of a length that a reader can hold is
    /// checked when one is looked at: see [`Self::frame`].
    fn verify_packs(&self) -> Result<()> {
        for number in 0..self.counts.packs {
            let pack = self.pack(number)?;
            let end = u64::from(pack.first_frame) + u64::from(pack.frames);
            if end > self.counts.frames {
                return Err(Error::new(
                    Kind::Damaged,
                    format!(
                        "index segment {} lists frames that it does not hold",
                        self.id
                    ),
                ));
            }
        }
        Ok(())
    }

    /// These bytes of the body, once their blocks' checks match.
    fn verified_bytes(&self, range: Range<usize>) -> Result<&[u8]> {
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            let (word, bit) = (&self.verified[block / 64], 1 << (block % 64));
            if word.load(Ordering::Relaxed) & bit != 0 {
                continue;
            }
            let check_at = self.checks_at + block * CHECK_BYTES;
            let hash = blake3::hash(&self.map[block * BLOCK..(block + 1) * BLOCK]);
            if hash.as_bytes()[..CHECK_BYTES] != self.map[check_at..check_at + CHECK_BYTES] {
                // Without its file the next refresh fetches it again. If that cannot be removed, it says so again.
                let _ = std::fs::remove_file(&self.path);
                self.spoiled.store(true, Ordering::Release);
                let message = format!(
                    "the cached index segment {} was damaged and is fetched again; try again",
                    self.id
                );
                return Err(Error::new(Kind::Damaged, message));
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(&self.map[range])
    }

    /// Whether its cache file has turned out to be damaged: then it is of no more use, and gone from the cache.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Acquire)
    }

    fn record(&self, at: usize, number: u64, bytes: usize) -> Result<&[u8]> {
        let begin = at + number as usize * bytes;
        self.verified_bytes(begin..begin + bytes)
    }

    /// How many chunks it lists.
    pub fn chunk_count(&self) -> u64 {
        self.counts.chunks
    }

    /// How many packs it lists.
    pub fn pack_count(&self) -> u32 {
        self.counts.packs
    }

    /// Bytes of the body, as stored and at the head of the cache file.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.counts.body_bytes() as u64
    }

    /// Bytes of its mapped file.
    pub fn mapped_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Segments that this one replaces.
    pub fn replaced(&self) -> Result<Vec<ObjectId>> {
        (0..u64::from(self.counts.replaced))
            .map(|number| self.record(HEAD_BYTES, number, 16))
            .map(|bytes| Ok(ObjectId(bytes?.try_into().expect("16 bytes"))))
            .collect()
    }

    /// A pack by its place in the list.
    pub fn pack(&self, number: u32) -> Result<PackEntry> {
        if number >= self.counts.packs {
            return Err(Error::new(
                Kind::Damaged,
                format!(
                    "index segment {} names a pack that it does not list",
                    self.id
                ),
            ));
        }
        PackEntry::decode(self.record(self.counts.packs_at(), number.into(), PACK_BYTES)?)
    }

    /// A chunk by its place in the order of ids.
    pub fn chunk(&self, number: u64) -> Result<ChunkEntry> {
        self.record(self.counts.chunks_at(), number, CHUNK_BYTES)
            .map(ChunkEntry::decode)
    }

    fn frame_ends(&self, number: u64) -> Result<(u32, u32)> {
        let bytes = self.record(self.counts.frames_at(), number, FRAME_BYTES)?;
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Ok((half(0), half(4)))
    }

    /// A frame of a pack by its number there.
    pub fn frame(&self, pack: &PackEntry, number: u32) -> Result<FrameSpan> {
        if number >= pack.frames {
            return Err(Error::new(
                Kind::Damaged,
                format!(
                    "index segment {} names bytes beyond pack {}",
                    self.id, pack.id
                ),
            ));
        }
        let first = u64::from(pack.first_frame);
        let (stream_begin, object_begin) = match number {
            0 => (0, HEADER_BYTES as u32),
            _ => self.frame_ends(first + u64::from(number) - 1)?,
        };
        let (stream_end, object_end) = self.frame_ends(first + u64::from(number))?;
        let sound = stream_begin < stream_end
            && object_begin < object_end
            && object_end <= pack.object_bytes
            && (stream_end - stream_begin) as usize <= FRAME_BYTES_MAX
            && (object_end - object_begin) as usize <= FRAME_BYTES_MAX + 16;
        if !sound {
            return Err(Error::new(
                Kind::Damaged,
                format!(
                    "index segment {} lists an impossible frame of pack {}",
                    self.id, pack.id
                ),
            ));
        }
        Ok(FrameSpan {
            number,
            stream_begin,
            stream_end,
            object_begin,
            object_end,
        })
    }

    /// The frame of a pack that holds this byte of its stream.
    pub fn frame_at(&self, pack: &PackEntry, offset: u32) -> Result<FrameSpan> {
        let (mut low, mut high) = (0, pack.frames);
        while low < high {
            let middle = low + (high - low) / 2;
            let (end, _) = self.frame_ends(u64::from(pack.first_frame) + u64::from(middle))?;
            if end <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == pack.frames {
            return Err(Error::new(
                Kind::Damaged,
                format!(
                    "index segment {} names bytes beyond pack {}",
                    self.id, pack.id
                ),
            ));
        }
        self.frame(pack, low)
    }

    /// Everywhere that this chunk is, as far as the segment lists it: each pack that holds it once.
    pub fn find(&self, id: &ChunkId) -> Result<Found<'_>> {
        let none = self.counts.chunks == 0 || !self.filter_allows(id);
        Ok(Found {
            segment: self,
            id: *id,
            next: match none {
                true => self.counts.chunks,
                false => self.lower_bound(id)?,
            },
        })
    }

    /// As [`Self::find`], each with its place in the order of ids.
    pub fn find_numbered(&self, id: &ChunkId) -> Result<Vec<(u64, ChunkEntry)>> {
        let mut found = self.find(id)?;
        let mut all = Vec::new();
        loop {
            let number = found.next;
            match found.next() {
                Some(chunk) => all.push((number, chunk?)),
                None => return Ok(all),
            }
        }
    }

    fn filter_allows(&self, id: &ChunkId) -> bool {
        let filter = &self.map[self.filter.clone()];
        let (begin, bits) = filter_bits(&id.0, (filter.len() / FILTER_BLOCK_BYTES) as u64);
        bits.iter()
            .all(|bit| filter[begin + bit / 8] & 1 << (bit % 8) != 0)
    }

    /// The first chunk whose id is not below `id`: by interpolation, as ids are uniform, then by halving.
    fn lower_bound(&self, id: &ChunkId) -> Result<u64> {
        let (mut low, mut high) = (0, self.counts.chunks);
        let head = |id: &ChunkId| u64::from_be_bytes(id.0[..8].try_into().expect("32 bytes"));
        let target = head(id);
        let (mut low_value, mut high_value) = (0u64, u64::MAX);
        let mut turns = 0;
        while low < high {
            let middle = if turns < 8
                && high_value > low_value
                && (low_value..=high_value).contains(&target)
            {
                let part = u128::from(target - low_value) * u128::from(high - low)
                    / (u128::from(high_value - low_value) + 1);
                low + (part as u64).min(high - low - 1)
            } else {
                low + (high - low) / 2
            };
            turns += 1;
            let probe = self.chunk(middle)?.id;
            if probe < *id {
                low = middle + 1;
                low_value = head(&probe);
            } else {
                high = middle;
                high_value = head(&probe);
            }
        }
        Ok(low)
    }
}

/// The records of one chunk in a segment.
#[derive(Debug)]
pub struct Found<'a> {
    segment: &'a Segment,
    id: ChunkId,
    next: u64,
}

impl Found<'_> {
    fn read(&self) -> Result<Option<ChunkEntry>> {
        if self.next >= self.segment.counts.chunks {
            return Ok(None);
        }
        let chunk = self.segment.chunk(self.next)?;
        if chunk.id != self.id {
            return Ok(None);
        }
        if chunk.length as usize > CHUNK_BYTES_MAX
            || chunk.offset.checked_add(chunk.length).is_none()
        {
            let message = format!(
                "index segment {} lists an impossible chunk {}",
                self.segment.id, self.id
            );
            return Err(Error::new(Kind::Damaged, message));
        }
        Ok(Some(chunk))
    }
}

impl Iterator for Found<'_> {
    type Item = Result<ChunkEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.read().transpose();
        // After an error there is nothing more: the records that follow are no better.
        self.next = match found {
            Some(Ok(_)) => self.next + 1,
            _ => self.segment.counts.chunks,
        };
        found
    }
}
