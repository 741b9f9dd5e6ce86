//! `jobs/NAME/`: the jobs of the configuration whose repositories this mount has, and what is asked of them.

use super::{line, missing};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::filesystem::{Caller, ControlEntry, Controls};
use crate::job::{Action, JobFacts, RunRecord, Select};
use std::fmt;
use std::sync::Arc;

/// The jobs of a mount.
pub(in crate::command) struct Jobs(Arc<crate::job::Jobs>);

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.names()).finish()
    }
}

impl Jobs {
    /// These.
    pub(in crate::command) fn new(jobs: Arc<crate::job::Jobs>) -> Self {
        Self(jobs)
    }
}

impl Controls for Jobs {
    fn list(&self, path: &[&str]) -> Result<Vec<ControlEntry>> {
        match path {
            [] => Ok(self.0.names().map(ControlEntry::directory).collect()),
            [name] => {
                self.0.show(name)?;
                let texts = ["config", "last-run", "next-run", "state"].map(ControlEntry::text);
                let verbs = [
                    ControlEntry::action("action"),
                    ControlEntry::setting("enabled"),
                ];
                Ok(texts.into_iter().chain(verbs).collect())
            }
            _ => Err(missing(path)),
        }
    }

    fn read(&self, path: &[&str]) -> Result<Vec<u8>> {
        let [name, file] = path else {
            return Err(missing(path));
        };
        let facts = self.0.show(name)?;
        let text = match *file {
            "state" => state(&facts),
            "config" => config(&facts),
            "enabled" => format!("{}\n", u8::from(facts.enabled)),
            "next-run" => facts.next_run.map(time).unwrap_or_default(),
            "last-run" => facts.last_run.as_ref().map(last_run).unwrap_or_default(),
            "action" => "start\nstart all\nstart latest\nstop\nstop graceful\n".to_owned(),
            _ => return Err(missing(path)),
        };
        Ok(text.into_bytes())
    }

    fn write(&self, path: &[&str], verb: &str, _: Caller) -> Result<()> {
        let action = match path {
            [_, "action"] => match verb {
                "start" => Action::Start(None),
                "start all" => Action::Start(Some(Select::All)),
                "start latest" => Action::Start(Some(Select::Latest)),
                "stop" => Action::Stop,
                "stop graceful" => Action::StopGracefully,
                _ => {
                    let what = "write start, start all, start latest, stop or stop graceful";
                    return Err(no_verb(verb, what));
                }
            },
            [_, "enabled"] => match verb {
                "1" | "yes" | "true" => Action::Enable,
                "0" | "no" | "false" => Action::Disable,
                _ => return Err(no_verb(verb, "write 1 or 0")),
            },
            _ => return Err(missing(path)),
        };
        self.0.act(path[0], action)
    }
}

fn no_verb(verb: &str, what: &str) -> Error {
    let message = format!("{verb:?} means nothing here: {what}");
    Error::new(Kind::Invalid, message)
}

fn time(seconds: i64) -> String {
    format!("{}\n", Time::new(seconds, 0).rfc3339())
}

fn state(facts: &JobFacts) -> String {
    let mut text = line("state", facts.phase.name());
    if let Some(reason) = &facts.disabled_by {
        text += &line("disabled-by", reason);
    }
    if let Some(problem) = &facts.problem {
        text += &line("problem", problem);
    }
    if let Some((bytes, total)) = facts.progress {
        text += &line("bytes", bytes);
        text += &line("bytes-total", total);
    }
    for backup in &facts.late {
        text += &line("late", backup);
    }
    text
}

fn config(facts: &JobFacts) -> String {
    let mut text = line("source", facts.sources.join(" "))
        + &line("target", facts.targets.join(" "))
        + &line("mode", &facts.mode);
    if let Some(schedule) = &facts.schedule {
        text += &line("schedule", schedule);
    }
    if let Some(rate) = facts.rate {
        text += &line("rate", rate);
    }
    text
}

fn last_run(run: &RunRecord) -> String {
    let time = |seconds| Time::new(seconds, 0).rfc3339();
    line("started", time(run.started))
        + &line("ended", time(run.ended))
        + &line("outcome", run.outcome.name())
        + &line("copied", run.copied_count)
        + &line("stored-bytes", run.stored_bytes)
        + &line("sessions", run.sessions.join(" "))
}
