//! A store on this host whose calls are counted as if they were requests.

use super::traffic::{RequestVerb, StoreCounters, Traffic};
use super::{Object, Offers, Refused, SharedStore, Space, Store, Upload};
use crate::error::Result;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// The store within, counted.
#[derive(Debug)]
pub(super) struct CountedStore {
    inner: SharedStore,
    counters: Arc<StoreCounters>,
}

impl CountedStore {
    pub(super) fn new(inner: SharedStore) -> Self {
        Self {
            inner,
            counters: Arc::default(),
        }
    }

    fn request(&self, verb: RequestVerb) {
        self.counters.request(verb, "");
    }

    fn received(&self, content: &Bytes) {
        self.counters.received(content.len() as u64);
    }
}

impl Store for CountedStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.request(RequestVerb::GetObject);
        let content = self.inner.get(name);
        content.inspect(|content| self.received(content))
    }

    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        self.request(RequestVerb::GetObject);
        let content = self.inner.ask(name);
        content.inspect(|content| self.received(content))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.request(RequestVerb::GetObject);
        let content = self.inner.get_range(name, range);
        content.inspect(|content| self.received(content))
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.request(RequestVerb::HeadObject);
        self.inner.head(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.request(RequestVerb::ListObjects);
        self.inner.list(prefix)
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        self.request(RequestVerb::PutObject);
        self.counters.sent(content.len() as u64);
        self.inner.create(name, content)
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.request(RequestVerb::PutObject);
        Ok(Box::new(CountedUpload {
            inner: self.inner.upload(name)?,
            counters: self.counters.clone(),
        }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.request(RequestVerb::DeleteObject);
        self.inner.delete(name)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.inner.space()
    }

    fn offers(&self, free: &str) -> Result<Offers> {
        self.inner.offers(free)
    }

    fn traffic(&self) -> Traffic {
        self.counters.traffic()
    }
}

struct CountedUpload {
    inner: Box<dyn Upload>,
    counters: Arc<StoreCounters>,
}

impl Upload for CountedUpload {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.counters.sent(bytes.len() as u64);
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()
    }
}
