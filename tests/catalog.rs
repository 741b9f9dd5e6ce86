//! What the records of backups and points do when hosts race, records are lost or planted, and the store fails.

use crate::hooked::HookedStore;
use crate::planted::{Item, Shelf, noise, owner, plant};
use bytes::Bytes;
use keepfs::clock::Time;
use keepfs::copy::{SessionRecord, sessions};
use keepfs::error::{Error, Kind};
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::{Catalog, Draft, Point, PointRecord, Tree};
use keepfs::repository::Repository;
use keepfs::store::Store;
use keepfs::store::faults::{FaultyStore, Verb};
use keepfs::store::names::Name;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

fn point(catalog: &Catalog, backup: &str, name: &str) -> keepfs::error::Result<Arc<Point>> {
    let content = noise(name.len() as u32, 2000);
    let item = Item::directory([("file", Item::File(content, 1000))]);
    plant(catalog, backup, name, &item).map(|(point, _)| point)
}

/// Whether a host that looks for the first time sees the point.
fn is_shown(shelf: &Shelf, backup: &str, name: &str) -> bool {
    let contents = shelf.catalog().contents();
    assert_eq!(contents.problems, Default::default());
    contents.point(backup.as_bytes(), name.as_bytes()).is_some()
}

#[test]
fn a_point_is_forgotten_taken_back_and_forgotten_again() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    let made = point(&catalog, "web", "one").unwrap();
    for _ in 0..2 {
        catalog.forget(&made).unwrap();
        assert!(!is_shown(&shelf, "web", "one"));
        catalog.undelete(&made).unwrap();
        assert!(is_shown(&shelf, "web", "one"));
    }
    let contents = shelf.catalog().contents();
    let back = contents.point(b"web", b"one").unwrap();
    assert_eq!(back.record.tree.root, made.record.tree.root);
    assert_eq!(back.generation, 0);
    catalog.forget(&made).unwrap();
    assert!(!is_shown(&shelf, "web", "one"));
    crate::engine::assert_clean("forgotten again", catalog.repository());
}

/// The shelf's repository behind a store that lets the test act.
fn hooked(shelf: &Shelf) -> (HookedStore, Arc<Catalog>) {
    let store = HookedStore::new(shelf.memory.clone());
    let repository = Repository::open(Arc::new(store.clone()), &shelf.key, shelf.local()).unwrap();
    (store, Arc::new(Catalog::open(repository).unwrap()))
}

/// The store does not answer any more once an object whose name starts with `prefix` was created.
fn down_after(store: &HookedStore, prefix: &'static str) {
    let down = AtomicBool::new(false);
    store.after(move |verb, name| {
        if down.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unreachable, "made to fail"));
        }
        let last = verb == Verb::Create && name.starts_with(prefix);
        down.fetch_or(last, Ordering::SeqCst);
        Ok(())
    });
}

fn junk(shelf: &Shelf, name: Name) {
    let bytes = Bytes::from_static(b"not what any key has written");
    shelf.memory.create(&name.to_string(), bytes).unwrap();
}

#[test]
fn a_backup_whose_record_cannot_be_read_is_not_made_twice() {
    let shelf = Shelf::new();
    point(&shelf.catalog(), "web", "one").unwrap();
    let record = shelf.memory.list("backups/").unwrap().remove(0).name;
    let good = shelf.memory.get(&record).unwrap();
    shelf
        .memory
        .overwrite(&record, good.slice(..good.len() - 1));
    let error = point(&shelf.catalog(), "web", "two").unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.message().contains(&record), "{error}");
    assert_eq!(shelf.memory.list("backups/").unwrap().len(), 1);
    shelf.memory.overwrite(&record, good);
    point(&shelf.catalog(), "web", "two").unwrap();
    assert!(is_shown(&shelf, "web", "one"));
}

#[test]
fn of_two_backups_of_one_name_every_host_shows_the_lower_id() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    let backup = catalog.ensure_backup(b"web").unwrap();
    let (lower, higher) = (ObjectId([0; 16]), ObjectId([0xff; 16]));
    for id in [lower, higher] {
        catalog
            .repository()
            .create_document(Name::Backup(id, 0), &backup.record)
            .unwrap();
    }
    for _ in 0..5 {
        let contents = shelf.catalog().contents();
        assert_eq!(contents.backups[b"web".as_slice()].id, lower);
        assert_eq!(contents.problems.len(), 2, "{:?}", contents.problems);
    }
}

