//! The sentences in which every kind of store says no, so that all of them say it alike.

use crate::error::{Error, Kind, Result};
use std::ops::Range;

/// The object is missing.
pub(super) fn not_found(name: &str, location: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no {name} in {location}"))
}

/// The name is taken.
pub(super) fn already_exists(name: &str, location: &str) -> Error {
    Error::new(
        Kind::AlreadyExists,
        format!("{name} exists in {location} already and was left as it is"),
    )
}

/// The object ends before the bytes that were asked for.
pub(super) fn too_short(name: &str, location: &str, range: &Range<u64>) -> Error {
    Error::new(
        Kind::Damaged,
        format!(
            "{name} in {location} ends before byte {}; run `keepfs check`",
            range.end
        ),
    )
}

/// The object is longer than what is read whole. A store that sends it must not take the reader's memory.
pub(super) fn too_large(name: &str, location: &str) -> Error {
    Error::new(
        Kind::Damaged,
        format!(
            "{name} in {location} is larger than anything that keepfs writes there; run `keepfs check`"
        ),
    )
}

/// Refuses a range that ends before it starts: that is a caller's mistake or a damaged index, never a store's fault.
pub(super) fn check_range(name: &str, range: &Range<u64>) -> Result<()> {
    if range.start <= range.end {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!(
            "bytes {}..{} of {name} end before they start",
            range.start, range.end
        ),
    ))
}

/// Refuses names that a path could take out of the store. Names come from [`super::names`], but also from listings.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if name.split('/').all(plain) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        format!("{name:?} is no object's name"),
    ))
}

/// Refuses a listing of half a name: a directory cannot answer it.
pub(super) fn not_a_prefix(prefix: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!("{prefix:?} is no prefix to list: it must end in `/` or be empty"),
    )
}
