//! Durations as people write them: `24h`, `90 min`, `2 days`, `0`.

use crate::error::{Error, Kind, Result};
use serde::de::{Deserialize, Deserializer, Error as _};

/// Units and their seconds.
const UNITS: [(&str, i64); 15] = [
    ("s", 1),
    ("sec", 1),
    ("second", 1),
    ("seconds", 1),
    ("m", 60),
    ("min", 60),
    ("minute", 60),
    ("minutes", 60),
    ("h", 60 * 60),
    ("hour", 60 * 60),
    ("hours", 60 * 60),
    ("d", 24 * 60 * 60),
    ("day", 24 * 60 * 60),
    ("days", 24 * 60 * 60),
    ("w", 7 * 24 * 60 * 60),
];

/// Seconds from `24h`, `90 min`, `2 days` or `0`. [`Kind::Invalid`] for anything else: a number needs a unit.
pub fn parse_duration(text: &str) -> Result<i64> {
    let wrong = || {
        let message = format!("{text:?} is not a duration; write it as 24h, 90m or 2d");
        Error::new(Kind::Invalid, message)
    };
    let text = text.trim();
    if text == "0" {
        return Ok(0);
    }
    let end = text
        .find(|digit: char| !digit.is_ascii_digit())
        .ok_or_else(wrong)?;
    let number: i64 = text[..end].parse().map_err(|_| wrong())?;
    let unit = text[end..].trim().to_ascii_lowercase();
    let (_, seconds) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    number.checked_mul(*seconds).ok_or_else(wrong)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<i64>, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("0", 0),
            ("30s", 30),
            ("90 min", 5400),
            ("24h", 86_400),
            ("2 Days", 172_800),
            ("1w", 604_800),
        ] {
            assert_eq!(parse_duration(text).unwrap(), seconds, "{text}");
        }
        for text in [
            "",
            "5",
            "h",
            "-1h",
            "1.5h",
            "1 fortnight",
            "9999999999999999d",
        ] {
            assert_eq!(
                parse_duration(text).unwrap_err().kind(),
                Kind::Invalid,
                "{text}"
            );
        }
    }
}
