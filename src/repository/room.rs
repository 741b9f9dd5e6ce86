//! How much a repository holds, and how much it may hold.

use super::index::Location;
use super::{CAPACITY, Repository};
use crate::error::{Error, Kind, Result};
use crate::store::Space;
use std::collections::HashSet;

impl Location {
    /// Bytes of the pack that the chunk takes: its share of each frame that holds a part of it.
    pub fn stored_share(&self) -> Result<u64> {
        let end = self.offset + self.length;
        let mut share = 0;
        for frame in self.frames()? {
            let (begins, ends) = (
                self.offset.max(frame.stream_begin),
                end.min(frame.stream_end),
            );
            let within = u64::from(ends.saturating_sub(begins));
            let stream = u64::from(frame.plain_bytes().max(1));
            share += (within * u64::from(frame.stored_bytes())).div_ceil(stream);
        }
        Ok(share)
    }
}

impl Repository {
    /// Bytes of all packs that the loaded index lists.
    pub fn listed_bytes(&self) -> Result<u64> {
        let mut seen = HashSet::new();
        let mut bytes = 0;
        for segment in self.segments().iter() {
            for number in 0..segment.pack_count() {
                let pack = segment.pack(number)?;
                if seen.insert(pack.id) {
                    bytes += u64::from(pack.object_bytes);
                }
            }
        }
        Ok(bytes)
    }

    /// Fails with `Quota` when the repository holds as much as its setting `capacity` allows: nothing new is begun then.
    /// What is under way ends all the same. Asks the store only where there is such a setting.
    pub fn require_capacity(&self) -> Result<()> {
        let Some(capacity) = self.settings().capacity() else {
            return Ok(());
        };
        self.refresh_index()?;
        let holds = self.listed_bytes()?;
        if holds < capacity {
            return Ok(());
        }
        let message = format!(
            "{} holds {holds} bytes and its {CAPACITY} is {capacity}; forget restore points and prune, or raise it with `keepfs config`",
            self.location()
        );
        Err(Error::new(Kind::Quota, message))
    }

    /// Room in its store, as far as its capacity allows; none where neither knows a limit.
    pub fn space(&self) -> Result<Option<Space>> {
        let space = self.access.store.space()?;
        let Some(capacity) = self.settings().capacity() else {
            return Ok(space);
        };
        let left = capacity.saturating_sub(self.listed_bytes()?);
        let of_store = space.unwrap_or(Space {
            total: capacity,
            free: left,
        });
        Ok(Some(Space {
            total: of_store.total.min(capacity),
            free: of_store.free.min(left),
        }))
    }
}
