//! The one clock of a run: every moment in a report is microseconds after its start.
//!
//! Monotonic, and read in this process only, so that two moments can be subtracted wherever they
//! were taken. What a node's clock says is never mixed in.

use std::fmt;
use std::time::{Duration, Instant};

/// A moment of a run, in microseconds after its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment `us` microseconds after the start.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// The moment `after` the start; the end of time beyond 584,000 years.
    #[must_use]
    pub fn after_start(after: Duration) -> Self {
        Self(u64::try_from(after.as_micros()).unwrap_or(u64::MAX))
    }

    /// Microseconds after the start.
    #[must_use]
    pub const fn us(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    /// Seconds with milliseconds: `3.214 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}

/// A clock that began at the start of a run.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The moment it is.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::after_start(self.0.elapsed())
    }

    /// The system's monotonic time at `moment`.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        self.0 + Duration::from_micros(moment.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_seconds_and_subtract_without_wrapping() {
        let (early, late) = (Moment::from_us(1_500), Moment::from_us(3_214_999));
        assert_eq!(late.to_string(), "3.214 s");
        assert_eq!(late.since(early), Duration::from_micros(3_213_499));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn moment_and_instant_are_the_same_time() {
        let clock = Clock::start();
        let moment = clock.now();
        assert!(clock.instant(moment) <= Instant::now());
        assert_eq!(clock.instant(Moment::from_us(0)), clock.0);
    }
}
