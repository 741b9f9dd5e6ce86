//! A repository with known contents: trees written by hand, so that a test knows every byte, chunk and path.

use keepfs::clock::{Clock, Time};
use keepfs::id::{ChunkId, ObjectId};
use keepfs::point::{
    Attributes, Catalog, Catalogue, CatalogueEntry, Content, ContentWriter, DirectoryWriter, Draft,
    Entry, Extent, File, Inode, Mark, Node, Owner, Point, PointRecord, SideWriter, Tree,
};
use keepfs::repository::{Credential, Lane, Local, Repository, Settings, Writer, encode};
use keepfs::store::names::Name;
use keepfs::store::{MemoryStore, SharedStore};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a test puts into a tree.
#[derive(Clone, Debug)]
pub enum Item {
    /// Content cut every so many bytes; a piece of zeros is a hole.
    File(Vec<u8>, usize),
    Directory(BTreeMap<Vec<u8>, (Item, Attributes)>),
    Other(Node),
}

impl Item {
    pub fn directory<const N: usize>(items: [(&str, Item); N]) -> Self {
        let named = items.map(|(name, item)| (name.as_bytes().to_vec(), (item, plain())));
        Self::Directory(named.into())
    }

    /// Adds or replaces an entry of a directory.
    pub fn with(mut self, name: &[u8], item: Item, attributes: Attributes) -> Self {
        let Self::Directory(entries) = &mut self else {
            panic!("only a directory holds entries")
        };
        entries.insert(name.to_vec(), (item, attributes));
        self
    }
}

/// Attributes of no interest, owned by the user who runs the tests.
pub fn plain() -> Attributes {
    Attributes {
        mode: 0o750,
        owner: Arc::new(owner()),
        mtime: Time::new(1_600_000_000, 123_456_789),
        xattrs: Vec::new(),
        links: 1,
        link_group: 0,
    }
}

pub fn owner() -> Owner {
    // SAFETY: both calls read a number of the process and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Owner {
        uid,
        gid,
        user: Vec::new(),
        group: Vec::new(),
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut output = vec![0; bytes];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut output);
    output
}

/// A repository in a store, with two key slots, that opens fast.
pub struct Shelf {
    pub memory: MemoryStore,
    pub cache: tempfile::TempDir,
    pub key: Credential,
}

impl Shelf {
    pub fn new() -> Self {
        let shelf = Self {
            memory: MemoryStore::new(),
            cache: tempfile::tempdir().unwrap(),
            key: Credential::key_file(&[7; 64]).unwrap(),
        };
        let settings = Settings {
            pack_bytes: 1 << 20,
            ..Settings::default()
        };
        Repository::init(
            shelf.store(),
            &shelf.key,
            "test",
            &settings,
            &Clock::system(),
        )
        .unwrap();
        shelf
    }

    pub fn store(&self) -> SharedStore {
        Arc::new(self.memory.clone())
    }

    pub fn local(&self) -> Local {
        Local {
            cache: self.cache.path().to_owned(),
            frame_cache_bytes: 16 << 20,
            clock: Clock::system(),
        }
    }

    pub fn open(&self) -> keepfs::error::Result<Arc<Repository>> {
        Repository::open(self.store(), &self.key, self.local())
    }

    pub fn catalog(&self) -> Catalog {
        Catalog::open(self.open().unwrap()).unwrap()
    }
}

/// Chunks that each file of a point needs, by `BACKUP/POINT/path`: what the oracle of damage is computed from.
pub type Needs = BTreeMap<String, BTreeSet<ChunkId>>;

struct Planter<'a> {
    writer: &'a Writer,
    side: SideWriter,
    needs: Needs,
}

