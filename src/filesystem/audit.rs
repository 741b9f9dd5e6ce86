//! What readers have read of others' data: a line for each file that they had open in their tree, in `audit.log` of the
//! state directory, which only the owner of the mount may read.
//!
//! ```text
//! 2026-11-20T09:14:02Z uid 1007 read 4096 bytes of .keepfs/readers/primary/home/friday/alice/letter, which uid 1000 owns
//! ```
//!
//! Bytes are those that the kernel was given. It keeps none of them from one opening to the next in that tree, so nothing
//! is read without a line. The line is written when the file is closed; it need not survive a loss of power.

use super::inode::{Node, What};
use super::problems::on_one_line;
use super::{FileSystem, OpenedContent};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The name of the log in the state directory.
const LOG: &str = "audit.log";

/// A file that somebody has open who is not its owner.
pub(super) struct Audited {
    reader: u32,
    owner: u32,
    bytes: AtomicU64,
}

impl Audited {
    /// The reader was given so many bytes more.
    pub(super) fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

impl FileSystem {
    /// What is to be written down of a file that this user opens, if anything.
    pub(super) fn audited(
        &self,
        node: &Node,
        content: &OpenedContent,
        reader: Option<u32>,
    ) -> Option<Audited> {
        let (What::Complete(point, entry), OpenedContent::Complete(_)) = (&node.what, content)
        else {
            return None;
        };
        if !point.repository.for_readers {
            return None;
        }
        let owner = point.repository.owners.of(&entry.attributes.owner).uid;
        let reader = reader.filter(|reader| *reader != owner)?;
        Some(Audited {
            reader,
            owner,
            bytes: AtomicU64::new(0),
        })
    }

    /// Writes down what was read of a file that is closed.
    pub(super) fn write_down(&self, node: &Node, audited: &Audited) {
        let bytes = audited.bytes.load(Relaxed);
        if bytes == 0 {
            return;
        }
        let sentence = format!(
            "uid {} read {bytes} bytes of {}, which uid {} owns",
            audited.reader,
            node.path(),
            audited.owner
        );
        let sentence = on_one_line(sentence);
        tracing::info!("{sentence}");
        let line = format!("{} {sentence}\n", self.options.clock.now().rfc3339());
        if let Err(error) = self.append(&line) {
            let lost = format!("cannot write the audit log: {error}; not in it: {sentence}");
            self.problems.note(node.parent_ino(), lost);
        }
    }

    /// One write appends the whole line, whoever else appends.
    fn append(&self, line: &str) -> io::Result<()> {
        let path = self.options.state_directory.join(LOG);
        let mut options = OpenOptions::new();
        let mut log = options.append(true).create(true).mode(0o600).open(path)?;
        log.write_all(line.as_bytes())
    }
}
