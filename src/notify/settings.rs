//! Who is told, of what, and how.

use super::{Ending, Template};
use crate::error::{Error, Kind, Result};
use lettre::message::Mailbox;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a server may take for one answer, and a program for all of its work.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the configuration's `[notify]` says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How messages leave this host.
    pub way: Way,
    /// Who sends: an address, perhaps with a name before it.
    pub from: String,
    /// Who is told.
    pub to: Vec<String>,
    /// The subject.
    pub subject: Template,
    /// Which endings are told.
    pub on: BTreeSet<Ending>,
    /// A message for each session, or one a day for all.
    pub mode: Mode,
    /// The time zone of the times in messages and of the hour of a summary: a name like `Europe/Berlin`; this host's
    /// without it.
    pub timezone: Option<String>,
}

/// How messages leave this host.
#[derive(Clone, Debug)]
pub enum Way {
    /// To a server.
    Smtp(Smtp),
    /// Through a program that takes a whole message, as `sendmail -t -i` does.
    Sendmail(PathBuf),
    /// Into a command, run by `sh -c`, with the message on its standard input and facts as `KEEPFS_` variables.
    Command {
        /// The command.
        command: String,
        /// How long it may take.
        timeout: Duration,
    },
}

/// A server for outgoing mail.
#[derive(Clone, Debug)]
pub struct Smtp {
    /// Its name, which its certificate must have.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// When TLS begins.
    pub tls: Tls,
    /// Certificates (PEM) to trust besides those of this host.
    pub ca_file: Option<PathBuf>,
    /// Whom to authenticate as.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Password>,
    /// How long it may take for one answer.
    pub timeout: Duration,
}

impl Smtp {
    /// The server `host` at the usual port for submissions, with STARTTLS and without a password.
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            port: Tls::Starttls.port(),
            tls: Tls::Starttls,
            ca_file: None,
            user: None,
            password: None,
            timeout: TIMEOUT,
        }
    }
}

/// When TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// After `STARTTLS`; a server that does not offer it is refused.
    Starttls,
    /// At once.
    Implicit,
    /// Never; then no password is sent either.
    None,
}

impl Tls {
    /// The usual port of a server of this kind.
    pub fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Implicit => 465,
            Self::None => 25,
        }
    }
}

impl FromStr for Tls {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "starttls" => Ok(Self::Starttls),
            "implicit" => Ok(Self::Implicit),
            "none" => Ok(Self::None),
            _ => Err(wrong(format!(
                "{text:?} is no kind of tls; write starttls, implicit or none"
            ))),
        }
    }
}

/// A message for each session, or one a day for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A message for each.
    #[default]
    Each,
    /// One message a day, with a line for each, sent at this time or as soon after it as anybody sends.
    Daily {
        /// 0 to 23.
        hour: i8,
        /// 0 to 59.
        minute: i8,
    },
}

impl FromStr for Mode {
    type Err = Error;

    /// `each`, or `summary daily 08:00`.
    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split_whitespace().collect();
        let time = match words[..] {
            ["each"] => return Ok(Self::Each),
            ["summary", "daily", time] => time_of_day(time),
            _ => None,
        };
        let (hour, minute) = time.ok_or_else(|| {
            wrong(format!(
                "{text:?} is no mode; write \"each\" or \"summary daily 08:00\""
            ))
        })?;
        Ok(Self::Daily { hour, minute })
    }
}

fn time_of_day(text: &str) -> Option<(i8, i8)> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, below: i8| {
        let digits = text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.filter(|number| *number < below)
    };
    Some((number(hour, 24)?, number(minute, 60)?))
}

/// Finds a password; may block.
type FindPassword = dyn Fn() -> Result<Zeroizing<String>> + Send + Sync;

/// Where a password comes from when it is needed: a file or a command may have another one by then.
#[derive(Clone)]
pub struct Password(Arc<FindPassword>);

