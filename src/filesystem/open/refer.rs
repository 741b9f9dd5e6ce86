//! Changes of content by reference to files of complete points, which also say what the point is a copy of.

use super::change::{Change, Facts};
use super::content::SourceFile;
use super::{Inner, OpenPoint, matching};
use crate::filesystem::errno::{Answer, Rule};
use crate::filesystem::repositories::CompletePoint;
use crate::point::File;
use std::sync::Arc;

impl OpenPoint {
    /// The source for a file of a complete point, and whether it is new; slices that follow each other share it.
    pub(super) fn source(
        &self,
        inner: &mut Inner,
        point: &CompletePoint,
        file: &File,
    ) -> Answer<(Arc<SourceFile>, bool)> {
        let repository = point.repository.catalog.repository().id();
        if let Some(last) = &inner.last_source
            && last.repository == repository
            && *last.file() == *file
        {
            return Ok((last.clone(), false));
        }
        let number = inner.state.next_source;
        let source = Change::Source {
            number,
            repository,
            file: file.clone(),
        };
        self.change(inner, source)?;
        inner.state.forget_sources(Some(number));
        let source = inner.state.sources.get(&number).cloned();
        let source = source.ok_or(Rule::Stale)?;
        inner.last_source = Some(source.clone());
        Ok((source, true))
    }

    /// Refers to bytes of a file of a complete point; `path` is where that file is there. Sets what `set` sets with
    /// that.
    pub(in crate::filesystem) fn refer(
        &self,
        node: u64,
        begin: u64,
        length: u64,
        (point, file, offset): (&Arc<CompletePoint>, &File, u64),
        path: Option<Vec<Vec<u8>>>,
        set: &dyn Fn(&mut Facts),
    ) -> Answer<()> {
        let name = path.as_ref().and_then(|path| path.last().cloned());
        let wanted = {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            Self::require_open(inner)?;
            let (source, new) = self.source(inner, point, file)?;
            let reference = Change::Reference {
                node,
                begin,
                length,
                source: source.number,
                offset,
            };
            self.change(inner, reference)?;
            self.touch(inner, node, set)?;
            self.note_from(inner, point, node, path)?;
            self.rematch_node(inner, node);
            if std::mem::take(&mut inner.bring_again) {
                self.bringer.want_behind(inner.state.sources_in_order());
            }
            new.then_some(source)
        };
        // Outside the lock: this waits while the transfer is far behind. Who seals meanwhile wants it, too.
        let name = name.unwrap_or_default();
        wanted
            .iter()
            .for_each(|source| self.bringer.want_named(source, &name));
        Ok(())
    }

    /// A file that comes from the same path of a complete point says which point this is a copy of.
    fn note_from(
        &self,
        inner: &mut Inner,
        point: &Arc<CompletePoint>,
        node: u64,
        path: Option<Vec<Vec<u8>>>,
    ) -> Answer<()> {
        let known = inner.from.as_ref();
        if known.is_some_and(|(_, sure)| *sure) || path.is_none() || inner.state.path(node) != path
        {
            return Ok(());
        }
        self.copied_from(inner, point, true)
    }

    fn copied_from(&self, inner: &mut Inner, point: &Arc<CompletePoint>, sure: bool) -> Answer<()> {
        let from = Change::From {
            repository: point.repository.catalog.repository().id(),
            point: point.point.id,
            generation: point.point.generation,
        };
        self.change(inner, from)?;
        matching::rematch_all(&mut inner.state, point);
        inner.from = Some((point.clone(), sure));
        Ok(())
    }

    /// Bytes that are copied through the caller may be those of this point.
    pub(in crate::filesystem) fn may_be_copy_of(&self, point: &Arc<CompletePoint>) -> Answer<()> {
        let mut inner = self.inner.lock();
        self.copied_from(&mut inner, point, false)
    }
}
