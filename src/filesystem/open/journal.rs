//! The journal of an open point: every change, in order, in one file of the state directory.
//!
//! ```text
//! 0  u32  bytes of the change
//! 4  [8]  first bytes of the BLAKE3 of the change
//! 12      the change, as a document
//! ```
//! A record is written with one write(2) before the change is answered, so it survives the daemon; fsync makes it
//! survive the host. A last record that was torn is incomplete or has a wrong checksum, and is dropped. What is damaged
//! with a sound record behind it was not torn: then the journal is left as it is, and nothing is made of it.
//!
//! A journal that has become much longer than what it tells of is written anew, so that it grows with the point and not
//! with the number of changes.

use super::change::Change;
use crate::error::{Error, Kind, Result};
use crate::repository::{decode, encode};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const HEAD_BYTES: usize = 12;
/// A journal of fewer bytes is never written anew.
const LONG_BYTES: u64 = 16 << 20;
/// How often longer than when it was written anew a journal becomes before it is written anew again.
const LONG_TIMES: u64 = 4;
/// Bytes that are read or written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// An open journal. The lock on it says that this daemon serves the point.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes in it.
    length: u64,
    /// Of how many bytes it is long.
    pub(super) long: u64,
    /// Whether the host, if it crashed now, might find the journal before in its place.
    unsynced_name: bool,
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    [a, b, c, d, e, f, g, h]
}

fn record(change: &Change) -> Vec<u8> {
    let body = encode(change);
    let mut record = Vec::with_capacity(HEAD_BYTES + body.len());
    record.extend((body.len() as u32).to_le_bytes());
    record.extend(checksum(&body));
    record.extend(body);
    record
}

impl Journal {
    /// Opens or makes the journal in this directory, and tells the changes that it holds, in order. `Busy` when another
    /// daemon has it open.
    pub(super) fn open(directory: &Path, tell: &mut dyn FnMut(Change)) -> Result<Self> {
        let path = directory.join("journal");
        let wrap = |error| Error::io(format_args!("opening {}", path.display()), error);
        let file = loop {
            let file = appending().create(true).open(&path).map_err(wrap)?;
            if file.try_lock().is_err() {
                let message = format!("another keepfs serves the open point in {}", path.display());
                return Err(Error::new(Kind::Busy, message));
            }
            // Another daemon may just have put a new one in its place.
            let (ours, named) = (file.metadata(), fs::metadata(&path));
            let (ours, named) = (ours.map_err(wrap)?, named.map_err(wrap)?);
            if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
                break file;
            }
        };
        // One that was not finished when the daemon died tells nothing.
        let _ = fs::remove_file(beside(&path));
        let length = replay(&file, tell).map_err(|error| error.context(path.display()))?;
        if length < file.metadata().map_err(wrap)?.len() {
            tracing::warn!(
                "{}: the last record was torn and is dropped",
                path.display()
            );
            file.set_len(length).map_err(wrap)?;
        }
        Ok(Self {
            file,
            path,
            length,
            long: LONG_BYTES,
            unsynced_name: false,
        })
    }

    /// Adds a change. After a failure nothing is added that is not whole.
    pub(super) fn append(&mut self, change: &Change) -> Result<()> {
        let record = record(change);
        self.file.write_all(&record).map_err(|error| {
            // A part of a record would hide everything behind it.
            let _ = self.file.set_len(self.length);
            Error::io(format_args!("writing {}", self.path.display()), error)
        })?;
        self.length += record.len() as u64;
        Ok(())
    }

    /// Whether it has become so long that it should be written anew.
    pub(super) fn is_long(&self) -> bool {
        self.length > self.long
    }

    /// Puts a journal of the changes that `tell` passes on in the place of this one. They must make the same of nothing
    /// as all changes so far. After a failure the journal is what it was, and is long only when it has grown more.
    ///
    /// The new journal is locked and durable before it gets the name: whenever the daemon or the host dies, one of the
    /// two is there, whole, and nothing that a sync made durable is missing in either.
    pub(super) fn replace(
        &mut self,
        tell: impl FnOnce(&mut dyn FnMut(&Change) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let path = beside(&self.path);
        match self.written_anew(&path, tell) {
            Ok((file, length)) => {
                self.file = file;
                self.length = length;
                self.long = LONG_BYTES.max(LONG_TIMES * length);
                self.unsynced_name = true;
                self.sync_name()
            }
            Err(error) => {
                let _ = fs::remove_file(path);
                self.long = self.length + LONG_BYTES;
                Err(error)
            }
        }
    }

    fn written_anew(
        &self,
        path: &Path,
        tell: impl FnOnce(&mut dyn FnMut(&Change) -> Result<()>) -> Result<()>,
    ) -> Result<(File, u64)> {
        let wrap = |error| Error::io(format_args!("writing {}", path.display()), error);
        let file = appending().create_new(true).open(path).map_err(wrap)?;
        file.try_lock().map_err(|error| wrap(error.into()))?;
        let mut length = 0;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, &file);
        tell(&mut |change| {
            let record = record(change);
            length += record.len() as u64;
            out.write_all(&record).map_err(wrap)
        })?;
        out.flush().map_err(wrap)?;
        drop(out);
        file.sync_all().map_err(wrap)?;
        fs::rename(path, &self.path).map_err(wrap)?;
        Ok((file, length))
    }

    /// Sees to it that the host finds this journal, and not the one before.
    fn sync_name(&mut self) -> Result<()> {
        if self.unsynced_name {
            let directory = self.path.parent().unwrap_or(&self.path);
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            let wrap = |error| Error::io(format_args!("syncing {}", directory.display()), error);
            synced.map_err(wrap)?;
            self.unsynced_name = false;
        }
        Ok(())
    }

    /// The file, for a sync without the point's lock.
    pub(super) fn handle(&mut self) -> Result<File> {
        self.sync_name()?;
        let file = self.file.try_clone();
        file.map_err(|error| Error::io(format_args!("syncing {}", self.path.display()), error))
    }

    /// Makes every change so far survive the host.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.sync_name()?;
        self.file
            .sync_data()
            .map_err(|error| Error::io(format_args!("syncing {}", self.path.display()), error))
    }
}

