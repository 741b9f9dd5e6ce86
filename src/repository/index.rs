//! The index of a repository: all its live segments, mapped from the local cache.

use super::Access;
use super::crypto::{ObjectKind, Owner};
use super::pack::{FrameSpan, PackFacts};
use super::sealed::{self, Opener, Sealer};
use super::segment::{self, CacheFile, Changed, ChunkEntry, PackEntry, Segment};
use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::store::names::{self, Name, PackKind};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// As many segments of similar size are merged into one: lookups ask every segment's filter.
const SEGMENTS_PER_TIER: usize = 8;
/// Age at which the writer of an unfinished cache file is dead: none takes a day.
const STALE_SECONDS: i64 = 24 * 60 * 60;
/// Sealed bytes that are sent to the store at a time while a segment is uploaded.
const UPLOAD_BYTES: usize = 8 << 20;

/// Where a chunk is.
#[derive(Clone, Debug)]
pub struct Location {
    /// The chunk.
    pub id: ChunkId,
    segment: Arc<Segment>,
    /// The pack that holds it.
    pub pack: PackEntry,
    /// First byte in the pack's stream.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

impl Location {
    /// The frame that holds byte `within` of the chunk.
    pub fn frame_at(&self, within: u32) -> Result<FrameSpan> {
        self.segment.frame_at(&self.pack, self.offset + within)
    }

    /// The frame of the same pack with this number.
    pub fn frame(&self, number: u32) -> Result<FrameSpan> {
        self.segment.frame(&self.pack, number)
    }

    /// Every frame that holds a part of the chunk, in order.
    pub fn frames(&self) -> Result<Vec<FrameSpan>> {
        let first = self.frame_at(0)?;
        let end = self.offset + self.length;
        let mut frames = vec![first];
        while let Some(last) = frames.last().filter(|frame| frame.stream_end < end) {
            let next = self.frame(last.number + 1)?;
            frames.push(next);
        }
        Ok(frames)
    }

    /// Whether the chunk's content was hashed here, by its writer or by a check, or came unhashed from `origin`.
    pub fn trusted(&self, origin: Option<ObjectId>) -> bool {
        self.pack.hashed() || Some(self.pack.origin) == origin
    }
}

/// All live segments.
#[derive(Debug)]
pub(crate) struct Index {
    directory: PathBuf,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    refreshing: Mutex<()>,
    /// Held by the one merge at a time: a second one would merge the same segments.
    merging: Mutex<()>,
    problems: Mutex<HashMap<ObjectId, String>>,
}

impl Index {
    /// An index with nothing loaded, cached in `directory`.
    pub(crate) fn new(directory: PathBuf) -> Result<Self> {
        super::make_private(&directory)?;
        remove_stale(&directory, Clock::system().now());
        Ok(Self {
            directory,
            segments: RwLock::default(),
            refreshing: Mutex::default(),
            merging: Mutex::default(),
            problems: Mutex::default(),
        })
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.segments.read().clone()
    }

    /// Segments that cannot be read, with the reason.
    pub(crate) fn problems(&self) -> Vec<(ObjectId, String)> {
        self.problems
            .lock()
            .iter()
            .map(|(id, why)| (*id, why.clone()))
            .collect()
    }

