//! Repositories with contents for tests of whole points: made by hand, read back by hand.

use keepfs::chunk::Cutting;
use keepfs::clock::{Clock, Time};
use keepfs::copy::{End, Scope, Selection, SessionReport, TransferOptions, copy_points};
use keepfs::error::Result;
use keepfs::id::ChunkId;
use keepfs::point::{
    Content, ContentWriter, DirectoryWriter, Draft, Entry, Extent, File, Inode, Node, Point,
    PointRecord, SideWriter, Tree, Trees,
};
use keepfs::progress::Progress;
use keepfs::repository::{Credential, Lane, Local, Repository, Settings, Writer};
use keepfs::store::faults::FaultyStore;
use keepfs::store::{MemoryStore, SharedStore};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const MIB: u64 = 1 << 20;

/// Images (`*.img`) are cut into blocks of so many bytes: a small one has many extents.
pub const BLOCK: u32 = 512;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Bytes of a hole before the content.
    pub hole: u64,
    pub bytes: Vec<u8>,
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self { hole: 0, bytes }
    }
}

/// Files by path; directories are made as paths need them.
pub type Files = BTreeMap<String, Body>;

/// A store with faults on demand, and a repository in it.
pub struct Site {
    pub store: FaultyStore,
    pub cache: tempfile::TempDir,
    pub key: Credential,
}

impl Site {
    pub fn new(pack_bytes: u64, key: u8) -> Self {
        Self::in_store(Arc::new(MemoryStore::new()), pack_bytes, key)
    }

    pub fn in_store(store: SharedStore, pack_bytes: u64, key: u8) -> Self {
        let key = Credential::key_file(&[key; 64]).unwrap();
        let settings = Settings {
            seed: [9; 32],
            pack_bytes,
            ..Settings::default()
        };
        let store = FaultyStore::new(store);
        let shared = Arc::new(store.clone());
        Repository::init(shared, &key, "test", &settings, &Clock::system()).unwrap();
        Self {
            store,
            cache: tempfile::tempdir().unwrap(),
            key,
        }
    }

    /// As a process that just started, on a host that has no cache.
    pub fn open(&mut self) -> End {
        self.cache = tempfile::tempdir().unwrap();
        self.reopen()
    }

    /// As a process that just started.
    pub fn reopen(&self) -> End {
        let local = Local {
            cache: self.cache.path().to_owned(),
            frame_cache_bytes: 16 << 20,
            clock: Clock::system(),
        };
        let shared = Arc::new(self.store.clone());
        End::open(Repository::open(shared, &self.key, local).unwrap()).unwrap()
    }

    /// Backs up `files` as a complete point.
    pub fn back_up(&self, backup: &str, name: &str, seconds: i64, files: &Files) -> Arc<Point> {
        let end = self.reopen();
        let writer = Writer::new(end.repository().clone(), None).unwrap();
        let tree = write_directory(&writer, "", files);
        let (side, side_bytes) = write_side(&writer, tree.entries);
        writer.flush().unwrap();
        let record = PointRecord {
            mode: 0o750,
            mtime: Time::new(1, 2),
            xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())],
            side,
            side_bytes,
            ..PointRecord::new(name.as_bytes(), Time::new(seconds, 0), tree)
        };
        end.catalog
            .commit(backup.as_bytes(), Draft { record })
            .unwrap()
    }
}

fn sink(writer: &Writer) -> impl FnMut(ChunkId, &[u8]) -> Result<()> + '_ {
    |id, bytes| writer.put(Lane::Tree, id, bytes).map(|_| ())
}

fn write_side(writer: &Writer, entries: u64) -> (Content, u64) {
    let mut side = SideWriter::default();
    for inode in 0..entries {
        let record = Inode {
            inode,
            ..Inode::default()
        };
        side.push(record, &mut sink(writer)).unwrap();
    }
    side.finish(&mut sink(writer)).unwrap()
}

fn write_directory(writer: &Writer, prefix: &str, files: &Files) -> Tree {
    let mut names: Vec<(String, bool)> = files
        .range(prefix.to_owned()..)
        .take_while(|(path, _)| path.starts_with(prefix))
        .map(|(path, _)| match path[prefix.len()..].split_once('/') {
            Some((name, _)) => (name.to_owned(), true),
            None => (path[prefix.len()..].to_owned(), false),
        })
        .collect();
    names.sort();
    names.dedup();
    let mut directory = DirectoryWriter::default();
    for (name, is_directory) in names {
        let path = format!("{prefix}{name}");
        let node = if is_directory {
            Node::Directory(write_directory(writer, &format!("{path}/"), files))
        } else {
            Node::File(write_file(writer, &path, &files[&path]))
        };
        let entry = Entry {
            name: name.into_bytes(),
            attributes: Default::default(),
            node,
        };
        directory.push(Arc::new(entry), &mut sink(writer)).unwrap();
    }
    directory.finish(&mut sink(writer)).unwrap()
}

fn write_file(writer: &Writer, path: &str, body: &Body) -> File {
    let image = path.ends_with(".img");
    let cutting = match image {
        true => Cutting::fixed(BLOCK).unwrap(),
        false => writer.repository().settings().cutting(),
    };
    let mut content = ContentWriter::default();
    let hole = Extent {
        length: body.hole,
        chunk: None,
    };
    content.push(hole, &mut sink(writer)).unwrap();
    let mut rest = body.bytes.as_slice();
    while let Some(length) = cutting.cut(rest, true) {
        let (chunk, others) = rest.split_at(length);
        let lane = if body.bytes.len() == length || image {
            Lane::of_name(path.as_bytes())
        } else {
            Lane::Alone
        };
        let id = ChunkId::of(chunk);
        writer.put(lane, id, chunk).unwrap();
        let extent = Extent {
            length: length as u64,
            chunk: Some(id),
        };
        content.push(extent, &mut sink(writer)).unwrap();
        rest = others;
    }
    let (content, size) = content.finish(&mut sink(writer)).unwrap();
    File {
        size,
        content,
        ..File::empty()
    }
}

