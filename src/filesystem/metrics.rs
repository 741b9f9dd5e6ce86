//! Counters of the mount, as Prometheus reads them.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What the kernel has asked for since the mount.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// Counts one request of the kernel.
    pub fn request(&self, operation: &'static str) {
        *self.requests.lock().entry(operation).or_default() += 1;
    }

    /// Prometheus text.
    pub(super) fn text(&self) -> String {
        let mut text = String::from(
            "# HELP keepfs_fuse_requests_total Requests of the kernel since the mount.\n\
             # TYPE keepfs_fuse_requests_total counter\n",
        );
        for (operation, count) in &*self.requests.lock() {
            writeln!(
                text,
                "keepfs_fuse_requests_total{{op=\"{operation}\"}} {count}"
            )
            .expect("writing to a string never fails");
        }
        text
    }
}
