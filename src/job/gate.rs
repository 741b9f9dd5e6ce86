//! A store whose packs wait for a job's window.

use super::Control;
use crate::error::{Error, Kind, Result};
use crate::store::names::Name;
use crate::store::{Object, Offers, Refused, SharedStore, Space, Store, Traffic, Upload};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// The store within, as one run of a job reads from it or writes to it: no pack is begun while the window is closed.
#[derive(Debug)]
pub struct GatedStore {
    inner: SharedStore,
    control: Arc<Control>,
    /// It is the source: once the run is to stop, nothing more is read of it. A target is read to its end, as what has
    /// arrived is put in order there.
    is_source: bool,
}

impl GatedStore {
    /// The source's store, for the run of this control.
    pub fn source(inner: SharedStore, control: Arc<Control>) -> Self {
        let is_source = true;
        Self {
            inner,
            control,
            is_source,
        }
    }

    /// The target's store.
    pub fn target(inner: SharedStore, control: Arc<Control>) -> Self {
        let is_source = false;
        Self {
            inner,
            control,
            is_source,
        }
    }
}

impl Store for GatedStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.inner.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        if self.is_source && self.control.stops_now() {
            let message = "stopped on request; run it again to go on";
            return Err(Error::new(Kind::Interrupted, message));
        }
        self.inner.get_range(name, range)
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.inner.head(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix)
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        self.inner.create(name, content)
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        // What is not a pack is small, and makes the packs before it count.
        if !matches!(Name::parse(name), Some(Name::Pack(..))) {
            return self.inner.upload(name);
        }
        self.control.before_pack();
        Ok(Box::new(GatedUpload {
            inner: self.inner.upload(name)?,
            control: self.control.clone(),
        }))
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

    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        self.inner.ask(name)
    }

    fn archive_class(&self) -> Option<String> {
        self.inner.archive_class()
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }
}

struct GatedUpload {
    inner: Box<dyn Upload>,
    control: Arc<Control>,
}

impl Upload for GatedUpload {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.control.within_pack();
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()?;
        self.control.after_pack();
        Ok(())
    }
}
