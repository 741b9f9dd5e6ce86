//! Which repositories there are and how to reach them: the TOML file, `REPO/BACKUP/POINT/PATH`, passwords.
//!
//! ```toml
//! [repository.primary]
//! url = "/srv/keep/primary"
//! password-file = "/etc/keepfs/primary.pass"
//! pack-size = "16 MiB"
//!
//! [repository.offsite]
//! url = "s3://bucket/keep"
//! endpoint = "https://s3.example.org"
//! credentials-command = "pass show offsite-s3"
//! key-file = "/etc/keepfs/offsite.key"
//! pack-size = "256 MiB"
//! storage-class = "STANDARD_IA"
//!
//! [notify]
//! host = "mail.example.org"
//! user = "keepfs"
//! password-file = "/etc/keepfs/mail.pass"
//! from = "keepfs@example.org"
//! to = ["admin@example.org"]
//! ```
//! The file is the first of `--config`, `$KEEPFS_CONFIG`, `~/.config/keepfs.toml` and `/etc/keepfs.toml`. It says how to
//! reach a repository; what a repository is (pack size, level, class) is written into it by `init`.
//!
//! `rate = "20 MB/s"` at the top or in a repository's section bounds what is read, and what is written, of all of them or of
//! that one. A job, a copy that recurs, is a section of its own:
//!
//! ```toml
//! [job.offsite]
//! source = "primary/web*"
//! target = "offsite"
//! schedule = "daily 02:30 Mon..Fri"
//! ```
//! `schedule` may also be `immediate` (when a restore point completes), `every 4h` or a calendar expression; `select` is
//! `latest`, `each` (those completed since there is the job) or `all`; `window`, `timezone`, `retries`, `retry-wait`, `rate`,
//! `before`, `after`, `hook-timeout`, `rpo` and `enabled` may follow. The head of `job.rs` beside this file has an example of each.

mod directories;
mod duration;
mod file;
mod job;
mod keys;
mod notify;
mod place;
mod program;
mod size;

pub use directories::Directories;
pub use duration::parse_duration;
pub use file::{Config, Reach, Sessions};
pub use keys::{Ask, Given, Keys};
pub use place::{Place, RepositoryPlace};
pub use size::{parse_rate, parse_size};
