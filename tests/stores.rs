//! Every store keeps the same promises: one suite for all of them, then what each can suffer.

use crate::servers;
use bytes::Bytes;
use keepfs::clock::Clock;
use keepfs::error::{Error, Kind, Result};
use keepfs::id::ObjectId;
use keepfs::repository::{Credential, Repository, Settings};
use keepfs::store::faults::{FaultyStore, Stop, Verb};
use keepfs::store::{
    CloudOptions, DirectoryStore, MemoryStore, Object, Offers, SharedStore, Space, Store,
    StoreOptions, Upload, open, probe,
};
use std::ops::Range;
use std::sync::Arc;

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    let objects = store.list(prefix).expect("lists");
    objects.into_iter().map(|object| object.name).collect()
}

pub fn kind<T>(result: Result<T, Error>) -> Kind {
    match result {
        Ok(_) => panic!("this should have failed"),
        Err(error) => error.kind(),
    }
}

/// Bytes that no compression and no repetition makes alike.
pub fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn conforms(store: &SharedStore) {
    creating_decides_races_and_changes_nothing_that_exists(store);
    reads_are_exact(store);
    listings_are_complete_and_in_order(store);
    uploads_appear_when_finished(store);
    deleting_twice_is_fine(store);
    of_many_creators_one_wins(store);
    foreign_names_are_refused(store);
    assert_eq!(names(store.as_ref(), ""), [""; 0], "nothing is left");
}

fn creating_decides_races_and_changes_nothing_that_exists(store: &SharedStore) {
    store
        .create("header", Bytes::from_static(b"first"))
        .expect("creates");
    let second = store.create("header", Bytes::from_static(b"second"));
    assert_eq!(kind(second), Kind::AlreadyExists);
    assert_eq!(store.get("header").expect("reads"), "first");
    store.delete("header").expect("deletes");
    store
        .create("header", Bytes::from_static(b"third"))
        .expect("the name is free again");
    assert_eq!(store.get("header").expect("reads"), "third");
    store.delete("header").expect("deletes");
}

fn reads_are_exact(store: &SharedStore) {
    let content = noise(100_000);
    store.create("index/a", content.clone()).expect("creates");
    store.create("index/empty", Bytes::new()).expect("creates");
    assert_eq!(store.get("index/a").expect("reads"), content);
    assert_eq!(store.get("index/empty").expect("reads"), "");
    for range in [
        0..1,
        0..100_000,
        99_999..100_000,
        4_096..70_001,
        5..5,
        100_000..100_000,
    ] {
        let read = store.get_range("index/a", range.clone()).expect("reads");
        assert_eq!(
            read,
            content.slice(range.start as usize..range.end as usize),
            "{range:?}"
        );
    }
    for beyond in [
        99_999..100_001,
        100_000..100_001,
        200_000..200_001,
        0..u64::MAX,
    ] {
        let error = store.get_range("index/a", beyond).expect_err("ends before");
        assert_eq!(error.kind(), Kind::Damaged, "{error}");
    }
    #[allow(clippy::reversed_empty_ranges)] // what a damaged index could ask for
    let backwards = 7..3;
    assert_eq!(kind(store.get_range("index/a", backwards)), Kind::Invalid);
    let head = store.head("index/a").expect("is there");
    assert_eq!((head.name.as_str(), head.size), ("index/a", 100_000));
    assert!(
        head.modified.seconds > 1_700_000_000,
        "a time of this age: {:?}",
        head.modified
    );
    assert_eq!(kind(store.get("index/b")), Kind::NotFound);
    assert_eq!(kind(store.get_range("index/b", 0..1)), Kind::NotFound);
    assert_eq!(kind(store.get_range("index/b", 0..0)), Kind::NotFound);
    assert_eq!(kind(store.head("index/b")), Kind::NotFound);
    store.delete("index/a").expect("deletes");
    store.delete("index/empty").expect("deletes");
}

