//! What the host may have lost when it went down: bytes that were spooled and that nobody had synced. The journal says
//! in which boot of the host an open point was written, and which spools were synced since something was written to
//! them. A daemon that goes on in another boot doubts all others: their times become those of the discovery, so that
//! rsync and its like look at them again, and the point is not sealed before each of them was cut to nothing, replaced,
//! removed, or declared right by setting its time. They can be read: a database mends what it has not synced by itself.
//!
//! A daemon that ends sees to it that nothing is in doubt after the next boot. One that was killed leaves nothing in
//! doubt either as long as the host runs: the kernel has the bytes.

use super::change::{Change, Facts};
use super::{Inner, OpenPoint, Stage, State};
use crate::error::{Error, Kind, Result};
use std::fs;
use std::os::fd::AsRawFd;

/// Names in a sentence about files in doubt.
const NAMED: usize = 3;

/// The present boot of this host: random(4), `boot_id`. Where the kernel does not tell, all boots are one, and nothing
/// is ever in doubt.
pub(in crate::filesystem) fn boot_of_host() -> u128 {
    let told = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&told.trim().replace('-', ""), 16).unwrap_or_default()
}

impl OpenPoint {
    /// Notes in which boot of the host the next change is made.
    pub(super) fn note_boot(&self, inner: &mut Inner) -> Result<()> {
        let boot = Some(self.spool.boot());
        if inner.state.boot == boot {
            return Ok(());
        }
        note(inner, Change::Boot(boot))
    }

    /// The open point goes on: doubts what was not synced, if the host went down meanwhile.
    pub(super) fn doubt_unsynced(&self) -> Result<()> {
        let inner = &mut *self.inner.lock();
        let known = inner.state.boot;
        if known.is_none_or(|known| known == self.spool.boot()) {
            return Ok(());
        }
        for node in inner.state.unsynced.clone() {
            let Some(known) = inner.state.nodes.get(&node) else {
                continue;
            };
            let mtime = inner.state.now;
            let facts = Facts {
                mtime,
                ..known.facts
            };
            note(inner, Change::Doubtful { node })?;
            note(inner, Change::Facts { node, facts })?;
            // What is there now is on the disk. Last: if the daemon dies before, all of this happens once more.
            note(inner, Change::Synced { node })?;
        }
        self.note_boot(inner)?;
        inner.journal.sync()
    }

    /// Makes a file's spooled bytes survive the host, whoever wrote them.
    pub(in crate::filesystem) fn sync_spool(&self, node: u64) -> Result<()> {
        let changes = self.unsynced_changes(node);
        let Some(spool) = self.existing_spool(node)? else {
            return Ok(());
        };
        let synced = spool.sync_data();
        synced.map_err(|error| Error::io("syncing spooled bytes", error))?;
        let inner = &mut *self.inner.lock();
        let content = inner.state.nodes.get(&node).and_then(|node| node.content());
        let now = content.map(|content| content.changes);
        // What was written meanwhile may have come too late.
        if changes.is_some() && changes == now && matches!(inner.stage, Stage::Open) {
            note(inner, Change::Synced { node })?;
        }
        Ok(())
    }

    fn unsynced_changes(&self, node: u64) -> Option<u64> {
        let state = &self.inner.lock().state;
        let unsynced = state.unsynced.contains(&node);
        let content = state.nodes.get(&node)?.content()?;
        unsynced.then_some(content.changes)
    }

    /// The daemon ends, and nobody writes any more: puts everything on this host's disk. A failure leaves what was
    /// written in doubt, should the host go down.
    pub(in crate::filesystem) fn come_to_rest(&self) {
        let inner = &mut *self.inner.lock();
        if !matches!(inner.stage, Stage::Open) || inner.state.unsynced.is_empty() {
            return;
        }
        let synced = sync_around(&self.directory).and_then(|()| {
            note(inner, Change::Boot(None))?;
            inner.journal.sync()
        });
        if let Err(error) = synced {
            tracing::warn!("{}: {error}", self.directory.display());
        }
    }

    /// As [`State::doubts`].
    pub(in crate::filesystem) fn doubts(&self) -> Option<String> {
        self.inner.lock().state.doubts()
    }

    /// Fails with `Damaged` while files are in doubt.
    pub(super) fn require_no_doubt(&self) -> Result<()> {
        match self.doubts() {
            None => Ok(()),
            Some(sentence) => Err(Error::new(Kind::Damaged, sentence)),
        }
    }
}

impl State {
    /// The sentence about files in doubt, if there are any.
    pub(super) fn doubts(&self) -> Option<String> {
        let doubtful = self.doubtful.iter();
        let paths = doubtful.filter(|node| !self.is_unnamed(**node));
        let mut paths = paths.filter_map(|node| self.path(*node));
        let named: Vec<_> = paths.by_ref().take(NAMED).collect();
        let shown = named
            .iter()
            .map(|path| String::from_utf8_lossy(&path.join(&b'/')).into_owned());
        let shown = shown.collect::<Vec<_>>().join(", ");
        let more = match paths.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!named.is_empty()).then(|| {
            format!(
                "this host went down before all of {shown}{more} was on its disk; copy again what was written last, or \
                 say with `touch` that a file is right"
            )
        })
    }
}

/// Writes a change down and applies it, whatever stage the point is at.
fn note(inner: &mut Inner, change: Change) -> Result<()> {
    inner.journal.append(&change)?;
    inner.state.apply(change, &|_| None);
    Ok(())
}

/// Puts everything on disk that was written to the file system of this directory.
fn sync_around(directory: &std::path::Path) -> Result<()> {
    let wrap = |error| Error::io(format_args!("syncing {}", directory.display()), error);
    let opened = fs::File::open(directory).map_err(wrap)?;
    // SAFETY: the descriptor is open; syncfs touches no memory.
    match unsafe { libc::syncfs(opened.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(wrap(std::io::Error::last_os_error())),
    }
}