impl Password {
    /// A password that `find` finds.
    pub fn new(find: impl Fn() -> Result<Zeroizing<String>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    pub(super) fn find(&self) -> Result<Zeroizing<String>> {
        (self.0)()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Settings {
    /// Messages of all endings but success, one for each session, that leave by `way`.
    pub fn new(way: Way, from: &str, to: &[&str]) -> Self {
        let quiet = [Ending::Warning, Ending::Failed, Ending::NeedsAction];
        Self {
            way,
            from: from.to_owned(),
            to: to.iter().map(|&address| address.to_owned()).collect(),
            subject: Template::default(),
            on: quiet.into(),
            mode: Mode::Each,
            timezone: None,
        }
    }

    /// Refuses with [`Kind::Invalid`] what could never be sent.
    pub fn check(&self) -> Result<()> {
        self.sender()?;
        self.recipients()?;
        self.zone()?;
        let needs_recipients = !matches!(self.way, Way::Command { .. });
        if self.to.is_empty() && needs_recipients {
            return Err(wrong(
                "nobody would be told; write to = [\"somebody@example.org\"]",
            ));
        }
        match &self.way {
            Way::Smtp(smtp) => smtp.check(),
            Way::Command { command, .. } if command.trim().is_empty() => {
                Err(wrong("way = \"command\" needs a command"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn sender(&self) -> Result<Mailbox> {
        mailbox(&self.from)
    }

    pub(super) fn recipients(&self) -> Result<Vec<Mailbox>> {
        self.to.iter().map(|text| mailbox(text)).collect()
    }

    pub(super) fn zone(&self) -> Result<jiff::tz::TimeZone> {
        let Some(name) = &self.timezone else {
            return Ok(jiff::tz::TimeZone::system());
        };
        jiff::tz::TimeZone::get(name).map_err(|error| {
            wrong(format!(
                "the timezone {name:?} is not known here; write one like Europe/Berlin, and install the package tzdata"
            ))
            .caused_by(error)
        })
    }
}

impl Smtp {
    fn check(&self) -> Result<()> {
        if self.host.is_empty() {
            return Err(wrong(
                "way = \"smtp\" needs the host that takes outgoing mail; write host = \"mail.example.org\"",
            ));
        }
        match (&self.user, &self.password, self.tls) {
            (Some(user), Some(_), Tls::None) => Err(wrong(format!(
                "the password of {user} is not sent without TLS; write tls = \"starttls\" or \"implicit\", or no user"
            ))),
            (Some(user), None, _) => Err(wrong(format!(
                "the user {user} needs a password-file, a password-command or a systemd credential keepfs.notify"
            ))),
            (None, Some(_), _) => Err(wrong("a password needs its user")),
            _ => Ok(()),
        }
    }
}

fn mailbox(text: &str) -> Result<Mailbox> {
    let parsed = text.parse::<Mailbox>().ok();
    // The parser stops at what it does not understand; nothing may follow an address.
    let whole = parsed.filter(|mailbox| {
        let end = text.trim_end().trim_end_matches('>').trim_end();
        end.ends_with(AsRef::<str>::as_ref(&mailbox.email)) && !text.contains(char::is_control)
    });
    whole.ok_or_else(|| {
        wrong(format!(
            "{text:?} is no address; write it as somebody@example.org or Some Body <somebody@example.org>"
        ))
    })
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_people_write_them() {
        let daily = |hour, minute| Mode::Daily { hour, minute };
        for (text, mode) in [
            ("each", Mode::Each),
            ("summary daily 08:00", daily(8, 0)),
            (" summary  daily 23:59 ", daily(23, 59)),
        ] {
            assert_eq!(text.parse::<Mode>().expect(text), mode);
        }
        for text in [
            "",
            "daily 08:00",
            "summary daily 24:00",
            "summary daily 8",
            "summary daily +8:00",
            "summary weekly 08:00",
        ] {
            let refused = text.parse::<Mode>().expect_err(text);
            assert_eq!(refused.kind(), Kind::Invalid, "{text}");
        }
    }

    #[test]
    fn what_could_never_be_sent_is_refused() {
        let smtp = |change: fn(&mut Smtp)| {
            let mut smtp = Smtp::new("mail.example.org");
            change(&mut smtp);
            Settings::new(Way::Smtp(smtp), "a@example.org", &["b@example.org"])
        };
        smtp(|_| {}).check().expect("is right");
        let secret = || Some(Password::new(|| Ok(Zeroizing::new("swordfish".to_owned()))));
        let mut with_password = Smtp::new("h");
        with_password.password = secret();
        with_password.user = Some("u".to_owned());
        let mut open = with_password.clone();
        open.tls = Tls::None;
        let settings = |smtp| Settings::new(Way::Smtp(smtp), "a@example.org", &["b@example.org"]);
        settings(with_password).check().expect("is right");
        let mut elsewhere = smtp(|_| {});
        elsewhere.timezone = Some("Europe/Atlantis".to_owned());
        for (settings, part) in [
            (settings(open), "not sent without TLS"),
            (smtp(|smtp| smtp.host.clear()), "needs the host"),
            (
                smtp(|smtp| smtp.user = Some("u".to_owned())),
                "password-file",
            ),
            (elsewhere, "Europe/Atlantis"),
            (
                Settings::new(Way::Smtp(Smtp::new("h")), "a@b.org", &[]),
                "nobody",
            ),
            (
                Settings::new(Way::Smtp(Smtp::new("h")), "a@b.org", &["b@c.org>\r\nx"]),
                "no address",
            ),
            (
                Settings::new(Way::Smtp(Smtp::new("h")), "a@b.org, c@d.org", &["b@c.org"]),
                "no address",
            ),
        ] {
            let refused = settings.check().expect_err(part);
            assert!(refused.message().contains(part), "{refused}");
        }
    }
}
