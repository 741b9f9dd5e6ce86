//! Jobs under a clock that the test turns, with copies that only count.

use crate::job_times::{FORMS, OFFICE, oracle, seconds, zone};
use keepfs::clock::{Clock, Time};
use keepfs::error::{Error, Kind, Result};
use keepfs::id::ObjectId;
use keepfs::job::{
    Action, Candidate, Control, CopiedPoints, Event, Hook, Jobs, Look, Outcome, Phase, PointId,
    Schedule, Select, Settings, Source, Window, Work, ask,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// Points of a source, and what each target has of them.
#[derive(Default)]
struct Shelf {
    points: Mutex<Vec<(PointId, String, Time)>>,
    targets: Mutex<BTreeMap<String, BTreeSet<PointId>>>,
    /// Names of points in the order in which they were copied, with the time.
    copied: Mutex<Vec<(String, i64)>>,
    /// Runs that fail from now on.
    failing: AtomicI64,
    /// Parts cannot be copied.
    damaged: AtomicBool,
    /// Copies wait until they are stopped.
    endless: AtomicBool,
    attempts: Mutex<Vec<i64>>,
    clock: Mutex<Option<Clock>>,
}

impl Shelf {
    fn now(&self) -> Time {
        self.clock.lock().as_ref().unwrap().now()
    }

    fn complete(&self, name: &str) {
        let id = PointId {
            id: ObjectId::random(),
            generation: 0,
        };
        self.points.lock().push((id, name.to_owned(), self.now()));
    }

    fn names(&self) -> Vec<String> {
        let copied = self.copied.lock();
        copied.iter().map(|(name, _)| name.clone()).collect()
    }
}

struct Counting(Arc<Shelf>);

impl Work for Counting {
    fn look(&self, _: &Settings, target: &str, _: bool) -> Result<Look> {
        let targets = self.0.targets.lock();
        let there = targets.get(target);
        let mut look = Look::default();
        let mut newest = None;
        for (number, (id, name, completed)) in self.0.points.lock().iter().enumerate() {
            let lacking = !there.is_some_and(|there| there.contains(id));
            if !lacking {
                newest = newest.max(Some(*completed));
            }
            look.candidates.push(Candidate {
                repository: "primary".to_owned(),
                backup: b"web".to_vec(),
                name: name.clone().into_bytes(),
                id: *id,
                time: *completed,
                sequence: number as u64,
                completed: *completed,
                lacking,
            });
        }
        look.newest.insert(b"web".to_vec(), newest);
        Ok(look)
    }

    fn copy(
        &self,
        _: &Settings,
        target: &str,
        points: &[Candidate],
        control: &Arc<Control>,
    ) -> Result<CopiedPoints> {
        let shelf = &self.0;
        shelf.attempts.lock().push(shelf.now().seconds);
        let mut copied = CopiedPoints::default();
        while shelf.endless.load(SeqCst) && !control.stops_now() {
            control.before_pack();
            control.after_pack();
            std::thread::sleep(Duration::from_millis(1));
        }
        control.progress.go_on()?;
        if shelf.failing.fetch_sub(1, SeqCst) > 0 {
            return Err(Error::new(Kind::Unreachable, "the store does not answer"));
        }
        if shelf.damaged.load(SeqCst) {
            copied.needs_action = true;
            copied
                .problems
                .push(("web/x".to_owned(), "damaged".to_owned()));
            return Ok(copied);
        }
        for point in points {
            let name = String::from_utf8_lossy(&point.name).into_owned();
            copied.copied.push(format!("web/{name}"));
            shelf.copied.lock().push((name, shelf.now().seconds));
            let mut targets = shelf.targets.lock();
            targets
                .entry(target.to_owned())
                .or_default()
                .insert(point.id);
        }
        Ok(copied)
    }
}

/// A host of which the test turns the clock; jobs on it may be killed and started again.
struct Yard {
    seconds: Arc<AtomicI64>,
    shelf: Arc<Shelf>,
    directory: tempfile::TempDir,
    events: Arc<Mutex<Vec<Event>>>,
    settings: Settings,
}

impl Yard {
    fn new(schedule: Option<&str>) -> Self {
        let seconds = Arc::new(AtomicI64::new(seconds(
            "2026-03-02T12:00",
            &zone("Europe/Berlin"),
        )));
        let shelf = Arc::new(Shelf::default());
        *shelf.clock.lock() = Some(Clock::fixed(seconds.clone()));
        Self {
            seconds,
            shelf,
            directory: tempfile::tempdir().unwrap(),
            events: Arc::default(),
            settings: Settings {
                sources: vec![Source::parse("primary/web*").unwrap()],
                targets: vec!["offsite".to_owned()],
                schedule: schedule.map(|text| Schedule::parse(text).unwrap()),
                zone: zone("Europe/Berlin"),
                ..Settings::default()
            },
        }
    }

    /// A daemon that has just started. A process that another test has begun may hold the lock for a moment.
    fn start(&self) -> Arc<Jobs> {
        let jobs = self.beside();
        wait_for("the lock", || {
            jobs.watch();
            jobs.has("nightly")
        });
        jobs
    }

    /// Another process.
    fn beside(&self) -> Arc<Jobs> {
        let events = self.events.clone();
        let jobs = Jobs::new(
            [("nightly".to_owned(), self.settings.clone())],
            self.directory.path(),
            Box::new(Counting(self.shelf.clone())),
            Box::new(move |event| events.lock().push(event.clone())),
            Clock::fixed(self.seconds.clone()),
        );
        jobs.watch();
        Arc::new(jobs)
    }

    fn now(&self) -> i64 {
        self.seconds.load(SeqCst)
    }

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, SeqCst);
    }

    fn step(&self, jobs: &Jobs) -> bool {
        jobs.watch();
        jobs.step("nightly")
    }

    /// Turns the clock minute by minute; the minutes in which a run was made.
    fn steps(&self, jobs: &Jobs, minutes: i64) -> Vec<i64> {
        let mut ran = Vec::new();
        for _ in 0..minutes {
            self.pass(MINUTE);
            if self.step(jobs) {
                ran.push(self.now());
            }
        }
        ran
    }

    fn phase(&self, jobs: &Jobs) -> Phase {
        jobs.show("nightly").unwrap().phase
    }

    fn outcome(&self, jobs: &Jobs) -> Outcome {
        jobs.show("nightly").unwrap().last_run.unwrap().outcome
    }
}

