//! One pass over the queue: what is due is sent, and each answer decides where its message goes.

use super::letter::{Letter, Said, State};
use super::message::{Desk, Message};
use super::program::{self, Ran};
use super::smtp::Line;
use super::spool::{Spool, Tray};
use super::{Mode, Settings, Way, summary};
use crate::clock::{Clock, Time};
use crate::error::{Kind, Result};
use lettre::message::Mailbox;
use std::path::Path;
use std::time::Duration;

/// How long `sendmail` may take to queue a message.
const SENDMAIL_TIMEOUT: Duration = Duration::from_secs(120);
/// Exit codes of `sendmail` that another attempt would not change: usage, data, no such user, no such host.
const SENDMAIL_REFUSALS: [i32; 4] = [64, 65, 67, 68];
/// Who takes what is given to a command.
const COMMAND: &str = "the command";

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that are tried again later.
    pub waiting: u64,
    /// Messages that nobody will take.
    pub failed: u64,
    /// When the next one is due.
    pub next: Option<Time>,
}

/// What was answered for each recipient; those of whom nothing is said have the message.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Will never take it.
    pub refused: Vec<Said>,
    /// May take it later.
    pub later: Vec<Said>,
    /// Nobody can be asked now, whatever the message.
    pub unreachable: Option<String>,
    /// The words with which it was accepted for some.
    pub accepted: Option<String>,
}

impl Answer {
    /// Everybody has it.
    pub(super) fn is_plain(&self) -> bool {
        self.refused.is_empty() && self.later.is_empty()
    }

    /// The first of what went wrong.
    pub(super) fn sentence(&self) -> Option<&str> {
        let said = self.refused.iter().chain(&self.later);
        said.map(|said| said.sentence.as_str()).next()
    }
}

