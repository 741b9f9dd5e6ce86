//! Copy sessions: what may be done with one in which state, whoever dies in between.

use crate::engine::{assert_clean, full, seed};
use crate::sites::{
    Files, MIB, Random, Site, assert_points_are_whole, assorted, copy, everything, files_of,
    try_copy,
};
use crate::yard::{self, DAY, HOUR, Yard};
use keepfs::clock::Time;
use keepfs::copy::{
    Action, DEAD_SECONDS, End, LAST, Outcome, Session, SessionRecord, SessionState,
    TransferOptions, all_sessions, copy_point, copy_points, remove_old_sessions, retry_session,
    skip_session, undo_session, unfinished_sessions,
};
use keepfs::error::{Error, Kind, Result};
use keepfs::id::ObjectId;
use keepfs::progress::Progress;
use keepfs::prune::{Options, prune};
use keepfs::repository::ReaderLease;
use keepfs::store::Store;
use keepfs::store::faults::{Stop, Verb};
use keepfs::store::names::Name;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

const READS: &[Verb] = &[Verb::Get, Verb::GetRange];

/// Without a pause: the store of these tests is what it is.
fn impatient() -> TransferOptions {
    TransferOptions {
        attempts: 1,
        ..TransferOptions::default()
    }
}

fn only(target: &End) -> Session {
    let mut sessions = all_sessions(target.repository()).unwrap();
    assert_eq!(sessions.len(), 1);
    sessions.remove(0)
}

fn outcomes(session: &Session) -> Vec<Outcome> {
    let points = session.record.points.iter();
    points.map(|point| point.outcome).collect()
}

fn names(end: &End) -> BTreeSet<String> {
    let contents = end.catalog.refresh().unwrap();
    let points = contents.backups.values().flat_map(|backup| {
        let points = contents.points_of(backup.id);
        points.map(|point| String::from_utf8_lossy(point.name()).into_owned())
    });
    points.collect()
}

/// Five points, of which the third has a file whose pack cannot be read.
fn five_points_one_of_them_broken() -> (Site, Site) {
    let (mut source, mut target) = (Site::new(MIB, 1), Site::new(MIB, 2));
    let mut random = Random(77);
    for number in 1..=5 {
        let files: Files = [("f".to_owned(), random.bytes(300_000).into())].into();
        let before: BTreeSet<_> = packs(&source);
        source.back_up("web", &format!("p{number}"), number, &files);
        if number == 3 {
            let new = packs(&source).difference(&before).next().cloned().unwrap();
            source.store.fail_at(
                READS,
                Box::leak(new.into_boxed_str()),
                0..u64::MAX,
                Kind::Unreachable,
            );
        }
    }
    let report = copy_points(
        &everything(),
        &source.open(),
        &target.open(),
        &impatient(),
        &Progress::default(),
    );
    assert_eq!(report.unwrap().record.state, SessionState::NeedsAction);
    (source, target)
}

fn packs(site: &Site) -> BTreeSet<String> {
    let objects = site.store.list("packs/data/").unwrap().into_iter();
    objects.map(|object| object.name).collect()
}

