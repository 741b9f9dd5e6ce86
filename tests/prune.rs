//! Prune: space comes back, and nothing that a point needs ever goes, whatever happens meanwhile.
//!
//! The store's clock is a number that the test turns.

use crate::cli::Host;
use crate::engine::{assert_clean, full, seed};
use crate::hooked::HookedStore;
use crate::sites::{Files, Random, write_directory};
use keepfs::clock::{Clock, Time};
use keepfs::copy::End;
use keepfs::error::{Kind, Result};
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::{Content, Draft, Owner, Point, PointRecord, Source, Visit, Walk};
use keepfs::progress::Progress;
use keepfs::prune::{Options, Report, prune};
use keepfs::repository::{
    Credential, Lane, Local, OpenPointMark, Repository, Settings, Stage, TRASH_DAYS, Writer,
};
use keepfs::store::faults::{FaultyStore, Stop, Verb};
use keepfs::store::{MemoryStore, Object, SharedStore, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// A store with a clock of its own, and a repository in it.
struct Yard {
    seconds: Arc<AtomicI64>,
    memory: MemoryStore,
    store: FaultyStore,
    key: Credential,
    caches: tempfile::TempDir,
    /// Seconds by which the hosts' clocks are wrong.
    wrong: i64,
}

impl Yard {
    fn new() -> Self {
        Self::with_trash_days("7")
    }

    fn with_trash_days(days: &str) -> Self {
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

    fn empty(seconds: Arc<AtomicI64>) -> Self {
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

    fn clock(&self) -> Clock {
        Clock::fixed(self.seconds.clone())
    }

    /// The same objects with the same times, behind a clock and a store of their own.
    fn copied(&self) -> Self {
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

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, SeqCst);
    }

    /// A process that just started, on a host that has no cache.
    fn host(&self) -> End {
        self.host_at(Arc::new(self.store.clone()))
    }

    fn host_at(&self, store: SharedStore) -> End {
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

    fn try_prune(&self, options: &Options) -> Result<Report> {
        prune(&self.host().catalog, options, &Progress::default())
    }

    fn prune(&self) -> Report {
        self.try_prune(&Options::default()).unwrap()
    }

    /// Prunes until nothing is left to be done; days pass.
    fn prune_all(&self) {
        for _ in 0..4 {
            self.pass(DAY + HOUR);
            self.prune();
        }
    }

    fn bytes(&self, prefix: &str) -> u64 {
        let objects = self.memory.list(prefix).unwrap();
        objects.iter().map(|object| object.size).sum()
    }

    fn packs(&self) -> Vec<Object> {
        self.memory.list("packs/").unwrap()
    }

    fn assert_clean(&self, case: &str) {
        assert_clean(case, self.host().repository());
    }
}

fn files(random: &mut Random, count: usize, bytes: usize) -> Files {
    (0..count)
        .map(|number| (format!("d/f{number}"), random.bytes(bytes).into()))
        .collect()
}

/// A new writer writes these files and commits them.
fn back_up(end: &End, name: &str, files: &Files) -> Result<Arc<Point>> {
    let writer = Writer::new(end.repository().clone(), None)?;
    let record = written(&writer, name, files)?;
    end.catalog.commit(b"web", Draft { record })
}

/// The record of a point with these files; everything is durable.
fn written(writer: &Writer, name: &str, files: &Files) -> Result<PointRecord> {
    let tree = write_directory(writer, "", files);
    writer.flush()?;
    Ok(PointRecord {
        backup: Default::default(),
        name: name.as_bytes().to_vec(),
        time: Time::new(1, 0),
        sealed: Time::default(),
        sequence: 0,
        previous: [0; 32],
        mode: 0o750,
        owner: Owner::default(),
        mtime: Time::new(1, 2),
        xattrs: Vec::new(),
        tree,
        side: Content::Empty,
        side_bytes: 0,
        source: Source::default(),
        origin: None,
        program: String::new(),
        more: Vec::new(),
    })
}

/// Every file of a point, read.
fn read_back(end: &End, point: &Point) -> Files {
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

fn point(end: &End, name: &str) -> Option<Arc<Point>> {
    let contents = end.catalog.refresh().unwrap();
    contents.point(b"web", name.as_bytes()).cloned()
}

fn forget(end: &End, name: &str) {
    end.catalog.forget(&point(end, name).unwrap()).unwrap();
}

fn assert_reads(end: &End, name: &str, files: &Files, case: &str) {
    let point = point(end, name).unwrap_or_else(|| panic!("{case}: {name} is there"));
    assert!(read_back(end, &point) == *files, "{case}: {name}");
}

/// Nearly nothing but what an empty repository has.
fn assert_empty_again(yard: &Yard, empty: u64) {
    assert_eq!(yard.packs(), []);
    let now = yard.bytes("");
    let left: Vec<_> = yard.memory.list("").unwrap();
    let names: Vec<_> = left.iter().map(|object| &object.name).collect();
    assert!(
        now < empty + empty / 50 + 4096,
        "{empty} then, {now} now: {names:#?}"
    );
}

#[test]
fn forgotten_space_comes_back_in_two_runs_and_not_before() {
    for wrong in [0, HOUR, -HOUR, 400 * DAY, -400 * DAY] {
        let mut yard = Yard::new();
        yard.wrong = wrong;
        let empty = yard.bytes("");
        let mut random = Random(1);
        for name in ["one", "two", "three"] {
            back_up(&yard.host(), name, &files(&mut random, 5, 150_000)).unwrap();
        }
        let full = yard.bytes("packs/");
        assert!(full > 2_000_000);
        yard.pass(30 * DAY);
        let nothing = yard.prune();
        assert_eq!((nothing.condemned_packs, nothing.deleted_packs), (0, 0));
        for name in ["one", "two", "three"] {
            forget(&yard.host(), name);
        }
        yard.pass(6 * DAY);
        let waits = yard.prune();
        assert_eq!((waits.points_removed, waits.points_in_trash), (0, 3));
        assert_eq!(waits.condemned_packs, 0);
        yard.pass(DAY + HOUR);
        let listed = yard.prune();
        assert_eq!((listed.points_removed, listed.points_in_trash), (3, 0));
        assert_eq!(listed.condemned_bytes, full);
        yard.assert_clean("listed");
        yard.pass(23 * HOUR);
        let early = yard.prune();
        assert_eq!((early.deleted_packs, early.waiting_bytes), (0, full));
        assert_eq!(yard.bytes("packs/"), full);
        yard.pass(HOUR);
        let deleted = yard.prune();
        assert_eq!(deleted.deleted_bytes, full);
        assert_eq!(deleted.condemned_packs, 0);
        yard.assert_clean("deleted");
        yard.prune_all();
        assert_empty_again(&yard, empty);
        yard.assert_clean("empty");
        let new = files(&mut random, 2, 1000);
        back_up(&yard.host(), "one", &new).unwrap();
        assert_reads(&yard.host(), "one", &new, "afterwards");
        yard.assert_clean("afterwards");
    }
}

#[test]
fn without_a_grace_period_one_run_does_it() {
    let yard = Yard::with_trash_days("0");
    let empty = yard.bytes("");
    back_up(&yard.host(), "one", &files(&mut Random(2), 5, 150_000)).unwrap();
    forget(&yard.host(), "one");
    let options = Options {
        grace_seconds: 0,
        ..Options::default()
    };
    let report = yard.try_prune(&options).unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    assert_eq!(yard.packs(), []);
    yard.try_prune(&options).unwrap();
    assert_empty_again(&yard, empty);
    yard.assert_clean("at once");
}

#[test]
fn a_dry_run_changes_nothing_and_tells_what_a_run_does() {
    let yard = Yard::new();
    let mut random = Random(3);
    let kept = files(&mut random, 3, 100_000);
    back_up(&yard.host(), "kept", &kept).unwrap();
    back_up(&yard.host(), "gone", &files(&mut random, 3, 100_000)).unwrap();
    forget(&yard.host(), "gone");
    let dry = Options {
        dry_run: true,
        ..Options::default()
    };
    let mut deleted = 0;
    for _ in 0..5 {
        yard.pass(4 * DAY);
        let before = yard.memory.list("").unwrap();
        let told = yard.try_prune(&dry).unwrap();
        assert_eq!(yard.memory.list("").unwrap(), before);
        let done = yard.prune();
        let facts = |report: &Report| {
            (
                report.points_removed,
                report.points_in_trash,
                report.deleted_bytes,
                report.live_bytes,
            )
        };
        assert_eq!(facts(&told), facts(&done));
        if done.deleted_packs == 0 {
            assert_eq!(told.condemned_packs, done.condemned_packs);
        }
        deleted += done.deleted_packs;
    }
    assert!(deleted > 0);
    assert_reads(&yard.host(), "kept", &kept, "kept");
}

/// A repository in which one point has gone for good and two are left, one of which shares a pack with it.
fn half_gone() -> (Yard, BTreeMap<&'static str, Files>) {
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

#[test]
fn a_prune_that_dies_at_any_write_breaks_nothing_and_the_next_completes() {
    let (yard, points) = half_gone();
    let mut deaths = 0;
    // What lists, what decides and deletes, and what removes the rest.
    for phase in 0..3 {
        let whole = yard.copied();
        whole.store.clear_log();
        whole.prune();
        let writes = whole.store.mutations() as u64;
        for nth in 1..=writes {
            for stop in [Stop::Before, Stop::After] {
                let case = format!("phase {phase}, write {nth} of {writes}, {stop:?}");
                let copy = yard.copied();
                copy.store.stop_at(nth, stop);
                deaths += u64::from(copy.try_prune(&Options::default()).is_err());
                copy.store.heal();
                copy.assert_clean(&case);
                let host = copy.host();
                for (name, files) in &points {
                    assert_reads(&host, name, files, &case);
                }
                assert!(point(&host, "all").is_none(), "{case}");
                copy.prune_all();
                copy.assert_clean(&case);
                let host = copy.host();
                for (name, files) in &points {
                    assert_reads(&host, name, files, &case);
                }
                let (bytes, most) = (copy.bytes("packs/"), 2 * 50_000 + 150_000 + 20_000);
                assert!(bytes < most, "{case}: {bytes} of {most} bytes are left");
            }
        }
        yard.prune();
        yard.pass(DAY + HOUR);
    }
    assert!(deaths > 20, "{deaths} runs died");
}

#[test]
fn what_little_is_needed_of_a_pack_moves_and_readers_find_it() {
    let (yard, points) = half_gone();
    // Opened before anything moves: its index is old, and it has read nothing yet.
    let old = yard.host();
    let listed = yard.prune();
    assert!(listed.rewritten_packs > 0, "{listed:?}");
    assert!(listed.rewritten_bytes < 400_000, "{listed:?}");
    yard.pass(DAY);
    let deleted = yard.prune();
    assert!(deleted.deleted_packs >= 2, "{deleted:?}");
    for (name, files) in &points {
        assert_reads(&old, name, files, "an old index");
        assert_reads(&yard.host(), name, files, "a new one");
    }
    yard.assert_clean("moved");
    let options = Options {
        max_dead: 100,
        ..Options::default()
    };
    let (other, points) = half_gone();
    for _ in 0..3 {
        let report = other.try_prune(&options).unwrap();
        assert_eq!(report.rewritten_packs, 0);
        other.pass(DAY);
    }
    for (name, files) in &points {
        assert_reads(&other.host(), name, files, "not moved");
    }
}

#[test]
fn a_writer_that_knows_nothing_of_the_list() {
    for hours in [23, 25, 49] {
        let yard = Yard::with_trash_days("0");
        let shared = files(&mut Random(5), 4, 100_000);
        back_up(&yard.host(), "gone", &shared).unwrap();
        // Another one, so that the backup's newest record is not in question.
        back_up(&yard.host(), "other", &files(&mut Random(6), 1, 100)).unwrap();
        yard.pass(2 * DAY);
        // Loads its index, finds everything there, and waits.
        let slow = yard.host();
        let writer = Writer::new(slow.repository().clone(), None).unwrap();
        let record = written(&writer, "slow", &shared).unwrap();
        let stored = writer.written.chunks.load(SeqCst);
        assert_eq!(stored, 0, "it shares everything");
        forget(&yard.host(), "gone");
        let listed = yard.prune();
        assert!(listed.condemned_packs > 0);
        yard.pass(hours * HOUR);
        if hours == 49 {
            assert!(yard.prune().deleted_packs > 0);
        }
        let committed = slow.catalog.commit(b"web", Draft { record });
        let case = format!("{hours} hours");
        match hours {
            // Before the list's time: whoever decides sees the point.
            23 => {
                committed.unwrap();
                yard.pass(2 * HOUR);
                let report = yard.prune();
                assert!(report.rescued_packs > 0, "{report:?}");
                assert_eq!(report.deleted_packs, 0);
            }
            // After it, and nobody has decided: the list is withdrawn, and the next run makes another one.
            25 => {
                committed.unwrap();
                let now = yard.host().repository().condemned().unwrap();
                assert_eq!((now.stage, now.packs.len()), (Stage::Done, 0));
                assert_eq!(yard.prune().deleted_packs, 0);
            }
            _ => {
                let refused = committed.unwrap_err();
                assert_eq!(refused.kind(), Kind::Busy, "{refused}");
                assert!(refused.message().contains("run it again"), "{refused}");
                drop(writer);
                assert!(point(&yard.host(), "slow").is_none(), "{case}");
                // Run again, in the same process: it stores anew what it would have shared.
                back_up(&slow, "slow", &shared).unwrap();
            }
        }
        for _ in 0..3 {
            assert_reads(&yard.host(), "slow", &shared, &case);
            yard.assert_clean(&case);
            yard.prune_all();
        }
    }
}

/// A yard with a list of packs that a slow writer shares, and that writer's record; nothing is committed yet.
fn slow_writer(host: &dyn Fn(&Yard) -> End) -> (Yard, End, Writer, PointRecord, Files) {
    let yard = Yard::with_trash_days("0");
    let shared = files(&mut Random(7), 4, 100_000);
    back_up(&yard.host(), "gone", &shared).unwrap();
    back_up(&yard.host(), "other", &files(&mut Random(6), 1, 100)).unwrap();
    yard.pass(2 * DAY);
    let slow = host(&yard);
    let writer = Writer::new(slow.repository().clone(), None).unwrap();
    let record = written(&writer, "slow", &shared).unwrap();
    forget(&yard.host(), "gone");
    assert!(yard.prune().condemned_packs > 0);
    (yard, slow, writer, record, shared)
}

#[test]
fn a_record_that_comes_after_the_deciding_is_taken_back() {
    let hooked = std::cell::OnceCell::new();
    let (yard, slow, writer, record, shared) = slow_writer(&|yard| {
        let store = hooked.get_or_init(|| HookedStore::new(yard.memory.clone()));
        yard.host_at(Arc::new(store.clone()))
    });
    let yard = Arc::new(yard);
    // It sees that the list waits, and then sleeps while the list is decided and carried out.
    let (sleeper, slept) = (yard.clone(), AtomicBool::new(false));
    hooked.get().unwrap().after(move |verb, name| {
        if (verb, name) == (Verb::List, "condemned/") && !slept.swap(true, SeqCst) {
            sleeper.pass(3 * DAY);
            assert!(sleeper.prune().deleted_packs > 0);
        }
        Ok(())
    });
    let refused = slow.catalog.commit(b"web", Draft { record }).unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy, "{refused}");
    drop(writer);
    assert!(point(&yard.host(), "slow").is_none());
    yard.assert_clean("taken back");
    back_up(&slow, "slow", &shared).unwrap();
    yard.prune_all();
    assert_reads(&yard.host(), "slow", &shared, "run again");
    yard.assert_clean("run again");
}

#[test]
fn a_point_that_comes_between_the_marking_and_the_deciding_is_seen() {
    let (yard, _slow, writer, record, shared) = slow_writer(&Yard::host);
    // The same commit in a copy gives the record's bytes.
    let copy = yard.copied();
    let known = copy.memory.list("points/").unwrap();
    let other = copy.host();
    let began = Writer::new(other.repository().clone(), None).unwrap();
    other.catalog.commit(b"web", Draft { record }).unwrap();
    drop((began, writer));
    let objects = copy.memory.list("points/").unwrap();
    let mut new = objects.iter().filter(|object| !known.contains(object));
    let name = new.next().unwrap().name.clone();
    let bytes = copy.memory.get(&name).unwrap();
    yard.pass(DAY + HOUR);
    let store = HookedStore::new(yard.memory.clone());
    let (memory, done) = (yard.memory.clone(), AtomicBool::new(false));
    // Packs are listed after points.
    store.after(move |verb, listed| {
        if (verb, listed) == (Verb::List, "packs/") && !done.swap(true, SeqCst) {
            memory.overwrite(&name, bytes.clone());
        }
        Ok(())
    });
    let pruner = yard.host_at(Arc::new(store));
    let report = prune(&pruner.catalog, &Options::default(), &Progress::default()).unwrap();
    assert!(report.rescued_packs > 0, "{report:?}");
    for case in ["at once", "later"] {
        assert_reads(&yard.host(), "slow", &shared, case);
        yard.assert_clean(case);
        yard.prune_all();
    }
}

#[test]
fn two_prunes_at_once_do_what_one_does() {
    let (yard, points) = half_gone();
    for round in 0..6 {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| yard.prune());
            }
        });
        let case = format!("round {round}");
        yard.assert_clean(&case);
        for (name, files) in &points {
            assert_reads(&yard.host(), name, files, &case);
        }
        yard.pass(DAY + HOUR);
    }
    let bytes = yard.bytes("packs/");
    assert!(bytes < 300_000, "{bytes} bytes are left");
}

