//! argv to verbs; the only room that prints.
//!
//! Reports go to standard output, everything else to standard error. What a process answers is in one table,
//! [`exit::code`].

mod arguments;
mod ask;
mod background;
mod demo;
mod escape;
pub mod exit;
mod jobs;
mod mount_helper;
mod ready;
mod session;
mod show;
mod work;

use crate::clock::Clock;
use crate::command::{
    self, BackupArguments, CheckArguments, Host, InitArguments, MountArguments, PruneArguments,
};
use crate::config::{Config, Given, Keys, Place, RepositoryPlace};
use crate::error::{Error, Kind, Result};
use crate::source::Cluster;
use arguments::{Arguments, Global, KeyVerb, NotifyVerb, Verb};
use clap::{CommandFactory, Parser};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;

/// Runs the command line of this process; returns its exit code.
pub fn run() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output and is no failure; who does not read it does not want it.
            let _ = error.print();
            let code = u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
            return mount_helper::usage(code);
        }
    };
    let verbose = arguments.global.verbose;
    log_to_stderr(verbose);
    verb(arguments).unwrap_or_else(|error| fail(&error, verbose))
}

/// One line for the error; its causes only on request.
fn fail(error: &Error, verbose: u8) -> u8 {
    let mut err = io::stderr().lock();
    // Nobody may be reading; the exit code still tells.
    let _ = writeln!(err, "keepfs: {}", escape::escaped(&error.to_string()));
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause.filter(|_| verbose > 0) {
        let _ = writeln!(err, "  caused by: {}", escape::escaped(&error.to_string()));
        cause = error.source();
    }
    exit::code(error.kind())
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "keepfs=warn,error",
        1 => "keepfs=info,warn",
        _ => "keepfs=debug,info",
    };
    // Only a second call could fail, and there is one.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .try_init();
}

fn verb(arguments: Arguments) -> Result<u8> {
    let global = &arguments.global;
    match arguments.verb {
        Verb::Completions(completions) => {
            clap_complete::generate(
                completions.shell,
                &mut Arguments::command(),
                "keepfs",
                &mut Printed::default(),
            );
            Ok(exit::DONE)
        }
        Verb::Man(man) => manual(&man.verb),
        Verb::Demo(demo) => demo::run(demo.directory, global.quiet),
        Verb::Seal(seal) => show::print(&command::seal(&seal.path)?, global.json),
        Verb::Umount(umount) => {
            command::unmount(&umount.directory, umount.lazy).map(|()| exit::DONE)
        }
        Verb::MountHelper(helper) => Ok(mount_helper::run(global, &helper)),
        verb => on_host(global, &host(global)?, verb),
    }
}

fn host(global: &Global) -> Result<Host> {
    let config = Config::load(global.config.as_deref())?;
    host_with(global, config)
}

fn host_with(global: &Global, config: Config) -> Result<Host> {
    let given = Given {
        password_files: global.password_file.clone(),
        key_files: global.key_file.clone(),
    };
    let keys = Keys::new(given, Box::new(ask::password));
    Host::new(config, keys, Clock::system())
}

