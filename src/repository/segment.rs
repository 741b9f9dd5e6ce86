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

mod merge;

pub(crate) use merge::{Changed, merge};

use super::codec::Fields;
use super::pack::{CHUNK_BYTES_MAX, FRAME_BYTES_MAX, FrameSpan, HEADER_BYTES, PackFacts};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::store::names::PackKind;
use memmap2::Mmap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MAGIC: &[u8; 4] = b"kfix";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 32;
const PACK_BYTES: usize = 88;
const FRAME_BYTES: usize = 8;
const CHUNK_BYTES: usize = 44;
const BLOCK: usize = 4096;
const CHECK_BYTES: usize = 8;
const FILTER_BLOCK_BYTES: usize = 64;
const FILTER_BITS_PER_CHUNK: u64 = 10;
const FOOTER_BYTES: usize = 32;
const FOOTER_MAGIC: &[u8; 8] = b"kfixmap1";

/// Counts of a body; they fix where everything lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    packs: u32,
    replaced: u32,
    frames: u64,
    chunks: u64,
}

impl Counts {
    fn packs_at(&self) -> usize {
        HEAD_BYTES + self.replaced as usize * 16
    }

    fn frames_at(&self) -> usize {
        self.packs_at() + self.packs as usize * PACK_BYTES
    }

    fn chunks_at(&self) -> usize {
        self.frames_at() + self.frames as usize * FRAME_BYTES
    }

    fn body_bytes(&self) -> usize {
        self.chunks_at() + self.chunks as usize * CHUNK_BYTES
    }

    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(MAGIC);
        head[4..6].copy_from_slice(&VERSION.to_le_bytes());
        head[8..12].copy_from_slice(&self.packs.to_le_bytes());
        head[12..16].copy_from_slice(&self.replaced.to_le_bytes());
        head[16..24].copy_from_slice(&self.frames.to_le_bytes());
        head[24..].copy_from_slice(&self.chunks.to_le_bytes());
        head
    }

    fn decode(body: &[u8]) -> Result<Self> {
        let damaged = || Error::new(Kind::Damaged, "an index segment does not begin like one");
        let mut fields = Fields(body);
        if fields.bytes(4)? != MAGIC {
            return Err(damaged());
        }
        if fields.u16()? > VERSION {
            return Err(Error::new(
                Kind::TooNew,
                "an index segment was written by a newer keepfs; use that one",
            ));
        }
        fields.u16()?;
        let counts = Self {
            packs: fields.u32()?,
            replaced: fields.u32()?,
            frames: fields.u64()?,
            chunks: fields.u64()?,
        };
        let expected = HEAD_BYTES as u128
            + u128::from(counts.replaced) * 16
            + u128::from(counts.packs) * PACK_BYTES as u128
            + u128::from(counts.frames) * FRAME_BYTES as u128
            + u128::from(counts.chunks) * CHUNK_BYTES as u128;
        if expected != body.len() as u128 {
            return Err(damaged());
        }
        Ok(counts)
    }
}

/// A pack as a segment lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// The pack.
    pub id: ObjectId,
    /// Zero when its chunks were hashed here, else the repository whose frames it holds unhashed.
    pub origin: ObjectId,
    /// Data or trees.
    pub kind: PackKind,
    /// Length of the object.
    pub object_bytes: u32,
    first_frame: u32,
    /// How many frames it has.
    pub frames: u32,
    /// Key epoch and salt, as in the pack's head: a reader needs no request for them.
    pub epoch: u32,
    /// See `epoch`.
    pub salt: [u8; 32],
}

impl PackEntry {
    /// Whether every chunk in it was hashed here, by its writer or by a check.
    pub fn hashed(&self) -> bool {
        self.origin == ObjectId::default()
    }

    /// Whether both describe the same pack alike, whoever hashed it and wherever its frames are listed.
    fn same_pack(&self, other: &Self) -> bool {
        let plain = |entry: &Self| Self {
            origin: ObjectId::default(),
            first_frame: 0,
            ..*entry
        };
        plain(self) == plain(other)
    }

