//! Who may enter, beside what is stored with each file: the settings `acl` and `readers`.
//!
//! A repository that is `admin-only` shows a directory that only the owner of the mount may enter, and root.
//!
//! Readers have a tree of their own, `.keepfs/readers/REPOSITORY/BACKUP/POINT/…`: all complete points of a repository or
//! a backup, in which they may read everything, whoever owns it, and change nothing. The kernel checks who enters: an ACL of
//! the directories of repository and backup names the readers. Whoever has got through may read all below, and sees whose
//! it is; modes there are those that are stored, with the right to read for everybody and without that to write.
//!
//! What they read of others is written down (`audit`).
//!
//! It is another tree because the points' own shows what is stored, and what is shown is restored. An ACL entry for a
//! reader would need a group's bits in the mode of each file, as the kernel looks at an ACL only where the mode lets the
//! group do something: a private key that somebody restores by a tool without ACLs would be its group's to read.

use super::FileSystem;
use super::acl;
use super::attributes::Attributes;
use super::changes::Caller;
use super::directory::repository_node;
use super::errno::{Answer, Failure, Rule};
use super::inode::{Node, What, node};
use super::read::read_only;
use super::repositories::MountedRepository;
use crate::clock::Time;
use crate::error::{Error, Kind};
use crate::id::ObjectId;
use crate::point::BackupRecord;
use crate::repository::{READERS, parse_access};
use std::sync::Arc;

/// The name of the readers' tree in the control tree.
pub(super) const NAME: &str = "readers";

/// All repositories as their readers see them.
pub(super) fn views(repositories: &[Arc<MountedRepository>]) -> Vec<Arc<MountedRepository>> {
    let views = repositories.iter();
    let views = views.map(|repository| Arc::new(repository.for_readers()));
    views.collect()
}

/// What everybody may read and nobody may change.
pub(super) fn readable(attributes: Attributes) -> Attributes {
    let bits = match attributes.mode & libc::S_IFMT {
        libc::S_IFDIR => 0o555,
        libc::S_IFREG => 0o444,
        _ => 0,
    };
    Attributes {
        mode: attributes.mode & !0o7222 | bits,
        ..attributes
    }
}

impl MountedRepository {
    /// The names of those who may read a backup, or without one any backup.
    fn reader_names(&self, backup: Option<ObjectId>) -> Vec<String> {
        let settings = self.catalog.repository().settings();
        let mut names: Vec<_> = settings.readers().map(str::to_owned).collect();
        let contents = self.contents();
        for one in contents.backups.values() {
            if backup.is_none_or(|id| id == one.id) {
                names.extend(one.record.readers.iter().cloned());
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Their numbers on this host, as far as it knows them.
    fn readers(&self, backup: Option<ObjectId>) -> Vec<u32> {
        let names = self.reader_names(backup);
        let numbers = names.iter();
        let mut numbers: Vec<_> = numbers
            .filter_map(|name| self.owners.number_of_user(name.as_bytes()))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

impl FileSystem {
    /// Repositories that have readers.
    fn with_readers(&self) -> impl Iterator<Item = &Arc<MountedRepository>> {
        let views = self.for_readers.iter();
        views.filter(|view| !view.reader_names(None).is_empty())
    }

    /// The readers' tree, in the top of the control tree where any repository has readers.
    pub(super) fn readers_top(&self, directory: &Arc<Node>, path: &[&str]) -> Option<Node> {
        let there = path.is_empty() && self.with_readers().next().is_some();
        there.then(|| node(directory, &[b"readers"], What::Readers))
    }

    pub(super) fn readers_child(&self, parent: &Arc<Node>, name: &[u8]) -> Option<Node> {
        let mut views = self.with_readers();
        let found = views.find(|view| view.name.as_bytes() == name);
        found.map(|view| repository_node(parent, view))
    }

    pub(super) fn readers_names(&self, directory: &Arc<Node>) -> Vec<(Vec<u8>, Node)> {
        let named = self.with_readers().map(|view| {
            let name = view.name.clone().into_bytes();
            (name, repository_node(directory, view))
        });
        named.collect()
    }

    pub(super) fn readers_attributes(&self, ino: u64, mtime: Time) -> Attributes {
        let owner = (self.options.uid, self.options.gid);
        Attributes::made_up(ino, libc::S_IFDIR | 0o555, owner, mtime)
    }

    /// What a directory of a repository or a backup shows, so that the kernel lets in whom it should.
    pub(super) fn as_let_in(
        &self,
        repository: &MountedRepository,
        backup: Option<ObjectId>,
        attributes: Attributes,
    ) -> Attributes {
        let of_mount = Attributes {
            uid: self.options.uid,
            gid: self.options.gid,
            ..attributes
        };
        if repository.for_readers {
            // An ACL's mask is shown as the group's bits.
            let mode = match repository.readers(backup).is_empty() {
                true => 0o500,
                false => 0o550,
            };
            return Attributes {
                mode: libc::S_IFDIR | mode,
                ..of_mount
            };
        }
        let admin_only = repository.catalog.repository().settings().admin_only();
        match backup.is_none() && admin_only {
            true => Attributes {
                mode: libc::S_IFDIR | 0o700,
                ..of_mount
            },
            false => attributes,
        }
    }

    /// The ACL that lets readers into a directory of their tree.
    pub(super) fn readers_acl(
        &self,
        repository: &MountedRepository,
        backup: Option<ObjectId>,
    ) -> Option<Vec<u8>> {
        let readers = repository.for_readers.then(|| repository.readers(backup))?;
        (!readers.is_empty()).then(|| acl::of_readers(&readers))
    }

    /// Refuses changes in the readers' tree, also by root, whom the kernel lets through.
    pub(super) fn require_own(&self, node: &Node) -> Answer<()> {
        match &node.what {
            What::Repository(repository) | What::Backup(repository, _)
                if repository.for_readers =>
            {
                Err(self.noted(node, read_only(node).into()))
            }
            _ => Ok(()),
        }
    }

    /// Says who may read a backup: names with commas between them.
    pub(super) fn set_readers(
        &self,
        repository: &MountedRepository,
        id: ObjectId,
        value: &[u8],
        caller: Caller,
    ) -> Answer<()> {
        let backup = repository.backup(id).ok_or(Rule::Stale)?;
        if ![0, self.options.uid, backup.record.uid].contains(&caller.uid) {
            let message =
                "only root, the owner of the mount and the owner of the backup say who may read it";
            return Err(Failure::NotPermitted(message.to_owned()));
        }
        let text = std::str::from_utf8(value)
            .map_err(|_| Error::new(Kind::Invalid, "names of users are text"))?;
        let names = parse_access(READERS, text)?;
        let names = names.split(',').filter(|name| !name.is_empty());
        let record = BackupRecord {
            readers: names.map(str::to_owned).collect(),
            ..backup.record.clone()
        };
        if record == backup.record {
            return Ok(());
        }
        Ok(repository.catalog.change_backup(&backup, record)?)
    }
}
