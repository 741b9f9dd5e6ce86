//! Calendar expressions as systemd.time(7) defines them, without zones: which wall-clock times they mean. Pure.
//!
//! ```text
//! [WEEKDAYS] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]]
//! Mon..Fri 02:30        *-*-1..7 18:00        *-02~03        Mon *-05~07/1        *:0/15        weekly
//! ```
//! A part is `*`, or a list of values, of ranges `2..5`, and of either with a step, `0/15` or `8..18/2`. `~` instead of the
//! last `-` counts days from the end of the month. What is not said is every day, at midnight, at second 0.

use crate::error::{Error, Kind, Result};
use jiff::ToSpan;
use jiff::civil::{Date, DateTime, Time};

/// The last year that is looked at.
const YEAR_MAX: i16 = 2199;
/// The first year that an expression may name.
const YEAR_MIN: i16 = 1970;

const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// Words for whole expressions.
const WORDS: [(&str, &str); 13] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("semi-annually", "*-01,07-01 00:00:00"),
    ("biannually", "*-01,07-01 00:00:00"),
    ("bi-annually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
    ("anually", "*-01-01 00:00:00"),
];

/// Some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weekdays([bool; 7]);

impl Weekdays {
    pub(super) const ALL: Self = Self([true; 7]);

    /// `Mon..Fri,Sun`; names may be long or short, in any case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut days = Self([false; 7]);
        for part in text.split(',') {
            let range = part.split_once("..").or_else(|| part.split_once('-'));
            let (first, last) = range.unwrap_or((part, part));
            let (first, last) = (weekday(first)?, weekday(last)?);
            if first > last {
                return None;
            }
            days.0[first..=last].fill(true);
        }
        Some(days)
    }

    fn has(self, date: Date) -> bool {
        self.0[date.weekday().to_monday_zero_offset() as usize]
    }
}

fn weekday(text: &str) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    WEEKDAYS
        .iter()
        .position(|name| *name == text || name[..3] == text)
}

/// One of a list: a value, a range, or steps from a value on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    first: i16,
    last: Option<i16>,
    step: Option<i16>,
}

impl Part {
    fn parse(text: &str, min: i16, max: i16) -> Option<Self> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0)?)),
            None => (text, None),
        };
        let (first, last) = match range.split_once("..") {
            Some((first, last)) => (first, Some(number(last)?)),
            None => (range, None),
        };
        let first = number(first)?;
        let within = |value: i16| (min..=max).contains(&value);
        let sound = within(first) && last.is_none_or(|last| within(last) && first <= last);
        sound.then_some(Self { first, last, step })
    }

    fn has(&self, value: i16) -> bool {
        let last = match (self.last, self.step) {
            (Some(last), _) => last,
            (None, Some(_)) => i16::MAX,
            (None, None) => self.first,
        };
        let step = self.step.unwrap_or(1);
        (self.first..=last).contains(&value) && (value - self.first) % step == 0
    }
}

fn number(text: &str) -> Option<i16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// `*`, or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values(Option<Vec<Part>>);

impl Values {
    const ANY: Self = Self(None);

    fn one(value: i16) -> Self {
        Self(Some(vec![Part {
            first: value,
            last: None,
            step: None,
        }]))
    }

    fn parse(text: &str, min: i16, max: i16) -> Option<Self> {
        if text == "*" {
            return Some(Self::ANY);
        }
        let parts = text.split(',').map(|part| Part::parse(part, min, max));
        Some(Self(Some(parts.collect::<Option<_>>()?)))
    }

    fn has(&self, value: i16) -> bool {
        match &self.0 {
            None => true,
            Some(parts) => parts.iter().any(|part| part.has(value)),
        }
    }

    fn first_from(&self, from: i16, max: i16) -> Option<i16> {
        (from..=max).find(|value| self.has(*value))
    }
}

/// What a calendar expression means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    weekdays: Weekdays,
    years: Values,
    months: Values,
    days: Values,
    /// Days count from the end of the month: 1 is the last.
    from_end: bool,
    hours: Values,
    minutes: Values,
    seconds: Values,
}

impl Calendar {
    /// Every day, or some days of the week, at this time.
    pub(super) fn daily(hour: i8, minute: i8, weekdays: Weekdays) -> Self {
        Self {
            weekdays,
            years: Values::ANY,
            months: Values::ANY,
            days: Values::ANY,
            from_end: false,
            hours: Values::one(hour.into()),
            minutes: Values::one(minute.into()),
            seconds: Values::one(0),
        }
    }

