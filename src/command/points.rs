//! `points`: which restore points there are.

use super::host::required_backup;
use super::{Host, text};
use crate::config::Place;
use crate::error::{Error, Kind, Result};
use crate::point::{Backup, Contents, LATEST, Point};
use serde::Serialize;
use std::sync::Arc;

/// One complete restore point.
#[derive(Clone, Debug, Serialize)]
pub struct PointLine {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// When its source was read, RFC 3339.
    pub time: String,
    /// When it was sealed, RFC 3339.
    pub sealed: String,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// The host whose data it is.
    pub host: String,
    /// What was read there.
    pub paths: Vec<String>,
    /// Whether it is a copy of a point of another repository.
    pub copied: bool,
    /// Whether it is the newest.
    pub latest: bool,
}

/// One backup with its points, oldest first.
#[derive(Clone, Debug, Serialize)]
pub struct BackupLine {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<PointLine>,
}

/// What a repository holds.
#[derive(Clone, Debug, Serialize)]
pub struct PointsReport {
    /// The repository.
    pub repository: String,
    /// Its backups, by name.
    pub backups: Vec<BackupLine>,
    /// Records that cannot be read: object, reason.
    pub problems: Vec<(String, String)>,
}

/// The points of one repository, one backup, or one point. Of all configured repositories without a place.
pub fn points(host: &Host, place: Option<&Place>) -> Result<Vec<PointsReport>> {
    let Some(place) = place else {
        let all = host.config().all()?;
        let alone = all.len() == 1;
        let places = all.into_iter().map(|repository| Place {
            repository,
            backup: None,
            point: None,
            path: Vec::new(),
        });
        return places.map(|place| of_place(host, &place, alone)).collect();
    };
    Ok(vec![of_place(host, place, true)?])
}

fn of_place(host: &Host, place: &Place, alone: bool) -> Result<PointsReport> {
    let catalog = host.catalog(&place.repository, alone)?;
    let contents = catalog.contents();
    if place.backup.is_some() {
        require(&contents, place)?;
    }
    let wanted = |backup: &&Arc<Backup>| {
        place
            .backup
            .as_ref()
            .is_none_or(|name| name == backup.name())
    };
    let backups = contents.backups.values().filter(wanted);
    Ok(PointsReport {
        repository: place.repository.name.clone(),
        backups: backups
            .map(|backup| backup_line(&contents, backup, place.point.as_deref()))
            .collect(),
        problems: contents.problems.clone().into_iter().collect(),
    })
}

fn require(contents: &Contents, place: &Place) -> Result<()> {
    let backup = required_backup(place)?;
    if let Some(point) = &place.point {
        return super::host::point_of(contents, place, backup, point).map(|_| ());
    }
    if contents.backups.contains_key(backup) {
        return Ok(());
    }
    let message = format!("{} has no backup {}", place.repository.name, text(backup));
    Err(Error::new(Kind::NotFound, message))
}

fn backup_line(contents: &Contents, backup: &Backup, wanted: Option<&[u8]>) -> BackupLine {
    let latest = contents.latest(backup.id).map(|point| point.id);
    let mut points: Vec<_> = contents
        .points_of(backup.id)
        .filter(|point| match wanted {
            None => true,
            Some(LATEST) => Some(point.id) == latest,
            Some(name) => point.name() == name,
        })
        .collect();
    points.sort_by_key(|point| (point.record.time, point.record.sequence));
    BackupLine {
        name: text(backup.name()),
        points: points
            .into_iter()
            .map(|point| point_line(point, Some(point.id) == latest))
            .collect(),
    }
}

fn point_line(point: &Point, latest: bool) -> PointLine {
    let record = &point.record;
    PointLine {
        name: text(point.name()),
        id: point.id.to_string(),
        time: record.time.rfc3339(),
        sealed: record.sealed.rfc3339(),
        entries: record.tree.entries,
        bytes: record.tree.bytes,
        host: record.source.host.clone(),
        paths: record.source.paths.iter().map(|path| text(path)).collect(),
        copied: record.origin.is_some(),
        latest,
    }
}
