//! The scheduler: which job runs when, and what people may ask of it.
//!
//! [`Jobs::watch`] does what takes no time: it takes jobs that nobody has, answers requests and opens and closes windows.
//! [`Jobs::step`] does what is due for one job, and returns when it is done. A [`Keeper`] calls both, on a thread of its own for
//! each job, so that a store that does not answer holds up no other job. A job's lock is held only in between: never while
//! its work looks or copies.

use super::place::Place;
use super::requests;
use super::run::{Done, Run};
use super::state::{Ids, Retry, State};
use super::{Action, Control, Look, Outcome, RunRecord, Select, Settings, Work, choose};
use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often requests and windows are looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How often is looked whether a job is due.
const STEP: Duration = Duration::from_secs(1);
/// When all retries of an immediate job have failed, it begins anew after so many seconds.
const ANEW_SECONDS: i64 = 60 * 60;
/// How often the age of the newest copies is looked at: a sixtieth of what is allowed, within these seconds.
const AGE_LOOKS: (i64, i64) = (60, 15 * 60);

/// What happens to jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A run began.
    Started {
        /// The job.
        job: String,
    },
    /// A run ended.
    Ended {
        /// The job.
        job: String,
        /// What became of it.
        record: RunRecord,
        /// When it is tried again, if it is.
        retry: Option<Time>,
    },
    /// The newest copy of a backup is older than the job's `rpo`: told once, until there is a newer one.
    Late {
        /// The job.
        job: String,
        /// The target.
        target: String,
        /// The backup.
        backup: String,
        /// When the source of its newest copy was read; none when there is no copy.
        newest: Option<Time>,
    },
    /// There is a newer one.
    InTime {
        /// The job.
        job: String,
        /// The target.
        target: String,
        /// The backup.
        backup: String,
    },
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It has no target.
    NotConfigured,
    /// It runs only when somebody starts it; or not at all, if something has disabled it.
    Disabled,
    /// It is not due.
    Idle,
    /// It is due, or was under way, and its window is closed.
    Waiting,
    /// It runs.
    Running,
    /// Somebody has asked its run to stop.
    Stopping,
    /// Its last run failed, and another one follows.
    Retrying,
}

impl Phase {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConfigured => "not-configured",
            Self::Disabled => "disabled",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Retrying => "retrying",
        }
    }
}

/// A job as it stands. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobFacts {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub phase: Phase,
    /// Whether it runs by itself, as far as people have a say.
    pub enabled: bool,
    /// Why it does not run whatever people say.
    pub disabled_by: Option<String>,
    /// `immediate`, `periodic`, `daily`, `calendar` or `by-hand`.
    pub mode: String,
    /// Its schedule as the configuration says.
    pub schedule: Option<String>,
    /// Which points it takes.
    pub select: Select,
    /// Where from.
    pub sources: Vec<String>,
    /// Where to.
    pub targets: Vec<String>,
    /// When it runs next by its schedule.
    pub next_run: Option<i64>,
    /// When it is tried again.
    pub retry: Option<i64>,
    /// When its window opens, if it is closed.
    pub opens: Option<i64>,
    /// Bytes a second, each way.
    pub rate: Option<u64>,
    /// What became of its last run.
    pub last_run: Option<RunRecord>,
    /// Bytes of content done by the run that goes on, and to do.
    pub progress: Option<(u64, u64)>,
    /// TARGET/BACKUP of which the newest copy is too old.
    pub late: Vec<String>,
    /// Why its repositories could not be looked at last.
    pub problem: Option<String>,
}

/// The jobs of one configuration in this process.
pub struct Jobs {
    directory: PathBuf,
    work: Box<dyn Work>,
    tell: Box<dyn Fn(&Event) + Send + Sync>,
    clock: Clock,
    jobs: BTreeMap<String, Job>,
    ended: Mutex<bool>,
    woken: Condvar,
}

