//! Format 1, byte for byte. What was written by a released version is read for ever.
//!
//! `tests/golden/structures.hex` holds what encodes the same each time; `tests/golden/repository.hex` a whole
//! repository, which must open, check clean and read as it did. To make them for a new version of the format, run
//! `KEEPFS_GOLDEN=write cargo test --test main golden::` and review the difference: files of a released version are
//! never replaced, a new version gets files of its own.

use crate::planted::{Item, Shelf, list_and_mark, noise, plain, plant};
use bytes::Bytes;
use keepfs::check::{Options, check};
use keepfs::clock::Time;
use keepfs::copy::{
    FailedPart, Outcome, Party, SessionCounters, SessionPoint, SessionRecord, SessionState,
};
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::*;
use keepfs::progress::Progress;
use keepfs::repository::{CutLimits, Header, PackFacts, Ring, Settings, decode, encode, format};
use keepfs::store::names::PackKind;
use keepfs::store::{MemoryStore, Store};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file)
}

/// `name hexadecimal` on each line.
pub fn load(file: &str) -> BTreeMap<String, Vec<u8>> {
    let text = std::fs::read_to_string(path(file)).expect("the golden file is in the source tree");
    text.lines()
        .map(|line| line.split_once(' ').expect("a name and its bytes"))
        .map(|(name, bytes)| (name.to_owned(), bytes_of(bytes)))
        .collect()
}

/// Writes the file when asked to.
pub fn write_if_asked(file: &str, all: &BTreeMap<String, Vec<u8>>) {
    if std::env::var_os("KEEPFS_GOLDEN").is_some_and(|wish| wish == "write") {
        let text: String = all
            .iter()
            .map(|(name, bytes)| format!("{name} {}\n", hex(bytes)))
            .collect();
        std::fs::create_dir_all(path("")).unwrap();
        std::fs::write(path(file), text).unwrap();
    }
}

/// An id of an object.
pub fn object(number: u8) -> ObjectId {
    ObjectId([number; 16])
}

