//! The configuration file.

use super::directories::directory_in;
use super::job::Written;
use super::notify::Table;
use super::program;
use super::size;
use crate::error::{Error, Kind, Result};
use crate::job;
use crate::notify::Settings;
use crate::store::{AskKeys, CloudOptions, Secret, StoreOptions};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For all users of the host.
const SYSTEM_FILE: &str = "/etc/keepfs.toml";

/// What the configuration says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// How to reach each repository, by name.
    #[serde(default, rename = "repository")]
    pub repositories: BTreeMap<String, Reach>,
    /// Instead of the user's own cache directory.
    pub cache_directory: Option<PathBuf>,
    /// Instead of the user's own state directory.
    pub state_directory: Option<PathBuf>,
    /// Bytes that the cache and the buffers of each open repository may take, 16 MiB at least; 128 MiB without it.
    #[serde(default, deserialize_with = "size::deserialize")]
    pub memory: Option<u64>,
    /// Bytes that the open points of a mount may have written to this host's disk and not yet stored, 64 MiB at least;
    /// 8 GiB without it. Whoever writes more waits until some of it is stored.
    #[serde(default, deserialize_with = "size::deserialize")]
    pub spool: Option<u64>,
    /// Bytes of memory that the entries of a mount's open points may take, 16 MiB at least; without it a quarter of the
    /// host's. About 430 for an ordinary file: whoever would make more files is refused.
    #[serde(default, deserialize_with = "size::deserialize")]
    pub open_memory: Option<u64>,
    /// Whether a mount shows owners by the numbers that are stored, even where this host knows their names.
    #[serde(default)]
    pub numeric_owners: bool,
    /// Where a mount also shows `.keepfs/metrics` over HTTP: an address of this host's own, as `127.0.0.1:9090`.
    pub metrics_listen: Option<SocketAddr>,
    /// `[notify]` as it is written.
    #[serde(default, rename = "notify")]
    told: Option<Table>,
    /// Who is told of sessions that ended; nobody without it.
    #[serde(skip)]
    pub notify: Option<Settings>,
    /// Bytes a second that all repositories together may be read at, and written at.
    #[serde(default, deserialize_with = "size::deserialize_rate")]
    pub rate: Option<u64>,
    #[serde(default, rename = "job")]
    written_jobs: BTreeMap<String, Written>,
    /// Copies that recur, by name.
    #[serde(skip)]
    pub jobs: BTreeMap<String, job::Settings>,
    /// What is done about copy sessions that wait for somebody.
    #[serde(default)]
    pub sessions: Sessions,
    /// The file it was read from.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// What is done about copy sessions that wait for somebody.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Sessions {
    /// Seconds for which a tool's copy in a mount may rest before it waits for somebody; an hour without it.
    #[serde(deserialize_with = "super::duration::deserialize")]
    pub park_after: Option<i64>,
    /// `retry`, `skip` or `undo`: what a mount does by itself about a session that nobody has acted on; nothing without it.
    pub auto_action: Option<String>,
    /// After so many seconds; a day without it.
    #[serde(deserialize_with = "super::duration::deserialize")]
    pub auto_action_after: Option<i64>,
}

/// How to reach one repository, and what `init` is to write into it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Reach {
    /// Where its objects are.
    pub url: String,
    /// Server of a cloud store that is not the provider's own.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Whether an endpoint without TLS is acceptable.
    #[serde(default)]
    pub allow_http: bool,
    /// Access key id (S3) or account (Azure).
    pub access_key: Option<String>,
    /// Secret key; better kept out of this file, by `credentials-command`.
    #[serde(default, deserialize_with = "secret")]
    pub secret_key: Option<Secret>,
    /// A command that prints `{"AccessKeyId": …, "SecretAccessKey": …, "SessionToken": …, "Expiration": …}`; the last two
    /// may be missing. It is run again before the keys expire, and when the store refuses them.
    pub credentials_command: Option<String>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// A command that prints the password.
    pub password_command: Option<String>,
    /// A key file.
    pub key_file: Option<PathBuf>,
    /// `init`: bytes after which a pack is closed.
    #[serde(default, deserialize_with = "size::deserialize")]
    pub pack_size: Option<u64>,
    /// `init` and every writer: storage class of data packs.
    pub storage_class: Option<String>,
    /// `init`: zstd level, 1 to 22.
    pub level: Option<i32>,
    /// `init`: days for which a forgotten point can be brought back; 7 without it.
    pub trash_days: Option<u32>,
    /// `init`: seconds without a change after which an open point is sealed as it is; none is without it.
    #[serde(default, deserialize_with = "super::duration::deserialize")]
    pub seal_idle: Option<i64>,
    /// `init`: bytes from which on nothing new is begun; no limit without it.
    #[serde(default, deserialize_with = "size::deserialize")]
    pub capacity: Option<u64>,
    /// `init`: whether copies may come into it; they may without it.
    pub copy_target: Option<bool>,
    /// `init`: whether copies may be made of what is in it; they may without it.
    pub copy_source: Option<bool>,
    /// `init`: `snapshot` (without it) or `item`.
    pub retention_type: Option<String>,
    /// `init`: whom a mount lets into it: `admin-only`, or without it whom modes and ACLs let.
    pub acl: Option<String>,
    /// `init`: users who may read everything in a mount and change nothing.
    pub readers: Option<Vec<String>>,
    /// Seconds for which a cloud store that fails or does not answer is asked again, 1 to 3600; 60 without it.
    pub retry_seconds: Option<u64>,
    /// Bytes a second that it may be read at, and written at.
    #[serde(default, deserialize_with = "size::deserialize_rate")]
    pub rate: Option<u64>,
    /// Instead of the cache directory of all repositories.
    pub cache_directory: Option<PathBuf>,
}