    /// What `text` means. `Invalid` when it is no calendar expression.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let lower = text.trim().to_ascii_lowercase();
        let word = WORDS.iter().find(|(word, _)| *word == lower);
        let meant = word.map_or(text, |(_, expression)| expression);
        Self::parse_parts(meant).ok_or_else(|| {
            let message = format!(
                "{text:?} is no calendar expression; write it as \"Mon..Fri 02:30\" or \"*-*-1..7 18:00\", see systemd.time(7)"
            );
            Error::new(Kind::Invalid, message)
        })
    }

    fn parse_parts(text: &str) -> Option<Self> {
        let mut calendar = Self::daily(0, 0, Weekdays::ALL);
        let mut words = text.split_whitespace().peekable();
        words.peek()?;
        if let Some(word) = words.next_if(|word| word.starts_with(char::is_alphabetic)) {
            calendar.weekdays = Weekdays::parse(word)?;
        }
        if let Some(word) = words.next_if(|word| !word.contains(':')) {
            calendar.set_date(word)?;
        }
        if let Some(word) = words.next() {
            calendar.set_time(word)?;
        }
        words.next().is_none().then_some(calendar)
    }

    fn set_date(&mut self, text: &str) -> Option<()> {
        let (text, days) = match text.split_once('~') {
            Some((before, days)) => {
                self.from_end = true;
                (before, days)
            }
            None => text.rsplit_once('-')?,
        };
        let (years, months) = text.rsplit_once('-').unwrap_or(("*", text));
        self.years = years_of(years)?;
        self.months = Values::parse(months, 1, 12)?;
        self.days = Values::parse(days, 1, 31)?;
        Some(())
    }

    fn set_time(&mut self, text: &str) -> Option<()> {
        let mut parts = text.split(':');
        self.hours = Values::parse(parts.next()?, 0, 23)?;
        self.minutes = Values::parse(parts.next()?, 0, 59)?;
        self.seconds = match parts.next() {
            Some(seconds) => Values::parse(seconds, 0, 59)?,
            None => Values::one(0),
        };
        parts.next().is_none().then_some(())
    }

    /// The first time that it means after this one.
    pub(super) fn next(&self, after: DateTime) -> Option<DateTime> {
        let from = after
            .with()
            .subsec_nanosecond(0)
            .build()
            .ok()?
            .checked_add(1.second())
            .ok()?;
        if self.has_day(from.date())
            && let Some(time) = self.time_from(from.time())
        {
            return Some(from.date().to_datetime(time));
        }
        let mut date = from.date().tomorrow().ok()?;
        loop {
            date = self.day_from(date)?;
            if let Some(time) = self.time_from(Time::midnight()) {
                return Some(date.to_datetime(time));
            }
            date = date.tomorrow().ok()?;
        }
    }

    fn has_day(&self, date: Date) -> bool {
        self.years.has(date.year())
            && self.months.has(date.month().into())
            && self.weekdays.has(date)
            && self.has_day_of_month(date)
    }

    fn has_day_of_month(&self, date: Date) -> bool {
        let day = i16::from(date.day());
        if !self.from_end {
            return self.days.has(day);
        }
        let length = i16::from(date.days_in_month());
        let Some(parts) = &self.days.0 else {
            return true;
        };
        parts.iter().any(|part| counts_from_end(part, day, length))
    }

    /// The first day from this one on. Months that do not count are passed over as a whole.
    fn day_from(&self, mut date: Date) -> Option<Date> {
        while date.year() <= YEAR_MAX {
            if !self.years.has(date.year()) {
                date = Date::new(date.year() + 1, 1, 1).ok()?;
            } else if !self.months.has(date.month().into()) {
                date = date.last_of_month().tomorrow().ok()?;
            } else if self.has_day(date) {
                return Some(date);
            } else {
                date = date.tomorrow().ok()?;
            }
        }
        None
    }

    fn time_from(&self, from: Time) -> Option<Time> {
        let [hour, minute, second] = [from.hour(), from.minute(), from.second()].map(i16::from);
        let mut hours = self.hours.first_from(hour, 23);
        while let Some(found) = hours {
            let begin = if found == hour { minute } else { 0 };
            let mut minutes = self.minutes.first_from(begin, 59);
            while let Some(at) = minutes {
                let same = found == hour && at == minute;
                let begin = if same { second } else { 0 };
                if let Some(seconds) = self.seconds.first_from(begin, 59) {
                    return Time::new(found as i8, at as i8, seconds as i8, 0).ok();
                }
                minutes = self.minutes.first_from(at + 1, 59);
            }
            hours = self.hours.first_from(found + 1, 23);
        }
        None
    }
}

/// Whether `~FIRST..LAST/STEP` means this day of a month so long. Steps go towards the end of the month.
fn counts_from_end(part: &Part, day: i16, length: i16) -> bool {
    let at = |count: i16| length + 1 - count;
    let (mut first, mut last) = (at(part.first), at(part.last.unwrap_or(part.first)));
    if first > last {
        std::mem::swap(&mut first, &mut last);
    }
    if part.last.is_none() && part.step.is_some() {
        last = length;
    }
    (first..=last).contains(&day) && (day - first) % part.step.unwrap_or(1) == 0
}

/// Years of two digits are those from 1970 to 2069.
fn years_of(text: &str) -> Option<Values> {
    if number(text).is_some_and(|year| year < 100) {
        let year = number(text)?;
        return Some(Values::one(year + if year < 70 { 2000 } else { 1900 }));
    }
    Values::parse(text, YEAR_MIN, YEAR_MAX)
}
