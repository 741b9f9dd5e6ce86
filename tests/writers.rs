//! What a writer refuses, how it cuts packs, and what it does after a failure.

use crate::sites::{MIB, Site};
use keepfs::clock::Clock;
use keepfs::error::Kind;
use keepfs::id::ChunkId;
use keepfs::repository::{
    CHUNK_BYTES_MAX, Credential, CutLimits, Lane, Repository, Settings, Writer,
};
use keepfs::store::faults::Verb;
use keepfs::store::{MemoryStore, Store};
use std::sync::Arc;

#[test]
fn after_a_panic_nothing_counts_as_written() {
    let site = Site::new(MIB, 1);
    let writer = Writer::new(site.reopen().repository().clone(), None).unwrap();
    let (one, two) = (vec![1; 10_000], vec![2; 10_000]);
    let put = |content: &[u8]| writer.put(Lane::Alone, ChunkId::of(content), content);
    put(&one).unwrap();
    site.store.panic_next(Verb::Write);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| put(&two)));
    assert!(caught.is_err());
    assert_eq!(put(&[3; 100]).unwrap_err().kind(), Kind::Failed);
    assert_eq!(writer.flush().unwrap_err().kind(), Kind::Failed);
    assert_eq!(site.store.list("packs/").unwrap(), []);
    assert_eq!(site.store.list("index/").unwrap(), []);
}

#[test]
fn what_no_reader_would_take_is_refused_and_costs_nothing() {
    let site = Site::new(MIB, 1);
    let repository = site.reopen().repository().clone();
    let writer = Writer::new(repository.clone(), None).unwrap();
    let content = vec![1; CHUNK_BYTES_MAX + 1];
    for lane in [Lane::Tree, Lane::Alone, Lane::Group(0)] {
        let refused = writer.put(lane, ChunkId::of(&content), &content);
        assert_eq!(refused.unwrap_err().kind(), Kind::TooBig);
    }
    let most = &content[..CHUNK_BYTES_MAX];
    for lane in [Lane::Tree, Lane::Alone] {
        writer.put(lane, ChunkId::of(most), most).unwrap();
    }
    writer.flush().unwrap();
    assert_eq!(repository.read_chunk(&ChunkId::of(most)).unwrap(), most);
}

#[test]
fn packs_of_tiny_chunks_end_long_before_a_reader_gives_up() {
    let site = Site::new(16 * MIB, 1);
    let repository = site.reopen().repository().clone();
    let writer = Writer::new(repository.clone(), None).unwrap();
    for number in 0..400_000u32 {
        let content = number.to_le_bytes();
        writer
            .put(Lane::Group(0), ChunkId::of(&content), &content)
            .unwrap();
    }
    writer.flush().unwrap();
    let packs = site.store.list("packs/data/").unwrap();
    assert_eq!(packs.len(), 2);
    // A reader of directories takes 64 MiB.
    assert!(packs.iter().all(|pack| pack.size < 14 * MIB));
    let last = 399_999u32.to_le_bytes();
    assert_eq!(repository.read_chunk(&ChunkId::of(&last)).unwrap(), last);
}

#[test]
fn limits_that_nothing_can_be_cut_by_are_refused() {
    let init = |average| {
        let settings = Settings {
            cut: CutLimits {
                min: 64,
                average,
                max: 1 << 20,
            },
            ..Settings::default()
        };
        let key = Credential::key_file(&[1; 64]).unwrap();
        let store = Arc::new(MemoryStore::new());
        Repository::init(store, &key, "test", &settings, &Clock::system())
    };
    for average in [64, 128, 300] {
        assert_eq!(init(average).unwrap_err().kind(), Kind::Invalid);
    }
    init(256).unwrap();
}
