//! The stored body of a segment: what [`super`] draws, in bytes.

use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::repository::codec::Fields;
use crate::repository::pack::PackFacts;
use crate::store::names::PackKind;

const MAGIC: &[u8; 4] = b"kfix";
const VERSION: u16 = 1;
pub(super) const HEAD_BYTES: usize = 32;
pub(super) const PACK_BYTES: usize = 88;
pub(super) const FRAME_BYTES: usize = 8;
pub(super) const CHUNK_BYTES: usize = 44;

/// Counts of a body; they fix where everything lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub packs: u32,
    pub replaced: u32,
    pub frames: u64,
    pub chunks: u64,
}

impl Counts {
    pub fn packs_at(&self) -> usize {
        HEAD_BYTES + self.replaced as usize * 16
    }

    pub fn frames_at(&self) -> usize {
        self.packs_at() + self.packs as usize * PACK_BYTES
    }

    pub fn chunks_at(&self) -> usize {
        self.frames_at() + self.frames as usize * FRAME_BYTES
    }

    pub fn body_bytes(&self) -> usize {
        self.chunks_at() + self.chunks as usize * CHUNK_BYTES
    }

    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(MAGIC);
        head[4..6].copy_from_slice(&VERSION.to_le_bytes());
        head[8..12].copy_from_slice(&self.packs.to_le_bytes());
        head[12..16].copy_from_slice(&self.replaced.to_le_bytes());
        head[16..24].copy_from_slice(&self.frames.to_le_bytes());
        head[24..].copy_from_slice(&self.chunks.to_le_bytes());
        head
    }

    pub fn decode(body: &[u8]) -> Result<Self> {
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
    pub(super) first_frame: u32,
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
    pub(super) fn same_pack(&self, other: &Self) -> bool {
        let plain = |entry: &Self| Self {
            origin: ObjectId::default(),
            first_frame: 0,
            ..*entry
        };
        plain(self) == plain(other)
    }

    pub(super) fn encode(&self) -> [u8; PACK_BYTES] {
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

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
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
    pub(super) fn encode(&self) -> [u8; CHUNK_BYTES] {
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

    pub(super) fn decode(bytes: &[u8]) -> Self {
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
