//! Packs: a stream of chunks, cut into frames; how one is laid out, written and read.
//!
//! ```text
//!  0  "kfpk"   4  u16 version (1)   6  u8 kind (1 data, 2 tree)   7  u8 zero
//!  8  u32 key epoch   12  u32 zero
//! 16  16 origin: zero when the writer hashed every chunk, else the repository whose frames it moved unhashed
//! 32  32 salt   64  32 key commitment
//! 96  frames, one after the other: compressed, encrypted with counter 0, 1, 2 …, each with its 16-byte tag
//!     directory, encrypted with the next counter, with its tag
//! end - 24  u32 length of the encrypted directory   u32 frames   u32 chunks   u32 zero   "kfpkend\n"
//! ```
//! A frame whose encrypted length is its plain length + 16 is raw; any other is one zstd frame. The directory:
//!
//! ```text
//!  0  u16 version (1)   2  u16 zero   4  u32 frames   8  u32 chunks   12  16 origin, as in the head
//! 28  for each frame: u32 end in the stream, u32 end in the object (both count from the pack's begin)
//!     for each chunk, in the order of the stream: 32 id, u32 length
//! ```
//! A frame holds either whole chunks, or a piece of one chunk that runs over several frames and shares none of them.

use super::codec::Fields;
use super::crypto::{ObjectKey, ObjectKind, Owner, Part, Ring, TAG_BYTES};
use super::segment::PackEntry;
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId, random_bytes};
use crate::store::names::PackKind;
use std::cell::RefCell;
use std::ops::Range;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

const MAGIC: &[u8; 4] = b"kfpk";
const END: &[u8; 8] = b"kfpkend\n";
const VERSION: u16 = 1;
/// Where the first frame begins.
pub const HEADER_BYTES: usize = 96;
/// Length of the trailer.
pub const TRAILER_BYTES: usize = 24;
const DIRECTORY_HEAD_BYTES: usize = 28;
pub(crate) const FRAME_RECORD_BYTES: usize = 8;
pub(crate) const CHUNK_RECORD_BYTES: usize = 36;
/// No chunk is longer: it bounds what a reader holds for one.
pub const CHUNK_BYTES_MAX: usize = 8 << 20;
/// No frame is longer once decompressed.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// No pack's stream is longer: offsets in it are 32 bits wide.
pub(crate) const STREAM_BYTES_MAX: u64 = 3 << 30;
/// A zstd frame's header has at most so many bytes.
const ZSTD_HEADER_BYTES: usize = 18;
/// A pack is closed when it holds so many chunks: its directory has some 9 MiB then, a seventh of what a reader takes,
/// and it is in memory as long as the pack is written, as those of the packs that are being finished are.
pub(crate) const PACK_CHUNKS_MAX: usize = 256 << 10;
/// A frame of more chunks is not made, and not moved: a pack with one more frame is far from a reader's limit.
pub const FRAME_CHUNKS_MAX: usize = 64 << 10;
/// A directory longer than this is hostile: 1 Mi chunks and 1 Mi frames.
const DIRECTORY_BYTES_MAX: usize = 64 << 20;

/// Where a frame lies: in the pack's stream and in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSpan {
    /// Counts from 0; also the nonce's counter.
    pub number: u32,
    /// First byte in the stream.
    pub stream_begin: u32,
    /// One past the last byte in the stream.
    pub stream_end: u32,
    /// First byte in the object.
    pub object_begin: u32,
    /// One past the last byte in the object, tag included.
    pub object_end: u32,
}

impl FrameSpan {
    /// Bytes once decompressed.
    pub fn plain_bytes(&self) -> u32 {
        self.stream_end - self.stream_begin
    }

    /// Bytes in the object, tag included.
    pub fn stored_bytes(&self) -> u32 {
        self.object_end - self.object_begin
    }

    /// Where it lies in the object.
    pub fn object_range(&self) -> Range<u64> {
        self.object_begin.into()..self.object_end.into()
    }
}

