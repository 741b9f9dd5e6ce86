//! Copies that seal themselves: an open point with the names, types and contents of the complete point it was copied
//! from is that point. Whoever may not give it the owners and set-id bits of its source gets it sealed as it was
//! written, once the tool has set what it sets last.

use super::matching::is_whole;
use super::write::is_written;
use super::{Inner, OpenPoint, Stage};
use crate::copy::bring_point;
use crate::error::{Error, Kind, Result};
use crate::filesystem::repositories::CompletePoint;
use crate::point::{PARTIAL, Point, PointRecord};
use crate::progress::Progress;
use crate::thread;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long after the last change a whole copy is sealed as it was written. Every content is there by then; what may
/// still come are the times, modes and attributes that tools set last, microseconds after each other.
const QUIET: Duration = Duration::from_secs(2);

/// What a copy that seals itself becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::filesystem) enum SealAs {
    /// The point it was copied from, with its owners, modes, times and attributes.
    Source,
    /// What its maker wrote: names, types and contents of the source, everything else as it was set.
    Written,
}

impl OpenPoint {
    /// Seals in the background once the point is a whole copy of another. A failure leaves it open and is passed to
    /// `tell`.
    pub(in crate::filesystem) fn seal_if_whole(
        self: &Arc<Self>,
        like: SealAs,
        tell: impl Fn(&Self, &Error) + Send + 'static,
    ) {
        let mut inner = self.inner.lock();
        inner.calls += 1;
        if inner.state.name.ends_with(PARTIAL) {
            return;
        }
        let Some(from) = whole_copy_of(&inner) else {
            return;
        };
        match like {
            SealAs::Source if inner.rerun_patience.is_zero() => {
                inner.stage = Stage::Sealing(Some(from.clone()));
                let open = self.clone();
                thread::spawn(move || {
                    let sealed = open.commit_copy(&open.name(), &from);
                    open.end_copy(sealed, &tell);
                });
            }
            _ if inner.waits_for_quiet => {}
            _ => {
                inner.waits_for_quiet = true;
                // The point may be given up meanwhile, or the mount may end: this must not keep it.
                let open = Arc::downgrade(self);
                let calls = inner.calls;
                thread::spawn(move || seal_when_quiet(&open, like, calls, &tell));
            }
        }
    }

    /// As [`Self::seal_if_whole`], for a point that another daemon has left. From now on, also when it is whole, it stays
    /// open until nothing has changed for `patience`, or for a moment after a tool has set the attributes of the top:
    /// whoever saw the daemon die runs the tool again, and that writes every file anew.
    pub(in crate::filesystem) fn go_on_sealing(
        self: &Arc<Self>,
        patience: Duration,
        like: SealAs,
        tell: impl Fn(&Self, &Error) + Send + 'static,
    ) {
        self.inner.lock().rerun_patience = patience;
        self.seal_if_whole(like, tell);
    }

    /// Compares written files with those of the point that this may be a copy of, on a thread of its own, and calls
    /// `then`. After a restart nobody knows their hashes any more.
    pub(in crate::filesystem) fn hash_behind(
        self: &Arc<Self>,
        then: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) {
        let spooled: Vec<_> = {
            let inner = self.inner.lock();
            let known = inner.from.is_some();
            let nodes = inner.state.nodes.iter().filter(|_| known);
            let spooled = nodes.filter(|(_, node)| node.content().is_some_and(is_written));
            spooled.map(|(number, _)| number).collect()
        };
        if spooled.is_empty() {
            return;
        }
        // The mount may end meanwhile: this must not keep the point.
        let open = Arc::downgrade(self);
        thread::spawn(move || {
            for node in spooled {
                let Some(open) = open.upgrade() else { return };
                open.closed(node, None);
            }
            if let Some(open) = open.upgrade() {
                then(&open);
            }
        });
    }

    /// Returns when it is not just being sealed.
    pub(in crate::filesystem) fn settle(&self) {
        let mut inner = self.inner.lock();
        while matches!(inner.stage, Stage::Sealing(_)) {
            self.settled.wait(&mut inner);
        }
    }

