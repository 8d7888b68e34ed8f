//! One node's metrics, in Prometheus' text format.
//!
//! **How it goes.** [`Metrics`] counts what happens at the listeners, by handles that cost an atomic each. What other parts
//! know already (the replica's counters, the store's sizes) is asked for when somebody reads the metrics, through
//! [`Sources`]: they are told nothing of Prometheus.
//!
//! **What always holds.** M1: base units (seconds, bytes), and names as the contract has them. M2: labels come from closed
//! lists or from the roster, never from a request, so their number is bounded. M3: nothing here is global; two nodes in
//! one process count apart.

use crate::app::NodeStatus;
use atoll_client::api::ErrorCode;
use atoll_replication::{LinkStatus, RegionName};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper bounds of request times, in seconds: a local read takes tens of microseconds, a wait for other regions seconds.
const REQUEST_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// What other parts know, asked for when the metrics are read. Each answers quickly, from counters it keeps.
pub struct Sources {
    /// What the driver tells of the node.
    pub status: Arc<NodeStatus>,
    /// What the store knows.
    pub store: Box<dyn Fn() -> StoreReading + Send + Sync>,
    /// What the peer endpoint knows: a word and a count for each reason why it ended a connection.
    pub peer_faults: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    /// What was sent to peers, by type of message.
    pub peer_sent: Box<dyn Fn() -> Vec<crate::peer::Sent> + Send + Sync>,
    /// When this node's certificate runs out, in seconds since 1970; `None` without one.
    pub certificate_not_after_unix_s: Option<i64>,
}

/// What the store knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreReading {
    /// Rows that hold something.
    pub rows: u64,
    /// Bytes on disk.
    pub disk_bytes: Option<u64>,
    /// Bytes that its disk has free for it.
    pub disk_available_bytes: Option<u64>,
    /// Syncs of the journal: for each upper bound in seconds, how many took at most so long and more than the bound
    /// before; the last bound is infinite.
    pub commits: Vec<(f64, u64)>,
    /// Seconds spent in all syncs.
    pub commit_seconds: f64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Segments of the log that were dropped.
    pub segments_dropped: u64,
    /// Those of them that a member may still have asked for.
    pub segments_dropped_by_cap: u64,
    /// Rows that the scrubber has read.
    pub scrub_rows: u64,
    /// Those of them that were damaged.
    pub scrub_failures: u64,
    /// Rounds of it that came to the last row.
    pub scrub_rounds: u64,
    /// Whether a round goes that was asked for.
    pub is_scrubbing: bool,
    /// Milliseconds since a backup was whole.
    pub last_backup_ms: Option<u64>,
}

/// The listeners that clients and operators connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Listener {
    /// `http`, `quic` or `admin`.
    pub listener: &'static str,
}

/// Why a listener refused or ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Closed {
    /// `http`, `quic` or `admin`.
    pub listener: &'static str,
    /// From a closed list.
    pub reason: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    r#type: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    listener: &'static str,
    operation: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// One node's metrics.