#[test]
fn junk_with_the_highest_number_hides_nothing() {
    let shelf = Shelf::new();
    let made = point(&shelf.catalog(), "web", "one").unwrap();
    let backup = made.record.backup;
    junk(&shelf, Name::Config(u64::MAX));
    junk(&shelf, Name::Backup(backup, u64::MAX));
    junk(&shelf, Name::Trash(made.id, 0, 0));
    junk(&shelf, Name::Trash(made.id, 0, u64::MAX));
    let catalog = shelf.catalog();
    let contents = catalog.contents();
    assert!(contents.point(b"web", b"one").is_some());
    assert_eq!(contents.problems.len(), 3, "{:?}", contents.problems);
    point(&catalog, "web", "two").unwrap();
    catalog.forget(&made).unwrap();
    let contents = shelf.catalog().contents();
    assert!(contents.point(b"web", b"one").is_none());
    assert!(contents.point(b"web", b"two").is_some());
}

#[test]
fn a_commit_and_a_forgetting_that_are_done_succeed_though_the_store_fails_afterwards() {
    let shelf = Shelf::new();
    let (store, catalog) = hooked(&shelf);
    catalog.ensure_backup(b"web").unwrap();
    down_after(&store, "points/");
    let made = point(&catalog, "web", "one").unwrap();
    assert_eq!(catalog.contents().point(b"web", b"one"), Some(&made));
    assert_eq!(
        shelf.catalog().contents().point(b"web", b"one"),
        Some(&made)
    );
    down_after(&store, "trash/");
    catalog.forget(&made).unwrap();
    assert!(catalog.contents().point(b"web", b"one").is_none());
    assert!(!is_shown(&shelf, "web", "one"));
}

#[test]
fn two_hosts_may_forget_a_point_at_once() {
    let shelf = Shelf::new();
    let (one, two) = (shelf.catalog(), shelf.catalog());
    let made = point(&one, "web", "one").unwrap();
    two.refresh().unwrap();
    one.forget(&made).unwrap();
    two.forget(&made).unwrap();
    assert_eq!(shelf.memory.list("trash/").unwrap().len(), 1);
}

