//! Which backups and restore points a repository has: read from its records, kept fresh, and added to.
//!
//! A point is visible when its record is there and its trash entry is not. Names are unique because a point's id is
//! a keyed hash of its backup and its name, and records are created only if absent.

mod commit;
mod merge;
mod records;
mod rename;
mod trash;

use super::newest::Newest;
use super::record::{BackupRecord, Grave, PointRecord, Trash};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::page::is_name;
use crate::repository::{Repository, encode};
use crate::store::names::{self, Name};
use merge::{Held, LOOSE_RECORDS_MAX, merged};
use parking_lot::Mutex;
use records::Records;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use trash::Forgotten;

/// While a store does not answer, it is asked at most this often for readers, who see what was known last.
const FAILED_LOOK_KEPT: Duration = Duration::from_secs(5);

/// A backup with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its id.
    pub id: ObjectId,
    /// Number of its newest record.
    pub number: u64,
    /// Its newest record.
    pub record: BackupRecord,
}

impl Backup {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.record.name
    }
}

/// A complete restore point with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// A keyed hash of its backup and its name.
    pub id: ObjectId,
    /// Counts how often the name was used.
    pub generation: u64,
    /// Its record.
    pub record: PointRecord,
    /// BLAKE3-256 of the encoded record.
    pub hash: [u8; 32],
}

impl Point {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.record.name
    }
}

/// What a repository holds, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Backups by name.
    pub backups: BTreeMap<Vec<u8>, Arc<Backup>>,
    /// Visible points of each backup, by name.
    pub points: HashMap<ObjectId, BTreeMap<Vec<u8>, Arc<Point>>>,
    /// Points in the trash that can be brought back.
    pub forgotten: Vec<Forgotten>,
    /// Records that cannot be read, by object name, with the reason; and what `contradictions` says.
    pub problems: BTreeMap<String, String>,
    /// Backups of which the store shows less than this host has seen, or something else: a sentence each.
    pub contradictions: BTreeMap<ObjectId, String>,
}

impl Contents {
    /// The visible points of a backup, by name.
    pub fn points_of(&self, backup: ObjectId) -> impl DoubleEndedIterator<Item = &Arc<Point>> {
        self.points
            .get(&backup)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// The newest complete point of a backup: by the time its source was read, then by sequence.
    pub fn latest(&self, backup: ObjectId) -> Option<&Arc<Point>> {
        self.points_of(backup)
            .max_by_key(|point| (point.record.time, point.record.sequence))
    }

    /// A point by the names of its backup and its own.
    pub fn point(&self, backup: &[u8], name: &[u8]) -> Option<&Arc<Point>> {
        let backup = self.backups.get(backup)?;
        self.points.get(&backup.id)?.get(name)
    }
}

/// What is known of the store's records. Locked by who looks at the store, for as long as the look takes: looks come one
/// after another, so that what an older one has seen never replaces what a newer one has. Locked before [`Shown`].
#[derive(Default)]
struct State {
    records: HashMap<(ObjectId, u64), Arc<Point>>,
    /// Catalogues that were read, with what they hold.
    catalogues: HashMap<ObjectId, Held>,
    /// Catalogues that those replace.
    replaced: HashSet<ObjectId>,
    /// Of each point that was ever forgotten, the number of its newest record in the trash, and whether that hides it.
    trash: HashMap<(ObjectId, u64), (u64, bool)>,
    /// When the store got the newest record that the trash has of a point.
    trash_times: HashMap<(ObjectId, u64), Time>,
    /// Points that prune has removed for good.
    graves: HashMap<(ObjectId, u64), Grave>,
    backups: HashMap<ObjectId, Arc<Backup>>,
    /// Records of points that the store has listed.
    listed: Vec<Name>,
    newest: Newest,
}

impl State {
    fn hides(&self, key: &(ObjectId, u64)) -> bool {
        self.graves.contains_key(key) || self.trash.get(key).is_some_and(|(_, hidden)| *hidden)
    }
}

/// What readers are given; never locked while the store is asked.
#[derive(Default)]
struct Shown {
    contents: Arc<Contents>,
    /// When the look began that saw it.
    looked: Option<Instant>,
    /// When and why the last look failed; none when it did not.
    failed: Option<(Instant, Kind, String)>,
}

impl Shown {
    fn failure(&self) -> Option<Error> {
        let (_, kind, message) = self.failed.as_ref()?;
        Some(Error::new(*kind, message.clone()))
    }

