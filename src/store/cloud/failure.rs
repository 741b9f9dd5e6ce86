//! What a cloud store's failure means: from status, error code and transport to our kinds.
//!
//! Answers can quote access keys and signed headers, so no text of an answer's body reaches a message: only its
//! status and its error code do.

use crate::error::{Error, Kind};
use crate::store::{Trouble, refusal};
use std::error::Error as StdError;

/// Error codes are short words; anything longer is not one.
const CODE_LENGTH_MAX: usize = 60;

/// The library's words, in errors whose types it keeps to itself; the conformance suite notices when they change.
const RANGE_BEYOND_END: &str = "Wanted range starting at";
const RANGE_IGNORED: &str = "Received non-partial response";

/// What is known of a failed request.
pub(super) struct Failure {
    /// The HTTP status, when there was an answer.
    status: Option<u16>,
    /// The provider's word for it (`NoSuchBucket`, `BlobArchived` …).
    code: Option<String>,
    /// The object ends before the range that was asked for.
    pub(super) beyond_end: bool,
    kind: Kind,
    /// The endpoint did not prove who it is.
    untrusted: bool,
    /// The lowest cause, when there was no answer.
    cause: String,
}

impl Failure {
    pub(super) fn of(error: &object_store::Error) -> Self {
        let text = chain_text(error);
        let status = status(&text);
        let code = code(&text);
        Self {
            kind: match text.contains(RANGE_IGNORED) {
                true => Kind::Invalid,
                false => kind(error, status, code.as_deref()),
            },
            beyond_end: status == Some(416) || text.contains(RANGE_BEYOND_END),
            status,
            code,
            untrusted: chain(error).into_iter().any(is_about_certificate),
            cause: lowest_cause(error),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether another attempt may end better: no answer, an overloaded or failing server, bytes that changed on
    /// their way.
    pub(super) fn passing(&self) -> bool {
        self.kind == Kind::Unreachable
            || matches!(
                self.code.as_deref(),
                Some(
                    "BadDigest"
                        | "XAmzContentSHA256Mismatch"
                        | "XAmzContentChecksumMismatch"
                        | "Md5Mismatch"
                        | "RequestTimeout"
                        | "ConditionalRequestConflict"
                )
            )
    }

    /// Whether the store may have done what we asked although we were told nothing, or told that it failed.
    pub(super) fn perhaps_done(&self) -> bool {
        self.kind == Kind::Unreachable
    }

    /// Whether other keys may be answered better. An answer to HEAD has no body that could say why it is a refusal.
    pub(super) fn refuses_keys(&self) -> bool {
        self.kind == Kind::Denied || (self.status == Some(400) && self.code.is_none())
    }

    pub(super) fn bucket_missing(&self) -> bool {
        matches!(
            self.code.as_deref(),
            Some("NoSuchBucket" | "ContainerNotFound")
        )
    }

    /// What to mend.
    pub(super) fn trouble(&self) -> Trouble {
        match self.kind {
            _ if self.untrusted => Trouble::Certificate,
            _ if self.bucket_missing() => Trouble::BucketMissing,
            _ if self.refuses_keys() => Trouble::CredentialsRefused,
            Kind::Unreachable => Trouble::EndpointDown,
            _ => Trouble::Other,
        }
    }

    /// The sentence: what was being done (`read`) to which object where.
    pub(super) fn sentence(&self, verb: &str, name: &str, location: &str) -> Error {
        let attempt = format!("cannot {verb} {name} in {location}");
        let answer = self.answer();
        let message = match self.kind {
            Kind::NotFound if self.bucket_missing() => format!(
                "{attempt}: the bucket does not exist; make it with the provider's tools, or correct the URL"
            ),
            Kind::NotFound => return refusal::not_found(name, location),
            Kind::AlreadyExists => return refusal::already_exists(name, location),
            Kind::Busy => format!("{attempt}: it is archived; retrieve it first"),
            Kind::Denied => format!(
                "{attempt}: access denied ({answer}); check the credentials and their permissions"
            ),
            Kind::Full => format!("{attempt}: the store is full ({answer}); make room"),
            Kind::Invalid if self.status == Some(501) => format!(
                "{attempt}: the store does not know the request ({answer}); choose another, a repository would not be safe there"
            ),
            Kind::Invalid => format!(
                "{attempt}: the store refuses the request ({answer}); check endpoint, region and storage class"
            ),
            _ if self.untrusted => format!(
                "{attempt}: the certificate of the endpoint is not trusted ({answer}); renew it, or add who signed it to this host's certificates"
            ),
            _ => format!(
                "{attempt}: the store does not answer as it should ({answer}); try again later"
            ),
        };
        Error::new(self.kind, message)
    }

    fn answer(&self) -> String {
        match (self.status, &self.code) {
            (Some(status), Some(code)) => format!("{status} {code}"),
            (Some(status), None) => format!("HTTP status {status}"),
            (None, _) => self.cause.clone(),
        }
    }
}

fn kind(error: &object_store::Error, status: Option<u16>, code: Option<&str>) -> Kind {
    match code {
        // Told by their codes: S3 says 403 and Azure 409, which elsewhere mean something else.
        Some("InvalidObjectState" | "BlobArchived") => return Kind::Busy,
        Some(
            "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "InsufficientCapacity",
        ) => {
            return Kind::Full;
        }
        Some(
            "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "AuthorizationHeaderMalformed",
        ) => {
            return Kind::Denied;
        }
        Some("ConditionalRequestConflict") => return Kind::Unreachable,
        _ => {}
    }
    match error {
        object_store::Error::NotFound { .. } => Kind::NotFound,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            Kind::AlreadyExists
        }
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Kind::Denied,
        object_store::Error::InvalidPath { .. }
        | object_store::Error::NotSupported { .. }
        | object_store::Error::NotImplemented { .. } => Kind::Invalid,
        _ => by_status(status),
    }
}

fn by_status(status: Option<u16>) -> Kind {
    match status {
        // The library keeps kinds of its own for these, but not for every verb.
        Some(401 | 403) => Kind::Denied,
        Some(404) => Kind::NotFound,
        Some(507) => Kind::Full,
        Some(408 | 429) => Kind::Unreachable,
        // Asking again does not teach it.
        Some(501) => Kind::Invalid,
        Some(300..=499) => Kind::Invalid,
        _ => Kind::Unreachable,
    }
}

fn chain(error: &object_store::Error) -> Vec<&(dyn StdError + 'static)> {
    let mut errors = Vec::new();
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        errors.push(error);
        next = error.source();
    }
    errors
}

