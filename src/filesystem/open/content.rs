//! The bytes of a file in an open point: references to files of complete points, spooled bytes, and holes.

use super::few::Few;
use crate::backup::block_of;
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::point::{Content, File, Trees};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// A file of a complete point that others refer to.
#[derive(Debug)]
pub(in crate::filesystem) struct SourceFile {
    pub number: u64,
    pub repository: ObjectId,
    /// None when that repository is not mounted now: the bytes cannot be read until it is.
    pub trees: Option<Arc<Trees>>,
    held: Held,
    /// Whether it is none of a complete point, but bytes that were written here and stored since.
    pub written: bool,
}

/// A [`File`] in fewer bytes: most are one chunk.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    Chunk { size: u64, block: u32, id: ChunkId },
    File(Box<File>),
}

/// An extent of a source, or the part of it that lies in a range.
pub(in crate::filesystem) struct SourcePart {
    /// The chunk, or none for a hole.
    pub chunk: Option<ChunkId>,
    /// Which bytes of the extent; a hole may be longer than any chunk.
    pub within: Range<u64>,
    /// Whether that is all of it.
    pub whole: bool,
}

impl SourcePart {
    /// Bytes in it.
    pub fn length(&self) -> u64 {
        self.within.end - self.within.start
    }
}

impl SourceFile {
    /// A file whose chunks are in this repository.
    pub fn new(
        number: u64,
        (repository, trees): (ObjectId, Option<Arc<Trees>>),
        file: File,
        written: bool,
    ) -> Self {
        let held = match file {
            File {
                size,
                hash: None,
                block,
                content: Content::One(id),
            } => Held::Chunk { size, block, id },
            file => Held::File(Box::new(file)),
        };
        Self {
            number,
            repository,
            trees,
            held,
            written,
        }
    }

    /// The file.
    pub fn file(&self) -> Cow<'_, File> {
        match &self.held {
            Held::Chunk { size, block, id } => Cow::Owned(File {
                size: *size,
                hash: None,
                block: *block,
                content: Content::One(*id),
            }),
            Held::File(file) => Cow::Borrowed(file),
        }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        match &self.held {
            Held::Chunk { size, .. } => *size,
            Held::File(file) => file.size,
        }
    }

    /// The trees of its repository. Fails when that is not mounted now.
    pub fn trees(&self) -> Result<&Arc<Trees>> {
        self.trees.as_ref().ok_or_else(|| {
            let message = format!(
                "the repository {} that this was copied from is not mounted; mount it, too",
                self.repository
            );
            Error::new(Kind::Unreachable, message)
        })
    }

    /// Appends the bytes of one of its parts.
    pub fn read(&self, part: &SourcePart, bytes: &mut Vec<u8>) -> Result<()> {
        let Some(id) = part.chunk else {
            bytes.resize(bytes.len() + part.length() as usize, 0);
            return Ok(());
        };
        let repository = self.trees()?.repository();
        let location = repository.locate(&id)?;
        // Chunks are far shorter than 4 GiB.
        let within = part.within.start as u32..part.within.end as u32;
        repository.read_located(&location, within, bytes)
    }

    /// The part of a chunk that lies before byte `end`, where it goes on behind that.
    pub fn begun_before(&self, end: u64) -> Result<Option<SourcePart>> {
        if end == 0 {
            return Ok(None);
        }
        let Some(part) = self.parts(end - 1, end + 1)?.next().transpose()? else {
            return Ok(None);
        };
        let goes_on = part.length() > 1;
        Ok(goes_on.then_some(SourcePart {
            within: 0..part.within.start + 1,
            whole: false,
            ..part
        }))
    }

    /// What its bytes from `begin` to `end` are, in order.
    pub fn parts(
        &self,
        begin: u64,
        end: u64,
    ) -> Result<impl Iterator<Item = Result<SourcePart>> + use<>> {
        let extents = self.trees()?.extents_from(&self.file(), begin);
        let inside = extents.take_while(move |extent| match extent {
            Ok((at, _)) => *at < end,
            Err(_) => true,
        });
        Ok(inside.map(move |extent| {
            let (at, extent) = extent?;
            let (from, upto) = (begin.max(at) - at, end.min(at + extent.length) - at);
            Ok(SourcePart {
                chunk: extent.chunk,
                within: from..upto,
                whole: upto - from == extent.length,
            })
        }))
    }
}

