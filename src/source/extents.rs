//! Where a file has data and where it has holes.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// A stretch of a file; offsets and lengths are bytes, a length is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes to read.
    Data {
        /// Where it begins, bytes.
        offset: u64,
        /// Its length, bytes.
        len: u64,
    },
    /// Reads as zeros and takes no space.
    Hole {
        /// Where it begins, bytes.
        offset: u64,
        /// Its length, bytes.
        len: u64,
    },
}

/// The extents of one file, in order and without gaps, from 0 to the size it had at the start. Ends early when the
/// file is cut short meanwhile. Moves the file's offset: read with `pread`.
#[derive(Debug)]
pub struct Extents<'a> {
    file: &'a File,
    size: u64,
    position: u64,
    /// Fewer blocks than bytes: only then is the kernel asked for holes.
    sparse: bool,
}

/// The extents of `file`. Fails when it cannot be examined.
pub fn extents(file: &File) -> Result<Extents<'_>> {
    let cannot = |error| Error::io("cannot examine an open file", error);
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.file_type().is_block_device() {
        let mut device = file;
        return Ok(Extents {
            file,
            size: device.seek(SeekFrom::End(0)).map_err(cannot)?,
            position: 0,
            sparse: false,
        });
    }
    Ok(Extents {
        file,
        size: metadata.size(),
        position: 0,
        // st_blocks counts units of 512 bytes whatever the block size (stat(2)).
        sparse: metadata.blocks().saturating_mul(512) < metadata.size(),
    })
}

impl Extents<'_> {
    fn step(&mut self) -> io::Result<Option<Extent>> {
        if self.position >= self.size {
            return Ok(None);
        }
        if !self.sparse {
            return Ok(self.data(self.size));
        }
        match self.seek(libc::SEEK_DATA)? {
            Some(data) if data > self.position => Ok(self.hole(data)),
            Some(_) => {
                let end = self.seek(libc::SEEK_HOLE)?.unwrap_or(self.size);
                Ok(self.data(end))
            }
            // No data behind the position: a last hole, or the file was cut short.
            None => {
                let now = self.file.metadata()?.size();
                Ok(self.hole(now))
            }
        }
    }

    fn data(&mut self, end: u64) -> Option<Extent> {
        let (offset, len) = self.advance(end)?;
        Some(Extent::Data { offset, len })
    }

    fn hole(&mut self, end: u64) -> Option<Extent> {
        let (offset, len) = self.advance(end)?;
        Some(Extent::Hole { offset, len })
    }

    /// Moves on to `end`, at most to the size; nothing when that is no step, which ends the extents.
    fn advance(&mut self, end: u64) -> Option<(u64, u64)> {
        let offset = self.position;
        let end = end.min(self.size);
        if end <= offset {
            self.position = self.size;
            return None;
        }
        self.position = end;
        Some((offset, end - offset))
    }

    /// The next data or hole from the position on; `None` when there is none before the end of the file.
    fn seek(&self, whence: libc::c_int) -> io::Result<Option<u64>> {
        let position = libc::off_t::try_from(self.position).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open as long as the borrowed file; lseek touches no memory.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), position, whence) };
        if let Ok(found) = u64::try_from(found) {
            return Ok(Some(found));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENXIO) => Ok(None),
            // A file system that knows no holes: everything is data.
            Some(libc::EINVAL | libc::EOPNOTSUPP) if whence == libc::SEEK_DATA => {
                Ok(Some(self.position))
            }
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        }
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step()
            .map_err(|error| {
                self.position = self.size; // after an error nothing more can be said
                Error::io("cannot find the holes of an open file", error)
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const MIB: u64 = 1 << 20;

    fn of(file: &File) -> Vec<Extent> {
        extents(file)
            .unwrap()
            .map(|extent| extent.unwrap())
            .collect()
    }

    #[test]
    fn a_plain_file_is_one_piece_of_data() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        let whole = Extent::Data {
            offset: 0,
            len: 10_000,
        };
        assert_eq!(of(&file), [whole]);
    }

    #[test]
    fn an_empty_file_has_no_extents() {
        assert_eq!(of(&tempfile::tempfile().unwrap()), []);
    }

    #[test]
    fn holes_are_found_at_both_ends_and_between() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * MIB).unwrap();
        file.write_all_at(&vec![1; MIB as usize], MIB).unwrap();
        file.write_all_at(&vec![1; MIB as usize], 5 * MIB).unwrap();
        let expected = [
            Extent::Hole {
                offset: 0,
                len: MIB,
            },
            Extent::Data {
                offset: MIB,
                len: MIB,
            },
            Extent::Hole {
                offset: 2 * MIB,
                len: 3 * MIB,
            },
            Extent::Data {
                offset: 5 * MIB,
                len: MIB,
            },
            Extent::Hole {
                offset: 6 * MIB,
                len: 2 * MIB,
            },
        ];
        assert_eq!(of(&file), expected);
    }

    #[test]
    fn nothing_but_a_hole() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * MIB + 17).unwrap();
        assert_eq!(
            of(&file),
            [Extent::Hole {
                offset: 0,
                len: 3 * MIB + 17
            }]
        );
    }

    #[test]
    fn a_file_cut_short_meanwhile_has_no_invented_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * MIB).unwrap();
        file.write_all_at(&vec![1; MIB as usize], 0).unwrap();
        let mut extents = extents(&file).unwrap();
        assert_eq!(
            extents.next().unwrap().unwrap(),
            Extent::Data {
                offset: 0,
                len: MIB
            }
        );
        file.set_len(2 * MIB).unwrap();
        assert_eq!(
            extents.next().unwrap().unwrap(),
            Extent::Hole {
                offset: MIB,
                len: MIB
            }
        );
        assert!(extents.next().is_none());
    }
}