    /// The answer to a reader who need not wait for the store.
    fn answer(&self, age: Duration) -> Option<Result<Arc<Contents>>> {
        if self.looked.is_some_and(|at| at.elapsed() < age) {
            return Some(Ok(self.contents.clone()));
        }
        let (at, ..) = self.failed.as_ref()?;
        let recent = at.elapsed() < FAILED_LOOK_KEPT;
        self.failure().filter(|_| recent).map(Err)
    }
}

/// The backups and restore points of a repository.
pub struct Catalog {
    repository: Arc<Repository>,
    state: Mutex<State>,
    shown: Mutex<Shown>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Catalog({})", self.repository.location())
    }
}

/// What a new restore point is to say of itself; the rest of the record follows from where it is committed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The record; `backup`, `sequence`, `previous`, `sealed` and `program` are filled in by the commit.
    pub record: PointRecord,
}

/// The name of the link to the newest complete point of a backup.
pub const LATEST: &[u8] = b"latest";
/// Ends the name of an open point that only a rename completes.
pub const PARTIAL: &[u8] = b".partial";

/// Fails with `Invalid` when no backup can have this name.
pub fn require_backup_name(name: &[u8]) -> Result<()> {
    if is_name(name) && !name.starts_with(b".") {
        return Ok(());
    }
    let message = format!(
        "{:?} cannot be the name of a backup; choose 1 to 255 bytes without '/', not beginning with '.'",
        String::from_utf8_lossy(name)
    );
    Err(Error::new(Kind::Invalid, message))
}

/// Fails with `Invalid` when no complete restore point can have this name.
pub fn require_point_name(name: &[u8]) -> Result<()> {
    if is_name(name) && !name.starts_with(b".") && name != LATEST {
        return Ok(());
    }
    let message = format!(
        "{:?} cannot be the name of a restore point; choose 1 to 255 bytes without '/', not beginning with '.' and not latest, which is always the newest one",
        String::from_utf8_lossy(name)
    );
    Err(Error::new(Kind::Invalid, message))
}

impl Catalog {
    /// Reads what is there.
    pub fn open(repository: Arc<Repository>) -> Result<Self> {
        let path = repository.cache_directory().join("newest");
        let newest = Newest::load(path, repository.location());
        let state = State {
            newest,
            ..State::default()
        };
        let catalog = Self {
            repository,
            state: Mutex::new(state),
            shown: Mutex::default(),
        };
        catalog.refresh()?;
        Ok(catalog)
    }

    /// The repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// What was there when it was last looked at.
    pub fn contents(&self) -> Arc<Contents> {
        self.shown.lock().contents.clone()
    }

    /// What is there, looked at anew if the last look is older than `age`. After a look that failed, the same error for
    /// a few seconds without asking the store.
    pub fn contents_within(&self, age: Duration) -> Result<Arc<Contents>> {
        let (answer, failure) = {
            let shown = self.shown.lock();
            (shown.answer(age), shown.failure())
        };
        if let Some(answer) = answer {
            return answer;
        }
        // Where the last look failed, one reader finds out whether the store is back, and no other waits for that.
        let mut state = match failure {
            None => self.state.lock(),
            Some(failure) => match self.state.try_lock() {
                Some(state) => state,
                None => return Err(failure),
            },
        };
        // Somebody else may have looked while this reader waited.
        let answer = self.shown.lock().answer(age);
        answer.unwrap_or_else(|| {
            let looked = self.look(&mut state);
            looked.inspect_err(|error| tracing::warn!("{self:?}: {error}"))
        })
    }

    /// Looks at the store anew: one listing of each kind, and only records that are new are read.
    pub fn refresh(&self) -> Result<Arc<Contents>> {
        self.look(&mut self.state.lock())
    }

    #[allow(clippy::disallowed_methods)] // monotonic ages of a cache, not times that are stored
    fn look(&self, state: &mut State) -> Result<Arc<Contents>> {
        let began = Instant::now();
        let found = self.read_records(state);
        let mut shown = self.shown.lock();
        match &found {
            Ok(contents) => {
                *shown = Shown {
                    contents: contents.clone(),
                    looked: Some(began),
                    failed: None,
                };
            }
            Err(error) => {
                shown.failed = Some((Instant::now(), error.kind(), error.message().to_owned()));
            }
        }
        found
    }

    /// Looks after a write that has succeeded. Where the look fails, `written` says what is known to be new: the write
    /// is done, and its caller is not told otherwise.
    fn look_after(&self, written: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        let Err(error) = self.look(&mut state) else {
            return;
        };
        tracing::warn!("what was written is not looked at yet: {error}");
        written(&mut state);
        let Contents {
            backups,
            points,
            forgotten,
            ..
        } = visible(&state, &state.listed, BTreeMap::new());
        let mut shown = self.shown.lock();
        shown.contents = Arc::new(Contents {
            backups,
            points,
            forgotten,
            ..(*shown.contents).clone()
        });
    }

