//! Asking the kernel to forget what takes too much memory here.

use crate::filesystem::FileSystem;
use crate::thread;
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// How often is looked for it.
const LOOK: Duration = Duration::from_secs(2);

/// From now on has the kernel forget what the tree names, on a thread of its own, as long as the mount holds `notifier`.
/// Not from within a call: the kernel waits there for locks that a call may hold.
pub(super) fn keep_forgetting(filesystem: &Arc<FileSystem>, notifier: &Arc<Notifier>) {
    let (filesystem, notifier) = (Arc::downgrade(filesystem), Arc::downgrade(notifier));
    thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK);
            let named = filesystem.upgrade().map(|tree| tree.to_be_forgotten());
            let (Some(named), Some(notifier)) = (named, notifier.upgrade()) else {
                return;
            };
            for (directory, name) in named {
                // It may have forgotten the name already.
                let _ = notifier.inval_entry(INodeNo(directory), OsStr::from_bytes(&name));
            }
        }
    });
}
