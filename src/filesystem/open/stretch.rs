//! Stretches of spooled bytes on their way into the repository: which are due, which of their bytes have changed
//! meanwhile, and what becomes of the spool behind them.
//!
//! A stretch is read and stored without the point's lock. A write that begins meanwhile marks what it touches before
//! its first byte lies in the spool, and a write that is under way when a stretch is taken counts as such a mark: a
//! chunk is believed only if nothing of it was marked. What is released is compared with the content at that moment,
//! and bytes that a write may just have put there are left for later.

use super::change::Change;
use super::content::{OpenContent, Place, Segment};
use super::spool::punch;
use super::spool_is_short;
use super::state::{OpenNode, State};
use super::{Inner, OpenPoint, Stage};
use crate::backup::SMALL_FILE_BYTES;
use crate::error::{Error, Result};
use crate::point::{Content, Extent, File};
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::ops::Range;

/// Bytes written in order at the end of a file that are stored while the tool goes on.
const STREAM_BYTES: u64 = 8 << 20;
/// Above so many spooled bytes closed files are stored, too: until then most of what tools make for a moment only is
/// gone again.
const KEPT_BYTES: u64 = 64 << 20;
/// Bytes that are taken at a time, so that files take turns.
const STRETCH_BYTES: u64 = 64 << 20;
/// No file system has larger blocks where page caches work.
const BLOCK_BYTES: u64 = 4096;
/// Stretches that are released before others may have the point's lock: each takes some 20 microseconds.
const RELEASED_AT_ONCE: usize = 256;
/// Zeros that are hashed for a hole in a file that is hashed as it comes.
const HASHED_HOLE_BYTES_MAX: u64 = 64 << 20;

/// What is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// What is written in order, and closed files once much is spooled.
    Streamed,
    /// Everything but the end of a file that is just being written.
    Much,
    /// Everything.
    All,
}

/// Where to go on looking: the node, how far it reached when it was looked at first, and the byte of it before which
/// nothing more can be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub node: u64,
    pub upto: u64,
    pub after: u64,
}

impl Cursor {
    pub const FIRST: Self = Self::of(0);

    pub const fn of(node: u64) -> Self {
        Self {
            node,
            upto: u64::MAX,
            after: 0,
        }
    }
}

/// Spooled bytes of one file that are to be stored.
pub(super) struct Stretch {
    pub number: u64,
    pub node: u64,
    pub name: Vec<u8>,
    pub range: Range<u64>,
    /// Whether it is a small file whole, which becomes one chunk.
    pub whole: bool,
    /// Whether its last bytes become a chunk however few they are.
    pub ends: bool,
    /// As [`File::block`].
    pub block: u32,
    pub spool: fs::File,
    /// Hash of everything before it.
    pub hasher: Option<blake3::Hasher>,
    /// What it goes on from, unless all of it must be stored.
    pub before: Option<Segment>,
}

/// A stretch in hand.
struct InHand {
    number: u64,
    range: Range<u64>,
    /// What was written anew meanwhile.
    marked: Vec<Range<u64>>,
    /// Whether something before its end was written anew, so that the hash up to there is of no use.
    unhashed: bool,
}

