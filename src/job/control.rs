//! What people and clocks ask of a run while it goes on.

use crate::progress::Progress;
use crate::store::Rate;
use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// A pack that is on its way when the window closes has this long to end; then it waits where it is.
const LAST_PACK: Duration = Duration::from_secs(45);

#[derive(Debug, Default)]
struct Asked {
    stop: bool,
    after_pack: bool,
    /// Since when the window is closed.
    closed: Option<Instant>,
    waiting: usize,
}

/// What is asked of a run, and how far it is.
#[derive(Debug)]
pub struct Control {
    /// The job that it is a run of.
    pub job: String,
    /// How far it is; its wish to stop is the one of this run.
    pub progress: Progress,
    /// How many bytes a second it may read, and write.
    pub rate: Rate,
    asked: Mutex<Asked>,
    changed: Condvar,
}

impl Control {
    /// Of a run that may go on at this rate.
    pub fn new(job: &str, rate: Option<u64>) -> Self {
        Self {
            job: job.to_owned(),
            progress: Progress::default(),
            rate: Rate::new(rate),
            asked: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Asks it to stop at the next good place. What is on its way ends as fast as it can.
    pub fn stop(&self) {
        self.asked.lock().stop = true;
        self.progress.stop();
        self.rate.set(None);
        self.changed.notify_all();
    }

    /// Asks it to stop when the pack that is being written has ended.
    pub fn stop_after_pack(&self) {
        let waiting = {
            let mut asked = self.asked.lock();
            asked.after_pack = true;
            asked.waiting > 0
        };
        if waiting {
            // It is at a pack's end already.
            self.stop();
        }
    }

    /// Whether somebody asked it to stop, now or later.
    pub fn is_stopping(&self) -> bool {
        let asked = self.asked.lock();
        asked.stop || asked.after_pack
    }

    /// Whether somebody asked it to stop at the next good place.
    pub fn stops_now(&self) -> bool {
        self.asked.lock().stop
    }

    /// Whether it waits for its window.
    pub fn is_waiting(&self) -> bool {
        self.asked.lock().waiting > 0
    }

    /// Says whether the window is open now.
    #[allow(clippy::disallowed_methods)] // how long a pack takes to end, not a time that is stored
    pub fn set_open(&self, open: bool) {
        let mut asked = self.asked.lock();
        match open {
            true => asked.closed = None,
            false => asked.closed = asked.closed.or_else(|| Some(Instant::now())),
        }
        self.changed.notify_all();
    }

    /// Called before a pack is begun: waits while the window is closed, unless the run is to stop.
    pub fn before_pack(&self) {
        self.wait_while(|asked| asked.closed.is_some());
    }

    /// Called while a pack is written: waits if the window is closed for so long that the pack should have ended.
    pub fn within_pack(&self) {
        self.wait_while(|asked| {
            asked
                .closed
                .is_some_and(|closed| closed.elapsed() > LAST_PACK)
        });
    }

    /// Called when a pack has ended.
    pub fn after_pack(&self) {
        if self.asked.lock().after_pack {
            self.stop();
        }
    }

    fn wait_while(&self, closed: impl Fn(&Asked) -> bool) {
        let mut asked = self.asked.lock();
        if asked.stop || !closed(&asked) {
            return;
        }
        asked.waiting += 1;
        while !asked.stop && closed(&asked) {
            if asked.after_pack {
                asked.stop = true;
                self.progress.stop();
                break;
            }
            self.changed.wait(&mut asked);
        }
        asked.waiting -= 1;
    }
}
