//! Format 1 as other writers than a backup store it: a repository that was copied into, merged and leased, with every
//! kind of key slot; bodies of several sections; and where sequences are cut into pages.
//!
//! The files are made anew as those of the other golden tests are.

use crate::golden::{condemned, lease, load, object, side_chunk, write_if_asked};
use crate::planted::{Item, Shelf, plant};
use bytes::Bytes;
use keepfs::check::{Options, check};
use keepfs::clock::Time;
use keepfs::copy::{End, SessionState, TransferOptions, copy_points, sessions};
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::*;
use keepfs::progress::Progress;
use keepfs::repository::{Credential, Lane, Repository, Slot, SlotKind, Writer, decode};
use keepfs::store::names::Name;
use keepfs::store::{MemoryStore, Store};
use std::collections::BTreeMap;
use std::sync::Arc;

fn recovery() -> Credential {
    Credential::key_file(&[0x11; 64]).unwrap()
}

fn user() -> Credential {
    Credential::password(b"a user's").unwrap()
}

fn item(seed: u32) -> Item {
    Item::directory([
        (
            "small",
            Item::File(format!("point {seed}").into_bytes(), 99),
        ),
        ("text", Item::File(b"compresses ".repeat(200), 1000)),
    ])
}

/// Slots that no command makes yet.
fn add_slots(repository: &Repository) {
    for (number, kind, credential) in [
        (1, SlotKind::Recovery, recovery()),
        (2, SlotKind::User, user()),
    ] {
        let id = object(number);
        let slot = Slot::wrap(
            repository.ring(),
            id,
            kind,
            &credential,
            "label",
            Time::new(1, 2),
            "host",
        )
        .unwrap();
        repository
            .store()
            .create(&Name::Key(id).to_string(), slot.encode().into())
            .unwrap();
    }
}

/// A repository that another one was copied into.
fn make_repository() -> BTreeMap<String, Vec<u8>> {
    let (source, target) = (Shelf::new(), Shelf::new());
    plant(&source.catalog(), "web", "copied", &item(0)).unwrap();
    let ends = [&source, &target].map(|shelf| End::open(shelf.open().unwrap()).unwrap());
    let options = TransferOptions::default();
    let everything = crate::sites::everything();
    copy_points(
        &everything,
        &ends[0],
        &ends[1],
        &options,
        &Progress::default(),
    )
    .unwrap();
    for number in 1..9 {
        plant(
            &target.catalog(),
            "own",
            &format!("p{number}"),
            &item(number),
        )
        .unwrap();
    }
    let repository = target.open().unwrap();
    while repository.merge_index().unwrap() > 0 {}
    add_slots(&repository);
    for (number, kind) in [LeaseKind::Reader, LeaseKind::Writer, LeaseKind::OpenPoint]
        .into_iter()
        .enumerate()
    {
        let name = Name::Lease(object(number as u8));
        repository.create_document(name, &lease(kind)).unwrap();
    }
    repository
        .create_document(Name::Condemned(0), &condemned(true))
        .unwrap();
    let objects = target.memory.list("").unwrap().into_iter();
    objects
        .map(|object| {
            let bytes = target.memory.get(&object.name).unwrap().to_vec();
            (object.name, bytes)
        })
        .collect()
}

fn assert_reads(repository: &Arc<Repository>) {
    let contents = Catalog::open(repository.clone()).unwrap().contents();
    let trees = Arc::new(Trees::new(repository.clone()));
    let points = [("web", "copied", 0), ("own", "p1", 1), ("own", "p8", 8)];
    for (backup, name, number) in points {
        let point = contents.point(backup.as_bytes(), name.as_bytes()).unwrap();
        let top = Arc::new(point.record.top());
        let found = trees.resolve(&top, b"small").unwrap().unwrap();
        let Content::One(id) = found.file().unwrap().content else {
            panic!("a small file is one chunk")
        };
        let content = repository.read_chunk(&id).unwrap();
        assert_eq!(content, format!("point {number}").into_bytes());
    }
}

