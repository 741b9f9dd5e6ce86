//! Threads that work behind a call.
//!
//! A thread inherits from the one that makes it on which processors it may run, and the mount binds those that receive the
//! kernel's calls ([`stay_on`]). Threads of their own are for work beside that, so they may run wherever the
//! process may: they are made here, and nowhere else.

use std::cell::Cell;
use std::io;
use std::mem::size_of_val;
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

thread_local! {
    /// The only processor on which this thread may run.
    static BOUND: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Makes a thread. Panics where the host has none left, as [`std::thread::spawn`] does.
pub fn spawn<A: Send + 'static>(work: impl FnOnce() -> A + Send + 'static) -> JoinHandle<A> {
    try_spawn(work).expect("the host has a thread left")
}

/// Makes a thread; the host may have none left.
pub fn try_spawn<A: Send + 'static>(
    work: impl FnOnce() -> A + Send + 'static,
) -> io::Result<JoinHandle<A>> {
    let bound = BOUND.get().is_some();
    Builder::new().spawn(move || {
        if bound {
            run_on(all());
        }
        work()
    })
}

/// Keeps the calling thread on one processor, or lets it run wherever the process may. That it cannot be kept there costs
/// time only.
pub fn stay_on(processor: Option<u32>) {
    if BOUND.get() == processor {
        return;
    }
    let all = all();
    BOUND.set(processor);
    match processor {
        None => run_on(all),
        Some(number) => {
            let mut one = none();
            // SAFETY: a number beyond the set is passed over.
            unsafe { libc::CPU_SET(number as usize, &mut one) };
            run_on(&one);
        }
    }
}

/// The processors that the process may use: those of its first thread that asks, before any is bound.
fn all() -> &'static libc::cpu_set_t {
    static ALL: OnceLock<libc::cpu_set_t> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = none();
        // SAFETY: the set is as large as is said; 0 is the calling thread.
        unsafe { libc::sched_getaffinity(0, size_of_val(&all), &mut all) };
        all
    })
}

fn none() -> libc::cpu_set_t {
    // SAFETY: a set of bits, of which zero is the empty one.
    unsafe { std::mem::zeroed() }
}

fn run_on(processors: &libc::cpu_set_t) {
    // SAFETY: the set is as large as is said; 0 is the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of_val(processors), processors) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> i32 {
        let mut set = none();
        // SAFETY: the set is as large as is said; 0 is the calling thread.
        unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
        // SAFETY: the set was filled in.
        unsafe { libc::CPU_COUNT(&set) }
    }

    #[test]
    fn a_thread_that_a_bound_one_makes_is_not_bound() {
        let at_first = allowed();
        // SAFETY: asks for the number of the processor this runs on.
        let here = unsafe { libc::sched_getcpu() } as u32;
        stay_on(Some(here));
        assert_eq!(allowed(), 1);
        assert_eq!(spawn(allowed).join().unwrap(), at_first);
        stay_on(None);
        assert_eq!(allowed(), at_first);
    }
}
