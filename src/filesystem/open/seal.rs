//! Sealing: an open point becomes a complete one, as the copy that it is or as it was written.
//!
//! Order: every chunk is durable and in the index; the journal says which record comes; the record is created. The
//! journal goes last: a daemon that finds it with that record there knows that the point was sealed.

use super::attributes::Accepted;
use super::change::Change;
use super::content::{OpenContent, Place, Segment, SourceFile, is_there};
use super::copied::{SealAs, whole_copy_of};
use super::gone::remove;
use super::owners::Owners;
use super::read::spool_is_short;
use super::recut::Recut;
use super::state::{Body, OpenNode};
use super::{Inner, OpenPoint, Stage, TOP};
use crate::backup::{Chunks, Contents, Workers, tree_sink};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::filesystem::errno::Answer;
use crate::filesystem::inode::number;
use crate::filesystem::repositories::CompletePoint;
use crate::id::{ChunkId, ObjectId};
use crate::point::{
    Attributes, Content, ContentWriter, DirectoryWriter, Draft, Entry, Extent, File, Node, Owner,
    Point, PointRecord, Source, Tree, Trees,
};
use crate::repository::{Writer, encode};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Spooled bytes that are read at a time where they are cut between references.
const PIECE_BYTES: u64 = 4 << 20;
/// Threads that hash and compress what was not stored before.
const THREADS: usize = 2;

impl OpenPoint {
    /// Seals the point under this name: as `like` says if it is a whole copy, else as it was written. Returns when it
    /// is durable; on failure, or when it was given up before its record is made, it stays open.
    pub(super) fn seal_unless(
        self: &Arc<Self>,
        name: &[u8],
        like: SealAs,
        given_up: Arc<AtomicBool>,
    ) -> Answer<()> {
        let copy = {
            let mut inner = self.inner.lock();
            while matches!(inner.stage, Stage::Sealing(_)) {
                self.settled.wait(&mut inner);
            }
            if matches!(inner.stage, Stage::Sealed(_)) && inner.state.name == name {
                return Ok(());
            }
            Self::require_open(&inner)?;
            inner.given_up = given_up;
            let copy = whole_copy_of(&inner).map(|from| (like, from));
            inner.stage = match &copy {
                Some((SealAs::Source, from)) => Stage::Sealing(Some(from.clone())),
                _ => Stage::Sealing(None),
            };
            copy
        };
        let sealed = match &copy {
            Some((SealAs::Source, from)) => self.commit_copy(name, from),
            Some((SealAs::Written, from)) => self.commit_written(name, Some(from)),
            None => self.commit_written(name, None),
        };
        let failure = sealed
            .as_ref()
            .err()
            .map(|error| Error::new(error.kind(), error.message()));
        self.end_sealing(sealed);
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    pub(super) fn end_sealing(&self, sealed: Result<Arc<Point>>) {
        let mut gone = None;
        let mut inner = self.inner.lock();
        inner.stage = match sealed {
            Ok(point) => {
                inner.state.name = point.name().to_vec();
                gone = Some(self.set_aside());
                Stage::Sealed(Arc::new(CompletePoint {
                    repository: self.repository.clone(),
                    point,
                }))
            }
            Err(_) => {
                // Whoever calls next tries again.
                let _ = self.bringer.tell();
                inner.bring_again = true;
                self.record_accepted(&mut inner);
                Stage::Open
            }
        };
        inner.accepted = Accepted::default();
        self.settled.notify_all();
        self.hold(&mut inner);
        drop(inner);
        if let Some(gone) = gone {
            remove(&gone);
            self.mark.give_back();
        }
    }

    /// The point stays open: what was accepted because it was to become another is a change after all.
    fn record_accepted(&self, inner: &mut Inner) {
        for change in std::mem::take(&mut inner.accepted).into_changes() {
            if let Err(error) = self.record(inner, change) {
                tracing::warn!("{}: {error}", self.directory.display());
            }
        }
    }

    pub(super) fn commit(&self, record: PointRecord) -> Result<Arc<Point>> {
        let backup = self.repository.backup(self.backup).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                "the backup of this open point is gone; make it again",
            )
        })?;
        if self.inner.lock().given_up.load(Relaxed) {
            let message = "nobody waits for the sealing any more; try again";
            return Err(Error::new(Kind::Interrupted, message));
        }
        let sealing = Change::Sealing {
            record: fingerprint(&record),
        };
        let noted = {
            let inner = &mut *self.inner.lock();
            let appended = inner.journal.append(&sealing);
            appended.and_then(|()| inner.journal.sync())
        };
        if let Err(error) = noted {
            // If the daemon dies now, the point will be both complete and open.
            tracing::warn!("{}: {error}", self.path());
        }
        self.repository
            .catalog
            .commit(backup.name(), Draft { record })
    }

    /// The point is what its changes made. A copy keeps what its source says of the time and the host it was read at.
    pub(super) fn commit_written(
        &self,
        name: &[u8],
        copy_of: Option<&CompletePoint>,
    ) -> Result<Arc<Point>> {
        if copy_of.is_none() {
            self.require_no_doubt()?;
        }
        self.streamer.settle(self.id);
        self.forget_failure();
        // Once more, whatever was wanted before: what is there costs a look at the index.
        let sources = self.inner.lock().state.sources_in_order();
        sources.iter().for_each(|source| self.bringer.want(source));
        let repository = self.repository.catalog.repository();
        let writer = Arc::new(Writer::new(repository.clone(), None)?.marked(&self.mark));
        let ((tree, top), referred) = Workers::during(THREADS, |workers| {
            let sealing = Sealing {
                open: self,
                from: self.inner.lock().from.clone().map(|(from, _)| from),
                owners: RefCell::new(Owners::new(self.repository.owners.clone())),
                contents: Contents::new(writer.clone()),
                workers,
                referred: RefCell::default(),
            };
            Ok::<_, Error>((sealing.top()?, sealing.referred.into_inner()))
        })?;
        self.bringer.finish()?;
        writer.flush()?;
        referred.require(self)?;
        let source = copy_of.map(|from| from.point.record.source.clone());
        let time = copy_of.map_or(self.started, |from| from.point.record.time);
        let record = PointRecord {
            mode: top.mode,
            owner: (*top.owner).clone(),
            mtime: top.mtime,
            xattrs: top.xattrs,
            source: source.unwrap_or_else(|| Source {
                host: crate::repository::host_name(),
                paths: Vec::new(),
            }),
            origin: copy_of.map(CompletePoint::origin),
            ..PointRecord::new(name, time, tree)
        };
        self.commit(record)
    }
}

