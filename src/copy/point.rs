//! One restore point: its tree is walked page by page, and whatever the target lacks is wanted.
//!
//! Pages reach the target while data is still on its way. That is safe: nobody concludes from a page in the index that
//! what it names is there too; only a *complete point* says so. A subtree is skipped because a base has it, never
//! because its page is known. Data, pages and index are durable before the record is written.
//!
//! Memory: one page of a directory for each level of the tree, and one for each base.

use super::pages::{self, Beside, Level, Place};
use super::transfer::Transfer;
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::point::{
    Child, Content, DirectoryPage, Entry, File, PAGE_LEVELS_MAX, PointRecord, Tree, Trees,
};
use crate::progress::Progress;
use crate::repository::Lane;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Something that could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failed {
    /// Path in the point; empty for its top.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// A point whose chunks the target has, or will have before the next commit.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub trees: Arc<Trees>,
    pub tree: Tree,
}

/// What a walk is for.
enum Task<'a> {
    /// To bring what is missing.
    Bring(&'a Progress),
    /// To bring what failed before.
    BringAgain(&'a Progress),
    /// To name what could not be brought.
    Name(BTreeSet<Failed>),
}

/// Wants everything of a point that no base has. False when a page could not be read: the point cannot be copied.
pub(super) fn bring(
    transfer: &Transfer,
    record: &PointRecord,
    bases: &[Base],
    progress: &Progress,
) -> Result<bool> {
    let mut walk = Walk::new(transfer, Task::Bring(progress));
    walk.point(record, bases)?;
    Ok(walk.sound)
}

/// As [`bring`], for a point that was brought before: what was done is not counted again.
pub(super) fn bring_again(
    transfer: &Transfer,
    record: &PointRecord,
    bases: &[Base],
    progress: &Progress,
) -> Result<bool> {
    let mut walk = Walk::new(transfer, Task::BringAgain(progress));
    walk.point(record, bases)?;
    Ok(walk.sound)
}

/// Wants everything of a point for a record of its own in the target: trees, contents and side table. False when a
/// page could not be read: the point cannot be copied.
pub fn bring_point(transfer: &Transfer, record: &PointRecord, progress: &Progress) -> Result<bool> {
    bring(transfer, record, &[], progress)
}

/// Every file and directory of a point that could not be brought, with the reason, in order of paths.
pub(super) fn name_failed(
    transfer: &Transfer,
    record: &PointRecord,
    bases: &[Base],
) -> Result<Vec<Failed>> {
    let mut walk = Walk::new(transfer, Task::Name(BTreeSet::new()));
    walk.point(record, bases)?;
    match walk.task {
        Task::Name(failed) => Ok(failed.into_iter().collect()),
        Task::Bring(_) | Task::BringAgain(_) => Ok(Vec::new()),
    }
}

/// A directory that is being walked, and the directories of the same path in the bases.
struct Directory {
    /// Length of its path.
    length: usize,
    bases: Vec<Base>,
}

/// A page that is being walked.
struct Open {
    directory: Arc<Directory>,
    /// Pages between this one and the directory's root.
    depth: usize,
    page: DirectoryPage,
    next: usize,
    /// What the bases have below an inner page.
    level: Level,
}

struct Walk<'a> {
    transfer: &'a Transfer,
    task: Task<'a>,
    open: Vec<Open>,
    /// Path of the entry, or of the directory, that is being looked at.
    path: Vec<u8>,
    /// No page was found damaged.
    sound: bool,
}

impl<'a> Walk<'a> {
    fn new(transfer: &'a Transfer, task: Task<'a>) -> Self {
        Self {
            transfer,
            task,
            open: Vec::new(),
            path: Vec::new(),
            sound: true,
        }
    }

    fn point(&mut self, record: &PointRecord, bases: &[Base]) -> Result<()> {
        let top = Directory {
            length: 0,
            bases: bases.to_vec(),
        };
        self.directory(top, &record.tree)?;
        while let Some(open) = self.open.last_mut() {
            let number = open.next;
            open.next += 1;
            self.path.truncate(open.directory.length);
            self.step(number)?;
        }
        self.path.clear();
        self.side(record)
    }

