//! The names of owners in a point that is sealed as it was written. Tools pass numbers; what a number is called is
//! known from the point it was copied or linked from, and else from this host.

use super::change::Facts;
use crate::point::Owner;
use crate::source::OwnerNames;
use std::collections::HashSet;
use std::sync::Arc;

/// Owners with their names, each once.
#[derive(Debug, Default)]
pub(super) struct Owners {
    host: OwnerNames,
    shared: HashSet<Arc<Owner>>,
}

impl Owners {
    /// The owner of a node: `sources` are those of what it may be a copy of, the likeliest first.
    pub(super) fn of(&mut self, facts: &Facts, sources: &[Option<Arc<Owner>>]) -> Arc<Owner> {
        let mut sources = sources.iter().flatten();
        let (uid, gid) = (facts.uid, facts.gid);
        let user = sources.clone().find(|owner| owner.uid == uid);
        let group = sources.find(|owner| owner.gid == gid);
        let owner = Owner {
            uid,
            gid,
            user: match user {
                Some(owner) => owner.user.clone(),
                None => self.host.user(uid).to_vec(),
            },
            group: match group {
                Some(owner) => owner.group.clone(),
                None => self.host.group(gid).to_vec(),
            },
        };
        if let Some(known) = self.shared.get(&owner) {
            return known.clone();
        }
        let owner = Arc::new(owner);
        self.shared.insert(owner.clone());
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

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
        let mut owners = Owners::default();
        let alice = owner(1234, "alice", 0, "wheel");
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
    }
}
