//! Counters of the mount, as Prometheus reads them.

use super::open::SpoolFacts;
use crate::repository::KeptFacts;
use crate::store::Traffic;
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
    pub(super) fn text(
        &self,
        spool: &SpoolFacts,
        kept: &KeptFacts,
        stores: &[(&str, Traffic)],
    ) -> String {
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
        for (name, kind, help, value) in [
            (
                "keepfs_spool_bytes",
                "gauge",
                "Bytes that open points have on this host's disk until they are stored.",
                spool.spooled,
            ),
            (
                "keepfs_spool_limit_bytes",
                "gauge",
                "Bytes that they may have there.",
                spool.bound,
            ),
            (
                "keepfs_streamed_bytes_total",
                "counter",
                "Written bytes that were stored before their point was sealed.",
                spool.streamed,
            ),
            (
                "keepfs_stream_memory_bytes",
                "gauge",
                "Bytes in memory between the spool and the packs.",
                spool.in_memory,
            ),
            (
                "keepfs_open_entries_bytes",
                "gauge",
                "Memory that the entries of open points take.",
                spool.entries,
            ),
            (
                "keepfs_open_entries_limit_bytes",
                "gauge",
                "Memory that they may take.",
                spool.entries_max,
            ),
            (
                "keepfs_kept_frames_bytes",
                "gauge",
                "Compressed frames in memory that were read from one of several repositories.",
                kept.bytes,
            ),
            (
                "keepfs_kept_frames_limit_bytes",
                "gauge",
                "Bytes that they may take; 0 where one repository is mounted.",
                kept.bytes_max,
            ),
            (
                "keepfs_kept_frames_moved_total",
                "counter",
                "Frames that a tool read from one repository and wrote into another, stored as they were.",
                kept.moved,
            ),
            (
                "keepfs_kept_frames_missed_total",
                "counter",
                "Frames of data that were compressed where several repositories are mounted.",
                kept.missed,
            ),
            (
                "keepfs_kept_frames_reread_total",
                "counter",
                "Frames that readers and copies took from memory compressed, and not from the store again.",
                kept.reread,
            ),
        ] {
            writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            )
            .expect("writing to a string never fails");
        }
        requests_of_stores(&mut text, stores);
        bytes_of_stores(&mut text, stores);
        text
    }
}

fn requests_of_stores(text: &mut String, stores: &[(&str, Traffic)]) {
    text.push_str(
        "# HELP keepfs_store_requests_total Requests to the store of a repository since the mount, repeated ones too, by the storage class they ask for.\n\
         # TYPE keepfs_store_requests_total counter\n",
    );
    for (name, traffic) in stores {
        let name = label(name);
        for ((verb, class), count) in &traffic.requests {
            let (verb, class) = (verb.name(), label(class));
            writeln!(
                text,
                "keepfs_store_requests_total{{repository=\"{name}\",verb=\"{verb}\",class=\"{class}\"}} {count}"
            )
            .expect("writing to a string never fails");
        }
    }
}

fn bytes_of_stores(text: &mut String, stores: &[(&str, Traffic)]) {
    type Figure = fn(&Traffic) -> u64;
    let figures: [(&str, Figure); 2] = [
        ("sent", |traffic| traffic.sent),
        ("received", |traffic| traffic.received),
    ];
    for (way, figure) in figures {
        let metric = format!("keepfs_store_{way}_bytes_total");
        let help =
            format!("Bytes of bodies that were {way}, by the repository's store, since the mount.");
        writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} counter")
            .expect("writing to a string never fails");
        for (name, traffic) in stores {
            writeln!(
                text,
                "{metric}{{repository=\"{}\"}} {}",
                label(name),
                figure(traffic)
            )
            .expect("writing to a string never fails");
        }
    }
}

/// A label's value as Prometheus reads it.
fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
