//! What to leave out: patterns, and marks that directories carry.

use crate::error::{Error, Kind, Result};
use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The first 43 bytes of a `CACHEDIR.TAG` (Cache Directory Tagging Specification, bford.info/cachedir).
pub(super) const CACHE_SIGNATURE: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The file that marks a cache when it begins with [`CACHE_SIGNATURE`].
pub(super) const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";

/// Patterns of what to leave out, in the order given; where several match, the last one decides.
///
/// * A pattern without `/` matches the last name of a path, anywhere: `*.o`, `node_modules`.
/// * With a leading `/` it matches from the source's top: `/var/tmp`. The absolute path on this host means the same:
///   for the source `/home`, `/joe/tmp` and `/home/joe/tmp` are equal. With several sources each is a
///   directory of the top, under its base name.
/// * With a `/` elsewhere it matches the end of a path: `.local/share/Trash`.
/// * A trailing `/` matches directories only.
/// * `*` and `?` match within a name, `[a-z]` and `[!a-z]` one of several bytes, `**` as a whole part of the path any
///   number of directories. `\` takes the meaning from the next character. Braces mean nothing.
/// * A leading `!` takes things back in: `*.log`, then `!important.log`. Nothing below a directory that is left out can be
///   taken back in, as it is not looked at.
///
/// Names are bytes; `?` is one byte. A pattern may hold bytes that are not UTF-8 only if it holds no wildcard.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    names: Matchers,
    paths: Matchers,
}

#[derive(Clone, Debug)]
struct Rule {
    excludes: bool,
    directories_only: bool,
    /// May match the absolute path as well.
    anchored: bool,
}

/// Patterns of one scope, each with its place in the order of all.
#[derive(Clone, Debug, Default)]
struct Matchers {
    globs: GlobSet,
    glob_rules: Vec<usize>,
    exact: Vec<Exact>,
}

/// A pattern that is not UTF-8, hence without wildcards.
#[derive(Clone, Debug)]
struct Exact {
    body: Vec<u8>,
    /// Matches the end of a path too, not only the whole.
    floats: bool,
    rule: usize,
}

impl Exact {
    fn matches(&self, path: &[u8]) -> bool {
        path.strip_suffix(self.body.as_slice())
            .is_some_and(|before| before.is_empty() || (self.floats && before.ends_with(b"/")))
    }
}

/// A path asked about.
pub(super) struct Asked<'a> {
    /// From the source's top, without a leading slash.
    pub relative: &'a [u8],
    /// On this host.
    pub absolute: &'a [u8],
    pub is_directory: bool,
}

impl Rules {
    /// Rules from patterns, in this order. [`Kind::Invalid`] names the first one that cannot be understood.
    pub fn new<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut rules = vec![];
        let mut names = Drafts::default();
        let mut paths = Drafts::default();
        for pattern in patterns {
            let parsed = Parsed::new(pattern.as_ref());
            let drafts = if parsed.is_name {
                &mut names
            } else {
                &mut paths
            };
            drafts
                .add(&parsed.body, rules.len())
                .map_err(|error| invalid(pattern.as_ref(), error))?;
            rules.push(parsed.rule);
        }
        Ok(Self {
            rules,
            names: names.build()?,
            paths: paths.build()?,
        })
    }

    /// The patterns in the content of an exclude file: one a line; blank lines and lines that begin with `#` are
    /// comments; blanks around a pattern are not part of it.
    pub fn patterns(content: &[u8]) -> impl Iterator<Item = &[u8]> {
        content
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
    }

    /// No rules: nothing is left out.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether this path is left out.
    pub(super) fn exclude(&self, asked: &Asked<'_>) -> bool {
        let name = asked.relative.rsplit(|&byte| byte == b'/').next();
        let by_name = self.names.matching(name.unwrap_or_default());
        let by_relative = self.paths.matching(asked.relative);
        let absolute = asked.absolute.strip_prefix(b"/").unwrap_or_default();
        let by_absolute = self.paths.matching(absolute);
        let by_absolute = by_absolute.filter(|&rule| self.rules[rule].anchored);
        let last = by_name
            .chain(by_relative)
            .chain(by_absolute)
            .filter(|&rule| asked.is_directory || !self.rules[rule].directories_only)
            .max();
        last.is_some_and(|rule| self.rules[rule].excludes)
    }
}

