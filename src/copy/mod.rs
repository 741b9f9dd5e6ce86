//! Restore points into another repository: plan (pure), then transfer, then commit.
//!
//! What the target has is not read. A frame that the target needs whole moves as it is: decrypted, encrypted under the
//! target's key, never decompressed; a frame of which it needs a part is cut and grouped anew.

mod admit;
mod backlog;
mod conduct;
mod pages;
mod plan;
mod point;
mod run;
mod session;
mod transfer;

pub use admit::{require_allowed, require_both_ready, require_policy, require_room};
pub use conduct::{
    Conducted, SessionReport, conduct_copy, copy_points, retry_session, retry_taken, skip_session,
    undo_session,
};
pub use plan::{Scope, Selection, Step, Verdict, plan};
pub use point::{Failed, bring_point};
pub use run::{End, PointReport, copy_point};
pub use session::{
    Action, BEAT, DEAD_SECONDS, FAILED_PARTS_MAX, FailedPart, LAST, OPEN_POINT, Outcome, Party,
    Session, SessionCounters, SessionPoint, SessionRecord, SessionState, all_sessions,
    new_sessions, remove_old_sessions, sessions, unfinished_sessions,
};
pub use transfer::{Failure, PAUSE_MAX, Transfer, TransferOptions, TransferReport, WORKERS_MAX};
