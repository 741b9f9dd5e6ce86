//! People are told of sessions that end.

use super::text;
use crate::clock::Clock;
use crate::command::Host;
use crate::copy::{Conducted, FailedPart, SessionPoint, SessionRecord, SessionState};
use crate::id::ObjectId;
use crate::notify::{Ended, Ending, Notifier, Object};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long a command waits for its message to be sent; the next command, or a daemon, sends it otherwise.
const DELIVERY: Duration = Duration::from_secs(10);

/// People are reminded of a session that waits for them after so many seconds: 4 and 24 hours.
const REMINDERS: [i64; 2] = [4 * 60 * 60, 24 * 60 * 60];
/// Messages of one round: the first, and its reminders.
const ROUND: u32 = 1 + REMINDERS.len() as u32;

/// Who is told of sessions, and of which job they are runs.
#[derive(Clone, Debug, Default)]
pub(in crate::command) struct Telling {
    notifier: Option<Arc<Notifier>>,
    job: Option<String>,
    clock: Clock,
}

impl Telling {
    /// As the configuration says. Nothing fails because nobody can be told.
    pub(in crate::command) fn of(host: &Host) -> Self {
        let notifier = host.notifier().unwrap_or_else(|error| {
            tracing::error!("nobody is told of anything: {error}");
            None
        });
        Self {
            notifier,
            job: None,
            clock: host.clock().clone(),
        }
    }

    /// The same, of runs of a job.
    pub(in crate::command) fn of_job(&self, job: &str) -> Self {
        Self {
            notifier: self.notifier.clone(),
            job: Some(job.to_owned()),
            clock: self.clock.clone(),
        }
    }

    /// Tells of a session as it stands now, if that is an end that people may want to hear of.
    pub(in crate::command) fn ended(&self, id: ObjectId, record: &SessionRecord) {
        let Some(notifier) = &self.notifier else {
            return;
        };
        let ending = match record.state {
            SessionState::Success => Ending::Success,
            SessionState::Warning => Ending::Warning,
            SessionState::Failed => Ending::Failed,
            SessionState::NeedsAction => Ending::NeedsAction,
            _ => return,
        };
        let mut message = message(id, record, ending, self.job.clone());
        message.round += self.reminder(record);
        // One that was told of already is not told of again.
        notifier.ended(&message);
    }

    /// Which reminder is due of a session that waits for somebody.
    fn reminder(&self, record: &SessionRecord) -> u32 {
        let (Some(since), SessionState::NeedsAction) = (record.ended, record.state) else {
            return 0;
        };
        let waited = self.clock.now().seconds.saturating_sub(since.seconds);
        REMINDERS.iter().filter(|after| waited >= **after).count() as u32
    }

    /// As [`Self::ended`], of a copy that was just run.
    pub(in crate::command) fn conducted(&self, conducted: &Conducted) {
        self.ended(conducted.report.session, &conducted.report.record);
    }

    /// Sends what waits, for a moment.
    pub(in crate::command) fn deliver(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.deliver_within(DELIVERY);
        }
    }
}

fn message(id: ObjectId, record: &SessionRecord, ending: Ending, job: Option<String>) -> Ended {
    let failed = record.failed.iter().map(failed_object);
    let points = record.points.iter().map(point_object);
    let backups: BTreeSet<_> = record.points.iter().map(|point| &point.into).collect();
    Ended {
        session: id,
        ending,
        round: record.round() * ROUND,
        job,
        backups: backups.into_iter().map(|name| text(name)).collect(),
        source: record.source.location.clone(),
        target: record.target.location.clone(),
        objects: failed.chain(points).collect(),
        objects_count: record.failed_total + record.points.len() as u64,
        issues: record.failed_total,
        started: record.started,
        ended: record.ended.unwrap_or(record.started),
        bytes: record.points.iter().map(|point| point.bytes).sum(),
        stored_bytes: record.counters.stored_bytes,
    }
}

fn failed_object(part: &FailedPart) -> Object {
    Object {
        path: format!(
            "{}/{}/{}",
            text(&part.backup),
            text(&part.point),
            text(&part.path)
        ),
        outcome: "failed".to_owned(),
        reason: part.reason.clone(),
    }
}

fn point_object(point: &SessionPoint) -> Object {
    Object {
        path: format!("{}/{}", text(&point.into), text(&point.name)),
        outcome: point.outcome.name().to_owned(),
        reason: String::new(),
    }
}
