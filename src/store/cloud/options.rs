//! How to reach a cloud store.

use std::fmt;
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

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How to reach a cloud store. What is `None` comes from the usual `AWS_*`, `AZURE_*` or `GOOGLE_*` variables.
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
