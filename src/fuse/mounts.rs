//! The kernel's table of mounts: where a source is mounted, and where else its superblock is bound.

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const TABLE: &str = "/proc/self/mountinfo";
/// What the kernel calls the type of our mounts.
const KIND: &str = "fuse.keepfs";

/// A mount of this process's namespace, as proc(5) describes it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// Major and minor number: the superblock.
    device: (u32, u32),
    /// The directory of the superblock that is seen there.
    root: PathBuf,
    directory: PathBuf,
    kind: OsString,
    source: OsString,
}

/// All mounts; of several on one directory the last one is seen.
fn table() -> Result<Vec<Line>> {
    let text =
        std::fs::read(TABLE).map_err(|error| Error::io(format_args!("reading {TABLE}"), error))?;
    Ok(text
        .split(|&byte| byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// `36 35 0:52 /root /directory options [optional…] - kind source options`
fn parse(line: &[u8]) -> Option<Line> {
    let fields: Vec<_> = line.split(|&byte| byte == b' ').collect();
    let behind = 1 + fields.iter().position(|field| *field == b"-")?;
    let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    let text = |at: usize| fields.get(at).map(|field| unescaped(field));
    Some(Line {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: text(3)?.into(),
        directory: text(4)?.into(),
        kind: text(behind)?,
        source: text(behind + 1)?,
    })
}

/// The kernel writes spaces, line ends and the like as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        match field.get(at + 1..at + 4).and_then(octal) {
            Some(escaped) if byte == b'\\' => {
                bytes.push(escaped);
                at += 4;
            }
            _ => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// The mount that is seen at a directory: the last one there.
fn seen<'a>(table: &'a [Line], directory: &Path) -> Option<&'a Line> {
    table.iter().rev().find(|line| line.directory == directory)
}

/// The directories where all that `source` names is mounted, the newest mount last. Daemons that died are among them.
pub fn served(source: &OsStr) -> Result<Vec<PathBuf>> {
    let table = table()?;
    let ours = table
        .iter()
        .filter(|line| line.kind == KIND && line.source == source && line.root == Path::new("/"));
    let visible = ours.filter(|line| seen(&table, &line.directory) == Some(line));
    Ok(visible.map(|line| line.directory.clone()).collect())
}

/// Whether the directory `root` (from the top, with a leading `/`) of the mount at `of` is what is seen at `directory`.
pub fn is_bound(of: &Path, root: &Path, directory: &Path) -> Result<bool> {
    let table = table()?;
    Ok(seen(&table, directory).is_some_and(|there| {
        there.root == root && seen(&table, of).is_some_and(|of| of.device == there.device)
    }))
}

/// Where a superblock is seen besides `directory`; `minor` is its device number, as the kernel numbers what has no
/// device.
pub(super) fn elsewhere(minor: u32, directory: &Path) -> Result<Vec<PathBuf>> {
    let table = table()?.into_iter();
    let bound = table.filter(|line| line.device == (0, minor) && line.directory != directory);
    Ok(bound.map(|line| line.directory).collect())
}

/// Waits for changes of the table.
pub(super) struct Changes(std::fs::File);

impl Changes {
    /// Changes from now on are not missed.
    pub(super) fn of_table() -> Result<Self> {
        std::fs::File::open(TABLE)
            .map(Self)
            .map_err(|error| Error::io(format_args!("opening {TABLE}"), error))
    }

    /// Returns when the table has changed since the last call, maybe also without that.
    pub(super) fn wait(&self) -> Result<()> {
        let mut changed = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLPRI,
            revents: 0,
        };
        // SAFETY: one valid entry is passed, and its descriptor is open as long as `self` lives.
        if unsafe { libc::poll(&mut changed, 1, -1) } >= 0 {
            return Ok(());
        }
        match std::io::Error::last_os_error() {
            error if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            error => Err(Error::io(format_args!("waiting for {TABLE}"), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read_with_its_escapes() {
        let line = parse(
            b"37 35 0:53 /offsite /mnt/a\\040b rw,nosuid shared:5 master:1 - fuse.keepfs /etc/a\\134b.toml rw,x",
        );
        let expected = Line {
            device: (0, 53),
            root: "/offsite".into(),
            directory: "/mnt/a b".into(),
            kind: KIND.into(),
            source: "/etc/a\\b.toml".into(),
        };
        assert_eq!(line, Some(expected));
        for cut in ["", "37 35 0:53 / /mnt rw", "37 35 0 / /mnt rw - fuse x rw"] {
            assert_eq!(parse(cut.as_bytes()), None, "{cut}");
        }
    }
}
