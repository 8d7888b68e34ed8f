//! What the driver tells of the node: readiness, freshness, peers.
//!
//! **How it goes.** The replica thread's driver publishes a [`Snapshot`] every so often, and the freshness after every
//! sync; everybody else reads. Neither side waits for the other.
//!
//! **What always holds.** N1: the driver publishes a synced view before the freshness that it gives, so whoever reads the
//! freshness first and then takes a view is never told too small a bound.

use crate::clock::{Clock, wall_ms};
use arc_swap::ArcSwap;
use atoll_crdt::{ActorId, VersionVector};
use atoll_replication::{Counts, Instant, LinkStatus, PeerVerdict, Readiness, RegionName, Verification};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// No member of some region has answered yet.
const NEVER: u64 = u64::MAX;

/// The node as the driver last told it.
#[derive(Debug)]
pub struct NodeStatus {
    /// The driver's clock.
    clock: Clock,
    /// As of when readers miss nothing of another region, in microseconds of the driver's clock.
    fresh_us: AtomicU64,
    draining: AtomicBool,
    /// When the driver last told anything, in microseconds of its clock.
    told_us: AtomicU64,
    snapshot: ArcSwap<Snapshot>,
}

/// What changes slowly, or is costly to tell.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Whether the node may serve.
    pub readiness: Readiness,
    /// The actor of this process.
    pub actor: ActorId,
    /// The causal context, entries that are not durable included.
    pub vector: VersionVector,
    /// When the cluster's data was founded, in wall milliseconds: nothing is older.
    pub founded_ms: u64,
    /// The clock's distance from the peers' median; `None` without peers.
    pub clock_skew_ms: Option<i64>,
    /// Every other member.
    pub peers: Vec<LinkStatus>,
    /// As of when readers here miss nothing of each other region.
    pub regions: Vec<RegionFreshness>,
    /// Counters since the process began.
    pub counts: Counts,
    /// What comparing this node with all others has found, if it was asked to.
    pub verification: Option<Arc<Verification>>,
    /// Which rows differ where a peer's root did at an equal context: an alarm.
    pub divergent: Vec<Arc<PeerVerdict>>,
    /// Damaged rows that were not repaired yet: an alarm.
    pub holes: usize,
    /// Counters that are known to hold a delete's marker.
    pub counters_marked: usize,
    /// Actors whose streams wait, because of a stamp too far ahead of this node's clock, say: an alarm.
    pub parked_actors: usize,
    /// Bytes of records held back because something before them is missing.
    pub pending_bytes: usize,
    /// Whether the cluster's operators drain the node.
    pub draining: bool,
    /// Why the store takes no writes, if it does not.
    pub read_only: Option<String>,
}

/// How fresh readers here are of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionFreshness {
    /// Which.
    pub region: RegionName,
    /// As of when nothing is missed; `None` while none of its members has answered.
    pub as_of: Option<Instant>,
}

impl Snapshot {
    /// Of a node that has just been started.
    #[must_use]
    pub fn starting(actor: ActorId) -> Self {
        Self {
            readiness: Readiness::Asking,
            actor,
            vector: VersionVector::new(),
            founded_ms: 0,
            clock_skew_ms: None,
            peers: Vec::new(),
            regions: Vec::new(),
            counts: Counts::default(),
            verification: None,
            divergent: Vec::new(),
            holes: 0,
            counters_marked: 0,
            parked_actors: 0,
            pending_bytes: 0,
            draining: false,
            read_only: None,
        }
    }

    /// Why the node may not serve; `None` when it may.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        match self.readiness {
            Readiness::Serving => None,
            Readiness::Starting => Some("starting".to_owned()),
            Readiness::Asking => Some("waiting for the seeds".to_owned()),
            Readiness::Joining { percent } => Some(format!("bootstrapping {percent}%")),
        }
    }

    /// Peers whose link carries records.
    #[must_use]
    pub fn peers_connected(&self) -> usize {
        self.peers.iter().filter(|peer| peer.state.carries_records()).count()
    }
}

impl NodeStatus {
    /// Of a node that is starting. `clock` gives the [`Instant`]s that will be published.
    #[must_use]
    pub fn new(clock: Clock, snapshot: Snapshot) -> Self {
        Self {
            clock,
            fresh_us: AtomicU64::new(NEVER),
            draining: AtomicBool::new(false),
            told_us: AtomicU64::new(clock.instant().as_micros()),
            snapshot: ArcSwap::from_pointee(snapshot),
        }
    }

