//! A store in memory, for tests. Clones share their objects.

use super::{Object, Space, Store, Upload, refusal};
use crate::clock::Clock;
use crate::error::Result;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

type Objects = Arc<Mutex<BTreeMap<String, Entry>>>;

#[derive(Clone)]
struct Entry {
    content: Bytes,
    modified: crate::clock::Time,
}

/// Objects in memory; gone with the last clone.
#[derive(Clone, Default)]
pub struct MemoryStore {
    objects: Objects,
    clock: Clock,
}

impl MemoryStore {
    /// An empty store, with the system's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose objects get their times from `clock`.
    pub fn with_clock(clock: Clock) -> Self {
        Self {
            objects: Objects::default(),
            clock,
        }
    }

    /// Replaces an object's content, as a bad disk would; for tests of damage. Creates it when it is missing.
    pub fn overwrite(&self, name: &str, content: Bytes) {
        let entry = self.entry(content);
        self.objects.lock().insert(name.to_owned(), entry);
    }

    fn entry(&self, content: Bytes) -> Entry {
        Entry {
            content,
            modified: self.clock.now(),
        }
    }

    fn find(&self, name: &str) -> Result<Entry> {
        self.objects
            .lock()
            .get(name)
            .cloned()
            .ok_or_else(|| refusal::not_found(name, &self.location()))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.objects.lock().len())
    }
}

fn object(name: &str, entry: &Entry) -> Object {
    Object {
        name: name.to_owned(),
        size: entry.content.len() as u64,
        modified: entry.modified,
    }
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.find(name).map(|entry| entry.content)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        refusal::check_range(name, &range)?;
        let content = self.find(name)?.content;
        if range.end > content.len() as u64 {
            return Err(refusal::too_short(name, &self.location(), &range));
        }
        Ok(content.slice(range.start as usize..range.end as usize))
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.find(name).map(|entry| object(name, &entry))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        Ok(self
            .objects
            .lock()
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, entry)| object(name, entry))
            .collect())
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        let entry = self.entry(content);
        let mut objects = self.objects.lock();
        if objects.contains_key(name) {
            return Err(refusal::already_exists(name, &self.location()));
        }
        objects.insert(name.to_owned(), entry);
        Ok(())
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            name: name.to_owned(),
            content: BytesMut::new(),
        }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects.lock().remove(name);
        Ok(())
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

struct MemoryUpload {
    store: MemoryStore,
    name: String,
    content: BytesMut,
}

impl Upload for MemoryUpload {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.content.extend_from_slice(&bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self {
            store,
            name,
            content,
        } = *self;
        store.overwrite(&name, content.freeze());
        Ok(())
    }
}
