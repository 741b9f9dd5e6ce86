//! What is needed: every chunk that a point refers to, marked in the index. One bit for each chunk of the index, and
//! about 100 bytes for each pack, are held.

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::point::{Needs, Point, reach};
use crate::progress::Progress;
use crate::repository::{ChunkEntry, Repository, Segment};
use crate::store::names::{self, Name, PackKind};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A pack, and what of it is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pack {
    pub kind: PackKind,
    pub id: ObjectId,
    /// Length of the object, or what the index says of it.
    pub object_bytes: u64,
    /// When the store got it; none when it is only in the index.
    pub modified: Option<Time>,
    /// Whether every chunk was hashed here.
    pub hashed: bool,
    /// Plain bytes of its chunks, as far as the index lists it.
    pub stream_bytes: u64,
    /// Chunks that points need and that are taken from this pack, and their plain bytes.
    pub live_chunks: u64,
    pub live_bytes: u64,
}

impl Pack {
    fn new(kind: PackKind, id: ObjectId) -> Self {
        Self {
            kind,
            id,
            object_bytes: 0,
            modified: None,
            hashed: false,
            stream_bytes: 0,
            live_chunks: 0,
            live_bytes: 0,
        }
    }

    /// Whether no point needs anything of it.
    pub fn is_dead(&self) -> bool {
        self.live_chunks == 0
    }

    pub fn name(&self) -> String {
        Name::Pack(self.kind, self.id).to_string()
    }
}

/// The marks of one run. A chunk that is in several packs is needed in one of them only: one that is not condemned, that
/// the store has, that was hashed here; of several such the one with the lowest id, so that all hosts choose alike.
pub(super) struct Marks {
    repository: Arc<Repository>,
    condemned: HashSet<ObjectId>,
    pub packs: Vec<Pack>,
    places: HashMap<ObjectId, usize>,
    segments: Arc<Vec<Arc<Segment>>>,
    /// For each segment and each of its packs the place in `packs`.
    of_segment: Vec<Vec<usize>>,
    /// For each segment a bit for each of its chunks.
    bits: Vec<Vec<u64>>,
    needs: Needs,
}

/// Of several packs that hold a chunk, the one with the highest is taken: one that the store has, that is not condemned, that
/// was hashed here, and then the one with the lowest id.
type Rank = (bool, bool, bool, Reverse<(ObjectId, u32)>);

fn damaged(repository: &Repository, what: impl std::fmt::Display) -> Error {
    let message = format!(
        "{what} in {}; nothing is pruned before that is mended: run `keepfs check`",
        repository.location()
    );
    Error::new(Kind::Damaged, message)
}

impl Marks {
    /// Nothing is marked yet. The index is looked at anew, and then the packs in the store: a pack is in the store before
    /// it is in the index, so one that is only in the index was deleted.
    pub fn new(repository: &Arc<Repository>, condemned: &HashSet<ObjectId>) -> Result<Self> {
        repository.refresh_index()?;
        if let Some((id, why)) = repository.index_problems().first() {
            return Err(damaged(
                repository,
                format_args!("the index segment {id} cannot be read ({why})"),
            ));
        }
        let mut marks = Self {
            repository: repository.clone(),
            condemned: condemned.clone(),
            packs: Vec::new(),
            places: HashMap::new(),
            segments: Arc::default(),
            of_segment: Vec::new(),
            bits: Vec::new(),
            needs: Needs::default(),
        };
        marks.add_segments()?;
        for object in repository.store().list(names::PACKS)? {
            if let Some(Name::Pack(kind, id)) = Name::parse(&object.name) {
                let place = marks.place(kind, id);
                let pack = &mut marks.packs[place];
                pack.object_bytes = object.size;
                pack.modified = Some(object.modified);
            }
        }
        Ok(marks)
    }

    fn place(&mut self, kind: PackKind, id: ObjectId) -> usize {
        let packs = &mut self.packs;
        *self.places.entry(id).or_insert_with(|| {
            packs.push(Pack::new(kind, id));
            packs.len() - 1
        })
    }

