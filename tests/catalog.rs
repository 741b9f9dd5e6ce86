//! What the records of backups and points do when hosts race, records are lost or planted, and the store fails.

use crate::planted::{Item, Shelf, noise, plant};
use keepfs::point::{Catalog, Point};
use std::sync::Arc;

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
