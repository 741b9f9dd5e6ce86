//! What a message is about.

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// All was done.
    Success,
    /// All was done, and there is something to say about it.
    Warning,
    /// It ended without doing all.
    Failed,
    /// Somebody has to decide.
    NeedsAction,
}

impl Ending {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 4] = [
        Self::Success,
        Self::Warning,
        Self::Failed,
        Self::NeedsAction,
    ];

    /// As messages and the configuration call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::NeedsAction => "needs-action",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Ending {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|ending| ending.word() == text);
        found.ok_or_else(|| {
            let message = format!(
                "{text:?} is not how a session ends; write success, warning, failed or needs-action"
            );
            Error::new(Kind::Invalid, message)
        })
    }
}

/// One thing that the session was to do, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// `BACKUP/POINT/PATH`.
    pub path: String,
    /// What became of it, in a word: copied, present, failed.
    pub outcome: String,
    /// Why; empty when there is nothing to say.
    pub reason: String,
}

/// A session that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its id.
    #[serde(with = "as_text")]
    pub session: ObjectId,
    /// How it ended.
    pub ending: Ending,
    /// 0. A higher number tells the same session and ending once more: it was retried and parks again, or a reminder.
    #[serde(default)]
    pub round: u32,
    /// The job that it was a run of.
    pub job: Option<String>,
    /// Names of the backups that it was about.
    pub backups: Vec<String>,
    /// Name of the repository that it read.
    pub source: String,
    /// Name of the repository that it wrote.
    pub target: String,
    /// What it did; those with something to say first.
    pub objects: Vec<Object>,
    /// How many there were: the list may hold fewer.
    pub objects_count: u64,
    /// How many of them are not as they should be.
    pub issues: u64,
    /// When it began.
    #[serde(with = "as_seconds")]
    pub started: Time,
    /// When it ended.
    #[serde(with = "as_seconds")]
    pub ended: Time,
    /// Bytes of content that it was about.
    pub bytes: u64,
    /// Bytes that it added to the target.
    pub stored_bytes: u64,
}

impl Ended {
    /// One message for a session, a way of ending and a round: the name of its file.
    pub(super) fn key(&self) -> String {
        match self.round {
            0 => format!("{}-{}", self.session, self.ending),
            round => format!("{}-{}-{round}", self.session, self.ending),
        }
    }
}

/// An id as the text that people see.
mod as_text {
    use crate::id::ObjectId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &ObjectId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A time as seconds since 1970; a message needs no more.
pub(super) mod as_seconds {
    use crate::clock::Time;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Time,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_i64(time.seconds)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Time, D::Error> {
        i64::deserialize(from).map(|seconds| Time::new(seconds, 0))
    }
}
