//! Writing: chunks to frames to packs to the store, then the index. The order protects what is acknowledged:
//! a chunk is in the index only when its pack is durable, and [`Writer::flush`] returns when both are.

use super::Repository;
use super::condemned::Condemnation;
use super::lease::{OpenPointMark, WriterLease};
use super::pack::{
    CHUNK_BYTES_MAX, FRAME_BYTES_MAX, PACK_CHUNKS_MAX, PackBuilder, PackFacts, Payload,
    STREAM_BYTES_MAX,
};
use super::window::{GROUP_BYTES, Group, Window};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::store::Upload;
use crate::store::names::{Name, PackKind};
use crate::thread;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

/// A chunk of a large file is cut into frames of at most this many plain bytes: what a random 4 KiB read decrypts.
/// Measured on 2.1 GB in two files at zstd 3, stored and the median to decode one piece: 128 KiB 1,421 MB and 145 us,
/// 256 KiB 1,407 MB and 313 us, 512 KiB 1,401 MB and 614 us, whole chunks of 1 MiB 1,390 MB.
pub const PIECE_BYTES: usize = 256 << 10;
/// Plain bytes after which a frame of a large chunk begins a new zstd block, so that a random read decompresses no
/// more than the blocks up to its own; references across blocks stay. 1 GiB that compresses to a third, in pieces as
/// above at zstd 3, stored against zstd's own blocks, compressing, decompressing the first half and the whole: zstd's
/// own (128 KiB) 1,220 us, 144 us, 293 us; 64 KiB -0.23 %, 1,240, 146, 288; 32 KiB -0.31 %, 1,304, 158, 310; 16 KiB
/// +0.08 %, 1,396, 170, 332; a disk image 64 KiB -0.38 %, 32 KiB -0.76 %; a program 64 KiB -0.08 %, 32 KiB 0. Groups of
/// small files grow by 0.16 %, and are read whole, so they are left to zstd.
const BLOCK_BYTES: usize = 64 << 10;
/// Plain bytes of a frame of tree pages.
const TREE_FRAME_BYTES: usize = 512 << 10;
/// A compressed frame must be at least a sixty-fourth shorter, or it is stored raw and read faster.
const RAW_SHARE: usize = 64;
/// Packs that are being made durable while the next one is written.
const FINISHING_MAX: usize = 3;
/// An index segment is published at the latest after so many packs, chunks or bytes: what a crash may make a rerun send again.
const UNPUBLISHED_PACKS_MAX: usize = 16;
const UNPUBLISHED_CHUNKS_MAX: usize = 200_000;
const UNPUBLISHED_BYTES_MAX: u64 = 512 << 20;
const SHARDS: usize = 16;

/// Whether a pack ends because it is full, or with all that there is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    Follows,
    /// Whoever flushes puts all packs into the index together.
    IsFlushed,
}

/// Chunks that are being written: the repository has them soon.
#[derive(Default)]
struct Claimed([Mutex<HashSet<ChunkId>>; SHARDS]);

impl Claimed {
    fn shard(&self, id: &ChunkId) -> &Mutex<HashSet<ChunkId>> {
        &self.0[id.0[31] as usize % SHARDS]
    }
}

/// How a chunk is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Together with other small chunks; those with near keys come to lie together.
    Group(u128),
    /// By itself, in pieces.
    Alone,
    /// With other tree pages, in a tree pack.
    Tree,
}

impl Lane {
    /// The lane for a small file of this name: files of the same ending, and among them of similar names, compress
    /// better together. The key is two bytes of a hash of the ending and the first 14 bytes of the name.
    pub fn of_name(name: &[u8]) -> Self {
        let ending = match name.iter().rposition(|byte| *byte == b'.') {
            Some(dot) if dot > 0 && name.len() - dot <= 8 => &name[dot + 1..],
            _ => &[],
        };
        let hash = blake3::hash(&ending.to_ascii_lowercase());
        let mut key = [0; 16];
        key[..2].copy_from_slice(&hash.as_bytes()[..2]);
        let prefix = name.len().min(14);
        key[2..2 + prefix].copy_from_slice(&name[..prefix]);
        Self::Group(u128::from_be_bytes(key))
    }
}