fn on_host(global: &Global, host: &Host, verb: Verb) -> Result<u8> {
    let json = global.json;
    match verb {
        Verb::Init(init) => {
            let arguments = InitArguments {
                pack_bytes: init.pack_size,
                level: init.level,
                storage_class: init.storage_class,
                trash_days: init.trash_days,
                seal_idle: init.seal_idle,
                acl: init.acl,
                readers: init.readers,
                like: init
                    .like
                    .map(|like| host.config().repository(&like))
                    .transpose()?,
                more: init.more,
                label: init.label,
            };
            let place = host.config().repository(&init.repository)?;
            show::print(&command::init(host, &place, &arguments)?, json)
        }
        Verb::Backup(backup) => back_up(global, host, backup),
        Verb::Restore(restore) => {
            let place = host.config().place(&restore.place)?;
            let report = work::watched(global.quiet, |progress| {
                let (numeric, threads) = (restore.numeric, restore.threads);
                command::restore(host, &place, &restore.target, numeric, threads, progress)
            })?;
            show::print(&report, json)
        }
        Verb::Move(copy) => {
            let (sources, target) = from_and_to(host, copy)?;
            let report = work::watched(global.quiet, |progress| {
                command::move_points(host, &sources, &target, progress)
            })?;
            show::print(&report, json)
        }
        Verb::Copy(copy) => {
            let (sources, target) = from_and_to(host, copy)?;
            let report = work::watched(global.quiet, |progress| {
                command::copy(host, &sources, &target, progress)
            })?;
            show::print(&report, json)
        }
        Verb::Session(session) => session::run(global, host, session.verb),
        Verb::Points(points) => {
            let place = points.place.map(|place| host.config().place(&place));
            let place = place.transpose()?;
            if points.trash {
                return show::print(&command::trash(host, place.as_ref())?, json);
            }
            if points.open {
                return show::print(&command::open_points(host, place.as_ref())?, json);
            }
            show::print(&command::points(host, place.as_ref())?, json)
        }
        Verb::Diff(diff) => differ(host, &diff.first, &diff.second, json),
        Verb::Forget(forget) => {
            if let Some([repository, id]) = forget.open.as_deref() {
                return unmark(global, host, repository, id);
            }
            let places = forget.places.iter();
            let places = places
                .map(|place| host.config().place(place))
                .collect::<Result<Vec<_>>>()?;
            show::print(&command::forget(host, &places)?, json)
        }
        Verb::Undelete(undelete) => {
            let place = host.config().place(&undelete.place)?;
            show::print(&command::undelete(host, &place)?, json)
        }
        Verb::Prune(prune) => {
            let places = named(host, &prune.repositories)?;
            let arguments = PruneArguments {
                dry_run: prune.dry_run,
                grace_seconds: prune.grace,
                max_dead: prune.max_dead,
            };
            let report = work::watched(global.quiet, |progress| {
                command::prune(host, places, arguments, progress)
            })?;
            show::print(&report, json)
        }
        Verb::Check(check) => {
            let places = named(host, &check.repositories)?;
            let arguments = CheckArguments {
                read_data: check.read_data,
                rebuild_index: check.rebuild_index,
            };
            let report = work::watched(global.quiet, |progress| {
                command::check(host, places, arguments, progress)
            })?;
            show::print(&report, json)
        }
        Verb::Config(config) => {
            let place = host.config().repository(&config.repository)?;
            show::print(&command::settings(host, &place, &config.changes)?, json)
        }
        Verb::Stats(stats) => {
            let places = named(host, &stats.repositories)?;
            show::print(&command::stats(host, places, stats.probe)?, json)
        }
        Verb::Key(key) => keys(host, key.verb, json),
        Verb::Notify(notify) => match notify.verb {
            NotifyVerb::Test => show::print(&command::test_notify(host)?, json),
            NotifyVerb::List => show::print(&command::list_notify(host)?, json),
            NotifyVerb::Send => show::print(&command::send_notify(host)?, json),
        },
        Verb::Job(job) => jobs::run(global, host, job.verb),
        Verb::Mount(mount) => mounted(global, host, mount),
        Verb::Seal(_)
        | Verb::Umount(_)
        | Verb::MountHelper(_)
        | Verb::Demo(_)
        | Verb::Completions(_)
        | Verb::Man(_) => {
            unreachable!("verb() has done these without a host")
        }
    }
}

/// The points that are named, and the repository behind them.
fn from_and_to(host: &Host, copy: arguments::Copy) -> Result<(Vec<Place>, RepositoryPlace)> {
    let (target, sources) = last(copy.places)?;
    let sources = sources
        .iter()
        .map(|source| host.config().place(source))
        .collect::<Result<Vec<_>>>()?;
    Ok((sources, whole(host.config().place(&target)?)?))
}

fn back_up(global: &Global, host: &Host, backup: arguments::Backup) -> Result<u8> {
    let (place, sources) = last(backup.places)?;
    let cluster = Cluster {
        nodes: backup.nodes,
        shared: backup.shared,
    };
    if sources.is_empty() && cluster.is_empty() {
        let message = "say what to read and where to: keepfs backup SOURCE… REPO/BACKUP";
        return Err(Error::new(Kind::Invalid, message));
    }
    let place = host.config().place(&place)?;
    let arguments = BackupArguments {
        sources: sources.into_iter().map(PathBuf::from).collect(),
        cluster,
        exclude: backup.exclude,
        exclude_from: backup.exclude_from,
        exclude_if_present: backup.exclude_if_present,
        exclude_caches: backup.exclude_caches,
        one_file_system: backup.one_file_system,
        force: backup.force,
        threads: backup.threads,
    };
    let report = work::watched(global.quiet, |progress| {
        command::backup(host, &arguments, &place, progress)
    })?;
    show::print(&report, global.json)
}

/// Says what it means before it is done.
fn unmark(global: &Global, host: &Host, repository: &str, id: &str) -> Result<u8> {
    let place = host.config().repository(repository)?;
    let unmarking = command::plan_unmark(host, &place, id)?;
    if !global.quiet {
        let sentence = unmarking.sentence();
        // Nobody may be reading; the report says it again.
        let _ = writeln!(io::stderr(), "keepfs: {}", escape::escaped(&sentence));
    }
    show::print(&unmarking.execute()?, global.json)
}

