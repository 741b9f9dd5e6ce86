//! Space comes back: what no point needs any more is deleted, beside backups, copies, mounts and other prunes on other
//! hosts, without a lock.
//!
//! # What goes
//!
//! A point in the trash for longer than the repository's `trash-days` is removed for good. A pack is needed when a chunk
//! in it is below any point that the store has a record of, forgotten or not, and not gone for good. A pack that nobody
//! needs, and one of which so little is needed that it was rewritten, is put on a list, and goes when that list is carried
//! out in a later run. All times are the store's own: an object's time compared with that of one made by this run. No
//! host's clock decides anything.
//!
//! # How a list goes
//!
//! ```text
//!  Listed(T)  packs that nobody needs, at least a grace period old and older than every living lease; T is a grace
//!             period ahead. Made only when no other list is there.
//!  Decided    in a run that began after T: everything is looked at again, and what is needed now is taken off.
//!  Done       packs gone: from the index, then from the store. The record goes on naming them.
//! ```
//! Each is the creation, if absent, of the next number of `condemned/`, by somebody who has read all numbers below it: of
//! several prunes exactly one makes each step, and a step that was made is carried out by whoever comes, as often as it
//! takes: all of it may be done twice.
//!
//! What others promise:
//!
//! 1. A writer reads the newest record when it begins, and after that the index. What the record names it does not take for
//!    stored, whatever the state: it stores it anew.
//! 2. A commit goes through if no record was made since its writers began, other than the making of a list, and its record
//!    is in the store before the list's `T`. Otherwise everything below the new point is looked up in the index as the
//!    store has it, outside the packs that the newest record names. What is only in a list that is not decided is rescued: the
//!    committer withdraws the list, by the creation of the number that deciding would take. What is in one that is decided is
//!    not, and the commit is refused. This is done before the point's record is made and again after it
//!    (`point/catalog/commit.rs`).
//!
//! # Why nothing is lost
//!
//! *A writer loaded its index before the list was made.* It may share chunks with packs on the list. If its point is in the
//! store before `T`, whoever decides sees the point, as deciding runs list the points after `T`, and takes those packs off. If
//! it comes later, 2 looks everything up, and either withdraws the list, which then nobody can decide, or is refused, as it is
//! decided. Run again, 1 stores anew what is missing.
//!
//! *A commit between the listing of points and the deciding.* The record of the point is made, then the newest number is
//! read (2); the number of the decided list is made, then the points are listed once more (`execute.rs`). So one of them sees
//! the other, whichever comes first. Who decides takes the packs off in a further record, before anything is deleted; who
//! commits forgets the point again. Only when the committing process dies between its two steps, after it slept for a whole
//! grace period before the first, and its point was made after the second listing, is nobody left to look.
//!
//! *A writer began after the list was decided.* It does not share what the list names (1), whether the list is carried out
//! while it works or was long ago: the packs are named until the next list is made, and that one is made after the index
//! names them no more. Who then still has an old index reads the newest record, and the index after it (1).
//!
//! *Two prunes at once.* They cannot both list, nor both decide. Both may carry out the same decided list. One that is late
//! deletes what is gone. A list was made by somebody who knew the one before, so of two packs with the same chunk never both
//! are on different lists; on the same list, deciding keeps the one with the lower id, on all hosts, if the chunk is needed.
//!
//! *Undelete.* A forgotten point is looked at like any other until it is gone for good, so its packs are on no list that
//! would be decided. It is gone by the store's time `trash-days` after it was forgotten, and who brings it back looks at the
//! store's time of that: before the end of these days, every prune that could remove it lists the trash later and sees it;
//! after it, it is put back into the trash. What says that it is gone (a grave, `point/catalog/trash.rs`) stays for ever,
//! 100 bytes, so that its name's next use is never taken for it.
//!
//! *A crash.* Before the catalogue with the graves: nothing has happened. After it: the points are gone, the next run removes
//! their records. Before or after any number of `condemned/`: that step was made or not. While a decided list is carried out:
//! the index lists packs or not, and the packs are there or not, but what the index lists and is not there is named by the
//! newest record, which nobody shares. The next run carries on.
//!
//! *An index merged meanwhile.* A merger made from old segments may list deleted packs again, beside the new segments without
//! them. Nobody needs these packs, the newest record names them, the index is looked at once more after the packs are gone,
//! and a later run takes what is only in the index out of it like any dead pack.
//!
//! *Doubt.* Where a record, a segment or a page cannot be read, or the store shows less than this host has seen, nothing is
//! pruned at all.
//!
//! # Open points, and long work
//!
//! What was stored for no point yet is kept by its age, and by leases (`repository/lease.rs`): while a writer's or an open
//! point's lease lives, nothing is listed that was stored after its beginning, and no point goes that was forgotten after it.
//! A writer's lease makes nothing safe; without it long work would be refused at its end. That of an open point does: what
//! tools have written there may be nowhere else. Its mark is made before anything is stored for it, and no list is decided
//! that is younger than the mark of a living open point; what an older list names, its writers do not share (1). The mark of a
//! host that is gone stays until somebody removes it. Then what that point alone refers to goes like anything that nobody
//! needs; should its host come back, its daemon makes the mark anew, and sealing looks for each chunk (2).
//!
//! # What it costs
//!
//! Every page below every point is read once, however many points share it. Memory is a bit for each chunk of the index, about
//! 100 bytes for each pack, 33 bytes for each page. The index is rewritten as far as it lists what goes; packs, as far as
//! `max_dead` says. Replaced segments and catalogues are deleted when what replaces them is a grace period old: nobody who
//! listed the store before goes on looking for them then.

