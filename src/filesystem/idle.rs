//! Open points that nobody has changed for a while are sealed, in repositories that ask for that: `init --seal-idle`.

use super::FileSystem;
use super::errno::Failure;
use super::open::{TOP, Waiting};
use crate::thread;
use std::sync::Arc;
use std::time::Duration;

/// How often is looked for them.
const LOOK: Duration = Duration::from_secs(20);

impl FileSystem {
    /// Seals what is idle from now on, on a thread of its own, as long as there is this tree.
    pub fn keep_sealing_idle(self: &Arc<Self>) {
        let tree = Arc::downgrade(self);
        thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK);
                let Some(tree) = tree.upgrade() else { return };
                tree.seal_idle();
            }
        });
    }

    /// Seals every open point of such a repository that nobody has changed for so long, as it was written. Left alone
    /// are those that nobody has put anything into, that somebody has a file of open, that only a rename seals, and
    /// those that are known to be a part of what they are copied from.
    pub fn seal_idle(&self) {
        for open in self.open_points.all() {
            let settings = open.repository.catalog.repository().settings();
            let idle = settings.seal_idle_seconds();
            if !idle.is_some_and(|seconds| open.is_idle(seconds)) {
                continue;
            }
            let waiting = Waiting {
                pid: 0,
                patience: Some(self.options.patience),
            };
            let sealed = open.seal_for(waiting, &open.name(), self.seals_as(&open));
            if let Some(sentence) = sealed.err().as_ref().and_then(Failure::sentence) {
                self.problems.note(open.ino(TOP), sentence.to_owned());
            }
        }
    }
}
