//! A store in a bucket of S3, in a container of Azure Blob, or in a bucket of GCS.
//!
//! Callers block; the traffic runs on one [`runtime`] for the whole process. Reads, listings and parts are repeated by
//! the client until `retry_timeout`. Creations are repeated here, because only here is known that an earlier attempt
//! may have succeeded unheard: then a name that is taken *with our very content* is ours.

mod asking;
mod class;
mod connect;
mod failure;
mod options;
mod pace;
mod profile;
mod renewal;
mod runtime;
mod upload;
mod wire;

pub(super) use connect::Provider;
pub use options::{AskKeys, CloudOptions, Keys, Secret};

use super::probe::Offers;
use super::traffic::{StoreCounters, Traffic};
use super::{Object, Refused, Space, Store, Upload, WHOLE_BYTES_MAX, refusal};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use asking::Asking;
use bytes::Bytes;
use connect::{Repeats, Shared};
use failure::Failure;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectMeta, ObjectStore, ObjectStoreExt};
use object_store::{PutMode, PutOptions, PutPayload};
use pace::Sending;
use parking_lot::RwLock;
use renewal::Renewal;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Only these follow the storage class: trees, index, points and keys are read at every mount and stay hot.
const DATA_PACKS: &str = "packs/data/";
/// First pause before a creation is tried again; doubles up to the second one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Objects in a bucket, below a prefix. Clones share their connections.
#[derive(Clone)]
pub struct CloudStore {
    client: Arc<dyn ObjectStore>,
    /// Repeats nothing by itself.
    once: Arc<dyn ObjectStore>,
    /// Where the keys of both come from, when there is somebody to ask for others.
    renewal: Option<Arc<Renewal>>,
    /// Only for S3.
    asking: Option<Arc<Asking>>,
    counters: Arc<StoreCounters>,
    provider: Provider,
    prefix: String,
    location: String,
    /// The storage class that this host's configuration names, or else that of the repository.
    class_of_host: Option<String>,
    class: Arc<RwLock<Option<String>>>,
    retry_timeout: Duration,
    sending: Sending,
}

impl fmt::Debug for CloudStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloudStore({})", self.location)
    }
}

