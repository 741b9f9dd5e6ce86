//! Threads that hash, compress and encrypt: jobs of whole files, and of chunks of large files.
//!
//! A worker that waits for a chunk of its own file works on other chunks meanwhile, so no number of large files can
//! make all of them wait for each other. Both queues are bounded: a slow store slows the reader.

use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::repository::{Lane, Writer};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::sync::Arc;

/// What a thread is asked to do.
pub type Job = Box<dyn FnOnce(&Workers) + Send>;

/// The queues between whoever reads and the threads that work.
#[derive(Clone)]
pub struct Workers {
    jobs: (Sender<Job>, Receiver<Job>),
    chunks: (Sender<Job>, Receiver<Job>),
}

/// A chunk that is being stored.
pub struct Ticket(Receiver<Result<ChunkId>>);

impl Ticket {
    /// The chunk's id, once it is stored; works on other chunks while it waits.
    pub fn wait(self, workers: &Workers) -> Result<ChunkId> {
        loop {
            match self.0.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Disconnected) => return Err(stopped()),
                Err(TryRecvError::Empty) => {}
            }
            crossbeam_channel::select! {
                recv(self.0) -> result => return result.unwrap_or_else(|_| Err(stopped())),
                recv(workers.chunks.1) -> job => if let Ok(job) = job { job(workers) },
            }
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::Failed, "a worker stopped unexpectedly")
}

impl Workers {
    /// Queues for so many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            jobs: bounded(threads * 64),
            chunks: bounded(threads * 2),
        }
    }

    /// Gives a job to whichever thread is free; waits while the queue is full.
    pub fn submit(&self, job: Job) {
        // The receiver lives in self, so the queue is never closed.
        let _ = self.jobs.0.send(job);
    }

    /// Works until `done` is closed and no job is left.
    pub fn work(&self, done: &Receiver<()>) {
        loop {
            // Chunks first: they are parts of files whose memory is held until they are stored.
            if let Ok(job) = self.chunks.1.try_recv() {
                job(self);
                continue;
            }
            if let Ok(job) = self.jobs.1.try_recv() {
                job(self);
                continue;
            }
            crossbeam_channel::select! {
                recv(self.chunks.1) -> job => if let Ok(job) = job { job(self) },
                recv(self.jobs.1) -> job => if let Ok(job) = job { job(self) },
                recv(done) -> _ => if self.jobs.1.is_empty() && self.chunks.1.is_empty() { return },
            }
        }
    }

    /// Hashes and stores a chunk of a large file, by another thread if one is free.
    pub(super) fn store_chunk(&self, writer: &Arc<Writer>, content: &[u8]) -> Ticket {
        let (sender, receiver) = bounded(1);
        let content = content.to_vec();
        let writer = writer.clone();
        let job: Job = Box::new(move |_| {
            let id = ChunkId::of(&content);
            // Nobody waits any more when the whole backup has failed elsewhere.
            let _ = sender.send(writer.put(Lane::Alone, id, &content).map(|_| id));
        });
        if let Err(full) = self.chunks.0.try_send(job) {
            full.into_inner()(self);
        }
        Ticket(receiver)
    }
}
