//! What a script sees: exit codes that say what happened, and `--json` that parses and holds what was done.

use crate::cli::{Host, assert_code};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;

/// An ordinary user; the number needs no name.
const SOMEBODY: u32 = 54_321;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("is ours");
}

/// Gives everything below to the ordinary user.
fn give(path: &Path) {
    chown(path, Some(SOMEBODY), Some(SOMEBODY)).expect("the tests run as root");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("lists") {
            give(&entry.expect("lists").path());
        }
    }
}

#[test]
fn what_cannot_be_read_is_reported_under_each_of_its_names_with_exit_code_3() {
    let host = Host::new();
    let files = host.files();
    std::fs::write(files.join("secret"), "nobody may read it").expect("writes");
    std::fs::hard_link(files.join("secret"), files.join("deep/again")).expect("links");
    host.expect(0, &["init", "primary"]);
    give(host.home.path());
    mode(&files.join("secret"), 0);
    // Where the binary lies, that user may not come.
    let program = host.path("keepfs");
    std::fs::copy(env!("CARGO_BIN_EXE_keepfs"), &program).expect("copies");
    let words = ["--json", "backup", text(&files), "primary/web/one"];
    let as_configured = host.command(&words);
    let mut command = std::process::Command::new(&program);
    command.args(words).uid(SOMEBODY).gid(SOMEBODY).env_clear();
    for (name, value) in as_configured.get_envs() {
        command.env(name, value.expect("is set"));
    }
    let output = command
        .current_dir(host.home.path())
        .output()
        .expect("runs");
    assert_code(&output, 3);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut missing: Vec<_> = report["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|problem| problem["path"].as_str().expect("text").to_owned())
        .collect();
    missing.sort();
    let expected = ["deep/again", "secret"].map(|name| text(&files.join(name)).to_owned());
    assert_eq!(missing, expected);
    // The caches are that user's, so root has to have others.
    let listed = host
        .command(&["--json", "points", "primary"])
        .env("XDG_CACHE_HOME", host.path("cache-of-root"))
        .output()
        .expect("runs");
    assert_code(&listed, 0);
    let points: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(points[0]["backups"][0]["points"][0]["name"], "one");
    let refused = host.complaint(1, &["points", "primary"]);
    assert!(refused.contains("another user"), "{refused}");
}

#[test]
fn a_check_of_a_damaged_repository_fails_and_names_the_files_lost() {
    let host = Host::new();
    let files = host.files();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["backup", "--quiet", text(&files), "primary/web/one"]);
    assert!(host.expect(0, &["check", "primary"]).contains("sound"));
    std::fs::remove_dir_all(host.path("primary/packs/data")).expect("removes");
    let said = host.expect(1, &["check", "primary"]);
    assert!(said.contains("damaged: "), "{said}");
    for lost in ["letter", "deep/er"] {
        assert!(
            said.lines()
                .any(|line| line.contains("lost: ") && line.ends_with(lost)),
            "{lost}: {said}"
        );
    }
    let report: serde_json::Value =
        serde_json::from_str(&host.expect(1, &["check", "--json", "primary"])).expect("JSON");
    assert!(report[0]["problem_count"].as_u64() > Some(0), "{report}");
    // What is lost cannot be restored, and the rest is.
    let out = host.path("out");
    let restored = host.expect(3, &["--json", "restore", "primary/web/one", text(&out)]);
    let report: serde_json::Value = serde_json::from_str(&restored).expect("JSON");
    assert_eq!(report["problems_count"], 2, "{report}");
    assert!(out.join("deep").is_dir());
}

#[test]
fn every_report_is_also_json() {
    let host = Host::new();
    let files = host.files();
    let made = host.json(&["--json", "init", "primary"]);
    assert_eq!(made["repository"], "primary");
    assert_eq!(made["id"].as_str().expect("an id").len(), 32);
    host.expect(0, &["backup", "--quiet", text(&files), "primary/web/one"]);
    std::fs::write(files.join("letter"), "Dear Bob, again").expect("writes");
    host.expect(0, &["backup", "--quiet", text(&files), "primary/web/two"]);

    let out = host.path("out");
    let restored = host.json(&["--json", "restore", "primary/web/one", text(&out)]);
    assert_eq!(restored["entries"], 4, "the top, letter, deep, er");
    assert_eq!(restored["bytes"], 100_010);
    assert_eq!(restored["problems_count"], 0);

    let lines = host.expect(1, &["--json", "diff", "primary/web/one", "primary/web/two"]);
    let difference: serde_json::Value = serde_json::from_str(lines.trim_end()).expect("one line");
    assert_eq!(difference["path"], "letter");
    assert_eq!(difference["change"], "M");
    assert_eq!(difference["second_bytes"], 15);

    let forgotten = host.json(&["--json", "forget", "primary/web/one"]);
    assert_eq!(forgotten[0]["point"], "one");

    std::fs::write(host.path("other"), "another password\n").expect("writes");
    let words = ["--json", "key", "add", "--new-password-file", "other"];
    let added = host.json(&[&words[..], &["primary"]].concat());
    let id = added["id"].as_str().expect("an id");
    let removed = host.json(&["--json", "key", "remove", "primary", id]);
    assert_eq!(
        (&removed["done"], &removed["id"]),
        (&"removed".into(), &added["id"])
    );
}