/// An id of a chunk.
pub fn chunk(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

/// A ring with known secrets.
pub fn ring() -> Ring {
    let mut document = vec![1, 0, 0, 0];
    document.extend(object(0xaa).0);
    document.extend(2u64.to_le_bytes());
    for epoch in [0u32, 7] {
        document.extend(epoch.to_le_bytes());
        document.extend([0x40 + epoch as u8; 32]);
    }
    decode(&document).unwrap()
}

pub fn entry(name: &str, node: Node) -> Arc<Entry> {
    let owner = Owner {
        uid: 1000,
        gid: 100,
        user: b"alice".to_vec(),
        group: b"users".to_vec(),
    };
    let attributes = Attributes {
        mode: 0o4755,
        owner: Arc::new(owner),
        mtime: Time::new(-1, 999_999_999),
        xattrs: vec![(b"user.x".to_vec(), b"value".to_vec())],
        links: 2,
        link_group: 9,
    };
    Arc::new(Entry {
        name: name.as_bytes().to_vec(),
        attributes,
        node,
    })
}

pub fn tree() -> Tree {
    Tree {
        root: chunk(1),
        own: 2,
        entries: 3,
        bytes: 4,
    }
}

pub fn leaf() -> DirectoryPage {
    let extents = vec![
        Extent {
            length: 5,
            chunk: Some(chunk(2)),
        },
        Extent {
            length: 6,
            chunk: None,
        },
    ];
    let file = |size, content| {
        Node::File(File {
            size,
            hash: Some([3; 32]),
            block: 4096,
            content,
        })
    };
    DirectoryPage::Leaf(vec![
        entry("a", file(0, Content::Empty)),
        entry("b", file(7, Content::One(chunk(4)))),
        entry("c", file(11, Content::Extents(extents))),
        entry("d", file(1 << 40, Content::Pages(chunk(5)))),
        entry("e", Node::Directory(tree())),
        entry("f", Node::Symlink(b"to".to_vec())),
        entry("g", Node::Block(0x801)),
        entry("h", Node::Character(0x103)),
        entry("i", Node::Fifo),
        entry("j", Node::Socket),
    ])
}

pub fn children() -> Vec<Child> {
    let child = |first: &str, number| Child {
        first: first.as_bytes().to_vec(),
        page: chunk(number),
        own: 2,
        entries: 3,
        bytes: 4,
    };
    vec![child("a", 6), child("m", 7)]
}

pub fn record() -> PointRecord {
    PointRecord {
        backup: object(1),
        name: b"2026-11-20".to_vec(),
        time: Time::new(1, 2),
        sealed: Time::new(3, 4),
        sequence: 5,
        previous: [6; 32],
        mode: 0o755,
        owner: Owner {
            uid: 1,
            gid: 2,
            user: b"u".to_vec(),
            group: b"g".to_vec(),
        },
        mtime: Time::new(7, 8),
        xattrs: vec![(b"user.a".to_vec(), Vec::new())],
        tree: tree(),
        side: Content::One(chunk(9)),
        side_bytes: 28,
        source: Source {
            host: "host".to_owned(),
            paths: vec![b"/home".to_vec()],
        },
        origin: Some(Origin {
            repository: object(2),
            point: object(3),
            generation: 4,
        }),
        program: "keepfs 0".to_owned(),
        more: vec![("later".to_owned(), vec![1])],
    }
}

/// A piece of a side table.
pub fn side_chunk() -> Vec<u8> {
    let mut chunks = Vec::new();
    let mut sink = |_: ChunkId, bytes: &[u8]| {
        chunks.push(bytes.to_vec());
        Ok(())
    };
    let mut side = SideWriter::default();
    for number in 1..3 {
        let inode = Inode {
            ctime: Time::new(-1, number),
            device: 0x801,
            inode: u64::from(number) << 33,
        };
        side.push(inode, &mut sink).unwrap();
    }
    side.finish(&mut sink).unwrap();
    chunks.remove(0)
}

pub fn index_body() -> Vec<u8> {
    let pack = |number, origin| PackFacts {
        id: object(number),
        epoch: 7,
        salt: [number; 32],
        origin: object(origin),
        object_bytes: 400,
        frames: vec![(50, 150), (80, 200)],
        chunks: vec![
            (chunk(9 - number), 20),
            (chunk(8), 30),
            (chunk(7 + number), 30),
        ],
    };
    format::index_body(
        &[(PackKind::Data, pack(1, 0)), (PackKind::Tree, pack(2, 5))],
        &[object(6)],
    )
}

/// The record of a session in which something failed.
pub fn session() -> SessionRecord {
    let party = |number, location: &str| Party {
        repository: object(number),
        location: location.to_owned(),
    };
    let point = SessionPoint {
        backup: b"web".to_vec(),
        name: b"one".to_vec(),
        id: object(3),
        generation: 4,
        into: b"web01".to_vec(),
        entries: 5,
        bytes: 6,
        outcome: Outcome::Failed,
    };
    let part = FailedPart {
        backup: b"web".to_vec(),
        point: b"one".to_vec(),
        path: b"a/b".to_vec(),
        reason: "damaged".to_owned(),
        attempts: 7,
    };
    SessionRecord {
        state: SessionState::NeedsAction,
        reason: "parts failed".to_owned(),
        started: Time::new(1, 2),
        ended: Some(Time::new(3, 4)),
        source: party(1, "/srv/keep"),
        target: party(2, "s3://bucket/keep"),
        proxy: "local".to_owned(),
        host: "host".to_owned(),
        process: 77,
        points: vec![point],
        failed: vec![part],
        failed_total: 1,
        counters: SessionCounters {
            frames_moved: 1,
            frames_cut: 2,
            data_bytes_read: 3,
            data_bytes_written: 4,
            data_packs: 5,
            stored_bytes: 6,
            chunks_moved: 7,
            chunks_present: 8,
        },
        more: vec![("later".to_owned(), vec![1])],
    }
}

fn settings() -> Settings {
    Settings {
        seed: [1; 32],
        cut: CutLimits {
            min: 1 << 17,
            average: 1 << 19,
            max: 1 << 21,
        },
        pack_bytes: 1 << 24,
        level: 3,
        storage_class: "STANDARD_IA".to_owned(),
        uid: 1,
        gid: 2,
        mode: 0o750,
        more: vec![("later".to_owned(), "value".to_owned())],
    }
}

fn backup() -> BackupRecord {
    BackupRecord {
        name: b"web01".to_vec(),
        uid: 1,
        gid: 2,
        mode: 0o700,
        readers: vec!["alice".to_owned()],
        created: Time::new(9, 10),
        removed: true,
    }
}

/// A lease of this kind.
pub fn lease(kind: LeaseKind) -> Lease {
    Lease {
        kind,
        host: "host".to_owned(),
        process: 77,
        taken: Time::new(1, 2),
        ends: Some(Time::new(3, 4)),
        point: Some(object(5)),
        name: Some((b"backup".to_vec(), b"point".to_vec())),
    }
}

fn catalogue() -> Catalogue {
    let copy = CatalogueEntry {
        id: object(1),
        generation: 2,
        record: encode(&record()),
    };
    Catalogue {
        replaces: vec![object(9)],
        points: vec![copy],
    }
}

/// A list that prune has not carried out, or has.
pub fn condemned(done: bool) -> Condemned {
    Condemned {
        time: Time::new(1, 2),
        packs: vec![object(1)],
        segments: vec![object(2)],
        done,
    }
}

fn content_leaf() -> ContentPage {
    let extent = |length, chunk| Extent { length, chunk };
    ContentPage::Leaf(vec![extent(1, Some(chunk(1))), extent(2, None)])
}

fn mark() -> Mark {
    Mark {
        keep_until: Some(Time::new(1, 2)),
        lock_until: None,
        gfs: 5,
        more: vec![("m".to_owned(), vec![2])],
    }
}

/// A session in each state, with each outcome, by the state's name.
fn sessions() -> BTreeMap<String, SessionRecord> {
    use Outcome::{Conflict, Copied, Failed, Present, Waiting};
    let states = [
        (SessionState::Running, Waiting),
        (SessionState::Waiting, Copied),
        (SessionState::Retrying, Present),
        (SessionState::Success, Conflict),
        (SessionState::Warning, Failed),
        (SessionState::Failed, Failed),
        (SessionState::Undoing, Waiting),
        (SessionState::Undone, Waiting),
    ];
    let named = states.map(|(state, outcome)| {
        let mut record = session();
        record.state = state;
        record.points[0].outcome = outcome;
        (format!("session-{state:?}").to_lowercase(), record)
    });
    named.into()
}

/// Every structure, by its name.
pub fn structures() -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = [
        (
            "header",
            Header::new(object(0xaa), Time::new(1_700_000_000, 5)).encode(&ring()),
        ),
        ("ring", encode(&ring())),
        ("settings", encode(&settings())),
        ("backup", encode(&backup())),
        ("point", encode(&record())),
        ("mark", encode(&mark())),
        (
            "trash",
            encode(&Trash {
                time: Time::new(1, 2),
                host: "host".to_owned(),
                undone: true,
            }),
        ),
        ("catalogue", encode(&catalogue())),
        ("lease", encode(&lease(LeaseKind::OpenPoint))),
        ("lease-reader", encode(&lease(LeaseKind::Reader))),
        ("lease-writer", encode(&lease(LeaseKind::Writer))),
        ("condemned", encode(&condemned(false))),
        ("directory-leaf", leaf().encode()),
        ("directory-inner", DirectoryPage::Inner(children()).encode()),
        ("content-leaf", encode(&content_leaf())),
        ("content-inner", encode(&ContentPage::Inner(children()))),
        ("side", side_chunk()),
        ("index", index_body()),
        ("session", encode(&session())),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    let sessions = sessions().into_iter();
    all.extend(sessions.map(|(name, record)| (name, encode(&record))));
    all
}

#[test]
fn every_structure_encodes_to_the_bytes_of_format_1() {
    let now = structures();
    write_if_asked("structures.hex", &now);
    let golden = load("structures.hex");
    assert_eq!(
        golden.keys().collect::<Vec<_>>(),
        now.keys().collect::<Vec<_>>()
    );
    for (name, bytes) in &golden {
        assert_eq!(hex(bytes), hex(&now[name]), "{name}");
    }
}

#[test]
fn the_bytes_of_format_1_decode_to_what_was_written() {
    let golden = load("structures.hex");
    assert_eq!(decode::<PointRecord>(&golden["point"]).unwrap(), record());
    assert_eq!(
        DirectoryPage::decode(&golden["directory-leaf"]).unwrap(),
        leaf()
    );
    assert_eq!(
        DirectoryPage::decode(&golden["directory-inner"]).unwrap(),
        DirectoryPage::Inner(children())
    );
    assert_eq!(
        decode::<ContentPage>(&golden["content-inner"]).unwrap(),
        ContentPage::Inner(children())
    );
    assert_eq!(decode::<Ring>(&golden["ring"]).unwrap(), ring());
    assert_eq!(
        decode::<ContentPage>(&golden["content-leaf"]).unwrap(),
        content_leaf()
    );
    assert_eq!(decode::<Settings>(&golden["settings"]).unwrap(), settings());
    assert_eq!(decode::<BackupRecord>(&golden["backup"]).unwrap(), backup());
    assert_eq!(decode::<Mark>(&golden["mark"]).unwrap(), mark());
    assert_eq!(
        decode::<Catalogue>(&golden["catalogue"]).unwrap(),
        catalogue()
    );
    assert_eq!(
        decode::<Condemned>(&golden["condemned"]).unwrap(),
        condemned(false)
    );
    for (name, kind) in [
        ("lease", LeaseKind::OpenPoint),
        ("lease-reader", LeaseKind::Reader),
        ("lease-writer", LeaseKind::Writer),
    ] {
        assert_eq!(decode::<Lease>(&golden[name]).unwrap(), lease(kind));
    }
    for (name, record) in sessions() {
        assert_eq!(
            decode::<SessionRecord>(&golden[&name]).unwrap(),
            record,
            "{name}"
        );
    }
    assert_eq!(
        decode::<SessionRecord>(&golden["session"]).unwrap(),
        session()
    );
    let header = Header::decode(&golden["header"]).unwrap();
    Header::confirm(&golden["header"], &ring()).unwrap();
    assert_eq!(
        (header.repository, header.created),
        (object(0xaa), Time::new(1_700_000_000, 0))
    );
    let directory = tempfile::tempdir().unwrap();
    let segment = format::map_index_body(&golden["index"], directory.path()).unwrap();
    assert_eq!((segment.pack_count(), segment.chunk_count()), (2, 6));
    let found = segment.find(&chunk(9)).unwrap().next().unwrap().unwrap();
    assert_eq!((found.pack, found.offset, found.length), (1, 50, 30));
    let pack = segment.pack(1).unwrap();
    let frame = segment.frame_at(&pack, found.offset).unwrap();
    assert_eq!(
        (frame.number, frame.object_begin, frame.object_end),
        (1, 150, 200)
    );
}

/// A chunk that needs two frames and compresses to little.
fn steps() -> Vec<u8> {
    (0..300_000u32).map(|at| (at / 999) as u8).collect()
}

fn golden_item() -> Item {
    Item::directory([
        (
            "d",
            Item::directory([("pieces", Item::File(noise(1, 4000), 90))]),
        ),
        ("link", Item::Other(Node::Symlink(b"d/pieces".to_vec()))),
        ("text", Item::File(b"compresses ".repeat(300), 1000)),
        ("two frames", Item::File(steps(), 300_000)),
    ])
    .with(
        b"hole",
        Item::File([vec![0; 8192], noise(3, 100)].concat(), 4096),
        plain(),
    )
}

/// A small repository with every kind of object that a reader meets.
fn make_repository() -> BTreeMap<String, Vec<u8>> {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    let (point, _) = plant(&catalog, "web", "one", &golden_item()).unwrap();
    let (gone, _) = plant(&catalog, "web", "gone", &Item::directory([])).unwrap();
    catalog.forget(&gone).unwrap();
    catalog.undelete(&gone).unwrap();
    catalog.forget(&gone).unwrap();
    let repository = catalog.repository();
    let password = keepfs::repository::Credential::password(b"golden").unwrap();
    repository.add_key(&password, "a password").unwrap();
    list_and_mark(repository, &point, object(1));
    let objects = shelf.memory.list("").unwrap();
    objects
        .into_iter()
        .map(|object| {
            (
                object.name.clone(),
                shelf.memory.get(&object.name).unwrap().to_vec(),
            )
        })
        .collect()
}

#[test]
fn a_repository_of_format_1_opens_checks_reads_and_takes_another_point() {
    if std::env::var_os("KEEPFS_GOLDEN").is_some() {
        write_if_asked("repository.hex", &make_repository());
    }
    let memory = MemoryStore::new();
    for (name, bytes) in load("repository.hex") {
        memory.overwrite(&name, Bytes::from(bytes));
    }
    let password = keepfs::repository::Credential::password(b"golden").unwrap();
    let file = keepfs::repository::Credential::key_file(&[7; 64]).unwrap();
    for key in [file, password] {
        let shelf = Shelf {
            memory: memory.clone(),
            cache: tempfile::tempdir().unwrap(),
            key,
        };
        let catalog = shelf.catalog();
        let full = check(
            &catalog,
            &Options {
                read_data: true,
                points: None,
            },
            &Progress::default(),
        )
        .unwrap();
        assert_eq!(full.problems, []);
        let contents = catalog.contents();
        assert!(contents.point(b"web", b"gone").is_none());
        let point = contents.point(b"web", b"one").unwrap();
        let target = tempfile::tempdir().unwrap();
        let trees = Arc::new(Trees::new(catalog.repository().clone()));
        let top = Arc::new(point.record.top());
        keepfs::restore::restore(
            &trees,
            &top,
            target.path(),
            &Default::default(),
            &Progress::default(),
        )
        .unwrap();
        let read = |name: &str| std::fs::read(target.path().join(name)).unwrap();
        assert_eq!(read("d/pieces"), noise(1, 4000));
        assert!(read("two frames") == steps());
        assert_eq!(read("text"), b"compresses ".repeat(300));
        assert_eq!(read("hole"), [vec![0; 8192], noise(3, 100)].concat());
    }
    let shelf = Shelf {
        memory,
        cache: tempfile::tempdir().unwrap(),
        key: keepfs::repository::Credential::key_file(&[7; 64]).unwrap(),
    };
    plant(&shelf.catalog(), "web", "two", &golden_item()).unwrap();
    let full = check(
        &shelf.catalog(),
        &Options {
            read_data: true,
            points: None,
        },
        &Progress::default(),
    )
    .unwrap();
    assert_eq!((full.problems, full.points), (vec![], 2));
}
