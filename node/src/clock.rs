//! The clocks of a node: read here, and told to everything else.

use atoll_replication::{Instant, Now};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A monotonic clock that began with the process, and the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// What both clocks say.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { instant: self.instant(), wall_ms: wall_ms() }
    }

    /// What the monotonic clock says, never zero: a moment before it is "before the process".
    #[must_use]
    pub fn instant(&self) -> Instant {
        let elapsed = self.origin.elapsed() + Duration::from_secs(60);
        Instant::from_micros(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Milliseconds since 1970; zero for a clock that is set before.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
