//! Copies between a directory, S3 and Azure that are killed at any moment, and run again on the same host or on another
//! one: each session ends as a success, and little is sent twice.

use crate::cli::assert_code;
use crate::engine::{full, seed};
use crate::proxy::Proxy;
use crate::servers::{AZURITE_KEY, S3_SECRET, azurite_container, seaweedfs_bucket};
use crate::sites::Random;
use keepfs::store::CloudOptions;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PACK_BYTES: u64 = 1 << 20;
const FILES: usize = 12;
const FILE_BYTES: usize = 1 << 20;

/// Where repositories lie: a directory, a bucket, a container, the latter behind proxies.
struct World {
    home: TempDir,
    clouds: Vec<(&'static str, String, CloudOptions, Proxy)>,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let clouds = [
            ("s3", seaweedfs_bucket("session-kills")),
            ("azure", azurite_container("session-kills")),
        ];
        let clouds = clouds.map(|(kind, (url, options))| {
            let endpoint = options.endpoint.clone().unwrap();
            let (server, path) = match endpoint.match_indices('/').nth(2) {
                Some((at, _)) => endpoint.split_at(at),
                None => (endpoint.as_str(), ""),
            };
            let proxy = Proxy::before(server);
            let through = CloudOptions {
                endpoint: Some(format!("{}{path}", proxy.endpoint)),
                ..options
            };
            (kind, url, through, proxy)
        });
        Self {
            home,
            clouds: clouds.into(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The section of a repository of this name in a store of this kind.
    fn section(&self, kind: &str, name: &str) -> String {
        let common = format!("key-file = \"{name}.key\"\npack-size = \"1 MiB\"\n");
        let cloud = self.clouds.iter().find(|(known, ..)| *known == kind);
        match cloud {
            None => format!("[repository.{name}]\nurl = \"{name}\"\n{common}"),
            Some((_, url, options, _)) => format!(
                "[repository.{name}]\nurl = \"{url}/{name}\"\nendpoint = \"{}\"\nallow-http = true\naccess-key = \"{}\"\n{}{common}",
                options.endpoint.as_deref().unwrap(),
                options.access_key.as_deref().unwrap(),
                options
                    .region
                    .as_ref()
                    .map_or_else(String::new, |region| format!("region = \"{region}\"\n")),
            ),
        }
    }

    fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepfs"));
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("KEEPFS_CONFIG", self.path("keepfs.toml"))
            .env("XDG_CACHE_HOME", self.path(&format!("{host}-cache")))
            .env("XDG_STATE_HOME", self.path(&format!("{host}-state")))
            .env("AWS_SECRET_ACCESS_KEY", S3_SECRET)
            .env("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY)
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    fn expect(&self, host: &str, words: &[&str]) -> String {
        let output: Output = self.command(host, words).output().unwrap();
        assert_code(&output, 0);
        String::from_utf8(output.stdout).unwrap()
    }

    fn proxy(&self, kind: &str) -> Option<&Proxy> {
        let cloud = self.clouds.iter().find(|(known, ..)| *known == kind);
        cloud.map(|(.., proxy)| proxy)
    }
}

#[test]
fn killed_copies_end_as_successes_wherever_they_go_on() {
    let kills_wanted = if full() { 500 } else { 9 };
    let seed = seed("killed_copies_end_as_successes_wherever_they_go_on");
    let mut random = Random(seed);
    let world = World::new();
    let kinds = ["directory", "s3", "azure"];
    let sources = kinds.map(|kind| world.section(kind, &format!("from-{kind}")));
    std::fs::write(world.path("keepfs.toml"), sources.concat()).unwrap();
    std::fs::create_dir(world.path("files")).unwrap();
    for number in 0..FILES {
        let file = world.path(&format!("files/{number}"));
        std::fs::write(file, random.bytes(FILE_BYTES)).unwrap();
    }
    for kind in kinds {
        let name = format!("from-{kind}");
        world.expect("home", &["--quiet", "init", &name]);
        world.expect(
            "home",
            &["--quiet", "backup", "files", &format!("{name}/web/one")],
        );
    }
    let (mut kills, mut round, mut in_time) = (0, 0, 0);
    while kills < kills_wanted {
        let (from, into) = (kinds[round % 3], kinds[(round + 1 + round / 3 % 2) % 3]);
        let name = format!("into-{round}");
        let config = sources.concat() + &world.section(into, &name);
        std::fs::write(world.path("keepfs.toml"), config).unwrap();
        world.expect("home", &["--quiet", "init", &name]);
        if let Some(proxy) = world.proxy(into) {
            proxy.clear_log();
        }
        let source = format!("from-{from}/web/one");
        let copy = ["--quiet", "copy", source.as_str(), name.as_str()];
        let mut killed = 0;
        for _ in 0..3 {
            let host = ["home", "away"][random.below(2) as usize];
            let mut tool = world.command(host, &copy).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.below(600)));
            // One that has ended is as good as never killed.
            if tool.try_wait().unwrap().is_none() {
                killed += 1;
            }
            tool.kill().unwrap();
            tool.wait().unwrap();
            kills += 1;
        }
        in_time += killed;
        world.expect("home", &copy);
        let case = format!("seed {seed}, round {round}, {from} to {into}, {killed} killed");
        let listed = world.expect("home", &["--json", "session", "list", &name]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        for session in listed["sessions"].as_array().unwrap() {
            assert_eq!(session["state"], "success", "{case}: {session}");
        }
        world.expect("home", &["diff", &source, &format!("{name}/web/one")]);
        world.expect("away", &["--quiet", "check", "--read-data", &name]);
        if let Some(proxy) = world.proxy(into) {
            let sent = proxy.sum(
                |request| request.is_put() && request.path().contains("/packs/data/"),
                |request| request.sent,
            );
            let once = (FILES * FILE_BYTES) as u64;
            // The pack that is being filled, and the one that is just being ended, are lost with their process.
            let bound = once * 101 / 100 + killed * 2 * PACK_BYTES * 11 / 10;
            assert!(
                sent <= bound,
                "{case}: {sent} bytes were sent, at most {bound} may be"
            );
        }
        round += 1;
    }
    assert!(in_time > 0, "no copy was killed in time");
}