/// The way out of this host, for the messages of one pass.
pub(super) enum Road<'a> {
    Smtp(Box<Line<'a>>),
    Sendmail(&'a Path),
    Command(&'a str, Duration),
}

impl<'a> Road<'a> {
    pub(super) fn new(settings: &'a Settings, host: &'a str) -> Self {
        match &settings.way {
            Way::Smtp(smtp) => Self::Smtp(Box::new(Line::new(smtp, host))),
            Way::Sendmail(path) => Self::Sendmail(path),
            Way::Command { command, timeout } => Self::Command(command, *timeout),
        }
    }

    /// Sends to those recipients of `settings` who are among `left`, to all without it.
    pub(super) fn send(
        &mut self,
        settings: &Settings,
        message: &Message,
        left: Option<&[String]>,
        directory: &Path,
        about_to: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Answer> {
        match self {
            Self::Smtp(line) => {
                let from = settings.sender()?.email;
                let lacks = |mailbox: &Mailbox| {
                    left.is_none_or(|left| left.contains(&mailbox.email.to_string()))
                };
                let to = settings.recipients()?.into_iter().filter(lacks);
                let to: Vec<_> = to.map(|mailbox| mailbox.email).collect();
                Ok(line.send(&from, &to, &message.bytes, about_to))
            }
            Self::Sendmail(path) => {
                about_to()?;
                let command = program::sendmail(path);
                let ran = program::run(command, &message.bytes, SENDMAIL_TIMEOUT, directory);
                Ok(of_program(
                    ran,
                    &path.display().to_string(),
                    "sendmail",
                    &SENDMAIL_REFUSALS,
                ))
            }
            Self::Command(command, timeout) => {
                about_to()?;
                let hook = program::hook(command, &message.facts);
                let ran = program::run(hook, &message.bytes, *timeout, directory);
                Ok(of_program(ran, COMMAND, "command", &[]))
            }
        }
    }
}

fn of_program(ran: Result<Ran>, name: &str, way: &str, refusals: &[i32]) -> Answer {
    // Recipients are the program's own business.
    let said = |sentence| {
        vec![Said {
            to: String::new(),
            sentence,
        }]
    };
    let mut answer = Answer::default();
    match ran {
        Ok(Ran::Took) => {}
        Ok(Ran::Refused(code, sentence)) => {
            let sentence = format!("{name} of [notify] does not take the message: {sentence}");
            match code.is_some_and(|code| refusals.contains(&code)) {
                true => answer.refused = said(sentence),
                false => answer.later = said(sentence),
            }
        }
        Err(error) => answer.later = said(program::advice(&error, way)),
    }
    answer
}

/// What a pass works with.
pub(super) struct Delivery<'a> {
    pub settings: &'a Settings,
    pub spool: &'a Spool,
    pub clock: &'a Clock,
    pub host: &'a str,
    /// Also what waits for its time.
    pub all: bool,
    /// Whether to stop before the next message.
    pub stop: &'a dyn Fn() -> bool,
}

impl Delivery<'_> {
    /// One pass. Only one process of a host is at it.
    pub(super) fn pass(&self) -> Result<Pass> {
        let _sending = self.spool.lock()?;
        let zone = self.settings.zone()?;
        summary::settle(self.spool)?;
        let hour = match self.settings.mode {
            Mode::Each => None,
            Mode::Daily { hour, minute } => Some((hour, minute)),
        };
        if let Some(time) = hour {
            summary::gather(self.spool, self.clock.now(), time, &zone)?;
        }
        let desk = Desk {
            settings: self.settings,
            host: self.host,
            zone,
        };
        let mut road = Road::new(self.settings, self.host);
        let mut pass = Pass::default();
        let mut unreachable = None;
        for key in self.spool.keys(Tray::Queued)? {
            if (self.stop)() {
                break;
            }
            if let Err(error) = self.one(&key, &desk, &mut road, &mut unreachable, &mut pass) {
                // The others shall not wait for it.
                tracing::warn!("the message {key}: {error}");
            }
        }
        self.spool.sweep(self.clock.now())?;
        Ok(pass)
    }

    fn one(
        &self,
        key: &str,
        desk: &Desk,
        road: &mut Road,
        unreachable: &mut Option<String>,
        pass: &mut Pass,
    ) -> Result<()> {
        let mut letter = match self.spool.read(Tray::Queued, key) {
            Err(error) if error.kind() == Kind::Damaged => {
                pass.failed += 1;
                self.spool.finish(key, Tray::Failed)?;
                return Err(error);
            }
            letter => letter?,
        };
        if self.spool.is_done(key) {
            return self.spool.remove(key);
        }
        let summaries = matches!(self.settings.mode, Mode::Daily { .. });
        if summaries && letter.is_untouched() && !key.starts_with("summary-") {
            return Ok(());
        }
        if !self.all && !letter.is_due(self.clock.now()) {
            pass.wait_for(&letter);
            return Ok(());
        }
        if let Some(sentence) = unreachable {
            return self.postpone(key, letter, sentence.clone(), pass);
        }
        let message = desk.message(key, &letter)?;
        let left = letter.left.clone();
        let mut mark = || {
            letter.state = State::Sending;
            self.spool.update(key, &letter)
        };
        let directory = self.spool.directory();
        let answer = road.send(
            self.settings,
            &message,
            left.as_deref(),
            directory,
            &mut mark,
        )?;
        unreachable.clone_from(&answer.unreachable);
        self.answered(key, letter, answer, pass)
    }

    fn answered(
        &self,
        key: &str,
        mut letter: Letter,
        answer: Answer,
        pass: &mut Pass,
    ) -> Result<()> {
        if answer.is_plain() && letter.refused.is_empty() {
            pass.sent += 1;
            return self.spool.finish(key, Tray::Sent);
        }
        if answer.accepted.is_some() || !answer.refused.is_empty() {
            // The others are done with, one way or the other.
            letter.left = Some(answer.later.iter().map(|said| said.to.clone()).collect());
        }
        letter.refused.extend(answer.refused);
        let Some(later) = answer.later.into_iter().next() else {
            letter.error = letter.refused.last().map(|said| said.sentence.clone());
            return self.fail(key, &mut letter, pass);
        };
        let sentence = later.sentence;
        self.postpone(key, letter, sentence, pass)
    }

    fn postpone(
        &self,
        key: &str,
        mut letter: Letter,
        sentence: String,
        pass: &mut Pass,
    ) -> Result<()> {
        let (first, now) = (letter.attempts == 0, self.clock.now());
        if !letter.postpone(now, sentence.clone()) {
            let tried = format!("given up after five days: {sentence}");
            letter.error = Some(tried);
            return self.fail(key, &mut letter, pass);
        }
        if first {
            tracing::warn!("the message {key} waits: {sentence}");
        }
        pass.wait_for(&letter);
        self.spool.update(key, &letter)
    }

    fn fail(&self, key: &str, letter: &mut Letter, pass: &mut Pass) -> Result<()> {
        let sentence = letter.error.clone().unwrap_or_default();
        tracing::error!("the message {key} is not sent: {sentence}");
        letter.state = State::Queued;
        pass.failed += 1;
        self.spool.update(key, letter)?;
        self.spool.finish(key, Tray::Failed)
    }
}

impl Pass {
    fn wait_for(&mut self, letter: &Letter) {
        self.waiting += 1;
        self.next = Some(self.next.map_or(letter.next, |next| next.min(letter.next)));
    }
}