pub(crate) fn pack_owner(repository: ObjectId, kind: PackKind, id: ObjectId) -> Owner {
    let kind = match kind {
        PackKind::Data => ObjectKind::DataPack,
        PackKind::Tree => ObjectKind::TreePack,
    };
    Owner {
        repository,
        kind,
        id,
        number: 0,
    }
}

fn kind_number(kind: PackKind) -> u8 {
    match kind {
        PackKind::Data => 1,
        PackKind::Tree => 2,
    }
}

/// A frame's bytes before encryption: compressed, or raw where that does not pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// zstd frame, or the plain bytes themselves when as long as `plain_bytes`.
    pub bytes: Vec<u8>,
    /// Bytes once decompressed.
    pub plain_bytes: u32,
}

impl Payload {
    pub(super) fn is_raw(&self) -> bool {
        self.bytes.len() == self.plain_bytes as usize
    }
}

/// Builds a pack's bytes; the caller streams them to a store.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    owner: Owner,
    key: ObjectKey,
    epoch: u32,
    salt: [u8; 32],
    origin: ObjectId,
    object_bytes: u64,
    stream_bytes: u64,
    frames: Vec<(u32, u32)>,
    chunks: Vec<(ChunkId, u32)>,
}

impl PackBuilder {
    /// Starts a pack; also returns its first bytes.
    pub(crate) fn new(
        ring: &Ring,
        kind: PackKind,
        id: ObjectId,
        origin: ObjectId,
    ) -> Result<(Self, Vec<u8>)> {
        let salt: [u8; 32] = random_bytes();
        let epoch = ring.current();
        let key = ring.object_key(epoch, &salt)?;
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend([kind_number(kind), 0]);
        head.extend(epoch.to_le_bytes());
        head.extend([0; 4]);
        head.extend(origin.0);
        head.extend(salt);
        head.extend(key.commitment);
        debug_assert_eq!(head.len(), HEADER_BYTES);
        let builder = Self {
            owner: pack_owner(ring.repository, kind, id),
            key,
            epoch,
            salt,
            origin,
            object_bytes: HEADER_BYTES as u64,
            stream_bytes: 0,
            frames: Vec::new(),
            chunks: Vec::new(),
        };
        Ok((builder, head))
    }

    /// Appends one frame, encrypting `payload` in place.
    pub(crate) fn frame(&mut self, payload: &mut Vec<u8>, plain_bytes: u32) {
        let counter = self.frames.len() as u64;
        let place = self.owner.place(Part::Frame, counter, plain_bytes);
        self.key.encrypt(counter, &place, payload);
        self.object_bytes += payload.len() as u64;
        self.stream_bytes += u64::from(plain_bytes);
        self.frames
            .push((self.stream_bytes as u32, self.object_bytes as u32));
    }

    /// Notes chunks that the next or the last frames hold, in the order of the stream.
    pub(crate) fn chunks(&mut self, chunks: impl IntoIterator<Item = (ChunkId, u32)>) {
        self.chunks.extend(chunks);
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.owner.id
    }

    /// Bytes so far, without directory and trailer.
    pub(crate) fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// Chunks so far.
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Plain bytes so far.
    pub(crate) fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// The directory's and trailer's bytes, and the facts for the index.
    pub(crate) fn finish(self) -> (Vec<u8>, PackFacts) {
        debug_assert_eq!(
            self.stream_bytes,
            self.chunks
                .iter()
                .map(|chunk| u64::from(chunk.1))
                .sum::<u64>()
        );
        let mut directory = VERSION.to_le_bytes().to_vec();
        directory.extend([0; 2]);
        directory.extend((self.frames.len() as u32).to_le_bytes());
        directory.extend((self.chunks.len() as u32).to_le_bytes());
        directory.extend(self.origin.0);
        for (stream_end, object_end) in &self.frames {
            directory.extend(stream_end.to_le_bytes());
            directory.extend(object_end.to_le_bytes());
        }
        for (id, length) in &self.chunks {
            directory.extend(id.0);
            directory.extend(length.to_le_bytes());
        }
        let counter = self.frames.len() as u64;
        let place = self
            .owner
            .place(Part::Directory, counter, directory.len() as u32);
        self.key.encrypt(counter, &place, &mut directory);
        let directory_bytes = directory.len() as u32;
        let mut end = directory;
        for number in [
            directory_bytes,
            self.frames.len() as u32,
            self.chunks.len() as u32,
            0,
        ] {
            end.extend(number.to_le_bytes());
        }
        end.extend(END);
        let facts = PackFacts {
            id: self.owner.id,
            epoch: self.epoch,
            salt: self.salt,
            origin: self.origin,
            object_bytes: self.object_bytes + end.len() as u64,
            frames: self.frames,
            chunks: self.chunks,
        };
        (end, facts)
    }
}

