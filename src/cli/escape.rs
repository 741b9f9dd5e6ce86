//! Names and messages for a terminal: what a file is called must not move the cursor, change colours or pretend to be
//! another line.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::io::IsTerminal;
use std::sync::LazyLock;

static TO_TERMINAL: LazyLock<bool> = LazyLock::new(|| std::io::stdout().is_terminal());

/// A name in a report: as it is for a program that reads it, escaped on a terminal, as `ls` does.
pub struct Name<'a>(pub &'a str);

impl Display for Name<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if *TO_TERMINAL {
            out.write_str(&escaped(self.0))
        } else {
            out.write_str(self.0)
        }
    }
}

/// The text with each control character as `\u{1b}` or the like.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_nothing_else_is_touched() {
        assert_eq!(escaped("a \u{e9} \\ '\"' b"), "a \u{e9} \\ '\"' b");
        assert_eq!(
            escaped("x\u{1b}[31m\ny\t\u{7f}\u{9b}"),
            "x\\u{1b}[31m\\ny\\t\\u{7f}\\u{9b}"
        );
    }
}
