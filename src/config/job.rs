//! `[job.NAME]` sections: what they may say, and what that means.
//!
//! ```toml
//! [job.offsite]
//! source = "primary/web*"                # or a list
//! target = "offsite"                     # or a list; without it the job is not configured
//! select = "each"                        # latest, each, all
//! schedule = "immediate"                 # every 4h, daily 02:30 [Mon..Fri], or as OnCalendar of systemd.time(7)
//! timezone = "Europe/Berlin"             # the host's without it
//! # Monday first, a character for each hour from midnight: + may run, - may not.
//! window = """
//!   ++++++------------++++++
//!   ++++++------------++++++
//!   ++++++------------++++++
//!   ++++++------------++++++
//!   ++++++------------++++++
//!   ++++++++++++++++++++++++
//!   ++++++++++++++++++++++++"""
//! retries = 3
//! retry-wait = "10m"                     # doubles with each retry, to an hour
//! rate = "20 MB/s"                       # read, and written
//! before = "systemctl stop shop"         # by sh -c; when it fails, nothing is copied
//! after = "systemctl start shop"         # KEEPFS_RESULT says what became of it
//! hook-timeout = "5m"
//! rpo = "4h"                             # warn when the newest copy is older
//! on-copy = "disable"                    # while a copy of its backups is not over; "continue" without it
//! enabled = true
//! ```

use super::duration;
use super::size;
use crate::error::{Error, Kind, Result};
use crate::job::{Hook, OnCopy, Schedule, Select, Settings, Source, Window};
use jiff::tz::TimeZone;
use serde::Deserialize;

/// Seconds that a hook may take, if nothing else is said.
const HOOK_SECONDS: i64 = 5 * 60;

/// One name, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name or a list of names")]
enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name],
            Self::Several(names) => names,
        }
    }
}

/// A section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Written {
    source: Option<Names>,
    target: Option<Names>,
    select: Option<Select>,
    schedule: Option<String>,
    timezone: Option<String>,
    window: Option<String>,
    retries: Option<u32>,
    #[serde(deserialize_with = "duration::deserialize")]
    retry_wait: Option<i64>,
    #[serde(deserialize_with = "size::deserialize_rate")]
    rate: Option<u64>,
    before: Option<String>,
    after: Option<String>,
    #[serde(deserialize_with = "duration::deserialize")]
    hook_timeout: Option<i64>,
    #[serde(deserialize_with = "duration::deserialize")]
    rpo: Option<i64>,
    enabled: Option<bool>,
    on_copy: Option<OnCopy>,
}

impl Written {
    /// What it means. `Invalid`, in one sentence, when it cannot be meant.
    pub(super) fn read(self, name: &str) -> Result<Settings> {
        let settings = self
            .settings()
            .map_err(|error| error.context(format_args!("the job {name:?}")))?;
        settings.check(name)?;
        Ok(settings)
    }

    fn settings(self) -> Result<Settings> {
        let usual = Settings::default();
        let timeout = self.hook_timeout.unwrap_or(HOOK_SECONDS);
        let hook = |command: Option<String>| {
            command.map(|command| Hook::new(&command, timeout.unsigned_abs()))
        };
        let sources = self.source.map(Names::all).unwrap_or_default();
        let sources = sources.iter().map(|source| Source::parse(source));
        Ok(Settings {
            sources: sources.collect::<Result<_>>()?,
            targets: self.target.map(Names::all).unwrap_or_default(),
            select: self.select.unwrap_or_default(),
            schedule: self.schedule.as_deref().map(Schedule::parse).transpose()?,
            window: self.window.as_deref().map(Window::parse).transpose()?,
            zone: zone(self.timezone.as_deref())?,
            retries: self.retries.unwrap_or(usual.retries),
            retry_seconds: self.retry_wait.unwrap_or(usual.retry_seconds),
            rate: self.rate,
            before: hook(self.before),
            after: hook(self.after),
            rpo: self.rpo,
            enabled: self.enabled.unwrap_or(usual.enabled),
            on_copy: self.on_copy.unwrap_or_default(),
        })
    }
}