/// What a pack's directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackFacts {
    /// The pack.
    pub id: ObjectId,
    /// Key epoch and salt, as in its head.
    pub epoch: u32,
    /// See `epoch`.
    pub salt: [u8; 32],
    /// Zero, or the repository whose frames it holds unhashed.
    pub origin: ObjectId,
    /// Length of the whole object.
    pub object_bytes: u64,
    /// For each frame its end in the stream and in the object.
    pub frames: Vec<(u32, u32)>,
    /// Ids and lengths in the order of the stream.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl PackFacts {
    /// The frames with begins and ends.
    pub fn spans(&self) -> impl Iterator<Item = FrameSpan> + '_ {
        let mut begin = (0, HEADER_BYTES as u32);
        self.frames.iter().zip(0..).map(move |(&end, number)| {
            let span = FrameSpan {
                number,
                stream_begin: begin.0,
                stream_end: end.0,
                object_begin: begin.1,
                object_end: end.1,
            };
            begin = end;
            span
        })
    }
}

/// Decrypts what belongs to one pack.
#[derive(Debug)]
pub struct PackReader {
    owner: Owner,
    key: ObjectKey,
    epoch: u32,
    salt: [u8; 32],
    /// Zero, or the repository whose frames it holds unhashed.
    pub origin: ObjectId,
}

impl PackReader {
    /// Reads a pack's head. `Damaged` when these are not the first bytes of this pack.
    pub fn new(ring: &Ring, kind: PackKind, id: ObjectId, head: &[u8]) -> Result<Self> {
        let damaged = |why: &str| Error::new(Kind::Damaged, format!("pack {id} is damaged: {why}"));
        let mut fields = Fields(head);
        if fields.bytes(4).ok() != Some(MAGIC) {
            return Err(damaged("it does not begin like a pack"));
        }
        if fields.u16()? > VERSION {
            return Err(Error::new(
                Kind::TooNew,
                format!("pack {id} was written by a newer keepfs; use that one"),
            ));
        }
        if fields.u8()? != kind_number(kind) || fields.u8()? != 0 {
            return Err(damaged("it is of another kind"));
        }
        let epoch = fields.u32()?;
        fields.u32()?;
        let origin = ObjectId(fields.array()?);
        let salt: [u8; 32] = fields.array()?;
        let commitment: [u8; 32] = fields.array()?;
        let key = ring.object_key(epoch, &salt)?;
        if key.commitment != commitment {
            return Err(damaged(
                "its key is not derived from this repository's ring",
            ));
        }
        Ok(Self {
            owner: pack_owner(ring.repository, kind, id),
            key,
            epoch,
            salt,
            origin,
        })
    }

    /// A reader of a pack that the index describes: no request for the pack's head.
    pub fn of_entry(ring: &Ring, pack: &PackEntry) -> Result<Self> {
        Ok(Self {
            owner: pack_owner(ring.repository, pack.kind, pack.id),
            key: ring.object_key(pack.epoch, &pack.salt)?,
            epoch: pack.epoch,
            salt: pack.salt,
            origin: pack.origin,
        })
    }

    /// Decrypts a frame; the payload may still be compressed.
    pub fn payload(&self, frame: &FrameSpan, mut bytes: Vec<u8>) -> Result<Payload> {
        let place = self
            .owner
            .place(Part::Frame, frame.number.into(), frame.plain_bytes());
        self.key
            .decrypt(frame.number.into(), &place, &mut bytes)
            .map_err(|error| {
                error.context(format!("frame {} of pack {}", frame.number, self.owner.id))
            })?;
        Ok(Payload {
            bytes,
            plain_bytes: frame.plain_bytes(),
        })
    }

