//! Open points: written by any tool, kept in memory and in a journal, until they are sealed.
//!
//! An open point is a list of changes. Each is written to the journal before it is answered, then applied to the
//! entries in memory; a daemon that starts again applies the journal and goes on. Bytes that a tool writes lie in one
//! spool file for each node; bytes that it copies from complete points are references, whose chunks are brought into
//! the repository behind the tool's back.

mod bring;
mod change;
mod content;
mod journal;
mod matching;
mod read;
mod seal;
mod state;

pub(super) use change::{Facts, Made, TOP};
pub(super) use state::{Body, OpenNode, State};

use super::errno::{Answer, Failure, Rule};
use super::inode::number;
use super::repositories::{CompletePoint, MountedRepository};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Entry, File, Node as EntryNode, Trees};
use bring::Bringer;
use change::Change;
use content::SourceFile;
use journal::Journal;
use parking_lot::{Condvar, Mutex};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A name that ends so is sealed by nothing but a rename.
pub(super) const PARTIAL: &[u8] = b".partial";

/// How far an open point is on its way to a complete one.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Open,
    /// Being sealed; calls are answered by comparison with the point it will be equal to, if there is one.
    Sealing(Option<Arc<CompletePoint>>),
    Sealed(Arc<CompletePoint>),
    Discarded,
}

struct Inner {
    state: State,
    stage: Stage,
    journal: Journal,
    /// The point it is a copy of, and whether references said so.
    from: Option<(Arc<CompletePoint>, bool)>,
    last_source: Option<Arc<SourceFile>>,
}

/// A restore point that is being written.
pub(super) struct OpenPoint {
    pub(super) id: ObjectId,
    pub(super) repository: Arc<MountedRepository>,
    pub(super) backup: ObjectId,
    pub(super) started: Time,
    /// The user who made it.
    pub(super) maker: u32,
    directory: PathBuf,
    /// Every mounted repository: where references lead.
    repositories: Arc<Vec<Arc<MountedRepository>>>,
    inner: Mutex<Inner>,
    /// Told when sealing has ended.
    settled: Condvar,
    bringer: Bringer,
}

impl std::fmt::Debug for OpenPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenPoint({})", self.directory.display())
    }
}

fn find_trees(
    repositories: &[Arc<MountedRepository>],
) -> impl Fn(ObjectId) -> Option<Arc<Trees>> + '_ {
    |id| {
        let found = repositories
            .iter()
            .find(|repository| repository.catalog.repository().id() == id);
        found.map(|repository| repository.trees.clone())
    }
}

impl OpenPoint {
    /// A new open point with its journal in `state_directory`.
    pub(super) fn begin(
        state_directory: &Path,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        name: &[u8],
        facts: Facts,
    ) -> Result<Arc<Self>> {
        repository.catalog.repository().require_writable()?;
        let id = ObjectId::random();
        let directory = state_directory.join(id.to_string());
        let spool = directory.join("spool");
        fs::create_dir_all(&spool)
            .map_err(|error| Error::io(format_args!("making {}", spool.display()), error))?;
        let (mut journal, _) = Journal::open(&directory)?;
        let begin = [
            Change::Begin {
                repository: repository.catalog.repository().id(),
                backup,
                started: facts.mtime,
                facts,
            },
            Change::Name(name.to_vec()),
        ];
        let mut state = State::default();
        for change in begin {
            journal.append(&change)?;
            state.apply(change, &|_| None);
        }
        Ok(Arc::new(Self::with(
            id,
            directory,
            repositories,
            repository,
            (backup, facts),
            (state, journal),
        )))
    }

    fn with(
        id: ObjectId,
        directory: PathBuf,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
        repository: &Arc<MountedRepository>,
        (backup, facts): (ObjectId, Facts),
        (state, journal): (State, Journal),
    ) -> Self {
        Self {
            id,
            repository: repository.clone(),
            backup,
            started: facts.mtime,
            maker: facts.uid,
            directory,
            repositories: repositories.clone(),
            bringer: Bringer::new(repository.catalog.repository().clone()),
            inner: Mutex::new(Inner {
                state,
                stage: Stage::Open,
                journal,
                from: None,
                last_source: None,
            }),
            settled: Condvar::new(),
        }
    }

