//! `session`: copy sessions listed, shown, waited for, and acted on.

use super::engine::{self, SessionFacts};
use super::{Host, text};
use crate::config::RepositoryPlace;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use crate::progress::Progress;
use crate::repository::Repository;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How often a session that is waited for is looked at: each look is two requests.
const LOOK: Duration = Duration::from_secs(1);

/// A session of one repository.
#[derive(Clone, Debug, Serialize)]
pub struct SessionLine {
    /// Where it is told.
    pub repository: String,
    /// What it is and did.
    #[serde(flatten)]
    pub facts: SessionFacts,
}

/// Sessions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SessionsReport {
    /// The oldest first.
    pub sessions: Vec<SessionLine>,
}

/// One session.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct SessionReport {
    /// What it is and did.
    pub session: SessionLine,
}

/// What has happened to a session, the oldest first.
#[derive(Clone, Debug, Serialize)]
pub struct SessionLog {
    /// Its id.
    pub session: String,
    /// A line for each record.
    pub lines: Vec<LogLine>,
}

/// A record of a session.
#[derive(Clone, Debug, Serialize)]
pub struct LogLine {
    /// When it was written, RFC 3339.
    pub time: String,
    /// The state it tells.
    pub state: &'static str,
    /// The host and process that wrote it.
    pub by: String,
    /// What there is to say about it.
    pub reason: String,
}

/// Which sessions are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// All that there are records of.
    #[default]
    All,
    /// Those that are not over.
    Unfinished,
}

/// What is asked of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAction {
    /// Bring what is missing.
    Retry,
    /// Keep the points that are whole, give up the others.
    Skip,
    /// Forget the points that it made.
    Undo,
}

/// A session as a person named it: the beginning of its id, and perhaps its repository.
#[derive(Clone, Debug)]
pub struct SessionPlace {
    /// Where it is looked for; all configured repositories otherwise.
    pub repository: Option<RepositoryPlace>,
    /// The beginning of its id.
    pub id: String,
}

impl SessionPlace {
    /// `ID` or `REPO/ID`.
    pub fn parse(host: &Host, name: &str) -> Result<Self> {
        let (repository, id) = match name.rsplit_once(['/', ':']) {
            None => (None, name),
            Some((repository, id)) => {
                let repository = repository.trim_end_matches(':');
                (Some(host.config().repository(repository)?), id)
            }
        };
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let message = format!(
                "{name:?} is no session: write its id, or the beginning of it, as `keepfs session list` shows it"
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self {
            repository,
            id: id.to_ascii_lowercase(),
        })
    }
}

/// The sessions of one repository, or of all that are configured.
pub fn sessions(
    host: &Host,
    repository: Option<&RepositoryPlace>,
    listed: Listed,
) -> Result<SessionsReport> {
    let places = match repository {
        Some(place) => vec![place.clone()],
        None => host.config().all()?,
    };
    let mut report = SessionsReport::default();
    for place in &places {
        let repository = host.open(place, places.len() == 1)?;
        let all = engine::sessions(&repository, listed == Listed::Unfinished)?;
        report
            .sessions
            .extend(all.into_iter().map(|facts| SessionLine {
                repository: place.name.clone(),
                facts,
            }));
    }
    report
        .sessions
        .sort_by(|one, other| one.facts.started.cmp(&other.facts.started));
    Ok(report)
}

/// A session that was found, in its repository.
struct Found {
    place: RepositoryPlace,
    repository: Arc<Repository>,
    id: ObjectId,
}

/// The one session whose id begins so.
fn find(host: &Host, named: &SessionPlace) -> Result<Found> {
    let places = match &named.repository {
        Some(place) => vec![place.clone()],
        None => host.config().all()?,
    };
    let mut found = Vec::new();
    for place in &places {
        let repository = host.open(place, places.len() == 1)?;
        for id in engine::session_ids(&repository)? {
            if id.to_string().starts_with(&named.id) {
                found.push(Found {
                    place: place.clone(),
                    repository: repository.clone(),
                    id,
                });
            }
        }
    }
    let refuse = |why: &str| {
        let message = format!("{why} {}; `keepfs session list` shows all", named.id);
        Err(Error::new(Kind::NotFound, message))
    };
    match found.len() {
        0 => refuse("there is no session"),
        1 => Ok(found.remove(0)),
        _ => refuse("several sessions begin with"),
    }
}

fn line(place: &RepositoryPlace, facts: SessionFacts) -> SessionReport {
    SessionReport {
        session: SessionLine {
            repository: place.name.clone(),
            facts,
        },
    }
}

/// How a session stands.
pub fn session(host: &Host, named: &SessionPlace) -> Result<SessionReport> {
    let found = find(host, named)?;
    let facts = engine::session(&found.repository, found.id)?;
    Ok(line(&found.place, facts))
}

/// How a session stands once nobody works on it. `Interrupted` when the caller asks to stop first.
pub fn wait_session(
    host: &Host,
    named: &SessionPlace,
    progress: &Progress,
) -> Result<SessionReport> {
    let found = find(host, named)?;
    loop {
        let facts = engine::session(&found.repository, found.id)?;
        if !facts.alive {
            return Ok(line(&found.place, facts));
        }
        progress.go_on()?;
        std::thread::sleep(LOOK);
    }
}

/// What has happened to a session.
pub fn session_log(host: &Host, named: &SessionPlace) -> Result<SessionLog> {
    let found = find(host, named)?;
    Ok(SessionLog {
        session: found.id.to_string(),
        lines: engine::session_log(&found.repository, found.id)?,
    })
}

/// Acts on a session, in this process. `source` says where it copies from when the configuration does not.
pub fn act_on_session(
    host: &Host,
    named: &SessionPlace,
    action: SessionAction,
    source: Option<&RepositoryPlace>,
    progress: &Progress,
) -> Result<SessionReport> {
    let found = find(host, named)?;
    let telling = engine::Telling::of(host);
    let facts = match action {
        SessionAction::Skip => engine::skip_session(&found.repository, found.id, &telling)?,
        SessionAction::Undo => engine::undo_session(&found.repository, found.id)?,
        SessionAction::Retry => {
            let party = engine::session_source(&found.repository, found.id)?;
            let source = match source {
                Some(place) => host.open(place, false)?,
                None => source_of(host, &party)?,
            };
            engine::retry_session(&source, &found.repository, found.id, &telling, progress)?
        }
    };
    telling.deliver();
    Ok(line(&found.place, facts))
}

/// The repository that a session copies from: the configured one of that id, those at the same place first.
fn source_of(host: &Host, (id, location): &(ObjectId, String)) -> Result<Arc<Repository>> {
    let mut places = host.config().all().unwrap_or_default();
    places.sort_by_key(|place| !location.ends_with(&place.reach.url));
    let mut failure = None;
    for place in &places {
        match host.open(place, false) {
            Ok(repository) if repository.id() == *id => return Ok(repository),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    let message = format!(
        "the session copies from {location}, which is none of the configured repositories; say where it is with --source"
    );
    let missing = Error::new(Kind::NoRepository, message);
    Err(match failure {
        Some(error) => missing.caused_by(error),
        None => missing,
    })
}

impl SessionFacts {
    /// Names of its points, as BACKUP/POINT.
    pub(super) fn name(backup: &[u8], point: &[u8]) -> String {
        format!("{}/{}", text(backup), text(point))
    }
}
