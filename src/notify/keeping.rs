//! The thread of a daemon that sends what is queued.

use super::Notifier;
use crate::error::{Error, Result};
use crate::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

/// Between two looks: other processes of this host queue messages, too, and what failed becomes due.
const LOOK: Duration = Duration::from_secs(30);
/// How long the end of a daemon waits for a message that is just being sent.
const FAREWELL: Duration = Duration::from_secs(10);

/// Sends until it is dropped.
#[derive(Debug)]
pub struct Delivering {
    notifier: Arc<Notifier>,
    stop: Arc<AtomicBool>,
    ended: mpsc::Receiver<()>,
}

impl Notifier {
    /// Sends what is queued, from a thread of its own, until the answer is dropped.
    pub fn keep_delivering(self: &Arc<Self>) -> Result<Delivering> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ends, ended) = mpsc::channel();
        let (notifier, stopped) = (self.clone(), stop.clone());
        let work = move || {
            notifier.deliver_until(&stopped);
            drop(ends);
        };
        thread::try_spawn(work)
            .map_err(|error| Error::io("cannot start the thread that sends messages", error))?;
        Ok(Delivering {
            notifier: self.clone(),
            stop,
            ended,
        })
    }

    fn deliver_until(&self, stop: &AtomicBool) {
        let stopped = || stop.load(Relaxed);
        while !stopped() {
            *self.queued.lock() = false;
            if let Err(error) = self.pass(false, &stopped) {
                tracing::warn!("messages wait: {error}");
            }
            let mut queued = self.queued.lock();
            if !*queued && !stopped() {
                self.wake.wait_for(&mut queued, LOOK);
            }
        }
    }
}

impl Drop for Delivering {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let queued = self.notifier.queued.lock();
        self.notifier.wake.notify_all();
        drop(queued);
        // It answers by going. What it was at when the time is over is sent again by whoever comes next.
        let _ = self.ended.recv_timeout(FAREWELL);
    }
}