impl Planter<'_> {
    fn page(&self) -> impl FnMut(ChunkId, &[u8]) -> keepfs::error::Result<()> + '_ {
        |id, bytes| self.writer.put(Lane::Tree, id, bytes).map(|_| ())
    }

    fn file(&mut self, path: &str, content: &[u8], cut: usize) -> keepfs::error::Result<File> {
        let mut pages = ContentWriter::default();
        let mut needs = BTreeSet::new();
        for piece in content.chunks(cut) {
            let hole = piece.iter().all(|byte| *byte == 0);
            let id = ChunkId::of(piece);
            if !hole {
                let lane = if piece.len() > 100_000 {
                    Lane::Alone
                } else {
                    Lane::of_name(path.as_bytes())
                };
                self.writer.put(lane, id, piece)?;
                needs.insert(id);
            }
            let extent = Extent {
                length: piece.len() as u64,
                chunk: (!hole).then_some(id),
            };
            pages.push(extent, &mut self.page())?;
        }
        self.needs.insert(path.to_owned(), needs);
        let (stored, size) = pages.finish(&mut self.page())?;
        let hash = (!matches!(stored, Content::One(_) | Content::Empty))
            .then(|| *blake3::hash(content).as_bytes());
        Ok(File {
            size,
            hash,
            block: 0,
            content: stored,
        })
    }

    fn tree(
        &mut self,
        path: &str,
        items: &BTreeMap<Vec<u8>, (Item, Attributes)>,
    ) -> keepfs::error::Result<Tree> {
        let mut directory = DirectoryWriter::default();
        for (number, (name, (item, attributes))) in items.iter().enumerate() {
            let record = Inode {
                ctime: Time::new(9, 9),
                device: 1,
                inode: number as u64,
            };
            let mut side = std::mem::take(&mut self.side);
            side.push(record, &mut self.page())?;
            self.side = side;
            let below = format!("{path}/{}", String::from_utf8_lossy(name));
            let node = match item {
                Item::File(content, cut) => Node::File(self.file(&below, content, *cut)?),
                Item::Directory(items) => Node::Directory(self.tree(&below, items)?),
                Item::Other(node) => node.clone(),
            };
            let entry = Entry {
                name: name.clone(),
                attributes: attributes.clone(),
                node,
            };
            directory.push(Arc::new(entry), &mut self.page())?;
        }
        directory.finish(&mut self.page())
    }
}

/// Writes a restore point with this tree; returns it and what each of its files needs.
pub fn plant(
    catalog: &Catalog,
    backup: &str,
    point: &str,
    top: &Item,
) -> keepfs::error::Result<(Arc<Point>, Needs)> {
    let writer = Writer::new(catalog.repository().clone(), None)?;
    let mut planter = Planter {
        writer: &writer,
        side: SideWriter::default(),
        needs: Needs::new(),
    };
    let Item::Directory(items) = top else {
        panic!("a point's top is a directory")
    };
    let tree = planter.tree(&format!("{backup}/{point}"), items)?;
    let side = std::mem::take(&mut planter.side);
    let (side, side_bytes) = side.finish(&mut planter.page())?;
    let needs = planter.needs;
    writer.flush()?;
    let record = PointRecord {
        mode: 0o755,
        owner: owner(),
        mtime: Time::new(1_500_000_000, 7),
        side,
        side_bytes,
        ..PointRecord::new(point.as_bytes(), Time::new(5, 6), tree)
    };
    let point = catalog.commit(backup.as_bytes(), Draft { record })?;
    Ok((point, needs))
}

/// Writes what need not be there of a point: a catalogue of it alone, and a mark.
pub fn list_and_mark(repository: &Repository, point: &Point, catalogue: ObjectId) {
    let copy = CatalogueEntry {
        id: point.id,
        generation: point.generation,
        record: encode(&point.record),
    };
    let list = Catalogue {
        replaces: Vec::new(),
        points: vec![copy],
    };
    repository
        .create_document(Name::Catalogue(catalogue), &list)
        .unwrap();
    let mark = Mark {
        keep_until: None,
        lock_until: None,
        gfs: 1,
        more: Vec::new(),
    };
    repository
        .create_document(Name::Mark(point.id, 0), &mark)
        .unwrap();
}
