//! A whole configuration from one seed: every seed is another adversary (swarm testing).

use super::random::Random;

/// What one run is like. Shares are per thousand.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed it was drawn from.
    pub seed: u64,
    /// How many nodes, one to two a region.
    pub nodes: usize,
    /// How many regions.
    pub regions: usize,
    /// Steps of the faulty phase.
    pub steps: u64,
    /// Messages lost.
    pub loss: u64,
    /// Messages delivered twice.
    pub duplication: u64,
    /// Whether messages of one connection may overtake each other.
    pub reorder: bool,
    /// One-way delay, in microseconds.
    pub delay_us: (u64, u64),
    /// Time that a sync takes, in microseconds.
    pub sync_us: (u64, u64),
    /// Whether partitions happen, and whether they may be one way.
    pub partitions: bool,
    /// One-way cuts.
    pub one_way: bool,
    /// Crashes among faults.
    pub crashes: bool,
    /// How far a node's wall clock may be off, in milliseconds.
    pub clock_off_ms: u64,
    /// Weight of client actions against faults.
    pub fault_share: u64,
    /// Share of counters among writes.
    pub counter_share: u64,
    /// How many writes a client action makes at once.
    pub burst: u64,
    /// Bytes that may be held back an actor: small ones force drops.
    pub pending_bytes: usize,
    /// Bytes a link may have under way: small ones force pauses.
    pub window_bytes: usize,
    /// Whether rows rot on disks.
    pub rot: bool,
    /// Records of an actor that a log keeps whoever needs more: few force reconciliations.
    pub log_records_max: usize,
    /// Bytes of a reconciliation held in memory: few force layers.
    pub reconcile_memory: usize,
    /// Changed rows that a closing entry merges by itself: few force further passes.
    pub closing_rows: usize,
    /// How long what a session left is kept, in milliseconds.
    pub resume_within_ms: u64,
}

impl Options {
    /// Draws a configuration.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let regions = random.between(2, 4) as usize;
        let delay = *random.pick(&[100, 5_000, 40_000, 150_000]).unwrap_or(&100);
        let sync = *random.pick(&[50, 500, 5_000, 60_000]).unwrap_or(&50);
        Self {
            seed,
            nodes: regions + random.below(2) as usize,
            regions,
            steps: random.between(60, 400),
            loss: *random.pick(&[0, 0, 20, 200]).unwrap_or(&0),
            duplication: *random.pick(&[0, 0, 50, 300]).unwrap_or(&0),
            reorder: random.permille(500),
            delay_us: (delay / 2, delay * if random.permille(300) { 10 } else { 2 }),
            sync_us: (sync / 2, sync * 2),
            partitions: random.permille(700),
            one_way: random.permille(500),
            crashes: random.permille(700),
            clock_off_ms: *random.pick(&[0, 0, 100, 2_000]).unwrap_or(&0),
            fault_share: *random.pick(&[10, 50, 150]).unwrap_or(&50),
            counter_share: *random.pick(&[50, 300, 800]).unwrap_or(&300),
            burst: random.between(1, 8),
            pending_bytes: *random.pick(&[16 << 20, 16 << 20, 600]).unwrap_or(&600),
            window_bytes: *random.pick(&[4 << 20, 4 << 20, 500]).unwrap_or(&500),
            log_records_max: *random.pick(&[usize::MAX, 30, 5, 1]).unwrap_or(&5),
            reconcile_memory: *random.pick(&[8 << 20, 0, 0, 400]).unwrap_or(&0),
            closing_rows: *random.pick(&[1_024, 2, 0]).unwrap_or(&0),
            resume_within_ms: *random.pick(&[600_000, 600_000, 1_000]).unwrap_or(&1_000),
            rot: random.permille(500),
        }
    }
}
