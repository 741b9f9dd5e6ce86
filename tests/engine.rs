//! The engine without a kernel: what is written is read, by this process and by the next.

use keepfs::clock::{Clock, Time};
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::{
    Catalog, Content, ContentPage, ContentWriter, DirectoryWriter, Draft, Entry, Extent, File,
    Node, PointRecord, Trees,
};
use keepfs::progress::Progress;
use keepfs::repository::{Credential, Lane, Local, Repository, Settings, Writer};
use keepfs::store::{MemoryStore, SharedStore};
use std::sync::Arc;

/// A store, and a repository in it that opens fast.
pub struct Bench {
    pub store: SharedStore,
    pub cache: tempfile::TempDir,
    pub key: Credential,
}

impl Bench {
    pub fn new(settings: &Settings) -> Self {
        Self::in_store(Arc::new(MemoryStore::new()), settings)
    }

    pub fn in_store(store: SharedStore, settings: &Settings) -> Self {
        let key = Credential::key_file(&[7; 64]).unwrap();
        Repository::init(store.clone(), &key, "test", settings, &Clock::system()).unwrap();
        Self {
            store,
            cache: tempfile::tempdir().unwrap(),
            key,
        }
    }

    pub fn open(&self) -> Arc<Repository> {
        Repository::open(self.store.clone(), &self.key, self.local()).unwrap()
    }

    pub fn local(&self) -> Local {
        Local {
            cache: self.cache.path().to_owned(),
            frame_cache_bytes: 32 << 20,
            clock: Clock::system(),
        }
    }
}

/// Whether the long counts are asked for: `KEEPFS_FULL=1`.
pub fn full() -> bool {
    std::env::var_os("KEEPFS_FULL").is_some_and(|wish| wish == "1")
}

/// The seed of a random test, which is printed: `KEEPFS_SEED`; otherwise always the same in a short run and another
/// one in each long run.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("KEEPFS_SEED").ok();
    let random = || match full() {
        true => u64::from_le_bytes(
            ChunkId::of(&ObjectId::random().0).0[..8]
                .try_into()
                .unwrap(),
        ),
        false => 4711,
    };
    let seed = given.map_or_else(random, |text| {
        text.parse().expect("KEEPFS_SEED is a number")
    });
    eprintln!("{test}: KEEPFS_SEED={seed}");
    seed | 1
}

/// Reads and hashes everything in a repository: the oracle at the end of a test.
pub fn assert_clean(case: &str, repository: &Arc<Repository>) {
    let catalog = Catalog::open(repository.clone()).unwrap();
    let options = keepfs::check::Options {
        read_data: true,
        points: None,
    };
    let report = keepfs::check::check(&catalog, &options, &Progress::default()).unwrap();
    assert_eq!(report.problems, [], "{case}");
}

#[test]
fn chunks_of_all_sizes_come_back_after_reopening() {
    let bench = Bench::new(&Settings {
        pack_bytes: 1 << 20,
        ..Settings::default()
    });
    let writer = Writer::new(bench.open(), None).unwrap();
    let contents: Vec<Vec<u8>> = (0..2000u32)
        .map(|n| {
            (0..(n * n) % 70_000)
                .flat_map(|k| (k.wrapping_mul(n) ^ (k >> 3)).to_le_bytes())
                .take((n as usize * 37) % 90_000)
                .collect()
        })
        .collect();
    let mut fresh = 0;
    for (n, content) in contents.iter().enumerate() {
        let lane = if n % 3 == 0 {
            Lane::Alone
        } else {
            Lane::of_name(format!("f.{}", n % 7).as_bytes())
        };
        fresh += u64::from(writer.put(lane, ChunkId::of(content), content).unwrap());
    }
    writer.flush().unwrap();
    assert_eq!(
        fresh,
        writer
            .written
            .chunks
            .load(std::sync::atomic::Ordering::Relaxed)
    );
    for cold in [false, true] {
        if cold {
            std::fs::remove_dir_all(bench.cache.path()).unwrap();
        }
        let repository = bench.open();
        for content in &contents {
            assert_eq!(
                &repository.read_chunk(&ChunkId::of(content)).unwrap(),
                content
            );
        }
    }
    // Everything is known to the next writer.
    let again = Writer::new(bench.open(), None).unwrap();
    assert!(contents.iter().all(|content| {
        !again
            .put(Lane::Alone, ChunkId::of(content), content)
            .unwrap()
    }));
}