    /// Decrypts and decompresses a frame.
    pub fn plain(&self, frame: &FrameSpan, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let payload = self.payload(frame, bytes)?;
        decompress(payload).map_err(|error| {
            error.context(format!("frame {} of pack {}", frame.number, self.owner.id))
        })
    }

    /// Reads the directory, given the pack's trailer and then the bytes that it points to.
    pub fn directory(&self, trailer: &Trailer, mut bytes: Vec<u8>) -> Result<PackFacts> {
        let damaged = |why: &str| {
            Error::new(
                Kind::Damaged,
                format!("the directory of pack {} is damaged: {why}", self.owner.id),
            )
        };
        let plain_bytes = bytes.len().saturating_sub(TAG_BYTES) as u32;
        let counter = u64::from(trailer.frames);
        let place = self.owner.place(Part::Directory, counter, plain_bytes);
        self.key
            .decrypt(counter, &place, &mut bytes)
            .map_err(|_| damaged("authentication failed"))?;
        let mut fields = Fields(&bytes);
        if fields.u16()? != VERSION || fields.u16()? != 0 {
            return Err(damaged("its version is unknown"));
        }
        let (frames, chunks) = (fields.u32()?, fields.u32()?);
        let expected = DIRECTORY_HEAD_BYTES as u64
            + u64::from(frames) * FRAME_RECORD_BYTES as u64
            + u64::from(chunks) * CHUNK_RECORD_BYTES as u64;
        if bytes.len() as u64 != expected || frames != trailer.frames || chunks != trailer.chunks {
            return Err(damaged("its counts do not fit its length"));
        }
        let facts = PackFacts {
            id: self.owner.id,
            epoch: self.epoch,
            salt: self.salt,
            origin: ObjectId(fields.array()?),
            object_bytes: trailer.object_bytes,
            frames: (0..frames)
                .map(|_| Ok((fields.u32()?, fields.u32()?)))
                .collect::<Result<_>>()?,
            chunks: (0..chunks)
                .map(|_| Ok((ChunkId(fields.array()?), fields.u32()?)))
                .collect::<Result<_>>()?,
        };
        let ascending = facts.spans().all(|span| {
            span.stream_begin < span.stream_end
                && u64::from(span.object_begin) + (TAG_BYTES as u64) < u64::from(span.object_end)
        });
        let stream_bytes = facts.frames.last().map_or(0, |end| u64::from(end.0));
        let chunk_bytes: u64 = facts.chunks.iter().map(|chunk| u64::from(chunk.1)).sum();
        if facts.origin != self.origin || !ascending || stream_bytes != chunk_bytes {
            return Err(damaged("its frames and chunks contradict each other"));
        }
        Ok(facts)
    }
}

