//! One message for each session that ended: by SMTP, `sendmail`, or a command of the user's.
//!
//! # What is promised, and how
//!
//! Whoever ends a session calls [`Notifier::ended`], which writes one file and returns: no data ever waits for mail, and
//! no copy fails by it. Somebody else sends what lies there: [`Notifier::keep_delivering`] in a daemon,
//! [`Notifier::deliver_within`] at the end of a command. Below the state directory:
//!
//! ```text
//! notify/queued/<session>-<ending>    to be sent; one file for each, created if absent
//! notify/queued/summary-<date>        what a summary tells; it takes the place of the sessions' own
//! notify/sent/…                       was sent: the same session is never queued again
//! notify/failed/…                     nobody will ever take it; the file says why
//! notify/lock                         held while somebody sends
//! ```
//!
//! **Never lost**: the file is on disk before `ended` returns, and it leaves `queued/` only by one rename, into `sent/`
//! after the server has said 250, or into `failed/`. **Never twice**: the name is the session and how it ended, so a
//! session that ends again after a crash finds its message there. One window is left that SMTP gives no means to close:
//! a process that dies between the server's 250 and the rename does not know of the 250. Before the message goes over the
//! wire its file says, fsynced, that it is *sending*; a file that still says so when somebody else comes may be with the
//! server. It is sent again, as a doubled message can be recognised and a lost one cannot: the `Message-ID` is made of
//! the session and its ending, so it is the same, and mail systems that look for doubles drop the second.
//!
//! A server that cannot be reached, refuses a password or says 4xx is asked again after a minute, then after two, up to
//! once an hour, for five days. What it refuses with 5xx, or for five days, lies in `failed/` with the server's sentence.
//! A message that some recipients have and others lack is sent again to these alone.
//!
//! A password is sent over TLS only. A subject, a name or a path can add no header: control characters become spaces.

mod delivery;
mod ended;
mod keeping;
mod letter;
mod message;
mod notifier;
mod program;
mod settings;
mod smtp;
mod spool;
mod summary;
mod template;

pub use delivery::Pass;
pub use ended::{Ended, Ending, Object};
pub use keeping::Delivering;
pub use notifier::{Listed, Notifier, Standing, Tested};
pub use settings::{Mode, Password, Settings, Smtp, Tls, Way};
pub use template::Template;
