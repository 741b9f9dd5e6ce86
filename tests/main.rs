//! The one integration test binary: two cores link it once.

<<<<<<< HEAD
mod engine;
=======
mod endpoints;
>>>>>>> store
mod servers;
mod stores;
