//! Contents of files: a small one is written by one thread, a large one in parts by several.

use super::{Place, Shared, attributes, directory};
use crate::error::{Error, Kind, Result};
use crate::point::{Extent, File};
use crate::repository::FrameSpan;
use parking_lot::Mutex;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A part of a file holds at least this many bytes of data: enough for one request to a store.
const PART_BYTES: u64 = 4 << 20;
/// A part also ends after this many extents, so that what waits in the queue stays small.
const PART_EXTENTS: usize = 1024;

/// A file on its way: its parts share the descriptor, and the last one gives it its name.
pub(super) struct Content<'a> {
    place: Place<'a>,
    temporary: CString,
    file: Mutex<Option<Arc<std::fs::File>>>,
    parts: AtomicUsize,
    failed: Mutex<Option<Error>>,
}

/// Extents of a file, each with its offset, that one thread writes.
pub(super) struct Part<'a> {
    content: Arc<Content<'a>>,
    /// None for a file that is small enough to be one part: the thread that writes it asks the tree itself.
    extents: Option<Vec<(u64, Extent)>>,
}

impl<'a> Content<'a> {
    /// Cuts a file into parts and hands them out.
    pub(super) fn parts(
        place: Place<'a>,
        shared: &Shared<'a>,
        hand_over: &mut dyn FnMut(Part<'a>),
    ) {
        let Some(file) = place.entry.file().cloned() else {
            return;
        };
        let content = Arc::new(Self {
            place,
            temporary: directory::temporary_name(),
            file: Mutex::default(),
            // The cutting itself counts as one, so that no part is taken for the last before all are handed out.
            parts: AtomicUsize::new(1),
            failed: Mutex::default(),
        });
        if file.size <= PART_BYTES {
            return hand_over(Part {
                content,
                extents: None,
            });
        }
        let result = content.cut(shared, &file, hand_over);
        content.note(result);
        content.part_done(shared);
    }

    fn cut(
        self: &Arc<Self>,
        shared: &Shared<'a>,
        file: &File,
        hand_over: &mut dyn FnMut(Part<'a>),
    ) -> Result<()> {
        let mut extents = Vec::new();
        let mut bytes = 0;
        let mut end = 0;
        let mut give = |extents: Vec<(u64, Extent)>| {
            self.parts.fetch_add(1, Ordering::Relaxed);
            hand_over(Part {
                content: self.clone(),
                extents: Some(extents),
            });
        };
        for extent in shared.trees.extents_from(file, 0) {
            let (offset, extent) = extent?;
            end = offset + extent.length;
            if extent.chunk.is_none() {
                continue;
            }
            bytes += extent.length;
            extents.push((offset, extent));
            if bytes >= PART_BYTES || extents.len() >= PART_EXTENTS {
                give(std::mem::take(&mut extents));
                bytes = 0;
            }
        }
        if !extents.is_empty() {
            give(extents);
        }
        whole(file, end)
    }

    fn note(&self, result: Result<()>) {
        if let Err(error) = result {
            self.failed.lock().get_or_insert(error);
        }
    }

    /// The open file; made, with its full length, when it is first asked for.
    fn open(&self) -> Result<Arc<std::fs::File>> {
        let mut slot = self.file.lock();
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = std::fs::File::from(self.place.directory.create(&self.temporary)?);
        let file = Arc::new(file);
        *slot = Some(file.clone());
        file.set_len(self.place.entry.size())
            .map_err(|error| Error::io("setting its length", error))?;
        Ok(file)
    }

    fn part_done(&self, shared: &Shared) {
        // Acquire and release: whoever finishes must see what the others noted.
        if self.parts.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let failed = self.failed.lock().take();
        let result = failed.map_or_else(|| self.complete(shared), Err);
        if result.is_err() {
            self.place.directory.unlink(&self.temporary);
        }
        self.place.finish(shared, result);
    }

    fn complete(&self, shared: &Shared) -> Result<()> {
        drop(self.open()?);
        let file = self.file.lock().take().and_then(Arc::into_inner);
        let file =
            file.ok_or_else(|| Error::new(Kind::Failed, "a part of it is still being written"))?;
        attributes::of_file(shared, &self.place, &OwnedFd::from(file))?;
        self.place
            .directory
            .rename(&self.temporary, &self.place.name)
    }
}

fn whole(file: &File, end: u64) -> Result<()> {
    if end == file.size {
        return Ok(());
    }
    let message = format!(
        "its tree describes {end} of its {} bytes; run `keepfs check`",
        file.size
    );
    Err(Error::new(Kind::Damaged, message))
}

impl Part<'_> {
    /// Writes the part; the file's last one also names the file.
    pub(super) fn write(self, shared: &Shared) {
        let content = &self.content;
        if content.failed.lock().is_none() {
            let result = if shared.go_on() {
                self.write_extents(shared)
            } else {
                Err(Error::new(Kind::Failed, "the restore ended before"))
            };
            content.note(result);
        }
        content.part_done(shared);
    }

    fn write_extents(&self, shared: &Shared) -> Result<()> {
        let entry = &self.content.place.entry;
        let own;
        let extents = match (&self.extents, entry.file()) {
            (Some(extents), _) => extents,
            (None, Some(file)) => {
                own = shared
                    .trees
                    .extents_from(file, 0)
                    .collect::<Result<Vec<_>>>()?;
                let end = own
                    .last()
                    .map_or(0, |(offset, extent)| offset + extent.length);
                whole(file, end)?;
                &own
            }
            (None, None) => return Ok(()),
        };
        prefetch(shared, extents)?;
        let file = self.content.open()?;
        for (offset, extent) in extents {
            shared.progress.go_on()?;
            let Some(id) = extent.chunk else { continue };
            let bytes = shared.trees.repository().read_chunk(&id)?;
            if bytes.len() as u64 != extent.length {
                let message = format!(
                    "chunk {id} has another length than the file's tree says; run `keepfs check`"
                );
                return Err(Error::new(Kind::Damaged, message));
            }
            file.write_all_at(&bytes, *offset)
                .map_err(|error| Error::io("writing it", error))?;
        }
        Ok(())
    }
}

/// Brings the frames of these extents into the cache, neighbours of one pack with one request.
fn prefetch(shared: &Shared, extents: &[(u64, Extent)]) -> Result<()> {
    let repository = shared.trees.repository();
    let mut run: Option<(crate::repository::Location, Vec<FrameSpan>)> = None;
    for id in extents.iter().filter_map(|(_, extent)| extent.chunk) {
        let location = repository.locate(&id)?;
        let frames = location.frames()?;
        match &mut run {
            Some((first, spans))
                if first.pack.id == location.pack.id
                    && spans
                        .last()
                        .is_some_and(|last| frames[0].number >= last.number) =>
            {
                let last = spans.last().map_or(0, |last| last.number);
                spans.extend(frames.into_iter().filter(|frame| frame.number > last));
            }
            _ => {
                if let Some((first, spans)) = run.replace((location, frames)) {
                    repository.prefetch(&first, &spans);
                }
            }
        }
    }
    if let Some((first, spans)) = run.filter(|(_, spans)| spans.len() > 1) {
        repository.prefetch(&first, &spans);
    }
    Ok(())
}
