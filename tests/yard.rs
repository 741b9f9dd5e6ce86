//! A repository in a store with a clock that the test turns, and points in it.

use crate::engine::assert_clean;
use crate::sites::{Files, Random, write_directory};
use keepfs::clock::{Clock, Time};
use keepfs::copy::End;
use keepfs::error::Result;
use keepfs::id::ObjectId;
use keepfs::point::{Draft, Point, PointRecord, Visit, Walk};
use keepfs::progress::Progress;
use keepfs::prune::{Options, Report, prune};
use keepfs::repository::{Credential, Local, Repository, Settings, TRASH_DAYS, Writer};
use keepfs::store::faults::FaultyStore;
use keepfs::store::{MemoryStore, Object, SharedStore, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

pub const HOUR: i64 = 60 * 60;
pub const DAY: i64 = 24 * HOUR;

/// A store with a clock of its own, and a repository in it.
pub struct Yard {
    pub seconds: Arc<AtomicI64>,
    pub memory: MemoryStore,
    pub store: FaultyStore,
    pub key: Credential,
    pub caches: tempfile::TempDir,
    /// Seconds by which the hosts' clocks are wrong.
    pub wrong: i64,
}

impl Yard {
    pub fn new() -> Self {
        Self::with_trash_days("7")
    }

    pub fn with_trash_days(days: &str) -> Self {
        let seconds = Arc::new(AtomicI64::new(1_700_000_000));
        let yard = Self::empty(seconds);
        let settings = Settings {
            seed: [9; 32],
            pack_bytes: 1 << 20,
            more: vec![(TRASH_DAYS.to_owned(), days.to_owned())],
            ..Settings::default()
        };
        let store: SharedStore = Arc::new(yard.store.clone());
        Repository::init(store, &yard.key, "test", &settings, &yard.clock()).unwrap();
        yard
    }

    pub fn empty(seconds: Arc<AtomicI64>) -> Self {
        let memory = MemoryStore::with_clock(Clock::fixed(seconds.clone()));
        Self {
            seconds,
            store: FaultyStore::new(Arc::new(memory.clone())),
            memory,
            key: Credential::key_file(&[7; 64]).unwrap(),
            caches: tempfile::tempdir().unwrap(),
            wrong: 0,
        }
    }

    pub fn clock(&self) -> Clock {
        Clock::fixed(self.seconds.clone())
    }

    /// The same objects with the same times, behind a clock and a store of their own.
    pub fn copied(&self) -> Self {
        let now = self.seconds.load(SeqCst);
        let yard = Self::empty(Arc::new(AtomicI64::new(now)));
        for object in self.memory.list("").unwrap() {
            yard.seconds.store(object.modified.seconds, SeqCst);
            let content = self.memory.get(&object.name).unwrap();
            yard.memory.overwrite(&object.name, content);
        }
        yard.seconds.store(now, SeqCst);
        yard
    }

    pub fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, SeqCst);
    }

    /// A process that just started, on a host that has no cache.
    pub fn host(&self) -> End {
        self.host_at(Arc::new(self.store.clone()))
    }

    pub fn host_at(&self, store: SharedStore) -> End {
        let clock = match self.wrong {
            0 => self.clock(),
            wrong => Clock::fixed(Arc::new(AtomicI64::new(self.seconds.load(SeqCst) + wrong))),
        };
        let local = Local {
            cache: self.caches.path().join(ObjectId::random().to_string()),
            frame_cache_bytes: 16 << 20,
            clock,
        };
        End::open(Repository::open(store, &self.key, local).unwrap()).unwrap()
    }

    pub fn try_prune(&self, options: &Options) -> Result<Report> {
        prune(&self.host().catalog, options, &Progress::default())
    }

    pub fn prune(&self) -> Report {
        self.try_prune(&Options::default()).unwrap()
    }

    /// Prunes until nothing is left to be done; days pass.
    pub fn prune_all(&self) {
        for _ in 0..4 {
            self.pass(DAY + HOUR);
            self.prune();
        }
    }

    pub fn bytes(&self, prefix: &str) -> u64 {
        let objects = self.memory.list(prefix).unwrap();
        objects.iter().map(|object| object.size).sum()
    }

    pub fn packs(&self) -> Vec<Object> {
        self.memory.list("packs/").unwrap()
    }

    pub fn assert_clean(&self, case: &str) {
        assert_clean(case, self.host().repository());
    }
}

