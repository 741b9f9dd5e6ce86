//! The scheduler: which job runs when, and what people may ask of it.
//!
//! [`Jobs::watch`] does what takes no time: it takes jobs that nobody has, answers requests and opens and closes windows.
//! [`Jobs::step`] does what is due for one job, and returns when it is done. A [`Keeper`] calls both, on a thread of its own for
//! each job, so that a store that does not answer holds up no other job. A job's lock is held only in between: never while
//! its work looks or copies.

use super::place::Place;
use super::requests;
use super::run::Run;
use super::standing::{Due, Job, Now, facts_beside};
use super::state::State;
use super::{Action, Control, Event, JobFacts, Look, RunRecord, Select, Settings, Work, choose};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::thread;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often requests and windows are looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How often a job is looked at that another process seems to have only for a moment.
const TAKES: usize = 20;
/// How often is looked whether a job is due.
const STEP: Duration = Duration::from_secs(1);
/// How often the age of the newest copies is looked at: a sixtieth of what is allowed, within these seconds.
const AGE_LOOKS: (i64, i64) = (60, 15 * 60);

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
            let job = Job {
                now: Mutex::new(Now::new(&settings)),
                settings,
                place,
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
        loop {
            self.take(job)?;
            {
                let mut now = job.now.lock();
                if now.lock.is_some() {
                    job.act(name, &mut now, action, self.clock.now())?;
                    self.woken.notify_all();
                    return Ok(());
                }
            }
            // Whoever has it may let it go meanwhile.
            if requests::ask(&self.directory, name, action)? {
                return Ok(());
            }
        }
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
            (state.made(), state.handled.clone(), state.left.clone())
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
            let control = Arc::new(Control::new(name, now.rate));
            control.set_open(job.is_open(started));
            now.control = Some(control.clone());
            (control, now.state.made(), now.state.handled.clone())
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
            made,
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
        // Somebody who only looks has it for a moment.
        for _ in 0..TAKES {
            self.take(job)?;
            if self.has(name) {
                break;
            }
            std::thread::sleep(WATCH);
        }
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
        let names: Vec<String> = self.names().map(ToOwned::to_owned).collect();
        for name in names {
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
        thread::spawn(move || {
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

fn unknown(name: &str) -> Error {
    let message = format!(
        "there is no job {name:?}; `keepfs job list` shows all, and a [job.{name}] section of the configuration makes one"
    );
    Error::new(Kind::NotFound, message)
}
