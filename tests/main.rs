//! The one integration test binary: two cores link it once.

mod acknowledged;
mod backup;
mod bad_input;
mod broken_copies;
mod catalog;
mod cli;
mod clones;
mod copy;
mod copy_costs;
mod crash;
mod daemon_kills;
mod damage;
mod damaged_mount;
mod deep;
mod demo;
mod endpoints;
mod engine;
mod filesystem;
mod golden;
mod golden_stored;
mod hooked;
mod hostile;
mod hostile_contents;
mod hostile_graphs;
mod idioms;
mod index_cache;
mod keyring;
mod kills;
mod model;
mod mount;
mod mount_writes;
mod open_points;
mod planted;
mod pristine;
mod random_reads;
mod reader;
mod readme;
mod reports;
mod restore;
mod s3;
mod scopes;
mod secrecy;
mod self_seal;
mod servers;
mod sites;
mod stores;
mod streaming;
mod together;
mod trust;
mod writers;
mod wrong_files;

/// Lets the tests of hostile bytes see how much memory a decoder takes.
#[global_allocator]
static MEMORY: hostile::Counting = hostile::Counting;
