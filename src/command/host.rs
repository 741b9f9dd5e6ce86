//! What every verb needs of this host: the configuration, keys, caches; and opening what a person named.

use crate::clock::Clock;
use crate::config::{Config, Directories, Keys, Place, RepositoryPlace};
use crate::error::{Error, Kind, Result};
use crate::notify::Notifier;
use crate::point::{Catalog, Contents, Entry, LATEST, Point, Trees};
use crate::repository::{Credential, Local, Repository};
use crate::store::{self, Rate, RatedStore, SharedStore};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Memory for each open repository. Half of it keeps decompressed frames: four large ones for each of a dozen readers;
/// the other half is for what is on its way.
const MEMORY_BYTES: u64 = 128 << 20;

/// This host, as a verb sees it.
#[derive(Debug)]
pub struct Host {
    config: Config,
    keys: Keys,
    directories: Directories,
    clock: Clock,
    /// Of all stores together.
    rate: Option<Rate>,
    /// Of each repository that has one, by its configured name: shared however often it is opened.
    rates: BTreeMap<String, Rate>,
}

/// A restore point that a person named, or something in it.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The catalog of its repository.
    pub catalog: Arc<Catalog>,
    /// The trees of its repository.
    pub trees: Arc<Trees>,
    /// Its backup's name.
    pub backup: Vec<u8>,
    /// The point.
    pub point: Arc<Point>,
    /// Path below its top; empty for the top itself.
    pub path: Vec<u8>,
    /// What is at that path.
    pub entry: Arc<Entry>,
}

