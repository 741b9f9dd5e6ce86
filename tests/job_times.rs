//! When jobs run: against an oracle that walks minute by minute, and against systemd; and how many bytes pass a second.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use keepfs::clock::Time;
use keepfs::job::{Schedule, Window};
use keepfs::store::Bucket;
use proptest::prelude::*;
use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;

pub fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

pub fn seconds(text: &str, zone: &TimeZone) -> i64 {
    let civil: DateTime = text.parse().unwrap();
    civil
        .to_zoned(zone.clone())
        .unwrap()
        .timestamp()
        .as_second()
}

/// The minutes at which a slot begins: the clock is watched from minute to minute. What it leaves out comes at once, what
/// it shows again does not come `again`.
pub fn oracle(
    slot: &dyn Fn(DateTime) -> bool,
    again: bool,
    zone: &TimeZone,
    from: i64,
    minutes: i64,
) -> Vec<i64> {
    let civil = |time| zone.to_datetime(Timestamp::from_second(time).unwrap());
    let mut shown = HashSet::new();
    let mut before = civil(from);
    let mut found = Vec::new();
    for time in (1..=minutes).map(|minute| from + minute * 60) {
        let now = civil(time);
        let mut passed = before + 1.minute();
        let mut due = slot(now) && (again || !shown.contains(&now));
        while passed < now {
            due |= slot(passed);
            passed += 1.minute();
        }
        if due {
            found.push(time);
        }
        shown.insert(now);
        before = now;
    }
    found
}

fn runs(schedule: &Schedule, zone: &TimeZone, from: i64, minutes: i64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut time = Time::new(from, 0);
    while let Some(next) = schedule.next(time, zone) {
        assert!(next > time);
        if next.seconds > from + minutes * 60 {
            break;
        }
        found.push(next.seconds);
        time = next;
    }
    found
}

