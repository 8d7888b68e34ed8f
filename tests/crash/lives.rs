//! The lives of a node: when it is killed, and how quickly it is back.

use crate::cluster::{Node, PATIENCE};
use crate::ledger::Ledger;
use anyhow::{Context, ensure};
use atoll_tests::sim::random::Random;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lives in a thousand that end before the node is ready.
const DIES_STARTING_PERMILLE: u64 = 350;
/// How long such a life lasts: from the first instruction to replay and first contact.
const STARTING_MS: u64 = 300;
/// How long a node serves before it is killed.
const SERVING_MS: u64 = 900;
/// Kills of a node that takes over a peer's state.
const KILLS_JOINING: u64 = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    kills: u64,
    while_starting: u64,
    while_joining: u64,
    restarts: u64,
    longest: Duration,
    total: Duration,
    acknowledged: u64,
    of_ledger: u64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recovered(&self, after: Duration) {
        let mut counts = self.counts();
        counts.restarts += 1;
        counts.total += after;
        counts.longest = counts.longest.max(after);
    }

    /// Processes that were killed.
    pub(crate) fn kills(&self) -> u64 {
        self.counts().kills
    }

    /// Of these, before they were ready.
    pub(crate) fn while_starting(&self) -> u64 {
        self.counts().while_starting
    }

    /// Of these, while they took over a peer's state.
    pub(crate) fn while_joining(&self) -> u64 {
        self.counts().while_joining
    }

    /// Further writes were acknowledged.
    pub(crate) fn add_acknowledged(&self, writes: u64) {
        self.counts().acknowledged += writes;
    }

    /// So many writes of the ledger were acknowledged.
    pub(crate) fn set_ledger(&self, writes: u64) {
        self.counts().of_ledger = writes;
    }

    /// Everything in one line.
    pub(crate) fn summary(&self) -> String {
        let counts = *self.counts();
        format!(
            "{} kills ({} while starting, {} while taking over a state), {} acknowledged writes, {} restarts until \
             ready in {:.2?} on average and {:.2?} at most",
            counts.kills,
            counts.while_starting,
            counts.while_joining,
            counts.acknowledged + counts.of_ledger,
            counts.restarts,
            counts.total / u32::try_from(counts.restarts.max(1)).unwrap_or(u32::MAX),
            counts.longest,
        )
    }
}

/// Kills a process that must not have ended by itself.
fn kill(node: &mut Node, tally: &Tally) -> anyhow::Result<()> {
    let ended = node.has_ended()?;
    ensure!(ended.is_none(), "{} ended by itself: {ended:?}", node.name);
    node.kill()?;
    tally.counts().kills += 1;
    Ok(())
}

/// Kills a node and starts it, until the round is over; leaves it ready.
pub(crate) async fn kill_again_and_again(
    node: &mut Node,
    nth: usize,
    mut random: Random,
    ledger: &Ledger,
    tally: &Tally,
    is_over: &AtomicBool,
) -> anyhow::Result<()> {
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(random.below(SERVING_MS))).await; // sleep: the moment of the kill is the input
        kill(node, tally)?;
        let mut began = Instant::now();
        node.spawn()?;
        while random.permille(DIES_STARTING_PERMILLE) {
            tokio::time::sleep(Duration::from_millis(random.below(STARTING_MS))).await; // sleep: the moment of the kill is the input
            kill(node, tally)?;
            tally.counts().while_starting += 1;
            began = Instant::now();
            node.spawn()?;
        }
        node.ready().await?;
        tally.recovered(began.elapsed());
        ledger.check(node, |page| page.node == nth).await.context("after a restart")?;
    }
    Ok(())
}

/// Takes a node's disk away, and kills it while it takes over a peer's state.
pub(crate) async fn lose_disk(node: &mut Node, random: &mut Random, tally: &Tally) -> anyhow::Result<()> {
    kill(node, tally)?;
    std::fs::remove_dir_all(&node.data_dir)?;
    node.spawn()?;
    for _ in 0..KILLS_JOINING {
        let is_joining = joins(node).await?;
        tokio::time::sleep(Duration::from_millis(random.below(30))).await; // sleep: the moment of the kill is the input
        kill(node, tally)?;
        tally.counts().while_joining += u64::from(is_joining);
        node.spawn()?;
    }
    node.ready().await
}

/// Waits until a node has begun to take over a state, and says whether it was seen at it.
async fn joins(node: &Node) -> anyhow::Result<bool> {
    let client = node.http()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.readiness(None).await {
            Ok(readiness) if readiness.ready => return Ok(false),
            Ok(readiness) if readiness.reasons.iter().any(|reason| reason.contains("bootstrapping")) => {
                return Ok(true);
            }
            answer => ensure!(Instant::now() < deadline, "{}: {answer:?}\n{}", node.name, node.log()),
        }
        tokio::time::sleep(Duration::from_millis(1)).await; // sleep: between two looks at a condition
    }
}
