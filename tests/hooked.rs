//! A store in memory that lets a test act, or fail, right after an operation has happened and before its caller hears.

use bytes::Bytes;
use keepfs::error::Result;
use keepfs::store::faults::Verb;
use keepfs::store::{MemoryStore, Object, Space, Store, Upload};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

type Hook = Arc<dyn Fn(Verb, &str) -> Result<()> + Send + Sync>;

/// Clones share objects and hook.
#[derive(Clone)]
pub struct HookedStore {
    pub memory: MemoryStore,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl fmt::Debug for HookedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookedStore")
    }
}

impl HookedStore {
    pub fn new(memory: MemoryStore) -> Self {
        Self {
            memory,
            hook: Arc::default(),
        }
    }

    pub fn after(&self, hook: impl Fn(Verb, &str) -> Result<()> + Send + Sync + 'static) {
        *self.hook.lock().unwrap() = Some(Arc::new(hook));
    }

    fn done<T>(&self, verb: Verb, name: &str, result: Result<T>) -> Result<T> {
        let hook = self.hook.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook(verb, name)?;
        }
        result
    }
}

impl Store for HookedStore {
    fn location(&self) -> String {
        self.memory.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        self.done(Verb::Get, name, self.memory.get(name))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.done(Verb::GetRange, name, self.memory.get_range(name, range))
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.done(Verb::Head, name, self.memory.head(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.done(Verb::List, prefix, self.memory.list(prefix))
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        self.done(Verb::Create, name, self.memory.create(name, content))
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.done(Verb::Upload, name, self.memory.upload(name))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.done(Verb::Delete, name, self.memory.delete(name))
    }

    fn space(&self) -> Result<Option<Space>> {
        self.done(Verb::Space, "", self.memory.space())
    }
}
