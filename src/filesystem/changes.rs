//! Changes: where each is allowed, and what it becomes.

use super::attributes::Attributes;
use super::errno::{Answer, Failure};
use super::read::read_only;
use super::xattrs::RESERVED;
use super::{Answered, FileSystem};
use crate::clock::Time;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process; 0 when the kernel asks for itself.
    pub pid: u32,
}

/// Mode bits of something new.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// File type and permission bits; the kernel has applied the umask already.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// What setattr changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Time of the last change; an inner none stands for now.
    pub mtime: Option<Option<Time>>,
}

impl FileSystem {
    fn refused(&self, ino: u64) -> Failure {
        match self.inodes.get(ino) {
            Ok(node) => self.noted(&node, read_only(&node).into()),
            Err(failure) => failure,
        }
    }

    /// Makes a directory.
    pub fn make_directory(&self, parent: u64, _: &[u8], _: Mode, _: Caller) -> Answer<Answered> {
        Err(self.refused(parent))
    }

    /// Makes a file without opening it, a device, a fifo or a socket.
    pub fn make_node(&self, parent: u64, _: &[u8], _: Mode, _: u64, _: Caller) -> Answer<Answered> {
        Err(self.refused(parent))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, parent: u64, _: &[u8], _: &[u8], _: Caller) -> Answer<Answered> {
        Err(self.refused(parent))
    }

    /// Makes another name for a file.
    pub fn link(&self, _: u64, parent: u64, _: &[u8]) -> Answer<Answered> {
        Err(self.refused(parent))
    }

    /// Makes and opens a file.
    pub fn create(
        &self,
        parent: u64,
        _: &[u8],
        _: Mode,
        _: i32,
        _: Caller,
    ) -> Answer<(Attributes, u64)> {
        Err(self.refused(parent))
    }

    /// Writes to an open file.
    pub fn write(&self, handle: u64, _: u64, _: &[u8], _: Caller) -> Answer<u32> {
        let handle = self.files.get(handle)?;
        Err(self.refused(handle.node.ino))
    }

    /// Copies between open files without moving bytes; answers how many.
    pub fn copy_range(&self, _: (u64, u64), target: (u64, u64), _: u64, _: Caller) -> Answer<u32> {
        let handle = self.files.get(target.0)?;
        Err(self.refused(handle.node.ino))
    }

    /// Changes attributes.
    pub fn set_attributes(&self, ino: u64, _: &Changes, _: Caller) -> Answer<Attributes> {
        Err(self.refused(ino))
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, ino: u64, name: &[u8], _: &[u8], _: i32, _: Caller) -> Answer<()> {
        refuse_reserved(name)?;
        Err(self.refused(ino))
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, ino: u64, name: &[u8]) -> Answer<()> {
        refuse_reserved(name)?;
        Err(self.refused(ino))
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: u64, _: &[u8]) -> Answer<()> {
        Err(self.refused(parent))
    }

    /// Removes a directory.
    pub fn remove_directory(&self, parent: u64, _: &[u8]) -> Answer<()> {
        Err(self.refused(parent))
    }

    /// Renames.
    pub fn rename(&self, from: (u64, &[u8]), _: (u64, &[u8]), _: u32, _: Caller) -> Answer<()> {
        Err(self.refused(from.0))
    }

    /// Makes an open file durable.
    pub fn sync(&self, _: u64, _: Caller) -> Answer<()> {
        Ok(())
    }

    /// Makes everything in a directory durable in the repository.
    pub fn sync_directory(&self, _: u64, _: Caller) -> Answer<()> {
        Ok(())
    }
}

fn refuse_reserved(name: &[u8]) -> Answer<()> {
    if name.starts_with(RESERVED) {
        let sentence = "attributes named user.keepfs.* are keepfs's own and cannot be set";
        return Err(Failure::NotPermitted(sentence.to_owned()));
    }
    Ok(())
}
