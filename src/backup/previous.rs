//! The backup's newest point, walked in step with the source: what was there under the same path.

use crate::clock::Time;
use crate::error::Result;
use crate::point::{Entries, Entry, Inode, Point, SideReader, Tree, Trees};
use std::iter::Peekable;
use std::sync::Arc;

/// An entry of the previous point, with what the source's inode was then.
pub struct Before {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The inode it was read from, if what it says can be trusted to tell a later change.
    pub inode: Option<Inode>,
    number: u64,
}

/// A cursor through the previous point. Anything that cannot be read there only makes the backup read more.
pub struct Previous {
    trees: Arc<Trees>,
    side: SideReader,
    /// When the reading of the point's source began.
    began: Time,
    levels: Vec<Option<Level>>,
}

struct Level {
    entries: Peekable<Entries>,
    /// The walk's number of the next entry.
    next: u64,
}

impl Previous {
    /// A cursor at the top of the point.
    pub fn new(trees: Arc<Trees>, point: &Point) -> Self {
        let side = SideReader::new(
            trees.clone(),
            point.record.side.clone(),
            point.record.side_bytes,
        );
        let top = level(&trees, &point.record.tree, 0);
        Self {
            trees,
            side,
            began: point.record.time,
            levels: vec![Some(top)],
        }
    }

    /// The entry of this name in the current directory. Names must be asked for in ascending order.
    pub fn find(&mut self, name: &[u8]) -> Option<Before> {
        let level = self.levels.last_mut()?.as_mut()?;
        loop {
            let entry = level.entries.peek()?.as_ref().ok()?;
            if entry.name.as_slice() > name {
                return None;
            }
            let entry = level.entries.next()?.ok()?;
            let number = level.next;
            let below = entry.tree().map_or(0, |tree| tree.entries);
            // A tree that says more only leads behind the side table's end.
            level.next = level.next.saturating_add(below).saturating_add(1);
            if entry.name == name {
                let inode = self.side.get(number).ok().flatten();
                let inode = inode.filter(|inode| settled(inode.ctime, self.began));
                return Some(Before {
                    entry,
                    inode,
                    number,
                });
            }
        }
    }

    /// Goes into the directory that [`Self::find`] gave, if it gave one.
    pub fn enter(&mut self, before: Option<&Before>) -> Result<()> {
        let below =
            before.and_then(|before| Some((before.entry.tree()?, before.number.saturating_add(1))));
        self.levels
            .push(below.map(|(tree, next)| level(&self.trees, tree, next)));
        Ok(())
    }

    /// Goes back to the directory above.
    pub fn leave(&mut self) {
        self.levels.pop();
    }
}

/// How far a change time may lie behind the clock. A file system that keeps fractions of a second takes the time of the
/// kernel's last tick: 10 ms at most, and ten times that for a host that lost some. One that keeps none rounds down to
/// one second (ext3, NFS 3 on it) or two (FAT).
const TICK_NANOSECONDS: i128 = 100_000_000;
const WHOLE_SECONDS_NANOSECONDS: i128 = 2_000_000_000;

/// Whether a change after the reading began must have given the inode another change time. If not, a file that changed
/// again right after it was read looks as it did before, and has to be read once more.
fn settled(ctime: Time, began: Time) -> bool {
    let nanoseconds =
        |time: Time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let coarse = if ctime.nanoseconds == 0 {
        WHOLE_SECONDS_NANOSECONDS
    } else {
        TICK_NANOSECONDS
    };
    nanoseconds(ctime) + coarse < nanoseconds(began)
}

fn level(trees: &Arc<Trees>, tree: &Tree, next: u64) -> Level {
    Level {
        entries: trees.entries(tree).peekable(),
        next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_within_the_clocks_tick_is_not_taken_for_settled() {
        let began = Time::new(1000, 50_000_000);
        for (ctime, expected) in [
            (Time::new(1000, 50_000_000), false),
            (Time::new(999, 960_000_000), false),
            (Time::new(999, 940_000_000), true),
            // No fractions: seconds, or two.
            (Time::new(999, 0), false),
            (Time::new(998, 0), true),
            // A clock that was wrong.
            (Time::new(5000, 1), false),
            (Time::new(-5, 1), true),
        ] {
            assert_eq!(settled(ctime, began), expected, "{ctime:?}");
        }
    }
}
