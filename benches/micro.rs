//! Micro benches of what the format decides: cutting, frames, index lookups at ten million chunks, pages of trees.
//!
//! `cargo bench --bench micro [cut|frames|index|trees]`; figures are for one core and printed as a table.

#![allow(clippy::disallowed_methods)] // a bench measures time

use keepfs::chunk::Cutting;
use keepfs::clock::Clock;
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::{DirectoryWriter, Entry, File, Node, Trees};
use keepfs::repository::{
    Credential, GROUP_BYTES, Lane, Local, PIECE_BYTES, PackFacts, Repository, Settings, Writer,
};
use keepfs::store::names::PackKind;
use keepfs::store::{MemoryStore, SharedStore};
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    for (name, bench) in [
        ("cut", cut as fn()),
        ("frames", frames),
        ("index", index),
        ("trees", trees),
    ] {
        if runs(name) {
            bench();
        }
    }
}

/// Bytes that compress about as sources do, the same in every run.
fn text(bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "fn ", "let ", "self.", "return ", "match ", "(", ")", " = ", ";\n", "    ", "value",
        "index", "Result", "<", ">", "0x",
    ];
    let mut state = 88_172_645_463_325_252u64;
    let mut result = Vec::with_capacity(bytes + 16);
    while result.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        result.extend(WORDS[(state % 16) as usize].as_bytes());
        if state.is_multiple_of(5) {
            result.extend((state >> 40).to_string().as_bytes());
        }
    }
    result.truncate(bytes);
    result
}

fn rate(what: &str, bytes: usize, work: impl FnOnce()) {
    let began = Instant::now();
    work();
    println!(
        "{what:<48} {:>9.0} MB/s",
        bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
    );
}

fn bench_repository(settings: &Settings) -> (Arc<Repository>, tempfile::TempDir) {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let key = Credential::key_file(&[1; 32]).expect("32 bytes are enough");
    Repository::init(store.clone(), &key, "bench", settings, &Clock::system())
        .expect("a new store");
    let cache = tempfile::tempdir().expect("a temporary directory");
    let local = Local {
        cache: cache.path().to_owned(),
        frame_cache_bytes: 64 << 20,
        clock: Clock::system(),
    };
    (
        Repository::open(store, &key, local).expect("it was just made"),
        cache,
    )
}

fn cut() {
    let data = text(256 << 20);
    let settings = Settings {
        seed: [3; 32],
        ..Settings::default()
    };
    let cutting: Cutting = settings.cutting();
    rate("cut by content", data.len(), || {
        let mut rest = data.as_slice();
        let mut chunks = 0;
        while let Some(length) = cutting.cut(rest, true) {
            rest = &rest[length..];
            chunks += 1;
        }
        println!(
            "{:<48} {:>9}",
            "  average chunk, bytes",
            data.len() / chunks
        );
    });
    rate("hash (BLAKE3)", data.len(), || {
        std::hint::black_box(ChunkId::of(&data));
    });
}

fn frames() {
    let data = text(128 << 20);
    for (what, size) in [
        ("small chunks, frames of 1 MiB", 8 << 10),
        ("large chunks, pieces of 256 KiB", 512 << 10),
    ] {
        let (repository, _cache) = bench_repository(&Settings {
            pack_bytes: 16 << 20,
            ..Settings::default()
        });
        let writer = Writer::new(repository.clone(), None).expect("writable");
        let chunks: Vec<(ChunkId, &[u8])> = data
            .chunks(size)
            .map(|chunk| (ChunkId::of(chunk), chunk))
            .collect();
        rate(
            &format!("write {what} (zstd 3, AES-256-GCM)"),
            data.len(),
            || {
                for (id, chunk) in &chunks {
                    let lane = if chunk.len() < PIECE_BYTES {
                        Lane::Group(0)
                    } else {
                        Lane::Alone
                    };
                    writer
                        .put(lane, *id, chunk)
                        .expect("a memory store takes all");
                }
                writer.flush().expect("a memory store takes all");
            },
        );
        rate(&format!("read {what}"), data.len(), || {
            for (id, _) in &chunks {
                std::hint::black_box(repository.read_chunk(id).expect("it was just written"));
            }
        });
    }
    println!(
        "{:<48} {:>9} {:>9}",
        "frame of small chunks, piece, bytes", GROUP_BYTES, PIECE_BYTES
    );
}

