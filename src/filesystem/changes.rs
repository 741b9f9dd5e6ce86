//! Changes: where each is allowed, and what it becomes.

use super::acl;
use super::attributes::{Attributes, SOON};
use super::directory::latest_node;
use super::errno::{Answer, Failure, Rule};
use super::inode::{Node, What};
use super::latest::is_latest;
use super::open::{CAPABILITY, Facts, Made, OpenPoint, SealAs, TOP};
use super::read::{FileHandle, OpenedContent, read_only};
use super::repositories::MountedRepository;
use super::xattrs::RESERVED;
use super::{Answered, FileSystem};
use crate::clock::Time;
use crate::copy;
use crate::error::{Error, Kind};
use crate::id::ObjectId;
use crate::point::{BackupRecord, LATEST};
use crate::source::XATTRS_BYTES_MAX;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one copy at most: a request cannot be interrupted, so it must be short.
const COPY_BYTES_MAX: u64 = 64 << 20;
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const FIXED_OWNER: &str =
    "owner and mode of a repository's directory are settings that were chosen when it was made";

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
    /// File type and permission bits, as the caller asked for them.
    pub mode: u32,
    /// The caller's umask. A default ACL of the directory takes its place.
    pub umask: u32,
}

impl Mode {
    /// Permission bits where no default ACL is.
    pub(super) fn permissions(self) -> u32 {
        self.mode & 0o7777 & !(self.umask & 0o777)
    }
}

/// What setattr changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Time of the last access; an inner none stands for now.
    pub atime: Option<Option<Time>>,
}

impl Changes {
    /// What the kernel sends for a chown that names nobody, and before a write by others than root to a file with
    /// set-id bits: without asking whether the caller may.
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Permission bits, owner and group after the change.
    fn owned(&self, (mode, uid, gid): (u32, u32, u32)) -> (u32, u32, u32) {
        (
            self.mode.map_or(mode, |mode| mode & 0o7777),
            self.uid.unwrap_or(uid),
            self.gid.unwrap_or(gid),
        )
    }
}

/// Names and values, ascending by name.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A directory of an open point.
struct Place {
    directory: Arc<Node>,
    open: Arc<OpenPoint>,
    node: u64,
}

impl FileSystem {
    fn refused(&self, ino: u64) -> Failure {
        match self.inodes.get(ino) {
            Ok(node) => self.noted(&node, read_only(&node).into()),
            Err(failure) => failure,
        }
    }

    /// The directory of an open point that this inode is; everything else refuses changes.
    fn place(&self, ino: u64, name: &[u8]) -> Answer<Place> {
        let directory = self.inodes.get(ino)?;
        if name.len() > 255 {
            return Err(Rule::NameTooLong.into());
        }
        match &directory.what {
            What::Open(open, node) => Ok(Place {
                open: open.clone(),
                node: *node,
                directory: directory.clone(),
            }),
            What::Repository(_) => Err(self.noted(
                &directory,
                Failure::NotPermitted(
                    "a repository holds backups, and these hold points; make a backup with mkdir, and copy into a \
                     directory of it: cp -a SOURCE REPOSITORY/BACKUP/POINT"
                        .into(),
                ),
            )),
            What::Backup(..) => Err(self.noted(
                &directory,
                Failure::NotPermitted(
                    "a backup holds points, which are directories; make one with mkdir, or copy a directory: \
                     cp -a SOURCE BACKUP/POINT"
                        .into(),
                ),
            )),
            _ => Err(self.refused(ino)),
        }
    }

    /// Passes an answer of an open point on, with its refusal noted and the point sealed if that made it whole.
    pub(super) fn after<T>(
        &self,
        open: &Arc<OpenPoint>,
        node: &Node,
        answer: Answer<T>,
    ) -> Answer<T> {
        match answer {
            Ok(value) => {
                self.seal_if_whole(open);
                Ok(value)
            }
            Err(failure) => Err(self.noted(node, failure)),
        }
    }

