//! What a writer that holds the key may have written: contents that are bent before they are encrypted, so that the
//! decoders behind the authentication see them. And what another process may have left on this host's disk.

use crate::engine::{Bench, assert_clean};
use crate::filesystem::Asked;
use crate::golden;
use crate::hostile::{Bender, bend_all, read_pack};
use crate::mount::catalog;
use crate::planted::{Item, Shelf, noise, plant};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use keepfs::error::Kind;
use keepfs::filesystem::{Answered, Changes, Mode};
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::{Catalog, Content, ContentWriter, Extent, PointRecord, SideReader, Trees};
use keepfs::repository::{Lane, PACK_HEADER_BYTES, Ring, Settings, Writer, decode, encode, format};
use keepfs::store::names::{Name, PackKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Encrypts as the format says, whatever it is given; made from the format's page alone.
struct Forger {
    repository: ObjectId,
    epoch: u32,
    secret: [u8; 32],
}

/// The object that ciphertext is for.
#[derive(Clone, Copy)]
struct For {
    kind: u8,
    id: ObjectId,
    number: u64,
}

impl Forger {
    fn of(ring: &Ring) -> Self {
        // A ring ends with its newest epoch: its number and its secret.
        let bytes = encode(ring);
        let (number, secret) = bytes[bytes.len() - 36..].split_at(4);
        Self {
            repository: ring.repository,
            epoch: u32::from_le_bytes(number.try_into().unwrap()),
            secret: secret.try_into().unwrap(),
        }
    }

    /// The key of the object with this salt, and its commitment.
    fn key(&self, salt: &[u8; 32]) -> (LessSafeKey, [u8; 32]) {
        struct Length;
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                64
            }
        }
        let mut derived = [0; 64];
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.secret)
            .expand(&[b"keepfs 1 object", &self.repository.0], Length)
            .and_then(|key| key.fill(&mut derived))
            .unwrap();
        let key = UnboundKey::new(&AES_256_GCM, &derived[..32]).unwrap();
        (LessSafeKey::new(key), derived[32..].try_into().unwrap())
    }

    fn encrypt(
        &self,
        key: &LessSafeKey,
        of: For,
        (part, ends, counter): (u8, [u8; 2], u64),
        plain_bytes: usize,
        buffer: &mut Vec<u8>,
    ) {
        let mut place = self.repository.0.to_vec();
        place.extend(of.id.0);
        place.extend(of.number.to_le_bytes());
        place.extend([of.kind, part]);
        place.extend(ends);
        place.extend(counter.to_le_bytes());
        place.extend((plain_bytes as u32).to_le_bytes());
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&counter.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(place), buffer)
            .unwrap();
    }

    /// A sealed object of one section.
    fn sealed(&self, of: For, flags: u8, body: &[u8]) -> Vec<u8> {
        let salt = [9; 32];
        let (key, commitment) = self.key(&salt);
        let mut object = b"kfso".to_vec();
        object.extend(1u16.to_le_bytes());
        object.extend([of.kind, flags]);
        object.extend(self.epoch.to_le_bytes());
        object.extend((1u32 << 20).to_le_bytes());
        object.extend(salt);
        object.extend(commitment);
        assert!(body.len() <= 1 << 20);
        let mut section = body.to_vec();
        self.encrypt(&key, of, (0, [1, flags], 0), body.len(), &mut section);
        object.extend(section);
        object
    }

    /// A data pack with one raw frame and this directory.
    fn pack(&self, of: For, frame: &[u8], directory: &[u8]) -> Vec<u8> {
        let salt = [8; 32];
        let (key, commitment) = self.key(&salt);
        let mut object = b"kfpk".to_vec();
        object.extend(1u16.to_le_bytes());
        object.extend([1, 0]);
        object.extend(self.epoch.to_le_bytes());
        object.extend([0; 4]);
        object.extend([0; 16]);
        object.extend(salt);
        object.extend(commitment);
        assert_eq!(object.len(), PACK_HEADER_BYTES);
        let mut stored = frame.to_vec();
        self.encrypt(&key, of, (1, [0; 2], 0), frame.len(), &mut stored);
        object.extend(stored);
        // The trailer agrees with the directory, or nothing behind that comparison would be seen.
        let count = |at: usize| {
            let bytes = directory.get(at..at + 4);
            bytes.map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
        };
        let (frames, chunks) = (count(4), count(8));
        let mut stored = directory.to_vec();
        let counter = u64::from(frames);
        self.encrypt(&key, of, (2, [0; 2], counter), directory.len(), &mut stored);
        let length = stored.len() as u32;
        object.extend(stored);
        for number in [length, frames, chunks, 0] {
            object.extend(number.to_le_bytes());
        }
        object.extend(b"kfpkend\n");
        object
    }
}