fn wait_for(what: &str, come: impl Fn() -> bool) {
    for _ in 0..3000 {
        if come() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come");
}

#[test]
fn thirty_days_of_runs_are_those_of_the_oracle_across_both_changes() {
    let berlin = zone("Europe/Berlin");
    for (text, slot, again) in FORMS
        .into_iter()
        .filter(|form| !form.0.contains("5m") && !form.0.contains("/15"))
    {
        for begin in ["2026-03-10T12:00", "2026-10-10T12:00"] {
            let yard = Yard::new(Some(text));
            let from = seconds(begin, &berlin);
            yard.seconds.store(from, SeqCst);
            let mut jobs = yard.start();
            let mut ran = Vec::new();
            for _ in 0..30 {
                ran.extend(yard.steps(&jobs, 24 * 60));
                // Daemons come and go.
                drop(jobs);
                jobs = yard.start();
            }
            let expected = oracle(&slot, again, &berlin, from, 30 * 24 * 60);
            assert_eq!(ran, expected, "{text} from {begin}");
        }
    }
}

#[test]
fn a_run_that_fell_into_the_time_without_a_daemon_is_made_once() {
    let yard = Yard::new(Some("daily 02:30"));
    let jobs = yard.start();
    yard.steps(&jobs, 60);
    drop(jobs);
    yard.pass(3 * 24 * HOUR);
    let jobs = yard.start();
    assert_eq!(yard.steps(&jobs, 10).len(), 1);
    // While it is disabled nothing is missed.
    jobs.act("nightly", Action::Disable).unwrap();
    yard.pass(3 * 24 * HOUR);
    assert_eq!(yard.steps(&jobs, 10).len(), 0);
    jobs.act("nightly", Action::Enable).unwrap();
    assert_eq!(yard.steps(&jobs, 10).len(), 0);
}

#[test]
fn latest_each_and_all_take_what_they_say() {
    for (select, first, second) in [
        (Select::Latest, 1, 1),
        (Select::Each, 0, 2),
        (Select::All, 3, 2),
    ] {
        let mut yard = Yard::new(None);
        yard.settings.select = select;
        for name in ["one", "two", "three"] {
            yard.pass(MINUTE);
            yard.shelf.complete(name);
        }
        yard.pass(MINUTE);
        let jobs = yard.start();
        let run = || {
            let before = yard.shelf.names().len();
            jobs.act("nightly", Action::Start(None)).unwrap();
            assert!(yard.step(&jobs));
            assert_eq!(yard.outcome(&jobs), Outcome::Success);
            yard.shelf.names().len() - before
        };
        assert_eq!(run(), first, "{select:?}");
        for name in ["four", "five"] {
            yard.pass(MINUTE);
            yard.shelf.complete(name);
        }
        assert_eq!(run(), second, "{select:?}");
        assert_eq!(run(), 0, "{select:?}");
        // What is forgotten in the target comes back where all are wanted, and never where each is wanted once.
        yard.shelf.targets.lock().clear();
        let again = match select {
            Select::Latest => 1,
            Select::Each => 0,
            Select::All => 5,
        };
        assert_eq!(run(), again, "{select:?}");
        jobs.act("nightly", Action::Start(Some(Select::All)))
            .unwrap();
        yard.step(&jobs);
        assert_eq!(yard.shelf.targets.lock()["offsite"].len(), 5);
    }
}

#[test]
fn points_are_copied_as_they_complete_oldest_first_and_none_is_lost() {
    let yard = Yard::new(Some("immediate"));
    yard.shelf.complete("before the job");
    yard.pass(1);
    let mut jobs = yard.start();
    for name in ["one", "two", "three"] {
        yard.pass(1);
        yard.shelf.complete(name);
        assert!(yard.step(&jobs), "{name}");
        let (copied, at) = yard.shelf.copied.lock().last().unwrap().clone();
        assert!(copied == name && at - yard.now() < 5);
    }
    assert!(!yard.step(&jobs));
    // Completed while nobody looks, more of them, and the daemon dies before it starts.
    for name in ["four", "five"] {
        yard.pass(1);
        yard.shelf.complete(name);
    }
    drop(jobs);
    yard.pass(HOUR);
    jobs = yard.start();
    assert!(yard.step(&jobs));
    assert_eq!(yard.shelf.names(), ["one", "two", "three", "four", "five"]);
    // What a person has to decide is not tried again and again, and holds up nothing.
    yard.shelf.damaged.store(true, SeqCst);
    yard.shelf.complete("six");
    assert_eq!(yard.steps(&jobs, 60).len(), 1);
    yard.shelf.damaged.store(false, SeqCst);
    yard.shelf.complete("seven");
    yard.steps(&jobs, 1);
    assert_eq!(yard.shelf.names()[5..], ["six", "seven"]);
}

#[test]
fn a_run_is_tried_again_as_configured_and_success_and_warning_never_are() {
    for failing in 0..=4 {
        let mut yard = Yard::new(Some("daily 02:30"));
        (yard.settings.retries, yard.settings.retry_seconds) = (3, 10 * MINUTE);
        yard.settings.select = Select::All;
        yard.shelf.complete("one");
        yard.shelf.failing.store(failing, SeqCst);
        let jobs = yard.start();
        jobs.act("nightly", Action::Start(None)).unwrap();
        let begin = yard.now();
        assert!(yard.step(&jobs));
        if failing > 0 {
            assert_eq!(yard.phase(&jobs), Phase::Retrying);
        }
        yard.steps(&jobs, 4 * 60);
        let attempts: Vec<_> = yard
            .shelf
            .attempts
            .lock()
            .iter()
            .map(|at| at - begin)
            .collect();
        let expected = [0, 10, 30, 70].map(|minutes| minutes * MINUTE);
        let count = (failing as usize + 1).min(4);
        assert_eq!(attempts, expected[..count], "{failing} fail");
        let outcome = if failing <= 3 {
            Outcome::Success
        } else {
            Outcome::Failed
        };
        assert_eq!(yard.outcome(&jobs), outcome);
    }
    let mut yard = Yard::new(None);
    yard.settings.select = Select::All;
    yard.shelf.complete("one");
    yard.shelf.damaged.store(true, SeqCst);
    let jobs = yard.start();
    jobs.act("nightly", Action::Start(None)).unwrap();
    assert_eq!(yard.steps(&jobs, 4 * 60).len(), 1);
    assert_eq!(yard.outcome(&jobs), Outcome::NeedsAction);
}

#[test]
fn what_a_person_may_do_follows_from_how_the_job_stands() {
    let act = |jobs: &Jobs, action| jobs.act("nightly", action).map_err(|error| error.kind());
    let start = Action::Start(None);
    let settled = [
        Action::Stop,
        Action::StopGracefully,
        Action::Disable,
        Action::Enable,
        Action::Rate(Some(1)),
    ];

    let mut yard = Yard::new(Some("daily 02:30"));
    yard.settings.targets.clear();
    let jobs = yard.start();
    assert_eq!(yard.phase(&jobs), Phase::NotConfigured);
    assert_eq!(act(&jobs, start), Err(Kind::Invalid));
    for action in settled {
        assert_eq!(act(&jobs, action), Ok(()));
    }
    assert!(yard.steps(&jobs, 24 * 60).is_empty());
    assert_eq!(jobs.act("other", start).unwrap_err().kind(), Kind::NotFound);

    let mut yard = Yard::new(Some("daily 02:30"));
    yard.settings.select = Select::All;
    yard.shelf.complete("one");
    let jobs = yard.start();
    assert_eq!(yard.phase(&jobs), Phase::Idle);
    for action in settled {
        assert_eq!(act(&jobs, action), Ok(()));
    }
    assert_eq!(act(&jobs, Action::Disable), Ok(()));
    assert_eq!(yard.phase(&jobs), Phase::Disabled);
    assert!(yard.steps(&jobs, 2 * 24 * 60).is_empty());
    // By hand it runs all the same.
    assert_eq!(act(&jobs, start), Ok(()));
    assert_eq!(act(&jobs, start), Err(Kind::Busy));
    assert!(yard.step(&jobs));
    assert_eq!(yard.shelf.names(), ["one"]);
    // Something else has disabled it: not even by hand, and what people have said holds again afterwards.
    jobs.block("nightly", "copy:3fa9").unwrap();
    assert_eq!(act(&jobs, start), Err(Kind::Busy));
    assert_eq!(yard.phase(&jobs), Phase::Disabled);
    jobs.unblock("nightly").unwrap();
    assert!(!jobs.show("nightly").unwrap().enabled);

    for (stop, after) in [
        (Action::Stop, Action::Stop),
        (Action::StopGracefully, Action::Stop),
        (Action::StopGracefully, Action::StopGracefully),
    ] {
        yard.shelf.complete("next");
        yard.shelf.endless.store(true, SeqCst);
        assert_eq!(act(&jobs, start), Ok(()));
        std::thread::scope(|scope| {
            scope.spawn(|| yard.step(&jobs));
            wait_for("the run", || yard.phase(&jobs) == Phase::Running);
            assert_eq!(act(&jobs, start), Err(Kind::Busy));
            assert_eq!(act(&jobs, Action::Enable), Ok(()));
            assert_eq!(act(&jobs, Action::Disable), Ok(()));
            assert_eq!(act(&jobs, Action::Rate(Some(7))), Ok(()));
            assert_eq!(jobs.show("nightly").unwrap().rate, Some(7));
            assert_eq!(act(&jobs, stop), Ok(()));
            assert_eq!(act(&jobs, after), Ok(()));
        });
        assert_eq!(yard.outcome(&jobs), Outcome::Stopped);
        assert_eq!(yard.phase(&jobs), Phase::Disabled);
        assert!(jobs.show("nightly").unwrap().retry.is_none());
    }
    yard.shelf.endless.store(false, SeqCst);
    assert_eq!(act(&jobs, start), Ok(()));
    assert!(yard.step(&jobs));
    assert_eq!(yard.shelf.names().len(), 4);
}

#[test]
fn an_immediate_job_that_was_stopped_goes_on_with_the_next_point() {
    let yard = Yard::new(Some("immediate"));
    let jobs = yard.start();
    yard.pass(1);
    yard.shelf.complete("one");
    yard.shelf.endless.store(true, SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| yard.step(&jobs));
        wait_for("the run", || yard.phase(&jobs) == Phase::Running);
        jobs.act("nightly", Action::Stop).unwrap();
    });
    yard.shelf.endless.store(false, SeqCst);
    assert!(yard.steps(&jobs, 60).is_empty());
    yard.shelf.complete("two");
    assert_eq!(yard.steps(&jobs, 60).len(), 1);
    assert_eq!(yard.shelf.names(), ["one", "two"]);
}

