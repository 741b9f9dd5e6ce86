//! `[notify]`: who is told of sessions that ended.

use super::program;
use crate::error::{Error, Kind, Result};
use crate::notify::{Ending, Password, Settings, Smtp, Way};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The systemd credential with the password.
const CREDENTIAL: &str = "keepfs.notify";
/// Where every Unix has it.
const SENDMAIL: &str = "/usr/sbin/sendmail";
/// A command that is not told otherwise ends within so many seconds.
const COMMAND_TIMEOUT: i64 = 60;

/// The table as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Table {
    /// `smtp`, `sendmail` or `command`; `smtp` without it.
    way: Option<String>,
    /// The server that takes outgoing mail.
    host: Option<String>,
    /// Its port; 587, with `tls = "implicit"` 465, without TLS 25.
    port: Option<u16>,
    /// `starttls`, `implicit` or `none`; `starttls` without it.
    tls: Option<String>,
    /// Certificates to trust besides those of the host.
    ca_file: Option<PathBuf>,
    /// Whom to authenticate as.
    user: Option<String>,
    /// A file that holds the password.
    password_file: Option<PathBuf>,
    /// A command that prints the password.
    password_command: Option<String>,
    /// Who sends.
    from: Option<String>,
    /// Who is told.
    #[serde(default)]
    to: Vec<String>,
    /// The subject, with placeholders.
    subject: Option<String>,
    /// Which endings are told; all but success without it.
    on: Option<Vec<String>>,
    /// `each`, or `summary daily 08:00`.
    mode: Option<String>,
    /// The zone of times.
    timezone: Option<String>,
    /// Instead of the usual `sendmail`.
    sendmail: Option<PathBuf>,
    /// A command that takes the message.
    command: Option<String>,
    /// Seconds that the command may take.
    #[serde(default, deserialize_with = "super::duration::deserialize")]
    timeout: Option<i64>,
}

impl Table {
    /// What it means, with paths relative to `directory`. `Invalid` for what could never send a message.
    pub(super) fn settings(&self, directory: &Path) -> Result<Settings> {
        let way = self.way(directory)?;
        let from = match (&self.from, &way) {
            (Some(from), _) => from,
            // A command need not send mail at all.
            (None, Way::Command { .. }) => "keepfs@localhost",
            (None, _) => return Err(wrong("it does not say who sends; write from = \"…\"")),
        };
        let mut settings = Settings::new(way, from, &[]);
        settings.to.clone_from(&self.to);
        settings.timezone.clone_from(&self.timezone);
        if let Some(subject) = &self.subject {
            settings.subject = subject.parse()?;
        }
        if let Some(mode) = &self.mode {
            settings.mode = mode.parse()?;
        }
        if let Some(on) = &self.on {
            let endings = on.iter().map(|word| word.parse::<Ending>());
            settings.on = endings.collect::<Result<_>>()?;
        }
        settings.check()?;
        Ok(settings)
    }

    fn way(&self, directory: &Path) -> Result<Way> {
        let way = self.way.as_deref().unwrap_or("smtp");
        self.refuse_of_other_ways(way)?;
        match way {
            "smtp" => self.smtp(directory).map(Way::Smtp),
            "sendmail" => {
                let path = self.sendmail.as_deref().unwrap_or(Path::new(SENDMAIL));
                Ok(Way::Sendmail(directory.join(path)))
            }
            "command" => {
                let seconds = self.timeout.unwrap_or(COMMAND_TIMEOUT).max(1);
                Ok(Way::Command {
                    command: self.command.clone().unwrap_or_default(),
                    timeout: Duration::from_secs(seconds.unsigned_abs()),
                })
            }
            _ => Err(wrong(&format!(
                "{way:?} is no way; write smtp, sendmail or command"
            ))),
        }
    }

    /// What would silently mean nothing.
    fn refuse_of_other_ways(&self, way: &str) -> Result<()> {
        for (of, name, given) in [
            ("smtp", "host", self.host.is_some()),
            ("smtp", "port", self.port.is_some()),
            ("smtp", "tls", self.tls.is_some()),
            ("smtp", "ca-file", self.ca_file.is_some()),
            ("smtp", "user", self.user.is_some()),
            ("smtp", "password-file", self.password_file.is_some()),
            ("smtp", "password-command", self.password_command.is_some()),
            ("sendmail", "sendmail", self.sendmail.is_some()),
            ("command", "command", self.command.is_some()),
            ("command", "timeout", self.timeout.is_some()),
        ] {
            if given && of != way {
                return Err(wrong(&format!(
                    "{name} belongs to way = {of:?}, and the way is {way:?}"
                )));
            }
        }
        Ok(())
    }

    fn smtp(&self, directory: &Path) -> Result<Smtp> {
        let mut smtp = Smtp::new(self.host.as_deref().unwrap_or_default());
        if let Some(tls) = &self.tls {
            smtp.tls = tls.parse()?;
        }
        smtp.port = self.port.unwrap_or(smtp.tls.port());
        smtp.ca_file = self.ca_file.as_ref().map(|path| directory.join(path));
        smtp.user.clone_from(&self.user);
        smtp.password = self.password(directory)?;
        Ok(smtp)
    }

