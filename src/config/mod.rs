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

mod directories;
mod duration;
mod file;
mod keys;
mod notify;
mod place;
mod program;
mod size;

pub use directories::Directories;
pub use duration::parse_duration;
pub use file::{Config, Reach};
pub use keys::{Ask, Given, Keys};
pub use place::{Place, RepositoryPlace};
pub use size::parse_size;
