//! How two trees differ. Directories with the same id are not read.

use super::entry::{Content, Entry, Extent, File, Node, Tree};
use super::tree::{Entries, Trees};
use crate::error::Result;
use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

/// What happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Only the second tree has it.
    Added,
    /// Only the first tree has it.
    Removed,
    /// It is of another type.
    Type,
    /// Its bytes, its target or its device number differ.
    Content,
    /// Only mode, owner, times or extended attributes differ.
    Attributes,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path below the two tops.
    pub path: Vec<u8>,
    /// What happened.
    pub change: Change,
    /// The entry in the first tree.
    pub first: Option<Arc<Entry>>,
    /// The entry in the second tree.
    pub second: Option<Arc<Entry>>,
}

/// Tells every difference between two trees, which may be of two repositories, in order of names.
pub fn diff(
    first: (&Arc<Trees>, &Tree),
    second: (&Arc<Trees>, &Tree),
    tell: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let mut differ = Differ {
        first: first.0,
        second: second.0,
        open: Vec::new(),
        tell,
    };
    differ.enter(Some(*first.1), Some(*second.1), 0);
    differ.run()
}

struct Differ<'a> {
    first: &'a Arc<Trees>,
    second: &'a Arc<Trees>,
    /// The directories on the way down; a stack of calls would be too small for deep trees.
    open: Vec<Level>,
    tell: &'a mut dyn FnMut(Difference) -> Result<()>,
}

type Side = Peekable<Entries>;

/// Two directories of the same path, or the one that only one tree has.
struct Level {
    ones: Option<Side>,
    twos: Option<Side>,
    /// Length of its path.
    length: usize,
}

type Pair = (Option<Arc<Entry>>, Option<Arc<Entry>>);

impl Level {
    /// What the two have of the next name; none at the end.
    fn next(&mut self) -> Result<Option<Pair>> {
        let order = match (next_name(&mut self.ones)?, next_name(&mut self.twos)?) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(two)) => one.cmp(&two),
        };
        let take = |side: &mut Option<Side>, has: bool| {
            let side = side.as_mut().filter(|_| has);
            side.and_then(Iterator::next).transpose()
        };
        let one = take(&mut self.ones, order.is_le())?;
        let two = take(&mut self.twos, order.is_ge())?;
        Ok(Some((one, two)))
    }
}

fn next_name(side: &mut Option<Side>) -> Result<Option<Vec<u8>>> {
    let Some(side) = side else {
        return Ok(None);
    };
    match side.next_if(Result::is_err) {
        Some(Err(error)) => Err(error),
        _ => Ok(side
            .peek()
            .and_then(|entry| entry.as_ref().ok())
            .map(|entry| entry.name.clone())),
    }
}

