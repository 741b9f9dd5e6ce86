//! `job`: copies that recur. A daemon that mounts all repositories of a job has it; without one the command runs it
//! itself.

use super::engine::Telling;
use super::{CopyReport, Host, ProblemReport, engine};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::job::{
    self, Action, Candidate, Control, CopiedPoints, Event, GatedStore, JobFacts, Jobs, Look,
    OnCopy, Outcome, PointId, RunRecord, Select, Settings, Work,
};
use crate::point::{Catalog, Contents, Point};
use crate::progress::Progress;
use crate::store::RatedStore;
use crate::thread;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A repository of this host's disks is looked at anew after so long: a listing costs microseconds.
const FRESH_LOCAL: Duration = Duration::from_millis(800);
/// A repository in a cloud: a listing is a paid request. What this daemon itself completes is seen at once.
const FRESH_CLOUD: Duration = Duration::from_secs(10);

/// How often is looked for copies that disable jobs.
const BLOCKING: Duration = Duration::from_secs(5);

/// What became of a run.
#[derive(Clone, Debug, Serialize)]
pub struct JobRunLine {
    /// When it began, RFC 3339.
    pub started: String,
    /// When it ended.
    pub ended: String,
    /// `success`, `warning`, `needs-action`, `failed` or `stopped`.
    pub outcome: Outcome,
    /// How many points were copied.
    pub copied_count: u64,
    /// Points that were copied, as REPO/BACKUP/POINT; at most a hundred.
    pub copied: Vec<String>,
    /// What went wrong; at most a hundred.
    pub problems: Vec<ProblemReport>,
    /// Ids of its copy sessions.
    pub sessions: Vec<String>,
    /// Bytes that were added to the targets' stores.
    pub stored_bytes: u64,
}

/// How a job stands.
#[derive(Clone, Debug, Serialize)]
pub struct JobLine {
    /// Its name.
    pub name: String,
    /// `not-configured`, `disabled`, `idle`, `waiting`, `running`, `stopping` or `retrying`.
    pub state: &'static str,
    /// Whether it runs by itself, as far as people have a say.
    pub enabled: bool,
    /// Why it does not run whatever people say.
    pub disabled_by: Option<String>,
    /// `immediate`, `periodic`, `daily`, `calendar` or `by-hand`.
    pub mode: String,
    /// Its schedule.
    pub schedule: Option<String>,
    /// Which points it takes.
    pub select: Select,
    /// Where from.
    pub sources: Vec<String>,
    /// Where to.
    pub targets: Vec<String>,
    /// When it runs next by its schedule, RFC 3339.
    pub next_run: Option<String>,
    /// When it is tried again.
    pub retry: Option<String>,
    /// When its window opens, if it is closed.
    pub opens: Option<String>,
    /// Bytes a second, each way.
    pub rate: Option<u64>,
    /// Its last run.
    pub last_run: Option<JobRunLine>,
    /// Bytes of content done by the run that goes on.
    pub bytes: Option<u64>,
    /// Bytes of content that it has to do.
    pub bytes_total: Option<u64>,
    /// REPO/BACKUP of which the newest copy is older than the job's `rpo`.
    pub late: Vec<String>,
    /// Why its repositories could not be looked at last.
    pub problem: Option<String>,
}

/// All jobs.
#[derive(Clone, Debug, Serialize)]
pub struct JobsReport {
    /// By name.
    pub jobs: Vec<JobLine>,
}

/// What became of the wish to start a job.
#[derive(Clone, Debug, Serialize)]
pub struct StartReport {
    /// The job.
    pub name: String,
    /// Its run; none when a daemon does it.
    pub run: Option<JobRunLine>,
}

fn rfc3339(seconds: i64) -> String {
    Time::new(seconds, 0).rfc3339()
}

impl From<RunRecord> for JobRunLine {
    fn from(record: RunRecord) -> Self {
        let problems = record.problems.into_iter();
        Self {
            started: rfc3339(record.started),
            ended: rfc3339(record.ended),
            outcome: record.outcome,
            copied_count: record.copied_count,
            copied: record.copied,
            problems: problems
                .map(|(path, sentence)| ProblemReport { path, sentence })
                .collect(),
            sessions: record.sessions,
            stored_bytes: record.stored_bytes,
        }
    }
}