/// `retry-seconds` at most: an hour. Above that a person takes a command for hung.
const RETRY_SECONDS_MAX: u64 = 3600;
/// `memory` at least: below it a single chunk and its frames would not fit. The same for `open-memory`.
const MEMORY_MIN: u64 = 16 << 20;
/// `spool` at least: below it the few megabytes that wait to become a whole chunk would fill it.
const SPOOL_MIN: u64 = 64 << 20;
/// A healthy server under load may take this long to answer.
const ATTEMPT_MIN: Duration = Duration::from_secs(5);

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    String::deserialize(from).map(|text| Some(Secret::new(text)))
}

impl Config {
    /// The configuration in `named`, or in the first of the usual files that exists, or an empty one.
    ///
    /// Fails with `NotFound` when a file that somebody named is missing and with `Invalid` on anything it should not say.
    pub fn load(named: Option<&Path>) -> Result<Self> {
        let of_environment = std::env::var_os("KEEPFS_CONFIG").map(PathBuf::from);
        if let Some(path) = named.map(Path::to_owned).or(of_environment) {
            return Self::read(&path);
        }
        let home = directory_in("HOME").map(|home| home.join(".config"));
        let of_user = directory_in("XDG_CONFIG_HOME").or(home);
        of_user
            .map(|directory| directory.join("keepfs.toml"))
            .into_iter()
            .chain([PathBuf::from(SYSTEM_FILE)])
            .find(|path| path.exists())
            .map_or_else(|| Ok(Self::default()), |path| Self::read(&path))
    }

    fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::io(format_args!("cannot read the configuration {shown}"), error)
        })?;
        let path = std::path::absolute(path)
            .map_err(|error| Error::io(format_args!("cannot find {shown}"), error))?;
        Self::parse(&text, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            // The library's own form quotes the line, which may hold a secret.
            let line = error.span().map_or(0, |span| {
                1 + text.as_bytes()[..span.start.min(text.len())]
                    .iter()
                    .filter(|&&byte| byte == b'\n')
                    .count()
            });
            let what = error.message().lines().next().unwrap_or_default();
            let message = format!(
                "the configuration {} cannot be used: line {line}: {what}",
                path.display()
            );
            Error::new(Kind::Invalid, message)
        })?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        for (name, reach) in &mut config.repositories {
            check(name, reach).map_err(|error| error.context(path.display()))?;
            reach.anchor(directory);
        }
        for (name, bytes, min) in [
            ("memory", config.memory, MEMORY_MIN),
            ("spool", config.spool, SPOOL_MIN),
            ("open-memory", config.open_memory, MEMORY_MIN),
        ] {
            if bytes.is_some_and(|bytes| bytes < min) {
                let message = format!(
                    "{}: {name} must be {} MiB or more",
                    path.display(),
                    min >> 20
                );
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        if let Some(address) = config.metrics_listen.filter(|it| !it.ip().is_loopback()) {
            let message = format!(
                "{}: metrics-listen = \"{address}\" would show them to other hosts; use 127.0.0.1 or [::1], and a proxy with passwords before it",
                path.display()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if let Some(word) = &config.sessions.auto_action
            && !["retry", "skip", "undo"].contains(&word.as_str())
        {
            let message = format!(
                "{}: [sessions] auto-action = {word:?} is none; write retry, skip or undo",
                path.display()
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if let Some(table) = config.told.take() {
            let settings = table.settings(directory);
            let whose = format!("{}: [notify]", path.display());
            config.notify = Some(settings.map_err(|error| error.context(whose))?);
        }
        config
            .read_jobs()
            .map_err(|error| error.context(path.display()))?;
        anchor(&mut config.cache_directory, directory);
        anchor(&mut config.state_directory, directory);
        config.file = Some(path.to_owned());
        Ok(config)
    }

    fn read_jobs(&mut self) -> Result<()> {
        for (name, written) in std::mem::take(&mut self.written_jobs) {
            let settings = written.read(&name)?;
            let missing = |name: &&str| !self.repositories.contains_key(*name);
            if let Some(missing) = settings.repositories().find(missing) {
                let message = format!(
                    "the job {name:?} needs a [repository.{missing}] section: there is no repository {missing:?}"
                );
                return Err(Error::new(Kind::Invalid, message));
            }
            self.jobs.insert(name, settings);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn parse_text(text: &str) -> Result<Self> {
        Self::parse(text, Path::new("/etc/keepfs.toml"))
    }
}

/// Paths in the file are relative to the file: it means the same from wherever it is used.
fn anchor(path: &mut Option<PathBuf>, directory: &Path) {
    if let Some(path) = path {
        *path = directory.join(&path);
    }
}

fn check(name: &str, reach: &Reach) -> Result<()> {
    let refuse = |why: &str| {
        let message = format!("the repository {name:?} {why}");
        Err(Error::new(Kind::Invalid, message))
    };
    if name.is_empty() || name.starts_with('.') || name.contains(['/', ':', '=', '\0']) {
        return refuse("needs a name without '/', ':' and '=', not beginning with '.'");
    }
    if reach.url.is_empty() {
        return refuse("has an empty url; say where it is");
    }
    let sources = [
        reach.password_file.is_some(),
        reach.password_command.is_some(),
        reach.key_file.is_some(),
    ];
    if sources.into_iter().filter(|given| *given).count() > 1 {
        return refuse("may have one of password-file, password-command and key-file, not several");
    }
    if reach
        .retry_seconds
        .is_some_and(|seconds| !(1..=RETRY_SECONDS_MAX).contains(&seconds))
    {
        return refuse("needs a retry-seconds from 1 to 3600");
    }
    if reach.credentials_command.is_some() && reach.secret_key.is_some() {
        return refuse("may have credentials-command or secret-key, not both");
    }
    Ok(())
}

impl Reach {
    /// A repository that only a URL names.
    pub fn of_url(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ..Self::default()
        }
    }

    fn anchor(&mut self, directory: &Path) {
        for path in [
            &mut self.password_file,
            &mut self.key_file,
            &mut self.cache_directory,
        ] {
            anchor(path, directory);
        }
        if !self.url.contains(':') {
            self.url = directory.join(&self.url).to_string_lossy().into_owned();
        }
    }

    /// What `init` is to write into it besides what has an option of its own, as `key=value`.
    pub fn settings(&self) -> Vec<String> {
        let given = [
            ("capacity", self.capacity.map(|bytes| bytes.to_string())),
            ("copy-target", self.copy_target.map(|on| on.to_string())),
            ("copy-source", self.copy_source.map(|on| on.to_string())),
            ("retention-type", self.retention_type.clone()),
        ];
        let given = given.into_iter();
        given
            .filter_map(|(name, value)| Some(format!("{name}={}", value?)))
            .collect()
    }

    /// What opening its store takes. Runs `credentials-command`.
    pub fn store_options(&self, make_directory: bool) -> Result<StoreOptions> {
        let mut cloud = CloudOptions {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
            allow_http: self.allow_http,
            storage_class: self.storage_class.clone(),
            ..CloudOptions::default()
        };
        if let Some(seconds) = self.retry_seconds {
            cloud.retry_timeout = Duration::from_secs(seconds);
            // One attempt that never ends would outlast them all; half leaves room for a second one.
            let attempt = (cloud.retry_timeout / 2).max(cloud.retry_timeout.min(ATTEMPT_MIN));
            cloud.request_timeout = cloud.request_timeout.min(attempt);
        }
        if let Some(command) = &self.credentials_command {
            let keys = program::keys(command)?;
            cloud.access_key = Some(keys.access_key);
            cloud.secret_key = Some(keys.secret_key);
            cloud.session_token = keys.session_token;
            cloud.keys_expire = keys.expires;
            let command = command.clone();
            cloud.ask_keys = Some(AskKeys::new(move || program::keys(&command)));
        }
        Ok(StoreOptions {
            make_directory,
            cloud,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("/etc/keepfs.toml"))
    }

    #[test]
    fn the_example_of_the_documentation_is_read() {
        let config = parse(
            "[repository.primary]\nurl = \"keep/primary\"\npassword-file = \"primary.pass\"\npack-size = \"16 MiB\"\n\
             [repository.offsite]\nurl = \"s3://bucket/keep\"\nendpoint = \"https://s3.example.org\"\n\
             password-command = \"pass show offsite\"\nretry-seconds = 5\npack-size = \"256 MiB\"\nstorage-class = \"STANDARD_IA\"\n",
        )
        .expect("parses");
        let primary = &config.repositories["primary"];
        assert_eq!(primary.url, "/etc/keep/primary");
        assert_eq!(primary.password_file, Some("/etc/primary.pass".into()));
        assert_eq!(primary.pack_size, Some(16 << 20));
        let offsite = &config.repositories["offsite"];
        assert_eq!(offsite.url, "s3://bucket/keep");
        let options = offsite.store_options(false).expect("no command to run");
        assert_eq!(options.cloud.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!(options.cloud.retry_timeout, Duration::from_secs(5));
        assert_eq!(options.cloud.request_timeout, Duration::from_secs(5));
    }

    #[test]
    fn what_it_should_not_say_is_refused_with_its_line() {
        for (text, part) in [
            (
                "[repository.a]\nurl = \"/x\"\npasword-file = \"y\"\n",
                "pasword-file",
            ),
            (
                "[repository.a]\nurl = \"/x\"\npasword-file = \"y\"\n",
                "line 3",
            ),
            ("[repositories.a]\nurl = \"/x\"\n", "repositories"),
            ("[repository.a]\n", "url"),
            ("[repository.a]\nurl = \"\"\n", "empty url"),
            ("[repository.\"a/b\"]\nurl = \"/x\"\n", "without '/'"),
            ("[repository.a]\nurl = \"/x\"\npack-size = \"big\"\n", "big"),
            (
                "[repository.a]\nurl = \"/x\"\nkey-file = \"k\"\npassword-file = \"p\"\n",
                "not several",
            ),
            (
                "[repository.a]\nurl = \"/x\"\nretry-seconds = 0\n",
                "1 to 3600",
            ),
            ("[repository.a\n", "line 1"),
            ("memory = \"1 MiB\"\n", "16 MiB or more"),
            ("spool = \"1 MiB\"\n", "64 MiB or more"),
            ("open-memory = \"1 MiB\"\n", "16 MiB or more"),
            ("metrics-listen = \"0.0.0.0:9090\"\n", "other hosts"),
            ("metrics-listen = \"[2001:db8::1]:1\"\n", "other hosts"),
            ("[notify]\nhots = \"mail\"\n", "hots"),
            (
                "[notify]\nway = \"command\"\ncommand = \"x\"\nsubject = \"{what}\"\n",
                "/etc/keepfs.toml: [notify]: the subject \"{what}\" has the unknown placeholder {what}",
            ),
        ] {
            let refused = parse(text).expect_err(text);
            assert_eq!(refused.kind(), Kind::Invalid);
            assert!(
                refused.message().contains(part),
                "{refused} has no {part:?}"
            );
        }
    }

    #[test]
    fn memory_is_a_size() {
        let config = parse("memory = \"64 MiB\"\n").expect("parses");
        assert_eq!(config.memory, Some(64 << 20));
        assert_eq!(parse("").expect("parses").memory, None);
        let config = parse("spool = \"20 GiB\"\nnumeric-owners = true\n").expect("parses");
        assert_eq!(
            (config.spool, config.numeric_owners),
            (Some(20 << 30), true)
        );
    }

    #[test]
    fn a_secret_in_it_never_shows() {
        let config =
            parse("[repository.a]\nurl = \"/x\"\nsecret-key = \"swordfish\"\n").expect("parses");
        assert!(!format!("{config:?}").contains("swordfish"));
        let refused =
            parse("[repository.a]\nsecret-key = \"swordfish\nurl = 5\n").expect_err("no end");
        assert!(!refused.message().contains("swordfish"), "{refused}");
    }
}
