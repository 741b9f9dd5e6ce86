//! The command as a person or a script uses it: the built binary, its output and its exit codes.

use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const PASSWORD: &str = "canary-password-4711";

/// A host of its own: directories, configuration, and no variable of the one that tests.
pub struct Host {
    pub home: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(home.path().join("password"), PASSWORD).expect("writes");
        let config = "[repository.primary]\nurl = \"primary\"\npassword-file = \"password\"\n\
                      [repository.offsite]\nurl = \"offsite\"\nkey-file = \"offsite.key\"\npack-size = \"64 MiB\"\n";
        std::fs::write(home.path().join("keepfs.toml"), config).expect("writes");
        Self { home }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepfs"));
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("KEEPFS_CONFIG", self.path("keepfs.toml"))
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Output {
        self.command(words).output().expect("the binary runs")
    }

    /// Standard output of a command that must answer `code`.
    pub fn expect<S: AsRef<OsStr>>(&self, code: i32, words: &[S]) -> String {
        let output = self.run(words);
        assert_code(&output, code);
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn json<S: AsRef<OsStr>>(&self, words: &[S]) -> Value {
        serde_json::from_str(&self.expect(0, words)).expect("JSON")
    }

    /// What a command that must answer `code` says is wrong.
    pub fn complaint<S: AsRef<OsStr>>(&self, code: i32, words: &[S]) -> String {
        let output = self.run(words);
        assert_code(&output, code);
        String::from_utf8(output.stderr).expect("text")
    }

    pub fn files(&self) -> PathBuf {
        let files = self.path("files");
        std::fs::create_dir_all(files.join("deep")).expect("makes");
        std::fs::write(files.join("letter"), "Dear Alice").expect("writes");
        std::fs::write(files.join("deep/er"), vec![7; 100_000]).expect("writes");
        files
    }
}

pub fn assert_code(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether any file below `directory` contains `needle`.
fn contains(directory: &Path, needle: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return contains(&path, needle);
        }
        let content = std::fs::read(&path).unwrap_or_default();
        content
            .windows(needle.len())
            .any(|window| window == needle.as_bytes())
    })
}

