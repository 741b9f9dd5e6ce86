//! When a job runs by itself, in wall-clock time. Pure.
//!
//! | it says | mode | it runs |
//! |---|---|---|
//! | `immediate` | immediate | when a restore point completes |
//! | `every 4h` | periodic | at 00:00, 04:00, 08:00 …; from 5m to 12h, beginning anew at midnight |
//! | `daily 02:30`, `daily 02:30 Mon..Fri` | daily | once a day, or on some days of the week |
//! | `Sat *-*-* 03:00`, `*-*~1 22:00 Europe/Berlin` | calendar | as systemd.time(7) says of OnCalendar |
//!
//! When clocks are set forward, what falls into the hour that is left out runs at the first moment after it. When they
//! are set back, the hour that comes twice counts once; only a period of an hour or less goes on through both.

use super::calendar::{Calendar, Weekdays};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// The shortest and the longest period, seconds.
const PERIODS: std::ops::RangeInclusive<i64> = 5 * 60..=12 * HOUR;
const HOUR: i64 = 60 * 60;

/// When a job runs by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    text: String,
    when: When,
}

#[derive(Clone, Debug, PartialEq)]
enum When {
    Immediate,
    /// Seconds.
    Every(i64),
    Daily(Calendar),
    Calendar(Calendar, Option<TimeZone>),
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Schedule {
    /// What `text` says. `Invalid` when it is none of the forms above.
    pub fn parse(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split_whitespace().collect();
        let when = match words[..] {
            ["immediate"] => When::Immediate,
            ["every", ..] => When::Every(period(&words[1..].concat())?),
            ["daily", time] => When::Daily(daily(text, time, None)?),
            ["daily", time, weekdays] => When::Daily(daily(text, time, Some(weekdays))?),
            _ => calendar(text, &words)?,
        };
        let text = words.join(" ");
        Ok(Self { text, when })
    }

    /// `immediate`, `periodic`, `daily` or `calendar`.
    pub fn mode(&self) -> &'static str {
        match self.when {
            When::Immediate => "immediate",
            When::Every(_) => "periodic",
            When::Daily(_) => "daily",
            When::Calendar(..) => "calendar",
        }
    }

    /// Whether the job reacts to points, not to time.
    pub fn is_immediate(&self) -> bool {
        self.when == When::Immediate
    }

    /// The first time after this one, by the clocks of a zone. None when there is none.
    pub fn next(&self, after: Time, zone: &TimeZone) -> Option<Time> {
        let after = Timestamp::from_second(after.seconds).ok()?;
        let next = match &self.when {
            When::Immediate => None,
            When::Every(seconds) => next_period(*seconds, after, zone),
            When::Daily(calendar) => next_slot(after, zone, |civil| calendar.next(civil)),
            When::Calendar(calendar, own) => {
                let zone = own.as_ref().unwrap_or(zone);
                next_slot(after, zone, |civil| calendar.next(civil))
            }
        };
        next.map(|time| Time::new(time.as_second(), 0))
    }
}

fn period(text: &str) -> Result<i64> {
    let read = text.parse::<jiff::SignedDuration>();
    let seconds = read.ok().map(|duration| duration.as_secs());
    seconds
        .filter(|seconds| PERIODS.contains(seconds) && seconds % 60 == 0)
        .ok_or_else(|| {
            let message =
                format!("\"every {text}\" is no period; write one from 5m to 12h, in minutes");
            Error::new(Kind::Invalid, message)
        })
}

fn daily(text: &str, time: &str, weekdays: Option<&str>) -> Result<Calendar> {
    let read = || {
        let (hour, minute) = time.split_once(':')?;
        let (hour, minute) = (hour.parse().ok()?, minute.parse().ok()?);
        jiff::civil::Time::new(hour, minute, 0, 0).ok()?;
        let weekdays = weekdays.map_or(Some(Weekdays::ALL), Weekdays::parse)?;
        Some(Calendar::daily(hour, minute, weekdays))
    };
    read().ok_or_else(|| {
        let message = format!(
            "{text:?} names no time of the day; write it as \"daily 02:30\" or \"daily 02:30 Mon..Fri\""
        );
        Error::new(Kind::Invalid, message)
    })
}

/// A calendar expression, the last word of which may be a zone.
fn calendar(text: &str, words: &[&str]) -> Result<When> {
    let zone = match words {
        [_, .., last] if last.starts_with(char::is_alphabetic) => TimeZone::get(last).ok(),
        _ => None,
    };
    let expression = match &zone {
        Some(_) => words[..words.len() - 1].join(" "),
        None => text.to_owned(),
    };
    Ok(When::Calendar(Calendar::parse(&expression)?, zone))
}

/// The first moment of any slot after a moment. Slots are wall-clock times, and later slots never come earlier, so those
/// up to the clock's time at `after` have all been.
fn next_slot(
    after: Timestamp,
    zone: &TimeZone,
    slot_after: impl Fn(DateTime) -> Option<DateTime>,
) -> Option<Timestamp> {
    let mut civil = zone.to_datetime(after);
    loop {
        civil = slot_after(civil)?;
        let moment = moment(civil, zone)?;
        if moment > after {
            return Some(moment);
        }
    }
}

/// When the clocks of a zone show this time first, or, if they leave it out, the moment after.
fn moment(civil: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Gap { after, .. } => {
            let before_change = after.to_timestamp(civil).ok()?;
            let change = zone.following(before_change).next()?;
            Some(change.timestamp())
        }
        _ => ambiguous.earlier().ok(),
    }
}

/// As [`next_slot`], but a period that fits into an hour goes on through one that comes twice.
fn next_period(seconds: i64, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let slot_after = |civil| slot_of_period(seconds, civil);
    let next = next_slot(after, zone, slot_after)?;
    if seconds > HOUR {
        return Some(next);
    }
    // The second time that the clocks show the hour begins at a change, or we are in it.
    let change = zone
        .following(after)
        .next()
        .map(|change| change.timestamp());
    let begins = [Some(after), change].into_iter().flatten();
    let again = begins.filter_map(|begin| {
        // The clock's time at a change is a slot itself.
        let civil = zone.to_datetime(begin);
        let before = match begin == after {
            true => civil,
            false => civil.checked_sub(jiff::SignedDuration::from_secs(1)).ok()?,
        };
        let again = zone
            .to_ambiguous_timestamp(slot_after(before)?)
            .later()
            .ok()?;
        (again > after && begin <= again).then_some(again)
    });
    again.chain([next]).min()
}

fn slot_of_period(seconds: i64, after: DateTime) -> Option<DateTime> {
    let midnight = after.date().to_datetime(jiff::civil::Time::midnight());
    let passed = after.duration_since(midnight).as_secs();
    let slot = (passed / seconds + 1) * seconds;
    match slot < 24 * HOUR {
        true => midnight
            .checked_add(jiff::SignedDuration::from_secs(slot))
            .ok(),
        false => Some(
            after
                .date()
                .tomorrow()
                .ok()?
                .to_datetime(jiff::civil::Time::midnight()),
        ),
    }
}
