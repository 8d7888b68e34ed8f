//! A whole configuration from one seed: every seed is another adversary (swarm testing).

use super::random::Random;

/// What clients write most of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// A little of everything on a few names.
    Ordinary,
    /// One register and one counter.
    HotKeys,
    /// Hundreds of members a command.
    HugeSets,
    /// More deletes than anything else.
    Deletes,
}

/// Faults beyond those of a plain network with plain crashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rare {
    /// Disks that come back as they once were.
    pub restores: bool,
    /// Disks that come back empty; nodes then ask their seeds before they serve.
    pub wipes: bool,
    /// A copy of a disk that is started beside the original.
    pub clones: bool,
    /// Processes that stand still for seconds.
    pub pauses: bool,
    /// Of those, some for minutes.
    pub long_pauses: bool,
    /// Wall clocks that jump by a year.
    pub clock_jumps: bool,
    /// Disks that take seconds for one sync.
    pub stalls: bool,
    /// Connections that break while messages are under way, or for one side only.
    pub resets: bool,
    /// Directions that hold everything back for seconds and let it go at once.
    pub clogs: bool,
    /// An operator who pauses links.
    pub operator: bool,
    /// Clients whose tokens name writes that never were.
    pub forged_tokens: bool,
    /// Seconds in which no client does anything.
    pub lulls: bool,
    /// A member that is removed by force.
    pub removals: bool,
    /// A member that is drained, and then removed.
    pub drains: bool,
    /// Of the wiped disks, all but one at once.
    pub stampedes: bool,
}

/// A cluster of which not all nodes speak the newest version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixed {
    /// Nodes that begin with the older version, of a thousand; one always does.
    pub older: u64,
    /// Whether all speak the newest one when faults are over.
    pub all_in_the_end: bool,
}

/// What a source of a reconciliation gets wrong about how much differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellsFault {
    /// It takes it for a tenth.
    Tenth,
    /// It takes it for ten times as much.
    Tenfold,
    /// Its cells are no sums of its rows.
    Senseless,
}

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
    /// Rarer faults.
    pub rare: Rare,
    /// How fast a wall clock may run beside true time, in parts of a million.
    pub drift_ppm: u64,
    /// What clients write.
    pub mix: Mix,
    /// Members of a huge set, and cells of sketches: so few that the members are about all that they can tell.
    pub huge: (u64, usize),
    /// Peers that may take a node's state over at once.
    pub sources: usize,
    /// Rows that a clear removes at once, and that a step of a larger one looks at.
    pub clear_rows: usize,
    /// Whether nodes have seeds, and found the cluster together.
    pub founding: bool,
    /// Whether at the end only a majority heals, and the rest stays broken for ever.
    pub core_only: bool,
    /// Whether a healed cluster is asked for write levels, and then watched while nothing happens.
    pub epilogue: bool,
    /// Bytes of a reconciliation held in memory: few force layers.
    pub reconcile_memory: usize,
    /// Changed rows that a closing entry merges by itself: few force further passes.
    pub closing_rows: usize,
    /// How long what a session left is kept, in milliseconds.
    pub resume_within_ms: u64,
    /// Nodes of an older version among them.
    pub mixed: Option<Mixed>,
    /// Wrong estimates of differences.
    pub cells_fault: Option<CellsFault>,
    /// Bytes that a direction of a connection carries a second.
    pub bandwidth: Option<u64>,
}

