//! Data: packs read from the first byte to the last, each chunk hashed.
//!
//! A pack whose frames were moved here unhashed, and in which nothing is wrong, is recorded in the index as hashed: its
//! chunks then satisfy any writer's deduplication. The pack itself keeps saying where its frames came from.

use super::packs::{Listed, each_pack};
use super::{Context, Needed, Object, Report, examined};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::repository::{FrameSpan, PACK_HEADER_BYTES, PackReader, TRAILER_BYTES, Trailer};
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Frames are read together up to this many bytes; each thread holds one such piece and one frame.
const READ_BYTES: u64 = 4 << 20;

/// Reads the packs that are `needed`, or all, and verifies every byte of them.
pub(super) fn check(context: &Context, needed: Option<&Needed>, report: &mut Report) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 16));
    context.progress.expect(report.packs, report.pack_bytes);
    let (sender, receiver) = crossbeam_channel::bounded::<Listed>(threads);
    let failed = Mutex::new(None);
    let (packs, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let whole = Mutex::new(HashSet::new());
    let work = |jobs: Receiver<Listed>| {
        for listed in jobs {
            if failed.lock().is_some() {
                continue;
            }
            match read(context, &listed) {
                Ok(sound) => {
                    if sound && context.unhashed.lock().contains(&listed.entry.id) {
                        whole.lock().insert(listed.entry.id);
                    }
                    packs.fetch_add(1, Relaxed);
                    bytes.fetch_add(listed.entry.object_bytes.into(), Relaxed);
                    context.progress.done(1, 0);
                }
                Err(error) => {
                    failed.lock().get_or_insert(error);
                }
            }
        }
    };
    let result = std::thread::scope(|scope| {
        for _ in 0..threads {
            let receiver = receiver.clone();
            scope.spawn(|| work(receiver));
        }
        drop(receiver);
        let sender = sender;
        let mut seen = HashSet::new();
        each_pack(
            context,
            &mut |pack| {
                needed.is_none_or(|needed| needed.contains(&pack.id)) && seen.insert(pack.id)
            },
            &mut |listed| {
                // What is wrong with the index was told when it was checked.
                if let Ok(listed) = listed {
                    sender
                        .send(listed)
                        .expect("the threads receive until the sender is gone");
                }
                Ok(())
            },
        )
    });
    result?;
    report.packs_read = packs.into_inner();
    report.bytes_read = bytes.into_inner();
    failed.into_inner().map_or(Ok(()), Err)?;
    record(context, &whole.into_inner(), report);
    Ok(())
}

/// Records what was hashed. A repository that this host may only read is checked all the same.
fn record(context: &Context, packs: &HashSet<ObjectId>, report: &mut Report) {
    if packs.is_empty() {
        return;
    }
    match context.recorder.publish_hashed(packs) {
        Ok(()) => {
            report.packs_hashed = packs.len() as u64;
            report.packs_unhashed -= report.packs_hashed;
        }
        Err(error) => tracing::warn!(
            "{} packs that came from other repositories were hashed and found sound, but this cannot be recorded: {error}",
            packs.len()
        ),
    }
}

/// What is wrong with one pack.
#[derive(Default)]
struct Wrong {
    sentences: Vec<String>,
    lost: HashSet<ChunkId>,
}

/// Reads one pack; whether every byte of it is as the index and its own directory say.
fn read(context: &Context, listed: &Listed) -> Result<bool> {
    let store = context.repository.store();
    // What is missing, or has another length, was told when packs were listed.
    let right_length = match store.head(&listed.name().to_string()) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(object) => object.size == u64::from(listed.entry.object_bytes),
    };
    let mut wrong = Wrong::default();
    if let Err(error) = examined(check_directory(context, listed))? {
        wrong.sentences.push(error.to_string());
    }
    let reader = PackReader::of_entry(context.repository.ring(), &listed.entry)?;
    let mut hashes = Hashes::new(listed);
    for run in runs(&listed.frames) {
        context.progress.go_on()?;
        let bytes = examined(stored(context, listed, run.first().zip(run.last())))?;
        for frame in run {
            let own = match &bytes {
                Ok(bytes) => {
                    let base = run[0].object_begin;
                    Ok(bytes
                        [(frame.object_begin - base) as usize..(frame.object_end - base) as usize]
                        .to_vec())
                }
                // Some of the frames may still be there, when the pack was cut.
                Err(_) => examined(stored(context, listed, Some((frame, frame))))?.map(Into::into),
            };
            match own.and_then(|bytes| reader.plain(frame, bytes)) {
                Ok(plain) => hashes.add(&plain, &mut wrong),
                Err(error) => hashes.skip(frame, error, &mut wrong),
            }
            context.progress.done(0, frame.stored_bytes().into());
        }
    }
    let all_hashed = hashes.finish(&mut wrong);
    let sound = right_length && all_hashed && wrong.sentences.is_empty();
    tell(context, listed, wrong);
    Ok(sound)
}

