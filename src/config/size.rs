//! Sizes as people write them: `16 MiB`, `1GiB`, `1048576`.

use crate::error::{Error, Kind, Result};
use serde::de::{Deserialize, Deserializer, Error as _};

/// Units and what they multiply by. Only powers of 1024: a pack is memory and disk, not a price.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
];

/// Bytes from `16 MiB`, `16M`, `1 GiB` or a plain number. [`Kind::Invalid`] for anything else.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || {
        let message = format!("{text:?} is not a size; write it as \"16 MiB\"");
        Error::new(Kind::Invalid, message)
    };
    let text = text.trim();
    let end = text
        .find(|digit: char| !digit.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..end].parse().map_err(|_| wrong())?;
    let unit = text[end..].trim().to_ascii_lowercase();
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    number.checked_mul(*factor).ok_or_else(wrong)
}

/// Units of a rate. Lines are sold in powers of 1000.
const RATE_UNITS: [(&str, u64); 7] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

/// Bytes a second from `20 MB/s` or `512 KiB/s`. [`Kind::Invalid`] for anything else, and for none at all.
pub fn parse_rate(text: &str) -> Result<u64> {
    let read = || {
        let size = text.trim().strip_suffix("/s")?.trim();
        let end = size.find(|digit: char| !digit.is_ascii_digit())?;
        let number: u64 = size[..end].parse().ok()?;
        let unit = size[end..].trim().to_ascii_lowercase();
        let (_, factor) = RATE_UNITS.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(*factor).filter(|rate| *rate > 0)
    };
    read().ok_or_else(|| {
        let message = format!("{text:?} is not a rate; write it as \"20 MB/s\"");
        Error::new(Kind::Invalid, message)
    })
}

pub(super) fn deserialize_rate<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    parse_rate(&text).map(Some).map_err(D::Error::custom)
}

/// A size in the configuration: a string with a unit, or a number of bytes.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "expected a size like \"16 MiB\"")]
    enum Written {
        Bytes(u64),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Bytes(bytes) => Ok(Some(bytes)),
        Written::Text(text) => parse_size(&text).map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("16 MiB", 16 << 20),
            ("16MiB", 16 << 20),
            ("1 gib", 1 << 30),
            ("512 KiB", 512 << 10),
            ("64M", 64 << 20),
            (" 7 ", 7),
        ] {
            assert_eq!(parse_size(text).expect(text), bytes);
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5 MiB",
            "16 MB",
            "99999999999 GiB",
            "1 MiB 2",
        ] {
            let refused = parse_size(text).expect_err(text);
            assert_eq!(refused.kind(), Kind::Invalid, "{text}");
        }
    }
}
