//! The one error of keepfs: a kind that says what the caller can do, a sentence for a person, and the cause.
//!
//! A message names the object and the next step. No type of another room appears here.

use std::fmt;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The thing asked for does not exist. Ask for another.
    NotFound,
    /// The name is taken; whoever came first keeps it.
    AlreadyExists,
    /// There is no repository at this place. Run `keepfs init`, or name another place.
    NoRepository,
    /// The password or key file opens nothing here.
    WrongKey,
    /// No password or key was given.
    NoKey,
    /// Bytes at rest are not what was written. Run `keepfs check`; other data still reads.
    Damaged,
    /// Written by a newer keepfs. Use that one.
    TooNew,
    /// The store did not answer after retries, or answered nonsense. Try again later.
    Unreachable,
    /// The store or local disk is full. Make room.
    Full,
    /// The repository's own capacity or policy is used up.
    Quota,
    /// The store or the kernel refused access. Change credentials or modes.
    Denied,
    /// A change of something that is read-only for good, or of a store that cannot be written.
    ReadOnly,
    /// The request itself is wrong. Change it.
    Invalid,
    /// Ruled out for good by what this is. Ask for something else.
    Refused,
    /// Someone else uses it. Wait or stop them.
    Busy,
    /// A hard limit would be passed; nothing was done.
    TooBig,
    /// The caller asked to stop.
    Interrupted,
    /// Any other failure of the local system; the message says which.
    Failed,
}

/// An error with a [`Kind`], one plain sentence, and what caused it.
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that reads as `message`: what happened, to which object, and what to do.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same error with the lower error that caused it.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, its sentence preceded by what was being done: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// An error of the operating system while doing `what`; the kind follows from its errno.
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Kind::NotFound,
            Some(libc::EEXIST) => Kind::AlreadyExists,
            Some(libc::EACCES | libc::EPERM) => Kind::Denied,
            Some(libc::EROFS) => Kind::ReadOnly,
            Some(libc::ENOSPC) => Kind::Full,
            Some(libc::EDQUOT) => Kind::Quota,
            Some(libc::EBUSY) => Kind::Busy,
            Some(libc::EINTR) => Kind::Interrupted,
            Some(libc::ENOTCONN | libc::EHOSTDOWN | libc::ESTALE | libc::ETIMEDOUT) => {
                Kind::Unreachable
            }
            _ => Kind::Failed,
        };
        Self::new(kind, format!("{what}: {error}")).caused_by(error)
    }

    /// What the caller can do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence for a person.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
