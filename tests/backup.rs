//! `backup`: everything `rsync -aHAXS` preserves is in the point, and what did not change is not opened.

use crate::engine::Bench;
use keepfs::backup::{Options, Report, backup};
use keepfs::clock::Clock;
use keepfs::point::{Catalog, Entry, Node, Point, Trees, Visit, Walk};
use keepfs::progress::Progress;
use keepfs::repository::{Local, Repository, Settings};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

fn shell(directory: &Path, script: &str) {
    let status = Command::new("bash")
        .args(["-euc", script])
        .current_dir(directory)
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

/// A tree with one of everything; needs root for devices and trusted attributes.
pub fn one_of_everything(directory: &Path) {
    shell(
        directory,
        r#"
        mkdir -p a/b/c empty 'spaces in name' deep/1/2/3/4/5/6/7/8/9
        echo hello > a/hello; : > a/nothing; ln a/hello a/b/hello-again; ln a/hello z-link
        ln -s ../a/hello a/b/symbolic; ln -s /nowhere dangling
        mkfifo pipe; mknod null c 1 3; mknod disk b 7 200
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
        truncate -s 300M sparse; printf data | dd of=sparse bs=1 seek=104857600 conv=notrunc status=none
        seq 1 300000 > numbers; head -c 5000000 /dev/urandom > random; head -c 70000 /dev/zero > zeros
        cp numbers copy-of-numbers
        printf x > "$(printf 'not \xff utf-8')"; printf y > "$(printf 'n%.0s' $(seq 255))"
        setfattr -n user.color -v blue a/hello; setfattr -n trusted.level -v 9 numbers
        setfacl -m u:1234:rw,g:4321:r a/nothing; setfacl -d -m u:1234:rwx empty
        chown 1000:1001 random; chmod 4755 random; chmod 1777 empty; chmod 000 zeros
        touch -d '1969-12-31 23:59:58.123456789 UTC' a/nothing; touch -h -d '2001-02-03 04:05:06.7 UTC' dangling
        for n in $(seq 1 400); do echo "file $n" > deep/f$n.txt; done
        touch -d '2020-01-02 03:04:05.000000006 UTC' a deep empty
        "#,
    );
}

pub struct Made {
    pub bench: Bench,
    pub source: tempfile::TempDir,
}

impl Made {
    pub fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        one_of_everything(source.path());
        Self {
            bench: Bench::new(&Settings {
                pack_bytes: 1 << 20,
                ..Settings::default()
            }),
            source,
        }
    }

    pub fn backup(&self) -> (Report, Arc<Trees>) {
        // What was written just before a backup is read again by the next one.
        std::thread::sleep(std::time::Duration::from_millis(150));
        self.backup_by(Clock::system())
    }

    pub fn backup_by(&self, clock: Clock) -> (Report, Arc<Trees>) {
        let local = Local {
            clock,
            ..self.bench.local()
        };
        let store = self.bench.store.clone();
        let repository = Repository::open(store, &self.bench.key, local).unwrap();
        let trees = Arc::new(Trees::new(repository.clone()));
        let catalog = Catalog::open(repository).unwrap();
        let options = Options {
            sources: vec![self.source.path().to_owned()],
            backup: b"host".to_vec(),
            ..Options::default()
        };
        (
            backup(&catalog, &trees, &options, &Progress::default()).unwrap(),
            trees,
        )
    }
}

/// Every entry of a point by its path.
pub fn entries(trees: &Arc<Trees>, point: &Point) -> BTreeMap<Vec<u8>, Arc<Entry>> {
    Walk::new(trees.clone(), &point.record.tree)
        .filter_map(|visit| match visit.unwrap() {
            Visit::Entry { path, entry } => Some((path, entry)),
            Visit::Leave { .. } => None,
        })
        .collect()
}