    /// Loads what is new in the store and drops what is replaced or gone. A segment that cannot be read is noted,
    /// and the others are used.
    pub(crate) fn refresh(&self, access: &Access) -> Result<()> {
        let _one_at_a_time = self.refreshing.lock();
        let mut loaded: HashMap<ObjectId, Arc<Segment>> = self
            .segments()
            .iter()
            .map(|segment| (segment.id, segment.clone()))
            .collect();
        loaded.retain(|_, segment| !segment.is_spoiled());
        let mut listed: Vec<(ObjectId, u64)> = access
            .store
            .list(names::INDEX)?
            .into_iter()
            .filter_map(|object| match Name::parse(&object.name) {
                Some(Name::Index(id)) => Some((id, object.size)),
                _ => None,
            })
            .collect();
        // What is loaded first, then the largest: what those replace needs no loading.
        listed.sort_by_key(|(id, bytes)| (!loaded.contains_key(id), std::cmp::Reverse(*bytes)));
        let mut present: Vec<Arc<Segment>> = Vec::new();
        let mut problems = HashMap::new();
        let mut replaced = HashSet::new();
        for (id, object_bytes) in listed {
            if replaced.contains(&id) {
                self.uncache(id);
                continue;
            }
            let segment = match loaded.remove(&id) {
                Some(segment) => Ok(segment),
                None => self.load(access, id, object_bytes).map(Arc::new),
            };
            match segment {
                Ok(segment) => {
                    replaced.extend(segment.replaced()?);
                    present.push(segment);
                }
                // Bits may flip in the head too, where version and key epoch stand in the clear.
                Err(error)
                    if matches!(error.kind(), Kind::Damaged | Kind::TooNew | Kind::WrongKey) =>
                {
                    tracing::warn!("index segment {id} cannot be used: {error}");
                    problems.insert(id, error.to_string());
                }
                Err(error) if error.kind() == Kind::NotFound => {} // another host pruned it meanwhile
                Err(error) => return Err(error),
            }
        }
        problems.retain(|id, _| !replaced.contains(id));
        self.replace(present)?;
        *self.problems.lock() = problems;
        Ok(())
    }

    /// Makes these segments, less those that another of them replaces, the live ones.
    fn replace(&self, mut present: Vec<Arc<Segment>>) -> Result<()> {
        let mut replaced = HashSet::new();
        for segment in &present {
            replaced.extend(segment.replaced()?);
        }
        present.retain(|segment| {
            let live = !replaced.contains(&segment.id);
            if !live {
                self.uncache(segment.id);
            }
            live
        });
        present.sort_by_key(|segment| (std::cmp::Reverse(segment.chunk_count()), segment.id));
        *self.segments.write() = Arc::new(present);
        Ok(())
    }

    /// Removes the cache file of a segment that is no longer wanted. What stays costs room, nothing more.
    fn uncache(&self, id: ObjectId) {
        let _ = std::fs::remove_file(self.path(id));
    }

    /// Whether a segment's cache file turned out to be damaged since it was loaded; a refresh fetches it again.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.segments
            .read()
            .iter()
            .any(|segment| segment.is_spoiled())
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn load(&self, access: &Access, id: ObjectId, object_bytes: u64) -> Result<Segment> {
        let path = self.path(id);
        // A second time, if another process that shares the cache removes the file before it is mapped.
        for _ in 0..2 {
            if let Ok(segment) = Segment::map(id, &path) {
                return Ok(segment);
            }
            self.fetch(access, id, object_bytes)
                .map_err(|error| error.context(format_args!("index segment {id}")))?;
        }
        Segment::map(id, &path)
    }

    /// Brings a segment from the store into the cache, a bounded number of sections at a time.
    fn fetch(&self, access: &Access, id: ObjectId, object_bytes: u64) -> Result<PathBuf> {
        let name = Name::Index(id).to_string();
        let first = (UPLOAD_BYTES as u64).min(object_bytes);
        let mut bytes = access.store.get_range(&name, 0..first)?;
        let opener = Opener::new(&access.ring, owner(access, id), &bytes, object_bytes)?;
        let mut begin = 0;
        let mut file = CacheFile::new(&self.directory)?;
        for number in 0..opener.sections() {
            let section = opener.section(number);
            if section.end > begin + bytes.len() as u64 {
                begin = section.start;
                let end = (begin + UPLOAD_BYTES as u64)
                    .max(section.end)
                    .min(object_bytes);
                bytes = access.store.get_range(&name, begin..end)?;
            }
            let mut plain =
                bytes[(section.start - begin) as usize..(section.end - begin) as usize].to_vec();
            opener.open(number, &mut plain)?;
            file.write(&plain)?;
        }
        file.keep(&id.to_string())
    }