#[test]
fn what_is_in_the_trash_comes_back_until_its_days_are_over() {
    let yard = Yard::new();
    let mut random = Random(8);
    let (one, two) = (files(&mut random, 3, 90_000), files(&mut random, 3, 90_000));
    back_up(&yard.host(), "one", &one).unwrap();
    back_up(&yard.host(), "two", &two).unwrap();
    let root = point(&yard.host(), "one").unwrap().record.tree.root;
    for day in 0..3 {
        forget(&yard.host(), "one");
        yard.pass(3 * DAY);
        yard.prune();
        yard.pass(3 * DAY);
        yard.prune();
        let host = yard.host();
        let contents = host.catalog.contents();
        let [forgotten] = contents.forgotten.as_slice() else {
            panic!("{:?}", contents.forgotten);
        };
        host.catalog.undelete(&forgotten.point).unwrap();
        assert_eq!(point(&yard.host(), "one").unwrap().record.tree.root, root);
        assert_reads(&yard.host(), "one", &one, &format!("day {day}"));
    }
    forget(&yard.host(), "one");
    yard.pass(8 * DAY);
    let host = yard.host();
    let forgotten = host.catalog.contents().forgotten[0].point.clone();
    let late = host.catalog.undelete(&forgotten).unwrap_err();
    assert_eq!(late.kind(), Kind::NotFound, "{late}");
    assert!(point(&yard.host(), "one").is_none());
    // Trying has put it into the trash anew, so it waits there once more.
    yard.pass(8 * DAY);
    assert_eq!(yard.prune().points_removed, 1);
    let gone = host.catalog.undelete(&forgotten).unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
    yard.prune_all();
    assert!(point(&yard.host(), "one").is_none());
    assert_reads(&yard.host(), "two", &two, "two");
    yard.assert_clean("undeleted");
}

