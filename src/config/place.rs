//! `REPO`, `REPO/BACKUP`, `REPO/BACKUP/POINT` and `REPO/BACKUP/POINT/PATH` as a person writes them.
//!
//! REPO is a name of the configuration, a path or a URL. Where it ends follows from these rules, in order:
//! 1. before `::`, wherever that is: `s3://bucket/keep::web/latest`, `/srv/keep::web`;
//! 2. after the first component, when that is a configured name: `primary/web/latest`;
//! 3. a URL with a scheme is a repository as a whole;
//! 4. after the longest part of a path that holds a repository on this host: `/srv/keep/web/latest`.

use super::file::{Config, Reach};
use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Every repository on a disk has this object.
const HEADER: &str = "header";

/// A repository as a person named it.
#[derive(Clone, Debug)]
pub struct RepositoryPlace {
    /// The configured name, or the URL as it was written.
    pub name: String,
    /// How to reach it.
    pub reach: Reach,
}

/// A repository, or something in it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The repository.
    pub repository: RepositoryPlace,
    /// The backup's name.
    pub backup: Option<Vec<u8>>,
    /// The point's name; `latest` is the newest.
    pub point: Option<Vec<u8>>,
    /// A path below the point's top, without a leading `/`; empty for the top.
    pub path: Vec<u8>,
}

impl Config {
    /// The repository that `text` names as a whole. `NoRepository` when it is no name, no path and no URL.
    pub fn repository(&self, text: &str) -> Result<RepositoryPlace> {
        if let Some(reach) = self.repositories.get(text) {
            return Ok(RepositoryPlace {
                name: text.to_owned(),
                reach: reach.clone(),
            });
        }
        let is_path = text.contains('/') || text.starts_with('.') || text.contains(':');
        if !is_path {
            return Err(self.unknown(text));
        }
        Ok(RepositoryPlace {
            name: text.to_owned(),
            reach: Reach::of_url(text),
        })
    }

