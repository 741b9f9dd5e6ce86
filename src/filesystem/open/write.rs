//! Changes of content by bytes, which lie in one spool file for each node until they are stored.

use super::change::{Change, Facts};
use super::content::{OpenContent, Place, Segment};
use super::spool::has_space;
use super::spool_is_short;
use super::state::{Body, OpenNode};
use super::{Inner, OpenPoint, Stage};
use crate::error::{Error, Kind, Result};
use crate::filesystem::errno::{Answer, Rule};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// Bytes of the disk that no spooled byte takes: without them the journal could not tell of what is stored, and nothing
/// would ever be released.
const JOURNAL_BYTES: u64 = 4 << 20;
/// Bytes of a file that are hashed at a time.
const HASHED_BYTES: u64 = 1 << 20;

impl OpenPoint {
    /// Cuts or extends a file, and sets what `set` sets with that.
    pub(in crate::filesystem) fn resize(
        &self,
        node: u64,
        size: u64,
        set: &dyn Fn(&mut Facts),
    ) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let content = inner.state.nodes.get(&node).and_then(OpenNode::content);
        let old = content.ok_or(Rule::IsADirectory)?.size;
        if old == size {
            // Nothing that the complete point does not have already.
            return match inner.stage {
                Stage::Sealed(_) | Stage::Sealing(Some(_)) => Ok(()),
                _ => self.touch(inner, node, set),
            };
        }
        Self::require_open(inner)?;
        // The journal first: it must not tell of bytes that are cut off already.
        self.change(inner, Change::Size { node, size })?;
        self.touch(inner, node, set)?;
        self.rematch_node(inner, node);
        if size < old {
            self.cut_spool(node, size)?;
        }
        Ok(())
    }

    /// What is cut off must not come back when the file grows again.
    fn cut_spool(&self, node: u64, size: u64) -> Result<()> {
        let path = self.spool_path(node);
        match fs::File::options().write(true).open(&path) {
            Ok(file) => match file.metadata() {
                Ok(facts) if facts.len() > size => file.set_len(size),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
            // Nothing was written yet.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(|error| Error::io(format_args!("cutting {}", path.display()), error))
    }

    /// Cuts off what was spooled before the daemon ended and is not in the journal: there the file has a hole, if
    /// it grows again. What was stored then is released now.
    pub(super) fn trim_spools(&self) -> Result<()> {
        let inner = &mut *self.inner.lock();
        inner.state.forget_unnamed();
        self.remove_spools_but(&inner.state.written)?;
        for number in &inner.state.written {
            let content = inner.state.nodes.get(number).and_then(OpenNode::content);
            let Some(content) = content else { continue };
            let mut segments = content.segments.iter().rev();
            let last = segments.find(|segment| matches!(segment.place, Place::Spool));
            self.cut_spool(*number, last.map_or(0, Segment::end))?;
            self.clear_gaps(*number, content)?;
        }
        self.hold(inner);
        Ok(())
    }

    /// Removes the spool files of all other nodes: of what was stored, and of what has no name any more.
    fn remove_spools_but(&self, kept: &BTreeSet<u64>) -> Result<()> {
        let directory = self.directory.join("spool");
        let failed = |error| Error::io(format_args!("reading {}", directory.display()), error);
        let found = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found.map_err(failed)?,
        };
        for entry in found {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
            if number.is_some_and(|number| !kept.contains(&number)) {
                // One that stays takes space until the point is sealed.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// The spool file of a node, if anything was written to it.
    pub(in crate::filesystem) fn existing_spool(&self, node: u64) -> Result<Option<fs::File>> {
        let path = self.spool_path(node);
        match fs::File::options().read(true).write(true).open(&path) {
            Ok(spool) => Ok(Some(spool)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format_args!("opening {}", path.display()), error)),
        }
    }

    pub(in crate::filesystem) fn spool_path(&self, node: u64) -> PathBuf {
        self.directory.join("spool").join(node.to_string())
    }

    /// The spool file of a node, made if it is not there.
    pub(in crate::filesystem) fn spool(&self, node: u64) -> Result<fs::File> {
        let path = self.spool_path(node);
        fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io(format_args!("opening {}", path.display()), error))
    }

    /// Writes bytes of a file into its spool, and sets what `set` sets with that.
    pub(in crate::filesystem) fn write(
        &self,
        node: u64,
        spool: &fs::File,
        offset: u64,
        data: &[u8],
        set: &dyn Fn(&mut Facts),
    ) -> Answer<()> {
        Self::require_open(&self.inner.lock())?;
        let (begin, length) = (offset, data.len() as u64);
        if begin
            .checked_add(length)
            .is_none_or(|end| end > i64::MAX as u64)
        {
            let message = "a file cannot be larger than 8 EiB";
            return Err(Error::new(Kind::TooBig, message).into());
        }
        self.spool.require_memory()?;
        // Without the lock: this waits while the spool is full.
        let _room = self.spool.reserve(length)?;
        let range = begin..begin + length;
        {
            let mut inner = self.inner.lock();
            Self::require_open(&inner)?;
            inner.streaming.begin_writing(node, range.clone());
        }
        // The bytes first: what the journal tells of is there.
        let spooled = self.write_spool(spool, offset, data);
        let inner = &mut *self.inner.lock();
        inner.streaming.end_writing(node, &range);
        spooled?;
        Self::require_open(inner)?;
        let written = Change::Written {
            node,
            begin,
            length,
        };
        self.change(inner, written)?;
        self.touch(inner, node, set)?;
        self.unmatch(inner, node);
        if inner.streaming.asks(length, self.spool.bound()) {
            self.streamer.look(self.id);
        }
        Ok(())
    }

    /// Writes into a spool file. While the disk is full it waits for what is stored to be released.
    fn write_spool(&self, spool: &fs::File, offset: u64, data: &[u8]) -> Result<()> {
        loop {
            let full = match has_space(spool, data.len() as u64 + JOURNAL_BYTES) {
                false => Error::new(Kind::Full, "no space is left"),
                true => match spool.write_all_at(data, offset) {
                    Ok(()) => return Ok(()),
                    Err(error) => Error::io("spooling", error),
                },
            };
            if !matches!(full.kind(), Kind::Full | Kind::Quota) {
                return Err(full);
            }
            if !self.spool.make_room() {
                let message = format!(
                    "the disk of {} is full, and what lies there cannot be stored yet; make room on it",
                    self.directory.display()
                );
                return Err(Error::new(Kind::Full, message).caused_by(full));
            }
        }
    }

    /// Bytes that were just written are compared when the file is closed.
    fn unmatch(&self, inner: &mut Inner, node: u64) {
        if inner.state.matched > 0 {
            self.rematch_node(inner, node);
        }
    }

    /// A file that was written to is closed: its content is compared with that of the point it may be a copy of.
    pub(in crate::filesystem) fn closed(&self, node: u64, spool: Option<&fs::File>) {
        let (size, changes) = {
            let inner = self.inner.lock();
            if inner.from.is_none() {
                return;
            }
            let Some(content) = inner.state.nodes.get(&node).and_then(OpenNode::content) else {
                return;
            };
            if !was_written(content) || content.size == 0 {
                return;
            }
            (content.size, content.changes)
        };
        // A temporary name has no twin yet, but its final name will: the content is hashed all the same.
        let hash = self.hash_of(node, size, spool).ok();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(OpenNode {
            body: Body::File {
                content,
                hash: known,
            },
            ..
        }) = inner.state.nodes.get_mut(&node)
            && content.changes == changes
        {
            *known = hash.map(Box::new);
        }
        self.rematch_node(inner, node);
    }
}

impl OpenPoint {
    /// BLAKE3 of a file, whose first bytes may have been hashed when they were stored.
    fn hash_of(&self, node: u64, size: u64, spool: Option<&fs::File>) -> Answer<[u8; 32]> {
        let begun = self.inner.lock().streaming.hash(node);
        let (mut at, mut hasher) = begun.unwrap_or_default();
        while at < size {
            let want = HASHED_BYTES.min(size - at) as u32;
            let bytes = match spool {
                Some(spool) => self.read_with(node, at, want, || Ok(spool)),
                None => self.read(node, at, want),
            }?;
            if bytes.is_empty() {
                return Err(spool_is_short().into());
            }
            hasher.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// BLAKE3 of a file that is not written any more, if it is known or can be known without reading what is stored.
    pub(super) fn known_hash(&self, node: u64) -> Option<[u8; 32]> {
        let size = {
            let inner = self.inner.lock();
            let Body::File { content, hash } = &inner.state.nodes.get(&node)?.body else {
                return None;
            };
            if let Some(hash) = hash {
                return Some(**hash);
            }
            inner.streaming.hash(node)?;
            content.size
        };
        self.hash_of(node, size, None).ok()
    }
}

/// Whether all of a file was written as bytes, stored since or not.
fn was_written(content: &OpenContent) -> bool {
    content.segments.iter().all(|segment| match &segment.place {
        Place::Spool => true,
        Place::Source(source, _) => source.written,
    })
}

/// Whether anything of a file was written as bytes, stored since or not.
pub(super) fn is_written(content: &OpenContent) -> bool {
    !content.segments.is_empty() && was_written(content)
}
