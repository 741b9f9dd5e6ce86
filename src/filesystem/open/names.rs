//! Changes of names: making, linking, removing and renaming.

use super::change::{Change, Facts, Made, TOP};
use super::state::{OpenNode, State};
use super::{Inner, OpenPoint, matching};
use crate::error::{Error, Kind};
use crate::filesystem::errno::{Answer, Rule};
use crate::filesystem::repositories::CompletePoint;
use crate::point::{Entry, Node as EntryNode, Owner, Xattr};
use std::fs;
use std::sync::Arc;

impl OpenPoint {
    /// Makes a node under a name that must be free.
    pub(in crate::filesystem) fn make(
        &self,
        parent: u64,
        name: &[u8],
        made: Made,
        facts: Facts,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Answer<u64> {
        let inner = &mut *self.inner.lock();
        self.make_in(inner, parent, name, made, facts, xattrs)
    }

    fn make_in(
        &self,
        inner: &mut Inner,
        parent: u64,
        name: &[u8],
        made: Made,
        facts: Facts,
        xattrs: Vec<Xattr>,
    ) -> Answer<u64> {
        Self::require_open(inner)?;
        require_directory(&inner.state, parent)?;
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
    pub(in crate::filesystem) fn link_complete(
        &self,
        point: &CompletePoint,
        entry: &Entry,
        parent: u64,
        name: &[u8],
    ) -> Answer<u64> {
        // In one step: a source is found by its number only until the next one comes.
        let inner = &mut *self.inner.lock();
        Self::require_open(inner)?;
        let made = match &entry.node {
            EntryNode::File(file) => Made::Linked(self.source(inner, point, file)?.0.number),
            EntryNode::Directory(_) => return Err(Rule::IsADirectory.into()),
            EntryNode::Symlink(target) => Made::Symlink(target.clone()),
            EntryNode::Block(device) | EntryNode::Character(device) => {
                Made::Special(entry.node.type_bits(), *device)
            }
            EntryNode::Fifo | EntryNode::Socket => Made::Special(entry.node.type_bits(), 0),
        };
        let attributes = &entry.attributes;
        let owner = point.repository.owners.of(&attributes.owner);
        let facts = Facts {
            mode: attributes.mode,
            uid: owner.uid,
            gid: owner.gid,
            mtime: attributes.mtime,
        };
        let xattrs = attributes.xattrs.clone();
        let node = self.make_in(inner, parent, name, made, facts, xattrs)?;
        let owner = (*attributes.owner).clone();
        self.change(inner, Change::Owner { node, owner })?;
        Ok(node)
    }

    /// Tells whose the directories above a link were where it was linked from, the nearest first: they are copies of those
    /// when all names on the way, `path`, are the same.
    pub(in crate::filesystem) fn note_owners_above(
        &self,
        parent: u64,
        path: &[Vec<u8>],
        owners: &[Arc<Owner>],
    ) -> Answer<()> {
        let inner = &mut *self.inner.lock();
        let mut node = parent;
        for owner in owners {
            let known = inner.state.nodes.get(&node);
            let Some(known) = known.filter(|known| known.linked_owner.is_none()) else {
                break;
            };
            let above = known.places.first().map_or(TOP, |(above, _)| *above);
            if Self::require_open(inner).is_err()
                || node == parent && inner.state.path(parent).as_deref() != Some(path)
            {
                break;
            }
            let owner = (**owner).clone();
            self.change(inner, Change::Owner { node, owner })?;
            node = above;
        }
        Ok(())
    }

    /// Another name for a node.
    pub(in crate::filesystem) fn link(&self, node: u64, parent: u64, name: &[u8]) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        require_directory(&inner.state, parent)?;
        let known = inner.state.nodes.get(&node);
        if known.is_none_or(|known| known.places.is_empty()) {
            // The journal does not hold what has no name.
            return Err(Rule::NoEntry.into());
        }
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

    /// Removes a name: of a directory, which must be empty, or of anything else. Answers with the node that had it.
    pub(in crate::filesystem) fn remove(
        &self,
        parent: u64,
        name: &[u8],
        directory: bool,
    ) -> Answer<u64> {
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
        Ok(number)
    }

    /// Somebody opens a node.
    pub(in crate::filesystem) fn opened(&self, node: u64) {
        *self.inner.lock().handles.entry(node).or_default() += 1;
    }

    /// Somebody closes a node. Whether it has no name any more.
    pub(in crate::filesystem) fn released(&self, node: u64) -> bool {
        let inner = &mut *self.inner.lock();
        let Some(handles) = inner.handles.get_mut(&node) else {
            return false;
        };
        *handles -= 1;
        if *handles == 0 {
            inner.handles.remove(&node);
            self.drop_spool(inner, node);
        }
        inner.state.is_unnamed(node)
    }

    /// The kernel knows this node no more. It goes if it has no name and is not open: nobody finds it again.
    pub(in crate::filesystem) fn forget(&self, node: u64) {
        let inner = &mut *self.inner.lock();
        if inner.state.is_unnamed(node) && !inner.handles.contains_key(&node) {
            inner.streaming.forget(node);
            inner.state.forget(node);
            self.hold(inner);
        }
    }

    /// Removes the spool file of a node that has no name any more and is not open.
    fn drop_spool(&self, inner: &mut Inner, node: u64) {
        if inner.handles.contains_key(&node) {
            return;
        }
        let gone = inner
            .state
            .nodes
            .get(&node)
            .is_some_and(|node| node.places.is_empty() && node.content().is_some());
        if gone {
            inner.streaming.mark(node, &(0..u64::MAX));
            inner.state.give_up(node);
            self.hold(inner);
        }
        let stored = inner.state.nodes.get(&node).and_then(OpenNode::content);
        let written = inner.streaming.writes(node, &(0..u64::MAX));
        if stored.is_some_and(|content| content.spooled == 0) && !written {
            inner.streaming.forget_hash_of_all(node, &inner.state);
            // It may never have been written to.
            let _ = fs::remove_file(self.spool_path(node));
        }
    }

    /// Renames within the point. With `keep` an existing name is not replaced. Answers with the node that was
    /// replaced.
    pub(in crate::filesystem) fn rename(
        &self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        keep: bool,
    ) -> Answer<Option<u64>> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        let node = inner.state.child(from.0, from.1).ok_or(Rule::NoEntry)?;
        require_directory(&inner.state, to.0)?;
        let replaced = inner.state.child(to.0, to.1);
        if replaced == Some(node) && !keep {
            return Ok(None);
        }
        if inner.state.lies_in(to.0, node) {
            return Err(into_itself().into());
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
        Ok(replaced)
    }

    /// Two names of the point change places.
    pub(in crate::filesystem) fn exchange(
        &self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
    ) -> Answer<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        Self::require_open(inner)?;
        let one = inner.state.child(from.0, from.1).ok_or(Rule::NoEntry)?;
        let other = inner.state.child(to.0, to.1).ok_or(Rule::NoEntry)?;
        if one == other {
            return Ok(());
        }
        if inner.state.lies_in(to.0, one) || inner.state.lies_in(from.0, other) {
            return Err(into_itself().into());
        }
        let exchange = Change::Exchange {
            parent: from.0,
            name: from.1.to_vec(),
            new_parent: to.0,
            new_name: to.1.to_vec(),
        };
        self.change(inner, exchange)?;
        for (parent, name) in [from, to] {
            self.rematch(inner, parent, name);
        }
        if let Some((from, _)) = &inner.from {
            for node in [one, other] {
                matching::rematch_below(&mut inner.state, from, node);
            }
        }
        Ok(())
    }
}

/// Fails unless this is a directory that can hold names: one that was removed cannot.
fn require_directory(state: &State, directory: u64) -> Answer<()> {
    match state.nodes.get(&directory) {
        Some(node) if node.names().is_none() => Err(Rule::NotADirectory.into()),
        Some(_) if !state.is_unnamed(directory) => Ok(()),
        _ => Err(Rule::NoEntry.into()),
    }
}

fn into_itself() -> Error {
    Error::new(Kind::Invalid, "a directory cannot be moved into itself")
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
