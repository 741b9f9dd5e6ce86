//! Which restore points are to be copied into which backups. Pure: only two lists are compared.

use crate::error::{Error, Kind, Result};
use crate::point::{Contents, Point};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Some restore points of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All points of all backups.
    Repository,
    /// All points of one backup.
    Backup(Vec<u8>),
    /// One point.
    Point {
        /// Name of its backup.
        backup: Vec<u8>,
        /// Its name.
        point: Vec<u8>,
    },
}

/// What is to be copied, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The points; those named twice are copied once.
    pub scopes: Vec<Scope>,
    /// The backup in the target that takes them all; none: each its namesake.
    pub into: Option<Vec<u8>>,
}

/// What is to be done with one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The target lacks it.
    Copy,
    /// The target has it.
    Present,
    /// The target's backup has another point of the same name.
    Conflict,
}

/// One point of a plan.
#[derive(Clone, Debug)]
pub struct Step {
    /// The point.
    pub point: Arc<Point>,
    /// Name of its backup in the source.
    pub from: Vec<u8>,
    /// Name of the backup in the target.
    pub into: Vec<u8>,
    /// What is to be done.
    pub verdict: Verdict,
}

/// Plans a copy: oldest first, so that each point is the base of the next. Fails with `NotFound` when the selection
/// names what the source does not have.
pub fn plan(selection: &Selection, source: &Contents, target: &Contents) -> Result<Vec<Step>> {
    let mut chosen: BTreeMap<(Vec<u8>, Vec<u8>), Arc<Point>> = BTreeMap::new();
    for scope in &selection.scopes {
        for (backup, point) in points_of(scope, source)? {
            chosen.insert((backup, point.name().to_vec()), point);
        }
    }
    let mut steps: Vec<_> = chosen
        .into_iter()
        .map(|((from, _), point)| Step {
            into: selection.into.clone().unwrap_or_else(|| from.clone()),
            verdict: Verdict::Copy,
            from,
            point,
        })
        .collect();
    steps.sort_by_key(|step| (step.point.record.time, step.point.record.sequence));
    judge(&mut steps, target);
    Ok(steps)
}

fn points_of(scope: &Scope, source: &Contents) -> Result<Vec<(Vec<u8>, Arc<Point>)>> {
    let all_of = |name: &[u8]| {
        let backup = source.backups.get(name)?;
        let points = source.points_of(backup.id);
        Some(
            points
                .map(|point| (name.to_vec(), point.clone()))
                .collect::<Vec<_>>(),
        )
    };
    match scope {
        Scope::Repository => Ok(source
            .backups
            .keys()
            .filter_map(|name| all_of(name))
            .flatten()
            .collect()),
        Scope::Backup(name) => all_of(name).ok_or_else(|| missing("backup", name)),
        Scope::Point { backup, point } => {
            if !source.backups.contains_key(backup) {
                return Err(missing("backup", backup));
            }
            let found = source
                .point(backup, point)
                .ok_or_else(|| missing("restore point", &[backup, &b"/"[..], point].concat()))?;
            Ok(vec![(backup.clone(), found.clone())])
        }
    }
}

fn missing(what: &str, name: &[u8]) -> Error {
    let message = format!(
        "the source has no {what} {}; `keepfs points` lists all",
        String::from_utf8_lossy(name)
    );
    Error::new(Kind::NotFound, message)
}

/// Compares each step with what the target has, and with the steps before it that take the same name.
pub(super) fn judge(steps: &mut [Step], target: &Contents) {
    let mut taken: BTreeMap<(Vec<u8>, Vec<u8>), Arc<Point>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for step in steps {
        let key = (step.into.clone(), step.point.name().to_vec());
        if seen.insert(key.clone())
            && let Some(there) = target.point(&key.0, &key.1)
        {
            taken.insert(key.clone(), there.clone());
        }
        step.verdict = match taken.get(&key) {
            None => Verdict::Copy,
            Some(other) if other.record.same_content(&step.point.record) => Verdict::Present,
            Some(_) => Verdict::Conflict,
        };
        taken.entry(key).or_insert_with(|| step.point.clone());
    }
}