fn tell(context: &Context, listed: &Listed, wrong: Wrong) {
    let Some(first) = wrong.sentences.first() else {
        return;
    };
    let sentence = match wrong.sentences.len() {
        1 => first.clone(),
        more => format!("{first}, and {} more places", more - 1),
    };
    let number = context
        .findings
        .problem(Object::Pack, listed.name(), sentence);
    context
        .findings
        .chunks_are_lost(listed.entry.id, wrong.lost, number);
}

fn stored(
    context: &Context,
    listed: &Listed,
    ends: Option<(&FrameSpan, &FrameSpan)>,
) -> Result<bytes::Bytes> {
    let Some((first, last)) = ends else {
        return Ok(bytes::Bytes::new());
    };
    range(
        context,
        listed,
        first.object_range().start..last.object_range().end,
    )
}

fn range(context: &Context, listed: &Listed, range: Range<u64>) -> Result<bytes::Bytes> {
    context
        .repository
        .store()
        .get_range(&listed.name().to_string(), range)
}

/// Head, trailer and directory must be there, authenticate, and say what the index says.
fn check_directory(context: &Context, listed: &Listed) -> Result<()> {
    let entry = &listed.entry;
    let head = range(context, listed, 0..PACK_HEADER_BYTES as u64)?;
    let reader = PackReader::new(context.repository.ring(), entry.kind, entry.id, &head)?;
    let object_bytes = u64::from(entry.object_bytes);
    let trailer_at = object_bytes.saturating_sub(TRAILER_BYTES as u64);
    let trailer = Trailer::decode(
        &range(context, listed, trailer_at..object_bytes)?,
        object_bytes,
    )?;
    let directory = range(context, listed, trailer.directory_range())?;
    let facts = reader.directory(&trailer, directory.into())?;
    // The index may know more than the pack: that its chunks were hashed since.
    let same = facts.epoch == entry.epoch
        && facts.salt == entry.salt
        && (entry.hashed() || facts.origin == entry.origin)
        && facts.spans().eq(listed.frames.iter().copied())
        && facts.chunks == listed.chunks
        && facts
            .frames
            .last()
            .map_or(PACK_HEADER_BYTES as u64, |end| end.1.into())
            == trailer.directory_range().start;
    if same {
        return Ok(());
    }
    Err(Error::new(
        Kind::Damaged,
        "its directory and the index contradict each other",
    ))
}

/// Runs of frames that are read together; frames of a pack always lie one after the other.
fn runs(frames: &[FrameSpan]) -> impl Iterator<Item = &[FrameSpan]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let begin = rest.first()?.object_range().start;
        let count = rest
            .iter()
            .take_while(|frame| frame.object_range().end - begin <= READ_BYTES)
            .count();
        let (run, others) = rest.split_at(count.max(1));
        rest = others;
        Some(run)
    })
}

/// Hashes a pack's chunks as its stream goes by.
struct Hashes<'a> {
    chunks: std::slice::Iter<'a, (ChunkId, u32)>,
    current: Option<(ChunkId, u32)>,
    hasher: blake3::Hasher,
    whole: bool,
}

impl<'a> Hashes<'a> {
    fn new(listed: &'a Listed) -> Self {
        let mut chunks = listed.chunks.iter();
        Self {
            current: chunks.next().copied(),
            chunks,
            hasher: blake3::Hasher::new(),
            whole: true,
        }
    }

    fn add(&mut self, mut plain: &[u8], wrong: &mut Wrong) {
        while let Some((_, left)) = self.current.filter(|_| !plain.is_empty()) {
            let take = plain.len().min(left as usize);
            self.hasher.update(&plain[..take]);
            plain = &plain[take..];
            self.passed(take as u32, wrong);
        }
    }

    /// Goes past a frame that cannot be read.
    fn skip(&mut self, frame: &FrameSpan, error: Error, wrong: &mut Wrong) {
        wrong.sentences.push(error.to_string());
        let mut bytes = frame.plain_bytes();
        while let Some((id, left)) = self.current.filter(|_| bytes > 0) {
            let take = bytes.min(left);
            bytes -= take;
            if take > 0 {
                self.whole = false;
                wrong.lost.insert(id);
            }
            self.passed(take, wrong);
        }
    }

    /// Ends the stream; whether every chunk was looked at.
    fn finish(&mut self, wrong: &mut Wrong) -> bool {
        while self.current.is_some_and(|(_, left)| left == 0) {
            self.passed(0, wrong);
        }
        self.current.is_none()
    }

    fn passed(&mut self, bytes: u32, wrong: &mut Wrong) {
        let Some((id, left)) = &mut self.current else {
            return;
        };
        *left -= bytes;
        if *left > 0 {
            return;
        }
        if self.whole && self.hasher.finalize().as_bytes() != &id.0 {
            wrong
                .sentences
                .push(format!("chunk {id} has other content than its id says"));
            wrong.lost.insert(*id);
        }
        self.hasher.reset();
        self.whole = true;
        self.current = self.chunks.next().copied();
    }
}