#[test]
fn a_backup_is_listed_compared_copied_and_restored() {
    let host = Host::new();
    let files = host.files();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["init", "offsite"]);
    // What was written just before a backup is read again by the next one.
    std::thread::sleep(std::time::Duration::from_millis(150));
    let source = files.to_str().expect("UTF-8");
    let first = host.json(&["--json", "backup", source, "primary/web/first"]);
    assert_eq!(first["point"], "first");
    assert_eq!(first["bytes"], 100_010);
    assert_eq!(
        host.json(&["--json", "backup", source, "primary/web/second"])["files_read"],
        0
    );
    assert_eq!(
        host.expect(0, &["diff", "primary/web/first", "primary/web/second"]),
        ""
    );

    std::fs::write(files.join("new"), "new").expect("writes");
    std::fs::remove_file(files.join("letter")).expect("removes");
    host.expect(0, &["backup", source, "primary/web/third"]);
    let changes = host.expect(1, &["diff", "primary/web/first", "primary/web/latest"]);
    assert_eq!(changes, "- letter\n+ new\n");

    let copied = host.json(&["--json", "copy", "primary", "offsite"]);
    assert_eq!(copied["copied"].as_array().expect("a list").len(), 3);
    let again = host.json(&["--json", "copy", "primary/web", "offsite"]);
    assert_eq!(again["present"].as_array().expect("a list").len(), 3);
    assert_eq!(again["chunks_moved"], 0);

    let offsite = host.path("offsite").join("web/first/letter");
    let target = host.path("restored");
    host.expect(
        0,
        &[
            OsStr::new("--key-file"),
            host.path("offsite.key").as_os_str(),
            OsStr::new("restore"),
            offsite.as_os_str(),
            target.as_os_str(),
        ],
    );
    assert_eq!(
        std::fs::read_to_string(target.join("letter")).expect("restored"),
        "Dear Alice"
    );

    host.expect(0, &["forget", "offsite/web/first"]);
    let points = host.json(&["points", "--json", "offsite"]);
    let names: Vec<_> = points[0]["backups"][0]["points"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|point| point["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["second", "third"]);
    host.complaint(1, &["forget", "offsite/web/first"]);

    let checked = host.json(&["check", "--read-data", "--json", "primary"]);
    assert_eq!(checked[0]["problem_count"], 0);
    let stats = host.json(&["stats", "--json"]);
    assert_eq!(stats["repositories"].as_array().expect("a list").len(), 2);
    assert_eq!(
        stats["repositories"][1]["points"], 3,
        "primary follows offsite by name"
    );
    assert!(stats["repositories"][1]["stored"]["data"].as_u64() > Some(0));
    assert!(stats["repositories"][1]["can"].is_null());
    let probed = host.json(&["stats", "--probe", "--json", "primary"]);
    let can = &probed["repositories"][0]["can"];
    assert_eq!(can["create_if_absent"], true, "{probed}");
    let said = host.expect(0, &["stats", "--probe", "primary"]);
    assert!(said.contains("tried: reads ranges"), "{said}");
}

#[test]
fn a_moved_point_is_gone_where_it_was_only_when_the_other_repository_has_it_whole() {
    let host = Host::new();
    let files = host.files();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["init", "offsite"]);
    let source = files.to_str().expect("UTF-8");
    for point in ["primary/web/one", "primary/web/two", "primary/web/other"] {
        host.expect(0, &["backup", source, point]);
    }
    std::fs::write(files.join("new"), "new").expect("writes");
    host.expect(0, &["backup", source, "offsite/web/other"]);
    let moved = host.json(&["--json", "move", "primary/web/one", "offsite"]);
    assert_eq!(moved["moved"], serde_json::json!(["web/one"]));
    // Another point of that name is there: it stays, and so does this one.
    let said = host.expect(4, &["move", "primary/web", "offsite"]);
    assert!(said.contains("moved web/two"), "{said}");
    assert!(!said.contains("moved web/other"), "{said}");
    let names = |repository: &str| {
        let points = host.json(&["points", "--json", repository]);
        let points = points[0]["backups"][0]["points"].clone();
        let points = points.as_array().expect("a list").clone();
        let mut names: Vec<_> = points
            .iter()
            .map(|point| point["name"].to_string())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("primary"), ["\"other\""]);
    assert_eq!(names("offsite"), ["\"one\"", "\"other\"", "\"two\""]);
    // What was forgotten too early can be brought back.
    host.expect(0, &["undelete", "primary/web/two"]);
    host.expect(0, &["diff", "primary/web/two", "offsite/web/two"]);

    // The copy lacks a pack: the last place that has all of the point keeps it.
    std::fs::remove_dir_all(host.path("offsite/packs/data")).expect("removes");
    let said = host.expect(3, &["move", "primary/web/two", "offsite"]);
    assert!(said.contains("stays: web/two"), "{said}");
    assert!(said.contains("the source keeps the point"), "{said}");
    assert_eq!(names("primary"), ["\"other\"", "\"two\""]);
}

#[test]
fn a_source_that_is_missing_makes_no_point() {
    let host = Host::new();
    let files = host.files();
    host.expect(0, &["init", "primary"]);
    let source = files.to_str().expect("UTF-8");
    let complaint = host.complaint(1, &["backup", source, "files/missing", "primary/web"]);
    assert!(complaint.contains("files/missing"), "{complaint}");
    assert_eq!(host.expect(0, &["points", "primary"]), "");
}

