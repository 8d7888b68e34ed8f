//! Every knob of the store, with its trade.

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

/// Where the data lies, and how much memory and disk it may take.
#[derive(Debug, Clone)]
pub struct StoreConfig {
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
            dir: PathBuf::from("data"),
            cache_bytes: 256 << 20,
            memtable_bytes: 32 << 20,
            segment_bytes: 64 << 20,
            tail_bytes: 32 << 20,
            sync: SyncMode::Always,
            checkpoint_every: Duration::from_secs(30),
        }
    }
}
