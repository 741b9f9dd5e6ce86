//! A cloud store that is tried out before this process first writes to it: it may not be the one, or the version, that
//! `init` has seen.

use super::{Object, Offers, Refused, SharedStore, Space, Store, Traffic, Upload, names, probe};
use crate::error::Result;
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;

/// The store within, refused at the first write when it overwrites what exists. Reading tries nothing.
#[derive(Debug)]
pub(super) struct TriedStore {
    inner: SharedStore,
    /// Held while it is tried, so that other writers wait for the answer.
    honest: Mutex<bool>,
}

impl TriedStore {
    pub(super) fn new(inner: SharedStore) -> Self {
        Self {
            inner,
            honest: Mutex::new(false),
        }
    }

    fn ensure_honest(&self) -> Result<()> {
        let mut honest = self.honest.lock();
        if !*honest {
            probe::require_honest_creation(self.inner.as_ref())?;
            *honest = true;
        }
        Ok(())
    }
}

impl Store for TriedStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.inner.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(name, range)
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.inner.head(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix)
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        // With these it is being tried out right now.
        if !names::is_trial(name) {
            self.ensure_honest()?;
        }
        self.inner.create(name, content)
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.ensure_honest()?;
        self.inner.upload(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.inner.space()
    }

    fn offers(&self, free: &str) -> Result<Offers> {
        self.inner.offers(free)
    }

    fn prefer_storage_class(&self, class: &str) {
        self.inner.prefer_storage_class(class);
    }

    fn archive_class(&self) -> Option<String> {
        self.inner.archive_class()
    }

    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        self.inner.ask(name)
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }
}
