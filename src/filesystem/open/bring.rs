//! The transfer behind references: chunks that the repository lacks are brought while the tool goes on.

use super::content::{SourceFile, is_there};
use crate::copy::{Transfer, TransferOptions};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Content, Trees};
use crate::repository::{Lane, OpenPointMark, Writer};
use crate::thread;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Files that may wait: then the tool waits, too, so that its backlog is bounded.
const WAITING_MAX: usize = 1024;

enum Task {
    Want(Arc<SourceFile>, Lane),
    /// Everything wanted before is to be durable; then this is told.
    Finish(Sender<()>),
}

struct Failed {
    kind: Kind,
    message: String,
    /// Whether a call has answered with it.
    told: bool,
}

struct Shared {
    target: Arc<Trees>,
    transfers: Mutex<HashMap<ObjectId, Arc<Transfer>>>,
    /// The first failure; the next call tells it.
    failed: Mutex<Option<Failed>>,
    /// The mark of the open point that this brings for.
    mark: OnceLock<OpenPointMark>,
}

/// Brings the chunks of sources into one repository.
pub(super) struct Bringer {
    shared: Arc<Shared>,
    /// The queue, while there is a thread behind it.
    tasks: Mutex<Option<Sender<Task>>>,
    /// Whoever wants on its behalf stops when this is gone.
    alive: Arc<()>,
}

impl Bringer {
    /// Brings into the repository of these trees.
    pub(super) fn new(target: Arc<Trees>) -> Self {
        Self {
            shared: Arc::new(Shared {
                target,
                transfers: Mutex::default(),
                failed: Mutex::default(),
                mark: OnceLock::new(),
            }),
            tasks: Mutex::default(),
            alive: Arc::default(),
        }
    }

    /// The same, for an open point.
    pub(super) fn marked(self, mark: &OpenPointMark) -> Self {
        self.shared.mark.get_or_init(|| mark.clone());
        self
    }

    /// The queue; the thread behind it begins with the first task and ends with this.
    fn tasks(&self) -> Sender<Task> {
        let mut tasks = self.tasks.lock();
        let begin = || {
            let (tasks, waiting) = bounded(WAITING_MAX);
            let shared = self.shared.clone();
            thread::spawn(move || shared.work(&waiting));
            tasks
        };
        tasks.get_or_insert_with(begin).clone()
    }

    /// The thread behind the queue is gone, and with it what waited there. The next task begins another one.
    fn stopped(&self) {
        *self.tasks.lock() = None;
        let message = "the transfer behind the copy has stopped unexpectedly; try again";
        self.shared.fail(&Error::new(Kind::Failed, message));
    }

    /// Notes a failure; the next call tells it.
    pub(super) fn fail(&self, error: &Error) {
        self.shared.fail(error);
    }

    /// Fails with what the transfer failed with.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.shared.failed.lock() {
            Some(failed) => Err(Error::new(failed.kind, failed.message.clone())),
            None => Ok(()),
        }
    }

    /// As [`Self::check`], for a call that answers with the failure.
    pub(super) fn tell(&self) -> Result<()> {
        let checked = self.check();
        if let Some(failed) = &mut *self.shared.failed.lock() {
            failed.told = true;
        }
        checked
    }

    /// Whether there is a failure that a call has answered with: whoever calls now tries again.
    pub(super) fn was_told(&self) -> bool {
        self.shared
            .failed
            .lock()
            .as_ref()
            .is_some_and(|failed| failed.told)
    }

    /// Forgets the failure, so that the next attempt counts.
    pub(super) fn try_again(&self) {
        *self.shared.failed.lock() = None;
        self.shared.transfers.lock().clear();
    }

    /// Whether these chunks are in the repository anyway.
    fn is_own(&self, source: &SourceFile) -> bool {
        source.repository == self.shared.target.repository().id()
    }

    /// Brings the chunks of a file of unknown name soon; waits while too many wait.
    pub(super) fn want(&self, source: &Arc<SourceFile>) {
        self.want_named(source, b"");
    }

    /// Brings a file's chunks soon, a small file's together with those of similar names; waits while too many wait.
    pub(super) fn want_named(&self, source: &Arc<SourceFile>, name: &[u8]) {
        let lane = lane_of(source, name);
        let wanted = || self.tasks().send(Task::Want(source.clone(), lane));
        if self.is_own(source) {
            // What it refers to may be forgotten before it is sealed.
            self.shared
                .mark
                .get()
                .into_iter()
                .for_each(OpenPointMark::hold_behind);
        } else if wanted().is_err() {
            self.stopped();
        }
    }

    /// As [`Self::want`] for many, without waiting. Those whose repository is not mounted are left for later.
    pub(super) fn want_behind(&self, mut sources: Vec<Arc<SourceFile>>) {
        sources.retain(|source| !self.is_own(source) && source.trees.is_some());
        if sources.is_empty() {
            return;
        }
        let (tasks, alive) = (self.tasks(), Arc::downgrade(&self.alive));
        thread::spawn(move || {
            for source in sources {
                // Sealing wants everything again, so nothing depends on this.
                let lane = lane_of(&source, b"");
                if alive.strong_count() == 0 || tasks.send(Task::Want(source, lane)).is_err() {
                    return;
                }
            }
        });
    }

    /// Returns when everything wanted so far is in the repository.
    pub(super) fn finish(&self) -> Result<()> {
        let tasks = self.tasks.lock().clone();
        if let Some(tasks) = tasks {
            let (done, wait) = bounded(0);
            if tasks.send(Task::Finish(done)).is_err() || wait.recv().is_err() {
                self.stopped();
            }
        }
        self.check()
    }

    /// The transfer from a repository.
    pub(super) fn transfer(&self, source: &Arc<Trees>) -> Result<Arc<Transfer>> {
        self.shared.transfer(source)
    }
}

