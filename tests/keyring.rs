//! Making and opening a repository: inits that died, damaged slots, keys removed at once, and flags of later versions.

use crate::hooked::HookedStore;
use crate::planted::{Item, Shelf, plant};
use bytes::Bytes;
use keepfs::clock::Clock;
use keepfs::error::{Error, Kind, Result};
use keepfs::point::Catalog;
use keepfs::repository::{Credential, Header, Repository, Settings};
use keepfs::store::faults::Verb;
use keepfs::store::{MemoryStore, SharedStore, Store};
use std::sync::Arc;

fn init(store: &SharedStore, key: &Credential) -> Result<()> {
    let settings = Settings::default();
    Repository::init(store.clone(), key, "test", &settings, &Clock::system())
}

#[test]
fn init_says_what_to_do_where_another_init_died() {
    let shelf = Shelf::new();
    let store = shelf.store();
    let first = store.get("header").unwrap();
    shelf.memory.delete("header").unwrap();
    let before = shelf.memory.list("").unwrap();
    let error = init(&store, &shelf.key).unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert!(error.message().contains("unfinished init"), "{error}");
    assert_eq!(shelf.memory.list("").unwrap(), before, "it left nothing");
    for prefix in ["keys/", "config/"] {
        for object in store.list(prefix).unwrap() {
            store.delete(&object.name).unwrap();
        }
    }
    init(&store, &shelf.key).unwrap();
    assert_ne!(store.get("header").unwrap(), first);
    shelf.open().unwrap();
}

#[test]
fn init_does_not_take_a_store_that_fails_for_an_empty_one() {
    let hooked = HookedStore::new(MemoryStore::new());
    hooked.after(|verb, name| match (verb, name) {
        (Verb::Head, "header") => Err(Error::new(Kind::Unreachable, "made to fail")),
        _ => Ok(()),
    });
    let store: SharedStore = Arc::new(hooked.clone());
    let key = Credential::key_file(&[7; 64]).unwrap();
    assert_eq!(init(&store, &key).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(hooked.memory.list("keys/").unwrap(), []);
}

#[test]
fn a_damaged_slot_is_named_and_keeps_no_other_key_from_being_tried() {
    let shelf = Shelf::new();
    let slot = shelf.memory.list("keys/").unwrap().remove(0).name;
    let other = Credential::key_file(&[8; 64]).unwrap();
    shelf.open().unwrap().add_key(&other, "other").unwrap();
    shelf.memory.overwrite(&slot, Bytes::from_static(b"junk"));
    // The caller goes on to its next key exactly when the answer is WrongKey.
    let error = shelf.open().unwrap_err();
    assert_eq!(error.kind(), Kind::WrongKey);
    let id = slot.strip_prefix("keys/").unwrap();
    assert!(error.message().contains(id), "{error}");
    Repository::open(shelf.store(), &other, shelf.local()).unwrap();
}

#[test]
fn hosts_that_remove_each_others_key_at_once_leave_one() {
    let mut shelf = Shelf::new();
    let first = shelf.memory.list("keys/").unwrap().remove(0).name;
    let other = Credential::key_file(&[8; 64]).unwrap();
    let second = shelf.open().unwrap().add_key(&other, "other").unwrap();
    let hooked = HookedStore::new(shelf.memory.clone());
    let store: SharedStore = Arc::new(hooked.clone());
    let repository = Repository::open(store, &shelf.key, shelf.local()).unwrap();
    // The other host's removal comes right before this one's.
    let memory = shelf.memory.clone();
    hooked.after(move |verb, name| match verb {
        Verb::Delete if name != first => memory.delete(&first),
        _ => Ok(()),
    });
    let error = repository.remove_key(second).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    shelf.key = other;
    shelf.open().unwrap();
}

/// Exchanges the header for one with these flags, which the ring authenticates.
fn flag(shelf: &Shelf, read_flags: u64, write_flags: u64) {
    let repository = shelf.open().unwrap();
    let header = Header {
        read_flags,
        write_flags,
        ..repository.header().clone()
    };
    let bytes = header.encode(repository.ring());
    shelf.memory.overwrite("header", Bytes::from(bytes));
}

#[test]
fn a_flag_that_a_reader_must_understand_refuses_to_open() {
    let shelf = Shelf::new();
    flag(&shelf, 4, 0);
    let error = shelf.open().unwrap_err();
    assert_eq!(error.kind(), Kind::TooNew);
    let sentence = "uses features (flags 0x4) that this keepfs does not know; use a newer keepfs";
    assert!(error.message().contains(sentence), "{error}");
}

#[test]
fn a_flag_that_a_writer_must_understand_opens_read_only() {
    let shelf = Shelf::new();
    let item = Item::directory([("file", Item::File(vec![5; 5000], 1000))]);
    plant(&shelf.catalog(), "web", "one", &item).unwrap();
    flag(&shelf, 0, 1);
    let catalog = shelf.catalog();
    let contents = catalog.contents();
    let point = contents.point(b"web", b"one").unwrap();
    let trees = Arc::new(keepfs::point::Trees::new(catalog.repository().clone()));
    let target = tempfile::tempdir().unwrap();
    let top = Arc::new(point.record.top());
    keepfs::restore::restore(
        &trees,
        &top,
        target.path(),
        &Default::default(),
        &Default::default(),
    )
    .unwrap();
    assert_eq!(
        std::fs::read(target.path().join("file")).unwrap(),
        [5; 5000]
    );
    let before = shelf.memory.list("").unwrap();
    let refused = |result: Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::ReadOnly);
        assert!(
            error.message().contains("can read but not write"),
            "{error}"
        );
    };
    refused(plant(&catalog, "web", "two", &item).map(drop));
    refused(catalog.forget(point));
    refused(Catalog::ensure_backup(&catalog, b"other").map(drop));
    refused(catalog.repository().add_key(&shelf.key, "more").map(drop));
    assert_eq!(shelf.memory.list("").unwrap(), before);
}