#[test]
fn a_look_that_began_earlier_does_not_hide_what_was_committed_since() {
    let shelf = Shelf::new();
    let (store, catalog) = hooked(&shelf);
    point(&catalog, "web", "one").unwrap();
    let (entered, has_entered) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let (first, may_go_on) = (AtomicBool::new(true), Mutex::new(may_go_on));
    store.after(move |verb, name| {
        if (verb, name) == (Verb::List, "points/") && first.swap(false, Ordering::SeqCst) {
            entered.send(()).unwrap();
            // A commit that waits for this look lets it go on after a while.
            let _ = may_go_on
                .lock()
                .unwrap()
                .recv_timeout(Duration::from_millis(500));
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        scope.spawn(|| catalog.refresh().unwrap());
        has_entered.recv().unwrap();
        point(&catalog, "web", "two").unwrap();
        go_on.send(()).unwrap_or_default();
    });
    assert!(catalog.contents().point(b"web", b"two").is_some());
    let again = point(&catalog, "web", "two").unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
}

#[test]
fn readers_see_what_is_known_while_a_record_is_being_read() {
    let shelf = Shelf::new();
    let (store, catalog) = hooked(&shelf);
    point(&shelf.catalog(), "web", "one").unwrap();
    let (entered, has_entered) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let in_time = Arc::new(AtomicBool::new(false));
    let heard = in_time.clone();
    store.after(move |verb, name| {
        if verb == Verb::Get && name.starts_with("points/") {
            entered.send(()).unwrap();
            let told = may_go_on.lock().unwrap();
            let told = told.recv_timeout(Duration::from_secs(20));
            heard.store(told.is_ok(), Ordering::SeqCst);
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        scope.spawn(|| catalog.refresh().unwrap());
        has_entered.recv().unwrap();
        assert!(catalog.contents().point(b"web", b"one").is_none());
        go_on.send(()).unwrap_or_default();
    });
    assert!(
        in_time.load(Ordering::SeqCst),
        "the reader waited for the store"
    );
    assert!(catalog.contents().point(b"web", b"one").is_some());
}

#[test]
fn a_store_that_fails_is_not_asked_at_every_look() {
    let shelf = Shelf::new();
    let store = FaultyStore::new(shelf.store());
    let repository = Repository::open(Arc::new(store.clone()), &shelf.key, shelf.local()).unwrap();
    let catalog = Catalog::open(repository).unwrap();
    point(&catalog, "web", "one").unwrap();
    store.fail_next(u64::MAX, Kind::Unreachable);
    store.clear_log();
    for _ in 0..100 {
        let error = catalog.contents_within(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(catalog.contents().point(b"web", b"one").is_some());
    }
    assert_eq!(store.log().len(), 1, "one look for all");
    store.heal();
    catalog.refresh().unwrap();
    catalog.contents_within(Duration::ZERO).unwrap();
}

#[test]
fn a_backup_that_is_removed_while_a_point_is_committed_stays() {
    let shelf = Shelf::new();
    let (one, two) = (shelf.catalog(), shelf.catalog());
    let backup = one.ensure_backup(b"web").unwrap();
    point(&two, "web", "one").unwrap();
    // This host has not seen the point.
    one.remove_backup(&backup).unwrap();
    assert!(is_shown(&shelf, "web", "one"));
    let made = point(&shelf.catalog(), "web", "two").unwrap();
    assert_eq!(made.record.backup, backup.id);
}

#[test]
fn a_backup_is_made_and_removed_any_number_of_times() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    let first = catalog.ensure_backup(b"web").unwrap();
    for _ in 0..70 {
        let backup = catalog.ensure_backup(b"web").unwrap();
        assert_eq!(backup.id, first.id);
        catalog.remove_backup(&backup).unwrap();
        assert!(!catalog.contents().backups.contains_key(b"web".as_slice()));
    }
    point(&catalog, "web", "one").unwrap();
    assert!(is_shown(&shelf, "web", "one"));
    crate::engine::assert_clean("revived", catalog.repository());
}

/// Commits a point of which only the record matters, with an attribute of so many bytes.
fn bare(catalog: &Catalog, name: &str, bytes: usize) -> keepfs::error::Result<Arc<Point>> {
    let tree = Tree {
        root: ChunkId([1; 32]),
        own: 0,
        entries: 0,
        bytes: 0,
    };
    let record = PointRecord {
        mode: 0o755,
        owner: owner(),
        mtime: Time::new(1, 2),
        xattrs: vec![(b"user.large".to_vec(), vec![0; bytes])],
        ..PointRecord::new(name.as_bytes(), Time::new(5, 6), tree)
    };
    catalog.commit(b"web", Draft { record })
}

/// What a host reads that looks for the first time: catalogues, and records outside them.
fn first_look(shelf: &Shelf, points: usize) -> (usize, usize) {
    let store = FaultyStore::new(shelf.store());
    let repository = Repository::open(Arc::new(store.clone()), &shelf.key, shelf.local()).unwrap();
    let contents = Catalog::open(repository).unwrap().contents();
    assert_eq!(contents.problems, Default::default());
    let shown: usize = contents.points.values().map(|points| points.len()).sum();
    assert_eq!(shown, points);
    let log = store.log();
    let count = |room: &str| {
        let reads = log.iter().filter(|line| line.verb == Verb::Get);
        reads.filter(|line| line.name.starts_with(room)).count()
    };
    (count("catalogue/"), count("points/"))
}

#[test]
fn a_new_host_reads_only_catalogues_that_no_other_replaces() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    for number in 0..200 {
        bare(&catalog, &format!("p{number}"), 0).unwrap();
    }
    let catalogues = shelf.memory.list("catalogue/").unwrap().len();
    assert!(catalogues >= 2, "{catalogues} catalogues were written");
    let (catalogues, records) = first_look(&shelf, 200);
    assert_eq!(catalogues, 1);
    assert!(records < 70, "{records} records were read one by one");
}

#[test]
fn catalogues_are_bounded_and_what_cannot_be_read_again_is_not_written() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    for number in 0..140 {
        bare(&catalog, &format!("p{number}"), 300_000).unwrap();
    }
    let (catalogues, records) = first_look(&shelf, 140);
    assert!(catalogues > 2, "40 MB of records are in several catalogues");
    assert!(records < 70, "{records} records were read one by one");
    let before = shelf.memory.list("points/").unwrap().len();
    let error = bare(&catalog, "large", 40 << 20).unwrap_err();
    assert_eq!(error.kind(), Kind::TooBig);
    assert_eq!(shelf.memory.list("points/").unwrap().len(), before);
}

#[test]
fn records_of_copy_sessions_are_read_at_the_same_time() {
    let shelf = Shelf::new();
    let (store, catalog) = hooked(&shelf);
    let repository = catalog.repository();
    let record = SessionRecord::begin(repository, repository, Vec::new());
    for number in 0..20 {
        repository
            .create_document(Name::Session(ObjectId([number; 16]), 0), &record)
            .unwrap();
    }
    junk(&shelf, Name::Session(ObjectId([99; 16]), 0));
    let reading = (Mutex::new(0), Condvar::new());
    let together = Arc::new(AtomicBool::new(false));
    let seen = together.clone();
    store.after(move |verb, name| {
        if verb == Verb::Get && name.starts_with("sessions/") {
            let (count, changed) = &reading;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            // Alone, each waits in vain.
            let patience = Duration::from_millis(200);
            let waited = changed.wait_timeout_while(count, patience, |count| *count < 2);
            let (mut count, _) = waited.unwrap();
            seen.fetch_or(*count > 1, Ordering::SeqCst);
            if !seen.load(Ordering::SeqCst) {
                *count -= 1;
            }
        }
        Ok(())
    });
    let all = sessions(repository).unwrap();
    assert_eq!(all.len(), 20);
    assert!(all.values().all(|found| *found == record));
    assert!(together.load(Ordering::SeqCst));
}
