//! The repositories of a mount and the points in them.

use super::owners::ShownOwners;
use crate::error::Result;
use crate::id::ObjectId;
use crate::point::{Backup, Catalog, Contents, Origin, Point, Trees};
use crate::store::Space;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A repository of this host's disks is looked at anew after so long: a listing costs microseconds.
const FRESH_LOCAL: Duration = Duration::from_secs(1);
/// A repository in a cloud: a listing is a paid request.
const FRESH_CLOUD: Duration = Duration::from_secs(5);
/// How long an answer about free space is passed on.
const SPACE_KEPT: Duration = Duration::from_secs(5);

/// A repository with its name in the mount.
#[derive(Debug)]
pub(super) struct MountedRepository {
    pub(super) name: String,
    pub(super) catalog: Arc<Catalog>,
    pub(super) trees: Arc<Trees>,
    /// How owners are shown: the same for all repositories of a mount.
    pub(super) owners: Arc<ShownOwners>,
    /// Whether this is the repository as its readers see it.
    pub(super) for_readers: bool,
    fresh: Duration,
    space: Mutex<Option<(Instant, Option<Space>)>>,
    told: Mutex<HashSet<String>>,
}

impl MountedRepository {
    pub(super) fn new(name: String, catalog: Arc<Catalog>, owners: Arc<ShownOwners>) -> Self {
        let repository = catalog.repository().clone();
        let fresh = if repository.location().contains("://") {
            FRESH_CLOUD
        } else {
            FRESH_LOCAL
        };
        Self {
            name,
            trees: Arc::new(Trees::new(repository)),
            catalog,
            owners,
            for_readers: false,
            fresh,
            space: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// The same repository as its readers see it.
    pub(super) fn for_readers(&self) -> Self {
        Self {
            name: self.name.clone(),
            catalog: self.catalog.clone(),
            trees: self.trees.clone(),
            owners: self.owners.clone(),
            for_readers: true,
            fresh: self.fresh,
            space: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// What is there, as new as a user expects. When the store cannot be asked, what was there last.
    pub(super) fn contents(&self) -> Arc<Contents> {
        self.catalog
            .contents_within(self.fresh)
            .unwrap_or_else(|_| self.catalog.contents())
    }

    /// What does not fit what this host has seen of the repository before: each sentence once.
    pub(super) fn new_contradictions(&self) -> Vec<String> {
        let contents = self.contents();
        let mut told = self.told.lock();
        let sentences = contents.contradictions.values();
        sentences
            .filter(|sentence| told.insert((*sentence).clone()))
            .map(|sentence| format!("{}: {sentence}", self.name))
            .collect()
    }

    /// A backup by its id.
    pub(super) fn backup(&self, id: ObjectId) -> Option<Arc<Backup>> {
        let contents = self.contents();
        let found = contents.backups.values().find(|backup| backup.id == id);
        found.cloned()
    }

    /// The name of a backup, for messages.
    pub(super) fn backup_name(&self, id: ObjectId) -> String {
        let contents = self.catalog.contents();
        let found = contents.backups.values().find(|backup| backup.id == id);
        found.map_or_else(
            || id.to_string(),
            |backup| String::from_utf8_lossy(backup.name()).into_owned(),
        )
    }

    /// Room in its store, asked for at most every few seconds.
    #[allow(clippy::disallowed_methods)] // a monotonic age of a cache, not a time that is stored
    pub(super) fn space(&self) -> Result<Option<Space>> {
        if let Some((at, space)) = *self.space.lock()
            && at.elapsed() < SPACE_KEPT
        {
            return Ok(space);
        }
        let space = self.catalog.repository().space()?;
        *self.space.lock() = Some((Instant::now(), space));
        Ok(space)
    }
}

/// A complete point of a mounted repository.
#[derive(Debug)]
pub(super) struct CompletePoint {
    pub(super) repository: Arc<MountedRepository>,
    pub(super) point: Arc<Point>,
}

impl CompletePoint {
    /// What tells this point from every other, of any repository, and from itself as readers see it.
    pub(super) fn identity(&self) -> [u8; 41] {
        let mut identity = [0; 41];
        identity[40] = self.repository.for_readers.into();
        identity[..16].copy_from_slice(&self.repository.catalog.repository().id().0);
        identity[16..32].copy_from_slice(&self.point.id.0);
        identity[32..40].copy_from_slice(&self.point.generation.to_le_bytes());
        identity
    }

    /// Whether this is the same point of the same mounted repository.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.repository, &other.repository)
            && (self.point.id, self.point.generation) == (other.point.id, other.point.generation)
    }

    /// This point as the record of a copy names it.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            repository: self.repository.catalog.repository().id(),
            point: self.point.id,
            generation: self.point.generation,
        }
    }

    /// The trees it is read through.
    pub(super) fn trees(&self) -> &Arc<Trees> {
        &self.repository.trees
    }
}

/// Pairs of mounted repositories that are one and the same by their ids and lie at different places: a sentence each.
pub(super) fn mounted_twice(repositories: &[Arc<MountedRepository>]) -> Vec<String> {
    let mut sentences = Vec::new();
    for (at, one) in repositories.iter().enumerate() {
        for other in &repositories[at + 1..] {
            let [first, second] = [one, other].map(|mounted| mounted.catalog.repository());
            if first.id() == second.id() && first.location() != second.location() {
                sentences.push(format!(
                    "{} and {} are two copies of one repository, at {} and {}: write to one of them only, or make the other a repository of its own with `keepfs init` and `keepfs copy`",
                    one.name,
                    other.name,
                    first.location(),
                    second.location()
                ));
            }
        }
    }
    sentences
}
