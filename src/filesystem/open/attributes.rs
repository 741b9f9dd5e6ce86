//! Changes of permissions, owners, times and extended attributes; once the point is sealed, what it has is accepted.

use super::change::{Change, Facts};
use super::{Inner, OpenPoint, Stage, TOP, entry_at};
use crate::clock::Time;
use crate::filesystem::errno::{Answer, Rule};
use crate::point::Entry;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What a program may do beyond its caller; lost with every change of content or owner.
pub(in crate::filesystem) const CAPABILITY: &[u8] = b"security.capability";

/// How long after the attributes of the top were set nothing must have changed until a tool that was run again counts as
/// done.
const RERUN_REST: Duration = Duration::from_secs(6);

/// What was answered with success while the point was being sealed, as what it becomes has it anyway.
#[derive(Default)]
pub(super) struct Accepted {
    facts: HashMap<u64, Facts>,
    xattrs: Vec<Change>,
}

impl Accepted {
    /// The changes that it would have been to an open point.
    pub fn into_changes(self) -> impl Iterator<Item = Change> {
        let facts = self.facts.into_iter();
        let facts = facts.map(|(node, facts)| Change::Facts { node, facts });
        facts.chain(self.xattrs)
    }
}

/// Notes what the point has anyway once it is sealed. False when it is open again by now.
fn accept_facts(inner: &mut Inner, node: u64, set: impl Fn(&mut Facts)) -> bool {
    match inner.stage {
        Stage::Sealed(_) => return true,
        Stage::Sealing(_) => {}
        _ => return false,
    }
    if let Some(known) = inner.state.nodes.get(&node) {
        set(inner.accepted.facts.entry(node).or_insert(known.facts));
    }
    true
}

impl OpenPoint {
    /// Sets permissions, owner and time. After sealing only what the sealed point has is accepted.
    pub(in crate::filesystem) fn set_facts(
        &self,
        node: u64,
        set: impl Fn(&mut Facts),
    ) -> Answer<()> {
        let mut inner = self.inner.lock();
        if let Some(entry) = self.settled_entry(&inner, node) {
            // The host may have to ask somebody for numbers of owners.
            drop(inner);
            let has = self.has_what_is_set(&entry, &set);
            inner = self.inner.lock();
            if has && accept_facts(&mut inner, node, &set) {
                return Ok(());
            }
        }
        let inner = &mut *inner;
        let known = inner.state.nodes.get(&node).ok_or(Rule::Stale)?;
        let mut facts = known.facts;
        Self::require_open(inner)?;
        if node == TOP {
            // cp sets these last; rsync sets them first and may go on.
            inner.rerun_patience = inner.rerun_patience.min(RERUN_REST);
        }
        set(&mut facts);
        if facts != known.facts {
            let trusted = facts.mtime != known.facts.mtime && inner.state.doubtful.contains(&node);
            self.change(inner, Change::Facts { node, facts })?;
            return match trusted {
                true => self.change(inner, Change::Trusted { node }),
                false => Ok(()),
            };
        }
        // Setting what is there already is a change all the same.
        let now = self.repository.catalog.repository().now();
        if let Some(known) = inner.state.nodes.get_mut(&node) {
            known.ctime = now;
        }
        Ok(())
    }

    /// Whether an entry of a complete point has already, as the mount shows it, what this sets.
    fn has_what_is_set(&self, entry: &Entry, set: impl Fn(&mut Facts)) -> bool {
        let owner = self.repository.owners.of(&entry.attributes.owner);
        let has = Facts {
            mode: entry.attributes.mode,
            uid: owner.uid,
            gid: owner.gid,
            mtime: entry.attributes.mtime,
        };
        let mut asked = has;
        set(&mut asked);
        // A tool that knows whole seconds only sets what it knows.
        let whole_second = asked.mtime == Time::new(has.mtime.seconds, 0);
        let same_time = asked.mtime == has.mtime || whole_second;
        asked.mtime = has.mtime;
        same_time && asked == has
    }

    /// Sets the access time. It is not written down: complete points do not have it.
    pub(in crate::filesystem) fn set_atime(&self, node: u64, atime: Time) {
        if let Some(node) = self.inner.lock().state.nodes.get_mut(&node) {
            node.atime = atime;
        }
    }

    /// Sets what a change of content brings with it, in one step with that: meanwhile another call might seal.
    pub(super) fn touch(
        &self,
        inner: &mut Inner,
        node: u64,
        set: &dyn Fn(&mut Facts),
    ) -> Answer<()> {
        Self::require_open(inner)?;
        let known = inner.state.nodes.get(&node).ok_or(Rule::Stale)?;
        let capable = known.xattr(CAPABILITY).is_some();
        let known = known.facts;
        let mut facts = known;
        set(&mut facts);
        if facts != known {
            self.change(inner, Change::Facts { node, facts })?;
        }
        // Nobody may lend capabilities to bytes of his own.
        if capable {
            let (name, value) = (CAPABILITY.to_vec(), None);
            self.change(inner, Change::Xattr { node, name, value })?;
        }
        Ok(())
    }

    /// Sets or removes an extended attribute; after sealing as [`Self::set_facts`] does.
    pub(in crate::filesystem) fn set_xattr(
        &self,
        node: u64,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Answer<()> {
        let change = Change::Xattr {
            node,
            name: name.to_vec(),
            value: value.map(<[u8]>::to_vec),
        };
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(entry) = self.settled_entry(inner, node) {
            let has = entry.attributes.xattrs.iter().find(|has| has.0 == name);
            if has.map(|has| has.1.as_slice()) == value {
                if matches!(inner.stage, Stage::Sealing(_)) {
                    inner.accepted.xattrs.push(change);
                }
                return Ok(());
            }
        }
        Self::require_open(inner)?;
        self.change(inner, change)
    }

    /// The entry that a node is equal to, once the point is sealed or on its way there.
    fn settled_entry(&self, inner: &Inner, node: u64) -> Option<Arc<Entry>> {
        let like = match &inner.stage {
            Stage::Sealed(point) | Stage::Sealing(Some(point)) => point.clone(),
            _ => return None,
        };
        entry_at(&like, &inner.state.path(node)?)
    }
}