#[test]
fn a_copied_and_merged_repository_of_format_1_opens_with_every_key_and_reads() {
    if std::env::var_os("KEEPFS_GOLDEN").is_some() {
        write_if_asked("copied.hex", &make_repository());
    }
    let file = Credential::key_file(&[7; 64]).unwrap();
    for key in [recovery(), user(), file] {
        // A store of its own for each: a check says of what was moved that it was hashed.
        let memory = MemoryStore::new();
        for (name, bytes) in load("copied.hex") {
            assert!(Name::parse(&name).is_some(), "{name}");
            memory.overwrite(&name, Bytes::from(bytes));
        }
        let shelf = Shelf {
            memory,
            cache: tempfile::tempdir().unwrap(),
            key,
        };
        let repository = shelf.open().unwrap();
        assert_reads(&repository);
        let segments = repository.segments();
        let merged =
            |segment: &keepfs::repository::Segment| !segment.replaced().unwrap().is_empty();
        assert!(segments.iter().any(|segment| merged(segment)));
        let moved = segments.iter().any(|segment| {
            let packs = 0..segment.pack_count();
            packs
                .map(|number| segment.pack(number).unwrap())
                .any(|pack| pack.origin != ObjectId::default())
        });
        assert!(moved, "packs whose frames were moved name their origin");
        for (number, kind) in [LeaseKind::Reader, LeaseKind::Writer, LeaseKind::OpenPoint]
            .into_iter()
            .enumerate()
        {
            let name = Name::Lease(object(number as u8));
            assert_eq!(repository.document::<Lease>(name).unwrap(), lease(kind));
        }
        let list: Condemned = repository.document(Name::Condemned(0)).unwrap();
        assert_eq!(list, condemned(true));
        let told: Vec<_> = sessions(&repository).unwrap().into_values().collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].state, SessionState::Success);
        assert_eq!(told[0].points[0].name, b"copied");
        let kinds: Vec<_> = repository
            .key_slots()
            .unwrap()
            .into_iter()
            .map(|(id, slot)| (id, slot.unwrap().0))
            .collect();
        assert!(kinds.contains(&(object(1), SlotKind::Recovery)));
        assert!(kinds.contains(&(object(2), SlotKind::User)));
        let options = Options {
            read_data: true,
            points: None,
        };
        let report = check(&shelf.catalog(), &options, &Progress::default()).unwrap();
        assert_eq!((report.problems, report.points), (vec![], 9));
    }
}

/// Takes pages and notes how many items each leaf has.
#[derive(Default)]
struct Ends {
    lengths: Vec<u32>,
}

impl Ends {
    fn note(&mut self, length: usize) {
        self.lengths.push(length as u32);
    }

    /// The lengths of the leaves in order, and the root.
    fn pinned(self, root: ChunkId) -> Vec<u8> {
        assert!(self.lengths.len() > 10, "several pages");
        let lengths = self.lengths.iter().flat_map(|length| length.to_le_bytes());
        lengths.chain(root.0).collect()
    }
}

fn directory_ends() -> Vec<u8> {
    let mut ends = Ends::default();
    let mut writer = DirectoryWriter::default();
    let mut sink = |_: ChunkId, bytes: &[u8]| {
        if let DirectoryPage::Leaf(entries) = DirectoryPage::decode(bytes)? {
            ends.note(entries.len());
        }
        Ok(())
    };
    for number in 0..20_000 {
        let entry = crate::golden::entry(&format!("name {number:05}"), Node::Fifo);
        writer.push(entry, &mut sink).unwrap();
    }
    let tree = writer.finish(&mut sink).unwrap();
    ends.pinned(tree.root)
}

fn list_ends() -> Vec<u8> {
    let mut ends = Ends::default();
    let mut writer = ContentWriter::default();
    let mut sink = |_: ChunkId, bytes: &[u8]| {
        if let ContentPage::Leaf(extents) = decode(bytes)? {
            ends.note(extents.len());
        }
        Ok(())
    };
    for number in 0..30_000u64 {
        let extent = Extent {
            length: 1 + number % 5,
            chunk: (number % 7 != 0).then(|| ChunkId::of(&number.to_le_bytes())),
        };
        writer.push(extent, &mut sink).unwrap();
    }
    match writer.finish(&mut sink).unwrap() {
        (Content::Pages(root), _) => ends.pinned(root),
        (other, _) => panic!("{other:?}"),
    }
}

fn side_ends() -> Vec<u8> {
    let mut ends = Ends::default();
    let mut writer = SideWriter::default();
    let mut sink = |_: ChunkId, bytes: &[u8]| {
        ends.note(bytes.len());
        Ok(())
    };
    for number in 0..200_000u64 {
        let record = Inode {
            ctime: Time::new(1, 2),
            device: 3,
            inode: number,
        };
        writer.push(record, &mut sink).unwrap();
    }
    writer.finish(&mut sink).unwrap();
    ends.pinned(ChunkId([0; 32]))
}

#[test]
fn sequences_are_cut_into_the_same_pages_for_ever() {
    let now: BTreeMap<String, Vec<u8>> = [
        ("directory", directory_ends()),
        ("list", list_ends()),
        ("side", side_ends()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    write_if_asked("pages.hex", &now);
    for (name, pinned) in load("pages.hex") {
        assert!(pinned == now[&name], "the pages of a {name} end elsewhere");
    }
}

#[test]
fn the_side_table_of_format_1_reads() {
    let shelf = Shelf::new();
    let golden = load("structures.hex").remove("side").unwrap();
    assert_eq!(golden, side_chunk());
    let writer = Writer::new(shelf.open().unwrap(), None).unwrap();
    let id = ChunkId::of(&golden);
    writer.put(Lane::Tree, id, &golden).unwrap();
    writer.flush().unwrap();
    let trees = Arc::new(Trees::new(shelf.open().unwrap()));
    let mut side = SideReader::new(trees, Content::One(id), golden.len() as u64);
    for number in 1..3u32 {
        let expected = Inode {
            ctime: Time::new(-1, number),
            device: 0x801,
            inode: u64::from(number) << 33,
        };
        assert_eq!(side.get(u64::from(number) - 1).unwrap(), Some(expected));
    }
    assert_eq!(side.get(2).unwrap(), None);
}
