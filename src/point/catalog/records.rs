//! Reading the records that the store lists and that are not known yet.

use super::merge::Held;
use super::{Backup, Point, State};
use crate::clock::Time;
use crate::error::{Kind, Result};
use crate::id::ObjectId;
use crate::point::record::{Catalogue, Grave, Trash};
use crate::repository::{Repository, decode};
use crate::store::Object;
use crate::store::names::Name;
use std::collections::{BTreeMap, HashMap, HashSet};
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
        let series = series(listed, |name| match name {
            Name::Backup(id, n) => Some((id, n)),
            _ => None,
        });
        self.state.backups.retain(|id, backup| {
            let numbers = series.get(id);
            numbers.is_some_and(|numbers| numbers.contains(&backup.number))
        });
        for (id, numbers) in series {
            let known = self.state.backups.get(&id).map(|backup| backup.number);
            let Some((number, name, bytes)) =
                self.newest(&numbers, known, |n| Name::Backup(id, n))?
            else {
                continue;
            };
            match self.noted(name, decode(&bytes))? {
                Some(record) => {
                    let backup = Backup { id, number, record };
                    self.state.backups.insert(id, Arc::new(backup));
                }
                None => drop(self.state.backups.remove(&id)),
            }
        }
        Ok(())
    }

    /// The highest record above `known` of a series, whose numbers descend, that can be authenticated. Anybody who can
    /// write to the store can give an object the highest number, so what is not authentic hides nothing; it is noted.
    fn newest(
        &mut self,
        numbers: &[u64],
        known: Option<u64>,
        name_of: impl Fn(u64) -> Name,
    ) -> Result<Option<(u64, Name, Vec<u8>)>> {
        for number in numbers.iter().copied() {
            if known.is_some_and(|known| number <= known) {
                break;
            }
            let name = name_of(number);
            if let Some(bytes) = self.noted(name, self.repository.document_bytes(name))? {
                return Ok(Some((number, name, bytes)));
            }
        }
        Ok(None)
    }

    /// Reads the catalogues that no other replaces, and the records in them. A catalogue that replaces others is mostly
    /// larger than they are, so the largest are read first.
    pub fn read_catalogues(&mut self, mut listed: Vec<Object>) -> Result<()> {
        listed.sort_unstable_by_key(|object| std::cmp::Reverse(object.size));
        let named = |object: &Object| match Name::parse(&object.name) {
            Some(Name::Catalogue(id)) => Some(id),
            _ => None,
        };
        let ids: Vec<ObjectId> = listed.iter().filter_map(named).collect();
        let present: HashSet<_> = ids.iter().copied().collect();
        for id in ids {
            if self.state.catalogues.contains_key(&id) || self.state.replaced.contains(&id) {
                continue;
            }
            let name = Name::Catalogue(id);
            let read = self.repository.document(name);
            if let Some(catalogue) = self.noted(name, read)? {
                self.take_catalogue(name, id, catalogue)?;
            }
        }
        let State {
            catalogues,
            replaced,
            ..
        } = &mut *self.state;
        replaced.retain(|id| present.contains(id));
        catalogues.retain(|id, _| present.contains(id) && !replaced.contains(id));
        Ok(())
    }

    fn take_catalogue(&mut self, name: Name, id: ObjectId, catalogue: Catalogue) -> Result<()> {
        let mut held = Held::default();
        for entry in catalogue.points {
            let key = (entry.id, entry.generation);
            held.bytes += entry.record.len();
            if let Some(grave) = Grave::decode(&entry.record) {
                held.graves.push(key);
                self.state.graves.insert(key, grave);
                continue;
            }
            if let Some(point) = self.noted(name, point_of(key, &entry.record))? {
                self.state.records.entry(key).or_insert(Arc::new(point));
                held.keys.push(key);
            }
        }
        self.state.replaced.extend(catalogue.replaces);
        self.state.catalogues.insert(id, held);
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
    pub fn read_trash(&mut self, objects: Vec<Object>) -> Result<()> {
        let named = |object: &Object| Some((Name::parse(&object.name)?, object.modified));
        let times: HashMap<Name, Time> = objects.iter().filter_map(named).collect();
        let listed: Vec<Name> = times.keys().copied().collect();
        let series = series(&listed, |name| match name {
            Name::Trash(id, generation, n) => Some(((id, generation), n)),
            _ => None,
        });
        self.state.trash.retain(|key, (n, _)| {
            let numbers = series.get(key);
            numbers.is_some_and(|numbers| numbers.contains(n))
        });
        for (key, numbers) in series {
            let known = self.state.trash.get(&key).map(|(n, _)| *n);
            let Some((n, name, bytes)) =
                self.newest(&numbers, known, |n| Name::Trash(key.0, key.1, n))?
            else {
                continue;
            };
            // What is authentic and cannot be understood hides its point: somebody who held the key wrote it.
            let trash: Option<Trash> = self.noted(name, decode(&bytes))?;
            let hidden = trash.is_none_or(|trash| !trash.undone);
            self.state.trash.insert(key, (n, hidden));
        }
        let newest = self.state.trash.iter().filter_map(|(key, (n, _))| {
            let time = times.get(&Name::Trash(key.0, key.1, *n))?;
            Some((*key, *time))
        });
        self.state.trash_times = newest.collect();
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

/// The numbers of each series that is listed, highest first.
fn series<K: Eq + std::hash::Hash>(
    listed: &[Name],
    place_of: impl Fn(Name) -> Option<(K, u64)>,
) -> HashMap<K, Vec<u64>> {
    let mut series: HashMap<K, Vec<u64>> = HashMap::new();
    for (key, number) in listed.iter().copied().filter_map(place_of) {
        series.entry(key).or_default().push(number);
    }
    for numbers in series.values_mut() {
        numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
    }
    series
}

fn point_of((id, generation): (ObjectId, u64), bytes: &[u8]) -> Result<Point> {
    Ok(Point {
        id,
        generation,
        record: decode(bytes)?,
        hash: *blake3::hash(bytes).as_bytes(),
    })
}