/// What a writer has done so far.
#[derive(Debug, Default)]
pub struct Written {
    /// Chunks that were not there before.
    pub chunks: AtomicU64,
    /// Their plain bytes.
    pub plain_bytes: AtomicU64,
    /// Bytes of packs, directories and trailers included.
    pub stored_bytes: AtomicU64,
    /// Bytes of data packs.
    pub data_bytes: AtomicU64,
    /// Data packs finished.
    pub data_packs: AtomicU64,
    /// Frames that arrived compressed and moved as they were, or were kept compressed by another repository's reader.
    pub frames_moved: AtomicU64,
    /// Frames of data compressed here.
    pub frames_compressed: AtomicU64,
    /// Frames of tree pages compressed here.
    pub tree_frames_compressed: AtomicU64,
}

struct OpenPack {
    builder: PackBuilder,
    upload: Box<dyn Upload>,
}

/// Writes chunks into a repository. Shared by all threads of one backup or copy.
pub struct Writer {
    repository: Arc<Repository>,
    /// The repository that moved frames come from.
    origin: Option<ObjectId>,
    /// Among the repository's writers.
    number: u64,
    /// What prune was about to delete when this writer began: it is not taken for stored.
    condemned: Arc<Condemnation>,
    lease: WriterLease,
    /// The mark of the open point that this writes for.
    mark: Option<OpenPointMark>,
    claimed: Arc<Claimed>,
    window: Mutex<Window>,
    /// Frames of full windows, compressed by whoever comes by next.
    ready: Mutex<VecDeque<Group>>,
    /// Held shared by every put and alone by a flush, so that a flush leaves nothing out that another thread has in
    /// hand: a chunk that this thread was told is there may just be on its way through that one.
    puts: RwLock<()>,
    /// Plain bytes of a full window.
    window_bytes: usize,
    trees: Mutex<Group>,
    data_pack: Mutex<Option<OpenPack>>,
    tree_pack: Mutex<Option<OpenPack>>,
    finishing: Mutex<Vec<JoinHandle<Result<()>>>>,
    unpublished: Arc<Mutex<Vec<(PackKind, PackFacts)>>>,
    failed: Mutex<Option<(Kind, String)>>,
    /// What was done so far.
    pub written: Arc<Written>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({})", self.repository.location())
    }
}

impl Writer {
    /// A writer of contents that are hashed here (`origin` none), or of frames that `origin` hashed.
    /// Fails with `ReadOnly` when this program must not write to the repository.
    pub fn new(repository: Arc<Repository>, origin: Option<ObjectId>) -> Result<Self> {
        repository.require_writable()?;
        let window_bytes = repository.local().window_bytes();
        let (number, condemned) = repository.begin_writer()?;
        Ok(Self {
            lease: WriterLease::new(repository.clone()),
            repository,
            origin,
            number,
            condemned,
            mark: None,
            claimed: Default::default(),
            window: Mutex::default(),
            ready: Mutex::default(),
            puts: RwLock::default(),
            window_bytes,
            trees: Mutex::default(),
            data_pack: Mutex::default(),
            tree_pack: Mutex::default(),
            finishing: Mutex::default(),
            unpublished: Arc::default(),
            failed: Mutex::default(),
            written: Arc::default(),
        })
    }

    /// The same, for an open point: the point's mark is made before anything is stored.
    pub fn marked(mut self, mark: &OpenPointMark) -> Self {
        self.mark = Some(mark.clone());
        self
    }

