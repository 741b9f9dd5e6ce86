//! From a URL and options to a client of S3, Azure Blob or GCS.

use super::asking::Asking;
use super::options::CloudOptions;
use super::pace::Paced;
use super::renewal::Renewal;
use crate::error::{Error, Kind, Result};
use crate::store::traffic::StoreCounters;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// S3 signs for a region even where the server has none.
const REGION_DEFAULT: &str = "us-east-1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose protocol a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Provider {
    S3,
    Azure,
    Gcs,
}

/// Whether the client repeats failed requests by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    Yes,
    No,
}

/// What all clients of one store share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    /// Where keys come from, when there is somebody to ask for others.
    pub(super) renewal: Option<&'a Arc<Renewal>>,
    /// What goes over the wire.
    pub(super) counters: &'a Arc<StoreCounters>,
}

/// A client of `bucket`. Sends nothing yet.
pub(super) fn client(
    provider: Provider,
    bucket: &str,
    options: &CloudOptions,
    repeats: Repeats,
    shared: Shared<'_>,
) -> Result<Arc<dyn ObjectStore>> {
    refuse_plain_http(options)?;
    let built = match provider {
        Provider::S3 => s3(bucket, options, repeats, shared),
        Provider::Azure => azure(bucket, options, repeats, shared),
        Provider::Gcs => gcs(bucket, options, repeats, shared),
    };
    built.map_err(|_| unusable(bucket))
}

/// The library's sentence may quote a key that it could not parse, so it is not repeated.
fn unusable(bucket: &str) -> Error {
    let message = format!("cannot use the settings for {bucket}: check endpoint, account and keys");
    Error::new(Kind::Invalid, message)
}

fn refuse_plain_http(options: &CloudOptions) -> Result<()> {
    match &options.endpoint {
        Some(endpoint) if endpoint.starts_with("http://") && !options.allow_http => {
            Err(Error::new(
                Kind::Invalid,
                format!("{endpoint} has no TLS; use https, or allow http in the configuration"),
            ))
        }
        _ => Ok(()),
    }
}

fn retry(options: &CloudOptions, repeats: Repeats) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        // The time is the limit, not the count.
        max_retries: if repeats == Repeats::Yes { 1000 } else { 0 },
        retry_timeout: options.retry_timeout,
    }
}

fn http(options: &CloudOptions) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(options.allow_http)
        .with_connect_timeout(CONNECT_TIMEOUT.min(options.request_timeout))
        // A large answer may take its time as long as bytes keep coming.
        .with_timeout_disabled()
        .with_read_timeout(options.request_timeout)
}

/// Gives a large body the time that it takes.
fn paced(options: &CloudOptions, shared: Shared<'_>) -> Paced {
    Paced {
        request_timeout: options.request_timeout,
        counters: shared.counters.clone(),
    }
}

/// A client of the same servers for requests that are made by hand.
pub(super) fn plain(
    options: &CloudOptions,
    shared: Shared<'_>,
) -> object_store::Result<HttpClient> {
    paced(options, shared).connect(&http(options))
}

/// What asks an S3 server about this bucket. Sends nothing yet.
pub(super) fn asking(bucket: &str, options: &CloudOptions, shared: Shared<'_>) -> Result<Asking> {
    refuse_plain_http(options)?;
    let asking = s3_client(bucket, options, Repeats::No, shared)
        .and_then(|s3| Asking::new(s3, options, shared));
    asking.map_err(|_| unusable(bucket))
}

fn s3(
    bucket: &str,
    options: &CloudOptions,
    repeats: Repeats,
    shared: Shared<'_>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(s3_client(bucket, options, repeats, shared)?))
}

fn s3_client(
    bucket: &str,
    options: &CloudOptions,
    repeats: Repeats,
    shared: Shared<'_>,
) -> object_store::Result<AmazonS3> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(http(options))
        .with_http_connector(paced(options, shared))
        .with_retry(retry(options, repeats))
        .with_checksum_algorithm(Checksum::SHA256)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Deleting many in one request is no part of what every S3 server does.
        .with_disable_bulk_delete(true)
        .with_allow_http(options.allow_http);
    let variable = |name: &str| std::env::var(name).ok();
    let region = options
        .region
        .clone()
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .unwrap_or_else(|| REGION_DEFAULT.to_owned());
    builder = builder.with_region(region);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(key) = &options.access_key {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = &options.secret_key {
        builder = builder.with_secret_access_key(secret.reveal());
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token.reveal());
    }
    if let Some(renewal) = shared.renewal {
        builder = builder.with_credentials(renewal.clone());
    }
    builder.build()
}

fn azure(
    container: &str,
    options: &CloudOptions,
    repeats: Repeats,
    shared: Shared<'_>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_client_options(http(options))
        .with_http_connector(paced(options, shared))
        .with_retry(retry(options, repeats))
        .with_allow_http(options.allow_http);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(account) = &options.access_key {
        builder = builder.with_account(account);
    }
    if let Some(secret) = &options.secret_key {
        builder = builder.with_access_key(secret.reveal());
    }
    Ok(Arc::new(builder.build()?))
}

fn gcs(
    bucket: &str,
    options: &CloudOptions,
    repeats: Repeats,
    shared: Shared<'_>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(http(options))
        .with_http_connector(paced(options, shared))
        .with_retry(retry(options, repeats));
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(secret) = &options.secret_key {
        builder = builder.with_service_account_key(secret.reveal());
    }
    Ok(Arc::new(builder.build()?))
}
