//! The one integration test binary: two cores link it once.

mod servers;
mod stores;
