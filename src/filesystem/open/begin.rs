//! How an open point begins, and how a daemon that starts again goes on with it.

use super::attributes::Accepted;
use super::bring::Bringer;
use super::change::{Change, Facts};
use super::gone::remove;
use super::journal::Journal;
use super::seal::fingerprint;
use super::spool::Spool;
use super::state::State;
use super::stretch::Streaming;
use super::{Inner, OpenPoint, Stage, matching};
use crate::error::Result;
use crate::filesystem::errno::Answer;
use crate::filesystem::repositories::{CompletePoint, MountedRepository};
use crate::id::ObjectId;
use crate::point::{PARTIAL, Trees};
use crate::repository::{OpenPointMark, make_private};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

impl OpenPoint {
    /// A new open point with its journal in `state_directory`.
    pub(in crate::filesystem) fn begin(
        state_directory: &Path,
        spool: &Arc<Spool>,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        name: &[u8],
        facts: Facts,
    ) -> Result<Arc<Self>> {
        repository.catalog.repository().require_writable()?;
        // Another process may have changed them since the mount.
        repository.catalog.repository().reload_settings()?;
        repository.catalog.repository().require_readable_class()?;
        repository.catalog.repository().require_capacity()?;
        let id = ObjectId::random();
        let directory = state_directory.join(id.to_string());
        make_private(&directory.join("spool"))?;
        let mut journal = Journal::open(&directory, &mut |_| ())?;
        let begin = [
            Change::Begin {
                repository: repository.catalog.repository().id(),
                backup,
                started: facts.mtime,
                facts,
            },
            Change::Name(name.to_vec()),
        ];
        let mut state = State {
            now: facts.mtime,
            ..State::default()
        };
        for change in begin {
            journal.append(&change)?;
            state.apply(change, &|_| None);
        }
        let open = Arc::new(Self::with(
            id,
            directory,
            spool,
            repositories,
            repository,
            (backup, facts),
            (state, journal),
        ));
        open.streamer.serve(&open);
        Ok(open)
    }

    fn with(
        id: ObjectId,
        directory: PathBuf,
        spool: &Arc<Spool>,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
        repository: &Arc<MountedRepository>,
        (backup, facts): (ObjectId, Facts),
        (state, journal): (State, Journal),
    ) -> Self {
        let name = (
            repository.backup_name(backup).into_bytes(),
            state.name.clone(),
        );
        let mark = OpenPointMark::new(repository.catalog.repository().clone(), id, name);
        Self {
            id,
            repository: repository.clone(),
            backup,
            started: facts.mtime,
            maker: facts.uid,
            directory,
            repositories: repositories.clone(),
            bringer: Bringer::new(repository.trees.clone()).marked(&mark),
            mark,
            inner: Mutex::new(Inner {
                state,
                stage: Stage::Open,
                journal,
                from: None,
                last_source: None,
                calls: 0,
                waits_for_quiet: false,
                rerun_patience: Duration::ZERO,
                accepted: Accepted::default(),
                given_up: Arc::default(),
                bring_again: false,
                handles: HashMap::new(),
                streaming: Streaming::default(),
                share: spool.share(),
            }),
            settled: Condvar::new(),
            streamer: spool.streamer(repository),
            spool: spool.clone(),
        }
    }

    /// Goes on with an open point whose journal lies in this directory. None when it belongs to a repository that
    /// is not mounted; `Busy` while another daemon serves it.
    pub(in crate::filesystem) fn resume(
        directory: &Path,
        spool: &Arc<Spool>,
        repositories: &Arc<Vec<Arc<MountedRepository>>>,
    ) -> Result<Option<Arc<Self>>> {
        if !directory.join("journal").exists() {
            // Nothing of it was written down.
            return Ok(None);
        }
        let mut begun = None;
        let mut state = State::default();
        let find = find_trees(repositories);
        let journal = Journal::open(directory, &mut |change| {
            if begun.is_none() {
                begun = mounted(&change, repositories);
                let now = begun.map(|(repository, ..)| repository.catalog.repository().now());
                state.now = now.unwrap_or_default();
            }
            // Of a repository that is not mounted nobody asks.
            if begun.is_some() {
                state.apply(change, &find);
            }
        })?;
        let Some((repository, backup, facts)) = begun else {
            return Ok(None);
        };
        state.forget_sources(None);
        let id = directory.file_name().and_then(|name| name.to_str());
        let id = id.and_then(|name| name.parse().ok()).unwrap_or_default();
        let open = Self::with(
            id,
            directory.to_owned(),
            spool,
            repositories,
            repository,
            (backup, facts),
            (state, journal),
        );
        open.mark.resume();
        open.find_from_again();
        if open.was_sealed() {
            remove(&open.set_aside());
            open.mark.give_back_behind();
            return Ok(None);
        }
        open.trim_spools()?;
        open.doubt_unsynced()?;
        let (sources, stored) = {
            let inner = open.inner.lock();
            (inner.state.sources_in_order(), inner.state.stored > 0)
        };
        // Somebody may have removed the mark, as of a host that is gone.
        if stored || !sources.is_empty() {
            open.mark.hold_behind();
        }
        // What was not brought before the daemon ended is asked for again; what is there costs a look at the index.
        open.bringer.want_behind(sources);
        let open = Arc::new(open);
        open.streamer.serve(&open);
        if open.inner.lock().state.spooled > 0 {
            open.streamer.look(open.id);
        }
        Ok(Some(open))
    }