    /// A page that cannot be read is noted and passed over; other failures end the walk.
    fn tolerate(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if error.kind() == Kind::Damaged => {
                self.sound = false;
                self.note(error.message());
                Ok(())
            }
            other => other,
        }
    }

    fn note(&mut self, reason: &str) {
        if let Task::Name(failed) = &mut self.task {
            failed.insert(Failed {
                path: self.path.clone(),
                reason: reason.to_owned(),
            });
        }
    }

    fn done(&self, items: u64, bytes: u64) {
        if let Task::Bring(progress) = self.task {
            progress.done(items, bytes);
        }
    }

    fn go_on(&self) -> Result<()> {
        match self.task {
            Task::Bring(progress) | Task::BringAgain(progress) => progress.go_on(),
            Task::Name(_) => Ok(()),
        }
    }

    fn directory(&mut self, directory: Directory, tree: &Tree) -> Result<()> {
        if directory
            .bases
            .iter()
            .any(|base| base.tree.root == tree.root)
        {
            self.done(tree.entries, tree.bytes);
            return Ok(());
        }
        let beside = |base: &Base| Beside {
            trees: base.trees.clone(),
            places: vec![Place {
                key: Vec::new(),
                page: base.tree.root,
            }],
        };
        let bases: Vec<_> = directory.bases.iter().map(beside).collect();
        self.page(Arc::new(directory), 0, (&tree.root, None), &bases)
    }

    /// Reads a page of a directory, which brings it to the target, and goes into it. The page above says its first
    /// name: no page has two, so none is read again and again.
    fn page(
        &mut self,
        directory: Arc<Directory>,
        depth: usize,
        (id, first): (&ChunkId, Option<&[u8]>),
        bases: &[Beside],
    ) -> Result<()> {
        self.go_on()?;
        let read = || {
            if depth >= PAGE_LEVELS_MAX {
                let message = "pages of a directory lie deeper than any that keepfs writes";
                return Err(Error::new(Kind::Damaged, message));
            }
            let page = DirectoryPage::decode(&self.transfer.page(id)?)?;
            if first.is_some() && page.first_name() != first {
                let message = "a page of a directory has other names than the page above says";
                return Err(Error::new(Kind::Damaged, message));
            }
            Ok(page)
        };
        let page = match read() {
            Ok(page) => page,
            Err(error) => return self.tolerate(Err(error)),
        };
        let below = match page {
            DirectoryPage::Inner(_) => bases,
            DirectoryPage::Leaf(_) => &[],
        };
        let level = Level::new(below, pages::below_directory)?;
        self.open.push(Open {
            directory,
            depth,
            page,
            next: 0,
            level,
        });
        Ok(())
    }

    /// Goes on with item `number` of the innermost page, or leaves it.
    fn step(&mut self, number: usize) -> Result<()> {
        let open = self.open.last().expect("a page is open");
        let directory = open.directory.clone();
        match &open.page {
            DirectoryPage::Leaf(entries) => match entries.get(number).cloned() {
                Some(entry) => return self.entry(&directory, &entry),
                None => drop(self.open.pop()),
            },
            DirectoryPage::Inner(children) => match children.get(number) {
                Some(child) if open.level.has(&child.page) => {
                    self.done(child.entries, child.bytes);
                }
                Some(child) => {
                    let end = children.get(number + 1).map(|next| next.first.as_slice());
                    let bases = open.level.narrow(&child.first, end);
                    let (depth, Child { page, first, .. }) = (open.depth + 1, child.clone());
                    return self.page(directory, depth, (&page, Some(&first)), &bases);
                }
                None => drop(self.open.pop()),
            },
        }
        Ok(())
    }

    fn entry(&mut self, directory: &Directory, entry: &Entry) -> Result<()> {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend(&entry.name);
        self.done(1, entry.file().map_or(0, |file| file.size));
        if let Some(tree) = entry.tree() {
            let bases = same_names(directory, entry)?
                .into_iter()
                .filter_map(|(trees, other)| {
                    let tree = *other.tree()?;
                    Some(Base { trees, tree })
                });
            let below = Directory {
                length: self.path.len(),
                bases: bases.collect(),
            };
            return self.directory(below, tree);
        }
        match entry.file() {
            Some(file) => self.file(directory, entry, file),
            None => Ok(()),
        }
    }

    fn file(&mut self, directory: &Directory, entry: &Entry, file: &File) -> Result<()> {
        // A few chunks are asked for sooner than a page of a base is read; many are not.
        let bases: Vec<_> = match file.content {
            Content::Pages(_) => same_names(directory, entry)?
                .into_iter()
                .filter_map(|(trees, other)| Some((trees, other.file()?.content.clone())))
                .collect(),
            _ => Vec::new(),
        };
        let transfer = self.transfer;
        let lane = match file.content {
            Content::One(_) => Lane::of_name(&entry.name),
            _ => Lane::Alone,
        };
        let mut missing = None;
        let result = match self.task {
            Task::Bring(progress) | Task::BringAgain(progress) => {
                pages::for_each_extent(transfer, file, &bases, &mut |id| {
                    progress.go_on()?;
                    transfer.want(id, lane).map(|_| ())
                })
            }
            Task::Name(_) => pages::for_each_extent(transfer, file, &bases, &mut |id| {
                missing = missing.take().or_else(|| transfer.failure(&id));
                Ok(())
            }),
        };
        if let Some(reason) = missing {
            self.note(&reason);
        }
        self.tolerate(result)
    }

    /// The side table: its chunks lie with the trees.
    fn side(&mut self, record: &PointRecord) -> Result<()> {
        let transfer = self.transfer;
        let file = File {
            size: record.side_bytes,
            content: record.side.clone(),
            ..File::empty()
        };
        let result = pages::for_each_extent(transfer, &file, &[], &mut |id| {
            if transfer.writer().has(&id)? {
                return Ok(());
            }
            transfer.page(&id).map(|_| ())
        });
        let result = result.map_err(|error| error.context("its side table"));
        self.tolerate(result)
    }
}

/// The entries of the same path in the bases. What is damaged there is as if it were not there.
fn same_names(directory: &Directory, entry: &Entry) -> Result<Vec<(Arc<Trees>, Arc<Entry>)>> {
    let mut found = Vec::new();
    for base in &directory.bases {
        match base.trees.lookup(&base.tree, &entry.name) {
            Ok(other) => found.extend(other.map(|other| (base.trees.clone(), other))),
            Err(error) if error.kind() == Kind::Damaged => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