    /// The repository written to.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    fn shard(&self, id: &ChunkId) -> &Mutex<HashSet<ChunkId>> {
        self.claimed.shard(id)
    }

    /// Whether the repository has the chunk, or this writer is writing it.
    pub fn has(&self, id: &ChunkId) -> Result<bool> {
        // The claim is looked at first: publishing adds to the index before it lets go of the claim.
        let claimed = self.shard(id).lock();
        Ok(claimed.contains(id) || self.in_index(id)?)
    }

    fn in_index(&self, id: &ChunkId) -> Result<bool> {
        let packs = &self.condemned.packs;
        let found = self.repository.find_outside(id, self.origin, packs)?;
        Ok(found.is_some_and(|location| location.trusted(self.origin)))
    }

    /// Claims a chunk for this caller to write: false when the repository has it or it is claimed already.
    pub fn claim(&self, id: &ChunkId) -> Result<bool> {
        self.repository.advance();
        let mut claimed = self.shard(id).lock();
        Ok(!claimed.contains(id) && !self.in_index(id)? && claimed.insert(*id))
    }

    /// Gives up a claim on a chunk that cannot be written after all.
    pub fn release(&self, id: &ChunkId) {
        self.shard(id).lock().remove(id);
    }

    /// Stores a chunk unless it is there; true when it is new. `id` must be the BLAKE3 of `content`. Fails with `TooBig`,
    /// as all puts do, when it is longer than [`CHUNK_BYTES_MAX`]: no reader would take it.
    pub fn put(&self, lane: Lane, id: ChunkId, content: &[u8]) -> Result<bool> {
        require_chunk(content.len())?;
        let _put = self.puts.read();
        if !self.claim(&id)? {
            return Ok(false);
        }
        self.or_fail(|| self.store_claimed(lane, id, content))?;
        Ok(true)
    }

    /// Stores a chunk that this caller has claimed.
    pub fn put_claimed(&self, lane: Lane, id: ChunkId, content: &[u8]) -> Result<()> {
        require_chunk(content.len())?;
        let _put = self.puts.read();
        self.or_fail(|| self.store_claimed(lane, id, content))
    }

    fn store_claimed(&self, lane: Lane, id: ChunkId, content: &[u8]) -> Result<()> {
        self.written.chunks.fetch_add(1, Relaxed);
        self.written
            .plain_bytes
            .fetch_add(content.len() as u64, Relaxed);
        match lane {
            Lane::Alone => self.put_alone(id, content),
            Lane::Group(key) => self.put_small(key, id, content),
            Lane::Tree => self.put_tree(id, content),
        }
    }

    /// Stores chunks that follow each other in a file, those that are new together in one frame: blocks of an image
    /// compress better with their neighbours. Together they must not be longer than [`PIECE_BYTES`] or one chunk.
    pub fn put_run(&self, chunks: &[(ChunkId, &[u8])]) -> Result<()> {
        require_chunk(chunks.iter().map(|(_, content)| content.len()).sum())?;
        let _put = self.puts.read();
        self.or_fail(|| self.store_run(chunks))
    }

    fn store_run(&self, chunks: &[(ChunkId, &[u8])]) -> Result<()> {
        let mut group = Group::default();
        for (id, content) in chunks {
            if self.claim(id)? {
                group.plain.extend_from_slice(content);
                group.chunks.push((*id, content.len() as u32));
            }
        }
        self.written
            .chunks
            .fetch_add(group.chunks.len() as u64, Relaxed);
        self.written
            .plain_bytes
            .fetch_add(group.plain.len() as u64, Relaxed);
        match group.chunks.as_slice() {
            &[(id, _)] => self.put_alone(id, &group.plain),
            _ => self.write_group(PackKind::Data, group, BLOCK_BYTES),
        }
    }

    fn put_small(&self, key: u128, id: ChunkId, content: &[u8]) -> Result<()> {
        if content.len() > GROUP_BYTES {
            return self.put_alone(id, content);
        }
        let full = {
            let mut window = self.window.lock();
            window.push(key, id, content);
            let full = window.is_full(self.window_bytes);
            full.then(|| std::mem::take(&mut *window))
        };
        if let Some(window) = full {
            let groups = self.groups(window, self.window_bytes);
            self.ready.lock().extend(groups);
        }
        let group = self.ready.lock().pop_front();
        group.map_or(Ok(()), |group| {
            self.write_group(PackKind::Data, group, usize::MAX)
        })
    }

    /// The frames of a full window. Of what another repository's reader keeps, so many bytes may wait for the next.
    fn groups(&self, mut window: Window, waiting_bytes_max: usize) -> VecDeque<Group> {
        let Some(kept) = self.repository.frames.kept() else {
            return window.groups();
        };
        let (whole, rest) = window.take_kept(kept, waiting_bytes_max);
        self.window.lock().wait(rest);
        whole.into_iter().chain(window.groups()).collect()
    }

    fn put_tree(&self, id: ChunkId, content: &[u8]) -> Result<()> {
        let full = {
            let mut group = self.trees.lock();
            // A frame never outgrows what a reader accepts, however large the last page is.
            let ready = (group.plain.len() + content.len() > FRAME_BYTES_MAX)
                .then(|| std::mem::take(&mut *group));
            group.plain.extend_from_slice(content);
            group.chunks.push((id, content.len() as u32));
            let full = (group.plain.len() >= TREE_FRAME_BYTES).then(|| std::mem::take(&mut *group));
            [ready, full]
        };
        full.into_iter()
            .flatten()
            .try_for_each(|group| self.write_group(PackKind::Tree, group, usize::MAX))
    }

    fn put_alone(&self, id: ChunkId, content: &[u8]) -> Result<()> {
        let pieces = content.len().div_ceil(PIECE_BYTES).max(1);
        let payloads = content
            .chunks(content.len().div_ceil(pieces).max(1))
            .map(|piece| self.compress(PackKind::Data, piece, BLOCK_BYTES))
            .collect::<Result<_>>()?;
        self.append(PackKind::Data, payloads, vec![(id, content.len() as u32)])
    }

    fn write_group(&self, kind: PackKind, group: Group, block_bytes: usize) -> Result<()> {
        if group.chunks.is_empty() {
            return Ok(());
        }
        let payload = self.compress(kind, &group.plain, block_bytes)?;
        self.append(kind, vec![payload], group.chunks)
    }

    fn compress(&self, kind: PackKind, plain: &[u8], block_bytes: usize) -> Result<Payload> {
        if kind == PackKind::Data
            && let Some(kept) = self.repository.frames.kept()
            && let Some(payload) = kept.payload_of(plain)
        {
            self.written.frames_moved.fetch_add(1, Relaxed);
            return Ok(payload);
        }
        let counter = match kind {
            PackKind::Data => &self.written.frames_compressed,
            PackKind::Tree => &self.written.tree_frames_compressed,
        };
        counter.fetch_add(1, Relaxed);
        let level = self.repository.settings().level;
        let compressed = zstd_frame(level, plain, block_bytes).map_err(|code| {
            let why = zstd_safe::get_error_name(code);
            Error::new(Kind::Failed, format!("compressing a frame failed: {why}"))
        })?;
        let pays = compressed.len() < plain.len() - plain.len() / RAW_SHARE;
        Ok(Payload {
            bytes: if pays { compressed } else { plain.to_vec() },
            plain_bytes: plain.len() as u32,
        })
    }

    /// Appends frames that belong together, moved from another repository, with the chunks they hold; the caller
    /// has claimed those chunks.
    pub fn put_moved(&self, payloads: Vec<Payload>, chunks: Vec<(ChunkId, u32)>) -> Result<()> {
        for (_, length) in &chunks {
            require_chunk(*length as usize)?;
        }
        let _put = self.puts.read();
        self.written
            .frames_moved
            .fetch_add(payloads.len() as u64, Relaxed);
        self.written.chunks.fetch_add(chunks.len() as u64, Relaxed);
        let plain_bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.1)).sum();
        self.written.plain_bytes.fetch_add(plain_bytes, Relaxed);
        self.or_fail(|| self.append(PackKind::Data, payloads, chunks))
    }

    /// Puts frames, which stay together, at the end of the open pack of their kind.
    fn append(
        &self,
        kind: PackKind,
        payloads: Vec<Payload>,
        chunks: Vec<(ChunkId, u32)>,
    ) -> Result<()> {
        let full = {
            let mut open = self.pack(kind).lock();
            // Until it is put back, a failure or a panic drops it: nothing may follow half a frame.
            let mut pack = match open.take() {
                Some(pack) => pack,
                None => self.open_pack(kind)?,
            };
            for mut payload in payloads {
                pack.builder.frame(&mut payload.bytes, payload.plain_bytes);
                pack.upload.write(Bytes::from(payload.bytes))?;
                self.repository.advance();
            }
            pack.builder.chunks(chunks);
            let full = pack.builder.object_bytes() >= self.repository.settings().pack_bytes
                || pack.builder.chunk_count() >= PACK_CHUNKS_MAX
                || pack.builder.stream_bytes() + 2 * FRAME_BYTES_MAX as u64 > STREAM_BYTES_MAX;
            if full {
                Some(pack)
            } else {
                *open = Some(pack);
                None
            }
        };
        full.map_or(Ok(()), |pack| self.finish_pack(kind, pack, More::Follows))
    }

    fn pack(&self, kind: PackKind) -> &Mutex<Option<OpenPack>> {
        match kind {
            PackKind::Data => &self.data_pack,
            PackKind::Tree => &self.tree_pack,
        }
    }

    fn open_pack(&self, kind: PackKind) -> Result<OpenPack> {
        match &self.mark {
            Some(mark) => mark.hold()?,
            None => self.lease.hold()?,
        }
        let origin = match kind {
            PackKind::Data => self.origin.unwrap_or_default(),
            PackKind::Tree => ObjectId::default(),
        };
        let access = &self.repository.access;
        let (builder, head) = PackBuilder::new(&access.ring, kind, ObjectId::random(), origin)?;
        let mut upload = access
            .store
            .upload(&Name::Pack(kind, builder.id()).to_string())?;
        upload.write(Bytes::from(head))?;
        Ok(OpenPack { builder, upload })
    }

    /// Makes a pack durable in the background; at most [`FINISHING_MAX`] at a time.
    fn finish_pack(&self, kind: PackKind, pack: OpenPack, more: More) -> Result<()> {
        let (written, unpublished) = (self.written.clone(), self.unpublished.clone());
        let (repository, claimed) = (self.repository.clone(), self.claimed.clone());
        let at_once = more == More::Follows && self.origin.is_some();
        let finish = move || {
            let OpenPack {
                builder,
                mut upload,
            } = pack;
            let (end, facts) = builder.finish();
            upload.write(Bytes::from(end))?;
            upload.finish()?;
            repository.advance();
            written.stored_bytes.fetch_add(facts.object_bytes, Relaxed);
            if kind == PackKind::Data {
                written.data_bytes.fetch_add(facts.object_bytes, Relaxed);
                written.data_packs.fetch_add(1, Relaxed);
            }
            unpublished.lock().push((kind, facts));
            match at_once {
                // Whoever goes on after a kill finds it.
                true => publish(&repository, &unpublished, &claimed, |packs| {
                    !packs.is_empty()
                }),
                false => Ok(()),
            }
        };
        let oldest = {
            let mut finishing = self.finishing.lock();
            let thread = thread::try_spawn(finish);
            finishing.push(
                thread
                    .map_err(|error| Error::io("starting a thread that finishes a pack", error))?,
            );
            (finishing.len() > self.finishing_max()).then(|| finishing.remove(0))
        };
        oldest.map_or(Ok(()), join)?;
        self.publish_if(|packs| {
            let chunks: usize = packs.iter().map(|(_, pack)| pack.chunks.len()).sum();
            let bytes: u64 = packs.iter().map(|(_, pack)| pack.object_bytes).sum();
            packs.len() >= UNPUBLISHED_PACKS_MAX
                || chunks >= UNPUBLISHED_CHUNKS_MAX
                || bytes >= UNPUBLISHED_BYTES_MAX
        })
    }

    fn publish_if(&self, due: impl Fn(&[(PackKind, PackFacts)]) -> bool) -> Result<()> {
        publish(&self.repository, &self.unpublished, &self.claimed, due)
    }

    /// Packs that are made durable at a time. Of a copy over a network what is on its way when its process is killed is
    /// sent again, so that there it is one beside the pack that is being filled.
    fn finishing_max(&self) -> usize {
        match self.origin.is_some() && self.repository.location().contains("://") {
            true => 1,
            false => FINISHING_MAX,
        }
    }

    /// Whether the chunk is durable and in the index. What this writer was asked to put is not, until its pack was
    /// published.
    pub fn is_stored(&self, id: &ChunkId) -> Result<bool> {
        let claimed = self.shard(id).lock();
        Ok(!claimed.contains(id) && self.in_index(id)?)
    }

    /// Publishes the packs that are finished. Those that are being written, or being made durable, are left for later.
    pub fn publish(&self) -> Result<()> {
        self.or_fail(|| self.publish_if(|packs| !packs.is_empty()))
    }

    /// Returns when everything put so far is durable and in the index, also what other threads have put. A chunk that
    /// was claimed apart from its put is its claimer's to wait for.
    pub fn flush(&self) -> Result<()> {
        let _alone = self.puts.write();
        self.or_fail(|| self.flush_all())
    }

    fn flush_all(&self) -> Result<()> {
        let window = std::mem::take(&mut *self.window.lock());
        let ready = std::mem::take(&mut *self.ready.lock());
        for group in ready.into_iter().chain(self.groups(window, 0)) {
            self.write_group(PackKind::Data, group, usize::MAX)?;
        }
        let trees = std::mem::take(&mut *self.trees.lock());
        self.write_group(PackKind::Tree, trees, usize::MAX)?;
        for kind in [PackKind::Data, PackKind::Tree] {
            let open = self.pack(kind).lock().take();
            open.map_or(Ok(()), |pack| self.finish_pack(kind, pack, More::IsFlushed))?;
        }
        let finishing = std::mem::take(&mut *self.finishing.lock());
        finishing.into_iter().try_for_each(join)?;
        self.publish_if(|packs| !packs.is_empty())
    }

    /// Once this has failed or panicked nothing more is written: what was claimed may be lost.
    fn or_fail(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.check_failed()?;
        let unfinished = Unfinished(self);
        let result = work();
        std::mem::forget(unfinished);
        if let Err(error) = &result {
            self.note_failure(error.kind(), error.message());
        }
        result
    }

    fn note_failure(&self, kind: Kind, message: &str) {
        self.failed.lock().get_or_insert((kind, message.to_owned()));
    }

    fn check_failed(&self) -> Result<()> {
        match &*self.failed.lock() {
            Some((kind, message)) => Err(Error::new(*kind, message.clone())),
            None => Ok(()),
        }
    }
}