    fn read_records(&self, state: &mut State) -> Result<Arc<Contents>> {
        let store = self.repository.store();
        let listed = |prefix| -> Result<Vec<Name>> {
            let objects = store.list(prefix)?;
            Ok(objects
                .iter()
                .filter_map(|object| Name::parse(&object.name))
                .collect())
        };
        // The trash is listed before the points: a point made anew after being forgotten is never hidden.
        let (backups, trash) = (listed(names::BACKUPS)?, store.list(names::TRASH)?);
        let (catalogues, points) = (store.list(names::CATALOGUE)?, listed(names::POINTS)?);
        let mut problems = BTreeMap::new();
        let mut records = Records {
            repository: &self.repository,
            state,
            problems: &mut problems,
        };
        records.read_backups(&backups)?;
        records.read_catalogues(catalogues)?;
        records.read_points(&points)?;
        records.read_trash(trash)?;
        let contradictions = compare_with_seen(state, &points);
        for (backup, why) in &contradictions {
            problems.insert(names::backup(*backup), why.clone());
        }
        state.listed = points;
        let mut contents = visible(state, &state.listed, problems);
        contents.contradictions = contradictions;
        Ok(Arc::new(contents))
    }

    /// The backup of this name, made if there is none.
    pub fn ensure_backup(&self, name: &[u8]) -> Result<Arc<Backup>> {
        if let Some(backup) = self.refresh()?.backups.get(name) {
            return Ok(backup.clone());
        }
        require_backup_name(name)?;
        let settings = self.repository.settings();
        let record = BackupRecord {
            name: name.to_vec(),
            uid: settings.uid,
            gid: settings.gid,
            mode: 0o755,
            readers: Vec::new(),
            created: self.repository.now(),
            removed: false,
        };
        // A backup that was renamed keeps its id; a new one of its old name takes the next id of that name.
        for id in self.backup_ids(name) {
            if let Some(backup) = self.backup_with_id(id, &record)? {
                return Ok(backup);
            }
        }
        let message = format!(
            "the backup {:?} cannot be made",
            String::from_utf8_lossy(name)
        );
        Err(Error::new(Kind::Failed, message))
    }

    /// The backup of this id when its newest record has the name of `record`, made or revived with that record where
    /// there is none; `None` when it has another name. Fails when its newest record cannot be read: whoever took another
    /// id then would have two backups of one name.
    fn backup_with_id(&self, id: ObjectId, record: &BackupRecord) -> Result<Option<Arc<Backup>>> {
        let mut number = 0;
        loop {
            match self.add_backup_record(id, number, record.clone()) {
                Err(error) if error.kind() == Kind::AlreadyExists => {}
                made => return made.map(Some),
            }
            let found = self.newest_backup_record(id)?;
            if !found.record.removed {
                if found.record.name != record.name {
                    return Ok(None);
                }
                // Somebody else made it a moment ago; whoever lists the backups next shall see it.
                self.refresh()?;
                return Ok(Some(found));
            }
            if self.contents().points_of(id).next().is_some() {
                // It was removed while a point was committed to it, so it is there under its name.
                return Ok(None);
            }
            number = next_number(found.number)?;
        }
    }

    fn newest_backup_record(&self, id: ObjectId) -> Result<Arc<Backup>> {
        let listed = self.repository.store().list(&names::backup(id))?;
        let numbers = listed
            .iter()
            .filter_map(|object| match Name::parse(&object.name) {
                Some(Name::Backup(_, number)) => Some(number),
                _ => None,
            });
        let number = numbers.max().unwrap_or(0);
        let record = self.repository.document(Name::Backup(id, number))?;
        Ok(Arc::new(Backup { id, number, record }))
    }

    /// The ids that backups of this name may have, in the order in which they are taken.
    pub(crate) fn backup_ids(&self, name: &[u8]) -> impl Iterator<Item = ObjectId> {
        (0u64..64).map(move |attempt| self.keyed_id(b"backup", &attempt.to_le_bytes(), name))
    }

    /// The id of the point of this name in a backup.
    pub(crate) fn point_id(&self, backup: ObjectId, name: &[u8]) -> ObjectId {
        self.keyed_id(b"point", &backup.0, name)
    }

