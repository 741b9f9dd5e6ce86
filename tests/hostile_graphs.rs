//! Page graphs that a writer with the key may have made: in circles, too deep, with numbers that overflow, or small and
//! endless. Every reader of them ends, with what is there or an error that says so.

use crate::filesystem::{Asked, caller};
use crate::planted::{Shelf, plain};
use crate::sites::{Site, try_copy};
use keepfs::check::check;
use keepfs::copy::End;
use keepfs::error::{Kind, Result};
use keepfs::filesystem::Answered;
use keepfs::id::ChunkId;
use keepfs::point::*;
use keepfs::progress::Progress;
use keepfs::repository::{Lane, Writer, encode};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const ENDLESS: u64 = u64::MAX;

struct Forge {
    shelf: Shelf,
    writer: Writer,
}

impl Forge {
    fn new() -> Self {
        let shelf = Shelf::new();
        let writer = Writer::new(shelf.open().unwrap(), None).unwrap();
        Self { shelf, writer }
    }

    /// Stores bytes under an id that they need not have.
    fn put_as(&self, id: ChunkId, bytes: &[u8]) -> ChunkId {
        self.writer.put(Lane::Tree, id, bytes).unwrap();
        id
    }

    fn put(&self, bytes: &[u8]) -> ChunkId {
        self.put_as(ChunkId::of(bytes), bytes)
    }

    fn directory(&self, page: &DirectoryPage) -> ChunkId {
        self.put(&page.encode())
    }

    fn content(&self, page: &ContentPage) -> ChunkId {
        self.put(&encode(page))
    }

    fn file(&self, size: u64, content: Content) -> Tree {
        let file = File {
            size,
            content,
            ..File::empty()
        };
        let leaf = leaf(&[("f", Node::File(file))]);
        said(self.directory(&leaf), 1, 1, size)
    }

    fn commit(&self, name: &str, tree: Tree) {
        let record = PointRecord {
            backup: Default::default(),
            name: name.as_bytes().to_vec(),
            tree,
            side: Content::One(ChunkId([7; 32])),
            side_bytes: ENDLESS,
            origin: None,
            ..crate::golden::record()
        };
        let catalog = self.shelf.catalog();
        catalog.commit(b"web", Draft { record }).unwrap();
    }
}

fn entry(name: &str, node: Node) -> Arc<Entry> {
    Arc::new(Entry {
        name: name.as_bytes().to_vec(),
        attributes: plain(),
        node,
    })
}

fn leaf(nodes: &[(&str, Node)]) -> DirectoryPage {
    let entries = nodes.iter().map(|(name, node)| entry(name, node.clone()));
    DirectoryPage::Leaf(entries.collect())
}

fn said(root: ChunkId, own: u64, entries: u64, bytes: u64) -> Tree {
    Tree {
        root,
        own,
        entries,
        bytes,
    }
}

fn child(first: &str, page: ChunkId, number: u64) -> Child {
    Child {
        first: first.as_bytes().to_vec(),
        page,
        own: number,
        entries: number,
        bytes: number,
    }
}

fn data(length: u64, chunk: Option<ChunkId>) -> Extent {
    Extent { length, chunk }
}

/// `levels` levels of inner pages, each with `width` times the one below.
fn tower(
    levels: usize,
    width: usize,
    bottom: ChunkId,
    put: impl Fn(Vec<Child>) -> ChunkId,
) -> ChunkId {
    (0..levels).fold(bottom, |below, _| {
        let children = (0..width).map(|place| child(&format!("{place:04}"), below, 1 << 40));
        put(children.collect())
    })
}

