//! `stats`: how much is stored, and how well.

use super::Host;
use crate::config::RepositoryPlace;
use crate::error::{Error, Kind, Result};
use crate::point::Catalog;
use crate::repository::RepositoryState;
use crate::store::names::{self, PackKind};
use crate::store::{self, Capabilities, Trouble};
use serde::Serialize;

/// Bytes in the store, by what they are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StoredBytes {
    /// Packs of file contents.
    pub data: u64,
    /// Packs of trees.
    pub trees: u64,
    /// The index.
    pub index: u64,
    /// Keys, settings, records of backups and points, leases.
    pub records: u64,
}

impl StoredBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.data + self.trees + self.index + self.records
    }
}

/// Figures of one repository.
#[derive(Clone, Debug, Serialize)]
pub struct StatsLine {
    /// The repository.
    pub repository: String,
    /// Where it is.
    pub location: String,
    /// Its id.
    pub id: String,
    /// Backups.
    pub backups: u64,
    /// Complete restore points.
    pub points: u64,
    /// Entries of all points together.
    pub entries: u64,
    /// Bytes of the files of all points together.
    pub bytes: u64,
    /// Bytes in the store.
    pub stored: StoredBytes,
    /// Packs in the store.
    pub packs: u64,
    /// Chunks in the index; one that two hosts wrote at the same time counts twice.
    pub chunks: u64,
    /// Index segments.
    pub segments: u64,
    /// Bytes of the mapped index on this host.
    pub mapped_bytes: u64,
    /// Bytes of files by bytes stored; none while nothing is stored.
    pub ratio: Option<f64>,
    /// `ready`: what is not is no line here.
    pub state: String,
    /// What the store has just proved able to do, where that was asked for.
    pub can: Option<Capabilities>,
}

/// Figures of several repositories.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatsReport {
    /// One line each.
    pub repositories: Vec<StatsLine>,
    /// Those that cannot be used just now.
    pub invalid: Vec<InvalidLine>,
}

/// A repository that cannot be used just now.
#[derive(Clone, Debug, Serialize)]
pub struct InvalidLine {
    /// The repository.
    pub repository: String,
    /// `invalid (reason): sentence`.
    pub state: String,
}

/// Figures of these repositories; of all configured ones when none is named. `probe` tries out what each store can do:
/// one small object is written there and removed.
pub fn stats(host: &Host, places: Vec<RepositoryPlace>, probe: bool) -> Result<StatsReport> {
    let places = if places.is_empty() {
        host.config().all()?
    } else {
        places
    };
    let alone = places.len() == 1;
    let mut report = StatsReport::default();
    for place in &places {
        let error = match line(host, place, alone, probe) {
            Ok(line) => {
                report.repositories.push(line);
                continue;
            }
            Err(error) => error,
        };
        let trouble = trouble(place, &error);
        // Of one repository the kind of the failure is the answer; beside others it is a line.
        if alone {
            let state = format!("{} is invalid ({})", place.name, trouble.name());
            return Err(error.context(state));
        }
        let state = RepositoryState::Invalid {
            trouble,
            sentence: error.to_string(),
        };
        report.invalid.push(InvalidLine {
            repository: place.name.clone(),
            state: state.to_string(),
        });
    }
    Ok(report)
}

/// What to mend so that a repository opens: its store is asked once more, which knows more of a failure than its kind.
fn trouble(place: &RepositoryPlace, error: &Error) -> Trouble {
    let options = place.reach.store_options(false);
    let Ok(store) = options.and_then(|options| store::open(&place.reach.url, &options)) else {
        return match error.kind() {
            Kind::NoRepository => Trouble::DirectoryMissing,
            _ => Trouble::Other,
        };
    };
    match store.ask(&names::Name::Header.to_string()) {
        Err(refused) => refused.trouble,
        Ok(_) => match error.kind() {
            Kind::WrongKey | Kind::NoKey => Trouble::KeyRefused,
            _ => Trouble::Other,
        },
    }
}

fn line(host: &Host, place: &RepositoryPlace, alone: bool, probe: bool) -> Result<StatsLine> {
    let catalog = host.catalog(place, alone)?;
    let mut line = figures(&place.name, &catalog)?;
    if probe {
        let store = catalog.repository().store();
        line.can = Some(store::probe(store.as_ref())?);
    }
    Ok(line)
}

/// Figures of the repository that is called so. Lists the whole store.
pub(super) fn figures(name: &str, catalog: &Catalog) -> Result<StatsLine> {
    let repository = catalog.repository();
    let contents = catalog.contents();
    let trees = contents
        .backups
        .values()
        .flat_map(|backup| contents.points_of(backup.id))
        .map(|point| point.record.tree);
    let (points, entries, bytes) = trees.fold((0, 0u64, 0u64), |(points, entries, bytes), tree| {
        (
            points + 1,
            entries.saturating_add(tree.entries),
            bytes.saturating_add(tree.bytes),
        )
    });
    let segments = repository.segments();
    let (stored, packs) = stored(catalog)?;
    Ok(StatsLine {
        repository: name.to_owned(),
        location: repository.location(),
        id: repository.id().to_string(),
        backups: contents.backups.len() as u64,
        points,
        entries,
        bytes,
        stored,
        packs,
        chunks: segments.iter().map(|segment| segment.chunk_count()).sum(),
        segments: segments.len() as u64,
        mapped_bytes: segments.iter().map(|segment| segment.mapped_bytes()).sum(),
        ratio: (stored.data + stored.trees > 0).then(|| bytes as f64 / stored.total() as f64),
        state: RepositoryState::Ready.to_string(),
        can: None,
    })
}

fn stored(catalog: &Catalog) -> Result<(StoredBytes, u64)> {
    let store = catalog.repository().store();
    let sum = |prefix: &str| -> Result<(u64, u64)> {
        let objects = store.list(prefix)?;
        let bytes = objects.iter().map(|object| object.size).sum();
        Ok((bytes, objects.len() as u64))
    };
    let (data, data_packs) = sum(&names::packs(PackKind::Data))?;
    let (trees, tree_packs) = sum(&names::packs(PackKind::Tree))?;
    let mut records = sum(names::KEYS)?.0;
    for prefix in names::DOCUMENTS {
        records += sum(prefix)?.0;
    }
    let stored = StoredBytes {
        data,
        trees,
        index: sum(names::INDEX)?.0,
        records,
    };
    Ok((stored, data_packs + tree_packs))
}
