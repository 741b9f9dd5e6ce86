//! `forget`: a restore point goes into the trash. No data is deleted by it.

use super::{Host, text};
use crate::config::Place;
use crate::error::{Error, Kind, Result};
use serde::Serialize;

/// A forgotten point.
#[derive(Clone, Debug, Serialize)]
pub struct ForgetReport {
    /// The repository.
    pub repository: String,
    /// The backup.
    pub backup: String,
    /// The point's name.
    pub point: String,
}

/// Forgets each of the points. All are found before the first is touched.
pub fn forget(host: &Host, places: &[Place]) -> Result<Vec<ForgetReport>> {
    let alone = places
        .windows(2)
        .all(|two| two[0].repository.name == two[1].repository.name);
    let mut found = Vec::new();
    for place in places {
        if !place.path.is_empty() {
            let message = format!(
                "a restore point is forgotten as a whole; {} is only a part of one",
                text(&place.path)
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        found.push((place, host.select(place, alone)?));
    }
    let forgotten = found.into_iter().map(|(place, selected)| {
        selected.catalog.forget(&selected.point)?;
        Ok(ForgetReport {
            repository: place.repository.name.clone(),
            backup: text(&selected.backup),
            point: text(selected.point.name()),
        })
    });
    forgotten.collect()
}
