//! `init`: makes a repository.

use super::Host;
use crate::config::RepositoryPlace;
use crate::error::Result;
use crate::repository::{ACL, READERS, Repository, SEAL_IDLE, Settings, TRASH_DAYS, parse_access};
use crate::store;
use serde::Serialize;

/// What a new repository shall be. What is `None` comes from the configuration, then from the program.
#[derive(Clone, Debug, Default)]
pub struct InitArguments {
    /// Bytes after which a pack is closed.
    pub pack_bytes: Option<u64>,
    /// zstd level.
    pub level: Option<i32>,
    /// Storage class of data packs.
    pub storage_class: Option<String>,
    /// Days for which a forgotten point can be brought back.
    pub trash_days: Option<u32>,
    /// Seconds without a change after which an open point is sealed as it is.
    pub seal_idle: Option<i64>,
    /// Other settings, `key=value` each, as `config` takes them; the later one of two counts.
    pub more: Vec<String>,
    /// Whom a mount lets into it.
    pub acl: Option<String>,
    /// Users who may read everything in a mount.
    pub readers: Option<Vec<String>>,
    /// The repository whose way of cutting files it takes over.
    pub like: Option<RepositoryPlace>,
    /// A name for the first key slot.
    pub label: Option<String>,
}

/// A new repository.
#[derive(Clone, Debug, Serialize)]
pub struct InitReport {
    /// Its name in the configuration, or its URL.
    pub repository: String,
    /// Its id.
    pub id: String,
    /// Where it is.
    pub location: String,
    /// Bytes after which a pack is closed.
    pub pack_bytes: u64,
    /// zstd level.
    pub level: i32,
    /// Storage class of data packs; empty for the store's own.
    pub storage_class: String,
}

/// Makes a repository at `place`. Fails with `AlreadyExists` when there is one.
pub fn init(host: &Host, place: &RepositoryPlace, arguments: &InitArguments) -> Result<InitReport> {
    let reach = &place.reach;
    let mut chosen = Settings::default();
    if let Some(like) = &arguments.like {
        let like = host.catalog(like, false)?;
        let settings = like.repository().settings();
        (chosen.seed, chosen.cut) = (settings.seed, settings.cut);
    }
    let trash_days = arguments.trash_days.or(reach.trash_days);
    let seal_idle = arguments.seal_idle.or(reach.seal_idle);
    let who = |name, given: Option<String>| given.map(|text| parse_access(name, &text)).transpose();
    let acl = who(ACL, arguments.acl.clone().or_else(|| reach.acl.clone()))?;
    let readers = arguments.readers.as_ref().or(reach.readers.as_ref());
    let readers = who(READERS, readers.map(|names| names.join(",")))?;
    let mut settings = Settings {
        pack_bytes: arguments
            .pack_bytes
            .or(reach.pack_size)
            .unwrap_or(chosen.pack_bytes),
        level: arguments.level.or(reach.level).unwrap_or(chosen.level),
        storage_class: arguments
            .storage_class
            .clone()
            .or_else(|| reach.storage_class.clone())
            .unwrap_or_default(),
        more: [
            (TRASH_DAYS, trash_days.map(|days| days.to_string())),
            (SEAL_IDLE, seal_idle.map(|seconds| seconds.to_string())),
            (ACL, acl),
            (READERS, readers),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect(),
        ..chosen
    };
    for change in reach.settings().iter().chain(&arguments.more) {
        super::settings::choose(&mut settings, change)?;
    }
    let store = store::open(&reach.url, &reach.store_options(true)?)?;
    let key = host.keys().for_new_repository(&place.name, reach)?;
    let label = arguments.label.as_deref().unwrap_or("first");
    Repository::init(store.clone(), &key, label, &settings, host.clock())?;
    let repository = host.open_with(place, &store, &[key])?;
    Ok(InitReport {
        repository: place.name.clone(),
        id: repository.id().to_string(),
        location: repository.location(),
        pack_bytes: settings.pack_bytes,
        level: settings.level,
        storage_class: settings.storage_class,
    })
}