impl Host {
    /// A host with this configuration. `Denied` when the directories it would use are somebody else's.
    pub fn new(config: Config, keys: Keys, clock: Clock) -> Result<Self> {
        let directories = match (&config.cache_directory, &config.state_directory) {
            (Some(cache), Some(state)) => Directories {
                cache: cache.clone(),
                state: state.clone(),
            },
            (cache, state) => {
                let of_user = Directories::of_user()?;
                Directories {
                    cache: cache.clone().unwrap_or(of_user.cache),
                    state: state.clone().unwrap_or(of_user.state),
                }
            }
        };
        let rates = config.repositories.iter().filter_map(|(name, reach)| {
            let rate = Rate::new(Some(reach.rate?));
            Some((name.clone(), rate))
        });
        Ok(Self {
            rate: config.rate.map(|rate| Rate::new(Some(rate))),
            rates: rates.collect(),
            config,
            keys,
            directories,
            clock,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its passwords and key files.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Where it keeps what exists nowhere else.
    pub fn state_directory(&self) -> PathBuf {
        self.directories.state.clone()
    }

    /// Where time comes from.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whoever tells people of sessions that ended; none when nobody is to be told.
    pub fn notifier(&self) -> Result<Option<Arc<Notifier>>> {
        let settings = self.config.notify.clone();
        let opened = settings.map(|settings| {
            Notifier::open(settings, &self.directories.state, self.clock.clone()).map(Arc::new)
        });
        opened.transpose()
    }

    /// Opens a repository. `alone` when the command names no other one.
    pub fn open(&self, place: &RepositoryPlace, alone: bool) -> Result<Arc<Repository>> {
        let store = self.store(place)?;
        // Before anybody is asked for the password of a repository that is not there.
        require_header(&store)?;
        let keys = self.keys.of(&place.name, &place.reach, alone)?;
        self.open_with(place, &store, &keys)
    }

    /// Opens a repository's store, at the rates that the configuration allows.
    pub fn store(&self, place: &RepositoryPlace) -> Result<SharedStore> {
        let store = store::open(&place.reach.url, &place.reach.store_options(false)?)?;
        let rates = [self.rate.as_ref(), self.rates.get(&place.name)];
        let rates: Vec<_> = rates.into_iter().flatten().cloned().collect();
        Ok(match rates.is_empty() {
            true => store,
            false => Arc::new(RatedStore::new(store, rates)),
        })
    }

    /// Opens a repository with what may be its keys. Fails with the last key's failure when none opens it.
    pub fn open_with(
        &self,
        place: &RepositoryPlace,
        store: &SharedStore,
        keys: &[Credential],
    ) -> Result<Arc<Repository>> {
        let mut failure = None;
        for key in keys {
            match Repository::open(store.clone(), key, self.local(place)) {
                Err(error) if error.kind() == Kind::WrongKey => failure = Some(error),
                opened => return opened,
            }
        }
        let none = || Error::new(Kind::NoKey, format!("no key for {} is given", place.name));
        Err(failure.unwrap_or_else(none))
    }

    fn local(&self, place: &RepositoryPlace) -> Local {
        let own = place.reach.cache_directory.clone();
        Local {
            cache: own.unwrap_or_else(|| self.directories.cache.clone()),
            frame_cache_bytes: self.config.memory.unwrap_or(MEMORY_BYTES) / 2,
            clock: self.clock.clone(),
        }
    }

    /// Opens the repository of `place` and reads what it holds.
    pub fn catalog(&self, place: &RepositoryPlace, alone: bool) -> Result<Arc<Catalog>> {
        Ok(Arc::new(Catalog::open(self.open(place, alone)?)?))
    }

    /// The restore point, or what is in it, that `place` names.
    pub fn select(&self, place: &Place, alone: bool) -> Result<Selected> {
        let catalog = self.catalog(&place.repository, alone)?;
        select(&catalog, place)
    }
}

fn require_header(store: &SharedStore) -> Result<()> {
    let name = store::names::Name::Header.to_string();
    match store.head(&name) {
        Err(error) if error.kind() == Kind::NotFound => Err(Error::new(
            Kind::NoRepository,
            format!(
                "there is no repository in {}; make one with `keepfs init`",
                store.location()
            ),
        )),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// What `place` names in its open repository.
pub(super) fn select(catalog: &Arc<Catalog>, place: &Place) -> Result<Selected> {
    let contents = catalog.contents();
    let (backup, point) = (required_backup(place)?, place.point.as_deref());
    let Some(point) = point else {
        let message = format!(
            "say which restore point of {}: {}/{}/latest is the newest",
            lossy(backup),
            place.repository.name,
            lossy(backup)
        );
        return Err(Error::new(Kind::Invalid, message));
    };
    let point = point_of(&contents, place, backup, point)?;
    let trees = Arc::new(Trees::new(catalog.repository().clone()));
    let top = Arc::new(point.record.top());
    let entry = if place.path.is_empty() {
        Some(top)
    } else {
        trees.resolve(&top, &place.path)?
    };
    let entry = entry.ok_or_else(|| {
        let message = format!(
            "the restore point {}/{} has no {}",
            lossy(backup),
            lossy(point.name()),
            lossy(&place.path)
        );
        Error::new(Kind::NotFound, message)
    })?;
    Ok(Selected {
        catalog: catalog.clone(),
        trees,
        backup: backup.to_vec(),
        point,
        path: place.path.clone(),
        entry,
    })
}

/// The backup that `place` names. `Invalid` when it names only a repository.
pub(super) fn required_backup(place: &Place) -> Result<&[u8]> {
    place.backup.as_deref().ok_or_else(|| {
        let name = &place.repository.name;
        let separator = if name.contains("://") { "::" } else { "/" };
        let message = format!("say which backup of {name}: {name}{separator}BACKUP");
        Error::new(Kind::Invalid, message)
    })
}

/// A visible point by the names of its backup and its own, or `latest`.
pub(super) fn point_of(
    contents: &Contents,
    place: &Place,
    backup: &[u8],
    name: &[u8],
) -> Result<Arc<Point>> {
    let repository = &place.repository.name;
    let missing = |message: String| Error::new(Kind::NotFound, message);
    let Some(known) = contents.backups.get(backup) else {
        return Err(missing(format!(
            "{repository} has no backup {}; `keepfs points {repository}` shows all",
            lossy(backup)
        )));
    };
    let found = match name {
        LATEST => contents.latest(known.id).cloned(),
        name => contents.point(backup, name).cloned(),
    };
    found.ok_or_else(|| {
        missing(format!(
            "the backup {} in {repository} has no complete restore point {}; `keepfs points {repository}/{}` shows all",
            lossy(backup),
            lossy(name),
            lossy(backup)
        ))
    })
}

fn lossy(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}