    /// The daemon died after the record was created and before the journal was removed: the last that the journal
    /// tells is that it was about to be created, and there it is.
    fn was_sealed(&self) -> bool {
        let Some(sealing) = self.inner.lock().state.sealing else {
            return false;
        };
        let contents = self.repository.contents();
        let mut points = contents.points_of(self.backup);
        points.any(|point| fingerprint(&point.record) == sealing)
    }

    /// Takes another name when a complete point has got this one meanwhile, or another open one has it. The sentence
    /// that tells of it.
    pub(in crate::filesystem) fn make_way(&self, others: &[Arc<Self>]) -> Answer<Option<String>> {
        let contents = self.repository.contents();
        let taken = |name: &[u8]| {
            let complete = contents.points_of(self.backup);
            let mut open = others.iter();
            complete.into_iter().any(|point| point.name() == name)
                || open.any(|open| open.backup == self.backup && open.name() == name)
        };
        let name = self.name();
        if !taken(&name) {
            return Ok(None);
        }
        let base = name.strip_suffix(PARTIAL).unwrap_or(&name);
        // A name has 255 bytes at most.
        let base = &base[..base.len().min(240)];
        let numbered = (1u32..).map(|number| match number {
            1 => [base, PARTIAL].concat(),
            number => [base, format!("-{number}").as_bytes(), PARTIAL].concat(),
        });
        let free = numbered.into_iter().find(|name| !taken(name));
        self.set_name(&free.unwrap_or_default())?;
        Ok(Some(format!(
            "{}: this open point was named {}, and another point has that name now; rename it, which seals it, or \
             discard it with rmdir",
            self.path(),
            String::from_utf8_lossy(&name)
        )))
    }

    fn find_from_again(&self) {
        let mut inner = self.inner.lock();
        let Some((repository, point, generation)) = inner.state.from else {
            return;
        };
        let Some(repository) = self
            .repositories
            .iter()
            .find(|known| known.catalog.repository().id() == repository)
        else {
            return;
        };
        let contents = repository.contents();
        let found = contents
            .points
            .values()
            .flat_map(|points| points.values())
            .find(|known| known.id == point && known.generation == generation);
        if let Some(point) = found {
            let from = Arc::new(CompletePoint {
                repository: repository.clone(),
                point: point.clone(),
            });
            matching::rematch_all(&mut inner.state, &from);
            inner.from = Some((from, true));
        }
    }
}

/// What the first change says: the repository if it is mounted, the backup, and what the point had at first.
fn mounted<'a>(
    begin: &Change,
    repositories: &'a [Arc<MountedRepository>],
) -> Option<(&'a Arc<MountedRepository>, ObjectId, Facts)> {
    let Change::Begin {
        repository,
        backup,
        facts,
        ..
    } = begin
    else {
        return None;
    };
    let mut known = repositories.iter();
    let found = known.find(|known| known.catalog.repository().id() == *repository);
    Some((found?, *backup, *facts))
}

pub(super) fn find_trees(
    repositories: &[Arc<MountedRepository>],
) -> impl Fn(ObjectId) -> Option<Arc<Trees>> + '_ {
    |id| {
        let found = repositories
            .iter()
            .find(|repository| repository.catalog.repository().id() == id);
        found.map(|repository| repository.trees.clone())
    }
}
