//! One pass over a repository: what is expired goes, what nobody needs is marked, a list is made, decided or carried out.

use super::leases::{self, Protection};
use super::mark::{Marks, Pack};
use super::plan::{Limits, is_settled, plan};
use super::rewrite::rewrite;
use super::{Options, Report};
use crate::clock::Time;
use crate::copy::remove_old_sessions;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::point::{Catalog, Condemned, Contents, Lease, LeaseKind, Point};
use crate::progress::Progress;
use crate::repository::{Condemnation, Repository, Stage, host_name};
use crate::store::names::{self, Name};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Seconds for which the object lasts that tells the store's time.
const STAMP_SECONDS: i64 = 600;
/// How often packs are taken out of an index that others write at the same time.
const DROPS_MAX: usize = 8;

pub(super) struct Pass<'a> {
    pub catalog: &'a Catalog,
    pub options: &'a Options,
    pub progress: &'a Progress,
    pub report: &'a mut Report,
}

/// How long it is told of copy sessions that are over: 13 weeks.
const HISTORY_SECONDS: i64 = 13 * 7 * 24 * 60 * 60;

impl Pass<'_> {
    fn repository(&self) -> &Arc<Repository> {
        self.catalog.repository()
    }

    /// The time of the store: that of an object made just now. A dry run makes none and takes the host's.
    fn store_time(&self) -> Result<Time> {
        let repository = self.repository();
        let now = repository.now();
        if self.options.dry_run {
            return Ok(now);
        }
        let lease = Lease {
            kind: LeaseKind::Reader,
            host: host_name(),
            process: std::process::id(),
            taken: now,
            // It keeps nothing, and lasts long enough for no other prune to remove it meanwhile.
            ends: Some(Time::new(now.seconds.saturating_add(STAMP_SECONDS), 0)),
            point: None,
            name: None,
        };
        let name = Name::Lease(ObjectId::random());
        repository.create_document(name, &lease)?;
        let name = name.to_string();
        let time = repository.store().head(&name)?.modified;
        repository.store().delete(&name)?;
        Ok(time)
    }

    pub fn run(&mut self) -> Result<()> {
        let repository = self.repository().clone();
        let now = self.store_time()?;
        let protection = leases::read(&repository, now)?;
        self.report.leases = protection.told.clone();
        let contents = self.catalog.refresh()?;
        refuse_doubt(&repository, &contents)?;
        let expired = self.expire(&contents, &protection, now)?;
        // In this order: what these points need was in the index before they were there.
        let mut points = self.catalog.kept();
        points.retain(|point| !expired.contains(&key(point)));
        let condemned = repository.condemned()?;
        let mut marks = Marks::new(&repository, &condemned.packs)?;
        self.progress.expect(points.len() as u64, 0);
        marks.mark(&points, self.progress)?;
        let limits = Limits {
            now,
            grace: self.options.grace_seconds,
            // What must be retrieved before it is read is not written anew to save room.
            max_dead: match repository.require_readable_class() {
                Ok(()) => self.options.max_dead,
                Err(_) => 100,
            },
        };
        let condemned = match condemned.stage {
            Stage::Listed(time) if now < time => {
                self.wait(&condemned, time, &marks);
                (*condemned).clone()
            }
            Stage::Listed(_) => match self.decide(&condemned, &protection, &limits, &mut marks)? {
                Some(decided) => self.carry_out(&points, decided, &mut marks)?,
                None => (*condemned).clone(),
            },
            Stage::Decided => self.carry_out(&points, (*condemned).clone(), &mut marks)?,
            Stage::Never | Stage::Done => (*condemned).clone(),
        };
        self.condemn(&condemned, &protection, &limits, &marks)?;
        if self.options.dry_run {
            return Ok(());
        }
        self.tidy(&protection, now)
    }

    /// Removes what has been in the trash for long enough, unless a lease is older than its forgetting.
    fn expire(
        &mut self,
        contents: &Contents,
        protection: &Protection,
        now: Time,
    ) -> Result<HashSet<(ObjectId, u64)>> {
        let lasts = self.repository().settings().trash_seconds();
        let expired = contents.forgotten.iter().filter(|forgotten| {
            let age = now.seconds.saturating_sub(forgotten.at.seconds);
            age >= lasts
                && !protection.keeps(forgotten.at)
                && !protection.points.contains(&forgotten.point.id)
        });
        let expired: HashSet<_> = expired.map(|forgotten| key(&forgotten.point)).collect();
        self.report.points_removed += expired.len() as u64;
        self.report.points_in_trash = (contents.forgotten.len() - expired.len()) as u64;
        if !self.options.dry_run {
            let keys: Vec<_> = expired.iter().copied().collect();
            self.catalog.bury(&keys)?;
            self.catalog.remove_buried()?;
        }
        Ok(expired)
    }

    fn wait(&mut self, condemned: &Condemnation, until: Time, marks: &Marks) {
        self.report.waiting_until = Some(until.rfc3339());
        for id in &condemned.packs {
            let pack = marks.pack(id).filter(|pack| pack.is_dead());
            self.report.waiting_packs += u64::from(pack.is_some());
            self.report.waiting_bytes += pack.map_or(0, |pack| pack.object_bytes);
        }
    }

    /// Decides a list whose time has come: what is needed meanwhile, or may be, is taken off it. None when this is a dry
    /// run, or another prune was faster.
    fn decide(
        &mut self,
        listed: &Condemnation,
        protection: &Protection,
        limits: &Limits,
        marks: &mut Marks,
    ) -> Result<Option<Condemnation>> {
        if self.waits_for_open_points(listed, protection)? {
            return Ok(None);
        }
        let goes = |id: &&ObjectId| {
            let pack = marks.pack(id);
            pack.is_none_or(|pack| pack.is_dead() && is_settled(pack, protection, limits))
        };
        let packs: HashSet<_> = listed.packs.iter().filter(goes).copied().collect();
        self.report.rescued_packs += (listed.packs.len() - packs.len()) as u64;
        if self.options.dry_run {
            self.count_deleted(&packs, marks);
            return Ok(None);
        }
        self.next_record(listed, Stage::Decided, packs)
    }

    /// Whether an open point is older than a list: it may share what is on it.
    fn waits_for_open_points(
        &mut self,
        listed: &Condemnation,
        protection: &Protection,
    ) -> Result<bool> {
        let (Some(since), Some(number)) = (protection.open_since, listed.number) else {
            return Ok(false);
        };
        let name = Name::Condemned(number).to_string();
        if since > self.repository().store().head(&name)?.modified {
            return Ok(false);
        }
        self.report.waiting_packs = listed.packs.len() as u64;
        self.report.notes.push(format!(
            "what is listed waits for the open point of {}: complete or discard it; `keepfs points --open` lists it on its host. If that host \
             is gone for good, `keepfs points --open REPO` shows its mark, and `keepfs forget --open REPO ID` removes it",
            since.rfc3339()
        ));
        Ok(true)
    }

    /// The next record of the series; none when another prune was faster.
    fn next_record(
        &mut self,
        before: &Condemnation,
        stage: Stage,
        packs: HashSet<ObjectId>,
    ) -> Result<Option<Condemnation>> {
        let mut list = Condemned {
            time: match stage {
                Stage::Listed(time) => time,
                _ => Time::default(),
            },
            packs: packs.iter().copied().collect(),
            segments: Vec::new(),
            done: stage == Stage::Done,
        };
        list.packs.sort_unstable();
        let name = Name::Condemned(before.next);
        match self.repository().create_document(name, &list) {
            Ok(()) => Ok(Some(Condemnation {
                number: Some(before.next),
                next: before.next.saturating_add(1),
                stage,
                packs,
            })),
            Err(error) if error.kind() == Kind::AlreadyExists => {
                self.report.notes.push(
                    "another prune is at work in this repository, and goes on with it".to_owned(),
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes the packs of a decided list: from the index first. `points` are those that are marked.
    fn carry_out(
        &mut self,
        points: &[Arc<Point>],
        decided: Condemnation,
        marks: &mut Marks,
    ) -> Result<Condemnation> {
        if self.options.dry_run {
            self.count_deleted(&decided.packs, marks);
            return Ok(decided);
        }
        // Whoever commits from now on sees that the list is decided. What was committed since the points were listed, by
        // somebody who did not, is looked at here.
        self.catalog.refresh()?;
        let known: HashSet<_> = points.iter().map(|point| key(point)).collect();
        let mut new = self.catalog.kept();
        new.retain(|point| !known.contains(&key(point)));
        if !new.is_empty() {
            *marks = Marks::new(self.repository(), &decided.packs)?;
            marks.mark(points.iter().chain(&new), self.progress)?;
        }
        let dead = |id: &&ObjectId| marks.pack(id).is_none_or(|pack| pack.is_dead());
        let packs: HashSet<_> = decided.packs.iter().filter(dead).copied().collect();
        let mut decided = decided;
        if packs.len() < decided.packs.len() {
            self.report.rescued_packs += (decided.packs.len() - packs.len()) as u64;
            match self.next_record(&decided, Stage::Decided, packs)? {
                Some(fewer) => decided = fewer,
                None => return Ok(decided),
            }
        }
        self.count_deleted(&decided.packs, marks);
        self.drop_from_index(&decided.packs)?;
        for id in &decided.packs {
            self.progress.go_on()?;
            if let Some(pack) = marks.pack(id) {
                self.repository().store().delete(&pack.name())?;
            }
        }
        // Somebody may have merged segments meanwhile that list them.
        self.drop_from_index(&decided.packs)?;
        let gone = decided.packs.clone();
        let done = self.next_record(&decided, Stage::Done, gone)?;
        Ok(done.unwrap_or(decided))
    }

    fn drop_from_index(&self, packs: &HashSet<ObjectId>) -> Result<()> {
        for _ in 0..DROPS_MAX {
            if self.repository().drop_packs(packs)? == 0 {
                return Ok(());
            }
        }
        // What is listed again and again is taken for gone by every writer, and by the next prune.
        Ok(())
    }

    fn count_deleted(&mut self, packs: &HashSet<ObjectId>, marks: &Marks) {
        let stored = packs.iter().filter_map(|id| marks.pack(id));
        for pack in stored.filter(|pack| pack.modified.is_some()) {
            self.report.deleted_packs += 1;
            self.report.deleted_bytes += pack.object_bytes;
        }
    }

    /// Makes a list of what nobody needs, unless there is one.
    fn condemn(
        &mut self,
        condemned: &Condemnation,
        protection: &Protection,
        limits: &Limits,
        marks: &Marks,
    ) -> Result<()> {
        // What was counted as waiting or deleted is not counted again. What is gone and still in the index is listed anew.
        let told = |pack: &&Pack| {
            let named = pack.is_dead() && condemned.packs.contains(&pack.id);
            named && (pack.modified.is_some() || !condemned.is_calm())
        };
        let packs = marks.packs.iter().filter(|pack| !told(pack));
        let packs: Vec<Pack> = packs.copied().collect();
        let plan = plan(&packs, protection, limits);
        let report = &mut *self.report;
        (report.live_packs, report.live_bytes) = (plan.live_packs, plan.live_bytes);
        (report.young_packs, report.young_bytes) = (plan.young_packs, plan.young_bytes);
        report.dead_bytes = plan.dead_bytes;
        if !condemned.is_calm() || plan.condemn.is_empty() && plan.rewrite.is_empty() {
            return Ok(());
        }
        report.condemned_packs = (plan.condemn.len() + plan.rewrite.len()) as u64;
        report.condemned_bytes = plan.condemn_bytes;
        report.rewritten_packs = plan.rewrite.len() as u64;
        report.rewritten_bytes = plan.rewrite_bytes;
        if self.options.dry_run {
            return Ok(());
        }
        if !plan.rewrite.is_empty() {
            rewrite(self.repository(), marks, &plan.rewrite, self.progress)?;
        }
        let mut time = self.store_time()?;
        time.seconds = time.seconds.saturating_add(limits.grace);
        let packs = plan.condemn.into_iter().chain(plan.rewrite).collect();
        let made = self.next_record(condemned, Stage::Listed(time), packs)?;
        match made {
            Some(_) => self.report.waiting_until = Some(time.rfc3339()),
            None => (self.report.condemned_packs, self.report.condemned_bytes) = (0, 0),
        }
        Ok(())
    }

    /// Removes what nothing refers to any more: replaced segments and catalogues, leases that have ended, old lists.
    fn tidy(&mut self, protection: &Protection, now: Time) -> Result<()> {
        let repository = self.repository().clone();
        let store = repository.store();
        let merged = repository.merge_index()?;
        self.report.segments_merged += merged as u64;
        let before = Time::new(
            now.seconds.saturating_sub(self.options.grace_seconds),
            now.nanoseconds,
        );
        let mut removed = self.catalog.remove_replaced_catalogues(before)?;
        let mut names = replaced_segments(&repository, before)?;
        names.extend(protection.ended.iter().cloned());
        let condemned = repository.condemned()?;
        if let Some(number) = condemned.number {
            let lists = store.list(names::CONDEMNED)?;
            let old = lists.into_iter().filter(|object| {
                // The one before stays: it holds where this one cannot be read.
                matches!(Name::parse(&object.name), Some(Name::Condemned(n)) if n + 1 < number)
            });
            names.extend(old.map(|object| object.name));
        }
        for name in names {
            store.delete(&name)?;
            removed += 1;
        }
        let history = Time::new(now.seconds.saturating_sub(HISTORY_SECONDS), 0);
        removed += remove_old_sessions(&repository, history)?;
        self.report.objects_removed += removed;
        Ok(())
    }
}

fn key(point: &Point) -> (ObjectId, u64) {
    (point.id, point.generation)
}

/// Where something cannot be read, nobody knows what it needs.
fn refuse_doubt(repository: &Repository, contents: &Contents) -> Result<()> {
    let of_points = contents.problems.iter().find(|(object, _)| {
        matches!(
            Name::parse(object),
            Some(Name::Point(..) | Name::Trash(..) | Name::Catalogue(_))
        )
    });
    if let Some((object, why)) = of_points {
        let message = format!(
            "{object} in {} cannot be read ({why}); nothing is pruned before that is mended: run `keepfs check`",
            repository.location()
        );
        return Err(Error::new(Kind::Damaged, message));
    }
    match contents.contradictions.values().next() {
        Some(why) => {
            let message = format!("nothing is pruned while this is so: {why}");
            Err(Error::new(Kind::Damaged, message))
        }
        None => Ok(()),
    }
}

/// The segments that others replace which were there before `time`: nobody who listed the store earlier looks for the old
/// ones any more.
fn replaced_segments(repository: &Repository, time: Time) -> Result<Vec<String>> {
    let listed: HashMap<ObjectId, Time> = repository
        .store()
        .list(names::INDEX)?
        .into_iter()
        .filter_map(|object| match Name::parse(&object.name) {
            Some(Name::Index(id)) => Some((id, object.modified)),
            _ => None,
        })
        .collect();
    let mut replaced = HashSet::new();
    for segment in repository.segments().iter() {
        if listed.get(&segment.id).is_some_and(|made| *made <= time) {
            replaced.extend(segment.replaced()?);
        }
    }
    let here = replaced.iter().filter(|id| listed.contains_key(id));
    Ok(here.map(|id| Name::Index(*id).to_string()).collect())
}