impl From<JobFacts> for JobLine {
    fn from(facts: JobFacts) -> Self {
        Self {
            name: facts.name,
            state: facts.phase.name(),
            enabled: facts.enabled,
            disabled_by: facts.disabled_by,
            mode: facts.mode,
            schedule: facts.schedule,
            select: facts.select,
            sources: facts.sources,
            targets: facts.targets,
            next_run: facts.next_run.map(rfc3339),
            retry: facts.retry.map(rfc3339),
            opens: facts.opens.map(rfc3339),
            rate: facts.rate,
            last_run: facts.last_run.map(JobRunLine::from),
            bytes: facts.progress.map(|(bytes, _)| bytes),
            bytes_total: facts.progress.map(|(_, total)| total),
            late: facts.late,
            problem: facts.problem,
        }
    }
}

/// All jobs of the configuration as they stand.
pub fn list_jobs(host: &Host) -> Result<JobsReport> {
    let facts = of_host(host, BTreeMap::new()).list();
    Ok(JobsReport {
        jobs: facts.into_iter().map(JobLine::from).collect(),
    })
}

/// One of them. `NotFound` when there is none of this name.
pub fn show_job(host: &Host, name: &str) -> Result<JobLine> {
    let jobs = of_host(host, BTreeMap::new());
    jobs.show(name).map(JobLine::from)
}

/// Asks for an action other than a start: of the daemon that has the job, or of what the job remembers. How it stands then.
pub fn ask_job(host: &Host, name: &str, action: Action) -> Result<JobLine> {
    let jobs = of_host(host, BTreeMap::new());
    jobs.act(name, action)?;
    jobs.show(name).map(JobLine::from)
}

/// Has the daemon run a job, or runs it here when none has it.
pub fn start_job(
    host: &Host,
    name: &str,
    select: Option<Select>,
    progress: &Progress,
) -> Result<StartReport> {
    // In this order: a daemon has the keys already, and nobody is asked for them.
    let looking = of_host(host, BTreeMap::new());
    let settings = host.config().jobs.get(name);
    let Some(settings) = settings.filter(|settings| !settings.targets.is_empty()) else {
        // Says why.
        looking.act(name, Action::Start(select))?;
        return Err(Error::new(
            Kind::NotFound,
            format!("there is no job {name}"),
        ));
    };
    loop {
        looking.watch();
        if looking.has(name) {
            break;
        }
        if job::ask(&directory(host), name, Action::Start(select))? {
            let (name, run) = (name.to_owned(), None);
            return Ok(StartReport { name, run });
        }
    }
    // Given back for the jobs that do the work.
    drop(looking);
    let mut catalogs = BTreeMap::new();
    for repository in settings.repositories() {
        if !catalogs.contains_key(repository) {
            let place = host.config().repository(repository)?;
            catalogs.insert(repository.to_owned(), host.catalog(&place, false)?);
        }
    }
    let record = one_of_host(host, name, catalogs).run_now(name, select, progress)?;
    Ok(StartReport {
        name: name.to_owned(),
        run: Some(record.into()),
    })
}

/// Where the jobs of this host's configuration have their files. Two configurations may have jobs of the same name.
fn directory(host: &Host) -> PathBuf {
    let file = host.config().file.as_deref().unwrap_or("".as_ref());
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let hash = blake3::hash(file.as_os_str().as_encoded_bytes()).to_hex();
    host.state_directory().join("jobs").join(&hash[..16])
}

fn jobs_with(
    host: &Host,
    catalogs: BTreeMap<String, Arc<Catalog>>,
    wanted: impl Fn(&str, &Settings) -> bool,
) -> Jobs {
    let jobs = host.config().jobs.iter();
    let jobs = jobs.filter(|(name, settings)| wanted(name, settings));
    let jobs: Vec<_> = jobs
        .map(|(name, settings)| (name.clone(), settings.clone()))
        .collect();
    let telling = Telling::of(host);
    let work = Box::new(Copies { catalogs, telling });
    let clock = host.clock().clone();
    Jobs::new(jobs, &directory(host), work, Box::new(log), clock)
}

