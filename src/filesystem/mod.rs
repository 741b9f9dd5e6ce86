//! The mounted tree, without FUSE: names, inodes, reading, facts as attributes, and what each failure answers.
//!
//! ```text
//! /                       the root: every repository, and .keepfs, the control tree
//!   primary/              a repository: its backups
//!     web01/              a backup: its points, and `latest`
//!       2026-11-20T…/     a complete point: its tree, read-only for good
//! ```
//!
//! Every call names inodes and handles by number and answers a value or a [`Failure`], which has an errno. What the
//! kernel was told of an inode counts as a lookup until it is forgotten. Lock order: a listing or a cursor, then the
//! table of inodes; no lock is held while the store is asked, except a frame's own.

mod acl;
mod allocate;
mod attributes;
mod audit;
mod changes;
mod control;
mod copies;
mod directory;
mod errno;
mod handle;
mod holes;
mod idle;
mod inode;
mod latest;
mod metrics;
mod metrics_page;
mod mistakes;
mod open;
mod open_points;
mod owners;
mod points;
mod problems;
mod read;
mod readahead;
mod readers;
mod repositories;
mod statfs;
mod xattrs;

pub use attributes::Attributes;
pub use changes::{Caller, Changes, Mode};
pub use control::{ControlEntry, ControlKind, Controls};
pub use directory::Listed;
pub use errno::{Answer, Failure, Rule};
pub use inode::ROOT;
pub use metrics::Metrics;
pub use open::{OpenPointFacts, has_open_point, open_points};
pub use read::{Caching, Data};
pub use statfs::Room;

use crate::clock::{Clock, Time};
use crate::copy::Action;
use crate::point::Catalog;
use crate::repository::KeptFrames;
use crate::thread;
use copies::Copies;
use directory::DirectoryHandle;
use handle::Handles;
use holes::HoleCounts;
use inode::{Node, Table, What};
use open::{OpenPoint, Spool};
use open_points::OpenPoints;
use owners::ShownOwners;
use problems::Problems;
use read::{FileHandle, OpenedContent};
use readahead::{ReadAhead, SmallFiles};
use repositories::MountedRepository;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often is looked for open points that another daemon had before.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How the tree is shown and read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Owner of the root and of the control tree.
    pub uid: u32,
    /// Group of the root and of the control tree.
    pub gid: u32,
    /// Bytes that are fetched ahead of a reader who reads in order.
    pub read_ahead_bytes: u64,
    /// Where open points lie until they are sealed: journals, and bytes that tools wrote.
    pub state_directory: PathBuf,
    /// Bytes that all open points together may have written and not yet stored: more wait until some are.
    pub spool_bytes: u64,
    /// Bytes of memory that the entries of all open points together may take: what would make more is refused.
    pub entries_bytes: u64,
    /// How long a tool waits while nothing is stored, before it is refused.
    pub patience: Duration,
    /// How long a tool's copy may rest before its session waits for somebody.
    pub park_after: Duration,
    /// What is done about sessions that have waited for somebody for so long; nothing without it.
    pub auto_action: Option<(Action, Duration)>,
    /// How long a whole copy that an earlier daemon has left waits for its tool to be run again, before it is sealed.
    pub rerun_patience: Duration,
    /// Owners in complete points by the numbers that are stored, even where this host knows their names.
    pub numeric_owners: bool,
    /// Where time comes from.
    pub clock: Clock,
    /// The present boot of the host: what was written in another and not synced may be lost.
    pub boot: u128,
}

impl Options {
    /// Owned by the calling user, 8 MiB of reading ahead, open points in this directory, which may spool 8 GiB and take a
    /// quarter of the host's memory for their entries, owners by name.
    pub fn new(state_directory: PathBuf) -> Self {
        Self {
            // SAFETY: geteuid and getegid read two numbers of the process and cannot fail.
            uid: unsafe { libc::geteuid() },
            // SAFETY: as above.
            gid: unsafe { libc::getegid() },
            read_ahead_bytes: 8 << 20,
            state_directory,
            spool_bytes: 8 << 30,
            entries_bytes: memory_of_host() / 4,
            patience: Duration::from_secs(30),
            park_after: Duration::from_secs(60 * 60),
            auto_action: None,
            rerun_patience: Duration::from_secs(60),
            numeric_owners: false,
            clock: Clock::system(),
            boot: open::boot_of_host(),
        }
    }
}

/// Bytes of memory that this host has; 4 GiB where it does not tell.
fn memory_of_host() -> u64 {
    // SAFETY: sysconf reads two numbers of the system.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    match u64::try_from(pages).ok().zip(u64::try_from(page).ok()) {
        Some((pages, page)) => pages.saturating_mul(page),
        None => 4 << 30,
    }
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub enum Answered {
    /// The name is there; its inode counts as looked up once more.
    Found {
        /// Attributes of the inode.
        attributes: Attributes,
        /// How long the name leads there.
        kept: Duration,
    },
    /// There is no such name.
    Missing {
        /// How long that holds.
        kept: Duration,
    },
}

/// Every repository of a mount as one tree of files.
pub struct FileSystem {
    options: Options,
    started: Time,
    repositories: Arc<Vec<Arc<MountedRepository>>>,
    /// The same, as their readers see them.
    for_readers: Vec<Arc<MountedRepository>>,
    open_points: OpenPoints,
    copies: Copies,
    /// Who hears of sessions that end here.
    listener: OnceLock<copies::Listener>,
    inodes: Table,
    files: Handles<FileHandle>,
    directories: Handles<DirectoryHandle>,
    holes: HoleCounts,
    read_ahead: ReadAhead,
    small_files: SmallFiles,
    hidden_links: latest::Hidden,
    problems: Arc<Problems>,
    controls: OnceLock<Arc<dyn Controls>>,
    /// What tools read from one repository, in case they write it into another.
    kept_frames: Option<Arc<KeptFrames>>,
    /// Counters, for whoever speaks with the kernel.
    pub metrics: Metrics,
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.repositories.iter()).finish()
    }
}

