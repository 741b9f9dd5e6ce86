//! A connection to a server for outgoing mail, and what its answers mean for whoever has to do something about them.
//!
//! The steps are taken one by one, not by the library's transport: which of them failed decides what a person is told,
//! a recipient that is refused must not cost the others their message, and the file of a message has to say that it
//! goes over the wire just before it does.

use super::delivery::Answer;
use super::letter::Said;
use super::{Smtp, Tls};
use crate::error::Result;
use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    Certificate, SmtpConnection, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::transport::smtp::response::Severity;
use rustls::CertificateError;
use std::error::Error as StdError;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a server may take to say that it has the message: those that look into it are slow, and whoever hangs up
/// sends it twice. RFC 5321 names this time.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// A server, and the connection to it while there is one.
pub(super) struct Line<'a> {
    smtp: &'a Smtp,
    host: &'a str,
    connection: Option<SmtpConnection>,
}

/// One sentence: what went wrong and what to do.
type Sentence = String;

impl<'a> Line<'a> {
    /// A line that is opened with the first message; `host` is this host's name.
    pub(super) fn new(smtp: &'a Smtp, host: &'a str) -> Self {
        Self {
            smtp,
            host,
            connection: None,
        }
    }

    /// Sends a message. `about_to` is called when the next bytes are the message's own.
    pub(super) fn send(
        &mut self,
        from: &Address,
        to: &[Address],
        message: &[u8],
        about_to: &mut dyn FnMut() -> Result<()>,
    ) -> Answer {
        if to.is_empty() {
            // Who lacked it is no longer to be told.
            return Answer::default();
        }
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.open(),
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(sentence) => return Answer::unreachable(to.iter(), sentence),
        };
        let answer = self.transact(&mut connection, from, to, message, about_to);
        // After anything but a plain yes the server's state is not worth guessing.
        match answer.is_plain() && !connection.has_broken() {
            true => self.connection = Some(connection),
            false => connection.abort(),
        }
        answer
    }

    fn open(&self) -> std::result::Result<SmtpConnection, Sentence> {
        let hello = hello(self.host);
        let tls = self.tls()?;
        let at_once = tls.as_ref().filter(|_| self.smtp.tls == Tls::Implicit);
        let (host, timeout) = (self.smtp.host.as_str(), Some(self.smtp.timeout));
        let server = (host, self.smtp.port);
        let mut connection = SmtpConnection::connect(server, timeout, &hello, at_once, None)
            .map_err(|error| self.not_connected(&error))?;
        if self.smtp.tls == Tls::Starttls {
            if !connection.can_starttls() {
                connection.abort();
                return Err(format!(
                    "{} does not offer STARTTLS, so nothing was sent to it, no password either; use a port with TLS, or in a network that you trust tls = \"none\" without a user",
                    self.place()
                ));
            }
            let tls = tls.expect("made for this");
            let started = connection.starttls(&tls, &hello);
            started.map_err(|error| self.not_encrypted(&error))?;
        }
        self.authenticate(&mut connection)?;
        Ok(connection)
    }

    fn tls(&self) -> std::result::Result<Option<TlsParameters>, Sentence> {
        if self.smtp.tls == Tls::None {
            return Ok(None);
        }
        let mut builder = TlsParametersBuilder::new(self.smtp.host.clone());
        if let Some(path) = &self.smtp.ca_file {
            let shown = path.display();
            let text = std::fs::read(path).map_err(|error| {
                format!("cannot read the ca-file {shown}: {error}; correct ca-file")
            })?;
            let none = || format!("the ca-file {shown} holds no certificates in PEM form");
            let certificate = Certificate::from_pem(&text).map_err(|_| none())?;
            // The library takes a file without any.
            if !String::from_utf8_lossy(&text).contains("BEGIN CERTIFICATE") {
                return Err(none());
            }
            builder = builder.add_root_certificate(certificate);
        }
        let built = builder.build();
        built
            .map(Some)
            .map_err(|error| format!("TLS cannot be set up for {}: {error}", self.smtp.host))
    }

    fn authenticate(&self, connection: &mut SmtpConnection) -> std::result::Result<(), Sentence> {
        let (Some(user), Some(password)) = (&self.smtp.user, &self.smtp.password) else {
            return Ok(());
        };
        if !connection.is_encrypted() {
            connection.abort();
            return Err(format!(
                "the connection to {} is not encrypted, so the password of {user} was not sent; use tls = \"starttls\" or \"implicit\"",
                self.place()
            ));
        }
        let known = [Mechanism::Plain, Mechanism::Login];
        if connection
            .server_info()
            .get_auth_mechanism(&known)
            .is_none()
        {
            connection.abort();
            return Err(format!(
                "{} offers no way to authenticate (AUTH PLAIN or LOGIN), so the password of {user} was not sent; use the port for submissions, usually 587, or no user",
                self.place()
            ));
        }
        let password = password.find().map_err(|error| error.to_string())?;
        let credentials = Credentials::new(user.clone(), password.to_string());
        let answer = connection.auth(&known, &credentials).map_err(|error| {
            let said = said(&error);
            match error.is_permanent() {
                true => format!(
                    "{} refuses the user {user} or the password ({said}); correct user, password-file or password-command",
                    self.place()
                ),
                false => format!("{} does not authenticate {user} now: {said}", self.place()),
            }
        });
        answer.map(|_| ())
    }

    fn transact(
        &self,
        connection: &mut SmtpConnection,
        from: &Address,
        to: &[Address],
        message: &[u8],
        about_to: &mut dyn FnMut() -> Result<()>,
    ) -> Answer {
        let mut parameters = Vec::new();
        let plain = |address: &Address| AsRef::<str>::as_ref(address).is_ascii();
        if !plain(from) || !to.iter().all(plain) {
            if !connection
                .server_info()
                .supports_feature(Extension::SmtpUtfEight)
            {
                let sentence = format!(
                    "{} takes no addresses beyond ASCII; use others",
                    self.place()
                );
                return Answer::refused(to.iter(), &sentence);
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if let Err(error) = connection.command(Mail::new(Some(from.clone()), parameters)) {
            let sentence = format!(
                "{} takes no mail from {from} ({}); correct from",
                self.place(),
                said(&error)
            );
            return Answer::of(to.iter(), &error, &sentence);
        }
        let mut answer = Answer::default();
        let mut taken = Vec::new();
        for address in to {
            match connection.command(Rcpt::new(address.clone(), vec![])) {
                Ok(_) => taken.push(address),
                Err(error) => {
                    let said = said(&error);
                    let sentence = format!("{} takes no mail for {address} ({said})", self.place());
                    answer.add([address].into_iter(), &error, &sentence);
                }
            }
            if connection.has_broken() {
                break;
            }
        }
        if !taken.is_empty() {
            self.hand_over(connection, &taken, message, about_to, &mut answer);
        }
        answer
    }

    fn hand_over(
        &self,
        connection: &mut SmtpConnection,
        taken: &[&Address],
        message: &[u8],
        about_to: &mut dyn FnMut() -> Result<()>,
        answer: &mut Answer,
    ) {
        let everybody = || taken.iter().copied();
        let not_taken = |error: &lettre::transport::smtp::Error| {
            format!(
                "{} does not take the message ({})",
                self.place(),
                said(error)
            )
        };
        if let Err(error) = about_to() {
            answer.later.extend(told(everybody(), &error.to_string()));
            return;
        }
        if let Err(error) = connection.command(Data) {
            answer.add(everybody(), &error, &not_taken(&error));
            return;
        }
        // A socket that cannot be told only waits for less long.
        let _ = connection.set_timeout(Some(ACCEPT_TIMEOUT.max(self.smtp.timeout)));
        match connection.message(message) {
            Ok(response) => {
                answer.accepted = Some(response.first_line().unwrap_or_default().to_owned());
            }
            Err(error) => answer.add(everybody(), &error, &not_taken(&error)),
        }
        let _ = connection.set_timeout(Some(self.smtp.timeout));
    }

    fn place(&self) -> String {
        format!("{}:{}", self.smtp.host, self.smtp.port)
    }

    fn not_connected(&self, error: &lettre::transport::smtp::Error) -> Sentence {
        let place = self.place();
        let ports =
            "usually the port is 587 with tls = \"starttls\" and 465 with tls = \"implicit\"";
        if let Some(sentence) = self.not_trusted(error) {
            return sentence;
        }
        if self.smtp.tls == Tls::Implicit && cause::<rustls::Error>(error).is_some() {
            return format!("{place} does not begin with TLS; {ports}");
        }
        let Some(io) = cause::<std::io::Error>(error) else {
            return match error.status() {
                Some(_) => format!("{place} takes no mail from this host: {}", said(error)),
                None => format!("{place} does not speak SMTP; correct host and port: {ports}"),
            };
        };
        match io.kind() {
            ErrorKind::ConnectionRefused => {
                format!("nothing listens at {place}; correct host and port: {ports}")
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "{place} did not answer within {} seconds; correct host and port: {ports}; or a firewall is in between",
                self.smtp.timeout.as_secs()
            ),
            // What getaddrinfo answers has no errno.
            _ if io.raw_os_error().is_none() && error.to_string().contains("lookup") => {
                format!("the host {} cannot be found; correct host", self.smtp.host)
            }
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                format!("{place} does not speak SMTP; correct host and port: {ports}")
            }
            _ => format!("{place} cannot be reached: {io}; correct host and port: {ports}"),
        }
    }

    fn not_encrypted(&self, error: &lettre::transport::smtp::Error) -> Sentence {
        self.not_trusted(error).unwrap_or_else(|| {
            format!(
                "{} does not begin TLS ({}), so nothing was sent to it",
                self.place(),
                said(error)
            )
        })
    }

    fn not_trusted(&self, error: &lettre::transport::smtp::Error) -> Option<Sentence> {
        let host = &self.smtp.host;
        let Some(rustls::Error::InvalidCertificate(why)) = cause(error) else {
            return None;
        };
        let (what, advice) = match why {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (
                    "is of another host".to_owned(),
                    "write the name that it has as host",
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "has expired".to_owned(),
                "have it renewed, or correct this host's clock",
            ),
            CertificateError::UnknownIssuer => (
                "is signed by nobody whom this host trusts".to_owned(),
                "name the certificate of who signed it as ca-file",
            ),
            why if format!("{why:?}").contains("CaUsedAsEndEntity") => (
                "is one of an authority, not of a server".to_owned(),
                "have one made for the server (basicConstraints=CA:FALSE)",
            ),
            why => (format!("cannot be trusted ({why})"), "correct ca-file"),
        };
        Some(format!(
            "the certificate of {} {what}, so nothing was sent to {host}; {advice}",
            self.place()
        ))
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            // All messages were accepted; a server that does not like the farewell changes nothing.
            let _ = connection.quit();
        }
    }
}

