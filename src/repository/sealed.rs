//! The container of every encrypted object that is not a pack: documents and index segments.
//!
//! ```text
//!  0  "kfso"   4  u16 version (1)   6  u8 object kind   7  u8 flags (1: the body is one zstd frame)
//!  8  u32 key epoch   12  u32 section length s (1 MiB)
//! 16  32 salt   48  32 key commitment
//! 80  sections: every one but the last holds s bytes of the body; each is followed by its 16-byte tag
//! ```
//! Section `n` is encrypted with counter `n`; the last says so in its additional data, so a cut object is noticed. The
//! flags are in the additional data too, as nothing else protects them.
//! An empty body is one empty section.

use super::codec::Fields;
use super::crypto::{ObjectKey, Owner, Part, Ring, TAG_BYTES};
use crate::error::{Error, Kind, Result};
use crate::id::random_bytes;
use std::io::Read;
use std::ops::Range;

const MAGIC: &[u8; 4] = b"kfso";
const VERSION: u16 = 1;
const COMPRESSED: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 80;
/// Plaintext bytes of a section: what a reader holds at a time.
pub(crate) const SECTION_BYTES: usize = 1 << 20;
/// A reader refuses longer sections.
const SECTION_BYTES_MAX: usize = 16 << 20;
/// A document is never longer than this once decompressed; index segments are read section by section instead.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;
/// zstd level of documents: they are small and written once.
const LEVEL: i32 = 3;

/// Encrypts a body that arrives in pieces.
pub(crate) struct Sealer {
    key: ObjectKey,
    owner: Owner,
    counter: u64,
    flags: u8,
    section_bytes: usize,
    section: Vec<u8>,
    output: Vec<u8>,
}

impl Sealer {
    pub(crate) fn new(ring: &Ring, owner: Owner) -> Result<Self> {
        Self::with_flags(ring, owner, 0)
    }

    fn with_flags(ring: &Ring, owner: Owner, flags: u8) -> Result<Self> {
        Self::begin(ring, owner, flags, random_bytes(), SECTION_BYTES)
    }

    fn begin(
        ring: &Ring,
        owner: Owner,
        flags: u8,
        salt: [u8; 32],
        section_bytes: usize,
    ) -> Result<Self> {
        let epoch = ring.current();
        let key = ring.object_key(epoch, &salt)?;
        let mut output = MAGIC.to_vec();
        output.extend(VERSION.to_le_bytes());
        output.extend([owner.kind as u8, flags]);
        output.extend(epoch.to_le_bytes());
        output.extend((section_bytes as u32).to_le_bytes());
        output.extend(salt);
        output.extend(key.commitment);
        Ok(Self {
            key,
            owner,
            counter: 0,
            flags,
            section_bytes,
            section: Vec::new(),
            output,
        })
    }

    /// Takes more of the body; a section is encrypted when it is known not to be the last.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.section.len() == self.section_bytes {
                self.seal_section(false);
            }
            let take = bytes.len().min(self.section_bytes - self.section.len());
            self.section.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
        }
    }

    /// What is ready to be stored, and forgotten here.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.seal_section(true);
        self.output
    }

    fn seal_section(&mut self, last: bool) {
        let place = self.owner.place(
            Part::Section {
                last,
                flags: self.flags,
            },
            self.counter,
            self.section.len() as u32,
        );
        self.key.encrypt(self.counter, &place, &mut self.section);
        self.output.append(&mut self.section);
        self.counter += 1;
    }
}

/// The sealed bytes of a whole document.
pub(crate) fn seal(ring: &Ring, owner: Owner, document: &[u8]) -> Result<Vec<u8>> {
    let compressed = zstd::bulk::compress(document, LEVEL)
        .map_err(|error| Error::io("compressing a document", error))?;
    let pays = compressed.len() < document.len();
    let mut sealer = Sealer::with_flags(ring, owner, if pays { COMPRESSED } else { 0 })?;
    sealer.push(if pays { &compressed } else { document });
    Ok(sealer.finish())
}

/// The document in these sealed bytes.
pub(crate) fn open(ring: &Ring, owner: Owner, object: &[u8]) -> Result<Vec<u8>> {
    let opener = Opener::new(ring, owner, object, object.len() as u64)?;
    let mut body = Vec::with_capacity(object.len());
    for section in 0..opener.sections() {
        let range = opener.section(section);
        let mut bytes = object[range.start as usize..range.end as usize].to_vec();
        opener.open(section, &mut bytes)?;
        body.append(&mut bytes);
    }
    if opener.flags & COMPRESSED == 0 {
        return Ok(body);
    }
    let mut document = Vec::new();
    zstd::stream::read::Decoder::new(body.as_slice())
        .and_then(|decoder| {
            decoder
                .take(DOCUMENT_BYTES_MAX + 1)
                .read_to_end(&mut document)
        })
        .map_err(|error| {
            Error::new(
                Kind::Damaged,
                format!("a document cannot be decompressed: {error}"),
            )
        })?;
    if document.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::new(
            Kind::Damaged,
            "a document is longer than any that keepfs writes",
        ));
    }
    Ok(document)
}

/// Decrypts a sealed object section by section.
pub(crate) struct Opener {
    key: ObjectKey,
    owner: Owner,
    object_bytes: u64,
    section_bytes: u64,
    flags: u8,
}