/// Where a journal is written that is to take the place of this one.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn appending() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).append(true).mode(0o600);
    options
}

/// Tells the changes in the journal of this directory; none when it is not there. Takes no lock and changes nothing.
pub(super) fn peek(directory: &Path, tell: &mut dyn FnMut(Change)) -> Result<()> {
    let path = directory.join("journal");
    match File::open(&path) {
        Ok(file) => {
            let replayed = replay(&file, tell);
            replayed.map_err(|error| error.context(path.display()))?;
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(format_args!("reading {}", path.display()), error)),
    }
}

/// Tells the whole changes; how many bytes they take. `Damaged` when what is not whole is not the last, and `TooNew` or
/// `Damaged` when a whole record is none that this program knows. Never holds more than one record in memory, unless
/// the journal is torn or damaged.
fn replay(file: &File, tell: &mut dyn FnMut(Change)) -> Result<u64> {
    let wrap = |error| Error::io("reading the journal", error);
    let end = file.metadata().map_err(wrap)?.len();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    reader.seek(SeekFrom::Start(0)).map_err(wrap)?;
    let mut record = Vec::new();
    let mut at = 0;
    while next_record(&mut reader, end - at, &mut record).map_err(wrap)? {
        let Some(body) = sound(&record) else { break };
        tell(decode(body)?);
        at += record.len() as u64;
    }
    if at == end {
        return Ok(at);
    }
    let mut rest = Vec::new();
    reader.seek(SeekFrom::Start(at)).map_err(wrap)?;
    reader.read_to_end(&mut rest).map_err(wrap)?;
    let begins = |place: &usize| sound(&rest[*place..]).is_some();
    if let Some(next) = (1..rest.len()).find(begins) {
        let message = format!(
            "this journal is damaged from byte {at} to {}; restore that file, or remove its directory to give the \
             open point up",
            at + next as u64
        );
        return Err(Error::new(Kind::Damaged, message));
    }
    Ok(at)
}

/// Reads the next record, of which `left` bytes may be there. False when it is not all there.
fn next_record(reader: &mut impl Read, left: u64, record: &mut Vec<u8>) -> std::io::Result<bool> {
    if left < HEAD_BYTES as u64 {
        return Ok(false);
    }
    record.resize(HEAD_BYTES, 0);
    reader.read_exact(record)?;
    let body = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
    if u64::from(body) > left - HEAD_BYTES as u64 {
        return Ok(false);
    }
    record.resize(HEAD_BYTES + body as usize, 0);
    reader.read_exact(&mut record[HEAD_BYTES..])?;
    Ok(true)
}

