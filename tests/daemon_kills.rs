//! A daemon that is killed in the middle of a tool's copy: what was copied is there again, and the same `cp` finishes.

use keepfs::clock::Clock;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How many daemons are killed: a few in every run, more in the long one.
fn kills() -> usize {
    if std::env::var_os("KEEPFS_FULL").is_some() {
        60
    } else {
        3
    }
}

struct Site {
    home: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            home: tempfile::tempdir().unwrap(),
        };
        let config = ["primary", "offsite"]
            .map(|name| format!("[repository.{name}]\nurl = \"{name}\"\nkey-file = \"{name}.key\"\npack-size = \"1 MiB\"\n"));
        std::fs::write(site.path("keepfs.toml"), config.concat()).unwrap();
        std::fs::create_dir(site.path("mnt")).unwrap();
        site.make_source();
        for name in ["primary", "offsite"] {
            site.keepfs(&["init", name]);
        }
        let source = site.path("source");
        site.keepfs(&[
            "backup",
            "--quiet",
            source.to_str().unwrap(),
            "primary/host/point",
        ]);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn make_source(&self) {
        for n in 0..1200u32 {
            let directory = self.path("source").join(format!("d{}", n % 37));
            std::fs::create_dir_all(&directory).unwrap();
            let line = format!("line {n} of a file that compresses\n");
            std::fs::write(
                directory.join(format!("f{n}")),
                line.repeat(1 + n as usize % 300),
            )
            .unwrap();
        }
        std::os::unix::fs::symlink("d1/f1", self.path("source/link")).unwrap();
        std::fs::hard_link(self.path("source/d1/f1"), self.path("source/d2/again")).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepfs"));
        command
            .args(words)
            .env("HOME", self.home.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("KEEPFS_CONFIG", self.path("keepfs.toml"))
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        // Whoever runs the tests under nohup has this signal ignored in all that they start.
        // SAFETY: signal is safe to call after fork.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
        command
    }

    fn keepfs(&self, words: &[&str]) {
        let output = self.command(words).output().unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn mount(&self) -> Daemon {
        let child = self
            .command(&["mount", "--foreground", "mnt"])
            .spawn()
            .unwrap();
        let mount = self.path("mnt");
        // Opened, not looked for: the kernel still knows the names of a mount whose daemon was killed.
        wait_for(|| std::fs::read_dir(mount.join("primary/host/point")).is_ok());
        Daemon { child, mount }
    }

    fn shell(&self, script: &str) -> std::process::Output {
        Command::new("bash")
            .args(["-c", script])
            .current_dir(self.home.path())
            .output()
            .unwrap()
    }
}

struct Daemon {
    child: Child,
    mount: PathBuf,
}

impl Daemon {
    /// `kill -9`; what is left mounted is recovered by the next mount.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // Not dropped, as that would unmount.
        std::mem::forget(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only a test that failed comes here with a daemon that lives.
        let _ = self.child.kill();
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.mount)
            .stderr(Stdio::null())
            .status();
    }
}