#[test]
fn keys_come_and_go_but_never_the_last() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    std::fs::write(host.path("other"), "another password\n").expect("writes");
    let added = host.json(&[
        "--json",
        "key",
        "add",
        "--new-password-file",
        "other",
        "--label",
        "spare",
        "primary",
    ]);
    assert_eq!(added["done"], "added");
    host.expect(0, &["key", "add", "--new-key-file", "new.key", "primary"]);
    let mode = std::fs::metadata(host.path("new.key"))
        .expect("made")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    host.expect(0, &["--password-file", "other", "points", "primary"]);
    host.expect(0, &["--key-file", "new.key", "points", "primary"]);

    let listed = host.json(&["--json", "key", "list", "primary"]);
    let keys = listed["keys"].as_array().expect("a list").clone();
    assert_eq!(keys.len(), 3);
    let id = |label: &str, kind: &str| {
        let found = keys
            .iter()
            .find(|key| key["label"] == label && key["kind"] == kind);
        found.expect("listed")["id"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    host.expect(
        0,
        &["key", "remove", "primary", &id("spare", "password")[..12]],
    );
    host.complaint(12, &["--password-file", "other", "points", "primary"]);
    host.expect(0, &["key", "remove", "primary", &id("", "key-file")]);
    let refused = host.complaint(1, &["key", "remove", "primary", &id("first", "password")]);
    assert!(refused.contains("last key"), "{refused}");
    host.complaint(
        1,
        &[
            "key",
            "remove",
            "primary",
            "ffffffffffffffffffffffffffffffff",
        ],
    );
    host.expect(0, &["points", "primary"]);
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_one_sentence() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    std::fs::write(host.path("wrong"), "wrong").expect("writes");
    for (code, words) in [
        (2, vec!["no-such-verb"]),
        (2, vec!["backup", "/etc"]),
        (2, vec!["init", "--pack-size", "big", "./x"]),
        (2, vec!["restore", "primary/web", "out"]),
        (2, vec!["copy", "primary", "primary/web"]),
        (2, vec!["copy", "primary", "primary"]),
        (2, vec!["backup", "/etc", "primary"]),
        // The name is looked at before the source is, which here would fail with 1.
        (2, vec!["backup", "/no/such/source", "primary/host/latest"]),
        (
            2,
            vec!["backup", "/no/such/source", "primary/host/x.partial"],
        ),
        (2, vec!["backup", "/no/such/source", "primary/host/.hidden"]),
        (2, vec!["backup", "/no/such/source", "primary/.hidden"]),
        (10, vec!["points", "tertiary"]),
        (10, vec!["points", "/nowhere"]),
        (10, vec!["points", "offsite"]),
        (12, vec!["--password-file", "wrong", "points", "primary"]),
        (12, vec!["points", "./primary"]),
        (1, vec!["init", "primary"]),
        (1, vec!["points", "primary/nothing"]),
        (1, vec!["umount", "."]),
        (1, vec!["--config", "missing.toml", "points"]),
    ] {
        let complaint = host.complaint(code, &words);
        assert!(!complaint.contains("panicked"), "{words:?}: {complaint}");
        if !complaint.contains("Usage:") {
            assert!(
                complaint.starts_with("keepfs: ") || code == 2,
                "{words:?}: {complaint}"
            );
        }
        if complaint.starts_with("keepfs: ") {
            assert_eq!(complaint.lines().count(), 1, "{words:?}: {complaint}");
        }
    }
    std::fs::write(
        host.path("typo.toml"),
        "[repository.a]\nurl = \"/x\"\npasword-file = \"y\"\n",
    )
    .expect("writes");
    let complaint = host.complaint(2, &["--config", "typo.toml", "points"]);
    assert!(
        complaint.contains("pasword-file") && complaint.contains("line 3"),
        "{complaint}"
    );
}

#[test]
fn a_changed_header_is_refused_for_what_it_is() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    let header = host.path("primary/header");
    let sound = std::fs::read(&header).expect("is there");
    let write = |bytes: &[u8]| {
        std::fs::remove_file(&header).expect("removes");
        std::fs::write(&header, bytes).expect("writes");
    };
    write(&sound[..50]);
    assert!(
        host.complaint(1, &["points", "primary"])
            .contains("damaged")
    );
    let mut newer = sound.clone();
    newer[8] = 9;
    write(&newer);
    assert!(
        host.complaint(1, &["points", "primary"])
            .contains("use a newer keepfs")
    );
    write(b"something else");
    assert!(
        host.complaint(10, &["points", "primary"])
            .contains("not a keepfs header")
    );
    write(&sound);
    host.expect(0, &["points", "primary"]);
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let host = Host::new();
    // Root may write into any directory, so this is one where nobody may.
    let complaint = host.complaint(1, &["init", "--key-file", "k", "/proc/keepfs"]);
    assert!(complaint.contains("/proc"), "{complaint}");
}

