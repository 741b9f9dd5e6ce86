//! Damage, in every kind of object, and what a user does next: never a panic, never a wrong byte, an error that says
//! what is wrong, and a check that finds it and names exactly the files it costs.

use crate::damaged_mount::mounted;
use crate::engine::assert_clean;
use crate::planted::{Item, Shelf, noise, plant};
use crate::pristine::{Pristine, back_up, copy_of, pristine};
use crate::sites::{Site, try_copy};
use bytes::Bytes;
use keepfs::check::{Options, Report, check, rebuild_index};
use keepfs::copy::{End, Outcome};
use keepfs::error::Kind;
use keepfs::id::ObjectId;
use keepfs::point::{Catalog, Trees, Visit, Walk};
use keepfs::progress::Progress;
use keepfs::repository::Repository;
use keepfs::store::Store;
use keepfs::store::names::{Name, PackKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn is_damage(kind: Kind) -> bool {
    // Version and key epoch stand in the clear, where a flipped bit makes them another version's or another key's.
    matches!(kind, Kind::Damaged | Kind::TooNew | Kind::WrongKey)
}

fn report(shelf: &Shelf, read_data: bool) -> Report {
    let options = Options {
        read_data,
        points: None,
    };
    check(&shelf.catalog(), &options, &Progress::default()).unwrap()
}

fn read(
    repository: &Arc<Repository>,
    trees: &Arc<Trees>,
    file: &keepfs::point::File,
) -> keepfs::error::Result<Vec<u8>> {
    let mut content = vec![0; file.size as usize];
    for extent in trees.extents_from(file, 0) {
        let (offset, extent) = extent?;
        if let Some(id) = extent.chunk {
            let bytes = repository.read_chunk(&id)?;
            content[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
    Ok(content)
}

/// Reads every file of every visible point; what reads must be right. Returns the files that read.
fn readable(case: &str, pristine: &Pristine, repository: &Arc<Repository>) -> BTreeSet<String> {
    let contents = Catalog::open(repository.clone()).unwrap().contents();
    let trees = Arc::new(Trees::new(repository.clone()));
    let expected = |path: &str| {
        // A later backup of the same source holds the same.
        let path = path.replacen("host/again/", "host/real/", 1);
        pristine.contents.get(&path)
    };
    let mut good = BTreeSet::new();
    for (backup, point) in contents.backups.values().flat_map(|backup| {
        contents
            .points_of(backup.id)
            .map(move |point| (backup, point))
    }) {
        let top = format!(
            "{}/{}",
            String::from_utf8_lossy(backup.name()),
            String::from_utf8_lossy(point.name())
        );
        for visit in Walk::new(trees.clone(), &point.record.tree) {
            let (path, entry) = match visit {
                Ok(Visit::Entry { path, entry }) => (path, entry),
                Ok(_) => continue,
                Err(error) => {
                    assert!(
                        is_damage(error.kind()),
                        "{case}: listing fails with {error:?}"
                    );
                    continue;
                }
            };
            let Some(file) = entry.file() else { continue };
            let path = format!("{top}/{}", String::from_utf8_lossy(&path));
            match read(repository, &trees, file) {
                Ok(content) => {
                    if let Some(expected) = expected(&path) {
                        assert!(content == *expected, "{case}: {path} reads wrong bytes");
                    }
                    good.insert(path);
                }
                Err(error) => assert_eq!(
                    error.kind(),
                    Kind::Damaged,
                    "{case}: {path} fails with {error:?}"
                ),
            }
        }
    }
    good
}

/// The files that a report says are lost, directories expanded by what was in them.
fn lost(pristine: &Pristine, report: &Report) -> BTreeSet<String> {
    let named: Vec<&String> = report
        .problems
        .iter()
        .flat_map(|problem| &problem.lost)
        .collect();
    let of = |path: &&String| {
        named
            .iter()
            .any(|lost| *lost == *path || lost.ends_with('/') && path.starts_with(lost.as_str()))
    };
    pristine.contents.keys().filter(of).cloned().collect()
}

#[derive(Clone, Copy, Debug)]
pub enum Damage {
    Delete,
    Cut(usize),
    Flip(usize),
    Swap,
}

fn kind_of(name: Name) -> &'static str {
    match name {
        Name::Header => "header",
        Name::Key(_) => "key slot",
        Name::Config(_) => "config",
        Name::Backup(..) => "backup",
        Name::Pack(PackKind::Data, _) => "data pack",
        Name::Pack(PackKind::Tree, _) => "tree pack",
        Name::Index(_) => "index segment",
        Name::Catalogue(_) => "catalogue",
        Name::Point(..) => "point record",
        Name::Mark(..) => "mark",
        Name::Trash(..) => "trash",
        Name::Lease(_) => "lease",
        Name::Session(..) => "session",
        Name::Condemned(_) => "condemned",
    }
}

/// Whether the loss looks exactly as if the object had never been written.
fn leaves_no_trace(pristine: &Pristine, name: Name, damage: Damage) -> bool {
    let newest = |id| {
        let contents = pristine.shelf.catalog().contents();
        let is = |backup: &[u8], point: &[u8]| contents.point(backup, point).unwrap().id == id;
        is(b"web", b"three") || is(b"db", b"first") || is(b"host", b"real")
    };
    let forgotten = |id: ObjectId| {
        let trash = pristine.shelf.memory.list("trash/").unwrap();
        let id = id.to_string();
        trash.iter().any(|object| object.name.contains(&id))
    };
    matches!(damage, Damage::Delete)
        && match name {
            Name::Key(_) | Name::Config(_) | Name::Catalogue(_) | Name::Mark(..) => true,
            Name::Trash(..) | Name::Lease(_) | Name::Session(..) | Name::Condemned(_) => true,
            Name::Point(id, _) => newest(id) || forgotten(id),
            _ => false,
        }
}

pub fn apply(shelf: &Shelf, name: &str, other: Option<&str>, damage: Damage) {
    let bytes = shelf.memory.get(name).unwrap();
    match damage {
        Damage::Delete => shelf.memory.delete(name).unwrap(),
        Damage::Cut(length) => shelf.memory.overwrite(name, bytes.slice(..length)),
        Damage::Flip(place) => {
            let mut bytes = bytes.to_vec();
            bytes[place] ^= 1 << (place % 8);
            shelf.memory.overwrite(name, Bytes::from(bytes));
        }
        Damage::Swap => {
            let other = other.unwrap();
            let theirs = shelf.memory.get(other).unwrap();
            shelf.memory.overwrite(name, theirs);
            shelf.memory.overwrite(other, bytes);
        }
    }
}

/// One row of the table: the damage is done, and then everything that a user might do next.
fn suffer(pristine: &Pristine, name: &str, other: Option<&str>, damage: Damage) {
    let parsed = Name::parse(name).unwrap();
    let other = other.filter(|_| matches!(damage, Damage::Swap));
    let kinds: BTreeSet<&str> = std::iter::once(name)
        .chain(other)
        .map(|name| kind_of(Name::parse(name).unwrap()))
        .collect();
    let case = format!("{damage:?} of {kinds:?} {name}");
    let shelf = copy_of(pristine);
    apply(&shelf, name, other, damage);
    // Open and list.
    let repository = match shelf.open() {
        Ok(repository) => repository,
        Err(error) => {
            let expected = |kind: &&str| match *kind {
                "header" => is_damage(error.kind()) || error.kind() == Kind::NoRepository,
                "config" => is_damage(error.kind()),
                "key slot" => matches!(damage, Damage::Swap) && is_damage(error.kind()),
                _ => false,
            };
            assert!(
                kinds.iter().any(expected),
                "{case}: opening fails with {error:?}"
            );
            return;
        }
    };
    assert!(!kinds.contains("header"), "{case}: nobody noticed");
    // Read every file, as the engine and as a mount does.
    let good = readable(&case, pristine, &repository);
    assert_eq!(
        mounted(&case, pristine, &shelf),
        good,
        "{case}: a mount reads the same files"
    );
    let hidden = |path: &String| {
        // A point that is not listed has no files to lose.
        let point = path.splitn(3, '/').take(2).collect::<Vec<_>>();
        let contents = shelf.catalog().contents();
        contents
            .point(point[0].as_bytes(), point[1].as_bytes())
            .is_none()
    };
    let bad: BTreeSet<String> = pristine
        .contents
        .keys()
        .filter(|path| !good.contains(*path) && !hidden(path))
        .cloned()
        .collect();
    let holds_files = |kind: &&str| matches!(*kind, "data pack" | "tree pack" | "index segment");
    if !kinds.iter().any(holds_files) {
        assert_eq!(
            bad,
            BTreeSet::new(),
            "{case}: files of listed points do not read"
        );
    }
    // Check, without and with data.
    let structure = report(&shelf, false);
    let full = report(&shelf, true);
    if !leaves_no_trace(pristine, parsed, damage) {
        let in_data = kinds.iter().all(|kind| kind.ends_with("pack"))
            && matches!(damage, Damage::Flip(_) | Damage::Swap);
        assert!(
            in_data || !structure.is_clean(),
            "{case}: check found nothing"
        );
        assert!(!full.is_clean(), "{case}: check --read-data found nothing");
    }
    assert_eq!(
        lost(pristine, &full),
        bad,
        "{case}: the files lost; {:?}",
        full.problems
    );
    copy_out(&case, pristine, &shelf, &bad);
    // Last, as it stores anew what the index does not know any more.
    back_up_again(&case, pristine, &shelf, &kinds);
}

/// Backs up again, onto the previous point: it works and reads, or says why not. Packs are not read for what the
/// index says is there, so only what lies in a damaged one may be missing.
fn back_up_again(case: &str, pristine: &Pristine, shelf: &Shelf, kinds: &BTreeSet<&str>) {
    let item = Item::directory([("fresh", Item::File(noise(99, 50_000), 9000))]);
    let fresh = plant(&shelf.catalog(), "web", "again", &item).map(|(_, needs)| needs);
    let again = back_up(shelf, pristine.source.path(), "again");
    let cold = Shelf {
        memory: shelf.memory.clone(),
        cache: tempfile::tempdir().unwrap(),
        key: shelf.key.clone(),
    };
    let reads = readable(case, pristine, &cold.open().unwrap());
    let refused = |error: &keepfs::error::Error| {
        assert!(
            is_damage(error.kind()),
            "{case}: backing up again fails with {error:?}"
        );
    };
    match fresh {
        Ok(needs) => assert!(
            needs.keys().all(|path| reads.contains(path)),
            "{case}: what was backed up afterwards does not read"
        ),
        Err(error) => refused(&error),
    }
    match again {
        Ok(_) if kinds.iter().any(|kind| kind.ends_with("pack")) => {}
        Ok(_) => assert!(
            pristine
                .contents
                .keys()
                .filter_map(|path| path.strip_prefix("host/real/"))
                .all(|path| reads.contains(&format!("host/again/{path}"))),
            "{case}: what was backed up onto the previous point does not read"
        ),
        Err(error) => refused(&error),
    }
}

/// Copies a damaged repository into a new one: what is whole arrives, what is not is told and no part of it shows.
fn copy_out(case: &str, pristine: &Pristine, shelf: &Shelf, bad: &BTreeSet<String>) {
    let source = End::open(shelf.open().unwrap()).unwrap();
    let listed: BTreeSet<String> = points_of(&source);
    let mut target = Site::new(1 << 20, 8);
    let copied = try_copy(&source, &target.reopen());
    let end = target.open();
    assert_clean(case, end.repository());
    let good = readable(case, pristine, end.repository());
    let arrived = points_of(&end);
    let of_arrived = |path: &&String| arrived.contains(&top_of(path));
    assert!(
        pristine
            .contents
            .keys()
            .filter(of_arrived)
            .all(|path| good.contains(path)),
        "{case}: a copied point has lost files"
    );
    let broken: BTreeSet<String> = bad.iter().map(|path| top_of(path)).collect();
    match copied {
        Ok(report) => {
            let failed = report.record.count(Outcome::Failed);
            assert_eq!(arrived.len() + failed, listed.len(), "{case}");
            assert!(arrived.is_disjoint(&broken), "{case}: half a point arrived");
        }
        Err(error) => assert!(
            is_damage(error.kind()),
            "{case}: copying fails with {error:?}"
        ),
    }
}

/// `BACKUP/POINT` of a path below it.
fn top_of(path: &str) -> String {
    path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")
}

/// All visible points, as `BACKUP/POINT`.
fn points_of(end: &End) -> BTreeSet<String> {
    let contents = end.catalog.refresh().unwrap();
    let named =
        |backup: &[u8], point: &[u8]| String::from_utf8([backup, b"/", point].concat()).unwrap();
    contents
        .backups
        .values()
        .flat_map(|backup| {
            contents
                .points_of(backup.id)
                .map(|point| named(backup.name(), point.name()))
        })
        .collect()
}

#[test]
fn a_pristine_repository_is_clean_and_everything_in_it_was_looked_at() {
    let pristine = pristine();
    let full = report(&pristine.shelf, true);
    assert_eq!(full.problems, []);
    assert_eq!(
        (full.points, full.unreferenced_packs, full.packs_unhashed),
        (5, 0, 0)
    );
    assert_eq!(
        (full.packs_read, full.bytes_read),
        (full.packs, full.pack_bytes)
    );
    assert!(full.pages > 8 && full.entries > 15 && full.chunks > 400 && full.segments > 1);
    let good = readable("pristine", &pristine, &pristine.shelf.open().unwrap());
    assert_eq!(good, pristine.contents.keys().cloned().collect());
}

#[test]
fn every_damage_of_every_kind_of_object_is_survived_and_found() {
    let pristine = pristine();
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for object in pristine.shelf.memory.list("").unwrap() {
        if let Some(name) = Name::parse(&object.name) {
            kinds.entry(kind_of(name)).or_default().push(object.name);
        }
    }
    let names: Vec<&str> = kinds.keys().copied().collect();
    assert_eq!(
        names,
        [
            "backup",
            "catalogue",
            "condemned",
            "config",
            "data pack",
            "header",
            "index segment",
            "key slot",
            "lease",
            "mark",
            "point record",
            "session",
            "trash",
            "tree pack"
        ]
    );
    // Two objects of different kinds take each other's place.
    let firsts: Vec<&String> = kinds.values().map(|objects| &objects[0]).collect();
    for (place, name) in firsts.iter().enumerate() {
        let other = firsts[(place + 1) % firsts.len()];
        suffer(&pristine, name, Some(other), Damage::Swap);
    }
    for (kind, objects) in &kinds {
        for (place, name) in objects.iter().enumerate() {
            let bytes = pristine.shelf.memory.get(name).unwrap().len();
            let mut damages = vec![
                Damage::Delete,
                Damage::Cut(bytes / 2),
                Damage::Flip(bytes / 2),
            ];
            // The first of a kind suffers everything, the others what differs from object to object. What nobody reads
            // while reading files is sealed as backups and marks are.
            if place == 0 && !matches!(*kind, "lease" | "session" | "trash" | "condemned") {
                damages.extend([Damage::Cut(0), Damage::Cut(bytes - 1)]);
                damages.extend([0, 4, 6, 9, 30, 70, 97, bytes - 20, bytes - 1].map(Damage::Flip));
            }
            let other = objects
                .get((place + 1) % objects.len())
                .filter(|other| *other != name);
            damages.extend(other.map(|_| Damage::Swap));
            for damage in damages {
                suffer(&pristine, name, other.map(String::as_str), damage);
            }
        }
    }
}

#[test]
fn a_lost_pack_costs_exactly_the_files_that_need_its_chunks() {
    let pristine = pristine();
    let repository = pristine.shelf.open().unwrap();
    let pack_of = |id: &keepfs::id::ChunkId| repository.locate(id).unwrap().pack.id;
    let packs: BTreeSet<ObjectId> = pristine.needs.values().flatten().map(pack_of).collect();
    assert!(packs.len() > 3);
    for pack in packs {
        let shelf = copy_of(&pristine);
        shelf
            .memory
            .delete(&Name::Pack(PackKind::Data, pack).to_string())
            .unwrap();
        let found = report(&shelf, false);
        assert_eq!(found.problem_count, 1);
        let oracle: BTreeSet<String> = pristine
            .needs
            .iter()
            .filter(|(_, needs)| needs.iter().any(|id| pack_of(id) == pack))
            .map(|(path, _)| path.clone())
            .collect();
        let named: BTreeSet<String> = found.problems[0].lost.iter().cloned().collect();
        assert_eq!(named, oracle);
        assert_eq!(found.problems[0].lost_count, oracle.len() as u64);
        assert_eq!(
            found.problems[0].object,
            Name::Pack(PackKind::Data, pack).to_string()
        );
    }
}

#[test]
fn only_the_packs_that_a_point_needs_are_read_for_it() {
    let pristine = pristine();
    let options = |point: &[u8]| Options {
        read_data: true,
        points: Some(vec![(b"web".to_vec(), point.to_vec())]),
    };
    let catalog = pristine.shelf.catalog();
    let one = check(&catalog, &options(b"one"), &Progress::default()).unwrap();
    let three = check(&catalog, &options(b"three"), &Progress::default()).unwrap();
    assert!(one.is_clean() && three.is_clean());
    assert!(one.packs_read < three.packs_read && three.packs_read < three.packs);
    let missing = check(&catalog, &options(b"no such"), &Progress::default()).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

#[test]
fn the_index_is_rebuilt_from_packs_alone() {
    let pristine = pristine();
    for flip_only in [false, true] {
        let shelf = copy_of(&pristine);
        for object in shelf.memory.list("index/").unwrap() {
            let damage = if flip_only {
                Damage::Flip(200)
            } else {
                Damage::Delete
            };
            apply(&shelf, &object.name, None, damage);
        }
        let repository = shelf.open().unwrap();
        assert!(readable("no index", &pristine, &repository).is_empty());
        let rebuilt = rebuild_index(&repository, &Progress::default()).unwrap();
        assert_eq!(rebuilt.problems, []);
        let full = report(&shelf, true);
        assert_eq!(full.problems, []);
        assert_eq!((full.packs, full.unreferenced_packs), (rebuilt.packs, 0));
        let good = readable("rebuilt", &pristine, &shelf.open().unwrap());
        assert_eq!(good, pristine.contents.keys().cloned().collect());
        assert_eq!(
            rebuild_index(&repository, &Progress::default())
                .unwrap()
                .packs,
            0
        );
    }
}

#[test]
fn a_pack_that_nobody_refers_to_is_told_and_no_problem() {
    let pristine = pristine();
    let shelf = copy_of(&pristine);
    let segments = shelf.memory.list("index/").unwrap();
    let repository = shelf.open().unwrap();
    let before = repository.segments().len();
    let writer = keepfs::repository::Writer::new(repository, None).unwrap();
    let content = noise(50, 1000);
    writer
        .put(
            keepfs::repository::Lane::Alone,
            keepfs::id::ChunkId::of(&content),
            &content,
        )
        .unwrap();
    writer.flush().unwrap();
    for object in shelf.memory.list("index/").unwrap() {
        if !segments.iter().any(|old| old.name == object.name) {
            shelf.memory.delete(&object.name).unwrap();
        }
    }
    let full = report(&shelf, true);
    assert_eq!(full.problems, []);
    assert_eq!((full.segments, full.unreferenced_packs), (before as u64, 1));
    assert!(full.unreferenced_bytes > 1000);
}
