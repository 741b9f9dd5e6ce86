//! Making, removing and renaming points and backups as directories.

use super::FileSystem;
use super::changes::{Caller, Mode};
use super::errno::{Answer, Rule};
use super::open::{Facts, OpenPoint, Waiting};
use super::repositories::{CompletePoint, MountedRepository};
use crate::error::{Error, Kind};
use crate::id::ObjectId;
use crate::point::{PARTIAL, require_point_name};
use std::sync::Arc;

impl FileSystem {
    pub(super) fn make_point(
        &self,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        name: &[u8],
        mode: Mode,
        caller: Caller,
    ) -> Answer<()> {
        check_point_name(name)?;
        if self.point_named(repository, backup, name) {
            return Err(Rule::Exists.into());
        }
        let facts = Facts {
            mode: mode.permissions(),
            uid: caller.uid,
            gid: caller.gid,
            mtime: self.options.clock.now(),
        };
        let open = OpenPoint::begin(
            self.open_points.directory()?,
            self.open_points.spool(),
            &self.repositories,
            repository,
            backup,
            name,
            facts,
        )?;
        if let Some(twin) = self.same_name_elsewhere(repository, backup, name) {
            open.may_be_copy_of(&twin)?;
        }
        self.copies.watch(&open);
        self.open_points.add(open);
        Ok(())
    }

    fn point_named(
        &self,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        name: &[u8],
    ) -> bool {
        let contents = repository.contents();
        let points = contents.points.get(&backup);
        points.is_some_and(|points| points.contains_key(name))
            || self.open_points.named(repository, backup, name).is_some()
    }

    /// The point of the same name in the backup of the same name of another repository.
    fn same_name_elsewhere(
        &self,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        name: &[u8],
    ) -> Option<Arc<CompletePoint>> {
        let backup = repository.backup(backup)?;
        let others = self.repositories.iter();
        let mut others = others.filter(|other| !Arc::ptr_eq(other, repository));
        others.find_map(|other| {
            let contents = other.contents();
            let point = contents.point(backup.name(), name)?.clone();
            Some(Arc::new(CompletePoint {
                repository: other.clone(),
                point,
            }))
        })
    }

    pub(super) fn remove_point(
        &self,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        name: &[u8],
        caller: Caller,
    ) -> Answer<()> {
        if let Some(open) = self.open_points.named(repository, backup, name) {
            match open.discard_for(self.waiting(caller)) {
                Ok(()) => {
                    self.open_points.remove(&open);
                    return Ok(());
                }
                // It has become complete meanwhile: that is what goes.
                Err(_) if open.sealed().is_some() => {}
                Err(failure) => return Err(failure),
            }
        }
        let contents = repository.contents();
        let point = contents
            .points
            .get(&backup)
            .and_then(|points| points.get(name));
        let point = point.ok_or(Rule::NoEntry)?;
        Ok(repository.catalog.forget(point)?)
    }

    pub(super) fn remove_backup(
        &self,
        repository: &Arc<MountedRepository>,
        name: &[u8],
    ) -> Answer<()> {
        let contents = repository.catalog.refresh()?;
        let backup = contents.backups.get(name).ok_or(Rule::NoEntry)?;
        let open = self.open_points.of_backup(repository, backup.id);
        if contents.points_of(backup.id).next().is_some() || !open.is_empty() {
            return Err(Rule::NotEmpty.into());
        }
        Ok(repository.catalog.remove_backup(backup)?)
    }

    pub(super) fn rename_backup(
        &self,
        repository: &Arc<MountedRepository>,
        name: &[u8],
        new_name: &[u8],
    ) -> Answer<()> {
        let contents = repository.contents();
        let backup = contents.backups.get(name).ok_or(Rule::NoEntry)?;
        if name == new_name {
            return Ok(());
        }
        Ok(repository.catalog.rename_backup(backup, new_name)?)
    }

    pub(super) fn waiting(&self, caller: Caller) -> Waiting {
        Waiting {
            pid: caller.pid,
            patience: Some(self.options.patience),
        }
    }

    pub(super) fn rename_point(
        &self,
        repository: &Arc<MountedRepository>,
        backup: ObjectId,
        (name, new_name): (&[u8], &[u8]),
        caller: Caller,
    ) -> Answer<()> {
        check_point_name(new_name)?;
        if name == new_name {
            return Ok(());
        }
        if self.point_named(repository, backup, new_name) {
            return Err(Rule::Exists.into());
        }
        let Some(open) = self.open_points.named(repository, backup, name) else {
            let contents = repository.contents();
            let points = contents.points.get(&backup);
            let point = points.and_then(|points| points.get(name));
            let renamed = repository
                .catalog
                .rename_point(point.ok_or(Rule::NoEntry)?, new_name);
            return Ok(renamed.map(drop)?);
        };
        if name.ends_with(PARTIAL) && !new_name.ends_with(PARTIAL) {
            let waiting = self.waiting(caller);
            return open.seal_for(waiting, new_name, self.seals_as(&open));
        }
        open.set_name(new_name)
    }

    /// Seals a point where it is: under its name, without the ending that says that it is not complete. However long that
    /// takes, unless the caller has enough of it.
    pub(super) fn seal_in_place(&self, open: &Arc<OpenPoint>, caller: Caller) -> Answer<()> {
        let name = open.name();
        let complete = name.strip_suffix(PARTIAL).unwrap_or(&name);
        check_point_name(complete)?;
        if complete != name && self.point_named(&open.repository, open.backup, complete) {
            let message = format!(
                "there is another point {}; rename this one to the name that it shall have",
                String::from_utf8_lossy(complete)
            );
            return Err(Error::new(Kind::AlreadyExists, message).into());
        }
        let waiting = Waiting {
            pid: caller.pid,
            patience: None,
        };
        open.seal_for(waiting, complete, self.seals_as(open))
    }
}

fn check_point_name(name: &[u8]) -> Answer<()> {
    if name.len() > 255 {
        return Err(Rule::NameTooLong.into());
    }
    Ok(require_point_name(name)?)
}