fn listings_are_complete_and_in_order(store: &SharedStore) {
    let all = [
        "config/1",
        "keys/a",
        "keys/b",
        "keysmith/x",
        "packs/data/aa/1",
        "packs/data/ab/1",
        "packs/tree/aa/1",
    ];
    for name in all.iter().rev() {
        store
            .create(name, Bytes::from(name.to_string()))
            .expect("creates");
    }
    assert_eq!(names(store.as_ref(), ""), all);
    assert_eq!(names(store.as_ref(), "keys/"), ["keys/a", "keys/b"]);
    assert_eq!(names(store.as_ref(), "packs/"), all[4..]);
    assert_eq!(names(store.as_ref(), "packs/data/"), all[4..6]);
    assert_eq!(names(store.as_ref(), "packs/data/aa/"), all[4..5]);
    assert_eq!(names(store.as_ref(), "points/"), [""; 0]);
    let sizes: Vec<u64> = store
        .list("keys/")
        .expect("lists")
        .iter()
        .map(|object| object.size)
        .collect();
    assert_eq!(sizes, [6, 6]);
    for name in all {
        store.delete(name).expect("deletes");
    }
}

fn uploads_appear_when_finished(store: &SharedStore) {
    // Below one part, exactly two parts, and several with a rest; in pieces that match no boundary.
    for length in [0, 1_000, 16 << 20, (40 << 20) + 12_345] {
        let content = noise(length);
        let name = format!("packs/data/aa/{length}");
        let mut upload = store.upload(&name).expect("starts");
        for piece in content.chunks(1_000_003) {
            upload.write(Bytes::copy_from_slice(piece)).expect("writes");
        }
        assert_eq!(
            names(store.as_ref(), "packs/"),
            [""; 0],
            "invisible before the end"
        );
        assert_eq!(kind(store.head(&name)), Kind::NotFound);
        upload.finish().expect("finishes");
        assert_eq!(store.head(&name).expect("is there").size, length as u64);
        assert!(
            store.get_range(&name, 0..length as u64).expect("reads") == content,
            "{length} bytes came back changed"
        );
        store.delete(&name).expect("deletes");
    }
    let mut dropped = store.upload("packs/data/aa/dropped").expect("starts");
    dropped.write(noise(9 << 20)).expect("writes");
    drop(dropped);
    assert_eq!(names(store.as_ref(), "packs/"), [""; 0]);
}

fn deleting_twice_is_fine(store: &SharedStore) {
    store
        .create("leases/a", Bytes::from_static(b"x"))
        .expect("creates");
    store.delete("leases/a").expect("deletes");
    store.delete("leases/a").expect("was gone already");
    store.delete("sessions/never/1").expect("was never there");
}

fn of_many_creators_one_wins(store: &SharedStore) {
    for round in 0..5 {
        let name = format!("points/{round}");
        let winners: usize = std::thread::scope(|scope| {
            let creators: Vec<_> = (0..8)
                .map(|creator| {
                    let name = &name;
                    scope.spawn(move || {
                        match store.create(name, Bytes::from(format!("{creator}"))) {
                            Ok(()) => 1,
                            Err(error) => {
                                assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
                                0
                            }
                        }
                    })
                })
                .collect();
            creators
                .into_iter()
                .map(|creator| creator.join().expect("no panic"))
                .sum()
        });
        assert_eq!(winners, 1);
        store.delete(&name).expect("deletes");
    }
}

fn foreign_names_are_refused(store: &SharedStore) {
    if store.location() == "memory:" {
        return; // has no paths to leave
    }
    for name in [
        "../outside",
        "a/../../b",
        "/etc/passwd",
        "",
        "a//b",
        "a/",
        "./a",
        "a\0b",
    ] {
        assert_eq!(
            kind(store.create(name, Bytes::new())),
            Kind::Invalid,
            "{name:?}"
        );
        assert_eq!(kind(store.get(name)), Kind::Invalid, "{name:?}");
    }
    assert_eq!(
        kind(store.list("key")),
        Kind::Invalid,
        "half a name is no prefix"
    );
}

pub fn open_cloud(url: &str, cloud: CloudOptions) -> SharedStore {
    let options = StoreOptions {
        cloud,
        ..StoreOptions::default()
    };
    open(url, &options).expect("opens")
}

fn directory() -> (tempfile::TempDir, SharedStore) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = DirectoryStore::open(directory.path()).expect("opens");
    (directory, Arc::new(store))
}

fn honest(store: &dyn Store) {
    let able = probe(store).expect("can be probed");
    able.require_all(&store.location())
        .expect("keeps its promises");
    assert_eq!(names(store, ""), [""; 0], "the probe cleans up");
}