    fn end_copy(&self, sealed: Result<Arc<Point>>, tell: &dyn Fn(&Self, &Error)) {
        if let Err(error) = &sealed {
            tell(self, error);
        }
        self.end_sealing(sealed);
    }

    /// The point is the one it was copied from: its trees, its attributes.
    pub(super) fn commit_copy(&self, name: &[u8], from: &CompletePoint) -> Result<Arc<Point>> {
        // What was put into packs on the way is brought once more unless the index tells of it.
        if !self.inner.lock().state.written.is_empty() {
            self.streamer.settle(self.id);
        }
        self.forget_failure();
        let source = from.repository.catalog.repository();
        if source.id() != self.repository.catalog.repository().id() {
            let transfer = self.bringer.transfer(from.trees())?;
            if !bring_point(&transfer, &from.point.record, &Progress::default())? {
                let message = "trees of the point cannot be read; run `keepfs check`";
                return Err(Error::new(Kind::Damaged, message));
            }
            // Through the queue: everything wanted before is waited for as well.
            self.bringer.finish()?;
            transfer.finish()?;
        }
        let record = PointRecord {
            name: name.to_vec(),
            origin: Some(from.origin()),
            ..from.point.record.clone()
        };
        self.commit(record)
    }

    /// What failed before is tried once more: whoever seals may have mended it.
    pub(super) fn forget_failure(&self) {
        let again = std::mem::take(&mut self.inner.lock().bring_again);
        if again || self.bringer.check().is_err() {
            self.bringer.try_again();
        }
    }

    /// Begins sealing a whole copy, if nothing has changed since `calls`. None when there is nothing to wait for any
    /// more; an inner none when the tool goes on.
    fn begin_if_quiet(
        &self,
        calls: u64,
        like: SealAs,
        brought: &Result<()>,
    ) -> Option<Option<Arc<CompletePoint>>> {
        let mut inner = self.inner.lock();
        let partial = inner.state.name.ends_with(PARTIAL);
        let from = whole_copy_of(&inner).filter(|_| brought.is_ok() && !partial);
        if from.is_some() && inner.calls != calls {
            return Some(None);
        }
        inner.waits_for_quiet = false;
        if from.is_some() {
            inner.stage = Stage::Sealing(from.clone().filter(|_| like == SealAs::Source));
        }
        from.map(Some)
    }
}

/// The point that an open one is a whole copy of.
pub(super) fn whole_copy_of(inner: &Inner) -> Option<Arc<CompletePoint>> {
    let (from, _) = inner.from.as_ref()?;
    (matches!(inner.stage, Stage::Open) && is_whole(&inner.state, from)).then(|| from.clone())
}

/// Seals once the point is a whole copy and nothing has changed since `calls` for as long as it waits.
fn seal_when_quiet(
    open: &Weak<OpenPoint>,
    like: SealAs,
    mut calls: u64,
    tell: &dyn Fn(&OpenPoint, &Error),
) {
    let mut quiet = Duration::ZERO;
    loop {
        std::thread::sleep(QUIET);
        let Some(open) = open.upgrade() else { return };
        let (now, patience) = {
            let inner = open.inner.lock();
            (inner.calls, inner.rerun_patience)
        };
        quiet = if now == calls {
            quiet + QUIET
        } else {
            Duration::ZERO
        };
        calls = now;
        if quiet < patience.max(QUIET) {
            continue;
        }
        // While the point is open: the tool's last calls need not wait for the transfer.
        let brought = open.bringer.finish();
        if let Err(error) = &brought {
            tell(&open, error);
        }
        let Some(begun) = open.begin_if_quiet(calls, like, &brought) else {
            return;
        };
        let Some(from) = begun else { continue };
        let sealed = match like {
            SealAs::Source => open.commit_copy(&open.name(), &from),
            SealAs::Written => open.commit_written(&open.name(), Some(&from)),
        };
        return open.end_copy(sealed, tell);
    }
}
