//! Whether an open point is a whole copy: names, types and contents are compared, one by one as they come, with the
//! complete point it is copied from, so that the answer is a comparison of two counters.

use super::super::repositories::CompletePoint;
use super::change::TOP;
use super::state::{Body, Name, OpenNode, State};
use crate::point::{Content, Entry, File, Node};

/// Compares one name with the point that this one is a copy of.
pub(super) fn rematch(state: &mut State, from: &CompletePoint, parent: u64, name: &[u8]) {
    let twin = state.nodes.get(&parent).and_then(OpenNode::twin);
    // A tree that cannot be read is equal to nothing.
    let entry = twin.and_then(|tree| from.trees().lookup(&tree, name).ok().flatten());
    let Some(number) = state.child(parent, name) else {
        return;
    };
    let same = match (state.nodes.get_mut(&number), &entry) {
        (Some(node), entry) => {
            if let Body::Directory { twin, .. } = &mut node.body {
                let tree = entry.as_ref().and_then(|entry| entry.tree().copied());
                *twin = tree.map(Box::new);
            }
            entry.as_ref().is_some_and(|entry| is_same(node, entry))
        }
        (None, _) => false,
    };
    let Some(Body::Directory { names, .. }) =
        state.nodes.get_mut(&parent).map(|node| &mut node.body)
    else {
        return;
    };
    if let Some(known) = names.get_mut(name) {
        state.matched -= u64::from(known.matched());
        state.matched += u64::from(same);
        *known = Name::new(known.node(), same);
    }
}

/// Compares every name below a directory, whose own twin is known.
pub(super) fn rematch_below(state: &mut State, from: &CompletePoint, directory: u64) {
    let mut open = vec![directory];
    while let Some(parent) = open.pop() {
        let names: Vec<_> = match state.nodes.get(&parent).and_then(OpenNode::names) {
            Some(names) => names
                .iter()
                .map(|(name, known)| (name.clone(), known.node()))
                .collect(),
            None => continue,
        };
        for (name, node) in names {
            rematch(state, from, parent, &name);
            let directory = state
                .nodes
                .get(&node)
                .is_some_and(|node| node.names().is_some());
            if directory {
                open.push(node);
            }
        }
    }
}

/// Compares everything, with another point than before.
pub(super) fn rematch_all(state: &mut State, from: &CompletePoint) {
    if let Some(Body::Directory { twin, .. }) = state.nodes.get_mut(&TOP).map(|top| &mut top.body) {
        *twin = Some(Box::new(from.point.record.tree));
    }
    rematch_below(state, from, TOP);
}

/// Compares every name of a node.
pub(super) fn rematch_node(state: &mut State, from: &CompletePoint, node: u64) {
    let places = match state.nodes.get(&node) {
        Some(node) => node.places.to_vec(),
        None => return,
    };
    for (parent, name) in places {
        rematch(state, from, parent, &name);
    }
}

/// The same names, types and contents, and not empty: nothing was copied from an empty point.
pub(super) fn is_whole(state: &State, from: &CompletePoint) -> bool {
    state.entries > 0
        && state.matched == state.entries
        && state.entries == from.point.record.tree.entries
}

fn is_same(node: &OpenNode, entry: &Entry) -> bool {
    match (&node.body, &entry.node) {
        (Body::Directory { .. }, Node::Directory(_)) => true,
        (Body::Symlink(target), Node::Symlink(other)) => target == other,
        (Body::Special(bits, device), Node::Block(other) | Node::Character(other)) => {
            *bits == entry.node.type_bits() && device == other
        }
        (Body::Special(bits, _), Node::Fifo | Node::Socket) => *bits == entry.node.type_bits(),
        (Body::File { content, hash }, Node::File(file)) => {
            if content.size != file.size {
                return false;
            }
            let referred = || {
                content
                    .whole_source()
                    .map(|source| source.file().into_owned().content)
            };
            content.size == 0
                || content.segments.is_empty() && is_hole(&file.content)
                || hash.as_ref().is_some_and(|hash| is_hash_of(**hash, file))
                || referred().is_some_and(|content| content == file.content)
        }
        _ => false,
    }
}

/// Holes longer than this are not hashed to compare them with zeros that a tool wrote.
const HASHED_HOLE_BYTES_MAX: u64 = 16 << 30;

/// Whether a file has the content of this hash. A file that is one hole carries none.
fn is_hash_of(hash: [u8; 32], file: &File) -> bool {
    if is_hole(&file.content) && file.size <= HASHED_HOLE_BYTES_MAX {
        let mut zeros = blake3::Hasher::new();
        let piece = [0; 1 << 16];
        let mut left = file.size;
        while left > 0 {
            let length = left.min(piece.len() as u64);
            zeros.update(&piece[..length as usize]);
            left -= length;
        }
        return hash == *zeros.finalize().as_bytes();
    }
    file.content_hash() == Some(hash)
}

/// Whether a file is one hole.
fn is_hole(content: &Content) -> bool {
    matches!(content, Content::Extents(extents) if extents.iter().all(|extent| extent.chunk.is_none()))
}