#[test]
fn secrets_stay_where_they_were_given() {
    let host = Host::new();
    let files = host.files();
    let source = files.to_str().expect("UTF-8");
    let mut said = Vec::new();
    for words in [
        vec!["-vv", "init", "primary"],
        vec!["-vv", "init", "offsite"],
        vec!["-vv", "backup", source, "primary/web"],
        vec!["-vv", "copy", "primary", "offsite"],
        vec!["-vv", "key", "list", "primary"],
        vec!["-vv", "points", "--json", "primary"],
    ] {
        let output = host.run(&words);
        assert_code(&output, 0);
        said.extend(output.stdout);
        said.extend(output.stderr);
    }
    // From the environment too, where nothing is configured.
    let output = host
        .command(&["-vv", "points", "./primary"])
        .env("KEEPFS_PASSWORD", PASSWORD)
        .output()
        .expect("runs");
    assert_code(&output, 0);
    said.extend(output.stderr);
    assert!(!String::from_utf8_lossy(&said).contains(PASSWORD));
    for directory in ["cache", "state", "primary", "offsite"] {
        assert!(!contains(&host.path(directory), PASSWORD), "{directory}");
    }
    assert!(
        contains(host.home.path(), PASSWORD),
        "the search finds it where it is"
    );
    let mode = std::fs::metadata(host.path("cache/keepfs"))
        .expect("made")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    // There is no option that takes a password itself.
    host.complaint(2, &["--password", PASSWORD, "points", "primary"]);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let host = Host::new();
    for words in [vec!["man"], vec!["completions", "bash"]] {
        let mut child = host
            .command(&words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        assert_code(&output, 0);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn completions_and_manual_pages_are_printed_for_every_verb() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            host.expect(0, &["completions", shell]).contains("restore"),
            "{shell}"
        );
    }
    assert!(host.expect(0, &["man"]).contains(".TH keepfs"));
    for verb in [
        "init", "backup", "restore", "copy", "points", "diff", "check", "mount", "demo",
    ] {
        assert!(host.expect(0, &["man", verb]).contains("Example"), "{verb}");
        assert!(
            host.expect(0, &[verb, "--help"]).contains("Example"),
            "{verb}"
        );
    }
    for verb in ["add", "list", "remove"] {
        for words in [["man", "key", verb], ["key", verb, "--help"]] {
            assert!(host.expect(0, &words).contains("Example"), "{words:?}");
        }
    }
    host.complaint(2, &["man", "nothing"]);
    host.complaint(2, &["man", "key", "nothing"]);
}

