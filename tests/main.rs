//! The one integration test binary: two cores link it once.

mod backup;
mod copy;
mod endpoints;
mod engine;
mod mount;
mod mount_writes;
mod servers;
mod sites;
mod stores;
