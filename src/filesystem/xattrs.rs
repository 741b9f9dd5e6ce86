//! Extended attributes: those of entries, and keepfs's own facts, which are answered by name and never listed.

use super::FileSystem;
use super::errno::{Answer, Rule};
use super::inode::{Node, What};
use super::repositories::CompletePoint;

/// keepfs's own names.
pub(super) const RESERVED: &[u8] = b"user.keepfs.";
/// Names that only root may see, as on every other file system.
const TRUSTED: &[u8] = b"trusted.";

impl FileSystem {
    /// The value of an extended attribute.
    pub fn get_xattr(&self, ino: u64, name: &[u8]) -> Answer<Vec<u8>> {
        let node = self.inodes.get(ino)?;
        if let Some(fact) = name.strip_prefix(RESERVED) {
            let fact = self.fact(&node, fact);
            return fact.ok_or_else(|| Rule::NoAttribute.into());
        }
        let What::Complete(_, entry) = &node.what else {
            return Err(Rule::NoAttribute.into());
        };
        let xattrs = &entry.attributes.xattrs;
        let found = xattrs.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.clone())
            .ok_or_else(|| Rule::NoAttribute.into())
    }

    /// The names of all extended attributes that user `uid` may see, each with a NUL behind it.
    pub fn list_xattrs(&self, ino: u64, uid: u32) -> Answer<Vec<u8>> {
        let node = self.inodes.get(ino)?;
        let What::Complete(_, entry) = &node.what else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for (name, _) in &entry.attributes.xattrs {
            let hidden = name.starts_with(RESERVED) || uid != 0 && name.starts_with(TRUSTED);
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
            What::Complete(..) if name == b"state" => Some(b"complete".to_vec()),
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
