//! Every knob of the store, with its trade.

use atoll_replication::sketch::{DigestKey, PREFIX_CELLS_MAX};
use std::path::PathBuf;
use std::time::Duration;

/// When a write counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// After a sync of the disk. Nothing that was reported is lost, by a crash or a power cut.
    Always,
    /// Once it is written; the disk is synced this often. A crash of the process loses nothing that was reported, a power
    /// cut or a crash of the system at most as much as was written in this time.
    Interval(Duration),
}

/// How much of the journal is kept for peers that are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// What every member holds is kept this long all the same.
    pub min: Duration,
    /// Nothing is kept longer, even if a member lacks it; that one reconciles. Longer spares reconciliations.
    pub max: Duration,
    /// No more than this, even if a member lacks it; segments that the row engine does not hold yet come on top.
    pub max_bytes: u64,
}

/// Where the data lies, and how much memory and disk it may take.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The cluster's name. A directory that was restored for another one is refused; an empty name opens any.
    pub cluster: String,
    /// The data directory; created when it is not there, readable by its owner alone.
    pub dir: PathBuf,
    /// Memory for reading: half for rows, half for blocks of the row engine. More spares disk reads.
    pub cache_bytes: usize,
    /// Rows changed since the last checkpoint, in memory. More makes checkpoints rarer and replays longer; up to four
    /// times as much is held while one runs and writes go on.
    pub memtable_bytes: usize,
    /// One file of the journal: what truncation frees at once. At most 1 GiB.
    pub segment_bytes: u64,
    /// The newest records, kept in memory for peers. Less makes peers that lag a little read from disk.
    pub tail_bytes: usize,
    /// When a write counts as durable.
    pub sync: SyncMode,
    /// The longest time between two checkpoints while rows change: bounds what a restart replays.
    pub checkpoint_every: Duration,
    /// How much of the journal is kept for peers that are away.
    pub retain: Retention,
    /// How long the scrubber takes to read every row once; `None`: it reads when it is asked to. Shorter finds damage
    /// sooner and reads more.
    pub scrub_every: Option<Duration>,
    /// The secret under which rows are digested; all nodes of a cluster have the same. Another one makes the next opening
    /// read every row and index it anew.
    pub digest_key: DigestKey,
    /// Room on the disk that is left to the node: a layer that would take it is given up. A disk that is full ends the process.
    pub reserve_bytes: u64,
    /// The sketch of rows has leaves for at least so many: 3 B each.
    pub sketch_rows_min: u64,
    /// Cells of the sketch, 24 B each: as many rows as two thirds of them may differ for a comparison to name them.
    pub sketch_cells: usize,
}

impl StoreConfig {
    /// The defaults, in a directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            dir: PathBuf::from("data"),
            cache_bytes: 256 << 20,
            memtable_bytes: 32 << 20,
            segment_bytes: 64 << 20,
            tail_bytes: 32 << 20,
            sync: SyncMode::Always,
            checkpoint_every: Duration::from_secs(30),
            retain: Retention {
                min: Duration::from_secs(3_600),
                max: Duration::from_secs(72 * 3_600),
                max_bytes: 10 << 30,
            },
            scrub_every: Some(Duration::from_secs(7 * 24 * 3_600)),
            // Nobody's secret: whoever has clients gives one.
            digest_key: DigestKey::derive(b""),
            reserve_bytes: 256 << 20,
            sketch_rows_min: 1 << 17,
            sketch_cells: PREFIX_CELLS_MAX,
        }
    }
}
