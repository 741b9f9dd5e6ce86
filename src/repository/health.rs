//! Whether a repository can be used just now: its header is read, must be this repository's, and must hold for its key.

use super::Repository;
use super::header::Header;
use crate::error::Error;
use crate::store::names::Name;
use crate::store::{Refused, Trouble};
use std::fmt;

/// The state of a repository. It is asked for, never stored: what is mended is ready at the next question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryState {
    /// It can be read.
    Ready,
    /// It cannot.
    Invalid {
        /// What to mend.
        trouble: Trouble,
        /// What happened, and what to do.
        sentence: String,
    },
}

impl RepositoryState {
    /// Whether it can be read.
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

impl fmt::Display for RepositoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Invalid { trouble, sentence } => {
                write!(f, "invalid ({}): {sentence}", trouble.name())
            }
        }
    }
}

/// Asks the repository's store once: one small object is read.
pub fn state(repository: &Repository) -> RepositoryState {
    match probe(repository) {
        Ok(()) => RepositoryState::Ready,
        Err((trouble, error)) => RepositoryState::Invalid {
            trouble,
            sentence: error.to_string(),
        },
    }
}

/// As [`state`], as an error: what cannot be used is `Unreachable` for whoever wants to begin something, whatever the
/// reason, unless the store's own word for it says more.
pub fn require_ready(repository: &Repository) -> Result<(), Error> {
    probe(repository).map_err(|(trouble, error)| {
        let message = format!(
            "{} is invalid ({}): {error}",
            repository.location(),
            trouble.name()
        );
        Error::new(crate::error::Kind::Unreachable, message).caused_by(error)
    })
}

fn probe(repository: &Repository) -> Result<(), (Trouble, Error)> {
    let asked = repository.store().ask(&Name::Header.to_string());
    let bytes = asked.map_err(|refused| (refused.trouble, refused.error))?;
    let other = |error: Error| (Trouble::Other, error.context(repository.location()));
    let header = Header::decode(&bytes).map_err(other)?;
    if header.repository != repository.id() {
        let message = format!(
            "{} holds another repository now ({} instead of {}); bring the right one back, or mount again",
            repository.location(),
            header.repository,
            repository.id()
        );
        let error = Error::new(crate::error::Kind::NoRepository, message);
        return Err((Trouble::Other, error));
    }
    Header::confirm(&bytes, repository.ring()).map_err(|error| {
        let refused = Refused::by_kind(error.context(repository.location()));
        (refused.trouble, refused.error)
    })
}
