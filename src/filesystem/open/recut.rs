//! Cutting bytes that come piece by piece, between chunks that stay what they are.

use crate::backup::Chunks;
use crate::chunk::Cutting;
use crate::error::Result;
use crate::point::Extent;
use std::sync::Arc;

/// Cuts a file's bytes as they come.
pub(super) struct Recut<'a> {
    chunks: Chunks<'a>,
    cutting: Arc<Cutting>,
    /// As `File::block`: blocks are aligned to the file.
    block: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    at: u64,
    /// Hash of everything that was cut, if somebody wants it.
    pub hasher: Option<blake3::Hasher>,
}

impl<'a> Recut<'a> {
    /// Cuts by `cutting`, or in aligned blocks of `block` bytes if that is not 0.
    pub fn new(chunks: Chunks<'a>, cutting: Arc<Cutting>, block: u32) -> Self {
        Self {
            chunks,
            cutting,
            block: block.into(),
            buffer: Vec::new(),
            at: 0,
            hasher: None,
        }
    }

    /// Whether bytes wait to be cut.
    pub fn is_open(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Adds bytes that lie at `offset` of the file, behind those that came before.
    pub fn bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.buffer.is_empty() {
            self.at = offset;
        }
        self.buffer.extend_from_slice(bytes);
        self.cut(false)
    }

    /// What was added so far ends here.
    pub fn end(&mut self) -> Result<()> {
        self.cut(true)
    }

    /// Adds a hole, or a chunk that is in the repository; what was added before it ends there.
    pub fn extent(&mut self, extent: Extent) -> Result<()> {
        self.end()?;
        self.chunks.extent(extent)
    }

    fn cut(&mut self, at_end: bool) -> Result<()> {
        let mut used = 0;
        while let Some(length) = self.next_cut(self.at + used as u64, &self.buffer[used..], at_end)
        {
            let chunk = &self.buffer[used..used + length];
            if let Some(hasher) = &mut self.hasher {
                hasher.update(chunk);
            }
            self.chunks.chunk(chunk)?;
            used += length;
        }
        self.buffer.drain(..used);
        self.at += used as u64;
        Ok(())
    }

    fn next_cut(&self, at: u64, bytes: &[u8], at_end: bool) -> Option<usize> {
        if self.block == 0 {
            // With fewer bytes the same ones would be looked at again with the next.
            let enough = at_end || bytes.len() >= self.cutting.max();
            return enough.then(|| self.cutting.cut(bytes, at_end)).flatten();
        }
        let want = (self.block - at % self.block) as usize;
        match bytes.len() {
            0 => None,
            have if have >= want => Some(want),
            have => at_end.then_some(have),
        }
    }

    /// Returns when everything that was cut is told; the hash of it. Bytes that were not ended are left out.
    pub fn finish(self) -> Result<Option<blake3::Hasher>> {
        self.chunks.finish()?;
        Ok(self.hasher)
    }
}