/// Waits for half a minute at most.
pub fn wait_for(mut met: impl FnMut() -> bool) {
    for _ in 0..600 {
        if met() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("what was waited for did not happen within half a minute");
}

fn names_below(directory: &Path) -> usize {
    let output = Command::new("find")
        .arg(directory)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    output.stdout.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn the_same_cp_finishes_after_the_daemon_was_killed() {
    let site = Site::new();
    let seed = Clock::system().now().nanoseconds;
    println!("seed {seed}");
    let all = names_below(&site.path("source"));
    let target = site.path("mnt/offsite/host");
    for kill in 0..kills() {
        let daemon = site.mount();
        std::fs::create_dir_all(&target).unwrap();
        let mut copy = Command::new("cp")
            .args(["-a", "mnt/primary/host/point", "mnt/offsite/host/"])
            .current_dir(site.home.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Another place in the copy each time, so that all of them are reached in the long run.
        let upto = 1 + (seed as usize + kill * 7919) % (all - 1);
        let mut copied = 0;
        while copied < upto && copy.try_wait().unwrap().is_none() {
            copied = names_below(&target.join("point"));
        }
        daemon.kill();
        copy.wait().unwrap();
        // What the next daemon shows is complete only if it is whole.
        let daemon = site.mount();
        let state =
            site.shell("getfattr --only-values -n user.keepfs.state mnt/offsite/host/point");
        if state.stdout == b"complete" {
            assert_eq!(names_below(&target.join("point")), all);
        } else {
            let there = names_below(&target.join("point"));
            let left = || {
                let seen = site.shell(
                    "ls -la mnt/offsite/host; getfattr -n user.keepfs.state mnt/offsite/host/point; cat mnt/.keepfs/errors",
                );
                [seen.stdout, seen.stderr].map(|said| String::from_utf8_lossy(&said).into_owned())
            };
            assert!(
                there >= copied.saturating_sub(1),
                "{there} of {copied} entries are left; the state was {state:?}; now: {:#?}",
                left()
            );
        }
        let again = site.shell("cp -a mnt/primary/host/point mnt/offsite/host/ 2>&1");
        let said = String::from_utf8_lossy(&again.stdout).into_owned();
        // A copy that was complete when its daemon died refuses every change; every other is finished.
        assert!(
            again.status.success() || state.stdout == b"complete",
            "{said}"
        );
        wait_for(|| {
            site.shell("getfattr --only-values -n user.keepfs.state mnt/offsite/host/point")
                .stdout
                == b"complete"
        });
        // The kernel may keep what it knew of the open point for one second.
        std::thread::sleep(Duration::from_millis(1200));
        let differences =
            site.shell("rsync -aHAXSnic --delete source/ mnt/offsite/host/point/ 2>&1");
        assert_eq!(String::from_utf8_lossy(&differences.stdout), "");
        assert!(site.shell("rmdir mnt/offsite/host/point").status.success());
        site.keepfs(&["umount", "mnt"]);
        drop(daemon);
        site.keepfs(&["check", "--read-data", "offsite"]);
    }
}

#[test]
fn open_points_of_a_daemon_that_has_not_ended_yet_come_when_it_has() {
    let site = Site::new();
    let first = site.mount();
    let point = site.path("mnt/offsite/host/x.partial");
    std::fs::create_dir_all(&point).unwrap();
    std::fs::write(point.join("file"), "text").unwrap();
    let used = std::fs::File::open(point.join("file")).unwrap();
    // The next daemon mounts there while the one before is still needed.
    assert!(site.shell("umount -l mnt").status.success());
    let second = site.mount();
    assert!(!point.exists());
    drop(used);
    wait_for(|| point.exists());
    assert_eq!(std::fs::read(point.join("file")).unwrap(), b"text");
    std::fs::write(point.join("more"), "text").unwrap();
    let sealed = point.with_file_name("x");
    std::fs::rename(&point, &sealed).unwrap();
    site.keepfs(&["umount", "mnt"]);
    drop((first, second));
    site.keepfs(&["check", "--read-data", "offsite"]);
}

/// Pieces of 4 MiB that are written, and synced, one after the other.
const PIECES: usize = 15;

#[test]
fn what_was_synced_is_there_whenever_the_daemon_is_killed() {
    let site = Site::new();
    let config = site.path("keepfs.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("spool = \"64 MiB\"\n{text}")).unwrap();
    site.shell(&format!("head -c {} /dev/urandom > data", PIECES << 22));
    let seed = Clock::system().now().nanoseconds;
    println!("seed {seed}");
    for kill in 0..kills().div_ceil(2) {
        let daemon = site.mount();
        let writes = format!(
            "mkdir -p mnt/offsite/host/x.partial; : > acknowledged
             for n in $(seq 0 {}); do
                 dd if=data of=mnt/offsite/host/x.partial/file bs=4M seek=$n skip=$n count=1 conv=notrunc,fsync status=none || exit 1
                 echo $n >> acknowledged
             done",
            PIECES - 1
        );
        // That of the round before would be taken for this one's.
        let _ = std::fs::remove_file(site.path("acknowledged"));
        let mut writer = Command::new("bash")
            .args(["-c", &writes])
            .current_dir(site.home.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acknowledged = || {
            let lines = std::fs::read_to_string(site.path("acknowledged"));
            lines.map_or(0, |lines| lines.lines().count())
        };
        let upto = 1 + (seed as usize + kill * 7919) % (PIECES - 1);
        while acknowledged() < upto && writer.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon.kill();
        writer.wait().unwrap();
        let synced = acknowledged();
        assert!(synced >= upto);
        let daemon = site.mount();
        let output = site.shell(&format!(
            "set -e; exec 2>&1; cmp -n {} data mnt/offsite/host/x.partial/file
             dd if=data of=mnt/offsite/host/x.partial/file bs=4M conv=notrunc status=none
             cmp data mnt/offsite/host/x.partial/file
             mv mnt/offsite/host/x.partial mnt/offsite/host/x
             cmp data mnt/offsite/host/x/file
             rmdir mnt/offsite/host/x",
            synced << 22
        ));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{synced} pieces: {said}");
        site.keepfs(&["umount", "mnt"]);
        drop(daemon);
        site.keepfs(&["check", "--read-data", "offsite"]);
    }
}

#[test]
fn what_a_killed_daemon_left_does_not_keep_the_next_one_from_mounting() {
    let site = Site::new();
    let mut daemon = site.mount();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    // The kernel keeps what it knew of the dead mount's top for a second.
    wait_for(|| std::fs::metadata(&daemon.mount).is_err());
    site.keepfs(&["mount", "mnt"]);
    let there = daemon.mount.join("primary/host/point").is_dir();
    site.keepfs(&["umount", "mnt"]);
    assert!(there);
}

/// The end of a terminal, or of a session, is a SIGHUP.
#[test]
fn a_daemon_in_the_foreground_unmounts_when_its_terminal_goes() {
    let site = Site::new();
    let mut daemon = site.mount();
    let pid = libc::pid_t::try_from(daemon.child.id()).unwrap();
    // SAFETY: kill takes two numbers; the process is a child that nobody has waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGHUP) }, 0);
    assert!(daemon.child.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(&daemon.mount).unwrap().count(), 0);
}

#[test]
fn an_ordinary_user_mounts_reads_and_writes() {
    let site = Site::new();
    let script = r#"
        set -eu
        id -u keepfs-test >/dev/null 2>&1 || useradd --system --shell /bin/bash keepfs-test
        chmod 0666 /dev/fuse
        chown -R keepfs-test . && chmod 755 .
        cp "$KEEPFS" keepfs
        su keepfs-test -s /bin/bash -c '
            set -eu
            export HOME=$PWD XDG_CACHE_HOME=$PWD/cache XDG_STATE_HOME=$PWD/state
            printf "[repository.own]\nurl = \"own\"\nkey-file = \"own.key\"\n" > own.toml
            ./keepfs --config own.toml init own
            ./keepfs --config own.toml backup --quiet source own/host/point
            ./keepfs --config own.toml mount mnt
            trap "./keepfs umount --lazy mnt" EXIT
            diff -r source mnt/own/host/point
            mkdir mnt/own/host/new.partial
            cp source/d1/f1 mnt/own/host/new.partial/
            mv mnt/own/host/new.partial mnt/own/host/new
            cmp source/d1/f1 mnt/own/host/new/f1
            findmnt -no OPTIONS mnt | grep -q nosuid,nodev
        '
    "#;
    let output = Command::new("bash")
        .args(["-c", script])
        .env("KEEPFS", env!("CARGO_BIN_EXE_keepfs"))
        .current_dir(site.home.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
