//! Long work on the terminal: a bar or plain lines while it runs, and Ctrl-C.
//!
//! The first Ctrl-C asks the work to stop at the next good place; the second one ends the process at once.

use crate::error::{Error, Result};
use crate::progress::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::Thread;
use std::time::Duration;

/// How often counters are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Looks between two plain lines: ten seconds.
const LOOKS_PER_LINE: u32 = 100;

/// Set by the first signal that asks to stop.
///
/// Fails only when the system refuses a handler.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: with the flag set already, the signal does what it does to any program.
        signal_hook::flag::register_conditional_default(signal, flag.clone())
            .and_then(|_| signal_hook::flag::register(signal, flag.clone()))
            .map_err(|error| Error::io("cannot listen for Ctrl-C", error))?;
    }
    Ok(flag)
}

/// Runs `work` and shows how far it is, unless `quiet`.
pub fn watched<T>(quiet: bool, work: impl FnOnce(&Progress) -> Result<T>) -> Result<T> {
    let progress = Progress::default();
    let bar = !quiet && std::io::stderr().is_terminal();
    progress.watched.store(bar, Relaxed);
    let asked = stop_flag()?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&progress, &asked, &ended, Shown::new(quiet)));
        let _ends = Ends {
            ended: &ended,
            watcher: watcher.thread(),
        };
        work(&progress)
    })
}

/// Ends the watcher when it goes, whatever the work came to: a panic would wait for ever for a watcher that nobody
/// tells.
struct Ends<'a> {
    ended: &'a AtomicBool,
    watcher: &'a Thread,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        self.watcher.unpark();
    }
}

fn watch(progress: &Progress, asked: &AtomicBool, ended: &AtomicBool, mut shown: Shown) {
    while !ended.load(Relaxed) {
        if asked.load(Relaxed) {
            progress.stop();
        }
        shown.show(progress);
        std::thread::park_timeout(LOOK);
    }
    shown.end();
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines(u32),
}

impl Shown {
    fn new(quiet: bool) -> Self {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Nothing,
            (false, true) => Self::Bar(ProgressBar::with_draw_target(
                None,
                ProgressDrawTarget::stderr(),
            )),
            (false, false) => Self::Lines(0),
        }
    }

    fn show(&mut self, progress: &Progress) {
        let (bytes, bytes_total) = (
            progress.bytes.load(Relaxed),
            progress.bytes_total.load(Relaxed),
        );
        let (items, items_total) = (
            progress.items.load(Relaxed),
            progress.items_total.load(Relaxed),
        );
        match self {
            Self::Nothing => {}
            Self::Bar(bar) => {
                bar.set_message(of_total(items, items_total));
                if bytes_total > 0 && bar.length() != Some(bytes_total) {
                    bar.set_length(bytes_total);
                    bar.set_style(style(
                        "{wide_bar} {bytes}/{total_bytes} {msg} {bytes_per_sec} ETA {eta}",
                    ));
                } else if bar.length().is_none() {
                    bar.set_style(style("{spinner} {bytes} {msg} {bytes_per_sec} {elapsed}"));
                }
                bar.set_position(bytes);
            }
            Self::Lines(looks) => {
                *looks += 1;
                if looks.is_multiple_of(LOOKS_PER_LINE) {
                    let of = match bytes_total {
                        0 => String::new(),
                        total => format!(" of {}", HumanBytes(total)),
                    };
                    // Nobody may be reading; the work matters more.
                    let _ = writeln!(
                        std::io::stderr(),
                        "{}{of}, {}",
                        HumanBytes(bytes),
                        of_total(items, items_total)
                    );
                }
            }
        }
    }

    fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn of_total(items: u64, total: u64) -> String {
    match total {
        0 => format!("{items} items"),
        total => format!("{items}/{total} items"),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_ends() {
        let ended =
            std::panic::catch_unwind(|| watched(true, |_| -> Result<()> { panic!("on purpose") }));
        assert!(ended.is_err());
    }
}
