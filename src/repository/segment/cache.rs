//! The cache file of a segment while it is written: the body, its checks, its filter.

use super::body::{CHUNK_BYTES, Counts};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use memmap2::Mmap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

pub(super) const BLOCK: usize = 4096;
pub(super) const CHECK_BYTES: usize = 8;
pub(super) const FILTER_BLOCK_BYTES: usize = 64;
const FILTER_BITS_PER_CHUNK: u64 = 10;
pub(super) const FOOTER_BYTES: usize = 32;
pub(super) const FOOTER_MAGIC: &[u8; 8] = b"kfixmap1";

/// Writes a body, and all that a cache file has besides, to a temporary file; [`CacheFile::keep`] gives it its name.
pub(crate) struct CacheFile {
    file: BufWriter<tempfile_in::Temporary>,
    block: blake3::Hasher,
    block_bytes: usize,
    checks: Vec<u8>,
    body_bytes: u64,
}

impl CacheFile {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let file = tempfile_in::Temporary::new(directory)?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            block: blake3::Hasher::new(),
            block_bytes: 0,
            checks: Vec::new(),
            body_bytes: 0,
        })
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.body_bytes += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|error| Error::io("writing the index cache", error))?;
        while !bytes.is_empty() {
            let take = bytes.len().min(BLOCK - self.block_bytes);
            self.block.update(&bytes[..take]);
            self.block_bytes += take;
            bytes = &bytes[take..];
            if self.block_bytes == BLOCK {
                self.end_block();
            }
        }
        Ok(())
    }

    fn end_block(&mut self) {
        self.checks
            .extend(&self.block.finalize().as_bytes()[..CHECK_BYTES]);
        self.block.reset();
        self.block_bytes = 0;
    }

    /// Completes the file and names it `name` in its directory. Fails with `Damaged` when it holds no segment.
    pub(crate) fn keep(mut self, name: &str) -> Result<PathBuf> {
        let cannot = |error| Error::io("writing the index cache", error);
        let padding = (BLOCK - self.body_bytes as usize % BLOCK) % BLOCK;
        if self.block_bytes > 0 {
            let zeros = vec![0; padding];
            self.block.update(&zeros);
            self.end_block();
            self.file.write_all(&zeros).map_err(cannot)?;
        }
        self.file.flush().map_err(cannot)?;
        let filter = {
            // SAFETY: the file is ours alone until it gets its name, and nobody writes to it while it is mapped.
            let map = unsafe { Mmap::map(self.file.get_ref().file()) }.map_err(cannot)?;
            filter_of(&map[..self.body_bytes as usize])?
        };
        let mut tail = std::mem::take(&mut self.checks);
        tail.extend(&filter);
        tail.extend(FOOTER_MAGIC);
        tail.extend(self.body_bytes.to_le_bytes());
        tail.extend((filter.len() as u64).to_le_bytes());
        let check = blake3::hash(&tail);
        tail.extend(&check.as_bytes()[..8]);
        self.file.write_all(&tail).map_err(cannot)?;
        let temporary = self
            .file
            .into_inner()
            .map_err(|error| cannot(error.into_error()))?;
        temporary.rename(name)
    }
}

/// What a failure at a cache file means. Never `NotFound`: that is for what the store no longer has.
pub(super) fn of_cache(what: impl std::fmt::Display, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::Failed, format!("{what}: {error}")).caused_by(error)
        }
        _ => Error::io(what, error),
    }
}

/// Beginning of the names of cache files that are not complete yet.
pub(crate) const TEMPORARY: &str = "tmp-";

/// A temporary file in a directory, gone unless it is renamed.
mod tempfile_in {
    use super::{File, ObjectId, Path, PathBuf, Result, Write, of_cache};
    use std::os::unix::fs::OpenOptionsExt;

    pub(crate) struct Temporary {
        file: File,
        path: Option<PathBuf>,
    }

    impl Temporary {
        pub(crate) fn new(directory: &Path) -> Result<Self> {
            let path = directory.join(format!("{}{}", super::TEMPORARY, ObjectId::random()));
            let cannot = |error| of_cache(format_args!("creating {}", path.display()), error);
            // Somebody may have emptied the caches of a running process.
            crate::repository::make_private(directory)?;
            // It holds what the store holds encrypted.
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(cannot)?;
            Ok(Self {
                file,
                path: Some(path),
            })
        }

        pub(crate) fn file(&self) -> &File {
            &self.file
        }

        pub(crate) fn rename(mut self, name: &str) -> Result<PathBuf> {
            let path = self.path.take().expect("only rename() takes the path");
            let target = path.with_file_name(name);
            // Synced first, or a power cut leaves a named file with holes.
            self.file
                .sync_all()
                .and_then(|()| std::fs::rename(&path, &target))
                .map_err(|error| of_cache(format_args!("naming {}", target.display()), error))?;
            Ok(target)
        }
    }

    impl Write for Temporary {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.file.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            self.file.flush()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            if let Some(path) = &self.path {
                // A leftover is only a file in a cache directory; the next cleaning takes it.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn filter_of(body: &[u8]) -> Result<Vec<u8>> {
    let counts = Counts::decode(body)?;
    let blocks = (counts.chunks * FILTER_BITS_PER_CHUNK).div_ceil(FILTER_BLOCK_BYTES as u64 * 8);
    let mut filter = vec![0; blocks as usize * FILTER_BLOCK_BYTES];
    for record in body[counts.chunks_at()..].chunks_exact(CHUNK_BYTES) {
        let (begin, bits) = filter_bits(record, blocks);
        for bit in bits {
            filter[begin + bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(filter)
}

/// The filter block of an id and its six bits there.
pub(super) fn filter_bits(id: &[u8], blocks: u64) -> (usize, [usize; 6]) {
    let word =
        |at: usize| u64::from_le_bytes(id[at..at + 8].try_into().expect("an id has 32 bytes"));
    let block = (u128::from(word(16)) * u128::from(blocks)) >> 64;
    let bits = word(8);
    let six = std::array::from_fn(|turn| (bits >> (turn * 9)) as usize & 511);
    (block as usize * FILTER_BLOCK_BYTES, six)
}
