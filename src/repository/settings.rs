//! What the settings of a repository mean beyond its format, and how they change: the next `config/<n>` holds all of
//! them anew, created if absent, so that of two hosts that change them at once the second sees what the first has done.

use super::{Access, Repository, SEAL_IDLE, Settings, TRASH_DAYS};
use crate::error::{Error, Kind, Result};
use crate::store::names::Name;
use std::sync::Arc;

/// Name of the setting that says whether copies may come into the repository.
pub const COPY_TARGET: &str = "copy-target";
/// Name of the setting that says whether copies may be made of what is in the repository.
pub const COPY_SOURCE: &str = "copy-source";
/// Name of the setting that says how long things are kept: see [`RetentionType`]. Fixed at init.
pub const RETENTION_TYPE: &str = "retention-type";
/// Name of the setting that says from how many stored bytes on nothing new is begun.
pub const CAPACITY: &str = "capacity";

/// How often a change is tried against others who change at the same time.
const ATTEMPTS_MAX: usize = 64;

/// What a repository's retention counts. Copies go only between repositories that count the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetentionType {
    /// Whole restore points.
    #[default]
    Snapshot,
    /// Each item of a restore point by its own age.
    Item,
}

impl RetentionType {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Item => "item",
        }
    }

    /// That of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Snapshot, Self::Item]
            .into_iter()
            .find(|known| known.name() == name)
    }
}

impl Settings {
    /// A setting that is kept by name.
    pub fn more(&self, name: &str) -> Option<&str> {
        let mut more = self.more.iter();
        let (_, value) = more.find(|(known, _)| known == name)?;
        Some(value)
    }

    /// Gives a setting that is kept by name another value; none removes it.
    pub fn set_more(&mut self, name: &str, value: Option<String>) {
        self.more.retain(|(known, _)| known != name);
        self.more
            .extend(value.map(|value| (name.to_owned(), value)));
        // The same settings are the same bytes, in whatever order they were made.
        self.more.sort();
    }

    /// Whether copies may come into it.
    pub fn takes_copies(&self) -> bool {
        self.more(COPY_TARGET) != Some("false")
    }

    /// Whether copies may be made of what is in it.
    pub fn gives_copies(&self) -> bool {
        self.more(COPY_SOURCE) != Some("false")
    }

    /// What its retention counts.
    pub fn retention_type(&self) -> RetentionType {
        let named = self.more(RETENTION_TYPE).and_then(RetentionType::named);
        named.unwrap_or_default()
    }

    /// Stored bytes from which on nothing new is begun.
    pub fn capacity(&self) -> Option<u64> {
        self.more(CAPACITY)?.parse().ok()
    }

    /// The first setting in which `next` differs from this and that is fixed at init.
    fn fixed_difference(&self, next: &Self) -> Option<&'static str> {
        if self.seed != next.seed {
            return Some("seed");
        }
        if self.cut != next.cut {
            return Some("cut");
        }
        (self.retention_type() != next.retention_type()).then_some(RETENTION_TYPE)
    }

    /// Refuses values of named settings that nobody could act on.
    pub(super) fn check_more(&self) -> Result<()> {
        let wrong = |name: &str, value: &str, right: &str| {
            let message = format!("{name} cannot be {value:?}; write {right}");
            Err(Error::new(Kind::Invalid, message))
        };
        for (name, value) in &self.more {
            let (right, fits) = match name.as_str() {
                COPY_TARGET | COPY_SOURCE => {
                    ("true or false", matches!(value.as_str(), "true" | "false"))
                }
                RETENTION_TYPE => ("snapshot or item", RetentionType::named(value).is_some()),
                CAPACITY => ("a size", value.parse::<u64>().is_ok()),
                TRASH_DAYS | SEAL_IDLE => ("a number", value.parse::<u32>().is_ok()),
                // Of a later version.
                _ => continue,
            };
            if !fits {
                return wrong(name, value, right);
            }
        }
        Ok(())
    }
}