#[test]
fn a_committed_point_lists_its_entries_and_extents() {
    let bench = Bench::new(&Settings::default());
    let repository = bench.open();
    let writer = Writer::new(repository.clone(), None).unwrap();
    let mut sink = |id: ChunkId, bytes: &[u8]| writer.put(Lane::Tree, id, bytes).map(|_| ());
    let mut content = ContentWriter::default();
    let extents: Vec<Extent> = (0..10_000u64)
        .map(|n| Extent {
            length: 1 + n % 5,
            chunk: (n % 7 != 0).then(|| ChunkId::of(&n.to_le_bytes())),
        })
        .collect();
    for extent in &extents {
        content.push(*extent, &mut sink).unwrap();
    }
    let (content, size) = content.finish(&mut sink).unwrap();
    assert!(matches!(content, Content::Pages(_)));
    let file = File {
        size,
        content,
        ..File::empty()
    };
    let mut directory = DirectoryWriter::default();
    for n in 0..5000 {
        let node = if n == 17 {
            Node::File(file.clone())
        } else {
            Node::Symlink(format!("to {n}").into_bytes())
        };
        let entry = Entry {
            name: format!("name {n:05}").into_bytes(),
            attributes: Default::default(),
            node,
        };
        directory.push(Arc::new(entry), &mut sink).unwrap();
    }
    let tree = directory.finish(&mut sink).unwrap();
    assert_eq!((tree.own, tree.entries, tree.bytes), (5000, 5000, size));
    writer.flush().unwrap();
    let record = PointRecord {
        mode: 0o755,
        mtime: Time::new(1, 2),
        ..PointRecord::new(b"first", Time::new(5, 6), tree)
    };
    let catalog = Catalog::open(repository).unwrap();
    catalog
        .commit(
            b"web",
            Draft {
                record: record.clone(),
            },
        )
        .unwrap();
    assert!(catalog.commit(b"web", Draft { record }).is_err());

    let repository = bench.open();
    let contents = Catalog::open(repository.clone()).unwrap().contents();
    let point = contents.point(b"web", b"first").unwrap();
    let trees = Arc::new(Trees::new(repository));
    let names: Vec<_> = trees
        .entries(&point.record.tree)
        .map(|entry| entry.unwrap().name.clone())
        .collect();
    assert_eq!(names.len(), 5000);
    assert!(names.is_sorted());
    let from = trees
        .entries_from(&point.record.tree, 4321)
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(from.name, b"name 04321");
    let entry = trees
        .lookup(&point.record.tree, b"name 00017")
        .unwrap()
        .unwrap();
    assert_eq!(entry.file(), Some(&file));
    assert!(trees.lookup(&point.record.tree, b"name").unwrap().is_none());
    let mut merged: Vec<(u64, Extent)> = Vec::new();
    let mut offset = 0;
    for extent in &extents {
        merged.push((offset, *extent));
        offset += extent.length;
    }
    let read: Vec<_> = trees.extents_from(&file, 0).map(Result::unwrap).collect();
    assert_eq!(read, merged);
    for at in [0, 1, 4999, 12_345, size - 1] {
        let (begin, extent) = trees.extents_from(&file, at).next().unwrap().unwrap();
        assert!((begin..begin + extent.length).contains(&at));
    }
    let page: Vec<u8> = match &file.content {
        Content::Pages(id) => trees.repository().read_chunk(id).unwrap(),
        _ => unreachable!(),
    };
    assert!(matches!(
        keepfs::repository::decode(&page).unwrap(),
        ContentPage::Inner(_)
    ));
}

#[test]
fn a_store_that_hides_the_newest_point_is_noticed() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), "content").unwrap();
    let bench = Bench::new(&Settings::default());
    let options = keepfs::backup::Options {
        sources: vec![source.path().to_owned()],
        backup: b"web".to_vec(),
        ..Default::default()
    };
    let mut names = Vec::new();
    for _ in 0..2 {
        let repository = bench.open();
        let trees = Arc::new(Trees::new(repository.clone()));
        let catalog = Catalog::open(repository).unwrap();
        let report =
            keepfs::backup::backup(&catalog, &trees, &options, &Default::default()).unwrap();
        names.push(format!(
            "points/{}.{:016x}",
            report.point.id, report.point.generation
        ));
    }
    assert!(
        Catalog::open(bench.open())
            .unwrap()
            .contents()
            .problems
            .is_empty()
    );
    bench.store.delete(&names[1]).unwrap();
    let contents = Catalog::open(bench.open()).unwrap().contents();
    let problem = contents.problems.values().next().unwrap();
    assert!(problem.contains("this host has seen record 2"), "{problem}");
    // A host that never saw it cannot know.
    std::fs::remove_dir_all(bench.cache.path()).unwrap();
    assert!(
        Catalog::open(bench.open())
            .unwrap()
            .contents()
            .problems
            .is_empty()
    );
}

#[test]
fn caches_are_this_users_alone() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let bench = Bench::new(&Settings::default());
    let own = bench.cache.path().join(bench.open().id().to_string());
    let mode = |path: &std::path::Path| {
        let facts = std::fs::metadata(path).unwrap();
        facts.permissions().mode() & 0o777
    };
    std::fs::set_permissions(&own, PermissionsExt::from_mode(0o755)).unwrap();
    let catalog = Catalog::open(bench.open()).unwrap();
    for (path, expected) in [(own.clone(), 0o700), (own.join("index"), 0o700)] {
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    drop(catalog);
    // Only root can give a directory away, and the tests run as root.
    chown(&own, Some(4711), None).unwrap();
    let refused = Repository::open(bench.store.clone(), &bench.key, bench.local()).unwrap_err();
    assert_eq!(refused.kind(), keepfs::error::Kind::Denied, "{refused}");
}
