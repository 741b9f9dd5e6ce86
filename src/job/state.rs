//! What a job remembers: one small file.

use super::{PointId, RunRecord};
use crate::clock::Time;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// Ids of restore points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids(pub BTreeSet<PointId>);

impl Serialize for Ids {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let ids = texts.iter().map(|text| text.parse::<PointId>());
        let ids = ids.collect::<Result<_, _>>();
        ids.map(Self).map_err(serde::de::Error::custom)
    }
}

/// A run that failed is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retry {
    /// Runs that have failed in a row.
    pub failed: u32,
    /// When the next one starts.
    pub at: i64,
}

/// What a job remembers. Times are seconds since 1970; what it does not say has not been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct State {
    /// When there was the job first, and nanoseconds besides: points are completed at any moment of a second.
    pub made: i64,
    /// 0..10⁹.
    pub made_nanoseconds: u32,
    /// What somebody has said; none: as the configuration says.
    pub enabled: Option<bool>,
    /// Why it does not run whatever anybody says.
    pub disabled_by: Option<String>,
    /// When it runs next by its schedule.
    pub next_run: Option<i64>,
    /// The schedule and the zone that this follows from.
    pub next_by: String,
    /// What became of the last run.
    pub last_run: Option<RunRecord>,
    /// The retry that is due.
    pub retry: Option<Retry>,
    /// Points that each target is done with; those that the source has no more are left out.
    pub handled: BTreeMap<String, Ids>,
    /// Points that the last run has left, for a person to decide: they alone start no run of an immediate job.
    pub left: Ids,
    /// TARGET/BACKUP of which somebody was told that the newest copy is too old.
    pub late: BTreeSet<String>,
}

impl State {
    /// Of a job that is made now.
    pub fn new(now: Time) -> Self {
        Self {
            made: now.seconds,
            made_nanoseconds: now.nanoseconds,
            ..Self::default()
        }
    }

    /// When there was the job first.
    pub fn made(&self) -> Time {
        Time::new(self.made, self.made_nanoseconds)
    }
}