    /// Goes on with an open point whose journal lies in this directory. None when it belongs to a repository that
    /// is not mounted, or another daemon serves it.
    pub(super) fn resume(
        directory: &Path,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
    ) -> Result<Option<Arc<Self>>> {
        let (journal, changes) = match Journal::open(directory) {
            Err(error) if error.kind() == Kind::Busy => return Ok(None),
            opened => opened?,
        };
        let Some(Change::Begin {
            repository,
            backup,
            facts,
            ..
        }) = changes.first().cloned()
        else {
            return Ok(None);
        };
        let Some(repository) = repositories
            .iter()
            .find(|known| known.catalog.repository().id() == repository)
        else {
            return Ok(None);
        };
        let mut state = State::default();
        for change in changes {
            state.apply(change, &find_trees(repositories));
        }
        let id = directory.file_name().and_then(|name| name.to_str());
        let id = id.and_then(|name| name.parse().ok()).unwrap_or_default();
        let open = Self::with(
            id,
            directory.to_owned(),
            repositories,
            repository,
            (backup, facts),
            (state, journal),
        );
        open.find_from_again();
        if open.was_sealed() {
            open.remove_directory();
            return Ok(None);
        }
        Ok(Some(Arc::new(open)))
    }

    /// The daemon died after the record was created and before the journal was removed.
    fn was_sealed(&self) -> bool {
        let inner = self.inner.lock();
        let Some((repository, point, generation)) = inner.state.from else {
            return false;
        };
        let contents = self.repository.contents();
        let points = contents.points.get(&self.backup);
        let named = points.and_then(|points| points.get(&inner.state.name));
        let origin = named.and_then(|named| named.record.origin.as_ref());
        origin.is_some_and(|origin| {
            (origin.repository, origin.point, origin.generation) == (repository, point, generation)
        })
    }

    fn find_from_again(&self) {
        let mut inner = self.inner.lock();
        let Some((repository, point, generation)) = inner.state.from else {
            return;
        };
        let Some(repository) = self
            .repositories
            .iter()
            .find(|known| known.catalog.repository().id() == repository)
        else {
            return;
        };
        let contents = repository.contents();
        let found = contents
            .points
            .values()
            .flat_map(|points| points.values())
            .find(|known| known.id == point && known.generation == generation);
        if let Some(point) = found {
            let from = Arc::new(CompletePoint {
                repository: repository.clone(),
                point: point.clone(),
            });
            matching::rematch_all(&mut inner.state, &from);
            inner.from = Some((from, true));
        }
        // What was not brought before the daemon ended is asked for again; what is there costs a look at the index.
        for source in inner.state.sources.values() {
            self.bringer.want(source);
        }
    }

    /// The inode number of a node.
    pub(super) fn ino(&self, node: u64) -> u64 {
        number(&[b"open", &self.id.0, &node.to_le_bytes()])
    }

    /// The last name on the path to a node, for messages.
    pub(super) fn last_name(&self, node: u64) -> String {
        let inner = self.inner.lock();
        let place = inner
            .state
            .nodes
            .get(&node)
            .and_then(|node| node.places.first());
        let name = place.map_or(&inner.state.name, |(_, name)| name);
        String::from_utf8_lossy(name).into_owned()
    }

    /// Its name now.
    pub(super) fn name(&self) -> Vec<u8> {
        self.inner.lock().state.name.clone()
    }

    /// The complete point that it has become.
    pub(super) fn sealed(&self) -> Option<Arc<CompletePoint>> {
        match &self.inner.lock().stage {
            Stage::Sealed(point) => Some(point.clone()),
            _ => None,
        }
    }

    /// What a node has become in the complete point.
    pub(super) fn sealed_entry(&self, node: u64) -> Option<(Arc<CompletePoint>, Arc<Entry>)> {
        let (point, path) = {
            let inner = self.inner.lock();
            let Stage::Sealed(point) = &inner.stage else {
                return None;
            };
            (point.clone(), inner.state.path(node)?)
        };
        let entry = entry_at(&point, &path)?;
        Some((point, entry))
    }

    /// Looks at a node.
    pub(super) fn node<T>(&self, node: u64, look: impl FnOnce(&OpenNode) -> T) -> Answer<T> {
        let inner = self.inner.lock();
        inner
            .state
            .nodes
            .get(&node)
            .map(look)
            .ok_or_else(|| Rule::Stale.into())
    }