fn zone(name: Option<&str>) -> Result<TimeZone> {
    let Some(name) = name else {
        return Ok(TimeZone::system());
    };
    TimeZone::get(name).map_err(|_| {
        let message = format!(
            "{name:?} is no time zone that this host knows; write it as \"Europe/Berlin\" or \"UTC\""
        );
        Error::new(Kind::Invalid, message)
    })
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::error::{Kind, Result};
    use crate::job::Select;

    fn parse(job: &str) -> Result<Config> {
        let text = format!(
            "[repository.primary]\nurl = \"/p\"\n[repository.offsite]\nurl = \"/o\"\nrate = \"20 MB/s\"\n[job.nightly]\n{job}"
        );
        Config::parse_text(&text)
    }

    #[test]
    fn the_example_above_means_what_it_says() {
        let page = include_str!("job.rs");
        let example = page.lines().map_while(|line| line.strip_prefix("//!"));
        let example: Vec<_> = example
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .filter(|line| !line.contains("[job."))
            .collect();
        let config = parse(&example.join("\n")).unwrap();
        let job = &config.jobs["nightly"];
        assert_eq!(job.targets, ["offsite"]);
        assert!(job.takes("primary", b"web01") && !job.takes("primary", b"db"));
        assert!(!job.takes("offsite", b"web01"));
        assert_eq!(job.select, Select::Each);
        assert_eq!(job.schedule.as_ref().unwrap().mode(), "immediate");
        assert_eq!(job.zone.iana_name(), Some("Europe/Berlin"));
        assert_eq!((job.rate, job.rpo), (Some(20_000_000), Some(4 * 3600)));
        let waits: Vec<_> = (1..6).map(|attempt| job.wait_after(attempt)).collect();
        assert_eq!(waits, [600, 1200, 2400, 3600, 3600]);
        assert_eq!(config.repositories["offsite"].rate, Some(20_000_000));
    }

    #[test]
    fn what_a_job_should_not_say_is_refused_in_a_sentence() {
        for (job, part) in [
            ("target = \"offsite\"\n", "has no source"),
            ("source = \"primary\"\ntargets = \"offsite\"\n", "targets"),
            (
                "source = \"primary\"\ntarget = \"primary\"\n",
                "source and target",
            ),
            (
                "source = \"primary\"\ntarget = [\"offsite\", \"offsite\"]\n",
                "twice",
            ),
            (
                "source = \"primary\"\ntarget = \"elsewhere\"\n",
                "no repository \"elsewhere\"",
            ),
            (
                "source = \"elsewhere/web\"\n",
                "no repository \"elsewhere\"",
            ),
            ("source = \"primary/web/x\"\n", "more than a backup"),
            ("source = \"primary/[\"\n", "is no pattern"),
            ("source = \"primary\"\nselect = \"newest\"\n", "newest"),
            (
                "source = \"primary\"\nschedule = \"every 3m\"\n",
                "from 5m to 12h",
            ),
            (
                "source = \"primary\"\nschedule = \"every 13h\"\n",
                "from 5m to 12h",
            ),
            (
                "source = \"primary\"\nschedule = \"every day\"\n",
                "from 5m to 12h",
            ),
            (
                "source = \"primary\"\nschedule = \"daily 25:00\"\n",
                "no time of the day",
            ),
            (
                "source = \"primary\"\nschedule = \"daily 02:30 Sat..Mon\"\n",
                "no time of the day",
            ),
            (
                "source = \"primary\"\nschedule = \"sometimes\"\n",
                "no calendar expression",
            ),
            (
                "source = \"primary\"\ntimezone = \"Europe/Nowhere\"\n",
                "no time zone",
            ),
            ("source = \"primary\"\nwindow = \"++\"\n", "seven lines"),
            (
                "source = \"primary\"\nwindow = \"\"\"\n------------------------\n------------------------\n------------------------\n------------------------\n------------------------\n------------------------\n------------------------\"\"\"\n",
                "no hour at all",
            ),
            ("source = \"primary\"\nrate = \"fast\"\n", "not a rate"),
            ("source = \"primary\"\nrate = \"0 MB/s\"\n", "not a rate"),
            ("source = \"primary\"\nrpo = \"0\"\n", "rpo"),
            (
                "source = \"primary\"\nretry-wait = \"soon\"\n",
                "not a duration",
            ),
        ] {
            let refused = parse(job).expect_err(job);
            assert_eq!(refused.kind(), Kind::Invalid, "{job}");
            let message = refused.message();
            assert!(message.contains(part), "{message} has no {part:?}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
