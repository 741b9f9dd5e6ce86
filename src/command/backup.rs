//! `backup`: files of this host into a new restore point.

use super::host::required_backup;
use super::{Host, ProblemReport, text};
use crate::backup::{self, Options};
use crate::config::Place;
use crate::error::{Error, Kind, Result};
use crate::point::Trees;
use crate::progress::Progress;
use crate::source::{self, Rules};
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// What to back up and what to leave out.
#[derive(Clone, Debug, Default)]
pub struct BackupArguments {
    /// What to read.
    pub sources: Vec<PathBuf>,
    /// Instead: the nodes of a cluster and what they share.
    pub cluster: source::Cluster,
    /// Patterns of what to leave out.
    pub exclude: Vec<OsString>,
    /// Files of such patterns.
    pub exclude_from: Vec<PathBuf>,
    /// Leave out directories that hold one of these names.
    pub exclude_if_present: Vec<OsString>,
    /// Leave out directories that a `CACHEDIR.TAG` marks.
    pub exclude_caches: bool,
    /// Do not go into other file systems.
    pub one_file_system: bool,
    /// Read every file, changed or not.
    pub force: bool,
    /// Threads; 0 for one per core.
    pub threads: usize,
}

/// A new restore point.
#[derive(Clone, Debug, Serialize)]
pub struct BackupReport {
    /// The repository.
    pub repository: String,
    /// The backup.
    pub backup: String,
    /// The new point's name.
    pub point: String,
    /// Its id.
    pub id: String,
    /// When its source was read, RFC 3339.
    pub time: String,
    /// The point that unchanged files were taken from.
    pub parent: Option<String>,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Regular files that were read.
    pub files_read: u64,
    /// Regular files that had not changed and were not opened.
    pub files_unchanged: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were new to the repository, before compression.
    pub new_bytes: u64,
    /// Bytes that were added to the store.
    pub stored_bytes: u64,
    /// What is missing, wholly or in part.
    pub problems: Vec<ProblemReport>,
    /// What was left out on purpose.
    pub notices: Vec<String>,
}

/// Backs up into the backup that `place` names, as the point that it names or under the time's name.
pub fn backup(
    host: &Host,
    arguments: &BackupArguments,
    place: &Place,
    progress: &Progress,
) -> Result<BackupReport> {
    if !arguments.sources.is_empty() && !arguments.cluster.is_empty() {
        let message = "the nodes of a cluster and other sources are not one restore point; name every source with --node or \
                       --shared";
        return Err(Error::new(Kind::Invalid, message));
    }
    let options = Options {
        sources: arguments.sources.clone(),
        cluster: arguments.cluster.clone(),
        walk: walk_options(arguments)?,
        backup: required_backup(place)?.to_vec(),
        point: place.point.clone(),
        threads: arguments.threads,
        force: arguments.force,
    };
    if !place.path.is_empty() {
        let message = format!(
            "a backup makes a whole restore point; leave out {}",
            text(&place.path)
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    let catalog = host.catalog(&place.repository, true)?;
    let trees = Arc::new(Trees::new(catalog.repository().clone()));
    let report = backup::backup(&catalog, &trees, &options, progress)?;
    Ok(tell(place, &options.backup, report))
}

fn walk_options(arguments: &BackupArguments) -> Result<source::Options> {
    use std::os::unix::ffi::OsStrExt;
    let mut patterns: Vec<Vec<u8>> = Vec::new();
    for file in &arguments.exclude_from {
        let content = std::fs::read(file)
            .map_err(|error| Error::io(format_args!("cannot read {}", file.display()), error))?;
        patterns.extend(Rules::patterns(&content).map(<[u8]>::to_vec));
    }
    let given = arguments.exclude.iter();
    patterns.extend(given.map(|pattern| pattern.as_bytes().to_vec()));
    Ok(source::Options {
        rules: Rules::new(&patterns)?,
        exclude_caches: arguments.exclude_caches,
        exclude_if_present: arguments.exclude_if_present.clone(),
        one_file_system: arguments.one_file_system,
    })
}

fn tell(place: &Place, backup: &[u8], report: backup::Report) -> BackupReport {
    let record = &report.point.record;
    let problems = report.problems.iter().map(|problem| ProblemReport {
        path: problem.path.display().to_string(),
        sentence: problem.error.to_string(),
    });
    BackupReport {
        repository: place.repository.name.clone(),
        backup: text(backup),
        point: text(&record.name),
        id: report.point.id.to_string(),
        time: record.time.rfc3339(),
        parent: report.parent.as_ref().map(|parent| text(parent.name())),
        entries: report.entries,
        bytes: record.tree.bytes,
        files_read: report.files_read,
        files_unchanged: report.files_unchanged,
        bytes_read: report.bytes_read,
        new_bytes: report.new_bytes,
        stored_bytes: report.stored_bytes,
        problems: problems.collect(),
        notices: report.notices,
    }
}
