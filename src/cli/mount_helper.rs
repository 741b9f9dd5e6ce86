//! `mount -t keepfs`: what mount(8) passes to its helper, and the exit codes that it expects.

use super::arguments::{Global, MountHelper};
use super::{background, exit, fail, host_with, named_mount};
use crate::command::{self, Access, Host, MountArguments, Shared};
use crate::config::{Config, RepositoryPlace};
use crate::error::{Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The name of the verb.
const VERB: &str = "mount-helper";

/// Incorrect invocation or permissions, says mount(8).
const INVOCATION: u8 = 1;
/// The user interrupted it.
const INTERRUPTED: u8 = 8;
/// Mount failure.
const FAILED: u8 = 32;

/// Options that say nothing to us: what holds anyway, what has no meaning here, what mount(8) and systemd read.
const IGNORED: [&str; 22] = [
    "_netdev",
    "async",
    "auto",
    "default_permissions",
    "defaults",
    "group",
    "loud",
    "noauto",
    "noatime",
    "nodev",
    "nodiratime",
    "nofail",
    "nolazytime",
    "nosuid",
    "nouser",
    "owner",
    "relatime",
    "silent",
    "strictatime",
    "user",
    "users",
    "nostrictatime",
];
/// The same, with a value or a rest of any kind behind it.
const IGNORED_BEGINNINGS: [&str; 4] = ["comment=", "user=", "x-", "X-"];

/// What the option list says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    repository: Option<String>,
    access: Access,
    allow_other: bool,
    remount: bool,
    password_files: Vec<PathBuf>,
    key_files: Vec<PathBuf>,
}

impl Options {
    /// The lists of all `-o`, in order; the last one wins. `Invalid` for an option that is not known, unless `sloppy`.
    fn read(lists: &[String], sloppy: bool) -> Result<Self> {
        let mut options = Self::default();
        let words = lists.iter().flat_map(|list| list.split(','));
        for word in words.filter(|word| !word.is_empty()) {
            if !options.take(word) && !sloppy {
                let message = format!(
                    "keepfs knows no mount option {word:?}; `keepfs {VERB} --help` lists all that it knows"
                );
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        Ok(options)
    }

    /// Takes an option; false when it is not known.
    fn take(&mut self, word: &str) -> bool {
        match (word, word.split_once('=')) {
            ("ro", _) => self.access.read_only = true,
            ("rw", _) => self.access.read_only = false,
            ("noexec", _) => self.access.no_exec = true,
            ("exec", _) => self.access.no_exec = false,
            ("allow_other", _) => self.allow_other = true,
            ("remount", _) => self.remount = true,
            (_, Some(("repo", name))) => self.repository = Some(name.to_owned()),
            (_, Some(("password-file", file))) => self.password_files.push(file.into()),
            (_, Some(("key-file", file))) => self.key_files.push(file.into()),
            _ => {
                let mut beginnings = IGNORED_BEGINNINGS.iter();
                return IGNORED.contains(&word) || beginnings.any(|begin| word.starts_with(begin));
            }
        }
        true
    }
}

/// The exit code of a command line that cannot be read: mount(8) has another one than we have.
pub fn usage(code: u8) -> u8 {
    let is_ours = std::env::args_os().nth(1).is_some_and(|verb| verb == VERB);
    if is_ours && code == exit::USAGE {
        return INVOCATION;
    }
    code
}

/// Mounts as `helper` says; returns an exit code of mount(8).
pub fn run(global: &Global, helper: &MountHelper) -> u8 {
    let options = match Options::read(&helper.options, helper.sloppy) {
        Ok(options) => options,
        Err(error) => return told(&error, global, INVOCATION),
    };
    if helper.fake {
        return exit::DONE;
    }
    match mounted(global, helper, &options) {
        Ok(exit::DONE) => exit::DONE,
        // The process in the background has said why.
        Ok(_) => FAILED,
        Err(error) if error.kind() == Kind::Interrupted => told(&error, global, INTERRUPTED),
        Err(error) if error.kind() == Kind::Denied => told(&error, global, INVOCATION),
        Err(error) => told(&error, global, FAILED),
    }
}

fn told(error: &Error, global: &Global, code: u8) -> u8 {
    fail(error, global.verbose);
    code
}

fn mounted(global: &Global, helper: &MountHelper, options: &Options) -> Result<u8> {
    if options.remount {
        return command::remount(&helper.directory, options.access).map(|()| exit::DONE);
    }
    let wanted = Wanted::find(global, &helper.source, options)?;
    // SAFETY: geteuid reads a number of the process and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        wanted.bind(global, options, &helper.directory)
    } else {
        wanted.mount(global, options, &helper.directory)
    }
}

/// What CONFIG names.
struct Wanted {
    source: OsString,
    /// None are named when it is a file: all that is configured.
    repositories: Vec<(String, RepositoryPlace)>,
    host: Host,
}

impl Wanted {
    fn find(global: &Global, source: &OsStr, options: &Options) -> Result<Self> {
        let mut global = global.clone();
        global.password_file.extend(options.password_files.clone());
        global.key_file.extend(options.key_files.clone());
        let wanted = if names_repository(source) {
            let host = host_with(&global, Config::load(global.config.as_deref())?)?;
            Self {
                source: source.to_owned(),
                repositories: vec![named_mount(&host, source)?],
                host,
            }
        } else {
            let file = Path::new(source).canonicalize().map_err(|error| {
                let shown = Path::new(source).display();
                Error::io(format_args!("cannot read the configuration {shown}"), error)
            })?;
            Self {
                host: host_with(&global, Config::load(Some(&file))?)?,
                source: file.into(),
                repositories: Vec::new(),
            }
        };
        wanted.require(options.repository.as_deref())?;
        Ok(wanted)
    }

