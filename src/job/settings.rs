//! What a job is.

use super::{Hook, Schedule, Select, Window};
use crate::error::{Error, Kind, Result};
use globset::{GlobBuilder, GlobMatcher};
use jiff::tz::TimeZone;
use serde::Deserialize;

/// How often a run that failed is started again.
const RETRIES: u32 = 3;
/// Seconds before the first of these; each next one waits twice as long.
const RETRY_SECONDS: i64 = 10 * 60;
/// No wait is longer.
const RETRY_SECONDS_MAX: i64 = 60 * 60;

/// Some backups of a repository.
#[derive(Clone, Debug)]
pub struct Source {
    /// The repository's configured name.
    pub repository: String,
    /// What the names of backups match.
    pattern: String,
    backups: GlobMatcher,
}

impl Source {
    /// `primary`, `primary/web01` or `primary/web*`. `Invalid` when it is no such pattern.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let message = format!(
                "the source {text:?} {why}; write it as REPO/PATTERN, where * stands for any characters of a backup's name"
            );
            Error::new(Kind::Invalid, message)
        };
        let (repository, pattern) = text.split_once('/').unwrap_or((text, "*"));
        let pattern = if pattern.is_empty() { "*" } else { pattern };
        if repository.is_empty() {
            return Err(wrong("names no repository"));
        }
        if pattern.contains('/') {
            return Err(wrong("names more than a backup"));
        }
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|_| wrong("is no pattern"))?;
        Ok(Self {
            repository: repository.to_owned(),
            pattern: pattern.to_owned(),
            backups: glob.compile_matcher(),
        })
    }

    /// Whether a backup of this name is one of them.
    pub fn takes(&self, backup: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        self.backups
            .is_match(std::path::Path::new(std::ffi::OsStr::from_bytes(backup)))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.repository, self.pattern)
    }
}

/// What a job is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The backups whose points are copied.
    pub sources: Vec<Source>,
    /// Configured names of the repositories that take them; none: it is not configured yet.
    pub targets: Vec<String>,
    /// Which of their points.
    pub select: Select,
    /// When it runs by itself; none: only by hand.
    pub schedule: Option<Schedule>,
    /// The hours in which it may run; none: all.
    pub window: Option<Window>,
    /// The clocks that schedule and window go by.
    pub zone: TimeZone,
    /// How often a run that failed is started again.
    pub retries: u32,
    /// Seconds before the first retry; each next one waits twice as long, an hour at most.
    pub retry_seconds: i64,
    /// Bytes a second, each way.
    pub rate: Option<u64>,
    /// What is run before; if it fails, nothing is copied.
    pub before: Option<Hook>,
    /// What is run after, whatever became of it.
    pub after: Option<Hook>,
    /// Seconds that the newest copy of a backup may be old before somebody is warned.
    pub rpo: Option<i64>,
    /// Whether it runs by itself until somebody says otherwise.
    pub enabled: bool,
    /// What happens to it while a copy of its backups is not over.
    pub on_copy: OnCopy,
}

/// What happens to a job while a copy session of its backups is not over, whoever began that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnCopy {
    /// It goes on.
    #[default]
    Continue,
    /// It is disabled until the session is over, and then is what it was.
    Disable,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            targets: Vec::new(),
            select: Select::default(),
            schedule: None,
            window: None,
            zone: TimeZone::system(),
            retries: RETRIES,
            retry_seconds: RETRY_SECONDS,
            rate: None,
            before: None,
            after: None,
            rpo: None,
            enabled: true,
            on_copy: OnCopy::default(),
        }
    }
}

impl Settings {
    /// Fails with `Invalid`, in one sentence, when these settings of the job `name` cannot be meant.
    pub fn check(&self, name: &str) -> Result<()> {
        let refuse = |why: String| {
            let message = format!("the job {name:?} {why}");
            Err(Error::new(Kind::Invalid, message))
        };
        if name.is_empty()
            || name.len() > 200
            || name.starts_with('.')
            || name.contains(['/', '\0', '\n'])
        {
            return refuse(
                "needs a name of at most 200 bytes without '/', not beginning with '.'".to_owned(),
            );
        }
        if self.sources.is_empty() {
            return refuse(
                "has no source; say what it copies: source = \"primary/web*\"".to_owned(),
            );
        }
        for (number, target) in self.targets.iter().enumerate() {
            if self
                .sources
                .iter()
                .any(|source| source.repository == *target)
            {
                return refuse(format!(
                    "has {target} as source and target; a copy goes into another repository"
                ));
            }
            if self.targets[..number].contains(target) {
                return refuse(format!("names the target {target} twice"));
            }
        }
        if self.rpo == Some(0) {
            return refuse("has an rpo of nothing; write it as rpo = \"4h\"".to_owned());
        }
        Ok(())
    }

    /// The repositories that it needs: sources, then targets.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        let sources = self.sources.iter().map(|source| source.repository.as_str());
        sources.chain(self.targets.iter().map(String::as_str))
    }

    /// Whether one of its sources takes this backup.
    pub fn takes(&self, repository: &str, backup: &[u8]) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|source| source.repository == repository && source.takes(backup))
    }

    /// Seconds between the end of an attempt and the next one; `attempt` counts from 1.
    pub fn wait_after(&self, attempt: u32) -> i64 {
        let doublings = attempt.saturating_sub(1).min(16);
        let wait = self.retry_seconds.saturating_mul(1 << doublings);
        wait.min(RETRY_SECONDS_MAX.max(self.retry_seconds))
    }
}
