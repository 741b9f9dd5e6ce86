//! What a call answers when it fails: the one table from errors to errno, which is the interface of `cp` and `tar`.

use crate::error::{Error, Kind};

/// Why a call on the mounted tree failed.
#[derive(Debug)]
pub enum Failure {
    /// The engine could not do it.
    Engine(Error),
    /// A rule of the file interface forbids it.
    Rule(Rule),
    /// A rule of keepfs forbids it; the sentence says what to do instead.
    NotPermitted(String),
}

/// Rules of the file interface that need no sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// There is no such name.
    NoEntry,
    /// The inode is not known any more.
    Stale,
    /// The handle is not known or was opened for something else.
    BadHandle,
    /// A directory was needed.
    NotADirectory,
    /// Anything but a directory was needed.
    IsADirectory,
    /// The directory still has entries.
    NotEmpty,
    /// The name is taken.
    Exists,
    /// The name has more than 255 bytes.
    NameTooLong,
    /// Source and target lie in different repositories or points.
    AcrossRepositories,
    /// There is no extended attribute of this name.
    NoAttribute,
    /// There is no data or hole from this offset on.
    NoSuchOffset,
    /// The call does not apply to this kind of file.
    NotSupported,
}

/// The result of a call.
pub type Answer<T> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Rule> for Failure {
    fn from(rule: Rule) -> Self {
        Self::Rule(rule)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Engine(error) => error,
            other => Self::new(Kind::Failed, format!("{other:?}")),
        }
    }
}

impl Failure {
    /// The number that the kernel passes on.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Engine(error) => of_kind(error.kind()),
            Self::Rule(rule) => of_rule(*rule),
            Self::NotPermitted(_) => libc::EPERM,
        }
    }

    /// The sentence for a person, where there is more to say than the number does.
    pub fn sentence(&self) -> Option<&str> {
        match self {
            Self::Engine(error) => Some(error.message()),
            Self::NotPermitted(sentence) => Some(sentence),
            Self::Rule(_) => None,
        }
    }
}

fn of_kind(kind: Kind) -> i32 {
    match kind {
        Kind::NotFound => libc::ENOENT,
        Kind::AlreadyExists => libc::EEXIST,
        Kind::WrongKey => libc::EKEYREJECTED,
        Kind::NoKey => libc::ENOKEY,
        Kind::Damaged => libc::EBADMSG,
        Kind::Unreachable => libc::EHOSTDOWN,
        Kind::Full => libc::ENOSPC,
        Kind::Quota => libc::EDQUOT,
        Kind::Denied => libc::EACCES,
        Kind::Refused => libc::EPERM,
        Kind::ReadOnly => libc::EROFS,
        Kind::Invalid => libc::EINVAL,
        Kind::Busy => libc::EBUSY,
        Kind::TooBig => libc::E2BIG,
        Kind::Interrupted => libc::EINTR,
        Kind::NoRepository | Kind::TooNew | Kind::Failed => libc::EIO,
    }
}

fn of_rule(rule: Rule) -> i32 {
    match rule {
        Rule::NoEntry => libc::ENOENT,
        Rule::Stale => libc::ESTALE,
        Rule::BadHandle => libc::EBADF,
        Rule::NotADirectory => libc::ENOTDIR,
        Rule::IsADirectory => libc::EISDIR,
        Rule::NotEmpty => libc::ENOTEMPTY,
        Rule::Exists => libc::EEXIST,
        Rule::NameTooLong => libc::ENAMETOOLONG,
        Rule::AcrossRepositories => libc::EXDEV,
        Rule::NoAttribute => libc::ENODATA,
        Rule::NoSuchOffset => libc::ENXIO,
        Rule::NotSupported => libc::EOPNOTSUPP,
    }
}
