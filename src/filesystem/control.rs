//! The control tree, `.keepfs`: files that a shell reads, and files to which it writes verbs.
//!
//! ```text
//! .keepfs/
//!   version errors metrics readers/            the mount's own
//!   repositories/ …                            what whoever mounts hands in as [`Controls`]
//! ```
//!
//! - A read is the answer. The text is made when the file is opened and stays as it is for whoever reads on; who begins
//!   again reads a new one, and `tail -f` what has been added. Its size is that of the text that was made last: nothing
//!   is made for whoever only looks, unless somebody has the file open and may wait for it to grow.
//! - A write is one verb and its own errno: one write(2) carries out the verb that it holds and fails as the verb does,
//!   with or without a newline, wherever in the file it is said to go. Nothing is gathered until the file is closed, as
//!   nobody looks at what close(2) answers. `>` empties the file first, which does nothing.
//! - Everybody may see states, and who owns the mount may act. The kernel checks modes.
//! - Nothing of it is cached: a verb may change any other name, and the next look should show that.
//!
//! All else (making, removing, renaming) is refused as in whatever keepfs makes up.

mod controls;
mod text;
mod verb;

pub use controls::{ControlEntry, ControlKind, Controls};
pub(super) use text::ControlText;
use text::LastText;

use super::attributes::{Attributes, SOON};
use super::changes::{Caller, Changes};
use super::errno::{Answer, Failure, Rule};
use super::inode::{Node, What, node};
use super::read::Data;
use super::{FileSystem, ROOT, readers};
use crate::error::{Error, Kind};
use std::sync::Arc;
use std::time::Duration;

/// The name of the control tree in the mount's root.
pub(super) const NAME: &str = ".keepfs";
/// Bytes of a name at most, as everywhere.
const NAME_BYTES_MAX: usize = 255;

/// A file that every mount has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnFile {
    Version,
    Errors,
    Metrics,
}

impl OwnFile {
    const ALL: [Self; 3] = [Self::Errors, Self::Metrics, Self::Version];

    fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Errors => "errors",
            Self::Metrics => "metrics",
        }
    }

    fn entry(self) -> ControlEntry {
        match self {
            // Its sentences name paths below every user's directories.
            Self::Errors => ControlEntry::private(self.name()),
            Self::Version | Self::Metrics => ControlEntry::text(self.name()),
        }
    }

    fn at(path: &[&str]) -> Option<Self> {
        Self::ALL.into_iter().find(|file| path == [file.name()])
    }
}

/// A place in the control tree.
#[derive(Debug)]
pub(super) struct ControlPlace {
    /// The names that lead to it from `.keepfs`; none for that itself.
    path: Vec<String>,
    kind: ControlKind,
    last: LastText,
}

impl PartialEq for ControlPlace {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.kind) == (&other.path, &other.kind)
    }
}

impl ControlPlace {
    /// Its own name.
    pub(super) fn name(&self) -> &str {
        self.path.last().map_or(NAME, |name| name)
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == ControlKind::Directory
    }

    /// Where it leads, if it is a symbolic link.
    pub(super) fn target(&self) -> Option<&str> {
        match &self.kind {
            ControlKind::Link(target) => Some(target),
            _ => None,
        }
    }

    /// Whether verbs can be written here.
    pub(super) fn takes_verbs(&self) -> bool {
        matches!(self.kind, ControlKind::File { mode } if mode & 0o222 != 0)
    }

    /// Whether a change of attributes is what shells and tools do beside writing: emptying, and setting times. Neither
    /// does anything.
    pub(super) fn bears(&self, changes: &Changes) -> bool {
        let of_nobody = changes.mode.is_none() && changes.uid.is_none() && changes.gid.is_none();
        self.takes_verbs() && of_nobody && matches!(changes.size, None | Some(0))
    }

