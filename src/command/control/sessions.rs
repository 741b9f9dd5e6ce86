//! `sessions/ID/`: every copy session of the mounted repositories, and views of some of them. An action that is written
//! there begins at once or is refused; whoever wants to see its end reads the state.

use super::{line, missing};
use crate::clock::Time;
use crate::command::engine::{SessionFacts, Telling, tell_session};
use crate::copy::{self, Action, End, OPEN_POINT, Session, TransferOptions};
use crate::error::{Error, Kind, Result};
use crate::filesystem::{Caller, ControlEntry, ControlKind, Controls, FileSystem};
use crate::id::ObjectId;
use crate::point::Catalog;
use crate::progress::Progress;
use crate::thread;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Weak};

/// For so many seconds a look at the stores is believed: each costs a listing.
const LOOK_SECONDS: i64 = 2;
const DAY_SECONDS: i64 = 24 * 60 * 60;
const FILES: [&str; 4] = ["failed", "log", "progress", "state"];

/// A session in the repository that tells of it.
type Told = (Arc<Catalog>, Session);

#[derive(Debug, Default)]
struct Known {
    looked: Option<Time>,
    sessions: HashMap<ObjectId, Told>,
}

/// The sessions of a mount's repositories.
#[derive(Debug)]
pub(in crate::command) struct Sessions {
    catalogs: Vec<Arc<Catalog>>,
    tree: Weak<FileSystem>,
    telling: Telling,
    known: Mutex<Known>,
}

/// Which of them a directory shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command) enum View {
    All,
    Running,
    NeedsAction,
    LastDay,
}

/// A directory of sessions.
#[derive(Debug)]
pub(in crate::command) struct SessionView {
    sessions: Arc<Sessions>,
    view: View,
}

impl SessionView {
    /// Every directory of sessions, by its name.
    pub(in crate::command) fn all(
        catalogs: &[(String, Arc<Catalog>)],
        tree: &Arc<FileSystem>,
        telling: &Telling,
    ) -> [(&'static str, Self); 4] {
        let sessions = Arc::new(Sessions {
            catalogs: catalogs
                .iter()
                .map(|(_, catalog)| catalog.clone())
                .collect(),
            tree: Arc::downgrade(tree),
            telling: telling.clone(),
            known: Mutex::default(),
        });
        [
            ("sessions", View::All),
            ("running", View::Running),
            ("needs-action", View::NeedsAction),
            ("last-24h", View::LastDay),
        ]
        .map(|(name, view)| {
            let sessions = sessions.clone();
            (name, Self { sessions, view })
        })
    }
}

impl Sessions {
    /// Looks at the stores, unless that was just done. What is over is read once.
    fn look(&self) -> Result<()> {
        let mut known = self.known.lock();
        let Some(first) = self.catalogs.first() else {
            return Ok(());
        };
        let now = first.repository().now();
        if known
            .looked
            .is_some_and(|looked| (0..LOOK_SECONDS).contains(&(now.seconds - looked.seconds)))
        {
            return Ok(());
        }
        let mut all = Vec::new();
        for catalog in &self.catalogs {
            let is_over = |id: &ObjectId| {
                let known = known.sessions.get(id);
                known.is_some_and(|(_, session)| session.record.state.is_over())
            };
            let (ids, new) = copy::new_sessions(catalog.repository(), is_over)?;
            all.extend(ids);
            let new = new.into_iter();
            known
                .sessions
                .extend(new.map(|session| (session.id, (catalog.clone(), session))));
        }
        known.sessions.retain(|id, _| all.contains(id));
        known.looked = Some(now);
        Ok(())
    }

    fn named(&self, name: &str) -> Result<Told> {
        self.look()?;
        let known = self.known.lock();
        let id = name.parse().ok();
        let found = id.and_then(|id: ObjectId| known.sessions.get(&id));
        found.cloned().ok_or_else(|| missing(&["sessions", name]))
    }

    fn ids(&self, view: View) -> Result<Vec<ObjectId>> {
        self.look()?;
        let known = self.known.lock();
        let shown = known
            .sessions
            .values()
            .filter(|(_, session)| view.shows(session));
        let mut ids: Vec<_> = shown.map(|(_, session)| session.id).collect();
        ids.sort();
        Ok(ids)
    }

    /// Begins an action. What takes long goes on behind.
    fn act(&self, name: &str, action: Action) -> Result<()> {
        let (catalog, session) = self.named(name)?;
        self.known.lock().looked = None;
        let mut session = Session::find(catalog.repository(), session.id)?;
        session.record.state.begin(action, session.is_alive())?;
        if session.record.fact(OPEN_POINT).is_some() {
            let tree = self
                .tree
                .upgrade()
                .ok_or_else(|| missing(&["sessions", name]))?;
            return tree.act_on_copy(session.id, action);
        }
        let target = End::open(catalog.repository().clone())?;
        match action {
            Action::Skip => {
                let skipped = copy::skip_session(session)?;
                self.telling.ended(skipped.session, &skipped.record);
                Ok(())
            }
            Action::Undo => copy::undo_session(session, &target)?.result,
            Action::Retry => {
                let source = self.source(&session)?;
                session.take(Action::Retry)?;
                let telling = self.telling.clone();
                thread::spawn(move || {
                    let options =
                        TransferOptions::between(source.repository(), target.repository());
                    let id = session.id;
                    let progress = Progress::default();
                    let conducted =
                        copy::retry_taken(session, &source, &target, &options, &progress);
                    if let Ok(conducted) = &conducted {
                        telling.conducted(conducted);
                    }
                    // Its record tells it, too.
                    if let Err(error) = conducted.and_then(|conducted| conducted.result) {
                        tracing::warn!("session {id}: {error}");
                    }
                });
                Ok(())
            }
        }
    }