    /// Where the chunk is; when several packs or segments list it, one that is trusted for `origin` if there is one.
    pub(crate) fn find(&self, id: &ChunkId, origin: Option<ObjectId>) -> Result<Option<Location>> {
        self.find_outside(id, origin, &HashSet::new())
    }

    /// As [`Self::find`], but not in these packs.
    pub(crate) fn find_outside(
        &self,
        id: &ChunkId,
        origin: Option<ObjectId>,
        packs: &HashSet<ObjectId>,
    ) -> Result<Option<Location>> {
        let mut other = None;
        for segment in self.segments.read().iter() {
            for chunk in segment.find(id)? {
                let location = locate(segment, &chunk?)?;
                if packs.contains(&location.pack.id) {
                    continue;
                }
                if location.trusted(origin) {
                    return Ok(Some(location));
                }
                other = other.or(Some(location));
            }
        }
        Ok(other)
    }

    /// Publishes the facts of packs that are in the store already: a new segment there and here.
    pub(crate) fn publish(&self, access: &Access, packs: &[(PackKind, PackFacts)]) -> Result<()> {
        self.publish_replacing(access, packs, &[])
    }

    /// As [`Self::publish`]; the new segment takes the place of others, which are ignored from then on.
    pub(crate) fn publish_replacing(
        &self,
        access: &Access,
        packs: &[(PackKind, PackFacts)],
        replaced: &[ObjectId],
    ) -> Result<()> {
        let mut file = CacheFile::new(&self.directory)?;
        let body = segment::body_of(packs, replaced);
        file.write(&body)?;
        let id = ObjectId::random();
        let mut sealer = Sealer::new(&access.ring, owner(access, id))?;
        sealer.push(&body);
        access
            .store
            .create(&Name::Index(id).to_string(), Bytes::from(sealer.finish()))?;
        self.adopt(Segment::map(id, &file.keep(&id.to_string())?)?)
    }

    fn adopt(&self, segment: Segment) -> Result<()> {
        let _one_at_a_time = self.refreshing.lock();
        let mut present = self.segments().to_vec();
        present.push(Arc::new(segment));
        self.replace(present)
    }

    /// Merges segments where too many of similar size have gathered; returns how many were merged.
    /// None while another thread merges. Packs that prune has deleted are left out.
    pub(crate) fn merge(&self, access: &Access, dropped: HashSet<ObjectId>) -> Result<usize> {
        let Some(_one_at_a_time) = self.merging.try_lock() else {
            return Ok(0);
        };
        let Some(chosen) = tier_to_merge(&self.segments()) else {
            return Ok(0);
        };
        let changed = Changed {
            dropped,
            ..Changed::default()
        };
        self.publish_merger(access, &chosen, &changed)?;
        Ok(chosen.len())
    }

    /// Takes packs out of the index: the segments that list them are merged into one without them, which takes their
    /// place. Returns how many segments that were. One creation, so a crash leaves either the old state or the new one.
    pub(crate) fn publish_without(
        &self,
        access: &Access,
        packs: &HashSet<ObjectId>,
    ) -> Result<usize> {
        let _one_at_a_time = self.merging.lock();
        let chosen = self.segments_with(|pack| packs.contains(&pack.id))?;
        if !chosen.is_empty() {
            let changed = Changed {
                dropped: packs.clone(),
                ..Changed::default()
            };
            self.publish_merger(access, &chosen, &changed)?;
        }
        Ok(chosen.len())
    }

    /// The live segments that list such a pack.
    fn segments_with(&self, wanted: impl Fn(&PackEntry) -> bool) -> Result<Vec<Arc<Segment>>> {
        let mut chosen = Vec::new();
        for segment in self.segments().iter() {
            for number in 0..segment.pack_count() {
                if wanted(&segment.pack(number)?) {
                    chosen.push(segment.clone());
                    break;
                }
            }
        }
        Ok(chosen)
    }

