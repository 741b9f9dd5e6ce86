//! One file's content into a repository: read, cut, hash, and stored as far as it is new.

use super::chunks::Chunks;
use super::workers::Workers;
use crate::chunk::Cutting;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::point::{Content, ContentWriter, Extent, File};
use crate::repository::{GROUP_BYTES, Lane, Writer};
use crate::source;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A file of at most so many bytes is one chunk and shares its frame with others: on 56,124 files at zstd 3,
/// 128 KiB 246.3 MB, 256 KiB 244.8, 512 KiB 242.9, 1 MiB 242.4, 2 MiB 243.0 (frames of 1 MiB in the order of the walk).
pub const SMALL_FILE_BYTES: u64 = GROUP_BYTES as u64;
/// The whole-file hash of a file with more hole bytes than this is left out: hashing zeros takes time, too.
const HASHED_HOLE_BYTES_MAX: u64 = 16 << 30;

/// Why a file's content is not stored.
#[derive(Debug)]
pub enum Failed {
    /// The file cannot be read; others can.
    Reading(Error),
    /// The repository cannot be written; nothing more will be.
    Storing(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Storing(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Reading(error) | Failed::Storing(error) => error,
        }
    }
}

/// Stores tree pages.
pub fn tree_sink(writer: &Writer) -> impl FnMut(ChunkId, &[u8]) -> Result<()> + '_ {
    |id, bytes| writer.put(Lane::Tree, id, bytes).map(|_| ())
}

/// How contents are cut and where they go.
#[derive(Clone)]
pub struct Contents {
    /// Where chunks go.
    pub writer: Arc<Writer>,
    /// Cutting by content.
    pub cutting: Arc<Cutting>,
}

impl Contents {
    /// Contents for this writer's repository.
    pub fn new(writer: Arc<Writer>) -> Self {
        let cutting = Arc::new(writer.repository().settings().cutting());
        Self { writer, cutting }
    }

    /// Stores the content of an open file. `name` decides which files it is compressed with; `block` is 0 to cut by
    /// content, else the length of aligned blocks. Returns the file as a tree says it, and the bytes that were read.
    pub fn store(
        &self,
        file: &fs::File,
        name: &[u8],
        block: u32,
        workers: &Workers,
    ) -> Result<(File, u64), Failed> {
        let metadata = file
            .metadata()
            .map_err(|error| Failed::Reading(Error::io("examining an open file", error)))?;
        if metadata.len() <= SMALL_FILE_BYTES
            && block == 0
            && let Some(stored) = self.store_small(file, name, metadata.len())?
        {
            return Ok(stored);
        }
        self.store_large(file, block, workers)
    }

    /// A small file as one chunk; `None` when it grew beyond that while it was read.
    fn store_small(
        &self,
        file: &fs::File,
        name: &[u8],
        size: u64,
    ) -> Result<Option<(File, u64)>, Failed> {
        let mut content = vec![0; size as usize + 1];
        let mut length = 0;
        loop {
            let count = read_at(file, &mut content[length..], length as u64)?;
            length += count;
            if count == 0 {
                break;
            }
            if length == content.len() {
                if length as u64 > SMALL_FILE_BYTES {
                    return Ok(None);
                }
                content.resize((length * 2).min(SMALL_FILE_BYTES as usize + 1), 0);
            }
        }
        content.truncate(length);
        let file = self.store_whole(&content, name)?;
        Ok(Some((file, length as u64)))
    }

    /// Content that is in memory, as one chunk.
    pub fn store_whole(&self, content: &[u8], name: &[u8]) -> Result<File> {
        let size = content.len() as u64;
        let content = if content.is_empty() {
            Content::Empty
        } else if is_zero(content) {
            Content::Extents(vec![Extent {
                length: size,
                chunk: None,
            }])
        } else {
            let id = ChunkId::of(content);
            self.writer.put(Lane::of_name(name), id, content)?;
            Content::One(id)
        };
        Ok(File {
            size,
            content,
            ..File::empty()
        })
    }