/// Every graph, by its name.
fn graphs(forge: &Forge) -> BTreeMap<&'static str, Tree> {
    let inner = |children| forge.directory(&DirectoryPage::Inner(children));
    let list = |children| forge.content(&ContentPage::Inner(children));
    let small = forge.put(b"content");
    let of_file = |size| File {
        size,
        content: Content::One(small),
        ..File::empty()
    };
    let honest = forge.directory(&leaf(&[("f", Node::File(of_file(7)))]));
    let nothing = forge.directory(&leaf(&[]));
    let no_extents = forge.content(&ContentPage::Leaf(Vec::new()));
    let holes = forge.content(&ContentPage::Leaf(vec![data(ENDLESS, None), data(9, None)]));
    let circle = ChunkId([1; 32]);
    let pages = DirectoryPage::Inner(vec![child("a", circle, 1), child("b", circle, 1)]);
    forge.put_as(circle, &pages.encode());
    let itself = ChunkId([2; 32]);
    let below = Node::Directory(said(itself, 1, ENDLESS, ENDLESS));
    forge.put_as(
        itself,
        &leaf(&[("d", below.clone()), ("e", below)]).encode(),
    );
    let list_circle = ChunkId([3; 32]);
    let pages = ContentPage::Inner(vec![child("", list_circle, 1 << 20); 3]);
    forge.put_as(list_circle, &encode(&pages));
    let many = |page| vec![child("a", page, ENDLESS), child("g", page, ENDLESS)];
    let directories = leaf(&[
        (
            "d",
            Node::Directory(said(honest, ENDLESS, ENDLESS, ENDLESS)),
        ),
        (
            "e",
            Node::Directory(said(honest, ENDLESS, ENDLESS, ENDLESS)),
        ),
        ("f", Node::File(of_file(ENDLESS))),
    ]);
    let lists = |root| Content::Pages(root);
    [
        ("a circle of pages", said(circle, 2, 2, 2)),
        ("a directory in itself", said(itself, 2, 2, 2)),
        ("too deep", said(tower(40, 1, honest, inner), 1, 1, 1)),
        ("endless names", said(tower(12, 64, honest, inner), 1, 1, 1)),
        (
            "endless nothing",
            said(tower(12, 64, nothing, inner), 1, 1, 1),
        ),
        ("sums", said(inner(many(honest)), ENDLESS, ENDLESS, ENDLESS)),
        (
            "sums of directories",
            said(forge.directory(&directories), 3, ENDLESS, ENDLESS),
        ),
        ("a list as a directory", said(no_extents, 1, 1, 1)),
        ("content as a directory", said(small, 1, 1, 1)),
        ("no such page", said(ChunkId([4; 32]), 1, 1, 1)),
        (
            "a chunk of any length",
            forge.file(ENDLESS, Content::One(small)),
        ),
        (
            "no length",
            forge.file(7, Content::Extents(vec![data(0, Some(small)); 3])),
        ),
        (
            "extents that overflow",
            forge.file(
                ENDLESS,
                Content::Extents(vec![
                    data(7, Some(small)),
                    data(ENDLESS, Some(small)),
                    data(7, None),
                ]),
            ),
        ),
        ("holes that overflow", forge.file(ENDLESS, lists(holes))),
        ("a circle of lists", forge.file(1 << 30, lists(list_circle))),
        (
            "lists too deep",
            forge.file(1 << 30, lists(tower(40, 1, holes, list))),
        ),
        (
            "lists of nothing",
            forge.file(1 << 60, lists(tower(12, 64, no_extents, list))),
        ),
        (
            "lists of no pages",
            forge.file(1 << 60, lists(tower(12, 64, list(Vec::new()), list))),
        ),
        (
            "sums of lists",
            forge.file(ENDLESS, lists(list(vec![child("", holes, ENDLESS); 3]))),
        ),
        ("a directory as a list", forge.file(1 << 30, lists(honest))),
    ]
    .into()
}

fn typed<T>(result: Result<T>) {
    if let Err(error) = result {
        assert!(!error.message().is_empty());
        assert_ne!(error.kind(), Kind::Failed, "{error:?}");
    }
}

/// The trees of a point, read as the engine reads them.
fn walk(end: &End, point: &Point) {
    let tree = &point.record.tree;
    for name in [&b"a"[..], b"f", b"zz"] {
        typed(end.trees.lookup(tree, name));
    }
    for first in [0, 1, 1000, ENDLESS] {
        end.trees
            .entries_from(tree, first)
            .take(1000)
            .for_each(typed);
    }
    for visit in Walk::new(end.trees.clone(), tree).take(10_000) {
        let Ok(Visit::Entry { entry, .. }) = visit else {
            typed(visit);
            continue;
        };
        for offset in [0, 1, 7, 8, 1 << 40, ENDLESS - 1, ENDLESS] {
            if let Some(file) = entry.file() {
                end.trees
                    .extents_from(file, offset)
                    .take(1000)
                    .for_each(typed);
            }
        }
    }
    let mut side = SideReader::new(
        end.trees.clone(),
        point.record.side.clone(),
        point.record.side_bytes,
    );
    for number in [0, 1, ENDLESS / 28 - 1, ENDLESS] {
        typed(side.get(number));
    }
}

