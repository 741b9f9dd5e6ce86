//! What somebody wants of the process that has a job: a file in the jobs' directory, and another one with the answer.

use super::JobFacts;
use super::place::Place;
use crate::error::{Error, Kind, Result};
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

use super::Select;

/// Looks for an answer, and how long a look takes.
const LOOKS: u32 = 200;
const LOOK: Duration = Duration::from_millis(50);

/// What may be asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Run now, also when it is disabled; with these points instead of those of the configuration, if any are said.
    Start(Option<Select>),
    /// Stop at the next good place; no retry follows.
    Stop,
    /// Stop when the pack that is being written has ended.
    StopGracefully,
    /// Run by itself from now on.
    Enable,
    /// Do not run by itself any more. A run that goes on is not stopped.
    Disable,
    /// Pass at most so many bytes a second each way, until the daemon ends; none for no limit.
    Rate(Option<u64>),
}

#[derive(Serialize, Deserialize)]
enum Wanted {
    Act(Action),
    Facts,
}

#[derive(Serialize, Deserialize)]
struct Request {
    id: String,
    wanted: Wanted,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Done,
    Facts(Box<JobFacts>),
    /// The kind's name, and the sentence.
    Refused(String, String),
}

/// Asks whoever has the job of this name in `directory` for an action; false when nobody has it. Fails as they answer,
/// and with `Unreachable` when they do not.
pub fn ask(directory: &Path, name: &str, action: Action) -> Result<bool> {
    match sent(directory, name, Wanted::Act(action))? {
        Some(Answer::Refused(kind, sentence)) => Err(Error::new(kind_of(&kind), sentence)),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}

/// How the job stands, as whoever has it says.
pub(super) fn ask_facts(directory: &Path, name: &str) -> Result<JobFacts> {
    match sent(directory, name, Wanted::Facts)? {
        Some(Answer::Facts(facts)) => Ok(*facts),
        Some(Answer::Refused(kind, sentence)) => Err(Error::new(kind_of(&kind), sentence)),
        _ => Err(nobody(name)),
    }
}

/// The answer; none when nobody has the job.
fn sent(directory: &Path, name: &str, wanted: Wanted) -> Result<Option<Answer>> {
    let place = Place::new(directory, name);
    let id = ObjectId::random().to_string();
    let answer = format!("answer.{id}");
    let request = Request { id, wanted };
    let bytes = serde_json::to_vec(&request).expect("a request is plain data");
    let mut looks = 0..LOOKS;
    // One at a time.
    while !place.create("request", &bytes)? {
        if place.lock()?.is_some() {
            return Ok(None);
        }
        looks.next().ok_or_else(|| nobody(name))?;
        std::thread::sleep(LOOK);
    }
    for _ in looks {
        if let Ok(bytes) = std::fs::read(place.path(&answer)) {
            // What stays is in nobody's way.
            let _ = std::fs::remove_file(place.path(&answer));
            return serde_json::from_slice(&bytes).map_err(|_| nobody(name));
        }
        if place.lock()?.is_some() {
            withdraw(&place);
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
    withdraw(&place);
    Err(nobody(name))
}

/// Whoever takes the job over should not do tomorrow what was wanted today.
fn withdraw(place: &Place) {
    // It may have been taken just now.
    let _ = std::fs::remove_file(place.path("request"));
}

fn nobody(name: &str) -> Error {
    let message = format!(
        "the process that has the job {name} does not answer; look whether a keepfs daemon hangs"
    );
    Error::new(Kind::Unreachable, message)
}

/// Answers what is wanted, if anything is.
pub(super) fn answer(
    place: &Place,
    act: impl FnOnce(Action) -> Result<()>,
    facts: impl FnOnce() -> JobFacts,
) -> Result<()> {
    let Ok(bytes) = std::fs::read(place.path("request")) else {
        return Ok(());
    };
    let request = serde_json::from_slice::<Request>(&bytes);
    if let Ok(Request { id, wanted }) = request {
        let answer = match wanted {
            Wanted::Facts => Answer::Facts(Box::new(facts())),
            Wanted::Act(action) => match act(action) {
                Ok(()) => Answer::Done,
                Err(error) => {
                    Answer::Refused(format!("{:?}", error.kind()), error.message().to_owned())
                }
            },
        };
        let bytes = serde_json::to_vec(&answer).expect("an answer is plain data");
        place.write(&format!("answer.{id}"), &bytes)?;
    }
    // Whoever asked may have withdrawn it meanwhile.
    let _ = std::fs::remove_file(place.path("request"));
    Ok(())
}

fn kind_of(name: &str) -> Kind {
    match name {
        "Busy" => Kind::Busy,
        "Invalid" => Kind::Invalid,
        "NotFound" => Kind::NotFound,
        _ => Kind::Failed,
    }
}
