//! The one integration test binary: two cores link it once.

mod endpoints;
mod servers;
mod stores;
