//! Documents as bytes: a versioned envelope around `bincode` 2.0.1 with fixed-width little-endian integers.
//!
//! ```text
//! 0  u16  version of this document (1)
//! 2  u16  zero
//! 4       the document: integers little-endian and fixed-width; a sequence is its u64 length and its items;
//!         an optional value is one byte (0 or 1) and the value; a choice is its u32 number and its fields
//! ```
//! The golden bytes in `tests/golden.rs` are the specification, `bincode` is only how we write it.

use crate::error::{Error, Kind, Result};
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// The version of every document that this program writes.
const VERSION: u16 = 1;
/// The most that decoding one document may allocate, bytes. Pages and records are far smaller by construction.
const DECODE_BYTES_MAX: usize = 32 << 20;

type Layout = Configuration<LittleEndian, Fixint, Limit<DECODE_BYTES_MAX>>;

fn layout() -> Layout {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<DECODE_BYTES_MAX>()
}

/// The document's bytes.
pub fn encode<T: Encode>(document: &T) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    bytes.extend([0, 0]);
    let unlimited = bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding();
    bincode::encode_into_std_write(document, &mut bytes, unlimited)
        .expect("our documents hold nothing that cannot be encoded");
    bytes
}

/// The document in these bytes. Fails with `TooNew` on a newer version and `Damaged` on anything that is not
/// exactly one document.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T> {
    let damaged = |why: &str| {
        Error::new(
            Kind::Damaged,
            format!("a document cannot be decoded: {why}"),
        )
    };
    let [low, high, 0, 0, rest @ ..] = bytes else {
        return Err(damaged("its envelope is not ours"));
    };
    match u16::from_le_bytes([*low, *high]) {
        VERSION => {}
        0 => return Err(damaged("its version is zero")),
        newer => {
            let message = format!(
                "a document has version {newer}; this keepfs knows {VERSION}; use a newer keepfs"
            );
            return Err(Error::new(Kind::TooNew, message));
        }
    }
    match bincode::decode_from_slice(rest, layout()) {
        Ok((document, used)) if used == rest.len() => Ok(document),
        Ok(_) => Err(damaged("bytes follow its end")),
        Err(error) => Err(damaged(&error.to_string())),
    }
}

/// Reads fixed-width little-endian integers off the front of bytes; every read is checked.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.0.len() {
            return Err(Error::new(Kind::Damaged, "a structure is cut short"));
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("bytes() returned N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