/// What tells a record from others before it is created: all of it that its creation does not change.
pub(super) fn fingerprint(record: &PointRecord) -> [u8; 32] {
    let record = PointRecord {
        backup: ObjectId::default(),
        sealed: Time::default(),
        sequence: 0,
        previous: [0; 32],
        program: String::new(),
        ..record.clone()
    };
    *blake3::hash(&encode(&record)).as_bytes()
}

struct Sealing<'a> {
    open: &'a OpenPoint,
    /// The point it is a copy of, whole or not.
    from: Option<Arc<CompletePoint>>,
    owners: RefCell<Owners>,
    contents: Contents,
    workers: &'a Workers,
    referred: RefCell<Referred>,
}

/// What a point refers to without having written it, each with a node that does.
#[derive(Default)]
struct Referred {
    files: HashMap<u64, (u64, Arc<SourceFile>)>,
    chunks: HashMap<ChunkId, u64>,
}

impl Referred {
    /// Fails unless all of it is in the repository's index: whatever should have brought it, a complete point never
    /// lacks data.
    fn require(&self, open: &OpenPoint) -> Result<()> {
        let trees = &open.repository.trees;
        for (node, source) in self.files.values() {
            if !is_there(trees, &source.file())? {
                source.trees()?;
                return Err(lacking(open, *node, trees));
            }
        }
        for (chunk, node) in &self.chunks {
            if trees.repository().find_kept(chunk)?.is_none() {
                return Err(lacking(open, *node, trees));
            }
        }
        Ok(())
    }
}

fn lacking(open: &OpenPoint, node: u64, trees: &Trees) -> Error {
    let path = open.inner.lock().state.path(node).unwrap_or_default();
    let message = format!(
        "not all of {} is in {}; copy it again",
        String::from_utf8_lossy(&path.join(&b'/')),
        trees.repository().location()
    );
    Error::new(Kind::Failed, message)
}

/// A directory that is being sealed.
struct Level {
    name: Vec<u8>,
    attributes: Attributes,
    twin: Option<Tree>,
    /// Names that are left, with their nodes.
    names: std::vec::IntoIter<(Vec<u8>, u64)>,
    directory: DirectoryWriter,
}

enum Sealed {
    Directory,
    File(OpenContent),
    Node(Node),
}