#[test]
fn a_name_that_is_used_again_is_never_taken_for_the_one_that_is_gone() {
    let yard = Yard::new();
    let mut random = Random(9);
    back_up(&yard.host(), "name", &files(&mut random, 1, 1000)).unwrap();
    back_up(&yard.host(), "other", &files(&mut random, 1, 1000)).unwrap();
    // It has seen the point, and never looks whether it was forgotten.
    let old = yard.host();
    forget(&yard.host(), "name");
    yard.pass(8 * DAY);
    yard.prune();
    yard.prune_all();
    assert_eq!(yard.memory.list("trash/").unwrap(), []);
    let again = files(&mut random, 1, 1000);
    let made = back_up(&yard.host(), "name", &again).unwrap();
    assert!(made.generation > 0);
    assert_reads(&old, "name", &again, "a host that knew the old one");
    assert_reads(&yard.host(), "name", &again, "a new host");
    yard.assert_clean("used again");
}

#[test]
fn a_writer_and_an_open_point_keep_what_they_have_stored() {
    let yard = Yard::new();
    let mut random = Random(10);
    let (long, open) = (files(&mut random, 4, 90_000), files(&mut random, 4, 90_000));
    let shared = files(&mut random, 4, 90_000);
    back_up(&yard.host(), "shared", &shared).unwrap();
    let host = yard.host();
    let id = ObjectId::random();
    let name = (b"web".to_vec(), b"open".to_vec());
    let mark = OpenPointMark::new(host.repository().clone(), id, name.clone());
    let writer = Writer::new(host.repository().clone(), None)
        .unwrap()
        .marked(&mark);
    let record = written(&writer, "open", &open).unwrap();
    drop(writer);
    // Forgotten while the open point may refer to it.
    yard.pass(HOUR);
    forget(&yard.host(), "shared");
    let writer = Writer::new(host.repository().clone(), None).unwrap();
    let long_record = written(&writer, "long", &long).unwrap();
    let stored = yard.packs();
    for _ in 0..4 {
        yard.pass(30 * DAY);
        let report = yard.prune();
        assert_eq!((report.condemned_packs, report.points_removed), (0, 0));
        assert!(
            report.leases.iter().any(|lease| lease.contains("web/open")),
            "{report:?}"
        );
    }
    assert_eq!(yard.packs(), stored);
    host.catalog
        .commit(
            b"web",
            Draft {
                record: long_record,
            },
        )
        .unwrap();
    drop(writer);
    host.catalog.commit(b"web", Draft { record }).unwrap();
    mark.give_back();
    // The mark of a process that died is given back by the one that goes on.
    let other = OpenPointMark::new(host.repository().clone(), id, name);
    other.hold().unwrap();
    let resumed = other.clone();
    resumed.resume();
    resumed.give_back();
    assert_eq!(yard.memory.list("leases/").unwrap(), []);
    yard.prune();
    yard.prune_all();
    assert_reads(&yard.host(), "open", &open, "open");
    assert_reads(&yard.host(), "long", &long, "long");
    yard.assert_clean("kept");
    assert_eq!(yard.host().catalog.contents().forgotten.len(), 0);
    assert!(yard.packs().len() < stored.len());
}