#[test]
fn what_people_have_said_survives_whatever_dies() {
    let yard = Yard::new(Some("daily 02:30"));
    let jobs = yard.start();
    assert!(jobs.show("nightly").unwrap().enabled);
    jobs.act("nightly", Action::Disable).unwrap();
    // Nothing is done at its end that a kill would leave out.
    std::mem::forget(jobs.clone());
    let beside = yard.beside();
    assert!(!beside.has("nightly"));
    let file = yard.directory.path().join("nightly.job");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(state["enabled"], false);
    // A file that cannot be read lets nothing run.
    let yard = Yard::new(Some("daily 02:30"));
    std::fs::write(yard.directory.path().join("nightly.job"), "{").unwrap();
    let jobs = yard.start();
    assert!(yard.steps(&jobs, 2 * 24 * 60).is_empty());
    let facts = jobs.show("nightly").unwrap();
    assert!(facts.disabled_by.unwrap().contains("cannot be read"));
}

#[test]
fn whoever_does_not_have_a_job_asks_the_one_who_does() {
    let mut yard = Yard::new(Some("daily 02:30"));
    yard.settings.select = Select::All;
    let jobs = yard.start();
    let beside = yard.beside();
    assert!(jobs.has("nightly") && !beside.has("nightly"));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(SeqCst) {
                yard.step(&jobs);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        beside.act("nightly", Action::Disable).unwrap();
        assert_eq!(beside.show("nightly").unwrap().phase, Phase::Disabled);
        yard.shelf.complete("one");
        assert!(ask(yard.directory.path(), "nightly", Action::Start(None)).unwrap());
        wait_for("the run", || yard.shelf.names() == ["one"]);
        jobs.block("nightly", "copy:1").unwrap();
        let refused = beside.act("nightly", Action::Start(None)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Busy);
        assert!(refused.message().contains("copy:1"), "{refused}");
        ended.store(true, SeqCst);
    });
    drop(jobs);
    wait_for("that it takes the job over", || {
        beside.watch();
        beside.has("nightly")
    });
    assert!(!beside.show("nightly").unwrap().enabled);
}

