//! Small chunks on their way into frames: gathered, sorted, and cut where a frame is full.

use super::kept::KeptFrames;
use super::pack::FRAME_CHUNKS_MAX;
use crate::id::ChunkId;
use std::collections::VecDeque;
use std::ops::Range;

/// Plain bytes after which a frame of small chunks is closed. On 56,124 small files (758 MB) at zstd 3, sorted as
/// below: 512 KiB 238.2 MB, 1 MiB 232.9 MB, 2 MiB 229.8 MB; one small file read alone costs one frame.
pub const GROUP_BYTES: usize = 1 << 20;
/// Small chunks that are gathered and sorted by ending and name before they are cut into frames. Frames of 1 MiB on
/// the same files: not sorted 242.9 MB, 8 MiB 237.4, 16 MiB 234.7, 32 MiB 232.9, 128 MiB 231.3. Up to three windows
/// are in memory, and a directory's restore needs the frames of one. Where a tool copies files from another repository
/// of the same mount, one more may wait for the rest of their frames there: those frames were windows, too.
pub const WINDOW_BYTES: usize = 16 << 20;
/// A window is also full when it holds so many chunks: what is noted of each takes 64 bytes.
const WINDOW_CHUNKS_MAX: usize = WINDOW_BYTES / 64;
/// So many of them may wait for the next window.
const WAITING_CHUNKS_MAX: usize = WINDOW_CHUNKS_MAX / 4;

/// Chunks that become one frame.
#[derive(Default)]
pub(super) struct Group {
    pub plain: Vec<u8>,
    pub chunks: Vec<(ChunkId, u32)>,
}

impl Group {
    pub fn push(&mut self, id: ChunkId, content: &[u8]) {
        self.chunks.push((id, content.len() as u32));
        self.plain.extend_from_slice(content);
    }
}

/// Small chunks that wait to be sorted into frames.
#[derive(Default)]
pub(super) struct Window {
    plain: Vec<u8>,
    /// Key, id, and where the content is in `plain`.
    chunks: Vec<(u128, ChunkId, Range<usize>)>,
    /// Bytes and chunks that wait for the rest of a frame which another repository's reader keeps.
    waiting: (usize, usize),
}

impl Window {
    pub fn push(&mut self, key: u128, id: ChunkId, content: &[u8]) {
        let begin = self.plain.len();
        self.plain.extend_from_slice(content);
        self.chunks.push((key, id, begin..self.plain.len()));
    }

    pub fn is_full(&self, window_bytes: usize) -> bool {
        let (bytes, chunks) = self.waiting;
        self.plain.len() - bytes >= window_bytes || self.chunks.len() - chunks >= WINDOW_CHUNKS_MAX
    }

    /// Takes what another repository's reader keeps as frames, which become the same frames here, and then what is to
    /// wait, up to so many bytes, because only a part of such a frame is there: the newest.
    pub fn take_kept(&mut self, kept: &KeptFrames, waiting_bytes_max: usize) -> (Vec<Group>, Self) {
        let chunks = self.chunks.iter();
        let (frames, parts) = kept.frames_among(chunks.map(|(_, id, range)| (*id, range.len())));
        let mut taken = vec![false; self.chunks.len()];
        let mut groups = Vec::new();
        for places in frames
            .iter()
            .filter(|places| places.len() <= FRAME_CHUNKS_MAX)
        {
            let mut group = Group::default();
            for place in places {
                let (_, id, range) = &self.chunks[*place];
                group.push(*id, &self.plain[range.clone()]);
                taken[*place] = true;
            }
            groups.push(group);
        }
        let mut bytes = 0;
        let newest = parts.iter().rev().take(WAITING_CHUNKS_MAX);
        let mut waiting: Vec<_> = newest
            .take_while(|place| {
                bytes += self.chunks[**place].2.len();
                bytes <= waiting_bytes_max
            })
            .collect();
        waiting.reverse();
        let mut rest = Self::default();
        for place in waiting {
            let (key, id, range) = &self.chunks[*place];
            rest.push(*key, *id, &self.plain[range.clone()]);
            taken[*place] = true;
        }
        let mut taken = taken.into_iter();
        self.chunks.retain(|_| taken.next() == Some(false));
        (groups, rest)
    }

    /// Adds what waits since the last window.
    pub fn wait(&mut self, waiting: Self) {
        self.waiting.0 += waiting.plain.len();
        self.waiting.1 += waiting.chunks.len();
        for (key, id, range) in waiting.chunks {
            self.push(key, id, &waiting.plain[range]);
        }
    }

    /// The window's frames. Equal keys stay in the order they came.
    pub fn groups(mut self) -> VecDeque<Group> {
        self.chunks.sort_by_key(|chunk| chunk.0);
        let mut groups = VecDeque::new();
        let mut group = Group::default();
        for (_, id, range) in self.chunks {
            group.push(id, &self.plain[range]);
            if group.plain.len() >= GROUP_BYTES || group.chunks.len() >= FRAME_CHUNKS_MAX {
                groups.push_back(std::mem::take(&mut group));
            }
        }
        groups.push_back(group);
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ObjectId;

    #[test]
    fn parts_of_a_kept_frame_wait_for_its_rest_and_form_it_again() {
        let kept = KeptFrames::new(1 << 20);
        let contents = [b"first".as_slice(), b"second", b"third"];
        let ids = contents.map(ChunkId::of);
        let key = (ObjectId([1; 16]), 7);
        kept.keep(key, &contents.concat(), None);
        for (id, offset) in ids.into_iter().zip([0, 5, 11]) {
            kept.note_chunk(key, id, offset);
        }
        let push = |window: &mut Window, content: &[u8]| {
            window.push(9, ChunkId::of(content), content);
        };
        let mut window = Window::default();
        push(&mut window, contents[2]);
        push(&mut window, b"of another frame");
        push(&mut window, contents[0]);
        let (whole, waiting) = window.take_kept(&kept, 10);
        assert!(whole.is_empty());
        // What waits does not fill the next window.
        let mut next = Window::default();
        push(&mut next, contents[1]);
        next.wait(waiting);
        assert!(next.is_full(6) && !next.is_full(7));
        let others = window.groups();
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].plain, b"of another frame");
        let (whole, waiting) = next.take_kept(&kept, 10);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].plain, contents.concat());
        assert_eq!(whole[0].chunks, [(ids[0], 5), (ids[1], 6), (ids[2], 5)]);
        assert!(waiting.chunks.is_empty() && next.chunks.is_empty());
    }

    #[test]
    fn no_more_than_the_newest_parts_wait() {
        let kept = KeptFrames::new(1 << 20);
        let contents = [b"first".as_slice(), b"second", b"third"];
        let key = (ObjectId([1; 16]), 7);
        kept.keep(key, &contents.concat(), None);
        let mut window = Window::default();
        for (content, offset) in contents.into_iter().zip([0, 5]) {
            kept.note_chunk(key, ChunkId::of(content), offset);
            window.push(0, ChunkId::of(content), content);
        }
        let (whole, waiting) = window.take_kept(&kept, 10);
        assert!(whole.is_empty());
        assert_eq!(waiting.plain, contents[1]);
        assert_eq!(window.groups()[0].plain, contents[0]);
    }
}
