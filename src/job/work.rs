//! What a job does, as the scheduler sees it.

use super::{Candidate, Control, Settings};
use crate::clock::Time;
use crate::error::Result;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The two sides of a job, looked at.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Every complete point that the job's sources take.
    pub candidates: Vec<Candidate>,
    /// When the source of the newest copy was read, for each backup that the sources have; none when the target has no
    /// copy of it.
    pub newest: BTreeMap<Vec<u8>, Option<Time>>,
}

/// What became of the points of a run in one target.
#[derive(Clone, Debug, Default)]
pub struct CopiedPoints {
    /// Points that the target has now, as BACKUP/POINT.
    pub copied: Vec<String>,
    /// What could not be copied, and why.
    pub problems: Vec<(String, String)>,
    /// Whether somebody has to decide what becomes of it.
    pub needs_action: bool,
    /// Ids of the copy sessions.
    pub sessions: Vec<String>,
    /// Bytes that were added to the target's store.
    pub stored_bytes: u64,
}

/// Finds and copies restore points.
pub trait Work: Send + Sync {
    /// What the job's sources and one of its targets have; `anew` when it must not come out of a cache. Cheap otherwise:
    /// an immediate job asks once a second.
    fn look(&self, settings: &Settings, target: &str, anew: bool) -> Result<Look>;

    /// Copies points into a target, oldest first. Looks at [`Control`] for what people and clocks ask meanwhile; fails with
    /// `Interrupted` when it was stopped, and then loses nothing of what has arrived.
    fn copy(
        &self,
        settings: &Settings,
        target: &str,
        points: &[Candidate],
        control: &Arc<Control>,
    ) -> Result<CopiedPoints>;
}
