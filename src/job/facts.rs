//! How jobs stand, and what happens to them.

use super::{RunRecord, Select};
use crate::clock::Time;
use serde::{Deserialize, Serialize};

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