fn of_host(host: &Host, catalogs: BTreeMap<String, Arc<Catalog>>) -> Jobs {
    jobs_with(host, catalogs, |_, _| true)
}

fn one_of_host(host: &Host, one: &str, catalogs: BTreeMap<String, Arc<Catalog>>) -> Jobs {
    jobs_with(host, catalogs, |name, _| name == one)
}

/// The jobs whose repositories are all mounted, by their configured names; none when there are none.
pub(super) fn of_mount(host: &Host, catalogs: BTreeMap<String, Arc<Catalog>>) -> Option<Arc<Jobs>> {
    let mounted: Vec<_> = catalogs.keys().cloned().collect();
    let jobs = jobs_with(host, catalogs, |_, settings| {
        let mut needed = settings.repositories();
        needed.all(|needed| mounted.iter().any(|name| name == needed))
    });
    // Threads are for those that have something to do.
    jobs.names().next()?;
    Some(Arc::new(jobs))
}

/// From now on keeps jobs from running that want it so (`on-copy = "disable"`) while a copy of their backups is not over,
/// as long as there are the jobs. What is said of that is looked up from the sessions, so that nothing of it outlives a
/// crash.
pub(super) fn keep_blocking(host: &Host, jobs: &Arc<Jobs>, catalogs: &[(String, Arc<Catalog>)]) {
    let wanted = host.config().jobs.iter();
    let wanted = wanted.filter(|(name, settings)| {
        settings.on_copy == OnCopy::Disable && jobs.names().any(|known| known == name.as_str())
    });
    let wanted: Vec<_> = wanted
        .map(|(name, settings)| (name.clone(), settings.clone()))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let (jobs, catalogs) = (Arc::downgrade(jobs), catalogs.to_vec());
    thread::spawn(move || {
        while let Some(jobs) = jobs.upgrade() {
            for (name, settings) in &wanted {
                if let Err(error) = block_or_not(&jobs, name, settings, &catalogs) {
                    tracing::info!(
                        "job {name}: copies of its backups are looked for later: {error}"
                    );
                }
            }
            drop(jobs);
            std::thread::sleep(BLOCKING);
        }
    });
}

fn block_or_not(
    jobs: &Jobs,
    name: &str,
    settings: &Settings,
    catalogs: &[(String, Arc<Catalog>)],
) -> Result<()> {
    match engine::copy_of(catalogs, |source, backup| settings.takes(source, backup))? {
        Some(id) => jobs.block(name, &format!("copy:{id}")),
        None => jobs.unblock(name),
    }
}

/// One line for each thing that happens.
fn log(event: &Event) {
    match event {
        Event::Started { job } => tracing::info!("job {job}: runs"),
        Event::Ended { job, record, .. } => log_end(job, record),
        Event::Late {
            job,
            target,
            backup,
            newest,
        } => {
            let newest = newest.map_or_else(|| "there is none".to_owned(), Time::rfc3339);
            tracing::warn!(
                "job {job}: the newest copy of {backup} in {target} is too old: {newest}; look at `keepfs job show {job}`"
            );
        }
        Event::InTime {
            job,
            target,
            backup,
        } => tracing::info!("job {job}: {target} has a new copy of {backup}"),
    }
}

fn log_end(job: &str, record: &RunRecord) {
    let (outcome, copied) = (record.outcome.name(), record.copied_count);
    let why = record.problems.first();
    let why = why.map_or_else(String::new, |(path, why)| format!("; {path}: {why}"));
    match record.outcome {
        Outcome::Success | Outcome::Stopped => {
            tracing::info!("job {job}: {outcome}, {copied} points copied{why}");
        }
        _ => tracing::warn!("job {job}: {outcome}, {copied} points copied{why}"),
    }
}

/// A point with the name of its backup.
type Named = (Vec<u8>, Arc<Point>);

/// Copies between repositories that are open already.
struct Copies {
    catalogs: BTreeMap<String, Arc<Catalog>>,
    telling: Telling,
}

