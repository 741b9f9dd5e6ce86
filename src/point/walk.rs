//! Walking a tree: every entry with its path, parents before children, names ascending.

use super::entry::{Entry, Tree};
use super::tree::{Entries, Trees};
use crate::error::Result;
use std::sync::Arc;

/// One step of a walk.
#[derive(Clone, Debug)]
pub enum Visit {
    /// An entry; a directory's contents follow.
    Entry {
        /// Path below the top, without a leading `/`.
        path: Vec<u8>,
        /// The entry.
        entry: Arc<Entry>,
    },
    /// The end of a directory's contents.
    Leave {
        /// Its path; empty at the end of the whole walk.
        path: Vec<u8>,
    },
}

/// Walks a tree depth first. Memory: one page for each level.
pub struct Walk {
    trees: Arc<Trees>,
    open: Vec<(Entries, usize)>,
    path: Vec<u8>,
}

impl Walk {
    /// A walk of everything below `tree`.
    pub fn new(trees: Arc<Trees>, tree: &Tree) -> Self {
        let top = trees.entries(tree);
        Self {
            trees,
            open: vec![(top, 0)],
            path: Vec::new(),
        }
    }

    /// Does not descend into the directory that was just visited; its `Leave` is not told.
    pub fn skip_below(&mut self) {
        if let Some((_, length)) = self.open.pop() {
            self.path.truncate(length);
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Visit>;

    fn next(&mut self) -> Option<Self::Item> {
        let (entries, length) = self.open.last_mut()?;
        let length = *length;
        match entries.next() {
            Some(Ok(entry)) => {
                let mut path = self.path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(&entry.name);
                if let Some(tree) = entry.tree() {
                    self.open.push((self.trees.entries(tree), self.path.len()));
                    self.path = path.clone();
                }
                Some(Ok(Visit::Entry { path, entry }))
            }
            Some(Err(error)) => {
                // The directory cannot be read further; the walk goes on behind it.
                Some(Err(
                    error.context(String::from_utf8_lossy(&self.path).into_owned())
                ))
            }
            None => {
                let path = self.path.clone();
                self.open.pop();
                self.path.truncate(length);
                Some(Ok(Visit::Leave { path }))
            }
        }
    }
}
