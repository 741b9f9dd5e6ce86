//! `latest`: a link that nobody makes and nobody removes, yet tools that make and remove it are content.

use crate::clock::Time;
use crate::id::ObjectId;
use crate::point::LATEST;
use parking_lot::Mutex;
use std::collections::HashMap;

/// rsync makes a link under such a name and renames it to `latest`.
const BEFORE_RENAME: &[u8] = b".latest.";
/// For so long `latest` seems to be gone after it was removed: tools make it anew at once, and the kernel refuses to make
/// a name that it still sees.
const GONE_SECONDS: i64 = 1;

/// Where `latest` seems to be missing, and to whom.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    removed: Mutex<HashMap<ObjectId, Time>>,
    makers: Mutex<HashMap<ObjectId, Process>>,
}

/// A process, told from a later one with its number by its start in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    started: u64,
}

impl Process {
    /// None when it has ended, or cannot be seen from here.
    fn running(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): the 22nd field; the second one is the program's name in parentheses, which may hold anything.
        let behind_name = stat.rsplit_once(')')?.1;
        let started = behind_name.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }
}

impl Hidden {
    /// Notes that somebody removed the link of this backup.
    pub(super) fn remove(&self, backup: ObjectId, now: Time) {
        let mut removed = self.removed.lock();
        removed.retain(|_, at| is_recent(*at, now));
        removed.insert(backup, now);
    }

    /// Somebody made the link: it is there for everybody.
    pub(super) fn restore(&self, backup: ObjectId) {
        self.removed.lock().remove(&backup);
        self.makers.lock().remove(&backup);
    }

    /// Whoever copies a whole backup makes its directory, then its points, of which the first ones complete
    /// meanwhile, then `latest`, as it was not there before: it is not there for this process.
    pub(super) fn made(&self, backup: ObjectId, pid: u32) {
        let mut makers = self.makers.lock();
        makers.retain(|_, maker| Process::running(maker.pid) == Some(*maker));
        makers.extend(Process::running(pid).map(|maker| (backup, maker)));
    }

    /// Whether the link seems to be missing to a process.
    pub(super) fn from(&self, backup: ObjectId, pid: u32, now: Time) -> bool {
        let removed = self.removed.lock().get(&backup).copied();
        removed.is_some_and(|at| is_recent(at, now))
            || self
                .makers
                .lock()
                .get(&backup)
                .is_some_and(|maker| maker.pid == pid && Process::running(pid) == Some(*maker))
    }
}

fn is_recent(removed: Time, now: Time) -> bool {
    (0..=GONE_SECONDS).contains(&(now.seconds - removed.seconds))
}

/// Whether a link of this name in a backup is taken for `latest`, or for what will be renamed to it.
pub(super) fn is_latest(name: &[u8]) -> bool {
    name == LATEST || name.starts_with(BEFORE_RENAME)
}
