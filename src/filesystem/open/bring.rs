//! The transfer behind references: chunks that the repository lacks are brought while the tool goes on.

use super::content::SourceFile;
use crate::copy::{Transfer, TransferOptions};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Content, Trees};
use crate::repository::{Lane, Repository, Writer};
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

struct Shared {
    target: Arc<Repository>,
    transfers: Mutex<HashMap<ObjectId, Arc<Transfer>>>,
    /// The first failure; it is told to every later call.
    failed: Mutex<Option<(Kind, String)>>,
}

/// Brings the chunks of sources into one repository.
pub(super) struct Bringer {
    shared: Arc<Shared>,
    tasks: OnceLock<Sender<Task>>,
}

impl Bringer {
    pub(super) fn new(target: Arc<Repository>) -> Self {
        Self {
            shared: Arc::new(Shared {
                target,
                transfers: Mutex::default(),
                failed: Mutex::default(),
            }),
            tasks: OnceLock::new(),
        }
    }

    /// The queue; the thread behind it begins with the first task and ends with this.
    fn tasks(&self) -> &Sender<Task> {
        self.tasks.get_or_init(|| {
            let (tasks, waiting) = bounded(WAITING_MAX);
            let shared = self.shared.clone();
            std::thread::spawn(move || shared.work(&waiting));
            tasks
        })
    }

    /// Fails with what the transfer failed with.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.shared.failed.lock() {
            Some((kind, message)) => Err(Error::new(*kind, message.clone())),
            None => Ok(()),
        }
    }

    /// Forgets the failure, so that the next attempt counts.
    pub(super) fn try_again(&self) {
        *self.shared.failed.lock() = None;
        self.shared.transfers.lock().clear();
    }

    /// Brings the chunks of a file of unknown name soon; waits while too many wait.
    pub(super) fn want(&self, source: &Arc<SourceFile>) {
        self.want_named(source, b"");
    }

    /// Brings a file's chunks soon, a small file's together with those of similar names; waits while too many wait.
    pub(super) fn want_named(&self, source: &Arc<SourceFile>, name: &[u8]) {
        if source.repository != self.shared.target.id() {
            let lane = match source.file.content {
                Content::One(_) => Lane::of_name(name),
                _ => Lane::Alone,
            };
            // The thread lives as long as the sender.
            let _ = self.tasks().send(Task::Want(source.clone(), lane));
        }
    }

    /// Returns when everything wanted so far is in the repository.
    pub(super) fn finish(&self) -> Result<()> {
        if self.tasks.get().is_some() {
            let (done, wait) = bounded(0);
            let _ = self.tasks().send(Task::Finish(done));
            let _ = wait.recv();
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
        let mut transfers = self.transfers.lock();
        let id = source.repository().id();
        if let Some(transfer) = transfers.get(&id) {
            return Ok(transfer.clone());
        }
        let writer = Arc::new(Writer::new(self.target.clone(), Some(id))?);
        let options = TransferOptions::between(source.repository(), &self.target);
        let transfer = Transfer::new(source.clone(), writer, options);
        let transfer = Arc::new(transfer);
        transfers.insert(id, transfer.clone());
        Ok(transfer)
    }

    fn work(&self, waiting: &Receiver<Task>) {
        for task in waiting {
            let result = match &task {
                Task::Want(source, lane) => self.want(source, *lane),
                Task::Finish(_done) => self.finish(),
            };
            if let Err(error) = result {
                let failure = (error.kind(), error.message().to_owned());
                self.failed.lock().get_or_insert(failure);
            }
            if let Task::Finish(done) = task {
                // Who waited may have gone.
                let _ = done.send(());
            }
        }
    }

    fn want(&self, source: &SourceFile, lane: Lane) -> Result<()> {
        self.transfer(source.trees()?)?
            .want_file(&source.file, lane)
    }

    fn finish(&self) -> Result<()> {
        let transfers: Vec<_> = self.transfers.lock().values().cloned().collect();
        for transfer in transfers {
            transfer.finish()?;
        }
        Ok(())
    }
}
