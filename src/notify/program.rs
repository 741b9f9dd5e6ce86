//! Programs that take a message: `sendmail`, and commands of the user's.

use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of what it says that a sentence repeats.
const SAID_BYTES_MAX: u64 = 400;

/// What a program made of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// It took it.
    Took,
    /// It did not: its exit code, if it ended by itself, and what it said.
    Refused(Option<i32>, String),
}

/// `sendmail -t -i`, which finds the recipients in the message.
pub(super) fn sendmail(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.args(["-t", "-i"]);
    command
}

/// The user's command, with these variables.
pub(super) fn hook(command: &str, facts: &[(&'static str, String)]) -> Command {
    let mut hook = Command::new("/bin/sh");
    hook.args(["-c", command]);
    for (name, value) in facts {
        hook.env(name, value.replace('\0', " "));
    }
    hook
}

/// Runs `command` with `message` on its standard input for at most `timeout`, then ends it and what it started.
///
/// Input and output are files in `directory` that have no name any more: a program that reads nothing, or leaves
/// somebody behind who holds its output, makes nobody wait.
pub(super) fn run(
    mut command: Command,
    message: &[u8],
    timeout: Duration,
    directory: &Path,
) -> Result<Ran> {
    let program = command.get_program().to_string_lossy().into_owned();
    let cannot = |error| Error::io(format_args!("cannot run {program}"), error);
    let mut input = nameless(directory)?;
    input.write_all(message).map_err(cannot)?;
    input.seek(SeekFrom::Start(0)).map_err(cannot)?;
    let mut output = nameless(directory)?;
    let said = output.try_clone().map_err(cannot)?;
    let child = command
        .env_remove("KEEPFS_PASSWORD")
        .env_remove("KEEPFS_NEW_PASSWORD")
        .process_group(0)
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(said)
        .spawn()
        .map_err(cannot)?;
    let Some(status) = wait(child, timeout).map_err(cannot)? else {
        let seconds = timeout.as_secs();
        let sentence = format!("it did not end within {seconds} seconds, and was ended");
        return Ok(Ran::Refused(None, sentence));
    };
    if status.success() {
        return Ok(Ran::Took);
    }
    let text = last_words(&mut output);
    Ok(Ran::Refused(status.code(), sentence(status, &text)))
}

fn sentence(status: ExitStatus, text: &str) -> String {
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, signal) => format!("it was ended by signal {}", signal.unwrap_or_default()),
    };
    match text {
        "" => ended,
        text => format!("{ended}: {text}"),
    }
}

fn last_words(output: &mut File) -> String {
    let mut text = Vec::new();
    let end = output.seek(SeekFrom::End(0)).unwrap_or_default();
    // Only for the sentence: what cannot be read is not repeated.
    let _ = output.seek(SeekFrom::Start(end.saturating_sub(SAID_BYTES_MAX)));
    let _ = output.take(SAID_BYTES_MAX).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    super::template::one_line(text.trim())
}

/// Its status; none when it had to be ended.
fn wait(mut child: Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let looks = timeout.as_millis() / LOOK.as_millis();
    for _ in 0..looks.max(1) {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK);
    }
    let group = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    // SAFETY: kill takes two numbers. The child is not waited for yet, so its group is still its own.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    child.wait()?;
    Ok(None)
}

/// A file without a name.
fn nameless(directory: &Path) -> Result<File> {
    let path = directory.join(format!(".{}", crate::id::ObjectId::random()));
    let cannot = |error| {
        Error::io(
            format_args!("cannot write in {}", directory.display()),
            error,
        )
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(cannot)?;
    std::fs::remove_file(&path).map_err(cannot)?;
    Ok(file)
}

/// A command that could not even be started.
pub(super) fn advice(error: &Error, way: &str) -> String {
    match error.kind() {
        Kind::NotFound => format!("{error}; correct {way} in [notify]"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(script: &str, timeout: Duration) -> Ran {
        let directory = tempfile::tempdir().expect("a directory");
        let facts = [("KEEPFS_RESULT", "a\0b".to_owned())];
        let ran = run(hook(script, &facts), b"hello\n", timeout, directory.path());
        let left = std::fs::read_dir(directory.path()).expect("lists").count();
        assert_eq!(left, 0, "no file stays");
        ran.expect("a shell is here")
    }

    #[test]
    fn a_command_has_message_and_facts() {
        let second = Duration::from_secs(20);
        let script = "[ \"$(cat)\" = hello ] && [ \"$KEEPFS_RESULT\" = 'a b' ]";
        assert_eq!(ran(script, second), Ran::Took);
        assert_eq!(ran("exec <&-", second), Ran::Took);
        let refused = ran("echo first; echo no room >&2; exit 75", second);
        let sentence = "it ended with exit code 75: no room".to_owned();
        assert_eq!(refused, Ran::Refused(Some(75), sentence));
        let killed = Ran::Refused(None, "it was ended by signal 9".to_owned());
        assert_eq!(ran("kill -9 $$", second), killed);
        assert_eq!(ran("sleep 600 & exit 0", second), Ran::Took);
    }

    #[test]
    fn one_that_does_not_end_is_ended_with_what_it_started() {
        let directory = tempfile::tempdir().expect("a directory");
        let pid = directory.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let Ran::Refused(None, sentence) = ran(&script, Duration::from_secs(1)) else {
            panic!("it cannot have ended by itself");
        };
        assert!(sentence.contains("did not end within"), "{sentence}");
        let pid = std::fs::read_to_string(pid).expect("it wrote it");
        let gone = || {
            let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            status.map_or(true, |status| status.contains(") Z "))
        };
        for _ in 0..500 {
            if gone() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        panic!("what it started still runs");
    }
}
