//! `restore`: a restore point, or a part of it, out to plain files.

use super::{Host, ProblemReport, engine};
use crate::config::Place;
use crate::error::Result;
use crate::progress::Progress;
use serde::Serialize;
use std::path::Path;

/// What a restore did.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// Where it wrote.
    pub target: String,
    /// Names restored, directories included.
    pub entries: u64,
    /// Bytes of the files restored.
    pub bytes: u64,
    /// The first of what was left out.
    pub problems: Vec<ProblemReport>,
    /// How much was left out.
    pub problems_count: u64,
    /// The first of what is there, but not entirely as it was.
    pub warnings: Vec<ProblemReport>,
    /// How much is not entirely as it was.
    pub warnings_count: u64,
}

/// Restores what `place` names below the directory `target`, which is made if it is missing.
pub fn restore(
    host: &Host,
    place: &Place,
    target: &Path,
    numeric: bool,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport> {
    let selected = host.select(place, true)?;
    engine::restore(&selected, target, numeric, threads, progress)
}
