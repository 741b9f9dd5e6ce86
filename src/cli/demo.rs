//! `demo`: what keepfs does, with the commands a person would type, in a directory that is gone afterwards.

use super::{exit, show, work};
use crate::clock::{Clock, Time};
use crate::command;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// What nearly every machine has one of: many files, readable by all, not too large.
const USUAL: [&str; 4] = [
    "/usr/include",
    "/usr/share/doc",
    "/usr/share/zoneinfo",
    "/etc",
];
/// A usual directory with fewer entries of its own shows nothing.
const ENTRIES_MIN: usize = 20;
/// Entries that are looked at for a file to restore.
const LOOKED_AT_MAX: usize = 10_000;
/// How long a copy may take to be durable after its last byte was taken: ten minutes.
const SEALED_LOOKS: u32 = 6000;
const SEALED_LOOK: Duration = Duration::from_millis(100);
/// Where it is mounted, below the demo's own directory.
const MOUNT: &str = "mnt";
/// Two repositories that have nothing in common but this program.
const CONFIG: &str = r#"cache-directory = "cache"
state-directory = "state"

[repository.primary]
url = "primary"
key-file = "primary.key"
pack-size = "16 MiB"

[repository.offsite]
url = "offsite"
key-file = "offsite.key"
pack-size = "64 MiB"
"#;

/// Runs the demo with the files of `directory`, or of something that this machine has.
pub fn run(directory: Option<PathBuf>, quiet: bool) -> Result<u8> {
    require_fuse()?;
    let source = source(directory)?;
    let demo = Demo::new(quiet)?;
    demo.show(&source)?;
    Ok(exit::DONE)
}

fn require_fuse() -> Result<()> {
    let missing = |what: &str| Err(Error::new(Kind::Failed, format!("the demo mounts: {what}")));
    if !Path::new("/dev/fuse").exists() {
        return missing(
            "/dev/fuse is missing; load it with `modprobe fuse`, or start the container with `--device /dev/fuse --cap-add SYS_ADMIN`",
        );
    }
    // SAFETY: geteuid reads a number of the process and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).any(|path| path.join("fusermount3").exists());
    if !root && !found {
        return missing("fusermount3 is missing; install it with `apt-get install fuse3`");
    }
    Ok(())
}

fn source(directory: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(directory) = directory {
        let failed = |error| Error::io(format_args!("cannot use {}", directory.display()), error);
        return std::fs::canonicalize(&directory).map_err(failed);
    }
    let entries = |path: &&str| std::fs::read_dir(path).map_or(0, Iterator::count);
    let usual = USUAL.into_iter().find(|path| entries(path) >= ENTRIES_MIN);
    usual.map(PathBuf::from).ok_or_else(|| {
        let message = "found nothing to back up; name a directory: keepfs demo DIR";
        Error::new(Kind::Invalid, message)
    })
}

/// The demo's own directory. Dropped, it unmounts and removes everything.
struct Demo {
    directory: PathBuf,
    program: PathBuf,
    stop: Arc<AtomicBool>,
    quiet: bool,
    began: Time,
}