    fn store_large(
        &self,
        file: &fs::File,
        block: u32,
        workers: &Workers,
    ) -> Result<(File, u64), Failed> {
        let cutting = match block {
            0 => self.cutting.clone(),
            block => Arc::new(Cutting::fixed(block)?),
        };
        let mut list = ContentWriter::default();
        let writer = &self.writer;
        let mut tell = |extent| list.push(extent, &mut tree_sink(writer));
        let mut stream = Stream {
            chunks: Chunks::new(self, workers, &mut tell),
            hasher: Some(blake3::Hasher::new()),
            hole_bytes: 0,
            read_bytes: 0,
        };
        for extent in source::extents(file).map_err(Failed::Reading)? {
            match extent.map_err(Failed::Reading)? {
                source::Extent::Hole { len, .. } => stream.hole(len)?,
                source::Extent::Data { offset, len } => stream.data(file, offset, len, &cutting)?,
            }
        }
        let (hash, read_bytes) = stream.finish()?;
        let (content, size) = list.finish(&mut tree_sink(&self.writer))?;
        let file = File {
            size,
            hash,
            block,
            content,
        };
        Ok((file, read_bytes))
    }
}

/// A file that is read, cut and hashed from its beginning to its end.
struct Stream<'a> {
    chunks: Chunks<'a>,
    hasher: Option<blake3::Hasher>,
    hole_bytes: u64,
    read_bytes: u64,
}

impl Stream<'_> {
    fn hole(&mut self, length: u64) -> Result<()> {
        self.hole_bytes += length;
        if self.hole_bytes > HASHED_HOLE_BYTES_MAX {
            self.hasher = None;
        }
        if let Some(hasher) = &mut self.hasher {
            let zeros = [0; 64 << 10];
            let mut left = length;
            while left > 0 {
                let step = left.min(zeros.len() as u64);
                hasher.update(&zeros[..step as usize]);
                left -= step;
            }
        }
        self.chunks.extent(Extent {
            length,
            chunk: None,
        })
    }

    /// Reads a stretch of data and cuts it; a chunk never reaches over a hole.
    fn data(
        &mut self,
        file: &fs::File,
        offset: u64,
        length: u64,
        cutting: &Cutting,
    ) -> Result<(), Failed> {
        let mut buffer: Vec<u8> = Vec::with_capacity(2 * cutting.max());
        let mut used = 0;
        let (mut at, end) = (offset, offset.saturating_add(length));
        let mut at_end = false;
        loop {
            if !at_end && buffer.len() - used < cutting.max() {
                buffer.drain(..used);
                used = 0;
                at_end = !self.fill(file, &mut buffer, 2 * cutting.max(), &mut at, end)?;
            }
            let Some(cut) = cutting.cut(&buffer[used..], at_end) else {
                if at_end {
                    return Ok(());
                }
                continue;
            };
            self.chunk(&buffer[used..used + cut])?;
            used += cut;
        }
    }

    /// Fills the buffer up to `upto` bytes; false when the stretch or the file ended.
    fn fill(
        &mut self,
        file: &fs::File,
        buffer: &mut Vec<u8>,
        upto: usize,
        at: &mut u64,
        end: u64,
    ) -> Result<bool, Failed> {
        while buffer.len() < upto && *at < end {
            let begin = buffer.len();
            let want = (upto - begin).min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            buffer.resize(begin + want, 0);
            let count = read_at(file, &mut buffer[begin..], *at)?;
            buffer.truncate(begin + count);
            *at += count as u64;
            if count == 0 {
                return Ok(false);
            }
        }
        Ok(*at < end)
    }

    fn chunk(&mut self, content: &[u8]) -> Result<()> {
        self.read_bytes += content.len() as u64;
        if is_zero(content) {
            return self.hole(content.len() as u64);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(content);
        }
        self.chunks.chunk(content)
    }

    /// The hash of it all, and the bytes that were read.
    fn finish(self) -> Result<(Option<[u8; 32]>, u64)> {
        self.chunks.finish()?;
        let hash = self.hasher.map(|hasher| *hasher.finalize().as_bytes());
        Ok((hash, self.read_bytes))
    }
}

/// Whether every byte is zero.
pub(super) fn is_zero(content: &[u8]) -> bool {
    // Most content shows in its first bytes that it is not.
    content.first() == Some(&0)
        && content.iter().take(64).all(|byte| *byte == 0)
        && content
            .chunks(64)
            .all(|part| part.iter().all(|byte| *byte == 0))
}

fn read_at(file: &fs::File, buffer: &mut [u8], offset: u64) -> Result<usize, Failed> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failed::Reading(Error::io("reading failed", error))),
            Ok(count) => return Ok(count),
        }
    }
}
