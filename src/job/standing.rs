//! How one job stands: what is due, what people may ask of it, and what is left of a run.

use super::place::Place;
use super::requests;
use super::run::Done;
use super::state::{Ids, Retry, State};
use super::{Action, Control, JobFacts, Outcome, Phase, Schedule, Select, Settings};
use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// When all retries of an immediate job have failed, it begins anew after so many seconds.
const ANEW_SECONDS: i64 = 60 * 60;

pub(super) struct Job {
    pub settings: Settings,
    pub place: Place,
    pub now: Mutex<Now>,
}

/// How a job stands now.
pub(super) struct Now {
    /// None: another process has the job.
    pub lock: Option<File>,
    pub state: State,
    /// Somebody has asked for a run.
    pub asked: Option<Option<Select>>,
    /// Of the run that goes on.
    pub control: Option<Arc<Control>>,
    pub rate: Option<u64>,
    /// When the age of the newest copies was looked at.
    pub aged: Option<Time>,
    pub problem: Option<String>,
}

/// What is to be done for a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// A run with these points.
    Run(Select),
    /// A look whether there are points that the targets lack.
    Look,
}

impl Now {
    /// Of a job that no process here has.
    pub fn new(settings: &Settings) -> Self {
        Self {
            lock: None,
            state: State::default(),
            asked: None,
            control: None,
            rate: settings.rate,
            aged: None,
            problem: None,
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
            problem,
            ..Now::new(settings)
        }),
    };
    job.plan_next(&mut state, time);
    job.now.lock().state = state;
    job.facts(name, &job.now.lock(), time)
}

impl Job {
    pub fn is_open(&self, time: Time) -> bool {
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
    pub fn plan_next(&self, state: &mut State, time: Time) {
        let schedule = self.settings.schedule.as_ref();
        let zone = self.settings.zone.iana_name().unwrap_or_default();
        let by = schedule.map_or_else(String::new, |schedule| format!("{schedule} ({zone})"));
        if state.next_by != by {
            state.next_run = self.next_after(time);
            state.next_by = by;
        }
    }

    pub fn due(&self, now: &Now, time: Time) -> Due {
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
        let immediate = immediate.is_some_and(Schedule::is_immediate);
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

    pub fn act(&self, name: &str, now: &mut Now, action: Action, time: Time) -> Result<()> {
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
    pub fn note(&self, state: &mut State, done: Done, started: Time, ending: bool) -> Option<Time> {
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
        let immediate = schedule.is_some_and(Schedule::is_immediate);
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

    pub fn facts(&self, name: &str, now: &Now, time: Time) -> JobFacts {
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
            mode: schedule.map_or("by-hand", Schedule::mode).to_owned(),
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