/// What is on its way between an open point's spool and its repository.
#[derive(Default)]
pub(super) struct Streaming {
    next: u64,
    /// By node.
    in_hand: HashMap<u64, Vec<InHand>>,
    /// Writes whose bytes may be in the spool before the journal tells of them.
    writing: Vec<(u64, Range<u64>)>,
    /// Hashes of files from their first byte up to some byte, as they were stored.
    hashes: HashMap<u64, (u64, blake3::Hasher)>,
    /// What is stored and still takes space in the spool.
    unreleased: VecDeque<(u64, Range<u64>)>,
    /// Bytes of all that.
    unreleased_bytes: u64,
    /// How often something was released: who read the spool meanwhile reads again.
    pub releases: u64,
    /// Bytes written since somebody was asked to look.
    news: u64,
    /// Whether somebody was asked to look.
    asked: bool,
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The blocks of a disk that a range touches: only whole ones come free.
fn in_blocks(range: &Range<u64>) -> Range<u64> {
    let end = range.end.checked_next_multiple_of(BLOCK_BYTES);
    range.start / BLOCK_BYTES * BLOCK_BYTES..end.unwrap_or(range.end)
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

impl Streaming {
    /// A write begins.
    pub fn begin_writing(&mut self, node: u64, range: Range<u64>) {
        self.mark(node, &range);
        self.writing.push((node, range));
    }

    /// That write ended, however.
    pub fn end_writing(&mut self, node: u64, range: &Range<u64>) {
        let mut writing = self.writing.iter();
        if let Some(place) = writing.position(|(other, known)| *other == node && known == range) {
            self.writing.swap_remove(place);
        }
    }

    /// These bytes are not any more what they were.
    pub fn mark(&mut self, node: u64, range: &Range<u64>) {
        for stretch in self.in_hand.get_mut(&node).into_iter().flatten() {
            stretch.unhashed |= range.start < stretch.range.end;
            if overlap(&stretch.range, range) {
                stretch.marked.push(range.clone());
            }
        }
        if self
            .hashes
            .get(&node)
            .is_some_and(|(upto, _)| range.start < *upto)
        {
            self.hashes.remove(&node);
        }
    }

    /// Whether somebody is to look now that so many bytes were written.
    pub fn asks(&mut self, written: u64, bound: u64) -> bool {
        self.news += written;
        let asks = !self.asked && self.news >= STREAM_BYTES.min(bound / 4);
        self.asked |= asks;
        asks
    }

    fn add_unreleased(&mut self, node: u64, range: Range<u64>) {
        self.unreleased_bytes += length(&range);
        self.unreleased.push_back((node, range));
    }

    /// Takes the first of what is to be released.
    fn take_unreleased(&mut self, count: usize) -> Vec<(u64, Range<u64>)> {
        let taken: Vec<_> = self.unreleased.drain(..count).collect();
        let bytes: u64 = taken.iter().map(|(_, range)| length(range)).sum();
        self.unreleased_bytes -= bytes;
        taken
    }

    /// Whether bytes of this range may be in the spool before the journal tells of them.
    pub fn writes(&self, node: u64, range: &Range<u64>) -> bool {
        let mut writing = self.writing.iter();
        writing.any(|(other, written)| *other == node && overlap(written, range))
    }

    /// Forgets the hash of a file that nobody has open, if it is that of all of it: the node has it.
    pub fn forget_hash_of_all(&mut self, node: u64, state: &State) {
        let content = state.nodes.get(&node).and_then(OpenNode::content);
        let hashed = self.hashes.get(&node).map(|(upto, _)| *upto);
        if content.map(|content| content.size) == hashed {
            self.hashes.remove(&node);
        }
    }

    /// A node is gone: what is in hand of it is of no use, nor is its hash.
    pub fn forget(&mut self, node: u64) {
        self.mark(node, &(0..u64::MAX));
        self.hashes.remove(&node);
    }

    /// The hash of a file's first bytes, and how many they are.
    pub fn hash(&self, node: u64) -> Option<(u64, blake3::Hasher)> {
        self.hashes.get(&node).cloned()
    }
}

/// The bytes that a change of content touches.
pub(super) fn touched(change: &Change) -> Option<(u64, Range<u64>)> {
    match change {
        Change::Written {
            node,
            begin,
            length,
        }
        | Change::Reference {
            node,
            begin,
            length,
            ..
        }
        | Change::Hole {
            node,
            begin,
            length,
        } => Some((*node, *begin..begin.saturating_add(*length))),
        Change::Size { node, size } => Some((*node, *size..u64::MAX)),
        // Every change is named: one that is forgotten here would have old bytes taken for new ones.
        Change::Begin { .. }
        | Change::Name(_)
        | Change::From { .. }
        | Change::Make { .. }
        | Change::Link { .. }
        | Change::Remove { .. }
        | Change::Rename { .. }
        | Change::Exchange { .. }
        | Change::Facts { .. }
        | Change::Xattr { .. }
        | Change::Source { .. }
        | Change::Owner { .. }
        | Change::Sealing { .. }
        | Change::Stored { .. }
        | Change::Boot(_)
        | Change::Synced { .. }
        | Change::Doubtful { .. }
        | Change::Trusted { .. } => None,
    }
}

/// A part of a file that is due: its range, whether it is the file whole, and whether the last bytes are to be cut.
struct Found {
    range: Range<u64>,
    whole: bool,
    ends: bool,
}

/// What of a file is due: the first such stretch that is not in hand.
fn due_of(
    content: &OpenContent,
    in_hand: &[Range<u64>],
    after: u64,
    due: Due,
    open: bool,
) -> Option<Found> {
    let mut segments = content.segments.iter();
    let spooled = |segment: &Segment| matches!(segment.place, Place::Spool);
    if content.size <= SMALL_FILE_BYTES && segments.all(spooled) {
        let is_due = in_hand.is_empty() && (due != Due::Streamed || !open);
        return is_due.then_some(Found {
            range: 0..content.size,
            whole: true,
            ends: true,
        });
    }
    let spooled = content.segments.iter().filter(|segment| spooled(segment));
    spooled.into_iter().find_map(|segment| {
        let all = segment.begin..segment.end();
        let taken = in_hand.iter().filter(|range| overlap(range, &all));
        let begin = taken.map(|range| range.end).fold(all.start, u64::max);
        if begin >= all.end || all.end <= after {
            return None;
        }
        let grows = open && all.end == content.run.end;
        let is_due = match due {
            Due::Streamed => {
                let run = &content.run;
                !open || grows && all.end - begin.max(run.start) >= STREAM_BYTES
            }
            Due::Much | Due::All => true,
        };
        is_due.then_some(Found {
            range: begin..all.end,
            whole: false,
            ends: due == Due::All || !grows,
        })
    })
}

impl OpenPoint {
    /// Somebody looks at what is due; what is written from now on asks again.
    pub(super) fn looked_at(&self) {
        let streaming = &mut self.inner.lock().streaming;
        streaming.news = 0;
        streaming.asked = false;
    }

    /// Takes the first stretch that is due, from this place on; the place where it was found.
    pub(super) fn take_stretch(&self, due: Due, from: Cursor) -> Result<Option<(Stretch, Cursor)>> {
        let bound = self.spool.bound();
        let inner = &mut *self.inner.lock();
        if !matches!(inner.stage, Stage::Open) || due == Due::Streamed && comes_again(self, inner) {
            return Ok(None);
        }
        let much = inner.state.spooled > KEPT_BYTES.min(bound / 4);
        let written = inner.state.written.range(from.node..);
        let found = written.into_iter().find_map(|node| {
            let place = match *node == from.node {
                true => from,
                false => Cursor::of(*node),
            };
            due_in(inner, place, due, much).map(|found| (place, found))
        });
        let Some((place, found)) = found else {
            return Ok(None);
        };
        let node = place.node;
        let size = inner.state.nodes.get(&node).and_then(OpenNode::content);
        let cursor = Cursor {
            upto: place.upto.min(size.map_or(0, |content| content.size)),
            ..place
        };
        let stretch = self.take(inner, node, found, due)?;
        Ok(stretch.map(|stretch| (stretch, cursor)))
    }

    fn take(
        &self,
        inner: &mut Inner,
        node: u64,
        found: Found,
        due: Due,
    ) -> Result<Option<Stretch>> {
        let spool = self.existing_spool(node)?.ok_or_else(spool_is_short)?;
        let Some(known) = inner.state.nodes.get(&node) else {
            return Ok(None);
        };
        let Some(content) = known.content() else {
            return Ok(None);
        };
        let name = known.last_name().to_vec();
        let mut range = found.range;
        let mut ends = found.ends;
        if !found.whole && length(&range) > STRETCH_BYTES {
            range.end = range.start + STRETCH_BYTES;
            ends = false;
        }
        let streaming = &mut inner.streaming;
        let hasher = match found.whole {
            true => None,
            false => hash_before(streaming, node, content, range.start),
        };
        let number = streaming.next;
        streaming.next += 1;
        streaming.in_hand.entry(node).or_default().push(InHand {
            number,
            range: range.clone(),
            marked: Vec::new(),
            unhashed: false,
        });
        for (node, written) in streaming.writing.clone() {
            streaming.mark(node, &written);
        }
        let before = content.ending_at(range.start).cloned();
        Ok(Some(Stretch {
            number,
            node,
            block: content.block(&name),
            name,
            range,
            whole: found.whole,
            ends,
            spool,
            hasher,
            before: before.filter(|_| due == Due::Streamed),
        }))
    }

    /// This range of a stretch was put into packs; the hash of everything up to its end. What else it had is not in
    /// hand any more.
    pub(super) fn put_stretch(
        &self,
        (node, number): (u64, u64),
        range: Range<u64>,
        hasher: Option<blake3::Hasher>,
    ) {
        let inner = &mut *self.inner.lock();
        let Some(stretch) = inner.streaming.stretch(node, number) else {
            return;
        };
        let upto = range.end;
        stretch.range = range;
        let sound = !stretch.unhashed;
        if let Some(hasher) = hasher.filter(|_| sound) {
            inner.state.hashed(node, upto, &hasher);
            inner.streaming.hashes.insert(node, (upto, hasher));
            if !inner.handles.contains_key(&node) {
                inner.streaming.forget_hash_of_all(node, &inner.state);
            }
        }
        inner.streaming.let_go_of_empty(node);
    }

    /// These extents of a stretch are durable and in the index, from this byte of the file on: they take the place of
    /// the spooled bytes, as far as nothing was written there meanwhile. Answers how many bytes.
    pub(super) fn note_stored(
        &self,
        (node, number): (u64, u64),
        begin: u64,
        extents: &[Extent],
    ) -> Result<u64> {
        let inner = &mut *self.inner.lock();
        let Some(stretch) = inner.streaming.stretch(node, number) else {
            return Ok(0);
        };
        let marked = stretch.marked.clone();
        let content = inner.state.nodes.get(&node).and_then(OpenNode::content);
        let sound = |range: &Range<u64>| {
            let written = content.is_some_and(|content| content.is_written(range));
            written && !marked.iter().any(|marked| overlap(marked, range))
        };
        let runs = runs(begin, extents, sound);
        let mut kept = 0;
        for (at, extents) in runs {
            let size = extents.iter().map(|extent| extent.length).sum();
            let stored = Change::Stored {
                node,
                begin: at,
                file: file_of(size, extents),
            };
            inner.journal.append(&stored)?;
            let find = super::begin::find_trees(&self.repositories);
            inner.state.apply(stored, &find);
            inner.streaming.add_unreleased(node, at..at + size);
            kept += size;
        }
        if let Some(stretch) = inner.streaming.stretch(node, number) {
            stretch.range.start = begin + extents.iter().map(|extent| extent.length).sum::<u64>();
        }
        inner.streaming.let_go_of_empty(node);
        self.hold(inner);
        self.shorten_journal(inner);
        Ok(kept)
    }

    /// Gives the space of everything back that was noted as stored.
    pub(super) fn release_stored(&self) -> Result<()> {
        let (journal, mut unreleased) = {
            let inner = &mut *self.inner.lock();
            if inner.streaming.unreleased.is_empty() {
                return Ok(());
            }
            let journal = inner.journal.handle()?;
            (journal, inner.streaming.unreleased.len())
        };
        // What the journal does not say after a crash of the host must not be gone from the spool.
        let synced = journal.sync_data();
        synced.map_err(|error| Error::io("syncing the journal of an open point", error))?;
        while unreleased > 0 {
            let some = unreleased.min(RELEASED_AT_ONCE);
            self.release_some(some)?;
            unreleased -= some;
        }
        Ok(())
    }

    fn release_some(&self, count: usize) -> Result<()> {
        let inner = &mut *self.inner.lock();
        inner.streaming.releases += 1;
        let some = inner.streaming.take_unreleased(count);
        for (node, range) in some {
            let blocks = in_blocks(&range);
            if inner.streaming.writes(node, &blocks) {
                inner.streaming.add_unreleased(node, range);
            } else {
                self.release_range(inner, node, &blocks)?;
            }
        }
        self.hold(inner);
        Ok(())
    }

    pub(super) fn release_range(&self, inner: &Inner, node: u64, range: &Range<u64>) -> Result<()> {
        let Some(content) = inner.state.nodes.get(&node).and_then(OpenNode::content) else {
            return Ok(());
        };
        if content.spooled == 0 && !inner.handles.contains_key(&node) {
            // It may be gone already.
            let _ = fs::remove_file(self.spool_path(node));
            return Ok(());
        }
        let Some(spool) = self.existing_spool(node)? else {
            return Ok(());
        };
        for gap in content.not_spooled(range) {
            if let Err(error) = punch(&spool, &gap) {
                // The space comes back when the point is sealed.
                let path = self.spool_path(node);
                tracing::warn!("releasing stored bytes of {}: {error}", path.display());
                return Ok(());
            }
        }
        Ok(())
    }

    /// What this point holds of the spool.
    pub(super) fn hold(&self, inner: &mut Inner) {
        let gone = matches!(inner.stage, Stage::Sealed(_) | Stage::Discarded);
        let held = inner.state.spooled + inner.streaming.unreleased_bytes;
        inner.share.hold(if gone { 0 } else { held });
        inner.share.remember(inner.state.memory);
    }

    /// Storing has failed: everything that was in hand is due again, and the next call tells of it.
    pub(super) fn storing_failed(&self, error: &Error) {
        self.give_stretches_back();
        self.bringer.fail(error);
    }

    /// Nobody has a stretch in hand any more.
    pub(super) fn give_stretches_back(&self) {
        let streaming = &mut self.inner.lock().streaming;
        for node in std::mem::take(&mut streaming.in_hand).into_keys() {
            streaming.hashes.remove(&node);
        }
        streaming.asked = false;
    }

    /// Gives one stretch back.
    pub(super) fn give_stretch_back(&self, (node, number): (u64, u64)) {
        let streaming = &mut self.inner.lock().streaming;
        if let Some(stretch) = streaming.stretch(node, number) {
            stretch.range.end = stretch.range.start;
            streaming.hashes.remove(&node);
        }
        streaming.let_go_of_empty(node);
    }
}

impl Streaming {
    fn stretch(&mut self, node: u64, number: u64) -> Option<&mut InHand> {
        let mut in_hand = self.in_hand.get_mut(&node)?.iter_mut();
        in_hand.find(|stretch| stretch.number == number)
    }

    fn let_go_of_empty(&mut self, node: u64) {
        if let Some(in_hand) = self.in_hand.get_mut(&node) {
            in_hand.retain(|stretch| !stretch.range.is_empty());
            if in_hand.is_empty() {
                self.in_hand.remove(&node);
            }
        }
    }
}

/// Whether the point may be a copy of one in a repository that cuts otherwise: once it is whole its chunks are brought
/// from there, and those that were cut here would be stored for nothing.
fn comes_again(open: &OpenPoint, inner: &Inner) -> bool {
    let Some((from, _)) = &inner.from else {
        return false;
    };
    let [there, here] =
        [&from.repository, &open.repository].map(|mounted| mounted.catalog.repository().settings());
    !there.cut_as(&here)
}

fn due_in(inner: &Inner, place: Cursor, due: Due, much: bool) -> Option<Found> {
    let node = place.node;
    let known = inner.state.nodes.get(&node)?;
    let open = inner.handles.contains_key(&node);
    if known.places.is_empty() && !open {
        return None;
    }
    let in_hand = inner.streaming.in_hand.get(&node).into_iter().flatten();
    let in_hand: Vec<_> = in_hand.map(|stretch| stretch.range.clone()).collect();
    // Closed files wait until much is spooled.
    let open = open || due == Due::Streamed && !much;
    let content = known.content()?;
    if due == Due::Streamed && open && content.block_is_open(known.last_name()) {
        return None;
    }
    let found = due_of(content, &in_hand, place.after, due, open)?;
    (found.range.start < place.upto).then_some(found)
}

/// The hash of a file up to `begin`, if it is known up to a hole that ends there.
fn hash_before(
    streaming: &Streaming,
    node: u64,
    content: &OpenContent,
    begin: u64,
) -> Option<blake3::Hasher> {
    let (upto, mut hasher) = streaming.hash(node).unwrap_or_default();
    if upto > begin || begin - upto > HASHED_HOLE_BYTES_MAX {
        return None;
    }
    if upto < begin {
        let gap = content.cover(upto, begin);
        if gap.iter().any(|(_, _, place)| place.is_some()) {
            return None;
        }
        let zeros = [0; 1 << 16];
        let mut left = (begin - upto) as usize;
        while left > 0 {
            let length = left.min(zeros.len());
            hasher.update(&zeros[..length]);
            left -= length;
        }
    }
    Some(hasher)
}

/// The extents that are sound, those that follow each other together, with the place of each such run.
fn runs(
    mut begin: u64,
    extents: &[Extent],
    sound: impl Fn(&Range<u64>) -> bool,
) -> Vec<(u64, Vec<Extent>)> {
    let mut runs: Vec<(u64, Vec<Extent>)> = Vec::new();
    let mut goes_on = false;
    for extent in extents {
        let range = begin..begin + extent.length;
        let is_sound = sound(&range);
        match runs.last_mut() {
            Some((_, run)) if is_sound && goes_on => run.push(*extent),
            _ if is_sound => runs.push((begin, vec![*extent])),
            _ => {}
        }
        goes_on = is_sound;
        begin = range.end;
    }
    runs
}

fn file_of(size: u64, extents: Vec<Extent>) -> File {
    let content = match extents.as_slice() {
        [
            Extent {
                chunk: Some(id), ..
            },
        ] => Content::One(*id),
        _ => Content::Extents(extents),
    };
    File {
        size,
        content,
        ..File::empty()
    }
}
