//! A repository: a store, its keys and a format. The only room that knows bytes at rest.
//!
//! [`mod@format`] describes every byte; the other files of this room hold each structure's layout beside its code.

mod codec;
mod condemned;
mod crypto;
pub mod format;
mod frames;
mod header;
mod health;
mod index;
mod kept;
mod keys;
mod lease;
mod pack;
mod readers;
mod room;
mod sealed;
mod segment;
mod settings;
mod window;
mod writer;

pub use codec::{decode, encode};
pub use condemned::{Condemnation, Condemned, Stage};
pub use crypto::{Ring, Secret};
pub use frames::Frame;
pub use header::{FORMAT_VERSION, Header};
pub use health::{RepositoryState, require_ready, state};
pub use index::Location;
pub use kept::{KeptFacts, KeptFrames};
pub use keys::{Credential, Slot, SlotFacts, SlotKind};
pub use lease::{FoundMark, Lease, LeaseKind, OpenPointMark, ReaderLease};
pub use pack::{
    CHUNK_BYTES_MAX, FRAME_BYTES_MAX, FRAME_CHUNKS_MAX, FrameSpan,
    HEADER_BYTES as PACK_HEADER_BYTES, PackFacts, PackReader, Payload, TRAILER_BYTES, Trailer,
    decompress,
};
pub use readers::{ACL, ADMIN_ONLY, READERS, STORED, parse_access};
pub use segment::{ChunkEntry, PackEntry, Segment};
pub use settings::{
    CAPACITY, COPY_SOURCE, COPY_TARGET, RETENTION_TYPE, RetentionType, fixed_at_init,
};
pub use window::GROUP_BYTES;
pub use writer::{Lane, PIECE_BYTES, Writer, Written};

use crate::chunk::Cutting;
use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId, random_bytes};
use crate::store::names::{self, Name, PackKind};
use crate::store::{SharedStore, probe};
use bincode::{Decode, Encode};
use bytes::Bytes;
use crypto::{ObjectKind, Owner};
use frames::FrameCache;
use index::Index;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A key slot: its id and what it says; a slot that cannot be read has its error.
pub type KeySlot = (ObjectId, Result<(SlotKind, SlotFacts)>);

/// Store and keys: what reading and writing one repository needs.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) store: SharedStore,
    pub(crate) ring: Ring,
}

/// Limits for content-defined cutting, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CutLimits {
    /// No chunk but a file's last is shorter.
    pub min: u32,
    /// The usual length; a power of two.
    pub average: u32,
    /// No chunk is longer.
    pub max: u32,
}

/// Settings of a repository: the document `config/<n>`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    /// Seed of content-defined cutting; fixed at init.
    pub seed: [u8; 32],
    /// Limits of cutting; fixed at init.
    pub cut: CutLimits,
    /// A pack is closed when it has this many bytes.
    pub pack_bytes: u64,
    /// zstd level.
    pub level: i32,
    /// Storage class of data packs, unless a host's configuration names another; empty for the store's default.
    pub storage_class: String,
    /// Owner of the repository's directory in a mount.
    pub uid: u32,
    /// Group of the repository's directory in a mount.
    pub gid: u32,
    /// Permission bits of the repository's directory in a mount.
    pub mode: u32,
    /// Settings of later versions that a reader may ignore, by name.
    pub more: Vec<(String, String)>,
}

/// With averages of 256 KiB, 512 KiB and 1 MiB, the other limits in proportion, two files of 1 GiB keep 2129, 2133 and
/// 2136 MB of distinct plain chunks, 6953, 3527 and 1725 of them. A disk image of 2 GiB cut by content keeps 986, 998
/// and 1014 MB, and a later state of it adds 189, 307 and 525 MB; but images are cut in blocks. So 512 KiB halves the
/// index against 256 KiB at little cost for files. Frames do not depend on it.
pub const DEFAULT_CUT: CutLimits = CutLimits {
    min: 128 << 10,
    average: 512 << 10,
    max: 2 << 20,
};
/// Packs where backups are written.
pub const DEFAULT_PACK_BYTES: u64 = 16 << 20;
/// The range of pack sizes.
pub const PACK_BYTES_RANGE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
/// Name of the setting that says for how many days a forgotten point can be brought back.
pub const TRASH_DAYS: &str = "trash-days";
/// Its value where it is not set.
pub const DEFAULT_TRASH_DAYS: u32 = 7;
/// Name of the setting that says after how many idle seconds an open point is sealed; without it none ever is.
pub const SEAL_IDLE: &str = "seal-idle";
/// zstd level of new repositories.
pub const DEFAULT_LEVEL: i32 = 3;

