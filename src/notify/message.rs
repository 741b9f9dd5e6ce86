//! A message as it goes over the wire: headers, a text for people, and a table for many objects.

use super::letter::{About, Letter};
use super::template::{Placeholder, one_line};
use super::{Ended, Ending, Settings};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use indicatif::HumanBytes;
use jiff::tz::TimeZone;
use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Body, Mailbox, MessageBuilder, MultiPart, SinglePart};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Objects that a person may still read in a mail.
const INLINE_MAX: usize = 1000;
/// Names that a list of them shows.
const NAMES_MAX: usize = 3;
/// Longer lines are not allowed in a header, and a name may hold no place to fold it.
const SUBJECT_CHARACTERS_MAX: usize = 200;

/// A message, and what it is about.
#[derive(Debug)]
pub(super) struct Message {
    /// Its `Message-ID`.
    pub id: String,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The facts for a program.
    pub facts: Vec<(&'static str, String)>,
}

/// What all messages of this host have in common.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub settings: &'a Settings,
    pub host: &'a str,
    pub zone: TimeZone,
}

impl Desk<'_> {
    /// The message of a file of the spool.
    pub(super) fn message(&self, key: &str, letter: &Letter) -> Result<Message> {
        let sessions = letter.sessions();
        let subject = self
            .settings
            .subject
            .fill(|which| self.value(letter, which));
        let (text, objects) = match &letter.about {
            About::Session(ended) => (self.report(ended), table(ended)),
            About::Summary(sessions) => (self.summary(sessions), None),
        };
        let id = format!("<{key}@sessions.keepfs>");
        let facts = self.facts(letter, &subject, &id);
        let date = sessions.iter().map(|ended| ended.ended).max();
        self.assemble(id, subject, date.unwrap_or(letter.queued), text, objects)
            .map(|message| Message { facts, ..message })
    }

    /// A message that tells that messages arrive.
    pub(super) fn test(&self, key: &str, now: Time) -> Result<Message> {
        let subject = format!("keepfs test on {}", self.host);
        let text = format!(
            "This is what `keepfs notify test` sends.\nMessages about {} arrive the same way.\n",
            words(self.settings.on.iter().copied())
        );
        let id = format!("<{key}@sessions.keepfs>");
        let facts = vec![
            ("KEEPFS_RESULT", "test".to_owned()),
            ("KEEPFS_HOST", one_line(self.host)),
            ("KEEPFS_SUBJECT", subject.clone()),
            ("KEEPFS_MESSAGE_ID", id.clone()),
        ];
        self.assemble(id, subject, now, text, None)
            .map(|message| Message { facts, ..message })
    }

    fn assemble(
        &self,
        id: String,
        subject: String,
        date: Time,
        text: String,
        objects: Option<String>,
    ) -> Result<Message> {
        let subject: String = subject.chars().take(SUBJECT_CHARACTERS_MAX).collect();
        let builder = self.headers(&id, &subject, date)?;
        let text = SinglePart::plain(text);
        let built = match objects {
            None => builder.singlepart(text),
            Some(objects) => {
                let csv = ContentType::parse("text/csv; charset=utf-8").expect("is a type");
                // Names may hold line ends of any kind, which only this encoding leaves as they are.
                let base64 = ContentTransferEncoding::Base64;
                let table = Body::new_with_encoding(objects.into_bytes(), base64)
                    .expect("everything can be encoded so");
                let attached = Attachment::new("objects.csv".to_owned()).body(table, csv);
                // The same bytes at each attempt, and nothing that whoever names files can know.
                let boundary = format!("=_{}_=", id.trim_matches(['<', '>']).replace('@', "."));
                let parts = MultiPart::mixed().boundary(boundary);
                builder.multipart(parts.singlepart(text).singlepart(attached))
            }
        };
        let built = built.map_err(|error| {
            let message = "the message cannot be made of these addresses; correct from and to";
            Error::new(Kind::Invalid, message).caused_by(error)
        })?;
        Ok(Message {
            id,
            bytes: built.formatted(),
            facts: Vec::new(),
        })
    }

    fn headers(&self, id: &str, subject: &str, date: Time) -> Result<MessageBuilder> {
        let from = self.settings.sender()?;
        let mut to = self.settings.recipients()?;
        if to.is_empty() {
            // A command may know better to whom it goes.
            to.push(from.clone());
        }
        let addresses = to.iter().map(|mailbox| mailbox.email.clone()).collect();
        let envelope = Envelope::new(Some(from.email.clone()), addresses)
            .expect("there is at least one recipient");
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let builder = lettre::Message::builder()
            .message_id(Some(id.to_owned()))
            .date(date.into())
            .from(from)
            .subject(subject)
            // Absence notes and lists do not answer it.
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .envelope(envelope);
        Ok(to
            .into_iter()
            .fold(builder, |builder, one: Mailbox| builder.to(one)))
    }

    fn value(&self, letter: &Letter, which: Placeholder) -> String {
        let sessions = letter.sessions();
        let names = |of: &dyn Fn(&Ended) -> Vec<String>| {
            let all: BTreeSet<String> = sessions.iter().flat_map(of).collect();
            listed(&all.into_iter().collect::<Vec<_>>())
        };
        match which {
            Placeholder::Result => letter.ending().to_string(),
            Placeholder::Backup => names(&|ended| ended.backups.clone()),
            Placeholder::Job => names(&|ended| ended.job.iter().cloned().collect()),
            Placeholder::Target => names(&|ended| vec![ended.target.clone()]),
            Placeholder::Objects => sum(sessions, |ended| ended.objects_count),
            Placeholder::Issues => sum(sessions, |ended| ended.issues),
            Placeholder::Time => {
                let last = sessions.iter().map(|ended| ended.ended).max();
                self.time(last.unwrap_or(letter.queued))
            }
            Placeholder::Host => self.host.to_owned(),
        }
    }

    fn facts(&self, letter: &Letter, subject: &str, id: &str) -> Vec<(&'static str, String)> {
        let sessions = letter.sessions();
        let first = |of: &dyn Fn(&Ended) -> String| match sessions {
            [ended] => one_line(&of(ended)),
            _ => String::new(),
        };
        let value = |which| one_line(&self.value(letter, which));
        vec![
            ("KEEPFS_RESULT", value(Placeholder::Result)),
            ("KEEPFS_SESSION", first(&|ended| ended.session.to_string())),
            ("KEEPFS_SESSIONS", sessions.len().to_string()),
            ("KEEPFS_JOB", value(Placeholder::Job)),
            ("KEEPFS_BACKUP", value(Placeholder::Backup)),
            ("KEEPFS_SOURCE", first(&|ended| ended.source.clone())),
            ("KEEPFS_TARGET", value(Placeholder::Target)),
            ("KEEPFS_OBJECTS", value(Placeholder::Objects)),
            ("KEEPFS_ISSUES", value(Placeholder::Issues)),
            ("KEEPFS_STARTED", first(&|ended| ended.started.rfc3339())),
            ("KEEPFS_ENDED", first(&|ended| ended.ended.rfc3339())),
            ("KEEPFS_HOST", one_line(self.host)),
            ("KEEPFS_SUBJECT", subject.to_owned()),
            ("KEEPFS_MESSAGE_ID", id.to_owned()),
        ]
    }

    /// `2026-11-28 08:00:13 CET`.
    fn time(&self, time: Time) -> String {
        let stamp = jiff::Timestamp::from_second(time.seconds).unwrap_or_default();
        let zoned = stamp.to_zoned(self.zone.clone());
        zoned.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    fn report(&self, ended: &Ended) -> String {
        let took = (ended.ended.seconds - ended.started.seconds).max(0) as u64;
        let took = std::time::Duration::from_secs(took);
        let mut rows = vec![
            ("Result", ended.ending.to_string()),
            ("Backups", ended.backups.join(", ")),
            ("From", ended.source.clone()),
            ("To", ended.target.clone()),
            ("Host", self.host.to_owned()),
            ("Started", self.time(ended.started)),
            ("Ended", self.time(ended.ended)),
            ("Took", indicatif::HumanDuration(took).to_string()),
            ("Objects", ended.objects_count.to_string()),
            ("Issues", ended.issues.to_string()),
            ("Size", HumanBytes(ended.bytes).to_string()),
            ("Stored", HumanBytes(ended.stored_bytes).to_string()),
            ("Session", ended.session.to_string()),
        ];
        if let Some(job) = &ended.job {
            rows.insert(1, ("Job", job.clone()));
        }
        let mut text = String::new();
        for (name, value) in rows {
            line(&mut text, format_args!("{name:8} {}", one_line(&value)));
        }
        if ended.ending == Ending::NeedsAction {
            let advice = "Somebody has to decide: keepfs session retry, skip or undo";
            line(&mut text, format_args!("\n{advice} {}", ended.session));
        }
        objects(&mut text, ended);
        text
    }

    fn summary(&self, sessions: &[Ended]) -> String {
        let counts = Ending::ALL.into_iter().filter_map(|ending| {
            let count = sessions.iter().filter(|one| one.ending == ending).count();
            (count > 0).then(|| format!("{count} {ending}"))
        });
        let counts: Vec<_> = counts.collect();
        let mut text = String::new();
        line(
            &mut text,
            format_args!(
                "{} sessions on {}: {}\n",
                sessions.len(),
                self.host,
                counts.join(", ")
            ),
        );
        for ended in sessions {
            let job = ended.job.as_deref().unwrap_or("-");
            let row = format!(
                "{}  {:12}  {}  {}: {} to {}, {} objects, {} issues, {} stored, session {}",
                self.time(ended.ended),
                ended.ending.word(),
                job,
                listed(&ended.backups),
                ended.source,
                ended.target,
                ended.objects_count,
                ended.issues,
                HumanBytes(ended.stored_bytes),
                ended.session
            );
            line(&mut text, format_args!("{}", one_line(&row)));
        }
        text
    }
}

