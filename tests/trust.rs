//! What is believed: contents that were moved here unhashed only once a check has hashed them, no pack that is
//! condemned, and every key that the ring still holds.

use crate::golden::condemned;
use crate::planted::{Item, Shelf, noise, plant};
use crate::sites::{Files, MIB, Random, Site, assorted, copy, files_of};
use keepfs::check::{Options, Report, check};
use keepfs::copy::End;
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::Trees;
use keepfs::progress::Progress;
use keepfs::repository::{Credential, Lane, Ring, Slot, SlotKind, Writer, decode, encode};
use keepfs::store::Store;
use keepfs::store::faults::Stop;
use keepfs::store::names::{self, Name};
use std::collections::BTreeMap;
use std::sync::Arc;

fn report(end: &End, read_data: bool) -> Report {
    let options = Options {
        read_data,
        points: None,
    };
    check(&end.catalog, &options, &Progress::default()).unwrap()
}

/// Reads and hashes everything; nothing may be wrong.
fn hash_all(end: &End) -> Report {
    let report = report(end, true);
    assert_eq!(report.problems, []);
    report
}

fn sizes(site: &Site, prefix: &str) -> BTreeMap<String, u64> {
    let objects = site.store.list(prefix).unwrap();
    objects
        .into_iter()
        .map(|object| (object.name, object.size))
        .collect()
}

fn bytes(site: &Site, prefix: &str) -> u64 {
    sizes(site, prefix).values().sum()
}

/// A repository that got these files by a copy.
fn copied(files: &Files) -> Site {
    let mut source = Site::new(MIB, 1);
    let mut target = Site::new(4 * MIB, 2);
    source.back_up("web", "one", 100, files);
    copy(&source.open(), &target.open());
    target
}

#[test]
fn moved_chunks_satisfy_a_backup_only_after_they_were_hashed() {
    let files = assorted(21, 120);
    let before = copied(&files);
    let moved = bytes(&before, "packs/data/");
    assert!(report(&before.reopen(), false).packs_unhashed > 0);
    before.back_up("own", "one", 200, &files);
    assert!(bytes(&before, "packs/data/") > moved + moved / 2);

    let after = copied(&files);
    let (packs, index) = (sizes(&after, "packs/"), sizes(&after, "index/"));
    let unhashed = report(&after.reopen(), false).packs_unhashed;
    let hashed = hash_all(&after.reopen());
    assert_eq!((hashed.packs_hashed, hashed.packs_unhashed), (unhashed, 0));
    assert_eq!(sizes(&after, "packs/"), packs, "no pack was touched");
    assert_eq!(sizes(&after, "index/").len(), index.len() + 1);
    after.back_up("own", "one", 200, &files);
    assert_eq!(
        bytes(&after, "packs/data/"),
        bytes_of(&packs, "packs/data/")
    );
    assert_eq!(files_of(&after.reopen(), "own", "one"), files);

    // There is nothing left to record.
    let index = sizes(&after, "index/");
    let again = hash_all(&after.reopen());
    assert_eq!((again.packs_hashed, again.packs_unhashed), (0, 0));
    assert_eq!(sizes(&after, "index/"), index);
}

fn bytes_of(objects: &BTreeMap<String, u64>, prefix: &str) -> u64 {
    let below = objects.iter().filter(|(name, _)| name.starts_with(prefix));
    below.map(|(_, size)| size).sum()
}

#[test]
fn a_repository_that_is_open_believes_at_once_what_a_check_has_hashed() {
    let files = assorted(22, 60);
    let target = copied(&files);
    let end = target.reopen();
    let id = *crate::sites::chunks_of(
        &end.trees,
        &end.catalog
            .contents()
            .point(b"web", b"one")
            .unwrap()
            .record
            .tree,
    )
    .values()
    .flatten()
    .next()
    .unwrap();
    let own = Writer::new(end.repository().clone(), None).unwrap();
    assert!(!own.has(&id).unwrap());
    hash_all(&end);
    assert!(own.has(&id).unwrap());
}

