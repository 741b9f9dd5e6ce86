//! `config`: the settings that a repository carries, shown and changed. One table says all there is to say of each.

use super::Host;
use crate::config::{RepositoryPlace, parse_duration, parse_size};
use crate::error::{Error, Kind, Result};
use crate::repository::{
    ACL, CAPACITY, COPY_SOURCE, COPY_TARGET, DEFAULT_TRASH_DAYS, FORMAT_VERSION, READERS,
    RETENTION_TYPE, SEAL_IDLE, STORED, Settings, TRASH_DAYS, fixed_at_init, parse_access,
};
use serde::Serialize;

/// A setting, shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingLine {
    /// Its name.
    pub name: &'static str,
    /// Its value, as it can be given again; empty where there is none.
    pub value: String,
    /// Whether it was fixed when the repository was made.
    pub fixed: bool,
}

/// The settings of a repository.
#[derive(Clone, Debug, Serialize)]
pub struct SettingsReport {
    /// The repository.
    pub repository: String,
    /// All of them.
    pub settings: Vec<SettingLine>,
}

/// How a value that a person wrote becomes a setting.
type Set = fn(&mut Settings, &str) -> Result<()>;

/// When a setting may be chosen.
#[derive(Clone, Copy)]
enum Change {
    /// At any time.
    Always(Set),
    /// When the repository is made.
    AtInit(Set),
    /// It follows from other things.
    Never,
}

/// What is known of a setting.
struct Known {
    name: &'static str,
    show: fn(&Settings) -> String,
    change: Change,
}

/// Every setting.
const KNOWN: [Known; 15] = [
    Known {
        name: "pack-size",
        show: |settings| size(settings.pack_bytes),
        change: Change::Always(|settings, value| {
            settings.pack_bytes = parse_size(value)?;
            Ok(())
        }),
    },
    Known {
        name: "level",
        show: |settings| settings.level.to_string(),
        change: Change::Always(|settings, value| {
            settings.level = number("level", value)?;
            Ok(())
        }),
    },
    Known {
        name: "storage-class",
        show: |settings| settings.storage_class.clone(),
        change: Change::Always(|settings, value| {
            settings.storage_class = value.to_owned();
            Ok(())
        }),
    },
    Known {
        name: CAPACITY,
        show: |settings| settings.capacity().map(size).unwrap_or_default(),
        change: Change::Always(|settings, value| {
            let bytes = given(value).map(parse_size).transpose()?;
            settings.set_more(CAPACITY, bytes.map(|bytes| bytes.to_string()));
            Ok(())
        }),
    },
    Known {
        name: TRASH_DAYS,
        show: |settings| {
            let days = settings.more(TRASH_DAYS);
            days.map_or_else(|| DEFAULT_TRASH_DAYS.to_string(), str::to_owned)
        },
        change: Change::Always(|settings, value| {
            let days: Option<u32> = given(value)
                .map(|value| number(TRASH_DAYS, value))
                .transpose()?;
            settings.set_more(TRASH_DAYS, days.map(|days| days.to_string()));
            Ok(())
        }),
    },
    Known {
        name: COPY_TARGET,
        show: |settings| settings.takes_copies().to_string(),
        change: Change::Always(|settings, value| switch(settings, COPY_TARGET, value)),
    },
    Known {
        name: COPY_SOURCE,
        show: |settings| settings.gives_copies().to_string(),
        change: Change::Always(|settings, value| switch(settings, COPY_SOURCE, value)),
    },
    Known {
        name: SEAL_IDLE,
        show: |settings| {
            let seconds = settings.seal_idle_seconds();
            seconds.map_or_else(String::new, |seconds| format!("{seconds}s"))
        },
        change: Change::Always(|settings, value| {
            let seconds = given(value).map(parse_duration).transpose()?;
            settings.set_more(SEAL_IDLE, seconds.map(|seconds| seconds.to_string()));
            Ok(())
        }),
    },
    Known {
        name: ACL,
        show: |settings| settings.more(ACL).unwrap_or(STORED).to_owned(),
        change: Change::Always(|settings, value| access(settings, ACL, value)),
    },
    Known {
        name: READERS,
        show: |settings| settings.more(READERS).unwrap_or_default().to_owned(),
        change: Change::Always(|settings, value| access(settings, READERS, value)),
    },
    Known {
        name: RETENTION_TYPE,
        show: |settings| settings.retention_type().name().to_owned(),
        change: Change::AtInit(|settings, value| switch(settings, RETENTION_TYPE, value)),
    },
    Known {
        name: "format",
        show: |_| FORMAT_VERSION.to_string(),
        change: Change::Never,
    },
    Known {
        name: "seed",
        // Who knows it learns something of contents from lengths, so it is told apart and not shown.
        show: |settings| blake3::hash(&settings.seed).to_hex()[..16].to_owned(),
        change: Change::Never,
    },
    Known {
        name: "cut",
        show: |settings| {
            let cut = settings.cut;
            format!("{},{},{}", cut.min, cut.average, cut.max)
        },
        change: Change::Never,
    },
    Known {
        name: "lock-mode",
        show: |settings| settings.more("lock-mode").unwrap_or("none").to_owned(),
        change: Change::Never,
    },
];