struct Job {
    settings: Settings,
    place: Place,
    now: Mutex<Now>,
}

/// How a job stands now.
struct Now {
    /// None: another process has the job.
    lock: Option<File>,
    state: State,
    /// Somebody has asked for a run.
    asked: Option<Option<Select>>,
    /// Of the run that goes on.
    control: Option<Arc<Control>>,
    rate: Option<u64>,
    /// When the age of the newest copies was looked at.
    aged: Option<Time>,
    problem: Option<String>,
}

/// What is to be done for a job.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// A run with these points.
    Run(Select),
    /// A look whether there are points that the targets lack.
    Look,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.jobs.keys()).finish()
    }
}

impl Jobs {
    /// These jobs, with their files in `directory`. Nothing is done before somebody calls [`Self::watch`].
    pub fn new(
        jobs: impl IntoIterator<Item = (String, Settings)>,
        directory: &Path,
        work: Box<dyn Work>,
        tell: Box<dyn Fn(&Event) + Send + Sync>,
        clock: Clock,
    ) -> Self {
        let job = |(name, settings): (String, Settings)| {
            let place = Place::new(directory, &name);
            let now = Now {
                lock: None,
                state: State::default(),
                asked: None,
                control: None,
                rate: settings.rate,
                aged: None,
                problem: None,
            };
            let job = Job {
                settings,
                place,
                now: Mutex::new(now),
            };
            (name, job)
        };
        Self {
            directory: directory.to_owned(),
            work,
            tell,
            clock,
            jobs: jobs.into_iter().map(job).collect(),
            ended: Mutex::new(false),
            woken: Condvar::new(),
        }
    }

