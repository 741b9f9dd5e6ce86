//! The index's local cache: damaged, removed, replaced and left behind, it costs time and never data.

use crate::planted::{Shelf, noise};
use keepfs::id::ChunkId;
use keepfs::repository::{Lane, Local, Repository, Writer};
use keepfs::store::faults::{FaultyStore, Verb};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Writes so many small chunks as one index segment.
fn write(repository: &Arc<Repository>, seed: u32, count: usize) -> Vec<ChunkId> {
    let writer = Writer::new(repository.clone(), None).unwrap();
    let content = noise(seed, count * 16);
    let put = |piece: &[u8]| {
        let id = ChunkId::of(piece);
        writer.put(Lane::Group(0), id, piece).unwrap();
        id
    };
    let ids = content.chunks(16).map(put).collect();
    writer.flush().unwrap();
    ids
}

fn cached(repository: &Repository) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository.cache_directory().join("index")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn on_another_host(shelf: &Shelf, cache: &tempfile::TempDir) -> Arc<Repository> {
    let local = Local {
        cache: cache.path().to_owned(),
        ..shelf.local()
    };
    Repository::open(shelf.store(), &shelf.key, local).unwrap()
}

#[test]
fn a_damaged_block_is_fetched_again() {
    let shelf = Shelf::new();
    let ids = write(&shelf.open().unwrap(), 1, 500);
    let [file] = &cached(&shelf.open().unwrap())[..] else {
        panic!("one segment was written")
    };
    let mut bytes = std::fs::read(file).unwrap();
    // Among the chunks, which lie last in the body and are looked at when they are first asked for.
    bytes[12_000] ^= 1;
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();

    let repository = shelf.open().unwrap();
    for id in &ids {
        assert!(repository.find(id).unwrap().is_some());
    }
    let again = shelf.open().unwrap();
    assert_eq!(cached(&again).len(), 1);
    assert!(ids.iter().all(|id| again.find(id).unwrap().is_some()));
}

#[test]
fn a_running_process_survives_the_removal_of_its_cache() {
    let shelf = Shelf::new();
    let repository = shelf.open().unwrap();
    write(&repository, 1, 10);
    std::fs::remove_dir_all(repository.cache_directory()).unwrap();

    let cache = tempfile::tempdir().unwrap();
    let others = write(&on_another_host(&shelf, &cache), 2, 10);
    repository.refresh_index().unwrap();
    assert!(repository.find(&others[0]).unwrap().is_some());
    std::fs::remove_dir_all(repository.cache_directory()).unwrap();
    let own = write(&repository, 3, 10);
    assert!(repository.find(&own[0]).unwrap().is_some());
}

#[test]
fn what_is_replaced_is_neither_fetched_nor_kept() {
    let shelf = Shelf::new();
    let repository = shelf.open().unwrap();
    let written: Vec<_> = (0..9).map(|seed| write(&repository, seed, 10)).collect();
    assert_eq!(repository.merge_index().unwrap(), 9);
    assert_eq!(cached(&repository).len(), 1);

    let store = FaultyStore::new(shelf.store());
    let cache = tempfile::tempdir().unwrap();
    let local = Local {
        cache: cache.path().to_owned(),
        ..shelf.local()
    };
    let other = Repository::open(Arc::new(store.clone()), &shelf.key, local).unwrap();
    other.refresh_index().unwrap();
    let fetched = store
        .log()
        .into_iter()
        .filter(|asked| asked.verb == Verb::GetRange && asked.name.starts_with("index/"));
    assert_eq!(fetched.count(), 1);
    for id in written.iter().flatten() {
        assert!(other.find(id).unwrap().is_some());
    }
}

#[test]
fn two_merges_at_once_are_one() {
    let shelf = Shelf::new();
    let store = FaultyStore::new(shelf.store());
    let repository = Repository::open(Arc::new(store.clone()), &shelf.key, shelf.local()).unwrap();
    for seed in 0..9 {
        write(&repository, seed, 10);
    }
    store.delay(Duration::from_millis(100));
    let merged = std::thread::scope(|scope| {
        [
            scope.spawn(|| repository.merge_index()),
            scope.spawn(|| repository.merge_index()),
        ]
        .map(|merge| merge.join().unwrap().unwrap())
    });
    assert_eq!(merged.iter().sum::<usize>(), 9);
    assert_eq!(repository.segments().len(), 1);
}

#[test]
fn unfinished_files_of_dead_processes_go_at_the_next_opening() {
    let shelf = Shelf::new();
    let directory = shelf.open().unwrap().cache_directory().join("index");
    let (old, young) = (directory.join("tmp-old"), directory.join("tmp-young"));
    for path in [&old, &young] {
        std::fs::write(path, "x").unwrap();
    }
    let file = std::fs::File::options().write(true).open(&old).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    shelf.open().unwrap();
    assert!(!old.exists() && young.exists());
}
