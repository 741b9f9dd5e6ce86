//! Time as a value: the one place that reads the system's clock, and how we write a time in names and reports.

use bincode::{Decode, Encode};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Nanoseconds since 1970-01-01T00:00:00Z, as whole seconds (may be negative) and 0..10⁹ nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Time {
    /// Whole seconds since 1970, rounded towards the past.
    pub seconds: i64,
    /// 0..1_000_000_000.
    pub nanoseconds: u32,
}

impl Time {
    /// From a `timespec`'s two fields.
    pub fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self {
            seconds,
            nanoseconds,
        }
    }

    /// `2026-11-20T02-00-00Z`: a name for a restore point (no colon: rsync takes it for a host).
    pub fn name(self) -> String {
        self.format("%Y-%m-%dT%H-%M-%SZ")
    }

    /// `2026-11-20T02:00:00Z`, RFC 3339, whole seconds.
    pub fn rfc3339(self) -> String {
        self.format("%Y-%m-%dT%H:%M:%SZ")
    }

    fn format(self, pattern: &str) -> String {
        jiff::Timestamp::from_second(self.seconds)
            .unwrap_or_default()
            .strftime(pattern)
            .to_string()
    }
}

impl From<std::time::SystemTime> for Time {
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Self::new(after.as_secs() as i64, after.subsec_nanos()),
            Err(before) => {
                let nanos = -(before.duration().as_nanos() as i128);
                Self::new(
                    nanos.div_euclid(1_000_000_000) as i64,
                    nanos.rem_euclid(1_000_000_000) as u32,
                )
            }
        }
    }
}

impl From<Time> for std::time::SystemTime {
    fn from(time: Time) -> Self {
        let fraction = std::time::Duration::from_nanos(time.nanoseconds.into());
        let whole = std::time::Duration::from_secs(time.seconds.unsigned_abs());
        if time.seconds >= 0 {
            std::time::UNIX_EPOCH + whole + fraction
        } else {
            std::time::UNIX_EPOCH - whole + fraction
        }
    }
}

/// Where time comes from: the system, or a test's hand.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `seconds` since 1970 until somebody stores another value.
    pub fn fixed(seconds: Arc<AtomicI64>) -> Self {
        Self(Some(seconds))
    }

    /// The time now.
    #[allow(clippy::disallowed_methods)] // the one place that may ask the system
    pub fn now(&self) -> Time {
        match &self.0 {
            Some(seconds) => Time::new(seconds.load(Ordering::Relaxed), 0),
            None => std::time::SystemTime::now().into(),
        }
    }
}
