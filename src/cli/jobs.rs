//! `keepfs job`.

use super::arguments::JobVerb;
use super::escape::Name;
use super::show::{self, Show};
use super::{Global, exit, work};
use crate::command::{self, Host, JobLine, JobRunLine, JobsReport, StartReport};
use crate::error::Result;
use crate::job::{Action, Outcome, Select};
use std::io::{self, Write};

pub fn run(global: &Global, host: &Host, verb: JobVerb) -> Result<u8> {
    let json = global.json;
    let ask = |name: &str, action| show::print(&command::ask_job(host, name, action)?, json);
    match verb {
        JobVerb::List => show::print(&command::list_jobs(host)?, json),
        JobVerb::Show { name } => show::print(&command::show_job(host, &name)?, json),
        JobVerb::Start {
            name,
            all_points,
            latest,
        } => {
            let all = all_points.then_some(Select::All);
            let select = all.or(latest.then_some(Select::Latest));
            let report = work::watched(global.quiet, |progress| {
                command::start_job(host, &name, select, progress)
            })?;
            show::print(&report, json)
        }
        JobVerb::Stop { name, graceful } => ask(
            &name,
            match graceful {
                true => Action::StopGracefully,
                false => Action::Stop,
            },
        ),
        JobVerb::Enable { name } => ask(&name, Action::Enable),
        JobVerb::Disable { name } => ask(&name, Action::Disable),
        JobVerb::Rate { name, rate } => ask(&name, Action::Rate(rate.0)),
    }
}

impl Show for JobsReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for job in &self.jobs {
            write!(out, "{}: {}", Name(&job.name), job.state)?;
            if let Some(next) = job.retry.as_ref().or(job.next_run.as_ref()) {
                write!(out, ", next run {next}")?;
            }
            match &job.last_run {
                Some(last) => writeln!(out, ", last run {} {}", last.ended, last.outcome.name())?,
                None => writeln!(out, ", never run")?,
            }
        }
        Ok(())
    }
}

impl Show for JobLine {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let by = self.disabled_by.as_ref();
        let by = by.map_or_else(String::new, |reason| format!(" ({reason})"));
        writeln!(out, "{}: {}{}", Name(&self.name), self.state, Name(&by))?;
        let targets = match self.targets.is_empty() {
            true => "nothing: say in the configuration where to".to_owned(),
            false => self.targets.join(", "),
        };
        let from = self.sources.join(", ");
        writeln!(
            out,
            "  copies {} points of {} to {}",
            self.select.name(),
            Name(&from),
            Name(&targets)
        )?;
        let schedule = self.schedule.as_deref().unwrap_or("by hand only");
        let enabled = if self.enabled { "" } else { " (not enabled)" };
        writeln!(out, "  runs {}{enabled}", Name(schedule))?;
        let times = [
            ("next run", &self.next_run),
            ("tried again", &self.retry),
            ("its window opens", &self.opens),
        ];
        for (what, time) in times {
            if let Some(time) = time {
                writeln!(out, "  {what}: {time}")?;
            }
        }
        if let Some(rate) = self.rate {
            writeln!(out, "  at most {}/s each way", show::bytes(rate))?;
        }
        if let Some((bytes, total)) = self.bytes.zip(self.bytes_total) {
            let (bytes, total) = (show::bytes(bytes), show::bytes(total));
            writeln!(out, "  done: {bytes} of {total}")?;
        }
        for late in &self.late {
            writeln!(out, "  too old: the newest copy in {}", Name(late))?;
        }
        if let Some(problem) = &self.problem {
            writeln!(out, "  problem: {}", Name(problem))?;
        }
        match &self.last_run {
            None => writeln!(out, "  has never run"),
            Some(run) => show_run(run, out),
        }
    }
}

fn show_run(run: &JobRunLine, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "  last run: {} to {}: {}, {} points copied, stored in {}",
        run.started,
        run.ended,
        run.outcome.name(),
        run.copied_count,
        show::bytes(run.stored_bytes)
    )?;
    for point in &run.copied {
        writeln!(out, "    copied {}", Name(point))?;
    }
    show::problems(out, "    problem", &run.problems)
}

impl Show for StartReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.run {
            None => writeln!(
                out,
                "the daemon runs {}; `keepfs job show {}` shows how far it is",
                Name(&self.name),
                Name(&self.name)
            ),
            Some(run) => show_run(run, out),
        }
    }

    fn code(&self) -> u8 {
        let outcome = self.run.as_ref().map(|run| run.outcome);
        match outcome {
            None | Some(Outcome::Success) => exit::DONE,
            Some(Outcome::Warning) => exit::WARNINGS,
            Some(Outcome::NeedsAction) => exit::NEEDS_ACTION,
            Some(Outcome::Failed | Outcome::Stopped) => exit::FAILED,
        }
    }
}
