//! Leases: what writers say so that prune waits for them. `leases/<id>`.
//!
//! A writer's lease makes nothing safe that would not be safe without: a commit looks itself whether all that its point
//! refers to will stay, and is refused otherwise. It only sees to it that a long backup is not refused at its end. The mark
//! of an open point does more: what tools wrote may be nowhere else, so prune deletes nothing that it listed after the mark. While a
//! writer's or an open point's lease is alive, prune condemns no pack that was stored after it, and lets no point go that
//! was forgotten after it.
//!
//! A lease begins when the store stamped its object. It is alive until it is deleted, or, by the store's own times, for
//! as long as it says (the time from `taken` to `ends`); the mark of an open point has no end, so that of a host that is gone
//! goes only when somebody says so ([`Repository::remove_mark`]). A renewal is another
//! object that names the first one as its `point`: the lease is alive as long as one of them is, and began with the
//! earliest that is still there.

use super::{Repository, host_name};
use crate::clock::Time;
use crate::error::{Kind, Result};
use crate::id::ObjectId;
use crate::store::names::{self, Name};
use crate::thread;
use bincode::{Decode, Encode};
use parking_lot::Mutex;
use std::sync::Arc;

/// How long a writer's lease lasts: a host that sleeps over a weekend's day goes on.
const WRITER_SECONDS: i64 = 48 * 60 * 60;
/// Age from which it is renewed.
const RENEW_SECONDS: i64 = 8 * 60 * 60;

/// What a lease keeps from being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeaseKind {
    /// A reader of one point.
    Reader,
    /// A writer whose packs are not in any point yet.
    Writer,
    /// An open point: never expires.
    OpenPoint,
}

/// `leases/<id>`: somebody uses the repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lease {
    /// What it protects.
    pub kind: LeaseKind,
    /// The host that holds it.
    pub host: String,
    /// The process that holds it.
    pub process: u32,
    /// When it was taken.
    pub taken: Time,
    /// When it ends unless it is renewed; none for never.
    pub ends: Option<Time>,
    /// The point, for a reader; the lease that this one renews, for a writer.
    pub point: Option<ObjectId>,
    /// The backup's name and the point's name, for an open point.
    pub name: Option<(Vec<u8>, Vec<u8>)>,
}

impl Lease {
    /// Whether its process was one of this host, and is gone.
    fn is_of_the_dead(&self) -> bool {
        let process = format!("/proc/{}", self.process);
        self.host == host_name() && !std::path::Path::new(&process).exists()
    }

    /// Seconds from its object's time for which it lasts; none for ever.
    pub fn seconds(&self) -> Option<i64> {
        let ends = self.ends?;
        Some(ends.seconds.saturating_sub(self.taken.seconds).max(0))
    }
}

/// A writer's lease: taken with its first pack, and gone with it.
#[derive(Debug)]
pub(crate) struct WriterLease {
    repository: Arc<Repository>,
    /// The objects, the first one first, and when the last was made.
    taken: Mutex<(Vec<ObjectId>, Time)>,
}

impl WriterLease {
    pub(crate) fn new(repository: Arc<Repository>) -> Self {
        Self {
            repository,
            taken: Mutex::default(),
        }
    }

    /// Takes the lease, or renews one that is old. Called before each pack is begun.
    pub(crate) fn hold(&self) -> Result<()> {
        let now = self.repository.now();
        let (objects, last) = &mut *self.taken.lock();
        let age = now.seconds.saturating_sub(last.seconds);
        if !objects.is_empty() && (0..RENEW_SECONDS).contains(&age) {
            return Ok(());
        }
        let lease = Lease {
            kind: LeaseKind::Writer,
            host: host_name(),
            process: std::process::id(),
            taken: now,
            ends: Some(Time::new(now.seconds.saturating_add(WRITER_SECONDS), 0)),
            point: objects.first().copied(),
            name: None,
        };
        let id = ObjectId::random();
        self.repository.create_document(Name::Lease(id), &lease)?;
        objects.push(id);
        *last = now;
        Ok(())
    }
}