    fn keyed_id(&self, what: &[u8], scope: &[u8], name: &[u8]) -> ObjectId {
        let mut hasher = blake3::Hasher::new_keyed(&self.repository.lasting_key("names"));
        for part in [what, scope, name] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let hash = hasher.finalize();
        ObjectId(
            hash.as_bytes()[..16]
                .try_into()
                .expect("a hash has 32 bytes"),
        )
    }

    /// Commits a restore point: everything it refers to must be durable and in the index. `AlreadyExists` when the
    /// backup has a visible point of this name, or another host commits it first.
    pub fn commit(&self, backup: &[u8], draft: Draft) -> Result<Arc<Point>> {
        let mut record = draft.record;
        require_point_name(&record.name)?;
        let condemned = self.require_uncondemned(&record)?;
        let backup = self.ensure_backup(backup)?;
        let id = self.point_id(backup.id, &record.name);
        let (generation, sequence, previous) = self.next_place(&backup, id, &record.name)?;
        record.backup = backup.id;
        record.sequence = sequence;
        record.previous = previous;
        record.sealed = self.repository.now();
        record.program = concat!("keepfs ", env!("CARGO_PKG_VERSION")).to_owned();
        self.repository
            .create_document(Name::Point(id, generation), &record)
            .map_err(|error| match error.kind() {
                Kind::AlreadyExists => taken(&backup, &record.name),
                _ => error,
            })?;
        let point = Arc::new(Point {
            id,
            generation,
            hash: *blake3::hash(&encode(&record)).as_bytes(),
            record,
        });
        self.gather_loose_records();
        self.look_after(|state| {
            state.records.insert((id, generation), point.clone());
            state.listed.push(Name::Point(id, generation));
        });
        self.require_still_uncondemned(&point, &condemned)?;
        Ok(point)
    }

    /// Generation of the name's next use, and the place in the backup's chain of records.
    fn next_place(
        &self,
        backup: &Backup,
        id: ObjectId,
        name: &[u8],
    ) -> Result<(u64, u64, [u8; 32])> {
        let state = self.state.lock();
        let of_name = || {
            let known = state.records.keys().chain(state.trash.keys());
            let known = known.chain(state.graves.keys());
            known.filter(|key| key.0 == id)
        };
        // A point that is known and not in the trash has the name, even where the store does not list it just now.
        if of_name().any(|key| !state.hides(key)) {
            return Err(taken(backup, name));
        }
        let generation = match of_name().map(|key| key.1).max() {
            None => 0,
            Some(used) => next_number(used)?,
        };
        let of_backup = || {
            state
                .records
                .values()
                .filter(|point| point.record.backup == backup.id)
        };
        let newest = of_backup().max_by_key(|point| point.record.sequence);
        Ok((
            generation,
            newest.map_or(Ok(1), |point| next_number(point.record.sequence))?,
            newest.map_or([0; 32], |point| point.hash),
        ))
    }

    /// Merges records into a catalogue when many lie loose. It only makes later starts faster: failure is harmless.
    fn gather_loose_records(&self) {
        let catalogues = merged(&self.state.lock(), LOOSE_RECORDS_MAX);
        for catalogue in catalogues {
            if let Err(error) = self
                .repository
                .create_document(Name::Catalogue(ObjectId::random()), &catalogue)
            {
                tracing::warn!("the list of restore points was not merged: {error}");
                return;
            }
        }
    }

    /// Forgets a point: it goes into the trash. Succeeds when it is there already.
    pub fn forget(&self, point: &Point) -> Result<()> {
        if let Some(reader) = self.repository.reader_of(point.id)? {
            let message = format!(
                "{} is being copied by {} (process {}); wait for the copy, or stop it and try again",
                String::from_utf8_lossy(point.name()),
                reader.host,
                reader.process
            );
            return Err(Error::new(Kind::Busy, message));
        }
        self.put_in_trash(point, true)
    }

    /// Adds the next record to what the trash says of a point, unless its newest says the same.
    fn put_in_trash(&self, point: &Point, hidden: bool) -> Result<()> {
        let trash = Trash {
            time: self.repository.now(),
            host: crate::repository::host_name(),
            undone: !hidden,
        };
        let key = (point.id, point.generation);
        let (mut looked, mut free) = (false, 0);
        let n = loop {
            let known = self.state.lock().trash.get(&key).copied();
            if known.map_or(!hidden, |(_, now)| now == hidden) {
                if looked {
                    return Ok(());
                }
                self.refresh()?;
                looked = true;
                continue;
            }
            let next = known.map_or(Ok(0), |(n, _)| next_number(n))?;
            // What lies at a number and cannot be read is passed over: this record holds whatever that one said.
            let n = next.max(free);
            let name = Name::Trash(point.id, point.generation, n);
            match self.repository.create_document(name, &trash) {
                Ok(()) => break n,
                // Somebody else was first, maybe with the same wish.
                Err(error) if error.kind() == Kind::AlreadyExists => {
                    self.refresh()?;
                    looked = true;
                    free = next_number(n)?;
                }
                Err(error) => return Err(error),
            }
        };
        self.look_after(|state| {
            state.trash.insert(key, (n, hidden));
        });
        Ok(())
    }