/// Puts finished packs into the index, if that is `due`.
fn publish(
    repository: &Repository,
    unpublished: &Mutex<Vec<(PackKind, PackFacts)>>,
    claimed: &Claimed,
    due: impl Fn(&[(PackKind, PackFacts)]) -> bool,
) -> Result<()> {
    let packs = {
        let mut unpublished = unpublished.lock();
        if !due(&unpublished) {
            return Ok(());
        }
        std::mem::take(&mut *unpublished)
    };
    repository.index.publish(&repository.access, &packs)?;
    for (id, _) in packs.iter().flat_map(|(_, pack)| &pack.chunks) {
        claimed.shard(id).lock().remove(id);
    }
    Ok(())
}

/// One zstd frame in which at least every `block_bytes` a block begins. Fails with zstd's number of the error.
fn zstd_frame(level: i32, plain: &[u8], block_bytes: usize) -> std::result::Result<Vec<u8>, usize> {
    thread_local! {
        static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    }
    COMPRESSOR.with_borrow_mut(|context| {
        context.reset(ResetDirective::SessionOnly)?;
        context.set_parameter(CParameter::CompressionLevel(level))?;
        context.set_pledged_src_size(Some(plain.len() as u64))?;
        let mut compressed = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
        let mut output = OutBuffer::around(&mut compressed);
        let mut blocks = plain.chunks(block_bytes).peekable();
        while let Some(block) = blocks.next() {
            let end = match blocks.peek() {
                Some(_) => ZSTD_EndDirective::ZSTD_e_flush,
                None => ZSTD_EndDirective::ZSTD_e_end,
            };
            let mut input = InBuffer::around(block);
            let left = context.compress_stream2(&mut output, &mut input, end)?;
            assert_eq!(left, 0, "the bound leaves room for blocks of 64 KiB");
        }
        Ok(compressed)
    })
}

fn require_chunk(length: usize) -> Result<()> {
    if length <= CHUNK_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "a piece of {length} bytes cannot be stored: no reader takes one of more than {CHUNK_BYTES_MAX}"
    );
    Err(Error::new(Kind::TooBig, message))
}

/// A write in hand: dropped only when it panicked.
struct Unfinished<'a>(&'a Writer);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let message = "a thread that wrote to the repository stopped unexpectedly; run it again";
        self.0.note_failure(Kind::Failed, message);
    }
}

fn join(finishing: JoinHandle<Result<()>>) -> Result<()> {
    finishing.join().unwrap_or_else(|_| {
        Err(Error::new(
            Kind::Failed,
            "finishing a pack stopped unexpectedly",
        ))
    })
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.repository.end_writer(self.number);
        for finishing in self.finishing.lock().drain(..) {
            // The failure, if any, was or will be reported by flush(); here only the thread must not outlive us.
            let _ = join(finishing);
        }
    }
}
