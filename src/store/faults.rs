//! A store that wraps another, writes down what is asked of it, and fails on demand. For tests: it is just another
//! store, so nothing above knows.

use super::{Object, Refused, SharedStore, Space, Store, Traffic, Upload};
use crate::error::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What was asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Store::get`]
    Get,
    /// [`Store::get_range`]
    GetRange,
    /// [`Store::head`]
    Head,
    /// [`Store::list`]; the name is the prefix.
    List,
    /// [`Store::create`]
    Create,
    /// [`Store::upload`]
    Upload,
    /// [`Upload::write`]
    Write,
    /// [`Upload::finish`]
    Finish,
    /// [`Store::delete`]
    Delete,
    /// [`Store::space`]; the name is empty.
    Space,
}

impl Verb {
    /// Whether it changes what a listing shows. The pieces of an upload do not, its finish does.
    pub fn mutates(self) -> bool {
        matches!(self, Self::Create | Self::Finish | Self::Delete)
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was asked.
    pub verb: Verb,
    /// Of which object.
    pub name: String,
}

/// How far the operation gets at which a store stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It does not happen.
    Before,
    /// It happens, but the caller never hears of it.
    After,
}

/// A store with faults on demand. Clones share log and faults, so a test keeps one and gives the other away.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: SharedStore,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<Operation>,
    stop: Option<StopAt>,
    stopped: bool,
    failures: Option<(u64, Kind)>,
    aimed: Option<Aimed>,
    panics: Option<Verb>,
    flips: Vec<(String, u64)>,
    delay: Duration,
}

/// The operation at which a store stops: of those that change objects whose name starts with `prefix`, the one that is
/// `left` away.
#[derive(Debug)]
struct StopAt {
    prefix: String,
    left: u64,
    stop: Stop,
}

/// Some calls that fail.
#[derive(Debug)]
struct Aimed {
    verbs: &'static [Verb],
    prefix: String,
    which: Range<u64>,
    kind: Kind,
    seen: u64,
}

impl Aimed {
    fn hits(&mut self, verb: Verb, name: &str) -> bool {
        if !self.verbs.contains(&verb) || !name.starts_with(&self.prefix) {
            return false;
        }
        self.seen += 1;
        self.which.contains(&(self.seen - 1))
    }
}

/// What becomes of one operation.
enum Fate {
    Happens,
    HappensUnheard,
}

impl FaultyStore {
    /// `inner`, without faults yet.
    pub fn new(inner: SharedStore) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// Everything asked so far, in order, failed or not.
    pub fn log(&self) -> Vec<Operation> {
        self.state.lock().log.clone()
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        self.state.lock().log.clear();
    }

    /// How often `verb` was asked.
    pub fn count(&self, verb: Verb) -> usize {
        let state = self.state.lock();
        state.log.iter().filter(|line| line.verb == verb).count()
    }

    /// How many operations were asked that change what a listing shows.
    pub fn mutations(&self) -> usize {
        let state = self.state.lock();
        state.log.iter().filter(|line| line.verb.mutates()).count()
    }

    /// Stops dead at the `nth` mutating operation from now (1 is the next): it and everything after it fail with
    /// [`Kind::Unreachable`], as if the process had died there.
    pub fn stop_at(&self, nth: u64, stop: Stop) {
        self.stop_at_object("", nth, stop);
    }

    /// As [`Self::stop_at`], counting only operations on objects whose name starts with `prefix`.
    pub fn stop_at_object(&self, prefix: &str, nth: u64, stop: Stop) {
        self.state.lock().stop = Some(StopAt {
            prefix: prefix.to_owned(),
            left: nth,
            stop,
        });
    }

    /// Whether it has stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Fails the next `count` calls of any verb with `kind`; none of them happens.
    pub fn fail_next(&self, count: u64, kind: Kind) {
        self.state.lock().failures = Some((count, kind));
    }

    /// Makes the next call of `verb` panic.
    pub fn panic_next(&self, verb: Verb) {
        self.state.lock().panics = Some(verb);
    }

    /// Of the calls of these verbs on objects whose name starts with `prefix`, counted from 0 from now on, fails `which`
    /// with `kind`; none of them happens.
    pub fn fail_at(&self, verbs: &'static [Verb], prefix: &str, which: Range<u64>, kind: Kind) {
        self.state.lock().aimed = Some(Aimed {
            verbs,
            prefix: prefix.to_owned(),
            which,
            kind,
            seen: 0,
        });
    }

    /// Flips the lowest bit of byte `at` of every object whose name starts with `prefix`, in all reads that reach it.
    pub fn flip(&self, prefix: &str, at: u64) {
        self.state.lock().flips.push((prefix.to_owned(), at));
    }

    /// Makes every call take this much longer.
    pub fn delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    /// Ends all faults; the log stays.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        *state = State {
            log: std::mem::take(&mut state.log),
            ..State::default()
        };
    }

    fn run<T>(&self, verb: Verb, name: &str, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        let delay = self.state.lock().delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        // Not under the lock: other threads go on, as with any store.
        let fate = self.state.lock().decide(verb, name)?;
        let result = operation();
        match fate {
            Fate::Happens => result,
            Fate::HappensUnheard => Err(stopped(name)),
        }
    }

    fn flipped(&self, name: &str, start: u64, content: Bytes) -> Bytes {
        let state = self.state.lock();
        let mut content = BytesMut::from(content);
        for (prefix, at) in &state.flips {
            let inside = at
                .checked_sub(start)
                .and_then(|at| content.get_mut(at as usize));
            if let Some(byte) = inside.filter(|_| name.starts_with(prefix)) {
                *byte ^= 1;
            }
        }
        content.freeze()
    }
}

impl State {
    fn decide(&mut self, verb: Verb, name: &str) -> Result<Fate> {
        self.log.push(Operation {
            verb,
            name: name.to_owned(),
        });
        if self.panics.take_if(|panics| *panics == verb).is_some() {
            panic!("{name}: made to panic by a test");
        }
        if self.stopped {
            return Err(stopped(name));
        }
        if let Some((count @ 1.., kind)) = &mut self.failures {
            *count -= 1;
            return Err(Error::new(*kind, format!("{name}: made to fail by a test")));
        }
        if let Some(aimed) = &mut self.aimed
            && aimed.hits(verb, name)
        {
            return Err(Error::new(
                aimed.kind,
                format!("{name}: made to fail by a test"),
            ));
        }
        let counted = |at: &&mut StopAt| verb.mutates() && name.starts_with(&at.prefix);
        let Some(at) = self.stop.as_mut().filter(counted) else {
            return Ok(Fate::Happens);
        };
        at.left = at.left.saturating_sub(1);
        if at.left > 0 {
            return Ok(Fate::Happens);
        }
        self.stopped = true;
        match at.stop {
            Stop::Before => Err(stopped(name)),
            Stop::After => Ok(Fate::HappensUnheard),
        }
    }
}

fn stopped(name: &str) -> Error {
    Error::new(
        Kind::Unreachable,
        format!("{name}: the store was stopped by a test"),
    )
}

impl Store for FaultyStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, name: &str) -> Result<Bytes> {
        let content = self.run(Verb::Get, name, || self.inner.get(name))?;
        Ok(self.flipped(name, 0, content))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let start = range.start;
        let content = self.run(Verb::GetRange, name, || self.inner.get_range(name, range))?;
        Ok(self.flipped(name, start, content))
    }

    fn head(&self, name: &str) -> Result<Object> {
        self.run(Verb::Head, name, || self.inner.head(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.run(Verb::List, prefix, || self.inner.list(prefix))
    }

    fn create(&self, name: &str, content: Bytes) -> Result<()> {
        self.run(Verb::Create, name, || self.inner.create(name, content))
    }

    fn upload(&self, name: &str) -> Result<Box<dyn Upload>> {
        let inner = self.run(Verb::Upload, name, || self.inner.upload(name))?;
        Ok(Box::new(FaultyUpload {
            store: self.clone(),
            name: name.to_owned(),
            inner: Some(inner),
        }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.run(Verb::Delete, name, || self.inner.delete(name))
    }

    fn space(&self) -> Result<Option<Space>> {
        self.run(Verb::Space, "", || self.inner.space())
    }

    fn prefer_storage_class(&self, class: &str) {
        self.inner.prefer_storage_class(class);
    }

    fn archive_class(&self) -> Option<String> {
        self.inner.archive_class()
    }

    fn ask(&self, name: &str) -> Result<Bytes, Refused> {
        self.inner.ask(name)
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }
}

struct FaultyUpload {
    store: FaultyStore,
    name: String,
    /// Absent after a failure: then the upload is dead and leaves nothing.
    inner: Option<Box<dyn Upload>>,
}

impl FaultyUpload {
    fn take(&mut self) -> Result<Box<dyn Upload>> {
        let dead = || {
            Error::new(
                Kind::Failed,
                format!("writing {} has failed before; start it again", self.name),
            )
        };
        self.inner.take().ok_or_else(dead)
    }
}

impl Upload for FaultyUpload {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut inner = self.take()?;
        self.store
            .run(Verb::Write, &self.name, || inner.write(bytes))?;
        self.inner = Some(inner);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let inner = self.take()?;
        self.store.run(Verb::Finish, &self.name, || inner.finish())
    }
}
