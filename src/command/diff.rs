//! `diff`: how two restore points, or two directories in them, differ.

use super::{Host, Selected, text};
use crate::config::Place;
use crate::error::{Error, Kind, Result};
use crate::point::{self, Change, Difference};
use serde::Serialize;
use std::collections::BTreeMap;

/// One difference.
#[derive(Clone, Debug, Serialize)]
pub struct DiffLine {
    /// `+` only in the second, `-` only in the first, `T` another type, `M` other content, `U` other attributes.
    pub change: char,
    /// Path below the two tops.
    pub path: String,
    /// Bytes in the first.
    pub first_bytes: Option<u64>,
    /// Bytes in the second.
    pub second_bytes: Option<u64>,
}

/// How many differences of each kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DiffReport {
    /// Counts by the letters of [`DiffLine::change`].
    pub counts: BTreeMap<char, u64>,
}

impl DiffReport {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.counts.is_empty()
    }
}

/// Tells every difference, in order of names. Directories with the same id are not read.
pub fn diff(
    host: &Host,
    first: &Place,
    second: &Place,
    tell: &mut dyn FnMut(DiffLine) -> Result<()>,
) -> Result<DiffReport> {
    let same = first.repository.name == second.repository.name;
    let one = host.select(first, same)?;
    let two = if same {
        super::host::select(&one.catalog, second)?
    } else {
        host.select(second, false)?
    };
    let mut report = DiffReport::default();
    let mut count = |difference: Difference| {
        let line = line(difference);
        *report.counts.entry(line.change).or_default() += 1;
        tell(line)
    };
    point::diff(
        (&one.trees, directory(&one)?),
        (&two.trees, directory(&two)?),
        &mut count,
    )?;
    Ok(report)
}

fn directory(selected: &Selected) -> Result<&point::Tree> {
    selected.entry.tree().ok_or_else(|| {
        let message = format!(
            "{} is a {}; name the directory that holds it",
            text(&selected.path),
            selected.entry.node.type_name()
        );
        Error::new(Kind::Invalid, message)
    })
}

fn line(difference: Difference) -> DiffLine {
    let change = match difference.change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Type => 'T',
        Change::Content => 'M',
        Change::Attributes => 'U',
    };
    DiffLine {
        change,
        path: text(&difference.path),
        first_bytes: difference.first.map(|entry| entry.size()),
        second_bytes: difference.second.map(|entry| entry.size()),
    }
}
