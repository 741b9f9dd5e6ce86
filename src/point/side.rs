//! The side table of a point: what identifies a source's inode, so that a later backup need not open what did not
//! change. It is not in trees, so an unchanged directory keeps its id although its inodes' ctimes moved.
//!
//! One record for each entry, in the order of a walk (an entry, then everything below it, then its next sibling):
//! `i64 ctime seconds, u32 ctime nanoseconds, u64 device, u64 inode`, 28 bytes. A chunk holds `n` records by columns
//! (all seconds, all nanoseconds, …). A chunk ends after a record whose inode's hash says so, so that an insertion
//! changes few chunks.

use super::entry::{Content, Extent, File};
use super::page::{ContentWriter, PageSink};
use super::tree::{Extents, Trees};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use std::sync::Arc;

const RECORD_BYTES: usize = 28;
const RECORDS_MIN: usize = 512;
const RECORDS_AVERAGE: u64 = 2048;
const RECORDS_MAX: usize = 8192;

/// What the source's file system said of one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Inode {
    /// Time of the last change of the inode.
    pub ctime: Time,
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// Builds a side table.
#[derive(Default)]
pub struct SideWriter {
    records: Vec<Inode>,
    content: ContentWriter,
}

impl SideWriter {
    /// Adds the record of the walk's next entry.
    pub fn push(&mut self, record: Inode, sink: &mut dyn PageSink) -> Result<()> {
        self.records.push(record);
        let count = self.records.len();
        // Fibonacci hashing: the high bits of the product are spread evenly over consecutive inode numbers.
        let spread = record.inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if count >= RECORDS_MAX || count >= RECORDS_MIN && spread.is_multiple_of(RECORDS_AVERAGE) {
            self.close(sink)?;
        }
        Ok(())
    }

    fn close(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let records = std::mem::take(&mut self.records);
        let mut bytes = Vec::with_capacity(records.len() * RECORD_BYTES);
        bytes.extend(
            records
                .iter()
                .flat_map(|record| record.ctime.seconds.to_le_bytes()),
        );
        bytes.extend(
            records
                .iter()
                .flat_map(|record| record.ctime.nanoseconds.to_le_bytes()),
        );
        bytes.extend(
            records
                .iter()
                .flat_map(|record| record.device.to_le_bytes()),
        );
        bytes.extend(records.iter().flat_map(|record| record.inode.to_le_bytes()));
        let id = ChunkId::of(&bytes);
        sink.page(id, &bytes)?;
        let extent = Extent {
            length: bytes.len() as u64,
            chunk: Some(id),
        };
        self.content.push(extent, sink)
    }

    /// The table's content and its bytes.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<(Content, u64)> {
        if !self.records.is_empty() {
            self.close(sink)?;
        }
        self.content.finish(sink)
    }
}

/// Reads a side table, best in ascending order of numbers.
pub struct SideReader {
    trees: Arc<Trees>,
    file: File,
    extents: Option<Extents>,
    /// Number of the first record in `records`.
    first: u64,
    records: Vec<Inode>,
}

impl SideReader {
    /// A reader of the table with this content and length.
    pub fn new(trees: Arc<Trees>, content: Content, bytes: u64) -> Self {
        let file = File {
            size: bytes,
            content,
            ..File::empty()
        };
        Self {
            trees,
            file,
            extents: None,
            first: 0,
            records: Vec::new(),
        }
    }

    /// The record of the walk's entry `number`; none where the table is shorter.
    pub fn get(&mut self, number: u64) -> Result<Option<Inode>> {
        if number >= self.file.size / RECORD_BYTES as u64 {
            return Ok(None);
        }
        while number < self.first || number >= self.first + self.records.len() as u64 {
            self.load(number)?;
        }
        Ok(Some(self.records[(number - self.first) as usize]))
    }

    fn load(&mut self, number: u64) -> Result<()> {
        let offset = number * RECORD_BYTES as u64;
        let damaged = || Error::new(Kind::Damaged, "a point's side table is damaged");
        let follows = number == self.first + self.records.len() as u64 && !self.records.is_empty();
        let mut extents = match self.extents.take() {
            Some(extents) if follows => extents,
            _ => self.trees.extents_from(&self.file, offset),
        };
        let (begin, extent) = extents.next().ok_or_else(damaged)??;
        let id = extent.chunk.ok_or_else(damaged)?;
        let bytes = self.trees.repository().read_chunk(&id)?;
        if begin % RECORD_BYTES as u64 != 0 || bytes.is_empty() || bytes.len() % RECORD_BYTES != 0 {
            return Err(damaged());
        }
        self.first = begin / RECORD_BYTES as u64;
        self.records = decode_records(&bytes);
        self.extents = Some(extents);
        if number >= self.first && number < self.first + self.records.len() as u64 {
            Ok(())
        } else {
            Err(damaged())
        }
    }
}

fn decode_records(bytes: &[u8]) -> Vec<Inode> {
    let count = bytes.len() / RECORD_BYTES;
    let wide = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let narrow = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let column = |record: usize| Inode {
        ctime: Time::new(wide(record * 8) as i64, narrow(count * 8 + record * 4)),
        device: wide(count * 12 + record * 8),
        inode: wide(count * 20 + record * 8),
    };
    (0..count).map(column).collect()
}