#[test]
fn what_tools_write_anew_is_recognised_where_files_are_cut_alike() {
    let host = Host::new();
    let files = host.files();
    let mut noise = vec![0; 24 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    std::fs::write(files.join("large"), &noise).expect("writes");
    host.expect(0, &["init", "primary"]);
    let source = files.to_str().expect("UTF-8");
    host.expect(0, &["backup", source, "primary/web/first"]);
    let config = std::fs::read_to_string(host.path("keepfs.toml")).expect("reads");
    let other = "[repository.other]\nurl = \"other\"\nkey-file = \"other.key\"\n";
    std::fs::write(host.path("keepfs.toml"), config + other).expect("writes");
    std::fs::create_dir(host.path("mnt")).expect("makes");
    let data = |repository: &str| {
        let stats = host.json(&["stats", "--json", repository]);
        let data = stats["repositories"][0]["stored"]["data"].as_u64();
        data.expect("a number")
    };
    for (words, alike) in [
        (["init", "--like", "primary", "offsite"].as_slice(), true),
        (&["init", "other"], false),
    ] {
        host.expect(0, words);
        let repository = words[words.len() - 1];
        host.expect(0, &["copy", "primary", repository]);
        // What was copied is believed to be what its ids say only by those who copied it, until somebody has read it.
        host.expect(0, &["check", "--read-data", repository]);
        let before = data(repository);
        host.expect(0, &["mount", "primary", repository, "mnt"]);
        let script = format!(
            "cd '{}' && mkdir {repository}/again && rsync -a primary/web/first/ {repository}/again/p.partial/ \
             && mv {repository}/again/p.partial {repository}/again/p",
            host.path("mnt").display()
        );
        let done = Command::new("sh").args(["-euc", &script]).status();
        host.expect(0, &["umount", "mnt"]);
        assert!(done.expect("runs").success());
        let added = data(repository) - before;
        assert_eq!(
            added < before / 100,
            alike,
            "{repository}: {added} of {before}"
        );
        let (copy, again) = (
            format!("{repository}/web/first"),
            format!("{repository}/again/p"),
        );
        host.expect(0, &["diff", &copy, &again]);
    }
}

#[test]
fn a_mount_is_ready_when_the_command_returns_and_gone_after_umount() {
    let host = Host::new();
    let files = host.files();
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["init", "offsite"]);
    host.expect(
        0,
        &[
            "backup",
            files.to_str().expect("UTF-8"),
            "primary/web/first",
        ],
    );
    std::fs::create_dir(host.path("mnt")).expect("makes");
    host.expect(0, &["mount", "mnt"]);
    let letter = std::fs::read_to_string(host.path("mnt/primary/web/latest/letter"));
    let names = std::fs::read_dir(host.path("mnt")).map(Iterator::count);
    host.expect(0, &["umount", "mnt"]);
    assert_eq!(letter.expect("reads"), "Dear Alice");
    assert!(names.expect("lists") >= 2, "all configured repositories");
    assert!(!host.path("mnt/primary").exists());

    // What was begun there and not finished is listed, mounted or not, with what to do.
    assert_eq!(host.expect(0, &["points", "--open"]), "");
    host.expect(0, &["mount", "mnt"]);
    let begun = host.path("mnt/offsite/web");
    let write = || {
        std::fs::create_dir(&begun)?;
        std::fs::create_dir(begun.join("mine.partial"))?;
        std::fs::write(begun.join("mine.partial/letter"), "Dear Bob")
    };
    let written = write();
    let mounted = host.run(&["points", "--open", "--json"]);
    host.expect(0, &["umount", "mnt"]);
    written.expect("writes");
    assert_code(&mounted, 0);
    let mounted: Value = serde_json::from_slice(&mounted.stdout).expect("JSON");
    let unmounted = host.json(&["points", "--open", "--json", "offsite/web"]);
    for report in [&mounted, &unmounted] {
        let point = &report["points"][0];
        assert_eq!(point["path"], "offsite/web/mine.partial");
        assert_eq!(
            (&point["entries"], &point["bytes"]),
            (&Value::from(1), &Value::from(8))
        );
        assert!(point["age_seconds"].is_u64());
    }
    assert!(
        host.expect(0, &["points", "--open"])
            .contains("mv mine.partial mine")
    );
    assert_eq!(host.expect(0, &["points", "--open", "primary"]), "");
    host.expect(0, &["mount", "mnt"]);
    let sealed = std::fs::rename(begun.join("mine.partial"), begun.join("mine"));
    host.expect(0, &["umount", "mnt"]);
    sealed.expect("seals");
    assert_eq!(host.expect(0, &["points", "--open"]), "");

    // What cannot be mounted is told by the command itself, not by a process in the background.
    std::fs::write(host.path("wrong"), "wrong").expect("writes");
    host.complaint(12, &["--password-file", "wrong", "mount", "primary", "mnt"]);
    host.complaint(10, &["mount", "nothing", "mnt"]);
    host.complaint(1, &["mount", "primary", "no-such-directory"]);
}

/// The map in `lib.rs` is what a newcomer reads first.
/// The rooms of the map, from the top down.
fn rooms() -> Vec<String> {
    let map = std::fs::read_to_string(sources().join("lib.rs")).expect("reads");
    let rows = map.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("//! | [`")?.split_once("`] |")?;
        Some(name.to_owned())
    });
    rows.collect()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The program text of a room without comments and unit tests.
fn text_of(path: &Path) -> String {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("lists").flatten();
        return entries.map(|entry| text_of(&entry.path())).collect();
    }
    if path.ends_with("tests.rs") {
        return String::new();
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let program = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = program
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.to_owned() + "\n").collect()
}

/// The rooms that a text names as `crate::room` or `crate::{room, other::Thing}`.
fn named_rooms(text: &str) -> Vec<String> {
    let first_word = |text: &str| {
        let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        text[..end.unwrap_or(text.len())].to_owned()
    };
    let mut named = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            named.push(first_word(rest));
            continue;
        };
        let mut depth = 0;
        let end = group.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0
        });
        let mut depth = 0;
        let parts = group[..end.expect("a group ends")].split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        named.extend(parts.map(|part| first_word(part.trim())));
    }
    named
}