#[test]
fn memory_conforms() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    conforms(&store);
    honest(store.as_ref());
}

#[test]
fn directory_conforms() {
    let (_directory, store) = directory();
    conforms(&store);
    honest(store.as_ref());
    let space = store
        .space()
        .expect("measures")
        .expect("a disk knows its size");
    assert!(0 < space.free && space.free <= space.total);
}

#[test]
fn seaweedfs_conforms() {
    let (url, options) = servers::seaweedfs_bucket("conformance");
    // Two repositories in one bucket see nothing of each other, even when one prefix begins like the other.
    let neighbour = open_cloud(&format!("{url}/deep/pre-fix"), options.clone());
    neighbour
        .create("header", Bytes::from_static(b"other"))
        .expect("creates");
    let store = open_cloud(&format!("{url}/deep/pre"), options);
    conforms(&store);
    honest(store.as_ref());
    assert_eq!(names(neighbour.as_ref(), ""), ["header"]);
}

#[test]
fn azurite_conforms() {
    let (url, options) = servers::azurite_container("conformance");
    let store = open_cloud(&format!("{url}/prefix"), options);
    conforms(&store);
    honest(store.as_ref());
}

#[test]
fn a_store_that_lies_about_creating_is_found_out() {
    let (url, options) = servers::s3rver_bucket("liar");
    let store = open_cloud(&url, options);
    let able = probe(store.as_ref()).expect("can be probed");
    assert!(!able.create_if_absent, "{able:?}");
    assert!(
        able.range_reads && able.prompt_listing && able.deletes,
        "{able:?}"
    );
    let refused = able
        .require_all(&store.location())
        .expect_err("must not hold a repository");
    assert_eq!(refused.kind(), Kind::Invalid);
    assert_eq!(names(store.as_ref(), ""), [""; 0], "the probe cleans up");
}

#[test]
fn what_a_store_offers_is_what_another_client_finds() {
    let buckets = [
        (servers::seaweedfs(), servers::seaweedfs_bucket("plain")),
        (
            servers::seaweedfs(),
            servers::seaweedfs_locking_bucket("locking"),
        ),
        (servers::s3rver(), servers::s3rver_bucket("liar")),
    ];
    let mut seen = Vec::new();
    for (server, (url, options)) in buckets {
        let facts = servers::bucket_facts(server, &url);
        let store = open_cloud(&format!("{url}/offers"), options);
        let able = probe(store.as_ref()).expect("can be probed");
        let offers = able.offers;
        let told = [
            offers.versions,
            offers.locks,
            offers.checksums,
            offers.classes,
        ];
        let told: Vec<bool> = told.into_iter().flatten().collect();
        assert_eq!(told, facts, "{url}: {able:?}");
        assert_eq!(names(store.as_ref(), ""), [""; 0], "{url}");
        seen.push(told);
    }
    // The servers differ in each but the class, which only the second could say no to.
    assert_eq!(seen[0][..2], [false, false]);
    assert_eq!(seen[1][..2], [true, true]);
    let (url, options) = servers::azurite_container("offers");
    let azure = probe(open_cloud(&url, options).as_ref()).expect("can be probed");
    assert_eq!(azure.offers, Offers::default());
}