#[test]
fn a_point_in_a_mount_is_sealed_by_the_command() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    std::fs::create_dir(host.path("mnt")).expect("makes");
    host.expect(0, &["mount", "primary", "mnt"]);
    let point = host.path("mnt/primary/web/new");
    let written = std::fs::create_dir_all(&point)
        .and_then(|()| std::fs::write(point.join("letter"), "Dear Alice"));
    let sealed = host.run(&["--json", "seal", "mnt/primary/web/new"]);
    let late = std::fs::write(point.join("late"), "");
    let errors = std::fs::metadata(host.path("mnt/.keepfs/errors"));
    let nothing = host.run(&["seal", "mnt/primary/web/nothing"]);
    host.expect(0, &["umount", "mnt"]);
    written.expect("an open point is written to");
    assert_code(&sealed, 0);
    let report: serde_json::Value = serde_json::from_slice(&sealed.stdout).expect("JSON");
    assert_eq!(report["state"], "complete");
    assert_eq!(
        late.expect_err("it is complete").raw_os_error(),
        Some(libc::EROFS)
    );
    assert_code(&nothing, 1);
    // It shows paths of every user.
    assert_eq!(
        errors.expect("is there").permissions().mode() & 0o777,
        0o400
    );
    let points = host.json(&["--json", "points", "primary"]);
    assert_eq!(points[0]["backups"][0]["points"][0]["name"], "new");
}

/// What `script` shows of a command that has a terminal.
fn on_a_terminal(host: &Host, words: &[&str]) -> String {
    let command = [&[env!("CARGO_BIN_EXE_keepfs")], words].concat().join(" ");
    let plain = host.command(words);
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &command, "/dev/null"]);
    for (name, value) in plain.get_envs() {
        script.env(name, value.expect("is set"));
    }
    let output = script
        .current_dir(host.home.path())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_name_does_nothing_to_the_terminal_and_a_program_reads_it_as_it_is() {
    let host = Host::new();
    let files = host.files();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["backup", "--quiet", text(&files), "primary/web/one"]);
    std::fs::write(files.join("evil\u{1b}[2J\nnew"), "").expect("writes");
    host.expect(0, &["backup", "--quiet", text(&files), "primary/web/two"]);
    let words = ["diff", "primary/web/one", "primary/web/two"];
    assert_eq!(host.expect(1, &words), "+ evil\u{1b}[2J\nnew\n");
    let shown = on_a_terminal(&host, &words);
    assert!(shown.contains("+ evil\\u{1b}[2J\\nnew"), "{shown:?}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let complaint = host.complaint(1, &["points", "primary/no\u{1b}[2J"]);
    assert!(complaint.contains("no\\u{1b}[2J"), "{complaint:?}");
}

/// Reading what was changed by nobody takes long enough to be seen, as it is much.
#[test]
fn a_bar_is_drawn_on_a_terminal_and_nowhere_else() {
    let host = Host::new();
    let files = host.files();
    for number in 0..8 {
        let big = files.join(format!("big{number}"));
        std::fs::write(big, vec![number + 1; 32 << 20]).expect("writes");
    }
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["backup", "--quiet", text(&files), "primary/web/one"]);
    let words = [
        "backup",
        "--force",
        "--threads",
        "1",
        text(&files),
        "primary/web",
    ];
    let output = host.run(&words);
    assert_code(&output, 0);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let shown = on_a_terminal(&host, &words);
    for part in ["MiB", "items", "ETA"] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    let quiet = on_a_terminal(&host, &[&words[..], &["--quiet"]].concat());
    assert!(!quiet.contains("ETA"), "{quiet:?}");
}