    fn source(&self, session: &Session) -> Result<End> {
        let wanted = &session.record.source;
        let mut all = self.catalogs.iter().map(|catalog| catalog.repository());
        let found = all.find(|repository| repository.id() == wanted.repository);
        let found = found.ok_or_else(|| {
            let message = format!(
                "the session {} copies from {}, which is not mounted here; mount it too, or use `keepfs session retry`",
                session.id, wanted.location
            );
            Error::new(Kind::Unreachable, message)
        })?;
        End::open(found.clone())
    }
}

impl View {
    fn shows(self, session: &Session) -> bool {
        let record = &session.record;
        match self {
            Self::All => true,
            Self::Running => record.state.works(),
            Self::NeedsAction => record.state == copy::SessionState::NeedsAction,
            Self::LastDay => {
                let now = session.target().now().seconds;
                let last = record.ended.unwrap_or(record.started).seconds;
                record.state.works() || now.saturating_sub(last) < DAY_SECONDS
            }
        }
    }
}

impl Controls for SessionView {
    fn list(&self, path: &[&str]) -> Result<Vec<ControlEntry>> {
        match (self.view, path) {
            (View::All, []) => {
                let ids = self.sessions.ids(View::All)?.into_iter();
                Ok(ids
                    .map(|id| ControlEntry::directory(id.to_string()))
                    .collect())
            }
            (view, []) => {
                let link =
                    |id: ObjectId| ControlEntry::link(id.to_string(), format!("../sessions/{id}"));
                Ok(self.sessions.ids(view)?.into_iter().map(link).collect())
            }
            (View::All, [id]) => {
                self.sessions.named(id)?;
                // What failed has paths below every user's directories.
                let files = FILES.map(|name| match name {
                    "failed" | "log" => ControlEntry::private(name),
                    name => ControlEntry::text(name),
                });
                Ok(files
                    .into_iter()
                    .chain([ControlEntry::action("action")])
                    .collect())
            }
            _ => Err(missing(path)),
        }
    }

    fn find(&self, path: &[&str]) -> Result<Option<ControlKind>> {
        match (self.view, path) {
            (_, []) => Ok(Some(ControlKind::Directory)),
            (View::All, [id]) => Ok(self.sessions.named(id).ok().map(|_| ControlKind::Directory)),
            _ => {
                let (name, directory) = path.split_last().expect("it is not the top");
                let entries = match self.list(directory) {
                    Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                    listed => listed?,
                };
                let found = entries.into_iter().find(|entry| entry.name == *name);
                Ok(found.map(|entry| entry.kind))
            }
        }
    }

    fn read(&self, path: &[&str]) -> Result<Vec<u8>> {
        let [id, file] = path else {
            return Err(missing(path));
        };
        let (_, session) = self.sessions.named(id)?;
        let facts = tell_session(&session);
        Ok(match *file {
            "state" => state(&facts),
            "progress" => progress(&facts),
            "failed" => failed(&facts),
            "log" => log(&session)?,
            "action" => Action::ALL
                .map(|action| format!("{}\n", action.name()))
                .concat(),
            _ => return Err(missing(path)),
        }
        .into_bytes())
    }

    fn write(&self, path: &[&str], verb: &str, _: Caller) -> Result<()> {
        let [id, "action"] = path else {
            return Err(missing(path));
        };
        let action = Action::named(verb).ok_or_else(|| {
            let message = format!("{verb:?} is no action of a session: write retry, skip or undo");
            Error::new(Kind::Invalid, message)
        })?;
        self.sessions.act(id, action)
    }
}

fn state(facts: &SessionFacts) -> String {
    let mut text = line("state", facts.state);
    text += &line("reason", &facts.reason);
    text += &line("source", &facts.source);
    text += &line("target", &facts.target);
    text += &line("proxy", &facts.proxy);
    text += &line("host", &facts.host);
    text += &line("started", &facts.started);
    text += &line("ended", facts.ended.as_deref().unwrap_or_default());
    text
}

fn progress(facts: &SessionFacts) -> String {
    let mut text = String::new();
    let there = facts.points.iter();
    let there = there.filter(|point| ["copied", "present"].contains(&point.outcome));
    for (key, value) in [
        ("points", facts.points.len() as u64),
        ("points-there", there.count() as u64),
        ("bytes", facts.points.iter().map(|point| point.bytes).sum()),
        ("read-bytes", facts.read_bytes),
        ("stored-bytes", facts.stored_bytes),
        ("data-packs", facts.data_packs),
        ("chunks-moved", facts.chunks_moved),
        ("chunks-present", facts.chunks_present),
        ("failed-parts", facts.failed_total),
    ] {
        text += &line(key, value);
    }
    text
}

/// A line a part: how often it was asked for, its path, why it failed.
fn failed(facts: &SessionFacts) -> String {
    let mut text = String::new();
    for part in &facts.failed {
        let clean = |text: &str| text.replace(char::is_control, " ");
        let (path, reason) = (clean(&part.path), clean(&part.reason));
        writeln!(text, "{}\t{path}\t{reason}", part.attempts)
            .expect("writing to a string never fails");
    }
    text
}

fn log(session: &Session) -> Result<String> {
    let mut text = String::new();
    for (written, record) in session.history()? {
        let reason = record.reason.replace(char::is_control, " ");
        writeln!(
            text,
            "{} {} {reason}",
            written.rfc3339(),
            record.state.name()
        )
        .expect("writing to a string never fails");
    }
    Ok(text)
}