/// Decompresses with this thread's context; `Damaged` when zstd refuses.
fn with_decompressor<T>(
    decompress: impl FnOnce(&mut DCtx<'static>) -> std::result::Result<T, usize>,
) -> Result<T> {
    thread_local! {
        static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    }
    DECOMPRESSOR.with_borrow_mut(|context| {
        let done = context.reset(ResetDirective::SessionOnly);
        done.and_then(|_| decompress(context)).map_err(|code| {
            let why = zstd_safe::get_error_name(code);
            Error::new(Kind::Damaged, format!("decompression failed: {why}"))
        })
    })
}

/// Room for the plain bytes of a compressed payload.
fn plain_buffer(payload: &Payload) -> Result<Vec<u8>> {
    match payload.plain_bytes as usize {
        plain_bytes if plain_bytes <= FRAME_BYTES_MAX => Ok(Vec::with_capacity(plain_bytes)),
        _ => Err(Error::new(
            Kind::Damaged,
            "a frame is longer than any that keepfs writes",
        )),
    }
}

/// The plain bytes of a payload; `Damaged` unless they are exactly as many as announced.
pub fn decompress(payload: Payload) -> Result<Vec<u8>> {
    if payload.is_raw() {
        return Ok(payload.bytes);
    }
    let mut plain = plain_buffer(&payload)?;
    with_decompressor(|context| context.decompress(&mut plain, &payload.bytes))?;
    if plain.len() != payload.plain_bytes as usize {
        return Err(another_length());
    }
    Ok(plain)
}

fn another_length() -> Error {
    Error::new(Kind::Damaged, "a frame has another length than announced")
}

/// The first plain bytes of a payload: as many whole blocks as hold `upto` of them. `Damaged` when it has not so many.
pub(super) fn decompress_begin(payload: Payload, upto: usize) -> Result<Vec<u8>> {
    if payload.is_raw() {
        return Ok(payload.bytes);
    }
    let mut plain = plain_buffer(&payload)?;
    let (bytes, _) = decompress_blocks(&payload.bytes, &mut plain, upto)?;
    if bytes < upto {
        return Err(another_length());
    }
    plain.shrink_to_fit();
    Ok(plain)
}

/// Whether these bytes are one compressed frame with exactly this content, for whoever reads a part of it as well.
pub(super) fn decompresses_to(compressed: &[u8], plain: &[u8]) -> bool {
    let mut output = Vec::with_capacity(plain.len());
    let decompressed = decompress_blocks(compressed, &mut output, usize::MAX);
    decompressed.is_ok_and(|(_, ended)| ended) && output == plain
}

/// Decompresses whole blocks until there are `upto` plain bytes, or no more, or no room. How many there are then, and
/// whether they are one frame from its first byte to its last.
fn decompress_blocks(compressed: &[u8], plain: &mut Vec<u8>, upto: usize) -> Result<(usize, bool)> {
    with_decompressor(|context| {
        // Who refers further back than a frame may be long must not make us hold so much.
        context.set_parameter(DParameter::WindowLogMax(FRAME_BYTES_MAX.ilog2()))?;
        let mut output = OutBuffer::around(plain);
        // It is given only the bytes that it asks for, first a header, then block by block: given all, it would
        // decompress one block more.
        let (mut asked, mut at) = (ZSTD_HEADER_BYTES, 0);
        while output.pos() < upto && asked > 0 && at < compressed.len() {
            let end = at.saturating_add(asked).min(compressed.len());
            let mut input = InBuffer {
                src: &compressed[..end],
                pos: at,
            };
            let before = output.pos();
            asked = context.decompress_stream(&mut output, &mut input)?;
            if (input.pos, output.pos()) == (at, before) {
                // There is no room for more.
                break;
            }
            at = input.pos;
        }
        Ok((output.pos(), asked == 0 && at == compressed.len()))
    })
}

/// The last bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    object_bytes: u64,
    directory_bytes: u32,
    frames: u32,
    chunks: u32,
}

impl Trailer {
    /// Reads the trailer of a pack object that is `object_bytes` long.
    pub fn decode(bytes: &[u8], object_bytes: u64) -> Result<Self> {
        let damaged = || {
            Error::new(
                Kind::Damaged,
                "a pack does not end like one; it is cut short or damaged",
            )
        };
        let mut fields = Fields(bytes);
        let trailer = Self {
            object_bytes,
            directory_bytes: fields.u32()?,
            frames: fields.u32()?,
            chunks: fields.u32()?,
        };
        let room = object_bytes.saturating_sub((HEADER_BYTES + TRAILER_BYTES) as u64);
        let fits = u64::from(trailer.directory_bytes) <= room
            && trailer.directory_bytes as usize <= DIRECTORY_BYTES_MAX;
        if fields.u32()? != 0 || fields.bytes(8)? != END || !fields.0.is_empty() || !fits {
            return Err(damaged());
        }
        Ok(trailer)
    }

    /// Where the encrypted directory lies in the object.
    pub fn directory_range(&self) -> Range<u64> {
        let end = self.object_bytes - TRAILER_BYTES as u64;
        end - u64::from(self.directory_bytes)..end
    }
}
