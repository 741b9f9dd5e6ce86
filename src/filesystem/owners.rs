//! Owners as the mount shows them: by the numbers that this host has for their names, where it knows these, else by the
//! numbers that trees hold. What is in an open point has the numbers that were shown to tools or that tools have set: all
//! comparisons with a complete point are with what that shows.
//!
//! An ACL names users and groups by number alone; its numbers are shown as they are stored.

use super::attributes::FOREVER;
use crate::clock::Clock;
use crate::point::Owner;
use crate::source::OwnerNumbers;
use std::time::Duration;

/// The owner of an entry as the mount shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShownOwner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// How long that holds: a name that this host does not know may be given to somebody.
    pub(super) kept: Duration,
}

/// How owners are shown.
#[derive(Debug)]
pub(super) struct ShownOwners(OwnerNumbers);

impl ShownOwners {
    /// By name; with `numeric` as they are stored.
    pub(super) fn new(numeric: bool, clock: &Clock) -> Self {
        Self(OwnerNumbers::new(numeric, clock))
    }

    /// Whether this host has a user of this name. May ask the host's databases.
    pub(super) fn knows_user(&self, name: &[u8]) -> bool {
        self.0.knows_user(name)
    }

    /// The number of a user of this host. May ask the host's databases.
    pub(super) fn number_of_user(&self, name: &[u8]) -> Option<u32> {
        self.0.number_of_user(name)
    }

    /// How this owner is shown. May ask the host's databases: not to be called with a lock held.
    pub(super) fn of(&self, owner: &Owner) -> ShownOwner {
        let user = self.0.user(owner.uid, &owner.user);
        let group = self.0.group(owner.gid, &owner.group);
        ShownOwner {
            uid: user.number,
            gid: group.number,
            kept: match user.unknown || group.unknown {
                true => OwnerNumbers::ASKED_AGAIN,
                false => FOREVER,
            },
        }
    }
}
