//! Jobs: copies that recur. What a job is, when it runs, which restore points it takes, and the scheduler that starts
//! it; how points are copied is given to it as a [`Work`].
//!
//! A job belongs to whoever has its lock: a daemon for as long as it serves a mount, or a command for one run. Others write
//! what they want into its directory and are answered there ([`ask`]). What a job remembers is one small file, replaced
//! as a whole: whether it is enabled, its last run, its next one, and which points it is done with.
//!
//! A restore point does not belong to a job. Which points a run takes follows from the two repositories: what is complete in
//! the source and not in the target. So nothing is lost with an event that nobody has seen, and a job that is taken out of
//! the configuration leaves every point where it is.

mod calendar;
mod control;
mod facts;
mod gate;
mod hooks;
mod place;
mod requests;
mod run;
mod schedule;
mod scheduler;
mod select;
mod settings;
mod standing;
mod state;
mod window;
mod work;

pub use control::Control;
pub use facts::{Event, JobFacts, Phase};
pub use gate::GatedStore;
pub use hooks::Hook;
pub use requests::{Action, ask};
pub use run::{Outcome, RunRecord};
pub use schedule::Schedule;
pub use scheduler::{Jobs, Keeper};
pub use select::{Candidate, PointId, Select, choose};
pub use settings::{OnCopy, Settings, Source};
pub use window::Window;
pub use work::{CopiedPoints, Look, Work};