fn content(trees: &Arc<Trees>, entry: &Entry) -> Vec<u8> {
    let file = entry.file().unwrap();
    let mut bytes = Vec::new();
    for extent in trees.extents_from(file, 0) {
        let (offset, extent) = extent.unwrap();
        assert_eq!(offset, bytes.len() as u64);
        match extent.chunk {
            None => bytes.resize((offset + extent.length) as usize, 0),
            Some(id) => bytes.extend(trees.repository().read_chunk(&id).unwrap()),
        }
    }
    bytes
}

#[test]
fn a_point_holds_everything_that_rsync_preserves() {
    let made = Made::new();
    let (report, trees) = made.backup();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let entries = entries(&trees, &report.point);
    assert_eq!(entries.len() as u64, report.point.record.tree.entries);
    let mut groups: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut seen = 0;
    let listing = Command::new("find")
        .args([".", "-mindepth", "1", "-print0"])
        .current_dir(made.source.path())
        .output()
        .unwrap();
    for path in listing
        .stdout
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
    {
        let path = &path[2..];
        let entry = &entries[path];
        let full = made.source.path().join(std::ffi::OsStr::from_bytes(path));
        let real = full.symlink_metadata().unwrap();
        let shown = String::from_utf8_lossy(path).into_owned();
        assert_eq!(
            entry.attributes.mode | entry.node.type_bits(),
            real.mode(),
            "{shown}"
        );
        assert_eq!(
            (entry.attributes.owner.uid, entry.attributes.owner.gid),
            (real.uid(), real.gid()),
            "{shown}"
        );
        assert_eq!(
            (
                entry.attributes.mtime.seconds,
                i64::from(entry.attributes.mtime.nanoseconds)
            ),
            (real.mtime(), real.mtime_nsec()),
            "{shown}"
        );
        let mut names: Vec<_> = xattr::list(&full)
            .unwrap()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        names.sort();
        assert_eq!(
            entry
                .attributes
                .xattrs
                .iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>(),
            names,
            "{shown}"
        );
        match &entry.node {
            Node::File(file) => {
                assert_eq!(file.size, real.len(), "{shown}");
                assert_eq!(
                    content(&trees, entry),
                    std::fs::read(&full).unwrap(),
                    "{shown}"
                );
                if let Some(hash) = file.content_hash() {
                    assert_eq!(
                        hash,
                        *blake3::hash(&std::fs::read(&full).unwrap()).as_bytes()
                    );
                }
                if real.nlink() > 1 {
                    groups
                        .entry(entry.attributes.link_group)
                        .or_default()
                        .push(real.ino());
                }
            }
            Node::Symlink(target) => assert_eq!(
                target,
                std::fs::read_link(&full).unwrap().as_os_str().as_bytes()
            ),
            Node::Block(number) | Node::Character(number) => assert_eq!(*number, real.rdev()),
            Node::Directory(_) | Node::Fifo | Node::Socket => {}
        }
        seen += 1;
    }
    assert_eq!(seen, entries.len());
    assert_eq!(groups.len(), 1);
    let inodes = groups.into_values().next().unwrap();
    assert!(inodes.len() == 3 && inodes.iter().all(|inode| *inode == inodes[0]));
    let sparse = entries[b"sparse".as_slice()].file().unwrap().clone();
    let stored: u64 = trees
        .extents_from(&sparse, 0)
        .map(|extent| extent.unwrap().1)
        .filter(|extent| extent.chunk.is_some())
        .map(|extent| extent.length)
        .sum();
    assert!(
        stored < 1 << 20,
        "holes stay holes, {stored} bytes are stored"
    );
}

