//! Reading files: offset to extent to chunk to frame, with the last extents of each open file at hand.

use super::FileSystem;
use super::audit::Audited;
use super::control::ControlText;
use super::errno::{Answer, Rule};
use super::holes;
use super::inode::{Node, What};
use super::open::{OpenPoint, spool_is_short};
use super::readahead::Streak;
use super::repositories::CompletePoint;
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::point::{Extent, Extents, File};
use crate::repository::{Frame, FrameSpan, Location};
use parking_lot::Mutex;
use std::fs;
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

/// An open file.
pub(super) struct FileHandle {
    pub(super) node: Arc<Node>,
    pub(super) content: OpenedContent,
    /// What is written down when it is closed.
    pub(super) audited: Option<Audited>,
}

pub(super) enum OpenedContent {
    /// A file of the control tree.
    Control(ControlText),
    /// A file of a complete point.
    Complete(Box<Reader>),
    /// A file of an open point.
    Open(OpenFile),
}

/// A file of an open point, with its spool once that is needed.
pub(super) struct OpenFile {
    pub(super) open: Arc<OpenPoint>,
    pub(super) node: u64,
    /// Once it was written to.
    spool: OnceLock<fs::File>,
    /// Once spooled bytes were read from it.
    reading: OnceLock<fs::File>,
    /// Once the point is complete.
    sealed: OnceLock<Box<Reader>>,
}

impl OpenFile {
    /// The spool file, made with the first write.
    pub(super) fn spool(&self) -> Result<&fs::File> {
        if let Some(spool) = self.spool.get() {
            return Ok(spool);
        }
        let spool = self.open.spool(self.node)?;
        Ok(self.spool.get_or_init(|| spool))
    }

    /// Up to `size` bytes from `offset`. The spool file stays open, so that removing its name takes nothing away.
    fn read(&self, offset: u64, size: u32) -> Answer<Vec<u8>> {
        self.open.read_with(self.node, offset, size, || {
            if let Some(spool) = self.spool.get().or(self.reading.get()) {
                return Ok(spool);
            }
            let spool = self.open.existing_spool(self.node)?;
            let spool = spool.ok_or_else(spool_is_short)?;
            Ok(self.reading.get_or_init(|| spool))
        })
    }

    /// The file as it is in the complete point that this one has become.
    fn sealed(&self) -> Option<&Reader> {
        if let Some(reader) = self.sealed.get() {
            return Some(reader);
        }
        let (point, entry) = self.open.sealed_entry(self.node)?;
        let reader = Box::new(Reader::new(point, entry.file()?.clone()));
        Some(self.sealed.get_or_init(|| reader))
    }
}

/// Reads one file of a complete point.
pub(super) struct Reader {
    pub(super) point: Arc<CompletePoint>,
    pub(super) file: File,
    cursor: Mutex<Cursor>,
}

/// Where the last read was.
#[derive(Default)]
struct Cursor {
    /// The pieces of the last read.
    recent: Vec<Piece>,
    /// Goes on behind them.
    extents: Option<(u64, Extents)>,
    streak: Streak,
}

/// An extent with its place in the file and, unless it is a hole, in the repository.
#[derive(Clone)]
struct Piece {
    begin: u64,
    extent: Extent,
    chunk: Option<(ChunkId, Location)>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.begin + self.extent.length
    }
}

/// What a read answers.
pub enum Data {
    /// A part of a frame in memory.
    Frame(Frame, Range<usize>),
    /// Bytes put together from several, or none.
    Bytes(Vec<u8>),
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Frame(frame, range) => &frame[range.clone()],
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What the kernel may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Nothing: the content is made anew for each opening.
    Nothing,
    /// Bytes: only the kernel's own calls change them.
    Bytes,
    /// Bytes and listings: they never change.
    Everything,
}

impl Caching {
    fn of(what: &What) -> Self {
        match what {
            // Every read is to be written down.
            What::Complete(point, entry)
                if point.repository.for_readers && entry.file().is_some() =>
            {
                Self::Nothing
            }
            What::Complete(..) => Self::Everything,
            What::Open(..) => Self::Bytes,
            _ => Self::Nothing,
        }
    }
}

/// Whether a read may wait for the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    MemoryOnly,
    Waits,
    /// For no more of each frame than is asked for.
    WaitsForPart,
}

impl Reader {
    pub(super) fn new(point: Arc<CompletePoint>, file: File) -> Self {
        Self {
            point,
            file,
            cursor: Mutex::default(),
        }
    }

