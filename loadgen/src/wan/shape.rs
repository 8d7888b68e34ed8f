//! What one direction of a link does to packets: a [`ShapeSpec`] as somebody wrote it, a [`Shape`] once checked.

use std::num::NonZeroU64;
use std::time::Duration;

use atoll_geo::RegionName;
use serde::{Deserialize, Serialize};

/// The longest delay a shape may ask for: far beyond any road on earth, and short enough that what is under
/// way stays within reason.
pub const DELAY_MS_MAX: f64 = 60_000.0;

/// The largest mean jitter a shape may ask for.
pub const JITTER_MS_MAX: f64 = 10_000.0;

/// The slowest link, in bits per second. Below it a single packet would be on the wire for minutes.
pub const BANDWIDTH_BPS_MIN: u64 = 1_000;

/// The fastest link that is still limited, in bits per second. Beyond it, leave the limit away.
pub const BANDWIDTH_BPS_MAX: u64 = 1_000_000_000_000;

/// The router's queue of a limited link, unless the shape says otherwise: what a link of 100 Mbit/s and 80 ms
/// holds on its way.
pub const QUEUE_BYTES_DEFAULT: u64 = 1 << 20;

/// An exponential draw is cut off here, in means, so that no packet waits for ever. One draw in 22,000 is.
const EXPONENTIAL_MEANS_MAX: f64 = 10.0;

/// How the extra delay of a packet is distributed. Jitter only ever adds: nothing beats the delay itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JitterKind {
    /// Mostly little, sometimes much, as queues along a road behave; never more than ten means.
    #[default]
    Exponential,
    /// Anything from nothing to twice the mean, all equally likely.
    Uniform,
}

/// What one direction of a link does to packets, as a scenario or a test writes it: unchecked.
///
/// Everything has a default, and the default is a perfect wire; [`ShapeSpec::check`] makes it a [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShapeSpec {
    /// One-way delay in milliseconds, 0 to [`DELAY_MS_MAX`].
    pub delay_ms: f64,
    /// Mean of the extra delay in milliseconds, 0 to [`JITTER_MS_MAX`].
    pub jitter_ms: f64,
    /// How the extra delay is distributed.
    pub jitter: JitterKind,
    /// Whether jitter may let a packet overtake another. Without it a late packet holds back those behind
    /// it, as a queue does; with it QUIC sees reordering and may take it for loss.
    pub reorder: bool,
    /// Probability that a packet is lost, 0 to 1.
    pub loss: f64,
    /// Probability that a packet arrives twice, 0 to 1.
    pub duplicate: f64,
    /// Bits per second, packet headers included; `None` for no limit.
    pub bandwidth_bps: Option<u64>,
    /// How many bytes may wait for the wire before the next packet is dropped. Means nothing without
    /// `bandwidth_bps`. Larger: fewer drops and more delay under load.
    pub queue_bytes: u64,
}

impl Default for ShapeSpec {
    fn default() -> Self {
        Self {
            delay_ms: 0.0,
            jitter_ms: 0.0,
            jitter: JitterKind::default(),
            reorder: false,
            loss: 0.0,
            duplicate: 0.0,
            bandwidth_bps: None,
            queue_bytes: QUEUE_BYTES_DEFAULT,
        }
    }
}

/// What is wrong with a [`ShapeSpec`]. Its author's fault; no link was changed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ShapeError {
    /// The delay is out of range.
    #[error("delay_ms is a number from 0 to {DELAY_MS_MAX}, not {ms}")]
    Delay {
        /// What was given.
        ms: f64,
    },
    /// The jitter is out of range.
    #[error("jitter_ms is a number from 0 to {JITTER_MS_MAX}, not {ms}")]
    Jitter {
        /// What was given.
        ms: f64,
    },
    /// A probability is out of range.
    #[error("{field} is a probability from 0 to 1, not {value}")]
    Probability {
        /// `loss` or `duplicate`.
        field: &'static str,
        /// What was given.
        value: f64,
    },
    /// The bandwidth is out of range.
    #[error(
        "bandwidth_bps is a number of bits per second from {BANDWIDTH_BPS_MIN} to {BANDWIDTH_BPS_MAX}, not {bps}; leave it away for no limit"
    )]
    Bandwidth {
        /// What was given.
        bps: u64,
    },
}

impl ShapeSpec {
    /// Checks every field and makes this a shape.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] names the first field that is out of its range.
    pub fn check(self) -> Result<Shape, ShapeError> {
        if !(0.0..=DELAY_MS_MAX).contains(&self.delay_ms) {
            return Err(ShapeError::Delay { ms: self.delay_ms });
        }
        if !(0.0..=JITTER_MS_MAX).contains(&self.jitter_ms) {
            return Err(ShapeError::Jitter { ms: self.jitter_ms });
        }
        for (field, value) in [("loss", self.loss), ("duplicate", self.duplicate)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(ShapeError::Probability { field, value });
            }
        }
        let bandwidth_bps = match self.bandwidth_bps {
            None => None,
            Some(bps) if (BANDWIDTH_BPS_MIN..=BANDWIDTH_BPS_MAX).contains(&bps) => NonZeroU64::new(bps),
            Some(bps) => return Err(ShapeError::Bandwidth { bps }),
        };
        Ok(Shape {
            delay: duration_from_ms(self.delay_ms),
            jitter_mean_ms: self.jitter_ms,
            jitter: self.jitter,
            reorder: self.reorder,
            loss: self.loss,
            duplicate: self.duplicate,
            bandwidth_bps,
            queue_bytes: self.queue_bytes,
        })
    }
}