#[test]
fn a_part_that_fails_parks_the_session_and_nothing_else() {
    let (mut source, mut target) = five_points_one_of_them_broken();
    let end = target.open();
    let session = only(&end);
    let failed = &session.record.failed;
    assert_eq!((failed.len(), session.record.failed_total), (1, 1));
    assert_eq!(
        (&failed[0].point[..], &failed[0].path[..]),
        (&b"p3"[..], &b"f"[..])
    );
    assert_eq!(
        names(&end),
        ["p1", "p2", "p4", "p5"].map(str::to_owned).into()
    );
    assert_clean("while it waits", end.repository());

    source.store.heal();
    let retried = retry_session(
        session,
        &source.open(),
        &end,
        &impatient(),
        &Progress::default(),
    );
    let report = retried.unwrap().into_result().unwrap();
    assert_eq!(report.record.state, SessionState::Success);
    assert_eq!(report.record.failed, []);
    assert_points_are_whole(&source.open(), &target.open());
    assert_eq!(
        unfinished_sessions(target.open().repository())
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn skip_keeps_the_whole_points_and_undo_none() {
    let (mut source, mut target) = five_points_one_of_them_broken();
    let before = target.store.list("").unwrap();
    let end = target.open();
    let report = skip_session(only(&end)).unwrap();
    assert_eq!(report.record.state, SessionState::Warning);
    assert_eq!(
        names(&end),
        ["p1", "p2", "p4", "p5"].map(str::to_owned).into()
    );
    // Nothing but the last word was written.
    assert_eq!(target.store.list("").unwrap().len(), before.len() + 1);
    for action in Action::ALL {
        let refused = only(&end).take(action).unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid);
    }
    // The same again is another session.
    source.store.heal();
    assert_eq!(
        copy(&source.open(), &target.open()).record.state,
        SessionState::Success
    );
    assert_eq!(all_sessions(end.repository()).unwrap().len(), 2);

    let (_source, mut target) = five_points_one_of_them_broken();
    let end = target.open();
    let undone = undo_session(only(&end), &end)
        .unwrap()
        .into_result()
        .unwrap();
    assert_eq!(undone.record.state, SessionState::Undone);
    assert_eq!(names(&end), BTreeSet::new());
    let options = Options {
        grace_seconds: 0,
        ..Options::default()
    };
    for _ in 0..3 {
        prune(&target.open().catalog, &options, &Progress::default()).unwrap();
    }
    assert_eq!(packs(&target), BTreeSet::new());
    assert_clean("after undo and prune", target.open().repository());
}

#[test]
fn undo_leaves_what_was_there_before_and_what_others_made_of_it() {
    let (mut source, mut target) = (Site::new(MIB, 1), Site::new(MIB, 2));
    let files = assorted(5, 40);
    source.back_up("web", "old", 1, &files);
    copy(&source.open(), &target.open());
    source.back_up("web", "new", 2, &assorted(6, 40));
    // A session that makes `new` and stops at the point after it.
    let progress = Progress::default();
    source.back_up("web", "third", 3, &assorted(7, 40));
    target
        .store
        .fail_at(&[Verb::Create], "points/", 1..2, Kind::Denied);
    let failed = try_copy(&source.open(), &target.open()).unwrap_err();
    assert_eq!(failed.kind(), Kind::Denied);
    target.store.heal();
    let end = target.open();
    assert_eq!(names(&end), ["old", "new"].map(str::to_owned).into());
    // Another backup shares what the session brought.
    target.back_up("other", "mine", 9, &assorted(6, 40));

    let session = unfinished_sessions(end.repository()).unwrap().remove(0);
    assert_eq!(
        outcomes(&session),
        [Outcome::Present, Outcome::Copied, Outcome::Waiting]
    );
    // And what the session has not brought somebody else has, meanwhile.
    let from = source.open();
    let third = from
        .catalog
        .contents()
        .point(b"web", b"third")
        .unwrap()
        .clone();
    copy_point(&from, &third, &end, b"web", &impatient(), &progress).unwrap();
    undo_session(session, &end).unwrap().into_result().unwrap();
    let end = target.open();
    assert_eq!(
        names(&end),
        ["old", "mine", "third"].map(str::to_owned).into()
    );
    let options = Options {
        grace_seconds: 0,
        ..Options::default()
    };
    for _ in 0..3 {
        prune(&target.open().catalog, &options, &progress).unwrap();
    }
    let end = target.open();
    assert_eq!(files_of(&end, "web", "old"), files);
    assert_eq!(files_of(&end, "web", "third"), assorted(7, 40));
    assert_eq!(files_of(&end, "other", "mine"), assorted(6, 40));
    assert_clean("after undo and prune", end.repository());
}

#[test]
fn of_two_actions_at_once_one_wins() {
    let mut target = Site::new(MIB, 2);
    let end = target.open();
    let repository = end.repository();
    let times = if full() { 500 } else { 60 };
    for _ in 0..times {
        let mut record = SessionRecord::begin(repository, repository, Vec::new());
        record.state = SessionState::NeedsAction;
        let session = Session::begin(repository, record).unwrap();
        let won = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for action in [Action::Retry, Action::Undo, Action::Retry, Action::Undo] {
                let (mut session, won) = (session.clone(), &won);
                scope.spawn(move || match session.take(action) {
                    Ok(()) => {
                        won.fetch_add(1, SeqCst);
                    }
                    Err(error) => assert_eq!(error.kind(), Kind::Busy),
                });
            }
        });
        assert_eq!(won.load(SeqCst), 1);
        let found = Session::find(repository, session.id).unwrap();
        assert!(found.is_alive(), "this process works on it");
        for action in Action::ALL {
            assert_eq!(found.clone().take(action).unwrap_err().kind(), Kind::Busy);
        }
    }
}