pub fn files(random: &mut Random, count: usize, bytes: usize) -> Files {
    (0..count)
        .map(|number| (format!("d/f{number}"), random.bytes(bytes).into()))
        .collect()
}

/// A new writer writes these files and commits them.
pub fn back_up(end: &End, name: &str, files: &Files) -> Result<Arc<Point>> {
    let writer = Writer::new(end.repository().clone(), None)?;
    let record = written(&writer, name, files)?;
    end.catalog.commit(b"web", Draft { record })
}

/// The record of a point with these files; everything is durable.
pub fn written(writer: &Writer, name: &str, files: &Files) -> Result<PointRecord> {
    let tree = write_directory(writer, "", files);
    writer.flush()?;
    Ok(PointRecord {
        mode: 0o750,
        mtime: Time::new(1, 2),
        ..PointRecord::new(name.as_bytes(), Time::new(1, 0), tree)
    })
}

/// Every file of a point, read.
pub fn read_back(end: &End, point: &Point) -> Files {
    let mut files = Files::new();
    for visit in Walk::new(end.trees.clone(), &point.record.tree) {
        let Visit::Entry { path, entry } = visit.unwrap() else {
            continue;
        };
        let Some(file) = entry.file() else { continue };
        let mut bytes = Vec::new();
        for extent in end.trees.extents_from(file, 0) {
            let (_, extent) = extent.unwrap();
            let id = extent.chunk.expect("no holes were written");
            bytes.extend(end.repository().read_chunk(&id).unwrap());
        }
        files.insert(String::from_utf8(path).unwrap(), bytes.into());
    }
    files
}

pub fn point(end: &End, name: &str) -> Option<Arc<Point>> {
    let contents = end.catalog.refresh().unwrap();
    contents.point(b"web", name.as_bytes()).cloned()
}

pub fn forget(end: &End, name: &str) {
    end.catalog.forget(&point(end, name).unwrap()).unwrap();
}

pub fn assert_reads(end: &End, name: &str, files: &Files, case: &str) {
    let point = point(end, name).unwrap_or_else(|| panic!("{case}: {name} is there"));
    assert!(read_back(end, &point) == *files, "{case}: {name}");
}

/// Nearly nothing but what an empty repository has.
pub fn assert_empty_again(yard: &Yard, empty: u64) {
    assert_eq!(yard.packs(), []);
    let now = yard.bytes("");
    let left: Vec<_> = yard.memory.list("").unwrap();
    let names: Vec<_> = left.iter().map(|object| &object.name).collect();
    assert!(
        now < empty + empty / 50 + 4096,
        "{empty} then, {now} now: {names:#?}"
    );
}

/// A repository in which one point has gone for good and two are left, one of which shares a pack with it.
pub fn half_gone() -> (Yard, BTreeMap<&'static str, Files>) {
    let yard = Yard::new();
    let mut random = Random(4);
    let all = files(&mut random, 6, 150_000);
    back_up(&yard.host(), "all", &all).unwrap();
    let few: Files = all.clone().into_iter().take(1).collect();
    back_up(&yard.host(), "few", &few).unwrap();
    let other = files(&mut random, 2, 50_000);
    back_up(&yard.host(), "other", &other).unwrap();
    back_up(&yard.host(), "last", &files(&mut random, 1, 50_000)).unwrap();
    forget(&yard.host(), "all");
    forget(&yard.host(), "last");
    yard.pass(9 * DAY);
    (yard, [("few", few), ("other", other)].into())
}
