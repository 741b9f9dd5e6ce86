//! How to reach a cloud store.

use crate::clock::Time;
use crate::error::Result;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Text that no message and no `Debug` shows.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that must send or sign with it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl CloudOptions {
    /// The keys that these options begin with, when there is somebody to ask for others.
    pub(super) fn first_keys(&self) -> Option<(Keys, AskKeys)> {
        let keys = Keys {
            access_key: self.access_key.clone()?,
            secret_key: self.secret_key.clone()?,
            session_token: self.session_token.clone(),
            expires: self.keys_expire,
        };
        Some((keys, self.ask_keys.clone()?))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Keys of an S3 store, perhaps for a time only.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The access key id.
    pub access_key: String,
    /// The secret key.
    pub secret_key: Secret,
    /// The token that goes with temporary keys.
    pub session_token: Option<Secret>,
    /// When they cease to hold, where that is known.
    pub expires: Option<Time>,
}

/// Somebody who gives out keys; may block.
#[derive(Clone)]
pub struct AskKeys(Arc<dyn Fn() -> Result<Keys> + Send + Sync>);

impl AskKeys {
    /// Asks `source`.
    pub fn new(source: impl Fn() -> Result<Keys> + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The keys that hold now.
    pub fn ask(&self) -> Result<Keys> {
        (self.0)()
    }
}

impl fmt::Debug for AskKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskKeys")
    }
}

/// How to reach a cloud store. What is `None` comes from the usual `AWS_*`, `AZURE_*` or `GOOGLE_*`
/// variables, and for S3 from the files of AWS's own tools.
#[derive(Clone, Debug)]
pub struct CloudOptions {
    /// `https://host:port` of a store that is not the provider's own; for Azure with the account in the path where
    /// the server wants it.
    pub endpoint: Option<String>,
    /// The bucket's region; S3 only.
    pub region: Option<String>,
    /// The access key id (S3) or the account's name (Azure).
    pub access_key: Option<String>,
    /// The secret key (S3), the account's key (Azure) or the service account as JSON (GCS).
    pub secret_key: Option<Secret>,
    /// The token that goes with temporary keys; S3 only.
    pub session_token: Option<Secret>,
    /// When these keys cease to hold.
    pub keys_expire: Option<Time>,
    /// Who is asked for others then, or when the store refuses these; S3 only.
    pub ask_keys: Option<AskKeys>,
    /// Whether an endpoint without TLS is acceptable. Contents are encrypted anyway; names and sizes are not.
    pub allow_http: bool,
    /// Storage class (S3, GCS) or tier (Azure) of data packs. Everything else stays in the bucket's own class.
    pub storage_class: Option<String>,
    /// How long a failing request is tried again.
    pub retry_timeout: Duration,
    /// How long one attempt may pass without an answer, besides the time that sending a large body takes. At most half
    /// of `retry_timeout`, or what is not answered is not asked twice.
    pub request_timeout: Duration,
}

impl Default for CloudOptions {
    /// Retries for 60 s, waits 30 s for one answer: a switch that restarts is survived, what hangs is asked a second
    /// time, and the whole still ends within the two minutes after which people and watchdogs assume a hang.
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key: None,
            secret_key: None,
            session_token: None,
            keys_expire: None,
            ask_keys: None,
            allow_http: false,
            storage_class: None,
            retry_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let options = CloudOptions {
            secret_key: Some(Secret::new("swordfish")),
            session_token: Some(Secret::new("swordfish")),
            ..CloudOptions::default()
        };
        assert!(!format!("{options:?}").contains("swordfish"));
    }
}
