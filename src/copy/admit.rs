//! Whether a copy may begin: before a session exists and before a byte moves.
//!
//! What is refused here has a sentence of its own for each reason, and the target is as it was.

use crate::error::{Error, Kind, Result};
use crate::id::ChunkId;
use crate::point::{Needs, Point, reach};
use crate::repository::{Repository, require_ready};
use std::collections::HashSet;
use std::sync::Arc;

/// What a copy adds besides the data itself: index, records, the rounding of blocks.
const MARGIN_BYTES: u64 = 4 << 20;

/// Refuses a copy that these repositories rule out, or for which the target's capacity is used up: `Invalid`, `Quota`.
pub fn require_allowed(source: &Repository, target: &Repository) -> Result<()> {
    require_policy(source, target)?;
    target.require_capacity()
}

/// Refuses, with `Invalid`, a copy that a capability or the retention type rules out. Asks no store.
pub fn require_policy(source: &Repository, target: &Repository) -> Result<()> {
    let (from, into) = (source.settings(), target.settings());
    let refuse = |message: String| Err(Error::new(Kind::Invalid, message));
    if !from.gives_copies() {
        return refuse(format!(
            "{} is not to be copied from (copy-source = false); change it with `keepfs config`, or copy from another repository",
            source.location()
        ));
    }
    if !into.takes_copies() {
        return refuse(format!(
            "{} takes no copies (copy-target = false); change it with `keepfs config`, or copy into another repository",
            target.location()
        ));
    }
    let (kept, keeps) = (from.retention_type(), into.retention_type());
    if kept != keeps {
        return refuse(format!(
            "{} keeps by {} and {} by {}, and the retention type of a repository never changes; copy into a repository of the same type",
            source.location(),
            kept.name(),
            target.location(),
            keeps.name()
        ));
    }
    Ok(())
}

/// Refuses a copy of which one end cannot be used just now: `Unreachable`. Reads both headers.
pub fn require_both_ready(source: &Repository, target: &Repository) -> Result<()> {
    require_ready(source)?;
    require_ready(target)
}

/// Refuses, with `Full` and the estimate, points that the target's disk has no room for. A store that knows no limit
/// takes everything. Trees are read only where cheaper bounds do not show that there is room.
pub fn require_room(points: &[Arc<Point>], source: &Repository, target: &Repository) -> Result<()> {
    let Some(space) = target.store().space()? else {
        return Ok(());
    };
    let free = space.free.saturating_sub(MARGIN_BYTES);
    if source.listed_bytes()? <= free || plain_bytes(points) <= free {
        return Ok(());
    }
    let lacks = lacking_bytes(points, source, target)?;
    if lacks <= free {
        return Ok(());
    }
    let message = format!(
        "the copy needs up to {} bytes and {} has {} left; make room there, or copy fewer points",
        lacks.saturating_add(MARGIN_BYTES),
        target.location(),
        space.free
    );
    Err(Error::new(Kind::Full, message))
}

fn plain_bytes(points: &[Arc<Point>]) -> u64 {
    let bytes = points.iter().map(|point| point.record.tree.bytes);
    // Trees may say what they like.
    bytes.fold(0, u64::saturating_add)
}

/// Bytes in the source's packs of all that these points need and the target does not have.
fn lacking_bytes(points: &[Arc<Point>], source: &Repository, target: &Repository) -> Result<u64> {
    let mut lacks = 0u64;
    let mut seen = HashSet::new();
    let mut needs = Needs::default();
    let mut need = |id: &ChunkId| {
        if seen.insert(*id) && target.find(id)?.is_none() {
            lacks = lacks.saturating_add(source.locate(id)?.stored_share()?);
        }
        Ok(())
    };
    for point in points {
        reach(source, &point.record, &mut needs, &mut need)?;
    }
    Ok(lacks)
}
