//! The one place where the verbs meet the rooms that do their work, and the shape in which all of them tell problems.

mod sessions;
mod telling;

pub use sessions::{PartFacts, PointFacts, SessionFacts};
pub(super) use sessions::{
    copy_of, retry_session, session, session_ids, session_log, session_source, sessions,
    skip_session, tell as tell_session, undo_session,
};
pub(super) use telling::Telling;

use super::check::CheckReport;
use super::control::{ControlTree, Jobs, Repositories, SessionView};
use super::copy::CopyReport;
use super::mount::MountArguments;
use super::restore::RestoreReport;
use super::{Host, Selected, jobs};
use crate::config::RepositoryPlace;
use crate::error::{Error, Kind, Result};
use crate::filesystem::{self, FileSystem, OpenPointFacts};
use crate::id::ObjectId;
use crate::point::{Catalog, Point};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::{check, copy, fuse, prune, restore};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a session waits for somebody before `auto-action` is done, unless the configuration says otherwise.
const AUTO_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Something that could not be done, and why.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemReport {
    /// What it concerns.
    pub path: String,
    /// What happened.
    pub sentence: String,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes what was selected below `target`.
pub(super) fn restore(
    selected: &Selected,
    target: &Path,
    numeric: bool,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport> {
    let options = restore::Options { numeric, threads };
    let report = restore::restore(&selected.trees, &selected.entry, target, &options, progress)?;
    let tell = |problems: &restore::Problems| {
        let named = problems.named.iter().map(|problem| ProblemReport {
            path: problem.path.clone(),
            sentence: problem.sentence.clone(),
        });
        named.collect()
    };
    Ok(RestoreReport {
        target: target.display().to_string(),
        entries: report.entries,
        bytes: report.bytes,
        problems: tell(&report.problems),
        problems_count: report.problems.count,
        warnings: tell(&report.warnings),
        warnings_count: report.warnings.count,
    })
}

/// Copies complete points of one repository, each into the backup of the same name, as one session.
pub(super) fn copy(
    source: &Arc<Repository>,
    points: &[(Vec<u8>, Arc<Point>)],
    target: &Arc<Repository>,
    telling: &Telling,
    progress: &Progress,
) -> Result<CopyReport> {
    let scopes = points.iter().map(|(backup, point)| copy::Scope::Point {
        backup: backup.clone(),
        point: point.name().to_vec(),
    });
    let selection = copy::Selection {
        scopes: scopes.collect(),
        into: None,
    };
    // Before there is a session.
    copy::require_both_ready(source, target)?;
    let options = copy::TransferOptions::between(source, target);
    let ends = [source, target].map(|repository| copy::End::open(repository.clone()));
    let [source, target] = ends;
    let conducted = copy::conduct_copy(&selection, &source?, &target?, &options, progress)?;
    telling.conducted(&conducted);
    if conducted.report.record.state != copy::SessionState::NeedsAction {
        conducted.result?;
    }
    Ok(tell_copy(&conducted.report))
}

/// Refuses a copy that these repositories rule out, or that has no room, before it begins.
pub(super) fn admit(
    source: &Arc<Repository>,
    points: &[(Vec<u8>, Arc<Point>)],
    target: &Arc<Repository>,
) -> Result<()> {
    copy::require_allowed(source, target)?;
    let points: Vec<_> = points.iter().map(|(_, point)| point.clone()).collect();
    copy::require_room(&points, source, target)
}

fn tell_copy(session: &copy::SessionReport) -> CopyReport {
    let record = &session.record;
    let mut report = CopyReport {
        sessions: vec![session.session.to_string()],
        chunks_moved: record.counters.chunks_moved,
        chunks_present: record.counters.chunks_present,
        frames_moved: record.counters.frames_moved,
        frames_cut: record.counters.frames_cut,
        stored_bytes: record.counters.stored_bytes,
        needs_action: record.state == copy::SessionState::NeedsAction,
        ..CopyReport::default()
    };
    for point in &record.points {
        let path = format!("{}/{}", text(&point.into), text(&point.name));
        let sentence = match point.outcome {
            copy::Outcome::Copied => {
                report.copied.push(path);
                continue;
            }
            copy::Outcome::Present => {
                report.present.push(path);
                continue;
            }
            copy::Outcome::Conflict => {
                "the target has another restore point of this name; forget or rename one of them"
            }
            copy::Outcome::Failed => {
                "parts of it could not be copied; nothing of it is in the target"
            }
            copy::Outcome::Waiting => "it was not reached; run the copy again",
        };
        let sentence = sentence.to_owned();
        report.problems.push(ProblemReport { path, sentence });
    }
    for part in &record.failed {
        report.problems.push(ProblemReport {
            path: format!(
                "{}/{}/{}",
                text(&part.backup),
                text(&part.point),
                text(&part.path)
            ),
            sentence: part.reason.clone(),
        });
    }
    report
}

/// Checks one repository.
pub(super) fn check(
    place: &RepositoryPlace,
    catalog: &Arc<Catalog>,
    read_data: bool,
    progress: &Progress,
) -> Result<CheckReport> {
    let options = check::Options {
        read_data,
        points: None,
    };
    let found = check::check(catalog, &options, progress)?;
    Ok(CheckReport {
        repository: place.name.clone(),
        read_data,
        rebuilt: None,
        found,
    })
}

/// Prunes one repository.
pub(super) fn prune(
    catalog: &Arc<Catalog>,
    options: &prune::Options,
    progress: &Progress,
) -> Result<prune::Report> {
    prune::prune(catalog, options, progress)
}

/// The open points of this host.
pub(super) fn open_points(state: &Path) -> Result<Vec<OpenPointFacts>> {
    filesystem::open_points(state)
}

/// Whether the open point of this id is one of this host.
pub(super) fn has_open_point(state: &Path, id: ObjectId) -> bool {
    filesystem::has_open_point(state, id)
}

/// Mounts repositories, each with its name there and the configured one, at `directory`, calls `ready` when it answers, and returns when it was unmounted.
pub(super) fn mount(
    repositories: Vec<(String, String, Arc<Repository>)>,
    host: &Host,
    arguments: &MountArguments,
    ready: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut catalogs = Vec::new();
    let mut configured = BTreeMap::new();
    for (name, known_as, repository) in repositories {
        let catalog = Arc::new(Catalog::open(repository)?);
        configured.insert(known_as, catalog.clone());
        catalogs.push((name, catalog));
    }
    let mut served = filesystem::Options::new(host.state_directory());
    served.spool_bytes = host.config().spool.unwrap_or(served.spool_bytes);
    served.entries_bytes = host.config().open_memory.unwrap_or(served.entries_bytes);
    served.numeric_owners = host.config().numeric_owners;
    let sessions = &host.config().sessions;
    let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    served.park_after = sessions.park_after.map_or(served.park_after, seconds);
    served.auto_action = sessions
        .auto_action
        .as_ref()
        .and_then(|word| copy::Action::named(word))
        .map(|action| {
            (
                action,
                sessions.auto_action_after.map_or(AUTO_AFTER, seconds),
            )
        });
    let tree = Arc::new(FileSystem::new(catalogs.clone(), served));
    let repositories = Repositories::new(catalogs.clone(), host.clock().clone());
    let mut controls = ControlTree::default().with("repositories", repositories);
    let telling = Telling::of(host);
    for (name, view) in SessionView::all(&catalogs, &tree, &telling) {
        controls = controls.with(name, view);
    }
    let jobs = jobs::of_mount(host, configured);
    if let Some(jobs) = &jobs {
        jobs::keep_blocking(host, jobs, &catalogs);
        controls = controls.with("jobs", Jobs::new(jobs.clone()));
    }
    tree.set_listener(Box::new(move |id, record| telling.ended(id, record)));
    tree.set_controls(Arc::new(controls));
    tree.keep_sealing_idle();
    tree.keep_resuming();
    tree.keep_telling_copies();
    if let Some(address) = host.config().metrics_listen {
        tree.serve_metrics(address)?;
    }
    let mut options = fuse::MountOptions::default();
    options.allow_other |= arguments.allow_other;
    options.access = arguments.access;
    options.source = arguments.source.clone().unwrap_or(options.source);
    options.while_bound = arguments.while_bound.clone();
    let signals = fuse::EndSignals::catch()?;
    let mounted = fuse::mount(tree, &arguments.directory, options)?;
    if let Err(error) = ready() {
        // Nobody would know of this mount.
        let ended = mounted.unmount();
        return Err(match ended {
            Ok(()) => error,
            Err(also) => Error::new(Kind::Failed, format!("{error}; then {also}")),
        });
    }
    // Until it is unmounted; then their runs are stopped.
    let _jobs = jobs.map(|jobs| jobs.keep());
    mounted.wait(signals)
}