    /// The node of a name in a directory.
    pub(super) fn child(&self, parent: u64, name: &[u8]) -> Option<u64> {
        self.inner.lock().state.child(parent, name)
    }

    /// Every name of a directory with its node.
    pub(super) fn names(&self, directory: u64) -> Answer<Vec<(Vec<u8>, u64)>> {
        self.node(directory, |node| {
            let names = node.names().ok_or(Rule::NotADirectory)?;
            Ok(names
                .iter()
                .map(|(name, known)| (name.clone(), known.node))
                .collect())
        })?
    }

    /// Writes a change down and applies it.
    fn change(&self, inner: &mut Inner, change: Change) -> Answer<()> {
        self.bringer.check()?;
        inner.journal.append(&change)?;
        inner.state.apply(change, &find_trees(&self.repositories));
        Ok(())
    }

    fn rematch(&self, inner: &mut Inner, parent: u64, name: &[u8]) {
        if let Some((from, _)) = &inner.from {
            matching::rematch(&mut inner.state, from, parent, name);
        }
    }

    fn rematch_node(&self, inner: &mut Inner, node: u64) {
        if let Some((from, _)) = &inner.from {
            matching::rematch_node(&mut inner.state, from, node);
        }
    }

    /// Fails unless the point may change.
    fn require_open(inner: &Inner) -> Answer<()> {
        let sentence = match &inner.stage {
            Stage::Open => return Ok(()),
            Stage::Sealing(None) => {
                let message = "the point is just being sealed; wait for the end of that";
                return Err(Error::new(Kind::Busy, message).into());
            }
            Stage::Sealing(Some(_)) | Stage::Sealed(_) => {
                "the point is complete, and complete points never change"
            }
            Stage::Discarded => "the point was discarded",
        };
        Err(Error::new(Kind::ReadOnly, sentence).into())
    }

    /// Makes a node under a name that must be free.
    pub(super) fn make(
        &self,
        parent: u64,
        name: &[u8],
        made: Made,
        facts: Facts,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Answer<u64> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        if inner.state.child(parent, name).is_some() {
            return Err(Rule::Exists.into());
        }
        let node = inner.state.next;
        let make = Change::Make {
            parent,
            name: name.to_vec(),
            node,
            made,
            facts,
        };
        self.change(inner, make)?;
        for (name, value) in xattrs {
            let value = Some(value);
            self.change(inner, Change::Xattr { node, name, value })?;
        }
        self.rematch(inner, parent, name);
        Ok(node)
    }

    /// Makes a file that is one of a complete point of the same repository, with everything it has.
    pub(super) fn link_complete(
        &self,
        point: &CompletePoint,
        entry: &Entry,
        parent: u64,
        name: &[u8],
    ) -> Answer<u64> {
        let made = match &entry.node {
            EntryNode::File(file) => {
                let mut inner = self.inner.lock();
                Self::require_open(&inner)?;
                Made::Linked(self.source(&mut inner, point, file)?.number)
            }
            EntryNode::Directory(_) => return Err(Rule::IsADirectory.into()),
            EntryNode::Symlink(target) => Made::Symlink(target.clone()),
            EntryNode::Block(device) | EntryNode::Character(device) => {
                Made::Special(entry.node.type_bits(), *device)
            }
            EntryNode::Fifo | EntryNode::Socket => Made::Special(entry.node.type_bits(), 0),
        };
        let attributes = &entry.attributes;
        let facts = Facts {
            mode: attributes.mode,
            uid: attributes.owner.uid,
            gid: attributes.owner.gid,
            mtime: attributes.mtime,
        };
        self.make(parent, name, made, facts, attributes.xattrs.clone())
    }