/// Forms with what they mean, and whether they go on through an hour that comes twice.
pub type Form = (&'static str, fn(DateTime) -> bool, bool);

fn at(civil: DateTime, hour: i8, minute: i8) -> bool {
    (civil.hour(), civil.minute()) == (hour, minute)
}

fn weekday(civil: DateTime) -> i8 {
    civil.weekday().to_monday_one_offset()
}

pub const FORMS: [Form; 12] = [
    ("every 5m", |c| c.minute() % 5 == 0, true),
    ("every 1h", |c| c.minute() == 0, true),
    ("every 2h", |c| c.hour() % 2 == 0 && c.minute() == 0, false),
    ("every 5h", |c| c.hour() % 5 == 0 && c.minute() == 0, false),
    (
        "every 12h",
        |c| c.hour() % 12 == 0 && c.minute() == 0,
        false,
    ),
    ("daily 02:30", |c| at(c, 2, 30), false),
    (
        "daily 02:00 Mon..Fri,Sun",
        |c| at(c, 2, 0) && weekday(c) != 6,
        false,
    ),
    ("hourly", |c| c.minute() == 0, false),
    ("*:0/15", |c| c.minute() % 15 == 0, false),
    (
        "Sun *-*-* 02:15",
        |c| at(c, 2, 15) && weekday(c) == 7,
        false,
    ),
    (
        "*-*-1..7,25 01..03:30",
        |c| c.minute() == 30 && (1..4).contains(&c.hour()) && (c.day() < 8 || c.day() == 25),
        false,
    ),
    (
        "*-*~1 22:00",
        |c| at(c, 22, 0) && c.tomorrow().unwrap().day() == 1,
        false,
    ),
];

#[test]
fn thirty_days_of_each_form_are_those_of_the_oracle_across_all_changes_of_two_years() {
    let berlin = zone("Europe/Berlin");
    for (text, slot, again) in FORMS {
        let schedule = Schedule::parse(text).unwrap();
        for begin in ["2026-03-15", "2026-10-10", "2027-03-15", "2027-10-10"] {
            let from = seconds(&format!("{begin}T00:00"), &berlin);
            let minutes = 30 * 24 * 60;
            let expected = oracle(&slot, again, &berlin, from, minutes);
            assert!(!expected.is_empty());
            assert_eq!(
                runs(&schedule, &berlin, from, minutes),
                expected,
                "{text} from {begin}"
            );
        }
    }
}

#[test]
fn each_day_of_two_years_has_one_daily_run() {
    let berlin = zone("Europe/Berlin");
    for text in [
        "daily 02:00",
        "daily 02:30",
        "daily 02:59",
        "daily 03:00",
        "daily 00:00",
    ] {
        let schedule = Schedule::parse(text).unwrap();
        let from = seconds("2025-12-31T12:00", &berlin);
        let days = 2 * 365;
        let found = runs(&schedule, &berlin, from, days * 24 * 60);
        let dates: Vec<_> = found
            .iter()
            .map(|time| {
                berlin
                    .to_datetime(Timestamp::from_second(*time).unwrap())
                    .date()
            })
            .collect();
        assert_eq!(dates.len() as i64, days, "{text}");
        for pair in dates.windows(2) {
            assert_eq!(pair[0].tomorrow().unwrap(), pair[1], "{text}");
        }
    }
}

#[test]
fn a_skipped_hour_runs_at_the_moment_after_it_and_a_doubled_one_once() {
    let berlin = zone("Europe/Berlin");
    let daily = Schedule::parse("daily 02:30").unwrap();
    let next = |from: &str| {
        let next = daily
            .next(Time::new(seconds(from, &berlin), 0), &berlin)
            .unwrap();
        next.rfc3339()
    };
    assert_eq!(next("2026-03-29T00:00"), "2026-03-29T01:00:00Z");
    assert_eq!(next("2026-10-25T00:00"), "2026-10-25T00:30:00Z");
    // After its only run of that day, in the hour that comes again.
    let again = Time::new(seconds("2026-10-25T02:30", &berlin) + 3000, 0);
    assert_eq!(
        daily.next(again, &berlin).unwrap().rfc3339(),
        "2026-10-26T01:30:00Z"
    );
}

const EXPRESSIONS: [&str; 26] = [
    "minutely",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "quarterly",
    "semiannually",
    "yearly",
    "Mon..Fri *-*-* 10..12:0/15",
    "Mon,Wed..Fri 12:30",
    "Sat,Thu,Mon..Wed,Sat..Sun",
    "mon-fri 3:00",
    "*-02~03",
    "Mon *-05~07/1",
    "*-*~1..3 06:00",
    "*-*-1..7 18:00",
    "*-*-1/5 00:00",
    "12-25",
    "2026/2-01-01",
    "*-02-29",
    "*-*-* 0/5:00",
    "*:0/15:30",
    "02:30:*",
    "Fri 2026-01..06-13",
    "29-01-01 10:20:30",
    "*-*-31 08..18/2:00,30",
];

fn of_systemd(expression: &str, base: &str) -> Vec<String> {
    let output = Command::new("systemd-analyze")
        .args([
            "calendar",
            "--iterations=12",
            &format!("--base-time={base}"),
            expression,
        ])
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{expression}: {text}");
    let times = text.lines().filter_map(|line| {
        let line = line.trim();
        let (what, time) = line.split_once(": ")?;
        let is_time = what == "Next elapse" || what.starts_with("Iter");
        let time = time.trim().strip_suffix(" UTC")?;
        // Behind the weekday's name.
        is_time.then(|| {
            time.split_once(' ')
                .map(|(_, time)| time.replace(' ', "T") + "Z")
        })?
    });
    times.collect()
}

/// Clocks are not changed in what is compared: where an hour is left out or comes twice, systemd loses runs or doubles them.
/// Nor does a February end in another zone than its own, where version 252 loses a midnight.
#[test]
fn calendar_expressions_mean_what_systemd_says() {
    let utc = zone("UTC");
    for expression in EXPRESSIONS {
        for (zone, base) in [
            ("UTC", "2026-01-15 11:22:33"),
            ("Asia/Tokyo", "2027-04-02 23:59:59"),
        ] {
            let text = format!("{expression} {zone}");
            let schedule = match expression.contains(' ') || expression.contains(['-', ':', ',']) {
                true => Schedule::parse(&text).unwrap(),
                false if zone == "UTC" => Schedule::parse(expression).unwrap(),
                false => continue,
            };
            let asked = if expression.contains(['-', ':', ',', ' ']) {
                text.as_str()
            } else {
                expression
            };
            let expected = of_systemd(asked, base);
            let mut time = Time::new(seconds(&base.replace(' ', "T"), &utc), 0);
            let mut found = Vec::new();
            while let Some(next) = schedule.next(time, &utc) {
                time = next;
                found.push(next.rfc3339());
                if found.len() == 12 {
                    break;
                }
            }
            assert_eq!(found, expected, "{asked}");
        }
    }
}

#[test]
fn what_systemd_refuses_is_refused() {
    for text in [
        "*-*-* */5:00",
        "*:*/5",
        "*-*/2-01",
        "*-*-31..3",
        "Sun..Mon",
        "25:00",
        "*-13-01",
        "5",
        "",
        "10:20 10:20",
        "x",
    ] {
        let output = Command::new("systemd-analyze")
            .args(["calendar", text])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{text}");
        assert!(Schedule::parse(text).is_err(), "{text}");
    }
}

/// A list, a range or steps as they are written, and what they mean.
fn part(max: i8) -> impl Strategy<Value = (String, Vec<i8>)> {
    let any = Just(("*".to_owned(), (0..=max).collect()));
    let list = proptest::collection::vec(0..=max, 1..4).prop_map(|values| {
        let text: Vec<_> = values.iter().map(ToString::to_string).collect();
        (text.join(","), values)
    });
    let range = (0..=max, 0..=max, 1..9i8).prop_map(|(one, other, step)| {
        let (first, last) = (one.min(other), one.max(other));
        let values = (first..=last).step_by(step as usize).collect();
        (format!("{first}..{last}/{step}"), values)
    });
    let steps = (0..=max, 1..9i8).prop_map(move |(first, step)| {
        let values = (first..=max).step_by(step as usize).collect();
        (format!("{first}/{step}"), values)
    });
    prop_oneof![any, list, range, steps]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_expression_runs_when_the_oracle_says(
        hours in part(23),
        minutes in part(59),
        days in proptest::collection::btree_set(1..=7i8, 1..7),
        place in 0..5usize,
        begin in 0..3usize,
        shift in 0..4000i64,
    ) {
        let name = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"][place];
        let zone = zone(name);
        // Where clocks are changed in one of these zones.
        let begin = ["2026-03-28T12:00", "2026-10-31T06:00", "2026-04-03T20:00"][begin];
        let from = seconds(begin, &zone) + shift * 60;
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let listed: Vec<_> = days.iter().map(|day| names[*day as usize - 1]).collect();
        let text = format!("{} {}:{}", listed.join(","), hours.0, minutes.0);
        let schedule = Schedule::parse(&text).unwrap();
        let slot = |civil: DateTime| {
            days.contains(&weekday(civil)) && hours.1.contains(&civil.hour()) && minutes.1.contains(&civil.minute())
        };
        let expected = oracle(&slot, false, &zone, from, 3 * 24 * 60);
        prop_assert_eq!(runs(&schedule, &zone, from, 3 * 24 * 60), expected, "{} in {}", text, name);
    }
}

pub const OFFICE: &str = "
    ++++++------------++++++
    ++++++------------++++++
    ++++++------------++++++
    ++++++------------++++++
    ++++++------------++++++
    ++++++++++++++++++++++++
    ------------------------";

#[test]
fn a_window_opens_when_the_clock_says() {
    let window = Window::parse(OFFICE).unwrap();
    for name in ["Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"] {
        let zone = zone(name);
        for begin in ["2026-03-27T00:00", "2026-10-23T00:00", "2026-04-03T00:00"] {
            let from = seconds(begin, &zone);
            let allowed = |time| {
                let civil = zone.to_datetime(Timestamp::from_second(time).unwrap());
                match weekday(civil) {
                    6 => true,
                    7 => false,
                    _ => !(6..18).contains(&civil.hour()),
                }
            };
            for time in (0..7 * 24 * 12).map(|five| from + five * 300) {
                let now = Time::new(time, 0);
                assert_eq!(
                    window.allows(now, &zone),
                    allowed(time),
                    "{}",
                    now.rfc3339()
                );
                let opens = (0..)
                    .map(|minute| time + minute * 60)
                    .find(|time| allowed(*time))
                    .unwrap();
                assert_eq!(
                    window.next_open(now, &zone).unwrap().seconds,
                    opens,
                    "{} in {name}",
                    now.rfc3339()
                );
            }
        }
    }
    assert_eq!(window.to_string().lines().count(), 7);
    assert_eq!(Window::parse(&window.to_string()).unwrap(), window);
}

/// Passes pieces through a bucket for so long; the moments and the bytes.
fn pass(
    bucket: &mut Bucket,
    now: &mut Duration,
    until: Duration,
    piece: u64,
) -> Vec<(Duration, u64)> {
    let mut passed = Vec::new();
    while *now < until {
        let bytes = piece.min(bucket.piece());
        match bucket.take(bytes, *now) {
            Ok(()) => passed.push((*now, bytes)),
            Err(wait) => *now += wait.max(Duration::from_micros(10)),
        }
    }
    passed
}

fn between(passed: &[(Duration, u64)], from: u64, to: u64) -> f64 {
    let range = Duration::from_secs(from)..Duration::from_secs(to);
    let within = passed.iter().filter(|(at, _)| range.contains(at));
    within.map(|(_, bytes)| *bytes as f64).sum()
}

#[test]
fn a_rate_is_kept_in_each_second_and_changes_at_once() {
    for piece in [16 << 10, 1 << 20] {
        let mut bucket = Bucket::new(Some(20_000_000), Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut passed = pass(&mut bucket, &mut now, Duration::from_secs(30), piece);
        let all = between(&passed, 0, 30) / 30.0;
        assert!((18e6..=22e6).contains(&all), "{all}");
        for second in 0..30 {
            let bytes = between(&passed, second, second + 1);
            assert!(
                (17e6..=23e6).contains(&bytes),
                "{bytes} in second {second}, pieces of {piece}"
            );
        }
        let longest = passed
            .windows(2)
            .map(|two| two[1].0 - two[0].0)
            .max()
            .unwrap();
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        bucket.set(Some(2_000_000), now);
        passed.extend(pass(&mut bucket, &mut now, Duration::from_secs(40), piece));
        let slower = between(&passed, 32, 40) / 8.0;
        assert!((1.8e6..=2.2e6).contains(&slower), "{slower}");
        let longest = passed
            .windows(2)
            .map(|two| two[1].0 - two[0].0)
            .max()
            .unwrap();
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        bucket.set(None, now);
        assert!(bucket.take(u64::MAX, now).is_ok());
    }
    // The largest piece that is taken at once is passed in half a second.
    let mut bucket = Bucket::new(Some(1_000_000), Duration::ZERO);
    let mut now = Duration::ZERO;
    let passed = pass(&mut bucket, &mut now, Duration::from_secs(20), u64::MAX);
    let longest = passed
        .windows(2)
        .map(|two| two[1].0 - two[0].0)
        .max()
        .unwrap();
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!((18e6..=22e6).contains(&between(&passed, 0, 20)));
}
