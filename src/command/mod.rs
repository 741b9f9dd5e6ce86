//! The one list of verbs: functions from typed arguments to typed reports that serialize. The command line and the
//! control tree are two doors to it. Nothing here prints or asks.
//!
//! | verb | |
//! |---|---|
//! | [`init`] | makes a repository |
//! | [`backup`] | files of this host into a new restore point |
//! | [`restore`] | a restore point, or a part of it, out to plain files |
//! | [`copy`] | restore points into another repository |
//! | [`move_points`] | the same, forgotten where they were |
//! | [`points`] | which restore points there are |
//! | [`open_points`] | which are open on this host, for how long, and what to do; marks of those of other hosts |
//! | [`plan_unmark`] | the mark of an open point whose host is gone goes |
//! | [`diff`] | how two restore points differ |
//! | [`seal`] | an open restore point becomes a complete one |
//! | [`sessions`], [`session`], [`wait_session`], [`session_log`] | copy sessions and how they stand |
//! | [`act_on_session`] | one is retried, skipped or undone |
//! | [`forget`] | a restore point goes into the trash |
//! | [`undelete`], [`trash`] | it comes back; what can come back, and until when |
//! | [`prune`] | what no restore point needs any more is deleted |
//! | [`check`] | whether everything that restore points need is there and sound |
//! | [`settings`] | what a repository carries with it, shown and changed |
//! | [`stats`] | how much is stored, and how well |
//! | [`add_key`], [`list_keys`], [`remove_key`] | who may open a repository |
//! | [`test_notify`], [`list_notify`], [`send_notify`] | whether messages arrive, which have not, and all of them now |
//! | [`list_jobs`], [`show_job`], [`start_job`], [`ask_job`] | copies that recur: how they stand, and what is asked of them |
//! | [`mount`], [`unmount`] | repositories as directories |
//! | [`Shared`], [`remount`] | one mount of a configuration, and binds of it |

mod backup;
mod check;
mod control;
mod copy;
mod diff;
mod engine;
mod forget;
mod host;
mod init;
mod jobs;
mod key;
mod marks;
mod mount;
mod move_points;
mod notify;
mod open_points;
mod points;
mod prune;
mod restore;
mod seal;
mod session;
mod settings;
mod shared;
mod stats;
mod trash;

pub use backup::{BackupArguments, BackupReport, backup};
pub use check::{CheckArguments, CheckReport, check};
pub use copy::{CopyReport, copy};
pub use diff::{DiffLine, DiffReport, diff};
pub use engine::{PartFacts, PointFacts, ProblemReport, SessionFacts};
pub use forget::{ForgetReport, forget};
pub use host::{Host, Selected};
pub use init::{InitArguments, InitReport, init};
pub use jobs::{
    JobLine, JobRunLine, JobsReport, StartReport, ask_job, list_jobs, show_job, start_job,
};
pub use key::{KeyLine, KeyReport, KeysReport, add_key, list_keys, remove_key};
pub use marks::{MarkLine, UnmarkReport, Unmarking, plan_unmark};
pub use mount::{MountArguments, MountPlan, mount, plan_mount, unmount};
pub use move_points::{MoveReport, move_points};
pub use notify::{
    MessageLine, NotifyReport, NotifySendReport, NotifyTestReport, list_notify, send_notify,
    test_notify,
};
pub use open_points::{OpenLine, OpenReport, open_points};
pub use points::{BackupLine, PointLine, PointsReport, points};
pub use prune::{MAX_DEAD, PruneArguments, PruneReport, prune};
pub use restore::{RestoreReport, restore};
pub use seal::{SealReport, seal};
pub use session::{
    Listed, LogLine, SessionAction, SessionLine, SessionLog, SessionPlace, SessionReport,
    SessionsReport, act_on_session, session, session_log, sessions, wait_session,
};
pub use settings::{SettingLine, SettingsReport, settings};
pub use shared::{Access, Shared, remount};
pub use stats::{InvalidLine, StatsLine, StatsReport, StoredBytes, stats};
pub use trash::{TrashLine, TrashReport, UndeleteReport, trash, undelete};

/// Names are bytes; reports are text.
fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