    /// The pieces that cover `range`, which lies in the file.
    fn pieces(&self, range: &Range<u64>) -> Result<Vec<Piece>> {
        let mut cursor = self.cursor.lock();
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let known = cursor
                .recent
                .iter()
                .find(|piece| (piece.begin..piece.end()).contains(&at));
            let piece = match known {
                Some(piece) => piece.clone(),
                None => self.next_piece(&mut cursor, at)?,
            };
            at = piece.end();
            pieces.push(piece);
        }
        cursor.recent.clone_from(&pieces);
        Ok(pieces)
    }

    /// The piece that holds byte `at`, by going on with the extents where that leads there.
    fn next_piece(&self, cursor: &mut Cursor, at: u64) -> Result<Piece> {
        let mut extents = match cursor.extents.take() {
            Some((next, extents)) if next == at => extents,
            _ => self.point.trees().extents_from(&self.file, at),
        };
        let (begin, extent) = extents.next().unwrap_or_else(|| {
            let message = "a file's extents are shorter than the file";
            Err(Error::new(Kind::Damaged, message))
        })?;
        cursor.extents = Some((begin + extent.length, extents));
        let chunk = match extent.chunk {
            Some(id) => Some((id, self.point.trees().repository().locate(&id)?)),
            None => None,
        };
        if let Some((id, location)) = &chunk
            && u64::from(location.length) != extent.length
        {
            let message = format!("chunk {id} has another length than the file says");
            return Err(Error::new(Kind::Damaged, message));
        }
        Ok(Piece {
            begin,
            extent,
            chunk,
        })
    }

    /// The bytes of `range`, which lies in the file; none when that would have to wait and must not.
    fn read(&self, range: &Range<u64>, patience: Patience) -> Result<Option<Data>> {
        let pieces = self.pieces(range)?;
        let read = self.read_pieces(&pieces, range, patience);
        let repository = self.point.trees().repository();
        let gone = |piece: &Piece| {
            let chunk = piece.chunk.as_ref();
            chunk.is_some_and(|(_, location)| repository.is_gone(&location.pack.id))
        };
        if read.is_ok() || !pieces.iter().any(gone) {
            return read;
        }
        // Prune has moved them: once more, from where they are now.
        self.cursor.lock().recent.clear();
        self.read_pieces(&self.pieces(range)?, range, patience)
    }

    fn read_pieces(
        &self,
        pieces: &[Piece],
        range: &Range<u64>,
        patience: Patience,
    ) -> Result<Option<Data>> {
        let patience = match patience {
            // Nobody knows whether the rest of the frame will be asked for.
            Patience::Waits if !self.cursor.lock().streak.in_order(range) => Patience::WaitsForPart,
            patience => patience,
        };
        if let [piece] = pieces
            && let Some((id, location)) = &piece.chunk
        {
            let within = within(piece, range);
            let span = location.frame_at(within.start)?;
            if location.offset + within.end <= span.stream_end {
                let place = |at: u32| location.offset + at - span.stream_begin;
                let upto = place(within.end);
                let Some(frame) = self.frame(location, &span, upto, patience)? else {
                    return Ok(None);
                };
                let bytes = place(within.start) as usize..upto as usize;
                check_whole(id, location, &within, &frame[bytes.clone()])?;
                return Ok(Some(Data::Frame(frame, bytes)));
            }
        }
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        for piece in pieces {
            let within = within(piece, range);
            let begin = bytes.len();
            match &piece.chunk {
                None => bytes.resize(begin + hole_bytes(piece, range), 0),
                Some((id, location)) => {
                    if !self.append(location, &within, patience, &mut bytes)? {
                        return Ok(None);
                    }
                    check_whole(id, location, &within, &bytes[begin..])?;
                }
            }
        }
        Ok(Some(Data::Bytes(bytes)))
    }

    /// Appends a part of a chunk; false when it is not in memory and must be.
    fn append(
        &self,
        location: &Location,
        within: &Range<u32>,
        patience: Patience,
        bytes: &mut Vec<u8>,
    ) -> Result<bool> {
        let mut at = within.start;
        while at < within.end {
            let span = location.frame_at(at)?;
            let upto = within.end.min(span.stream_end - location.offset);
            let place = |at: u32| location.offset + at - span.stream_begin;
            let Some(frame) = self.frame(location, &span, place(upto), patience)? else {
                return Ok(false);
            };
            bytes.extend_from_slice(&frame[place(at) as usize..place(upto) as usize]);
            at = upto;
        }
        Ok(true)
    }

    /// A frame of which the first `upto` bytes are asked for.
    fn frame(
        &self,
        location: &Location,
        span: &FrameSpan,
        upto: u32,
        patience: Patience,
    ) -> Result<Option<Frame>> {
        let repository = self.point.trees().repository();
        match patience {
            Patience::MemoryOnly => Ok(repository.cached_frame(location, span, upto)),
            Patience::Waits => repository.frame(location, span).map(Some),
            Patience::WaitsForPart => repository.frame_begin(location, span, upto).map(Some),
        }
    }

    /// The bytes of the file in this part of it.
    fn clamp(&self, offset: u64, size: u32) -> Range<u64> {
        let end = offset.saturating_add(size.into()).min(self.file.size);
        offset.min(end)..end
    }
}

