//! Keys that a program gives out and gives out anew: before they expire, and when the store refuses them.

use super::options::{AskKeys, Keys};
use crate::clock::{Clock, Time};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Keys are asked for anew so long before they expire: no request outlives them.
const AHEAD_SECONDS: i64 = 300;
/// The program is asked at most this often, whatever the store says: keys that somebody mends hold within seconds.
const PAUSE: Duration = Duration::from_secs(5);
/// The program may take so long to answer; requests wait for it.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The keys of one store.
pub(super) struct Renewal {
    ask: AskKeys,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    current: Arc<AwsCredential>,
    expires: Option<Time>,
    asked: Option<Instant>,
    /// Whether the last answer held other keys than the one before.
    changed: bool,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewal(hidden)")
    }
}

fn credential(keys: &Keys) -> Arc<AwsCredential> {
    Arc::new(AwsCredential {
        key_id: keys.access_key.clone(),
        secret_key: keys.secret_key.reveal().to_owned(),
        token: keys
            .session_token
            .as_ref()
            .map(|token| token.reveal().to_owned()),
    })
}

impl Renewal {
    /// Begins with `first`; `ask` gives what comes after them.
    pub(super) fn new(first: &Keys, ask: AskKeys) -> Self {
        Self {
            ask,
            clock: Clock::system(),
            state: Mutex::new(State {
                current: credential(first),
                expires: first.expires,
                asked: None,
                changed: false,
            }),
        }
    }

    /// After the store refused a request: whether there are other keys now, so that another attempt may end better.
    pub(super) async fn after_refusal(&self) -> bool {
        let mut state = self.state.lock().await;
        // Several requests are refused at once; the first of them asks for all.
        self.ask(&mut state).await;
        state.changed
    }

    async fn current(&self) -> Arc<AwsCredential> {
        let mut state = self.state.lock().await;
        let soon = self.clock.now().seconds + AHEAD_SECONDS;
        if state.expires.is_some_and(|time| time.seconds <= soon) {
            self.ask(&mut state).await;
        }
        state.current.clone()
    }

    #[allow(clippy::disallowed_methods)] // a pause between two questions, not a time that is stored
    async fn ask(&self, state: &mut State) {
        if state.asked.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        state.asked = Some(Instant::now());
        state.changed = false;
        let ask = self.ask.clone();
        let answer = tokio::task::spawn_blocking(move || ask.ask());
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(Ok(keys))) => {
                let next = credential(&keys);
                state.changed = next != state.current;
                (state.current, state.expires) = (next, keys.expires);
            }
            // The old keys are kept: the store decides whether they still hold.
            Ok(Ok(Err(error))) => tracing::warn!("there are no new keys for the store: {error}"),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("there are no new keys for the store: the program does not answer");
            }
        }
    }
}

impl CredentialProvider for Renewal {
    type Credential = AwsCredential;

    fn get_credential<'a, 'b>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { Ok(self.current().await) })
    }
}
