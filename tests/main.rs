//! The one integration test binary: two cores link it once.

mod backup;
mod endpoints;
mod engine;
mod mount;
mod servers;
mod stores;
