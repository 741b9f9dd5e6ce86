//! Copies as sessions in a real mount: what tools copy, what a daemon goes on with, and the same actions through files.

use crate::cli::Host;
use crate::mount::{catalog, run, try_run};
use crate::served::{self, FILES};
use crate::sites::Random;
use keepfs::clock::Clock;
use keepfs::copy::{Action, Session, SessionRecord, SessionState, all_sessions};
use keepfs::filesystem::{FileSystem, Options};
use parking_lot::Mutex;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

/// What `look` finds, at the latest after two minutes.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("{what}: not within two minutes");
}

/// What a script complains of; it must fail.
fn complaint(script: &str) -> String {
    let output = try_run(script);
    assert!(!output.status.success(), "{script}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A host with two repositories, mounted. Dropped, it unmounts.
struct Mounted {
    host: Host,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = try_run(&format!("umount -l '{}'", self.mount().display()));
    }
}

impl Mounted {
    fn new() -> Self {
        let host = Host::new();
        for directory in ["mnt", "source"] {
            std::fs::create_dir(host.path(directory)).unwrap();
        }
        host.expect(0, &["--quiet", "init", "primary"]);
        host.expect(0, &["--quiet", "init", "offsite"]);
        Self { host }
    }

    fn mount(&self) -> PathBuf {
        self.host.path("mnt")
    }

    fn begin(&self) {
        self.host.expect(0, &["mount", "mnt"]);
    }

    /// Backs a file of this content up as a point whose data packs are returned.
    fn back_up(&self, point: &str, bytes: &[u8]) -> Vec<PathBuf> {
        let before = self.packs();
        std::fs::write(self.host.path("source/file"), bytes).unwrap();
        let place = format!("primary/web/{point}");
        self.host
            .expect(0, &["--quiet", "backup", "source", &place]);
        let mut new = self.packs();
        new.retain(|pack| !before.contains(pack));
        new
    }

    fn packs(&self) -> Vec<PathBuf> {
        let found = run(&format!(
            "find '{}' -type f 2>/dev/null || true",
            self.host.path("primary/packs/data").display()
        ));
        found.lines().map(PathBuf::from).collect()
    }

    /// kill -9 of the daemon that serves the mount: the only process that has this host's directory as its home.
    fn kill_daemon(&self) {
        let home = format!("HOME={}", self.host.home.path().display());
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            let number = process.file_name().to_string_lossy().parse::<i32>();
            let mut variables = environment.split(|byte| *byte == 0);
            if let (Ok(number), true) = (number, variables.any(|it| it == home.as_bytes())) {
                // SAFETY: a signal to a process of this test.
                unsafe { libc::kill(number, libc::SIGKILL) };
            }
        }
    }

    fn shell(&self, script: &str) -> String {
        run(&format!("cd '{}'; {script}", self.mount().display()))
    }

    /// The kernel may remember for a moment that a point is not there.
    fn same(&self, point: &str) {
        wait_for(&format!("{point} in both repositories"), || {
            let same = try_run(&format!(
                "cd '{}'; diff -r primary/web/{point} offsite/web/{point}",
                self.mount().display()
            ));
            same.status.success().then_some(())
        });
    }

    fn sessions(&self) -> Vec<Value> {
        let listed = self.host.json(&["--json", "session", "list", "offsite"]);
        listed["sessions"].as_array().unwrap().clone()
    }

    /// The only session, once it has this state.
    fn session_that_is(&self, state: &str) -> Value {
        let last = std::cell::RefCell::new(Vec::new());
        let look = || {
            *last.borrow_mut() = self.sessions();
            let found = last.borrow();
            let found = found.iter().find(|session| session["state"] == state);
            found.cloned()
        };
        for _ in 0..600 {
            if let Some(found) = look() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!(
            "no session that is {state} within two minutes: {:?}",
            last.borrow()
        );
    }
}

#[test]
fn every_way_of_copying_is_a_session() {
    let mounted = Mounted::new();
    let mut random = Random(3);
    for point in ["by-cp", "by-rsync", "by-engine"] {
        mounted.back_up(point, &random.bytes(200_000));
    }
    mounted.begin();
    mounted.shell("mkdir offsite/web; cp -a primary/web/by-cp offsite/web/");
    mounted.shell("rsync -aX primary/web/by-rsync offsite/web/");
    mounted
        .host
        .expect(0, &["--quiet", "copy", "primary/web/by-engine", "offsite"]);
    let sessions = wait_for("three sessions that are a success", || {
        let sessions = mounted.sessions();
        let done = sessions
            .iter()
            .filter(|session| session["state"] == "success");
        (done.count() == 3).then_some(sessions)
    });
    let primary = mounted.host.path("primary").display().to_string();
    let offsite = mounted.host.path("offsite").display().to_string();
    let mut points = Vec::new();
    for session in &sessions {
        assert_eq!(session["source"].as_str().unwrap(), primary);
        assert_eq!(session["target"].as_str().unwrap(), offsite);
        assert_eq!(session["proxy"], "local");
        assert_eq!(session["points"][0]["outcome"], "copied");
        points.push(session["points"][0]["point"].as_str().unwrap().to_owned());
    }
    points.sort();
    assert_eq!(points, ["web/by-cp", "web/by-engine", "web/by-rsync"]);

    let listed = mounted.shell("ls .keepfs/last-24h; ls .keepfs/needs-action .keepfs/running");
    for session in &sessions {
        let id = session["id"].as_str().unwrap();
        assert!(listed.contains(id), "{listed}");
        let state = mounted.shell(&format!("cat .keepfs/last-24h/{id}/state"));
        assert!(state.starts_with("state = success\n"), "{state}");
    }
    let id = sessions[0]["id"].as_str().unwrap();
    let refused = complaint(&format!(
        "echo retry > '{}/.keepfs/sessions/{id}/action'",
        mounted.mount().display()
    ));
    assert!(refused.contains("Invalid argument"));
    let unknown = complaint(&format!(
        "echo rm > '{}/.keepfs/sessions/{id}/action'",
        mounted.mount().display()
    ));
    assert!(unknown.contains("Invalid argument"));
    let errors = mounted.shell("cat .keepfs/errors");
    assert!(errors.contains("nothing is accepted any more"), "{errors}");
    assert!(errors.contains("write retry, skip or undo"), "{errors}");
}

#[test]
fn actions_through_files_do_what_those_of_the_command_do() {
    let mounted = Mounted::new();
    let mut random = Random(5);
    mounted.back_up("whole", &random.bytes(200_000));
    let packs = mounted.back_up("broken", &random.bytes(200_000));
    let away = mounted.host.path("away");
    std::fs::rename(&packs[0], &away).unwrap();
    mounted.begin();
    mounted
        .host
        .expect(4, &["--quiet", "copy", "primary", "offsite"]);
    let session = mounted.session_that_is("needs-action");
    let id = session["id"].as_str().unwrap();
    assert_eq!(mounted.shell("ls .keepfs/needs-action").trim(), id);
    let failed = mounted.shell(&format!("cut -f 2 .keepfs/sessions/{id}/failed"));
    assert_eq!(failed.trim(), "web/broken/file");
    // Retried in vain, it waits again.
    mounted.shell(&format!("echo retry > .keepfs/sessions/{id}/action"));
    mounted.session_that_is("needs-action");
    std::fs::rename(&away, &packs[0]).unwrap();
    wait_for("a retry that is accepted", || {
        let retried = try_run(&format!(
            "echo retry > '{}/.keepfs/needs-action/{id}/action'",
            mounted.mount().display()
        ));
        retried.status.success().then_some(())
    });
    mounted.session_that_is("success");
    assert_eq!(mounted.shell("ls .keepfs/needs-action"), "");
    mounted.same("broken");
}

#[test]
fn a_tools_copy_that_lacks_a_pack_waits_and_the_same_tool_finishes_it() {
    let mounted = Mounted::new();
    let mut random = Random(7);
    let packs = mounted.back_up("one", &random.bytes(200_000));
    let away = mounted.host.path("away");
    mounted.begin();
    std::fs::rename(&packs[0], &away).unwrap();
    mounted.shell("mkdir offsite/web");
    // It may be told of at its end, or only later.
    let _ = try_run(&format!(
        "cd '{}'; cp -a primary/web/one offsite/web/",
        mounted.mount().display()
    ));
    let session = mounted.session_that_is("needs-action");
    assert_eq!(session["failed"][0]["path"], "web/one/file");
    let points = mounted.host.expect(0, &["points", "offsite"]);
    assert!(!points.contains("one"), "{points}");
    std::fs::rename(&away, &packs[0]).unwrap();
    let id = session["id"].as_str().unwrap();
    mounted.shell(&format!("echo retry > .keepfs/sessions/{id}/action"));
    let session = mounted.session_that_is("success");
    assert_eq!(session["id"], id);
    mounted.same("one");

    // Another one is given up by its session.
    let packs = mounted.back_up("two", &random.bytes(200_000));
    wait_for("the point in the mount", || {
        mounted
            .mount()
            .join("primary/web/two")
            .exists()
            .then_some(())
    });
    std::fs::rename(&packs[0], &away).unwrap();
    let _ = try_run(&format!(
        "cd '{}'; cp -a primary/web/two offsite/web/",
        mounted.mount().display()
    ));
    let session = mounted.session_that_is("needs-action");
    let id = session["id"].as_str().unwrap();
    mounted.shell(&format!("echo undo > .keepfs/sessions/{id}/action"));
    mounted.session_that_is("undone");
    assert_eq!(
        mounted.shell("ls offsite/web | grep -c two || true").trim(),
        "0"
    );
}

#[test]
fn a_daemon_goes_on_with_a_copy_whose_process_was_killed() {
    let mounted = Mounted::new();
    let mut random = Random(9);
    for number in 0..12 {
        mounted.back_up(&format!("p{number}"), &random.bytes(4 << 20));
    }
    let mut copy = mounted
        .host
        .command(&["--quiet", "copy", "primary", "offsite"])
        .spawn()
        .unwrap();
    // Its first record is written before anything is copied.
    wait_for("a session", || {
        (!mounted.sessions().is_empty()).then_some(())
    });
    copy.kill().unwrap();
    copy.wait().unwrap();
    let session = mounted.sessions().remove(0);
    mounted.begin();
    let done = mounted.session_that_is("success");
    assert_eq!(done["id"], session["id"]);
    for number in 0..12 {
        mounted.shell(&format!(
            "cmp primary/web/p{number}/file offsite/web/p{number}/file"
        ));
    }
    mounted
        .host
        .expect(0, &["--quiet", "check", "--read-data", "offsite"]);
}

#[test]
fn a_job_that_wants_it_rests_while_a_copy_of_its_backups_is_not_over() {
    let mounted = Mounted::new();
    let mut random = Random(11);
    let packs = mounted.back_up("one", &random.bytes(200_000));
    let away = mounted.host.path("away");
    let config = std::fs::read_to_string(mounted.host.path("keepfs.toml")).unwrap();
    let job = "[job.strict]\nsource = \"primary/web\"\ntarget = \"offsite\"\nselect = \"all\"\non-copy = \"disable\"\n";
    std::fs::write(mounted.host.path("keepfs.toml"), config + job).unwrap();
    std::fs::rename(&packs[0], &away).unwrap();
    mounted
        .host
        .expect(4, &["--quiet", "copy", "primary", "offsite"]);
    let id = mounted.session_that_is("needs-action")["id"].clone();
    let id = id.as_str().unwrap();
    mounted.begin();
    let shown = |text: &str| {
        wait_for(text, || {
            let state = std::fs::read_to_string(mounted.mount().join(".keepfs/jobs/strict/state"));
            state.is_ok_and(|state| state.contains(text)).then_some(())
        });
    };
    shown(&format!("disabled-by = copy:{id}"));
    let start = format!(
        "echo start > '{}/.keepfs/jobs/strict/action'",
        mounted.mount().display()
    );
    assert!(complaint(&start).contains("busy"));
    assert_eq!(mounted.shell("cat .keepfs/jobs/strict/enabled"), "1\n");
    // Also when the daemon died meanwhile.
    mounted.kill_daemon();
    let _ = try_run(&format!("umount -l '{}'", mounted.mount().display()));
    mounted.begin();
    shown(&format!("disabled-by = copy:{id}"));
    std::fs::rename(&away, &packs[0]).unwrap();
    mounted.host.expect(0, &["--quiet", "session", "retry", id]);
    shown("state = idle");
    mounted.shell("echo start > .keepfs/jobs/strict/action");
    mounted.same("one");
}

#[test]
fn a_copy_whose_tool_died_waits_after_an_hour_and_the_same_tool_finishes_it() {
    let host = served::Host::new();
    let now = || Clock::system().now().seconds;
    let seconds = Arc::new(AtomicI64::new(now()));
    let tree = host.serve_with(|options| options.clock = Clock::fixed(seconds.clone()));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = heard.clone();
    tree.0
        .set_listener(Box::new(move |_, record| ear.lock().push(record.state)));
    tree.0.watch_copies();
    let state = || {
        tree.0.tell_copies();
        let sessions = all_sessions(&host.offsite.open()).unwrap();
        assert_eq!(sessions.len(), 1);
        sessions[0].record.state
    };
    tree.mkdir("offsite/host/p1");
    tree.mkdir("offsite/host/p1/a");
    let copy = |name: &str| {
        let (from, to) = ("primary/host/p1", "offsite/host/p1");
        tree.copy(&format!("{from}/{name}"), &format!("{to}/{name}"))
            .unwrap();
    };
    copy(FILES[0]);
    assert_eq!(state(), SessionState::Running);
    seconds.store(now() + 3500, SeqCst);
    assert_eq!(state(), SessionState::Running);
    seconds.store(now() + 3700, SeqCst);
    assert_eq!(state(), SessionState::NeedsAction);
    assert_eq!(state(), SessionState::NeedsAction);
    assert_eq!(*heard.lock(), [SessionState::NeedsAction]);
    // Nothing was sealed, and the tool goes on where it was.
    assert_eq!(tree.fact("offsite/host/p1", "state"), "open");
    std::thread::sleep(Duration::from_secs(1));
    copy(FILES[1]);
    seconds.store(now(), SeqCst);
    assert_eq!(state(), SessionState::Running);
    copy(FILES[2]);
    assert!(tree.becomes_complete("offsite/host/p1"));
    assert_eq!(state(), SessionState::Success);
    assert_eq!(
        *heard.lock(),
        [SessionState::NeedsAction, SessionState::Success]
    );
    // What is discarded is undone.
    tree.mkdir("offsite/host/p1.partial");
    tree.copy("primary/host/p1/three", "offsite/host/p1.partial/three")
        .unwrap();
    tree.0.tell_copies();
    let directory = tree.ino("offsite/host");
    tree.0
        .remove_directory(directory, b"p1.partial", served::USER)
        .unwrap();
    tree.0.tell_copies();
    let sessions = all_sessions(&host.offsite.open()).unwrap();
    let states: Vec<_> = sessions
        .iter()
        .map(|session| session.record.state)
        .collect();
    assert_eq!(states, [SessionState::Success, SessionState::Undone]);
    host.assert_clean();
}

#[test]
fn people_are_told_once_of_each_session_that_ends() {
    let mounted = Mounted::new();
    let mut random = Random(13);
    let packs = mounted.back_up("one", &random.bytes(200_000));
    let away = mounted.host.path("away");
    let told = mounted.host.path("told");
    let config = std::fs::read_to_string(mounted.host.path("keepfs.toml")).unwrap();
    let notify = format!(
        "[notify]\nway = \"command\"\ncommand = \"echo $KEEPFS_RESULT >> {}\"\non = [\"success\", \"warning\", \"failed\", \"needs-action\"]\n",
        told.display()
    );
    std::fs::write(mounted.host.path("keepfs.toml"), config + &notify).unwrap();
    let heard = || std::fs::read_to_string(&told).unwrap_or_default();
    std::fs::rename(&packs[0], &away).unwrap();
    mounted
        .host
        .expect(4, &["--quiet", "copy", "primary", "offsite"]);
    assert_eq!(heard(), "needs-action\n");
    // The same again is the same session in the same state.
    mounted
        .host
        .expect(4, &["--quiet", "copy", "primary", "offsite"]);
    assert_eq!(heard(), "needs-action\n");
    // Whoever asked for it wants to hear of it again.
    let id = mounted.sessions()[0]["id"].as_str().unwrap().to_owned();
    mounted
        .host
        .expect(4, &["--quiet", "session", "retry", &id]);
    assert_eq!(heard(), "needs-action\nneeds-action\n");
    std::fs::rename(&away, &packs[0]).unwrap();
    mounted
        .host
        .expect(0, &["--quiet", "session", "retry", &id]);
    assert_eq!(heard(), "needs-action\nneeds-action\nsuccess\n");
    // A tool's copy, told by the daemon.
    mounted.back_up("two", &random.bytes(200_000));
    mounted.begin();
    mounted.shell("cp -a primary/web/two offsite/web/");
    wait_for("a message of the daemon", || {
        (heard().lines().count() == 4).then_some(())
    });
    assert!(heard().ends_with("success\nsuccess\n"));
}

#[test]
fn what_nobody_acts_on_is_acted_on_only_where_that_is_wished() {
    let host = served::Host::new();
    let (primary, offsite) = (host.primary.open(), host.offsite.open());
    let mut record = SessionRecord::begin(&primary, &offsite, Vec::new());
    record.state = SessionState::NeedsAction;
    record.ended = Some(offsite.now());
    let session = Session::begin(&offsite, record).unwrap();
    let now = Clock::system().now().seconds;
    let state_after = |hours: i64, wished: Option<Action>| {
        let options = Options {
            clock: Clock::fixed(Arc::new(AtomicI64::new(now + hours * 3600 + 60))),
            auto_action: wished.map(|action| (action, Duration::from_secs(24 * 3600))),
            ..Options::new(host.state.path().to_owned())
        };
        let both = [("primary", &host.primary), ("offsite", &host.offsite)];
        let both = both.map(|(name, bench)| (name.to_owned(), catalog(bench)));
        let tree = Arc::new(FileSystem::new(both.into(), options));
        tree.resume_sessions();
        Session::find(&offsite, session.id).unwrap().record.state
    };
    assert_eq!(state_after(48, None), SessionState::NeedsAction);
    assert_eq!(
        state_after(23, Some(Action::Skip)),
        SessionState::NeedsAction
    );
    assert_eq!(state_after(24, Some(Action::Skip)), SessionState::Warning);
}