    /// The driver's clock, now.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.instant()
    }

    /// The driver tells everything.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.told_us.store(self.clock.instant().as_micros(), Ordering::Release);
    }

    /// How long ago the driver told anything: it does so many times a second, unless it hangs.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        let told = Instant::from_micros(self.told_us.load(Ordering::Acquire));
        self.clock.instant().since(told)
    }

    /// The driver tells as of when readers miss nothing that another region acknowledged, after the view that makes it
    /// true was published (N1). `None` while a region has not answered.
    pub fn publish_freshness(&self, as_of: Option<Instant>) {
        self.fresh_us.store(as_of.map_or(NEVER, Instant::as_micros), Ordering::Release);
    }

    /// As of when readers miss nothing of another region. Take this before the view that is read.
    #[must_use]
    pub fn fresh_as_of(&self) -> Option<Instant> {
        match self.fresh_us.load(Ordering::Acquire) {
            NEVER => None,
            us => Some(Instant::from_micros(us)),
        }
    }

    /// How long ago that was. When it never was, the age of the cluster's data: nothing older can be missing.
    #[must_use]
    pub fn since(&self, as_of: Option<Instant>) -> Duration {
        match as_of {
            Some(as_of) => self.now().since(as_of),
            None => Duration::from_millis(wall_ms().saturating_sub(self.snapshot().founded_ms)),
        }
    }

    /// What was last told.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// This process is drained: it takes no further writes.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether this process is drained, or the node as a member.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) || self.snapshot().draining
    }

    /// Why clients should be sent elsewhere; empty when they should not.
    #[must_use]
    pub fn not_ready_reasons(&self, max_lag: Option<Duration>) -> Vec<String> {
        let snapshot = self.snapshot();
        let mut reasons: Vec<String> = snapshot.not_ready().into_iter().collect();
        if self.is_draining() {
            reasons.push("draining".to_owned());
        }
        if let Some(reason) = &snapshot.read_only {
            reasons.push(format!("the store takes no writes: {reason}"));
        }
        for region in &snapshot.regions {
            let lag = self.since(region.as_of);
            if max_lag.is_some_and(|max| lag > max) {
                reasons.push(match region.as_of {
                    Some(_) => format!("{} behind {}", format_seconds(lag), region.region),
                    None => format!("{} has not answered yet", region.region),
                });
            }
        }
        reasons
    }
}

fn format_seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(change: impl FnOnce(&mut Snapshot)) -> NodeStatus {
        let mut snapshot = Snapshot::starting(ActorId::new(1));
        snapshot.readiness = Readiness::Serving;
        change(&mut snapshot);
        NodeStatus::new(Clock::start(), snapshot)
    }

    fn region(name: &str, as_of: Option<Instant>) -> RegionFreshness {
        RegionFreshness { region: RegionName::new(name).unwrap(), as_of }
    }

    #[test]
    fn reasons_say_what_is_missing_and_how_much() {
        assert!(status(|_| ()).not_ready_reasons(None).is_empty());
        let joining = status(|snapshot| snapshot.readiness = Readiness::Joining { percent: 42 });
        assert_eq!(joining.not_ready_reasons(None), ["bootstrapping 42%"]);
        let asking = status(|snapshot| snapshot.readiness = Readiness::Asking);
        assert_eq!(asking.not_ready_reasons(None), ["waiting for the seeds"]);
        let full = status(|snapshot| snapshot.read_only = Some("disk full".into()));
        full.drain();
        assert_eq!(full.not_ready_reasons(None), ["draining", "the store takes no writes: disk full"]);
    }

    #[test]
    fn lag_counts_only_when_it_is_asked_about() {
        let mut snapshot = Snapshot::starting(ActorId::new(1));
        snapshot.readiness = Readiness::Serving;
        snapshot.regions = vec![region("eu-west-1", Some(Instant::from_micros(0))), region("us-east-1", None)];
        // The clock begins at a minute: the first answer came then.
        let status = NodeStatus::new(Clock::start(), snapshot);
        assert!(status.not_ready_reasons(None).is_empty());
        let reasons = status.not_ready_reasons(Some(Duration::from_secs(5)));
        assert!(reasons[0].starts_with("60.") && reasons[0].ends_with("s behind eu-west-1"), "{reasons:?}");
        assert_eq!(reasons[1], "us-east-1 has not answered yet");
        assert_eq!(status.not_ready_reasons(Some(Duration::from_secs(3600))), ["us-east-1 has not answered yet"]);
    }

    #[test]
    fn bound_without_an_answer_is_the_age_of_the_data() {
        let status = status(|snapshot| snapshot.founded_ms = wall_ms() - 10_000);
        assert_eq!(status.fresh_as_of(), None);
        let bound = status.since(status.fresh_as_of());
        assert!((Duration::from_secs(10)..Duration::from_secs(100)).contains(&bound), "{bound:?}");
        status.publish_freshness(Some(status.now()));
        assert!(status.since(status.fresh_as_of()) < Duration::from_secs(10));
    }
}