/// Every file below a tree, read byte for byte.
pub fn read_all(trees: &Arc<Trees>, tree: &Tree) -> Files {
    let mut files = Files::new();
    read_directory(trees, tree, "", &mut files);
    files
}

fn read_directory(trees: &Arc<Trees>, tree: &Tree, prefix: &str, files: &mut Files) {
    for entry in trees.entries(tree) {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
        match &entry.node {
            Node::Directory(tree) => read_directory(trees, tree, &format!("{path}/"), files),
            Node::File(file) => drop(files.insert(path, read_file(trees, file))),
            other => panic!("{path} is a {}", other.type_name()),
        }
    }
}

fn read_file(trees: &Arc<Trees>, file: &File) -> Body {
    let mut body = Body::from(Vec::new());
    for extent in trees.extents_from(file, 0) {
        match extent.unwrap().1 {
            Extent {
                length,
                chunk: None,
            } => body.hole += length,
            Extent {
                chunk: Some(id), ..
            } => body
                .bytes
                .extend(trees.repository().read_chunk(&id).unwrap()),
        }
    }
    assert_eq!(body.hole + body.bytes.len() as u64, file.size);
    body
}

/// Every chunk of the files below a tree, by path.
pub fn chunks_of(trees: &Arc<Trees>, tree: &Tree) -> BTreeMap<String, Vec<ChunkId>> {
    let mut chunks = BTreeMap::new();
    for visit in keepfs::point::Walk::new(trees.clone(), tree) {
        let keepfs::point::Visit::Entry { path, entry } = visit.unwrap() else {
            continue;
        };
        if let Some(file) = entry.file() {
            let ids = trees
                .extents_from(file, 0)
                .filter_map(|extent| extent.unwrap().1.chunk);
            chunks.insert(String::from_utf8(path).unwrap(), ids.collect());
        }
    }
    chunks
}

/// Numbers that look random and are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Words that do.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            let word = self.below(500);
            text.extend(
                format!(
                    "w{word:x}{} ",
                    if word.is_multiple_of(7) { "\n" } else { "" }
                )
                .bytes(),
            );
        }
        text.truncate(length);
        text
    }
}

/// A tree of small and large files, text and noise, duplicates, holes and empty files.
pub fn assorted(seed: u64, count: usize) -> Files {
    let mut random = Random(seed);
    let mut files = Files::new();
    for number in 0..count {
        let length = match random.below(10) {
            0 => 0,
            1..=6 => random.below(4000) as usize,
            7 | 8 => random.below(200_000) as usize,
            _ => random.below(5 << 20) as usize,
        };
        let bytes = match random.below(3) {
            0 => random.bytes(length),
            _ => random.text(length),
        };
        let ending = ["txt", "bin", "rs", "html"][random.below(4) as usize];
        let path = format!("d{}/e{}/f{number:04}.{ending}", number % 5, number % 3);
        let hole = if number % 11 == 0 { 1 << 20 } else { 0 };
        files.insert(path, Body { hole, bytes });
        if number % 13 == 0 {
            let copy = files.values().nth(number / 2).unwrap().clone();
            files.insert(format!("copies/c{number:04}.{ending}"), copy);
        }
    }
    files
}

/// Chunks of the source's files that the target's index does not know.
pub fn missing_chunks(source: &End, target: &End) -> usize {
    let contents = source.catalog.contents();
    let ids: std::collections::BTreeSet<_> = contents
        .points
        .values()
        .flat_map(|points| points.values())
        .flat_map(|point| chunks_of(&source.trees, &point.record.tree))
        .flat_map(|(_, ids)| ids)
        .collect();
    ids.iter()
        .filter(|id| target.repository().find(id).unwrap().is_none())
        .count()
}

/// Whatever point is visible in the target refers to nothing that is not there.
pub fn assert_points_are_whole(source: &End, target: &End) {
    for point in target
        .catalog
        .contents()
        .points
        .values()
        .flat_map(|points| points.values())
    {
        let chunks = chunks_of(&target.trees, &point.record.tree);
        assert_eq!(chunks, chunks_of(&source.trees, &point.record.tree));
        let there = |id| target.repository().find(id).unwrap().is_some();
        assert!(chunks.values().flatten().all(there));
        for id in chunks.values().flatten().step_by(7) {
            target.repository().read_chunk(id).unwrap();
        }
    }
}

pub fn everything() -> Selection {
    Selection {
        scopes: vec![Scope::Repository],
        into: None,
    }
}

pub fn try_copy(source: &End, target: &End) -> Result<SessionReport> {
    copy_with(&TransferOptions::default(), source, target)
}

pub fn copy_with(options: &TransferOptions, source: &End, target: &End) -> Result<SessionReport> {
    copy_points(&everything(), source, target, options, &Progress::default())
}

pub fn copy(source: &End, target: &End) -> SessionReport {
    try_copy(source, target).unwrap()
}

pub fn files_of(end: &End, backup: &str, point: &str) -> Files {
    let contents = end.catalog.refresh().unwrap();
    let point = contents.point(backup.as_bytes(), point.as_bytes()).unwrap();
    read_all(&end.trees, &point.record.tree)
}