    fn encode(&self) -> [u8; PACK_BYTES] {
        let mut bytes = [0; PACK_BYTES];
        bytes[..16].copy_from_slice(&self.id.0);
        bytes[16..32].copy_from_slice(&self.origin.0);
        let kind = match self.kind {
            PackKind::Data => 1u32,
            PackKind::Tree => 2,
        };
        let numbers = [
            kind,
            self.object_bytes,
            self.first_frame,
            self.frames,
            self.epoch,
            0,
        ];
        for (slot, number) in bytes[32..56].chunks_exact_mut(4).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..].copy_from_slice(&self.salt);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        Ok(Self {
            id: ObjectId(fields.array()?),
            origin: ObjectId(fields.array()?),
            kind: match fields.u32()? {
                1 => PackKind::Data,
                2 => PackKind::Tree,
                _ => {
                    return Err(Error::new(
                        Kind::Damaged,
                        "an index segment lists a pack of unknown kind",
                    ));
                }
            },
            object_bytes: fields.u32()?,
            first_frame: fields.u32()?,
            frames: fields.u32()?,
            epoch: fields.u32()?,
            salt: {
                fields.u32()?;
                fields.array()?
            },
        })
    }
}

/// A chunk as a segment lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its id.
    pub id: ChunkId,
    /// The pack's place in the segment's list.
    pub pack: u32,
    /// First byte in the pack's stream.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

impl ChunkEntry {
    fn encode(&self) -> [u8; CHUNK_BYTES] {
        let mut bytes = [0; CHUNK_BYTES];
        bytes[..32].copy_from_slice(&self.id.0);
        for (slot, number) in
            bytes[32..]
                .chunks_exact_mut(4)
                .zip([self.pack, self.offset, self.length])
        {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Self {
            id: ChunkId(bytes[..32].try_into().expect("32 bytes")),
            pack: number(32),
            offset: number(36),
            length: number(40),
        }
    }
}

/// The body of a segment over these packs, which takes the place of other segments.
pub(crate) fn body_of(packs: &[(PackKind, PackFacts)], replaced: &[ObjectId]) -> Vec<u8> {
    let counts = Counts {
        packs: packs.len() as u32,
        replaced: replaced.len() as u32,
        frames: packs.iter().map(|(_, pack)| pack.frames.len() as u64).sum(),
        chunks: packs.iter().map(|(_, pack)| pack.chunks.len() as u64).sum(),
    };
    let mut body = Vec::with_capacity(counts.body_bytes());
    body.extend(counts.encode());
    body.extend(replaced.iter().flat_map(|id| id.0));
    let mut first_frame = 0;
    for (kind, pack) in packs {
        let frames = pack.frames.len() as u32;
        let entry = PackEntry {
            id: pack.id,
            origin: pack.origin,
            kind: *kind,
            object_bytes: pack.object_bytes as u32,
            first_frame,
            frames,
            epoch: pack.epoch,
            salt: pack.salt,
        };
        body.extend(entry.encode());
        first_frame += frames;
    }
    for (stream_end, object_end) in packs.iter().flat_map(|(_, pack)| &pack.frames) {
        body.extend(stream_end.to_le_bytes());
        body.extend(object_end.to_le_bytes());
    }
    let mut chunks = Vec::with_capacity(counts.chunks as usize);
    for ((_, pack), number) in packs.iter().zip(0..) {
        let mut offset = 0;
        for &(id, length) in &pack.chunks {
            chunks.push(ChunkEntry {
                id,
                pack: number,
                offset,
                length,
            });
            offset += length;
        }
    }
    chunks.sort_unstable_by_key(|chunk| (chunk.id, chunk.pack, chunk.offset));
    for chunk in &chunks {
        body.extend(chunk.encode());
    }
    body
}

/// Writes a body, and all that a cache file has besides, to a temporary file; [`CacheFile::keep`] gives it its name.
pub(crate) struct CacheFile {
    file: BufWriter<tempfile_in::Temporary>,
    block: blake3::Hasher,
    block_bytes: usize,
    checks: Vec<u8>,
    body_bytes: u64,
}

impl CacheFile {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let file = tempfile_in::Temporary::new(directory)?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            block: blake3::Hasher::new(),
            block_bytes: 0,
            checks: Vec::new(),
            body_bytes: 0,
        })
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.body_bytes += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|error| Error::io("writing the index cache", error))?;
        while !bytes.is_empty() {
            let take = bytes.len().min(BLOCK - self.block_bytes);
            self.block.update(&bytes[..take]);
            self.block_bytes += take;
            bytes = &bytes[take..];
            if self.block_bytes == BLOCK {
                self.end_block();
            }
        }
        Ok(())
    }

    fn end_block(&mut self) {
        self.checks
            .extend(&self.block.finalize().as_bytes()[..CHECK_BYTES]);
        self.block.reset();
        self.block_bytes = 0;
    }

    /// Completes the file and names it `name` in its directory. Fails with `Damaged` when it holds no segment.
    pub(crate) fn keep(mut self, name: &str) -> Result<PathBuf> {
        let cannot = |error| Error::io("writing the index cache", error);
        let padding = (BLOCK - self.body_bytes as usize % BLOCK) % BLOCK;
        if self.block_bytes > 0 {
            let zeros = vec![0; padding];
            self.block.update(&zeros);
            self.end_block();
            self.file.write_all(&zeros).map_err(cannot)?;
        }
        self.file.flush().map_err(cannot)?;
        let filter = {
            // SAFETY: the file is ours alone until it gets its name, and nobody writes to it while it is mapped.
            let map = unsafe { Mmap::map(self.file.get_ref().file()) }.map_err(cannot)?;
            filter_of(&map[..self.body_bytes as usize])?
        };
        let mut tail = std::mem::take(&mut self.checks);
        tail.extend(&filter);
        tail.extend(FOOTER_MAGIC);
        tail.extend(self.body_bytes.to_le_bytes());
        tail.extend((filter.len() as u64).to_le_bytes());
        let check = blake3::hash(&tail);
        tail.extend(&check.as_bytes()[..8]);
        self.file.write_all(&tail).map_err(cannot)?;
        let temporary = self
            .file
            .into_inner()
            .map_err(|error| cannot(error.into_error()))?;
        temporary.rename(name)
    }
}