    /// Removes a backup: a new record says so. The caller has seen that it holds no point.
    pub fn remove_backup(&self, backup: &Backup) -> Result<()> {
        let removed = true;
        self.change_backup(
            backup,
            BackupRecord {
                removed,
                ..backup.record.clone()
            },
        )
    }

    /// Gives a backup a new record. Fails with `AlreadyExists` when somebody else changed it meanwhile.
    pub fn change_backup(&self, backup: &Backup, record: BackupRecord) -> Result<()> {
        self.add_backup_record(backup.id, next_number(backup.number)?, record)?;
        Ok(())
    }

    fn add_backup_record(
        &self,
        id: ObjectId,
        number: u64,
        record: BackupRecord,
    ) -> Result<Arc<Backup>> {
        self.repository
            .create_document(Name::Backup(id, number), &record)?;
        let backup = Arc::new(Backup { id, number, record });
        self.look_after(|state| drop(state.backups.insert(id, backup.clone())));
        Ok(backup)
    }

    /// The time now, for drafts.
    pub fn now(&self) -> Time {
        self.repository.now()
    }
}

/// The number of the next record of a series.
fn next_number(number: u64) -> Result<u64> {
    number.checked_add(1).ok_or_else(|| {
        Error::new(
            Kind::TooBig,
            "a series of records has reached its last number",
        )
    })
}

fn taken(backup: &Backup, name: &[u8]) -> Error {
    let message = format!(
        "the backup {} already has a restore point {}; choose another name",
        String::from_utf8_lossy(backup.name()),
        String::from_utf8_lossy(name)
    );
    Error::new(Kind::AlreadyExists, message)
}

/// Backups of which the store shows less than this host has seen before, or something else.
fn compare_with_seen(state: &mut State, listed: &[Name]) -> BTreeMap<ObjectId, String> {
    let State {
        newest,
        records,
        backups,
        ..
    } = state;
    let shown = listed.iter().filter_map(|name| match name {
        Name::Point(id, generation) => records.get(&(*id, *generation)),
        _ => None,
    });
    newest.compare(shown, |id| match backups.get(&id) {
        Some(backup) => String::from_utf8_lossy(backup.name()).into_owned(),
        None => id.to_string(),
    })
}

fn visible(state: &State, listed: &[Name], problems: BTreeMap<String, String>) -> Contents {
    let mut contents = Contents {
        problems,
        ..Contents::default()
    };
    for name in listed {
        let Name::Point(id, generation) = name else {
            continue;
        };
        let key = (*id, *generation);
        let Some(point) = state.records.get(&key) else {
            continue;
        };
        if state.hides(&key) {
            continue;
        }
        let points = contents.points.entry(point.record.backup).or_default();
        let newer = points
            .get(point.name())
            .is_none_or(|other| other.generation < point.generation);
        if newer {
            points.insert(point.record.name.clone(), point.clone());
        }
    }
    name_backups(state, &mut contents);
    contents.forgotten = trash::forgotten(state, listed);
    contents
}

/// Of two backups of one name the lower id has it, on every host. One that was removed while another host committed a
/// point to it is there as long as the point is, if its name is not in use again.
fn name_backups(state: &State, contents: &mut Contents) {
    let mut backups: Vec<_> = state.backups.values().collect();
    backups.sort_unstable_by_key(|backup| (backup.record.removed, backup.id));
    for backup in backups {
        if backup.record.removed && !contents.points.contains_key(&backup.id) {
            continue;
        }
        match contents.backups.entry(backup.record.name.clone()) {
            Entry::Vacant(place) => {
                place.insert(backup.clone());
            }
            Entry::Occupied(other) => {
                let sentence = format!(
                    "the backup {} also exists with the id {}, which is shown; the points of this one are not",
                    String::from_utf8_lossy(backup.name()),
                    other.get().id
                );
                contents.problems.insert(names::backup(backup.id), sentence);
            }
        }
    }
}
