//! What is to be done with each pack: a computation on facts, without a store.

use super::leases::Protection;
use super::mark::Pack;
use crate::clock::Time;
use crate::id::ObjectId;

/// What bounds a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The time of the store.
    pub now: Time,
    /// Seconds for which what nobody needs is left alone.
    pub grace: i64,
    /// Share of dead bytes, in percent, above which a pack is rewritten; 100 and more for never.
    pub max_dead: u8,
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Packs that nobody needs and that are old enough.
    pub condemn: Vec<ObjectId>,
    /// Their bytes.
    pub condemn_bytes: u64,
    /// Packs of which too little is needed.
    pub rewrite: Vec<ObjectId>,
    /// Plain bytes of them that are needed.
    pub rewrite_bytes: u64,
    /// Packs that are needed.
    pub live_packs: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Plain bytes in them that nobody needs.
    pub dead_bytes: u64,
    /// Packs that nobody needs but that may be a writer's, and their bytes.
    pub young_packs: u64,
    pub young_bytes: u64,
}

/// Whether a pack has been there for so long, and was there before every lease began, that whoever stored it has
/// committed its point or died. One that is only in the index is gone already.
pub(super) fn is_settled(pack: &Pack, protection: &Protection, limits: &Limits) -> bool {
    pack.modified.is_none_or(|modified| {
        let age = limits.now.seconds.saturating_sub(modified.seconds);
        age >= limits.grace && !protection.keeps(modified)
    })
}

pub(super) fn plan(packs: &[Pack], protection: &Protection, limits: &Limits) -> Plan {
    let mut plan = Plan::default();
    for pack in packs {
        let settled = is_settled(pack, protection, limits);
        if pack.is_dead() && settled {
            plan.condemn.push(pack.id);
            plan.condemn_bytes += pack.object_bytes;
            continue;
        }
        if pack.is_dead() {
            plan.young_packs += 1;
            plan.young_bytes += pack.object_bytes;
            continue;
        }
        plan.live_packs += 1;
        plan.live_bytes += pack.object_bytes;
        let dead = pack.stream_bytes.saturating_sub(pack.live_bytes);
        plan.dead_bytes += dead;
        let above =
            u128::from(dead) * 100 > u128::from(pack.stream_bytes) * u128::from(limits.max_dead);
        if above && settled {
            plan.rewrite.push(pack.id);
            plan.rewrite_bytes += pack.live_bytes;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::names::PackKind;

    fn pack(modified: i64, stream_bytes: u64, live_bytes: u64) -> Pack {
        Pack {
            kind: PackKind::Data,
            id: ObjectId([modified as u8; 16]),
            object_bytes: 10,
            modified: Some(Time::new(modified, 0)),
            hashed: true,
            stream_bytes,
            live_chunks: live_bytes,
            live_bytes,
        }
    }

    fn limits(max_dead: u8) -> Limits {
        Limits {
            now: Time::new(100, 0),
            grace: 10,
            max_dead,
        }
    }

    #[test]
    fn only_what_is_dead_and_settled_is_condemned() {
        let protection = Protection {
            since: Some(Time::new(80, 0)),
            ..Protection::default()
        };
        let packs = [
            pack(50, 100, 0),
            pack(51, 100, 1),
            pack(80, 100, 0),
            pack(95, 100, 0),
        ];
        let found = plan(&packs, &protection, &limits(100));
        assert_eq!(found.condemn, [packs[0].id]);
        assert_eq!((found.live_packs, found.young_packs), (1, 2));
        let found = plan(&packs, &Protection::default(), &limits(100));
        assert_eq!(found.condemn, [packs[0].id, packs[2].id]);
    }

    #[test]
    fn what_is_only_in_the_index_is_taken_out_of_it() {
        let ghost = Pack {
            modified: None,
            ..pack(99, 100, 0)
        };
        let protection = Protection {
            since: Some(Time::new(1, 0)),
            ..Protection::default()
        };
        assert_eq!(
            plan(&[ghost], &protection, &limits(100)).condemn,
            [ghost.id]
        );
    }

    #[test]
    fn a_pack_is_rewritten_above_the_share_only() {
        for (live, max_dead, expected) in [
            (50, 50, 0),
            (49, 50, 1),
            (1, 100, 0),
            (99, 0, 1),
            (100, 0, 0),
        ] {
            let packs = [pack(50, 100, live)];
            let found = plan(&packs, &Protection::default(), &limits(max_dead));
            assert_eq!(found.rewrite.len(), expected, "{live} of 100, {max_dead} %");
        }
    }
}
