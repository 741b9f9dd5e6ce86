//! The control tree, `.keepfs`: files that a shell can read.

use super::{FileSystem, ROOT};

/// The name of the control tree in the mount's root.
pub(super) const NAME: &str = ".keepfs";

/// A file of the control tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlFile {
    Version,
    Errors,
    Metrics,
}

impl ControlFile {
    pub(super) const ALL: [Self; 3] = [Self::Errors, Self::Metrics, Self::Version];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Errors => "errors",
            Self::Metrics => "metrics",
        }
    }

    pub(super) fn named(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|file| file.name().as_bytes() == name)
    }
}

impl FileSystem {
    /// All counters, as Prometheus reads them.
    pub fn metrics_text(&self) -> String {
        let kept = self.kept_frames.as_ref().map(|kept| kept.facts());
        let spool = self.open_points.spool().facts();
        let stores = self.repositories.iter().map(|mounted| {
            let store = mounted.catalog.repository().store();
            (mounted.name.as_str(), store.traffic())
        });
        let stores: Vec<_> = stores.collect();
        self.metrics
            .text(&spool, &kept.unwrap_or_default(), &stores)
    }

    /// What a control file says now.
    pub(super) fn control_text(&self, file: ControlFile) -> String {
        match file {
            ControlFile::Version => concat!("keepfs ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
            ControlFile::Errors => {
                for repository in self.repositories.iter() {
                    for sentence in repository.new_contradictions() {
                        self.problems.note(ROOT, sentence);
                    }
                }
                self.problems.text()
            }
            ControlFile::Metrics => self.metrics_text(),
        }
    }
}