/// The part of a piece's chunk that `range` of the file asks for. Chunks are far shorter than 4 GiB.
fn within(piece: &Piece, range: &Range<u64>) -> Range<u32> {
    let begin = range.start.max(piece.begin) - piece.begin;
    let end = range.end.min(piece.end()) - piece.begin;
    begin as u32..end as u32
}

fn hole_bytes(piece: &Piece, range: &Range<u64>) -> usize {
    (range.end.min(piece.end()) - range.start.max(piece.begin)) as usize
}

/// What was read whole is checked against its id: a frame's authentication says that it is what was written, the
/// id that it is what was meant.
fn check_whole(id: &ChunkId, location: &Location, within: &Range<u32>, bytes: &[u8]) -> Result<()> {
    if *within != (0..location.length) || ChunkId::of(bytes) == *id {
        return Ok(());
    }
    let message = format!(
        "chunk {id} in pack {} has other content than its id says",
        location.pack.id
    );
    Err(Error::new(Kind::Damaged, message))
}

/// The refusal of a change to what is complete or made up.
pub(super) fn read_only(node: &Node) -> Error {
    let sentence = match &node.what {
        What::Complete(..) => {
            "this is in a complete restore point, which never changes; copy it out, or make a new point"
        }
        _ => "this is made up by keepfs and cannot be written",
    };
    Error::new(Kind::ReadOnly, sentence)
}

impl FileSystem {
    /// Opens a file with the flags of open(2). What cannot change is opened for reading only.
    pub fn open(&self, ino: u64, flags: i32) -> Answer<u64> {
        self.open_by(ino, flags, None)
    }

    /// The same for this user, of whom it is written down what others' data a reader reads.
    pub fn open_for(&self, ino: u64, flags: i32, uid: u32) -> Answer<u64> {
        self.open_by(ino, flags, Some(uid))
    }

    fn open_by(&self, ino: u64, flags: i32, uid: Option<u32>) -> Answer<u64> {
        let node = self.node(ino)?;
        let changes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        let may_change = match &node.what {
            What::Open(..) => true,
            What::Control(place) => place.takes_verbs(),
            _ => false,
        };
        if changes && !may_change {
            return Err(self.noted(&node, read_only(&node).into()));
        }
        let content = match &node.what {
            What::Control(place) => OpenedContent::Control(self.open_control(&node, place, flags)?),
            What::Complete(point, entry) => match entry.file() {
                Some(file) => {
                    let reader = Reader::new(point.clone(), file.clone());
                    OpenedContent::Complete(Box::new(reader))
                }
                None => return Err(Rule::IsADirectory.into()),
            },
            What::Open(open, number) => OpenedContent::Open(OpenFile {
                open: open.clone(),
                node: *number,
                spool: OnceLock::new(),
                reading: OnceLock::new(),
                sealed: OnceLock::new(),
            }),
            _ => return Err(Rule::IsADirectory.into()),
        };
        if let OpenedContent::Open(file) = &content {
            file.open.opened(file.node);
        }
        let audited = self.audited(&node, &content, uid);
        Ok(self.files.insert(FileHandle {
            node,
            content,
            audited,
        }))
    }

    /// Closes an open file. One that was written to is compared with what it may be a copy of.
    pub fn close(&self, handle: u64) {
        let handle = self.files.remove(handle);
        if let Some(handle) = &handle
            && let Some(audited) = &handle.audited
        {
            self.write_down(&handle.node, audited);
        }
        if let Some(handle) = handle
            && let OpenedContent::Open(file) = &handle.content
        {
            if let Some(spool) = file.spool.get() {
                file.open.closed(file.node, Some(spool));
                self.seal_if_whole(&file.open);
            }
            if file.open.released(file.node) {
                self.let_go(&file.open, file.node);
            }
        }
    }