impl Differ<'_> {
    /// Goes into directories whose path has this length, unless they are the same.
    fn enter(&mut self, one: Option<Tree>, two: Option<Tree>, length: usize) {
        let root = |tree: &Option<Tree>| tree.map(|tree| tree.root);
        if root(&one) != root(&two) {
            self.open.push(Level {
                ones: one.map(|tree| self.first.entries(&tree).peekable()),
                twos: two.map(|tree| self.second.entries(&tree).peekable()),
                length,
            });
        }
    }

    fn run(mut self) -> Result<()> {
        let mut path = Vec::new();
        while let Some(level) = self.open.last_mut() {
            path.truncate(level.length);
            let Some((one, two)) = level.next()? else {
                self.open.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            let either = one.as_ref().or(two.as_ref());
            path.extend(either.iter().flat_map(|entry| &entry.name));
            self.entries(one, two, &path)?;
        }
        Ok(())
    }

    fn entries(
        &mut self,
        one: Option<Arc<Entry>>,
        two: Option<Arc<Entry>>,
        path: &[u8],
    ) -> Result<()> {
        let change = match (&one, &two) {
            (Some(one), Some(two)) => self.change(one, two)?,
            (None, _) => Some(Change::Added),
            (_, None) => Some(Change::Removed),
        };
        let tree = |entry: &Option<Arc<Entry>>| entry.as_ref()?.tree().copied();
        let trees = (tree(&one), tree(&two));
        if let Some(change) = change {
            (self.tell)(Difference {
                path: path.to_vec(),
                change,
                first: one,
                second: two,
            })?;
        }
        self.enter(trees.0, trees.1, path.len());
        Ok(())
    }

    fn change(&self, one: &Entry, two: &Entry) -> Result<Option<Change>> {
        let content_equal = match (&one.node, &two.node) {
            (Node::Directory(_), Node::Directory(_)) => true,
            (Node::File(one), Node::File(two)) => self.same_content(one, two)?,
            (one, two) if one.type_bits() != two.type_bits() => return Ok(Some(Change::Type)),
            (one, two) => one == two,
        };
        if !content_equal {
            return Ok(Some(Change::Content));
        }
        // How many names an inode has, and which number binds them, is not told apart: it is the others' change.
        let (one, two) = (&one.attributes, &two.attributes);
        let equal = one.mode == two.mode
            && one.owner == two.owner
            && one.mtime == two.mtime
            && one.xattrs == two.xattrs;
        Ok((!equal).then_some(Change::Attributes))
    }

    /// Whether two files hold the same bytes, however they are cut.
    fn same_content(&self, one: &File, two: &File) -> Result<bool> {
        if one.size != two.size {
            return Ok(false);
        }
        if one.content == two.content {
            return Ok(true);
        }
        if let (Some(one), Some(two)) = (one.content_hash(), two.content_hash()) {
            return Ok(one == two);
        }
        self.same_bytes(one, two)
    }

    /// Compares extent by extent where they are cut alike, and byte by byte where not.
    fn same_bytes(&self, one: &File, two: &File) -> Result<bool> {
        let mut streams = (Bytes::new(self.first, one), Bytes::new(self.second, two));
        loop {
            let (left, right) = (streams.0.extent()?, streams.1.extent()?);
            let (Some(left), Some(right)) = (left, right) else {
                return Ok(left.is_none() && right.is_none());
            };
            let whole = streams.0.at_begin() && streams.1.at_begin();
            if whole && left == right || left.chunk.is_none() && right.chunk.is_none() {
                let step = streams.0.left().min(streams.1.left());
                streams.0.skip(step);
                streams.1.skip(step);
                continue;
            }
            let step = streams.0.left().min(streams.1.left()).min(1 << 20);
            if streams.0.read(step)? != streams.1.read(step)? {
                return Ok(false);
            }
        }
    }
}

/// A file's bytes as a stream over its extents.
struct Bytes {
    trees: Arc<Trees>,
    extents: super::tree::Extents,
    current: Option<(Extent, u64)>,
}

impl Bytes {
    fn new(trees: &Arc<Trees>, file: &File) -> Self {
        // Content::Empty has no extents; every other content covers the whole file.
        debug_assert!(file.size == 0 || file.content != Content::Empty);
        Self {
            trees: trees.clone(),
            extents: trees.extents_from(file, 0),
            current: None,
        }
    }

    fn extent(&mut self) -> Result<Option<Extent>> {
        if self
            .current
            .is_none_or(|(extent, used)| used == extent.length)
        {
            self.current = self
                .extents
                .next()
                .transpose()?
                .map(|(_, extent)| (extent, 0));
        }
        Ok(self.current.map(|(extent, _)| extent))
    }

    fn at_begin(&self) -> bool {
        self.current.is_some_and(|(_, used)| used == 0)
    }

    fn left(&self) -> u64 {
        self.current
            .map_or(0, |(extent, used)| extent.length - used)
    }

    fn skip(&mut self, step: u64) {
        if let Some((_, used)) = &mut self.current {
            *used += step;
        }
    }

    fn read(&mut self, step: u64) -> Result<Vec<u8>> {
        let Some((extent, used)) = self.current else {
            return Ok(Vec::new());
        };
        let mut bytes = Vec::new();
        match extent.chunk {
            None => bytes.resize(step as usize, 0),
            Some(id) => {
                let repository = self.trees.repository();
                let location = repository.locate(&id)?;
                repository.read_located(
                    &location,
                    used as u32..(used + step) as u32,
                    &mut bytes,
                )?;
            }
        }
        self.skip(step);
        Ok(bytes)
    }
}