impl Copies {
    fn catalog(&self, name: &str) -> Result<&Arc<Catalog>> {
        self.catalogs
            .get(name)
            .ok_or_else(|| Error::new(Kind::NoRepository, format!("{name} is not open here")))
    }

    fn contents(&self, name: &str, anew: bool) -> Result<Arc<Contents>> {
        let catalog = self.catalog(name)?;
        let local = !catalog.repository().location().contains("://");
        match anew {
            true => catalog.refresh(),
            false => catalog.contents_within(if local { FRESH_LOCAL } else { FRESH_CLOUD }),
        }
    }

    fn copy_from(
        &self,
        source: &str,
        target: &str,
        points: &[Named],
        telling: &Telling,
        control: &Arc<Control>,
    ) -> Result<CopyReport> {
        let [source, target] = [self.catalog(source)?, self.catalog(target)?];
        let rated = |catalog: &Catalog| {
            let store = catalog.repository().store().clone();
            Arc::new(RatedStore::new(store, [control.rate.clone()]))
        };
        let gated = Arc::new(GatedStore::source(rated(source), control.clone()));
        let source = source.repository().through(gated)?;
        let gated = Arc::new(GatedStore::target(rated(target), control.clone()));
        let target = target.repository().through(gated)?;
        engine::admit(&source, points, &target)?;
        engine::copy(&source, points, &target, telling, &control.progress)
    }
}

impl Work for Copies {
    fn look(&self, settings: &Settings, target: &str, anew: bool) -> Result<Look> {
        let there = self.contents(target, anew)?;
        let mut look = Look::default();
        let mut sources: Vec<_> = settings
            .sources
            .iter()
            .map(|from| &from.repository)
            .collect();
        sources.sort_unstable();
        sources.dedup();
        for source in sources {
            let contents = self.contents(source, anew)?;
            for backup in contents.backups.values() {
                if !settings.takes(source, backup.name()) {
                    continue;
                }
                let points = contents.points_of(backup.id);
                let points = points.map(|point| candidate(source, backup.name(), point, &there));
                look.candidates.extend(points);
                let newest = newest_in(&there, backup.name());
                look.newest.insert(backup.name().to_vec(), newest);
            }
        }
        Ok(look)
    }

    fn copy(
        &self,
        _settings: &Settings,
        target: &str,
        points: &[Candidate],
        control: &Arc<Control>,
    ) -> Result<CopiedPoints> {
        let mut groups: BTreeMap<&str, Vec<Named>> = BTreeMap::new();
        for wanted in points {
            let contents = self.catalog(&wanted.repository)?.contents();
            let point = contents.point(&wanted.backup, &wanted.name);
            // Forgotten since it was chosen: there is nothing to copy any more.
            if let Some(point) = point.filter(|point| id_of(point) == wanted.id) {
                let group = groups.entry(&wanted.repository).or_default();
                group.push((wanted.backup.clone(), point.clone()));
            }
        }
        let telling = self.telling.of_job(&control.job);
        let mut all = CopiedPoints::default();
        for (source, points) in groups {
            let report = self.copy_from(source, target, &points, &telling, control)?;
            let problems = report.problems.into_iter();
            all.problems
                .extend(problems.map(|problem| (problem.path, problem.sentence)));
            all.copied.extend(report.copied);
            all.needs_action |= report.needs_action;
            all.sessions.extend(report.sessions);
            all.stored_bytes += report.stored_bytes;
        }
        Ok(all)
    }
}

fn id_of(point: &Point) -> PointId {
    PointId {
        id: point.id,
        generation: point.generation,
    }
}

fn candidate(source: &str, backup: &[u8], point: &Point, there: &Contents) -> Candidate {
    let same = there.point(backup, point.name());
    let same = same.is_some_and(|same| same.record.same_content(&point.record));
    Candidate {
        repository: source.to_owned(),
        backup: backup.to_vec(),
        name: point.name().to_vec(),
        id: id_of(point),
        time: point.record.time,
        sequence: point.record.sequence,
        completed: point.record.sealed,
        lacking: !same,
    }
}

fn newest_in(there: &Contents, backup: &[u8]) -> Option<Time> {
    let backup = there.backups.get(backup)?;
    there.latest(backup.id).map(|point| point.record.time)
}
