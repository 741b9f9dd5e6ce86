//! A mount that nobody sees itself, and that lives as long as something of it is bound elsewhere.

use super::{mountpoint, mounts};
use crate::error::{Error, Result};
use crate::thread;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long whoever wants to mount the same again waits for a daemon that ends. It ends sooner unless its superblock is
/// still in use somewhere, as in another mount namespace.
const ENDING: Duration = Duration::from_secs(5);

/// Takes the mount at `directory` away once nothing of it is bound elsewhere; the daemon then ends as after any umount.
///
/// Whoever makes binds holds a lock on the file `lock` meanwhile: the mount does not go between its start and the
/// first bind, and it goes at once when there will be none. The answer comes when the directory is gone, too.
pub(super) fn end_with_binds(directory: PathBuf, minor: u32, lock: PathBuf) -> Receiver<()> {
    let (gone, wait) = bounded(1);
    thread::spawn(move || {
        if let Err(error) = unmount_unbound(&directory, minor, &lock, &gone) {
            tracing::error!("{error}; unmount {} yourself", directory.display());
        }
    });
    wait
}

fn unmount_unbound(directory: &Path, minor: u32, lock: &Path, gone: &Sender<()>) -> Result<()> {
    let changes = mounts::Changes::of_table()?;
    loop {
        let locked = locked(lock)?;
        if mounts::elsewhere(minor, directory)?.is_empty() {
            mountpoint::unmount(directory)?;
            // Somebody may have made another file in it; then it is not ours alone.
            let _ = std::fs::remove_dir(directory);
            // Nobody waits for that where a signal ends the mount.
            let _ = gone.send(());
            // Usually the process ends meanwhile. The next daemon shall find open points that nobody serves.
            std::thread::sleep(ENDING);
            return Ok(());
        }
        drop(locked);
        changes.wait()?;
    }
}

/// The lock that whoever binds, or ends what is bound, must hold. Waits for it.
pub fn locked(path: &Path) -> Result<File> {
    let failed = |error| Error::io(format_args!("locking {}", path.display()), error);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}
