//! Owners in a point that is sealed as it was written. Tools see and set the numbers of this host; who that is follows from
//! the point it was copied or linked from, and else from this host's names.

use super::change::Facts;
use crate::filesystem::owners::ShownOwners;
use crate::point::Owner;
use crate::source::OwnerNames;
use std::collections::HashSet;
use std::sync::Arc;

/// Owners with their names, each once.
#[derive(Debug)]
pub(super) struct Owners {
    shown: Arc<ShownOwners>,
    host: OwnerNames,
    shared: HashSet<Arc<Owner>>,
}

/// A user or a group: how it is shown here, how it is stored, and what it is called.
type Known<'a> = (u32, u32, &'a [u8]);

impl Owners {
    /// Of a point in a mount that shows owners so.
    pub(super) fn new(shown: Arc<ShownOwners>) -> Self {
        Self {
            shown,
            host: OwnerNames::default(),
            shared: HashSet::new(),
        }
    }

    /// The owner of a node: `sources` are those of what it may be a copy of, the likeliest first.
    pub(super) fn of(&mut self, facts: &Facts, sources: &[Option<Arc<Owner>>]) -> Arc<Owner> {
        let sources = sources.iter().flatten();
        let sources = sources.map(|owner| (self.shown.of(owner), owner));
        let (users, groups): (Vec<_>, Vec<_>) = sources
            .map(|(shown, owner)| {
                let user = (shown.uid, owner.uid, &owner.user[..]);
                let group = (shown.gid, owner.gid, &owner.group[..]);
                (user, group)
            })
            .unzip();
        let (uid, user) = stored(facts.uid, &users, || self.host.user(facts.uid));
        let (gid, group) = stored(facts.gid, &groups, || self.host.group(facts.gid));
        let owner = Owner {
            uid,
            gid,
            user,
            group,
        };
        if let Some(known) = self.shared.get(&owner) {
            return known.clone();
        }
        let owner = Arc::new(owner);
        self.shared.insert(owner.clone());
        owner
    }
}

/// Number and name to store for a number of this host: those of the source that is shown so, else the host's own.
fn stored(number: u32, sources: &[Known<'_>], host: impl FnOnce() -> Arc<[u8]>) -> (u32, Vec<u8>) {
    if let Some((_, stored, name)) = sources.iter().find(|(shown, ..)| *shown == number) {
        return (*stored, name.to_vec());
    }
    let name = host();
    // Nobody here: the source was shown so before this host knew its name.
    let nobody = sources.iter().filter(|_| name.is_empty());
    let was = nobody.into_iter().find(|(_, stored, _)| *stored == number);
    (number, was.map_or(&*name, |(.., name)| name).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Time};

    fn owner(uid: u32, user: &str, gid: u32, group: &str) -> Option<Arc<Owner>> {
        Some(Arc::new(Owner {
            uid,
            gid,
            user: user.into(),
            group: group.into(),
        }))
    }

    #[test]
    fn a_source_names_its_own_numbers_and_this_host_all_others() {
        let facts = |uid, gid| Facts {
            mode: 0,
            uid,
            gid,
            mtime: Time::default(),
        };
        let shown = Arc::new(ShownOwners::new(false, &Clock::system()));
        let mut owners = Owners::new(shown.clone());
        let alice = owner(1234, "nobody knows alice", 0, "wheel");
        let found = owners.of(&facts(1234, 0), &[None, alice.clone()]);
        assert_eq!(found, alice.clone().unwrap());
        let found = owners.of(&facts(0, 0), std::slice::from_ref(&alice));
        assert_eq!(
            (&found.user[..], &found.group[..]),
            (&b"root"[..], &b"wheel"[..])
        );
        let found = owners.of(&facts(4_000_000_000, 0), &[]);
        assert_eq!(
            (&found.user[..], &found.group[..]),
            (&b""[..], &b"root"[..])
        );
        // Shown by another number here, it keeps the one it has there.
        let other = owner(54321, "nobody", 54322, "root");
        let here = shown.of(other.as_ref().unwrap());
        assert_eq!(here.gid, 0);
        let found = owners.of(&facts(here.uid, 0), &[alice.clone(), other.clone()]);
        assert_eq!((found.uid, &found.user[..]), (54321, &b"nobody"[..]));
        assert_eq!((found.gid, &found.group[..]), (0, &b"wheel"[..]));
        let found = owners.of(&facts(here.uid, 0), std::slice::from_ref(&other));
        assert_eq!(found, other.clone().unwrap());
        // It was shown by its own number until this host knew the name.
        let found = owners.of(&facts(54321, 54322), std::slice::from_ref(&other));
        assert_eq!(found, other.unwrap());
    }
}
