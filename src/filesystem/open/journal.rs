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

use super::change::Change;
use crate::error::{Error, Kind, Result};
use crate::repository::{decode, encode};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const HEAD_BYTES: usize = 12;

/// An open journal. The lock on it says that this daemon serves the point.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    [a, b, c, d, e, f, g, h]
}

impl Journal {
    /// Opens or makes the journal in this directory, with the changes that it holds. `Busy` when another daemon
    /// has it open.
    pub(super) fn open(directory: &Path) -> Result<(Self, Vec<Change>)> {
        let path = directory.join("journal");
        let wrap = |error| Error::io(format_args!("opening {}", path.display()), error);
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(wrap)?;
        if file.try_lock().is_err() {
            let message = format!("another keepfs serves the open point in {}", path.display());
            return Err(Error::new(Kind::Busy, message));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(wrap)?;
        let (changes, length) = replay(&bytes).map_err(|error| error.context(path.display()))?;
        if length < bytes.len() {
            tracing::warn!(
                "{}: the last record was torn and is dropped",
                path.display()
            );
            file.set_len(length as u64).map_err(wrap)?;
        }
        Ok((Self { file, path }, changes))
    }

    /// Adds a change. After a failure nothing is added that is not whole.
    pub(super) fn append(&mut self, change: &Change) -> Result<()> {
        let body = encode(change);
        let mut record = Vec::with_capacity(HEAD_BYTES + body.len());
        record.extend((body.len() as u32).to_le_bytes());
        record.extend(checksum(&body));
        record.extend(body);
        let wrap = |error| Error::io(format_args!("writing {}", self.path.display()), error);
        let before = self.file.metadata().map_err(wrap)?.len();
        self.file.write_all(&record).map_err(|error| {
            // A part of a record would hide everything behind it.
            let _ = self.file.set_len(before);
            wrap(error)
        })
    }

    /// The file, for a sync without the point's lock.
    pub(super) fn handle(&self) -> Result<File> {
        let file = self.file.try_clone();
        file.map_err(|error| Error::io(format_args!("syncing {}", self.path.display()), error))
    }

    /// Makes every change so far survive the host.
    pub(super) fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| Error::io(format_args!("syncing {}", self.path.display()), error))
    }
}

/// The changes in the journal of this directory; none when it is not there. Takes no lock and changes nothing.
pub(super) fn peek(directory: &Path) -> Result<Vec<Change>> {
    let path = directory.join("journal");
    match std::fs::read(&path) {
        Ok(bytes) => match replay(&bytes) {
            Ok((changes, _)) => Ok(changes),
            Err(error) => Err(error.context(path.display())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format_args!("reading {}", path.display()), error)),
    }
}

/// The whole changes, and how many bytes they take. `Damaged` when what is not whole is not the last, and `TooNew`
/// or `Damaged` when a whole record is none that this program knows.
fn replay(bytes: &[u8]) -> Result<(Vec<Change>, usize)> {
    let mut changes = Vec::new();
    let mut at = 0;
    while let Some(body) = sound(&bytes[at..]) {
        changes.push(decode(body)?);
        at += HEAD_BYTES + body.len();
    }
    let begins = |place: &usize| sound(&bytes[*place..]).is_some();
    if let Some(next) = (at + 1..bytes.len()).find(begins) {
        let message = format!(
            "this journal is damaged from byte {at} to {next}; restore that file, or remove its directory to give \
             the open point up"
        );
        return Err(Error::new(Kind::Damaged, message));
    }
    Ok((changes, at))
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

    #[test]
    fn a_torn_journal_keeps_every_whole_record() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, changes) = Journal::open(directory.path()).unwrap();
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
            let (mut journal, changes) = Journal::open(directory.path()).unwrap();
            let kept = (length / record) as u64;
            assert_eq!(changes, (0..kept).map(change).collect::<Vec<_>>());
            journal.append(&change(9)).unwrap();
            drop(journal);
            let (_, changes) = Journal::open(directory.path()).unwrap();
            assert_eq!(changes.last(), Some(&change(9)));
        }
    }

    #[test]
    fn what_is_not_torn_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
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
                Journal::open(directory.path()).unwrap_err(),
                peek(directory.path()).unwrap_err(),
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
        let _first = Journal::open(directory.path()).unwrap();
        let second = Journal::open(directory.path()).unwrap_err();
        assert_eq!(second.kind(), Kind::Busy);
    }
}
