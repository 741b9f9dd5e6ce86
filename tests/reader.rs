//! The written format is enough: a reader in another language, made from the format's page, reads what we wrote.

use crate::planted::{Item, noise, owner, plain, plant};
use crate::servers::tool;
use keepfs::clock::Clock;
use keepfs::point::{Attributes, Catalog, Node, Trees};
use keepfs::progress::Progress;
use keepfs::repository::{Credential, Local, Repository, Settings};
use keepfs::restore::{Options, restore};
use keepfs::store::DirectoryStore;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Everything of a tree that a reader must bring back, by path.
fn facts(top: &Path) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            blake3::hash(&std::fs::read(&path).unwrap()).to_string()
        } else if meta.is_symlink() {
            format!("{:?}", std::fs::read_link(&path).unwrap())
        } else {
            String::new()
        };
        let mark = if meta.is_symlink() {
            None
        } else {
            xattr::get(&path, "user.mark").unwrap()
        };
        let fact = format!(
            "{:o} {}:{} {} {}.{:09} {} {mark:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            content
        );
        facts.insert(format!("{:?}", path.strip_prefix(top).unwrap()), fact);
        if meta.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    facts
}

fn reader(store: &Path, arguments: &[&str], secret: (&str, &str)) -> std::process::Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader.py");
    Command::new(tool("venv/bin/python"))
        .arg(script)
        .arg(store)
        .args(arguments)
        .env_remove("KEEPFS_PASSWORD")
        .env_remove("KEEPFS_KEY_FILE")
        .env(secret.0, secret.1)
        .output()
        .unwrap()
}

#[test]
fn a_reader_written_from_the_format_page_lists_and_restores() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let store = Arc::new(DirectoryStore::open_or_make(&at("store")).unwrap());
    let password = Credential::password("correct horse ü".as_bytes()).unwrap();
    let settings = Settings {
        pack_bytes: 1 << 20,
        ..Settings::default()
    };
    Repository::init(
        store.clone(),
        &password,
        "test",
        &settings,
        &Clock::system(),
    )
    .unwrap();
    let local = Local {
        cache: at("cache"),
        frame_cache_bytes: 16 << 20,
        clock: Clock::system(),
    };
    let repository = Repository::open(store, &password, local).unwrap();
    std::fs::write(at("key"), noise(9, 64)).unwrap();
    repository
        .add_key(&Credential::key_file(&noise(9, 64)).unwrap(), "file")
        .unwrap();
    let catalog = Catalog::open(repository.clone()).unwrap();
    let linked = Attributes {
        links: 2,
        link_group: 3,
        ..plain()
    };
    let mut item = Item::directory([
        ("empty", Item::File(Vec::new(), 1)),
        ("large", Item::File(noise(1, 3_000_000), 700_000)),
        ("pieces", Item::File(noise(2, 400_000), 100)),
        ("link", Item::Other(Node::Symlink(b"large".to_vec()))),
        ("fifo", Item::Other(Node::Fifo)),
        ("text", Item::File(b"compresses well ".repeat(9000), 50_000)),
        (
            "hole",
            Item::File(
                [vec![0; 100_000], noise(3, 10_000), vec![0; 70_000]].concat(),
                10_000,
            ),
        ),
        ("d", Item::directory([("nothing", Item::directory([]))])),
    ])
    .with(b"one", Item::File(b"1".to_vec(), 9), linked.clone())
    .with(b"two", Item::File(b"1".to_vec(), 9), linked)
    .with(
        b"set id",
        Item::File(b"s".to_vec(), 9),
        Attributes {
            mode: 0o4755,
            ..plain()
        },
    )
    .with(b"not \xff utf", Item::File(b"n".to_vec(), 9), plain())
    .with(
        b"marked",
        Item::File(b"m".to_vec(), 9),
        Attributes {
            xattrs: vec![(b"user.mark".to_vec(), b"\x00\xff".to_vec())],
            ..plain()
        },
    );
    let many: BTreeMap<_, _> = (0..3000u32)
        .map(|n| {
            (
                format!("{n:05}").into_bytes(),
                (Item::File(n.to_le_bytes().to_vec(), 9), plain()),
            )
        })
        .collect();
    item = item.with(b"many", Item::Directory(many), plain());
    let (point, _) = plant(&catalog, "web", "one", &item).unwrap();
    let (gone, _) = plant(&catalog, "web", "gone", &Item::directory([])).unwrap();
    catalog.forget(&gone).unwrap();
    catalog.forget(&point).unwrap();
    catalog.undelete(&point).unwrap();
    assert_eq!(owner().user, b"");

    let trees = Arc::new(Trees::new(repository.clone()));
    let ours = restore(
        &trees,
        &Arc::new(point.record.top()),
        &at("ours"),
        &Options::default(),
        &Progress::default(),
    )
    .unwrap();
    assert_eq!(ours.problems.named, []);
    for (number, secret) in [
        ("KEEPFS_PASSWORD", "correct horse ü"),
        ("KEEPFS_KEY_FILE", at("key").to_str().unwrap()),
    ]
    .into_iter()
    .enumerate()
    {
        let listed = reader(&at("store"), &["list"], secret);
        assert_eq!(String::from_utf8_lossy(&listed.stderr), "");
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "web/one 5\n");
        let theirs = at(&format!("theirs {number}"));
        let restored = reader(
            &at("store"),
            &["restore", "web", "one", theirs.to_str().unwrap()],
            secret,
        );
        assert_eq!(String::from_utf8_lossy(&restored.stderr), "");
        let (ours, theirs) = (facts(&at("ours")), facts(&theirs));
        assert_eq!(ours.len(), 3000 + 15 + 1);
        for (path, fact) in &ours {
            assert_eq!(theirs.get(path), Some(fact), "{path}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
    let wrong = reader(&at("store"), &["list"], ("KEEPFS_PASSWORD", "wrong"));
    assert!(!wrong.status.success());
}