#[test]
fn what_a_dead_writer_left_goes_when_its_lease_ends() {
    let yard = Yard::new();
    let empty = yard.bytes("");
    let host = yard.host();
    let writer = Writer::new(host.repository().clone(), None).unwrap();
    written(&writer, "never", &files(&mut Random(11), 4, 90_000)).unwrap();
    // As if its process had died: nobody gives the lease back.
    std::mem::forget(writer);
    assert_eq!(yard.memory.list("leases/").unwrap().len(), 1);
    yard.pass(30 * HOUR);
    assert_eq!(yard.prune().condemned_packs, 0);
    yard.pass(30 * HOUR);
    assert!(yard.prune().condemned_packs > 0);
    yard.prune_all();
    assert_empty_again(&yard, empty);
}

#[test]
fn in_doubt_nothing_is_pruned() {
    let (yard, _) = half_gone();
    let refused = |damage: &dyn Fn(&Yard)| {
        let copy = yard.copied();
        damage(&copy);
        let before = copy.packs();
        for _ in 0..3 {
            let error = copy.try_prune(&Options::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            assert!(error.message().contains("keepfs check"), "{error}");
            copy.pass(2 * DAY);
        }
        assert_eq!(copy.packs(), before);
    };
    for prefix in ["index/", "points/", "trash/", "packs/tree/"] {
        refused(&|copy| {
            for object in copy.memory.list(prefix).unwrap() {
                let content = vec![0x55; object.size as usize];
                copy.memory.overwrite(&object.name, content.into());
            }
        });
    }
    refused(&|copy| {
        for object in copy.memory.list("packs/data/").unwrap() {
            copy.memory.delete(&object.name).unwrap();
        }
    });
}

/// A file may hold the bytes of a directory's page: that page is gone through all the same.
#[test]
fn a_file_that_holds_a_page_hides_nothing_below_that_page() {
    let yard = Yard::new();
    let mut random = Random(12);
    let real = files(&mut random, 3, 90_000);
    let host = yard.host();
    let made = back_up(&host, "real", &real).unwrap();
    let page = host
        .repository()
        .read_chunk(&made.record.tree.root)
        .unwrap();
    let mut both = real.clone();
    both.insert("a".to_owned(), page.into());
    back_up(&yard.host(), "both", &both).unwrap();
    back_up(&yard.host(), "last", &files(&mut random, 1, 100)).unwrap();
    yard.pass(2 * DAY);
    yard.prune();
    yard.prune_all();
    assert_reads(&yard.host(), "real", &real, "real");
    forget(&yard.host(), "real");
    yard.pass(9 * DAY);
    yard.prune();
    yard.prune_all();
    assert_reads(&yard.host(), "both", &both, "both");
    yard.assert_clean("pages");
}

/// One of two hosts that back up all the time, each its own backups and what all share.
fn keep_writing(yard: &Yard, number: u64, stop: &AtomicBool) -> BTreeMap<String, Files> {
    let mut random = Random(number + 77);
    let mut made = BTreeMap::new();
    let mut host = yard.host();
    for turn in 0.. {
        if stop.load(SeqCst) {
            break;
        }
        if turn % 5 == 4 {
            host = yard.host();
        }
        let name = format!("w{number}-{turn}");
        let files = some_files(&mut random);
        match back_up(&host, &name, &files) {
            Ok(_) => drop(made.insert(name, files)),
            // It was told to run again: days have passed under it.
            Err(error) => assert_eq!(error.kind(), Kind::Busy, "{error}"),
        }
    }
    made
}

/// A few files of a small stock, so that points share and gone ones come again.
fn some_files(random: &mut Random) -> Files {
    let chosen = (0..1 + random.below(4)).map(|_| random.below(24));
    let files = chosen.map(|stock| {
        let bytes = Random(1000 + stock).bytes(20_000 + 3000 * stock as usize);
        (format!("d/f{stock}"), bytes.into())
    });
    files.collect()
}

#[test]
fn points_come_and_go_in_any_order_beside_two_writers() {
    let seed = seed("prune beside writers");
    let yard = Yard::with_trash_days("1");
    let empty = yard.bytes("");
    let mut random = Random(seed);
    let stop = AtomicBool::new(false);
    let mut there: BTreeMap<String, Files> = BTreeMap::new();
    let rounds = if full() { 200 } else { 4 };
    std::thread::scope(|scope| {
        let writers = [0, 1].map(|number| {
            let (yard, stop) = (&yard, &stop);
            scope.spawn(move || keep_writing(yard, number, stop))
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                for number in 0..10 {
                    let name = format!("r{round}-{number}");
                    let files = some_files(&mut random);
                    if back_up(&yard.host(), &name, &files).is_ok() {
                        there.insert(name, files);
                    }
                }
                let mut left = 10;
                while left > 0 && !there.is_empty() {
                    let place = random.below(there.len() as u64) as usize;
                    let name = there.keys().nth(place).unwrap().clone();
                    forget(&yard.host(), &name);
                    there.remove(&name);
                    left -= 1;
                    if left % 4 != 0 {
                        continue;
                    }
                    yard.pass(HOUR * (1 + random.below(40)) as i64);
                    yard.prune();
                    let case = format!("round {round}, {left} left");
                    let host = yard.host();
                    for (name, files) in &there {
                        assert_reads(&host, name, files, &case);
                    }
                }
            }
        }));
        stop.store(true, SeqCst);
        let made = writers.map(|writer| writer.join());
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        for points in made {
            there.extend(points.unwrap());
        }
    });
    yard.assert_clean("after all rounds");
    let host = yard.host();
    for (name, files) in &there {
        assert_reads(&host, name, files, "after all rounds");
    }
    there.keys().for_each(|name| forget(&host, name));
    yard.pass(2 * DAY);
    yard.prune();
    yard.prune_all();
    // Leases of writers that were refused are given back; nothing is left but the newest records.
    yard.prune_all();
    assert_eq!(yard.packs(), []);
    yard.assert_clean("empty");
    let now = yard.bytes("");
    // A grave of each name that was used, and the index's last segment.
    let graves = 128 * (rounds * 10 + there.len()) as u64;
    assert!(
        now < empty + empty / 50 + 8192 + graves,
        "{empty} then, {now} now"
    );
}

