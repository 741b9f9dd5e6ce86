//! The kernel's side of a mount: the only room that names fuser. Each call is passed to [`FileSystem`] and its
//! answer to the kernel; nothing is decided here.

mod bound;
mod forgetting;
mod mountpoint;
mod mounts;
mod near;
mod replies;
mod shell;
mod workers;

pub use bound::locked;
pub use mountpoint::{Access, bind, rebind};
pub use mounts::{is_bound, served};

use crate::error::{Error, Result};
use crate::filesystem::FileSystem;
use crate::thread;
use crossbeam_channel::{Receiver, bounded, select};
use fuser::{InitFlags, Notifier, Session, SessionACL};
use near::Near;
use shell::Shell;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use workers::Workers;

/// Threads that receive calls: a second one lets two clients, or a large read and a small one, work at once.
const RECEIVERS: usize = 2;
/// Threads for calls that wait for a store, and when all of them do.
const WAITERS: usize = 8;
const WAITERS_MAX: usize = 256;
/// Bytes of one READ or WRITE at most; the kernel clamps to 1 MiB.
const REQUEST_BYTES: u32 = 1 << 20;
/// Requests of the kernel's own that may be under way; the default of 16 bounds its reading ahead.
const BACKGROUND: u16 = 128;
/// How long users of a mount that is being ended may go on.
const GRACE: Duration = Duration::from_secs(2);
/// How often is looked whether they have ended.
const REST: Duration = Duration::from_millis(10);

/// Capabilities that make the kernel cheaper or more exact; facts were measured for each.
const WANTED: [InitFlags; 8] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    // A default ACL takes the place of the umask, and only we know whether there is one.
    InitFlags::FUSE_DONT_MASK,
];

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Whether other users may enter; the kernel then checks modes and owners for each.
    pub allow_other: bool,
    /// What the kernel refuses whatever the modes allow.
    pub access: Access,
    /// What the kernel's table of mounts names as its source, when root mounts.
    pub source: OsString,
    /// The mount goes when nothing of it is bound elsewhere; whoever binds holds a lock on this file.
    pub while_bound: Option<PathBuf>,
}

impl Default for MountOptions {
    /// Root lets everybody in, as on any file system; an ordinary user needs `user_allow_other` in fuse.conf for that.
    fn default() -> Self {
        Self {
            allow_other: mountpoint::is_root(),
            access: Access::default(),
            source: "keepfs".into(),
            while_bound: None,
        }
    }
}

/// SIGTERM, SIGINT and SIGHUP (the terminal goes), caught from now on. Made before the mount, as a signal that nobody
/// catches yet would kill the process and leave a dead mount.
#[derive(Debug)]
pub struct EndSignals(signal_hook::iterator::Signals);

impl EndSignals {
    /// Catches them for the whole process.
    pub fn catch() -> Result<Self> {
        let mut signals = vec![libc::SIGTERM, libc::SIGINT];
        if !ignored(libc::SIGHUP) {
            signals.push(libc::SIGHUP);
        }
        signal_hook::iterator::Signals::new(signals)
            .map(Self)
            .map_err(|error| Error::io("cannot catch signals", error))
    }
}

/// Whether whoever started this process wants it to live on after the signal, as nohup(1) does.
fn ignored(signal: libc::c_int) -> bool {
    // SAFETY: zero is a valid sigaction to be filled in.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to a valid place.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    connection: Option<u32>,
    filesystem: Arc<FileSystem>,
    /// Held for whoever asks the kernel to forget.
    _notifier: Arc<Notifier>,
    ended: Receiver<io::Result<()>>,
    while_bound: Option<PathBuf>,
}

