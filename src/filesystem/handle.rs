//! Handles: what is open, by number.

use super::errno::{Answer, Rule};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Open files, or open directories.
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(1),
            open: RwLock::default(),
        }
    }
}

impl<T> Handles<T> {
    /// The number of a new handle.
    pub(super) fn insert(&self, handle: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, Arc::new(handle));
        number
    }

    /// The handle of this number.
    pub(super) fn get(&self, number: u64) -> Answer<Arc<T>> {
        let found = self.open.read().get(&number).cloned();
        found.ok_or_else(|| Rule::BadHandle.into())
    }

    /// Closes the handle.
    pub(super) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.open.write().remove(&number)
    }
}