/// A value that says something.
fn given(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| {
        let message = format!("{name} cannot be {value:?}; write a number");
        Error::new(Kind::Invalid, message)
    })
}

/// Who may see what: a mount that is made from now on goes by it.
fn access(settings: &mut Settings, name: &'static str, value: &str) -> Result<()> {
    let value = given(value).map(|value| parse_access(name, value));
    settings.set_more(name, value.transpose()?);
    Ok(())
}

/// What is no word for it is refused where the settings are checked.
fn switch(settings: &mut Settings, name: &str, value: &str) -> Result<()> {
    settings.set_more(name, Some(value.to_owned()));
    Ok(())
}

/// A size as the configuration has it.
fn size(bytes: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units
        .into_iter()
        .find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// All settings, shown.
fn lines(settings: &Settings) -> Vec<SettingLine> {
    let lines = KNOWN.iter().map(|known| SettingLine {
        name: known.name,
        value: (known.show)(settings),
        fixed: !matches!(known.change, Change::Always(_)),
    });
    lines.collect()
}

fn known(change: &str) -> Result<(&'static Known, &str)> {
    let Some((name, value)) = change.split_once('=') else {
        let message = format!("{change:?} changes nothing; write KEY=VALUE");
        return Err(Error::new(Kind::Invalid, message));
    };
    let (name, value) = (name.trim(), value.trim());
    let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
        let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
        let message = format!(
            "there is no setting {name:?}; there are {}",
            names.join(", ")
        );
        return Err(Error::new(Kind::Invalid, message));
    };
    Ok((known, value))
}

/// Makes a change that a person wrote as `key=value`; an empty value is the setting's own again.
fn apply(settings: &mut Settings, change: &str) -> Result<()> {
    let (known, value) = known(change)?;
    match known.change {
        Change::Always(set) => set(settings, value),
        Change::AtInit(_) | Change::Never => Err(fixed_at_init(known.name)),
    }
}

/// As [`apply`], for a repository that is just being made.
pub(super) fn choose(settings: &mut Settings, change: &str) -> Result<()> {
    let (known, value) = known(change)?;
    match known.change {
        Change::Always(set) | Change::AtInit(set) => set(settings, value),
        Change::Never => Err(fixed_at_init(known.name)),
    }
}

/// Shows the settings of a repository, after changing those that `changes` names: all of them at once or none.
///
/// Fails with `Refused` for what was fixed when the repository was made, with `Invalid` for what is no setting or no
/// value for one.
pub fn settings(
    host: &Host,
    place: &RepositoryPlace,
    changes: &[String],
) -> Result<SettingsReport> {
    let repository = host.open(place, true)?;
    let settings = match changes {
        [] => repository.settings(),
        changes => repository.change_settings(&|settings| {
            changes
                .iter()
                .try_for_each(|change| apply(settings, change))
        })?,
    };
    Ok(SettingsReport {
        repository: place.name.clone(),
        settings: lines(&settings),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_setting_can_be_given_again() {
        let mut settings = Settings::default();
        for change in ["capacity=3 TiB", "seal-idle=90 min", "trash-days=9"] {
            apply(&mut settings, change).expect(change);
        }
        for line in lines(&settings).into_iter().filter(|line| !line.fixed) {
            let mut again = settings.clone();
            apply(&mut again, &format!("{}={}", line.name, line.value)).expect(line.name);
            assert_eq!(lines(&again), lines(&settings), "{}", line.name);
        }
    }

    #[test]
    fn each_setting_has_one_line_of_the_table() {
        let mut names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KNOWN.len());
    }
}