/// Differences are printed as they are found: there may be millions.
fn differ(host: &Host, first: &OsStr, second: &OsStr, json: bool) -> Result<u8> {
    let (first, second) = (host.config().place(first)?, host.config().place(second)?);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let report = command::diff(host, &first, &second, &mut |line| {
        if written.is_ok() {
            written = if json {
                show::json_line(&mut out, &line)
            } else {
                writeln!(out, "{} {}", line.change, escape::Name(&line.path))
            };
        }
        Ok(())
    })?;
    show::told(written.and_then(|()| out.flush()))?;
    Ok(show::Show::code(&report))
}

fn keys(host: &Host, verb: KeyVerb, json: bool) -> Result<u8> {
    let place = |name: &str| host.config().repository(name);
    match verb {
        KeyVerb::Add {
            repository,
            new_password_file,
            new_key_file,
            label,
        } => {
            let new = Given {
                password_files: new_password_file.into_iter().collect(),
                key_files: new_key_file.into_iter().collect(),
            };
            let report = command::add_key(host, &place(&repository)?, &new, &label)?;
            show::print(&report, json)
        }
        KeyVerb::List { repository } => {
            show::print(&command::list_keys(host, &place(&repository)?)?, json)
        }
        KeyVerb::Remove { repository, id } => {
            let report = command::remove_key(host, &place(&repository)?, &id)?;
            show::print(&report, json)
        }
    }
}

fn mounted(global: &Global, host: &Host, mount: arguments::Mount) -> Result<u8> {
    let (directory, repositories) = last(mount.places)?;
    let repositories = repositories
        .iter()
        .map(|text| named_mount(host, text))
        .collect::<Result<_>>()?;
    let arguments = MountArguments {
        repositories,
        directory: directory.into(),
        allow_other: mount.allow_other,
        ..MountArguments::default()
    };
    let plan = command::plan_mount(host, arguments)?;
    if mount.foreground {
        return command::mount(host, plan, &mut ready::tell).map(|()| exit::DONE);
    }
    background::run(|ready| match command::mount(host, plan, ready) {
        Ok(()) => exit::DONE,
        Err(error) => fail(&error, global.verbose),
    })
}

/// `NAME=URL`, a configured name, or a URL whose last component is the name.
fn named_mount(host: &Host, text: &OsStr) -> Result<(String, RepositoryPlace)> {
    let text = text.to_str().ok_or_else(|| {
        let message = format!("{} is not UTF-8; configure a name for it", text.display());
        Error::new(Kind::Invalid, message)
    })?;
    if let Some((name, url)) = text.split_once('=')
        && !name.contains('/')
    {
        return Ok((name.to_owned(), host.config().repository(url)?));
    }
    let place = host.config().repository(text)?;
    let name = text.trim_end_matches('/').rsplit('/').next();
    Ok((name.unwrap_or(text).to_owned(), place))
}

fn named(host: &Host, names: &[String]) -> Result<Vec<RepositoryPlace>> {
    names
        .iter()
        .map(|name| host.config().repository(name))
        .collect()
}

/// The last argument, and those before it.
fn last(mut places: Vec<OsString>) -> Result<(OsString, Vec<OsString>)> {
    let last = places
        .pop()
        .ok_or_else(|| Error::new(Kind::Invalid, "say where to"))?;
    Ok((last, places))
}

/// A place that must be a repository as a whole.
fn whole(place: Place) -> Result<RepositoryPlace> {
    if place.backup.is_some() {
        let message = format!(
            "points are copied into a repository, each under its backup's name; name {} alone",
            place.repository.name
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(place.repository)
}

/// The page of a verb, which for those of `key` has two words; of all of them without one.
fn manual(words: &[String]) -> Result<u8> {
    let mut page = Arguments::command();
    page.build();
    for word in words {
        page = page.find_subcommand(word).cloned().ok_or_else(|| {
            let message = format!(
                "there is no verb {:?}; `keepfs --help` shows all",
                words.join(" ")
            );
            Error::new(Kind::Invalid, message)
        })?;
    }
    show::told(clap_mangen::Man::new(page).render(&mut io::stdout().lock()))?;
    Ok(exit::DONE)
}

/// Standard output for a library that panics when a write fails.
#[derive(Default)]
struct Printed {
    ended: bool,
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ended = self.ended || io::stdout().write_all(bytes).is_err();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ended = self.ended || io::stdout().flush().is_err();
        Ok(())
    }
}
