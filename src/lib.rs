//! keepfs: a mounted backup file system.

pub mod chunk;
pub mod clock;
pub mod error;
pub mod id;
pub mod point;
pub mod repository;
pub mod source;
pub mod store;