impl Matchers {
    /// The rules whose pattern matches `path`, in any order.
    fn matching<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        let globs = if self.globs.is_empty() {
            vec![]
        } else {
            let candidate = Candidate::new(Path::new(OsStr::from_bytes(path)));
            self.globs.matches_candidate(&candidate)
        };
        let exact = self.exact.iter().filter(|exact| exact.matches(path));
        globs
            .into_iter()
            .map(|glob| self.glob_rules[glob])
            .chain(exact.map(|exact| exact.rule))
    }
}

/// A pattern taken apart.
struct Parsed {
    rule: Rule,
    is_name: bool,
    body: Vec<u8>,
}

impl Parsed {
    fn new(pattern: &[u8]) -> Self {
        let (excludes, body) = match pattern.strip_prefix(b"!") {
            Some(body) => (false, body),
            None => (true, pattern),
        };
        let (anchored, body) = match body.strip_prefix(b"/") {
            Some(body) => (true, body),
            None => (false, body),
        };
        let (directories_only, body) = match body.strip_suffix(b"/") {
            Some(body) => (true, body),
            None => (false, body),
        };
        let is_name = !anchored && !body.contains(&b'/');
        let floats = !anchored && !is_name;
        Self {
            rule: Rule {
                excludes,
                directories_only,
                anchored,
            },
            is_name,
            body: match floats {
                true => [b"**/", body].concat(),
                false => body.to_owned(),
            },
        }
    }
}

#[derive(Default)]
struct Drafts {
    globs: Vec<Glob>,
    glob_rules: Vec<usize>,
    exact: Vec<Exact>,
}

impl Drafts {
    fn add(&mut self, body: &[u8], rule: usize) -> std::result::Result<(), String> {
        if body.is_empty() {
            return Err("it is empty".into());
        }
        let Ok(text) = std::str::from_utf8(body) else {
            return self.add_exact(body, rule);
        };
        let glob = GlobBuilder::new(&without_braces(text))
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| error.kind().to_string())?;
        self.globs.push(glob);
        self.glob_rules.push(rule);
        Ok(())
    }

    fn add_exact(&mut self, body: &[u8], rule: usize) -> std::result::Result<(), String> {
        let (floats, body) = match body.strip_prefix(b"**/") {
            Some(body) => (true, body),
            None => (false, body),
        };
        if body.iter().any(|byte| b"*?[\\".contains(byte)) {
            return Err("it has wildcards, and bytes that are not UTF-8".into());
        }
        self.exact.push(Exact {
            body: body.to_owned(),
            floats,
            rule,
        });
        Ok(())
    }

    fn build(self) -> Result<Matchers> {
        let mut globs = GlobSetBuilder::new();
        for glob in self.globs {
            globs.add(glob);
        }
        let globs = globs.build().map_err(|error| {
            let message = format!("the exclude patterns are too many or too large: {error}");
            Error::new(Kind::Invalid, message)
        })?;
        Ok(Matchers {
            globs,
            glob_rules: self.glob_rules,
            exact: self.exact,
        })
    }
}

fn invalid(pattern: &[u8], reason: String) -> Error {
    let pattern = String::from_utf8_lossy(pattern);
    Error::new(
        Kind::Invalid,
        format!("cannot understand the exclude pattern {pattern:?}: {reason}"),
    )
}