impl Sealing<'_> {
    fn top(&self) -> Result<(Tree, Attributes)> {
        let owner = self.from.as_ref().map(|from| &from.point.record.owner);
        let owner = owner.map(|owner| Arc::new(owner.clone()));
        self.tree(self.level(Vec::new(), TOP, owner)?)
    }

    /// The attributes of a node as a tree says them; `twin` owns what it is a copy of.
    fn described(&self, node: u64, twin: Option<Arc<Owner>>) -> Result<Attributes> {
        let described = self.open.node(node, |known| {
            let links = known.places.len().max(1) as u32;
            let attributes = Attributes {
                mode: known.facts.mode,
                owner: Arc::default(),
                mtime: known.facts.mtime,
                xattrs: known.xattrs.to_vec(),
                links,
                link_group: match links {
                    1 => 0,
                    _ => number(&[b"group", &node.to_le_bytes()]),
                },
            };
            (attributes, known.facts, known.linked_owner.clone())
        });
        let (mut attributes, facts, linked) = described.map_err(Error::from)?;
        // Not while the node is looked at: the host may have to ask somebody for names.
        attributes.owner = self.owners.borrow_mut().of(&facts, &[twin, linked]);
        Ok(attributes)
    }

    /// Who owns the entry of this name in the directory that this one is a copy of.
    fn twin_owner(&self, twin: Option<&Tree>, name: &[u8]) -> Option<Arc<Owner>> {
        let found = self.from.as_ref()?.trees().lookup(twin?, name);
        // What cannot be read there only lacks a name here.
        Some(found.ok()??.attributes.owner.clone())
    }

    fn level(&self, name: Vec<u8>, node: u64, owner: Option<Arc<Owner>>) -> Result<Level> {
        let names = self.open.names(node).map_err(Error::from)?;
        Ok(Level {
            name,
            attributes: self.described(node, owner)?,
            twin: self.open.node(node, OpenNode::twin).map_err(Error::from)?,
            names: names.into_iter(),
            directory: DirectoryWriter::default(),
        })
    }

    /// Everything below a directory, and what it has itself. A list of open directories instead of recursion: they
    /// may lie deeper than a stack reaches.
    fn tree(&self, top: Level) -> Result<(Tree, Attributes)> {
        let mut above: Vec<Level> = Vec::new();
        let mut level = top;
        loop {
            let (name, attributes, node) = if let Some((name, node)) = level.names.next() {
                let owner = self.twin_owner(level.twin.as_ref(), &name);
                let sealed = self.sealed(&name, node).map_err(|error| {
                    let names = above
                        .iter()
                        .skip(1)
                        .chain([&level])
                        .map(|level| &level.name);
                    let path: Vec<_> = names.chain([&name]).map(Vec::as_slice).collect();
                    let path = path.join(&b'/');
                    let path = path.strip_prefix(b"/").unwrap_or(&path);
                    error.context(String::from_utf8_lossy(path))
                })?;
                let Some(sealed) = sealed else {
                    let below = self.level(name, node, owner)?;
                    above.push(std::mem::replace(&mut level, below));
                    continue;
                };
                (name, self.described(node, owner)?, sealed)
            } else {
                let sink = &mut tree_sink(&self.contents.writer);
                let tree = level.directory.finish(sink)?;
                let Some(parent) = above.pop() else {
                    return Ok((tree, level.attributes));
                };
                let (name, attributes) = (level.name, level.attributes);
                level = parent;
                (name, attributes, Node::Directory(tree))
            };
            let entry = Entry {
                name,
                attributes,
                node,
            };
            let sink = &mut tree_sink(&self.contents.writer);
            level.directory.push(Arc::new(entry), sink)?;
        }
    }

    /// What a node is in the complete point; none for a directory.
    fn sealed(&self, name: &[u8], node: u64) -> Result<Option<Node>> {
        Ok(Some(
            match self.open.node(node, sealed_body).map_err(Error::from)? {
                Sealed::Directory => return Ok(None),
                Sealed::File(content) => Node::File(self.file(name, node, &content)?),
                Sealed::Node(node) => node,
            },
        ))
    }

    fn file(&self, name: &[u8], node: u64, content: &OpenContent) -> Result<File> {
        if content.size == 0 {
            return Ok(File::empty());
        }
        // A long list of chunks that were written here is not in pages yet.
        let ready = |source: &Arc<SourceFile>| {
            !source.written || matches!(source.file().content, Content::One(_))
        };
        if let Some(source) = content.whole_source().filter(ready) {
            let file = source.file().into_owned();
            let mut referred = self.referred.borrow_mut();
            referred.files.insert(source.number, (node, source));
            return Ok(file);
        }
        let spooled = |segment: &Segment| matches!(segment.place, Place::Spool);
        if content.segments.iter().all(spooled) {
            let spool = self.open.spool(node)?;
            require_length(&spool, content)?;
            spool
                .set_len(content.size)
                .map_err(|error| Error::io("cutting a spool file", error))?;
            let block = content.block(name);
            let stored = self.contents.store(&spool, name, block, self.workers);
            return Ok(stored.map_err(Error::from)?.0);
        }
        self.mixed(node, content, content.block(name))
    }

    /// Bytes from several places: chunks that are referred to whole stay what they are, everything else is cut anew.
    fn mixed(&self, node: u64, content: &OpenContent, block: u32) -> Result<File> {
        let mut list = ContentWriter::default();
        let mut tell = |extent| list.push(extent, &mut tree_sink(&self.contents.writer));
        let chunks = Chunks::new(&self.contents, self.workers, &mut tell);
        let mut cut = Recut::new(chunks, self.contents.cutting.clone(), block);
        for (begin, length, place) in content.cover(0, content.size) {
            match place {
                None => cut.extent(Extent {
                    length,
                    chunk: None,
                })?,
                Some(Place::Spool) => self.spooled(&mut cut, node, begin..begin + length)?,
                Some(Place::Source(source, offset)) => {
                    let stretch = (begin, offset, length);
                    self.referred(&mut cut, (node, block), &source, stretch)?;
                }
            }
        }
        cut.end()?;
        cut.finish()?;
        let (content, size) = list.finish(&mut tree_sink(&self.contents.writer))?;
        Ok(File {
            size,
            hash: self.open.known_hash(node),
            block,
            content,
        })
    }

    fn spooled(&self, cut: &mut Recut<'_>, node: u64, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let size = PIECE_BYTES.min(range.end - at) as u32;
            let bytes = self.open.read(node, at, size).map_err(Error::from)?;
            cut.bytes(at, &bytes)?;
            at += u64::from(size);
        }
        Ok(())
    }

    /// Bytes of a source, `length` from `offset` on, which lie at `begin` of the file.
    fn referred(
        &self,
        cut: &mut Recut<'_>,
        (node, block): (u64, u32),
        source: &SourceFile,
        (begin, offset, length): (u64, u64, u64),
    ) -> Result<()> {
        let mut at = begin;
        for part in source.parts(offset, offset + length)? {
            let part = part?;
            let (length, chunk) = (part.length(), part.chunk);
            if chunk.is_none() || part.whole && !(cut.is_open() && self.is_short(length, block)) {
                let of_node = chunk.map(|chunk| (chunk, node));
                self.referred.borrow_mut().chunks.extend(of_node);
                cut.extent(Extent { length, chunk })?;
            } else {
                let mut bytes = Vec::new();
                source.read(&part, &mut bytes)?;
                cut.bytes(at, &bytes)?;
            }
            at += length;
        }
        Ok(())
    }

    /// Whether a chunk is shorter than cutting makes them: it was cut off, and what changes beside it may heal that.
    fn is_short(&self, length: u64, block: u32) -> bool {
        let min = self.contents.writer.repository().settings().cut.min;
        length < u64::from(if block == 0 { min } else { block })
    }
}

/// Fails when bytes that were spooled are not there: the host may have crashed before they were written.
fn require_length(spool: &fs::File, content: &OpenContent) -> Result<()> {
    let facts = spool.metadata();
    let facts = facts.map_err(|error| Error::io("examining a spool file", error))?;
    let spooled = content.segments.last().map_or(0, Segment::end);
    if facts.len() >= spooled {
        return Ok(());
    }
    Err(spool_is_short())
}

fn sealed_body(node: &OpenNode) -> Sealed {
    match &node.body {
        Body::Directory { .. } => Sealed::Directory,
        Body::File { content, .. } => Sealed::File(content.clone()),
        Body::Symlink(target) => Sealed::Node(Node::Symlink(target.clone())),
        Body::Special(libc::S_IFBLK, device) => Sealed::Node(Node::Block(*device)),
        Body::Special(libc::S_IFCHR, device) => Sealed::Node(Node::Character(*device)),
        Body::Special(libc::S_IFSOCK, _) => Sealed::Node(Node::Socket),
        Body::Special(..) => Sealed::Node(Node::Fifo),
    }
}
