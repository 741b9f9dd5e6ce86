//! Jobs with real repositories: from the command line, in a daemon, and in a window that closes while they run.

use crate::cli::{Host, assert_code};
use crate::job_times::{OFFICE, seconds, zone};
use keepfs::clock::Clock;
use keepfs::command::{self, StartReport};
use keepfs::config::{Config, Given, Keys};
use keepfs::job::{Action, Outcome};
use keepfs::progress::Progress;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

const REPOSITORIES: &str = "cache-directory = \"cache/keepfs\"\nstate-directory = \"state/keepfs\"\n\
    [repository.primary]\nurl = \"primary\"\nkey-file = \"primary.key\"\npack-size = \"1 MiB\"\n\
    [repository.offsite]\nurl = \"offsite\"\nkey-file = \"offsite.key\"\npack-size = \"1 MiB\"\n\
    [repository.reference]\nurl = \"reference\"\nkey-file = \"offsite.key\"\npack-size = \"1 MiB\"\n";

fn host(jobs: &str) -> Host {
    let host = Host::new();
    configure(&host, jobs);
    for name in ["primary", "offsite", "reference"] {
        host.expect(0, &["init", name]);
    }
    host
}

fn configure(host: &Host, jobs: &str) {
    std::fs::write(host.path("keepfs.toml"), format!("{REPOSITORIES}{jobs}")).unwrap();
}

/// Bytes that nothing compresses, of which no two names have the same.
fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(name.as_bytes())
        .finalize_xof()
        .fill(&mut content);
    content
}