    fn password(&self, directory: &Path) -> Result<Option<Password>> {
        match (&self.password_file, &self.password_command) {
            (Some(_), Some(_)) => Err(wrong(
                "it may have one of password-file and password-command, not both",
            )),
            (Some(path), None) => Ok(Some(in_file(directory.join(path)))),
            (None, Some(command)) => Ok(Some(printed_by(command.clone()))),
            (None, None) if self.user.is_some() => Ok(credential().map(in_file)),
            (None, None) => Ok(None),
        }
    }
}

fn credential() -> Option<PathBuf> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    let path = Path::new(&directory).join(CREDENTIAL);
    path.exists().then_some(path)
}

fn in_file(path: PathBuf) -> Password {
    Password::new(move || {
        let content = super::keys::secret_in(&path, "password file")?;
        text(&content, &path.display().to_string())
    })
}

fn printed_by(command: String) -> Password {
    Password::new(move || {
        let printed = program::output(&command, "password-command")?;
        text(&printed, "what the password-command of [notify] prints")
    })
}

fn text(content: &[u8], whose: &str) -> Result<Zeroizing<String>> {
    let line = super::keys::without_line_end(content);
    let text = std::str::from_utf8(line)
        .ok()
        .filter(|text| !text.is_empty());
    // The text itself must not show.
    let none = || Error::new(Kind::NoKey, format!("{whose} holds no password"));
    text.map(|text| Zeroizing::new(text.to_owned()))
        .ok_or_else(none)
}

fn wrong(message: &str) -> Error {
    Error::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{Mode, Tls};

    fn settings(text: &str) -> Result<Settings> {
        let table: Table = toml::from_str(text).expect("is TOML of ours");
        table.settings(Path::new("/etc"))
    }

    #[test]
    fn the_table_is_read() {
        let smtp = "host = \"mail.example.org\"\nuser = \"keep\"\npassword-file = \"mail.pass\"\nca-file = \"ca.pem\"\n\
                    from = \"keepfs <keep@example.org>\"\nto = [\"a@example.org\", \"b@example.org\"]\n\
                    subject = \"{result}\"\non = [\"success\"]\nmode = \"summary daily 08:00\"\ntimezone = \"Europe/Berlin\"\n";
        let settings = settings(smtp).expect("is right");
        let Way::Smtp(smtp) = &settings.way else {
            panic!("smtp is the usual way");
        };
        assert_eq!((smtp.port, smtp.tls), (587, Tls::Starttls));
        assert_eq!(smtp.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!(settings.on, [Ending::Success].into());
        assert_eq!(settings.mode, Mode::Daily { hour: 8, minute: 0 });
        assert_eq!(settings.to.len(), 2);
    }

    #[test]
    fn other_ways_need_little() {
        let sendmail = settings("way = \"sendmail\"\nfrom = \"a@b.org\"\nto = [\"c@d.org\"]\n");
        let way = sendmail.expect("is right").way;
        assert!(matches!(way, Way::Sendmail(path) if path == Path::new(SENDMAIL)));
        let command = settings("way = \"command\"\ncommand = \"logger\"\ntimeout = \"2m\"\n");
        let Way::Command { timeout, .. } = command.expect("is right").way else {
            panic!("it is a command");
        };
        assert_eq!(timeout, Duration::from_secs(120));
    }

    #[test]
    fn what_could_never_be_sent_is_refused() {
        let usual = "from = \"a@b.org\"\nto = [\"c@d.org\"]\n";
        let smtp = format!("host = \"h\"\n{usual}");
        for (text, part) in [
            (usual.to_owned(), "needs the host"),
            ("host = \"h\"\nto = [\"c@d.org\"]\n".to_owned(), "who sends"),
            ("host = \"h\"\nfrom = \"a@b.org\"\n".to_owned(), "nobody"),
            (format!("{smtp}way = \"pigeon\"\n"), "pigeon"),
            (format!("{smtp}subject = \"{{resutl}}\"\n"), "{resutl}"),
            (format!("{smtp}on = [\"sometimes\"]\n"), "sometimes"),
            (format!("{smtp}mode = \"weekly\"\n"), "weekly"),
            (format!("{smtp}tls = \"ssl\"\n"), "ssl"),
            (format!("{smtp}command = \"x\"\n"), "way = \"command\""),
            (format!("{smtp}user = \"u\"\n"), "password-file"),
            (
                format!("{smtp}tls = \"none\"\nuser = \"u\"\npassword-command = \"x\"\n"),
                "without TLS",
            ),
            (
                format!("{smtp}user = \"u\"\npassword-command = \"x\"\npassword-file = \"y\"\n"),
                "not both",
            ),
            ("way = \"command\"\n".to_owned(), "needs a command"),
        ] {
            let refused = settings(&text).expect_err(&text);
            assert_eq!(refused.kind(), Kind::Invalid);
            assert!(refused.message().contains(part), "{refused}: {part}");
        }
    }

    #[test]
    fn a_password_is_read_when_it_is_needed_and_never_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = "host = \"h\"\nuser = \"u\"\npassword-file = \"p\"\nfrom = \"a@b.org\"\nto = [\"c@d.org\"]\n";
        let table: Table = toml::from_str(text).expect("parses");
        let settings = table.settings(directory.path()).expect("no file yet");
        std::fs::write(directory.path().join("p"), "swordfish\n").expect("writes");
        assert!(!format!("{settings:?}").contains("swordfish"));
    }
}
