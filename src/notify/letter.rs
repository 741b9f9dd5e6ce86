//! What a file of the spool holds: what happened, and how far telling it has come.

use super::ended::as_seconds;
use super::{Ended, Ending};
use crate::clock::Time;
use serde::{Deserialize, Serialize};

/// Seconds until the second attempt; each further one takes twice as long.
const WAIT: i64 = 60;
/// Seconds between attempts at most.
const WAIT_MAX: i64 = 60 * 60;
/// Seconds after which nobody tries any more.
const PATIENCE: i64 = 5 * 24 * 60 * 60;

/// One message on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    /// What happened.
    pub about: About,
    /// When it was queued.
    #[serde(with = "as_seconds")]
    pub queued: Time,
    /// Whether it may be with the server already.
    pub state: State,
    /// How often it could not be sent.
    pub attempts: u32,
    /// When to try again.
    #[serde(with = "as_seconds")]
    pub next: Time,
    /// The recipients that lack it; all without it.
    pub left: Option<Vec<String>>,
    /// Who will never take it, and what their server says.
    pub refused: Vec<Said>,
    /// Why it could not be sent the last time.
    pub error: Option<String>,
}

/// What a message is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum About {
    /// A session.
    Session(Box<Ended>),
    /// All sessions until a time.
    Summary(Vec<Ended>),
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// Nobody has it.
    Queued,
    /// It went over the wire; what became of it is not known.
    Sending,
}

/// What was answered for a recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    /// The recipient's address; empty when a program was to know.
    pub to: String,
    /// One sentence.
    pub sentence: String,
}

impl Letter {
    pub(super) fn new(about: About, now: Time) -> Self {
        Self {
            about,
            queued: now,
            state: State::Queued,
            attempts: 0,
            next: now,
            left: None,
            refused: Vec::new(),
            error: None,
        }
    }

    /// The sessions it is about.
    pub(super) fn sessions(&self) -> &[Ended] {
        match &self.about {
            About::Session(ended) => std::slice::from_ref(ended),
            About::Summary(sessions) => sessions,
        }
    }

    /// The worst of the endings.
    pub(super) fn ending(&self) -> Ending {
        let endings = self.sessions().iter().map(|ended| ended.ending);
        endings.max().unwrap_or(Ending::Success)
    }

    /// Whether it is to be tried at `now`. A clock that was set back makes nothing wait for longer than it should.
    pub(super) fn is_due(&self, now: Time) -> bool {
        now >= self.next || self.next.seconds - now.seconds > WAIT_MAX
    }

    /// Notes a failure and when to try again; false when nobody tries any more.
    pub(super) fn postpone(&mut self, now: Time, sentence: String) -> bool {
        let wait = WAIT.checked_shl(self.attempts).unwrap_or(WAIT_MAX);
        let wait = if self.attempts < 6 { wait } else { WAIT_MAX };
        self.attempts += 1;
        self.state = State::Queued;
        self.next = Time::new(now.seconds + wait.min(WAIT_MAX), 0);
        self.error = Some(sentence);
        now.seconds - self.queued.seconds < PATIENCE
    }

    /// Whether a summary may take it in: nobody can have it yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.state == State::Queued && self.left.is_none() && self.refused.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_grow_rarer_and_end_after_five_days() {
        let mut letter = Letter::new(About::Summary(Vec::new()), Time::new(0, 0));
        let mut now = 0;
        let mut waits = Vec::new();
        while letter.postpone(Time::new(now, 0), "no".to_owned()) {
            waits.push(letter.next.seconds - now);
            assert!(!letter.is_due(Time::new(letter.next.seconds - 1, 0)));
            assert!(letter.is_due(letter.next));
            now = letter.next.seconds;
        }
        assert_eq!(waits[..7], [60, 120, 240, 480, 960, 1920, 3600]);
        assert!(waits[7..].iter().all(|wait| *wait == 3600));
        assert!((PATIENCE..PATIENCE + WAIT_MAX).contains(&now), "{now}");
        assert!(letter.is_due(Time::new(-1_000_000, 0)), "a clock set back");
    }
}
