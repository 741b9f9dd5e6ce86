//! The repository's first object: what it is, which version, and what a reader must understand.
//!
//! ```text
//!   0  8  "keepfs\x1a\n"
//!   8  u32 format version (1)       12  u32 length of this object (120)
//!  16  u64 flags that a reader must understand, else it refuses
//!  24  u64 flags that a writer must understand, else it only reads
//!  32  16 repository id             48  i64 created, seconds since 1970
//!  56  24 zero
//!  80  32 BLAKE3 of bytes 0..80, keyed by the ring's lasting key "header"
//! 112  8  first bytes of the BLAKE3 of bytes 0..112: tells damage from another key
//! ```

use super::codec::Fields;
use super::crypto::Ring;
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;

const MAGIC: &[u8; 8] = b"keepfs\x1a\n";
/// The format that this program writes.
pub const FORMAT_VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 120;
/// Flags this program understands. Format 1 has none yet.
const KNOWN_FLAGS: u64 = 0;

/// The header's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The repository's id.
    pub repository: ObjectId,
    /// When it was made; whole seconds.
    pub created: Time,
    /// Flags that a reader must understand.
    pub read_flags: u64,
    /// Flags that a writer must understand.
    pub write_flags: u64,
}

impl Header {
    /// A header for a new repository.
    pub fn new(repository: ObjectId, created: Time) -> Self {
        Self {
            repository,
            created: Time::new(created.seconds, 0),
            read_flags: 0,
            write_flags: 0,
        }
    }

    /// The header's bytes, authenticated by the ring.
    pub fn encode(&self, ring: &Ring) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((HEADER_BYTES as u32).to_le_bytes());
        bytes.extend(self.read_flags.to_le_bytes());
        bytes.extend(self.write_flags.to_le_bytes());
        bytes.extend(self.repository.0);
        bytes.extend(self.created.seconds.to_le_bytes());
        bytes.extend([0; 24]);
        let mac = blake3::keyed_hash(&ring.lasting_key("header"), &bytes);
        bytes.extend(mac.as_bytes());
        let checksum = blake3::hash(&bytes);
        bytes.extend(&checksum.as_bytes()[..8]);
        bytes
    }

    /// Reads a header that no key has confirmed yet. `NoRepository` when it is not one of ours at all, `TooNew`
    /// for a newer version or an unknown flag that a reader must understand, `Damaged` when its bytes changed.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        if fields.bytes(8).ok() != Some(MAGIC) {
            let message = "its object \"header\" is not a keepfs header";
            return Err(Error::new(Kind::NoRepository, message));
        }
        let damaged = |why| {
            Error::new(
                Kind::Damaged,
                format!("the repository's header is damaged: {why}"),
            )
        };
        let version = fields.u32().map_err(|_| damaged("it is cut short"))?;
        if version > FORMAT_VERSION {
            let message = format!(
                "the repository has format {version}; this keepfs knows format {FORMAT_VERSION}; use a newer keepfs"
            );
            return Err(Error::new(Kind::TooNew, message));
        }
        if version == 0 || bytes.len() != HEADER_BYTES {
            return Err(damaged("it has a wrong length or version"));
        }
        let checksum = blake3::hash(&bytes[..HEADER_BYTES - 8]);
        if checksum.as_bytes()[..8] != bytes[HEADER_BYTES - 8..] {
            return Err(damaged("its checksum does not match"));
        }
        fields.u32()?;
        let header = Self {
            read_flags: fields.u64()?,
            write_flags: fields.u64()?,
            repository: ObjectId(fields.array()?),
            created: Time::new(fields.u64()? as i64, 0),
        };
        if header.read_flags & !KNOWN_FLAGS != 0 {
            let unknown = header.read_flags & !KNOWN_FLAGS;
            let message = format!(
                "the repository uses features (flags {unknown:#x}) that this keepfs does not know; use a newer keepfs"
            );
            return Err(Error::new(Kind::TooNew, message));
        }
        Ok(header)
    }

    /// Checks that the ring's owner wrote these bytes.
    pub fn confirm(bytes: &[u8], ring: &Ring) -> Result<()> {
        let mac = blake3::keyed_hash(&ring.lasting_key("header"), &bytes[..80]);
        let stored: [u8; 32] = bytes[80..112]
            .try_into()
            .expect("decode() checked the length");
        if mac != stored {
            let message = "the repository's header is not the one its key authenticates; somebody exchanged it";
            return Err(Error::new(Kind::Damaged, message));
        }
        Ok(())
    }

    /// Whether this program may write: it understands every flag that a writer must.
    pub fn writable(&self) -> bool {
        self.write_flags & !KNOWN_FLAGS == 0
    }
}
