//! One run of a job: the command before it, each target in turn, the command after it.

use super::state::Ids;
use super::{Candidate, Control, CopiedPoints, Look, Select, Settings, Work, choose};
use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sentences and names that a record keeps at most.
const KEPT_MAX: usize = 100;

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything was copied; or there was nothing to copy.
    Success,
    /// Everything was copied, and there is something to say about it.
    Warning,
    /// Parts could not be copied; a person decides.
    NeedsAction,
    /// It could not be done; it is tried again.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl Outcome {
    /// Its name in reports and in the environment of hooks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Warning => "warning",
            Self::NeedsAction => "needs-action",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// What a job remembers of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunRecord {
    /// When it began, seconds since 1970.
    pub started: i64,
    /// When it ended.
    pub ended: i64,
    /// What became of it.
    pub outcome: Outcome,
    /// How many points were copied.
    pub copied_count: u64,
    /// Points that were copied, as TARGET/BACKUP/POINT; at most a hundred.
    pub copied: Vec<String>,
    /// What went wrong, with the path that it concerns; at most a hundred.
    pub problems: Vec<(String, String)>,
    /// Ids of its copy sessions.
    pub sessions: Vec<String>,
    /// Bytes that were added to the targets' stores.
    pub stored_bytes: u64,
}

/// A run, and what it needs to know.
pub(super) struct Run<'a> {
    pub name: &'a str,
    pub settings: &'a Settings,
    pub select: Select,
    pub made: Time,
    pub handled: BTreeMap<String, Ids>,
    pub work: &'a dyn Work,
    pub control: &'a Arc<Control>,
    pub clock: &'a Clock,
}

/// What a run leaves.
pub(super) struct Done {
    pub record: RunRecord,
    pub handled: BTreeMap<String, Ids>,
    /// Points that it took and that a target still lacks.
    pub left: Ids,
}

impl Run<'_> {
    /// Runs it to its end, whatever that is.
    pub fn run(mut self) -> Done {
        let mut record = RunRecord {
            started: self.clock.now().seconds,
            ended: 0,
            outcome: Outcome::Success,
            copied_count: 0,
            copied: Vec::new(),
            problems: Vec::new(),
            sessions: Vec::new(),
            stored_bytes: 0,
        };
        let mut left = Ids::default();
        match self.before() {
            Ok(()) => self.targets(&mut record, &mut left),
            Err(error) => fail(&mut record, self.name, &error),
        }
        self.after(&mut record);
        record.ended = self.clock.now().seconds;
        Done {
            record,
            handled: self.handled,
            left,
        }
    }

    fn targets(&mut self, record: &mut RunRecord, left: &mut Ids) {
        for target in &self.settings.targets {
            if self.control.is_stopping() {
                worsen(record, Outcome::Stopped);
                return;
            }
            let copied = self.target(target, left);
            match copied {
                Ok(copied) => add(record, target, copied),
                Err(error) => fail(record, target, &error),
            }
        }
    }

    fn target(&mut self, target: &str, left: &mut Ids) -> Result<CopiedPoints> {
        let look = self.work.look(self.settings, target, true)?;
        let handled = self.handled.entry(target.to_owned()).or_default();
        note_handled(handled, &look, self.made);
        let chosen = choose(&look.candidates, self.select, self.made, &handled.0);
        if chosen.is_empty() {
            return Ok(CopiedPoints::default());
        }
        let chosen: Vec<Candidate> = chosen.into_iter().cloned().collect();
        let copied = self.work.copy(self.settings, target, &chosen, self.control);
        // Should this look fail, the next run's finds the same.
        if let Ok(look) = self.work.look(self.settings, target, true) {
            note_handled(handled, &look, self.made);
            let lacks = |point: &&Candidate| {
                let mut candidates = look.candidates.iter();
                candidates.any(|now| now.id == point.id && now.lacking)
            };
            left.0
                .extend(chosen.iter().filter(lacks).map(|point| point.id));
        }
        copied
    }

    fn before(&self) -> Result<()> {
        let Some(hook) = &self.settings.before else {
            return Ok(());
        };
        hook.run("before", &self.variables(), &|| self.control.stops_now())
    }

    fn after(&self, record: &mut RunRecord) {
        let Some(hook) = &self.settings.after else {
            return;
        };
        let reason = record.problems.first();
        let reason = reason.map_or_else(String::new, |(path, why)| format!("{path}: {why}"));
        let mut variables = self.variables();
        variables.extend([
            ("KEEPFS_RESULT", record.outcome.name().to_owned()),
            ("KEEPFS_REASON", reason),
            ("KEEPFS_COPIED", record.copied_count.to_string()),
            ("KEEPFS_POINTS", record.copied.join("\n")),
            ("KEEPFS_STORED_BYTES", record.stored_bytes.to_string()),
            ("KEEPFS_SESSIONS", record.sessions.join(" ")),
        ]);
        // A run that is stopped has ended; its command still says so.
        if let Err(error) = hook.run("after", &variables, &|| false) {
            record
                .problems
                .push((self.name.to_owned(), error.to_string()));
            worsen(record, Outcome::Warning);
        }
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let sources = self.settings.sources.iter().map(ToString::to_string);
        vec![
            ("KEEPFS_JOB", self.name.to_owned()),
            ("KEEPFS_SOURCES", sources.collect::<Vec<_>>().join(" ")),
            ("KEEPFS_TARGETS", self.settings.targets.join(" ")),
        ]
    }
}

/// What the target has is done with; what the source has no more is forgotten. What was there before the job was is never
/// asked for.
fn note_handled(handled: &mut Ids, look: &Look, made: Time) {
    let since = look
        .candidates
        .iter()
        .filter(|point| point.completed >= made);
    let done = since.filter(|point| !point.lacking || handled.0.contains(&point.id));
    handled.0 = done.map(|point| point.id).collect();
}

fn add(record: &mut RunRecord, target: &str, copied: CopiedPoints) {
    record.copied_count += copied.copied.len() as u64;
    let names = copied
        .copied
        .iter()
        .map(|point| format!("{target}/{point}"));
    record.copied.extend(names);
    record.copied.truncate(KEPT_MAX);
    let outcome = match (copied.needs_action, copied.problems.is_empty()) {
        (true, _) => Outcome::NeedsAction,
        (false, false) => Outcome::Warning,
        (false, true) => Outcome::Success,
    };
    let problems = copied.problems.into_iter();
    let problems = problems.map(|(path, why)| (format!("{target}/{path}"), why));
    record.problems.extend(problems);
    record.problems.truncate(KEPT_MAX);
    record.sessions.extend(copied.sessions);
    record.stored_bytes += copied.stored_bytes;
    worsen(record, outcome);
}

fn fail(record: &mut RunRecord, path: &str, error: &Error) {
    record
        .problems
        .push((path.to_owned(), error.message().to_owned()));
    record.problems.truncate(KEPT_MAX);
    worsen(
        record,
        match error.kind() {
            Kind::Interrupted => Outcome::Stopped,
            _ => Outcome::Failed,
        },
    );
}

/// The worst of what became of the parts is what became of the run; that somebody stopped it says more than all else.
fn worsen(record: &mut RunRecord, outcome: Outcome) {
    let weight = |outcome| match outcome {
        Outcome::Success => 0,
        Outcome::Warning => 1,
        Outcome::NeedsAction => 2,
        Outcome::Failed => 3,
        Outcome::Stopped => 4,
    };
    if weight(outcome) > weight(record.outcome) {
        record.outcome = outcome;
    }
}