/// A store that lacks one ability.
#[derive(Debug)]
struct Lacking(MemoryStore, &'static str);

impl Store for Lacking {
    fn location(&self) -> String {
        self.0.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.0.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        match self.1 {
            "read ranges" => self.0.get(name),
            _ => self.0.get_range(name, range),
        }
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.0.head(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        match self.1 {
            "list" => Ok(Vec::new()),
            _ => self.0.list(prefix),
        }
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        if self.1 == "refuse" {
            self.0.delete(name)?;
        }
        self.0.create(name, content)
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.0.upload(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        match self.1 {
            "delete" => Ok(()),
            _ => self.0.delete(name),
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        self.0.space()
    }
}

#[test]
fn each_ability_that_a_store_lacks_is_found_out_and_refused() {
    for lack in ["read ranges", "list", "refuse", "delete"] {
        let store = Arc::new(Lacking(MemoryStore::new(), lack));
        let able = probe(store.as_ref()).expect("can be probed");
        let listed = able.listed();
        let lacking = listed.iter().filter(|(able, _)| *able == Some(false));
        let lacking = lacking.count();
        assert_eq!(lacking, 1, "{lack}: {able:?}");
        let key = Credential::key_file(&[7; 64]).expect("long enough");
        let (settings, clock) = (Settings::default(), Clock::system());
        let refused = Repository::init(store, &key, "test", &settings, &clock)
            .expect_err("must not hold a repository");
        assert_eq!(refused.kind(), Kind::Invalid);
        assert!(refused.message().contains(lack), "{lack}: {refused:?}");
    }
}

#[test]
fn many_threads_use_one_cloud_store() {
    let (url, options) = servers::seaweedfs_bucket("conformance");
    let store = open_cloud(&format!("{url}/threads"), options);
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let store = &store;
            scope.spawn(move || {
                let name = format!("index/{thread}");
                let content = noise(50_000 + thread);
                store.create(&name, content.clone()).expect("creates");
                assert!(store.get(&name).expect("reads") == content);
            });
        }
    });
    assert_eq!(names(store.as_ref(), "index/").len(), 12);
}

#[test]
fn a_missing_bucket_and_wrong_keys_are_told_apart() {
    let (url, options) = servers::seaweedfs_bucket("conformance");
    let nowhere = open_cloud("s3://no-such-bucket/prefix", options.clone());
    let error = nowhere.get("header").expect_err("no bucket");
    assert_eq!(error.kind(), Kind::NotFound);
    let endpoint = options.endpoint.expect("has one");
    let wrong = servers::s3_options(&endpoint, "keepfs-tests", "swordfish");
    let error = open_cloud(&url, wrong)
        .get("header")
        .expect_err("wrong secret");
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        !format!("{error} {error:?}").contains("swordfish"),
        "{error}"
    );
}

#[test]
fn a_crash_at_any_moment_leaves_whole_objects_or_none() {
    for stop in [Stop::Before, Stop::After] {
        for nth in 1.. {
            let (directory, inner) = directory();
            let store = FaultyStore::new(inner);
            store.stop_at(nth, stop);
            let finished = write_three(&store).is_ok();
            let again = DirectoryStore::open(directory.path()).expect("opens after the crash");
            for object in again.list("").expect("lists") {
                let content = again.get(&object.name).expect("reads");
                assert!(
                    content == noise(expected_size(&object.name)),
                    "{} is not whole",
                    object.name
                );
            }
            let expected = match (finished, stop) {
                (true, _) => 3,
                (false, Stop::Before) => nth as usize - 1,
                (false, Stop::After) => nth as usize,
            };
            assert_eq!(names(&again, "").len(), expected, "stopped at {nth}");
            if finished {
                break;
            }
        }
    }
}

fn expected_size(name: &str) -> usize {
    if name.starts_with("packs/") {
        3_000_000
    } else {
        1_000
    }
}

/// In the order of every writer: pack, index, point.
fn write_three(store: &FaultyStore) -> Result<(), Error> {
    let mut upload = store.upload("packs/data/aa/1")?;
    upload.write(noise(3_000_000))?;
    upload.finish()?;
    store.create("index/1", noise(1_000))?;
    store.create("points/1", noise(1_000))
}

#[test]
fn an_unfinished_upload_leaves_no_file() {
    let (directory, store) = directory();
    let mut upload = store.upload("packs/data/aa/1").expect("starts");
    upload.write(noise(5_000_000)).expect("writes");
    let temporary = || {
        std::fs::read_dir(directory.path().join("tmp"))
            .expect("is there")
            .count()
    };
    assert_eq!(temporary(), 1);
    drop(upload);
    assert_eq!(temporary(), 0);
}

