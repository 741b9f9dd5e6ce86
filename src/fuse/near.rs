//! Where the threads that receive calls run: beside their only caller, as long as there is one.
//!
//! A tool that goes through many small files asks one thing, waits for the answer, and asks the next. Tool and receiver
//! never work at the same time, and each question wakes the other one up: on the same processor that is a switch of
//! threads (some 10 us), on another one, which has gone idle meanwhile, several times as much. The kernel's scheduler
//! prefers the idle one. So once so many calls in a row have come from one thread, the receivers stay on the processor
//! on which that thread was last, and go where they like again when somebody else calls or when bytes are moved,
//! where work side by side is worth more than the switch.
//!
//! Only beside other work: where a processor is idle the scheduler moves the tool there with each answer, whatever the
//! receivers do, and nothing is gained (measured with `rsync --link-dest` of 10,000 files on two processors: 2.4 s for
//! 4.1 s beside builds, and no less on an idle machine).

use crate::thread;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Calls of one thread in a row after which the receivers come near; every so many it is looked where it is.
const ROW: u32 = 64;
/// Calls of others meanwhile that end it: a shell that waits for its tool asks now and then, too.
const OTHERS: u32 = 4;
/// [`Near::processor`] when receivers wait anywhere.
const ANY: u32 = u32::MAX;

/// Who calls, and where the receivers wait.
#[derive(Debug)]
pub(super) struct Near {
    caller: AtomicU32,
    row: AtomicU32,
    others: AtomicU32,
    processor: AtomicU32,
    /// Whether other work keeps all processors busy.
    is_busy: fn() -> bool,
}

impl Near {
    pub(super) fn new() -> Self {
        Self::with(is_busy)
    }

    fn with(is_busy: fn() -> bool) -> Self {
        Self {
            is_busy,
            caller: AtomicU32::new(0),
            row: AtomicU32::new(0),
            others: AtomicU32::new(0),
            processor: AtomicU32::new(ANY),
        }
    }

    /// A receiver has a call of this thread; 0 is the kernel itself.
    pub(super) fn called(&self, thread: u32) {
        if thread == self.caller.load(Relaxed) {
            if self.row.fetch_add(1, Relaxed) % ROW == ROW - 1 {
                self.others.store(0, Relaxed);
                let near = processor_of(thread).filter(|_| (self.is_busy)());
                let processor = near.unwrap_or(ANY);
                self.processor.store(processor, Relaxed);
            }
        } else if thread != 0 && self.is_enough() {
            self.caller.store(thread, Relaxed);
            self.leave();
        }
        let processor = self.processor.load(Relaxed);
        thread::stay_on((processor != ANY).then_some(processor));
    }

    /// Whether another caller than the last ends its row.
    fn is_enough(&self) -> bool {
        self.processor.load(Relaxed) == ANY || self.others.fetch_add(1, Relaxed) >= OTHERS
    }

    /// Bytes are moved: receivers and callers work side by side.
    pub(super) fn leave(&self) {
        self.row.store(0, Relaxed);
        self.others.store(0, Relaxed);
        self.processor.store(ANY, Relaxed);
    }
}

/// Whether as many threads want to run as there are processors, this one counted: field 4 of proc_loadavg(5).
fn is_busy() -> bool {
    let facts = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = facts.split_whitespace().nth(3);
    let running = running.and_then(|field| field.split('/').next()?.parse::<usize>().ok());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    running.is_some_and(|running| running >= processors)
}

/// The processor on which a thread was last: field 39 of proc_pid_stat(5).
fn processor_of(thread: u32) -> Option<u32> {
    let facts = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    // The second field is a name that may hold anything, and ends at the last parenthesis.
    let after_name = facts.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This thread, as the kernel would tell it.
    fn this() -> u32 {
        // SAFETY: asks for a number and cannot fail.
        unsafe { libc::gettid() as u32 }
    }

    fn calls(near: &Near, thread: u32, count: u32) {
        // A receiver's thread is bound, not the test's.
        std::thread::scope(|scope| {
            scope.spawn(|| (0..count).for_each(|_| near.called(thread)));
        });
    }

    fn is_near(near: &Near) -> bool {
        near.processor.load(Relaxed) != ANY
    }

    #[test]
    fn receivers_stay_near_an_only_caller_and_leave_for_others_and_for_bytes() {
        let idle = Near::with(|| false);
        calls(&idle, this(), 2 * ROW);
        assert!(!is_near(&idle));
        let near = Near::with(|| true);
        calls(&near, this(), 10);
        assert!(!is_near(&near));
        calls(&near, this(), ROW);
        assert!(is_near(&near));
        // A shell that looks once does not end it.
        calls(&near, this() + 1, 1);
        calls(&near, this(), 1);
        assert!(is_near(&near));
        for _ in 0..=OTHERS {
            calls(&near, this() + 1, 1);
            calls(&near, this(), 1);
        }
        assert!(!is_near(&near));
        calls(&near, this(), 2 * ROW);
        assert!(is_near(&near));
        near.leave();
        assert!(!is_near(&near));
        // The kernel's own calls and those of threads that are gone bind nobody.
        calls(&near, 0, 2 * ROW);
        assert!(!is_near(&near));
    }
}
