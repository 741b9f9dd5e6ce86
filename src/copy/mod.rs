//! Restore points into another repository: plan (pure), then transfer, then commit.
//!
//! What the target has is not read. A frame that the target needs whole moves as it is: decrypted, encrypted under the
//! target's key, never decompressed; a frame of which it needs a part is cut and grouped anew.

mod admit;
mod backlog;
mod pages;
mod plan;
mod point;
mod run;
mod session;
mod transfer;

pub use admit::{require_allowed, require_both_ready, require_policy, require_room};
pub use plan::{Scope, Selection, Step, Verdict, plan};
pub use point::{Failed, bring_point};
pub use run::{End, PointReport, SessionReport, copy_point, copy_points};
pub use session::{
    FAILED_PARTS_MAX, FailedPart, Outcome, Party, SessionCounters, SessionPoint, SessionRecord,
    SessionState, sessions,
};
pub use transfer::{Failure, Transfer, TransferOptions, TransferReport, WORKERS_MAX};