impl Default for Settings {
    /// Settings for a new repository with a seed of its own, owned by the calling user.
    fn default() -> Self {
        Self {
            seed: random_bytes(),
            cut: DEFAULT_CUT,
            pack_bytes: DEFAULT_PACK_BYTES,
            level: DEFAULT_LEVEL,
            storage_class: String::new(),
            // SAFETY: geteuid and getegid read two numbers of the process and cannot fail.
            uid: unsafe { libc::geteuid() },
            // SAFETY: as above.
            gid: unsafe { libc::getegid() },
            mode: 0o755,
            more: Vec::new(),
        }
    }
}

impl Settings {
    /// How this repository cuts contents.
    pub fn cutting(&self) -> Cutting {
        Cutting::by_content(&self.seed, self.cut.min, self.cut.average, self.cut.max)
            .expect("check() has seen the limits")
    }

    /// Whether equal bytes are cut into equal chunks by both.
    pub fn cut_as(&self, other: &Self) -> bool {
        (self.seed, self.cut) == (other.seed, other.cut)
    }

    /// Seconds for which a forgotten point can be brought back: the setting `trash-days`, or a week.
    pub fn trash_seconds(&self) -> i64 {
        i64::from(self.number(TRASH_DAYS).unwrap_or(DEFAULT_TRASH_DAYS)) * 24 * 60 * 60
    }

    /// Seconds without a change after which an open point is sealed, where the repository asks for that.
    pub fn seal_idle_seconds(&self) -> Option<i64> {
        self.number(SEAL_IDLE).map(i64::from)
    }

    /// A setting that is a number.
    fn number(&self, name: &str) -> Option<u32> {
        self.text(name)?.parse().ok()
    }

    /// A setting that has a name of its own.
    fn text(&self, name: &str) -> Option<&str> {
        let mut more = self.more.iter();
        let (_, value) = more.find(|(known, _)| known == name)?;
        Some(value)
    }