/// The same as a mount is asked.
fn ask(end: &End, name: &str) {
    let state = tempfile::tempdir().unwrap();
    let asked = Asked::of(vec![("r", end.catalog.clone())], state.path());
    let top = asked.find(&format!("r/web/{name}")).unwrap().unwrap();
    let filesystem = &asked.filesystem;
    for below in ["a", "d", "f"] {
        let Ok(Some(found)) = asked.lookup(top.ino, below) else {
            continue;
        };
        let Ok(handle) = filesystem.open(found.ino, libc::O_RDONLY) else {
            continue;
        };
        for offset in [0, 5, 1 << 20, 1 << 40, ENDLESS - 1, ENDLESS] {
            for result in [
                filesystem.read(handle, offset, 128 << 10).map(drop),
                filesystem.seek(handle, offset, true).map(drop),
                filesystem.seek(handle, offset, false).map(drop),
            ] {
                if let Err(failure) = result {
                    assert_ne!(
                        failure.errno(),
                        libc::EIO,
                        "{name} at {offset}: {failure:?}"
                    );
                }
            }
        }
        filesystem.close(handle);
    }
    let listed = asked.names(top.ino);
    assert!(listed.entries.len() <= 3, "{name}");
}

#[test]
fn hostile_pages_are_read_to_an_end_and_never_panic() {
    let mut failed = Vec::new();
    let names: Vec<&str> = graphs(&Forge::new()).into_keys().collect();
    for name in names {
        // Each has a repository of its own, as one may stop a copy or a backup of all.
        let forge = Forge::new();
        let tree = graphs(&forge)[name];
        forge.writer.flush().unwrap();
        forge.commit(name, tree);
        let end = End::open(forge.shelf.open().unwrap()).unwrap();
        let contents = end.catalog.contents();
        let point = contents.point(b"web", name.as_bytes()).unwrap().clone();
        let progress = Progress::default();
        let out = tempfile::tempdir().unwrap();
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        std::fs::write(source.path().join("d/f"), "d").unwrap();
        std::fs::write(source.path().join("f"), "f").unwrap();
        let doors: [(&str, &dyn Fn()); 7] = [
            ("walk", &|| walk(&end, &point)),
            ("filesystem", &|| ask(&end, name)),
            ("check", &|| {
                let report = check(&end.catalog, &Default::default(), &progress).unwrap();
                assert!(!report.is_clean(), "check finds nothing");
            }),
            ("diff", &|| {
                let other = said(ChunkId([5; 32]), 1, 1, 1);
                let first = (&end.trees, &point.record.tree);
                typed(diff(first, (&end.trees, &other), &mut |_| Ok(())));
            }),
            ("restore", &|| {
                let top = Arc::new(point.record.top());
                let options = Default::default();
                typed(keepfs::restore::restore(
                    &end.trees,
                    &top,
                    out.path(),
                    &options,
                    &progress,
                ));
            }),
            ("copy", &|| {
                let target = Site::new(1 << 20, 8);
                typed(try_copy(&end, &target.reopen()));
            }),
            ("backup", &|| {
                let options = keepfs::backup::Options {
                    sources: vec![source.path().to_owned()],
                    backup: b"web".to_vec(),
                    point: Some(b"again".to_vec()),
                    ..Default::default()
                };
                keepfs::backup::backup(&end.catalog, &end.trees, &options, &progress).unwrap();
            }),
        ];
        for (door, enter) in doors {
            if catch_unwind(AssertUnwindSafe(enter)).is_err() {
                failed.push(format!("{door} of {name}"));
            }
        }
    }
    assert_eq!(failed, Vec::<String>::new());
}

#[test]
fn directories_deeper_than_a_stack_are_read_and_forgotten() {
    let forge = Forge::new();
    let mut tree = said(forge.directory(&leaf(&[])), 0, 0, 0);
    let depth = 20_000;
    for level in 1..=depth {
        let page = leaf(&[("d", Node::Directory(tree))]);
        tree = said(forge.directory(&page), 1, level, 0);
    }
    forge.writer.flush().unwrap();
    forge.commit("deep", tree);
    let state = tempfile::tempdir().unwrap();
    let catalog = Arc::new(forge.shelf.catalog());
    let asked = Asked::of(vec![("r", catalog)], state.path());
    let mut found = asked.find("r/web/deep").unwrap().unwrap();
    for _ in 0..depth {
        found = asked.lookup(found.ino, "d").unwrap().expect("one deeper");
    }
    assert!(asked.names(found.ino).entries.is_empty());
    let refused = asked
        .filesystem
        .open(found.ino, libc::O_RDWR)
        .expect_err("it is a directory of a complete point");
    assert_eq!(refused.errno(), libc::EROFS);
    let again = asked.filesystem.lookup(found.ino, b"d", caller()).unwrap();
    assert!(matches!(again, Answered::Missing { .. }));
    drop(asked);
}