    /// The names of all jobs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.jobs.keys().map(String::as_str)
    }

    /// All jobs as they stand.
    pub fn list(&self) -> Vec<JobFacts> {
        let facts = |(name, job): (&String, &Job)| self.facts(name, job);
        self.jobs.iter().map(facts).collect()
    }

    /// One job as it stands. `NotFound` when there is none of this name.
    pub fn show(&self, name: &str) -> Result<JobFacts> {
        Ok(self.facts(name, self.job(name)?))
    }

    fn facts(&self, name: &str, job: &Job) -> JobFacts {
        let now = job.now.lock();
        if now.lock.is_none() {
            drop(now);
            return facts_beside(&self.directory, name, &job.settings, &self.clock);
        }
        job.facts(name, &now, self.clock.now())
    }

    fn job(&self, name: &str) -> Result<&Job> {
        self.jobs.get(name).ok_or_else(|| unknown(name))
    }

    /// Does what somebody asks of a job, whoever has it. `NotFound` when there is none of this name, `Busy` when it runs or
    /// something has disabled it, `Invalid` when it has no target. An enabled or disabled job is so for good when this returns.
    pub fn act(&self, name: &str, action: Action) -> Result<()> {
        let job = self.job(name)?;
        let mut now = job.now.lock();
        if now.lock.is_none() {
            drop(now);
            self.take(job)?;
            now = job.now.lock();
        }
        if now.lock.is_none() {
            drop(now);
            return requests::ask(&self.directory, name, action);
        }
        job.act(name, &mut now, action, self.clock.now())?;
        self.woken.notify_all();
        Ok(())
    }

    /// Keeps a job from running, by hand too, for a reason that people are told; a run that goes on is not stopped. What
    /// people have said of it stays as it is, and holds again after [`Self::unblock`].
    pub fn block(&self, name: &str, reason: &str) -> Result<()> {
        self.set_blocked(name, Some(reason))
    }

    /// Lets a job run again that was blocked.
    pub fn unblock(&self, name: &str) -> Result<()> {
        self.set_blocked(name, None)
    }

    fn set_blocked(&self, name: &str, reason: Option<&str>) -> Result<()> {
        let job = self.job(name)?;
        self.take(job)?;
        let mut now = job.now.lock();
        if now.lock.is_none() {
            let message = format!("another process has the job {name}; wait until it ends");
            return Err(Error::new(Kind::Busy, message));
        }
        now.state.disabled_by = reason.map(ToOwned::to_owned);
        if reason.is_some() {
            now.asked = None;
        }
        job.place.save(&now.state)
    }

    /// Whether this process has the job.
    pub fn has(&self, name: &str) -> bool {
        let job = self.jobs.get(name);
        job.is_some_and(|job| job.now.lock().lock.is_some())
    }

    /// Takes jobs that nobody has, answers requests, and tells runs whether their windows are open. Takes no time.
    pub fn watch(&self) {
        for (name, job) in &self.jobs {
            if let Err(error) = self.watch_one(name, job) {
                tracing::warn!("job {name}: {error}");
            }
        }
    }

    fn watch_one(&self, name: &str, job: &Job) -> Result<()> {
        self.take(job)?;
        let time = self.clock.now();
        {
            let now = job.now.lock();
            if now.lock.is_none() {
                return Ok(());
            }
            if let Some(control) = &now.control {
                control.set_open(job.is_open(time));
            }
        }
        let act = |action| {
            let done = job.act(name, &mut job.now.lock(), action, time);
            self.woken.notify_all();
            done
        };
        let facts = || job.facts(name, &job.now.lock(), time);
        requests::answer(&job.place, act, facts)
    }

    /// Takes a job that nobody has, and remembers what it remembers.
    fn take(&self, job: &Job) -> Result<()> {
        let mut now = job.now.lock();
        if now.lock.is_some() {
            return Ok(());
        }
        let Some(lock) = job.place.lock()? else {
            return Ok(());
        };
        let time = self.clock.now();
        now.state = match job.place.load(time) {
            Err(error) if error.kind() == Kind::Damaged => State {
                disabled_by: Some(error.message().to_owned()),
                ..State::new(time)
            },
            read => read?,
        };
        job.plan_next(&mut now.state, time);
        // What it knows of its making must outlast this process, or points completed from now on could be taken for old.
        if now.state.disabled_by.is_none() {
            job.place.save(&now.state)?;
        }
        now.lock = Some(lock);
        Ok(())
    }

    /// Does what is due for one job; whether a run was made.
    pub fn step(&self, name: &str) -> bool {
        let Ok(job) = self.job(name) else {
            return false;
        };
        let due = {
            let now = job.now.lock();
            if now.lock.is_none() || job.settings.targets.is_empty() {
                return false;
            }
            job.due(&now, self.clock.now())
        };
        let select = match due {
            Due::Run(select) => Some(select),
            Due::Look if self.finds_some(name, job) => Some(job.settings.select),
            _ => None,
        };
        if let Some(select) = select {
            self.run(name, job, select);
        }
        self.look_at_age(name, job, select.is_some());
        select.is_some()
    }

    /// Whether a target lacks points that no run has left for a person to decide.
    fn finds_some(&self, name: &str, job: &Job) -> bool {
        let (made, handled, left) = {
            let state = &job.now.lock().state;
            (state.made, state.handled.clone(), state.left.clone())
        };
        let mut problem = None;
        let found = job.settings.targets.iter().any(|target| {
            let look = match self.work.look(&job.settings, target, false) {
                Ok(look) => look,
                Err(error) => {
                    problem = Some(format!("{target}: {error}"));
                    return false;
                }
            };
            let none = BTreeSet::new();
            let handled = handled.get(target).map_or(&none, |ids| &ids.0);
            let made = Time::new(made, 0);
            let chosen = choose(&look.candidates, job.settings.select, made, handled);
            chosen.iter().any(|point| !left.0.contains(&point.id))
        });
        self.note_problem(name, job, problem);
        found
    }

    /// A problem that lasts is told once.
    fn note_problem(&self, name: &str, job: &Job, problem: Option<String>) {
        let mut now = job.now.lock();
        if let Some(sentence) = problem.as_ref().filter(|_| now.problem != problem) {
            tracing::warn!("job {name}: {sentence}");
        }
        now.problem = problem;
    }

    fn run(&self, name: &str, job: &Job, select: Select) {
        let started = self.clock.now();
        let (control, made, handled) = {
            let mut now = job.now.lock();
            now.asked = None;
            let control = Arc::new(Control::new(now.rate));
            control.set_open(job.is_open(started));
            now.control = Some(control.clone());
            (control, now.state.made, now.state.handled.clone())
        };
        if *self.ended.lock() {
            control.stop();
        }
        (self.tell)(&Event::Started {
            job: name.to_owned(),
        });
        let run = Run {
            name,
            settings: &job.settings,
            select,
            made: Time::new(made, 0),
            handled,
            work: self.work.as_ref(),
            control: &control,
            clock: &self.clock,
        };
        let done = run.run();
        let ending = *self.ended.lock();
        let (record, retry) = {
            let mut now = job.now.lock();
            now.control = None;
            let retry = job.note(&mut now.state, done, started, ending);
            if let Err(error) = job.place.save(&now.state) {
                // The next run does again what this one did, which costs nothing but time.
                tracing::warn!("job {name}: {error}");
            }
            let record = now.state.last_run.clone();
            (record.expect("it was just noted"), retry)
        };
        (self.tell)(&Event::Ended {
            job: name.to_owned(),
            record,
            retry,
        });
    }

    /// Warns of copies that are too old, each once, and says when there is a newer one.
    fn look_at_age(&self, name: &str, job: &Job, anyway: bool) {
        let Some(rpo) = job.settings.rpo else { return };
        let time = self.clock.now();
        {
            let mut now = job.now.lock();
            let wait = (rpo / 60).clamp(AGE_LOOKS.0, AGE_LOOKS.1);
            let next = now.aged.map(|aged| aged.seconds + wait);
            if !anyway && next.is_some_and(|next| time.seconds < next) {
                return;
            }
            now.aged = Some(time);
        }
        for target in &job.settings.targets {
            match self.work.look(&job.settings, target, false) {
                Ok(look) => self.tell_age(name, job, target, &look, time.seconds - rpo),
                Err(error) => {
                    self.note_problem(name, job, Some(format!("{target}: {error}")));
                }
            }
        }
    }

    fn tell_age(&self, name: &str, job: &Job, target: &str, look: &Look, oldest: i64) {
        let mut events = Vec::new();
        {
            let mut now = job.now.lock();
            let made = now.state.made;
            for (backup, newest) in &look.newest {
                let backup = String::from_utf8_lossy(backup).into_owned();
                let (job, target) = (name.to_owned(), target.to_owned());
                let path = format!("{target}/{backup}");
                let newest = *newest;
                let late = newest.map_or(made, |newest| newest.seconds) <= oldest;
                if late && now.state.late.insert(path.clone()) {
                    events.push(Event::Late {
                        job,
                        target,
                        backup,
                        newest,
                    });
                } else if !late && now.state.late.remove(&path) {
                    events.push(Event::InTime {
                        job,
                        target,
                        backup,
                    });
                }
            }
            // Told only once it is remembered that it was.
            if !events.is_empty()
                && let Err(error) = job.place.save(&now.state)
            {
                tracing::warn!("job {name}: {error}");
            }
        }
        events.iter().for_each(|event| (self.tell)(event));
    }

    /// Runs a job that nobody else has, in this thread, once its window is open; stops it when `progress` says so. Fails as
    /// [`Self::act`] does, and with `Busy` when another process has the job.
    pub fn run_now(
        &self,
        name: &str,
        select: Option<Select>,
        progress: &Progress,
    ) -> Result<RunRecord> {
        let job = self.job(name)?;
        self.take(job)?;
        if !self.has(name) {
            let message = format!("another process has the job {name}; ask it");
            return Err(Error::new(Kind::Busy, message));
        }
        self.act(name, Action::Start(select))?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    self.watch();
                    self.pass_on(name, job, progress);
                    std::thread::sleep(WATCH);
                }
            });
            let _told = Told(&done);
            while !self.step(name) {
                progress.go_on()?;
                std::thread::sleep(WATCH);
            }
            let record = job.now.lock().state.last_run.clone();
            Ok(record.expect("it has just run"))
        })
    }

    /// Tells a run that its caller wants to stop, and the caller how far it is.
    fn pass_on(&self, name: &str, job: &Job, progress: &Progress) {
        if progress.go_on().is_err()
            && let Err(error) = self.act(name, Action::Stop)
        {
            tracing::warn!("job {name}: {error}");
        }
        if let Some(control) = &job.now.lock().control {
            let own = &control.progress;
            own.watched.store(progress.watched.load(Relaxed), Relaxed);
            progress.expect(own.items_total.load(Relaxed), own.bytes_total.load(Relaxed));
            progress.items.store(own.items.load(Relaxed), Relaxed);
            progress.bytes.store(own.bytes.load(Relaxed), Relaxed);
        }
    }

    /// Watches, and steps each job, on threads of their own until the keeper is dropped.
    pub fn keep(self: &Arc<Self>) -> Keeper {
        let mut threads = vec![self.spawn(WATCH, Self::watch)];
        for name in self.jobs.keys().cloned() {
            threads.push(self.spawn(STEP, move |jobs| {
                jobs.step(&name);
            }));
        }
        Keeper {
            jobs: self.clone(),
            threads,
        }
    }

    fn spawn(
        self: &Arc<Self>,
        pause: Duration,
        mut work: impl FnMut(&Self) + Send + 'static,
    ) -> JoinHandle<()> {
        let jobs = self.clone();
        std::thread::spawn(move || {
            loop {
                if *jobs.ended.lock() {
                    return;
                }
                work(&jobs);
                let mut ended = jobs.ended.lock();
                if !*ended {
                    jobs.woken.wait_for(&mut ended, pause);
                }
            }
        })
    }

    /// Asks every run to stop, and lets no more begin. They go on where they were when another process has the jobs.
    pub fn end(&self) {
        *self.ended.lock() = true;
        for job in self.jobs.values() {
            if let Some(control) = &job.now.lock().control {
                control.stop();
            }
        }
        self.woken.notify_all();
    }
}

