//! Random reads: what is read of a frame is only as much as is asked for, and is as trustworthy as the whole.

use crate::engine::{Bench, full, seed};
use crate::mount::{Mount, back_up, catalog};
use crate::mount_writes::settings;
use crate::served::{Tree, USER};
use crate::sites::Random;
use keepfs::error::Kind;
use keepfs::filesystem::{Answer, Answered, ROOT};
use keepfs::id::ChunkId;
use keepfs::point::Trees;
use keepfs::repository::{Lane, Location, PIECE_BYTES, Payload, Repository, Settings, Writer};
use keepfs::store::faults::FaultyStore;
use keepfs::store::{MemoryStore, Store};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that compress to a part, with references from everywhere to far back.
fn numbers(length: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|n| format!("{} {} ", n, n.wrapping_mul(2_654_435_761)).into_bytes())
        .take(length)
        .collect()
}

/// Bytes that no compressor makes shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn written(bench: &Bench, content: &[u8]) -> (Arc<Repository>, Location) {
    let repository = bench.open();
    let writer = Writer::new(repository.clone(), None).unwrap();
    let id = ChunkId::of(content);
    writer.put(Lane::Alone, id, content).unwrap();
    writer.flush().unwrap();
    let location = repository.locate(&id).unwrap();
    (repository, location)
}

/// A repository with one chunk, stored as a frame of zstd's own blocks.
fn written_elsewhere(bench: &Bench, content: &[u8]) -> (Arc<Repository>, Location) {
    let repository = bench.open();
    let writer = Writer::new(repository.clone(), None).unwrap();
    let id = ChunkId::of(content);
    let payload = Payload {
        bytes: zstd::bulk::compress(content, 3).unwrap(),
        plain_bytes: content.len() as u32,
    };
    writer
        .put_moved(vec![payload], vec![(id, content.len() as u32)])
        .unwrap();
    writer.flush().unwrap();
    let location = repository.locate(&id).unwrap();
    (repository, location)
}

#[test]
fn the_beginning_of_a_frame_has_the_right_bytes_wherever_it_ends() {
    let contents = [
        numbers(2 * PIECE_BYTES + 12_345),
        numbers(100_000),
        numbers(1),
        noise(PIECE_BYTES),
        vec![7; PIECE_BYTES],
        [noise(70_000), numbers(180_000)].concat(),
    ];
    type Write = fn(&Bench, &[u8]) -> (Arc<Repository>, Location);
    let write: [Write; 2] = [written, written_elsewhere];
    for (content, write) in contents
        .iter()
        .flat_map(|content| write.map(|write| (content, write)))
    {
        let bench = Bench::new(&Settings::default());
        let (_, location) = write(&bench, content);
        for span in location.frames().unwrap() {
            let plain = &content[span.stream_begin as usize..span.stream_end as usize];
            let ends = (1..span.plain_bytes()).step_by(4093);
            let edges = (1..8).flat_map(|n| (n << 15) - 1..=(n << 15) + 1);
            for upto in ends.chain(edges).chain([span.plain_bytes()]) {
                let upto = upto.min(span.plain_bytes());
                // Another repository each time: nothing is in memory.
                let cold = bench.open();
                let frame = cold.frame_begin(&location, &span, upto).unwrap();
                assert!(frame.len() >= upto as usize);
                assert_eq!(*frame, plain[..frame.len()]);
                let whole = cold.frame(&location, &span).unwrap();
                assert_eq!(*whole, plain);
            }
        }
    }
}

#[test]
fn little_of_a_long_frame_is_decompressed_for_a_read_near_its_begin() {
    let bench = Bench::new(&Settings::default());
    let (repository, location) = written(&bench, &numbers(PIECE_BYTES));
    let span = location.frame_at(0).unwrap();
    let begin = repository.frame_begin(&location, &span, 4096).unwrap();
    assert_eq!(begin.len(), PIECE_BYTES / 4);
    // What is there is used, what is not there makes it whole.
    let upto = span.plain_bytes() / 4;
    assert!(repository.cached_frame(&location, &span, upto).is_some());
    assert!(
        repository
            .cached_frame(&location, &span, upto + 1)
            .is_none()
    );
    let more = repository.frame_begin(&location, &span, upto + 1).unwrap();
    assert_eq!(more.len(), PIECE_BYTES);
    // Reading ahead makes it whole, too.
    let cold = bench.open();
    cold.frame_begin(&location, &span, 1).unwrap();
    cold.prefetch(&location, &[span]);
    assert!(
        cold.cached_frame(&location, &span, span.plain_bytes())
            .is_some()
    );
}

#[test]
fn a_bit_flipped_anywhere_in_a_frame_is_noticed_by_who_reads_its_first_byte() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let bench = Bench::in_store(store.clone(), &Settings::default());
    let (_, location) = written(&bench, &numbers(PIECE_BYTES));
    let span = location.frame_at(0).unwrap();
    let places = span.object_range();
    for at in places.clone().step_by(997).chain([places.end - 1]) {
        store.flip("packs/", at);
        let refused = bench.open().frame_begin(&location, &span, 1).unwrap_err();
        assert_eq!(refused.kind(), Kind::Damaged, "byte {at}");
        store.heal();
        bench.open().frame_begin(&location, &span, 1).unwrap();
    }
}

