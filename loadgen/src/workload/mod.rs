//! What is asked of a cluster: how much, of which types, on how many keys.
//!
//! *How it goes.* A [`Workload`] is the description. A [`Planner`] per session draws one write
//! after the other from it, an [`Arrivals`] says when.
//!
//! *What always holds.* W1: one seed gives one sequence of writes per session. W2: every value and
//! every member of a session's own is written once in a run. W3: counters are only added to, so
//! that a sum has bounds. W4: a map's values, counters and member sets live under paths that are
//! no prefixes of each other.
//!
//! *What is not here.* Sockets and answers.

mod arrivals;
mod cells;
mod mix;
mod plan;

use std::time::Duration;

use atoll_client::api::{Namespace, limits};
use serde::{Deserialize, Serialize};

pub use arrivals::Arrivals;
pub use cells::{Cell, Change, Kind, Leaf, Member, SessionId, WriteNumber};
pub(crate) use cells::{number_of_value, value_of};
pub use mix::Mix;
pub use plan::{Planned, Planner};

/// Most sessions in one region: each has one request in flight.
pub const SESSIONS_MAX: u16 = 4096;
/// Most writes a run may ask for, which bounds its history.
pub const WRITES_MAX: u64 = 50_000_000;

/// What is asked of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Where the keys are. Verification takes everything in it for its own.
    pub namespace: Namespace,
    /// Where all randomness comes from (W1).
    pub seed: u64,
    /// Which types, in which proportion.
    pub mix: Mix,
    /// How many keys of each type all sessions share. Fewer: more conflicts.
    pub shared_keys: u32,
    /// How many keys of each type each session has to itself; 0 to share all.
    pub own_keys: u32,
    /// The size of a register's value, at least 16.
    pub value_bytes: usize,
    /// How many sessions each region's clients keep, which bounds what is in flight.
    pub sessions_per_region: u16,
    /// When writes are asked.
    pub pace: Pace,
    /// For how long.
    pub duration: Duration,
    /// Whether sessions carry their tokens. Without, they say nothing of order, and verification
    /// cannot expect any.
    pub tokens: bool,
    /// Which share of the operations may be reads that measure convergence; 0 for none.
    pub probe_share: f64,
    /// Whether to keep the history, which verification needs.
    pub record: bool,
}

/// When writes are asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// At moments of their own, whether or not earlier ones are answered.
    Open {
        /// Writes a second over all regions.
        per_second: f64,
        /// How the moments are spread.
        spread: Spread,
    },
    /// By each session as soon as its last one is answered.
    Closed,
}

/// How the moments of an open loop are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Evenly.
    Constant,
    /// As independent users would come: exponential gaps.
    #[default]
    Poisson,
}

/// What is wrong with a [`Workload`]: its author's fault. Nothing was sent.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WorkloadError {
    /// A number is out of its range.
    #[error("{field} is {range}, not {value}")]
    Range {
        /// Which.
        field: &'static str,
        /// What it may be.
        range: String,
        /// What it was.
        value: String,
    },
    /// No type has a weight.
    #[error("the mix asks for nothing: give at least one type a weight")]
    EmptyMix,
    /// The history would not fit.
    #[error("that is about {writes} writes, and {WRITES_MAX} are the most: shorten it or slow it down")]
    TooMany {
        /// How many were asked for.
        writes: u64,
    },
}

impl Workload {
    /// Small values over all types at `per_second` writes over all regions, for `duration`.
    #[must_use]
    pub fn mixed(namespace: Namespace, per_second: f64, duration: Duration) -> Self {
        Self {
            namespace,
            seed: 1,
            mix: Mix::default(),
            shared_keys: 256,
            own_keys: 4,
            value_bytes: 64,
            sessions_per_region: 64,
            pace: Pace::Open { per_second, spread: Spread::default() },
            duration,
            tokens: true,
            probe_share: 0.1,
            record: true,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first that is out of its range.
    pub fn check(&self) -> Result<(), WorkloadError> {
        let within = |field, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let (range, value) = (format!("{least} to {most}"), value.to_string());
            Err(WorkloadError::Range { field, range, value })
        };
        if self.mix.total() == 0 {
            return Err(WorkloadError::EmptyMix);
        }
        within("shared_keys", self.shared_keys.into(), f64::from(u8::from(self.own_keys == 0)), 1e8)?;
        within("own_keys", self.own_keys.into(), 0.0, 1e6)?;
        #[expect(clippy::cast_precision_loss, reason = "a range check; the bound is 2^20")]
        within("value_bytes", self.value_bytes as f64, 16.0, limits::VALUE_BYTES_MAX as f64)?;
        within("sessions_per_region", self.sessions_per_region.into(), 1.0, SESSIONS_MAX.into())?;
        within("duration in seconds", self.duration.as_secs_f64(), 0.001, 86_400.0)?;
        within("probe_share", self.probe_share, 0.0, 1.0)?;
        if let Pace::Open { per_second, .. } = self.pace {
            within("rate", per_second, 0.001, 1e6)?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, below 1e12")]
            let writes = (per_second * self.duration.as_secs_f64()) as u64;
            if writes > WRITES_MAX {
                return Err(WorkloadError::TooMany { writes });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload::mixed(Namespace::new("load").unwrap(), 2_000.0, Duration::from_secs(30))
    }

    #[test]
    fn default_is_in_range_and_what_is_not_is_named() {
        assert_eq!(workload().check(), Ok(()));
        let why = |change: fn(&mut Workload)| {
            let mut workload = workload();
            change(&mut workload);
            workload.check().unwrap_err().to_string()
        };
        assert!(why(|w| w.value_bytes = 3).contains("value_bytes is 16 to"));
        assert!(why(|w| w.sessions_per_region = 0).contains("sessions_per_region"));
        assert!(why(|w| (w.shared_keys, w.own_keys) = (0, 0)).contains("shared_keys is 1 to"));
        assert!(why(|w| w.probe_share = f64::NAN).contains("probe_share"));
        assert!(why(|w| w.mix = Mix::of_registers(0)).contains("mix"));
        assert!(why(|w| w.duration = Duration::from_secs(86_400)).contains("172800000 writes"));
        assert!(why(|w| w.pace = Pace::Open { per_second: -1.0, spread: Spread::Constant }).contains("rate"));
    }
}
