//! One message a day: when it is due, and how it takes in what gathered.

use super::letter::{About, Letter};
use super::spool::{Spool, Tray};
use crate::clock::Time;
use crate::error::Result;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The newest time of day `hour`:`minute` that is not after `now`, and its date. On a day whose clock leaves it out it
/// is the moment after the gap; on one that has it twice, the first.
fn last_due(now: Time, hour: i8, minute: i8, zone: &TimeZone) -> (Time, String) {
    let stamp = jiff::Timestamp::from_second(now.seconds).unwrap_or_default();
    let mut day = stamp.to_zoned(zone.clone()).date();
    // Today's, or if that is still to come, yesterday's.
    for _ in 0..2 {
        let due = at(day.at(hour, minute, 0, 0), zone);
        if due <= now.seconds {
            return (Time::new(due, 0), day.to_string());
        }
        day = day.yesterday().unwrap_or(day);
    }
    (
        Time::new(at(day.at(hour, minute, 0, 0), zone), 0),
        day.to_string(),
    )
}

fn at(civil: DateTime, zone: &TimeZone) -> i64 {
    let zoned = zone.to_ambiguous_zoned(civil).compatible();
    zoned.map_or(i64::MAX, |zoned| zoned.timestamp().as_second())
}

/// Makes one message of all that was queued until the newest time of summaries.
///
/// The message is on disk before those that it takes in leave the queue, and a crash in between is made good by
/// [`settle`]; the day is in its name, so there is one a day.
pub(super) fn gather(
    spool: &Spool,
    now: Time,
    (hour, minute): (i8, i8),
    zone: &TimeZone,
) -> Result<()> {
    let (due, date) = last_due(now, hour, minute, zone);
    let mut sessions = Vec::new();
    for key in spool.keys(Tray::Queued)? {
        // What cannot be read is told by whoever sends.
        let Ok(letter) = spool.read(Tray::Queued, &key) else {
            continue;
        };
        if letter.queued.seconds <= due.seconds
            && letter.is_untouched()
            && !spool.is_done(&key)
            && let About::Session(ended) = letter.about
        {
            let mut line = *ended;
            line.objects.clear();
            sessions.push(line);
        }
    }
    if sessions.is_empty() {
        return Ok(());
    }
    sessions.sort_by_key(|ended| (ended.ended, ended.session));
    let letter = Letter::new(About::Summary(sessions), now);
    spool.add(&format!("summary-{date}"), &letter)?;
    settle(spool)
}

/// Takes out of the queue what a queued summary tells.
pub(super) fn settle(spool: &Spool) -> Result<()> {
    let keys = spool.keys(Tray::Queued)?;
    for summary in keys.iter().filter(|key| key.starts_with("summary-")) {
        let Ok(letter) = spool.read(Tray::Queued, summary) else {
            continue;
        };
        for ended in letter.sessions() {
            let key = ended.key();
            if keys.contains(&key) {
                spool.finish(&key, Tray::Sent)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_due_once_a_day_at_its_hour() {
        let berlin = TimeZone::get("Europe/Berlin").expect("is known");
        let seconds = |text: &str| {
            let stamp: jiff::Timestamp = text.parse().expect("a time");
            Time::new(stamp.as_second(), 0)
        };
        for (now, hour, due, date) in [
            (
                "2026-11-28T06:59:59Z",
                8,
                "2026-11-27T07:00:00Z",
                "2026-11-27",
            ),
            (
                "2026-11-28T07:00:00Z",
                8,
                "2026-11-28T07:00:00Z",
                "2026-11-28",
            ),
            (
                "2026-11-28T22:59:59Z",
                8,
                "2026-11-28T07:00:00Z",
                "2026-11-28",
            ),
            // Clocks go from 02:00 to 03:00, and from 03:00 to 02:00.
            (
                "2026-03-29T12:00:00Z",
                2,
                "2026-03-29T01:00:00Z",
                "2026-03-29",
            ),
            (
                "2026-10-25T00:30:00Z",
                2,
                "2026-10-25T00:00:00Z",
                "2026-10-25",
            ),
            (
                "2026-10-25T12:00:00Z",
                2,
                "2026-10-25T00:00:00Z",
                "2026-10-25",
            ),
        ] {
            let found = last_due(seconds(now), hour, 0, &berlin);
            assert_eq!(found, (seconds(due), date.to_owned()), "{now}");
        }
    }
}