impl Options {
    /// Draws a configuration.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let plain = Self::plain(seed);
        // A generator of its own, so that a seed without rare faults plays as its plain one does.
        let mut random = Random::new(seed ^ 0x5a_aa_a5);
        let mut rarely = |share| random.permille(share);
        let rare = Rare {
            restores: rarely(150),
            wipes: rarely(120),
            clones: rarely(60),
            pauses: rarely(150),
            long_pauses: rarely(30),
            clock_jumps: rarely(60),
            stalls: rarely(150),
            resets: rarely(250),
            clogs: rarely(150),
            operator: rarely(100),
            forged_tokens: rarely(150),
            lulls: rarely(100),
            removals: false,
            drains: false,
            stampedes: false,
        };
        let founding = rare.wipes || rarely(250);
        let (core_only, epilogue, drifts) = (rarely(150), rarely(100), rarely(150));
        let mix = match random.below(40) {
            0 | 1 => Mix::HugeSets,
            2..=5 => Mix::HotKeys,
            6..=9 => Mix::Deletes,
            _ => Mix::Ordinary,
        };
        // Whoever has lost a huge set has to get all of it back.
        let huge = *random.pick(&[(760, 1_024), (800, 1_024), (840, 1_024), (1_460, 2_048)]).unwrap_or(&(760, 1_024));
        let sources = if mix == Mix::HugeSets { 1 } else { random.between(1, 2) as usize };
        let (mut rare, mut founding, mut plain) = (rare, founding, plain);
        if mix == Mix::HugeSets {
            (rare.wipes, founding) = (true, true);
            plain.log_records_max = plain.log_records_max.min(5);
            plain.steps = plain.steps.min(80);
            plain.burst = 1;
            plain.window_bytes = *random.pick(&[500, plain.window_bytes]).unwrap_or(&500);
        }
        // A disk that is replaced may take along what a damaged row has to be repaired from; and where nothing else replaces
        // disks or names, it can be told whose disk is whose and who may lose what.
        let replaced = rare.restores || rare.wipes || rare.clones || core_only;
        plain.rot &= !replaced;
        if plain.rot && random.permille(350) {
            plain.log_records_max = usize::MAX;
        }
        rare.removals = !replaced && !founding && !plain.rot && random.permille(400);
        // Of a set of three members a step a member, or two; of a huge one not quite so many.
        let steps: &[usize] = if mix == Mix::HugeSets { &[512, 100] } else { &[512, 1, 2] };
        let clear_rows = *random.pick(steps).unwrap_or(&512);
        let drift_ppm = if drifts { *random.pick(&[200, 20_000]).unwrap_or(&200) } else { 0 };
        let epilogue = core_only || epilogue;
        let drawn = Self { rare, drift_ppm, mix, huge, sources, clear_rows, founding, core_only, epilogue, ..plain };
        drawn.with_more(&mut Random::new(seed ^ 0x3c_0de5))
    }

    /// What was thought of later, from a generator of its own: seeds without it play as they did before.
    fn with_more(mut self, random: &mut Random) -> Self {
        if random.permille(200) {
            let older = *random.pick(&[300, 600, 1_000]).unwrap_or(&600);
            // Damaged rows are repaired by the newest version alone.
            let all_in_the_end = random.permille(500) || self.rot;
            self.mixed = Some(Mixed { older, all_in_the_end });
        }
        let replaced = self.rare.restores || self.rare.wipes || self.rare.clones || self.core_only;
        self.rare.drains = !replaced && !self.founding && !self.rot && !self.rare.removals && random.permille(400);
        self.rare.stampedes = self.rare.wipes && random.permille(700);
        if self.rare.stampedes {
            self.log_records_max = self.log_records_max.min(5);
            self.sources = 1;
        }
        if self.mix == Mix::HugeSets {
            // Through a window of a few rows they would take longer than anybody waits, where a round trip takes seconds.
            self.window_bytes = self.window_bytes.max(16 << 10);
            // A session begins anew when one of its steps is lost, and these have twenty.
            self.loss = self.loss.min(20);
            // So many that the opening does not name them and the cells can.
            self.huge =
                *random.pick(&[(800, 1_024), (1_000, 2_048), (1_200, 2_048), (1_460, 2_048)]).unwrap_or(&self.huge);
            self.cells_fault = match random.below(6) {
                0 => None,
                1 => Some(CellsFault::Tenth),
                2 => Some(CellsFault::Senseless),
                _ => Some(CellsFault::Tenfold),
            };
            if self.cells_fault == Some(CellsFault::Tenfold) {
                // There are more cells than a right guess takes.
                self.huge = (900, 2_048);
            }
        }
        if self.mix != Mix::HugeSets && random.permille(100) {
            self.bandwidth = Some(*random.pick(&[20_000, 200_000]).unwrap_or(&200_000));
        }
        self
    }

    /// Draws a configuration without rare faults.
    #[must_use]
    pub fn plain(seed: u64) -> Self {
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
            rare: Rare::default(),
            drift_ppm: 0,
            mix: Mix::Ordinary,
            huge: (760, 0),
            sources: 2,
            clear_rows: 512,
            founding: false,
            core_only: false,
            epilogue: false,
            reconcile_memory: *random.pick(&[8 << 20, 0, 0, 400]).unwrap_or(&0),
            closing_rows: *random.pick(&[1_024, 2, 0]).unwrap_or(&0),
            resume_within_ms: *random.pick(&[600_000, 600_000, 1_000]).unwrap_or(&1_000),
            mixed: None,
            cells_fault: None,
            bandwidth: None,
            rot: random.permille(500),
        }
    }
}
