//! Reading the records that the store lists and that are not known yet.

use super::{Backup, Point, State};
use crate::error::{Kind, Result};
use crate::id::ObjectId;
use crate::point::record::{Catalogue, Trash};
use crate::repository::{Repository, decode};
use crate::store::names::Name;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Adds what is new to what is known of a repository's records, and forgets what is not listed any more.
pub(super) struct Records<'a> {
    pub repository: &'a Repository,
    pub state: &'a mut State,
    /// Records that cannot be read, by object name, with the reason.
    pub problems: &'a mut BTreeMap<String, String>,
}

impl Records<'_> {
    /// Reads the newest record of each backup.
    pub fn read_backups(&mut self, listed: &[Name]) -> Result<()> {
        let mut newest = HashMap::new();
        for name in listed {
            if let Name::Backup(id, n) = name {
                let highest = newest.entry(*id).or_insert(*n);
                *highest = (*highest).max(*n);
            }
        }
        self.state
            .backups
            .retain(|id, backup| newest.get(id) == Some(&backup.number));
        for (id, number) in newest {
            if self.state.backups.contains_key(&id) {
                continue;
            }
            let name = Name::Backup(id, number);
            if let Some(record) = self.noted(name, self.repository.document(name))? {
                self.state
                    .backups
                    .insert(id, Arc::new(Backup { id, number, record }));
            }
        }
        Ok(())
    }

    /// Reads the catalogues, and the records in them.
    pub fn read_catalogues(&mut self, listed: &[Name]) -> Result<()> {
        for name in listed {
            let Name::Catalogue(id) = name else { continue };
            if self.state.catalogues.contains(id) {
                continue;
            }
            let Some(catalogue) =
                self.noted::<Catalogue>(*name, self.repository.document(*name))?
            else {
                continue;
            };
            for entry in catalogue.points {
                let key = (entry.id, entry.generation);
                if let Some(point) = self.noted(*name, point_of(key, &entry.record))? {
                    self.state.records.entry(key).or_insert(Arc::new(point));
                    self.state.covered.insert(key);
                }
            }
            self.state.catalogues.insert(*id);
        }
        Ok(())
    }

    /// Reads the records of points that no catalogue has.
    pub fn read_points(&mut self, listed: &[Name]) -> Result<()> {
        for name in listed {
            let Name::Point(id, generation) = name else {
                continue;
            };
            let key = (*id, *generation);
            if self.state.records.contains_key(&key) {
                continue;
            }
            let read = self
                .repository
                .document_bytes(*name)
                .and_then(|bytes| point_of(key, &bytes));
            if let Some(point) = self.noted(*name, read)? {
                self.state.records.insert(key, Arc::new(point));
            }
        }
        Ok(())
    }

    /// Reads what was forgotten, and what of that is undone.
    pub fn read_trash(&mut self, listed: &[Name]) -> Result<()> {
        let mut newest = HashMap::new();
        for name in listed {
            if let Name::Trash(id, generation, n) = name {
                let highest = newest.entry((*id, *generation)).or_insert(*n);
                *highest = (*highest).max(*n);
            }
        }
        self.state
            .trash
            .retain(|key, (n, _)| newest.get(key) == Some(n));
        for (key, n) in newest {
            if self.state.trash.contains_key(&key) {
                continue;
            }
            let name = Name::Trash(key.0, key.1, n);
            // What cannot be read still hides its point: it was forgotten by somebody who held the key.
            let trash: Option<Trash> = self.noted(name, self.repository.document(name))?;
            let hidden = trash.is_none_or(|trash| !trash.undone);
            self.state.trash.insert(key, (n, hidden));
        }
        Ok(())
    }

    /// What is damaged or gone is noted and passed over, so that everything else can be used; other failures are told.
    fn noted<T>(&mut self, name: Name, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::TooNew | Kind::WrongKey) => {
                tracing::warn!("{name} cannot be read: {error}");
                self.problems.insert(name.to_string(), error.to_string());
                Ok(None)
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn point_of((id, generation): (ObjectId, u64), bytes: &[u8]) -> Result<Point> {
    Ok(Point {
        id,
        generation,
        record: decode(bytes)?,
        hash: *blake3::hash(bytes).as_bytes(),
    })
}