/// A thread inherits where the one that makes it may run, and the mount's receivers are bound.
#[test]
fn threads_are_made_in_one_room() {
    for room in rooms() {
        let file = sources().join(&room).with_extension("rs");
        let text = text_of(&file) + &text_of(&sources().join(&room));
        for call in [
            "std::thread::spawn(",
            "Builder::new().spawn(",
            "thread::Builder",
        ] {
            let found = text.contains(call);
            assert!(
                room == "thread" || !found,
                "{room}: {call}; use crate::thread"
            );
        }
    }
}

#[test]
fn rooms_see_only_rooms_above_them() {
    let rooms = rooms();
    for (place, room) in rooms.iter().enumerate() {
        let file = sources().join(room).with_extension("rs");
        let text = text_of(&file) + &text_of(&sources().join(room));
        for named in named_rooms(&text) {
            let seen = rooms.iter().position(|known| *known == named);
            assert!(
                seen.is_none_or(|seen| seen <= place),
                "{room} names {named}, which lies below it"
            );
        }
    }
}

#[test]
fn every_room_is_on_the_map() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = std::fs::read_to_string(source.join("lib.rs")).expect("reads");
    for entry in std::fs::read_dir(&source).expect("lists").flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(OsStr::to_str).expect("UTF-8");
        if ["lib", "main"].contains(&name) {
            continue;
        }
        assert!(
            map.contains(&format!("//! | [`{name}`] |")),
            "{name} is not on the map"
        );
    }
}

/// Each `keepfs VERB` of the README is one that the command has.
#[test]
fn the_readme_shows_verbs_that_exist() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("reads");
    let help = Host::new().expect(0, &["--help"]);
    let mut seen = 0;
    for line in text.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("keepfs ") else {
            continue;
        };
        let verb = rest.split_whitespace().next().expect("a verb");
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} in {line:?}");
        seen += 1;
    }
    assert!(seen > 5, "the README shows how to use it");
    for command in [
        "cargo run --release -- demo",
        "tests/tools.sh && cargo test",
    ] {
        assert!(text.contains(command), "{command}");
    }
}

#[test]
fn patterns_from_a_file_leave_out_what_they_match() {
    let host = Host::new();
    host.expect(0, &["init", "primary"]);
    let source = host.path("excluding");
    std::fs::create_dir_all(source.join("keep/cache")).expect("writes");
    for name in ["keep/file", "keep/file.tmp", "keep/cache/big"] {
        std::fs::write(source.join(name), "content").expect("writes");
    }
    std::fs::write(host.path("patterns"), "# a comment\n*.tmp\ncache/\n").expect("writes");
    for option in ["--exclude-file", "--exclude-from"] {
        let point = format!("primary/host/{}", &option[2..]);
        host.expect(
            0,
            &["backup", "--quiet", option, "patterns", "excluding", &point],
        );
        let out = host.path(option);
        host.expect(
            0,
            &["restore", "--quiet", &point, out.to_str().expect("a name")],
        );
        assert!(out.join("keep/file").exists());
        assert!(!out.join("keep/file.tmp").exists());
        assert!(!out.join("keep/cache").exists());
    }
}

#[test]
fn a_lost_index_is_rebuilt_from_the_packs() {
    let host = Host::new();
    let files = host.files();
    let source = files.to_str().expect("text");
    host.expect(0, &["init", "primary"]);
    host.expect(0, &["backup", source, "primary/web/first"]);
    std::fs::remove_dir_all(host.path("primary/index")).expect("removes");
    std::fs::remove_dir_all(host.path("cache")).expect("removes");

    let damaged = host.expect(1, &["check", "primary"]);
    assert!(
        damaged.contains("keepfs check --rebuild-index"),
        "{damaged}"
    );
    let checked = host.json(&["check", "--rebuild-index", "--json", "primary"]);
    assert_eq!(checked[0]["problem_count"], 0);
    assert_eq!(checked[0]["rebuilt"]["packs"], 2);
    let target = host.path("restored");
    let target = target.to_str().expect("text");
    host.expect(0, &["restore", "primary/web/first", target]);
    assert_eq!(
        std::fs::read(format!("{target}/letter")).expect("restored"),
        b"Dear Alice"
    );
}
