//! `notify`: whether messages arrive, and which have not.

use super::Host;
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::notify::{Listed, Notifier, Pass, Standing};
use serde::Serialize;
use std::sync::Arc;

/// What became of a test message, and which messages wait.
#[derive(Clone, Debug, Serialize)]
pub struct NotifyTestReport {
    /// Whether it was taken for everybody.
    pub sent: bool,
    /// What happened, and what to do.
    pub sentence: String,
    /// Its `Message-ID`.
    pub message_id: String,
    /// Messages that wait to be sent.
    pub queued: usize,
    /// Messages that nobody takes.
    pub failed: Vec<MessageLine>,
}

/// Messages that somebody does not have yet.
#[derive(Clone, Debug, Serialize)]
pub struct NotifyReport {
    /// Each of them.
    pub messages: Vec<MessageLine>,
}

/// One message.
#[derive(Clone, Debug, Serialize)]
pub struct MessageLine {
    /// Its name: the session and how it ended.
    pub name: String,
    /// `queued`, `sending` or `failed`.
    pub state: &'static str,
    /// When it was queued.
    pub queued: String,
    /// How often it could not be sent.
    pub attempts: u32,
    /// When it is tried again; empty when it is not.
    pub next: String,
    /// Why it could not be sent; empty when it was not tried.
    pub error: String,
    /// Recipients who will not get it, each with what was said.
    pub refused: Vec<(String, String)>,
}

/// What sending all that waits came to.
#[derive(Clone, Debug, Serialize)]
pub struct NotifySendReport {
    /// Messages that were sent.
    pub sent: u64,
    /// What is left.
    pub messages: Vec<MessageLine>,
}

/// Sends a test message.
pub fn test_notify(host: &Host) -> Result<NotifyTestReport> {
    let notifier = required(host)?;
    let tested = notifier.test()?;
    let mut messages = lines(&notifier)?;
    let queued = messages
        .extract_if(.., |line| line.state != "failed")
        .count();
    Ok(NotifyTestReport {
        sent: tested.sent,
        sentence: tested.sentence,
        message_id: tested.message_id,
        queued,
        failed: messages,
    })
}

/// What is not sent yet, or never will be.
pub fn list_notify(host: &Host) -> Result<NotifyReport> {
    let messages = lines(&*required(host)?)?;
    Ok(NotifyReport { messages })
}

/// Sends now all that waits, and again what failed.
pub fn send_notify(host: &Host) -> Result<NotifySendReport> {
    let notifier = required(host)?;
    let Pass { sent, .. } = notifier.deliver_all()?;
    let messages = lines(&notifier)?;
    Ok(NotifySendReport { sent, messages })
}

fn required(host: &Host) -> Result<Arc<Notifier>> {
    host.notifier()?.ok_or_else(|| {
        let message = "nobody is told of anything: the configuration has no [notify]; \
                       write host, from and to there, as `keepfs notify --help` shows";
        Error::new(Kind::Invalid, message)
    })
}

fn lines(notifier: &Notifier) -> Result<Vec<MessageLine>> {
    Ok(notifier.list()?.into_iter().map(line).collect())
}

fn line(listed: Listed) -> MessageLine {
    let (state, next) = match listed.standing {
        Standing::Queued => ("queued", listed.next.rfc3339()),
        Standing::Sending => ("sending", listed.next.rfc3339()),
        Standing::Failed => ("failed", String::new()),
    };
    let queued = match listed.queued == Time::default() {
        true => String::new(),
        false => listed.queued.rfc3339(),
    };
    MessageLine {
        name: listed.name,
        state,
        queued,
        attempts: listed.attempts,
        next,
        error: listed.error.unwrap_or_default(),
        refused: listed.refused,
    }
}