/// Says that something is done when it goes, whatever it came to.
struct Told<'a>(&'a AtomicBool);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Threads that keep jobs going. Dropping it stops their runs and waits for that.
#[derive(Debug)]
pub struct Keeper {
    jobs: Arc<Jobs>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.jobs.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a job's thread stopped unexpectedly");
            }
        }
    }
}

/// A job as it stands, for whoever does not have it: as the process that has it says, or as its file does.
pub fn facts_beside(directory: &Path, name: &str, settings: &Settings, clock: &Clock) -> JobFacts {
    let place = Place::new(directory, name);
    let time = clock.now();
    if let Ok(None) = place.lock()
        && let Ok(facts) = requests::ask_facts(directory, name)
    {
        return facts;
    }
    let (mut state, problem) = match place.load(time) {
        Ok(state) => (state, None),
        Err(error) => (State::new(time), Some(error.to_string())),
    };
    let job = Job {
        settings: settings.clone(),
        place,
        now: Mutex::new(Now {
            lock: None,
            state: State::default(),
            asked: None,
            control: None,
            rate: settings.rate,
            aged: None,
            problem,
        }),
    };
    job.plan_next(&mut state, time);
    job.now.lock().state = state;
    job.facts(name, &job.now.lock(), time)
}

impl Job {
    fn is_open(&self, time: Time) -> bool {
        let Settings { window, zone, .. } = &self.settings;
        window
            .as_ref()
            .is_none_or(|window| window.allows(time, zone))
    }