impl Demo {
    fn new(quiet: bool) -> Result<Self> {
        let name = format!("keepfs-demo-{}", &ObjectId::random().to_string()[..8]);
        let demo = Self {
            directory: std::env::temp_dir().join(name),
            program: std::env::current_exe()
                .map_err(|error| Error::io("cannot find this program", error))?,
            stop: work::stop_flag()?,
            quiet,
            began: Clock::system().now(),
        };
        let failed = |error| {
            Error::io(
                format_args!("cannot make {}", demo.directory.display()),
                error,
            )
        };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&demo.directory)
            .map_err(failed)?;
        std::fs::create_dir(demo.directory.join(MOUNT)).map_err(failed)?;
        std::fs::write(demo.directory.join("keepfs.toml"), CONFIG).map_err(failed)?;
        Ok(demo)
    }

    fn show(&self, source: &Path) -> Result<()> {
        let from = source.as_os_str();
        self.say(&format!(
            "# all of this happens in {}",
            self.directory.display()
        ))?;
        self.say("# two repositories with different keys and pack sizes")?;
        self.step(&["keepfs", "init", "primary"].map(OsStr::new))?;
        self.step(&["keepfs", "init", "offsite"].map(OsStr::new))?;

        self.say("# a backup, and another one: what has not changed is not read again")?;
        for point in ["primary/demo/first", "primary/demo/second"] {
            let words = ["keepfs", "backup"].map(OsStr::new);
            self.step(&[words[0], words[1], from, OsStr::new(point)])?;
        }

        self.say("# restore points are directories; copying one into another repository is the backup copy")?;
        self.step(&["keepfs", "mount", MOUNT].map(OsStr::new))?;
        self.copy()?;
        self.step(&["ls", "-l", "mnt/offsite/demo"].map(OsStr::new))?;

        self.say("# the copy is the restore point, from another repository under another key")?;
        let points = ["mnt/primary/demo/first", "mnt/offsite/demo/first"];
        self.step(&["diff", "-r", "--no-dereference", points[0], points[1]].map(OsStr::new))?;
        self.say("# no difference")?;
        if let Some(file) = some_file(source) {
            self.restore(source, &file)?;
        }

        self.say("# how much is stored")?;
        self.step(&["keepfs", "stats", "primary", "offsite"].map(OsStr::new))?;
        self.step(&["keepfs", "umount", MOUNT].map(OsStr::new))?;
        let took = seconds(self.began, Clock::system().now());
        self.say(&format!(
            "# done in {took:.1} s; all of it is removed again"
        ))
    }

    /// With the system's own `cp`; returns when the copy has sealed itself.
    fn copy(&self) -> Result<()> {
        self.step(&["mkdir", "mnt/offsite/demo"].map(OsStr::new))?;
        self.step(&["cp", "-a", "mnt/primary/demo/first", "mnt/offsite/demo/"].map(OsStr::new))?;
        let copy = self.directory.join(MOUNT).join("offsite/demo/first");
        for _ in 0..SEALED_LOOKS {
            self.go_on()?;
            // What cannot be read is not complete yet.
            let state = xattr::get(&copy, "user.keepfs.state").ok().flatten();
            if state.is_some_and(|state| state == b"complete") {
                return self.say(
                    "# it had all that it was copied from, so it is a complete restore point\n",
                );
            }
            std::thread::sleep(SEALED_LOOK);
        }
        let message = format!("{} does not become complete", copy.display());
        Err(Error::new(Kind::Failed, message))
    }

    fn restore(&self, source: &Path, file: &Path) -> Result<()> {
        self.say("# restoring is reading files")?;
        let mut stored = OsString::from("mnt/offsite/demo/latest/");
        stored.push(file);
        let [copy, compare, to] = ["cp", "cmp", "restored"].map(OsStr::new);
        self.step(&[copy, &stored, to])?;
        self.step(&[compare, source.join(file).as_os_str(), to])
    }

    /// Shows a command and runs it in the demo's directory. Fails when it does, or when somebody asked to stop.
    fn step(&self, words: &[&OsStr]) -> Result<()> {
        let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let shown = shown.join(" ");
        self.say(&format!("$ {shown}"))?;
        let began = Clock::system().now();
        let (program, arguments) = (words[0], &words[1..]);
        let is_ours = program == "keepfs";
        let mut command = Command::new(if is_ours {
            self.program.as_os_str()
        } else {
            program
        });
        if is_ours && self.quiet {
            command.arg("--quiet");
        }
        let child = command
            .args(arguments)
            .current_dir(&self.directory)
            .env("KEEPFS_CONFIG", self.directory.join("keepfs.toml"))
            .spawn()
            .map_err(|error| Error::io(format_args!("cannot run {shown}"), error))?;
        let status = self.wait(child)?;
        let warned = is_ours && status.code() == Some(exit::WARNINGS.into());
        if !status.success() && !warned {
            let message = format!("the demo ends here, as `{shown}` failed ({status})");
            return Err(Error::new(Kind::Failed, message));
        }
        self.say(&format!(
            "  {:.2} s\n",
            seconds(began, Clock::system().now())
        ))
    }

    fn wait(&self, mut child: Child) -> Result<ExitStatus> {
        let failed = |error| Error::io("cannot wait for a command", error);
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                return self.go_on().map(|()| status);
            }
            if self.stop.load(Relaxed) {
                // It may have ended by itself meanwhile, by the same Ctrl-C.
                let _ = child.kill();
                child.wait().map_err(failed)?;
                return self.go_on().map(|()| unreachable!("the flag is set"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Relaxed) {
            return Err(Error::new(Kind::Interrupted, "the demo was stopped"));
        }
        Ok(())
    }

    fn say(&self, line: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        show::told(writeln!(out, "{line}").and_then(|()| out.flush()))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let mount = self.directory.join(MOUNT);
        // A mount that is in use goes lazily; one that is not there is what we want.
        if command::unmount(&mount, false).is_err() {
            let _ = command::unmount(&mount, true);
        }
        // The mount point goes first and by itself: if it still is one, nothing in it must be touched.
        let removed =
            std::fs::remove_dir(&mount).and_then(|()| std::fs::remove_dir_all(&self.directory));
        if let Err(error) = removed {
            let _ = writeln!(
                io::stderr(),
                "keepfs: {} is left over: {error}",
                self.directory.display()
            );
        }
    }
}

fn seconds(from: Time, to: Time) -> f64 {
    (to.seconds - from.seconds) as f64
        + (f64::from(to.nanoseconds) - f64::from(from.nanoseconds)) / 1e9
}

/// Some file below `source` that has content, as a path below it.
fn some_file(source: &Path) -> Option<PathBuf> {
    let mut directories = vec![source.to_owned()];
    let mut looked_at = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).ok()?.flatten() {
            looked_at += 1;
            let metadata = entry.metadata().ok()?;
            if metadata.is_file() && metadata.len() > 0 && std::fs::File::open(entry.path()).is_ok()
            {
                return Some(entry.path().strip_prefix(source).ok()?.to_owned());
            }
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if looked_at > LOOKED_AT_MAX {
                return None;
            }
        }
    }
    None
}
