//! What the emulator did, and how well: counters per direction, and its own delay error.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde::ser::SerializeStruct;

/// The largest delay error told apart, in microseconds; a larger one is recorded as this.
const DELAY_ERROR_US_MAX: u64 = 60_000_000;

/// Everything the emulator counts, at one moment. A snapshot: it does not change any more.
#[derive(Debug, Clone, Serialize)]
pub struct WanReport {
    /// The directions in the order of their names; links between the same two regions are summed.
    pub directions: Vec<DirectionReport>,
    /// The client addresses, over all links.
    pub flows: FlowCounters,
    /// How much later than due packets were handed to their socket.
    pub delay_error: DelayError,
}

/// What happened to the packets from one region to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectionReport {
    /// The region the packets came from.
    pub from: String,
    /// The region they were to reach.
    pub to: String,
    /// What became of them.
    #[serde(flatten)]
    pub counters: PathCounters,
}

/// What became of packets. Every packet taken in, and every duplicate made, is in exactly one of these or
/// still under way; `duplicated` counts again those that were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PathCounters {
    /// Packets handed on, duplicates included.
    pub forwarded: u64,
    /// Their payload in bytes.
    pub forwarded_bytes: u64,
    /// Packets lost by the shape's probability.
    pub lost: u64,
    /// Packets lost by a cut: offered while it lasted, or under way when it fell.
    pub cut: u64,
    /// Packets dropped at the tail of a full queue.
    pub queue_full: u64,
    /// Duplicates made by the shape's probability.
    pub duplicated: u64,
    /// Packets dropped because more was under way than the emulator may hold: not part of the model. If it is
    /// not zero, raise [`WanConfig::in_flight_bytes_max`](super::WanConfig) and run again.
    pub emulator_full: u64,
    /// Packets that the operating system refused to send. A target where nobody listens is no reason: those
    /// packets count as forwarded.
    pub send_failed: u64,
}

impl PathCounters {
    pub(super) fn add(&mut self, other: &Self) {
        self.forwarded += other.forwarded;
        self.forwarded_bytes += other.forwarded_bytes;
        self.lost += other.lost;
        self.cut += other.cut;
        self.queue_full += other.queue_full;
        self.duplicated += other.duplicated;
        self.emulator_full += other.emulator_full;
        self.send_failed += other.send_failed;
    }
}

/// What became of flows: each distinct client address of a link is one, with a socket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct FlowCounters {
    /// Flows open now, over all links.
    pub open: u64,
    /// Flows closed because they had been idle for too long.
    pub expired: u64,
    /// Flows closed, the longest idle first, to make room for a new client at the bound.
    pub evicted: u64,
    /// Packets dropped because no socket could be opened for their client.
    pub refused_packets: u64,
}

/// How much later than due each packet was handed to its socket, in microseconds. It is never early.
///
/// It starts with the moment at which the relay read the packet: what the packet waited in the socket's
/// buffer before is not in it. The example `wan_cost` measures both from outside.
#[derive(Debug, Clone)]
pub struct DelayError(Histogram<u64>);

impl DelayError {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, DELAY_ERROR_US_MAX, 3);
        Self(histogram.expect("1 and three digits are valid bounds"))
    }

    pub(super) fn record(&mut self, late: Duration) {
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us);
    }

    /// The whole distribution, in microseconds.
    #[must_use]
    pub fn histogram_us(&self) -> &Histogram<u64> {
        &self.0
    }
}

impl Serialize for DelayError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("DelayError", 5)?;
        fields.serialize_field("n", &self.0.len())?;
        fields.serialize_field("p50_us", &self.0.value_at_quantile(0.50))?;
        fields.serialize_field("p99_us", &self.0.value_at_quantile(0.99))?;
        fields.serialize_field("p999_us", &self.0.value_at_quantile(0.999))?;
        fields.serialize_field("max_us", &self.0.max())?;
        fields.end()
    }
}

/// Sums paths by their two ends.
pub(super) fn sum_directions<'a>(
    paths: impl Iterator<Item = (&'a (atoll_geo::RegionName, atoll_geo::RegionName), &'a PathCounters)>,
) -> Vec<DirectionReport> {
    let mut sums: BTreeMap<_, PathCounters> = BTreeMap::new();
    for (ends, counters) in paths {
        sums.entry(ends).or_default().add(counters);
    }
    let named = sums.into_iter().map(|((from, to), counters)| DirectionReport {
        from: from.to_string(),
        to: to.to_string(),
        counters,
    });
    named.collect()
}

impl WanReport {
    /// What happened from one region to another, if there is a link between them.
    #[must_use]
    pub fn direction(&self, from: &str, to: &str) -> Option<&PathCounters> {
        let found = self.directions.iter().find(|one| one.from == from && one.to == to);
        found.map(|one| &one.counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_geo::RegionName;

    #[test]
    fn links_of_one_direction_are_summed_and_the_report_is_one_json_object() {
        let ends = |a, b| (RegionName::new(a).unwrap(), RegionName::new(b).unwrap());
        let (there, back) = (ends("a", "b"), ends("b", "a"));
        let one = PathCounters { forwarded: 2, lost: 1, ..PathCounters::default() };
        let two = PathCounters { forwarded: 3, cut: 4, ..PathCounters::default() };
        let paths = [(&there, &one), (&back, &two), (&there, &two)];
        let mut delay_error = DelayError::new();
        delay_error.record(Duration::from_micros(50));
        delay_error.record(Duration::from_secs(3_600));
        let report =
            WanReport { directions: sum_directions(paths.into_iter()), flows: FlowCounters::default(), delay_error };
        let sum = PathCounters { forwarded: 5, lost: 1, cut: 4, ..PathCounters::default() };
        assert_eq!(report.direction("a", "b"), Some(&sum));
        assert_eq!(report.direction("b", "a"), Some(&two));
        assert_eq!(report.direction("a", "c"), None);

        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["directions"][0]["from"], "a");
        assert_eq!(json["directions"][0]["forwarded"], 5);
        assert_eq!(json["delay_error"]["n"], 2);
        assert_eq!(json["delay_error"]["p50_us"], 50);
    }
}
