//! Reading a file of an open point: from its spool, and from the points it refers to.

use super::OpenPoint;
use super::content::Place;
use super::state::OpenNode;
use crate::error::{Error, Kind, Result};
use crate::filesystem::errno::{Answer, Rule};
use std::cell::OnceCell;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

impl OpenPoint {
    /// Up to `size` bytes of a file from `offset`.
    pub(super) fn read(&self, node: u64, offset: u64, size: u32) -> Answer<Vec<u8>> {
        let spool = OnceCell::new();
        self.read_with(node, offset, size, || match spool.get() {
            Some(spool) => Ok(spool),
            None => {
                let opened = self.existing_spool(node)?.ok_or_else(spool_is_short)?;
                Ok(spool.get_or_init(|| opened))
            }
        })
    }

    /// As [`Self::read`], with the spool file that the caller has open.
    pub(in crate::filesystem) fn read_with<'a>(
        &self,
        node: u64,
        offset: u64,
        size: u32,
        spool: impl Fn() -> Result<&'a fs::File>,
    ) -> Answer<Vec<u8>> {
        loop {
            let (parts, releases) = {
                let inner = self.inner.lock();
                let content = inner.state.nodes.get(&node).and_then(OpenNode::content);
                let content = content.ok_or(Rule::IsADirectory)?;
                let parts = content.cover(offset, offset.saturating_add(size.into()));
                (parts, inner.streaming.releases)
            };
            let spooled = parts
                .iter()
                .any(|part| matches!(part.2, Some(Place::Spool)));
            let bytes = read_parts(parts, &spool);
            // What was stored meanwhile may be gone from the spool.
            if !spooled || self.inner.lock().streaming.releases == releases {
                return Ok(bytes?);
            }
        }
    }
    /// The next data (or else hole) of a file.
    pub(in crate::filesystem) fn seek(&self, node: u64, offset: u64, data: bool) -> Answer<u64> {
        self.node(node, |node| {
            let content = node.content().ok_or(Rule::IsADirectory)?;
            if offset >= content.size {
                return Err(Rule::NoSuchOffset.into());
            }
            content
                .seek(offset, data)
                .ok_or_else(|| Rule::NoSuchOffset.into())
        })?
    }
}

/// Reads these parts of a file, one after the other.
fn read_parts<'a>(
    parts: Vec<(u64, u64, Option<Place>)>,
    spool: &impl Fn() -> Result<&'a fs::File>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (begin, length, place) in parts {
        match place {
            None => bytes.resize(bytes.len() + length as usize, 0),
            Some(Place::Source(source, at)) => {
                for part in source.parts(at, at + length)? {
                    source.read(&part?, &mut bytes)?;
                }
            }
            Some(Place::Spool) => {
                read_spool(spool()?, begin, length, &mut bytes)?;
            }
        }
    }
    Ok(bytes)
}

fn read_spool(spool: &fs::File, begin: u64, length: u64, bytes: &mut Vec<u8>) -> Result<()> {
    let start = bytes.len();
    bytes.resize(start + length as usize, 0);
    spool
        .read_exact_at(&mut bytes[start..], begin)
        .map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => spool_is_short(),
            _ => Error::io("reading spooled bytes", error),
        })
}

/// The journal tells of bytes that the spool file does not have.
pub(in crate::filesystem) fn spool_is_short() -> Error {
    let message =
        "bytes that were written to this file are lost on this host; write the file again";
    Error::new(Kind::Damaged, message)
}
