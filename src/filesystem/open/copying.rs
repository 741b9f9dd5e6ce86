//! What an open point says of the copy that a tool makes in it.

use super::content::is_there;
use super::{Inner, OpenPoint, Stage};
use crate::clock::Time;
use crate::error::Error;
use crate::filesystem::repositories::CompletePoint;
use std::sync::Arc;

/// How far a tool's copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::filesystem) enum CopyStage {
    /// The point is open; why nothing more can be brought, if that is so.
    Open(Option<String>),
    /// It is just being sealed.
    Sealing,
    /// It is complete: the point that it was copied from, or one of its own.
    Sealed {
        /// Whether it is that point.
        is_copy: bool,
    },
    /// It was given up.
    Discarded,
}

/// A tool's copy.
#[derive(Clone, Debug)]
pub(in crate::filesystem) struct CopyFacts {
    /// The point that it is a copy of, as far as is known.
    pub from: Arc<CompletePoint>,
    /// When something was last changed in it.
    pub changed: Time,
    pub stage: CopyStage,
}

impl OpenPoint {
    /// The copy that a tool makes here; none while it is not known to be one.
    pub(in crate::filesystem) fn copy_facts(&self) -> Option<CopyFacts> {
        let inner = self.inner.lock();
        let (from, _) = inner.from.clone()?;
        Some(CopyFacts {
            from,
            changed: inner.state.now,
            stage: self.copy_stage(&inner),
        })
    }

    fn copy_stage(&self, inner: &Inner) -> CopyStage {
        match &inner.stage {
            Stage::Open => {
                let failed = self.bringer.check().err();
                CopyStage::Open(failed.map(|error| error.message().to_owned()))
            }
            Stage::Sealing(_) => CopyStage::Sealing,
            Stage::Sealed(point) => CopyStage::Sealed {
                is_copy: point.point.record.origin.is_some(),
            },
            Stage::Discarded => CopyStage::Discarded,
        }
    }

    /// Paths of the files, at most `limit`, of which the repository lacks a chunk that should have been brought, and how
    /// many they are.
    pub(in crate::filesystem) fn lacking_files(&self, limit: usize) -> (Vec<Vec<u8>>, u64) {
        let files: Vec<_> = {
            let inner = self.inner.lock();
            let nodes = inner.state.nodes.iter();
            let files = nodes.filter_map(|(number, node)| {
                let source = node.content()?.whole_source()?.clone();
                Some((number, source))
            });
            files.collect()
        };
        let (mut paths, mut count) = (Vec::new(), 0);
        for (number, source) in files {
            // What cannot be looked up is not known to be there.
            if is_there(&self.repository.trees, &source.file()).unwrap_or(false) {
                continue;
            }
            count += 1;
            if paths.len() < limit {
                let path = self.inner.lock().state.path(number).unwrap_or_default();
                paths.push(path.join(&b'/'));
            }
        }
        paths.sort();
        (paths, count)
    }

    /// Brings again what could not be brought, and waits for it.
    pub(in crate::filesystem) fn bring_what_lacks(&self) -> Result<(), Error> {
        self.bringer.try_again();
        let sources = self.inner.lock().state.sources_in_order();
        sources.iter().for_each(|source| self.bringer.want(source));
        self.bringer.finish()
    }
}
