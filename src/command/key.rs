//! `key add | list | remove`: who may open a repository.

use super::Host;
use crate::config::{Given, RepositoryPlace};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::repository::{Repository, SlotKind};
use serde::Serialize;
use std::sync::Arc;

/// One key slot.
#[derive(Clone, Debug, Serialize)]
pub struct KeyLine {
    /// Its id.
    pub id: String,
    /// `password`, `key-file`, `recovery` or `user`.
    pub kind: String,
    /// A name that a person gave it.
    pub label: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The host that made it.
    pub host: String,
    /// Why it cannot be read, if so.
    pub problem: Option<String>,
}

/// All key slots of a repository.
#[derive(Clone, Debug, Serialize)]
pub struct KeysReport {
    /// The repository.
    pub repository: String,
    /// Its slots.
    pub keys: Vec<KeyLine>,
}

/// A key slot that came or went.
#[derive(Clone, Debug, Serialize)]
pub struct KeyReport {
    /// The repository.
    pub repository: String,
    /// `added` or `removed`.
    pub done: &'static str,
    /// The slot's id.
    pub id: String,
}

/// Lets another password or key file open the repository: `new`, else what the environment or a person says.
pub fn add_key(
    host: &Host,
    place: &RepositoryPlace,
    new: &Given,
    label: &str,
) -> Result<KeyReport> {
    let repository = host.open(place, true)?;
    let key = host.keys().for_new_slot(&place.name, new)?;
    let id = repository.add_key(&key, label)?;
    Ok(KeyReport {
        repository: place.name.clone(),
        done: "added",
        id: id.to_string(),
    })
}

/// Every key slot with its facts.
pub fn list_keys(host: &Host, place: &RepositoryPlace) -> Result<KeysReport> {
    let repository = host.open(place, true)?;
    let keys = repository.key_slots()?.into_iter().map(|(id, slot)| {
        let unread = |problem: Error| KeyLine {
            id: id.to_string(),
            kind: String::new(),
            label: String::new(),
            created: String::new(),
            host: String::new(),
            problem: Some(problem.to_string()),
        };
        slot.map_or_else(unread, |(kind, facts)| KeyLine {
            id: id.to_string(),
            kind: kind_name(kind).to_owned(),
            label: facts.label,
            created: facts.created.rfc3339(),
            host: facts.host,
            problem: None,
        })
    });
    Ok(KeysReport {
        repository: place.name.clone(),
        keys: keys.collect(),
    })
}

fn kind_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Password => "password",
        SlotKind::KeyFile => "key-file",
        SlotKind::Recovery => "recovery",
        SlotKind::User => "user",
    }
}

/// Removes the slot whose id begins with `id`. The last one stays: fails with `Denied`.
pub fn remove_key(host: &Host, place: &RepositoryPlace, id: &str) -> Result<KeyReport> {
    let repository = host.open(place, true)?;
    let id = slot_of(&repository, id)?;
    repository.remove_key(id)?;
    Ok(KeyReport {
        repository: place.name.clone(),
        done: "removed",
        id: id.to_string(),
    })
}

fn slot_of(repository: &Arc<Repository>, beginning: &str) -> Result<ObjectId> {
    let slots = repository.key_slots()?;
    let fitting: Vec<_> = slots
        .iter()
        .map(|(id, _)| *id)
        .filter(|id| !beginning.is_empty() && id.to_string().starts_with(beginning))
        .collect();
    match fitting[..] {
        [id] => Ok(id),
        [] => Err(Error::new(
            Kind::NotFound,
            format!("there is no key {beginning:?}; `keepfs key list` shows all"),
        )),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("{beginning:?} begins the ids of several keys; write more of it"),
        )),
    }
}
