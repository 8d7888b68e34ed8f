//! Convergence: acknowledged in one region, readable in another.
//!
//! *How it goes.* Every n-th write that a region acknowledges is read in each other region, at
//! once, by a read that carries the write's token and waits for it. The time from the
//! acknowledgement to the answer is the sample.
//!
//! *What always holds.* P1: nothing is polled: the node answers when it has what the token covers.
//! P2: every ordered pair of regions has a connection of its own, since answers on one stream come
//! in order and a read that waits for a far region must not hold up one that waits for a near.
//! P3: probes are a stated share of the operations, and those under way are bounded; what would
//! exceed the bound is counted as skipped. P4: both ends of a sample are taken from one clock.
//!
//! *What is in a sample beside replication.* The way of the acknowledgement to this process and of
//! the read's answer back, both over loopback, and their wake-ups.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_client::api::{ErrorCode, limits};
use atoll_client::{Client, Error, Options};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Access, Target, ask};
use crate::clock::{Clock, Moment};
use crate::history::Write;
use crate::workload::{Cell, Change, Workload};

/// How many probes of one pair may be under way.
const UNDER_WAY_MAX: usize = 1_024;
/// How many samples are kept: a bound on memory that no sensible run reaches.
const SAMPLES_MAX: usize = 10_000_000;

/// What the probes found.
#[derive(Debug, Clone, Default)]
pub struct Convergence {
    /// The samples, in the order of their answers.
    pub samples: Vec<Sample>,
    /// What became of the probes.
    pub probes: ProbeCounts,
    /// The answers that came though nothing was there: violations, each in one line.
    pub unseen: Vec<String>,
}

/// What became of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ProbeCounts {
    /// One in this many acknowledged writes is probed.
    pub one_in: u64,
    /// Reads that were sent.
    pub sent: u64,
    /// Reads that were not, because too many of their pair were under way.
    pub skipped: u64,
    /// Reads that waited as long as they may and did not see the write.
    pub behind: u64,
    /// Reads that failed otherwise, or had no answer when the run was over.
    pub failed: u64,
}

/// One write, seen from one other region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The region that acknowledged it, by its place in the run's list.
    pub from: usize,
    /// The region that it was read in.
    pub to: usize,
    /// When it was acknowledged.
    pub acknowledged: Moment,
    /// When it was readable.
    pub readable: Moment,
}

/// Sends the probes of a run.
pub(super) struct Prober {
    regions: usize,
    one_in: u64,
    acknowledged: Vec<AtomicU64>,
    /// By source, then target.
    pairs: Vec<Pair>,
    inner: Arc<Inner>,
    under_way: Mutex<JoinSet<()>>,
}

struct Pair {
    client: Client,
    room: Arc<Semaphore>,
}

struct Inner {
    workload: Arc<Workload>,
    clock: Clock,
    found: Mutex<Convergence>,
}

/// What a probe looks for.
struct Quarry {
    from: usize,
    to: usize,
    cell: Cell,
    change: Change,
    acknowledged: Moment,
    token: Box<str>,
}

impl Prober {
    pub(super) fn new(
        workload: &Arc<Workload>,
        targets: &[Target],
        access: &Access,
        clock: Clock,
    ) -> Result<Self, Error> {
        let regions = targets.len();
        let one_in = one_in(workload.probe_share, regions);
        let mut pairs = Vec::with_capacity(regions * regions);
        for _from in targets {
            for to in targets {
                // P2. A client that is never used connects to nothing.
                let client = access.client(&to.endpoint)?;
                pairs.push(Pair { client, room: Arc::new(Semaphore::new(UNDER_WAY_MAX)) });
            }
        }
        let probes = ProbeCounts { one_in, ..ProbeCounts::default() };
        let found = Mutex::new(Convergence { probes, ..Convergence::default() });
        Ok(Self {
            regions,
            one_in,
            acknowledged: targets.iter().map(|_| AtomicU64::new(0)).collect(),
            pairs,
            inner: Arc::new(Inner { workload: workload.clone(), clock, found }),
            under_way: Mutex::new(JoinSet::new()),
        })
    }