    /// Refuses what is not there before a daemon is started for it.
    fn require(&self, repository: Option<&str>) -> Result<()> {
        let configured = self.host.config().repositories.keys();
        let named = self.repositories.iter().map(|(name, _)| name);
        let names: Vec<&str> = match self.repositories.is_empty() {
            true => configured.map(String::as_str).collect(),
            false => named.map(String::as_str).collect(),
        };
        let Some(wanted) = repository.filter(|wanted| !names.contains(wanted)) else {
            return Ok(());
        };
        let message = format!(
            "{} has no repository {wanted:?} for repo=; it has {}",
            self.source.display(),
            names.join(", ")
        );
        Err(Error::new(Kind::NoRepository, message))
    }

    /// Root: a bind out of the one mount of this configuration, which is started when there is none.
    fn bind(self, global: &Global, options: &Options, directory: &Path) -> Result<u8> {
        let shared = Shared::of(&self.source);
        let mut lock = Some(shared.lock()?);
        let served = match shared.served()? {
            Some(served) => served,
            None => {
                let arguments = shared.arguments(self.repositories)?;
                let started = start(&self.host, arguments, global, || drop(lock.take()))?;
                if started != exit::DONE {
                    return Ok(started);
                }
                shared.directory().to_owned()
            }
        };
        shared.bind(
            &served,
            options.repository.as_deref(),
            directory,
            options.access,
        )?;
        Ok(exit::DONE)
    }

    /// Others cannot bind: the mount itself.
    fn mount(self, global: &Global, options: &Options, directory: &Path) -> Result<u8> {
        if options.repository.is_some() {
            let message = "only root can mount with repo=; mount all repositories without it";
            return Err(Error::new(Kind::Denied, message));
        }
        let arguments = MountArguments {
            repositories: self.repositories,
            directory: directory.to_owned(),
            allow_other: options.allow_other,
            access: options.access,
            ..MountArguments::default()
        };
        start(&self.host, arguments, global, || ())
    }
}

/// Starts the daemon; `first` is done in its process before anything else. Returns when it is ready or has failed.
fn start(
    host: &Host,
    arguments: MountArguments,
    global: &Global,
    first: impl FnOnce(),
) -> Result<u8> {
    let plan = command::plan_mount(host, arguments)?;
    background::run(|ready| {
        first();
        match command::mount(host, plan, ready) {
            Ok(()) => exit::DONE,
            Err(error) => fail(&error, global.verbose),
        }
    })
}

/// Whether it is NAME=URL: a path has a slash before any `=`.
fn names_repository(source: &OsStr) -> bool {
    let text = source.to_string_lossy();
    text.split_once('=')
        .is_some_and(|(name, _)| !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Options> {
        Options::read(&[list.to_owned()], false)
    }

    #[test]
    fn options_of_fstab_are_read_and_others_are_named() {
        let options = read("rw,ro,noexec,repo=offsite,key-file=/k,_netdev,nofail,x-systemd.automount,comment=a b,user=bob,")
            .expect("are known");
        let expected = Options {
            repository: Some("offsite".to_owned()),
            access: Access {
                read_only: true,
                no_exec: true,
            },
            key_files: vec!["/k".into()],
            ..Options::default()
        };
        assert_eq!(options, expected);
        for unknown in ["suid", "repository=a", "ro=1", "nofail=no", "uid=5"] {
            let refused = read(&format!("ro,{unknown}")).expect_err("is refused");
            assert!(refused.to_string().contains(unknown), "{refused}");
            let sloppy = Options::read(&[unknown.to_owned()], true);
            assert_eq!(sloppy.expect("is tolerated"), Options::default());
        }
    }

    #[test]
    fn a_path_may_hold_an_equals_sign() {
        for (source, is) in [
            ("a=/srv/keep", true),
            ("/etc/a=b.toml", false),
            ("./a=b", false),
        ] {
            assert_eq!(names_repository(OsStr::new(source)), is, "{source}");
        }
    }
}