    fn add_segments(&mut self) -> Result<()> {
        self.segments = self.repository.segments();
        for segment in self.segments.clone().iter() {
            let mut places = Vec::with_capacity(segment.pack_count() as usize);
            for number in 0..segment.pack_count() {
                let entry = segment.pack(number)?;
                let place = self.place(entry.kind, entry.id);
                let pack = &mut self.packs[place];
                pack.object_bytes = entry.object_bytes.into();
                pack.hashed |= entry.hashed();
                let last = entry.frames.checked_sub(1);
                let last = last.map(|last| segment.frame(&entry, last)).transpose()?;
                pack.stream_bytes = last.map_or(0, |frame| frame.stream_end.into());
                places.push(place);
            }
            self.of_segment.push(places);
            let words = segment.chunk_count().div_ceil(64);
            self.bits.push(vec![0; words as usize]);
        }
        Ok(())
    }

    /// Marks everything that these points need.
    pub fn mark<'a>(
        &mut self,
        points: impl IntoIterator<Item = &'a Arc<Point>>,
        progress: &Progress,
    ) -> Result<()> {
        let repository = self.repository.clone();
        let mut needs = std::mem::take(&mut self.needs);
        for point in points {
            let mut need = |id: &ChunkId| {
                progress.go_on()?;
                self.chunk(id)
            };
            reach(&repository, &point.record, &mut needs, &mut need).map_err(|error| {
                let name = String::from_utf8_lossy(point.name()).into_owned();
                match error.kind() {
                    Kind::Damaged => damaged(
                        &repository,
                        format_args!("the restore point {name} is damaged ({error})"),
                    ),
                    _ => error.context(name),
                }
            })?;
            progress.done(1, 0);
        }
        self.needs = needs;
        Ok(())
    }

    fn chunk(&mut self, id: &ChunkId) -> Result<()> {
        let mut best: Option<(Rank, usize, usize, u64, u32)> = None;
        for (segment, of_segment) in self.segments.iter().zip(&self.of_segment).enumerate() {
            let (listed, places) = of_segment;
            for (number, chunk) in listed.find_numbered(id)? {
                let Some(&place) = places.get(chunk.pack as usize) else {
                    continue;
                };
                let pack = &self.packs[place];
                let kept = !self.condemned.contains(&pack.id);
                let rank = (
                    pack.modified.is_some(),
                    kept,
                    pack.hashed,
                    Reverse((pack.id, chunk.offset)),
                );
                if best.is_none_or(|(other, ..)| other < rank) {
                    best = Some((rank, place, segment, number, chunk.length));
                }
            }
        }
        let Some(((true, ..), place, segment, number, length)) = best else {
            return Err(Error::new(
                Kind::Damaged,
                format!("chunk {id} is in no pack that is there"),
            ));
        };
        let word = &mut self.bits[segment][(number / 64) as usize];
        let bit = 1 << (number % 64);
        if *word & bit == 0 {
            *word |= bit;
            self.packs[place].live_chunks += 1;
            self.packs[place].live_bytes += u64::from(length);
        }
        Ok(())
    }

    /// A pack by its id.
    pub fn pack(&self, id: &ObjectId) -> Option<&Pack> {
        self.places.get(id).map(|place| &self.packs[*place])
    }

    /// Of these packs (places in `packs`) the marked chunks, each with its segment, in the order of the packs' streams.
    pub fn live_chunks(&self, packs: &HashSet<ObjectId>) -> Result<LiveChunks> {
        let mut live: LiveChunks = HashMap::new();
        for (number, segment) in self.segments.iter().enumerate() {
            let wanted: Vec<bool> = self.of_segment[number]
                .iter()
                .map(|place| packs.contains(&self.packs[*place].id))
                .collect();
            if !wanted.contains(&true) {
                continue;
            }
            for place in 0..segment.chunk_count() {
                let chunk = segment.chunk(place)?;
                let marked = self.bits[number][(place / 64) as usize] & 1 << (place % 64) != 0;
                if wanted.get(chunk.pack as usize) == Some(&true) {
                    let pack = self.packs[self.of_segment[number][chunk.pack as usize]].id;
                    let chunks = live.entry(pack).or_default();
                    chunks.push((segment.clone(), chunk, marked));
                }
            }
        }
        for chunks in live.values_mut() {
            chunks.sort_by_key(|(_, chunk, _)| (chunk.offset, chunk.length));
        }
        Ok(live)
    }
}

/// Of some packs every chunk with the segment that lists it, and whether it is marked.
pub(super) type LiveChunks = HashMap<ObjectId, Vec<(Arc<Segment>, ChunkEntry, bool)>>;
