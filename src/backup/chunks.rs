//! Chunks of one file, one after the other: gathered into runs that make a frame, hashed and stored by the workers,
//! and told as extents in the order of the file.

use super::content::{Contents, is_zero};
use super::workers::{Ticket, Workers};
use crate::error::Result;
use crate::point::Extent;
use crate::repository::PIECE_BYTES;
use std::collections::VecDeque;

/// Pieces of a file that are being stored at a time, beyond what the workers' queue holds.
const PIECES_PENDING_MAX: usize = 16;

/// What is done with each extent.
pub type Tell<'a> = &'a mut dyn FnMut(Extent) -> Result<()>;

enum Piece {
    /// A hole, or a chunk that is there.
    Known(Extent),
    /// Chunks that are being stored.
    Chunks(Vec<usize>, Ticket),
}

/// Stores the chunks of a file.
pub struct Chunks<'a> {
    contents: &'a Contents,
    workers: &'a Workers,
    /// Chunks that are gathered into one frame, and their lengths.
    run: Vec<u8>,
    cuts: Vec<usize>,
    pending: VecDeque<Piece>,
    /// Bytes of the pending chunks, and how many there may be.
    pending_bytes: u64,
    pending_bytes_max: u64,
    tell: Tell<'a>,
}

impl<'a> Chunks<'a> {
    /// Chunks that go where `contents` go. Each extent is passed to `tell` once its chunk is stored.
    pub fn new(contents: &'a Contents, workers: &'a Workers, tell: Tell<'a>) -> Self {
        Self {
            contents,
            workers,
            run: Vec::new(),
            cuts: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_bytes_max: contents.writer.repository().local().transfer_bytes(),
            tell,
        }
    }

    /// Adds a chunk; one of zeros becomes a hole.
    pub fn chunk(&mut self, content: &[u8]) -> Result<()> {
        if is_zero(content) {
            return self.extent(Extent {
                length: content.len() as u64,
                chunk: None,
            });
        }
        if self.run.len() + content.len() > PIECE_BYTES {
            self.end_run()?;
        }
        self.run.extend_from_slice(content);
        self.cuts.push(content.len());
        Ok(())
    }

    /// Adds a hole, or a chunk that is in the repository.
    pub fn extent(&mut self, extent: Extent) -> Result<()> {
        self.end_run()?;
        self.push(Piece::Known(extent))
    }

    /// Hands over the chunks gathered so far: together they make one frame, or one of them is longer than that.
    fn end_run(&mut self) -> Result<()> {
        if self.cuts.is_empty() {
            return Ok(());
        }
        let (run, cuts) = (
            std::mem::take(&mut self.run),
            std::mem::take(&mut self.cuts),
        );
        self.pending_bytes += run.len() as u64;
        let ticket = self.workers.store_run(&self.contents.writer, run, &cuts);
        self.push(Piece::Chunks(cuts, ticket))
    }

    fn push(&mut self, piece: Piece) -> Result<()> {
        self.pending.push_back(piece);
        while self.pending.len() > PIECES_PENDING_MAX || self.pending_bytes > self.pending_bytes_max
        {
            self.settle()?;
        }
        Ok(())
    }

    /// Tells of the oldest pending piece.
    fn settle(&mut self) -> Result<()> {
        match self.pending.pop_front() {
            None => Ok(()),
            Some(Piece::Known(extent)) => (self.tell)(extent),
            Some(Piece::Chunks(cuts, ticket)) => {
                let ids = ticket.wait(self.workers)?;
                self.pending_bytes -= cuts.iter().sum::<usize>() as u64;
                cuts.iter().zip(ids).try_for_each(|(cut, id)| {
                    (self.tell)(Extent {
                        length: *cut as u64,
                        chunk: Some(id),
                    })
                })
            }
        }
    }

    /// Returns when every extent was told.
    pub fn finish(mut self) -> Result<()> {
        self.end_run()?;
        while !self.pending.is_empty() {
            self.settle()?;
        }
        Ok(())
    }
}
