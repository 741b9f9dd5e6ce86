//! Reading trees: pages by id, through a small cache of decoded pages.

use super::entry::{Content, Entry, Extent, File, Tree};
use super::page::{Child, ContentPage, DirectoryPage, PAGE_LEVELS_MAX};
use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::repository::{Repository, decode};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Decoded pages that are kept: at about 60 KB a page of usual length, 16 MB of directories and 4 MB of extents.
const DIRECTORY_PAGES: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const CONTENT_PAGES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The trees of one repository.
#[derive(Debug)]
pub struct Trees {
    repository: Arc<Repository>,
    directories: Mutex<LruCache<ChunkId, Arc<DirectoryPage>>>,
    contents: Mutex<LruCache<ChunkId, Arc<ContentPage>>>,
}

fn too_deep() -> Error {
    Error::new(
        Kind::Damaged,
        "pages lie deeper than any that keepfs writes",
    )
}

impl Trees {
    /// The trees of this repository.
    pub fn new(repository: Arc<Repository>) -> Self {
        Self {
            repository,
            directories: Mutex::new(LruCache::new(DIRECTORY_PAGES)),
            contents: Mutex::new(LruCache::new(CONTENT_PAGES)),
        }
    }

    /// The repository they are read from.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// A page of a directory.
    pub fn directory_page(&self, id: &ChunkId) -> Result<Arc<DirectoryPage>> {
        if let Some(page) = self.directories.lock().get(id) {
            return Ok(page.clone());
        }
        let bytes = self.repository.read_chunk(id)?;
        let page = DirectoryPage::decode(&bytes)
            .map_err(|error| error.context(format_args!("page {id}")))?;
        let page = Arc::new(page);
        self.directories.lock().put(*id, page.clone());
        Ok(page)
    }

    /// A page of a file's extents.
    pub fn content_page(&self, id: &ChunkId) -> Result<Arc<ContentPage>> {
        if let Some(page) = self.contents.lock().get(id) {
            return Ok(page.clone());
        }
        let bytes = self.repository.read_chunk(id)?;
        let page: ContentPage =
            decode(&bytes).map_err(|error| error.context(format_args!("page {id}")))?;
        let page = Arc::new(page);
        self.contents.lock().put(*id, page.clone());
        Ok(page)
    }

    /// The entry of this name in a directory.
    pub fn lookup(&self, tree: &Tree, name: &[u8]) -> Result<Option<Arc<Entry>>> {
        let mut id = tree.root;
        for _ in 0..PAGE_LEVELS_MAX {
            match &*self.directory_page(&id)? {
                DirectoryPage::Leaf(entries) => {
                    let place = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
                    return Ok(place.ok().map(|place| entries[place].clone()));
                }
                DirectoryPage::Inner(children) => {
                    let after = children.partition_point(|child| child.first.as_slice() <= name);
                    let Some(child) = after.checked_sub(1) else {
                        return Ok(None);
                    };
                    id = children[child].page;
                }
            }
        }
        Err(too_deep())
    }

    /// The entry at this path below a directory; no component may be empty.
    pub fn resolve(&self, top: &Arc<Entry>, path: &[u8]) -> Result<Option<Arc<Entry>>> {
        let mut entry = top.clone();
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            let Some(tree) = entry.tree() else {
                return Ok(None);
            };
            let Some(next) = self.lookup(tree, name)? else {
                return Ok(None);
            };
            entry = next;
        }
        Ok(Some(entry))
    }

    /// A directory's entries in order, beginning with number `first`.
    pub fn entries_from(self: &Arc<Self>, tree: &Tree, first: u64) -> Entries {
        Entries {
            trees: self.clone(),
            stack: Vec::new(),
            leaf: None,
            start: Some((tree.root, first)),
            last: None,
        }
    }

    /// A directory's entries in order.
    pub fn entries(self: &Arc<Self>, tree: &Tree) -> Entries {
        self.entries_from(tree, 0)
    }

    /// A file's extents from the one that holds byte `offset`, each with its first byte's offset in the file.
    pub fn extents_from(self: &Arc<Self>, file: &File, offset: u64) -> Extents {
        let leaf = match &file.content {
            Content::Empty => Vec::new(),
            Content::One(id) => vec![Extent {
                length: file.size,
                chunk: Some(*id),
            }],
            Content::Extents(extents) => extents.clone(),
            Content::Pages(_) => Vec::new(),
        };
        let root = match &file.content {
            Content::Pages(id) => Some(*id),
            _ => None,
        };
        Extents {
            trees: self.clone(),
            stack: Vec::new(),
            leaf: Leaf::new(Arc::new(ContentPage::Leaf(leaf)), 0, offset),
            root: root.map(|root| (root, offset)),
            size: file.size,
        }
    }
}

/// Iterates over a directory's entries.
pub struct Entries {
    trees: Arc<Trees>,
    stack: Vec<(Arc<DirectoryPage>, usize)>,
    leaf: Option<(Arc<DirectoryPage>, usize)>,
    start: Option<(ChunkId, u64)>,
    last: Option<Arc<Entry>>,
}

/// Pages that would make a walk longer than what is stored: pages that repeat, or that hold nothing.
fn out_of_order() -> Error {
    Error::new(
        Kind::Damaged,
        "pages are empty or out of order, which keepfs never writes",
    )
}

