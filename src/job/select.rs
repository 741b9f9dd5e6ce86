//! Which restore points a run takes. Pure.

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which of the points that the target lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// The newest of each backup.
    Latest,
    /// Those that were completed since there is the job, each once: what is forgotten in the target is not copied again.
    #[default]
    Each,
    /// All.
    All,
}

impl Select {
    /// Its name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Each => "each",
            Self::All => "all",
        }
    }
}

/// A complete restore point for good: one that is made anew under a forgotten name is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PointId {
    /// Its id.
    pub id: ObjectId,
    /// Counts the points of its name.
    pub generation: u64,
}

impl std::fmt::Display for PointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.id, self.generation)
    }
}

impl std::str::FromStr for PointId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::new(Kind::Invalid, format!("{text:?} is no restore point's id"));
        let (id, generation) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self {
            id: id.parse()?,
            generation: generation.parse().map_err(|_| wrong())?,
        })
    }
}

/// A complete restore point that a job's sources take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its repository's configured name.
    pub repository: String,
    /// Its backup's name.
    pub backup: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Its id.
    pub id: PointId,
    /// When its source was read.
    pub time: Time,
    /// Its place among the records of its backup.
    pub sequence: u64,
    /// When it was completed.
    pub completed: Time,
    /// Whether the target does not have it.
    pub lacking: bool,
}

/// The candidates that a run takes, oldest first. `made` is when the job was made, `handled` what it is done with.
pub fn choose<'a>(
    candidates: &'a [Candidate],
    select: Select,
    made: Time,
    handled: &BTreeSet<PointId>,
) -> Vec<&'a Candidate> {
    let newest = newest_of_each(candidates);
    let wanted = |candidate: &&Candidate| match select {
        Select::All => true,
        Select::Each => candidate.completed >= made && !handled.contains(&candidate.id),
        Select::Latest => newest.contains(&candidate.id),
    };
    let lacking = candidates.iter().filter(|candidate| candidate.lacking);
    let mut chosen: Vec<_> = lacking.filter(wanted).collect();
    chosen.sort_by_key(|candidate| (candidate.time, candidate.sequence, candidate.id));
    chosen
}

fn newest_of_each(candidates: &[Candidate]) -> BTreeSet<PointId> {
    let mut newest: BTreeMap<(&str, &[u8]), &Candidate> = BTreeMap::new();
    for candidate in candidates {
        let place = (candidate.repository.as_str(), candidate.backup.as_slice());
        let known = newest.entry(place).or_insert(candidate);
        if (known.time, known.sequence) < (candidate.time, candidate.sequence) {
            *known = candidate;
        }
    }
    newest.values().map(|candidate| candidate.id).collect()
}
