//! Prune beside writers, open points and other prunes: what they share or have stored stays.

use crate::engine::{full, seed};
use crate::hooked::HookedStore;
use crate::sites::{Files, Random};
use crate::yard::{
    DAY, HOUR, Yard, assert_empty_again, assert_reads, back_up, files, forget, half_gone, point,
    written,
};
use keepfs::copy::End;
use keepfs::error::Kind;
use keepfs::filesystem::{Answered, Caller, FileSystem, Mode, ROOT};
use keepfs::id::ObjectId;
use keepfs::point::{Draft, PointRecord};
use keepfs::progress::Progress;
use keepfs::prune::{Options, prune};
use keepfs::repository::{OpenPointMark, Stage, Writer};
use keepfs::store::Store;
use keepfs::store::faults::Verb;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

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

/// What an open point wrote may be nowhere else: it shares what nobody needs, and days pass before it is sealed.
#[test]
fn what_an_open_point_shares_with_a_dead_pack_is_not_deleted_under_it() {
    let name = (b"web".to_vec(), b"open".to_vec());
    for listed_before in [false, true] {
        let yard = Yard::new();
        let shared = files(&mut Random(12), 4, 90_000);
        let host = yard.host();
        written(
            &Writer::new(host.repository().clone(), None).unwrap(),
            "never",
            &shared,
        )
        .unwrap();
        let dead = yard.packs();
        yard.pass(3 * DAY);
        if listed_before {
            assert!(yard.prune().condemned_packs > 0);
            yard.pass(HOUR);
        }
        let mark = OpenPointMark::new(host.repository().clone(), ObjectId::random(), name.clone());
        mark.hold().unwrap();
        let writer = Writer::new(host.repository().clone(), None)
            .unwrap()
            .marked(&mark);
        let record = written(&writer, "open", &shared).unwrap();
        drop(writer);
        // What was listed before is stored anew, what is listed later stays.
        assert_eq!(yard.packs() == dead, !listed_before);
        for _ in 0..4 {
            yard.pass(2 * DAY);
            let report = yard.prune();
            let told = report.notes.iter().any(|note| note.contains("open point"));
            assert!(
                listed_before || told || report.condemned_packs > 0,
                "{report:?}"
            );
        }
        let stays = dead.iter().all(|pack| yard.packs().contains(pack));
        assert_eq!(stays, !listed_before);
        let later = yard.host();
        later.catalog.commit(b"web", Draft { record }).unwrap();
        mark.give_back();
        yard.prune_all();
        assert_reads(&yard.host(), "open", &shared, "sealed");
        yard.assert_clean("sealed");
    }
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

/// One of two hosts that back up all the time, each its own backups and what all share.
fn keep_writing(
    yard: &Yard,
    number: u64,
    (stop, names): (&AtomicBool, &AtomicU64),
) -> BTreeMap<String, Files> {
    let mut random = Random(number + 77);
    let mut made: BTreeMap<u64, (String, Files)> = BTreeMap::new();
    let mut host = yard.host();
    for turn in 0.. {
        if stop.load(SeqCst) {
            break;
        }
        if turn % 5 == 4 {
            host = yard.host();
        }
        if made.len() > 8 {
            let (_, (oldest, _)) = made.pop_first().unwrap();
            forget(&host, &oldest);
        }
        let name = format!("w{number}-{turn}");
        names.fetch_add(1, SeqCst);
        let files = some_files(&mut random);
        match back_up(&host, &name, &files) {
            Ok(_) => drop(made.insert(turn, (name, files))),
            // It was told to run again: days have passed under it.
            Err(error) => assert_eq!(error.kind(), Kind::Busy, "{error}"),
        }
    }
    made.into_values().collect()
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
    let (stop, names) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut there: BTreeMap<String, Files> = BTreeMap::new();
    let rounds = if full() { 200 } else { 4 };
    std::thread::scope(|scope| {
        let writers = [0, 1].map(|number| {
            let (yard, told) = (&yard, (&stop, &names));
            scope.spawn(move || keep_writing(yard, number, told))
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
    let graves = 128 * (rounds * 10 + names.load(SeqCst));
    assert!(
        now < empty + empty / 50 + 8192 + graves,
        "{empty} then, {now} now"
    );
}

/// A mounted tree as tools ask it.
struct Tree(FileSystem);

const TOOL: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

impl Tree {
    fn ino(&self, path: &str) -> u64 {
        let mut ino = ROOT;
        for name in path.split('/') {
            match self.0.lookup(ino, name.as_bytes(), TOOL).unwrap() {
                Answered::Found { attributes, .. } => ino = attributes.ino,
                Answered::Missing { .. } => panic!("{path}"),
            }
        }
        ino
    }

    fn mkdir(&self, path: &str) {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let (mode, umask) = (0o755, 0);
        self.0
            .make_directory(
                self.ino(parent),
                name.as_bytes(),
                Mode { mode, umask },
                TOOL,
            )
            .unwrap();
    }

    fn create(&self, path: &str) -> u64 {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let (mode, umask) = (0o644, 0);
        let made = self.0.create(
            self.ino(parent),
            name.as_bytes(),
            Mode { mode, umask },
            0,
            TOOL,
        );
        made.unwrap().1
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let handle = self.create(path);
        self.0.write(handle, 0, bytes, TOOL).unwrap();
        self.0.close(handle);
    }

    fn copy(&self, from: &str, to: &str) {
        let source = self.0.open(self.ino(from), libc::O_RDONLY).unwrap();
        let target = self.create(to);
        self.0
            .copy_range((source, 0), (target, 0), 1 << 20, TOOL)
            .unwrap();
        [source, target]
            .into_iter()
            .for_each(|handle| self.0.close(handle));
    }
}

#[test]
fn an_open_point_keeps_what_it_has_stored_and_what_it_refers_to() {
    let yard = Yard::new();
    let mut random = Random(15);
    let source = files(&mut random, 4, 100_000);
    back_up(&yard.host(), "one", &source).unwrap();
    let state = tempfile::tempdir().unwrap();
    let host = yard.host();
    let served = vec![("primary".to_owned(), host.catalog.clone())];
    let options = keepfs::filesystem::Options::new(state.path().to_owned());
    let tree = Tree(FileSystem::new(served, options));
    tree.mkdir("primary/web/new.partial");
    tree.copy("primary/web/one/d/f0", "primary/web/new.partial/ref");
    let own = random.bytes(200_000);
    tree.put("primary/web/new.partial/own", &own);
    let open = tree.ino("primary/web/new.partial");
    tree.0.sync_directory(open, TOOL).unwrap();
    let stored = yard.packs();
    yard.pass(HOUR);
    forget(&yard.host(), "one");
    for _ in 0..3 {
        yard.pass(30 * DAY);
        let report = yard.prune();
        assert_eq!((report.points_removed, report.condemned_packs), (0, 0));
        let told = report
            .leases
            .iter()
            .any(|lease| lease.contains("web/new.partial"));
        assert!(told, "{report:?}");
    }
    assert_eq!(yard.packs(), stored);
    let web = tree.ino("primary/web");
    tree.0
        .rename((web, b"new.partial"), (web, b"new"), 0, TOOL)
        .unwrap();
    assert_eq!(yard.memory.list("leases/").unwrap(), []);
    yard.prune();
    yard.prune_all();
    let expected: Files = [
        ("own".to_owned(), own.into()),
        ("ref".to_owned(), source["d/f0"].clone()),
    ]
    .into();
    assert_reads(&yard.host(), "new", &expected, "sealed");
    yard.assert_clean("sealed");
    assert!(yard.bytes("packs/data/") < 320_000, "{:?}", yard.packs());
    // One that is discarded leaves nothing that would be kept.
    tree.mkdir("primary/web/given-up");
    tree.put("primary/web/given-up/own", &random.bytes(50_000));
    let open = tree.ino("primary/web/given-up");
    tree.0.sync_directory(open, TOOL).unwrap();
    assert_eq!(yard.memory.list("leases/").unwrap().len(), 1);
    let before = yard.packs().len();
    tree.0
        .remove_directory(web, b"given-up", crate::filesystem::caller())
        .unwrap();
    for _ in 0..500 {
        if yard.memory.list("leases/").unwrap().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    yard.prune_all();
    assert!(yard.packs().len() < before);
}