    fn is_enabled(&self, state: &State) -> bool {
        state.enabled.unwrap_or(self.settings.enabled)
    }

    fn next_after(&self, time: Time) -> Option<i64> {
        let schedule = self.settings.schedule.as_ref()?;
        let next = schedule.next(time, &self.settings.zone)?;
        Some(next.seconds)
    }

    /// Keeps the next run that is remembered, unless the schedule is another one.
    fn plan_next(&self, state: &mut State, time: Time) {
        let schedule = self.settings.schedule.as_ref();
        let zone = self.settings.zone.iana_name().unwrap_or_default();
        let by = schedule.map_or_else(String::new, |schedule| format!("{schedule} ({zone})"));
        if state.next_by != by {
            state.next_run = self.next_after(time);
            state.next_by = by;
        }
    }

    fn due(&self, now: &Now, time: Time) -> Due {
        if now.control.is_some() || now.state.disabled_by.is_some() || !self.is_open(time) {
            return Due::Nothing;
        }
        if let Some(select) = now.asked {
            return Due::Run(select.unwrap_or(self.settings.select));
        }
        if !self.is_enabled(&now.state) {
            return Due::Nothing;
        }
        let come = |at: i64| at <= time.seconds;
        let immediate = self.settings.schedule.as_ref();
        let immediate = immediate.is_some_and(super::Schedule::is_immediate);
        match now.state.retry {
            Some(retry) if come(retry.at) => return Due::Run(self.settings.select),
            Some(_) if immediate => return Due::Nothing,
            _ => {}
        }
        match now.state.next_run {
            Some(next) if come(next) => Due::Run(self.settings.select),
            _ if immediate => Due::Look,
            _ => Due::Nothing,
        }
    }

