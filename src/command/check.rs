//! `check`: whether everything that restore points need is there and sound.

use super::{Host, engine};
use crate::check;
use crate::config::RepositoryPlace;
use crate::error::Result;
use crate::progress::Progress;
use serde::Serialize;

/// What a check of one repository found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The repository.
    pub repository: String,
    /// Whether every byte of every pack was read.
    pub read_data: bool,
    /// What was seen and what is wrong.
    #[serde(flatten)]
    pub found: check::Report,
}

/// Checks these repositories; all configured ones when none is named. With `read_data` every byte is read.
pub fn check(
    host: &Host,
    places: Vec<RepositoryPlace>,
    read_data: bool,
    progress: &Progress,
) -> Result<Vec<CheckReport>> {
    let places = if places.is_empty() {
        host.config().all()?
    } else {
        places
    };
    let alone = places.len() == 1;
    let reports = places.iter().map(|place| {
        let catalog = host.catalog(place, alone)?;
        engine::check(place, &catalog, read_data, progress)
    });
    reports.collect()
}
