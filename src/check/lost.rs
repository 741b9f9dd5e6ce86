//! Which files damage costs: a second walk, past everything that is whole.

use super::findings::Number;
use super::{Checked, Context, examined};
use crate::error::Result;
use crate::id::ChunkId;
use crate::point::{
    Content, ContentPage, DirectoryPage, Entry, File, Node, PAGE_LEVELS_MAX, Trees,
};
use std::collections::HashSet;
use std::sync::Arc;

struct Lost<'a> {
    context: &'a Context<'a>,
    trees: Trees,
    /// First halves of the ids of pages below which all is whole.
    whole: HashSet<[u8; 16]>,
    /// Files and directories lost so far.
    count: u64,
}

/// A page of a directory that is being gone through.
struct Level {
    id: ChunkId,
    page: Arc<DirectoryPage>,
    next: usize,
    path: usize,
    lost_before: u64,
    depth: usize,
}

/// Tells each problem the files it costs.
pub(super) fn find(context: &Context, points: &[Checked]) -> Result<()> {
    if !context.findings.any_damage() {
        return Ok(());
    }
    let mut lost = Lost {
        context,
        trees: Trees::new(context.repository.clone()),
        whole: HashSet::new(),
        count: 0,
    };
    points.iter().try_for_each(|checked| lost.point(checked))
}

fn half(id: &ChunkId) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&id.0[..16]);
    half
}

impl Lost<'_> {
    fn point(&mut self, checked: &Checked) -> Result<()> {
        let mut path = checked.path.clone().into_bytes();
        let mut levels = Vec::new();
        self.open(checked.point.record.tree.root, &path, 0, &mut levels)?;
        while let Some(level) = levels.last_mut() {
            self.context.progress.go_on()?;
            path.truncate(level.path);
            let (place, depth) = (level.next, level.depth);
            level.next += 1;
            match &*level.page.clone() {
                DirectoryPage::Leaf(entries) if place < entries.len() => {
                    self.entry(&entries[place], &mut path, &mut levels)?;
                }
                DirectoryPage::Inner(children) if place < children.len() => {
                    self.open(children[place].page, &path, depth + 1, &mut levels)?;
                }
                _ => {
                    if level.lost_before == self.count {
                        self.whole.insert(half(&level.id));
                    }
                    levels.pop();
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, path: &mut Vec<u8>, levels: &mut Vec<Level>) -> Result<()> {
        path.push(b'/');
        path.extend(&entry.name);
        match &entry.node {
            Node::Directory(tree) => self.open(tree.root, path, 0, levels),
            Node::File(file) => match self.damage_of(file)? {
                Some(number) => {
                    self.tell(number, path);
                    Ok(())
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn tell(&mut self, number: Number, path: &[u8]) {
        self.count += 1;
        self.context
            .findings
            .lost(number, String::from_utf8_lossy(path).into_owned());
    }

    /// Goes into a page of a directory, or tells that it is lost.
    fn open(
        &mut self,
        id: ChunkId,
        path: &[u8],
        depth: usize,
        levels: &mut Vec<Level>,
    ) -> Result<()> {
        // Deeper ones were told when trees were checked.
        if depth >= PAGE_LEVELS_MAX || self.whole.contains(&half(&id)) {
            return Ok(());
        }
        if let Some(number) = self
            .context
            .findings
            .verdict(self.context.repository, &id)?
        {
            self.tell(number, &[path, b"/"].concat());
            return Ok(());
        }
        // One that cannot be decoded was told when trees were checked.
        if let Ok(page) = examined(self.trees.directory_page(&id))? {
            levels.push(Level {
                id,
                page,
                next: 0,
                path: path.len(),
                lost_before: self.count,
                depth,
            });
        }
        Ok(())
    }

    fn damage_of(&mut self, file: &File) -> Result<Option<Number>> {
        match &file.content {
            Content::Empty => Ok(None),
            Content::One(id) => self.context.findings.verdict(self.context.repository, id),
            Content::Extents(extents) => {
                self.damage_of_chunks(extents.iter().filter_map(|extent| extent.chunk))
            }
            Content::Pages(root) => self.damage_of_page(root, 0),
        }
    }

    fn damage_of_chunks(&self, chunks: impl Iterator<Item = ChunkId>) -> Result<Option<Number>> {
        for id in chunks {
            let damage = self
                .context
                .findings
                .verdict(self.context.repository, &id)?;
            if damage.is_some() {
                return Ok(damage);
            }
        }
        Ok(None)
    }

    fn damage_of_page(&mut self, id: &ChunkId, depth: usize) -> Result<Option<Number>> {
        if depth >= PAGE_LEVELS_MAX || self.whole.contains(&half(id)) {
            return Ok(None);
        }
        if let Some(number) = self.context.findings.verdict(self.context.repository, id)? {
            return Ok(Some(number));
        }
        let Ok(page) = examined(self.trees.content_page(id))? else {
            return Ok(None);
        };
        let damage = match &*page {
            ContentPage::Leaf(extents) => {
                self.damage_of_chunks(extents.iter().filter_map(|extent| extent.chunk))?
            }
            ContentPage::Inner(children) => {
                let mut damage = None;
                for child in children {
                    damage = self.damage_of_page(&child.page, depth + 1)?;
                    if damage.is_some() {
                        break;
                    }
                }
                damage
            }
        };
        if damage.is_none() {
            self.whole.insert(half(id));
        }
        Ok(damage)
    }
}
