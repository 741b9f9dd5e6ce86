//! Threads for calls that may wait for a store, so that nobody else waits with them.

use crossbeam_channel::{Sender, unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Task = Box<dyn FnOnce() + Send>;

/// Runs calls: on the thread that received them while others still receive, otherwise on a thread of its own.
/// A change of threads costs some 30 us, a receiver that waits costs everybody.
#[derive(Debug)]
pub(super) struct Workers {
    tasks: Sender<Task>,
    /// Receiving threads that are busy with a call that may wait.
    busy: Arc<AtomicUsize>,
    /// How many of them may be.
    busy_max: usize,
}

impl Workers {
    /// `threads` workers beside `receivers` threads that receive calls. They end when this is dropped.
    pub(super) fn new(threads: usize, receivers: usize) -> Self {
        let (tasks, waiting) = unbounded::<Task>();
        for _ in 0..threads {
            let waiting = waiting.clone();
            std::thread::spawn(move || {
                for task in waiting {
                    run_safely(task);
                }
            });
        }
        Self {
            tasks,
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
        }
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
