//! A repository with every kind of object in it, of which a test knows every byte of every file.

use crate::golden;
use crate::planted::{Item, Needs, Shelf, list_and_mark, noise, plain, plant};
use crate::sites::chunks_of;
use keepfs::backup::backup;
use keepfs::clock::Time;
use keepfs::id::ObjectId;
use keepfs::point::{Catalog, Condemned, Lease, LeaseKind, Trees};
use keepfs::progress::Progress;
use keepfs::repository::Repository;
use keepfs::store::names::Name;
use keepfs::store::{MemoryStore, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// A repository with every kind of object, what its files hold, and the chunks they need.
pub struct Pristine {
    pub shelf: Shelf,
    /// What point `host/real` was made of.
    pub source: tempfile::TempDir,
    pub contents: BTreeMap<String, Vec<u8>>,
    pub needs: Needs,
}

fn contents_of(path: &str, item: &Item, contents: &mut BTreeMap<String, Vec<u8>>) {
    match item {
        Item::File(content, _) => drop(contents.insert(path.to_owned(), content.clone())),
        Item::Directory(items) => items.iter().for_each(|(name, (item, _))| {
            contents_of(
                &format!("{path}/{}", String::from_utf8_lossy(name)),
                item,
                contents,
            );
        }),
        Item::Other(_) => {}
    }
}

pub fn pristine() -> Pristine {
    let shelf = Shelf::new();
    let (mut contents, mut needs) = (BTreeMap::new(), Needs::new());
    let mut item = Item::directory([
        (
            "a",
            Item::directory([("shared", Item::File(noise(1, 700_000), 150_000))]),
        ),
        ("many pieces", Item::File(noise(2, 120_000), 300)),
        (
            "text",
            Item::File(b"some text, which compresses ".repeat(500), 5000),
        ),
    ]);
    for (seed, (backup, point)) in [
        ("web", "one"),
        ("web", "two"),
        ("web", "three"),
        ("db", "first"),
    ]
    .into_iter()
    .enumerate()
    {
        let own = Item::directory([
            (
                "large",
                Item::File(noise(10 + seed as u32, 600_000), 120_000),
            ),
            (
                "small",
                Item::File(format!("small {seed}").into_bytes(), 99),
            ),
        ]);
        item = item.with(format!("d{seed}").as_bytes(), own, plain());
        let (_, more) = plant(&shelf.catalog(), backup, point, &item).unwrap();
        contents_of(&format!("{backup}/{point}"), &item, &mut contents);
        needs.extend(more);
    }
    let source = tempfile::tempdir().unwrap();
    make_source(source.path());
    let real = back_up(&shelf, source.path(), "real").unwrap();
    let trees = Arc::new(Trees::new(shelf.open().unwrap()));
    for (path, ids) in chunks_of(&trees, &real.record.tree) {
        let content = std::fs::read(source.path().join(&path)).unwrap();
        contents.insert(format!("host/real/{path}"), content);
        needs.insert(format!("host/real/{path}"), ids.into_iter().collect());
    }
    let repository = shelf.open().unwrap();
    repository.add_key(&shelf.key, "a second slot").unwrap();
    let settings = repository.settings().clone();
    repository
        .create_document(Name::Config(1), &settings)
        .unwrap();
    let catalog = shelf.catalog();
    for name in [&b"one"[..], b"two"] {
        let known = catalog.contents();
        let point = known.point(b"web", name).unwrap();
        list_and_mark(&repository, point, ObjectId::random());
    }
    let (gone, _) = plant(&catalog, "old", "gone", &item).unwrap();
    catalog.forget(&gone).unwrap();
    note_writers(&repository);
    delete_replaced(&shelf);
    Pristine {
        shelf,
        source,
        contents,
        needs,
    }
}

fn make_source(directory: &Path) {
    std::fs::create_dir_all(directory.join("a/b")).unwrap();
    for number in 0..12u32 {
        let content = noise(70 + number, 300 + 1700 * number as usize);
        std::fs::write(directory.join(format!("a/b/{number}")), content).unwrap();
    }
    std::fs::write(directory.join("a/large"), noise(90, 1_300_000)).unwrap();
    std::fs::write(directory.join("text"), "some text of its own ".repeat(9000)).unwrap();
}

/// A backup as a user makes one, with what can be read of the newest point as the previous one.
pub fn back_up(
    shelf: &Shelf,
    source: &Path,
    point: &str,
) -> keepfs::error::Result<Arc<keepfs::point::Point>> {
    let repository = shelf.open()?;
    let options = keepfs::backup::Options {
        sources: vec![source.to_owned()],
        backup: b"host".to_vec(),
        point: Some(point.as_bytes().to_vec()),
        ..Default::default()
    };
    let trees = Arc::new(Trees::new(repository.clone()));
    let catalog = Catalog::open(repository)?;
    let report = backup(&catalog, &trees, &options, &Progress::default())?;
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    Ok(report.point)
}

/// What writers leave beside the points: leases, sessions, and a list that prune has carried out.
fn note_writers(repository: &Repository) {
    for kind in [LeaseKind::Reader, LeaseKind::OpenPoint] {
        let lease = Lease {
            kind,
            host: "host".to_owned(),
            process: 1,
            taken: Time::new(1, 2),
            ends: None,
            point: None,
            name: None,
        };
        let name = Name::Lease(ObjectId::random());
        repository.create_document(name, &lease).unwrap();
    }
    for number in 0..2 {
        let name = Name::Session(ObjectId([number; 16]), 0);
        repository
            .create_document(name, &golden::session())
            .unwrap();
        let carried_out = Condemned {
            time: Time::new(1, 2),
            packs: vec![ObjectId([number; 16])],
            segments: Vec::new(),
            done: true,
        };
        let name = Name::Condemned(number.into());
        repository.create_document(name, &carried_out).unwrap();
    }
}

/// Deletes segments that a merger has replaced, as prune will: nobody misses them.
fn delete_replaced(shelf: &Shelf) {
    let segments = shelf.open().unwrap().segments();
    let used: BTreeSet<String> = segments
        .iter()
        .map(|segment| Name::Index(segment.id).to_string())
        .collect();
    for object in shelf.memory.list("index/").unwrap() {
        if !used.contains(&object.name) {
            shelf.memory.delete(&object.name).unwrap();
        }
    }
}

/// The same objects in a store of their own, opened with nothing cached.
pub fn copy_of(pristine: &Pristine) -> Shelf {
    let memory = MemoryStore::new();
    for object in pristine.shelf.memory.list("").unwrap() {
        memory.overwrite(
            &object.name,
            pristine.shelf.memory.get(&object.name).unwrap(),
        );
    }
    Shelf {
        memory,
        cache: tempfile::tempdir().unwrap(),
        key: pristine.shelf.key.clone(),
    }
}
