//! From a URL to a store.

use super::cloud::{CloudOptions, CloudStore, Provider};
use super::counted::CountedStore;
use super::tried::TriedStore;
use super::{DirectoryStore, MemoryStore, SharedStore};
use crate::error::{Error, Kind, Result};
use std::path::Path;
use std::sync::Arc;

/// How to open a store.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Make the directory when it is missing; for `keepfs init` only, or an unmounted disk would be written into.
    pub make_directory: bool,
    /// How to reach a cloud store.
    pub cloud: CloudOptions,
}

/// Opens the store at `url`: a path or `file:///path`, `s3://bucket/prefix`, `az://container/prefix`,
/// `gs://bucket/prefix`, or `memory:` (a new one each time, for tests).
///
/// A cloud store is not asked anything yet. Fails with [`Kind::NoRepository`] when there is no such directory and with
/// [`Kind::Invalid`] when the URL says nothing.
pub fn open(url: &str, options: &StoreOptions) -> Result<SharedStore> {
    if url == "memory:" {
        return Ok(Arc::new(MemoryStore::new()));
    }
    if let Some(path) = url.strip_prefix("file://") {
        return directory(path, url, options);
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return directory(url, url, options);
    };
    let provider = match scheme {
        "s3" => Provider::S3,
        "az" => Provider::Azure,
        "gs" => Provider::Gcs,
        _ => return Err(invalid(url, "keepfs knows /path, file, s3, az and gs")),
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    // Who writes keys into a URL will find them in process lists and logs.
    if bucket.contains(['@', ':']) {
        let shown = format!("{scheme}://…");
        return Err(invalid(
            &shown,
            "give credentials apart from the URL, and the host as endpoint",
        ));
    }
    if bucket.is_empty() {
        return Err(invalid(url, "the bucket is missing"));
    }
    let location = url.trim_end_matches('/').to_owned();
    let store = CloudStore::new(provider, bucket, prefix, location, &options.cloud)?;
    Ok(Arc::new(TriedStore::new(Arc::new(store))))
}

fn directory(path: &str, url: &str, options: &StoreOptions) -> Result<SharedStore> {
    let path = Path::new(path);
    if path.as_os_str().is_empty() {
        return Err(invalid(url, "the path is missing"));
    }
    // The process may change its directory when it goes into the background.
    let path = std::path::absolute(path)
        .map_err(|error| Error::io(format!("cannot open {}", path.display()), error))?;
    let store = if options.make_directory {
        DirectoryStore::open_or_make(&path)?
    } else {
        DirectoryStore::open(&path)?
    };
    Ok(Arc::new(CountedStore::new(Arc::new(store))))
}

fn invalid(url: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, format!("{url:?} is no store's URL: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_say_nothing_are_refused_without_showing_keys() {
        for url in ["", "ftp://host/x", "s3://", "s3:///prefix", "file://"] {
            let refused = open(url, &StoreOptions::default()).expect_err(url);
            assert_eq!(refused.kind(), Kind::Invalid, "{url}");
        }
        let refused = open("s3://key:swordfish@host/bucket", &StoreOptions::default());
        let message = refused.expect_err("credentials in the URL").to_string();
        assert!(!message.contains("swordfish"), "{message}");
    }

    #[test]
    fn a_missing_directory_is_made_only_on_request() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let url = format!("file://{}", parent.path().join("a/b").display());
        let mut options = StoreOptions::default();
        let refused = open(&url, &options).expect_err("not there");
        assert_eq!(refused.kind(), Kind::NoRepository);
        options.make_directory = true;
        open(&url, &options).expect("made");
        assert!(parent.path().join("a/b").is_dir());
    }

    #[test]
    fn plain_http_needs_permission() {
        let mut options = StoreOptions::default();
        options.cloud.endpoint = Some("http://127.0.0.1:1".to_owned());
        let refused = open("s3://bucket/prefix", &options).expect_err("no TLS");
        assert_eq!(refused.kind(), Kind::Invalid);
        options.cloud.allow_http = true;
        let store = open("s3://bucket/prefix/", &options).expect("opens");
        assert_eq!(store.location(), "s3://bucket/prefix");
    }
}
