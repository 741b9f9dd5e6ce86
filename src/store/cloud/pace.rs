//! How much of a store's traffic is on its way at once, and how long it may take.
//!
//! The time limit of the HTTP client counts the sending of the body too. Over a slow uplink ten large bodies that share
//! it would all reach the limit together, start over together and never end. So the bytes on their way are bounded,
//! which bounds the memory they take as well, and each body gets time for its length.

use super::wire::Counted;
use crate::store::traffic::StoreCounters;
use futures::future::BoxFuture;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one store that are being sent at once: four parts.
pub(super) const SENDING_BYTES_MAX: usize = 32 << 20;
/// Permits count these.
const UNIT_BYTES: usize = 1 << 10;
/// Bytes a second of an uplink on which a backup must still end: 512 kbit/s, the slowest that is sold.
const RATE_BYTES_MIN: u64 = 64 << 10;
/// Bodies that share the link: as many of 8 MiB as may be on their way.
const SHARING: u64 = 4;
/// Up to here a body goes out in moments even on the slowest link, and the client's own limit holds.
const SMALL_BYTES: usize = 64 << 10;

/// The room for bodies on their way to one store.
#[derive(Clone)]
pub(super) struct Sending(Arc<Semaphore>);

impl Sending {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(SENDING_BYTES_MAX / UNIT_BYTES)))
    }

    /// Waits until `bytes` more may be sent; they may until the answer is dropped.
    pub(super) async fn permit(&self, bytes: usize) -> OwnedSemaphorePermit {
        // A body larger than all the room has it alone.
        let units = bytes.min(SENDING_BYTES_MAX).div_ceil(UNIT_BYTES) as u32;
        let permit = Arc::clone(&self.0).acquire_many_owned(units).await;
        permit.expect("it is never closed")
    }
}

/// How long a request may pass without an answer when its body has `bytes`.
fn time_for(request_timeout: Duration, bytes: usize) -> Duration {
    let sending = (bytes as u64).saturating_mul(SHARING * 1000) / RATE_BYTES_MIN;
    request_timeout + Duration::from_millis(sending)
}

/// Makes clients whose time limit grows with the body.
#[derive(Debug)]
pub(super) struct Paced {
    /// How long an attempt without a body may pass without a byte of an answer.
    pub(super) request_timeout: Duration,
    /// What goes over the wire is counted here.
    pub(super) counters: Arc<StoreCounters>,
}

impl HttpConnector for Paced {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let patient = options
            .clone()
            .with_read_timeout(time_for(self.request_timeout, SENDING_BYTES_MAX));
        let paced = HttpClient::new(PacedClient {
            quick: ReqwestConnector::default().connect(options)?,
            patient: ReqwestConnector::default().connect(&patient)?,
            request_timeout: self.request_timeout,
        });
        Ok(HttpClient::new(Counted::new(paced, self.counters.clone())))
    }
}

struct PacedClient {
    quick: HttpClient,
    /// Waits longer than any body takes; what is too long is decided here.
    patient: HttpClient,
    request_timeout: Duration,
}

impl fmt::Debug for PacedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacedClient")
    }
}

impl PacedClient {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let bytes = request.body().content_length();
        if bytes <= SMALL_BYTES {
            return self.quick.execute(request).await;
        }
        let limit = time_for(self.request_timeout, bytes);
        let answer = tokio::time::timeout(limit, self.patient.execute(request)).await;
        answer.unwrap_or_else(|late| Err(HttpError::new(HttpErrorKind::Timeout, late)))
    }
}

impl HttpService for PacedClient {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let answer: BoxFuture<'b, _> = Box::pin(self.send(request));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_parts_at_the_slowest_rate_fit_into_their_time() {
        let part = 8 << 20;
        let sending = Duration::from_secs(4 * part as u64 / RATE_BYTES_MIN);
        assert!(time_for(Duration::ZERO, part) >= sending);
        assert_eq!(
            time_for(Duration::from_secs(30), 0),
            Duration::from_secs(30)
        );
    }
}
