//! Trees: every page below the points, each once, by several threads.

use super::{Checked, Context, Needed, Object, Report, examined};
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::point::{
    Child, Content, ContentPage, DirectoryPage, Extent, File, Node, PAGE_LEVELS_MAX, Tree,
};
use crate::repository::decode;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;

/// Pages are small, so several requests must be under way at a time.
const THREADS: usize = 4;

/// A page to look at, with what the page above says of it.
enum Task {
    Directory {
        page: ChunkId,
        says: Says,
        depth: usize,
    },
    Content {
        page: ChunkId,
        own: Option<u64>,
        bytes: u64,
        depth: usize,
    },
}

/// What is said of a page of a directory by whoever names it.
struct Says {
    own: u64,
    entries: u64,
    bytes: u64,
    /// The first name, and a name that all are below; none where the page is a root.
    first: Option<Vec<u8>>,
    below: Option<Vec<u8>>,
}

impl Task {
    fn root(tree: &Tree) -> Self {
        let says = Says {
            own: tree.own,
            entries: tree.entries,
            bytes: tree.bytes,
            first: None,
            below: None,
        };
        Self::Directory {
            page: tree.root,
            says,
            depth: 0,
        }
    }

    fn page(&self) -> &ChunkId {
        match self {
            Self::Directory { page, .. } | Self::Content { page, .. } => page,
        }
    }

    /// A page is looked at once for each different thing that is said of it: 16 bytes each are remembered.
    fn key(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Directory { page, says, .. } => {
                hasher.update(b"d").update(&page.0);
                for number in [says.own, says.entries, says.bytes] {
                    hasher.update(&number.to_le_bytes());
                }
                for name in [&says.first, &says.below] {
                    let name = name.as_deref();
                    hasher.update(
                        &name
                            .map_or(u64::MAX, |name| name.len() as u64)
                            .to_le_bytes(),
                    );
                    hasher.update(name.unwrap_or_default());
                }
            }
            Self::Content {
                page, own, bytes, ..
            } => {
                hasher.update(b"c").update(&page.0);
                hasher.update(&own.unwrap_or(u64::MAX).to_le_bytes());
                hasher.update(&bytes.to_le_bytes());
            }
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        key
    }
}

#[derive(Default)]
struct State {
    /// Last in, first out: bounded by depth times the length of a page.
    tasks: Vec<Task>,
    busy: usize,
    visited: HashSet<[u8; 16]>,
    needed: Needed,
    pages: u64,
    entries: u64,
    failed: Option<Error>,
}

struct Trees<'a> {
    context: &'a Context<'a>,
    note_needed: bool,
    state: Mutex<State>,
    changed: Condvar,
}

/// Checks the trees and side tables of these points; returns the packs they need when `note_needed`.
pub(super) fn check(
    context: &Context,
    points: &[Checked],
    note_needed: bool,
    report: &mut Report,
) -> Result<Option<Needed>> {
    let trees = Trees {
        context,
        note_needed,
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    for checked in points {
        let record = &checked.point.record;
        let side = File {
            size: record.side_bytes,
            content: record.side.clone(),
            ..File::empty()
        };
        let mut tasks = vec![Task::root(&record.tree)];
        if let Err(error) = examined(trees.file(&side, &mut tasks))? {
            context.findings.problem(
                Object::Point,
                &checked.path,
                error.context("its side table"),
            );
        }
        trees.state.lock().tasks.append(&mut tasks);
    }
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| trees.work());
        }
    });
    let state = trees.state.into_inner();
    report.pages = state.pages;
    report.entries = state.entries;
    match state.failed {
        Some(error) => Err(error),
        None => Ok(note_needed.then_some(state.needed)),
    }
}

fn wrong(sentence: impl Into<String>) -> Error {
    Error::new(Kind::Damaged, sentence)
}

