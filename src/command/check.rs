//! `check`: whether everything that restore points need is there and sound.

use super::{Host, engine};
use crate::check;
use crate::config::RepositoryPlace;
use crate::error::Result;
use crate::point::Catalog;
use crate::progress::Progress;
use serde::Serialize;
use std::sync::Arc;

/// What a check of one repository found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The repository.
    pub repository: String,
    /// Whether every byte of every pack was read.
    pub read_data: bool,
    /// What rebuilding the index did, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuilt: Option<check::Rebuilt>,
    /// What was seen and what is wrong.
    #[serde(flatten)]
    pub found: check::Report,
}

/// What to do besides looking at the structure.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckArguments {
    /// Read and verify every byte.
    pub read_data: bool,
    /// First list the packs that no readable index segment lists.
    pub rebuild_index: bool,
}

/// Checks these repositories; all configured ones when none is named.
pub fn check(
    host: &Host,
    places: Vec<RepositoryPlace>,
    arguments: CheckArguments,
    progress: &Progress,
) -> Result<Vec<CheckReport>> {
    let places = if places.is_empty() {
        host.config().all()?
    } else {
        places
    };
    let alone = places.len() == 1;
    let reports = places.iter().map(|place| {
        let repository = host.open(place, alone)?;
        // Before the catalog: without an index it may not be readable.
        let rebuilt = match arguments.rebuild_index {
            true => Some(check::rebuild_index(&repository, progress)?),
            false => None,
        };
        let catalog = Arc::new(Catalog::open(repository)?);
        let report = engine::check(place, &catalog, arguments.read_data, progress)?;
        Ok(CheckReport { rebuilt, ..report })
    });
    reports.collect()
}
