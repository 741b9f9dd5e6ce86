//! What the proxy does to requests instead of merely passing them on.

use super::{Request, Verb};
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

type Test = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// Which requests; all of what it says must hold.
#[derive(Default)]
pub struct Matching(Vec<Test>);

impl Matching {
    /// Every request.
    pub fn all() -> Self {
        Self::default()
    }

    /// Requests with this verb.
    pub fn verb(verb: Verb) -> Self {
        Self::all().and(move |request| request.verb == verb)
    }

    /// Requests that bring content of an object: whole ones and parts.
    pub fn puts() -> Self {
        Self::all().and(Request::is_put)
    }

    /// Requests with this method.
    pub fn method(self, method: &str) -> Self {
        let method = method.to_owned();
        self.and(move |request| request.method == method)
    }

    /// Requests whose path has this in it.
    pub fn path(self, part: &str) -> Self {
        let part = part.to_owned();
        self.and(move |request| request.path().contains(&part))
    }

    /// Requests whose body has at least so many bytes, as they say themselves.
    pub fn body_of_at_least(self, bytes: u64) -> Self {
        self.and(move |request| request.announced >= bytes)
    }

    /// Requests of which this is true, too. Status and bytes are not known yet.
    pub fn and(mut self, test: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.0.push(Box::new(test));
        self
    }

    fn fits(&self, request: &Request) -> bool {
        self.0.iter().all(|test| test(request))
    }
}

/// How often a rule acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Exactly(u64),
    ForEver,
}

/// The name of a rule, to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(u64);

#[derive(Clone, Copy)]
enum Action {
    Fail(u16),
    Delay(Duration),
    CutRequest(u64),
    CutAnswer(u64),
    FlipRequest,
    FlipAnswer,
}

struct Rule {
    id: RuleId,
    matching: Matching,
    /// So many that match are let through first.
    first: u64,
    left: Times,
    action: Action,
}

impl Rule {
    /// Whether the rule acts on this request, which it now has seen.
    fn acts(&mut self, request: &Request) -> bool {
        if self.left == Times::Exactly(0) || !self.matching.fits(request) {
            return false;
        }
        if self.first > 0 {
            self.first -= 1;
            return false;
        }
        if let Times::Exactly(left) = &mut self.left {
            *left -= 1;
        }
        true
    }
}

/// What all rules together do to one request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    pub delay: Duration,
    pub fail: Option<u16>,
    pub cut_request: Option<u64>,
    pub cut_answer: Option<u64>,
    pub flip_request: bool,
    pub flip_answer: bool,
}

/// The rules of a proxy; they may change at any time and hold for requests that begin later.
#[derive(Default)]
pub struct Rules {
    rules: Mutex<Vec<Rule>>,
    next: AtomicU64,
    bytes_per_second: AtomicU64,
    link: Mutex<()>,
}

impl Rules {
    /// Answers with `status` in the server's stead; the server never hears of the request.
    pub fn fail(&self, matching: Matching, times: Times, status: u16) -> RuleId {
        self.add(matching, 0, times, Action::Fail(status))
    }

    /// Holds requests back for so long before they reach the server.
    pub fn delay(&self, matching: Matching, duration: Duration) -> RuleId {
        self.add(matching, 0, Times::ForEver, Action::Delay(duration))
    }

    /// Cuts both connections when so many bytes of the request's body have passed.
    pub fn cut_request(&self, matching: Matching, times: Times, after: u64) -> RuleId {
        self.add(matching, 0, times, Action::CutRequest(after))
    }

    /// Cuts both connections when so many bytes of the answer's body have passed; with 0 before its head: the server has
    /// done what it was asked to, and nobody hears of it.
    pub fn cut_answer(&self, matching: Matching, times: Times, after: u64) -> RuleId {
        self.add(matching, 0, times, Action::CutAnswer(after))
    }

    /// Changes one bit in the middle of the body of the `nth` matching request, counted from 1 and from now.
    pub fn corrupt_request(&self, matching: Matching, nth: u64) -> RuleId {
        self.add(matching, nth - 1, Times::Exactly(1), Action::FlipRequest)
    }

    /// Changes one bit in the middle of the body of the answer to the `nth` matching request.
    pub fn corrupt_answer(&self, matching: Matching, nth: u64) -> RuleId {
        self.add(matching, nth - 1, Times::Exactly(1), Action::FlipAnswer)
    }

    /// Bytes of bodies that may pass in a second, both ways and all connections together; `None` for no limit.
    pub fn rate(&self, bytes_per_second: Option<u64>) {
        let rate = bytes_per_second.unwrap_or(0);
        self.bytes_per_second.store(rate, Ordering::SeqCst);
    }

    /// Takes a rule back.
    pub fn remove(&self, id: RuleId) {
        self.lock().retain(|rule| rule.id != id);
    }

    /// Takes all rules back, also the rate.
    pub fn clear(&self) {
        self.lock().clear();
        self.rate(None);
    }

    /// Rules that still wait for requests to act on.
    pub fn waiting(&self) -> HashSet<RuleId> {
        let rules = self.lock();
        let waiting = rules.iter().filter(|rule| rule.left != Times::Exactly(0));
        waiting.map(|rule| rule.id).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().expect("no rule panics")
    }

    fn add(&self, matching: Matching, first: u64, left: Times, action: Action) -> RuleId {
        let id = RuleId(self.next.fetch_add(1, Ordering::SeqCst));
        self.lock().push(Rule {
            id,
            matching,
            first,
            left,
            action,
        });
        id
    }

    pub(super) fn fate(&self, request: &Request) -> Fate {
        let mut fate = Fate::default();
        for rule in self.lock().iter_mut() {
            // A request that fails here reaches no server: what would happen to it there waits for another.
            if fate.fail.is_some() || !rule.acts(request) {
                continue;
            }
            match rule.action {
                Action::Fail(status) => fate.fail = Some(status),
                Action::Delay(duration) => fate.delay += duration,
                Action::CutRequest(after) => fate.cut_request = Some(after),
                Action::CutAnswer(after) => fate.cut_answer = Some(after),
                Action::FlipRequest => fate.flip_request = true,
                Action::FlipAnswer => fate.flip_answer = true,
            }
        }
        fate
    }

    /// Returns when so many bytes may pass.
    pub(super) fn pace(&self, bytes: usize) {
        let rate = self.bytes_per_second.load(Ordering::SeqCst);
        let nanoseconds = (1_000_000_000 * bytes as u64).checked_div(rate);
        if let Some(nanoseconds) = nanoseconds {
            let _one_at_a_time = self.link.lock().expect("nobody panics asleep");
            std::thread::sleep(Duration::from_nanos(nanoseconds));
        }
    }
}