impl Drop for WriterLease {
    fn drop(&mut self) {
        give_back(&self.repository, &self.taken.get_mut().0);
    }
}

/// How long a reader's lease lasts, and the age from which it is renewed: a host that died keeps a point for an hour.
const READER_SECONDS: i64 = 60 * 60;
const READER_RENEW_SECONDS: i64 = 20 * 60;

/// A reader's lease on points of a repository: nobody forgets them meanwhile, and prune keeps them. It ends when it is
/// dropped.
#[derive(Debug)]
pub struct ReaderLease {
    repository: Arc<Repository>,
    points: Vec<ObjectId>,
    /// The objects, and when the last were made.
    taken: Mutex<(Vec<ObjectId>, Time)>,
}

impl ReaderLease {
    /// A lease on these points.
    pub fn take(repository: Arc<Repository>, points: Vec<ObjectId>) -> Result<Self> {
        let lease = Self {
            repository,
            points,
            taken: Mutex::default(),
        };
        lease.hold()?;
        Ok(lease)
    }

    /// Renews the lease if it is old; called now and then.
    pub fn hold(&self) -> Result<()> {
        let now = self.repository.now();
        let (objects, last) = &mut *self.taken.lock();
        let age = now.seconds.saturating_sub(last.seconds);
        if !objects.is_empty() && (0..READER_RENEW_SECONDS).contains(&age) {
            return Ok(());
        }
        for point in &self.points {
            let lease = Lease {
                kind: LeaseKind::Reader,
                host: host_name(),
                process: std::process::id(),
                taken: now,
                ends: Some(Time::new(now.seconds.saturating_add(READER_SECONDS), 0)),
                point: Some(*point),
                name: None,
            };
            let id = ObjectId::random();
            self.repository.create_document(Name::Lease(id), &lease)?;
            objects.push(id);
        }
        *last = now;
        Ok(())
    }
}

impl Drop for ReaderLease {
    fn drop(&mut self) {
        give_back(&self.repository, &self.taken.get_mut().0);
    }
}

/// What stays ends by itself.
fn give_back(repository: &Repository, leases: &[ObjectId]) {
    for id in leases {
        let name = Name::Lease(*id).to_string();
        if let Err(error) = repository.store().delete(&name) {
            tracing::info!("the lease {id} was not given back and ends later: {error}");
        }
    }
}

/// A mark as it is found in a repository: nothing but its host ends it.
#[derive(Debug)]
pub struct FoundMark {
    /// The id of the open point.
    pub id: ObjectId,
    /// When it was made, by the store's clock.
    pub since: Time,
    /// What it says. One that cannot be read may be the mark of an open point, and counts as one.
    pub lease: Result<Lease>,
}

impl Repository {
    /// The marks of all open points of all hosts, and what cannot be read and may be one; the oldest first.
    pub fn open_point_marks(&self) -> Result<Vec<FoundMark>> {
        let mut marks = Vec::new();
        for object in self.store().list(names::LEASES)? {
            let Some(Name::Lease(id)) = Name::parse(&object.name) else {
                continue;
            };
            let lease = match self.document::<Lease>(Name::Lease(id)) {
                Ok(lease) if lease.kind != LeaseKind::OpenPoint => continue,
                Err(error) => match error.kind() {
                    // Given back since.
                    Kind::NotFound => continue,
                    Kind::Damaged | Kind::WrongKey | Kind::TooNew => Err(error),
                    _ => return Err(error),
                },
                read => read,
            };
            let since = object.modified;
            marks.push(FoundMark { id, since, lease });
        }
        marks.sort_by_key(|mark| (mark.since, mark.id));
        Ok(marks)
    }

