//! Waiting for a repository on behalf of a tool. The kernel lets nobody out of a pending rename or fsyncdir, not even by
//! SIGKILL, and the renamed point's directory is locked meanwhile: so the wait ends by itself.

use super::OpenPoint;
use super::copied::SealAs;
use crate::error::{Error, Kind};
use crate::filesystem::errno::Answer;
use crate::thread;
use crossbeam_channel::{RecvTimeoutError, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the caller and the progress are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Signals that tell of something and ask nobody to end, signal(7). The end of a child lies pending in any thread of a
/// process, and for as long as that thread waits here, also where the process does not catch it.
const TIDINGS: [libc::c_int; 4] = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
/// What was given up may just have succeeded: its answer is waited for once more, so long.
const LAST: Duration = Duration::from_millis(500);

/// Who waits, and how long.
#[derive(Clone, Copy, Debug)]
pub(in crate::filesystem) struct Waiting {
    /// The calling thread; 0 for the kernel itself.
    pub pid: u32,
    /// How long it waits while nothing gets on; none for ever.
    pub patience: Option<Duration>,
}

impl OpenPoint {
    /// As [`OpenPoint::seal`], in a thread of its own. Fails with `Interrupted` when the caller has a signal pending and
    /// with `Unreachable` when nothing gets on; then the point stays open, and the next attempt goes on from there.
    pub(in crate::filesystem) fn seal_for(
        self: &Arc<Self>,
        waiting: Waiting,
        name: &[u8],
        like: SealAs,
    ) -> Answer<()> {
        let given_up = Arc::new(AtomicBool::new(false));
        let (open, name, flag) = (self.clone(), name.to_vec(), given_up.clone());
        let sealing = move || open.seal_unless(&name, like, flag);
        self.wait(waiting, || given_up.store(true, Relaxed), sealing)
    }

    /// As [`OpenPoint::sync_all`], likewise; what is given up goes on behind the caller's back.
    pub(in crate::filesystem) fn sync_all_for(self: &Arc<Self>, waiting: Waiting) -> Answer<()> {
        let open = self.clone();
        self.wait(waiting, || (), move || open.sync_all())
    }

    /// As [`OpenPoint::discard`], once it is not just being sealed, which is waited for likewise.
    pub(in crate::filesystem) fn discard_for(self: &Arc<Self>, waiting: Waiting) -> Answer<()> {
        let open = self.clone();
        let settle = move || {
            open.settle();
            Ok(())
        };
        self.wait(waiting, || (), settle)?;
        self.discard()
    }

    #[allow(clippy::disallowed_methods)] // how long nothing has happened on this host
    fn wait(
        &self,
        waiting: Waiting,
        give_up: impl FnOnce(),
        work: impl FnOnce() -> Answer<()> + Send + 'static,
    ) -> Answer<()> {
        let (done, answer) = bounded(1);
        thread::spawn(move || {
            // Whoever waited may have gone.
            let _ = done.send(work());
        });
        let repository = self.repository.catalog.repository();
        let (mut seen, mut since) = (repository.progress(), Instant::now());
        loop {
            match answer.recv_timeout(TICK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let message = "storing the open point has stopped unexpectedly; try again";
                    return Err(Error::new(Kind::Failed, message).into());
                }
            }
            let now = repository.progress();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            let stands = waiting
                .patience
                .is_some_and(|patience| since.elapsed() >= patience);
            let why = if has_signal(waiting.pid) {
                let message =
                    "interrupted; the point stays open, and the next attempt goes on from here";
                Error::new(Kind::Interrupted, message)
            } else if stands {
                let message = format!(
                    "{} takes nothing; the point stays open, so try again when the store answers, or wait for it with \
                     `keepfs seal`",
                    repository.location()
                );
                Error::new(Kind::Unreachable, message)
            } else {
                continue;
            };
            give_up();
            return answer
                .recv_timeout(LAST)
                .unwrap_or_else(|_| Err(why.into()));
        }
    }
}

/// Whether a thread has a signal pending that it neither blocks nor ignores and that is not among [`TIDINGS`]: proc(5),
/// `status`.
fn has_signal(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let digits = line.and_then(|line| line.strip_prefix(':'));
        digits.map_or(0, |digits| {
            u64::from_str_radix(digits.trim(), 16).unwrap_or(0)
        })
    };
    let tidings = TIDINGS
        .iter()
        .fold(0, |mask, signal| mask | 1 << (signal - 1));
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn") & !tidings != 0
}
