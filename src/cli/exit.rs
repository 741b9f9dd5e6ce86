//! What the process answers.

use crate::error::Kind;

/// The command did what it was asked.
pub const DONE: u8 = 0;
/// It did not; and of `diff`: the two differ.
pub const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;
/// Done, but not all of it: the report says what is missing.
pub const WARNINGS: u8 = 3;
/// Somebody has to decide something.
pub const NEEDS_ACTION: u8 = 4;
/// There is no repository at that place.
pub const NO_REPOSITORY: u8 = 10;
/// No password or key file opens it.
pub const WRONG_KEY: u8 = 12;

/// For `--help`.
pub const TABLE: &str = "Exit codes:
  0   done
  1   failed; of diff: the two differ
  2   usage: the command line or the configuration is wrong
  3   done with warnings: the report says what is missing
  4   needs action: somebody has to decide
  10  no such repository
  12  wrong or missing key";

/// The one table from kinds of errors to exit codes.
pub fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Invalid => USAGE,
        Kind::NoRepository => NO_REPOSITORY,
        Kind::WrongKey | Kind::NoKey => WRONG_KEY,
        Kind::NotFound
        | Kind::AlreadyExists
        | Kind::Damaged
        | Kind::TooNew
        | Kind::Unreachable
        | Kind::Full
        | Kind::Quota
        | Kind::Denied
        | Kind::ReadOnly
        | Kind::Refused
        | Kind::Busy
        | Kind::TooBig
        | Kind::Interrupted
        | Kind::Failed => FAILED,
    }
}