    /// Who reads this point just now, so that it must not be forgotten: a lease that is alive by this host's clock.
    pub fn reader_of(&self, point: ObjectId) -> Result<Option<Lease>> {
        let now = self.now();
        for object in self.store().list(names::LEASES)? {
            let Some(Name::Lease(id)) = Name::parse(&object.name) else {
                continue;
            };
            let lease = match self.document::<Lease>(Name::Lease(id)) {
                // Given back since, or nothing that a reader of ours wrote.
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::NotFound | Kind::Damaged | Kind::WrongKey | Kind::TooNew
                    ) =>
                {
                    continue;
                }
                read => read?,
            };
            let age = now.seconds.saturating_sub(object.modified.seconds);
            let lasts = lease.seconds().is_none_or(|lasts| age < lasts);
            let alive = lasts && !lease.is_of_the_dead();
            if lease.kind == LeaseKind::Reader && lease.point == Some(point) && alive {
                return Ok(Some(lease));
            }
        }
        Ok(None)
    }

    /// Removes the mark of an open point whose host is gone. Should that host come back, it looks for each chunk before it
    /// seals, and its daemon makes the mark anew.
    pub fn remove_mark(&self, id: ObjectId) -> Result<()> {
        self.require_writable()?;
        self.store().delete(&Name::Lease(id).to_string())
    }
}

/// The mark of an open point. It is made before anything is stored for the point, and goes when the point does.
#[derive(Clone, Debug)]
pub struct OpenPointMark {
    repository: Arc<Repository>,
    id: ObjectId,
    /// The backup's name and the point's name when it was made.
    name: (Vec<u8>, Vec<u8>),
    state: Arc<Mutex<Marked>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marked {
    No,
    /// An earlier process may have made it.
    Perhaps,
    Yes,
    Gone,
}

impl OpenPointMark {
    /// The mark of the open point with this id and name; not made yet.
    pub fn new(repository: Arc<Repository>, id: ObjectId, name: (Vec<u8>, Vec<u8>)) -> Self {
        Self {
            repository,
            id,
            name,
            state: Arc::new(Mutex::new(Marked::No)),
        }
    }

    /// An earlier process may have made it.
    pub fn resume(&self) {
        *self.state.lock() = Marked::Perhaps;
    }

    /// Makes the mark unless it is there.
    pub fn hold(&self) -> Result<()> {
        let mut state = self.state.lock();
        if matches!(*state, Marked::Yes | Marked::Gone) {
            return Ok(());
        }
        let lease = Lease {
            kind: LeaseKind::OpenPoint,
            host: host_name(),
            process: std::process::id(),
            taken: self.repository.now(),
            ends: None,
            point: None,
            name: Some(self.name.clone()),
        };
        let name = Name::Lease(self.id);
        match self.repository.create_document(name, &lease) {
            Err(error) if error.kind() == Kind::AlreadyExists => {}
            made => made?,
        }
        *state = Marked::Yes;
        Ok(())
    }

    /// As [`Self::hold`], behind the caller's back. A failure only means that it is made later.
    pub fn hold_behind(&self) {
        // Locked: somebody is about it.
        let made = |state: &Marked| matches!(state, Marked::Yes | Marked::Gone);
        if self.state.try_lock().is_none_or(|state| made(&state)) {
            return;
        }
        let mark = self.clone();
        thread::spawn(move || {
            if let Err(error) = mark.hold() {
                tracing::info!("the open point {} is not marked yet: {error}", mark.id);
            }
        });
    }

    /// The point was sealed or discarded: the mark goes.
    pub fn give_back(&self) {
        let mut state = self.state.lock();
        let was = std::mem::replace(&mut *state, Marked::Gone);
        if !matches!(was, Marked::Yes | Marked::Perhaps) {
            return;
        }
        let name = Name::Lease(self.id).to_string();
        if let Err(error) = self.repository.store().delete(&name) {
            tracing::warn!("{name}, the mark of an open point that is gone, stays: {error}");
        }
    }

    /// As [`Self::give_back`], behind the caller's back.
    pub fn give_back_behind(&self) {
        let mark = self.clone();
        thread::spawn(move || mark.give_back());
    }
}