#[test]
fn damaged_and_lying_packs_stay_unhashed() {
    let target = copied(&assorted(23, 120));
    // A source that says of some bytes that they are others.
    let end = target.reopen();
    let liar = Writer::new(end.repository().clone(), Some(ObjectId([5; 16]))).unwrap();
    let claimed = ChunkId::of(b"what everybody has");
    liar.put(Lane::Alone, claimed, b"what nobody wants")
        .unwrap();
    liar.flush().unwrap();
    let unhashed = report(&end, false).packs_unhashed;
    let lying = end.repository().find(&claimed).unwrap().unwrap().pack.id;
    let mut packs = sizes(&target, "packs/data/").into_keys();
    let broken = packs
        .find(|name| !name.contains(&lying.to_string()))
        .unwrap();
    target.store.flip(&broken, 5000);

    let found = report(&target.reopen(), true);
    let wrong: Vec<_> = found.problems.iter().map(|found| &found.object).collect();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert_eq!(found.packs_hashed, unhashed - 2);
    assert_eq!(found.packs_unhashed, 2);
    let own = Writer::new(target.reopen().repository().clone(), None).unwrap();
    assert!(!own.has(&claimed).unwrap());

    // A pack that was only read badly is believed when it is whole again; the liar never is.
    target.store.heal();
    let found = report(&target.reopen(), true);
    assert_eq!((found.packs_hashed, found.packs_unhashed), (1, 1));
    assert_eq!(report(&target.reopen(), true).packs_hashed, 0);
}

#[test]
fn a_check_that_cannot_write_reports_all_the_same() {
    let files = assorted(24, 60);
    let target = copied(&files);
    let unhashed = report(&target.reopen(), false).packs_unhashed;
    for stop in [Stop::Before, Stop::After] {
        let end = target.reopen();
        target.store.stop_at(1, stop);
        let found = hash_all(&end);
        assert_eq!((found.packs_hashed, found.packs_unhashed), (0, unhashed));
        target.store.heal();
        // Died before the record: all is as it was. Died behind it: all is recorded.
        let left = match stop {
            Stop::Before => unhashed,
            _ => 0,
        };
        assert_eq!(report(&target.reopen(), false).packs_unhashed, left);
        assert_eq!(files_of(&target.reopen(), "web", "one"), files);
    }
    // What was not recorded is recorded by the next check that can.
    let target = copied(&files);
    target.store.stop_at(1, Stop::Before);
    hash_all(&target.reopen());
    target.store.heal();
    assert_eq!(hash_all(&target.reopen()).packs_hashed, unhashed);
}

#[test]
fn merging_segments_keeps_what_was_hashed_whoever_merges() {
    let mut source = Site::new(MIB, 1);
    let target = Site::new(4 * MIB, 2);
    let mut all = Files::new();
    for number in 0..7u64 {
        let name = format!("f{number}");
        all.insert(name.clone(), Random(number + 1).bytes(20_000).into());
        source.back_up("web", &name, number as i64, &all);
        copy(&source.open(), &target.reopen());
    }
    // Another host has the index as it was, and does not hear of the check.
    target.back_up(
        "other",
        "one",
        50,
        &[("x".to_owned(), vec![1; 9].into())].into(),
    );
    let other = target.reopen();
    assert!(hash_all(&target.reopen()).packs_hashed > 0);
    assert!(other.repository().merge_index().unwrap() > 0);
    for turn in 0..3 {
        let end = target.reopen();
        assert_eq!(report(&end, false).packs_unhashed, 0, "turn {turn}");
        let data = bytes(&target, "packs/data/");
        target.back_up("own", &format!("p{turn}"), 300 + turn, &all);
        assert_eq!(bytes(&target, "packs/data/"), data, "turn {turn}");
        // Segments of other sizes bring the next merger about.
        for number in 0..8 {
            let body = format!("{turn} {number}").into_bytes();
            let files = [("y".to_owned(), body.into())].into();
            target.back_up("own", &format!("q{turn}{number}"), 400, &files);
        }
        target.reopen().repository().merge_index().unwrap();
    }
    let end = target.reopen();
    assert_eq!(hash_all(&end).packs_hashed, 0);
    assert_eq!(files_of(&end, "web", "f6"), all);
}