#[test]
fn bent_pack_directories_are_refused_behind_their_authentication() {
    let ring = golden::ring();
    let forger = Forger::of(&ring);
    let id = ObjectId([3; 16]);
    let of = For {
        kind: 4,
        id,
        number: 0,
    };
    let frame = noise(1, 5000);
    let mut directory = 1u16.to_le_bytes().to_vec();
    directory.extend([0; 2]);
    directory.extend(1u32.to_le_bytes());
    directory.extend(5u32.to_le_bytes());
    directory.extend([0; 16]);
    directory.extend(5000u32.to_le_bytes());
    directory.extend((PACK_HEADER_BYTES as u32 + 5016).to_le_bytes());
    for piece in frame.chunks(1000) {
        directory.extend(ChunkId::of(piece).0);
        directory.extend(1000u32.to_le_bytes());
    }
    bend_all(&[directory], |directory| {
        let pack = forger.pack(of, &frame, directory);
        let chunks = read_pack(&ring, PackKind::Data, id, &pack)?;
        let bytes: u64 = chunks.iter().map(|(_, length)| u64::from(*length)).sum();
        assert!(bytes <= u32::MAX.into());
        Ok(())
    });
}

#[test]
fn bent_compressed_documents_decompress_within_their_limit_or_not_at_all() {
    let ring = golden::ring();
    let forger = Forger::of(&ring);
    let (id, number) = (ObjectId([4; 16]), 2);
    let of = For {
        kind: 8,
        id,
        number,
    };
    let document = encode(&PointRecord {
        name: b"compresses ".repeat(200),
        ..golden::record()
    });
    let name = Name::Point(id, number);
    let seed = zstd::bulk::compress(&document, 3).unwrap();
    bend_all(&[seed], |body| {
        let opened = format::open_sealed(&ring, name, &forger.sealed(of, 1, body))?;
        decode::<PointRecord>(&opened).map(drop)
    });
    bend_all(&[document], |body| {
        let opened = format::open_sealed(&ring, name, &forger.sealed(of, 0, body))?;
        decode::<PointRecord>(&opened).map(drop)
    });
    let bomb = zstd::bulk::compress(&vec![0; 65 << 20], 3).unwrap();
    assert!(bomb.len() < 1 << 20);
    let refused = format::open_sealed(&ring, name, &forger.sealed(of, 1, &bomb)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Damaged);
}

#[test]
fn bent_side_tables_only_lose_what_they_say() {
    let shelf = Shelf::new();
    let repository = shelf.open().unwrap();
    let writer = Writer::new(repository.clone(), None).unwrap();
    let seed = golden::side_chunk();
    let mut bender = Bender(3);
    let mut tables = Vec::new();
    for _ in 0..300 {
        let mut table = ContentWriter::default();
        let mut sink = |id: ChunkId, bytes: &[u8]| writer.put(Lane::Tree, id, bytes).map(drop);
        for _ in 0..=bender.below(3) {
            let chunk = bender.bend(std::slice::from_ref(&seed));
            let id = ChunkId::of(&chunk);
            writer.put(Lane::Tree, id, &chunk).unwrap();
            let length = chunk.len() as u64;
            let extent = Extent {
                length,
                chunk: (bender.below(9) > 0).then_some(id),
            };
            table.push(extent, &mut sink).unwrap();
        }
        let (content, bytes) = table.finish(&mut sink).unwrap();
        let said = [bytes, bytes + 28, u64::MAX, 27][bender.below(4)];
        tables.push((content, said));
    }
    writer.flush().unwrap();
    let trees = Arc::new(Trees::new(shelf.open().unwrap()));
    for (content, bytes) in tables {
        let mut side = SideReader::new(trees.clone(), content, bytes);
        for number in [0, 1, 2, 5, 1, u64::MAX / 28, u64::MAX] {
            if let Err(error) = side.get(number) {
                assert_eq!(error.kind(), Kind::Damaged);
            }
        }
    }
    let mut none = SideReader::new(trees, Content::Empty, 0);
    assert_eq!(none.get(0).unwrap(), None);
}

/// A journal's records, as its page says.
fn records(journal: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut rest = journal;
    while let Some((head, behind)) = rest.split_at_checked(12) {
        let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let (body, behind) = behind.split_at(length);
        records.push(body.to_vec());
        rest = behind;
    }
    records
}

fn journal_of(records: &[Vec<u8>]) -> Vec<u8> {
    let mut journal = Vec::new();
    for body in records {
        journal.extend((body.len() as u32).to_le_bytes());
        journal.extend(&blake3::hash(body).as_bytes()[..8]);
        journal.extend(body);
    }
    journal
}

