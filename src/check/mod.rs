//! Every invariant of the format, and the files that damage costs. The oracle at the end of every test.
//!
//! What is checked, in this order, all of it read from the store and nothing from this host's caches:
//!
//! 1. the header, every key slot and every document decode, and belong where they lie; each backup's records form
//!    an unbroken chain (`records`);
//! 2. every index segment decodes and is sorted; the packs it lists are there with the right length; a pack's chunks
//!    lie one after the other in its stream, its frames too, and no frame mixes whole chunks with pieces (`packs`);
//! 3. every page below every visible point is there, sorted, and counts what is below it; every chunk that a file
//!    needs is in the index with the right length (`trees`);
//! 4. with [`Options::read_data`], every pack is read from its first byte to its last and each chunk is hashed; packs
//!    that came unhashed from another repository and are sound are recorded as hashed (`data`);
//! 5. for all damage found, which files of which points it costs (`lost`).
//!
//! Two losses cannot be seen from within: that of a key slot or a newest record, as if it had never been written, and
//! that of a catalogue, which holds copies only. A newest record that this host has seen and that is not there is a
//! warning, as are records of a second live copy. What waits for a prune, or was just being stored, is counted and is no
//! problem.

mod data;
mod findings;
mod lost;
mod packs;
mod rebuild;
mod records;
mod trees;

pub use findings::{Object, Problem};
pub use rebuild::{Rebuilt, rebuild_index};

use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Catalog, Point};
use crate::progress::Progress;
use crate::repository::Repository;
use findings::Findings;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Read and hash all data, not only trees.
    pub read_data: bool,
    /// Only these points, by the names of their backup and their own, and only the packs that they need; none for all.
    pub points: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// What a check has seen and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Visible points checked.
    pub points: u64,
    /// Live index segments.
    pub segments: u64,
    /// Packs in the index.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Packs whose contents nobody has hashed here.
    pub packs_unhashed: u64,
    /// Packs that this check has hashed and recorded as such, so that they are none of those.
    pub packs_hashed: u64,
    /// Chunks in the index.
    pub chunks: u64,
    /// Different pages of trees.
    pub pages: u64,
    /// Entries on them.
    pub entries: u64,
    /// Packs read completely.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Packs in no index segment: what a crash left or a writer has not published yet. Not a problem.
    pub unreferenced_packs: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// Packs that prune has listed and will delete, unless a point needs them again. Not a problem.
    pub condemned_packs: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// Leases of writers and readers, and marks of open points. Not a problem.
    pub leases: u64,
    /// What this host has seen of the repository before and what does not fit it now: an older state, a second copy.
    pub warnings: Vec<String>,
    /// The first thousand problems.
    pub problems: Vec<Problem>,
    /// All problems.
    pub problem_count: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }
}

/// A visible point and the name it is told by.
struct Checked {
    path: String,
    point: Arc<Point>,
}

/// What all parts of one check use.
struct Context<'a> {
    repository: &'a Arc<Repository>,
    progress: &'a Progress,
    findings: &'a Findings,
    /// The repository as its owner has it open: what is published there, it knows.
    recorder: &'a Arc<Repository>,
    /// Packs that no segment says to be hashed.
    unhashed: Mutex<HashSet<ObjectId>>,
}

/// Checks a repository. Fails only where checking itself cannot go on: the store is gone, `progress` was asked to
/// stop, or a point that was asked for is not there. Everything else is in the report.
pub fn check(catalog: &Catalog, options: &Options, progress: &Progress) -> Result<Report> {
    let recorder = catalog.repository();
    let mut contradictions = catalog.contents().contradictions.clone();
    let cache = Cache::of(recorder);
    let repository = recorder.afresh(&cache.0)?;
    let catalog = Catalog::open(repository.clone())?;
    let findings = Findings::default();
    let context = Context {
        repository: &repository,
        progress,
        findings: &findings,
        recorder,
        unhashed: Mutex::default(),
    };
    contradictions.extend(catalog.contents().contradictions.clone());
    let mut report = Report {
        warnings: contradictions.into_values().collect(),
        ..Report::default()
    };
    report.leases = records::check(&context, &catalog)?;
    let points = chosen(&catalog, options)?;
    report.points = points.len() as u64;
    packs::check(&context, &mut report)?;
    let needed = trees::check(&context, &points, options.points.is_some(), &mut report)?;
    if options.read_data {
        data::check(&context, needed.as_ref(), &mut report)?;
    }
    lost::find(&context, &points)?;
    (report.problems, report.problem_count) = findings.into_problems();
    Ok(report)
}

fn chosen(catalog: &Catalog, options: &Options) -> Result<Vec<Checked>> {
    let contents = catalog.contents();
    let mut points = Vec::new();
    for (name, backup) in &contents.backups {
        for point in contents.points_of(backup.id) {
            let asked = options.points.as_ref().is_none_or(|asked| {
                asked
                    .iter()
                    .any(|(backup, own)| backup == name && own == point.name())
            });
            if asked {
                let name = [name, &b"/"[..], point.name()].concat();
                points.push(Checked {
                    path: String::from_utf8_lossy(&name).into_owned(),
                    point: point.clone(),
                });
            }
        }
    }
    if options
        .points
        .as_ref()
        .is_some_and(|asked| asked.len() > points.len())
    {
        let message = "a restore point to be checked does not exist; `keepfs points` lists all";
        return Err(Error::new(Kind::NotFound, message));
    }
    Ok(points)
}

/// A directory for what one check reads from the store; gone with it.
struct Cache(PathBuf);

impl Cache {
    fn of(repository: &Repository) -> Self {
        Self(
            repository
                .cache_directory()
                .join(format!("check-{}", ObjectId::random())),
        )
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // It holds copies only; what cannot be removed goes when the cache is removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Separates damage, which is a finding, from failures that end the check.
fn examined<T>(result: Result<T>) -> Result<std::result::Result<T, Error>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => match error.kind() {
            Kind::Damaged | Kind::TooNew | Kind::WrongKey | Kind::NotFound | Kind::NoRepository => {
                Ok(Err(error))
            }
            _ => Err(error),
        },
    }
}

/// Packs that some points need.
type Needed = HashSet<ObjectId>;
