//! The one integration test binary: two cores link it once.

mod backup;
mod cli;
mod broken_copies;
mod copy;
mod damage;
mod endpoints;
mod engine;
mod mount;
mod planted;
mod restore;
mod servers;
mod sites;
mod stores;
