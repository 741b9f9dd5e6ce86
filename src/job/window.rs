//! The hours in which a job may run. Pure.

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Clocks differ from each other by whole quarters of an hour; so do the beginnings of hours.
const QUARTER: i64 = 15 * 60;
/// Quarters in eight days: longer than any week, whatever clocks do.
const QUARTERS_MAX: usize = 8 * 24 * 4;

/// Seven lines, Monday first, of 24 characters, one for each hour from midnight: `+` allows it and `-` denies it.
///
/// ```text
/// ++++++------------++++++     Monday: not from 06:00 to 18:00
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window([[bool; 24]; 7]);

impl Window {
    /// A window from its lines; blanks around them mean nothing. `Invalid` when there are not seven lines of 24 `+` and
    /// `-`, and when no hour is allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let message = format!(
                "the window {why}; write seven lines, Monday first, of 24 characters, + for an hour that is allowed and - for one that is not"
            );
            Error::new(Kind::Invalid, message)
        };
        let mut hours = [[false; 24]; 7];
        let lines: Vec<_> = text.split_whitespace().collect();
        if lines.len() != hours.len() {
            return Err(wrong("has not seven lines"));
        }
        for (line, day) in lines.iter().zip(&mut hours) {
            if line.len() != day.len() || line.bytes().any(|hour| !b"+-".contains(&hour)) {
                return Err(wrong(&format!("has the line {line:?}")));
            }
            for (hour, allowed) in line.bytes().zip(day) {
                *allowed = hour == b'+';
            }
        }
        if !hours.iter().flatten().any(|allowed| *allowed) {
            return Err(wrong("allows no hour at all"));
        }
        Ok(Self(hours))
    }

    /// Whether this moment is in an hour that is allowed, by the clocks of a zone.
    pub fn allows(&self, time: Time, zone: &TimeZone) -> bool {
        let time = Timestamp::from_second(time.seconds).unwrap_or_default();
        let civil = zone.to_datetime(time);
        let day = civil.weekday().to_monday_zero_offset() as usize;
        self.0[day][civil.hour() as usize]
    }

    /// The first moment from this one on that is allowed. None when clocks leave out the only hour of the week.
    pub fn next_open(&self, time: Time, zone: &TimeZone) -> Option<Time> {
        if self.allows(time, zone) {
            return Some(time);
        }
        let first = (time.seconds.div_euclid(QUARTER) + 1) * QUARTER;
        (0..QUARTERS_MAX)
            .map(|quarter| Time::new(first + quarter as i64 * QUARTER, 0))
            .find(|quarter| self.allows(*quarter, zone))
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for day in &self.0 {
            let hours = day.iter().map(|allowed| if *allowed { '+' } else { '-' });
            writeln!(f, "{}", hours.collect::<String>())?;
        }
        Ok(())
    }
}