    fn names(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

/// The top of the control tree.
pub(super) fn top(root: &Arc<Node>) -> Node {
    let place = ControlPlace {
        path: Vec::new(),
        kind: ControlKind::Directory,
        last: LastText::default(),
    };
    node(root, &[b"control"], What::Control(Arc::new(place)))
}

/// What is at a name: another inode if it is of another kind, as the kernel keeps the type of an inode, and the target of
/// a link.
fn entry_node(parent: &Arc<Node>, place: &ControlPlace, entry: ControlEntry) -> Node {
    let ControlEntry { name, kind } = entry;
    let (tag, more) = match &kind {
        ControlKind::Directory => (b"directory".as_slice(), Vec::new()),
        ControlKind::File { mode } => (b"file".as_slice(), mode.to_le_bytes().to_vec()),
        ControlKind::Link(target) => (b"link".as_slice(), target.clone().into_bytes()),
    };
    let identity = [b"control", name.as_bytes(), tag, &more];
    let mut path = place.path.clone();
    path.push(name.clone());
    let below = ControlPlace {
        path,
        kind: kind.clone(),
        last: LastText::default(),
    };
    node(parent, &identity, What::Control(Arc::new(below)))
}

/// Whether a directory can have this name. The kernel refuses a whole listing for one that it cannot.
fn is_a_name(name: &str) -> bool {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    fits && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// What is not there any more needs no sentence.
fn told(error: Error) -> Failure {
    match error.kind() {
        Kind::NotFound => Rule::NoEntry.into(),
        _ => error.into(),
    }
}

impl FileSystem {
    /// All counters, as Prometheus reads them.
    pub fn metrics_text(&self) -> String {
        let kept = self.kept_frames.as_ref().map(|kept| kept.facts());
        let spool = self.open_points.spool().facts();
        let stores = self.repositories.iter().map(|mounted| {
            let store = mounted.catalog.repository().store();
            (mounted.name.as_str(), store.traffic())
        });
        let stores: Vec<_> = stores.collect();
        self.metrics
            .text(&spool, &kept.unwrap_or_default(), &stores)
    }

    /// Hands in what `.keepfs` has beside the mount's own files: once, before the tree is served.
    pub fn set_controls(&self, controls: Arc<dyn Controls>) {
        let set = self.controls.set(controls);
        assert!(set.is_ok(), "controls are handed in once");
    }

    /// All names of a directory of the control tree.
    pub(super) fn control_names(
        &self,
        directory: &Arc<Node>,
        place: &ControlPlace,
    ) -> Answer<Vec<(Vec<u8>, Node)>> {
        if !place.is_directory() {
            return Err(Rule::NotADirectory.into());
        }
        let own_directory = self.readers_top(directory, place.names().as_slice());
        let own = OwnFile::ALL.into_iter().filter(|_| place.path.is_empty());
        let mut entries: Vec<_> = own.map(OwnFile::entry).collect();
        if let Some(controls) = self.controls.get() {
            let listed = controls.list(&place.names());
            let listed = listed.map_err(|error| self.noted(directory, told(error)))?;
            let known = entries.len();
            for entry in listed {
                let new = entries[..known].iter().all(|own| own.name != entry.name);
                if new && is_a_name(&entry.name) {
                    entries.push(entry);
                }
            }
        }
        let named = entries.into_iter().map(|entry| {
            let name = entry.name.clone().into_bytes();
            (name, entry_node(directory, place, entry))
        });
        let own_directory = own_directory.map(|node| (readers::NAME.into(), node));
        Ok(own_directory.into_iter().chain(named).collect())
    }

    /// What a name of the control tree leads to.
    pub(super) fn control_child(
        &self,
        directory: &Arc<Node>,
        place: &ControlPlace,
        name: &[u8],
    ) -> Answer<Option<Node>> {
        if !place.is_directory() {
            return Err(Rule::NotADirectory.into());
        }
        let Some(name) = std::str::from_utf8(name)
            .ok()
            .filter(|name| is_a_name(name))
        else {
            return Ok(None);
        };
        let mut path = place.names();
        if name == readers::NAME
            && let Some(top) = self.readers_top(directory, &path)
        {
            return Ok(Some(top));
        }
        path.push(name);
        let entry = match (OwnFile::at(&path), self.controls.get()) {
            (Some(file), _) => Some(file.entry()),
            (None, Some(controls)) => controls.find(&path)?.map(|kind| ControlEntry {
                name: name.to_owned(),
                kind,
            }),
            (None, None) => None,
        };
        Ok(entry.map(|entry| entry_node(directory, place, entry)))
    }

    /// What `stat` shows of a place. A file has just changed: its text is made when it is read.
    pub(super) fn control_attributes(&self, ino: u64, place: &ControlPlace) -> Attributes {
        let owner = (self.options.uid, self.options.gid);
        let made = |mode| Attributes::made_up(ino, mode, owner, self.started);
        match &place.kind {
            ControlKind::Directory if place.path.is_empty() => made(libc::S_IFDIR | 0o755),
            ControlKind::Directory => made(libc::S_IFDIR | 0o555),
            ControlKind::Link(target) => Attributes {
                size: target.len() as u64,
                ..made(libc::S_IFLNK | 0o777)
            },
            ControlKind::File { mode } => {
                let now = self.options.clock.now();
                let size = place.last.size();
                Attributes {
                    size,
                    blocks: size.div_ceil(512),
                    kept: Duration::ZERO,
                    ..Attributes::made_up(ino, libc::S_IFREG | mode & 0o777, owner, now)
                }
            }
        }
    }

    /// How long it holds that a name of this directory leads where it leads, or is not there.
    pub(super) fn names_kept(what: &What) -> Duration {
        match what {
            What::Control(_) => Duration::ZERO,
            _ => SOON,
        }
    }

    /// Whether opening this inode need not wait. What a control file says may have to be asked for.
    pub fn opens_at_once(&self, ino: u64) -> bool {
        let found = self.inodes.get(ino);
        !found.is_ok_and(|node| matches!(node.what, What::Control(_)))
    }

    /// Opens a file of the control tree with the flags of open(2).
    pub(super) fn open_control(
        &self,
        node: &Node,
        place: &Arc<ControlPlace>,
        flags: i32,
    ) -> Answer<ControlText> {
        if !matches!(place.kind, ControlKind::File { .. }) {
            return Err(Rule::IsADirectory.into());
        }
        let text = ControlText::new(place.clone());
        if flags & libc::O_ACCMODE != libc::O_WRONLY {
            self.make_control_text(node, &text, 0)?;
        }
        Ok(text)
    }

    /// Up to `size` bytes from `offset`; none when the text must be made anew and `wait` is not set.
    pub(super) fn read_control(
        &self,
        node: &Node,
        text: &ControlText,
        (offset, size): (u64, u32),
        wait: bool,
    ) -> Answer<Option<Data>> {
        if text.is_over(offset, self.options.clock.now()) {
            if !wait {
                return Ok(None);
            }
            self.make_control_text(node, text, offset)?;
        }
        Ok(Some(Data::Bytes(text.part(offset, size))))
    }

    /// Makes a text for whoever reads from `offset` on. No lock is held meanwhile.
    fn make_control_text(&self, node: &Node, text: &ControlText, offset: u64) -> Answer<()> {
        let made = self.control_text(text.place());
        let made = made.map_err(|failure| self.noted(node, failure))?;
        text.set(made, offset, self.options.clock.now());
        Ok(())
    }

    fn control_text(&self, place: &ControlPlace) -> Answer<Vec<u8>> {
        let text = match (OwnFile::at(&place.names()), self.controls.get()) {
            (Some(file), _) => self.own_text(file).into_bytes(),
            (None, Some(controls)) => controls.read(&place.names()).map_err(told)?,
            (None, None) => return Err(Rule::NoEntry.into()),
        };
        place.last.made(text.len(), self.options.clock.now());
        Ok(text)
    }

    /// Looks how large the text is by now, for whoever has it open and waits until it grows.
    pub(super) fn measure_control(&self, node: &Node) {
        if let What::Control(place) = &node.what
            && place.last.is_followed(self.options.clock.now())
        {
            // What is wrong is told to whoever reads.
            let _ = self.control_text(place);
        }
    }

    /// What a file of the mount's own says now.
    fn own_text(&self, file: OwnFile) -> String {
        match file {
            OwnFile::Version => concat!("keepfs ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
            OwnFile::Errors => {
                for repository in self.repositories.iter() {
                    for sentence in repository.new_contradictions() {
                        self.problems.note(ROOT, sentence);
                    }
                }
                self.problems.text()
            }
            OwnFile::Metrics => self.metrics_text(),
        }
    }

    /// Carries out the verb that was written; answers how many bytes were taken, which is all of them.
    pub(super) fn carry_out(
        &self,
        node: &Node,
        place: &ControlPlace,
        written: &[u8],
        caller: Caller,
    ) -> Answer<u32> {
        let done = verb::parse(written).and_then(|verb| {
            let controls = self.controls.get().ok_or_else(verb::nobody_acts)?;
            controls.write(&place.names(), verb, caller)
        });
        done.map_err(|error| self.noted(node, error.into()))?;
        Ok(written.len() as u32)
    }
}