    fn check(&self) -> Result<()> {
        if !PACK_BYTES_RANGE.contains(&self.pack_bytes) {
            let message = format!(
                "a pack size of {} bytes is not possible; choose one from 1 MiB to 1 GiB",
                self.pack_bytes
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if !(1..=22).contains(&self.level) {
            let message = format!(
                "there is no zstd level {}; choose one from 1 to 22",
                self.level
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let cut = self.cut;
        Cutting::by_content(&self.seed, cut.min, cut.average, cut.max)?;
        if cut.max as usize > CHUNK_BYTES_MAX {
            return Err(Error::new(
                Kind::Invalid,
                "the repository's limits for cutting contradict each other",
            ));
        }
        Ok(())
    }
}

/// What a host keeps beside a repository, and how much memory reading may take.
#[derive(Clone, Debug)]
pub struct Local {
    /// Directory for caches of all repositories; may be removed at any time.
    pub cache: PathBuf,
    /// Bytes of frames kept in memory: decompressed ones, and where several repositories are mounted half of it for
    /// compressed ones. The buffers of writers and copies shrink with it.
    pub frame_cache_bytes: u64,
    /// Where time comes from.
    pub clock: Clock,
}

impl Local {
    /// Plain bytes of small chunks that a writer gathers to sort them; it holds up to three times as many. Never more
    /// than measurement found useful.
    fn window_bytes(&self) -> usize {
        let share = usize::try_from(self.frame_cache_bytes / 4).unwrap_or(usize::MAX);
        share.clamp(GROUP_BYTES, window::WINDOW_BYTES)
    }

    /// Bytes of compressed frames that are kept where several repositories are mounted.
    fn kept_bytes(&self) -> u64 {
        self.frame_cache_bytes / 2
    }

    /// Bytes on their way in a copy into this repository.
    pub fn transfer_bytes(&self) -> u64 {
        self.frame_cache_bytes / 2
    }
}

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    access: Access,
    header: Header,
    settings: RwLock<Arc<Settings>>,
    /// The number of the document that they came from.
    settings_number: AtomicU64,
    index: Index,
    frames: FrameCache,
    local: Local,
    /// Steps of this process's writers.
    progress: AtomicU64,
    /// What prune was about to delete when it was asked for last.
    condemned: Mutex<Arc<Condemnation>>,
    /// The same, when each writer of this process began; the oldest first.
    writers: Mutex<BTreeMap<u64, Arc<Condemnation>>>,
    /// Packs that were listed and that reading has not found.
    gone: RwLock<HashSet<ObjectId>>,
}

impl Repository {
    /// Makes a repository in an empty store. Fails with `AlreadyExists` when there is one, or what an `init` that died
    /// has left, with `Invalid` when the store cannot create objects honestly or a setting is out of range.
    pub fn init(
        store: SharedStore,
        credential: &Credential,
        label: &str,
        settings: &Settings,
        clock: &Clock,
    ) -> Result<()> {
        settings.check()?;
        settings.check_more()?;
        probe::probe(store.as_ref())?.require_all(&store.location())?;
        let taken = || {
            Error::new(
                Kind::AlreadyExists,
                format!(
                    "there is already a repository in {}; use it, or choose another place",
                    store.location()
                ),
            )
        };
        match store.head(&Name::Header.to_string()) {
            Ok(_) => return Err(taken()),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Another ring encrypted these settings. Only a person can tell that no other init is at work just now.
        let unfinished = || {
            let message = format!(
                "an unfinished init left keys/ and config/ in {}; remove them and run init again",
                store.location()
            );
            Error::new(Kind::AlreadyExists, message)
        };
        if !store.list(names::CONFIG)?.is_empty() {
            return Err(unfinished());
        }
        let now = clock.now();
        let ring = Ring::new(ObjectId::random());
        let header = Header::new(ring.repository, now);
        let access = Access {
            store: store.clone(),
            ring,
        };
        // The header is written last: without it there is no repository, whatever a crash leaves.
        let key = access.add_key(credential, label, now)?;
        if let Err(error) = access.create_document(Name::Config(0), settings) {
            // Another init came first, and its repository need not carry this key, which opens nothing there.
            if error.kind() == Kind::AlreadyExists {
                store.delete(&Name::Key(key).to_string())?;
                return Err(unfinished());
            }
            return Err(error);
        }
        let bytes = header.encode(&access.ring);
        store
            .create(&Name::Header.to_string(), bytes.into())
            .map_err(|error| match error.kind() {
                Kind::AlreadyExists => taken(),
                _ => error,
            })
    }

    /// Opens the repository in this store.
    ///
    /// Fails with `NoRepository`, `TooNew`, `WrongKey` (no slot opens), `Damaged`, or what the store answers.
    pub fn open(store: SharedStore, credential: &Credential, local: Local) -> Result<Arc<Self>> {
        let name = Name::Header.to_string();
        let bytes = store.get(&name).map_err(|error| match error.kind() {
            Kind::NotFound => Error::new(
                Kind::NoRepository,
                format!(
                    "there is no repository in {}; make one with `keepfs init`",
                    store.location()
                ),
            ),
            _ => error,
        })?;
        let header = Header::decode(&bytes).map_err(|error| error.context(store.location()))?;
        let ring = open_ring(&store, header.repository, credential)?;
        Header::confirm(&bytes, &ring)?;
        let access = Access { store, ring };
        let (number, settings) = access.newest_settings()?;
        access.follow_class(&settings);
        let directory = local.cache.join(header.repository.to_string());
        make_private(&directory)?;
        let index = Index::new(directory.join("index"))?;
        index.refresh(&access)?;
        Ok(Arc::new(Self {
            frames: FrameCache::new(local.frame_cache_bytes),
            access,
            header,
            settings: RwLock::new(Arc::new(settings)),
            settings_number: AtomicU64::new(number),
            index,
            local,
            progress: AtomicU64::new(0),
            condemned: Mutex::default(),
            writers: Mutex::default(),
            gone: RwLock::default(),
        }))
    }

    /// The same repository as its store alone shows it: nothing that this host has cached is used. What is cached
    /// anew goes to `directory`, which the caller removes.
    pub fn afresh(&self, directory: &Path) -> Result<Arc<Self>> {
        self.again(self.access.store.clone(), directory)
    }

    /// The same repository through another door to the same store, for whoever watches or slows what passes. No key is
    /// derived again; the caches on disk are shared, memory is its own.
    pub fn through(&self, store: SharedStore) -> Result<Arc<Self>> {
        self.again(store, &self.cache_directory())
    }

    fn again(&self, store: SharedStore, directory: &Path) -> Result<Arc<Self>> {
        make_private(directory)?;
        let access = Access {
            store,
            ring: self.access.ring.clone(),
        };
        let index = Index::new(directory.join("index"))?;
        index.refresh(&access)?;
        Ok(Arc::new(Self {
            frames: FrameCache::new(self.local.frame_cache_bytes),
            access,
            header: self.header.clone(),
            settings: RwLock::new(self.settings()),
            settings_number: AtomicU64::new(self.settings_number.load(Relaxed)),
            index,
            local: self.local.clone(),
            progress: AtomicU64::new(0),
            condemned: Mutex::default(),
            writers: Mutex::default(),
            gone: RwLock::default(),
        }))
    }

    /// The repository's id.
    pub fn id(&self) -> ObjectId {
        self.header.repository
    }

    /// Changes whenever a writer of this process gets on: has looked for a chunk, or passed bytes to the store.
    pub fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }

    /// A writer got on.
    pub(crate) fn advance(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    /// Where it is, for messages.
    pub fn location(&self) -> String {
        self.access.store.location()
    }

    /// Its store, for listings and sizes.
    pub fn store(&self) -> &SharedStore {
        &self.access.store
    }

    /// Its keys, for decoding packs found in the store.
    pub fn ring(&self) -> &Ring {
        &self.access.ring
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the host keeps for it.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// This repository's own directory among the host's caches.
    pub fn cache_directory(&self) -> PathBuf {
        self.local.cache.join(self.id().to_string())
    }

    /// The time now.
    pub fn now(&self) -> Time {
        self.local.clock.now()
    }

    /// Fails with `ReadOnly` when the repository uses features that only a newer program may write with.
    pub fn require_writable(&self) -> Result<()> {
        if self.header.writable() {
            return Ok(());
        }
        let message = format!(
            "{} uses features that this keepfs can read but not write; use a newer keepfs",
            self.location()
        );
        Err(Error::new(Kind::ReadOnly, message))
    }

    /// Fails with `Invalid` when its data packs lie in a storage class that must be retrieved before it is read: whoever
    /// writes a point file by file may want to read what is there. Copies do not.
    pub fn require_readable_class(&self) -> Result<()> {
        let Some(class) = self.access.store.archive_class() else {
            return Ok(());
        };
        let message = format!(
            "{} keeps data in the storage class {class}, which must be retrieved before it can be read, so it takes copies only; back up into another repository and run `keepfs copy`",
            self.location()
        );
        Err(Error::new(Kind::Invalid, message))
    }

    /// Where the chunk is. When the index does not know it, the index is looked at anew once.
    pub fn locate(&self, id: &ChunkId) -> Result<Location> {
        if let Some(location) = self.find(id)? {
            return Ok(location);
        }
        self.index.refresh(&self.access)?;
        self.find(id)?.ok_or_else(|| {
            let message = format!(
                "chunk {id} is not in the index of {}; run `keepfs check`",
                self.location()
            );
            Error::new(Kind::Damaged, message)
        })
    }

    /// Where the chunk is, as far as the loaded index knows.
    pub fn find(&self, id: &ChunkId) -> Result<Option<Location>> {
        self.find_for(id, None)
    }

    /// As [`Self::find`], for frames of `origin`. A damaged cache of the index heals by the way.
    fn find_for(&self, id: &ChunkId, origin: Option<ObjectId>) -> Result<Option<Location>> {
        let find = || {
            let gone = self.gone.read();
            match gone.is_empty() {
                true => self.index.find(id, origin),
                // Of what is listed in several packs one may be there.
                false => match self.index.find_outside(id, origin, &gone)? {
                    None => self.index.find(id, origin),
                    found => Ok(found),
                },
            }
        };
        let found = find();
        if !self.index.is_spoiled() {
            return found;
        }
        match self.index.refresh(&self.access) {
            Ok(()) => find(),
            Err(error) => found.or(Err(error)),
        }
    }

    /// Where the chunk is in a pack that stays, as far as the loaded index and what was asked last of prune's lists know.
    pub fn find_kept(&self, id: &ChunkId) -> Result<Option<Location>> {
        self.find_outside(id, None, &self.known_condemned().going())
    }

    /// Where the chunk is, as [`Self::find`] knows, but not in these packs; hashed here or by `origin` if possible.
    pub(crate) fn find_outside(
        &self,
        id: &ChunkId,
        origin: Option<ObjectId>,
        packs: &HashSet<ObjectId>,
    ) -> Result<Option<Location>> {
        if packs.is_empty() {
            return self.find_for(id, origin);
        }
        let found = self.index.find_outside(id, origin, packs);
        if !self.index.is_spoiled() {
            return found;
        }
        match self.index.refresh(&self.access) {
            Ok(()) => self.index.find_outside(id, origin, packs),
            Err(error) => found.or(Err(error)),
        }
    }

    /// Where a chunk is that one of the live segments lists.
    pub fn located(&self, segment: &Arc<Segment>, chunk: &ChunkEntry) -> Result<Location> {
        index::locate(segment, chunk)
    }

    /// Takes these packs out of the index: the segments that list one of them are merged into one without them, which
    /// takes their place. Returns how many segments that were.
    pub fn drop_packs(&self, packs: &HashSet<ObjectId>) -> Result<usize> {
        self.require_writable()?;
        self.index.refresh(&self.access)?;
        self.index.publish_without(&self.access, packs)
    }

    /// Loads index segments that other hosts have written since.
    pub fn refresh_index(&self) -> Result<()> {
        self.index.refresh(&self.access)
    }

    /// Merges index segments where many have gathered; returns how many were merged.
    pub fn merge_index(&self) -> Result<usize> {
        let gone = self.known_condemned().going();
        self.index.merge(&self.access, gone)
    }

    /// The live index segments.
    pub fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.index.segments()
    }

    /// Index segments that cannot be read, with the reason.
    pub fn index_problems(&self) -> Vec<(ObjectId, String)> {
        self.index.problems()
    }

    /// Publishes the index facts of packs whose directories were read again, in place of segments that cannot be read.
    pub fn publish_packs(
        &self,
        packs: &[(PackKind, PackFacts)],
        replaced: &[ObjectId],
    ) -> Result<()> {
        self.require_writable()?;
        self.index.publish_replacing(&self.access, packs, replaced)
    }

    /// Publishes that somebody has read these packs from the store and hashed every chunk in them: from now on they are
    /// believed as if they had been written here. The packs stay as they are.
    pub fn publish_hashed(&self, packs: &HashSet<ObjectId>) -> Result<()> {
        self.require_writable()?;
        self.index.refresh(&self.access)?;
        self.index.publish_hashed(&self.access, packs)
    }

    /// A document. `NotFound` when there is none of this name.
    pub fn document<T: Decode<()>>(&self, name: Name) -> Result<T> {
        self.access.document(name)
    }

    /// The encoded document, decrypted but not decoded.
    pub fn document_bytes(&self, name: Name) -> Result<Vec<u8>> {
        self.access.document_bytes(name)
    }

    /// Creates a document; `AlreadyExists` when the name is taken, `TooBig` when nobody could read it again.
    pub fn create_document<T: Encode + Decode<()>>(&self, name: Name, document: &T) -> Result<()> {
        self.require_writable()?;
        self.access.create_document(name, document)
    }

    /// A key for one purpose that lasts as long as the repository.
    pub fn lasting_key(&self, purpose: &str) -> [u8; 32] {
        self.access.ring.lasting_key(purpose)
    }

    /// Every key slot with its facts.
    pub fn key_slots(&self) -> Result<Vec<KeySlot>> {
        let slots = self.access.store.list(names::KEYS)?;
        let ids = slots
            .iter()
            .filter_map(|object| match Name::parse(&object.name) {
                Some(Name::Key(id)) => Some(id),
                _ => None,
            });
        Ok(ids.map(|id| (id, self.access.slot(id))).collect())
    }

    /// Adds a slot for another password or key file; returns its id.
    pub fn add_key(&self, credential: &Credential, label: &str) -> Result<ObjectId> {
        self.require_writable()?;
        self.access.add_key(credential, label, self.now())
    }

    /// Removes a slot. Fails with `NotFound` when there is none, with `Denied` when it is the last, also when another
    /// host removes the others at the same time: the slot is put back then.
    pub fn remove_key(&self, id: ObjectId) -> Result<()> {
        self.require_writable()?;
        let slots = self.key_slots()?;
        let others = slots
            .iter()
            .filter(|(other, slot)| *other != id && slot.is_ok())
            .count();
        if others == slots.len() {
            return Err(Error::new(
                Kind::NotFound,
                format!("there is no key {id}; `keepfs key list` shows all"),
            ));
        }
        let last = || {
            let message = "this is the last key, and without a key nothing can ever be read again; add another first";
            Error::new(Kind::Denied, message)
        };
        if others == 0 {
            return Err(last());
        }
        let (store, name) = (&self.access.store, Name::Key(id).to_string());
        let slot = store.get(&name)?;
        store.delete(&name)?;
        // Another host may have removed the others since they were listed. What is not known counts as no other key.
        match self.key_slots() {
            Ok(left) if left.iter().any(|(_, slot)| slot.is_ok()) => Ok(()),
            left => {
                store.create(&name, slot)?;
                Err(left.err().unwrap_or_else(last))
            }
        }
    }
}

/// What binds an object's ciphertext to its name.
pub(crate) fn owner_of(repository: ObjectId, name: Name) -> Owner {
    let (kind, id, number) = match name {
        Name::Header => (ObjectKind::Key, ObjectId::default(), 0),
        Name::Key(id) => (ObjectKind::Key, id, 0),
        Name::Config(n) => (ObjectKind::Config, ObjectId::default(), n),
        Name::Backup(id, n) => (ObjectKind::Backup, id, n),
        Name::Pack(PackKind::Data, id) => (ObjectKind::DataPack, id, 0),
        Name::Pack(PackKind::Tree, id) => (ObjectKind::TreePack, id, 0),
        Name::Index(id) => (ObjectKind::Index, id, 0),
        Name::Catalogue(id) => (ObjectKind::Catalogue, id, 0),
        Name::Point(id, generation) => (ObjectKind::Point, id, generation),
        Name::Mark(id, n) => (ObjectKind::Mark, id, n),
        Name::Trash(id, generation, n) => (ObjectKind::Trash, trash_id(id, generation), n),
        Name::Lease(id) => (ObjectKind::Lease, id, 0),
        Name::Session(id, n) => (ObjectKind::Session, id, n),
        Name::Condemned(n) => (ObjectKind::Condemned, ObjectId::default(), n),
    };
    Owner {
        repository,
        kind,
        id,
        number,
    }
}

/// A trash record's name has two numbers, the place in its ciphertext one: the generation goes into the id.
fn trash_id(id: ObjectId, generation: u64) -> ObjectId {
    let spelled = [id.0.as_slice(), &generation.to_be_bytes()].concat();
    let mut place = ObjectId::default();
    place
        .0
        .copy_from_slice(&blake3::hash(&spelled).as_bytes()[..16]);
    place
}

/// Whether an object is there and is not what the ring's owner wrote, or is gone.
fn is_unreadable(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Damaged | Kind::TooNew | Kind::WrongKey | Kind::NotFound
    )
}

impl Access {
    fn owner(&self, name: Name) -> Owner {
        owner_of(self.ring.repository, name)
    }

    fn document_bytes(&self, name: Name) -> Result<Vec<u8>> {
        let object = self.store.get(&name.to_string())?;
        sealed::open(&self.ring, self.owner(name), &object).map_err(|error| error.context(name))
    }

    fn document<T: Decode<()>>(&self, name: Name) -> Result<T> {
        decode(&self.document_bytes(name)?).map_err(|error| error.context(name))
    }

    fn create_document<T: Encode + Decode<()>>(&self, name: Name, document: &T) -> Result<()> {
        let document = encode(document);
        // Writing has no limit of its own: reading back is the test that every reader makes.
        decode::<T>(&document).map_err(|error| {
            let message =
                format!("{name} would be too long to be read again, so it is not written");
            Error::new(Kind::TooBig, message).caused_by(error)
        })?;
        let bytes = sealed::seal(&self.ring, self.owner(name), &document)?;
        self.store.create(&name.to_string(), Bytes::from(bytes))
    }

    /// Numbers of all settings there ever were, ascending.
    fn settings_numbers(&self) -> Result<Vec<u64>> {
        let listed = self.store.list(names::CONFIG)?;
        let mut numbers: Vec<u64> = listed
            .iter()
            .filter_map(|object| match Name::parse(&object.name) {
                Some(Name::Config(n)) => Some(n),
                _ => None,
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn newest_number(&self) -> Result<Option<u64>> {
        Ok(self.settings_numbers()?.last().copied())
    }

    fn newest_settings(&self) -> Result<(u64, Settings)> {
        let mut numbers = self.settings_numbers()?;
        let mut first = None;
        while let Some(n) = numbers.pop() {
            let name = Name::Config(n);
            match self.document_bytes(name) {
                Ok(bytes) => {
                    let settings: Settings = decode(&bytes).map_err(|error| error.context(name))?;
                    settings
                        .check()
                        .map_err(|error| Error::new(Kind::Damaged, error.message()))?;
                    return Ok((n, settings));
                }
                // Anybody who can write to the store can give an object the highest number.
                Err(error) if is_unreadable(&error) => {
                    tracing::warn!("{error}");
                    first = first.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or_else(|| {
            let message = format!(
                "the settings of the repository in {} are missing",
                self.store.location()
            );
            Error::new(Kind::Damaged, message)
        }))
    }

    fn add_key(&self, credential: &Credential, label: &str, now: Time) -> Result<ObjectId> {
        let id = ObjectId::random();
        let kind = match credential {
            Credential::Password(_) => SlotKind::Password,
            Credential::KeyFile(_) => SlotKind::KeyFile,
        };
        let slot = Slot::wrap(&self.ring, id, kind, credential, label, now, &host_name())?;
        self.store
            .create(&Name::Key(id).to_string(), slot.encode().into())?;
        Ok(id)
    }

    fn slot(&self, id: ObjectId) -> Result<(SlotKind, SlotFacts)> {
        let slot = Slot::decode(&self.store.get(&Name::Key(id).to_string())?)?;
        let facts = slot.facts(&self.ring, id)?;
        Ok((slot.kind, facts))
    }
}

/// Tries the credential on every slot. A damaged slot is passed over, and named only if no other opens: it may be the
/// one that this credential is for, or not.
fn open_ring(store: &SharedStore, repository: ObjectId, credential: &Credential) -> Result<Ring> {
    let mut damaged = None;
    let mut slots = 0;
    for object in store.list(names::KEYS)? {
        let Some(Name::Key(id)) = Name::parse(&object.name) else {
            continue;
        };
        slots += 1;
        let opened = store
            .get(&object.name)
            .and_then(|bytes| Slot::decode(&bytes))
            .and_then(|slot| slot.open(repository, id, credential));
        match opened {
            Ok(Some(ring)) => return Ok(ring),
            Ok(None) => {}
            Err(error) if is_unreadable(&error) => damaged = Some((id, error)),
            Err(error) => return Err(error),
        }
    }
    if slots == 0 {
        let message = format!(
            "the repository in {} has no key slot left; bring back an object of its keys/",
            store.location()
        );
        return Err(Error::new(Kind::Damaged, message));
    }
    let what = match credential {
        Credential::Password(_) => "password",
        Credential::KeyFile(_) => "key file",
    };
    let place = store.location();
    let Some((id, error)) = damaged else {
        let message = format!("this {what} does not open the repository in {place}; try another");
        return Err(Error::new(Kind::WrongKey, message));
    };
    let message = format!(
        "this {what} does not open the repository in {place}, and its key slot {id} cannot be read; try another, or bring back keys/{id}: {error}"
    );
    Err(Error::new(Kind::WrongKey, message).caused_by(error))
}

/// The name of this host, as the kernel tells it.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Makes a directory, and those above it, that only this user may enter. One that is there already is closed to
/// others; `Denied` when it is another user's, who could exchange what lies in it.
pub fn make_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    let cannot = |error| Error::io(format_args!("making {}", directory.display()), error);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(cannot)?;
    let facts = std::fs::metadata(directory).map_err(cannot)?;
    // SAFETY: geteuid reads a number of the process and cannot fail.
    if facts.uid() != unsafe { libc::geteuid() } {
        let message = format!(
            "{} belongs to another user; give this one its own with cache-directory and state-directory",
            directory.display()
        );
        return Err(Error::new(Kind::Denied, message));
    }
    if facts.mode() & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_makes_small_buffers() {
        let local = |frame_cache_bytes| Local {
            cache: PathBuf::new(),
            frame_cache_bytes,
            clock: Clock::system(),
        };
        let usual = local(64 << 20);
        assert_eq!(usual.window_bytes(), window::WINDOW_BYTES);
        assert_eq!(usual.transfer_bytes(), 32 << 20);
        let small = local(8 << 20);
        assert_eq!(small.window_bytes(), 2 << 20);
        assert_eq!(small.transfer_bytes(), 4 << 20);
    }
}