/// Refuses to change what is fixed at init. [`Kind::Refused`].
pub fn fixed_at_init(name: &str) -> Error {
    let message = format!(
        "{name} was fixed when the repository was made and never changes; make another repository with `keepfs init` and copy into it"
    );
    Error::new(Kind::Refused, message)
}

impl Repository {
    /// Its settings, as they were when it was opened or when they were read last.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// Reads the settings again: another process may have changed them. Costs one listing while nobody has.
    pub fn reload_settings(&self) -> Result<Arc<Settings>> {
        let newest = self.access.newest_number()?;
        if newest
            == Some(
                self.settings_number
                    .load(std::sync::atomic::Ordering::Relaxed),
            )
        {
            return Ok(self.settings());
        }
        let (number, settings) = self.access.newest_settings()?;
        Ok(self.adopt(number, settings))
    }

    /// Changes settings for everybody who opens the repository from now on. `change` makes the new ones out of the
    /// present ones, perhaps several times.
    ///
    /// Fails with `Refused` when it changes what is fixed at init, with `Invalid` when a value is out of range.
    pub fn change_settings(
        &self,
        change: &dyn Fn(&mut Settings) -> Result<()>,
    ) -> Result<Arc<Settings>> {
        self.require_writable()?;
        for _ in 0..ATTEMPTS_MAX {
            let newest = self.access.newest_number()?.unwrap_or_default();
            let (number, present) = self.access.newest_settings()?;
            let mut next = present.clone();
            change(&mut next)?;
            if let Some(name) = present.fixed_difference(&next) {
                return Err(fixed_at_init(name));
            }
            next.check()?;
            next.check_more()?;
            if next == present {
                return Ok(self.adopt(number, present));
            }
            // Above what cannot be read, too.
            let number = newest.max(number) + 1;
            match self.access.create_document(Name::Config(number), &next) {
                Ok(()) => return Ok(self.adopt(number, next)),
                Err(error) if error.kind() == Kind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let message = format!(
            "others change the settings of {} all the time; try again",
            self.location()
        );
        Err(Error::new(Kind::Busy, message))
    }

    fn adopt(&self, number: u64, settings: Settings) -> Arc<Settings> {
        let settings = Arc::new(settings);
        self.access.follow_class(&settings);
        *self.settings.write() = settings.clone();
        self.settings_number
            .store(number, std::sync::atomic::Ordering::Relaxed);
        settings
    }
}

impl Access {
    /// Data packs follow the class of these settings, unless this host's configuration names another.
    pub(super) fn follow_class(&self, settings: &Settings) {
        self.store.prefer_storage_class(&settings.storage_class);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_copies_go_both_ways_and_there_is_no_limit() {
        let settings = Settings::default();
        assert!(settings.takes_copies() && settings.gives_copies());
        assert_eq!(settings.capacity(), None);
        assert_eq!(settings.retention_type(), RetentionType::Snapshot);
    }

    #[test]
    fn values_that_nobody_could_act_on_are_refused() {
        for (name, value, fine) in [
            (COPY_TARGET, "false", true),
            (COPY_TARGET, "no", false),
            (COPY_SOURCE, "", false),
            (RETENTION_TYPE, "item", true),
            (RETENTION_TYPE, "items", false),
            (CAPACITY, "1000", true),
            (CAPACITY, "-1", false),
            ("of-a-later-version", "anything", true),
        ] {
            let mut settings = Settings::default();
            settings.set_more(name, Some(value.to_owned()));
            let checked = settings.check_more();
            assert_eq!(checked.is_ok(), fine, "{name}={value}");
        }
    }

    #[test]
    fn the_same_settings_are_the_same_bytes() {
        let mut settings = [Settings::default(), Settings::default()];
        settings[1].seed = settings[0].seed;
        settings[0].set_more(CAPACITY, Some("1".to_owned()));
        settings[0].set_more(COPY_TARGET, Some("false".to_owned()));
        settings[1].set_more(COPY_TARGET, Some("false".to_owned()));
        settings[1].set_more(CAPACITY, Some("2".to_owned()));
        settings[1].set_more(CAPACITY, Some("1".to_owned()));
        assert_eq!(settings[0], settings[1]);
    }
}