fn resident_anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .expect("Linux tells RssAnon");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn index() {
    const SEGMENTS: u64 = 10;
    const CHUNKS: u64 = 1_000_000;
    let (repository, _cache) = bench_repository(&Settings::default());
    let id_of = |n: u64| ChunkId::of(&n.to_le_bytes());
    for segment in 0..SEGMENTS {
        let packs: Vec<_> = (0..CHUNKS / 10_000)
            .map(|pack| {
                let first = segment * CHUNKS + pack * 10_000;
                let facts = PackFacts {
                    id: ObjectId::random(),
                    epoch: 0,
                    salt: [0; 32],
                    origin: ObjectId::default(),
                    object_bytes: 64 << 20,
                    frames: (1..=1000)
                        .map(|frame| (frame * 81_920, 96 + frame * 40_000))
                        .collect(),
                    chunks: (first..first + 10_000).map(|n| (id_of(n), 8192)).collect(),
                };
                (PackKind::Data, facts)
            })
            .collect();
        repository
            .publish_packs(&packs, &[])
            .expect("a memory store takes all");
    }
    let began = Instant::now();
    let merged = repository.merge_index().expect("a memory store takes all");
    println!(
        "{:<48} {:>9.2} s ({merged} segments)",
        "merge to 10 million chunks",
        began.elapsed().as_secs_f64()
    );
    let before = resident_anonymous();
    let mapped: u64 = repository
        .segments()
        .iter()
        .map(|segment| segment.mapped_bytes())
        .sum();
    let chunks: u64 = repository
        .segments()
        .iter()
        .map(|segment| segment.chunk_count())
        .sum();
    const LOOKUPS: u64 = 1_000_000;
    for (what, offset, present) in [
        ("present", 0, true),
        ("present, again", 0, true),
        ("absent", 1 << 40, false),
    ] {
        let began = Instant::now();
        for n in 0..LOOKUPS {
            let id = id_of(offset + n.wrapping_mul(7_368_787) % (SEGMENTS * CHUNKS));
            assert_eq!(
                repository.find(&id).expect("the index is sound").is_some(),
                present
            );
        }
        println!(
            "{:<48} {:>9.2} us",
            format!("look up {what}"),
            began.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64
        );
    }
    let heap = resident_anonymous().saturating_sub(before) * 1024;
    println!(
        "{:<48} {:>9.2}",
        "heap per chunk, bytes",
        heap as f64 / chunks as f64
    );
    println!(
        "{:<48} {:>9.2}",
        "mapped file per chunk, bytes",
        mapped as f64 / chunks as f64
    );
}

fn trees() {
    const ENTRIES: u32 = 1_000_000;
    let (repository, _cache) = bench_repository(&Settings::default());
    let entry = |n: u32, size: u64| {
        let id = ChunkId::of(&n.to_le_bytes());
        let file = File {
            size,
            content: keepfs::point::Content::One(id),
            ..File::empty()
        };
        Arc::new(Entry {
            name: format!("file-{n:08}").into_bytes(),
            attributes: Default::default(),
            node: Node::File(file),
        })
    };
    let build = |changed: Option<u32>| {
        let writer = Writer::new(repository.clone(), None).expect("writable");
        let mut sink = |id: ChunkId, bytes: &[u8]| writer.put(Lane::Tree, id, bytes).map(|_| ());
        let mut directory = DirectoryWriter::default();
        for n in 0..ENTRIES {
            directory
                .push(entry(n, 1 + u64::from(Some(n) == changed)), &mut sink)
                .expect("a memory store takes all");
        }
        let tree = directory
            .finish(&mut sink)
            .expect("a memory store takes all");
        writer.flush().expect("a memory store takes all");
        (
            tree,
            writer
                .written
                .plain_bytes
                .load(std::sync::atomic::Ordering::Relaxed),
        )
    };
    let began = Instant::now();
    let (tree, bytes) = build(None);
    println!(
        "{:<48} {:>9.2} s, {} bytes",
        "write a directory of a million entries",
        began.elapsed().as_secs_f64(),
        bytes
    );
    let (_, rewritten) = build(Some(500_000));
    println!(
        "{:<48} {:>9}",
        "bytes rewritten when one entry changes", rewritten
    );
    let trees = Arc::new(Trees::new(repository.clone()));
    let began = Instant::now();
    let count = trees.entries(&tree).filter(|entry| entry.is_ok()).count();
    println!(
        "{:<48} {:>9.2} s ({count})",
        "list it",
        began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    for n in (0..ENTRIES).step_by(997) {
        let name = format!("file-{n:08}");
        assert!(
            trees
                .lookup(&tree, name.as_bytes())
                .expect("the tree is sound")
                .is_some()
        );
    }
    println!(
        "{:<48} {:>9.2} us",
        "look up a name, cold",
        began.elapsed().as_secs_f64() * 1e6 / f64::from(ENTRIES / 997 + 1)
    );
}
