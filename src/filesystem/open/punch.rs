//! Space of a file that is set aside or given back: fallocate(2).

use super::OpenPoint;
use super::change::{Change, Facts};
use super::content::{OpenContent, Place, Segment};
use super::spool::punch;
use super::state::OpenNode;
use crate::error::{Error, Result};
use crate::filesystem::errno::{Answer, Rule};
use std::fs::File;
use std::os::unix::fs::FileExt;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl OpenPoint {
    /// Bytes of a file.
    pub(in crate::filesystem) fn size(&self, node: u64) -> Answer<u64> {
        self.node(node, |node| {
            let content = node.content().ok_or(Rule::IsADirectory)?;
            Ok(content.size)
        })?
    }

    /// Makes a hole from `begin` to `end`, as far as the file reaches, and sets what `set` sets with that.
    pub(in crate::filesystem) fn punch(
        &self,
        node: u64,
        begin: u64,
        end: u64,
        set: &dyn Fn(&mut Facts),
    ) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        let content = inner.state.nodes.get(&node).and_then(OpenNode::content);
        let end = end.min(content.ok_or(Rule::IsADirectory)?.size);
        if begin < end {
            let length = end - begin;
            // The spool first: a file that was written in order is stored from it as it lies there.
            if let Some(spool) = self.existing_spool(node)? {
                give_back(&spool, begin, end)?;
            }
            let hole = Change::Hole {
                node,
                begin,
                length,
            };
            self.change(inner, hole)?;
            self.rematch_node(inner, node);
        }
        self.touch(inner, node, set)
    }

    /// Makes zeros of what was spooled between the stretches that the journal tells of, before the daemon ended.
    pub(super) fn clear_gaps(&self, node: u64, content: &OpenContent) -> Result<()> {
        let spooled = |segment: &&Segment| matches!(segment.place, Place::Spool);
        let mut gaps = Vec::new();
        let mut at = 0;
        for segment in content.segments.iter().filter(spooled) {
            if segment.begin > at {
                gaps.push((at, segment.begin));
            }
            at = segment.end();
        }
        if gaps.is_empty() {
            return Ok(());
        }
        let Some(spool) = self.existing_spool(node)? else {
            return Ok(());
        };
        let mut gaps = gaps.into_iter();
        gaps.try_for_each(|(begin, end)| give_back(&spool, begin, end))
    }
}

/// Makes bytes of a spool file zeros, as far as it reaches.
fn give_back(spool: &File, begin: u64, end: u64) -> Result<()> {
    let wrap = |error| Error::io("making a hole in spooled bytes", error);
    let end = end.min(spool.metadata().map_err(wrap)?.len());
    if begin >= end {
        return Ok(());
    }
    match punch(spool, &(begin..end)) {
        // This file system knows no holes.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        punched => return punched.map_err(wrap),
    }
    let mut at = begin;
    while at < end {
        let count = ZEROS.len().min((end - at) as usize);
        spool.write_all_at(&ZEROS[..count], at).map_err(wrap)?;
        at += count as u64;
    }
    Ok(())
}
