//! Commands that are run before and after a job.

use crate::error::{Error, Kind, Result};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often is looked whether a command has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A command, and how long it may take.
#[derive(Clone, PartialEq, Eq)]
pub struct Hook {
    command: String,
    timeout: Duration,
}

impl std::fmt::Debug for Hook {
    /// People write passwords into commands.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hook({:?})", self.timeout)
    }
}

impl Hook {
    /// A command for `sh -c` that may take so many seconds.
    pub fn new(command: &str, timeout_seconds: u64) -> Self {
        Self {
            command: command.to_owned(),
            timeout: Duration::from_secs(timeout_seconds),
        }
    }

    /// Runs it with these variables besides its own. What it prints goes where messages go. Fails when it fails and when it
    /// takes too long, `Interrupted` when `stop` says so meanwhile; then it and all that it started in its process group is
    /// killed.
    #[allow(clippy::disallowed_methods)] // how long a process takes, not a time that is stored
    pub(super) fn run(
        &self,
        what: &str,
        variables: &[(&str, String)],
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        let cannot = |error| Error::io(format_args!("cannot run the command `{what}`"), error);
        let mut child = self.start(variables).map_err(cannot)?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(cannot)? {
                break status;
            }
            if began.elapsed() >= self.timeout {
                kill(&mut child);
                let message = format!(
                    "the command `{what}` took more than {} s and was killed",
                    self.timeout.as_secs()
                );
                return Err(Error::new(Kind::Failed, message));
            }
            if stop() {
                kill(&mut child);
                let message = format!("stopped on request while the command `{what}` ran");
                return Err(Error::new(Kind::Interrupted, message));
            }
            std::thread::sleep(LOOK);
        };
        require_success(what, status)
    }

    fn start(&self, variables: &[(&str, String)]) -> std::io::Result<Child> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &self.command])
            .env_remove("KEEPFS_PASSWORD")
            .env_remove("KEEPFS_NEW_PASSWORD")
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .process_group(0);
        // NUL cannot be said in a variable; names may not hold it, sentences should not.
        let variables = variables
            .iter()
            .map(|(name, value)| (name, value.replace('\0', "")));
        command.envs(variables).spawn()
    }
}

fn require_success(what: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let message = format!("the command `{what}` failed ({status}); run it by hand to see why");
    Err(Error::new(Kind::Failed, message))
}

fn kill(child: &mut Child) {
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: kill takes two numbers. The child is not waited for yet, so the group is still its own.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    // It is dead, or it could not be killed; nobody waits longer for it either way.
    let _ = child.wait();
}