    fn act(&self, name: &str, now: &mut Now, action: Action, time: Time) -> Result<()> {
        match action {
            Action::Start(select) => self.start(name, now, select),
            Action::Stop | Action::StopGracefully => {
                match &now.control {
                    Some(control) if action == Action::Stop => control.stop(),
                    Some(control) => control.stop_after_pack(),
                    None => {}
                }
                now.asked = None;
                self.give_up_retry(now)
            }
            Action::Enable => {
                let was = self.is_enabled(&now.state);
                now.state.enabled = Some(true);
                if !was {
                    // What fell into the time when it was disabled was not meant to run.
                    now.state.next_run = self.next_after(time);
                }
                self.place.save(&now.state)
            }
            Action::Disable => {
                now.state.enabled = Some(false);
                now.asked = None;
                now.state.retry = None;
                self.place.save(&now.state)
            }
            Action::Rate(rate) => {
                now.rate = rate;
                if let Some(control) = &now.control {
                    control.rate.set(rate);
                }
                Ok(())
            }
        }
    }

    fn start(&self, name: &str, now: &mut Now, select: Option<Select>) -> Result<()> {
        if self.settings.targets.is_empty() {
            let message = format!(
                "the job {name} has no target; say in the configuration where it copies to: target = \"REPO\""
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if let Some(reason) = &now.state.disabled_by {
            let message = format!("the job {name} is disabled: {reason}");
            return Err(Error::new(Kind::Busy, message));
        }
        if now.control.is_some() || now.asked.is_some() {
            let message = format!("the job {name} is under way; wait, or stop it first");
            return Err(Error::new(Kind::Busy, message));
        }
        now.asked = Some(select);
        Ok(())
    }

    fn give_up_retry(&self, now: &mut Now) -> Result<()> {
        match now.state.retry.take() {
            Some(_) => self.place.save(&now.state),
            None => Ok(()),
        }
    }

    /// Remembers what became of a run; when it is tried again.
    fn note(&self, state: &mut State, done: Done, started: Time, ending: bool) -> Option<Time> {
        let Done {
            record,
            handled,
            left,
        } = done;
        let outcome = record.outcome;
        let failed = 1 + state.retry.map_or(0, |retry| retry.failed);
        state.retry = match outcome {
            Outcome::Failed => self.retry_after(failed, record.ended),
            // The daemon ended, not the run: whoever has the job next goes on.
            Outcome::Stopped if ending => Some(Retry {
                failed: failed - 1,
                at: record.ended,
            }),
            _ => None,
        };
        state.left = match outcome {
            Outcome::Stopped if ending => Ids::default(),
            _ => left,
        };
        state.handled = handled;
        state.last_run = Some(record);
        if state.next_run.is_some_and(|next| next <= started.seconds) {
            state.next_run = self.next_after(started);
        }
        state.retry.map(|retry| Time::new(retry.at, 0))
    }

    fn retry_after(&self, failed: u32, ended: i64) -> Option<Retry> {
        let schedule = self.settings.schedule.as_ref();
        if failed <= self.settings.retries {
            let at = ended + self.settings.wait_after(failed);
            return Some(Retry { failed, at });
        }
        // Nothing else would start it again before the next point is there.
        let immediate = schedule.is_some_and(super::Schedule::is_immediate);
        immediate.then_some(Retry {
            failed: 0,
            at: ended + ANEW_SECONDS,
        })
    }

    fn phase(&self, now: &Now, time: Time) -> Phase {
        if let Some(control) = &now.control {
            return match (control.is_stopping(), control.is_waiting()) {
                (true, _) => Phase::Stopping,
                (_, true) => Phase::Waiting,
                _ => Phase::Running,
            };
        }
        if self.settings.targets.is_empty() {
            return Phase::NotConfigured;
        }
        if now.state.disabled_by.is_some() {
            return Phase::Disabled;
        }
        let enabled = self.is_enabled(&now.state);
        let mut due = [now.state.next_run, now.state.retry.map(|retry| retry.at)]
            .into_iter()
            .flatten();
        let waits = now.asked.is_some() || (enabled && due.any(|at| at <= time.seconds));
        match (waits && !self.is_open(time), enabled, now.state.retry) {
            (true, ..) => Phase::Waiting,
            (_, false, _) => Phase::Disabled,
            (_, _, Some(_)) => Phase::Retrying,
            _ => Phase::Idle,
        }
    }

    fn facts(&self, name: &str, now: &Now, time: Time) -> JobFacts {
        let Settings { window, zone, .. } = &self.settings;
        let schedule = self.settings.schedule.as_ref();
        let opens = window.as_ref().filter(|_| !self.is_open(time));
        let opens = opens.and_then(|window| window.next_open(time, zone));
        let progress = now.control.as_ref().map(|control| {
            let progress = &control.progress;
            (
                progress.bytes.load(Relaxed),
                progress.bytes_total.load(Relaxed),
            )
        });
        JobFacts {
            name: name.to_owned(),
            phase: self.phase(now, time),
            enabled: self.is_enabled(&now.state),
            disabled_by: now.state.disabled_by.clone(),
            mode: schedule.map_or("by-hand", super::Schedule::mode).to_owned(),
            schedule: schedule.map(ToString::to_string),
            select: self.settings.select,
            sources: self
                .settings
                .sources
                .iter()
                .map(ToString::to_string)
                .collect(),
            targets: self.settings.targets.clone(),
            next_run: now.state.next_run,
            retry: now.state.retry.map(|retry| retry.at),
            opens: opens.map(|time| time.seconds),
            rate: now.rate,
            last_run: now.state.last_run.clone(),
            progress,
            late: now.state.late.iter().cloned().collect(),
            problem: now.problem.clone(),
        }
    }
}

fn unknown(name: &str) -> Error {
    let message = format!(
        "there is no job {name:?}; `keepfs job list` shows all, and a [job.{name}] section of the configuration makes one"
    );
    Error::new(Kind::NotFound, message)
}
