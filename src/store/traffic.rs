//! What a store was asked for: requests by verb and storage class, and the bytes of their bodies both ways.
//!
//! A store in a cloud counts what goes over the wire, with every repetition; others count calls.

use http::{HeaderMap, Method, Uri};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request asks for, in the words of S3, as its price list has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestVerb {
    /// A whole object is written.
    PutObject,
    /// An object in parts begins.
    CreateMultipartUpload,
    /// A part of it is written.
    UploadPart,
    /// It is whole.
    CompleteMultipartUpload,
    /// It is given up.
    AbortMultipartUpload,
    /// An object, or a range of it, is read.
    GetObject,
    /// Size and time are asked for.
    HeadObject,
    /// Names are listed.
    ListObjects,
    /// An object is removed.
    DeleteObject,
    /// About the bucket, or unknown.
    Other,
}

impl RequestVerb {
    /// Its name, for people and for Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Self::PutObject => "PutObject",
            Self::CreateMultipartUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::CompleteMultipartUpload => "CompleteMultipartUpload",
            Self::AbortMultipartUpload => "AbortMultipartUpload",
            Self::GetObject => "GetObject",
            Self::HeadObject => "HeadObject",
            Self::ListObjects => "ListObjects",
            Self::DeleteObject => "DeleteObject",
            Self::Other => "Other",
        }
    }

    /// What a request over HTTP asks for. Azure's requests have the names of their counterparts.
    pub(super) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let query = uri.query().unwrap_or_default();
        let asks = |name: &str| {
            let mut parts = query.split('&');
            parts.any(|part| part.split('=').next() == Some(name))
        };
        let says = |part: &str| query.split('&').any(|one| one == part);
        let about_bucket = asks("versioning") || asks("object-lock");
        match method.as_str() {
            "GET" if asks("list-type") || says("comp=list") => Self::ListObjects,
            "GET" if about_bucket => Self::Other,
            "GET" => Self::GetObject,
            "HEAD" => Self::HeadObject,
            "DELETE" if asks("uploadId") => Self::AbortMultipartUpload,
            "DELETE" => Self::DeleteObject,
            // Azure deletes in lists, also single objects.
            "POST" if says("comp=batch") => Self::DeleteObject,
            "POST" if asks("uploads") => Self::CreateMultipartUpload,
            "POST" if asks("uploadId") => Self::CompleteMultipartUpload,
            "PUT" if asks("partNumber") || says("comp=block") => Self::UploadPart,
            "PUT" if says("comp=blocklist") => Self::CompleteMultipartUpload,
            "PUT" if asks("comp") || headers.contains_key("x-amz-copy-source") => Self::Other,
            "PUT" => Self::PutObject,
            _ => Self::Other,
        }
    }
}

/// Counts since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests by verb and by the storage class that they ask for, which is empty for the store's own.
    pub requests: BTreeMap<(RequestVerb, String), u64>,
    /// Bytes of bodies that were sent.
    pub sent: u64,
    /// Bytes of bodies that were received.
    pub received: u64,
}

impl Traffic {
    /// Requests with this verb, in all classes.
    pub fn count(&self, verb: RequestVerb) -> u64 {
        let such = self
            .requests
            .iter()
            .filter(|((known, _), _)| *known == verb);
        such.map(|(_, count)| count).sum()
    }

    /// What has come since `earlier`, which was taken from the same store.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let requests = self.requests.iter().map(|(key, count)| {
            let before = earlier.requests.get(key).copied().unwrap_or_default();
            (key.clone(), count.saturating_sub(before))
        });
        Self {
            requests: requests.filter(|(_, count)| *count > 0).collect(),
            sent: self.sent.saturating_sub(earlier.sent),
            received: self.received.saturating_sub(earlier.received),
        }
    }
}

/// The counters of one store.
#[derive(Debug, Default)]
pub(super) struct StoreCounters {
    requests: Mutex<BTreeMap<(RequestVerb, String), u64>>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl StoreCounters {
    pub(super) fn request(&self, verb: RequestVerb, class: &str) {
        let mut requests = self.requests.lock();
        *requests.entry((verb, class.to_owned())).or_default() += 1;
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.lock().clone(),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
        }
    }
}
