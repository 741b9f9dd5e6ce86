//! Failed activities as an operator meets them: a copy between two buckets of a real S3 server behind the counting proxy,
//! of which two packs are never given.

use crate::proxy::{Matching, Proxy, Times, Verb};
use crate::servers::{S3_SECRET, seaweedfs_bucket};
use crate::sites::Random;
use crate::stores::open_cloud;
use keepfs::store::CloudOptions;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const FILE_BYTES: usize = 3 << 20;

/// A host with two repositories in a bucket behind the proxy, and hosts that know clones of the second one.
struct Desk {
    home: TempDir,
    bucket: String,
    options: CloudOptions,
    proxy: Proxy,
}

impl Desk {
    fn new(bucket: &str) -> Self {
        let (bucket, options) = seaweedfs_bucket(bucket);
        let endpoint = options.endpoint.clone().expect("a server of its own");
        let desk = Self {
            home: tempfile::tempdir().expect("a directory"),
            bucket,
            proxy: Proxy::before(&endpoint),
            options,
        };
        std::fs::create_dir(desk.path("source")).expect("makes");
        desk.configure("offsite", "offsite.toml");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A configuration whose `offsite` has this prefix.
    fn configure(&self, prefix: &str, file: &str) {
        let reach = |name: &str, prefix: &str| {
            format!(
                "[repository.{name}]\nurl = \"{}/{prefix}\"\nendpoint = \"{}\"\nallow-http = true\nregion = \"us-east-1\"\n\
                 access-key = \"{}\"\nkey-file = \"{name}.key\"\npack-size = \"16 MiB\"\nretry-seconds = 1\n",
                self.bucket,
                self.proxy.endpoint,
                self.options.access_key.as_deref().expect("a key"),
            )
        };
        let text = reach("primary", "primary") + &reach("offsite", prefix);
        std::fs::write(self.path(file), text).expect("writes");
    }

    fn run(&self, file: &str, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keepfs"))
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("KEEPFS_CONFIG", self.path(file))
            .env("XDG_CACHE_HOME", self.path(&format!("cache-{file}")))
            .env("XDG_STATE_HOME", self.path(&format!("state-{file}")))
            .env("AWS_SECRET_ACCESS_KEY", S3_SECRET)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }

    fn expect(&self, file: &str, code: i32, words: &[&str]) -> String {
        let output = self.run(file, words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn json(&self, file: &str, code: i32, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.push("--json");
        serde_json::from_str(&self.expect(file, code, &words)).expect("JSON")
    }

    fn store(&self, prefix: &str) -> keepfs::store::SharedStore {
        open_cloud(&format!("{}/{prefix}", self.bucket), self.options.clone())
    }

    fn objects(&self, prefix: &str, below: &str) -> BTreeSet<String> {
        let objects = self.store(prefix).list(below).expect("lists").into_iter();
        objects.map(|object| object.name).collect()
    }

    /// All objects of one prefix under another, past the proxy.
    fn clone_prefix(&self, from: &str, to: &str) {
        let (from, to) = (self.store(from), self.store(to));
        for object in from.list("").expect("lists") {
            let content = from.get(&object.name).expect("reads");
            to.create(&object.name, content).expect("is new");
        }
    }

    /// Ten files of which each has packs of its own, as each was backed up alone before; the packs of two of them.
    fn back_up(&self) -> BTreeSet<String> {
        let mut random = Random(4711);
        self.expect("offsite.toml", 0, &["--quiet", "init", "primary"]);
        self.expect("offsite.toml", 0, &["--quiet", "init", "offsite"]);
        let mut of_two = BTreeSet::new();
        for number in 0..10 {
            let before = self.objects("primary", "packs/data/");
            let file = self.path(&format!("source/{number}"));
            std::fs::write(&file, random.bytes(FILE_BYTES)).expect("writes");
            let alone = file.to_str().expect("text");
            let place = format!("primary/alone/{number}");
            self.expect("offsite.toml", 0, &["--quiet", "backup", alone, &place]);
            let new = self.objects("primary", "packs/data/");
            if [3, 7].contains(&number) {
                of_two.extend(new.difference(&before).cloned());
            }
        }
        self.expect(
            "offsite.toml",
            0,
            &["--quiet", "backup", "source", "primary/web/one"],
        );
        of_two
    }

    /// Bytes of data that were sent since the log was cleared.
    fn put_bytes(&self) -> u64 {
        self.proxy.sum(
            |request| request.is_put() && request.path().contains("/packs/data/"),
            |request| request.sent,
        )
    }
}

#[test]
fn two_of_ten_files_fail_and_each_way_out_of_it_does_what_it_says() {
    let desk = Desk::new("story");
    let of_two = desk.back_up();
    assert!(!of_two.is_empty());
    let lost = of_two.clone();
    desk.proxy.rules().fail(
        Matching::verb(Verb::GetObject).and(move |request| {
            lost.iter()
                .any(|pack| request.path().ends_with(pack.as_str()))
        }),
        Times::ForEver,
        500,
    );
    let report = desk.json(
        "offsite.toml",
        4,
        &["--quiet", "copy", "primary/web/one", "offsite"],
    );
    assert_eq!(report["needs_action"], true);
    let id = report["sessions"][0].as_str().expect("an id").to_owned();
    let session = desk.json("offsite.toml", 4, &["session", "show", &id]);
    let failed: Vec<_> = session["failed"]
        .as_array()
        .expect("a list")
        .iter()
        .collect();
    let names: Vec<_> = failed
        .iter()
        .map(|part| part["path"].as_str().expect("text"))
        .collect();
    assert_eq!(names, ["web/one/3", "web/one/7"]);
    for part in &failed {
        assert_eq!(part["attempts"], 3);
        assert!(!part["reason"].as_str().expect("text").is_empty());
    }
    assert_eq!(session["state"], "needs-action");
    let points = desk.json("offsite.toml", 0, &["points", "offsite"]);
    assert!(!points.to_string().contains("\"one\""), "{points}");
    // Eight files are there: nothing of them moves again.
    for clone in ["retried", "skipped", "undone", "again"] {
        desk.clone_prefix("offsite", clone);
        desk.configure(clone, &format!("{clone}.toml"));
    }
    desk.expect("retried.toml", 4, &["session", "wait", &id]);
    desk.expect("retried.toml", 4, &["session", "retry", "--quiet", &id]);

    desk.proxy.rules().clear();
    let two_files = 2 * FILE_BYTES as u64;
    for (clone, words) in [
        ("retried", vec!["session", "retry", id.as_str()]),
        ("again", vec!["copy", "primary/web/one", "offsite"]),
    ] {
        desk.proxy.clear_log();
        let file = format!("{clone}.toml");
        desk.expect(&file, 0, &[&words[..], &["--quiet"]].concat());
        let put = desk.put_bytes();
        assert!(
            (two_files..=two_files * 105 / 100).contains(&put),
            "{clone}: {put}"
        );
        desk.expect(&file, 0, &["diff", "primary/web/one", "offsite/web/one"]);
        desk.expect(&file, 0, &["--quiet", "check", "--read-data", "offsite"]);
        let session = desk.json(&file, 0, &["session", "show", &id]);
        assert_eq!(session["state"], "success");
        let refused = desk.run(&file, &["session", "undo", &id]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }

    let session = desk.json("skipped.toml", 0, &["--quiet", "session", "list"]);
    assert_eq!(session["sessions"][0]["state"], "needs-action");
    desk.expect("skipped.toml", 3, &["session", "skip", &id[..6]]);
    let points = desk.json("skipped.toml", 0, &["points", "offsite"]);
    assert!(!points.to_string().contains("\"one\""), "{points}");

    desk.expect(
        "undone.toml",
        0,
        &["session", "undo", &format!("offsite/{id}")],
    );
    for _ in 0..3 {
        desk.expect(
            "undone.toml",
            0,
            &["--quiet", "prune", "--grace", "0", "offsite"],
        );
    }
    assert_eq!(desk.objects("undone", "packs/data/"), BTreeSet::new());
    let log = desk.expect("undone.toml", 0, &["session", "log", &id]);
    assert!(
        log.contains("needs-action") && log.contains("undone"),
        "{log}"
    );
    desk.expect("undone.toml", 0, &["--quiet", "check", "offsite"]);
}