    /// What the kernel may keep of an inode, from one opening to the next.
    pub fn caching(&self, ino: u64) -> Caching {
        match self.inodes.get(ino).map(|node| Caching::of(&node.what)) {
            Ok(caching) => caching,
            Err(_) => Caching::Nothing,
        }
    }

    /// Up to `size` bytes from `offset`, if they are in memory.
    pub fn read_cached(&self, handle: u64, offset: u64, size: u32) -> Answer<Option<Data>> {
        self.read_with(handle, offset, size, Patience::MemoryOnly)
    }

    /// Up to `size` bytes from `offset`: fewer only at the end of the file.
    pub fn read(&self, handle: u64, offset: u64, size: u32) -> Answer<Data> {
        let data = self.read_with(handle, offset, size, Patience::Waits)?;
        Ok(data.unwrap_or(Data::Bytes(Vec::new())))
    }

    fn read_with(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        patience: Patience,
    ) -> Answer<Option<Data>> {
        let handle = self.files.get(handle)?;
        match &handle.content {
            OpenedContent::Control(text) => {
                let wait = patience != Patience::MemoryOnly;
                self.read_control(&handle.node, text, (offset, size), wait)
            }
            OpenedContent::Open(_) if patience == Patience::MemoryOnly => Ok(None),
            OpenedContent::Open(file) => {
                if let Some(reader) = file.sealed() {
                    return self.read_complete(reader, &handle.node, (offset, size), patience);
                }
                match (file.read(offset, size), file.sealed()) {
                    (Ok(bytes), _) => Ok(Some(Data::Bytes(bytes))),
                    // Sealed meanwhile.
                    (Err(_), Some(reader)) => {
                        self.read_complete(reader, &handle.node, (offset, size), patience)
                    }
                    (Err(failure), None) => Err(self.noted(&handle.node, failure)),
                }
            }
            OpenedContent::Complete(reader) => {
                let data = self.read_complete(reader, &handle.node, (offset, size), patience)?;
                if let (Some(data), Some(audited)) = (&data, &handle.audited) {
                    audited.read(data.len() as u64);
                }
                Ok(data)
            }
        }
    }

    fn read_complete(
        &self,
        reader: &Reader,
        node: &Node,
        (offset, size): (u64, u32),
        patience: Patience,
    ) -> Answer<Option<Data>> {
        let range = reader.clamp(offset, size);
        if range.is_empty() {
            return Ok(Some(Data::Bytes(Vec::new())));
        }
        let data = reader
            .read(&range, patience)
            .map_err(|error| self.noted(node, error.into()))?;
        match (data.is_some(), patience) {
            (false, _) => self.look_ahead_among_small(reader),
            (true, _) => self.look_ahead(reader, &range),
        }
        Ok(data)
    }

    /// After a miss on a file that shares its frame with others.
    fn look_ahead_among_small(&self, reader: &Reader) {
        let piece = reader.cursor.lock().recent.first().cloned();
        let Some((_, location)) = piece.and_then(|piece| piece.chunk) else {
            return;
        };
        let Ok(frame) = location.frame_at(0) else {
            return;
        };
        if frame.plain_bytes() <= location.length {
            return;
        }
        let frames = self.small_files.missed(&location, &frame);
        if !frames.is_empty() {
            self.read_ahead
                .fetch_frames(&reader.point, location, frames);
        }
    }

    fn look_ahead(&self, reader: &Reader, range: &Range<u64>) {
        let ahead = reader.cursor.lock().streak.next(
            range,
            reader.file.size,
            self.options.read_ahead_bytes,
        );
        if let Some(ahead) = ahead {
            self.read_ahead.fetch(&reader.point, &reader.file, ahead);
        }
    }

    /// The next data (or else hole) at or after `offset` in an open file.
    pub fn seek(&self, handle: u64, offset: u64, data: bool) -> Answer<u64> {
        let handle = self.files.get(handle)?;
        let reader = match &handle.content {
            OpenedContent::Complete(reader) => reader,
            OpenedContent::Open(file) => return file.open.seek(file.node, offset, data),
            OpenedContent::Control(_) => return Err(Rule::NotSupported.into()),
        };
        holes::seek(&reader.point, &reader.file, offset, data)
            .map_err(|failure| self.noted(&handle.node, failure))
    }
}
