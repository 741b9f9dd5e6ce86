//! `undelete` and `points --trash`: what was forgotten, until when it can be brought back, and bringing it back.

use super::{Host, text};
use crate::clock::Time;
use crate::config::Place;
use crate::error::{Error, Kind, Result};
use crate::point::{Catalog, Contents, Forgotten};
use serde::Serialize;

/// A forgotten point.
#[derive(Clone, Debug, Serialize)]
pub struct TrashLine {
    /// Its backup.
    pub backup: String,
    /// Its name.
    pub point: String,
    /// When its source was read, RFC 3339.
    pub time: String,
    /// When it was forgotten, by the store's clock, RFC 3339.
    pub forgotten: String,
    /// Until when it can be brought back, RFC 3339; a prune after that removes it.
    pub goes: String,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// The trash of a repository.
#[derive(Clone, Debug, Serialize)]
pub struct TrashReport {
    /// The repository.
    pub repository: String,
    /// What is in it, in the order in which it goes.
    pub points: Vec<TrashLine>,
}

/// A point that was brought back.
#[derive(Clone, Debug, Serialize)]
pub struct UndeleteReport {
    /// The repository.
    pub repository: String,
    /// The backup.
    pub backup: String,
    /// The point's name.
    pub point: String,
}

/// What is in the trash of one repository or one backup; of all configured repositories without a place.
pub fn trash(host: &Host, place: Option<&Place>) -> Result<Vec<TrashReport>> {
    let Some(place) = place else {
        let all = host.config().all()?;
        let alone = all.len() == 1;
        let reports = all.into_iter().map(|repository| {
            let catalog = host.catalog(&repository, alone)?;
            Ok(of_catalog(&catalog, repository.name, None, None))
        });
        return reports.collect();
    };
    let catalog = host.catalog(&place.repository, true)?;
    let name = place.repository.name.clone();
    let (backup, point) = (place.backup.as_deref(), place.point.as_deref());
    Ok(vec![of_catalog(&catalog, name, backup, point)])
}

fn of_catalog(
    catalog: &Catalog,
    repository: String,
    backup: Option<&[u8]>,
    point: Option<&[u8]>,
) -> TrashReport {
    let contents = catalog.contents();
    let lasts = catalog.repository().settings().trash_seconds();
    let mut found: Vec<&Forgotten> = contents
        .forgotten
        .iter()
        .filter(|forgotten| {
            backup.is_none_or(|name| is_of(&contents, forgotten, name))
                && point.is_none_or(|name| name == forgotten.point.name())
        })
        .collect();
    found.sort_by_key(|forgotten| (forgotten.at, forgotten.point.record.sequence));
    let line = |forgotten: &Forgotten| {
        let record = &forgotten.point.record;
        let at = forgotten.at;
        TrashLine {
            backup: backup_name(&contents, forgotten),
            point: text(forgotten.point.name()),
            time: record.time.rfc3339(),
            forgotten: at.rfc3339(),
            goes: Time::new(at.seconds.saturating_add(lasts), at.nanoseconds).rfc3339(),
            entries: record.tree.entries,
            bytes: record.tree.bytes,
        }
    };
    TrashReport {
        repository,
        points: found.into_iter().map(line).collect(),
    }
}

fn is_of(contents: &Contents, forgotten: &Forgotten, backup: &[u8]) -> bool {
    let known = contents.backups.get(backup);
    known.is_some_and(|backup| backup.id == forgotten.point.record.backup)
}

fn backup_name(contents: &Contents, forgotten: &Forgotten) -> String {
    let id = forgotten.point.record.backup;
    let mut backups = contents.backups.values();
    let known = backups.find(|backup| backup.id == id);
    known.map_or_else(|| id.to_string(), |backup| text(backup.name()))
}

/// Brings a forgotten point back: of several of one name the one that was forgotten last.
pub fn undelete(host: &Host, place: &Place) -> Result<UndeleteReport> {
    let backup = super::host::required_backup(place)?;
    let Some(name) = place.point.as_deref().filter(|_| place.path.is_empty()) else {
        let message = format!(
            "say which restore point of {}; `keepfs points --trash {}` shows all",
            text(backup),
            place.repository.name
        );
        return Err(Error::new(Kind::Invalid, message));
    };
    let catalog = host.catalog(&place.repository, true)?;
    let contents = catalog.contents();
    if contents.point(backup, name).is_some() {
        let message = format!(
            "{} has a restore point {}; forget or rename that one first",
            text(backup),
            text(name)
        );
        return Err(Error::new(Kind::AlreadyExists, message));
    }
    let forgotten = contents
        .forgotten
        .iter()
        .filter(|forgotten| forgotten.point.name() == name && is_of(&contents, forgotten, backup))
        .max_by_key(|forgotten| (forgotten.at, forgotten.point.generation));
    let Some(forgotten) = forgotten else {
        let message = format!(
            "no restore point {} of {} is in the trash; `keepfs points --trash {}` shows all",
            text(name),
            text(backup),
            place.repository.name
        );
        return Err(Error::new(Kind::NotFound, message));
    };
    catalog.undelete(&forgotten.point)?;
    Ok(UndeleteReport {
        repository: place.repository.name.clone(),
        backup: text(backup),
        point: text(name),
    })
}