#[test]
fn a_vanished_directory_is_unreachable_and_never_written_into() {
    let parent = tempfile::tempdir().expect("a directory");
    let (disk, elsewhere) = (parent.path().join("disk"), parent.path().join("elsewhere"));
    std::fs::create_dir(&disk).expect("made");
    let store = DirectoryStore::open(&disk).expect("opens");
    store
        .create("header", Bytes::from_static(b"x"))
        .expect("creates");
    std::fs::rename(&disk, &elsewhere).expect("unmounted");
    for mount_point_stays in [false, true] {
        if mount_point_stays {
            std::fs::create_dir(&disk).expect("the bare mount point");
        }
        assert_eq!(kind(store.get("header")), Kind::Unreachable);
        assert_eq!(kind(store.head("header")), Kind::Unreachable);
        assert_eq!(kind(store.list("")), Kind::Unreachable);
        assert_eq!(kind(store.list("keys/")), Kind::Unreachable);
        assert_eq!(
            kind(store.create("keys/a", Bytes::new())),
            Kind::Unreachable
        );
        assert_eq!(
            kind(store.upload("packs/data/aa/1").map(drop)),
            Kind::Unreachable
        );
        assert_eq!(kind(store.delete("header")), Kind::Unreachable);
        assert_eq!(kind(store.space()), Kind::Unreachable);
    }
    assert_eq!(
        std::fs::read_dir(&disk).expect("is there").count(),
        0,
        "nothing was written"
    );
    std::fs::remove_dir(&disk).expect("removed");
    std::fs::rename(&elsewhere, &disk).expect("mounted again");
    assert_eq!(store.get("header").expect("reads again"), "x");
}

/// A mounted tmpfs of 1 MiB, unmounted on drop. Needs root, as the mount tests do.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::mount_command(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], directory.path());
        Self(directory)
    }

    fn mount_command(arguments: &[&str], path: &std::path::Path) {
        let status = std::process::Command::new("mount")
            .args(arguments)
            .arg(path)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "cannot mount a tmpfs: run this test as root"
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_disk_says_so_and_stays_whole() {
    let disk = SmallDisk::mount();
    let store = DirectoryStore::open(disk.0.path()).expect("opens");
    store.create("header", noise(1_000)).expect("creates");
    assert_eq!(kind(store.create("index/a", noise(4 << 20))), Kind::Full);
    let mut upload = store.upload("packs/data/aa/1").expect("starts");
    let full = (0..4)
        .find_map(|_| upload.write(noise(1 << 20)).err())
        .expect("runs full");
    assert_eq!(full.kind(), Kind::Full);
    drop(upload);
    assert_eq!(names(&store, ""), ["header"]);
    store
        .create("index/b", noise(500_000))
        .expect("there is room again");
}

#[test]
fn a_read_only_disk_reads_and_refuses_writes() {
    let disk = SmallDisk::mount();
    let store = DirectoryStore::open(disk.0.path()).expect("opens");
    store.create("header", noise(1_000)).expect("creates");
    SmallDisk::mount_command(&["-o", "remount,ro"], disk.0.path());
    let store = DirectoryStore::open(disk.0.path()).expect("opens read-only");
    assert_eq!(store.get("header").expect("reads"), noise(1_000));
    assert_eq!(kind(store.create("index/a", Bytes::new())), Kind::ReadOnly);
    assert_eq!(kind(store.delete("header")), Kind::ReadOnly);
}

#[test]
fn faults_happen_as_ordered() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    store
        .create("keys/a", Bytes::from_static(b"abcdef"))
        .expect("creates");
    store.fail_next(2, Kind::Unreachable);
    assert_eq!(kind(store.get("keys/a")), Kind::Unreachable);
    assert_eq!(kind(store.list("keys/")), Kind::Unreachable);
    store.flip("keys/", 3);
    assert_eq!(store.get("keys/a").expect("reads"), "abceef");
    assert_eq!(store.get_range("keys/a", 3..5).expect("reads"), "ee");
    assert_eq!(store.get_range("keys/a", 0..3).expect("reads"), "abc");
    store.heal();
    assert_eq!(store.get("keys/a").expect("reads"), "abcdef");
    let verbs: Vec<Verb> = store.log().iter().map(|line| line.verb).collect();
    let (get, range) = (Verb::Get, Verb::GetRange);
    assert_eq!(
        verbs,
        [Verb::Create, get, Verb::List, get, range, range, get]
    );
    assert_eq!((store.count(get), store.mutations()), (3, 1));
}

#[test]
fn names_of_one_process_do_not_meet() {
    let (_directory, store) = directory();
    let ids: Vec<ObjectId> = (0..64).map(|_| ObjectId::random()).collect();
    std::thread::scope(|scope| {
        for id in &ids {
            let store = &store;
            scope.spawn(move || {
                store
                    .create(&format!("leases/{id}"), noise(10))
                    .expect("creates")
            });
        }
    });
    assert_eq!(names(store.as_ref(), "leases/").len(), ids.len());
}
