//! The backup's newest point, walked in step with the source: what was there under the same path.

use crate::error::Result;
use crate::point::{Entries, Entry, Inode, Point, SideReader, Tree, Trees};
use std::iter::Peekable;
use std::sync::Arc;

/// An entry of the previous point, with what the source's inode was then.
pub struct Before {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The inode it was read from.
    pub inode: Option<Inode>,
    number: u64,
}

/// A cursor through the previous point. Anything that cannot be read there only makes the backup read more.
pub struct Previous {
    trees: Arc<Trees>,
    side: SideReader,
    levels: Vec<Option<Level>>,
}

struct Level {
    entries: Peekable<Entries>,
    /// The walk's number of the next entry.
    next: u64,
}

impl Previous {
    /// A cursor at the top of the point.
    pub fn new(trees: Arc<Trees>, point: &Point) -> Self {
        let side = SideReader::new(
            trees.clone(),
            point.record.side.clone(),
            point.record.side_bytes,
        );
        let top = level(&trees, &point.record.tree, 0);
        Self {
            trees,
            side,
            levels: vec![Some(top)],
        }
    }

    /// The entry of this name in the current directory. Names must be asked for in ascending order.
    pub fn find(&mut self, name: &[u8]) -> Option<Before> {
        let level = self.levels.last_mut()?.as_mut()?;
        loop {
            let entry = level.entries.peek()?.as_ref().ok()?;
            if entry.name.as_slice() > name {
                return None;
            }
            let entry = level.entries.next()?.ok()?;
            let number = level.next;
            let below = entry.tree().map_or(0, |tree| tree.entries);
            // A tree that says more only leads behind the side table's end.
            level.next = level.next.saturating_add(below).saturating_add(1);
            if entry.name == name {
                let inode = self.side.get(number).ok().flatten();
                return Some(Before {
                    entry,
                    inode,
                    number,
                });
            }
        }
    }

    /// Goes into the directory that [`Self::find`] gave, if it gave one.
    pub fn enter(&mut self, before: Option<&Before>) -> Result<()> {
        let below =
            before.and_then(|before| Some((before.entry.tree()?, before.number.saturating_add(1))));
        self.levels
            .push(below.map(|(tree, next)| level(&self.trees, tree, next)));
        Ok(())
    }

    /// Goes back to the directory above.
    pub fn leave(&mut self) {
        self.levels.pop();
    }
}

fn level(trees: &Arc<Trees>, tree: &Tree, next: u64) -> Level {
    Level {
        entries: trees.entries(tree).peekable(),
        next,
    }
}