#[test]
fn what_did_not_change_is_not_opened_and_keeps_its_ids() {
    let made = Made::new();
    let (first, _) = made.backup();
    let (second, trees) = made.backup();
    assert_eq!((second.files_read, second.bytes_read), (0, 0));
    assert_eq!(second.point.record.tree, first.point.record.tree);
    assert_eq!(second.point.record.side, first.point.record.side);
    assert_eq!(
        second.new_bytes, 0,
        "an unchanged source adds nothing but a record"
    );

    let numbers = std::fs::File::options()
        .write(true)
        .open(made.source.path().join("numbers"))
        .unwrap();
    numbers.write_all_at(b"changed", 1_000_000).unwrap();
    std::fs::remove_file(made.source.path().join("deep/f7.txt")).unwrap();
    std::fs::write(made.source.path().join("deep/f7a.txt"), "new").unwrap();
    let (third, _) = made.backup();
    assert_eq!(third.files_read, 2);
    let mut changes = Vec::new();
    keepfs::point::diff(
        (&trees, &second.point.record.tree),
        (&trees, &third.point.record.tree),
        &mut |difference| {
            changes.push((
                String::from_utf8(difference.path).unwrap(),
                difference.change,
            ));
            Ok(())
        },
    )
    .unwrap();
    use keepfs::point::Change::{Added, Attributes, Content, Removed};
    let expected = [
        ("deep", Attributes),
        ("deep/f7.txt", Removed),
        ("deep/f7a.txt", Added),
        ("numbers", Content),
    ];
    assert_eq!(
        changes,
        expected.map(|(path, change)| (path.to_owned(), change))
    );
    assert!(third.stored_bytes < first.stored_bytes / 2);
}

/// A file that changes again in the tick of the clock in which it was read keeps its size and all its times.
#[test]
fn what_changed_while_the_backup_began_is_read_once_more() {
    let made = Made::new();
    let newest = std::fs::metadata(made.source.path().join("deep"))
        .unwrap()
        .ctime();
    let seconds = Arc::new(AtomicI64::new(newest));
    let backup = |at: i64| {
        seconds.store(at, Relaxed);
        made.backup_by(Clock::fixed(seconds.clone())).0
    };
    // As if everything had been written after the first reading began.
    let first = backup(newest - 3600);
    let second = backup(newest + 60);
    assert_eq!(second.files_read, first.files_read);
    assert_eq!(second.point.record.tree, first.point.record.tree);
    assert_eq!(backup(newest + 120).files_read, 0);
}

#[test]
fn hard_links_that_part_are_never_bound_again() {
    let made = Made::new();
    made.backup();
    shell(
        made.source.path(),
        "rm a/hello; echo other > a/hello; ln a/hello a/other; ln z-link z-link2",
    );
    let (report, trees) = made.backup();
    let entries = entries(&trees, &report.point);
    let group = |path: &str| entries[path.as_bytes()].attributes.link_group;
    assert_eq!(group("a/hello"), group("a/other"));
    assert_eq!(group("z-link"), group("a/b/hello-again"));
    assert_eq!(group("z-link"), group("z-link2"));
    assert_ne!(group("a/hello"), group("z-link"));
    assert_eq!(content(&trees, &entries[b"a/other".as_slice()]), b"other\n");
    assert_eq!(content(&trees, &entries[b"z-link2".as_slice()]), b"hello\n");
}

#[test]
fn a_file_with_too_many_attributes_is_stored_without_them_and_told_each_time() {
    // Unlike most others this file system takes as many as one likes.
    let source = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = source.path().join("file");
    std::fs::write(&path, "content").unwrap();
    for index in 0..16 {
        xattr::set(&path, format!("trusted.{index}"), &[7; 65_536]).unwrap();
    }
    let made = Made {
        bench: Bench::new(&Settings::default()),
        source,
    };
    for _ in 0..2 {
        let (report, trees) = made.backup();
        assert_eq!(report.problems.len(), 1);
        assert_eq!(report.problems[0].path, path);
        let entries = entries(&trees, &report.point);
        let (_, entry) = entries
            .iter()
            .find(|(path, _)| path.ends_with(b"file"))
            .unwrap();
        assert!(entry.attributes.xattrs.is_empty());
        assert_eq!(content(&trees, entry), b"content");
    }
}
