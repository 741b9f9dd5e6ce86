//! Objects by name: a directory, S3, Azure Blob, GCS, or memory. A store knows nothing of what objects mean.
//!
//! All calls block until the store has answered; they may be called from many threads at once. Names are the
//! relative, `/`-separated names that [`names`] builds.

mod cloud;
mod counted;
mod directory;
pub mod faults;
mod memory;
pub mod names;
mod open;
pub mod probe;
mod rate;
mod refusal;
mod traffic;
mod tried;
mod trouble;

pub use cloud::{AskKeys, CloudOptions, CloudStore, Keys, Secret};
pub use directory::DirectoryStore;
pub use memory::MemoryStore;
pub use open::{StoreOptions, open};
pub use probe::{Capabilities, Offers, probe};
pub use rate::{Bucket, Rate, RatedStore};
pub use traffic::{RequestVerb, Traffic};
pub use trouble::{Refused, Trouble};

use crate::clock::Time;
use crate::error::Result;
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// One object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its full name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The store's own timestamp.
    pub modified: Time,
}

/// Room in a store that knows its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be written.
    pub free: u64,
}

/// What is read whole is a document, of at most 32 MiB, and what encrypting it adds; all else is read in ranges.
pub const WHOLE_BYTES_MAX: u64 = 40 << 20;

/// Objects by name.
pub trait Store: Send + Sync + Debug {
    /// Where this is, for messages; never with credentials.
    fn location(&self) -> String;

    /// The whole object. `NotFound` when it is missing, `Damaged` when it is longer than [`WHOLE_BYTES_MAX`].
    fn get(&self, name: &str) -> Result<Bytes>;

    /// Exactly these bytes. `NotFound` when the object is missing, `Damaged` when it is shorter.
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes>;

    /// As [`Self::get`], asked once and not again and again; a failure says what to mend.
    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        self.get(name).map_err(Refused::by_kind)
    }

    /// Size and time of one object. `NotFound` when it is missing.
    fn head(&self, name: &str) -> Result<Object>;

    /// Every object whose name starts with `prefix` (which ends in `/`, or is empty for all), in order of names.
    fn list(&self, prefix: &str) -> Result<Vec<Object>>;

    /// Creates the object, durable when this returns. `AlreadyExists` when the name is taken, by whoever;
    /// then nothing changed. The only primitive that decides races.
    fn create(&self, name: &str, content: Bytes) -> Result<()>;

    /// Starts an object that arrives in pieces. Nothing is visible before [`Upload::finish`].
    /// The name must be new (a random id); it is not checked.
    fn upload(&self, name: &str) -> Result<Box<dyn Upload>>;

    /// Removes the object. Succeeds when it is already gone.
    fn delete(&self, name: &str) -> Result<()>;

    /// Room, where the store knows it.
    fn space(&self) -> Result<Option<Space>>;

    /// What it offers beyond what every store does. May make objects of the name `free`, which nobody has, and leaves
    /// none.
    fn offers(&self, _free: &str) -> Result<Offers> {
        Ok(Offers::default())
    }

    /// Data packs follow this storage class from now on, unless whoever opened the store asked for another; an empty one
    /// is the store's own. Ignored where there are none.
    fn prefer_storage_class(&self, _class: &str) {}

    /// The storage class of data packs, where what is in it cannot be read before it was asked for and waited for.
    fn archive_class(&self) -> Option<String> {
        None
    }

    /// What it was asked for since it was opened; nothing where nobody counts.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// An object on its way into a store. Dropped without `finish`, it leaves nothing that a listing shows.
pub trait Upload: Send {
    /// Appends bytes; may block while the store is slower than the caller. After an error the upload is dead.
    fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the object visible and durable.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A store shared by everything that uses one repository.
pub type SharedStore = Arc<dyn Store>;
