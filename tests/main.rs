//! The one integration test binary: two cores link it once.

mod engine;
mod servers;
mod stores;