impl Shared {
    fn transfer(&self, source: &Arc<Trees>) -> Result<Arc<Transfer>> {
        let id = source.repository().id();
        if let Some(transfer) = self.transfers.lock().get(&id) {
            return Ok(transfer.clone());
        }
        // Not under the lock: a writer asks the store, which may take its time.
        let target = self.target.repository();
        let mut writer = Writer::new(target.clone(), Some(id))?;
        if let Some(mark) = self.mark.get() {
            writer = writer.marked(mark);
        }
        let options = TransferOptions::between(source.repository(), target);
        let transfer = Arc::new(Transfer::new(source.clone(), Arc::new(writer), options));
        // Somebody may have been faster; one serves all.
        let mut transfers = self.transfers.lock();
        Ok(transfers.entry(id).or_insert(transfer).clone())
    }

    fn work(&self, waiting: &Receiver<Task>) {
        for task in waiting {
            let result = match &task {
                Task::Want(source, lane) => self.want(source, *lane),
                Task::Finish(_done) => self.finish(),
            };
            if let Err(error) = result {
                self.fail(&error);
            }
            if let Task::Finish(done) = task {
                // Who waited may have gone.
                let _ = done.send(());
            }
        }
    }

    fn fail(&self, error: &Error) {
        let failed = Failed {
            kind: error.kind(),
            message: error.message().to_owned(),
            told: false,
        };
        self.failed.lock().get_or_insert(failed);
    }

    fn want(&self, source: &SourceFile, lane: Lane) -> Result<()> {
        match source.trees() {
            Ok(trees) => self.transfer(trees)?.want_file(&source.file(), lane),
            // Its repository is not mounted now: that is no loss if all of it was brought before.
            Err(_) if is_there(&self.target, &source.file())? => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn finish(&self) -> Result<()> {
        let transfers: Vec<_> = self.transfers.lock().values().cloned().collect();
        for transfer in transfers {
            transfer.finish()?;
        }
        Ok(())
    }
}

/// Small files lie together, those of similar names nearest.
fn lane_of(source: &SourceFile, name: &[u8]) -> Lane {
    match source.file().content {
        Content::One(_) => Lane::of_name(name),
        _ => Lane::Alone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::point::{Content, File};
    use crate::repository::{Credential, Local, Repository, Settings};
    use crate::store::MemoryStore;

    fn trees(cache: &std::path::Path) -> Arc<Trees> {
        let store = Arc::new(MemoryStore::new());
        let key = Credential::key_file(&[7; 64]).unwrap();
        let clock = Clock::system();
        Repository::init(store.clone(), &key, "test", &Settings::default(), &clock).unwrap();
        let local = Local {
            cache: cache.to_owned(),
            frame_cache_bytes: 1 << 20,
            clock,
        };
        Arc::new(Trees::new(Repository::open(store, &key, local).unwrap()))
    }

    #[test]
    fn a_thread_that_ended_is_a_failure_and_another_begins() {
        let cache = tempfile::tempdir().unwrap();
        let bringer = Bringer::new(trees(cache.path()));
        let elsewhere = (ObjectId::random(), None);
        let source = Arc::new(SourceFile::new(0, elsewhere, File::empty(), false));
        let dead = || *bringer.tasks.lock() = Some(bounded(1).0);
        dead();
        assert_eq!(bringer.finish().unwrap_err().kind(), Kind::Failed);
        bringer.try_again();
        dead();
        bringer.want(&source);
        assert_eq!(bringer.check().unwrap_err().kind(), Kind::Failed);
        bringer.try_again();
        bringer.want(&source);
        bringer.finish().unwrap();
    }

    #[test]
    fn what_is_not_mounted_must_be_there_already() {
        let cache = tempfile::tempdir().unwrap();
        let target = trees(cache.path());
        let content = b"brought before".to_vec();
        let id = crate::id::ChunkId::of(&content);
        let file = File {
            size: content.len() as u64,
            content: Content::One(id),
            ..File::empty()
        };
        let elsewhere = (ObjectId::random(), None);
        let source = Arc::new(SourceFile::new(0, elsewhere, file, false));
        let bringer = Bringer::new(target.clone());
        bringer.want(&source);
        let error = bringer.finish().unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(error.message().contains(&source.repository.to_string()));
        assert!(!bringer.was_told());
        bringer.tell().unwrap_err();
        assert!(bringer.was_told());
        let writer = Writer::new(target.repository().clone(), None).unwrap();
        writer.put(Lane::Alone, id, &content).unwrap();
        writer.flush().unwrap();
        bringer.try_again();
        bringer.want(&source);
        bringer.finish().unwrap();
    }
}