fn back_up(host: &Host, point: &str, bytes: usize) {
    let source = host.path("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("file"), noise(point, bytes)).unwrap();
    host.expect(
        0,
        &[
            "backup",
            "--quiet",
            source.to_str().unwrap(),
            &format!("primary/{point}"),
        ],
    );
}

/// BACKUP/POINT of a repository, in the order in which they were completed there.
fn points(host: &Host, repository: &str) -> Vec<String> {
    let report = host.json(&["points", "--json", repository]);
    let mut found = Vec::new();
    for backup in report[0]["backups"].as_array().unwrap() {
        for point in backup["points"].as_array().unwrap() {
            let name = format!(
                "{}/{}",
                backup["name"].as_str().unwrap(),
                point["name"].as_str().unwrap()
            );
            found.push((point["sealed"].as_str().unwrap().to_owned(), name));
        }
    }
    found.sort_by(|one, two| one.0.cmp(&two.0));
    found.into_iter().map(|(_, name)| name).collect()
}

/// Data packs by name, with their sizes.
fn packs(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let Ok(prefixes) = std::fs::read_dir(directory.join("packs/data")) else {
        return found;
    };
    for prefix in prefixes.flatten() {
        for pack in std::fs::read_dir(prefix.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if pack.file_name().len() == 32
                && let Ok(facts) = pack.metadata()
            {
                found.insert(pack.path(), facts.len());
            }
        }
    }
    found
}

fn wait_for(what: &str, come: impl Fn() -> bool) {
    for _ in 0..3000 {
        if come() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not come");
}

#[test]
fn a_job_is_run_from_the_command_line_and_leaves_its_points_when_it_goes() {
    let nightly = "[job.nightly]\nsource = \"primary/web*\"\ntarget = \"offsite\"\nschedule = \"daily 02:30\"\nselect = \"all\"\n";
    let host = host(&format!("{nightly}[job.later]\nsource = \"primary\"\n"));
    back_up(&host, "web01/one", 3_000_000);
    back_up(&host, "db/one", 10_000);
    let listed = host.json(&["job", "list", "--json"]);
    let state =
        |name: &str| -> Value { host.json(&["job", "show", "--json", name])["state"].clone() };
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(
        (state("nightly"), state("later")),
        ("idle".into(), "not-configured".into())
    );
    assert!(
        listed["jobs"][1]["next_run"]
            .as_str()
            .unwrap()
            .ends_with(":00Z")
    );
    let refused = host.complaint(2, &["job", "start", "later"]);
    assert!(refused.contains("has no target"), "{refused}");
    host.complaint(1, &["job", "start", "unknown"]);
    host.complaint(1, &["job", "show", "unknown"]);

    let started = host.json(&["job", "start", "--json", "nightly"]);
    let first = &started["run"];
    assert_eq!(first["outcome"], "success", "{started}");
    assert_eq!(first["copied"], serde_json::json!(["offsite/web01/one"]));
    assert_eq!(points(&host, "offsite"), ["web01/one"]);
    let again = &host.json(&["job", "start", "--json", "nightly"])["run"];
    assert_eq!(
        (&again["copied_count"], &again["stored_bytes"]),
        (&0.into(), &0.into())
    );

    host.expect(0, &["job", "disable", "nightly"]);
    assert_eq!(state("nightly"), "disabled");
    back_up(&host, "web02/one", 10_000);
    back_up(&host, "web02/two", 10_000);
    let said = host.expect(0, &["job", "start", "--latest", "nightly"]);
    assert!(said.contains("copied offsite/web02/two"), "{said}");
    assert_eq!(points(&host, "offsite"), ["web01/one", "web02/two"]);
    assert_eq!(state("nightly"), "disabled");
    host.expect(0, &["job", "enable", "nightly"]);
    assert_eq!(state("nightly"), "idle");
    assert!(
        host.expect(0, &["job", "show", "nightly"])
            .contains("last run")
    );

    // Points do not belong to jobs.
    configure(
        &host,
        "[job.other]\nsource = \"primary/web*\"\ntarget = \"offsite\"\nselect = \"all\"\n",
    );
    host.complaint(1, &["job", "show", "nightly"]);
    let other = &host.json(&["job", "start", "--json", "other"])["run"];
    assert_eq!(other["copied"], serde_json::json!(["offsite/web02/one"]));
    let stored = |run: &Value| run["stored_bytes"].as_u64().unwrap();
    assert!(stored(other) < stored(first) / 20, "{other}");
    host.expect(0, &["check", "--read-data", "offsite"]);
    configure(
        &host,
        "[job.other]\nsource = \"primary\"\nto = \"offsite\"\n",
    );
    let refused = host.complaint(2, &["job", "list"]);
    assert!(refused.contains("unknown field `to`"), "{refused}");
}

/// A foreground daemon of this host.
struct Daemon<'a> {
    host: &'a Host,
    child: Child,
}

impl<'a> Daemon<'a> {
    fn start(host: &'a Host) -> Self {
        std::fs::create_dir_all(host.path("mnt")).unwrap();
        let child = host
            .command(&["mount", "--foreground", "mnt"])
            .spawn()
            .unwrap();
        wait_for("the mount", || host.path("mnt/primary").is_dir());
        Self { host, child }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // A killed one has left its mount, which the next one recovers.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.host.run(&["umount", "--lazy", "mnt"]);
    }
}

#[test]
fn a_daemon_copies_points_as_they_complete_whoever_wrote_them() {
    let host = host(
        "[job.now]\nsource = \"primary/web*\"\ntarget = \"offsite\"\nschedule = \"immediate\"\n",
    );
    back_up(&host, "web/before", 1000);
    let daemon = Daemon::start(&host);
    let state = || host.json(&["job", "show", "--json", "now"])["state"].clone();
    assert_eq!(state(), "idle");
    for name in ["web/one", "web/two", "web/three"] {
        back_up(&host, name, 200_000);
        std::thread::sleep(Duration::from_secs(1));
    }
    wait_for("three points", || points(&host, "offsite").len() == 3);
    // The point that was there before is not one of "each".
    assert_eq!(
        points(&host, "offsite"),
        ["web/one", "web/two", "web/three"]
    );

    // Written by tools; an open point is none yet.
    std::fs::create_dir_all(host.path("mnt/primary/web/pushed.partial")).unwrap();
    std::fs::write(
        host.path("mnt/primary/web/pushed.partial/file"),
        noise("pushed", 5000),
    )
    .unwrap();
    back_up(&host, "web/four", 1000);
    wait_for("another point", || points(&host, "offsite").len() == 4);
    std::fs::rename(
        host.path("mnt/primary/web/pushed.partial"),
        host.path("mnt/primary/web/pushed"),
    )
    .unwrap();
    wait_for("the pushed point", || {
        points(&host, "offsite").contains(&"web/pushed".to_owned())
    });

    // A person asks the daemon.
    host.expect(0, &["job", "disable", "now"]);
    assert_eq!(state(), "disabled");
    back_up(&host, "web/five", 1000);
    let asked = host.json(&["job", "start", "--json", "--all-points", "now"]);
    assert!(asked["run"].is_null(), "{asked}");
    wait_for("all points", || points(&host, "offsite").len() == 7);
    host.expect(0, &["job", "rate", "now", "5 MB/s"]);
    assert_eq!(
        host.json(&["job", "show", "--json", "now"])["rate"],
        5_000_000
    );
    host.expect(0, &["job", "enable", "now"]);

    // It dies between the event and the start.
    daemon.kill();
    back_up(&host, "web/six", 1000);
    back_up(&host, "web/seven", 1000);
    let daemon = Daemon::start(&host);
    wait_for("what was missed", || points(&host, "offsite").len() == 9);
    assert_eq!(points(&host, "offsite")[7..], ["web/six", "web/seven"]);
    drop(daemon);
    host.expect(0, &["check", "--read-data", "offsite"]);
}

#[test]
fn exactly_the_points_that_are_complete_sound_and_missing_are_copied() {
    let host = host("[job.all]\nsource = \"primary\"\ntarget = \"offsite\"\nselect = \"all\"\n");
    let mut damaged = None;
    for number in 0..9 {
        let before = packs(&host.path("primary"));
        back_up(&host, &format!("web/p{number}"), 300_000);
        if number == 4 {
            let after = packs(&host.path("primary"));
            damaged = after.into_keys().find(|pack| !before.contains_key(pack));
        }
    }
    for name in ["primary/web/p0", "primary/web/p7"] {
        host.expect(0, &["copy", "--quiet", name, "offsite"]);
    }
    let pack = damaged.unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    for byte in &mut bytes[100_000..100_100] {
        *byte ^= 1;
    }
    std::fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let output = host.run(&["job", "start", "--json", "all"]);
    assert_code(&output, 4);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let copied: Vec<_> = report["run"]["copied"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let expected = [1, 2, 3, 5, 6, 8].map(|number| format!("offsite/web/p{number}"));
    assert_eq!(copied, expected, "{report}");
    assert_eq!(points(&host, "offsite").len(), 8);
    let problems = report["run"]["problems"].to_string();
    assert!(problems.contains("web/p4/file"), "{problems}");
    assert_eq!(
        host.json(&["job", "show", "--json", "all"])["last_run"]["outcome"],
        "needs-action"
    );
}

/// This host's verbs, in this process, with a clock that the test turns.
fn in_process(host: &Host, clock: &Arc<AtomicI64>) -> command::Host {
    let config = Config::load(Some(&host.path("keepfs.toml"))).unwrap();
    let keys = Keys::new(Given::default(), Box::new(|_| Ok(None)));
    command::Host::new(config, keys, Clock::fixed(clock.clone())).unwrap()
}

/// Stops the run when a test fails, instead of waiting for it for ever.
struct Stops<'a>(&'a Progress);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn outcome(report: StartReport) -> Outcome {
    report.run.unwrap().outcome
}

#[test]
fn a_run_into_a_denied_hour_stops_at_a_packs_end_and_sends_nothing_twice() {
    let job = format!(
        "[job.slow]\nsource = \"primary\"\ntarget = \"offsite\"\nselect = \"all\"\nrate = \"3 MB/s\"\ntimezone = \"Europe/Berlin\"\nwindow = \"\"\"{OFFICE}\"\"\"\n"
    );
    let host = host(&job);
    for point in ["web/one", "web/two", "web/three"] {
        back_up(&host, point, 5_000_000);
    }
    host.expect(0, &["copy", "--quiet", "primary", "reference"]);
    let berlin = zone("Europe/Berlin");
    let clock = Arc::new(AtomicI64::new(seconds("2026-12-01T05:30", &berlin)));
    let here = in_process(&host, &clock);
    let state = || command::show_job(&here, "slow").unwrap().state;
    let offsite = host.path("offsite");
    let progress = Progress::default();
    let report = std::thread::scope(|scope| {
        let _stops = Stops(&progress);
        let run = scope.spawn(|| command::start_job(&here, "slow", None, &progress));
        wait_for("two packs", || packs(&offsite).len() >= 2);
        clock.store(seconds("2026-12-01T06:00", &berlin), SeqCst);
        wait_for("the pause", || state() == "waiting");
        // Those that were on their way end.
        std::thread::sleep(Duration::from_secs(2));
        let sent = packs(&offsite);
        assert!(points(&host, "offsite").len() < 3);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(packs(&offsite), sent, "nothing is sent while it waits");
        clock.store(seconds("2026-12-01T18:00", &berlin), SeqCst);
        let report = run.join().unwrap().unwrap();
        assert!(sent.keys().all(|pack| packs(&offsite).contains_key(pack)));
        report
    });
    assert_eq!(outcome(report), Outcome::Success);
    assert_eq!(points(&host, "offsite").len(), 3);
    let sum = |name| packs(&host.path(name)).values().sum::<u64>();
    let (sent, needed) = (sum("offsite"), sum("reference"));
    assert!(
        sent <= needed + needed / 100,
        "{sent} were sent, {needed} are needed"
    );
    host.expect(0, &["check", "--read-data", "offsite"]);
}

#[test]
fn a_stop_at_any_moment_leaves_no_half_point_and_the_next_run_goes_on() {
    let host = host(
        "[job.slow]\nsource = \"primary\"\ntarget = \"offsite\"\nselect = \"all\"\nrate = \"2 MB/s\"\n",
    );
    for point in ["web/one", "web/two"] {
        back_up(&host, point, 6_000_000);
    }
    host.expect(0, &["copy", "--quiet", "primary", "reference"]);
    let clock = Arc::new(AtomicI64::new(1_800_000_000));
    let here = in_process(&host, &clock);
    let offsite = host.path("offsite");
    let moments = if std::env::var_os("KEEPFS_FULL").is_some() {
        100
    } else {
        8
    };
    let mut stopped = 0;
    for moment in 0..moments {
        let begun = packs(&offsite).len();
        let report = std::thread::scope(|scope| {
            let run = scope.spawn(|| command::start_job(&here, "slow", None, &Progress::default()));
            let runs = || command::show_job(&here, "slow").unwrap().state == "running";
            wait_for("the run", || run.is_finished() || runs());
            wait_for("some packs", || {
                run.is_finished() || packs(&offsite).len() >= begun + moment % 2
            });
            std::thread::sleep(Duration::from_millis(37 * moment as u64 % 100));
            let action = [Action::Stop, Action::StopGracefully][moment % 2];
            // It may have ended just now.
            let _ = command::ask_job(&here, "slow", action);
            run.join().unwrap().unwrap()
        });
        match outcome(report) {
            Outcome::Stopped => stopped += 1,
            other => assert_eq!(other, Outcome::Success),
        }
        host.expect(0, &["check", "offsite"]);
    }
    assert!(stopped > 0);
    let report = command::start_job(&here, "slow", None, &Progress::default()).unwrap();
    assert_eq!(outcome(report), Outcome::Success);
    assert_eq!(points(&host, "offsite").len(), 2);
    host.expect(0, &["check", "--read-data", "offsite"]);
    for point in ["web/one", "web/two"] {
        let [from, to] = ["primary", "offsite"].map(|repository| format!("{repository}/{point}"));
        assert_eq!(host.expect(0, &["diff", &from, &to]), "");
    }
    let sum = |name| packs(&host.path(name)).values().sum::<u64>();
    let (sent, needed) = (sum("offsite"), sum("reference"));
    assert!(
        sent <= needed + needed / 50,
        "{sent} were sent, {needed} are needed"
    );
}

#[test]
fn a_rate_holds_for_a_repository_and_changes_while_a_job_runs() {
    let host = host(
        "[job.slow]\nsource = \"primary\"\ntarget = \"offsite\"\nselect = \"all\"\nrate = \"64 KiB/s\"\n",
    );
    back_up(&host, "web/one", 20_000_000);
    let clock = Arc::new(AtomicI64::new(1_800_000_000));
    let here = in_process(&host, &clock);
    let offsite = host.path("offsite");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| command::start_job(&here, "slow", None, &Progress::default()));
        wait_for("the run", || {
            command::show_job(&here, "slow").unwrap().state == "running"
        });
        std::thread::sleep(Duration::from_secs(2));
        // At this rate it would take five minutes.
        assert!(!run.is_finished() && packs(&offsite).len() < 5);
        command::ask_job(&here, "slow", Action::Rate(None)).unwrap();
        assert_eq!(outcome(run.join().unwrap().unwrap()), Outcome::Success);
    });
    assert_eq!(points(&host, "offsite"), ["web/one"]);
}