impl Opener {
    /// Reads the fixed head of an object that is `object_bytes` long in all.
    pub(crate) fn new(ring: &Ring, owner: Owner, head: &[u8], object_bytes: u64) -> Result<Self> {
        let damaged =
            |why: &str| Error::new(Kind::Damaged, format!("a sealed object is damaged: {why}"));
        let mut fields = Fields(head);
        if fields.bytes(4).ok() != Some(MAGIC) {
            return Err(damaged("it does not begin like one"));
        }
        if fields.u16()? > VERSION {
            return Err(Error::new(
                Kind::TooNew,
                "an object was written by a newer keepfs; use that one",
            ));
        }
        let (kind, flags) = (fields.u8()?, fields.u8()?);
        let (epoch, section_bytes) = (fields.u32()?, fields.u32()?);
        let salt = fields.array()?;
        let commitment: [u8; 32] = fields.array()?;
        let sizes_fit = section_bytes > 0
            && section_bytes as usize <= SECTION_BYTES_MAX
            && object_bytes >= (HEADER_BYTES + TAG_BYTES) as u64;
        if kind != owner.kind as u8 || flags & !COMPRESSED != 0 || !sizes_fit {
            return Err(damaged("its head is not one of ours"));
        }
        let key = ring.object_key(epoch, &salt)?;
        if key.commitment != commitment {
            return Err(damaged(
                "its key is not derived from this repository's ring",
            ));
        }
        let opener = Self {
            key,
            owner,
            object_bytes,
            section_bytes: section_bytes.into(),
            flags,
        };
        let last = opener.section(opener.sections() - 1);
        if last.end - last.start < TAG_BYTES as u64 {
            return Err(damaged("it is cut short"));
        }
        Ok(opener)
    }

    /// How many sections there are; at least one.
    pub(crate) fn sections(&self) -> u64 {
        let body = self.object_bytes - HEADER_BYTES as u64;
        body.div_ceil(self.section_bytes + TAG_BYTES as u64)
    }

    /// Where a section lies in the object.
    pub(crate) fn section(&self, number: u64) -> Range<u64> {
        let stride = self.section_bytes + TAG_BYTES as u64;
        let start = HEADER_BYTES as u64 + number * stride;
        start..(start + stride).min(self.object_bytes)
    }

    /// Decrypts a section in place.
    pub(crate) fn open(&self, number: u64, bytes: &mut Vec<u8>) -> Result<()> {
        let last = number + 1 == self.sections();
        let plain_bytes = bytes.len().saturating_sub(TAG_BYTES) as u32;
        let flags = self.flags;
        let place = self
            .owner
            .place(Part::Section { last, flags }, number, plain_bytes);
        self.key.decrypt(number, &place, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ObjectId;
    use crate::repository::crypto::ObjectKind;

    /// The body `0, 1, … 39` of a document in sections of 16 bytes, with salt 5, 5, … under a ring of one epoch.
    const GOLDEN: &str = "6b66736f0100060000000000100000000505050505050505050505050505050505050505050505050505050505050505\
        51e5713abf84c37f8b3e3a77e004c7f41458d9241b8e36fdbb9d1d548be670f0055dcfce2e76fdf407226ff7d515d3aa\
        5c97315e9d307c0d4ae1d13868128dbbd6b85bb64d607926c3f5c5c4c37eceee06a03fd676f03d159184954785fd7129\
        debd38813b1f10b41933425d10f53cc07517586a6af99081";

    fn ring() -> Ring {
        let mut document = vec![1, 0, 0, 0];
        document.extend([0xaa; 16]);
        document.extend(1u64.to_le_bytes());
        document.extend(0u32.to_le_bytes());
        document.extend([0x40; 32]);
        super::super::decode(&document).expect("a ring")
    }

    fn owner() -> Owner {
        Owner {
            repository: ObjectId([0xaa; 16]),
            kind: ObjectKind::Index,
            id: ObjectId([9; 16]),
            number: 0,
        }
    }

    #[test]
    fn several_sections_have_the_bytes_of_format_1() {
        let owner = owner();
        let mut sealer = Sealer::begin(&ring(), owner, 0, [5; 32], 16).expect("seals");
        let body: Vec<u8> = (0..40).collect();
        body.chunks(7).for_each(|piece| sealer.push(piece));
        let object = sealer.finish();
        assert_eq!(object.len(), HEADER_BYTES + 40 + 3 * TAG_BYTES);
        let hex: String = object.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(open(&ring(), owner, &object).expect("opens"), body);
        // Without its last section it is not whole, wherever a section ends.
        for sections in [1, 2] {
            let cut = HEADER_BYTES + sections * (16 + TAG_BYTES);
            let refused = open(&ring(), owner, &object[..cut]).expect_err("is cut short");
            assert_eq!(refused.kind(), Kind::Damaged);
        }
    }

    #[test]
    fn a_compressed_body_is_never_taken_for_what_it_holds() {
        let owner = owner();
        let object = seal(&ring(), owner, &[7; 1000]).expect("seals");
        assert_eq!(object[7], COMPRESSED);
        let mut bent = object.clone();
        bent[7] = 0;
        let refused = open(&ring(), owner, &bent).expect_err("is not what was written");
        assert_eq!(refused.kind(), Kind::Damaged);
        assert_eq!(open(&ring(), owner, &object).expect("opens"), [7; 1000]);
    }
}
