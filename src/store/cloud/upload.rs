//! An object that arrives in pieces: parts on their way while the next one fills, never more than a few.

use super::failure::Failure;
use super::renewal::Renewal;
use super::{CloudStore, runtime};
use crate::error::{Error, Kind, Result};
use crate::store::Upload;
use bytes::Bytes;
use object_store::path::Path;
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutPayload};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Bytes of a part. S3 allows 10,000 of them and at least 5 MiB each: objects of up to 78 GiB.
const PART_BYTES: usize = 8 << 20;
/// Parts of one upload on their way at once. All uploads of a store together send no more than
/// [`SENDING_BYTES_MAX`](super::pace::SENDING_BYTES_MAX); each holds the part that fills besides.
const PARTS_IN_FLIGHT_MAX: usize = 4;
/// How often a part is sent again that arrived changed, or whose connection broke in a way the client does not repeat.
const PART_ATTEMPTS_MAX: usize = 4;

/// An object on its way. Below one part's size it is a single creation.
pub(super) struct CloudUpload {
    store: CloudStore,
    name: String,
    path: Path,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    written: u64,
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
    failed: bool,
}

impl CloudUpload {
    pub(super) fn new(store: CloudStore, name: &str, path: Path) -> Self {
        Self {
            store,
            name: name.to_owned(),
            path,
            pending: Vec::new(),
            pending_bytes: 0,
            written: 0,
            multipart: None,
            parts: JoinSet::new(),
            failed: false,
        }
    }

    async fn append(&mut self, mut bytes: Bytes) -> Result<()> {
        self.written += bytes.len() as u64;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PART_BYTES - self.pending_bytes));
            self.pending_bytes += piece.len();
            self.pending.push(piece);
            if self.pending_bytes == PART_BYTES {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    /// Sends what is pending as a part; waits while too many are on their way.
    async fn send_part(&mut self) -> Result<()> {
        while self.parts.len() >= PARTS_IN_FLIGHT_MAX {
            self.await_part().await?;
        }
        let content: PutPayload = std::mem::take(&mut self.pending).into_iter().collect();
        self.pending_bytes = 0;
        let permit = self.store.sending.permit(content.content_length()).await;
        let part = self.multipart().await?.put_part(content);
        let part = async move {
            let _permit = permit;
            part.await
        };
        self.parts.spawn_on(part, runtime::runtime().handle());
        Ok(())
    }

    async fn await_part(&mut self) -> Result<()> {
        match self.parts.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(self.store.failed("write", &self.name, &error)),
            Some(Err(stopped)) => Err(Error::new(
                Kind::Failed,
                format!("writing a part of {} stopped", self.name),
            )
            .caused_by(stopped)),
        }
    }

    async fn multipart(&mut self) -> Result<&mut Box<dyn MultipartUpload>> {
        if self.multipart.is_none() {
            let start = || {
                let options = PutMultipartOptions {
                    attributes: self.store.attributes(&self.name),
                    ..PutMultipartOptions::default()
                };
                let again = SendAgain(self.store.renewal.clone());
                let options = options.with_retry_policy(Arc::new(again));
                self.store.client.put_multipart_opts(&self.path, options)
            };
            let started = self.store.with_keys(start).await;
            self.multipart =
                Some(started.map_err(|error| self.store.failed("start", &self.name, &error))?);
        }
        Ok(self.multipart.as_mut().expect("made in the lines above"))
    }

    async fn complete(&mut self) -> Result<()> {
        if self.multipart.is_none() {
            let content: PutPayload = std::mem::take(&mut self.pending).into_iter().collect();
            return self.store.put_new(&self.name, content).await;
        }
        if self.pending_bytes > 0 {
            self.send_part().await?;
        }
        while !self.parts.is_empty() {
            self.await_part().await?;
        }
        let mut completed = self.multipart().await?.complete().await;
        if let (Err(error), Some(renewal)) = (&completed, self.store.renewal.clone())
            && Failure::of(error).refuses_keys()
            && renewal.after_refusal().await
        {
            completed = self.multipart().await?.complete().await;
        }
        let Err(error) = completed else {
            self.multipart = None;
            return Ok(());
        };
        // The first of several attempts may have succeeded unheard; then the upload is no more, and the object is there.
        if Failure::of(&error).kind() == Kind::NotFound && self.is_complete().await {
            self.multipart = None;
            return Ok(());
        }
        Err(self.store.failed("finish", &self.name, &error))
    }

    async fn is_complete(&self) -> bool {
        let found = self.store.client.head(&self.path).await;
        found.is_ok_and(|object| object.size == self.written)
    }

    fn check_alive(&self) -> Result<()> {
        if !self.failed {
            return Ok(());
        }
        Err(Error::new(
            Kind::Failed,
            format!("writing {} has failed before; start it again", self.name),
        ))
    }
}

impl Upload for CloudUpload {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.check_alive()?;
        let written = runtime::wait(self.append(bytes));
        self.failed = written.is_err();
        written
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.check_alive()?;
        runtime::wait(self.complete())
    }
}

impl Drop for CloudUpload {
    /// Tells the store to forget the parts, without waiting: no listing shows them, and a lifecycle rule of the bucket
    /// removes those of a process that died.
    fn drop(&mut self) {
        self.parts.abort_all();
        if let Some(mut multipart) = self.multipart.take() {
            runtime::runtime().spawn(async move {
                let _ = multipart.abort().await;
            });
        }
    }
}

/// Sends a part again that the client itself would give up.
#[derive(Debug)]
struct SendAgain(Option<Arc<Renewal>>);

impl RetryPolicy for SendAgain {
    fn retry<'a, 'b>(
        &'a self,
        context: RetryContext,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let again = context.attempt < PART_ATTEMPTS_MAX;
        Box::pin(async move { again && self.may_end_better(context.failure).await })
    }
}

impl SendAgain {
    async fn may_end_better(&self, failure: RetryFailure) -> bool {
        let status = match failure {
            RetryFailure::Status(status) => status.as_u16(),
            RetryFailure::Transport(_) => 0,
            _ => return false,
        };
        let refused = matches!(status, 400 | 401 | 403);
        if let Some(renewal) = self.0.as_ref().filter(|_| refused)
            && renewal.after_refusal().await
        {
            return true;
        }
        // 400 is what a store says to bytes that do not match their checksum. The others were repeated already.
        let again = matches!(status, 0 | 400);
        if again {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        again
    }
}
