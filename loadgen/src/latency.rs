//! A distribution of durations, in microseconds with three significant digits.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest duration told apart; a longer one is recorded as this.
const LATENCY_US_MAX: u64 = 600_000_000;

/// How long things took. Records in constant time; about 180 KB whatever it holds.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self(histogram.expect("1 and three digits are valid bounds"))
    }

    /// Records one duration.
    pub fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us);
    }

    /// How many were recorded.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.0.len()
    }

    /// The duration in milliseconds that a share of `quantile` does not exceed; 0 of nothing.
    #[must_use]
    pub fn ms(&self, quantile: f64) -> f64 {
        as_ms(self.0.value_at_quantile(quantile))
    }

    /// The longest, in milliseconds.
    #[must_use]
    pub fn max_ms(&self) -> f64 {
        as_ms(self.0.max())
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<Duration> for Latency {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        let mut latency = Self::new();
        durations.into_iter().for_each(|took| latency.record(took));
        latency
    }
}

/// The quantiles of a distribution, in milliseconds, for a report.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many were recorded.
    pub n: u64,
    /// The median.
    pub p50_ms: f64,
    /// One in a hundred is longer.
    pub p99_ms: f64,
    /// One in a thousand is longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl From<&Latency> for Quantiles {
    fn from(latency: &Latency) -> Self {
        Self {
            n: latency.n(),
            p50_ms: latency.ms(0.5),
            p99_ms: latency.ms(0.99),
            p999_ms: latency.ms(0.999),
            max_ms: latency.max_ms(),
        }
    }
}

/// Exact to the microsecond for everything that is recorded.
#[expect(clippy::cast_precision_loss, reason = "bounded by LATENCY_US_MAX, far below 2^52")]
fn as_ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_milliseconds_and_the_longest_is_capped() {
        let latency: Latency = (1..=1_000).map(Duration::from_millis).collect();
        assert_eq!(latency.n(), 1_000);
        assert!((latency.ms(0.5) - 500.0).abs() < 1.0, "{}", latency.ms(0.5));
        assert!((latency.ms(0.99) - 990.0).abs() < 1.0, "{}", latency.ms(0.99));
        let mut capped = Latency::new();
        assert_eq!(capped.ms(0.99), 0.0);
        capped.record(Duration::from_secs(86_400));
        assert!((capped.max_ms() - 600_000.0).abs() < 600.0, "{}", capped.max_ms());
    }
}