/// `pattern` with its braces as plain characters: the library takes `{a,b}` for a choice, rsync and restic do not.
fn without_braces(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len());
    let mut characters = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if !in_class => {
                plain.push(character);
                plain.extend(characters.next());
                continue;
            }
            '{' | '}' if !in_class => plain.push('\\'),
            '[' if !in_class => {
                in_class = true;
                plain.push(character);
                plain.extend(characters.next_if(|next| matches!(next, '!' | '^')));
                plain.extend(characters.next_if_eq(&']'));
                continue;
            }
            ']' => in_class = false,
            _ => {}
        }
        plain.push(character);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes<P: AsRef<[u8]>>(patterns: &[P], path: &[u8], is_directory: bool) -> bool {
        let absolute = [b"/home/", path].concat();
        Rules::new(patterns).unwrap().exclude(&Asked {
            relative: path,
            absolute: &absolute,
            is_directory,
        })
    }

    #[test]
    fn a_table_of_patterns() {
        const DIRECTORY: bool = true;
        const FILE: bool = false;
        let table = [
            ("*.o", "a.o", FILE, true),
            ("*.o", "src/deep/a.o", FILE, true),
            ("*.o", "a.o.c", FILE, false),
            ("tmp", "joe/tmp", DIRECTORY, true),
            ("tmp", "joe/tmpfile", FILE, false),
            ("tmp/", "joe/tmp", DIRECTORY, true),
            ("tmp/", "joe/tmp", FILE, false),
            ("/tmp", "tmp", FILE, true),
            ("/tmp", "joe/tmp", FILE, false),
            ("/joe/tmp", "joe/tmp", DIRECTORY, true),
            ("/home/joe/tmp", "joe/tmp", DIRECTORY, true),
            ("/home/*/tmp/", "joe/tmp", DIRECTORY, true),
            ("home/joe/tmp", "joe/tmp", DIRECTORY, false),
            ("joe/*", "joe/tmp", FILE, true),
            ("/joe/*", "joe/a/tmp", FILE, false),
            ("/joe/**", "joe/a/tmp", FILE, true),
            ("/joe/**", "joe", DIRECTORY, false),
            ("/**/cache", "a/b/cache", DIRECTORY, true),
            ("/joe/**/x", "joe/x", FILE, true),
            ("share/Trash", "joe/share/Trash", DIRECTORY, true),
            ("share/Trash", "share/Trash", DIRECTORY, true),
            ("share/Trash", "myshare/Trash", DIRECTORY, false),
            ("a?c", "abc", FILE, true),
            ("/a?c", "a/c", FILE, false),
            ("/a*c", "a/c", FILE, false),
            ("[a-c]x", "bx", FILE, true),
            ("[!a-c]x", "bx", FILE, false),
            ("[!a-c]x", "dx", FILE, true),
            ("{a,b}", "a", FILE, false),
            ("{a,b}", "{a,b}", FILE, true),
            ("[{}]", "{", FILE, true),
            (r"\*", "*", FILE, true),
            (r"\*", "a", FILE, false),
            (r"\!a", "!a", FILE, true),
            ("*", ".hidden", FILE, true),
            ("A", "a", FILE, false),
        ];
        for (pattern, path, is_directory, expected) in table {
            let found = excludes(&[pattern], path.as_bytes(), is_directory);
            assert_eq!(found, expected, "{pattern} against {path}");
        }
    }

    #[test]
    fn names_that_are_not_utf_8_match() {
        assert!(excludes(&["*.o"], b"dir\xff/\xfe.o", false));
        assert!(excludes(&["a?b"], b"a\xffb", false));
        assert!(excludes(&[b"\xff"], b"dir/\xff", false));
        assert!(!excludes(&[b"\xff"], b"dir/a\xff", false));
        assert!(excludes(&[b"a/\xff"], b"dir/a/\xff", false));
        assert!(excludes(&[b"!x".as_slice(), b"\xff/"], b"\xff", true));
    }

    #[test]
    fn an_anchored_name_that_is_not_utf_8_matches_at_the_top_only() {
        assert!(excludes(&[b"/\xff"], b"\xff", false));
        assert!(excludes(&[b"/home/\xff"], b"\xff", false));
        assert!(!excludes(&[b"/\xff"], b"dir/\xff", false));
    }

    #[test]
    fn the_last_match_decides() {
        let patterns = ["*.log", "!keep.log", "/secret/keep.log"];
        assert!(excludes(&patterns, b"a/b.log", false));
        assert!(!excludes(&patterns, b"a/keep.log", false));
        assert!(excludes(&patterns, b"secret/keep.log", false));
        assert!(excludes(&["!keep.log", "*.log"], b"keep.log", false));
        assert!(!excludes(&["!x"], b"x", false));
    }

    #[test]
    fn a_file_of_patterns_has_comments_and_blank_lines() {
        let content = b"# comment\n\n  *.o \r\n!a.o\n\\#x\n\xff";
        let patterns: Vec<_> = Rules::patterns(content).collect();
        let expected: [&[u8]; 4] = [b"*.o", b"!a.o", b"\\#x", b"\xff"];
        assert_eq!(patterns, expected);
        assert!(excludes(&patterns, b"#x", false));
    }

    #[test]
    fn a_broken_pattern_is_refused_by_name() {
        for pattern in [&b"[a"[..], b"/", b"", b"!", b"\xff*"] {
            let refused = Rules::new([pattern]).unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid);
            let named = format!("{:?}", String::from_utf8_lossy(pattern));
            assert!(refused.message().contains(&named), "{refused}");
        }
    }
}
