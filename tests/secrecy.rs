//! What the store learns: sizes and times, nothing else; and that no key and counter ever meet two plaintexts.

use crate::engine::{Bench, assert_clean};
use crate::mount::{back_up, run};
use crate::mount_writes::settings;
use crate::planted::{Shelf, noise};
use crate::sites::{MIB, Site, assorted, copy, try_copy};
use bytes::Bytes;
use keepfs::copy::End;
use keepfs::error::{Kind, Result};
use keepfs::id::{ChunkId, random_bytes};
use keepfs::repository::{Lane, PACK_HEADER_BYTES, Writer};
use keepfs::store::faults::Stop;
use keepfs::store::names::{Name, PackKind};
use keepfs::store::{DirectoryStore, MemoryStore, Object, SharedStore, Space, Store, Upload};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// How many places below a directory hold these bytes, in contents or in names.
fn hits(directory: &Path, canary: &[u8]) -> usize {
    let holds = |bytes: &[u8]| {
        bytes
            .windows(canary.len())
            .filter(|seen| *seen == canary)
            .count()
    };
    let mut found = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        found += holds(path.file_name().unwrap().as_bytes());
        found += match path.is_dir() {
            true => hits(&path, canary),
            false => holds(&std::fs::read(&path).unwrap()),
        };
    }
    found
}

