//! Counts what goes over the wire: below the client's own repetitions, so each of them is a request.

use crate::store::traffic::{RequestVerb, StoreCounters};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Where a request says what class its object is to have.
const CLASSES: [&str; 3] = [
    "x-amz-storage-class",
    "x-ms-access-tier",
    "x-goog-storage-class",
];

/// A client whose requests are counted.
pub(super) struct Counted {
    inner: HttpClient,
    counters: Arc<StoreCounters>,
}

impl Counted {
    pub(super) fn new(inner: HttpClient, counters: Arc<StoreCounters>) -> Self {
        Self { inner, counters }
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let headers = request.headers();
        let class = CLASSES
            .iter()
            .find_map(|name| headers.get(*name)?.to_str().ok());
        let verb = RequestVerb::of(request.method(), request.uri(), headers);
        self.counters.request(verb, class.unwrap_or_default());
        self.counters.sent(request.body().content_length() as u64);
        let answer = self.inner.execute(request).await?;
        let counters = self.counters.clone();
        Ok(answer.map(|body| HttpResponseBody::new(CountedBody { body, counters })))
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl HttpService for Counted {
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

/// The body of an answer, counted as it arrives.
struct CountedBody {
    body: HttpResponseBody,
    counters: Arc<StoreCounters>,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.counters.received(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