#[test]
fn a_session_of_another_host_is_dead_when_it_says_nothing_for_long() {
    let yard = Yard::new();
    let end = yard.host();
    let repository = end.repository();
    let record = SessionRecord::begin(repository, repository, Vec::new());
    let mut session = Session::begin(repository, record).unwrap();
    session.record.host = "elsewhere".to_owned();
    session.write().unwrap();
    let id = session.id;
    let found = || Session::find(repository, id).unwrap();
    assert!(found().is_alive());
    yard.pass(DEAD_SECONDS - 1);
    assert_eq!(found().take(Action::Undo).unwrap_err().kind(), Kind::Busy);
    session.beat().unwrap();
    yard.pass(DEAD_SECONDS - 1);
    assert!(found().is_alive(), "it has said so again");
    session.beat().unwrap();
    session.beat().unwrap();
    // One record for its beginning, one for the other host, one for all beats.
    let records = yard.store.list("sessions/").unwrap();
    assert_eq!(records.len(), 3);
    yard.pass(DEAD_SECONDS);
    let mut taken = found();
    taken.take(Action::Undo).unwrap();
    // Whoever only slept notices.
    assert_eq!(session.beat().unwrap_err().kind(), Kind::Busy);
}

#[test]
fn a_process_that_is_gone_leaves_a_session_that_may_be_taken_at_once() {
    let yard = Yard::new();
    let end = yard.host();
    let repository = end.repository();
    let record = SessionRecord::begin(repository, repository, Vec::new());
    let mut session = Session::begin(repository, record).unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    session.record.process = child.id();
    child.wait().unwrap();
    session.write().unwrap();
    let mut found = Session::find(repository, session.id).unwrap();
    assert!(!found.is_alive());
    found.take(Action::Retry).unwrap();
    // Its number may be in use again.
    let mut again = SessionRecord::begin(repository, repository, Vec::new());
    again.process = std::process::id();
    let mut session = Session::begin(repository, again).unwrap();
    session.record.set_fact("process", Some(b"another boot 1"));
    session.write().unwrap();
    let found = Session::find(repository, session.id).unwrap();
    assert!(!found.is_alive());
}

#[test]
fn history_goes_after_its_time_but_nothing_that_waits() {
    let yard = Yard::new();
    let end = yard.host();
    let repository = end.repository();
    let begin = |state| {
        let record = SessionRecord::begin(repository, repository, Vec::new());
        let mut session = Session::begin(repository, record).unwrap();
        session.record.state = state;
        session.write().unwrap();
        session.id
    };
    let (over, waits) = (
        begin(SessionState::Success),
        begin(SessionState::NeedsAction),
    );
    assert!(
        yard.store
            .head(&Name::Session(over, LAST).to_string())
            .is_ok()
    );
    yard.pass(91 * DAY + HOUR);
    let young = begin(SessionState::Undone);
    let time = Time::new(repository.now().seconds - 91 * DAY, 0);
    assert_eq!(remove_old_sessions(repository, time).unwrap(), 1);
    let left: BTreeSet<ObjectId> = all_sessions(repository)
        .unwrap()
        .iter()
        .map(|session| session.id)
        .collect();
    assert_eq!(left, [waits, young].into());
}

#[test]
fn a_point_that_is_read_is_not_forgotten_until_its_lease_ends() {
    let yard = Yard::new();
    let files = assorted(3, 5);
    let end = yard.host();
    let point = yard::back_up(&end, "one", &files).unwrap();
    let lease = ReaderLease::take(end.repository().clone(), vec![point.id]).unwrap();
    assert_eq!(end.catalog.forget(&point).unwrap_err().kind(), Kind::Busy);
    drop(lease);
    // Of a host that died (this process stands for it) it ends by itself.
    std::mem::forget(ReaderLease::take(end.repository().clone(), vec![point.id]).unwrap());
    yard.pass(HOUR - 1);
    assert_eq!(end.catalog.forget(&point).unwrap_err().kind(), Kind::Busy);
    yard.pass(1);
    end.catalog.forget(&point).unwrap();
}

/// What a session leaves behind whatever ends its run: a random walk over copies that are cut off at any operation of the
/// store, parts that cannot be read, actions, forgetting and pruning, on hosts that come and go.
#[test]
fn sessions_hold_their_promises_whatever_happens() {
    let walks = if full() { 10_000 } else { 60 };
    let seed = seed("sessions_hold_their_promises_whatever_happens");
    for walk in 0..walks {
        let mut random = Random(seed.wrapping_add(walk));
        if let Err(why) = one_walk(&mut random) {
            panic!("walk {walk} of seed {seed}: {why}");
        }
    }
}