/// What a failure at a cache file means. Never `NotFound`: that is for what the store no longer has.
fn of_cache(what: impl std::fmt::Display, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::Failed, format!("{what}: {error}")).caused_by(error)
        }
        _ => Error::io(what, error),
    }
}

/// Beginning of the names of cache files that are not complete yet.
pub(crate) const TEMPORARY: &str = "tmp-";

/// A temporary file in a directory, gone unless it is renamed.
mod tempfile_in {
    use super::{File, ObjectId, Path, PathBuf, Result, Write, of_cache};
    use std::os::unix::fs::OpenOptionsExt;

    pub(crate) struct Temporary {
        file: File,
        path: Option<PathBuf>,
    }

    impl Temporary {
        pub(crate) fn new(directory: &Path) -> Result<Self> {
            let path = directory.join(format!("{}{}", super::TEMPORARY, ObjectId::random()));
            let cannot = |error| of_cache(format_args!("creating {}", path.display()), error);
            // Somebody may have emptied the caches of a running process.
            crate::repository::make_private(directory)?;
            // It holds what the store holds encrypted.
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(cannot)?;
            Ok(Self {
                file,
                path: Some(path),
            })
        }

        pub(crate) fn file(&self) -> &File {
            &self.file
        }

        pub(crate) fn rename(mut self, name: &str) -> Result<PathBuf> {
            let path = self.path.take().expect("only rename() takes the path");
            let target = path.with_file_name(name);
            // Synced first, or a power cut leaves a named file with holes.
            self.file
                .sync_all()
                .and_then(|()| std::fs::rename(&path, &target))
                .map_err(|error| of_cache(format_args!("naming {}", target.display()), error))?;
            Ok(target)
        }
    }

    impl Write for Temporary {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.file.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            self.file.flush()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            if let Some(path) = &self.path {
                // A leftover is only a file in a cache directory; the next cleaning takes it.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn filter_of(body: &[u8]) -> Result<Vec<u8>> {
    let counts = Counts::decode(body)?;
    let blocks = (counts.chunks * FILTER_BITS_PER_CHUNK).div_ceil(FILTER_BLOCK_BYTES as u64 * 8);
    let mut filter = vec![0; blocks as usize * FILTER_BLOCK_BYTES];
    for record in body[counts.chunks_at()..].chunks_exact(CHUNK_BYTES) {
        let (begin, bits) = filter_bits(record, blocks);
        for bit in bits {
            filter[begin + bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(filter)
}

/// The filter block of an id and its six bits there.
fn filter_bits(id: &[u8], blocks: u64) -> (usize, [usize; 6]) {
    let word =
        |at: usize| u64::from_le_bytes(id[at..at + 8].try_into().expect("an id has 32 bytes"));
    let block = (u128::from(word(16)) * u128::from(blocks)) >> 64;
    let bits = word(8);
    let six = std::array::from_fn(|turn| (bits >> (turn * 9)) as usize & 511);
    (block as usize * FILTER_BLOCK_BYTES, six)
}

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
