//! What survives the host: fsync of spools, of the journal, and of the directories that name them. An fsync of a
//! directory also stores what was written, as only the repository survives the loss of the host.

use super::OpenPoint;
use crate::error::{Error, Result};
use crate::filesystem::errno::Answer;
use std::fs;
use std::path::Path;

impl OpenPoint {
    /// Makes the journal survive the host, and with it everything but spooled bytes.
    pub(in crate::filesystem) fn sync(&self) -> Answer<()> {
        {
            let mut inner = self.inner.lock();
            self.tell_failure(&mut inner)?;
            inner.journal.sync()?;
        }
        if self.sealed().is_none() {
            self.sync_names()?;
        }
        Ok(())
    }

    fn sync_names(&self) -> Result<()> {
        let state = self.directory.parent().unwrap_or(&self.directory);
        for directory in [&self.directory.join("spool"), &self.directory, state] {
            sync_directory(directory)?;
        }
        Ok(())
    }

    /// Returns when everything that was referred to or written is in the repository.
    pub(in crate::filesystem) fn sync_all(&self) -> Answer<()> {
        self.settle();
        if self.sealed().is_some() {
            return Ok(());
        }
        let again = {
            let mut inner = self.inner.lock();
            let again = std::mem::take(&mut inner.bring_again);
            again.then(|| inner.state.sources_in_order())
        };
        let again = again.unwrap_or_default();
        again.iter().for_each(|source| self.bringer.want(source));
        let stored = self.streamer.store(self.id);
        let brought = self.bringer.finish();
        self.bringer.tell()?;
        stored.and(brought)?;
        // The spool needs no sync: nothing is left in it that is not in the repository.
        self.sync()
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    let synced = fs::File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::io(format_args!("syncing {}", path.display()), error))
}
