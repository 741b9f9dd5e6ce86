//! Who uses the repository, and what that keeps.

use crate::clock::Time;
use crate::error::{Kind, Result};
use crate::id::ObjectId;
use crate::point::{Lease, LeaseKind};
use crate::repository::Repository;
use crate::store::Object;
use crate::store::names::{self, Name};
use std::collections::{HashMap, HashSet};

/// What living leases keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Protection {
    /// Whatever was stored or forgotten from this time of the store on stays.
    pub since: Option<Time>,
    /// When the oldest open point was marked. Its bytes may be nowhere else, and what it shares is in no record: no list
    /// that is younger is decided.
    pub open_since: Option<Time>,
    /// Points that somebody reads.
    pub points: HashSet<ObjectId>,
    /// A sentence for each.
    pub told: Vec<String>,
    /// Leases that ended by themselves, to be removed.
    pub ended: Vec<String>,
}

impl Protection {
    /// Whether something that the store got at this time stays.
    pub fn keeps(&self, modified: Time) -> bool {
        self.since.is_some_and(|since| modified >= since)
    }
}

/// A lease with all its renewals.
struct Held {
    begins: Time,
    alive: bool,
    kind: Option<LeaseKind>,
    point: Option<ObjectId>,
    told: String,
    names: Vec<String>,
}

/// Reads the leases as they are at `now`. One that cannot be read is taken for a living one: somebody may use what it
/// stands for.
pub(super) fn read(repository: &Repository, now: Time) -> Result<Protection> {
    let mut held: HashMap<ObjectId, Held> = HashMap::new();
    for object in repository.store().list(names::LEASES)? {
        let Some(Name::Lease(id)) = Name::parse(&object.name) else {
            continue;
        };
        let lease = match repository.document::<Lease>(Name::Lease(id)) {
            Ok(lease) => Some(lease),
            Err(error) => match error.kind() {
                Kind::NotFound => continue,
                Kind::Damaged | Kind::WrongKey | Kind::TooNew => None,
                _ => return Err(error),
            },
        };
        let renewed = lease
            .as_ref()
            .filter(|lease| lease.kind == LeaseKind::Writer)
            .and_then(|lease| lease.point);
        let one = of_object(lease, &object, now);
        let key = renewed.unwrap_or(id);
        match held.get_mut(&key) {
            None => drop(held.insert(key, one)),
            Some(other) => {
                other.begins = other.begins.min(one.begins);
                other.alive |= one.alive;
                other.names.extend(one.names);
            }
        }
    }
    let mut all: Vec<_> = held.into_values().collect();
    all.sort_by_key(|held| held.begins);
    Ok(protection(all))
}

fn of_object(lease: Option<Lease>, object: &Object, now: Time) -> Held {
    let (begins, name) = (object.modified, object.name.clone());
    let since = begins.rfc3339();
    let Some(lease) = lease else {
        return Held {
            begins,
            alive: true,
            kind: None,
            point: None,
            told: format!("{name}, which cannot be read, since {since}"),
            names: vec![name],
        };
    };
    let age = now.seconds.saturating_sub(begins.seconds);
    let (host, process) = (&lease.host, lease.process);
    let told = match (&lease.kind, &lease.name) {
        (LeaseKind::OpenPoint, Some((backup, point))) => format!(
            "the open point {}/{} on {host} since {since} ({name})",
            String::from_utf8_lossy(backup),
            String::from_utf8_lossy(point)
        ),
        (LeaseKind::OpenPoint, None) => format!("an open point on {host} since {since} ({name})"),
        (LeaseKind::Writer, _) => format!("a writer on {host} (process {process}) since {since}"),
        (LeaseKind::Reader, _) => format!("a reader on {host} (process {process}) since {since}"),
    };
    Held {
        begins,
        alive: lease.seconds().is_none_or(|lasts| age < lasts),
        kind: Some(lease.kind),
        point: lease.point,
        told,
        names: vec![name],
    }
}

fn protection(held: Vec<Held>) -> Protection {
    let mut protection = Protection::default();
    for held in held {
        if !held.alive {
            protection.ended.extend(held.names);
            continue;
        }
        if held.kind == Some(LeaseKind::Reader) && held.point.is_none() {
            // Another prune asks for the time.
            continue;
        }
        protection.told.push(held.told);
        if held.kind == Some(LeaseKind::Reader) {
            protection.points.extend(held.point);
            continue;
        }
        if held.kind != Some(LeaseKind::Writer) {
            let since = protection.open_since.unwrap_or(held.begins);
            protection.open_since = Some(since.min(held.begins));
        }
        let since = protection.since.unwrap_or(held.begins);
        protection.since = Some(since.min(held.begins));
    }
    protection
}
