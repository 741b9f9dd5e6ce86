//! The one integration test binary: two cores link it once.

mod broken_copies;
mod copy;
mod endpoints;
mod engine;
mod servers;
mod sites;
mod stores;
