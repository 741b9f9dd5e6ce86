//! keepfs: a mounted backup file system. Repositories, backups and restore points are directories; copying a restore
//! point's directory into another repository is the backup copy; restoring is reading files.
//!
//! # The map
//!
//! Each room sees only the rooms above it; the inside of a room is private. What a lower room must start in a higher one
//! (a verb that is written into a control file) is handed to it as a value.
//!
//! | room | is |
//! |---|---|
//! | [`error`] | one error: a kind that says what the caller can do, a sentence, a cause |
//! | [`clock`] | time as a value |
//! | [`id`] | ids of chunks and objects |
//! | [`thread`] | threads that work behind a call |
//! | [`progress`] | counters of long work |
//! | [`chunk`] | where content is cut: pure |
//! | [`store`] | objects by name: directory, S3, Azure, GCS, memory; all object names |
//! | [`repository`] | bytes at rest: format, keys, packs, index, frames |
//! | [`point`] | what chunks mean: backups, restore points, trees, walks, differences |
//! | [`source`] | where data comes from: file trees of this host |
//! | [`backup`] | a source into a repository: cut, hash, group, compress, encrypt, seal |
//! | [`copy`] | restore points into another repository: plan, transfer |
//! | [`restore`] | a restore point out to plain files |
//! | [`check`] | every invariant of the format, and the files that damage costs |
//! | [`prune`] | what no point needs any more goes |
//! | [`notify`] | people are told of sessions that ended: spool, mail, commands |
//! | [`job`] | copies that recur: schedules, windows, rates, what a run takes; how points are copied is given to it |
//! | [`config`] | which repositories there are and how to reach them: TOML, URLs, passwords |
//! | [`filesystem`] | the mounted tree without FUSE types: inodes, reading, open points, errno |
//! | [`fuse`] | the only file that names fuser |
//! | [`command`] | the verbs, as functions from arguments to reports |
//! | [`cli`] | argv to verbs; the only room that prints |
//!
//! One byte's way down: `source` → `backup` → `repository::writer` → `store`; and up: `store` →
//! `repository::frames` → `point::tree` → `filesystem` → `fuse`.

pub mod backup;
pub mod check;
pub mod chunk;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod copy;
pub mod error;
pub mod filesystem;
pub mod fuse;
pub mod id;
pub mod job;
pub mod notify;
pub mod point;
pub mod progress;
pub mod prune;
pub mod repository;
pub mod restore;
pub mod source;
pub mod store;
pub mod thread;