/// The body of the record that these bytes begin with, if it is whole.
fn sound(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.get(..HEAD_BYTES)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let body = bytes.get(HEAD_BYTES..HEAD_BYTES.checked_add(length)?)?;
    // Only what looks like a document is hashed: this is asked of every byte behind a torn record.
    (is_document(body) && checksum(body) == head[4..]).then_some(body)
}

/// Whether these bytes begin with a document's version and the zero behind it.
fn is_document(body: &[u8]) -> bool {
    matches!(body, [_, _, 0, 0, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(n: u64) -> Change {
        Change::Size {
            node: n,
            size: n * n,
        }
    }

    /// The journal in this directory, and the changes in it.
    fn open(directory: &Path) -> Result<(Journal, Vec<Change>)> {
        let mut changes = Vec::new();
        let journal = Journal::open(directory, &mut |change| changes.push(change))?;
        Ok((journal, changes))
    }

    #[test]
    fn a_torn_journal_keeps_every_whole_record() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, changes) = open(directory.path()).unwrap();
        assert!(changes.is_empty());
        for n in 0..3 {
            journal.append(&change(n)).unwrap();
        }
        drop(journal);
        let path = directory.path().join("journal");
        let whole = std::fs::read(&path).unwrap();
        let record = whole.len() / 3;
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, changes) = open(directory.path()).unwrap();
            let kept = (length / record) as u64;
            assert_eq!(changes, (0..kept).map(change).collect::<Vec<_>>());
            journal.append(&change(9)).unwrap();
            drop(journal);
            let (_, changes) = open(directory.path()).unwrap();
            assert_eq!(changes.last(), Some(&change(9)));
        }
    }

    #[test]
    fn what_is_not_torn_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(directory.path()).unwrap();
        for n in 0..3 {
            journal.append(&change(n)).unwrap();
        }
        drop(journal);
        let path = directory.path().join("journal");
        let whole = std::fs::read(&path).unwrap();
        let record = whole.len() / 3;
        let refused = |bytes: &[u8], kind: Kind| {
            std::fs::write(&path, bytes).unwrap();
            for error in [
                open(directory.path()).unwrap_err(),
                peek(directory.path(), &mut |_| ()).unwrap_err(),
            ] {
                assert_eq!(error.kind(), kind);
                assert!(error.message().contains("journal"), "{error}");
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        };
        for at in 0..2 * record {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            refused(&flipped, Kind::Damaged);
        }
        // A sound record of a later version, and one of a change that nobody knows.
        for (at, value, kind) in [(0, 2, Kind::TooNew), (4, 200, Kind::Damaged)] {
            let mut body = encode(&change(3));
            body[at] = value;
            let mut longer = whole.clone();
            longer.extend((body.len() as u32).to_le_bytes());
            longer.extend(checksum(&body));
            longer.extend(body);
            refused(&longer, kind);
        }
    }

    #[test]
    fn a_journal_is_served_once() {
        let directory = tempfile::tempdir().unwrap();
        let _first = open(directory.path()).unwrap();
        let second = open(directory.path()).unwrap_err();
        assert_eq!(second.kind(), Kind::Busy);
    }

    #[test]
    fn a_journal_is_replaced_in_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(directory.path()).unwrap();
        (0..100).for_each(|n| journal.append(&change(n)).unwrap());
        let path = directory.path().join("journal");
        let whole = std::fs::read(&path).unwrap();
        journal.long = 1;
        assert!(journal.is_long());
        let failed = journal.replace(|tell| {
            tell(&change(1000))?;
            Err(Error::new(Kind::Full, "no space is left"))
        });
        // Nothing has happened, and it is not tried again at once.
        assert_eq!(failed.unwrap_err().kind(), Kind::Full);
        assert!(!journal.is_long());
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        journal
            .replace(|tell| (0..3).try_for_each(|n| tell(&change(n))))
            .unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        journal.append(&change(9)).unwrap();
        assert_eq!(open(directory.path()).unwrap_err().kind(), Kind::Busy);
        drop(journal);
        // The daemon was killed while it wrote another one.
        std::fs::write(beside(&path), &whole[..30]).unwrap();
        let (_journal, changes) = open(directory.path()).unwrap();
        assert_eq!(changes, [0, 1, 2, 9].map(change));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