    /// Another name for a node.
    pub(super) fn link(&self, node: u64, parent: u64, name: &[u8]) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        if inner.state.child(parent, name).is_some() {
            return Err(Rule::Exists.into());
        }
        let link = Change::Link {
            parent,
            name: name.to_vec(),
            node,
        };
        self.change(inner, link)?;
        self.rematch(inner, parent, name);
        Ok(())
    }

    /// Removes a name: of a directory, which must be empty, or of anything else.
    pub(super) fn remove(&self, parent: u64, name: &[u8], directory: bool) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        let number = inner.state.child(parent, name).ok_or(Rule::NoEntry)?;
        let names = inner.state.nodes.get(&number).and_then(OpenNode::names);
        match (directory, names.map(|names| names.is_empty())) {
            (true, None) => return Err(Rule::NotADirectory.into()),
            (true, Some(false)) => return Err(Rule::NotEmpty.into()),
            (false, Some(_)) => return Err(Rule::IsADirectory.into()),
            _ => {}
        }
        let name = name.to_vec();
        self.change(inner, Change::Remove { parent, name })?;
        self.drop_spool(inner, number);
        Ok(())
    }

    /// The spool file of a node that has no name any more. Who has it open keeps it.
    fn drop_spool(&self, inner: &Inner, node: u64) {
        let gone = inner
            .state
            .nodes
            .get(&node)
            .is_some_and(|node| node.places.is_empty() && node.content().is_some());
        if gone {
            // It may never have been written to.
            let _ = fs::remove_file(self.spool_path(node));
        }
    }

    /// Renames within the point. With `keep` an existing name is not replaced.
    pub(super) fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), keep: bool) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        let node = inner.state.child(from.0, from.1).ok_or(Rule::NoEntry)?;
        let replaced = inner.state.child(to.0, to.1);
        if replaced == Some(node) {
            return Ok(());
        }
        if inner.state.lies_in(to.0, node) {
            let message = "a directory cannot be moved into itself";
            return Err(Error::new(Kind::Invalid, message).into());
        }
        if let Some(replaced) = replaced {
            check_replace(&inner.state, node, replaced, keep)?;
        }
        let rename = Change::Rename {
            parent: from.0,
            name: from.1.to_vec(),
            new_parent: to.0,
            new_name: to.1.to_vec(),
        };
        self.change(inner, rename)?;
        if let Some(replaced) = replaced {
            self.drop_spool(inner, replaced);
        }
        self.rematch(inner, to.0, to.1);
        if let Some((from, _)) = &inner.from {
            matching::rematch_below(&mut inner.state, from, node);
        }
        Ok(())
    }

    /// Sets permissions, owner and time. After sealing only what the sealed point has is accepted.
    pub(super) fn set_facts(&self, node: u64, set: impl Fn(&mut Facts)) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let known = inner.state.nodes.get(&node).ok_or(Rule::Stale)?;
        let mut facts = known.facts;
        if let Some(entry) = self.settled_entry(inner, node) {
            let attributes = &entry.attributes;
            let has = Facts {
                mode: attributes.mode,
                uid: attributes.owner.uid,
                gid: attributes.owner.gid,
                mtime: attributes.mtime,
            };
            let mut asked = has;
            set(&mut asked);
            // A tool that knows whole seconds only sets what it knows.
            let whole_second = asked.mtime == Time::new(has.mtime.seconds, 0);
            let same_time = asked.mtime == has.mtime || whole_second;
            asked.mtime = has.mtime;
            if same_time && asked == has {
                return Ok(());
            }
        }
        Self::require_open(inner)?;
        set(&mut facts);
        if facts != known.facts {
            self.change(inner, Change::Facts { node, facts })?;
        }
        Ok(())
    }

    /// Sets or removes an extended attribute; after sealing as [`Self::set_facts`] does.
    pub(super) fn set_xattr(&self, node: u64, name: &[u8], value: Option<&[u8]>) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(entry) = self.settled_entry(inner, node) {
            let has = entry.attributes.xattrs.iter().find(|has| has.0 == name);
            if has.map(|has| has.1.as_slice()) == value {
                return Ok(());
            }
        }
        Self::require_open(inner)?;
        let (name, value) = (name.to_vec(), value.map(<[u8]>::to_vec));
        self.change(inner, Change::Xattr { node, name, value })
    }

    /// The first names, at most `limit`, that the point it may be a copy of does not have so.
    pub(super) fn unmatched(&self, limit: usize) -> Vec<String> {
        let inner = self.inner.lock();
        let names = inner.state.nodes.values().filter_map(OpenNode::names);
        let unmatched = names.flatten().filter(|(_, name)| !name.matched);
        unmatched
            .take(limit)
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    /// The entry that a node is equal to, once the point is sealed or on its way there.
    fn settled_entry(&self, inner: &Inner, node: u64) -> Option<Arc<Entry>> {
        let like = match &inner.stage {
            Stage::Sealed(point) | Stage::Sealing(Some(point)) => point.clone(),
            _ => return None,
        };
        entry_at(&like, &inner.state.path(node)?)
    }

    /// Cuts or extends a file.
    pub(super) fn resize(&self, node: u64, size: u64) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let content = inner.state.nodes.get(&node).and_then(OpenNode::content);
        let old = content.ok_or(Rule::IsADirectory)?.size;
        if old == size {
            return Ok(());
        }
        Self::require_open(inner)?;
        if size < old {
            self.cut_spool(node, size)?;
        }
        self.change(inner, Change::Size { node, size })?;
        self.rematch_node(inner, node);
        Ok(())
    }

    /// What is cut off must not come back when the file grows again.
    fn cut_spool(&self, node: u64, size: u64) -> Result<()> {
        let path = self.spool_path(node);
        match fs::File::options().write(true).open(&path) {
            Ok(file) => match file.metadata() {
                Ok(facts) if facts.len() > size => file.set_len(size),
                _ => Ok(()),
            },
            Err(_) => Ok(()),
        }
        .map_err(|error| Error::io(format_args!("cutting {}", path.display()), error))
    }

    pub(super) fn spool_path(&self, node: u64) -> PathBuf {
        self.directory.join("spool").join(node.to_string())
    }

    /// The spool file of a node, made if it is not there.
    pub(super) fn spool(&self, node: u64) -> Result<fs::File> {
        let path = self.spool_path(node);
        fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io(format_args!("opening {}", path.display()), error))
    }

    /// Writes bytes of a file into its spool.
    pub(super) fn write(
        &self,
        node: u64,
        spool: &fs::File,
        offset: u64,
        data: &[u8],
    ) -> Answer<()> {
        Self::require_open(&self.inner.lock())?;
        let (begin, length) = (offset, data.len() as u64);
        if begin
            .checked_add(length)
            .is_none_or(|end| end > i64::MAX as u64)
        {
            let message = "a file cannot be larger than 8 EiB";
            return Err(Error::new(Kind::TooBig, message).into());
        }
        // The bytes first: what the journal tells of is there.
        spool
            .write_all_at(data, offset)
            .map_err(|error| Error::io("spooling", error))?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        let written = Change::Written {
            node,
            begin,
            length,
        };
        self.change(inner, written)?;
        self.unmatch(inner, node);
        Ok(())
    }

    /// Bytes that were just written are compared when the file is closed.
    fn unmatch(&self, inner: &mut Inner, node: u64) {
        if inner.state.matched > 0 {
            self.rematch_node(inner, node);
        }
    }

    /// The source for a file of a complete point; slices that follow each other share it.
    fn source(
        &self,
        inner: &mut Inner,
        point: &CompletePoint,
        file: &File,
    ) -> Answer<Arc<SourceFile>> {
        let repository = point.repository.catalog.repository().id();
        if let Some(last) = &inner.last_source
            && last.repository == repository
            && last.file == *file
        {
            return Ok(last.clone());
        }
        let number = inner.state.sources.len() as u64;
        let source = Change::Source {
            number,
            repository,
            file: file.clone(),
        };
        self.change(inner, source)?;
        let source = inner.state.sources.get(&number).cloned();
        let source = source.ok_or(Rule::Stale)?;
        inner.last_source = Some(source.clone());
        Ok(source)
    }

    /// Refers to bytes of a file of a complete point; `path` is where that file is there.
    pub(super) fn refer(
        &self,
        node: u64,
        begin: u64,
        length: u64,
        (point, file, offset): (&Arc<CompletePoint>, &File, u64),
        path: Option<Vec<Vec<u8>>>,
    ) -> Answer<()> {
        let name = path.as_ref().and_then(|path| path.last().cloned());
        let source = {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            Self::require_open(inner)?;
            let source = self.source(inner, point, file)?;
            let reference = Change::Reference {
                node,
                begin,
                length,
                source: source.number,
                offset,
            };
            self.change(inner, reference)?;
            self.note_from(inner, point, node, path)?;
            self.rematch_node(inner, node);
            source
        };
        // Outside the lock: this waits while the transfer is far behind.
        self.bringer.want_named(&source, &name.unwrap_or_default());
        Ok(())
    }

    /// A file that comes from the same path of a complete point says which point this is a copy of.
    fn note_from(
        &self,
        inner: &mut Inner,
        point: &Arc<CompletePoint>,
        node: u64,
        path: Option<Vec<Vec<u8>>>,
    ) -> Answer<()> {
        let known = inner.from.as_ref();
        if known.is_some_and(|(_, sure)| *sure) || path.is_none() || inner.state.path(node) != path
        {
            return Ok(());
        }
        self.copied_from(inner, point, true)
    }

    fn copied_from(&self, inner: &mut Inner, point: &Arc<CompletePoint>, sure: bool) -> Answer<()> {
        let from = Change::From {
            repository: point.repository.catalog.repository().id(),
            point: point.point.id,
            generation: point.point.generation,
        };
        self.change(inner, from)?;
        matching::rematch_all(&mut inner.state, point);
        inner.from = Some((point.clone(), sure));
        Ok(())
    }

    /// Bytes that are copied through the caller may be those of this point.
    pub(super) fn may_be_copy_of(&self, point: &Arc<CompletePoint>) -> Answer<()> {
        let mut inner = self.inner.lock();
        self.copied_from(&mut inner, point, false)
    }

    /// A file that was written to is closed: its content is compared with that of the point it may be a copy of.
    pub(super) fn closed(&self, node: u64, spool: Option<&fs::File>) {
        let (from, path, size) = {
            let inner = self.inner.lock();
            let Some((from, _)) = inner.from.clone() else {
                return;
            };
            let Some(content) = inner.state.nodes.get(&node).and_then(OpenNode::content) else {
                return;
            };
            let spooled = content
                .segments
                .iter()
                .all(|segment| matches!(segment.place, content::Place::Spool));
            if !spooled || content.size == 0 {
                return;
            }
            (from, inner.state.path(node), content.size)
        };
        // A temporary name has no twin yet, but its final name will: the content is hashed all the same.
        let _ = (from, path);
        let hash = spool.and_then(|spool| hash_of(spool, size).ok());
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(OpenNode {
            body: Body::File {
                content,
                hash: known,
            },
            ..
        }) = inner.state.nodes.get_mut(&node)
            && content.size == size
        {
            *known = hash;
        }
        self.rematch_node(inner, node);
    }

    /// Makes the journal, and with it everything but spooled bytes, survive the host.
    pub(super) fn sync(&self) -> Answer<()> {
        self.bringer.check()?;
        Ok(self.inner.lock().journal.sync()?)
    }

    /// Returns when everything that was referred to is in the repository.
    pub(super) fn sync_all(&self) -> Answer<()> {
        self.sync()?;
        Ok(self.bringer.finish()?)
    }

    /// Gives the point up with everything in it.
    pub(super) fn discard(&self) -> Answer<()> {
        let mut inner = self.inner.lock();
        Self::require_open(&inner)?;
        inner.stage = Stage::Discarded;
        self.remove_directory();
        Ok(())
    }

    fn remove_directory(&self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!("{} was not removed: {error}", self.directory.display());
        }
    }

    /// Another name for the point, which stays open.
    pub(super) fn set_name(&self, name: &[u8]) -> Answer<()> {
        let mut inner = self.inner.lock();
        Self::require_open(&inner)?;
        self.change(&mut inner, Change::Name(name.to_vec()))
    }
}

