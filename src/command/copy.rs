//! `copy`: restore points into another repository.

use super::host::point_of;
use super::{Host, ProblemReport, engine, text};
use crate::config::{Place, RepositoryPlace};
use crate::error::{Error, Kind, Result};
use crate::point::{Catalog, Point};
use crate::progress::Progress;
use serde::Serialize;
use std::sync::Arc;

/// A point with the name of its backup.
type Named = (Vec<u8>, Arc<Point>);

/// What a copy did, all points together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CopyReport {
    /// Points that the target has now, as BACKUP/POINT.
    pub copied: Vec<String>,
    /// Points that the target had already.
    pub present: Vec<String>,
    /// Points that could not be copied; the target has no part of them.
    pub problems: Vec<ProblemReport>,
    /// Ids of the copy sessions, one for each source repository.
    pub sessions: Vec<String>,
    /// Whether parts failed and somebody has to decide.
    pub needs_action: bool,
    /// Frames that moved as they were, never decompressed.
    pub frames_moved: u64,
    /// Frames that were cut and grouped anew.
    pub frames_cut: u64,
    /// Chunks that moved.
    pub chunks_moved: u64,
    /// Chunks that the target had already.
    pub chunks_present: u64,
    /// Bytes that were added to the target's store.
    pub stored_bytes: u64,
}

impl CopyReport {
    fn add(&mut self, other: Self) {
        self.copied.extend(other.copied);
        self.present.extend(other.present);
        self.problems.extend(other.problems);
        self.sessions.extend(other.sessions);
        self.needs_action |= other.needs_action;
        self.frames_moved += other.frames_moved;
        self.frames_cut += other.frames_cut;
        self.chunks_moved += other.chunks_moved;
        self.chunks_present += other.chunks_present;
        self.stored_bytes += other.stored_bytes;
    }
}

/// Points of one repository.
type Group = (Arc<Catalog>, Vec<Named>);

/// What is to be copied, and where to.
pub(super) struct Chosen {
    pub groups: Vec<Group>,
    pub target: Arc<Catalog>,
}

/// Copies every complete point that the places name (a repository, a backup, a point) into `target`, each under the
/// name of its backup. Everything is found before the first byte moves.
pub fn copy(
    host: &Host,
    sources: &[Place],
    target: &RepositoryPlace,
    progress: &Progress,
) -> Result<CopyReport> {
    let chosen = choose(host, sources, target)?;
    let telling = engine::Telling::of(host);
    let copied = copy_chosen(&chosen.groups, &chosen.target, &telling, progress);
    telling.deliver();
    copied
}

/// Every complete point that the places name.
pub(super) fn choose(host: &Host, sources: &[Place], target: &RepositoryPlace) -> Result<Chosen> {
    let mut groups: Vec<Group> = Vec::new();
    for place in sources {
        let catalog = host.catalog(&place.repository, false)?;
        let points = selected(&catalog, place)?;
        match groups
            .iter_mut()
            .find(|(known, _)| known.repository().id() == catalog.repository().id())
        {
            Some((_, all)) => all.extend(points),
            None => groups.push((catalog, points)),
        }
    }
    let target = host.catalog(target, false)?;
    for (source, points) in &groups {
        if source.repository().id() == target.repository().id() {
            let message = format!(
                "{} is source and target; a copy goes into another repository",
                target.repository().location()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        engine::admit(source.repository(), points, target.repository())?;
    }
    Ok(Chosen { groups, target })
}

pub(super) fn copy_chosen(
    groups: &[Group],
    target: &Catalog,
    telling: &engine::Telling,
    progress: &Progress,
) -> Result<CopyReport> {
    let mut report = CopyReport::default();
    for (source, points) in groups.iter().filter(|(_, points)| !points.is_empty()) {
        let (source, target) = (source.repository(), target.repository());
        report.add(engine::copy(source, points, target, telling, progress)?);
    }
    Ok(report)
}

fn selected(catalog: &Catalog, place: &Place) -> Result<Vec<Named>> {
    if !place.path.is_empty() {
        let message = format!(
            "a restore point is copied as a whole; {} is only a part of one",
            text(&place.path)
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    let contents = catalog.contents();
    if let (Some(backup), Some(point)) = (&place.backup, &place.point) {
        let point = point_of(&contents, place, backup, point)?;
        return Ok(vec![(backup.clone(), point)]);
    }
    if let Some(backup) = &place.backup
        && !contents.backups.contains_key(backup)
    {
        let message = format!("{} has no backup {}", place.repository.name, text(backup));
        return Err(Error::new(Kind::NotFound, message));
    }
    let backups = contents.backups.values().filter(|backup| {
        place
            .backup
            .as_ref()
            .is_none_or(|name| name == backup.name())
    });
    let points = backups.flat_map(|backup| {
        contents
            .points_of(backup.id)
            .map(|point| (backup.name().to_vec(), point.clone()))
    });
    Ok(points.collect())
}