#[test]
fn a_run_waits_for_its_window_and_makes_up_for_what_it_missed() {
    let mut yard = Yard::new(Some("immediate"));
    yard.settings.window = Some(Window::parse(OFFICE).unwrap());
    let jobs = yard.start();
    // A Monday at noon.
    for name in ["one", "two", "three"] {
        yard.pass(HOUR);
        yard.shelf.complete(name);
        assert!(!yard.step(&jobs));
    }
    assert_eq!(
        jobs.show("nightly").unwrap().opens,
        Some(yard.now() + 3 * HOUR)
    );
    yard.steps(&jobs, 2 * 60 + 59);
    assert_eq!(yard.shelf.names(), [""; 0]);
    yard.steps(&jobs, 1);
    assert_eq!(yard.shelf.names(), ["one", "two", "three"]);
    // It runs into a denied hour.
    yard.seconds
        .store(seconds("2026-03-03T05:59", &zone("Europe/Berlin")), SeqCst);
    yard.shelf.complete("four");
    yard.shelf.endless.store(true, SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| yard.step(&jobs));
        wait_for("the run", || yard.phase(&jobs) == Phase::Running);
        yard.pass(MINUTE);
        jobs.watch();
        wait_for("the pause", || yard.phase(&jobs) == Phase::Waiting);
        yard.pass(12 * HOUR);
        jobs.watch();
        wait_for("the run", || yard.phase(&jobs) == Phase::Running);
        yard.shelf.endless.store(false, SeqCst);
    });
    assert_eq!(yard.outcome(&jobs), Outcome::Success);
    assert_eq!(yard.shelf.names()[3], "four");
    // One that is asked for by hand waits, too.
    yard.seconds
        .store(seconds("2026-03-04T12:00", &zone("Europe/Berlin")), SeqCst);
    jobs.act("nightly", Action::Start(None)).unwrap();
    assert!(!yard.step(&jobs));
    assert_eq!(yard.phase(&jobs), Phase::Waiting);
    jobs.act("nightly", Action::Stop).unwrap();
    assert_eq!(yard.phase(&jobs), Phase::Idle);
    assert!(yard.events.lock().iter().all(|event| match event {
        Event::Ended { record, .. } => record.outcome == Outcome::Success,
        _ => true,
    }));
}

