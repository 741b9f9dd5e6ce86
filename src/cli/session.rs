//! `session`: argv to verbs, and how sessions are shown.

use super::arguments::{Global, SessionName, SessionVerb};
use super::escape::Name;
use super::show::{self, Show};
use super::{exit, work};
use crate::command::{
    self, Host, Listed, SessionAction, SessionFacts, SessionLog, SessionPlace, SessionReport,
    SessionsReport,
};
use crate::error::Result;
use indicatif::HumanBytes;
use std::io::{self, Write};

/// Failed parts that are shown to a person; `--json` has all.
const SHOWN_PARTS: usize = 50;

pub(super) fn run(global: &Global, host: &Host, verb: SessionVerb) -> Result<u8> {
    let json = global.json;
    let place = |name: &SessionName| SessionPlace::parse(host, &name.session);
    let (name, action, source) = match verb {
        SessionVerb::List {
            repository,
            unfinished,
        } => {
            let repository = repository.map(|name| host.config().repository(&name));
            let listed = match unfinished {
                true => Listed::Unfinished,
                false => Listed::All,
            };
            let report = command::sessions(host, repository.transpose()?.as_ref(), listed)?;
            return show::print(&report, json);
        }
        SessionVerb::Show(name) => {
            return show::print(&command::session(host, &place(&name)?)?, json);
        }
        SessionVerb::Log(name) => {
            return show::print(&command::session_log(host, &place(&name)?)?, json);
        }
        SessionVerb::Wait(name) => {
            let place = place(&name)?;
            let report = work::watched(true, |progress| {
                command::wait_session(host, &place, progress)
            })?;
            return show::print(&report, json);
        }
        SessionVerb::Retry { session, source } => (session, SessionAction::Retry, source),
        SessionVerb::Skip(name) => (name, SessionAction::Skip, None),
        SessionVerb::Undo(name) => (name, SessionAction::Undo, None),
    };
    let place = place(&name)?;
    let source = source
        .map(|name| host.config().repository(&name))
        .transpose()?;
    let report = work::watched(global.quiet, |progress| {
        command::act_on_session(host, &place, action, source.as_ref(), progress)
    })?;
    show::print(&report, json)
}

/// What a process answers that was asked about a session.
fn code(session: &SessionFacts) -> u8 {
    match session.state {
        "success" | "undone" => exit::DONE,
        "warning" => exit::WARNINGS,
        "needs-action" => exit::NEEDS_ACTION,
        "failed" => exit::FAILED,
        _ if session.alive => exit::DONE,
        _ => exit::FAILED,
    }
}

fn state(session: &SessionFacts) -> String {
    match session.state {
        state @ ("running" | "waiting" | "retrying" | "undoing") if !session.alive => {
            format!("{state}, but its process is gone")
        }
        state => state.to_owned(),
    }
}

impl Show for SessionsReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in &self.sessions {
            let session = &line.facts;
            let there = session.points.iter();
            let there = there.filter(|point| ["copied", "present"].contains(&point.outcome));
            writeln!(
                out,
                "{}  {}  {}/{}  {} of {} restore points, {} parts failed, from {}",
                session.started,
                state(session),
                Name(&line.repository),
                &session.id[..8],
                there.count(),
                session.points.len(),
                session.failed_total,
                Name(&session.source),
            )?;
        }
        Ok(())
    }
}

impl Show for SessionReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let session = &self.session.facts;
        writeln!(out, "session {} is {}", session.id, state(session))?;
        if !session.reason.is_empty() {
            writeln!(out, "  {}", Name(&session.reason))?;
        }
        writeln!(
            out,
            "  from {} to {}, by {} (process {}), begun {}",
            Name(&session.source),
            Name(&session.target),
            session.host,
            session.process,
            session.started
        )?;
        writeln!(
            out,
            "  read {}, stored {} in {} data packs",
            HumanBytes(session.read_bytes),
            HumanBytes(session.stored_bytes),
            session.data_packs
        )?;
        for point in &session.points {
            writeln!(out, "{}: {}", point.outcome, Name(&point.point))?;
        }
        for part in session.failed.iter().take(SHOWN_PARTS) {
            writeln!(
                out,
                "not copied: {}: {} (asked for {} times)",
                Name(&part.path),
                Name(&part.reason),
                part.attempts
            )?;
        }
        let more = session.failed_total.saturating_sub(SHOWN_PARTS as u64);
        if more > 0 {
            writeln!(out, "and {more} parts more; --json lists them")?;
        }
        if session.state == "needs-action" {
            writeln!(
                out,
                "next: keepfs session retry|skip|undo {}/{}",
                Name(&self.session.repository),
                &session.id[..8]
            )?;
        }
        Ok(())
    }

    fn code(&self) -> u8 {
        code(&self.session.facts)
    }
}

impl Show for SessionLog {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in &self.lines {
            writeln!(
                out,
                "{}  {}  {}  {}",
                line.time,
                line.state,
                line.by,
                Name(&line.reason)
            )?;
        }
        Ok(())
    }
}
