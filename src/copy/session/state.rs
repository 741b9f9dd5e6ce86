//! How a session may go on. Pure: what a state allows, and what comes of it.
//!
//! ```text
//!            ┌──────────► success, warning
//! running ───┼──────────► failed ──────────┐
//!   ▲  │     └──────────► needs-action ────┤
//!   │  ▼                       ▲           ├─ skip ──► warning
//! retrying ◄───── retry ───────┼───────────┤
//!                              │           └─ undo ──► undoing ──► undone
//!                              └────────── (parts failed again)
//! ```
//! A session whose process died stands where it stood; then it may be acted on as if it had failed. `success`, `warning`
//! and `undone` are its end: nothing is accepted any more.

use super::SessionState;
use crate::error::{Error, Kind, Result};

/// What a person, a script or a daemon may ask of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bring what is missing.
    Retry,
    /// Keep the points that are whole, give up the others.
    Skip,
    /// Forget the points that it made.
    Undo,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Retry, Self::Skip, Self::Undo];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Undo => "undo",
        }
    }

    /// The action of this word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == word)
    }
}

impl SessionState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Waiting,
        Self::Retrying,
        Self::Success,
        Self::Warning,
        Self::Failed,
        Self::NeedsAction,
        Self::Undoing,
        Self::Undone,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::NeedsAction => "needs-action",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }

    /// Whether nothing is accepted any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Success | Self::Warning | Self::Undone)
    }

    /// Whether a process works on it, if it lives.
    pub fn works(self) -> bool {
        matches!(
            self,
            Self::Running | Self::Waiting | Self::Retrying | Self::Undoing
        )
    }

    /// The state in which an action begins; `alive`: somebody works on the session. Fails with `Busy` while somebody does, and
    /// with `Invalid` where the action has no meaning any more.
    pub fn begin(self, action: Action, alive: bool) -> Result<Self> {
        let refuse = |kind, why: &str| {
            let message = format!("the session is {}: {why}", self.name());
            Err(Error::new(kind, message))
        };
        if self.is_over() {
            return refuse(
                Kind::Invalid,
                "it is over, and nothing is accepted any more",
            );
        }
        if self.works() && alive {
            return refuse(
                Kind::Busy,
                "somebody works on it; wait for that with `keepfs session wait`",
            );
        }
        match (self, action) {
            (_, Action::Undo) => Ok(Self::Undoing),
            (Self::Undoing, _) => refuse(Kind::Invalid, "only `undo` goes on with it"),
            (_, Action::Retry) => Ok(Self::Retrying),
            (_, Action::Skip) => Ok(Self::Warning),
        }
    }

    /// Whether a session may go from this state into another.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Success | Self::Warning | Self::Undone => false,
            // A tool's copy may be finished, or its open point discarded, at any time.
            Self::Running | Self::Waiting | Self::Retrying | Self::Failed | Self::NeedsAction => {
                true
            }
            Self::Undoing => matches!(next, Self::Undoing | Self::Undone | Self::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SessionState::*;

    #[test]
    fn every_state_answers_every_action() {
        for state in SessionState::ALL {
            for action in Action::ALL {
                for alive in [false, true] {
                    let begun = state.begin(action, alive).map_err(|error| error.kind());
                    let expected = match (state, action, alive) {
                        (Success | Warning | Undone, _, _) => Err(Kind::Invalid),
                        (Running | Waiting | Retrying | Undoing, _, true) => Err(Kind::Busy),
                        (_, Action::Undo, _) => Ok(Undoing),
                        (Undoing, _, _) => Err(Kind::Invalid),
                        (_, Action::Retry, _) => Ok(Retrying),
                        (_, Action::Skip, _) => Ok(Warning),
                    };
                    assert_eq!(begun, expected, "{state:?} {action:?} {alive}");
                    if let Ok(next) = begun {
                        assert!(state.may_become(next), "{state:?} to {next:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_end_is_the_end() {
        for state in SessionState::ALL
            .into_iter()
            .filter(|state| state.is_over())
        {
            for next in SessionState::ALL {
                assert!(!state.may_become(next));
            }
        }
    }

    #[test]
    fn words_name_their_actions() {
        for action in Action::ALL {
            assert_eq!(Action::named(action.name()), Some(action));
        }
        assert_eq!(Action::named("rm"), None);
    }
}
