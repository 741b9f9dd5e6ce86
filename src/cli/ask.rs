//! Questions on the terminal.

use crate::error::{Error, Result};
use std::io::IsTerminal;
use zeroize::Zeroizing;

/// Asks for a password without showing what is typed. `None` without a terminal: nobody is there to answer.
pub fn password(question: &str) -> Result<Option<Zeroizing<String>>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    rpassword::prompt_password(question)
        .map(|text| Some(Zeroizing::new(text)))
        .map_err(|error| Error::io("cannot ask for a password", error))
}
