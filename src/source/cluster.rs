//! The sources of a cluster: each of its nodes, and the disks that all of them share.

use super::roots::{self, Group};
use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory of a point that holds the nodes.
const NODES: &[u8] = b"nodes";
/// The directory of a point that holds what they share.
const SHARED: &[u8] = b"shared";

/// A source, and the name that it shall have in the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSource {
    /// The name: 1..=255 bytes.
    pub name: Vec<u8>,
    /// Where it is on this host.
    pub path: PathBuf,
}

impl NamedSource {
    /// What `NAME=PATH` says. `Invalid` when it says something else, or no directory can have the name.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let equals = bytes.iter().position(|&byte| byte == b'=');
        let (name, path) = bytes.split_at(equals.unwrap_or(0));
        let fits = (1..=255).contains(&name.len()) && !matches!(name, b"." | b"..");
        if !fits || name.contains(&b'/') || path.len() < 2 {
            let message = format!(
                "{:?} is not NAME=PATH, where NAME is the name of a directory",
                text.display().to_string()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self {
            name: name.to_vec(),
            path: OsStr::from_bytes(&path[1..]).into(),
        })
    }
}

/// The sources of a cluster. In a point, `nodes/NAME` is the source of a node, and `shared/NAME` what all of them share:
/// a disk (a block device or an image) as one file, or a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<NamedSource>,
    /// What they share: read once.
    pub shared: Vec<NamedSource>,
}

impl Cluster {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.shared.is_empty()
    }

    /// Opens all of them; what holds none is left out.
    pub(super) fn open(&self) -> Result<Vec<Group>> {
        let mut groups = vec![
            Group::open(NODES, &self.nodes, false)?,
            Group::open(SHARED, &self.shared, true)?,
        ];
        groups.retain(|group| !group.roots.is_empty());
        Ok(groups)
    }

    /// The name in a point of the source that lies at this path, if one does.
    pub fn name_of(&self, path: &Path) -> Option<String> {
        let lies = |source: &&NamedSource| {
            roots::absolute(&source.path).is_ok_and(|absolute| absolute == path)
                || source
                    .path
                    .canonicalize()
                    .is_ok_and(|target| target == path)
        };
        let named = |directory: &[u8], source: &NamedSource| {
            let [directory, name] = [directory, &source.name].map(String::from_utf8_lossy);
            format!("{directory}/{name}")
        };
        let node = self.nodes.iter().find(lies);
        let node = node.map(|source| named(NODES, source));
        node.or_else(|| Some(named(SHARED, self.shared.iter().find(lies)?)))
    }

    /// All sources as they were named, for the point's record.
    pub fn described(&self) -> Vec<Vec<u8>> {
        let all = self.nodes.iter().chain(&self.shared);
        let described = all.map(|source| {
            let path = source.path.as_os_str().as_bytes();
            [&source.name[..], b"=", path].concat()
        });
        described.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_source_is_a_name_and_a_path() {
        let web = NamedSource::parse(OsStr::new("web1=/srv/a=b")).unwrap();
        assert_eq!(
            (&web.name[..], web.path),
            (&b"web1"[..], PathBuf::from("/srv/a=b"))
        );
        for text in ["", "web1", "=x", "web1=", "a/b=x", ".=x", "..=x"] {
            let refused = NamedSource::parse(OsStr::new(text)).unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid, "{text}");
        }
    }

    #[test]
    fn equal_names_are_refused_and_a_missing_node_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str, path: &Path| NamedSource {
            name: name.into(),
            path: path.to_owned(),
        };
        let twice = Cluster {
            nodes: vec![at("a", directory.path()), at("a", directory.path())],
            ..Cluster::default()
        };
        assert_eq!(twice.open().unwrap_err().kind(), Kind::Invalid);
        let missing = Cluster {
            nodes: vec![at("a", directory.path()), at("b", Path::new("/none/b"))],
            ..Cluster::default()
        };
        assert_eq!(missing.open().unwrap_err().kind(), Kind::NotFound);
    }
}