    /// Takes note of an acknowledged write, and probes it in the other regions that `are_up` if its
    /// turn has come.
    pub(super) fn offer(&self, write: &Write, token: &str, are_up: impl Fn(usize) -> bool) {
        let nth = self.acknowledged[write.region].fetch_add(1, Ordering::Relaxed);
        if nth % self.one_in != self.one_in - 1 {
            return;
        }
        for to in (0..self.regions).filter(|&to| to != write.region && are_up(to)) {
            let pair = &self.pairs[write.region * self.regions + to];
            let Ok(room) = pair.room.clone().try_acquire_owned() else {
                self.inner.found().probes.skipped += 1; // P3
                continue;
            };
            let quarry = Quarry {
                from: write.region,
                to,
                cell: write.cell,
                change: write.change,
                acknowledged: write.answered,
                token: token.into(),
            };
            let probe = probe(self.inner.clone(), pair.client.clone(), quarry, room);
            let mut under_way = lock(&self.under_way);
            while under_way.try_join_next().is_some() {}
            under_way.spawn(probe);
        }
    }

    /// Lets the connections to `region` go; probes under way there fail.
    pub(super) async fn hang_up(&self, region: usize) {
        for pair in self.pairs.iter().skip(region).step_by(self.regions) {
            pair.client.close().await;
        }
    }

    /// Waits for the probes under way, for `patience` at most.
    pub(super) async fn finish(&self, patience: Duration) -> Convergence {
        let mut under_way = std::mem::take(&mut *lock(&self.under_way));
        let rest = async { while under_way.join_next().await.is_some() {} };
        let complete = timeout(patience, rest).await.is_ok();
        let left = if complete { 0 } else { under_way.len() };
        under_way.shutdown().await;
        let mut found = std::mem::take(&mut *self.inner.found());
        found.probes.failed += u64::try_from(left).unwrap_or(u64::MAX);
        for pair in &self.pairs {
            pair.client.close().await;
        }
        found
    }
}

/// One in how many writes to probe, so that the reads are at most `share` of all operations.
fn one_in(share: f64, regions: usize) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "a few regions")]
    let others = regions.saturating_sub(1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; saturates")]
    let one_in = (others * (1.0 - share) / share).ceil() as u64;
    one_in.max(1)
}

async fn probe(inner: Arc<Inner>, client: Client, quarry: Quarry, room: OwnedSemaphorePermit) {
    let Quarry { from, to, cell, change, acknowledged, token } = quarry;
    inner.found().probes.sent += 1;
    let wait = Some(limits::WAIT_MAX);
    let session = client.resume(&token).with_options(Options { wait, ..Options::default() });
    let answer = ask::is_visible(&session, &inner.workload, cell, change).await; // P1
    let readable = inner.clock.now(); // P4
    let mut found = inner.found();
    match answer {
        Ok(visible) => {
            if found.samples.len() < SAMPLES_MAX {
                found.samples.push(Sample { from, to, acknowledged, readable });
            }
            if !visible && found.unseen.len() < 20 {
                found.unseen.push(format!(
                    "{cell}: written at {acknowledged}, and a read that carried the write's token found nothing at {readable}"
                ));
            }
        }
        Err(Error::Refused { problem, .. }) if problem.code == ErrorCode::SessionBehind => {
            found.probes.behind += 1;
        }
        Err(_) => found.probes.failed += 1,
    }
    drop(room);
}

impl Inner {
    fn found(&self) -> MutexGuard<'_, Convergence> {
        lock(&self.found)
    }
}

/// What is counted here is whole at every moment, so a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stay_within_their_share_of_the_operations() {
        for (share, regions) in [(0.1, 2_u32), (0.1, 3), (0.1, 9), (0.5, 3), (0.01, 3)] {
            let one_in = one_in(share, usize::try_from(regions).unwrap());
            let reads = f64::from(regions - 1) / f64::from(u32::try_from(one_in).unwrap());
            assert!(reads / (1.0 + reads) <= share + 1e-9, "{share} {regions} {one_in}");
        }
        assert_eq!(one_in(0.1, 3), 18);
        assert_eq!(one_in(1.0, 3), 1);
    }
}