/// What one direction of a link does to packets: a [`ShapeSpec`] whose every field is within its range.
///
/// The default is a perfect wire: no delay, no loss, no limit.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "ShapeSpec")]
pub struct Shape {
    pub(super) delay: Duration,
    jitter_mean_ms: f64,
    jitter: JitterKind,
    pub(super) reorder: bool,
    pub(super) loss: f64,
    pub(super) duplicate: f64,
    pub(super) bandwidth_bps: Option<NonZeroU64>,
    pub(super) queue_bytes: u64,
}

impl Shape {
    /// The published delay between two built-in regions and nothing else, or `None` if either is not built
    /// in. For more than the delay, put [`atoll_geo::one_way_ms`] into a [`ShapeSpec`].
    #[must_use]
    pub fn published(from: &RegionName, to: &RegionName) -> Option<Self> {
        let delay_ms = atoll_geo::one_way_ms(from, to)?;
        ShapeSpec { delay_ms, ..ShapeSpec::default() }.check().ok()
    }

    /// The one-way delay, without jitter and queueing.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// The extra delay for a draw `u` from [0, 1).
    pub(super) fn jitter_for(&self, u: f64) -> Duration {
        if self.jitter_mean_ms == 0.0 {
            return Duration::ZERO;
        }
        let means = match self.jitter {
            JitterKind::Exponential => (-(1.0 - u).ln()).min(EXPONENTIAL_MEANS_MAX),
            JitterKind::Uniform => 2.0 * u,
        };
        duration_from_ms(self.jitter_mean_ms * means)
    }
}

impl Default for Shape {
    fn default() -> Self {
        ShapeSpec::default().check().expect("the default is in range")
    }
}

impl TryFrom<ShapeSpec> for Shape {
    type Error = ShapeError;

    fn try_from(spec: ShapeSpec) -> Result<Self, Self::Error> {
        spec.check()
    }
}

/// The shapes of both directions of a link.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkShape {
    /// From the region that dials to the region of the target.
    pub there: Shape,
    /// From the region of the target back to the one that dials.
    pub back: Shape,
}

impl From<Shape> for LinkShape {
    /// Both directions alike.
    fn from(both: Shape) -> Self {
        Self { there: both, back: both }
    }
}

fn duration_from_ms(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_reads_from_a_scenario_and_names_what_is_wrong_with_it() {
        let shape: Shape = serde_json::from_str(
            r#"{"delay_ms": 40.5, "jitter_ms": 2, "jitter": "uniform", "loss": 0.01, "bandwidth_bps": 1000000}"#,
        )
        .unwrap();
        assert_eq!(shape.delay(), Duration::from_micros(40_500));
        assert_eq!(shape.bandwidth_bps.map(NonZeroU64::get), Some(1_000_000));
        assert_eq!(shape.queue_bytes, QUEUE_BYTES_DEFAULT);

        let why = |json: &str| serde_json::from_str::<Shape>(json).unwrap_err().to_string();
        assert!(why(r#"{"loss": 1.5}"#).contains("loss is a probability"));
        assert!(why(r#"{"duplicate": -0.1}"#).contains("duplicate is a probability"));
        assert!(why(r#"{"delay_ms": -1}"#).contains("delay_ms"));
        assert!(why(r#"{"jitter_ms": 1e9}"#).contains("jitter_ms"));
        assert!(why(r#"{"bandwidth_bps": 0}"#).contains("bandwidth_bps"));
        assert!(why(r#"{"delai_ms": 3}"#).contains("unknown field"));
    }

    #[test]
    fn not_a_number_is_no_shape() {
        let nan = |set: fn(&mut ShapeSpec)| {
            let mut spec = ShapeSpec::default();
            set(&mut spec);
            spec.check()
        };
        assert!(nan(|spec| spec.delay_ms = f64::NAN).is_err());
        assert!(nan(|spec| spec.jitter_ms = f64::INFINITY).is_err());
        assert!(nan(|spec| spec.loss = f64::NAN).is_err());
        assert!(nan(|_| ()).is_ok());
    }

    #[test]
    fn both_kinds_of_jitter_have_the_mean_they_were_given() {
        for jitter in [JitterKind::Exponential, JitterKind::Uniform] {
            let shape = ShapeSpec { jitter_ms: 4.0, jitter, ..ShapeSpec::default() }.check().unwrap();
            let steps = 10_000;
            let sum_ms: f64 = (0..steps)
                .map(|i| shape.jitter_for((f64::from(i) + 0.5) / f64::from(steps)))
                .map(|extra| extra.as_secs_f64() * 1e3)
                .sum();
            let mean_ms = sum_ms / f64::from(steps);
            assert!((mean_ms - 4.0).abs() < 0.02, "{jitter:?}: {mean_ms}");
        }
    }

    #[test]
    fn jitter_never_takes_away_and_has_an_end() {
        for jitter in [JitterKind::Exponential, JitterKind::Uniform] {
            let shape = ShapeSpec { jitter_ms: 4.0, jitter, ..ShapeSpec::default() }.check().unwrap();
            assert_eq!(shape.jitter_for(0.0), Duration::ZERO);
            assert!(shape.jitter_for(1.0 - f64::EPSILON / 2.0) <= Duration::from_millis(40));
        }
    }

    #[test]
    fn the_published_shape_is_half_the_published_round_trip() {
        let name = |text| RegionName::new(text).unwrap();
        let shape = Shape::published(&name("us-east-1"), &name("eu-west-1")).unwrap();
        assert_eq!(shape.delay(), Duration::from_millis(35));
        assert_eq!(Shape::published(&name("us-east-1"), &name("basement-1")), None);
    }
}
