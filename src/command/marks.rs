//! `points --open` and `forget --open`: marks in a repository of open points that are not this host's. Nothing ends such a
//! mark but its host, and prune waits for it.

use super::{Host, engine, text};
use crate::config::{Place, RepositoryPlace};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::repository::{FoundMark, Lease, Repository, host_name};
use serde::Serialize;
use std::sync::Arc;

/// What it means that a mark is gone.
const MEANING: &str = "the next prunes may delete what is stored for that open point alone. Should its host come back, it \
                       looks for each chunk before it seals: what is gone must be copied there again";

/// The mark of an open point that is not this host's.
#[derive(Clone, Debug, Serialize)]
pub struct MarkLine {
    /// The repository.
    pub repository: String,
    /// The mark's id.
    pub id: String,
    /// Repository, backup and name of the open point when the mark was made; of one that cannot be read, its object.
    pub path: String,
    /// The host that made it; empty when that cannot be read.
    pub host: String,
    /// When it was made, by the store's clock, RFC 3339.
    pub since: String,
    /// Seconds since then.
    pub age_seconds: u64,
    /// What to do about it.
    pub next: String,
}

/// A mark that was removed.
#[derive(Clone, Debug, Serialize)]
pub struct UnmarkReport {
    /// The mark.
    #[serde(flatten)]
    pub mark: MarkLine,
    /// What that means.
    pub meaning: &'static str,
}

/// A mark that may be removed.
#[derive(Debug)]
pub struct Unmarking {
    repository: Arc<Repository>,
    id: ObjectId,
    report: UnmarkReport,
}

impl Unmarking {
    /// What removing it means, for a person.
    pub fn sentence(&self) -> String {
        let UnmarkReport { mark, meaning } = &self.report;
        let host = match mark.host.as_str() {
            "" => String::new(),
            host => format!(" of {host}"),
        };
        format!(
            "{}{host}, marked since {}: {meaning}",
            mark.path, mark.since
        )
    }

    /// Removes it.
    pub fn execute(self) -> Result<UnmarkReport> {
        self.repository.remove_mark(self.id)?;
        Ok(self.report)
    }
}

/// The marks in a repository that belong to no open point in this host's state directory: of `place`, if there is one.
pub(super) fn marks(
    host: &Host,
    repository: &Repository,
    name: &str,
    place: Option<&Place>,
) -> Result<Vec<MarkLine>> {
    let found = repository.open_point_marks()?.into_iter();
    let others = found.filter(|mark| {
        !engine::has_open_point(&host.state_directory(), mark.id)
            && place.is_none_or(|place| is_at(place, mark))
    });
    Ok(others.map(|mark| line(host, name, &mark)).collect())
}

/// One that cannot be read may be anywhere.
fn is_at(place: &Place, mark: &FoundMark) -> bool {
    let Ok(Lease {
        name: Some((backup, point)),
        ..
    }) = &mark.lease
    else {
        return true;
    };
    place.backup.as_ref().is_none_or(|name| name == backup)
        && place.point.as_ref().is_none_or(|name| name == point)
}

fn line(host: &Host, repository: &str, mark: &FoundMark) -> MarkLine {
    let age = host.clock().now().seconds;
    let age = u64::try_from(age.saturating_sub(mark.since.seconds)).unwrap_or(0);
    let lease = mark.lease.as_ref();
    let name = lease.ok().and_then(|lease| lease.name.as_ref());
    let path = match name {
        Some((backup, point)) => format!("{repository}/{}/{}", text(backup), text(point)),
        None => format!("{repository}/leases/{}", mark.id),
    };
    MarkLine {
        repository: repository.to_owned(),
        id: mark.id.to_string(),
        path,
        host: lease.map_or_else(|_| String::new(), |lease| lease.host.clone()),
        since: mark.since.rfc3339(),
        age_seconds: age,
        next: next_step(repository, mark),
    }
}

/// What a person does about it.
fn next_step(repository: &str, mark: &FoundMark) -> String {
    let where_it_is = match &mark.lease {
        Err(error) => format!("it cannot be read ({error}), and prune waits for it as for a mark; if no host has an open point there"),
        Ok(lease) if lease.host == host_name() => "it was begun on this host by another user, or with another configuration: finish it there; if it is gone for good".to_owned(),
        Ok(_) => "finish it on its host; if that is gone for good".to_owned(),
    };
    let id = mark.id;
    format!("{where_it_is}: `keepfs forget --open {repository} {id}`; {MEANING}")
}

/// Finds the mark whose id begins with `beginning`, to be removed.
///
/// Fails with `NotFound` and `Invalid` when none, or several, begin so, with `Busy` when it is that of an open point of this
/// host that is still there, and with `TooNew` when a newer keepfs made it.
pub fn plan_unmark(host: &Host, place: &RepositoryPlace, beginning: &str) -> Result<Unmarking> {
    let repository = host.open(place, true)?;
    let mut found = repository.open_point_marks()?;
    found.retain(|mark| !beginning.is_empty() && mark.id.to_string().starts_with(beginning));
    let mark = match found.len() {
        0 | 1 => found.pop(),
        _ => {
            let message =
                format!("{beginning:?} begins the ids of several marks; write more of it");
            return Err(Error::new(Kind::Invalid, message));
        }
    };
    let name = &place.name;
    let mark = mark.ok_or_else(|| {
        let message = format!(
            "{name} has no mark {beginning:?} of an open point; `keepfs points --open {name}` shows all"
        );
        Error::new(Kind::NotFound, message)
    })?;
    let line = line(host, name, &mark);
    if engine::has_open_point(&host.state_directory(), mark.id) {
        let message = format!(
            "{} is an open point of this host; in the mount, rmdir discards it and `keepfs seal` completes it, and its mark \
             goes with it",
            line.path
        );
        return Err(Error::new(Kind::Busy, message));
    }
    let id = mark.id;
    if let Err(error) = mark.lease
        && error.kind() == Kind::TooNew
    {
        return Err(error);
    }
    Ok(Unmarking {
        repository,
        id,
        report: UnmarkReport {
            mark: line,
            meaning: MEANING,
        },
    })
}
