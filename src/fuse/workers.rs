//! Threads for calls that may wait for a store, so that nobody else waits with them.

use crate::thread;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

type Task = Box<dyn FnOnce() + Send>;

/// How long a thread beyond those that stay waits for a call before it ends.
const REST: Duration = Duration::from_secs(10);

/// Runs calls: on the thread that received them while others still receive, otherwise on a thread of its own.
/// A change of threads costs some 30 us, a receiver that waits costs everybody. Calls may wait for long (a writer for
/// space in the spool, `mv` for the store): when all threads do, more are made, so that others get on.
#[derive(Debug)]
pub(super) struct Workers {
    tasks: Sender<Task>,
    pool: Arc<Pool>,
    /// Receiving threads that are busy with a call that may wait.
    busy: Arc<AtomicUsize>,
    /// How many of them may be.
    busy_max: usize,
}

#[derive(Debug)]
struct Pool {
    waiting: Receiver<Task>,
    /// Threads that have nothing to do, less the tasks that wait for one.
    free: AtomicIsize,
    threads: AtomicUsize,
    threads_min: usize,
    threads_max: usize,
}

impl Workers {
    /// `threads` workers, and up to `threads_max` when all of them wait, beside `receivers` threads that receive
    /// calls. They end when this is dropped.
    pub(super) fn new(threads: usize, threads_max: usize, receivers: usize) -> Self {
        let (tasks, waiting) = unbounded::<Task>();
        let pool = Arc::new(Pool {
            waiting,
            free: AtomicIsize::new(0),
            threads: AtomicUsize::new(0),
            threads_min: threads,
            threads_max,
        });
        for _ in 0..threads {
            pool.begin();
        }
        Self {
            tasks,
            pool,
            busy: Arc::default(),
            busy_max: receivers.saturating_sub(1),
        }
    }

    /// Runs a call that may wait, then replies with its answer.
    pub(super) fn run<A>(
        &self,
        call: impl FnOnce() -> A + Send + 'static,
        reply: impl FnOnce(A) + Send + 'static,
    ) {
        if self.busy.fetch_add(1, Ordering::Relaxed) < self.busy_max {
            let answer = run_safely(call);
            // Before the reply: the next call of whoever gets it may come to the other receiver at once.
            self.busy.fetch_sub(1, Ordering::Relaxed);
            if let Some(answer) = answer {
                run_safely(|| reply(answer));
            }
            return;
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
        if let Err(refused) = self.tasks.send(Box::new(move || reply(call()))) {
            // No worker is left; then the call waits here.
            run_safely(refused.into_inner());
        } else if self.pool.free.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.pool.begin();
        }
    }
}

impl Pool {
    /// Begins another thread, if there may be one more.
    fn begin(self: &Arc<Self>) {
        let more = |threads| (threads < self.threads_max).then_some(threads + 1);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.threads.fetch_update(set, get, more).is_err() {
            return;
        }
        self.free.fetch_add(1, Ordering::Relaxed);
        let pool = self.clone();
        let begun = thread::try_spawn(move || pool.work());
        if let Err(error) = begun {
            // Those that are there do the work later.
            self.free.fetch_sub(1, Ordering::Relaxed);
            self.threads.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("no other thread can be made for the mount: {error}");
        }
    }

    fn work(&self) {
        loop {
            let task = match self.waiting.recv_timeout(REST) {
                Ok(task) => task,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if !self.counts_out() => continue,
                Err(RecvTimeoutError::Timeout) => {
                    self.free.fetch_sub(1, Ordering::Relaxed);
                    // A task may have come that counted on this thread.
                    match self.waiting.try_recv() {
                        Ok(task) => {
                            self.free.fetch_add(1, Ordering::Relaxed);
                            self.threads.fetch_add(1, Ordering::Relaxed);
                            task
                        }
                        Err(_) => return,
                    }
                }
            };
            run_safely(task);
            self.free.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A thread that has rested is not counted any more; false when it belongs to those that stay.
    fn counts_out(&self) -> bool {
        let less = |threads| (threads > self.threads_min).then(|| threads - 1);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        self.threads.fetch_update(set, get, less).is_ok()
    }
}

/// A call that panics answers EIO when its reply is dropped; the thread goes on for everybody else.
fn run_safely<A>(task: impl FnOnce() -> A) -> Option<A> {
    let answer = catch_unwind(AssertUnwindSafe(task));
    if answer.is_err() {
        tracing::error!(
            "a call stopped unexpectedly and was answered with EIO; please report this"
        );
    }
    answer.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn calls_that_wait_for_long_do_not_keep_others_waiting() {
        let workers = Workers::new(2, 64, 1);
        let (release, wait) = bounded::<()>(0);
        let (ended, ends) = unbounded();
        for _ in 0..40 {
            let (wait, ended) = (wait.clone(), ended.clone());
            workers.run(
                move || {
                    // Returns when the other end is dropped.
                    let _ = wait.recv();
                },
                move |()| ended.send(()).unwrap(),
            );
        }
        let (answer, answered) = bounded(1);
        workers.run(|| 7, move |seven| answer.send(seven).unwrap());
        assert_eq!(answered.recv_timeout(Duration::from_secs(30)), Ok(7));
        assert!(ends.is_empty());
        drop(release);
        for _ in 0..40 {
            ends.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        assert!(workers.pool.threads.load(Ordering::Relaxed) <= 41);
    }
}
