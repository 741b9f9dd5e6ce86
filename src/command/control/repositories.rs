//! `repositories/NAME/`: how each mounted repository is, what it stores, and what it was made with.

use super::{line, missing};
use crate::clock::{Clock, Time};
use crate::command::stats::{StatsLine, figures};
use crate::error::Result;
use crate::filesystem::{ControlEntry, Controls};
use crate::point::Catalog;
use crate::repository::{SEAL_IDLE, Settings, TRASH_DAYS, state};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How old the last look at a repository may be for figures.
const LOOK_KEPT: Duration = Duration::from_secs(5);
/// For so many seconds a state is told again: it takes a request, and everybody may read it.
const STATE_KEPT_SECONDS: i64 = 5;
/// For so many seconds figures are told again: they take a listing of the whole store, which a cloud has paid for, and
/// everybody may read them.
const STATS_KEPT_SECONDS: i64 = 60;
const SECONDS_OF_DAY: i64 = 24 * 60 * 60;

/// The repositories of a mount.
#[derive(Debug)]
pub(in crate::command) struct Repositories {
    catalogs: Vec<(String, Arc<Catalog>)>,
    clock: Clock,
    /// The figures that were told last, and when.
    told: Mutex<HashMap<String, (Time, Vec<u8>)>>,
    /// The states that were.
    states: Mutex<HashMap<String, (Time, Vec<u8>)>>,
}

impl Repositories {
    /// These, by their names in the mount.
    pub(in crate::command) fn new(catalogs: Vec<(String, Arc<Catalog>)>, clock: Clock) -> Self {
        Self {
            catalogs,
            clock,
            told: Mutex::default(),
            states: Mutex::default(),
        }
    }

    fn catalog(&self, name: &str) -> Result<&Arc<Catalog>> {
        let found = self.catalogs.iter().find(|(known, _)| known == name);
        let (_, catalog) = found.ok_or_else(|| missing(&["repositories", name]))?;
        Ok(catalog)
    }

    /// `ready`, or why it is not. Nobody else waits while the store is asked.
    fn state(&self, name: &str, catalog: &Catalog) -> Vec<u8> {
        let now = self.clock.now();
        if let Some((at, told)) = self.states.lock().get(name)
            && (0..STATE_KEPT_SECONDS).contains(&now.seconds.saturating_sub(at.seconds))
        {
            return told.clone();
        }
        let text = state(catalog.repository()).to_string();
        let text = text.replace(char::is_control, " ") + "\n";
        let told = (now, text.clone().into_bytes());
        self.states.lock().insert(name.to_owned(), told);
        text.into_bytes()
    }

    /// The figures, at most as old as they may be. Nobody else waits while they are made.
    fn stats(&self, name: &str, catalog: &Catalog) -> Result<Vec<u8>> {
        let now = self.clock.now();
        if let Some((at, told)) = self.told.lock().get(name)
            && (0..STATS_KEPT_SECONDS).contains(&now.seconds.saturating_sub(at.seconds))
        {
            return Ok(told.clone());
        }
        catalog.contents_within(LOOK_KEPT)?;
        let text = stats_text(&figures(name, catalog)?).into_bytes();
        let told = (now, text.clone());
        self.told.lock().insert(name.to_owned(), told);
        Ok(text)
    }
}

impl Controls for Repositories {
    fn list(&self, path: &[&str]) -> Result<Vec<ControlEntry>> {
        match path {
            [] => {
                let names = self.catalogs.iter().map(|(name, _)| name.as_str());
                Ok(names.map(ControlEntry::directory).collect())
            }
            [name] => {
                self.catalog(name)?;
                Ok(["config", "state", "stats"].map(ControlEntry::text).into())
            }
            _ => Err(missing(path)),
        }
    }

    fn read(&self, path: &[&str]) -> Result<Vec<u8>> {
        let [name, file] = path else {
            return Err(missing(path));
        };
        let catalog = self.catalog(name)?;
        match *file {
            "config" => Ok(config_text(catalog).into_bytes()),
            "state" => Ok(self.state(name, catalog)),
            "stats" => self.stats(name, catalog),
            _ => Err(missing(path)),
        }
    }
}

fn config_text(catalog: &Catalog) -> String {
    let repository = catalog.repository();
    let settings = repository.settings();
    let Settings {
        // What files are cut by is of no use to whoever reads this.
        seed: _,
        cut,
        pack_bytes,
        level,
        storage_class,
        uid,
        gid,
        mode,
        more,
    } = &*settings;
    let trash_days = settings.trash_seconds() / SECONDS_OF_DAY;
    let mut text = line("id", repository.id())
        + &line("location", repository.location())
        + &line("pack-size", size(*pack_bytes))
        + &line("level", level)
        + &line("storage-class", storage_class)
        + &line(TRASH_DAYS, trash_days)
        + &line("chunk-min", size(cut.min.into()))
        + &line("chunk-average", size(cut.average.into()))
        + &line("chunk-max", size(cut.max.into()))
        + &line("owner", uid)
        + &line("group", gid)
        + &line("mode", format_args!("{mode:04o}"));
    if let Some(seconds) = settings.seal_idle_seconds() {
        text += &line(SEAL_IDLE, format_args!("{seconds}s"));
    }
    for (key, value) in more {
        if ![TRASH_DAYS, SEAL_IDLE].contains(&key.as_str()) {
            text += &line(key.as_str(), value);
        }
    }
    text
}

/// As the configuration has sizes.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{} KiB", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

/// What `stats` says, with exact numbers.
fn stats_text(stats: &StatsLine) -> String {
    let stored = &stats.stored;
    let mut text = String::new();
    for (key, value) in [
        ("backups", stats.backups),
        ("points", stats.points),
        ("entries", stats.entries),
        ("bytes", stats.bytes),
        ("stored-bytes", stored.total()),
        ("stored-data-bytes", stored.data),
        ("stored-tree-bytes", stored.trees),
        ("stored-index-bytes", stored.index),
        ("stored-record-bytes", stored.records),
        ("packs", stats.packs),
        ("chunks", stats.chunks),
        ("index-segments", stats.segments),
        ("mapped-bytes", stats.mapped_bytes),
    ] {
        text += &line(key, value);
    }
    if let Some(ratio) = stats.ratio {
        text += &line("ratio", format_args!("{ratio:.1}"));
    }
    text
}