fn journals(state: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state.join("open")).unwrap();
    entries
        .map(|entry| entry.unwrap().path().join("journal"))
        .collect()
}

/// Makes an open point with a bit of everything.
fn fill(asked: &Asked) {
    let caller = crate::filesystem::caller();
    let mode = Mode {
        mode: 0o755,
        umask: 0o022,
    };
    let made = |answered| match answered {
        Answered::Found { attributes, .. } => attributes.ino,
        Answered::Missing { .. } => panic!("it was made"),
    };
    let files = &asked.filesystem;
    let backup = asked.find("r/web").unwrap().unwrap().ino;
    let top = files.make_directory(backup, b"open", mode, caller).unwrap();
    let top = made(top);
    let below = made(files.make_directory(top, b"d", mode, caller).unwrap());
    let (file, handle) = files
        .create(below, b"f", mode, libc::O_RDWR, caller)
        .unwrap();
    files.write(handle, 5, &noise(3, 3000), caller).unwrap();
    let from = asked.find("r/web/one/g").unwrap().unwrap().ino;
    let from = files.open(from, libc::O_RDONLY).unwrap();
    files
        .copy_range((from, 100), (handle, 4000), 5000, caller)
        .unwrap();
    let size = Changes {
        size: Some(8000),
        ..Changes::default()
    };
    files.set_attributes(file.ino, &size, caller).unwrap();
    files
        .set_xattr(file.ino, b"user.a", b"b", 0, caller)
        .unwrap();
    files.link(file.ino, top, b"again").unwrap();
    files.make_symlink(top, b"s", b"d/f", caller).unwrap();
    files.rename((top, b"s"), (below, b"t"), 0, caller).unwrap();
    files.unlink(below, b"f").unwrap();
    files.close(from);
    files.close(handle);
}

#[test]
fn bent_journals_of_open_points_are_served_as_far_as_they_make_sense() {
    let bench = Bench::new(&Settings::default());
    let item = Item::directory([("g", Item::File(noise(2, 9000), 4000))]);
    let shared = catalog(&bench);
    plant(&shared, "web", "one", &item).unwrap();
    let state = tempfile::tempdir().unwrap();
    let asked = Asked::of(vec![("r", shared.clone())], state.path());
    fill(&asked);
    drop(asked);
    let path = journals(state.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let seed = records(&whole);
    assert!(seed.len() > 12 && journal_of(&seed) == whole);
    let mut bender = Bender(11);
    let mut served = 0;
    for turn in 0..400 {
        let mut bent = seed.clone();
        match turn % 4 {
            0 => {
                let at = bender.below(bent.len());
                bent[at] = bender.bend(&seed);
            }
            1 => bent.swap(bender.below(seed.len()), bender.below(seed.len())),
            2 => drop(bent.remove(bender.below(seed.len()))),
            _ => {
                let (at, other) = (bender.below(seed.len()), bender.below(seed.len()));
                bent.insert(at, seed[other].clone());
            }
        }
        let mut journal = journal_of(&bent);
        if turn % 7 == 0 {
            journal = bender.bend(&[journal]);
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, journal).unwrap();
        let asked = Asked::of(vec![("r", shared.clone())], state.path());
        let top = asked.find("r/web").unwrap().unwrap().ino;
        asked.read_below(top, "", &mut |_, _| ());
        if let Some(open) = asked.find("r/web/open").unwrap() {
            served += 1;
            let _ = asked
                .filesystem
                .sync_directory(open.ino, crate::filesystem::caller());
            let _ = asked
                .filesystem
                .remove_directory(top, b"open", crate::filesystem::caller());
        }
        drop(asked);
    }
    assert!(served > 100, "{served}");
    assert_clean("bent journals", &bench.open());
}

#[test]
fn a_bent_memory_of_the_newest_records_is_no_obstacle() {
    let shelf = Shelf::new();
    let item = Item::directory([("g", Item::File(noise(2, 900), 400))]);
    for point in ["one", "two"] {
        plant(&shelf.catalog(), "web", point, &item).unwrap();
    }
    let path = newest_file(shelf.cache.path()).expect("it was kept");
    let seed = std::fs::read(&path).unwrap();
    let mut bender = Bender(13);
    for _ in 0..300 {
        std::fs::write(&path, bender.bend(std::slice::from_ref(&seed))).unwrap();
        let catalog = Catalog::open(shelf.open().unwrap()).unwrap();
        assert!(catalog.contents().point(b"web", b"two").is_some());
    }
}

/// The file in which a host keeps the newest records that it has seen.
fn newest_file(directory: &Path) -> Option<PathBuf> {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = newest_file(&path) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|name| name == "newest") {
            return Some(path);
        }
    }
    None
}
