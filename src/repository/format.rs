//! The format of a repository, version 1.
