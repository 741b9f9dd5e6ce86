//! Trees that are deeper than a stack of calls could be.

use crate::sites::{MIB, Site, assorted, try_copy};
use keepfs::copy::{End, Outcome};
use keepfs::point::{Change, DirectoryWriter, Draft, Entry, File, Node, PointRecord, Tree, diff};
use keepfs::repository::{Lane, Writer};
use std::sync::Arc;

/// So many directories, one in the other, with one file of this size in the innermost.
fn deep(end: &End, levels: usize, size: u64) -> Tree {
    let writer = Writer::new(end.repository().clone(), None).unwrap();
    let sink = &mut |id, bytes: &[u8]| writer.put(Lane::Tree, id, bytes).map(drop);
    let mut node = Node::File(File {
        size,
        ..File::empty()
    });
    for _ in 0..levels {
        let mut directory = DirectoryWriter::default();
        let entry = Entry {
            name: b"d".to_vec(),
            attributes: Default::default(),
            node,
        };
        directory.push(Arc::new(entry), sink).unwrap();
        node = Node::Directory(directory.finish(sink).unwrap());
    }
    writer.flush().unwrap();
    match node {
        Node::Directory(tree) => tree,
        other => panic!("a {}", other.type_name()),
    }
}

#[test]
fn a_deep_tree_is_compared() {
    let site = Site::new(MIB, 1);
    let end = site.reopen();
    let levels = 20_000;
    let trees = [1, 2, 0].map(|size| deep(&end, if size > 0 { levels } else { 1 }, size));
    let compare = |one: &Tree, two: &Tree| {
        let mut told = Vec::new();
        let tell = &mut |difference: keepfs::point::Difference| {
            told.push((difference.path.len(), difference.change));
            Ok(())
        };
        diff((&end.trees, one), (&end.trees, two), tell).unwrap();
        told
    };
    let bottom = (2 * levels - 1, Change::Content);
    assert_eq!(compare(&trees[0], &trees[1]), [bottom]);
    let removed = compare(&trees[0], &trees[2]);
    assert_eq!(removed[0], (1, Change::Type));
    assert_eq!(removed[levels - 1], (2 * levels - 1, Change::Removed));
    assert_eq!(removed.len(), levels);
}

#[test]
fn a_tree_deeper_than_any_number_of_levels_is_copied() {
    let (mut source, mut target) = (Site::new(MIB, 1), Site::new(MIB, 2));
    let point = source.back_up("web", "one", 100, &assorted(61, 2));
    let from = source.open();
    let record = PointRecord {
        name: b"deep".to_vec(),
        tree: deep(&from, 70_000, 0),
        ..point.record.clone()
    };
    from.catalog.commit(b"web", Draft { record }).unwrap();
    let report = try_copy(&from, &target.open()).unwrap();
    assert_eq!(report.record.count(Outcome::Copied), 2);
}
