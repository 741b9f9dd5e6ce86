//! The door of this room.

use super::delivery::{Delivery, Pass, Road};
use super::letter::{About, Letter, State};
use super::message::Desk;
use super::spool::{Spool, Tray};
use super::{Ended, Settings};
use crate::clock::{Clock, Time};
use crate::error::{Kind, Result};
use crate::id::ObjectId;
use crate::repository::host_name;
use crate::thread;
use parking_lot::{Condvar, Mutex};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

/// Tells people about sessions that ended.
#[derive(Debug)]
pub struct Notifier {
    settings: Settings,
    spool: Spool,
    clock: Clock,
    host: String,
    /// Whether something was queued since the last look.
    pub(super) queued: Mutex<bool>,
    pub(super) wake: Condvar,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// Whether the message was taken for everybody.
    pub sent: bool,
    /// What happened, and if it is not as it should be, what to do.
    pub sentence: String,
    /// The `Message-ID` to look for.
    pub message_id: String,
}

/// How a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits to be sent.
    Queued,
    /// It went over the wire, and its process died before it knew what became of it; it is sent again.
    Sending,
    /// Nobody will take it.
    Failed,
}

/// A message that somebody does not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name: the session and how it ended.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
    /// When it was queued.
    pub queued: Time,
    /// How often it could not be sent.
    pub attempts: u32,
    /// When it is tried again.
    pub next: Time,
    /// Why it could not be sent.
    pub error: Option<String>,
    /// The recipients who will not get it, each with what their server says.
    pub refused: Vec<(String, String)>,
}

impl Notifier {
    /// A notifier with its spool below `state_directory`, which is made when missing. `Invalid` when the settings could
    /// never send anything.
    pub fn open(settings: Settings, state_directory: &Path, clock: Clock) -> Result<Self> {
        settings.check()?;
        Ok(Self {
            settings,
            spool: Spool::open(state_directory)?,
            clock,
            host: host_name(),
            queued: Mutex::new(false),
            wake: Condvar::new(),
        })
    }

    /// Tells of a session that ended: the message is durable on disk when this returns, and somebody else sends it.
    ///
    /// Nothing to do with telling makes a copy fail: what goes wrong here is written to the log.
    pub fn ended(&self, ended: &Ended) {
        if let Err(error) = self.queue(ended) {
            let (session, ending) = (ended.session, ended.ending);
            tracing::error!(
                "nobody will be told that the session {session} ended with {ending}: {error}"
            );
        }
    }

    /// Queues the message about a session; false when nobody wants to know, or it was queued before.
    pub fn queue(&self, ended: &Ended) -> Result<bool> {
        if !self.settings.on.contains(&ended.ending) {
            return Ok(false);
        }
        let letter = Letter::new(About::Session(Box::new(ended.clone())), self.clock.now());
        let new = self.spool.add(&ended.key(), &letter)?;
        if new {
            *self.queued.lock() = true;
            self.wake.notify_all();
        }
        Ok(new)
    }

    /// Sends what is due.
    pub fn deliver(&self) -> Result<Pass> {
        self.pass(false, &|| false)
    }

    /// Sends everything, also what waits for its time and what failed before.
    pub fn deliver_all(&self) -> Result<Pass> {
        for key in self.spool.keys(Tray::Failed)? {
            self.queue_again(&key)?;
        }
        self.pass(true, &|| false)
    }

    /// A message that failed becomes one that nobody has tried.
    fn queue_again(&self, key: &str) -> Result<()> {
        let letter = match self.spool.read(Tray::Failed, key) {
            // It would only fail again.
            Err(error) if error.kind() == Kind::Damaged => return Ok(()),
            letter => letter?,
        };
        let refused = letter.refused.into_iter().map(|said| said.to);
        let left = letter.left.into_iter().flatten().chain(refused);
        let left: Vec<_> = left.filter(|address| !address.is_empty()).collect();
        let fresh = Letter {
            left: (!left.is_empty()).then_some(left),
            ..Letter::new(letter.about, self.clock.now())
        };
        self.spool.queue_again(key)?;
        self.spool.update(key, &fresh)
    }