/// The TLS library's errors travel within those of the system, one or several deep.
fn is_about_certificate(error: &(dyn StdError + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    let system = error.downcast_ref::<std::io::Error>();
    let within = system.and_then(std::io::Error::get_ref);
    within.is_some_and(|within| is_about_certificate(within))
}

fn chain_text(error: &object_store::Error) -> String {
    let texts: Vec<String> = chain(error).iter().map(ToString::to_string).collect();
    texts.join("\n")
}

/// The library keeps the status to itself and only prints it.
fn status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

/// The code in the XML that S3, Azure and GCS answer with.
fn code(text: &str) -> Option<String> {
    let (_, after) = text.split_once("<Code>")?;
    let (code, _) = after.split_once("</Code>")?;
    let plain =
        code.len() <= CODE_LENGTH_MAX && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

/// The lowest cause says the most (`Connection refused`) and, unlike those above it, quotes no URL.
fn lowest_cause(error: &object_store::Error) -> String {
    let lowest = chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default();
    let line = lowest.lines().next().unwrap_or_default();
    if line.is_empty() || line.contains("://") || line.len() > 120 {
        return "no usable answer".to_owned();
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    fn answer(status: &str, code: &str) -> String {
        format!(
            "Server returned non-2xx status code: {status}: <Error><Code>{code}</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>"
        )
    }

    #[test]
    fn archived_objects_are_told_by_their_code_not_their_status() {
        let cold = object_store::Error::PermissionDenied {
            path: "p".into(),
            source: answer("403 Forbidden", "InvalidObjectState").into(),
        };
        let cold_azure = object_store::Error::AlreadyExists {
            path: "p".into(),
            source: answer("409 Conflict", "BlobArchived").into(),
        };
        for error in [cold, cold_azure] {
            let failure = Failure::of(&error);
            assert_eq!(failure.kind(), Kind::Busy);
        }
    }

    #[test]
    fn bodies_do_not_reach_messages() {
        let failure = Failure::of(&generic(&answer("400 Bad Request", "BadDigest")));
        let message = failure.sentence("write", "header", "s3://b").to_string();
        assert!(!message.contains("AKIA"), "{message}");
        assert!(message.contains("400 BadDigest"), "{message}");
        assert!(failure.passing());
    }

    #[test]
    fn a_full_store_and_a_failing_one_differ() {
        let kind = |status: &str, code: &str| Failure::of(&generic(&answer(status, code))).kind();
        assert_eq!(kind("507 Insufficient Storage", "Any"), Kind::Full);
        assert_eq!(kind("403 Forbidden", "QuotaExceeded"), Kind::Full);
        assert_eq!(
            kind("500 Internal Server Error", "InternalError"),
            Kind::Unreachable
        );
        assert_eq!(kind("501 Not Implemented", "NotImplemented"), Kind::Invalid);
        assert_eq!(
            kind("503 Service Unavailable", "SlowDown"),
            Kind::Unreachable
        );
        assert_eq!(
            kind("301 Moved Permanently", "PermanentRedirect"),
            Kind::Invalid
        );
    }
}
