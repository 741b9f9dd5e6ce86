//! Identifiers: 32-byte ids of content and 16-byte ids of objects, printed as lower-case hexadecimal.

use crate::error::{Error, Kind, Result};
use bincode::{Decode, Encode};
use std::fmt;
use std::str::FromStr;

/// The BLAKE3-256 of a chunk's plaintext.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The id of this content.
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }
}

/// The random (or, for points and backups, keyed) 16-byte id of an object or a repository.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct ObjectId(pub [u8; 16]);

impl ObjectId {
    /// A new id from the kernel's random generator.
    pub fn random() -> Self {
        Self(random_bytes())
    }
}

/// `N` bytes from the kernel's random generator.
#[allow(clippy::disallowed_methods)] // the one place that may ask the kernel
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random generator answers once booted");
    bytes
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// `N` bytes from `2 N` lower-case hexadecimal digits; fails with [`Kind::Invalid`] on anything else.
pub fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N]> {
    let wrong = || {
        Error::new(
            Kind::Invalid,
            format!("{text:?} is not {} lower-case hexadecimal digits", 2 * N),
        )
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(wrong());
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(wrong()),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Ok(bytes)
}

macro_rules! hexadecimal {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                parse_hex(text).map(Self)
            }
        }
    )*};
}
hexadecimal!(ChunkId, ObjectId);