impl CloudStore {
    /// The store below `prefix` (may be empty) in `bucket`; `location` is how messages name it. Sends nothing yet.
    pub(super) fn new(
        provider: Provider,
        bucket: &str,
        prefix: &str,
        location: String,
        options: &CloudOptions,
    ) -> Result<Self> {
        let prefix = prefix.trim_matches('/');
        let (options, renewal) = match provider {
            Provider::S3 => (
                &profile::complete(options, &|name| std::env::var(name).ok())?,
                options.first_keys(),
            ),
            _ => (options, None),
        };
        let renewal = renewal.map(|(first, ask)| Arc::new(Renewal::new(&first, ask)));
        let counters = Arc::default();
        let shared = Shared {
            renewal: renewal.as_ref(),
            counters: &counters,
        };
        let client = |repeats| connect::client(provider, bucket, options, repeats, shared);
        let asking = match provider {
            Provider::S3 => Some(connect::asking(bucket, options, shared)?),
            Provider::Azure | Provider::Gcs => None,
        };
        Ok(Self {
            asking: asking.map(Arc::new),
            client: client(Repeats::Yes)?,
            once: client(Repeats::No)?,
            renewal: renewal.clone(),
            counters,
            provider,
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{}/", Path::from(prefix))
            },
            location,
            class_of_host: options.storage_class.clone(),
            class: Arc::default(),
            retry_timeout: options.retry_timeout,
            sending: Sending::new(),
        })
    }

    fn path(&self, name: &str) -> Result<Path> {
        refusal::check_name(name)?;
        Path::parse(format!("{}{name}", self.prefix))
            .map_err(|_| Error::new(Kind::Invalid, format!("{name:?} is no object's name")))
    }

    /// What `attempt` ends with; once more when the store refuses its keys and there are others.
    async fn with_keys<T, F>(&self, attempt: impl Fn() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let result = attempt().await;
        let (Err(error), Some(renewal)) = (&result, &self.renewal) else {
            return result;
        };
        if Failure::of(error).refuses_keys() && renewal.after_refusal().await {
            return attempt().await;
        }
        result
    }

    fn failed(&self, verb: &str, name: &str, error: &object_store::Error) -> Error {
        Failure::of(error).sentence(verb, name, &self.location)
    }

    fn attributes(&self, name: &str) -> Attributes {
        let mut attributes = Attributes::new();
        if let Some(class) = self.data_class().filter(|_| name.starts_with(DATA_PACKS)) {
            attributes.insert(Attribute::StorageClass, class.into());
        }
        attributes
    }

    /// The storage class of data packs; none for the bucket's own.
    fn data_class(&self) -> Option<String> {
        let of_host = self.class_of_host.clone();
        let class = of_host.or_else(|| self.class.read().clone());
        class.filter(|class| !class.is_empty())
    }

    fn object(&self, meta: &ObjectMeta) -> Option<Object> {
        let name = meta.location.as_ref().strip_prefix(&self.prefix)?;
        Some(Object {
            name: name.to_owned(),
            size: meta.size,
            modified: Time::new(
                meta.last_modified.timestamp(),
                meta.last_modified.timestamp_subsec_nanos(),
            ),
        })
    }

    #[allow(clippy::disallowed_methods)] // how long it has been tried, not a time that is stored
    async fn put_new(&self, name: &str, content: PutPayload) -> Result<()> {
        let path = self.path(name)?;
        let _permit = self.sending.permit(content.content_length()).await;
        let start = Instant::now();
        let mut pause = PAUSE_FIRST;
        let mut perhaps_ours = false;
        let mut again = false;
        loop {
            let create = || {
                let options = PutOptions {
                    mode: PutMode::Create,
                    attributes: self.attributes(name),
                    ..PutOptions::default()
                };
                self.once.put_opts(&path, content.clone(), options)
            };
            let failure = match self.with_keys(create).await {
                Ok(_) => return Ok(()),
                Err(error) => Failure::of(&error),
            };
            if failure.kind() == Kind::AlreadyExists
                && perhaps_ours
                && self.holds(&path, &content).await
            {
                return Ok(());
            }
            // A single attempt may take longer than all retries should; one that timed out is made once more.
            let late = again && start.elapsed() + pause > self.retry_timeout;
            if !failure.passing() || late {
                return Err(failure.sentence("create", name, &self.location));
            }
            perhaps_ours |= failure.perhaps_done();
            again = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether the object is exactly `content`; false also when that cannot be found out.
    async fn holds(&self, path: &Path, content: &PutPayload) -> bool {
        let Ok(answer) = self.client.get(path).await else {
            return false;
        };
        answer.meta.size == content.content_length() as u64
            && answer
                .bytes()
                .await
                .is_ok_and(|stored| stored == Bytes::from(content.clone()))
    }
}

impl Store for CloudStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        let path = self.path(name)?;
        let get = || async {
            let answer = self.client.get(&path).await?;
            match answer.meta.size {
                ..=WHOLE_BYTES_MAX => answer.bytes().await.map(Some),
                _ => Ok(None),
            }
        };
        runtime::wait(self.with_keys(get))
            .map_err(|error| self.failed("read", name, &error))?
            .ok_or_else(|| refusal::too_large(name, &self.location))
    }

    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        let path = self.path(name).map_err(Refused::by_kind)?;
        let get = || async { self.once.get(&path).await?.bytes().await };
        runtime::wait(self.with_keys(get)).map_err(|error| {
            let failure = Failure::of(&error);
            Refused {
                trouble: failure.trouble(),
                error: failure.sentence("read", name, &self.location),
            }
        })
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        refusal::check_range(name, &range)?;
        let too_short = || refusal::too_short(name, &self.location, &range);
        // An empty range cannot be said in HTTP, but the object must still be there.
        if range.is_empty() {
            let size = self.head(name)?.size;
            return if size < range.end {
                Err(too_short())
            } else {
                Ok(Bytes::new())
            };
        }
        let path = self.path(name)?;
        let get = || self.client.get_range(&path, range.clone());
        match runtime::wait(self.with_keys(get)) {
            Ok(content) if content.len() as u64 == range.end - range.start => Ok(content),
            Ok(_) => Err(too_short()),
            Err(error) if Failure::of(&error).beyond_end => Err(too_short()),
            Err(error) => Err(self.failed("read", name, &error)),
        }
    }

    fn head(&self, name: &str) -> Result<Object> {
        let path = self.path(name)?;
        let meta = runtime::wait(self.with_keys(|| self.client.head(&path)))
            .map_err(|error| self.failed("look at", name, &error))?;
        Ok(Object {
            name: name.to_owned(),
            size: meta.size,
            modified: Time::new(
                meta.last_modified.timestamp(),
                meta.last_modified.timestamp_subsec_nanos(),
            ),
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let parent = match prefix.strip_suffix('/') {
            Some(parent) => self.path(parent)?,
            None if prefix.is_empty() => Path::from(self.prefix.as_str()),
            None => return Err(refusal::not_a_prefix(prefix)),
        };
        let list = || self.client.list(Some(&parent)).try_collect();
        let found: Vec<ObjectMeta> = runtime::wait(self.with_keys(list))
            .map_err(|error| self.failed("list", prefix, &error))?;
        let mut objects: Vec<Object> = found.iter().filter_map(|meta| self.object(meta)).collect();
        objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        runtime::wait(self.put_new(name, content.into()))
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        let path = self.path(name)?;
        Ok(Box::new(upload::CloudUpload::new(self.clone(), name, path)))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match runtime::wait(self.with_keys(|| self.client.delete(&path))) {
            Ok(()) => Ok(()),
            Err(error) => match self.failed("delete", name, &error) {
                // S3 deletes what is missing without a word, Azure does not. A missing bucket is another matter.
                gone if gone.kind() == Kind::NotFound && !Failure::of(&error).bucket_missing() => {
                    Ok(())
                }
                error => Err(error),
            },
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    fn offers(&self, free: &str) -> Result<Offers> {
        let Some(asking) = &self.asking else {
            return Ok(Offers::default());
        };
        let path = self.path(free)?;
        runtime::wait(asking.offers(&path)).map_err(|error| error.context(&self.location))
    }

    fn prefer_storage_class(&self, class: &str) {
        *self.class.write() = Some(class.to_owned());
    }

    fn traffic(&self) -> Traffic {
        self.counters.traffic()
    }

    fn archive_class(&self) -> Option<String> {
        self.data_class()
            .filter(|class| class::needs_retrieval(self.provider, class))
    }
}