    /// Publishes that every chunk of these packs was hashed here: the segments that say otherwise are merged into one
    /// that says so, and takes their place. One creation, so a crash leaves either the old state or the new one.
    pub(crate) fn publish_hashed(&self, access: &Access, packs: &HashSet<ObjectId>) -> Result<()> {
        let _one_at_a_time = self.merging.lock();
        let chosen = self.segments_with(|pack| !pack.hashed() && packs.contains(&pack.id))?;
        match chosen.is_empty() {
            true => Ok(()),
            false => {
                let changed = Changed {
                    hashed: packs.clone(),
                    ..Changed::default()
                };
                self.publish_merger(access, &chosen, &changed)
            }
        }
    }

    fn publish_merger(
        &self,
        access: &Access,
        segments: &[Arc<Segment>],
        changed: &Changed,
    ) -> Result<()> {
        let mut file = CacheFile::new(&self.directory)?;
        segment::merge(segments, changed, &mut file)?;
        let id = ObjectId::random();
        let path = file.keep(&id.to_string())?;
        let merged = Segment::map(id, &path)?;
        self.upload(access, id, &path, merged.body_bytes())?;
        self.adopt(merged)
    }

    fn upload(
        &self,
        access: &Access,
        id: ObjectId,
        path: &std::path::Path,
        body_bytes: u64,
    ) -> Result<()> {
        use std::io::Read;
        let cannot = |error| Error::io(format_args!("reading {}", path.display()), error);
        let mut body = std::fs::File::open(path).map_err(cannot)?.take(body_bytes);
        let mut sealer = Sealer::new(&access.ring, owner(access, id))?;
        let mut upload = access.store.upload(&Name::Index(id).to_string())?;
        let mut buffer = vec![0; sealed::SECTION_BYTES];
        let mut ready = Vec::new();
        loop {
            let count = body.read(&mut buffer).map_err(cannot)?;
            if count == 0 {
                break;
            }
            sealer.push(&buffer[..count]);
            ready.append(&mut sealer.take());
            if ready.len() >= UPLOAD_BYTES {
                upload.write(Bytes::from(std::mem::take(&mut ready)))?;
            }
        }
        ready.append(&mut sealer.finish());
        upload.write(Bytes::from(ready))?;
        upload.finish()
    }
}

/// Removes what dead processes have left unfinished: a living one renews a file's time long before it is that old.
fn remove_stale(directory: &std::path::Path, now: Time) {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let temporary = entry
            .file_name()
            .to_string_lossy()
            .starts_with(segment::TEMPORARY);
        let old = |file: std::fs::Metadata| file.mtime() < now.seconds - STALE_SECONDS;
        if temporary && entry.metadata().is_ok_and(old) {
            // Somebody else may be faster; what stays costs room, nothing more.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The segments of the smallest tier (a tier: within a factor of eight in chunks) that holds too many.
fn tier_to_merge(segments: &[Arc<Segment>]) -> Option<Vec<Arc<Segment>>> {
    let mut tiers: std::collections::BTreeMap<u32, Vec<Arc<Segment>>> = Default::default();
    for segment in segments {
        let tier = (segment.chunk_count() + 1).ilog2() / 3;
        tiers.entry(tier).or_default().push(segment.clone());
    }
    let highest = *tiers
        .iter()
        .find(|(_, tier)| tier.len() >= SEGMENTS_PER_TIER)?
        .0;
    Some(
        tiers
            .into_iter()
            .take_while(|(tier, _)| *tier <= highest)
            .flat_map(|(_, tier)| tier)
            .collect(),
    )
}

pub(super) fn locate(segment: &Arc<Segment>, chunk: &ChunkEntry) -> Result<Location> {
    Ok(Location {
        id: chunk.id,
        pack: segment.pack(chunk.pack)?,
        segment: segment.clone(),
        offset: chunk.offset,
        length: chunk.length,
    })
}

fn owner(access: &Access, id: ObjectId) -> Owner {
    Owner {
        repository: access.ring.repository,
        kind: ObjectKind::Index,
        id,
        number: 0,
    }
}