/// Mounts the tree on a directory and serves it from threads of this process. Ready when this returns.
pub fn mount(
    filesystem: Arc<FileSystem>,
    directory: &Path,
    options: MountOptions,
) -> Result<Mounted> {
    let directory = mountpoint::prepare(directory)?;
    let session = start(filesystem.clone(), &directory, &options)?;
    let notifier = Arc::new(session.notifier());
    forgetting::keep_forgetting(&filesystem, &notifier);
    let (end, ended) = bounded(1);
    thread::spawn(move || {
        // Nobody listens when the mount was given up.
        let _ = end.send(session.run());
    });
    mountpoint::raise_read_ahead(&directory);
    let connection = mountpoint::connection(&directory);
    Ok(Mounted {
        directory,
        connection,
        filesystem,
        _notifier: notifier,
        ended,
        while_bound: options.while_bound,
    })
}

fn start(
    filesystem: Arc<FileSystem>,
    directory: &Path,
    options: &MountOptions,
) -> Result<Session<Shell>> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(RECEIVERS);
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let shell = Shell {
        filesystem,
        workers: Workers::new(WAITERS, WAITERS_MAX, RECEIVERS),
        near: Near::new(),
    };
    let session = if mountpoint::is_root() {
        let device = mountpoint::mount(directory, options)?;
        let acl = config.acl;
        Session::from_fd(shell, device, acl, config)
    } else {
        config.mount_options = vec![
            fuser::MountOption::FSName("keepfs".into()),
            fuser::MountOption::Subtype("keepfs".into()),
            fuser::MountOption::DefaultPermissions,
            fuser::MountOption::NoSuid,
            fuser::MountOption::NoDev,
        ];
        if options.access.read_only {
            config.mount_options.push(fuser::MountOption::RO);
        }
        if options.access.no_exec {
            config.mount_options.push(fuser::MountOption::NoExec);
        }
        Session::new(shell, directory, &config)
    };
    session.map_err(|error| Error::io(format_args!("mounting on {}", directory.display()), error))
}

impl Mounted {
    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns when somebody unmounts it, or after one of the signals, which unmount it.
    pub fn wait(self, signals: EndSignals) -> Result<()> {
        let bound = self.while_bound.clone().zip(self.connection);
        let gone = bound.map(|(lock, connection)| {
            bound::end_with_binds(self.directory.clone(), connection, lock)
        });
        let EndSignals(mut signals) = signals;
        let handle = signals.handle();
        let (send, signalled) = bounded(1);
        let listener = thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = send.send(());
            }
        });
        let result = select! {
            recv(self.ended) -> end => {
                // Its directory goes just now.
                let _ = gone.map(|gone| gone.recv_timeout(GRACE));
                self.over(end.unwrap_or(Ok(())))
            }
            recv(signalled) -> _ => self.unmount(),
        };
        handle.close();
        let _ = listener.join();
        result
    }

    /// Unmounts. Users of open files may go on for a moment; then they get errors.
    pub fn unmount(self) -> Result<()> {
        let mut busy = mountpoint::unmount(&self.directory)?;
        for bind in self.binds() {
            // What cannot be taken away is as good as busy: its users get errors.
            busy |= mountpoint::unmount(&bind).unwrap_or(true);
        }
        let end = match self.ended.recv_timeout(GRACE) {
            Err(_) if busy => {
                if let Some(connection) = self.connection {
                    mountpoint::abort(connection);
                }
                self.ended.recv_timeout(GRACE).unwrap_or(Ok(()))
            }
            end => end.unwrap_or(Ok(())),
        };
        self.over(end)
    }

    /// Where else it is bound, and would be dead without us. Nothing is known of it without /proc; whoever mounts there
    /// again takes the dead mount away.
    fn binds(&self) -> Vec<PathBuf> {
        let bound = |minor| mounts::elsewhere(minor, &self.directory).ok();
        self.connection.and_then(bound).unwrap_or_default()
    }

    fn over(&self, end: io::Result<()>) -> Result<()> {
        // A call that is still under way may make a point whole.
        let mut rests = GRACE.as_millis() / REST.as_millis();
        while Arc::strong_count(&self.filesystem) > 1 && rests > 0 {
            std::thread::sleep(REST);
            rests -= 1;
        }
        self.filesystem.settle();
        match end {
            // What the kernel says to a reader of an aborted connection.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            end => end.map_err(|error| {
                Error::io(format_args!("serving {}", self.directory.display()), error)
            }),
        }
    }
}