#[test]
fn contents_and_names_are_nowhere_in_a_store() {
    let canary: [u8; 64] = random_bytes();
    // The same as a name: neither a zero nor a slash.
    let name = canary.map(|byte| if matches!(byte, 0 | b'/') { 1 } else { byte });
    let source = tempfile::tempdir().unwrap();
    let named = source.path().join(std::ffi::OsStr::from_bytes(&name));
    std::fs::create_dir(&named).unwrap();
    std::fs::write(named.join("alone"), canary).unwrap();
    std::fs::write(named.join("often"), canary.repeat(20_000)).unwrap();
    std::fs::write(
        named.join("amid"),
        [&noise(1, 3 << 20)[..], &canary].concat(),
    )
    .unwrap();
    std::os::unix::fs::symlink(
        std::ffi::OsStr::from_bytes(&name),
        source.path().join("link"),
    )
    .unwrap();
    run(&format!(
        "setfattr -n user.canary -v 0x{} '{}'",
        hex(&canary),
        source.path().display()
    ));
    assert!(hits(source.path(), &canary[..16]) > 20_000);
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = places.each_ref().map(|place| {
        let store: SharedStore = Arc::new(DirectoryStore::open(place.path()).unwrap());
        Bench::in_store(store, &settings())
    });
    back_up(&first, source.path(), "one");
    let ends = [&first, &second].map(|bench| End::open(bench.open()).unwrap());
    copy(&ends[0], &ends[1]);
    for (bench, place) in [(&first, &places[0]), (&second, &places[1])] {
        assert_clean("what holds the canary", &bench.open());
        for part in [
            &canary[..16],
            &canary[48..],
            &name[..16],
            hex(&canary[..8]).as_bytes(),
        ] {
            assert_eq!(hits(place.path(), part), 0);
        }
        assert_eq!(
            hits(place.path(), b"alone") + hits(place.path(), b"user.canary"),
            0
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_that_change_places_in_a_pack_are_refused() {
    let shelf = Shelf::new();
    let contents = [1, 2, 3].map(|seed| noise(seed, 200_000));
    let writer = Writer::new(shelf.open().unwrap(), None).unwrap();
    let ids = contents.each_ref().map(|content| {
        let id = ChunkId::of(content);
        writer.put(Lane::Alone, id, content).unwrap();
        id
    });
    writer.flush().unwrap();
    let repository = shelf.open().unwrap();
    let spans = ids.map(|id| {
        let location = repository.locate(&id).unwrap();
        let frames = location.frames().unwrap();
        assert_eq!(frames.len(), 1, "a chunk of its own is one frame");
        (location.pack.id, frames[0])
    });
    assert!(spans.iter().all(|(pack, _)| *pack == spans[0].0));
    let name = Name::Pack(PackKind::Data, spans[0].0).to_string();
    let mut bytes = shelf.memory.get(&name).unwrap().to_vec();
    let ranges = spans.map(|(_, span)| span.object_begin as usize..span.object_end as usize);
    let [first, second, _] = ranges.map(|range| (range.clone(), bytes[range].to_vec()));
    assert_eq!(
        first.1.len(),
        second.1.len(),
        "they take each other's place exactly"
    );
    bytes[first.0].copy_from_slice(&second.1);
    bytes[second.0].copy_from_slice(&first.1);
    shelf.memory.overwrite(&name, bytes.into());
    let repository = shelf.open().unwrap();
    for id in &ids[..2] {
        assert_eq!(repository.read_chunk(id).unwrap_err().kind(), Kind::Damaged);
    }
    assert_eq!(repository.read_chunk(&ids[2]).unwrap(), contents[2]);
}

/// The name of an object that was begun, and its first bytes.
type Begun = (String, Vec<u8>);

/// The beginnings of everything that was ever on its way into a store, whether it arrived or not.
#[derive(Clone, Debug)]
struct Recording {
    inner: MemoryStore,
    heads: Arc<Mutex<Vec<Begun>>>,
}

impl Recording {
    fn new() -> Self {
        Self {
            inner: MemoryStore::new(),
            heads: Arc::default(),
        }
    }

    fn begin(&self, name: &str, bytes: &[u8]) -> usize {
        let mut heads = self.heads.lock();
        heads.push((
            name.to_owned(),
            bytes[..bytes.len().min(PACK_HEADER_BYTES)].to_vec(),
        ));
        heads.len() - 1
    }
}

struct RecordedUpload {
    store: Recording,
    attempt: usize,
    inner: Box<dyn Upload>,
}

impl Upload for RecordedUpload {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut heads = self.store.heads.lock();
        let head = &mut heads[self.attempt].1;
        let missing = PACK_HEADER_BYTES.saturating_sub(head.len());
        head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        drop(heads);
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()
    }
}

impl Store for Recording {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.inner.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(name, range)
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.inner.head(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix)
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        self.begin(name, &content);
        self.inner.create(name, content)
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        Ok(Box::new(RecordedUpload {
            store: self.clone(),
            attempt: self.begin(name, &[]),
            inner: self.inner.upload(name)?,
        }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.inner.space()
    }
}

/// Every attempt to write an object has a salt of its own, and so a key of its own. Within an object a counter counts
/// the pieces, so no pair of salt and counter serves two ciphertexts.
#[test]
fn no_attempt_to_write_takes_the_key_of_another() {
    let source = Site::new(MIB, 1);
    source.back_up("web", "one", 100, &assorted(31, 40));
    let from = source.reopen();
    let recording = Recording::new();
    let mut target = Site::in_store(Arc::new(recording.clone()), MIB, 2);
    // Each run gets a little further and dies; the next goes on.
    for nth in 1..12 {
        let to = target.open();
        target.store.stop_at(
            nth,
            if nth % 2 == 0 {
                Stop::Before
            } else {
                Stop::After
            },
        );
        let _ = try_copy(&from, &to);
        drop(to);
        target.store.heal();
    }
    copy(&from, &target.open());
    assert_clean("killed and resumed", target.open().repository());
    let attempts = recording.heads.lock().clone();
    let mut salts = HashSet::new();
    let mut encrypted: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, head) in &attempts {
        let salt = match head.get(..4) {
            Some(b"kfpk") => head.get(32..64),
            Some(b"kfso") => head.get(16..48),
            _ => None,
        };
        if let Some(salt) = salt {
            assert!(salts.insert(salt.to_vec()), "{name} takes a salt again");
            let room = name.split('/').next().unwrap_or_default();
            *encrypted.entry(room).or_default() += 1;
        }
    }
    let there = recording.inner.list("").unwrap().len();
    assert!(attempts.len() > there, "some attempts left nothing behind");
    for room in ["packs", "index", "sessions", "points"] {
        assert!(encrypted.contains_key(room), "{encrypted:?}");
    }
}
