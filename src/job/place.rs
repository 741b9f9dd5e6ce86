//! The directory in which jobs of one configuration keep their files.
//!
//! ```text
//! NAME.job            what the job remembers
//! NAME.lock           held by whoever has the job
//! NAME.request        what somebody wants of whoever has it
//! NAME.answer.ID      what came of that
//! ```

use super::state::State;
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::repository::make_private;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The files of one job.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
    name: String,
}

impl Place {
    pub fn new(directory: &Path, name: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
        }
    }

    pub fn path(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}", self.name))
    }

    /// The lock, if nobody has it. It is given back when the file is closed, whatever ends the process.
    pub fn lock(&self) -> Result<Option<File>> {
        make_private(&self.directory)?;
        let path = self.path("lock");
        let cannot = |error| Error::io(format_args!("locking {}", path.display()), error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    /// What the job remembers; of one that has no file yet, that it is made now. `Damaged` when it cannot be understood.
    pub fn load(&self, now: Time) -> Result<State> {
        let path = self.path("job");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State::new(now));
            }
            read => {
                read.map_err(|error| Error::io(format_args!("reading {}", path.display()), error))?
            }
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!(
                "what the job {} remembers cannot be read; remove {}, then enable or disable it: {error}",
                self.name,
                path.display()
            );
            Error::new(Kind::Damaged, message)
        })
    }

    /// Replaces what the job remembers; durable when this returns.
    pub fn save(&self, state: &State) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(state).expect("a state is plain data");
        self.write("job", &bytes)
    }

    /// Replaces a file as a whole.
    pub fn write(&self, kind: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(kind);
        let written = self.write_beside(bytes).and_then(|beside| {
            std::fs::rename(&beside, &path)?;
            File::open(&self.directory)?.sync_all()
        });
        written.map_err(|error| Error::io(format_args!("writing {}", path.display()), error))
    }

    /// Creates a file with its content at once; false when there is one.
    pub fn create(&self, kind: &str, bytes: &[u8]) -> Result<bool> {
        let path = self.path(kind);
        let cannot = |error| Error::io(format_args!("writing {}", path.display()), error);
        let beside = self.write_beside(bytes).map_err(cannot)?;
        let linked = std::fs::hard_link(&beside, &path);
        std::fs::remove_file(&beside).map_err(cannot)?;
        match linked {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            linked => linked.map(|()| true).map_err(cannot),
        }
    }

    fn write_beside(&self, bytes: &[u8]) -> std::io::Result<PathBuf> {
        let beside = self.path(&format!("{}.new", ObjectId::random()));
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(beside)
    }
}