    pub(super) fn pass(&self, all: bool, stop: &dyn Fn() -> bool) -> Result<Pass> {
        let delivery = Delivery {
            settings: &self.settings,
            spool: &self.spool,
            clock: &self.clock,
            host: &self.host,
            all,
            stop,
        };
        delivery.pass()
    }

    /// Sends what is due, for `bound` at most: the end of a command. What is not sent by then stays in the queue, for
    /// the next command or a daemon.
    pub fn deliver_within(self: &Arc<Self>, bound: Duration) -> Option<Pass> {
        let (done, end) = mpsc::channel();
        let late = Arc::new(AtomicBool::new(false));
        let (notifier, stop) = (self.clone(), late.clone());
        let work = move || {
            // Nobody waits any more when it took too long.
            let _ = done.send(notifier.pass(false, &|| stop.load(Relaxed)));
        };
        let started = thread::try_spawn(work);
        if let Err(error) = started {
            tracing::warn!("messages wait: no thread can be started: {error}");
            return None;
        }
        let ended = end.recv_timeout(bound);
        late.store(true, Relaxed);
        match ended {
            Ok(Ok(pass)) => Some(pass),
            Ok(Err(error)) => {
                tracing::warn!("messages wait: {error}");
                None
            }
            Err(_) => None,
        }
    }

    /// Sends a message now, past the queue, and says what happened.
    pub fn test(&self) -> Result<Tested> {
        let desk = Desk {
            settings: &self.settings,
            host: &self.host,
            zone: self.settings.zone()?,
        };
        let key = format!("test-{}", ObjectId::random());
        let message = desk.test(&key, self.clock.now())?;
        let mut road = Road::new(&self.settings, &self.host);
        let directory = self.spool.directory();
        let answer = road.send(&self.settings, &message, None, directory, &mut || Ok(()))?;
        let sentence = match answer.sentence() {
            Some(sentence) => sentence.to_owned(),
            None => self.taken(answer.accepted.as_deref()),
        };
        Ok(Tested {
            sent: answer.is_plain(),
            sentence,
            message_id: message.id,
        })
    }

    fn taken(&self, said: Option<&str>) -> String {
        let said = said.map_or(String::new(), |said| format!(" ({said})"));
        match &self.settings.way {
            super::Way::Smtp(smtp) => format!(
                "{}:{} took the message for {}{said}",
                smtp.host,
                smtp.port,
                self.settings.to.join(", ")
            ),
            super::Way::Sendmail(path) => format!(
                "{} took the message for {}",
                path.display(),
                self.settings.to.join(", ")
            ),
            super::Way::Command { .. } => "the command took the message".to_owned(),
        }
    }

    /// What is not sent yet, or never will be.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for tray in [Tray::Queued, Tray::Failed] {
            for name in self.spool.keys(tray)? {
                match self.spool.read(tray, &name) {
                    Ok(letter) => listed.push(Listed::of(name, tray, letter)),
                    // It was sent meanwhile.
                    Err(error) if error.kind() == Kind::NotFound => {}
                    Err(error) => listed.push(Listed::unreadable(name, error.to_string())),
                }
            }
        }
        Ok(listed)
    }
}

impl Listed {
    fn of(name: String, tray: Tray, letter: Letter) -> Self {
        let standing = match (tray, letter.state) {
            (Tray::Failed, _) => Standing::Failed,
            (_, State::Sending) => Standing::Sending,
            _ => Standing::Queued,
        };
        let refused = letter.refused.into_iter();
        Self {
            name,
            standing,
            queued: letter.queued,
            attempts: letter.attempts,
            next: letter.next,
            error: letter.error,
            refused: refused.map(|said| (said.to, said.sentence)).collect(),
        }
    }

    fn unreadable(name: String, error: String) -> Self {
        let letter = Letter::new(About::Summary(Vec::new()), Time::default());
        Self {
            error: Some(error),
            ..Self::of(name, Tray::Failed, letter)
        }
    }
}
