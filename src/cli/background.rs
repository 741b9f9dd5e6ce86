//! Going into the background: the command returns when the work there is ready.

use super::exit;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Runs `work` in a process of its own that outlives this one and has no terminal, directory or descriptors in common
/// with it once it calls `ready`. Until then its messages still go where ours go.
///
/// Returns the exit code for this process: of the child if it ends before it is ready. Must be called while the
/// process has one thread: a fork takes only the calling one along, and leaves the locks of the others held for ever.
pub fn run(work: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> u8) -> Result<u8> {
    let (mut reader, writer) = pipe()?;
    // SAFETY: this process has one thread, so the child's memory is consistent and all it does is allowed.
    match unsafe { libc::fork() } {
        -1 => Err(failed(std::io::Error::last_os_error())),
        0 => {
            drop(reader);
            // SAFETY: setsid takes no pointers; in a fresh child it cannot fail.
            unsafe { libc::setsid() };
            let mut writer = Some(writer);
            let mut ready = || {
                detach()?;
                // Closed at once: our parent reads to the end.
                let told = writer.take().map(|mut writer| writer.write_all(b"ready"));
                told.transpose().map(|_| ()).map_err(failed)
            };
            let code = work(&mut ready);
            std::process::exit(code.into());
        }
        child => {
            drop(writer);
            let mut told = Vec::new();
            // Whatever ends the child closes its end.
            reader.read_to_end(&mut told).map_err(failed)?;
            if told == b"ready" {
                return Ok(exit::DONE);
            }
            code_of(child)
        }
    }
}

fn pipe() -> Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    // SAFETY: pipe2 succeeded: both are open and nobody else owns them.
    let [reader, writer] = ends.map(|end| File::from(unsafe { OwnedFd::from_raw_fd(end) }));
    Ok((reader, writer))
}

/// Lets go of the terminal and of the directory we were started in. `ready` is written after it, so that a caller who
/// reads our output to its end does not wait for the mount to end.
fn detach() -> Result<()> {
    std::env::set_current_dir("/").map_err(failed)?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    for descriptor in 0..=2 {
        // SAFETY: both are open descriptors of this process; dup2 replaces the second one.
        if unsafe { libc::dup2(null.as_raw_fd(), descriptor) } < 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
    }
    Ok(())
}

fn code_of(child: libc::pid_t) -> Result<u8> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the child's status.
    if unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    if !libc::WIFEXITED(status) {
        return Ok(exit::FAILED);
    }
    match libc::WEXITSTATUS(status) {
        // It was unmounted before we could see it ready.
        0 => Ok(exit::DONE),
        code => Ok(u8::try_from(code).unwrap_or(exit::FAILED)),
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("cannot go into the background", error)
}