fn check_replace(state: &State, node: u64, replaced: u64, keep: bool) -> Answer<()> {
    if keep {
        return Err(Rule::Exists.into());
    }
    let names = |node: u64| state.nodes.get(&node).and_then(OpenNode::names);
    match (names(node), names(replaced)) {
        (Some(_), Some(names)) if !names.is_empty() => Err(Rule::NotEmpty.into()),
        (Some(_), None) => Err(Rule::NotADirectory.into()),
        (None, Some(_)) => Err(Rule::IsADirectory.into()),
        _ => Ok(()),
    }
}

/// The entry at a path of a complete point.
fn entry_at(point: &CompletePoint, path: &[Vec<u8>]) -> Option<Arc<Entry>> {
    let top = Arc::new(point.point.record.top());
    point.trees().resolve(&top, &path.join(&b'/')).ok()?
}

/// BLAKE3 of a spooled file; holes read as zeros.
fn hash_of(spool: &fs::File, size: u64) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let want = buffer.len().min((size - at) as usize);
        let count = spool.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            // Behind the spooled bytes the file is a hole.
            buffer[..want].fill(0);
        }
        let count = if count == 0 { want } else { count };
        hasher.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Engine(error) => error,
            other => Error::new(Kind::Failed, format!("{other:?}")),
        }
    }
}
