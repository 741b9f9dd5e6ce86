//! Whether a point may be committed beside a prune: everything that it refers to must stay.
//!
//! Prune makes a list of what it is about to delete, waits until a time that the list names, looks at all points again,
//! decides, and only then deletes (`repository/condemned.rs`, `prune`). So a record that the store has before the list's
//! time is always seen by the one who decides, whatever it refers to. Nothing else needs to be looked at for a point
//! whose writers began when the same list, or none, was there, and that is nearly every one. Where a list was decided
//! meanwhile, or may be decided now, everything below the point is looked up in the index as the store has it, outside the
//! packs of the list. A chunk that is only there is rescued by withdrawing the list, if it is not decided yet: that is the
//! creation of the very record that deciding would create. If it is, the commit is refused.
//!
//! This is done before the record is created, and once more after it, by the store's time of the record: the caller may
//! have slept for days in between. A record that fails then is forgotten again, and the caller is told to start anew.

use super::{Catalog, Point};
use crate::error::{Error, Kind, Result};
use crate::point::reach::require_kept;
use crate::point::record::PointRecord;
use crate::repository::{Condemnation, Stage};
use crate::store::names::Name;
use std::sync::Arc;

impl Catalog {
    /// Before a record is created. Returns what prune had listed then.
    pub(super) fn require_uncondemned(&self, record: &PointRecord) -> Result<Arc<Condemnation>> {
        let now = self.repository.condemned()?;
        let began = self.repository.since_oldest_writer();
        let unchanged = match (&now.stage, began) {
            (Stage::Never, _) => true,
            (_, None) => false,
            (_, Some(began)) => began.lasts_until(&now),
        };
        // This host's clock only spares a look that would come too late; the look behind goes by the store's.
        let soon = matches!(now.stage, Stage::Listed(time) if time <= self.repository.now());
        match unchanged && !soon {
            true => Ok(now),
            false => self.keep(record, now),
        }
    }

    /// Sees that everything below a point stays, if need be by withdrawing a list that is not decided yet. Returns what
    /// prune has listed then.
    fn keep(&self, record: &PointRecord, now: Arc<Condemnation>) -> Result<Arc<Condemnation>> {
        let kept = require_kept(&self.repository, record, &now.packs);
        match (kept, now.stage) {
            (Err(error), Stage::Listed(_)) if error.kind() == Kind::Busy => {
                self.repository.withdraw(&now)?;
                let now = self.repository.condemned()?;
                require_kept(&self.repository, record, &now.packs)?;
                Ok(now)
            }
            (kept, _) => kept.map(|()| now),
        }
    }

    /// After it was created.
    pub(super) fn require_still_uncondemned(
        &self,
        point: &Point,
        before: &Condemnation,
    ) -> Result<()> {
        let looked = self
            .repository
            .condemned()
            .and_then(|now| Ok((self.comes_before(point, before, &now)?, now)));
        let now = match looked {
            Ok((true, _)) => return Ok(()),
            Ok((false, now)) => now,
            // The point is there, and was looked at a moment ago.
            Err(error) => {
                tracing::warn!("what prune does now is not known: {error}");
                return Ok(());
            }
        };
        let Err(error) = self.keep(&point.record, now) else {
            return Ok(());
        };
        // Gone at once: in the trash it would be something that prune must keep and cannot.
        self.forget(point)?;
        self.bury(&[(point.id, point.generation)])?;
        Err(Error::new(error.kind(), error.message()))
    }

    /// Whether nothing can have been decided before the record was there.
    fn comes_before(
        &self,
        point: &Point,
        before: &Condemnation,
        now: &Condemnation,
    ) -> Result<bool> {
        let Stage::Listed(time) = now.stage else {
            return Ok(before.number == now.number);
        };
        if !before.lasts_until(now) {
            return Ok(false);
        }
        let name = Name::Point(point.id, point.generation).to_string();
        Ok(self.repository.store().head(&name)?.modified < time)
    }
}
