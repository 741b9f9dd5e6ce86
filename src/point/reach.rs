//! Everything that restore points need: each page once, and each chunk as often as it is named.

use super::entry::{Content, Extent, File, Node};
use super::page::{ContentPage, DirectoryPage, PAGE_LEVELS_MAX};
use super::record::PointRecord;
use crate::error::{Error, Kind, Result};
use crate::id::{ChunkId, ObjectId};
use crate::repository::{Repository, decode};
use std::collections::HashSet;
use std::sync::Arc;

/// What points need. Pages that were gone through are remembered, 33 bytes each, so what several points share is read
/// once; a page as a directory's and as a file's is two, as a file may hold the bytes of a directory's page.
#[derive(Debug, Default)]
pub struct Needs {
    seen: HashSet<(Role, ChunkId)>,
    /// Pages that were read.
    pub pages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Directory,
    Content,
}

/// A page to go through, and how many lie above it in its directory or file.
type Task = (Role, ChunkId, usize);

/// Tells `need` each chunk that the point refers to, pages included, except below pages that `needs` has seen: those were
/// told before. Fails with `Damaged` when a page cannot be read, and with whatever `need` fails with.
pub fn reach(
    repository: &Repository,
    record: &PointRecord,
    needs: &mut Needs,
    need: &mut dyn FnMut(&ChunkId) -> Result<()>,
) -> Result<()> {
    let mut tasks = vec![(Role::Directory, record.tree.root, 0)];
    let side = File {
        size: record.side_bytes,
        content: record.side.clone(),
        ..File::empty()
    };
    file(&side, &mut tasks, need)?;
    while let Some((role, id, depth)) = tasks.pop() {
        if depth >= PAGE_LEVELS_MAX {
            let message = format!("page {id} lies deeper than any that keepfs writes");
            return Err(Error::new(Kind::Damaged, message));
        }
        if !needs.seen.insert((role, id)) {
            continue;
        }
        need(&id)?;
        needs.pages += 1;
        let bytes = repository.read_chunk(&id)?;
        let read = match role {
            Role::Directory => directory(&bytes, depth, &mut tasks, need),
            Role::Content => content(&bytes, depth, &mut tasks, need),
        };
        read.map_err(|error| error.context(format_args!("page {id}")))?;
    }
    Ok(())
}

fn directory(
    bytes: &[u8],
    depth: usize,
    tasks: &mut Vec<Task>,
    need: &mut dyn FnMut(&ChunkId) -> Result<()>,
) -> Result<()> {
    match DirectoryPage::decode(bytes)? {
        DirectoryPage::Inner(children) => {
            let below = children.iter().map(|child| child.page);
            tasks.extend(below.map(|page| (Role::Directory, page, depth + 1)));
        }
        DirectoryPage::Leaf(entries) => {
            for entry in entries {
                match &entry.node {
                    Node::Directory(tree) => tasks.push((Role::Directory, tree.root, 0)),
                    Node::File(content) => file(content, tasks, need)?,
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn content(
    bytes: &[u8],
    depth: usize,
    tasks: &mut Vec<Task>,
    need: &mut dyn FnMut(&ChunkId) -> Result<()>,
) -> Result<()> {
    match decode(bytes)? {
        ContentPage::Inner(children) => {
            let below = children.iter().map(|child| child.page);
            tasks.extend(below.map(|page| (Role::Content, page, depth + 1)));
            Ok(())
        }
        ContentPage::Leaf(pieces) => extents(&pieces, need),
    }
}

fn file(
    file: &File,
    tasks: &mut Vec<Task>,
    need: &mut dyn FnMut(&ChunkId) -> Result<()>,
) -> Result<()> {
    match &file.content {
        Content::Empty => Ok(()),
        Content::One(id) => need(id),
        Content::Extents(pieces) => extents(pieces, need),
        Content::Pages(root) => {
            tasks.push((Role::Content, *root, 0));
            Ok(())
        }
    }
}

fn extents(extents: &[Extent], need: &mut dyn FnMut(&ChunkId) -> Result<()>) -> Result<()> {
    extents
        .iter()
        .filter_map(|extent| extent.chunk.as_ref())
        .try_for_each(need)
}

/// Fails with `Busy` unless everything that a point needs is in the index as the store has it now, in a pack that is
/// none of these.
pub fn require_kept(
    repository: &Arc<Repository>,
    record: &PointRecord,
    condemned: &HashSet<ObjectId>,
) -> Result<()> {
    repository.refresh_index()?;
    let mut need = |id: &ChunkId| match repository.find_outside(id, None, condemned)? {
        Some(_) => Ok(()),
        None => Err(Error::new(
            Kind::Busy,
            format!(
                "prune deletes data in {} that this restore point would have shared (chunk {id}); run it again, and it \
                 is stored anew",
                repository.location()
            ),
        )),
    };
    reach(repository, record, &mut Needs::default(), &mut need)
}
