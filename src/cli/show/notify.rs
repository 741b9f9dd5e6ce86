//! Messages and what became of them.

use super::{Show, count};
use crate::cli::escape::Name;
use crate::cli::exit;
use crate::command::{MessageLine, NotifyReport, NotifySendReport, NotifyTestReport};
use std::io::{self, Write};

fn messages(out: &mut dyn Write, messages: &[MessageLine]) -> io::Result<()> {
    for message in messages {
        let next = match message.next.as_str() {
            "" => String::new(),
            next => format!(", next {next}"),
        };
        writeln!(
            out,
            "{}  {}  queued {}, {} attempts{next}",
            message.state,
            Name(&message.name),
            message.queued,
            message.attempts
        )?;
        if !message.error.is_empty() {
            writeln!(out, "  {}", Name(&message.error))?;
        }
        for (_, sentence) in &message.refused {
            if *sentence != message.error {
                writeln!(out, "  {}", Name(sentence))?;
            }
        }
    }
    Ok(())
}

/// Messages that nobody takes are something to look at.
fn code_of(messages: &[MessageLine]) -> u8 {
    match messages.iter().any(|message| message.state == "failed") {
        true => exit::WARNINGS,
        false => exit::DONE,
    }
}

impl Show for NotifyTestReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let what = if self.sent { "sent" } else { "not sent" };
        writeln!(out, "{what}: {}", Name(&self.sentence))?;
        if self.queued > 0 {
            writeln!(out, "{} messages wait to be sent", self.queued)?;
        }
        messages(out, &self.failed)
    }

    fn code(&self) -> u8 {
        match self.sent {
            true => code_of(&self.failed),
            false => exit::FAILED,
        }
    }
}

impl Show for NotifyReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        messages(out, &self.messages)
    }

    fn code(&self) -> u8 {
        code_of(&self.messages)
    }
}

impl Show for NotifySendReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} messages sent", count(self.sent))?;
        messages(out, &self.messages)
    }

    fn code(&self) -> u8 {
        // What gathers for a summary was not tried.
        match self.messages.iter().all(|message| message.error.is_empty()) {
            true => exit::DONE,
            false => exit::WARNINGS,
        }
    }
}
