//! Hostile bytes: every decoder gets valid bytes that were bent. It answers with an error that has a kind, or with a
//! value, but never with a panic, and never takes more memory than its limits say.
//!
//! `KEEPFS_FUZZ_SECONDS=3600 cargo test --test main hostile::` gives each decoder an hour.

use crate::golden;
use crate::planted::{Item, Shelf, noise, plant};
use keepfs::copy::SessionRecord;
use keepfs::error::Kind;
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::*;
use keepfs::repository::*;
use keepfs::store::Store;
use keepfs::store::names::{Name, PackKind};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

const TURNS: usize = 2000;
/// No decoder takes more memory for one input, whatever the input says of itself.
const MEMORY_MAX: usize = 64 << 20;

/// The system's allocator, counting what each thread holds and the most it held.
pub struct Counting;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn count(change: impl Fn(usize) -> usize) {
    // A thread that ends has nothing to count any more.
    let _ = HELD.try_with(|held| {
        let now = change(held.get().0);
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: every call is handed to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|held| held.saturating_add(layout.size()));
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(|held| held.saturating_add(layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(|held| held.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// A generator of bent bytes; the same numbers in every run.
pub struct Bender(pub u64);

impl Bender {
    pub fn below(&mut self, limit: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }

    pub fn bend(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 => {
                    let other = &seeds[self.below(seeds.len())];
                    bytes.truncate(at);
                    bytes.extend(&other[self.below(other.len())..]);
                }
                3 => {
                    // A field of lengths, set to an extreme.
                    let extremes = [
                        0u64,
                        1,
                        0x7fff_ffff,
                        0xffff_ffff,
                        u64::MAX / 2,
                        u64::MAX,
                        1 << 32,
                        (1 << 25) + 1,
                    ];
                    let value = extremes[self.below(extremes.len())].to_le_bytes();
                    let width = [2, 4, 8][self.below(3)];
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&value[..end - at]);
                }
                4 => {
                    let insert: Vec<u8> =
                        (0..self.below(40)).map(|_| self.below(256) as u8).collect();
                    bytes.splice(at..at, insert);
                }
                _ => {
                    let end = (at + self.below(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
        bytes
    }
}

/// Decodes what was bent, so often, and then what was not.
#[allow(clippy::disallowed_methods)] // how long to go on, nothing that is asserted
pub fn bend_all(seeds: &[Vec<u8>], mut decode: impl FnMut(&[u8]) -> keepfs::error::Result<()>) {
    let seconds = std::env::var("KEEPFS_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let mut bender = Bender(seeds.len() as u64);
    let mut turn = 0;
    while turn < TURNS || seconds.is_some() && Instant::now() < until {
        turn += 1;
        let bytes = bender.bend(seeds);
        let before = HELD.get().0;
        HELD.set((before, before));
        let result = decode(&bytes);
        let most = HELD.get().1.saturating_sub(before);
        assert!(
            most <= MEMORY_MAX,
            "{most} bytes of memory for {} bytes",
            bytes.len()
        );
        if let Err(error) = result {
            let kinds = [
                Kind::Damaged,
                Kind::TooNew,
                Kind::WrongKey,
                Kind::NoRepository,
                Kind::Invalid,
            ];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            assert!(!error.message().is_empty());
        }
    }
    for seed in seeds {
        decode(seed).expect("what was not bent decodes");
    }
}

#[test]
fn bent_headers_are_refused() {
    let good = Header::new(ObjectId([1; 16]), Default::default()).encode(&golden::ring());
    bend_all(std::slice::from_ref(&good), |bytes| {
        let header = Header::decode(bytes)?;
        Header::confirm(bytes, &golden::ring())?;
        assert_eq!(header, Header::decode(&good)?);
        Ok(())
    });
}

#[test]
fn bent_key_slots_are_refused_before_they_cost_anything() {
    let key = Credential::key_file(&[7; 64]).unwrap();
    let (ring, id) = (golden::ring(), ObjectId([2; 16]));
    let slot = Slot::wrap(
        &ring,
        id,
        SlotKind::KeyFile,
        &key,
        "label",
        Default::default(),
        "host",
    )
    .unwrap();
    // The checksum is no secret: an attacker makes it fit.
    let repair = |bytes: &[u8]| {
        let content = &bytes[..bytes.len().saturating_sub(32)];
        [content, blake3::hash(content).as_bytes()].concat()
    };
    bend_all(&[slot.encode()], |bytes| {
        let slot = Slot::decode(&repair(bytes))?;
        if let Some(opened) = slot.open(ring.repository, id, &key)? {
            assert_eq!(opened, ring);
        }
        let _ = slot.facts(&ring, id);
        Ok(())
    });
}

#[test]
fn bent_documents_and_pages_are_refused() {
    let seeds = [
        golden::leaf().encode(),
        DirectoryPage::Inner(golden::children()).encode(),
        encode(&ContentPage::Inner(golden::children())),
        encode(&golden::record()),
        encode(&Settings::default()),
        encode(&golden::ring()),
        golden::side_chunk(),
    ];
    let documents = golden::structures().into_iter();
    let documents =
        documents.filter(|(name, _)| !["header", "index", "side"].contains(&name.as_str()));
    let seeds: Vec<_> = seeds
        .into_iter()
        .chain(documents.map(|(_, bytes)| bytes))
        .collect();
    bend_all(&seeds, |bytes| {
        // Each must bear every other's bytes too.
        let _ = decode::<SessionRecord>(bytes).map(|record| assert_eq!(encode(&record), bytes));
        let _ = decode::<ContentPage>(bytes).map(|page| assert_eq!(encode(&page), bytes));
        let _ = decode::<PointRecord>(bytes).map(|record| assert_eq!(encode(&record), bytes));
        let _ = decode::<BackupRecord>(bytes);
        let _ = decode::<Catalogue>(bytes);
        let _ = decode::<Mark>(bytes);
        let _ = decode::<Trash>(bytes);
        let _ = decode::<Lease>(bytes);
        let _ = decode::<Condemned>(bytes);
        let _ = decode::<Settings>(bytes);
        let _ = decode::<Ring>(bytes);
        match DirectoryPage::decode(bytes) {
            Err(error) if !seeds.iter().any(|seed| seed == bytes) => Err(error),
            _ => Ok(()),
        }
    });
}

#[test]
fn bent_index_segments_never_answer_outside_their_bounds() {
    let directory = tempfile::tempdir().unwrap();
    bend_all(&[golden::index_body()], |bytes| {
        let segment = format::map_index_body(bytes, directory.path())?;
        std::fs::remove_file(directory.path().join(segment.id.to_string())).unwrap();
        for number in 0..segment.pack_count() {
            let pack = segment.pack(number)?;
            for frame in [0, 1, pack.frames.wrapping_sub(1), pack.frames, u32::MAX] {
                let _ = segment.frame(&pack, frame);
            }
            for offset in [0, 1, 79, 80, u32::MAX] {
                let _ = segment.frame_at(&pack, offset);
            }
        }
        for number in 0..10 {
            let found = segment.find(&ChunkId([number; 32]));
            let _ = found.map(Iterator::count);
        }
        segment.replaced().map(drop)
    });
}

#[test]
fn bent_frames_decompress_to_their_length_or_not_at_all() {
    let plain = b"compresses well ".repeat(1000);
    let seed = zstd::bulk::compress(&plain, 3).unwrap();
    let mut bender = Bender(1);
    bend_all(&[seed], |bytes| {
        let wanted = match bender.below(4) {
            0 => bender.below(1 << 25) as u32,
            _ => plain.len() as u32,
        };
        let payload = Payload {
            bytes: bytes.to_vec(),
            plain_bytes: wanted,
        };
        match decompress(payload) {
            Ok(output) => assert_eq!(output.len(), wanted as usize),
            Err(error) => assert_eq!(error.kind(), Kind::Damaged),
        }
        Ok(())
    });
}

#[test]
fn bent_names_are_foreign_or_print_back() {
    let seeds: Vec<Vec<u8>> = [
        Name::Header,
        Name::Config(3),
        Name::Pack(PackKind::Data, ObjectId([0xab; 16])),
        Name::Point(ObjectId([1; 16]), 2),
        Name::Backup(ObjectId([1; 16]), 2),
    ]
    .map(|name| name.to_string().into_bytes())
    .into();
    bend_all(&seeds, |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Some(name) = Name::parse(text)
        {
            assert_eq!(name.to_string(), text);
        }
        Ok(())
    });
}

/// All stored objects of a small repository, bent one after the other.
#[test]
fn bent_sealed_objects_and_packs_decode_to_what_was_written_or_not_at_all() {
    let shelf = Shelf::new();
    let item = Item::directory([
        ("f", Item::File(noise(1, 30_000), 1000)),
        ("g", Item::File(vec![5; 9000], 4000)),
    ]);
    plant(&shelf.catalog(), "web", "one", &item).unwrap();
    let repository = shelf.open().unwrap();
    let ring = repository.ring();
    for object in shelf.memory.list("").unwrap() {
        let seed = shelf.memory.get(&object.name).unwrap().to_vec();
        match Name::parse(&object.name).unwrap() {
            Name::Header | Name::Key(_) => {}
            Name::Pack(kind, id) => {
                let facts = read_pack(ring, kind, id, &seed).unwrap();
                bend_all(&[seed], |bytes| {
                    // A raw frame may be bent without notice here: frames are not part of the directory.
                    assert_eq!(read_pack(ring, kind, id, bytes)?, facts);
                    Ok(())
                });
            }
            name => {
                let document = format::open_sealed(ring, name, &seed).unwrap();
                bend_all(&[seed], |bytes| {
                    assert_eq!(format::open_sealed(ring, name, bytes)?, document);
                    Ok(())
                });
            }
        }
    }
}

/// The chunks of a pack, with every frame in it tried.
pub fn read_pack(
    ring: &Ring,
    kind: PackKind,
    id: ObjectId,
    bytes: &[u8],
) -> keepfs::error::Result<Vec<(ChunkId, u32)>> {
    let reader = PackReader::new(ring, kind, id, bytes)?;
    let end = &bytes[bytes.len().saturating_sub(TRAILER_BYTES)..];
    let trailer = Trailer::decode(end, bytes.len() as u64)?;
    let range = trailer.directory_range();
    let facts = reader.directory(
        &trailer,
        bytes[range.start as usize..range.end as usize].to_vec(),
    )?;
    for span in facts.spans() {
        if let Some(stored) = bytes.get(span.object_begin as usize..span.object_end as usize) {
            let _ = reader.plain(&span, stored.to_vec());
        }
    }
    Ok(facts.chunks)
}
