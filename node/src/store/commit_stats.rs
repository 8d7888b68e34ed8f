//! What the commit thread has done, for metrics: counters that any thread may read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the sync times counted in [`CommitStats::buckets`], in microseconds; a last bucket has none.
pub const SYNC_BUCKETS_US: [u64; 12] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

/// Counters of the commit thread. Each is exact; together they are not one moment's.
#[derive(Debug, Default)]
pub struct CommitStats {
    writes: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
    sync_us: AtomicU64,
    sync_us_last: AtomicU64,
    buckets: [AtomicU64; SYNC_BUCKETS_US.len() + 1],
}

impl CommitStats {
    pub(super) fn wrote(&self, entries: u64, bytes: u64) {
        self.writes.fetch_add(1, Relaxed);
        self.entries.fetch_add(entries, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        let us = took.as_micros() as u64;
        self.syncs.fetch_add(1, Relaxed);
        self.sync_us.fetch_add(us, Relaxed);
        self.sync_us_last.store(us, Relaxed);
        self.buckets[SYNC_BUCKETS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
    }

    /// Writes: one for everything that had gathered.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }

    /// Journal entries written.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Bytes written, frames included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Syncs of the journal.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }

    /// Microseconds spent in all syncs.
    #[must_use]
    pub fn sync_us(&self) -> u64 {
        self.sync_us.load(Relaxed)
    }

    /// Microseconds of the last sync.
    #[must_use]
    pub fn sync_us_last(&self) -> u64 {
        self.sync_us_last.load(Relaxed)
    }

    /// How many syncs took at most [`SYNC_BUCKETS_US`], each bucket for itself; the last is for all that took longer.
    #[must_use]
    pub fn buckets(&self) -> [u64; SYNC_BUCKETS_US.len() + 1] {
        std::array::from_fn(|at| self.buckets[at].load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_counted_in_the_first_bucket_that_holds_it() {
        let stats = CommitStats::default();
        for us in [50, 51, 2_000_000] {
            stats.synced(Duration::from_micros(us));
        }
        let buckets = stats.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[12], buckets.iter().sum::<u64>()), (1, 1, 1, 3));
        assert_eq!((stats.syncs(), stats.sync_us(), stats.sync_us_last()), (3, 2_000_101, 2_000_000));
    }
}