    /// All configured repositories. `Invalid` when there are none.
    pub fn all(&self) -> Result<Vec<RepositoryPlace>> {
        if self.repositories.is_empty() {
            let message = format!(
                "{} configures no repository; name one, or write a [repository.NAME] section",
                self.shown_file()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let all = self
            .repositories
            .iter()
            .map(|(name, reach)| RepositoryPlace {
                name: name.clone(),
                reach: reach.clone(),
            });
        Ok(all.collect())
    }

    /// What `text` names. Fails with `NoRepository` when no repository can be found in it and with `Invalid` when a
    /// component is empty, `.` or `..`.
    pub fn place(&self, text: &OsStr) -> Result<Place> {
        let bytes = text.as_bytes();
        let (repository, rest) = self.split(bytes)?;
        let mut parts = rest
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty());
        if rest
            .split(|&byte| byte == b'/')
            .any(|part| part == b"." || part == b"..")
        {
            let message = format!(
                "{}: \".\" and \"..\" name nothing in a repository",
                text.display()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let backup = parts.next().map(<[u8]>::to_vec);
        let point = parts.next().map(<[u8]>::to_vec);
        Ok(Place {
            repository,
            backup,
            point,
            path: parts.collect::<Vec<_>>().join(&b'/'),
        })
    }

    fn split<'a>(&self, text: &'a [u8]) -> Result<(RepositoryPlace, &'a [u8])> {
        if let Some(at) = text.windows(2).position(|two| two == b"::") {
            return Ok((self.repository(utf8(&text[..at])?)?, &text[at + 2..]));
        }
        let end = text
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(text.len());
        let first = &text[..end];
        if let Ok(name) = std::str::from_utf8(first)
            && self.repositories.contains_key(name)
        {
            return Ok((self.repository(name)?, &text[end..]));
        }
        if text.windows(3).any(|three| three == b"://") {
            return Ok((self.repository(utf8(text)?)?, &[]));
        }
        if !text.contains(&b'/') && !text.starts_with(b".") {
            return Err(self.unknown(&String::from_utf8_lossy(text)));
        }
        match repository_prefix(text) {
            Some(end) => Ok((self.repository(utf8(&text[..end])?)?, &text[end..])),
            None if text.starts_with(b"/") || text.starts_with(b".") => Err(Error::new(
                Kind::NoRepository,
                format!(
                    "there is no repository on the way to {}; make one with `keepfs init`, or write REPO::BACKUP",
                    String::from_utf8_lossy(text)
                ),
            )),
            None => Err(self.unknown(&String::from_utf8_lossy(first))),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let message = format!(
            "{} has no repository {name:?}; write a path with a '/', a URL, or a name that it has",
            self.shown_file()
        );
        Error::new(Kind::NoRepository, message)
    }

    fn shown_file(&self) -> String {
        match &self.file {
            Some(file) => format!("the configuration {}", file.display()),
            None => "the configuration (there is no file)".to_owned(),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| {
        let message = format!(
            "{} is no URL: it is not UTF-8; configure a name for it",
            String::from_utf8_lossy(bytes)
        );
        Error::new(Kind::Invalid, message)
    })
}

/// Where the longest part of a path that holds a repository ends.
fn repository_prefix(text: &[u8]) -> Option<usize> {
    let mut ends: Vec<_> = (1..text.len()).filter(|&at| text[at] == b'/').collect();
    ends.push(text.len());
    ends.into_iter().rev().find(|&end| {
        Path::new(OsStr::from_bytes(&text[..end]))
            .join(HEADER)
            .is_file()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        config
            .repositories
            .insert("primary".to_owned(), Reach::of_url("/srv/keep"));
        config
    }

    fn parts(text: &str) -> (String, String, String, String) {
        let place = config().place(OsStr::new(text)).expect(text);
        let text =
            |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default()).expect("ASCII");
        (
            place.repository.name,
            text(place.backup),
            text(place.point),
            text(Some(place.path)),
        )
    }

    fn expected(parts: [&str; 4]) -> (String, String, String, String) {
        let [repository, backup, point, path] = parts.map(str::to_owned);
        (repository, backup, point, path)
    }

    #[test]
    fn names_and_urls_end_where_the_rules_say() {
        for (text, is) in [
            ("primary", ["primary", "", "", ""]),
            ("primary/", ["primary", "", "", ""]),
            (
                "primary/web/latest/etc/fstab",
                ["primary", "web", "latest", "etc/fstab"],
            ),
            ("primary::web", ["primary", "web", "", ""]),
            ("/srv/keep::web/p", ["/srv/keep", "web", "p", ""]),
            (
                "s3://bucket/keep::web/p/",
                ["s3://bucket/keep", "web", "p", ""],
            ),
            ("s3://bucket/keep", ["s3://bucket/keep", "", "", ""]),
        ] {
            assert_eq!(parts(text), expected(is), "{text}");
        }
    }

    #[test]
    fn a_path_is_a_repository_as_far_as_one_is_there() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let repository = directory.path().join("keep");
        std::fs::create_dir(&repository).expect("makes");
        std::fs::write(repository.join(HEADER), "").expect("writes");
        let shown = repository.to_str().expect("UTF-8");
        assert_eq!(
            parts(&format!("{shown}/web/p/a/b")),
            expected([shown, "web", "p", "a/b"])
        );
        assert_eq!(parts(shown), expected([shown, "", "", ""]));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for (text, kind) in [
            ("secondary/web", Kind::NoRepository),
            ("secondary", Kind::NoRepository),
            ("/nowhere/at/all", Kind::NoRepository),
            ("primary/web/../x", Kind::Invalid),
        ] {
            let refused = config().place(OsStr::new(text)).expect_err(text);
            assert_eq!(refused.kind(), kind, "{text}");
        }
    }
}
