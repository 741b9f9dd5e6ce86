//! The subject's template: text with placeholders in braces.

use crate::error::{Error, Kind, Result};
use std::str::FromStr;

/// What the subject is without one.
const USUAL: &str = "keepfs {result}: {backup} to {target} on {host}";
/// Characters of one value: a message about 300 backups has a subject, too.
const VALUE_CHARACTERS_MAX: usize = 100;

/// What may stand in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placeholder {
    Result,
    Backup,
    Job,
    Objects,
    Issues,
    Time,
    Host,
    Target,
}

const PLACEHOLDERS: [(&str, Placeholder); 8] = [
    ("result", Placeholder::Result),
    ("backup", Placeholder::Backup),
    ("job", Placeholder::Job),
    ("objects", Placeholder::Objects),
    ("issues", Placeholder::Issues),
    ("time", Placeholder::Time),
    ("host", Placeholder::Host),
    ("target", Placeholder::Target),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// A subject with placeholders: `{result} {backup} {job} {objects} {issues} {time} {host} {target}`; a brace itself is
/// written twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Default for Template {
    fn default() -> Self {
        USUAL.parse().expect("a test parses it")
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let end = rest.find('}').filter(|_| brace == "{");
            let end = end.ok_or_else(|| wrong(text, "has a brace without its other half"))?;
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
            pieces.push(Piece::Value(placeholder(text, &rest[..end])?));
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        pieces.push(Piece::Text(plain));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        Ok(Self(pieces))
    }
}

fn placeholder(text: &str, name: &str) -> Result<Placeholder> {
    let found = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
    let unknown = || wrong(text, &format!("has the unknown placeholder {{{name}}}"));
    found.map(|(_, which)| *which).ok_or_else(unknown)
}

fn wrong(text: &str, why: &str) -> Error {
    let known: Vec<_> = PLACEHOLDERS
        .iter()
        .map(|(name, _)| format!("{{{name}}}"))
        .collect();
    let message = format!(
        "the subject {text:?} {why}; there are {}, and a brace itself is written twice",
        known.join(" ")
    );
    Error::new(Kind::Invalid, message)
}

impl Template {
    /// The subject, with each placeholder as `value` has it; one line, whatever the values hold.
    pub(super) fn fill(&self, value: impl Fn(Placeholder) -> String) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => one_line(text),
            Piece::Value(which) => clipped(&one_line(&value(*which))),
        });
        pieces.collect::<String>().trim().to_owned()
    }
}

/// The text with each control character and line end as a space: it can begin no header and no line.
pub(super) fn one_line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    text.replace(breaks, " ")
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_braces_doubled() {
        let template: Template = "{{{result}}} of {job}".parse().expect("parses");
        let filled = template.fill(|which| format!("{which:?}"));
        assert_eq!(filled, "{Result} of Job");
        assert_eq!(Template::default().0.len(), 8);
        let empty: Template = "".parse().expect("parses");
        assert_eq!(empty.fill(|_| String::new()), "");
    }

    #[test]
    fn what_is_no_placeholder_is_refused() {
        for text in ["{resutl}", "{", "}", "{result", "a}b", "{ result }", "{}"] {
            let refused = text.parse::<Template>().expect_err(text);
            assert_eq!(refused.kind(), Kind::Invalid, "{text}");
            assert!(refused.message().contains("{issues}"), "{refused}");
        }
    }

    #[test]
    fn values_stay_on_the_line_and_are_short() {
        let template: Template = "x\r\ny {job}".parse().expect("parses");
        let filled = template.fill(|_| "a\r\nBcc: b\u{2028}\u{85}\0".to_owned());
        assert_eq!(filled, "x  y a  Bcc: b");
        let filled = template.fill(|_| "é".repeat(5000));
        assert_eq!(filled.chars().count(), 5 + VALUE_CHARACTERS_MAX + 1);
    }
}