impl FileSystem {
    /// The tree of these repositories, each with its name in the root.
    pub fn new(repositories: Vec<(String, Arc<Catalog>)>, options: Options) -> Self {
        let all = repositories.iter();
        let all: Vec<_> = all
            .map(|(_, catalog)| catalog.repository().clone())
            .collect();
        let kept_frames = KeptFrames::between(&all);
        let owners = Arc::new(ShownOwners::new(options.numeric_owners, &options.clock));
        let mounted = |(name, catalog)| MountedRepository::new(name, catalog, owners.clone());
        let repositories: Vec<_> = repositories
            .into_iter()
            .map(|repository| Arc::new(mounted(repository)))
            .collect();
        let repositories = Arc::new(repositories);
        let problems = Arc::new(Problems::new(options.clock.clone()));
        for sentence in repositories::mounted_twice(&repositories) {
            problems.note(ROOT, sentence);
        }
        let directory = &options.state_directory;
        let spool = Spool::new(&options);
        let filesystem = Self {
            open_points: OpenPoints::new(directory, spool),
            copies: Copies::default(),
            listener: OnceLock::new(),
            started: options.clock.now(),
            for_readers: readers::views(&repositories),
            repositories,
            inodes: Table::new(),
            files: Handles::default(),
            directories: Handles::default(),
            holes: HoleCounts::default(),
            read_ahead: ReadAhead::new(),
            small_files: SmallFiles::default(),
            hidden_links: latest::Hidden::default(),
            problems,
            controls: OnceLock::new(),
            kept_frames,
            metrics: Metrics::default(),
            options,
        };
        filesystem.resume();
        filesystem
    }

    /// Goes on with the open points that lie in the state directory, as far as no other daemon has them. Whether one has
    /// some still.
    pub fn resume(&self) -> bool {
        let resumed = self.open_points.resume(&self.repositories, &self.problems);
        for open in &resumed {
            self.copies.watch(open);
            self.go_on_sealing(open);
        }
        self.open_points.lacks_some()
    }

    /// From now on goes on with open points that another daemon has when that ends, on a thread of its own, as long as
    /// there is this tree: a daemon whose mount was taken away may be sealing still.
    pub fn keep_resuming(self: &Arc<Self>) {
        if !self.open_points.lacks_some() {
            return;
        }
        let tree = Arc::downgrade(self);
        thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK_AGAIN);
                let Some(tree) = tree.upgrade() else { return };
                if !tree.resume() {
                    return;
                }
            }
        });
    }

    /// Returns when no point is just being sealed and what was written is on this host's disk: whoever ends a mount ends
    /// nothing halfway.
    pub fn settle(&self) {
        for open in self.open_points.all() {
            open.settle();
            open.come_to_rest();
        }
        self.tell_copies();
    }

    /// The attributes of an inode.
    pub fn stat(&self, ino: u64) -> Answer<Attributes> {
        let node = self.node(ino)?;
        self.measure_control(&node);
        self.attributes(&node).ok_or_else(|| Rule::Stale.into())
    }

    /// The inode of this number, as it is now: what was open when the kernel looked it up may be complete.
    fn node(&self, ino: u64) -> Answer<Arc<Node>> {
        Ok(self.settled(self.inodes.get(ino)?))
    }

    fn settled(&self, node: Arc<Node>) -> Arc<Node> {
        let entry = match &node.what {
            What::Open(open, number) => open.sealed_entry(*number),
            _ => None,
        };
        match entry {
            Some((point, entry)) => Arc::new(Node {
                ino: node.ino,
                parent: node.parent.clone(),
                what: What::Complete(point, entry),
            }),
            None => node,
        }
    }

    fn attributes_now(&self, node: &Node) -> Option<Attributes> {
        if let What::Open(open, number) = &node.what
            && let Some((point, entry)) = open.sealed_entry(*number)
        {
            return Some(self.attributes_of(node.ino, &point, &entry));
        }
        self.attributes(node)
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, ino: u64) -> Answer<Vec<u8>> {
        let node = self.node(ino)?;
        let target = match &node.what {
            What::Latest(_, _, target) => Some(target.clone()),
            What::Control(place) => place.target().map(|target| target.as_bytes().to_vec()),
            What::Complete(_, entry) => match &entry.node {
                crate::point::Node::Symlink(target) => Some(target.clone()),
                _ => None,
            },
            What::Open(open, number) => open.node(*number, |node| match &node.body {
                open::Body::Symlink(target) => Some(target.clone()),
                _ => None,
            })?,
            _ => None,
        };
        target.ok_or_else(|| Failure::Engine(not_a_link()))
    }

    /// The kernel has forgotten this many of its lookups of an inode.
    pub fn forget(&self, ino: u64, lookups: u64) {
        let gone = self.inodes.forget(ino, lookups);
        if let Some(node) = gone
            && let What::Open(open, number) = &node.what
        {
            open.forget(*number);
        }
    }

    /// A node of an open point has lost a name or a handle: if it has none any more and the kernel does not know it,
    /// it goes.
    fn let_go(&self, open: &OpenPoint, number: u64) {
        if !self.inodes.knows(open.ino(number)) {
            open.forget(number);
        }
    }
}

fn not_a_link() -> crate::error::Error {
    crate::error::Error::new(crate::error::Kind::Invalid, "this is not a symbolic link")
}
