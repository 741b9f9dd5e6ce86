//! Why a store cannot be used just now: what a person has to mend.

use crate::error::{Error, Kind};

/// What to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nobody answers at the endpoint, or nonsense.
    EndpointDown,
    /// The store knows these keys not, or not any more, or does not let them read.
    CredentialsRefused,
    /// The endpoint is not who it says it is, or its certificate has run out.
    Certificate,
    /// There is no such bucket or container.
    BucketMissing,
    /// The directory is not there, or its disk is not mounted.
    DirectoryMissing,
    /// The store answers, and no key opens what is there.
    KeyRefused,
    /// The store answers, and what makes it a repository is missing or is another one's.
    Other,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::EndpointDown,
        Self::CredentialsRefused,
        Self::Certificate,
        Self::BucketMissing,
        Self::DirectoryMissing,
        Self::KeyRefused,
        Self::Other,
    ];

    /// A few words for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndpointDown => "endpoint down",
            Self::CredentialsRefused => "credentials refused",
            Self::Certificate => "certificate not trusted",
            Self::BucketMissing => "bucket missing",
            Self::DirectoryMissing => "directory missing",
            Self::KeyRefused => "key refused",
            Self::Other => "no repository",
        }
    }
}

/// A store that cannot be used, and the sentence that says so.
#[derive(Debug)]
pub struct Refused {
    /// What to mend.
    pub trouble: Trouble,
    /// What the store answered.
    pub error: Error,
}

impl Refused {
    /// What an error means where nothing more is known than its kind.
    pub fn by_kind(error: Error) -> Self {
        let trouble = match error.kind() {
            Kind::Denied => Trouble::CredentialsRefused,
            Kind::Unreachable => Trouble::EndpointDown,
            Kind::WrongKey | Kind::NoKey => Trouble::KeyRefused,
            _ => Trouble::Other,
        };
        Self { trouble, error }
    }
}