#[test]
fn a_mount_decompresses_for_a_random_read_no_more_than_the_beginning_of_a_frame() {
    let source = tempfile::tempdir().unwrap();
    let content = numbers(12 << 20);
    std::fs::write(source.path().join("large"), &content).unwrap();
    let bench = Bench::new(&Settings::default());
    let point = back_up(&bench, source.path(), "point");
    let catalog = catalog(&bench);
    let repository = catalog.repository().clone();
    let mount = Mount::of(vec![("primary", catalog)]);
    let file = std::fs::File::open(mount.path().join("primary/host/point/large")).unwrap();
    // SAFETY: the descriptor is open; the call changes nothing but the kernel's reading ahead.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };

    let trees = Arc::new(Trees::new(bench.open()));
    let top = Arc::new(point.record.top());
    let entry = trees.resolve(&top, b"large").unwrap().unwrap();
    let frames: Vec<_> = trees
        .extents_from(entry.file().unwrap(), 0)
        .flat_map(|extent| {
            let (begin, extent) = extent.unwrap();
            let location = repository.locate(&extent.chunk.unwrap()).unwrap();
            location.frames().unwrap().into_iter().map(move |span| {
                let within = u64::from(span.stream_begin - location.offset);
                (location.clone(), span, begin + within)
            })
        })
        .collect();
    // The first of a long frame far from the last read, in turns from the end and from the middle.
    let mut partly = 0;
    let (low, high) = frames.split_at(frames.len() / 2);
    for (location, span, begin) in high.iter().zip(low).flat_map(|(high, low)| [high, low]) {
        let offset = begin.next_multiple_of(4096);
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, offset).unwrap();
        assert_eq!(page, content[offset as usize..][..4096]);
        let whole = repository.cached_frame(location, span, span.plain_bytes());
        partly += usize::from(span.plain_bytes() > 100_000 && whole.is_none());
    }
    assert!(partly > frames.len() / 2, "{partly} of {}", frames.len());
    // Then everything, in order.
    let mut all = vec![0; content.len()];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all == content);
}

fn read_part(tree: &Tree, name: &str, offset: u64, length: u32) -> Answer<Vec<u8>> {
    let mut ino = ROOT;
    for name in ["primary", "host", "point", name] {
        match tree.0.lookup(ino, name.as_bytes(), USER)? {
            Answered::Found { attributes, .. } => ino = attributes.ino,
            Answered::Missing { .. } => panic!("{name} is missing"),
        }
    }
    let handle = tree.0.open(ino, libc::O_RDONLY)?;
    let data = tree.0.read(handle, offset, length);
    tree.0.close(handle);
    Ok(data?.to_vec())
}

#[test]
fn whatever_byte_of_a_pack_is_flipped_random_reads_are_right_or_refused() {
    let mut random = Random(seed("flipped packs"));
    let source = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for number in 0..60 {
        let large = number % 15 == 0;
        let length = 1 + random.below(if large { 6 << 20 } else { 60_000 }) as usize;
        let content = match number % 2 {
            0 => random.text(length),
            _ => random.bytes(length),
        };
        let name = format!("f{number}");
        std::fs::write(source.path().join(&name), &content).unwrap();
        files.push((name, content));
    }
    let memory = MemoryStore::new();
    let mut bench = Bench::in_store(Arc::new(memory.clone()), &settings());
    back_up(&bench, source.path(), "point");
    let packs = memory.list("packs/").unwrap();
    let reads = if full() { 100_000 } else { 4_000 } / packs.len();
    let (mut right, mut refused) = (0, 0);
    for pack in &packs {
        let whole = memory.get(&pack.name).unwrap();
        let mut bent = whole.to_vec();
        let at = random.below(bent.len() as u64) as usize;
        bent[at] ^= 1 << random.below(8);
        memory.overwrite(&pack.name, bent.into());
        // A host that has nothing in its caches.
        bench.cache = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let tree = Tree::of(&[("primary", &bench)], state.path());
        for _ in 0..reads {
            let (name, content) = &files[random.below(files.len() as u64) as usize];
            let offset = random.below(content.len() as u64) as usize;
            let length = 1 + random.below(100_000) as usize;
            match read_part(&tree, name, offset as u64, length as u32) {
                Ok(read) => {
                    let end = content.len().min(offset + length);
                    assert!(
                        read == content[offset..end],
                        "{name} {offset} {length}: {at} of {pack:?}"
                    );
                    right += 1;
                }
                Err(failure) => {
                    assert_eq!(failure.errno(), libc::EBADMSG, "{:?}", failure.sentence());
                    refused += 1;
                }
            }
        }
        drop(tree);
        memory.overwrite(&pack.name, whole);
    }
    eprintln!(
        "{} packs: {right} reads were right, {refused} refused",
        packs.len()
    );
    assert!(right > refused && refused > 0);
}