#[test]
fn nothing_new_shares_what_is_condemned() {
    let shelf = Shelf::new();
    let item = Item::directory([("f", Item::File(noise(1, 5000), 900))]);
    plant(&shelf.catalog(), "web", "before", &item).unwrap();
    let packs = shelf.memory.list(names::PACKS).unwrap();
    let mut list = condemned(false);
    list.packs = packs
        .iter()
        .filter_map(|object| match Name::parse(&object.name) {
            Some(Name::Pack(_, id)) => Some(id),
            _ => None,
        })
        .collect();
    let repository = shelf.open().unwrap();
    repository
        .create_document(Name::Condemned(0), &list)
        .unwrap();
    plant(&shelf.catalog(), "web", "meanwhile", &item).unwrap();
    let now = shelf.memory.list(names::PACKS).unwrap();
    assert_eq!(now.len(), 2 * packs.len());
    for pack in &packs {
        shelf.memory.delete(&pack.name).unwrap();
    }
    let contents = shelf.catalog().contents();
    let point = contents.point(b"web", b"meanwhile").unwrap();
    let trees = Arc::new(Trees::new(shelf.open().unwrap()));
    let (out, top) = (tempfile::tempdir().unwrap(), Arc::new(point.record.top()));
    let (options, progress) = (Default::default(), Progress::default());
    keepfs::restore::restore(&trees, &top, out.path(), &options, &progress).unwrap();
    assert_eq!(std::fs::read(out.path().join("f")).unwrap(), noise(1, 5000));
}

/// The ring with one more epoch, as a rotation will make it.
fn rotated(ring: &Ring) -> Ring {
    let mut bytes = encode(ring);
    let epochs = u64::from_le_bytes(bytes[20..28].try_into().unwrap());
    bytes[20..28].copy_from_slice(&(epochs + 1).to_le_bytes());
    bytes.extend((epochs as u32).to_le_bytes());
    bytes.extend([0x5e; 32]);
    decode(&bytes).unwrap()
}

#[test]
fn what_an_old_epoch_of_the_ring_wrote_is_read_and_written_beside() {
    let mut shelf = Shelf::new();
    let item = |seed| Item::directory([("f", Item::File(noise(seed, 5000), 900))]);
    plant(&shelf.catalog(), "web", "old", &item(1)).unwrap();
    let ring = rotated(shelf.open().unwrap().ring());
    for object in shelf.memory.list(names::KEYS).unwrap() {
        shelf.memory.delete(&object.name).unwrap();
    }
    let key = Credential::key_file(&[0x77; 64]).unwrap();
    let id = ObjectId::random();
    let made = Default::default();
    let slot = Slot::wrap(&ring, id, SlotKind::KeyFile, &key, "new", made, "host").unwrap();
    let name = Name::Key(id).to_string();
    shelf.memory.create(&name, slot.encode().into()).unwrap();
    shelf.key = key;
    plant(&shelf.catalog(), "web", "new", &item(2)).unwrap();
    let repository = shelf.open().unwrap();
    let mut epochs: Vec<u32> = shelf
        .memory
        .list("packs/data/")
        .unwrap()
        .iter()
        .map(|pack| shelf.memory.get(&pack.name).unwrap())
        .map(|pack| u32::from_le_bytes(pack[8..12].try_into().unwrap()))
        .collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [0, 1]);
    let catalog = shelf.catalog();
    let trees = Arc::new(Trees::new(repository));
    for (point, seed) in [(&b"old"[..], 1), (b"new", 2)] {
        let contents = catalog.contents();
        let point = contents.point(b"web", point).unwrap();
        let out = tempfile::tempdir().unwrap();
        let top = Arc::new(point.record.top());
        let (options, progress) = (Default::default(), Progress::default());
        keepfs::restore::restore(&trees, &top, out.path(), &options, &progress).unwrap();
        assert_eq!(
            std::fs::read(out.path().join("f")).unwrap(),
            noise(seed, 5000)
        );
    }
    crate::engine::assert_clean("two epochs", &shelf.open().unwrap());
}
