//! Changes of content by bytes, which lie in one spool file for each node.

use super::change::{Change, Facts};
use super::content::{OpenContent, Place, Segment};
use super::state::{Body, OpenNode};
use super::{Inner, OpenPoint, Stage};
use crate::error::{Error, Kind, Result};
use crate::filesystem::errno::{Answer, Rule};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

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
    /// it grows again.
    pub(super) fn trim_spools(&self) -> Result<()> {
        let inner = self.inner.lock();
        for (number, node) in &inner.state.nodes {
            let Some(content) = node.content() else {
                continue;
            };
            if node.places.is_empty() {
                // Whoever had it open is gone.
                let _ = fs::remove_file(self.spool_path(*number));
                continue;
            }
            let mut segments = content.segments.iter().rev();
            let last = segments.find(|segment| matches!(segment.place, Place::Spool));
            self.cut_spool(*number, last.map_or(0, Segment::end))?;
            self.clear_gaps(*number, content)?;
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
        // The bytes first: what the journal tells of is there.
        spool
            .write_all_at(data, offset)
            .map_err(|error| Error::io("spooling", error))?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        let written = Change::Written {
            node,
            begin,
            length,
        };
        self.change(inner, written)?;
        self.touch(inner, node, set)?;
        self.unmatch(inner, node);
        Ok(())
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
            let spooled = content
                .segments
                .iter()
                .all(|segment| matches!(segment.place, Place::Spool));
            if !spooled || content.size == 0 {
                return;
            }
            (content.size, content.changes)
        };
        // A temporary name has no twin yet, but its final name will: the content is hashed all the same.
        let hash = spool.and_then(|spool| hash_of(spool, size).ok());
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
            *known = hash;
        }
        self.rematch_node(inner, node);
    }
}

/// Whether anything of a file was written as bytes.
pub(super) fn is_spooled(content: &OpenContent) -> bool {
    let mut segments = content.segments.iter();
    segments.any(|segment| matches!(segment.place, Place::Spool))
}

/// BLAKE3 of a spooled file; holes read as zeros.
fn hash_of(spool: &fs::File, size: u64) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let want = buffer.len().min((size - at) as usize);
        let count = spool.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            // Behind the spooled bytes the file is a hole.
            buffer[..want].fill(0);
        }
        let count = if count == 0 { want } else { count };
        hasher.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}
