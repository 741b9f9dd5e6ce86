//! What is restored is what was there.

use crate::planted::{Item, Shelf, noise, plain, plant};
use keepfs::clock::Time;
use keepfs::point::{Attributes, Node, Owner, Trees};
use keepfs::progress::Progress;
use keepfs::restore::{Options, Report, restore};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

fn restored(shelf: &Shelf, item: &Item, target: &Path) -> Report {
    let catalog = shelf.catalog();
    let (point, _) = plant(&catalog, "web", "one", item).unwrap();
    let trees = Arc::new(Trees::new(catalog.repository().clone()));
    restore(
        &trees,
        &Arc::new(point.record.top()),
        target,
        &Options::default(),
        &Progress::default(),
    )
    .unwrap()
}

fn is_root() -> bool {
    // SAFETY: geteuid reads a number of the process and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn every_kind_of_entry_comes_back_as_it_was() {
    let shelf = Shelf::new();
    let large = noise(1, 11_000_000);
    let mut sparse = vec![0; 9 << 20];
    sparse[5 << 20..(5 << 20) + 65536].copy_from_slice(&noise(2, 65536));
    let linked = Attributes {
        links: 3,
        link_group: 77,
        ..plain()
    };
    let marked = Attributes {
        xattrs: vec![
            (b"user.a".to_vec(), b"1\0".to_vec()),
            (b"user.b".to_vec(), Vec::new()),
        ],
        ..plain()
    };
    let name = [b'n'; 255];
    let item = Item::directory([
        ("empty", Item::File(Vec::new(), 10)),
        ("small", Item::File(b"hello".to_vec(), 10)),
        ("fifo", Item::Other(Node::Fifo)),
        ("socket", Item::Other(Node::Socket)),
        (
            "link",
            Item::Other(Node::Symlink(b"../outside \xff".to_vec())),
        ),
        ("nothing", Item::directory([])),
        (
            "z",
            Item::directory([(
                "deep",
                Item::directory([("x", Item::File(noise(3, 300), 100))]),
            )]),
        ),
    ])
    .with(b"large", Item::File(large.clone(), 400_000), plain())
    .with(b"sparse", Item::File(sparse.clone(), 65536), plain())
    .with(
        b"tail",
        Item::File([noise(4, 65536), vec![0; 8 << 20]].concat(), 65536),
        plain(),
    )
    .with(b"h1", Item::File(b"same".to_vec(), 10), linked.clone())
    .with(b"h2", Item::File(b"same".to_vec(), 10), linked.clone())
    .with(
        b"zz",
        Item::directory([]).with(b"h3", Item::File(b"same".to_vec(), 10), linked),
        plain(),
    )
    .with(b"marked", Item::directory([]), marked.clone())
    .with(b"marked file", Item::File(b"m".to_vec(), 10), marked)
    .with(
        b"set id",
        Item::File(b"s".to_vec(), 10),
        Attributes {
            mode: 0o6755,
            ..plain()
        },
    )
    .with(
        b"closed",
        Item::directory([("in", Item::File(b"i".to_vec(), 9))]),
        Attributes {
            mode: 0o1111,
            ..plain()
        },
    )
    .with(
        b"not \xff utf",
        Item::File(b"n".to_vec(), 10),
        Attributes {
            mtime: Time::new(-5, 999_999_999),
            ..plain()
        },
    )
    .with(&name, Item::File(b"long".to_vec(), 10), plain());
    let target = tempfile::tempdir().unwrap();
    let top = target.path().join("made/here");
    let report = restored(&shelf, &item, &top);
    assert_eq!(report.problems.named, []);
    assert_eq!(report.warnings.named, []);
    assert_eq!(report.entries, 24);
    let at = |name: &str| top.join(name);
    let meta = |name: &str| std::fs::symlink_metadata(at(name)).unwrap();
    assert_eq!(std::fs::read(at("small")).unwrap(), b"hello");
    assert!(std::fs::read(at("large")).unwrap() == large);
    assert!(std::fs::read(at("sparse")).unwrap() == sparse);
    assert!(meta("sparse").blocks() * 512 < 1 << 20, "holes stay holes");
    assert_eq!(meta("tail").len(), (8 << 20) + 65536);
    assert_eq!(meta("empty").len(), 0);
    assert!(meta("fifo").file_type().is_fifo() && meta("socket").file_type().is_socket());
    assert_eq!(
        std::fs::read_link(at("link"))
            .unwrap()
            .as_os_str()
            .as_bytes(),
        b"../outside \xff"
    );
    assert_eq!(meta("link").mtime_nsec(), 123_456_789);
    assert_eq!(std::fs::read(at("z/deep/x")).unwrap(), noise(3, 300));
    let inodes: Vec<u64> = ["h1", "h2", "zz/h3"].map(|name| meta(name).ino()).into();
    assert!(inodes[0] == inodes[1] && inodes[1] == inodes[2]);
    assert_eq!(meta("h1").nlink(), 3);
    for name in ["marked", "marked file"] {
        assert_eq!(xattr::get(at(name), "user.a").unwrap().unwrap(), b"1\0");
        assert_eq!(xattr::get(at(name), "user.b").unwrap().unwrap(), b"");
    }
    assert_eq!(meta("set id").mode() & 0o7777, 0o6755);
    assert_eq!(meta("closed").mode() & 0o7777, 0o1111);
    let odd = std::fs::metadata(top.join(std::ffi::OsStr::from_bytes(b"not \xff utf"))).unwrap();
    assert_eq!((odd.mtime(), odd.mtime_nsec()), (-5, 999_999_999));
    for name in ["", "z", "zz", "z/deep", "closed", "nothing"] {
        let expected = if name.is_empty() {
            (1_500_000_000, 7)
        } else {
            (1_600_000_000, 123_456_789)
        };
        assert_eq!(
            (meta(name).mtime(), meta(name).mtime_nsec()),
            expected,
            "the time of {name:?}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(&top)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.as_bytes().starts_with(b".keepfs"))
        .collect();
    assert!(left.is_empty());
}

#[test]
fn root_restores_owners_devices_and_acls() {
    if !is_root() {
        return;
    }
    let shelf = Shelf::new();
    let someone = Arc::new(Owner {
        uid: 4321,
        gid: 8765,
        ..Owner::default()
    });
    let mut acl = vec![2, 0, 0, 0];
    for (tag, mode, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(mode.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let mut named = acl.clone();
    named[6] = 7;
    let owned = Attributes {
        owner: someone,
        mode: 0o4711,
        ..plain()
    };
    let listed = Attributes {
        mode: 0o640,
        xattrs: vec![(b"system.posix_acl_access".to_vec(), acl.clone())],
        ..plain()
    };
    let root = Arc::new(Owner {
        uid: 77,
        gid: 78,
        user: b"root".to_vec(),
        group: b"no such group".to_vec(),
    });
    let item = Item::directory([])
        .with(b"owned", Item::File(b"o".to_vec(), 9), owned.clone())
        .with(b"link", Item::Other(Node::Symlink(b"x".to_vec())), owned)
        .with(
            b"null",
            Item::Other(Node::Character(libc::makedev(1, 3))),
            plain(),
        )
        .with(
            b"loop",
            Item::Other(Node::Block(libc::makedev(7, 200))),
            plain(),
        )
        .with(b"acl", Item::File(b"a".to_vec(), 9), listed)
        .with(
            b"named",
            Item::File(b"a".to_vec(), 9),
            Attributes {
                owner: root,
                ..plain()
            },
        );
    let target = tempfile::tempdir().unwrap();
    let report = restored(&shelf, &item, target.path());
    assert_eq!(report.problems.named, []);
    let meta = |name: &str| std::fs::symlink_metadata(target.path().join(name)).unwrap();
    assert_eq!(
        (
            meta("owned").uid(),
            meta("owned").gid(),
            meta("owned").mode() & 0o7777
        ),
        (4321, 8765, 0o4711)
    );
    assert_eq!((meta("link").uid(), meta("link").gid()), (4321, 8765));
    assert_eq!(meta("null").rdev(), libc::makedev(1, 3));
    assert!(meta("loop").file_type().is_block_device());
    assert_eq!(
        xattr::get(target.path().join("acl"), "system.posix_acl_access")
            .unwrap()
            .unwrap(),
        acl
    );
    assert_eq!(
        (meta("named").uid(), meta("named").gid()),
        (0, 78),
        "the name wins where this host knows it"
    );
}

#[test]
fn an_existing_target_is_merged_into_and_no_symlink_is_followed() {
    let shelf = Shelf::new();
    let target = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    std::os::unix::fs::symlink(outside.path(), target.path().join("d")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("victim"), target.path().join("f")).unwrap();
    std::fs::write(target.path().join("other"), "stays").unwrap();
    std::fs::write(target.path().join("e"), "a file where a directory comes").unwrap();
    std::fs::create_dir(target.path().join("g")).unwrap();
    std::fs::set_permissions(target.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let file = |text: &str| Item::File(text.as_bytes().to_vec(), 99);
    let item = Item::directory([
        ("d", Item::directory([("victim", file("inside"))])),
        ("e", Item::directory([("x", file("x"))])),
        ("f", file("new")),
        ("g", file("cannot replace a directory")),
    ]);
    let report = restored(&shelf, &item, target.path());
    let own = std::fs::metadata(target.path()).unwrap();
    assert_eq!(
        own.mode() & 0o7777,
        0o1777,
        "the target was there before and keeps its mode"
    );
    let read = |name: &str| std::fs::read_to_string(target.path().join(name)).unwrap();
    assert_eq!(
        std::fs::read_to_string(outside.path().join("victim")).unwrap(),
        "untouched"
    );
    assert_eq!(
        (read("d/victim"), read("f"), read("other"), read("e/x")),
        ("inside".into(), "new".into(), "stays".into(), "x".into())
    );
    let named: Vec<_> = report
        .problems
        .named
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(named, ["g"]);
}

#[test]
fn a_path_may_be_deeper_than_the_kernel_takes_and_than_files_may_be_open() {
    let shelf = Shelf::new();
    let mut item = Item::directory([("bottom", Item::File(b"b".to_vec(), 9))]);
    for _ in 0..600 {
        item = Item::directory([("a directory's name", item)]).with(
            b"a file",
            Item::File(b"f".to_vec(), 9),
            plain(),
        );
    }
    let target = tempfile::tempdir().unwrap();
    let report = restored(&shelf, &item, target.path());
    assert_eq!(report.problems.named, []);
    // The target itself was there before.
    assert_eq!(report.entries, 600 + 601);
    let mut command = std::process::Command::new("sh");
    let script = "i=0; while [ $i -lt 600 ]; do cd -P \"a directory's name\" || exit 1; i=$((i+1)); done; cat bottom; stat -c %Y .";
    let output = command
        .args(["-c", script])
        .current_dir(target.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b1600000000\n");
}

#[test]
fn one_file_and_one_directory_can_be_restored_alone() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    let item = Item::directory([(
        "d",
        Item::directory([("f", Item::File(b"content".to_vec(), 3))]),
    )]);
    let (point, _) = plant(&catalog, "web", "one", &item).unwrap();
    let trees = Arc::new(Trees::new(catalog.repository().clone()));
    let top = Arc::new(point.record.top());
    for (path, expected) in [(&b"d"[..], "f"), (b"d/f", "f")] {
        let target = tempfile::tempdir().unwrap();
        let entry = trees.resolve(&top, path).unwrap().unwrap();
        let report = restore(
            &trees,
            &entry,
            target.path(),
            &Options::default(),
            &Progress::default(),
        )
        .unwrap();
        assert_eq!(report.problems.named, []);
        assert_eq!(
            std::fs::read(target.path().join(expected)).unwrap(),
            b"content"
        );
    }
}

#[test]
fn a_damaged_file_is_left_out_with_all_its_names_and_the_rest_is_restored() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    let linked = Attributes {
        links: 2,
        link_group: 5,
        ..plain()
    };
    let item = Item::directory([("good", Item::File(b"good".to_vec(), 9))]);
    plant(&catalog, "web", "before", &item).unwrap();
    let before: Vec<_> = shelf.store().list("packs/data/").unwrap();
    let item = item
        .with(
            b"bad",
            Item::File(noise(1, 9_000_000), 200_000),
            linked.clone(),
        )
        .with(b"bad too", Item::File(noise(1, 9_000_000), 200_000), linked);
    let (point, _) = plant(&catalog, "web", "one", &item).unwrap();
    let fresh = shelf.store().list("packs/data/").unwrap();
    let victim = fresh.iter().find(|pack| !before.contains(pack)).unwrap();
    shelf.store().delete(&victim.name).unwrap();
    let target = tempfile::tempdir().unwrap();
    let trees = Arc::new(Trees::new(shelf.open().unwrap()));
    let top = Arc::new(point.record.top());
    let report = restore(
        &trees,
        &top,
        target.path(),
        &Options::default(),
        &Progress::default(),
    )
    .unwrap();
    let mut named: Vec<_> = report
        .problems
        .named
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    named.sort_unstable();
    assert_eq!(named, ["bad", "bad too"]);
    let left: Vec<_> = std::fs::read_dir(target.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["good"]);
    assert_eq!(
        std::fs::metadata(target.path())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );
}

#[test]
fn a_restore_stops_on_request() {
    let shelf = Shelf::new();
    let catalog = shelf.catalog();
    let (point, _) = plant(
        &catalog,
        "web",
        "one",
        &Item::directory([("f", Item::File(b"f".to_vec(), 3))]),
    )
    .unwrap();
    let trees = Arc::new(Trees::new(catalog.repository().clone()));
    let progress = Progress::default();
    progress.stop();
    let target = tempfile::tempdir().unwrap();
    let stopped = restore(
        &trees,
        &Arc::new(point.record.top()),
        target.path(),
        &Options::default(),
        &progress,
    );
    assert_eq!(
        stopped.unwrap_err().kind(),
        keepfs::error::Kind::Interrupted
    );
}
