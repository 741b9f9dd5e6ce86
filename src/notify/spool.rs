//! The files of the messages: every change is one rename or one link, and durable when the call returns.

use super::letter::Letter;
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::repository::make_private;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Seconds for which it is remembered that a session was told.
const MEMORY: i64 = 60 * 24 * 60 * 60;
/// Seconds after which a file that nobody finished is one of a process that died.
const UNFINISHED: i64 = 24 * 60 * 60;
/// Beginning of the names of unfinished files.
const NEW: &str = ".new-";

/// Where a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tray {
    Queued,
    Sent,
    Failed,
}

impl Tray {
    const ALL: [Self; 3] = [Self::Queued, Self::Sent, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }
}

/// All messages of this host.
#[derive(Debug)]
pub(super) struct Spool {
    directory: PathBuf,
}

/// Only its holder sends; the kernel gives it back when the holder dies.
#[derive(Debug)]
pub(super) struct Sending {
    _lock: File,
}

impl Spool {
    /// The spool below a state directory; made when missing, for this user alone.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let directory = state.join("notify");
        make_private(&directory)?;
        for each in Tray::ALL {
            make_private(&directory.join(each.name()))?;
        }
        Ok(Self { directory })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn place(&self, which: Tray, key: &str) -> PathBuf {
        self.directory.join(which.name()).join(key)
    }

    /// Waits until nobody else sends.
    pub(super) fn lock(&self) -> Result<Sending> {
        let path = self.directory.join("lock");
        let cannot = |error| Error::io(format_args!("cannot lock {}", path.display()), error);
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(cannot)?;
        // SAFETY: flock takes an open descriptor, which `file` is, and a number.
        while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(cannot(error));
            }
        }
        Ok(Sending { _lock: file })
    }

    /// Whether the message of this name was sent, or will never be.
    pub(super) fn is_done(&self, key: &str) -> bool {
        self.place(Tray::Sent, key).exists() || self.place(Tray::Failed, key).exists()
    }

    /// Queues a message; false when one of this name was queued before, whatever has become of it.
    pub(super) fn add(&self, key: &str, letter: &Letter) -> Result<bool> {
        if self.is_done(key) {
            return Ok(false);
        }
        let new = self.write_new(letter)?;
        let place = self.place(Tray::Queued, key);
        let linked = std::fs::hard_link(&new, &place);
        // What is left of it would be swept a day later.
        let _ = std::fs::remove_file(&new);
        match linked {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(cannot_write(&place, error)),
            Ok(()) => self.sync(Tray::Queued).map(|()| true),
        }
    }

    /// Writes anew what is known of a queued message.
    pub(super) fn update(&self, key: &str, letter: &Letter) -> Result<()> {
        let new = self.write_new(letter)?;
        let place = self.place(Tray::Queued, key);
        std::fs::rename(&new, &place).map_err(|error| cannot_write(&place, error))?;
        self.sync(Tray::Queued)
    }

    fn write_new(&self, letter: &Letter) -> Result<PathBuf> {
        let path = self.place(Tray::Queued, &format!("{NEW}{}", ObjectId::random()));
        let cannot = |error| cannot_write(&path, error);
        let text = serde_json::to_vec(letter).map_err(|error| cannot(error.into()))?;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(cannot)?;
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        if written.is_err() {
            // What is left of it would be swept a day later.
            let _ = std::fs::remove_file(&path);
        }
        written.map_err(cannot)?;
        Ok(path)
    }

    /// Moves a queued message to where it stays.
    pub(super) fn finish(&self, key: &str, to: Tray) -> Result<()> {
        let (from, target) = (self.place(Tray::Queued, key), self.place(to, key));
        std::fs::rename(&from, &target).map_err(|error| cannot_write(&target, error))?;
        self.sync(to)?;
        if to == Tray::Sent {
            // Its name says all that is still needed; when this fails the file is only longer.
            let _ = File::options().write(true).truncate(true).open(&target);
        }
        self.sync(Tray::Queued)
    }

    /// Forgets a queued message that was found to be done.
    pub(super) fn remove(&self, key: &str) -> Result<()> {
        let place = self.place(Tray::Queued, key);
        std::fs::remove_file(&place).map_err(|error| cannot_write(&place, error))
    }

    /// Puts what failed back into the queue.
    pub(super) fn queue_again(&self, key: &str) -> Result<()> {
        let (from, target) = (self.place(Tray::Failed, key), self.place(Tray::Queued, key));
        std::fs::rename(&from, &target).map_err(|error| cannot_write(&target, error))?;
        self.sync(Tray::Queued)?;
        self.sync(Tray::Failed)
    }

    /// Names of the messages, the oldest change first.
    pub(super) fn keys(&self, which: Tray) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (name, changed) in self.names(which)? {
            if !name.starts_with(NEW) {
                found.push((changed, name));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }

    fn names(&self, which: Tray) -> Result<Vec<(String, Time)>> {
        let directory = self.directory.join(which.name());
        let cannot = |error| Error::io(format_args!("cannot list {}", directory.display()), error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            // One that has just gone is none.
            let changed = entry.metadata().and_then(|facts| facts.modified());
            if let (Ok(name), Ok(changed)) = (entry.file_name().into_string(), changed) {
                found.push((name, changed.into()));
            }
        }
        Ok(found)
    }

    /// What a file says; `NotFound` when it has gone, `Damaged` when it says nothing that we write.
    pub(super) fn read(&self, which: Tray, key: &str) -> Result<Letter> {
        let place = self.place(which, key);
        let shown = place.display();
        let text = std::fs::read(&place)
            .map_err(|error| Error::io(format_args!("cannot read {shown}"), error))?;
        serde_json::from_slice(&text).map_err(|error| {
            let message = format!("{shown} is no message of keepfs; look at it and remove it");
            Error::new(Kind::Damaged, message).caused_by(error)
        })
    }

    /// Removes what is too old to be of use.
    pub(super) fn sweep(&self, now: Time) -> Result<()> {
        let older = |changed: Time, seconds| now.seconds - changed.seconds > seconds;
        for (name, changed) in self.names(Tray::Sent)? {
            if older(changed, MEMORY) {
                // The next sweep tries again.
                let _ = std::fs::remove_file(self.place(Tray::Sent, &name));
            }
        }
        for (name, changed) in self.names(Tray::Queued)? {
            if name.starts_with(NEW) && older(changed, UNFINISHED) {
                let _ = std::fs::remove_file(self.place(Tray::Queued, &name));
            }
        }
        Ok(())
    }

    fn sync(&self, which: Tray) -> Result<()> {
        let directory = self.directory.join(which.name());
        let synced = File::open(&directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| cannot_write(&directory, error))
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::io(
        format_args!("cannot write the message {}", path.display()),
        error,
    )
}
