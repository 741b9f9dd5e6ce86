//! `prune`: what no restore point needs any more is deleted.

use super::{Host, engine};
use crate::config::RepositoryPlace;
use crate::error::Result;
use crate::progress::Progress;
use crate::prune;
use serde::Serialize;

pub use crate::prune::{MAX_DEAD, Options as PruneArguments};

/// What was done in one repository, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct PruneReport {
    /// The repository.
    pub repository: String,
    /// What was done.
    #[serde(flatten)]
    pub done: prune::Report,
}

/// Prunes these repositories; all configured ones when none is named.
pub fn prune(
    host: &Host,
    places: Vec<RepositoryPlace>,
    arguments: PruneArguments,
    progress: &Progress,
) -> Result<Vec<PruneReport>> {
    let places = match places.is_empty() {
        true => host.config().all()?,
        false => places,
    };
    let alone = places.len() == 1;
    let reports = places.iter().map(|place| {
        let catalog = host.catalog(place, alone)?;
        Ok(PruneReport {
            repository: place.name.clone(),
            done: engine::prune(&catalog, &arguments, progress)?,
        })
    });
    reports.collect()
}