    /// A copy gets its source's owners and set-id bits, which only root and the daemon's owner may give; a copy by
    /// others is sealed as they wrote it.
    pub(super) fn seals_as(&self, open: &OpenPoint) -> SealAs {
        match open.maker == 0 || open.maker == self.options.uid {
            true => SealAs::Source,
            false => SealAs::Written,
        }
    }

    pub(super) fn seal_if_whole(&self, open: &Arc<OpenPoint>) {
        open.seal_if_whole(self.seals_as(open), self.tell_unsealed());
    }

    /// An open point that another daemon has left may be whole already.
    pub(super) fn go_on_sealing(&self, open: &Arc<OpenPoint>) {
        let (patience, like) = (self.options.rerun_patience, self.seals_as(open));
        open.go_on_sealing(patience, like, self.tell_unsealed());
        let tell = self.tell_unsealed();
        open.hash_behind(move |open| open.seal_if_whole(like, tell));
    }

    fn tell_unsealed(&self) -> impl Fn(&OpenPoint, &Error) + Send + 'static {
        let problems = self.problems.clone();
        move |open, error| {
            let sentence = format!(
                "{}: the copy is whole, but could not be sealed and stays open: {error}; seal it with `keepfs seal`, or \
                 discard it with rmdir",
                open.path()
            );
            problems.note(open.ino(TOP), sentence);
        }
    }

    /// Facts and attributes of something new: its owner is the caller, its directory's default ACL is inherited.
    fn new_facts(&self, place: &Place, mode: Mode, caller: Caller) -> Answer<(Facts, Xattrs)> {
        let directory = mode.mode & libc::S_IFMT == libc::S_IFDIR;
        let (parent, default) = place.open.node(place.node, |node| {
            (node.facts, node.xattr(acl::DEFAULT).cloned())
        })?;
        // Symbolic links have no permissions to inherit.
        let default = default.filter(|_| mode.mode & libc::S_IFMT != libc::S_IFLNK);
        let mut facts = Facts {
            mode: mode.permissions(),
            uid: caller.uid,
            gid: caller.gid,
            mtime: self.options.clock.now(),
        };
        if parent.mode & libc::S_ISGID != 0 {
            facts.gid = parent.gid;
            if directory {
                facts.mode |= libc::S_ISGID;
            }
        }
        let mut xattrs = Vec::new();
        if let Some(default) = default
            && let asked = mode.mode & 0o777 | facts.mode & 0o7000
            && let Some((mode, access)) = acl::inherited(&default, asked)
        {
            facts.mode = mode;
            xattrs.extend(access.map(|access| (acl::ACCESS.to_vec(), access)));
            if directory {
                xattrs.push((acl::DEFAULT.to_vec(), default));
            }
        }
        Ok((facts, xattrs))
    }

    fn make(
        &self,
        parent: u64,
        name: &[u8],
        made: Made,
        mode: Mode,
        caller: Caller,
    ) -> Answer<(Arc<Node>, Attributes)> {
        let place = self.place(parent, name)?;
        let (facts, xattrs) = self.new_facts(&place, mode, caller)?;
        let number = place.open.make(place.node, name, made, facts, xattrs);
        let number = self.after(&place.open, &place.directory, number)?;
        self.warn_of_home(&place.open, place.node, name);
        self.touch_directory(&place)?;
        self.known(&place.directory, &place.open, number)
    }

    /// A directory's time changes with its names. Sealed meanwhile, it keeps the time that it has.
    fn touch_directory(&self, place: &Place) -> Answer<()> {
        let now = self.options.clock.now();
        let _ = place.open.set_facts(place.node, |facts| facts.mtime = now);
        Ok(())
    }

    fn known(
        &self,
        directory: &Arc<Node>,
        open: &Arc<OpenPoint>,
        number: u64,
    ) -> Answer<(Arc<Node>, Attributes)> {
        let node = self.inodes.remember(Node {
            ino: open.ino(number),
            parent: Some(directory.clone()),
            what: What::Open(open.clone(), number),
        });
        match self.attributes(&self.settled(node.clone())) {
            Some(attributes) => Ok((node, attributes)),
            None => {
                self.inodes.forget(node.ino, 1);
                Err(Rule::Stale.into())
            }
        }
    }

    /// Makes a directory: a backup in a repository, an open point in a backup, a directory in an open point.
    pub fn make_directory(
        &self,
        parent: u64,
        name: &[u8],
        mode: Mode,
        caller: Caller,
    ) -> Answer<Answered> {
        let node = self.inodes.get(parent)?;
        if name.len() > 255 {
            return Err(Rule::NameTooLong.into());
        }
        self.require_own(&node)?;
        match &node.what {
            What::Repository(repository) => {
                if repository.contents().backups.contains_key(name) {
                    return Err(Rule::Exists.into());
                }
                let made = repository.catalog.ensure_backup(name);
                let backup = made.map_err(|error| self.noted(&node, error.into()))?;
                self.hidden_links.made(backup.id, caller.pid);
                let made = self.lookup(parent, name, caller)?;
                if let Answered::Found { attributes, .. } = &made {
                    self.warn_of_backup(attributes.ino, repository, name);
                }
                Ok(made)
            }
            What::Backup(repository, backup) => {
                let made = self.make_point(repository, *backup, name, mode, caller);
                made.map_err(|failure| self.noted(&node, failure))?;
                self.lookup(parent, name, caller)
            }
            _ => {
                let mode = Mode {
                    mode: mode.mode | libc::S_IFDIR,
                    ..mode
                };
                let (_, attributes) = self.make(parent, name, Made::Directory, mode, caller)?;
                let kept = SOON;
                Ok(Answered::Found { attributes, kept })
            }
        }
    }

    /// Makes a file without opening it, a device, a fifo or a socket.
    pub fn make_node(
        &self,
        parent: u64,
        name: &[u8],
        mode: Mode,
        device: u64,
        caller: Caller,
    ) -> Answer<Answered> {
        let made = match mode.mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Made::File,
            bits => Made::Special(bits, device),
        };
        let (_, attributes) = self.make(parent, name, made, mode, caller)?;
        let kept = SOON;
        Ok(Answered::Found { attributes, kept })
    }

    /// Makes a symbolic link. `latest` leads where it leads, whatever it is said to point to.
    pub fn make_symlink(
        &self,
        parent: u64,
        name: &[u8],
        target: &[u8],
        caller: Caller,
    ) -> Answer<Answered> {
        let directory = self.inodes.get(parent)?;
        self.require_own(&directory)?;
        if let What::Backup(repository, backup) = &directory.what
            && is_latest(name)
        {
            self.hidden_links.restore(*backup);
            return match self.lookup(parent, LATEST, caller)? {
                found @ Answered::Found { .. } => Ok(found),
                // No point is complete yet: the tool sees the link that it made, until the kernel asks again.
                Answered::Missing { .. } => {
                    let link = latest_node(&directory, repository, *backup, target);
                    Ok(self.entered(link, SOON))
                }
            };
        }
        let mode = Mode {
            mode: libc::S_IFLNK | 0o777,
            umask: 0,
        };
        let made = Made::Symlink(target.to_vec());
        let (_, attributes) = self.make(parent, name, made, mode, caller)?;
        let kept = SOON;
        Ok(Answered::Found { attributes, kept })
    }

    /// Makes another name: of a file of the same open point, or of one of a complete point of the same repository,
    /// which is then a reference.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Answer<Answered> {
        let place = self.place(parent, name)?;
        let source = self.node(ino)?;
        let number = match &source.what {
            What::Open(open, node) if Arc::ptr_eq(open, &place.open) => {
                let linked = place.open.link(*node, place.node, name);
                self.after(&place.open, &place.directory, linked)?;
                *node
            }
            What::Complete(point, entry)
                if Arc::ptr_eq(&point.repository, &place.open.repository) =>
            {
                let made = place.open.link_complete(point, entry, place.node, name);
                let made = self.after(&place.open, &place.directory, made)?;
                if let Some((path, owners)) = source.above_in_point() {
                    place.open.note_owners_above(place.node, &path, &owners)?;
                }
                made
            }
            _ => return Err(Rule::AcrossRepositories.into()),
        };
        self.touch_directory(&place)?;
        let (_, attributes) = self.known(&place.directory, &place.open, number)?;
        let kept = SOON;
        Ok(Answered::Found { attributes, kept })
    }

    /// Makes and opens a file.
    pub fn create(
        &self,
        parent: u64,
        name: &[u8],
        mode: Mode,
        _: i32,
        caller: Caller,
    ) -> Answer<(Attributes, u64)> {
        let mode = Mode {
            mode: mode.mode & 0o7777 | libc::S_IFREG,
            ..mode
        };
        let (node, attributes) = self.make(parent, name, Made::File, mode, caller)?;
        let handle = self.open(node.ino, libc::O_RDWR)?;
        Ok((attributes, handle))
    }

    fn opened<'a>(&self, handle: &'a FileHandle) -> Answer<(&'a Arc<OpenPoint>, u64)> {
        match &handle.content {
            OpenedContent::Open(file) => Ok((&file.open, file.node)),
            _ => Err(self.refused(handle.node.ino)),
        }
    }

    /// What writing brings with it: the time, and by others than root the loss of set-id bits.
    pub(super) fn written(&self, caller: Caller) -> impl Fn(&mut Facts) {
        let now = self.options.clock.now();
        move |facts| {
            facts.mtime = now;
            if caller.uid != 0 {
                facts.mode = without_set_id(facts, caller);
            }
        }
    }

    /// Whether a write of so many bytes need not wait: for the spool to be stored, or for a verb to be carried out.
    pub fn writes_at_once(&self, handle: u64, bytes: usize) -> bool {
        let handle = self.files.get(handle);
        let acts = handle.is_ok_and(|handle| matches!(handle.content, OpenedContent::Control(_)));
        !acts && self.open_points.spool().has_room(bytes as u64)
    }

    /// Writes to an open file. Waits while the spool is full and what lies there is being stored. A write to a control file
    /// carries out the verb that it holds.
    pub fn write(&self, handle: u64, offset: u64, data: &[u8], caller: Caller) -> Answer<u32> {
        let handle = self.files.get(handle)?;
        let file = match &handle.content {
            OpenedContent::Open(file) => file,
            OpenedContent::Control(text) if text.place().takes_verbs() => {
                return self.carry_out(&handle.node, text.place(), data, caller);
            }
            _ => return Err(self.refused(handle.node.ino)),
        };
        let write = || {
            let set = self.written(caller);
            file.open
                .write(file.node, file.spool()?, offset, data, &set)
        };
        write().map_err(|failure| self.noted(&handle.node, failure))?;
        Ok(data.len() as u32)
    }

    /// Copies from a file of a complete point into one of an open point without moving bytes; answers how many.
    pub fn copy_range(
        &self,
        (source, offset): (u64, u64),
        (target, begin): (u64, u64),
        length: u64,
        caller: Caller,
    ) -> Answer<u32> {
        let (source, target) = (self.files.get(source)?, self.files.get(target)?);
        let OpenedContent::Complete(reader) = &source.content else {
            return Err(Rule::NotSupported.into());
        };
        let (open, node) = self.opened(&target)?;
        let rest = reader.file.size.saturating_sub(offset);
        let length = length.min(COPY_BYTES_MAX).min(rest);
        if length == 0 {
            return Ok(0);
        }
        let from = (&reader.point, &reader.file, offset);
        let path = source.node.path_in_point();
        let set = self.written(caller);
        let copied = require_policy(&reader.point.repository, &open.repository)
            .and_then(|()| open.refer(node, begin, length, from, path, &set));
        self.after(open, &target.node, copied)?;
        if let Some(audited) = &source.audited {
            audited.read(length);
        }
        Ok(length as u32)
    }

    /// Changes attributes.
    pub fn set_attributes(
        &self,
        ino: u64,
        changes: &Changes,
        caller: Caller,
    ) -> Answer<Attributes> {
        let node = self.inodes.get(ino)?;
        self.require_own(&node)?;
        match &node.what {
            What::Open(open, number) => {
                let set = self.set_open(open, *number, changes, caller);
                self.after(open, &node, set)?;
            }
            // Tools touch the link that they think they made.
            What::Latest(..) => {}
            What::Control(place) if place.bears(changes) => {}
            What::Repository(repository) => {
                let settings = repository.catalog.repository().settings();
                let now = (settings.mode, settings.uid, settings.gid);
                if changes.size.is_some() || changes.owned(now) != now {
                    return Err(self.noted(&node, Failure::NotPermitted(FIXED_OWNER.into())));
                }
            }
            What::Backup(repository, backup) => {
                let set = set_backup(repository, *backup, changes);
                set.map_err(|failure| self.noted(&node, failure))?;
            }
            _ => return Err(self.refused(ino)),
        }
        let mut attributes = self.stat(ino)?;
        if changes.is_nothing() {
            // Before a write that takes set-id bits; what is told now would outlive it in the kernel.
            attributes.kept = Duration::ZERO;
        }
        Ok(attributes)
    }

    fn set_open(
        &self,
        open: &Arc<OpenPoint>,
        node: u64,
        changes: &Changes,
        caller: Caller,
    ) -> Answer<()> {
        if let Some(size) = changes.size {
            let set = self.written(caller);
            let timed = changes.mtime.is_some();
            open.resize(node, size, &|facts| {
                if !timed {
                    set(facts);
                }
            })?;
        }
        let now = self.options.clock.now();
        let (directory, facts) = open.node(node, |node| (node.names().is_some(), node.facts))?;
        // A chown takes set-id bits and capabilities, also one to nobody else, but not from a sealed copy, which keeps
        // what its source has.
        let owned = changes.is_nothing() && may_change(&facts, caller)
            || changes.uid.is_some()
            || changes.gid.is_some();
        let privileged = owned && !directory && open.is_open();
        if owned || changes.mode.is_some() || changes.mtime.is_some() || changes.atime.is_some() {
            open.set_facts(node, |facts| {
                let owner = (
                    changes.uid.unwrap_or(facts.uid),
                    changes.gid.unwrap_or(facts.gid),
                );
                let changed = owner != (facts.uid, facts.gid) && !directory;
                if (changed || privileged) && changes.mode.is_none() {
                    facts.mode = without_set_id(facts, caller);
                }
                (facts.uid, facts.gid) = owner;
                if let Some(mode) = changes.mode {
                    facts.mode = mode & 0o7777;
                }
                if let Some(mtime) = changes.mtime {
                    facts.mtime = mtime.unwrap_or(now);
                }
            })?;
        }
        if privileged && open.node(node, |node| node.xattr(CAPABILITY).is_some())? {
            open.set_xattr(node, CAPABILITY, None)?;
        }
        if let Some(atime) = changes.atime {
            open.set_atime(node, atime.unwrap_or(now));
        }
        match changes.mode {
            Some(mode) => self.keep_acl_in_step(open, node, mode),
            None => Ok(()),
        }
    }

    fn keep_acl_in_step(&self, open: &OpenPoint, node: u64, mode: u32) -> Answer<()> {
        let known = open.node(node, |node| node.xattr(acl::ACCESS).cloned())?;
        let Some(known) = known else { return Ok(()) };
        match acl::changed(&known, mode) {
            Some(changed) if changed != known => open.set_xattr(node, acl::ACCESS, Some(&changed)),
            _ => Ok(()),
        }
    }

    /// Sets an extended attribute. `user.keepfs.state` set to `complete` on the top of an open point seals it.
    pub fn set_xattr(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
        caller: Caller,
    ) -> Answer<()> {
        let node = self.inodes.get(ino)?;
        if name.starts_with(RESERVED) {
            return self.set_fact(&node, name, value, caller);
        }
        let What::Open(open, number) = &node.what else {
            return self.set_directory_acl(&node, name, value, caller);
        };
        let (there, others) = open.node(*number, |node| {
            let others = node.xattrs.iter().filter(|known| known.0 != name);
            let bytes: usize = others.map(|(name, value)| name.len() + value.len()).sum();
            (node.xattrs.iter().any(|known| known.0 == name), bytes)
        })?;
        if others + name.len() + value.len() > XATTRS_BYTES_MAX {
            let message = "an entry can have 1 MiB of extended attributes; remove others first";
            return Err(self.noted(&node, Error::new(Kind::Full, message).into()));
        }
        match flags {
            XATTR_CREATE if there => return Err(Rule::Exists.into()),
            XATTR_REPLACE if !there => return Err(Rule::NoAttribute.into()),
            _ => {}
        }
        let set = if name == acl::ACCESS {
            set_access(open, *number, value, caller)
        } else {
            open.set_xattr(*number, name, Some(value))
        };
        self.after(open, &node, set)
    }

    /// Directories of repositories and backups have permission bits and no further attributes: an access ACL that
    /// says no more than bits sets these, as tools copy the bits so.
    fn set_directory_acl(
        &self,
        node: &Node,
        name: &[u8],
        value: &[u8],
        caller: Caller,
    ) -> Answer<()> {
        if !matches!(node.what, What::Repository(_) | What::Backup(..)) {
            return Err(self.refused(node.ino));
        }
        match acl::permissions(value) {
            Some((bits, true)) if name == acl::ACCESS => {
                let mode = Some(bits);
                let changes = Changes {
                    mode,
                    ..Changes::default()
                };
                self.set_attributes(node.ino, &changes, caller).map(drop)
            }
            _ => Err(Rule::NotSupported.into()),
        }
    }

    fn set_fact(&self, node: &Node, name: &[u8], value: &[u8], caller: Caller) -> Answer<()> {
        let state = name == b"user.keepfs.state";
        self.require_own(node)?;
        match &node.what {
            What::Backup(repository, id) if name == b"user.keepfs.readers" => {
                let set = self.set_readers(repository, *id, value, caller);
                set.map_err(|failure| self.noted(node, failure))
            }
            What::Open(open, TOP) if state && value == b"complete" => {
                let sealed = self.seal_in_place(open, caller);
                sealed.map_err(|failure| self.noted(node, failure))
            }
            What::Complete(_, entry) if state && value == b"complete" && entry.name.is_empty() => {
                Ok(())
            }
            _ => Err(self.noted(
                node,
                Failure::NotPermitted(
                    "of the attributes user.keepfs.* only the state of an open point can be set, to \"complete\", and the \
                     readers of a backup"
                        .into(),
                ),
            )),
        }
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, ino: u64, name: &[u8]) -> Answer<()> {
        if name.starts_with(RESERVED) {
            let sentence = "attributes named user.keepfs.* are keepfs's own and cannot be removed";
            return Err(Failure::NotPermitted(sentence.to_owned()));
        }
        let node = self.inodes.get(ino)?;
        let (open, number) = match &node.what {
            What::Open(open, number) => (open, number),
            What::Repository(_) | What::Backup(..) => return Err(Rule::NoAttribute.into()),
            _ => return Err(self.refused(ino)),
        };
        let there = open.node(*number, |node| {
            node.xattrs.iter().any(|known| known.0 == name)
        })?;
        let acl = name == acl::ACCESS || name == acl::DEFAULT;
        match (there, acl) {
            (false, true) => open.set_facts(*number, |_| ()),
            (false, false) => Err(Rule::NoAttribute.into()),
            (true, _) => {
                let removed = open.set_xattr(*number, name, None);
                self.after(open, &node, removed)
            }
        }
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Answer<()> {
        let directory = self.inodes.get(parent)?;
        self.require_own(&directory)?;
        if let What::Backup(_, backup) = &directory.what
            && is_latest(name)
        {
            self.hidden_links.remove(*backup, self.options.clock.now());
            return Ok(());
        }
        let place = self.place(parent, name)?;
        let removed = place.open.remove(place.node, name, false);
        let removed = self.after(&place.open, &place.directory, removed)?;
        self.let_go(&place.open, removed);
        self.touch_directory(&place)
    }

    /// Removes a directory: an empty one of an open point, a whole open point, which is discarded, a complete one,
    /// which is forgotten, or an empty backup.
    pub fn remove_directory(&self, parent: u64, name: &[u8], caller: Caller) -> Answer<()> {
        let node = self.inodes.get(parent)?;
        self.require_own(&node)?;
        match &node.what {
            What::Backup(repository, backup) => {
                let removed = self.remove_point(repository, *backup, name, caller);
                removed.map_err(|failure| self.noted(&node, failure))
            }
            What::Repository(repository) => {
                let removed = self.remove_backup(repository, name);
                removed.map_err(|failure| self.noted(&node, failure))
            }
            _ => {
                let place = self.place(parent, name)?;
                let removed = place.open.remove(place.node, name, true);
                let removed = self.after(&place.open, &place.directory, removed)?;
                self.let_go(&place.open, removed);
                self.touch_directory(&place)
            }
        }
    }

    /// Renames: within an open point, or an open point itself. `X.partial` to a name without that ending seals it.
    pub fn rename(
        &self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        flags: u32,
        caller: Caller,
    ) -> Answer<()> {
        let (from, to) = (self.inodes.get(parent)?, self.inodes.get(new_parent)?);
        self.require_own(&from)?;
        self.require_own(&to)?;
        let exchange = flags & RENAME_EXCHANGE != 0;
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0
            || exchange && !matches!(from.what, What::Open(..))
        {
            let message =
                "exchanging names is possible in open points only; rename one after the other";
            return Err(Error::new(Kind::Invalid, message).into());
        }
        if let (What::Backup(repository, backup), What::Backup(other, new_backup)) =
            (&from.what, &to.what)
        {
            if new_name == LATEST || name == LATEST {
                self.hidden_links.restore(*new_backup);
                return Ok(());
            }
            if !Arc::ptr_eq(repository, other) || backup != new_backup {
                return Err(Rule::AcrossRepositories.into());
            }
            let renamed = self.rename_point(repository, *backup, (name, new_name), caller);
            return renamed.map_err(|failure| self.noted(&from, failure));
        }
        if let (What::Repository(repository), What::Repository(other)) = (&from.what, &to.what) {
            if !Arc::ptr_eq(repository, other) {
                return Err(Rule::AcrossRepositories.into());
            }
            let renamed = self.rename_backup(repository, name, new_name);
            renamed.map_err(|failure| self.noted(&from, failure))?;
            self.warn_of_backup(parent, repository, new_name);
            return Ok(());
        }
        let (from, to) = match (&from.what, &to.what) {
            (What::Open(one, _), What::Open(two, _)) if Arc::ptr_eq(one, two) => {
                (self.place(parent, name)?, self.place(new_parent, new_name)?)
            }
            (What::Complete(..), _) => return Err(self.refused(parent)),
            _ => return Err(Rule::AcrossRepositories.into()),
        };
        let keep = flags & RENAME_NOREPLACE != 0;
        let (one, two) = ((from.node, name), (to.node, new_name));
        let renamed = match exchange {
            true => from.open.exchange(one, two).map(|()| None),
            false => from.open.rename(one, two, keep),
        };
        let replaced = self.after(&from.open, &from.directory, renamed)?;
        if let Some(replaced) = replaced {
            self.let_go(&from.open, replaced);
        }
        self.touch_directory(&from)?;
        self.touch_directory(&to)
    }

    /// Makes an open file durable on this host.
    pub fn sync(&self, handle: u64, _: Caller) -> Answer<()> {
        let handle = self.files.get(handle)?;
        let OpenedContent::Open(file) = &handle.content else {
            return Ok(());
        };
        let spooled = file.open.sync_spool(file.node);
        let synced = spooled.map_err(Failure::from);
        synced
            .and_then(|()| file.open.sync())
            .map_err(|failure| self.noted(&handle.node, failure))
    }

    /// Returns when everything in a directory of an open point that was copied is in the repository.
    pub fn sync_directory(&self, ino: u64, caller: Caller) -> Answer<()> {
        let node = self.inodes.get(ino)?;
        match &node.what {
            What::Open(open, _) if open.sealed().is_none() => {
                let synced = open.sync_all_for(self.waiting(caller));
                synced.map_err(|failure| self.noted(&node, failure))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses references from a repository that this one takes no copies of. Not with EINVAL, to which `cp` answers by
/// copying the bytes.
fn require_policy(source: &MountedRepository, target: &MountedRepository) -> Answer<()> {
    let [source, target] = [source, target].map(|mounted| mounted.catalog.repository());
    if source.id() == target.id() {
        return Ok(());
    }
    copy::require_policy(source, target).map_err(|refused| {
        Failure::Engine(Error::new(Kind::Quota, refused.message()).caused_by(refused))
    })
}

/// Owner and mode of a backup's directory are in its record; its time is that of its newest point, whatever is set.
fn set_backup(repository: &MountedRepository, id: ObjectId, changes: &Changes) -> Answer<()> {
    if changes.size.is_some() {
        return Err(Rule::IsADirectory.into());
    }
    let contents = repository.contents();
    let found = contents.backups.values().find(|backup| backup.id == id);
    let backup = found.ok_or(Rule::Stale)?;
    let now = (backup.record.mode, backup.record.uid, backup.record.gid);
    let wanted = changes.owned(now);
    if wanted == now {
        return Ok(());
    }
    let (mode, uid, gid) = wanted;
    let record = BackupRecord {
        mode,
        uid,
        gid,
        ..backup.record.clone()
    };
    Ok(repository.catalog.change_backup(backup, record)?)
}

/// An access ACL that says no more than a mode is stored as one.
fn set_access(open: &OpenPoint, node: u64, value: &[u8], caller: Caller) -> Answer<()> {
    let Some((bits, minimal)) = acl::permissions(value) else {
        let message = "this is not a POSIX ACL";
        return Err(Error::new(Kind::Invalid, message).into());
    };
    let stored = (!minimal).then_some(value);
    open.set_facts(node, |facts| {
        facts.mode = facts.mode & !0o777 | bits;
        // As with chmod: who is not in the group gives nobody its rights.
        if caller.uid != 0 && caller.gid != facts.gid {
            facts.mode &= !libc::S_ISGID;
        }
    })?;
    open.set_xattr(node, acl::ACCESS, stored)
}

fn may_change(facts: &Facts, caller: Caller) -> bool {
    caller.uid == 0 || caller.uid == facts.uid
}

/// The mode after a change by this caller. The group's set-id bit without the group's execute bit asks for mandatory
/// locking: root and the group may leave it. Of the caller's groups the kernel tells one.
fn without_set_id(facts: &Facts, caller: Caller) -> u32 {
    let trusted = caller.uid == 0 || caller.gid == facts.gid;
    let group = match trusted && facts.mode & libc::S_IXGRP == 0 {
        true => 0,
        false => libc::S_ISGID,
    };
    facts.mode & !(libc::S_ISUID | group)
}
