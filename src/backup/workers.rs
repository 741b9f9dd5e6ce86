//! Threads that hash, compress and encrypt: jobs of whole files, and of chunks of large files.
//!
//! A worker that waits for a chunk of its own file works on other chunks meanwhile, so no number of large files can
//! make all of them wait for each other. Both queues are bounded: a slow store slows the reader.

use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::repository::Writer;
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

/// Chunks that are being stored.
pub struct Ticket(Receiver<Result<Vec<ChunkId>>>);

impl Ticket {
    /// The chunks' ids, once they are stored; works on other chunks while it waits.
    pub fn wait(self, workers: &Workers) -> Result<Vec<ChunkId>> {
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

    /// Does `work` while so many threads do what it hands over.
    pub fn during<T>(threads: usize, work: impl FnOnce(&Self) -> T) -> T {
        let workers = Self::new(threads);
        let (hold, done) = bounded(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (workers, done) = (&workers, &done);
                scope.spawn(move || workers.work(done));
            }
            let worked = work(&workers);
            // Without this the threads would wait for more, and the scope for them.
            drop(hold);
            worked
        })
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

    /// Hashes and stores chunks of a large file that follow each other (their lengths in `cuts`), by another thread
    /// if one is free.
    pub(super) fn store_run(
        &self,
        writer: &Arc<Writer>,
        content: Vec<u8>,
        cuts: &[usize],
    ) -> Ticket {
        let (sender, receiver) = bounded(1);
        let (writer, cuts) = (writer.clone(), cuts.to_vec());
        let job: Job = Box::new(move |_| {
            let mut rest = content.as_slice();
            let chunks: Vec<(ChunkId, &[u8])> = cuts
                .iter()
                .map(|cut| {
                    let (chunk, after) = rest.split_at(*cut);
                    rest = after;
                    (ChunkId::of(chunk), chunk)
                })
                .collect();
            let ids = chunks.iter().map(|(id, _)| *id).collect();
            // Nobody waits any more when the whole backup has failed elsewhere.
            let _ = sender.send(writer.put_run(&chunks).map(|()| ids));
        });
        if let Err(full) = self.chunks.0.try_send(job) {
            full.into_inner()(self);
        }
        Ticket(receiver)
    }
}