fn line(text: &mut String, what: std::fmt::Arguments) {
    writeln!(text, "{what}").expect("a string takes everything");
}

fn objects(text: &mut String, ended: &Ended) {
    let listed = ended.objects.len();
    let missing = ended.objects_count.saturating_sub(listed as u64);
    if listed > INLINE_MAX {
        let attached = "objects are in the attached objects.csv";
        line(text, format_args!("\n{listed} {attached}"));
    } else if listed > 0 {
        line(text, format_args!(""));
        for object in &ended.objects {
            let reason = match object.reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            };
            let row = format!("{}  {}{reason}", object.outcome, object.path);
            line(text, format_args!("{}", one_line(&row)));
        }
    }
    if listed > 0 && missing > 0 {
        line(text, format_args!("and {missing} more"));
    }
}

/// All objects as CSV when they are too many to be read in the text.
fn table(ended: &Ended) -> Option<String> {
    if ended.objects.len() <= INLINE_MAX {
        return None;
    }
    let mut table = String::from("path,outcome,reason\r\n");
    for object in &ended.objects {
        let fields = [&object.path, &object.outcome, &object.reason];
        let quoted = fields.map(|field| format!("\"{}\"", field.replace('"', "\"\"")));
        table.push_str(&quoted.join(","));
        table.push_str("\r\n");
    }
    Some(table)
}

fn sum(sessions: &[Ended], of: impl Fn(&Ended) -> u64) -> String {
    let all = sessions.iter().map(of).fold(0, u64::saturating_add);
    all.to_string()
}

/// `a, b, c and 4 more`.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMES_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn words(endings: impl Iterator<Item = Ending>) -> String {
    let words: Vec<_> = endings.map(Ending::word).collect();
    words.join(", ")
}