#[test]
fn a_stop_while_it_waits_for_its_window_ends_the_run() {
    for action in [Action::Stop, Action::StopGracefully] {
        let mut yard = Yard::new(None);
        yard.settings.window = Some(Window::parse(OFFICE).unwrap());
        yard.settings.select = Select::All;
        yard.seconds
            .store(seconds("2026-03-03T05:59", &zone("Europe/Berlin")), SeqCst);
        yard.shelf.complete("one");
        yard.shelf.endless.store(true, SeqCst);
        let jobs = yard.start();
        jobs.act("nightly", Action::Start(None)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| yard.step(&jobs));
            wait_for("the run", || yard.phase(&jobs) == Phase::Running);
            yard.pass(MINUTE);
            jobs.watch();
            wait_for("the pause", || yard.phase(&jobs) == Phase::Waiting);
            jobs.act("nightly", action).unwrap();
        });
        assert_eq!(yard.outcome(&jobs), Outcome::Stopped);
    }
}

#[test]
fn exactly_one_warning_is_given_of_a_copy_that_is_too_old() {
    let mut yard = Yard::new(Some("immediate"));
    yard.settings.rpo = Some(4 * HOUR);
    yard.settings.retries = 0;
    let warnings = |late| {
        let events = yard.events.lock();
        let of_kind = events.iter().filter(|event| match event {
            Event::Late { .. } => late,
            Event::InTime { .. } => !late,
            _ => false,
        });
        of_kind.count()
    };
    let mut jobs = yard.start();
    yard.pass(1);
    yard.shelf.complete("one");
    yard.step(&jobs);
    let copied = yard.now();
    while warnings(true) == 0 {
        assert!(yard.now() < copied + 5 * HOUR);
        yard.steps(&jobs, 1);
    }
    // Looked at every four minutes.
    assert!((copied + 4 * HOUR..copied + 4 * HOUR + 5 * MINUTE).contains(&yard.now()));
    yard.steps(&jobs, 10 * 60);
    drop(jobs);
    jobs = yard.start();
    yard.steps(&jobs, 10 * 60);
    assert_eq!((warnings(true), warnings(false)), (1, 0));
    assert_eq!(jobs.show("nightly").unwrap().late, ["offsite/web"]);
    yard.shelf.complete("two");
    yard.steps(&jobs, 1);
    assert_eq!((warnings(true), warnings(false)), (1, 1));
    yard.steps(&jobs, 5 * 60);
    assert_eq!((warnings(true), warnings(false)), (2, 1));
}