mod execute;
mod leases;
mod mark;
mod plan;
mod rewrite;

use crate::error::Result;
use crate::point::Catalog;
use crate::progress::Progress;
use execute::Pass;
use serde::Serialize;

/// Seconds for which what nobody needs is left alone, before it is listed and between listing and deciding: a day. A
/// host that sleeps, or a store that does not answer, for so long makes a commit look everything up; it loses nothing.
pub const GRACE_SECONDS: i64 = 24 * 60 * 60;
/// Share of dead bytes, in percent, above which a pack is rewritten: rewriting costs at most what it frees.
pub const MAX_DEAD: u8 = 50;

/// How to prune.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Change nothing, only tell what would be done now. The host's clock stands for the store's then.
    pub dry_run: bool,
    /// Seconds for which what nobody needs is left alone. With 0 a list is made, decided and carried out in one run; then a
    /// writer that works at the same time may be refused at its end.
    pub grace_seconds: i64,
    /// Share of dead bytes, in percent, above which a pack is rewritten; 100 for never.
    pub max_dead: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dry_run: false,
            grace_seconds: GRACE_SECONDS,
            max_dead: MAX_DEAD,
        }
    }
}

/// What a prune did; in a dry run, what it would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Forgotten points that are gone for good now.
    pub points_removed: u64,
    /// Forgotten points that can still be brought back.
    pub points_in_trash: u64,
    /// Packs of an earlier list that were deleted, and their bytes.
    pub deleted_packs: u64,
    /// See `deleted_packs`.
    pub deleted_bytes: u64,
    /// Packs of an earlier list that are needed again, or may be.
    pub rescued_packs: u64,
    /// Packs of a list that waits, and their bytes.
    pub waiting_packs: u64,
    /// See `waiting_packs`.
    pub waiting_bytes: u64,
    /// From when on, by the store's clock, a run deletes what is listed, RFC 3339.
    pub waiting_until: Option<String>,
    /// Packs that this run put on a list, those that were rewritten among them.
    pub condemned_packs: u64,
    /// Bytes of those that nobody needs.
    pub condemned_bytes: u64,
    /// Packs of which little was needed, and the plain bytes of that.
    pub rewritten_packs: u64,
    /// See `rewritten_packs`.
    pub rewritten_bytes: u64,
    /// Packs that points need, and their bytes.
    pub live_packs: u64,
    /// See `live_packs`.
    pub live_bytes: u64,
    /// Plain bytes in them that nobody needs.
    pub dead_bytes: u64,
    /// Packs that no point needs but that a writer may just have stored, and their bytes.
    pub young_packs: u64,
    /// See `young_packs`.
    pub young_bytes: u64,
    /// Index segments that were merged.
    pub segments_merged: u64,
    /// Small objects that were removed: replaced segments and catalogues, ended leases, old lists.
    pub objects_removed: u64,
    /// Who keeps what was stored or forgotten since, a sentence each.
    pub leases: Vec<String>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

/// Prunes a repository: removes what is over its days in the trash, decides and carries out a list whose time has come,
/// and lists what nobody needs now.
///
/// Fails with `Damaged`, before anything is deleted, when something cannot be read that could need what is to go, with
/// `ReadOnly` when this program must not write, with `Interrupted` when `progress` is asked to stop, and with what the
/// store answers. Whatever it fails with, the next run goes on.
pub fn prune(catalog: &Catalog, options: &Options, progress: &Progress) -> Result<Report> {
    if !options.dry_run {
        catalog.repository().require_writable()?;
    }
    let mut report = Report {
        dry_run: options.dry_run,
        ..Report::default()
    };
    let run = |report: &mut Report| {
        let mut pass = Pass {
            catalog,
            options,
            progress,
            report,
        };
        pass.run()
    };
    run(&mut report)?;
    if report.condemned_packs > 0 && options.grace_seconds == 0 && !options.dry_run {
        report.waiting_until = None;
        run(&mut report)?;
    }
    Ok(report)
}
