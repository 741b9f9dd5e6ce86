//! New names for backups and complete points: a new record each, of the same content.

use super::{Backup, Catalog, Draft, Point, require_backup_name};
use crate::error::{Error, Kind, Result};
use crate::point::record::{BackupRecord, PointRecord};
use std::sync::Arc;

impl Catalog {
    /// Gives a complete point another name in its backup: the same tree under a new record, and the old one goes into
    /// the trash. Whoever dies in between leaves it under both names. Fails as [`Catalog::commit`] does.
    pub fn rename_point(&self, point: &Point, name: &[u8]) -> Result<Arc<Point>> {
        let contents = self.contents();
        let mut backups = contents.backups.values();
        let backup = backups.find(|backup| backup.id == point.record.backup);
        let backup = backup.ok_or_else(|| {
            let message = "the backup of this restore point is gone; look again";
            Error::new(Kind::NotFound, message)
        })?;
        let record = PointRecord {
            name: name.to_vec(),
            ..point.record.clone()
        };
        let renamed = self.commit(backup.name(), Draft { record })?;
        self.forget(point)?;
        Ok(renamed)
    }

    /// Gives a backup another name; its points stay its points. `AlreadyExists` when there is one of this name, also when
    /// another host gives it at the same moment, and when another host changes this backup meanwhile.
    pub fn rename_backup(&self, backup: &Backup, name: &[u8]) -> Result<()> {
        require_backup_name(name)?;
        let taken = || {
            let name = String::from_utf8_lossy(name);
            let message = format!("there is another backup {name}; choose another name");
            Error::new(Kind::AlreadyExists, message)
        };
        if self.refresh()?.backups.contains_key(name) {
            return Err(taken());
        }
        let named = |name: &[u8]| BackupRecord {
            name: name.to_vec(),
            ..backup.record.clone()
        };
        self.change_backup(backup, named(name))?;
        let contents = self.refresh()?;
        let shown = contents.backups.get(name);
        if shown.is_none_or(|shown| shown.id == backup.id) {
            return Ok(());
        }
        // Another backup got this name, and only one of them shows.
        let changed = self.newest_backup_record(backup.id)?;
        self.change_backup(&changed, named(backup.name()))?;
        Err(taken())
    }
}
