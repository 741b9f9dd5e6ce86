//! `points --open`: which restore points are being written on this host, or were left unfinished, and what marks of others
//! prune waits for.

use super::marks::{MarkLine, marks};
use super::{Host, ProblemReport, engine, text};
use crate::config::{Place, RepositoryPlace};
use crate::error::Result;
use crate::filesystem::OpenPointFacts;
use crate::id::ObjectId;
use crate::point::Contents;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// One open restore point.
#[derive(Clone, Debug, Serialize)]
pub struct OpenLine {
    /// Repository, backup and name: its path below a mount of all configured repositories.
    pub path: String,
    /// Its repository's name, or its id when no configured one has it.
    pub repository: String,
    /// Its backup's name, or its id when that cannot be read.
    pub backup: String,
    /// Its name.
    pub name: String,
    /// When it was begun, RFC 3339.
    pub started: String,
    /// Seconds since then.
    pub age_seconds: u64,
    /// User number of who began it.
    pub maker: u32,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// What to do about it.
    pub next: String,
}

/// The open points of this host, and the marks of those of others, oldest first.
#[derive(Clone, Debug, Serialize)]
pub struct OpenReport {
    /// The points.
    pub points: Vec<OpenLine>,
    /// Marks in the repositories that belong to none of them.
    pub marks: Vec<MarkLine>,
    /// Repositories whose names for them and marks cannot be read.
    pub problems: Vec<ProblemReport>,
}

/// What a repository's ids stand for.
struct Known {
    name: String,
    contents: Arc<Contents>,
}

/// The open points in this host's state directory, and the marks in the repositories that belong to none of them: all, or
/// those of one repository, one backup, or of one name. Fails when the repository of `place` cannot be opened; of others the
/// report tells.
pub fn open_points(host: &Host, place: Option<&Place>) -> Result<OpenReport> {
    let found = engine::open_points(&host.state_directory())?;
    let mut report = OpenReport {
        points: Vec::new(),
        marks: Vec::new(),
        problems: Vec::new(),
    };
    if found.is_empty() && place.is_none() && host.config().repositories.is_empty() {
        return Ok(report);
    }
    let known = match place {
        Some(place) => {
            let (id, names, marks) = look_at(host, &place.repository, Some(place), true)?;
            report.marks = marks;
            HashMap::from([(id, names)])
        }
        None => look_at_all(host, &mut report)?,
    };
    report.marks.sort_by(|one, two| one.since.cmp(&two.since));
    let now = host.clock().now();
    for facts in found {
        let repository = known.get(&facts.repository);
        if place.is_some_and(|place| !is_at(place, repository, &facts)) {
            continue;
        }
        let age = now.seconds.saturating_sub(facts.started.seconds);
        let age = u64::try_from(age).unwrap_or(0);
        report.points.push(line(repository, &facts, age));
    }
    Ok(report)
}

/// What the ids of a repository stand for, and the marks in it: all, or those of a place.
fn look_at(
    host: &Host,
    repository: &RepositoryPlace,
    place: Option<&Place>,
    alone: bool,
) -> Result<(ObjectId, Known, Vec<MarkLine>)> {
    let catalog = host.catalog(repository, alone)?;
    let name = repository.name.clone();
    let marks = marks(host, catalog.repository(), &name, place)?;
    let contents = catalog.contents();
    Ok((catalog.repository().id(), Known { name, contents }, marks))
}

fn look_at_all(host: &Host, report: &mut OpenReport) -> Result<HashMap<ObjectId, Known>> {
    let all = host.config().all()?;
    let alone = all.len() == 1;
    let mut known = HashMap::new();
    for repository in all {
        match look_at(host, &repository, None, alone) {
            Ok((id, names, marks)) => {
                known.insert(id, names);
                report.marks.extend(marks);
            }
            Err(error) => report.problems.push(ProblemReport {
                path: repository.name,
                sentence: error.to_string(),
            }),
        }
    }
    Ok(known)
}

fn backup_name(known: Option<&Known>, id: ObjectId) -> Option<Vec<u8>> {
    let mut backups = known?.contents.backups.values();
    let found = backups.find(|backup| backup.id == id)?;
    Some(found.name().to_vec())
}

fn is_at(place: &Place, known: Option<&Known>, facts: &OpenPointFacts) -> bool {
    let of_backup = |wanted: &Vec<u8>| backup_name(known, facts.backup).as_ref() == Some(wanted);
    known.is_some()
        && place.backup.as_ref().is_none_or(of_backup)
        && place.point.as_ref().is_none_or(|name| *name == facts.name)
}

fn line(known: Option<&Known>, facts: &OpenPointFacts, age_seconds: u64) -> OpenLine {
    let repository = known.map_or_else(|| facts.repository.to_string(), |known| known.name.clone());
    let backup = backup_name(known, facts.backup);
    let backup = backup.map_or_else(|| facts.backup.to_string(), |name| text(&name));
    let name = text(&facts.name);
    OpenLine {
        path: format!("{repository}/{backup}/{name}"),
        started: facts.started.rfc3339(),
        age_seconds,
        maker: facts.maker,
        entries: facts.entries,
        bytes: facts.bytes,
        next: match &facts.doubts {
            Some(doubts) => format!("{doubts}; then {}", next_step(&name)),
            None => next_step(&name),
        },
        repository,
        backup,
        name,
    }
}

/// How a person finishes it, in the mount.
fn next_step(name: &str) -> String {
    match name.strip_suffix(".partial") {
        Some(sealed) => {
            format!("in the mount: `mv {name} {sealed}` seals it, `rmdir {name}` discards it")
        }
        None => format!(
            "in the mount: run the copy again, or `keepfs seal {name}` seals it as it is; `rmdir {name}` discards it"
        ),
    }
}