impl Trees<'_> {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            let Some(task) = state.tasks.pop() else {
                if state.busy == 0 {
                    self.changed.notify_all();
                    return;
                }
                self.changed.wait(&mut state);
                continue;
            };
            if state.failed.is_some() || !state.visited.insert(task.key()) {
                continue;
            }
            state.busy += 1;
            drop(state);
            let mut found = Vec::new();
            let result = self.page(&task, &mut found);
            state = self.state.lock();
            state.busy -= 1;
            state.pages += 1;
            state.tasks.append(&mut found);
            if let Err(error) = result {
                state.failed.get_or_insert(error);
            }
            self.changed.notify_all();
        }
    }

    fn page(&self, task: &Task, found: &mut Vec<Task>) -> Result<()> {
        self.context.progress.go_on()?;
        let id = *task.page();
        // A page in a pack that is known to be lost is told there.
        if self
            .context
            .findings
            .verdict(self.context.repository, &id)?
            .is_some()
        {
            return Ok(());
        }
        self.need(&id, None)?;
        let bytes = match examined(self.context.repository.read_chunk(&id))? {
            Ok(bytes) => bytes,
            Err(error) => {
                let number = self.context.findings.problem(Object::Page, id, error);
                if let Some(location) = self.context.repository.find(&id)? {
                    self.context
                        .findings
                        .chunks_are_lost(location.pack.id, [id], number);
                }
                return Ok(());
            }
        };
        self.context.progress.done(0, bytes.len() as u64);
        let sound = match task {
            Task::Directory { says, depth, .. } => DirectoryPage::decode(&bytes)
                .and_then(|page| self.directory(&id, &page, says, *depth, found)),
            Task::Content {
                own,
                bytes: says,
                depth,
                ..
            } => decode(&bytes).and_then(|page| self.content(&page, *own, *says, *depth, found)),
        };
        if let Err(error) = examined(sound)? {
            self.context.findings.problem(Object::Page, id, error);
        }
        Ok(())
    }

    fn directory(
        &self,
        id: &ChunkId,
        page: &DirectoryPage,
        says: &Says,
        depth: usize,
        found: &mut Vec<Task>,
    ) -> Result<()> {
        let mut sums = (0u64, 0u64, 0u64);
        let add = |sum: &mut u64, number: u64| {
            *sum = sum.saturating_add(number);
        };
        let (first, last) = match page {
            DirectoryPage::Leaf(entries) => {
                for entry in entries {
                    let (below, bytes) = match &entry.node {
                        Node::Directory(tree) => (tree.entries, tree.bytes),
                        _ => (0, entry.file().map_or(0, |file| file.size)),
                    };
                    add(&mut sums.0, 1);
                    add(&mut sums.1, below.saturating_add(1));
                    add(&mut sums.2, bytes);
                    match &entry.node {
                        Node::Directory(tree) => found.push(Task::root(tree)),
                        Node::File(file) => {
                            // One wrong file says nothing of the others.
                            if let Err(error) = examined(self.file(file, found))? {
                                let name = String::from_utf8_lossy(&entry.name);
                                let error = error.context(name);
                                self.context.findings.problem(Object::Page, id, error);
                            }
                        }
                        _ => {}
                    }
                }
                self.state.lock().entries += entries.len() as u64;
                let name = |entry: Option<&std::sync::Arc<crate::point::Entry>>| {
                    entry.map(|entry| entry.name.clone())
                };
                (name(entries.first()), name(entries.last()))
            }
            DirectoryPage::Inner(children) => {
                for (place, child) in children.iter().enumerate() {
                    add(&mut sums.0, child.own);
                    add(&mut sums.1, child.entries);
                    add(&mut sums.2, child.bytes);
                    let next = children.get(place + 1).map(|next| next.first.clone());
                    found.push(Task::Directory {
                        page: child.page,
                        says: said(child, next.or_else(|| says.below.clone())),
                        depth: depth + 1,
                    });
                }
                let name = |child: Option<&Child>| child.map(|child| child.first.clone());
                (name(children.first()), name(children.last()))
            }
        };
        if depth >= PAGE_LEVELS_MAX {
            found.clear();
            return Err(wrong("its pages lie deeper than any that keepfs writes"));
        }
        if sums != (says.own, says.entries, says.bytes) {
            return Err(wrong(
                "it holds another number of entries or bytes than the page above says",
            ));
        }
        let fits = says.first.is_none() || says.first == first;
        let ends = says
            .below
            .as_ref()
            .is_none_or(|below| last.is_none_or(|last| last < *below));
        if !fits || !ends {
            return Err(wrong("its names are not those that the page above says"));
        }
        Ok(())
    }

    /// What a file's entry says of its content.
    fn file(&self, file: &File, found: &mut Vec<Task>) -> Result<()> {
        let length = match &file.content {
            Content::Empty => 0,
            Content::One(id) => {
                self.need(id, Some(file.size))?;
                file.size
            }
            Content::Extents(extents) => self.extents(extents)?,
            Content::Pages(root) => {
                found.push(Task::Content {
                    page: *root,
                    own: None,
                    bytes: file.size,
                    depth: 0,
                });
                file.size
            }
        };
        if length != file.size {
            return Err(wrong(format!(
                "its extents have {length} bytes and the file has {}",
                file.size
            )));
        }
        Ok(())
    }

    fn content(
        &self,
        page: &ContentPage,
        own: Option<u64>,
        bytes: u64,
        depth: usize,
        found: &mut Vec<Task>,
    ) -> Result<()> {
        let sums = match page {
            ContentPage::Leaf(extents) => (extents.len() as u64, self.extents(extents)?),
            ContentPage::Inner(children) => {
                let mut sums = (0u64, 0u64);
                for child in children {
                    sums = (
                        sums.0.saturating_add(child.own),
                        sums.1.saturating_add(child.bytes),
                    );
                    found.push(Task::Content {
                        page: child.page,
                        own: Some(child.own),
                        bytes: child.bytes,
                        depth: depth + 1,
                    });
                }
                sums
            }
        };
        if depth >= PAGE_LEVELS_MAX {
            found.clear();
            return Err(wrong("its pages lie deeper than any that keepfs writes"));
        }
        if own.is_some_and(|own| own != sums.0) || sums.1 != bytes {
            return Err(wrong(
                "it holds another number of extents or bytes than the page above says",
            ));
        }
        Ok(())
    }

    /// Sees that the chunks of these extents are there; returns the bytes of all.
    fn extents(&self, extents: &[Extent]) -> Result<u64> {
        let mut bytes = 0u64;
        for extent in extents {
            if extent.length == 0 {
                return Err(wrong("an extent is empty"));
            }
            bytes = bytes.saturating_add(extent.length);
            if let Some(id) = &extent.chunk {
                self.need(id, Some(extent.length))?;
            }
        }
        Ok(bytes)
    }

    /// A chunk must be in the index, with this length.
    fn need(&self, id: &ChunkId, length: Option<u64>) -> Result<()> {
        // A chunk in no segment is noted by the verdict itself.
        self.context.findings.verdict(self.context.repository, id)?;
        let Some(location) = self.context.repository.find(id)? else {
            return Ok(());
        };
        if self.note_needed {
            self.state.lock().needed.insert(location.pack.id);
        }
        if length.is_some_and(|length| length != u64::from(location.length)) {
            let sentence = format!(
                "it has {} bytes in the index and another length in a tree",
                location.length
            );
            let number = self.context.findings.problem(Object::Chunk, id, sentence);
            self.context
                .findings
                .chunks_are_lost(location.pack.id, [*id], number);
        }
        Ok(())
    }
}

fn said(child: &Child, below: Option<Vec<u8>>) -> Says {
    Says {
        own: child.own,
        entries: child.entries,
        bytes: child.bytes,
        first: Some(child.first.clone()),
        below,
    }
}
