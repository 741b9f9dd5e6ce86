//! `move`: restore points into another repository. A point is forgotten where it was only when all of it is in the other
//! one: whatever ends the process before, both have it or the source has it.

use super::copy::{Chosen, choose, copy_chosen};
use super::engine::Telling;
use super::{CopyReport, Host, ProblemReport, text};
use crate::config::{Place, RepositoryPlace};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::point::{Needs, PointRecord, reach};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::store::names::{self, Name};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// What a move did, all points together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MoveReport {
    /// What was copied for it.
    #[serde(flatten)]
    pub copy: CopyReport,
    /// Points that are in the target only, as BACKUP/POINT.
    pub moved: Vec<String>,
    /// Points that the target has, and that stay in the source all the same.
    pub kept: Vec<ProblemReport>,
}

/// Copies as [`copy`](super::copy) does, then forgets each point that the target has whole. Fails as copying does; then
/// nothing is forgotten.
pub fn move_points(
    host: &Host,
    sources: &[Place],
    target: &RepositoryPlace,
    progress: &Progress,
) -> Result<MoveReport> {
    let Chosen { groups, target } = choose(host, sources, target)?;
    let telling = Telling::of(host);
    let copied = copy_chosen(&groups, &target, &telling, progress);
    telling.deliver();
    let mut report = MoveReport {
        copy: copied?,
        ..MoveReport::default()
    };
    let contents = target.refresh()?;
    let mut whole = Whole {
        absent: absent_packs(target.repository())?,
        // Points share most of what they need: that is looked at once.
        needs: Needs::default(),
    };
    for (source, backup, point) in groups.iter().flat_map(|(source, points)| {
        points
            .iter()
            .map(move |(name, point)| (source, name, point))
    }) {
        let there = contents.point(backup, point.name());
        // The copy has told why it is not there.
        let Some(there) = there.filter(|there| there.record.same_content(&point.record)) else {
            continue;
        };
        let path = format!("{}/{}", text(backup), text(point.name()));
        let let_go = whole
            .require(target.repository(), &there.record)
            .and_then(|()| source.forget(point));
        match let_go {
            Ok(()) => report.moved.push(path),
            Err(error) => report.kept.push(ProblemReport {
                path,
                sentence: error.to_string(),
            }),
        }
    }
    Ok(report)
}

/// What the target has.
struct Whole {
    /// Packs of its index that are not in its store as the index says.
    absent: HashSet<ObjectId>,
    needs: Needs,
}

impl Whole {
    /// Fails unless everything that a point needs is in a pack that is there.
    fn require(&mut self, target: &Repository, record: &PointRecord) -> Result<()> {
        let mut need = |id: &ChunkId| match target.find_outside(id, None, &self.absent)? {
            Some(_) => Ok(()),
            None => {
                let message = format!(
                    "the copy in {} lacks chunk {id}, so the source keeps the point; run `keepfs check` there",
                    target.location()
                );
                Err(Error::new(Kind::Damaged, message))
            }
        };
        let required = reach(target, record, &mut self.needs, &mut need);
        if required.is_err() {
            // What was gone through for it is not all there.
            self.needs = Needs::default();
        }
        required
    }
}

fn absent_packs(target: &Repository) -> Result<HashSet<ObjectId>> {
    target.refresh_index()?;
    let objects = target.store().list(names::PACKS)?;
    let packs = objects
        .into_iter()
        .filter_map(|object| match Name::parse(&object.name) {
            Some(Name::Pack(_, id)) => Some((id, object.size)),
            _ => None,
        });
    let packs: HashMap<ObjectId, u64> = packs.collect();
    let mut absent = HashSet::new();
    for segment in target.segments().iter() {
        for number in 0..segment.pack_count() {
            let listed = segment.pack(number)?;
            if packs.get(&listed.id) != Some(&listed.object_bytes.into()) {
                absent.insert(listed.id);
            }
        }
    }
    Ok(absent)
}