#[test]
fn chunks_that_two_packs_hold_survive_in_one() {
    let yard = Yard::with_trash_days("0");
    let mut random = Random(13);
    let shared = files(&mut random, 3, 90_000);
    // Two hosts that do not see each other's index store the same.
    let (one, two) = (yard.host(), yard.host());
    back_up(&one, "one", &shared).unwrap();
    back_up(&two, "two", &shared).unwrap();
    let content = random.bytes(1000);
    let writer = Writer::new(one.repository().clone(), None).unwrap();
    writer
        .put(Lane::Alone, ChunkId::of(&content), &content)
        .unwrap();
    writer.flush().unwrap();
    drop(writer);
    let doubled = yard.bytes("packs/data/");
    yard.pass(2 * DAY);
    yard.prune();
    yard.prune_all();
    for name in ["one", "two"] {
        assert_reads(&yard.host(), name, &shared, name);
    }
    let now = yard.bytes("packs/data/");
    assert!(now < doubled * 6 / 10, "{doubled} then, {now} now");
    yard.assert_clean("doubled");
}

#[test]
fn the_command_prunes_and_brings_back() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    let source = host.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), Random(14).bytes(500_000)).unwrap();
    let source = source.to_str().unwrap();
    host.expect(0, &["backup", source, "primary/web/one"]);
    host.expect(0, &["backup", source, "primary/web/two"]);
    host.expect(1, &["undelete", "primary/web/one"]);
    host.expect(0, &["forget", "primary/web/one"]);
    let trash = host.expect(0, &["points", "--trash", "primary"]);
    assert!(
        trash.contains("primary/web/one") && trash.contains("goes"),
        "{trash}"
    );
    let json = host.json(&["points", "--trash", "--json", "primary"]);
    assert_eq!(json[0]["points"][0]["point"], "one");
    let back = host.expect(0, &["undelete", "primary/web/one"]);
    assert!(back.contains("brought back primary/web/one"), "{back}");
    host.expect(1, &["undelete", "primary/web/one"]);
    host.expect(0, &["forget", "primary/web/one", "primary/web/two"]);
    let plan = host.json(&["prune", "--dry-run", "--json", "primary"]);
    assert_eq!(plan[0]["points_in_trash"], 2);
    assert_eq!(plan[0]["points_removed"], 0);
    let text = host.expect(0, &["prune", "--grace", "1h", "primary"]);
    assert!(text.contains("2 can still be brought back"), "{text}");
    host.expect(2, &["prune", "--grace", "5", "primary"]);
    host.expect(2, &["prune", "--max-dead", "101", "primary"]);
    host.expect(0, &["undelete", "primary/web/two"]);
    host.expect(0, &["check", "--read-data", "primary"]);
}