/// What the command after a run has seen.
fn seen(directory: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(directory.join("seen")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn commands_run_before_and_after_and_the_first_can_prevent_a_run() {
    for (before, outcome, result, copied) in [
        ("exit 0", Outcome::Success, "success", "1"),
        ("exit 1", Outcome::Failed, "failed", "0"),
        ("sleep 1000 & wait", Outcome::Failed, "failed", "0"),
    ] {
        let mut yard = Yard::new(None);
        let home = yard.directory.path().to_owned();
        let timeout = if before.contains("sleep") { 1 } else { 100 };
        yard.settings.before = Some(Hook::new(before, timeout));
        let after = format!("env | grep ^KEEPFS_ > {}/seen", home.display());
        yard.settings.after = Some(Hook::new(&after, 100));
        yard.settings.select = Select::All;
        yard.shelf.complete("one");
        let jobs = yard.start();
        jobs.act("nightly", Action::Start(None)).unwrap();
        assert!(yard.step(&jobs));
        assert_eq!(yard.outcome(&jobs), outcome, "{before}");
        let seen = seen(&home);
        assert_eq!(seen["KEEPFS_RESULT"], result, "{before}");
        assert_eq!(seen["KEEPFS_COPIED"], copied, "{before}");
        assert_eq!(seen["KEEPFS_JOB"], "nightly");
        assert_eq!(seen["KEEPFS_TARGETS"], "offsite");
        match outcome {
            Outcome::Success => assert_eq!(seen["KEEPFS_POINTS"], "offsite/web/one"),
            _ => assert!(seen["KEEPFS_REASON"].contains("`before`"), "{seen:?}"),
        }
        assert!(!seen.contains_key("KEEPFS_PASSWORD"));
    }
    // One that hangs is ended by a stop; one that fails afterwards is told, and no more.
    let mut yard = Yard::new(None);
    yard.settings.before = Some(Hook::new("sleep 1000", 1000));
    let jobs = yard.start();
    jobs.act("nightly", Action::Start(None)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| yard.step(&jobs));
        wait_for("the run", || yard.phase(&jobs) == Phase::Running);
        jobs.act("nightly", Action::Stop).unwrap();
    });
    assert_eq!(yard.outcome(&jobs), Outcome::Stopped);
    yard.settings.before = None;
    yard.settings.after = Some(Hook::new("exit 3", 100));
    drop(jobs);
    let jobs = yard.start();
    jobs.act("nightly", Action::Start(None)).unwrap();
    assert_eq!(yard.steps(&jobs, 4 * 60).len(), 1);
    assert_eq!(yard.outcome(&jobs), Outcome::Warning);
}

#[test]
fn each_of_several_targets_gets_what_it_lacks_and_one_that_fails_holds_up_no_other() {
    let mut yard = Yard::new(None);
    yard.settings.targets = vec!["offsite".to_owned(), "third".to_owned()];
    yard.settings.select = Select::All;
    yard.shelf.complete("one");
    yard.shelf.failing.store(1, SeqCst);
    let jobs = yard.start();
    jobs.act("nightly", Action::Start(None)).unwrap();
    yard.step(&jobs);
    assert_eq!(yard.outcome(&jobs), Outcome::Failed);
    assert_eq!(yard.shelf.targets.lock()["third"].len(), 1);
    yard.steps(&jobs, 10);
    assert_eq!(yard.outcome(&jobs), Outcome::Success);
    assert_eq!(yard.shelf.names(), ["one", "one"]);
    let record = jobs.show("nightly").unwrap().last_run.unwrap();
    assert_eq!(record.copied, ["offsite/web/one"]);
}