fn one_walk(random: &mut Random) -> Result<()> {
    let (mut source, mut target) = (Site::new(MIB, 1), Site::new(MIB, 2));
    target.back_up("mine", "own", 1, &assorted(random.next(), 3));
    let mine = files_of(&target.open(), "mine", "own");
    let mut made = 0;
    for _ in 0..10 {
        match random.below(8) {
            0 | 1 => {
                made += 1;
                let files = assorted(random.next(), 4);
                source.back_up("web", &format!("p{made}"), made, &files);
            }
            2 | 3 => break_something(random, &source, &target),
            4 => act(random, &mut source, &mut target)?,
            5 => forget_one(random, &mut source)?,
            6 => prune_at_once(&mut target)?,
            _ => {}
        }
        if made > 0 {
            // A copy that fails says so in its session.
            let _ = copy_points(
                &everything(),
                &source.open(),
                &target.reopen(),
                &impatient(),
                &Progress::default(),
            );
        }
        for site in [&source, &target] {
            site.store.heal();
        }
        look(&mut source, &mut target, &mine)?;
    }
    Ok(())
}

fn break_something(random: &mut Random, source: &Site, target: &Site) {
    let kinds = [Kind::Unreachable, Kind::Damaged, Kind::Full, Kind::Denied];
    let kind = kinds[random.below(4) as usize];
    match random.below(3) {
        0 => target.store.stop_at(1 + random.below(40), Stop::After),
        1 => target.store.fail_at(
            &[Verb::Create, Verb::Upload],
            "",
            random.below(9)..u64::MAX,
            kind,
        ),
        _ => source
            .store
            .fail_at(READS, "packs/", random.below(3)..u64::MAX, kind),
    }
}

fn act(random: &mut Random, source: &mut Site, target: &mut Site) -> Result<()> {
    let end = target.open();
    let mut sessions = unfinished_sessions(end.repository())?;
    if sessions.is_empty() {
        return Ok(());
    }
    let session = sessions.remove(random.below(sessions.len() as u64) as usize);
    let state = session.record.state;
    let done = match random.below(3) {
        0 => retry_session(
            session,
            &source.open(),
            &end,
            &impatient(),
            &Progress::default(),
        )
        .map(|conducted| conducted.report),
        1 => skip_session(session),
        _ => undo_session(session, &end).map(|conducted| conducted.report),
    };
    match done {
        Ok(_) => Ok(()),
        // Its own process lives: the test is that process.
        Err(error) if error.kind() == Kind::Busy && state.works() => Ok(()),
        Err(error) if error.kind() == Kind::Invalid => Ok(()),
        Err(error) => Err(error),
    }
}

fn forget_one(random: &mut Random, source: &mut Site) -> Result<()> {
    let end = source.open();
    let contents = end.catalog.contents();
    let Some(backup) = contents.backups.get(&b"web"[..]) else {
        return Ok(());
    };
    let points: Vec<_> = contents.points_of(backup.id).cloned().collect();
    if points.is_empty() {
        return Ok(());
    }
    let point = &points[random.below(points.len() as u64) as usize];
    end.catalog.forget(point)
}

fn prune_at_once(target: &mut Site) -> Result<()> {
    let options = Options {
        grace_seconds: 0,
        ..Options::default()
    };
    prune(&target.open().catalog, &options, &Progress::default()).map(drop)
}

/// Every visible point reads whole; a session that is over says what is there; what was there before stays.
fn look(source: &mut Site, target: &mut Site, mine: &Files) -> Result<()> {
    let end = target.open();
    let fail = |why: String| Err(Error::new(Kind::Failed, why));
    if files_of(&end, "mine", "own") != *mine {
        return fail("a point that no session made has changed".to_owned());
    }
    let contents = end.catalog.refresh()?;
    let from = source.open();
    let originals = from.catalog.refresh()?;
    if let Some(backup) = contents.backups.get(&b"web"[..]) {
        for point in contents.points_of(backup.id) {
            let name = String::from_utf8_lossy(point.name()).into_owned();
            let there = files_of(&end, "web", &name);
            if originals.point(b"web", point.name()).is_some()
                && there != files_of(&from, "web", &name)
            {
                return fail(format!("{name} differs"));
            }
        }
    }
    for session in all_sessions(end.repository())? {
        if session.record.state == SessionState::Success && session.record.failed_total > 0 {
            return fail(format!(
                "session {} lacks parts and is a success",
                session.id
            ));
        }
    }
    Ok(())
}