impl Entries {
    fn descend(&mut self, mut id: ChunkId, mut skip: u64) -> Result<()> {
        loop {
            if self.stack.len() >= PAGE_LEVELS_MAX {
                return Err(too_deep());
            }
            let page = self.trees.directory_page(&id)?;
            match &*page {
                DirectoryPage::Leaf(entries) if entries.is_empty() && !self.stack.is_empty() => {
                    return Err(out_of_order());
                }
                DirectoryPage::Leaf(_) => {
                    self.leaf = Some((page, usize::try_from(skip).unwrap_or(usize::MAX)));
                    return Ok(());
                }
                DirectoryPage::Inner(children) => {
                    let place = place_of(children, &mut skip, |child| child.own);
                    let Some(child) = children.get(place) else {
                        return Ok(());
                    };
                    id = child.page;
                    self.stack.push((page.clone(), place + 1));
                }
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Arc<Entry>>> {
        if let Some((root, first)) = self.start.take() {
            self.descend(root, first)?;
        }
        loop {
            if let Some((page, place)) = &mut self.leaf {
                if let DirectoryPage::Leaf(entries) = &**page
                    && let Some(entry) = entries.get(*place)
                {
                    *place += 1;
                    let last = self.last.replace(entry.clone());
                    if last.is_some_and(|last| last.name >= entry.name) {
                        return Err(out_of_order());
                    }
                    return Ok(Some(entry.clone()));
                }
                self.leaf = None;
            }
            let Some((page, place)) = self.stack.last_mut() else {
                return Ok(None);
            };
            let DirectoryPage::Inner(children) = &**page else {
                return Ok(None);
            };
            match children.get(*place).map(|child| child.page) {
                Some(id) => {
                    *place += 1;
                    self.descend(id, 0)?;
                }
                None => {
                    self.stack.pop();
                }
            }
        }
    }
}

/// The child that holds item (or byte) `skip`, which becomes relative to that child.
fn place_of(children: &[Child], skip: &mut u64, weight: fn(&Child) -> u64) -> usize {
    for (place, child) in children.iter().enumerate() {
        if *skip < weight(child) {
            return place;
        }
        *skip -= weight(child);
    }
    children.len()
}

impl Iterator for Entries {
    type Item = Result<Arc<Entry>>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            // After an error there is nothing to go on with.
            self.stack.clear();
            self.leaf = None;
        }
        result.transpose()
    }
}

struct Leaf {
    page: Arc<ContentPage>,
    place: usize,
    offset: u64,
}

impl Leaf {
    /// A leaf whose first extent is at `base`, at the extent that holds byte `offset` of the file.
    fn new(page: Arc<ContentPage>, base: u64, offset: u64) -> Self {
        let mut leaf = Self {
            page,
            place: 0,
            offset: base,
        };
        while let Some(extent) = leaf
            .extent()
            .filter(|extent| extent.length <= offset.saturating_sub(leaf.offset))
        {
            leaf.offset += extent.length;
            leaf.place += 1;
        }
        leaf
    }

    fn extent(&self) -> Option<Extent> {
        match &*self.page {
            ContentPage::Leaf(extents) => extents.get(self.place).copied(),
            ContentPage::Inner(_) => None,
        }
    }
}

/// Iterates over a file's extents.
pub struct Extents {
    trees: Arc<Trees>,
    stack: Vec<(Arc<ContentPage>, usize, u64)>,
    leaf: Leaf,
    root: Option<(ChunkId, u64)>,
    size: u64,
}

impl Extents {
    fn descend(&mut self, mut id: ChunkId, mut base: u64, offset: u64) -> Result<()> {
        loop {
            if self.stack.len() >= PAGE_LEVELS_MAX {
                return Err(too_deep());
            }
            let page = self.trees.content_page(&id)?;
            let children = match &*page {
                ContentPage::Leaf(extents) if extents.is_empty() => return Err(out_of_order()),
                ContentPage::Inner(children) if children.is_empty() => return Err(out_of_order()),
                ContentPage::Inner(children) => children,
                ContentPage::Leaf(_) => {
                    self.leaf = Leaf::new(page, base, offset);
                    return Ok(());
                }
            };
            let mut skip = offset.saturating_sub(base);
            let within = skip;
            let place = place_of(children, &mut skip, |child| child.bytes);
            let Some(child) = children.get(place) else {
                return Ok(());
            };
            base += within - skip;
            id = child.page;
            let next_base = base.saturating_add(child.bytes);
            self.stack.push((page.clone(), place + 1, next_base));
        }
    }

    fn advance(&mut self) -> Result<Option<(u64, Extent)>> {
        if let Some((root, offset)) = self.root.take() {
            self.descend(root, 0, offset)?;
        }
        loop {
            if let Some(extent) = self.leaf.extent() {
                let offset = self.leaf.offset;
                let end = offset
                    .checked_add(extent.length)
                    .filter(|end| *end <= self.size && extent.length > 0);
                let Some(end) = end else {
                    return Err(Error::new(
                        Kind::Damaged,
                        "a file's extents are longer than the file",
                    ));
                };
                self.leaf.offset = end;
                self.leaf.place += 1;
                return Ok(Some((offset, extent)));
            }
            let Some((page, place, base)) = self.stack.last_mut() else {
                return Ok(None);
            };
            let ContentPage::Inner(children) = &**page else {
                return Ok(None);
            };
            match children.get(*place).map(|child| (child.page, child.bytes)) {
                Some((id, bytes)) => {
                    let at = *base;
                    *place += 1;
                    *base = at.saturating_add(bytes);
                    self.descend(id, at, at)?;
                }
                None => {
                    self.stack.pop();
                }
            }
        }
    }
}

impl Iterator for Extents {
    type Item = Result<(u64, Extent)>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            self.stack.clear();
            self.leaf.place = usize::MAX;
        }
        result.transpose()
    }
}
