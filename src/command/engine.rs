//! The one place where the verbs meet the rooms that do their work, and the shape in which all of them tell problems.

use crate::config::RepositoryPlace;
use crate::error::{Error, Kind, Result};
use crate::point::{Catalog, Point};
use crate::progress::Progress;
use crate::repository::Repository;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

use super::Selected;
use super::check::CheckReport;
use super::copy::CopyReport;
use super::restore::RestoreReport;

/// Something that could not be done, and why.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemReport {
    /// What it concerns.
    pub path: String,
    /// What happened.
    pub sentence: String,
}

fn absent(verb: &str) -> Error {
    let message = format!("this keepfs is built without `{verb}`; use a newer one");
    Error::new(Kind::Failed, message)
}

/// Writes what was selected below `target`.
pub(super) fn restore(
    _selected: &Selected,
    _target: &Path,
    _numeric: bool,
    _threads: usize,
    _progress: &Progress,
) -> Result<RestoreReport> {
    Err(absent("restore"))
}

/// Copies complete points of one repository, each into the backup of the given name, oldest first.
pub(super) fn copy(
    _source: &Arc<Catalog>,
    _points: &[(Vec<u8>, Arc<Point>)],
    _target: &Arc<Catalog>,
    _progress: &Progress,
) -> Result<CopyReport> {
    Err(absent("copy"))
}

/// Checks one repository.
pub(super) fn check(
    _place: &RepositoryPlace,
    _catalog: &Arc<Catalog>,
    _read_data: bool,
    _progress: &Progress,
) -> Result<CheckReport> {
    Err(absent("check"))
}

/// Mounts repositories at `directory`, calls `ready` when it answers, and returns when it was unmounted.
pub(super) fn mount(
    _repositories: Vec<(String, Arc<Repository>)>,
    _directory: &Path,
    _state: &Path,
    _arguments: &super::MountArguments,
    _ready: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    Err(absent("mount"))
}
