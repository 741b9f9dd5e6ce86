//! What S3 servers differ in, found out from the server itself: its answer about the bucket, or what it does with an
//! object that is made for that.

use super::connect;
use super::options::CloudOptions;
use crate::error::{Error, Kind, Result};
use crate::store::probe::Offers;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use object_store::aws::AmazonS3;
use object_store::client::HttpClient;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use std::time::Duration;

const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const CLASS: HeaderName = HeaderName::from_static("x-amz-storage-class");
const CONTENT: &[u8] = b"keepfs";
/// Base64 of the SHA-256 of [`CONTENT`], and of 32 zero bytes.
const RIGHT: HeaderValue = HeaderValue::from_static("dUWArlSIhup2B0/sRMSrLnRKpzKq+8J9shkOFPFBnEc=");
const WRONG: HeaderValue = HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
/// A class that every provider of classes has, and that is read without asking for it first.
const INFREQUENT: HeaderValue = HeaderValue::from_static("STANDARD_IA");
/// How long a signature holds.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// Requests that the client library does not know.
#[derive(Debug)]
pub(super) struct Asking {
    s3: AmazonS3,
    client: HttpClient,
}

struct Answer {
    status: StatusCode,
    class: Option<HeaderValue>,
    body: Bytes,
}

impl Asking {
    /// Asks with these clients.
    pub(super) fn new(
        s3: AmazonS3,
        options: &CloudOptions,
        shared: connect::Shared<'_>,
    ) -> object_store::Result<Self> {
        let client = connect::plain(options, shared)?;
        Ok(Self { s3, client })
    }

    /// What the server offers for this bucket; `path` is free, and free again afterwards. Fails when it cannot be reached.
    pub(super) async fn offers(&self, path: &Path) -> Result<Offers> {
        Ok(Offers {
            versions: self.says("versioning", "<Status>Enabled</Status>").await?,
            locks: self
                .says("object-lock", "<ObjectLockEnabled>Enabled<")
                .await?,
            checksums: self.checks(path).await?,
            classes: self.keeps_class(path).await?,
        })
    }

    /// Whether the answer about a property of the bucket has these words. None when that is not told to these keys.
    async fn says(&self, property: &str, words: &str) -> Result<Option<bool>> {
        let query = SignedUrlOptions::default().with_query([(property, "")]);
        let answer = self.send(Method::GET, &Path::default(), query, b"").await?;
        Ok(match answer.status {
            status if status.is_success() => {
                Some(String::from_utf8_lossy(&answer.body).contains(words))
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => None,
            // Servers that know nothing of it answer with this or that; those that do, that there is none.
            _ => Some(false),
        })
    }

    /// Whether content that is not what its checksum says is refused.
    async fn checks(&self, path: &Path) -> Result<Option<bool>> {
        let mut taken = [false; 2];
        for (taken, checksum) in taken.iter_mut().zip([RIGHT, WRONG]) {
            let header = SignedUrlOptions::default().with_signed_header(CHECKSUM, checksum);
            let answer = self.send(Method::PUT, path, header, CONTENT).await?;
            *taken = answer.status.is_success();
            self.remove(path).await?;
        }
        // Refused with the right one, too, it says nothing.
        Ok(taken[0].then_some(!taken[1]))
    }

    /// Whether an object has the class that it was given.
    async fn keeps_class(&self, path: &Path) -> Result<Option<bool>> {
        let header = SignedUrlOptions::default().with_signed_header(CLASS, INFREQUENT);
        let put = self.send(Method::PUT, path, header, CONTENT).await?;
        let query = SignedUrlOptions::default();
        let head = self.send(Method::HEAD, path, query, b"").await?;
        self.remove(path).await?;
        Ok(Some(
            put.status.is_success() && head.class.as_ref() == Some(&INFREQUENT),
        ))
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        let query = SignedUrlOptions::default();
        self.send(Method::DELETE, path, query, b"").await?;
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &Path,
        options: SignedUrlOptions,
        body: &'static [u8],
    ) -> Result<Answer> {
        let signed = self
            .s3
            .signed_url_opts(method.clone(), path, SIGNED_FOR, &options);
        // Its sentences may quote keys, so they are not repeated.
        let url = signed.await.map_err(|_| {
            Error::new(
                Kind::Failed,
                "cannot sign a request; check the keys of the store",
            )
        })?;
        let mut request = Request::builder().method(method).uri(url.as_str());
        for (name, value) in &options.signed_headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Bytes::from_static(body).into())
            .map_err(|_| Error::new(Kind::Failed, "cannot make a request"))?;
        // The URL has a signature in it: it is not told.
        let unreachable = |_| {
            Error::new(
                Kind::Unreachable,
                "the store does not answer; try again later",
            )
        };
        let answer = self.client.execute(request).await.map_err(unreachable)?;
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status,
            class: head.headers.get(CLASS).cloned(),
            body: body.bytes().await.map_err(unreachable)?,
        })
    }
}