impl Answer {
    /// What an error of the server or the connection means for these recipients.
    fn add<'a>(
        &mut self,
        to: impl Iterator<Item = &'a Address>,
        error: &lettre::transport::smtp::Error,
        sentence: &str,
    ) {
        match error.is_permanent() {
            true => self.refused.extend(told(to, sentence)),
            false => self.later.extend(told(to, sentence)),
        }
    }

    fn of<'a>(
        to: impl Iterator<Item = &'a Address>,
        error: &lettre::transport::smtp::Error,
        sentence: &str,
    ) -> Self {
        let mut answer = Self::default();
        answer.add(to, error, sentence);
        answer
    }

    fn refused<'a>(to: impl Iterator<Item = &'a Address>, sentence: &str) -> Self {
        Self {
            refused: told(to, sentence).collect(),
            ..Self::default()
        }
    }

    fn unreachable<'a>(to: impl Iterator<Item = &'a Address>, sentence: Sentence) -> Self {
        Self {
            later: told(to, &sentence).collect(),
            unreachable: Some(sentence),
            ..Self::default()
        }
    }
}

fn told<'a>(to: impl Iterator<Item = &'a Address>, sentence: &str) -> impl Iterator<Item = Said> {
    to.map(move |address| Said {
        to: address.to_string(),
        sentence: sentence.to_owned(),
    })
}

/// What the server said, or what became of the connection.
fn said(error: &lettre::transport::smtp::Error) -> String {
    let text = match error.source() {
        Some(source) => super::template::one_line(&source.to_string()),
        None => error.to_string(),
    };
    match error.status() {
        Some(code) => {
            let severity = match code.severity {
                Severity::PermanentNegativeCompletion => 5,
                _ => 4,
            };
            format!(
                "{severity}{}{} {text}",
                code.category as u8, code.detail as u8
            )
        }
        None => text,
    }
}

/// The error of type `E` among the causes. An I/O error carries one inside that is not among them.
fn cause<E: StdError + 'static>(error: &lettre::transport::smtp::Error) -> Option<&E> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inside = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(found) = inside.and_then(|inside| inside.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// How this host introduces itself: by its name where that is one of the network's.
fn hello(host: &str) -> ClientId {
    let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    match !host.is_empty() && host.chars().all(named) {
        true => ClientId::Domain(host.to_owned()),
        false => ClientId::Ipv4(Ipv4Addr::LOCALHOST),
    }
}
