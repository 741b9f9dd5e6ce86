//! What survives the host: fsync of spools, of the journal, and of the directories that name them. An fsync of a
//! directory also stores what was written, as only the repository survives the loss of the host.

use super::OpenPoint;
use super::content::Place;
use super::write::is_spooled;
use crate::backup::{Contents, Workers};
use crate::error::{Error, Result};
use crate::filesystem::errno::Answer;
use crate::repository::Writer;
use crossbeam_channel::bounded;
use std::fs;
use std::path::Path;
use std::sync::Arc;

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

    /// Makes a file's spooled bytes survive the host, whoever wrote them.
    pub(in crate::filesystem) fn sync_spool(&self, node: u64) -> Result<()> {
        let Some(spool) = self.existing_spool(node)? else {
            return Ok(());
        };
        let synced = spool.sync_data();
        synced.map_err(|error| Error::io("syncing spooled bytes", error))
    }

    /// Returns when everything that was referred to or written is in the repository. What is put together from both
    /// is cut anew by sealing only; it survives the host.
    pub(in crate::filesystem) fn sync_all(&self) -> Answer<()> {
        let spooled: Vec<_> = {
            let inner = self.inner.lock();
            let nodes = inner.state.nodes.iter();
            let spooled = nodes.filter(|(_, node)| node.content().is_some_and(is_spooled));
            spooled.map(|(number, _)| *number).collect()
        };
        for node in spooled {
            self.sync_spool(node)?;
        }
        self.sync()?;
        let again = {
            let mut inner = self.inner.lock();
            let again = std::mem::take(&mut inner.bring_again);
            again.then(|| inner.state.sources_in_order())
        };
        let again = again.unwrap_or_default();
        again.iter().for_each(|source| self.bringer.want(source));
        self.store_spooled()?;
        let brought = self.bringer.finish();
        self.bringer.tell()?;
        Ok(brought?)
    }
}

impl OpenPoint {
    /// Stores the files that were written as bytes, so far as they have changed since the last time: sealing finds
    /// their chunks.
    fn store_spooled(&self) -> Result<()> {
        let written = self.written_since();
        if written.is_empty() {
            return Ok(());
        }
        let repository = self.repository.catalog.repository();
        let writer = Arc::new(Writer::new(repository.clone(), None)?.marked(&self.mark));
        let (contents, workers) = (Contents::new(writer.clone()), Workers::new(2));
        std::thread::scope(|scope| {
            let (hold, done) = bounded(0);
            let working = &workers;
            scope.spawn(move || working.work(&done));
            let stored = written.iter().try_for_each(|(node, name, _)| {
                let Some(spool) = self.existing_spool(*node)? else {
                    return Ok(());
                };
                let stored = contents.store(&spool, name, 0, &workers);
                stored.map(drop).map_err(Error::from)
            });
            drop(hold);
            stored
        })?;
        writer.flush()?;
        let mut inner = self.inner.lock();
        let stored = written.into_iter();
        inner
            .stored
            .extend(stored.map(|(node, _, changes)| (node, changes)));
        Ok(())
    }

    /// Nodes that hold written bytes only, in the order in which they were made, with a name and the state of each.
    fn written_since(&self) -> Vec<(u64, Vec<u8>, u64)> {
        let inner = self.inner.lock();
        let nodes = inner.state.nodes.iter();
        let written = nodes.filter_map(|(number, node)| {
            let (content, (_, name)) = (node.content()?, node.places.first()?);
            let mut segments = content.segments.iter();
            let whole = segments.all(|segment| matches!(segment.place, Place::Spool));
            let stored = inner.stored.get(number) == Some(&content.changes);
            let new = whole && !stored && !content.segments.is_empty();
            new.then(|| (*number, name.clone(), content.changes))
        });
        let mut written: Vec<_> = written.collect();
        written.sort_unstable_by_key(|(number, ..)| *number);
        written
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    let synced = fs::File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::io(format_args!("syncing {}", path.display()), error))
}