/// Whether every chunk of a file is in the index of the repository of these trees.
pub(in crate::filesystem) fn is_there(trees: &Arc<Trees>, file: &File) -> Result<bool> {
    for extent in trees.extents_from(file, 0) {
        let chunk = match extent {
            Ok((_, extent)) => extent.chunk,
            // A page of extents is missing.
            Err(error) if error.kind() == Kind::Damaged => return Ok(false),
            Err(error) => return Err(error),
        };
        if let Some(chunk) = chunk
            && trees.repository().find_kept(&chunk)?.is_none()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a stretch of bytes is.
#[derive(Clone, Debug)]
pub(in crate::filesystem) enum Place {
    /// In the node's spool file, at the same offset.
    Spool,
    /// In a source, from this offset on.
    Source(Arc<SourceFile>, u64),
}

/// A stretch of bytes of a file.
#[derive(Clone, Debug)]
pub(in crate::filesystem) struct Segment {
    pub begin: u64,
    pub length: u64,
    pub place: Place,
}

impl Segment {
    pub fn end(&self) -> u64 {
        self.begin + self.length
    }

    /// The part from `begin` to `end`.
    pub fn part(&self, begin: u64, end: u64) -> Self {
        let place = match &self.place {
            Place::Spool => Place::Spool,
            Place::Source(source, offset) => {
                Place::Source(source.clone(), offset + (begin - self.begin))
            }
        };
        Self {
            begin,
            length: end - begin,
            place,
        }
    }

    /// Whether `next` goes on where this one ends.
    fn joins(&self, next: &Self) -> bool {
        let adjacent = self.end() == next.begin;
        adjacent
            && match (&self.place, &next.place) {
                (Place::Spool, Place::Spool) => true,
                (Place::Source(one, offset), Place::Source(two, next_offset)) => {
                    one.number == two.number && offset + self.length == *next_offset
                }
                _ => false,
            }
    }
}

/// A file's bytes: stretches in order, holes between them.
#[derive(Clone, Debug, Default)]
pub(in crate::filesystem) struct OpenContent {
    pub size: u64,
    pub segments: Few<Segment>,
    /// How often it changed: what is computed from it without a lock holds only while this is the same.
    pub changes: u64,
    /// Bytes of it that are in the spool.
    pub spooled: u64,
    /// What was written last, one after the other.
    pub run: Range<u64>,
}

/// The name that a file will have which rsync writes: until it is whole, a dot stands before it, and a dot and six
/// random characters behind.
fn without_decoration(name: &[u8]) -> &[u8] {
    match name {
        [b'.', inside @ .., b'.', _, _, _, _, _, _] => inside,
        _ => name,
    }
}

fn spooled_in(segments: &[Segment]) -> u64 {
    let spooled = segments
        .iter()
        .filter(|segment| matches!(segment.place, Place::Spool));
    spooled.map(|segment| segment.length).sum()
}

impl OpenContent {
    /// A file that is the source's, whole.
    pub fn of_source(source: Arc<SourceFile>) -> Self {
        let mut content = Self::default();
        if source.size() > 0 {
            content.put(Segment {
                begin: 0,
                length: source.size(),
                place: Place::Source(source, 0),
            });
        }
        content
    }

    /// Puts a stretch over whatever is there.
    pub fn put(&mut self, segment: Segment) {
        if segment.length == 0 {
            return;
        }
        self.changes += 1;
        let spooled = matches!(segment.place, Place::Spool);
        let begin = match self.run.end == segment.begin {
            true => self.run.start,
            false => segment.begin,
        };
        self.run = match spooled {
            true => begin..segment.end(),
            false => 0..0,
        };
        self.size = self.size.max(segment.end());
        // Nearly always the new stretch goes on at the end.
        if let Some(last) = self.segments.last_mut()
            && last.joins(&segment)
        {
            last.length += segment.length;
            self.spooled += u64::from(spooled) * segment.length;
            return;
        }
        let (begin, end) = (segment.begin, segment.end());
        let first = self.segments.partition_point(|old| old.end() <= begin);
        let behind = self.segments.partition_point(|old| old.begin < end);
        let mut new = Vec::with_capacity(3);
        if first < behind {
            let (left, right) = (&self.segments[first], &self.segments[behind - 1]);
            let left = (left.begin < begin).then(|| left.part(left.begin, begin));
            let right = (right.end() > end).then(|| right.part(end, right.end()));
            new.extend(left);
            new.push(segment);
            new.extend(right);
        } else {
            new.push(segment);
        }
        self.spooled -= spooled_in(&self.segments[first..behind]);
        self.spooled += spooled_in(&new);
        let from = first.saturating_sub(1);
        self.segments.change(|segments| {
            segments.splice(first..behind, new);
            let upto = (from + 5).min(segments.len());
            for place in (from + 1..upto).rev() {
                if segments[place - 1].joins(&segments[place]) {
                    segments[place - 1].length += segments[place].length;
                    segments.remove(place);
                }
            }
        });
    }

    /// Cuts or extends the file; what is added is a hole.
    pub fn resize(&mut self, size: u64) {
        self.changes += 1;
        if size < self.run.end {
            self.run = 0..0;
        }
        let kept = self.segments.partition_point(|old| old.begin < size);
        let from = kept.saturating_sub(1);
        self.spooled -= spooled_in(&self.segments[from..]);
        if kept < self.segments.len() {
            self.segments.change(|segments| segments.truncate(kept));
        }
        if let Some(last) = self.segments.last_mut() {
            last.length = last.length.min(size - last.begin);
        }
        self.spooled += spooled_in(&self.segments[from..]);
        self.size = size;
    }

    /// Says that a stretch of spooled bytes is in the repository. The content stays what it was.
    pub fn stored(&mut self, segment: Segment) {
        let (size, changes, run) = (self.size, self.changes, self.run.clone());
        self.put(segment);
        (self.size, self.changes, self.run) = (size, changes, run);
    }

    /// Whether a range of it was written here, holes included, and nothing of it is a reference.
    pub fn is_written(&self, range: &Range<u64>) -> bool {
        let refers = |place: &Option<Place>| matches!(place, Some(Place::Source(..)));
        let parts = self.cover(range.start, range.end);
        range.end <= self.size && !parts.iter().any(|(_, _, place)| refers(place))
    }

    /// The parts of a range that are not in the spool.
    pub fn not_spooled(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        for (begin, length, place) in self.cover(range.start, range.end) {
            match (place, gaps.last_mut()) {
                (Some(Place::Spool), _) => {}
                (_, Some(last)) if last.end == begin => last.end += length,
                _ => gaps.push(begin..begin + length),
            }
        }
        gaps
    }

    /// As [`File::block`]: a file goes on to be cut as the one that it was made from, a new one as a backup cuts one of
    /// this name.
    pub fn block(&self, name: &[u8]) -> u32 {
        let made_from = self.block_made_from();
        made_from.unwrap_or_else(|| block_of(without_decoration(name), self.size))
    }

    /// Whether it is not known yet how a file of this name is to be cut: that goes by its size when it is complete.
    pub fn block_is_open(&self, name: &[u8]) -> bool {
        let name = without_decoration(name);
        let goes_by_size = block_of(name, self.size) != block_of(name, u64::MAX);
        goes_by_size && self.block_made_from().is_none()
    }

    fn block_made_from(&self) -> Option<u32> {
        self.segments
            .iter()
            .find_map(|segment| match &segment.place {
                Place::Source(source, offset) if !source.written => {
                    (*offset == segment.begin).then_some(source.file().block)
                }
                _ => None,
            })
    }

    /// Makes a hole; the size stays.
    pub fn punch(&mut self, begin: u64, end: u64) {
        self.changes += 1;
        if begin < self.run.end {
            self.run = 0..0;
        }
        let first = self.segments.partition_point(|old| old.end() <= begin);
        let behind = self.segments.partition_point(|old| old.begin < end);
        if first >= behind {
            return;
        }
        let (left, right) = (&self.segments[first], &self.segments[behind - 1]);
        let left = (left.begin < begin).then(|| left.part(left.begin, begin));
        let right = (right.end() > end).then(|| right.part(end, right.end()));
        let left: Vec<_> = left.into_iter().chain(right).collect();
        self.spooled -= spooled_in(&self.segments[first..behind]);
        self.spooled += spooled_in(&left);
        self.segments.change(|segments| {
            segments.splice(first..behind, left);
        });
    }

    /// Bytes that are not holes.
    pub fn data_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// The stretches and holes that cover `begin..end`, in order; a hole has no place.
    pub fn cover(&self, begin: u64, end: u64) -> Vec<(u64, u64, Option<Place>)> {
        let end = end.min(self.size);
        let mut parts = Vec::new();
        let mut at = begin;
        let first = self.segments.partition_point(|old| old.end() <= begin);
        for segment in &self.segments[first..] {
            if segment.begin >= end {
                break;
            }
            if segment.begin > at {
                parts.push((at, segment.begin - at, None));
                at = segment.begin;
            }
            let part = segment.part(at, segment.end().min(end));
            at = part.end();
            parts.push((part.begin, part.length, Some(part.place)));
        }
        if at < end {
            parts.push((at, end - at, None));
        }
        parts
    }

    /// The stretch that ends at `end`.
    pub fn ending_at(&self, end: u64) -> Option<&Segment> {
        let behind = self.segments.partition_point(|old| old.end() < end);
        let found = self.segments.get(behind);
        found.filter(|segment| segment.end() == end)
    }

    /// The next data (or else hole) at or after `offset`, which lies in the file.
    pub fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        let parts = self.cover(offset, self.size);
        let found = parts.iter().find(|(_, _, place)| place.is_some() == data);
        match found {
            Some((begin, ..)) => Some(*begin),
            None if data => None,
            None => Some(self.size),
        }
    }

    /// The source that this file is equal to, if it is put together from one at the same offsets, holes apart.
    pub fn whole_source(&self) -> Option<Arc<SourceFile>> {
        let Place::Source(source, _) = &self.segments.first()?.place else {
            return None;
        };
        let in_place = |segment: &Segment| match &segment.place {
            Place::Source(other, offset) => {
                other.held == source.held
                    && other.repository == source.repository
                    && *offset == segment.begin
            }
            Place::Spool => false,
        };
        if self.size != source.size() || !self.segments.iter().all(in_place) {
            return None;
        }
        self.gaps_are_holes_of(source).then(|| source.clone())
    }

    fn gaps_are_holes_of(&self, source: &SourceFile) -> bool {
        let gaps = self.cover(0, self.size);
        let mut gaps = gaps.iter().filter(|(_, _, place)| place.is_none());
        gaps.all(|(begin, length, _)| {
            let Some(trees) = &source.trees else {
                return false;
            };
            let end = begin + length;
            trees
                .extents_from(&source.file(), *begin)
                .take_while(|extent| extent.as_ref().is_ok_and(|(at, _)| *at < end))
                .all(|extent| extent.is_ok_and(|(_, extent)| extent.chunk.is_none()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(number: u64) -> Arc<SourceFile> {
        let file = File {
            size: 1000,
            ..File::empty()
        };
        let repository = (ObjectId::default(), None);
        Arc::new(SourceFile::new(number, repository, file, false))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Spool(u64, u64),
        Source(u64, u64, u64, u64),
        Resize(u64),
        Punch(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..200u64, 1..60u64).prop_map(|(begin, length)| Step::Spool(begin, length)),
            (0..200u64, 1..60u64, 0..2u64, 0..100u64).prop_map(
                |(begin, length, number, offset)| Step::Source(begin, length, number, offset)
            ),
            (0..260u64).prop_map(Step::Resize),
            (0..220u64, 1..60u64).prop_map(|(begin, length)| Step::Punch(begin, begin + length)),
        ]
    }

    proptest! {
        /// The stretches say of each byte what a list of bytes says.
        #[test]
        fn stretches_agree_with_single_bytes(steps in proptest::collection::vec(step(), 0..30)) {
            let sources = [source(0), source(1)];
            let mut content = OpenContent::default();
            // For each byte: none for a hole, or the source (2 for the spool) and the offset there.
            let mut bytes: Vec<Option<(u64, u64)>> = Vec::new();
            for step in steps {
                let (begin, length, number, offset) = match step {
                    Step::Resize(size) => {
                        content.resize(size);
                        bytes.resize(size as usize, None);
                        continue;
                    }
                    Step::Punch(begin, end) => {
                        content.punch(begin, end);
                        let inside = (begin as usize).min(bytes.len())..(end as usize).min(bytes.len());
                        bytes[inside].fill(None);
                        continue;
                    }
                    Step::Spool(begin, length) => (begin, length, 2, begin),
                    Step::Source(begin, length, number, offset) => (begin, length, number, offset),
                };
                let place = match number {
                    2 => Place::Spool,
                    number => Place::Source(sources[number as usize].clone(), offset),
                };
                content.put(Segment { begin, length, place });
                let end = (begin + length) as usize;
                if bytes.len() < end {
                    bytes.resize(end, None);
                }
                for n in 0..length {
                    bytes[(begin + n) as usize] = Some((number, offset + n));
                }
            }
            prop_assert_eq!(content.size, bytes.len() as u64);
            prop_assert_eq!(content.spooled, spooled_in(&content.segments));
            let mut seen = Vec::new();
            for (begin, length, place) in content.cover(0, content.size) {
                for n in 0..length {
                    seen.push(match &place {
                        None => None,
                        Some(Place::Spool) => Some((2, begin + n)),
                        Some(Place::Source(source, offset)) => Some((source.number, offset + n)),
                    });
                }
            }
            prop_assert_eq!(seen, bytes);
        }
    }
}