pub struct Metrics {
    registry: Registry,
    connections: Family<Listener, Gauge>,
    closed: Family<Closed, Counter>,
    writes: Family<Write, Counter>,
    requests: Durations<Asked>,
    refusals: Family<Code, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Metrics of a node, with what other parts know.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let mut registry = Registry::with_prefix("atoll");
        let mut metrics = Self {
            connections: Family::default(),
            closed: Family::default(),
            writes: Family::default(),
            requests: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            refusals: Family::default(),
            in_flight: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("build", "The running version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("connections_closed", "Connections refused or ended by this side", metrics.closed.clone());
        registry.register("writes", "Writes by data type (or batch) and outcome", metrics.writes.clone());
        registry.register("refusals", "Requests answered with an error, by code", metrics.refusals.clone());
        registry.register("requests_in_flight", "Requests being worked on", metrics.in_flight.clone());
        let requests = metrics.requests.clone();
        registry.register_with_unit("request", "From a request's head to its answer", Unit::Seconds, requests);
        registry.register_collector(Box::new(Asking(sources)));
        metrics.registry = registry;
        metrics
    }

    /// The open connections of a listener.
    #[must_use]
    pub fn connections(&self, listener: &'static str) -> Gauge {
        self.connections.get_or_create_owned(&Listener { listener })
    }

    /// A connection was refused or ended by this side.
    pub fn closed(&self, listener: &'static str, reason: &'static str) {
        self.closed.get_or_create(&Closed { listener, reason }).inc();
    }

    /// A write came to `code`: `ok`, `below_level`, or an error's code.
    pub fn wrote(&self, data_type: &'static str, code: &'static str) {
        self.writes.get_or_create(&Write { r#type: data_type, code }).inc();
    }

    /// A request was answered.
    pub fn answered(&self, listener: &'static str, operation: &'static str, took: Duration) {
        self.requests.get_or_create(&Asked { listener, operation }).observe(took.as_secs_f64());
    }

    /// A request was refused.
    pub fn refused(&self, code: ErrorCode) {
        self.refusals.get_or_create(&Code { code: code.as_str() }).inc();
    }

    /// A request is being worked on for as long as the answer lives.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// All of them, as text.
    ///
    /// # Errors
    /// A fault of this program.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 << 10);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A request being worked on.
#[derive(Debug)]
pub struct InFlight(Gauge<i64, AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Asks the other parts when the metrics are read.
struct Asking(Sources);

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asking")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Region {
    region: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

impl Collector for Asking {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        self.replication(out)?;
        self.counters(out)?;
        self.store(out)?;
        let faults = (self.0.peer_faults)();
        let faults = faults.into_iter().map(|(reason, count)| (Reason { reason }, count));
        counters(out, "peer_faults", "Peer connections refused or ended by this side", faults)?;
        let sent = (self.0.peer_sent)();
        let messages = sent.iter().map(|sent| (Kind { kind: sent.kind }, sent.messages));
        counters(out, "peer_sent_messages", "Messages sent to peers", messages)?;
        let bytes = sent.iter().map(|sent| (Kind { kind: sent.kind }, sent.bytes));
        counters(out, "peer_sent_bytes", "Bytes of messages sent to peers, without what QUIC adds", bytes)?;
        if let Some(not_after) = self.0.certificate_not_after_unix_s {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
            let help = "Time until this node's certificate runs out; negative once it has";
            gauge(out, "certificate_expiry", help, Some(&Unit::Seconds), (not_after - now) as f64)?;
        }
        Ok(())
    }
}

impl Asking {
    fn replication(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.0.status.snapshot();
        let peers = || snapshot.peers.iter();
        let peer = |of: &LinkStatus| Peer { peer: of.node.as_str().to_owned() };
        let lags = peers().filter_map(|of| Some((peer(of), of.lag?.as_secs_f64())));
        let help = "How old the oldest write is that the peer acknowledged and readers here miss, at most";
        gauges(out, "replication_lag", help, Some(&Unit::Seconds), lags)?;
        let records = peers().map(|of| (peer(of), of.lag_records as f64));
        gauges(out, "replication_lag_records", "Records that the peer holds and readers here miss", None, records)?;
        let rtts = peers().filter_map(|of| Some((peer(of), of.rtt?.as_secs_f64())));
        gauges(out, "peer_rtt", "Smoothed round trip to the peer", Some(&Unit::Seconds), rtts)?;
        gauge(out, "peers_connected", "Peers whose link carries records", None, snapshot.peers_connected() as f64)?;
        let region = |of: &RegionName| Region { region: of.as_str().to_owned() };
        let staleness =
            snapshot.regions.iter().map(|of| (region(&of.region), self.0.status.since(of.as_of).as_secs_f64()));
        let help = "How old the oldest acknowledged write of the region is that readers here miss, at most";
        gauges(out, "staleness", help, Some(&Unit::Seconds), staleness)?;
        let counts = snapshot.counts;
        counter(out, "conflicts", "Rows that a record of another node left with concurrent values", counts.conflicts)?;
        counter(out, "below_level", "Writes answered before their write level was reached", counts.below_level)?;
        let records = [
            ("written", counts.written),
            ("applied", counts.applied),
            ("sent", counts.sent),
            ("unneeded", counts.unneeded),
        ];
        let records = records.into_iter().map(|(direction, count)| (Direction { direction }, count));
        counters(out, "records", "Records written here, applied from others, sent, and received in vain", records)?;
        let sessions = [
            ("finished", counts.sessions_finished),
            ("given_up", counts.sessions_given_up),
            ("too_large", counts.sessions_too_large),
            ("disk_full", counts.sessions_disk_full),
            ("granted", counts.sessions_granted),
            ("resumed", counts.sessions_resumed),
            ("on_disk", counts.sessions_on_disk),
        ];
        let sessions = sessions.into_iter().map(|(outcome, count)| (Outcome { outcome }, count));
        let help = "Reconciliations: those in which this node took state over, by how they ended, and of these those that \
                    went on with what one before had left or were built on disk; and those granted to peers";
        counters(out, "reconciliations", help, sessions)?;
        counter(out, "rows_adopted", "Rows that reconciliations changed here", counts.rows_adopted)?;
        counter(out, "proofs", "Comparisons of roots with a peer that holds the same", counts.proofs)?;
        let help = "Those in which the roots differed: rows are wrong, here or there";
        counter(out, "divergence", help, counts.divergences)?;
        let rows =
            snapshot.divergent.iter().map(|of| (Peer { peer: of.node.as_str().to_owned() }, of.differing as f64));
        let help = "Rows that differ from the peer's, found since its root did; the log names the first of them";
        gauges(out, "divergent_rows", help, None, rows)?;
        let help = "Rows that verifications found to contradict a peer's";
        counter(out, "contradictions", help, counts.contradictions)?;
        let help = "Peers that digest rows under another secret: the first CA certificate in their file is another one";
        counter(out, "foreign_digests", help, counts.foreign_digests)?;
        let help = "Rows that are damaged here and were not repaired yet";
        gauge(out, "holes", help, None, snapshot.holes as f64)?;
        counter(out, "rows_repaired", "Damaged rows that were repaired from peers", counts.rows_repaired)?;
        let skew = snapshot.clock_skew_ms.unwrap_or(0) as f64 / 1_000.0;
        gauge(out, "clock_skew", "This clock's distance from the peers' median", Some(&Unit::Seconds), skew)?;
        let help = "Actors whose records wait: stamped too far ahead of this clock, killing what their writer cannot have seen, or touching a damaged row";
        gauge(out, "parked_actors", help, None, snapshot.parked_actors as f64)?;
        let help = "Bytes of records held back because something before them is missing";
        gauge(out, "pending", help, Some(&Unit::Bytes), snapshot.pending_bytes as f64)?;
        let ready = self.0.status.not_ready_reasons(None).is_empty();
        gauge(out, "ready", "1 when clients may be sent here", None, f64::from(u8::from(ready)))
    }

    fn counters(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.0.status.snapshot();
        let help = "1 while the node takes no writes: removed, a twin, or a disk that is nearly full";
        gauge(out, "read_only", help, None, f64::from(u8::from(snapshot.read_only.is_some())))?;
        let help = "Counters that are known here to hold a delete's marker";
        gauge(out, "counters_marked", help, None, snapshot.counters_marked as f64)?;
        let help = "Markers of deletes of counters that this node let go";
        counter(out, "counter_markers_purged", help, snapshot.counts.markers_purged)?;
        let help = "What those and other markers held of single processes, and this node let go";
        counter(out, "counter_floors_purged", help, snapshot.counts.floors_purged)
    }

    fn store(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let reading = (self.0.store)();
        gauge(out, "rows", "Rows that hold something", None, reading.rows as f64)?;
        if let Some(bytes) = reading.disk_bytes {
            gauge(out, "disk", "Bytes of the data directory", Some(&Unit::Bytes), bytes as f64)?;
        }
        if let Some(bytes) = reading.disk_available_bytes {
            gauge(out, "disk_available", "Bytes that its disk has free", Some(&Unit::Bytes), bytes as f64)?;
        }
        gauge(out, "log", "Bytes of the log", Some(&Unit::Bytes), reading.log_bytes as f64)?;
        counter(out, "log_segments_dropped", "Segments of the log that were dropped", reading.segments_dropped)?;
        let help = "Segments of the log that were dropped although a member may lack what is in them";
        counter(out, "log_segments_dropped_by_cap", help, reading.segments_dropped_by_cap)?;
        counter(out, "scrub_rows", "Rows that the scrubber has read", reading.scrub_rows)?;
        counter(out, "scrub_failures", "Those of them that were damaged", reading.scrub_failures)?;
        counter(out, "scrub_rounds", "Times that the scrubber came to the last row", reading.scrub_rounds)?;
        let help = "1 while every row is read because somebody asked for it, or roots differ";
        gauge(out, "scrub_running", help, None, f64::from(u8::from(reading.is_scrubbing)))?;
        if let Some(ms) = reading.last_backup_ms {
            let help = "Time since a backup of this node was whole";
            gauge(out, "last_backup", help, Some(&Unit::Seconds), ms as f64 / 1_000.0)?;
        }
        if reading.commits.is_empty() {
            return Ok(());
        }
        let count = reading.commits.iter().map(|(_, count)| count).sum();
        let help = "Time of one sync of the journal";
        let mut metric = out.encode_descriptor("commit", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(reading.commit_seconds, count, &reading.commits, None)
    }
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(out.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(out.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauges<L: EncodeLabelSet>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl Iterator<Item = (L, f64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counters<L: EncodeLabelSet>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{RegionFreshness, Snapshot};
    use crate::clock::Clock;
    use atoll_crdt::ActorId;
    use atoll_replication::{LinkState, NodeName, Readiness};

    fn metrics() -> Metrics {
        let mut snapshot = Snapshot::starting(ActorId::new(1));
        snapshot.readiness = Readiness::Serving;
        snapshot.counts.conflicts = 3;
        let region = RegionName::new("us-east-1").unwrap();
        snapshot.peers = vec![LinkStatus {
            node: NodeName::new("n2").unwrap(),
            region: region.clone(),
            state: LinkState::Live,
            rtt: Some(Duration::from_millis(80)),
            lag: Some(Duration::from_millis(120)),
            lag_records: 7,
        }];
        snapshot.regions = vec![RegionFreshness { region, as_of: None }];
        Metrics::new(Sources {
            status: Arc::new(NodeStatus::new(Clock::start(), snapshot)),
            store: Box::new(|| StoreReading {
                rows: 5,
                disk_bytes: Some(4096),
                disk_available_bytes: Some(1 << 20),
                commits: vec![(0.001, 2), (f64::INFINITY, 1)],
                commit_seconds: 0.5,
                log_bytes: 7 << 20,
                segments_dropped: 4,
                segments_dropped_by_cap: 1,
                scrub_rows: 9,
                scrub_failures: 2,
                scrub_rounds: 1,
                is_scrubbing: true,
                last_backup_ms: Some(1_500),
            }),
            peer_faults: Box::new(|| vec![("frame", 2)]),
            peer_sent: Box::new(|| vec![crate::peer::Sent { kind: "root", messages: 3, bytes: 120 }]),
            certificate_not_after_unix_s: Some(0),
        })
    }

    #[test]
    fn names_are_those_of_the_contract_in_base_units() {
        let metrics = metrics();
        metrics.wrote("counters", "ok");
        metrics.wrote("counters", "out_of_range");
        metrics.answered("http", "counter_add", Duration::from_micros(700));
        metrics.closed("quic", "frame");
        metrics.refused(ErrorCode::OutOfRange);
        metrics.connections("http").inc();
        let text = metrics.encode().unwrap();
        for line in [
            "atoll_replication_lag_seconds{peer=\"n2\"} 0.12",
            "atoll_peers_connected 1",
            "atoll_writes_total{type=\"counters\",code=\"ok\"} 1",
            "atoll_writes_total{type=\"counters\",code=\"out_of_range\"} 1",
            "atoll_request_seconds_count{listener=\"http\",operation=\"counter_add\"} 1",
            "atoll_request_seconds_bucket{le=\"0.0005\",listener=\"http\",operation=\"counter_add\"} 0",
            "atoll_request_seconds_bucket{le=\"0.001\",listener=\"http\",operation=\"counter_add\"} 1",
            "atoll_commit_seconds_count 3",
            "atoll_commit_seconds_bucket{le=\"0.001\"} 2",
            "atoll_commit_seconds_bucket{le=\"+Inf\"} 3",
            "atoll_conflicts_total 3",
            "atoll_rows 5",
            "atoll_disk_bytes 4096",
            "atoll_disk_available_bytes 1048576",
            "atoll_read_only 0",
            "atoll_certificate_expiry_seconds -",
            "atoll_connections{listener=\"http\"} 1",
            "atoll_connections_closed_total{listener=\"quic\",reason=\"frame\"} 1",
            "atoll_peer_faults_total{reason=\"frame\"} 2",
            "atoll_peer_sent_messages_total{kind=\"root\"} 3",
            "atoll_peer_sent_bytes_total{kind=\"root\"} 120",
            "atoll_refusals_total{code=\"out_of_range\"} 1",
            "atoll_ready 1",
            "atoll_log_bytes 7340032",
            "atoll_log_segments_dropped_total 4",
            "atoll_log_segments_dropped_by_cap_total 1",
            "atoll_scrub_rows_total 9",
            "atoll_scrub_failures_total 2",
            "atoll_scrub_rounds_total 1",
            "atoll_scrub_running 1.0",
            "atoll_last_backup_seconds 1.5",
            "atoll_holes 0",
            "atoll_rows_repaired_total 0",
            "atoll_counters_marked 0",
            "atoll_counter_markers_purged_total 0",
            "atoll_counter_floors_purged_total 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn request_counts_while_it_is_worked_on() {
        let metrics = metrics();
        let (one, two) = (metrics.in_flight(), metrics.in_flight());
        assert!(metrics.encode().unwrap().contains("atoll_requests_in_flight 2"));
        drop((one, two));
        assert!(metrics.encode().unwrap().contains("atoll_requests_in_flight 0"));
    }
}
