//! The one integration test binary: two cores link it once.

mod damage;
mod endpoints;
mod engine;
mod planted;
mod restore;
mod servers;
mod stores;
