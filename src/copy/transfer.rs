//! Bringing chunks from one repository into another.

use crate::error::{Kind, Result};
use crate::id::ChunkId;
use crate::point::{File, Trees};
use crate::repository::{Lane, Repository, Writer};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a [`Transfer`] works.
#[derive(Clone, Copy, Debug)]
pub struct TransferOptions {
    /// Threads that read, decrypt and append.
    pub workers: usize,
    /// Chunks that may wait for the rest of their frame before the frame is cut.
    pub backlog_chunks_max: usize,
    /// Decompress everything and compress it at the target's level.
    pub recompress: bool,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism()
                .map_or(2, usize::from)
                .max(2),
            backlog_chunks_max: 200_000,
            recompress: false,
        }
    }
}

/// A chunk that the source could not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The chunk.
    pub chunk: ChunkId,
    /// Why.
    pub message: String,
}

/// What a transfer has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferReport {
    /// Frames that moved as they were.
    pub frames_moved: u64,
    /// Frames that were decompressed.
    pub frames_cut: u64,
    /// Bytes of data frames read from the source.
    pub bytes_moved: u64,
    /// Chunks that were brought.
    pub chunks_moved: u64,
    /// Wanted chunks that the target had.
    pub chunks_present: u64,
    /// Chunks that the source could not give.
    pub failures: Vec<Failure>,
}

/// Brings wanted chunks over. Shared by all threads that want some.
pub struct Transfer {
    source: Arc<Trees>,
    writer: Arc<Writer>,
    failed: Mutex<HashMap<ChunkId, String>>,
    chunks_moved: AtomicU64,
    chunks_present: AtomicU64,
}

impl Transfer {
    /// A transfer from the repository of `source` to that of `writer`, whose origin must be the source.
    pub fn new(source: Arc<Trees>, writer: Arc<Writer>, _options: TransferOptions) -> Self {
        Self {
            source,
            writer,
            failed: Mutex::default(),
            chunks_moved: AtomicU64::new(0),
            chunks_present: AtomicU64::new(0),
        }
    }

    fn repository(&self) -> &Arc<Repository> {
        self.source.repository()
    }

    /// Asks for a chunk; true when it will be moved, false when the target has it or will have it already.
    /// May block while the target is slower than the caller. `lane` groups it anew if its frame must be cut.
    /// Fails when the transfer has stopped for good; a chunk that the source cannot give is no error here, see [`Self::finish`].
    pub fn want(&self, id: ChunkId, lane: Lane) -> Result<bool> {
        if self.writer.has(&id)? || self.failed.lock().contains_key(&id) {
            self.chunks_present.fetch_add(1, Relaxed);
            return Ok(false);
        }
        match self.repository().read_chunk(&id) {
            Ok(content) => {
                self.chunks_moved.fetch_add(1, Relaxed);
                self.writer.put(lane, id, &content)
            }
            Err(error) if error.kind() == Kind::Damaged => {
                self.failed.lock().insert(id, error.message().to_owned());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for all chunks of a file; where its extents fill pages, the pages are put into the target as well.
    /// Fails with `Damaged` when a page cannot be read.
    pub fn want_file(&self, file: &File, lane: Lane) -> Result<()> {
        for extent in self.source.extents_from(file, 0) {
            if let Some(id) = extent?.1.chunk {
                self.want(id, lane)?;
            }
        }
        Ok(())
    }

    /// Why a chunk could not be brought, if that is so.
    pub fn failure(&self, id: &ChunkId) -> Option<String> {
        self.failed.lock().get(id).cloned()
    }

    /// Returns when everything wanted so far is durable in the target and in its index, or is among the report's
    /// failures. May be called again and again; counts go on.
    pub fn finish(&self) -> Result<TransferReport> {
        self.writer.flush()?;
        let failed = self.failed.lock();
        Ok(TransferReport {
            chunks_moved: self.chunks_moved.load(Relaxed),
            chunks_present: self.chunks_present.load(Relaxed),
            failures: failed
                .iter()
                .map(|(chunk, message)| Failure {
                    chunk: *chunk,
                    message: message.clone(),
                })
                .collect(),
            ..TransferReport::default()
        })
    }
}
