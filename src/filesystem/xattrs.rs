//! Extended attributes: those of entries, and keepfs's own facts, which are answered by name and never listed.

use super::FileSystem;
use super::acl;
use super::errno::{Answer, Rule};
use super::inode::{Node, What};
use super::open::TOP;
use super::repositories::CompletePoint;

/// keepfs's own names.
pub(super) const RESERVED: &[u8] = b"user.keepfs.";
/// Names that `user.keepfs.unmatched` tells at most: those for which a copy is not whole yet.
const UNMATCHED_MAX: usize = 20;
/// Names that only root may see, as on every other file system.
const TRUSTED: &[u8] = b"trusted.";

impl FileSystem {
    /// The value of an extended attribute.
    pub fn get_xattr(&self, ino: u64, name: &[u8]) -> Answer<Vec<u8>> {
        let node = self.node(ino)?;
        if let Some(fact) = name.strip_prefix(RESERVED) {
            let fact = self.fact(&node, fact);
            return fact.ok_or_else(|| Rule::NoAttribute.into());
        }
        let found = |xattrs: &[(Vec<u8>, Vec<u8>)]| {
            let found = xattrs.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let value = match &node.what {
            What::Repository(repository) if name == acl::ACCESS => {
                self.readers_acl(repository, None)
            }
            What::Backup(repository, id) if name == acl::ACCESS => {
                self.readers_acl(repository, Some(*id))
            }
            // Whoever got there may read everything, whomever an ACL would keep out.
            What::Complete(point, _) if point.repository.for_readers && acl::is_acl(name) => None,
            What::Complete(_, entry) => found(&entry.attributes.xattrs),
            What::Open(open, number) => open.node(*number, |node| found(&node.xattrs))?,
            _ => None,
        };
        value.ok_or_else(|| Rule::NoAttribute.into())
    }

    /// The names of all extended attributes that user `uid` may see, each with a NUL behind it.
    pub fn list_xattrs(&self, ino: u64, uid: u32) -> Answer<Vec<u8>> {
        let node = self.node(ino)?;
        let xattrs = match &node.what {
            What::Complete(_, entry) => entry.attributes.xattrs.clone(),
            What::Open(open, number) => open.node(*number, |node| node.xattrs.to_vec())?,
            _ => Vec::new(),
        };
        let for_readers =
            matches!(&node.what, What::Complete(point, _) if point.repository.for_readers);
        let mut names = Vec::new();
        for (name, _) in &xattrs {
            let hidden = for_readers && acl::is_acl(name)
                || name.starts_with(RESERVED)
                || uid != 0 && name.starts_with(TRUSTED);
            if !hidden && !name.contains(&0) {
                names.extend(name);
                names.push(0);
            }
        }
        Ok(names)
    }

    /// A fact of keepfs about this node.
    fn fact(&self, node: &Node, name: &[u8]) -> Option<Vec<u8>> {
        if name == b"error" {
            return self.problems.of_directory(node.ino).map(String::into_bytes);
        }
        match &node.what {
            What::Complete(point, entry) if entry.name.is_empty() => fact_of_point(point, name),
            What::Backup(repository, id) if name == b"readers" => {
                let backup = repository.backup(*id)?;
                Some(backup.record.readers.join(",").into_bytes())
            }
            What::Complete(..) if name == b"state" => Some(b"complete".to_vec()),
            What::Open(..) if name == b"state" => Some(b"open".to_vec()),
            What::Open(open, TOP) => match name {
                b"id" => Some(open.id.to_string().into_bytes()),
                b"unmatched" => Some(open.unmatched(UNMATCHED_MAX).join("\n").into_bytes()),
                b"time" => Some(open.started.rfc3339().into_bytes()),
                _ => None,
            },
            _ => None,
        }
    }
}

fn fact_of_point(point: &CompletePoint, name: &[u8]) -> Option<Vec<u8>> {
    let record = &point.point.record;
    let text = match name {
        b"state" => "complete".to_owned(),
        b"id" => format!("{}.{}", point.point.id, point.point.generation),
        b"time" => record.time.rfc3339(),
        b"source" => {
            let paths = record.source.paths.iter();
            let paths: Vec<_> = paths.map(|path| String::from_utf8_lossy(path)).collect();
            format!("{}:{}", record.source.host, paths.join(" "))
        }
        _ => return None,
    };
    Some(text.into_bytes())
}
