//! What a mount's control tree shows beside the file system's own files: the second door to the verbs.
//!
//! ```text
//! .keepfs/
//!   repositories/NAME/{state,stats,config}
//!   jobs/NAME/{state,enabled,action,config,next-run,last-run}
//!   sessions/ID/{state,progress,failed,log,action}      running/ needs-action/ last-24h/   (links)
//! ```
//! Each directory at the top is a [`Controls`] of its own, whose paths begin below it: another one is another struct
//! and one line where a mount is made.

mod jobs;
mod repositories;
mod sessions;

pub(super) use jobs::Jobs;
pub(super) use repositories::Repositories;
pub(super) use sessions::SessionView;

use crate::error::{Error, Kind, Result};
use crate::filesystem::{Caller, ControlEntry, ControlKind, Controls};
use std::fmt::Display;

/// The directories at the top of the control tree.
#[derive(Debug, Default)]
pub(super) struct ControlTree {
    tops: Vec<(&'static str, Box<dyn Controls>)>,
}

impl ControlTree {
    /// With one more directory.
    pub(super) fn with(mut self, name: &'static str, below: impl Controls + 'static) -> Self {
        self.tops.push((name, Box::new(below)));
        self
    }

    fn top(&self, name: &str) -> Result<&dyn Controls> {
        let found = self.tops.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, below)| below.as_ref())
            .ok_or_else(|| missing(&[name]))
    }
}

impl Controls for ControlTree {
    fn list(&self, path: &[&str]) -> Result<Vec<ControlEntry>> {
        let Some((top, below)) = path.split_first() else {
            let names = self.tops.iter().map(|(name, _)| *name);
            return Ok(names.map(ControlEntry::directory).collect());
        };
        self.top(top)?.list(below)
    }

    fn find(&self, path: &[&str]) -> Result<Option<ControlKind>> {
        let Some((top, below)) = path.split_first() else {
            return Ok(Some(ControlKind::Directory));
        };
        match self.top(top) {
            Ok(found) => found.find(below),
            Err(_) => Ok(None),
        }
    }

    fn read(&self, path: &[&str]) -> Result<Vec<u8>> {
        let (top, below) = path.split_first().ok_or_else(|| missing(path))?;
        self.top(top)?.read(below)
    }

    fn write(&self, path: &[&str], verb: &str, caller: Caller) -> Result<()> {
        let (top, below) = path.split_first().ok_or_else(|| missing(path))?;
        self.top(top)?.write(below, verb, caller)
    }
}

/// What is not there, or not any more.
fn missing(path: &[&str]) -> Error {
    Error::new(Kind::NotFound, format!("there is no {}", path.join("/")))
}

/// A line that a person reads and a shell takes apart: `key = value`. A value of several lines becomes one.
fn line(key: &str, value: impl Display) -> String {
    let value = value.to_string().replace(char::is_control, " ");
    format!("{key} = {value}\n")
}
