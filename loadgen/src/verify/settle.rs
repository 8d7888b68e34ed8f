//! Waiting until every region holds the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_client::Admin;
use atoll_geo::RegionName;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Unreadable;

/// How often the regions are asked. An answer may cost a node a scan of its rows.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long one round may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// A region's admin listener.
#[derive(Debug, Clone)]
pub struct Node {
    /// The region.
    pub region: RegionName,
    /// Its listener.
    pub admin: Admin,
}

/// Where a region stood when asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionState {
    /// The region.
    pub region: RegionName,
    /// The digest of its rows.
    pub root: String,
    /// Its causal context.
    pub vector: BTreeMap<String, u64>,
    /// How many rows it holds.
    pub rows: u64,
}

/// How the waiting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Whether every root and every vector is the same.
    pub equal: bool,
    /// How long it took.
    pub after: Duration,
    /// The regions, in the order given.
    pub regions: Vec<RegionState>,
}

/// Asks `nodes` until they are equal, for `patience` at most.
///
/// # Errors
/// When a node still does not answer at the end.
pub async fn settle(nodes: &[Node], patience: Duration) -> Result<Settled, Unreadable> {
    let started = Instant::now();
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let round = round(nodes).await;
        let after = started.elapsed();
        match round {
            Ok(regions) if all_equal(&regions) => return Ok(Settled { equal: true, after, regions }),
            Ok(regions) if after >= patience => return Ok(Settled { equal: false, after, regions }),
            Err(unreadable) if after >= patience => return Err(unreadable),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Asks every node once. What one does not answer within its time counts as unreachable.
async fn round(nodes: &[Node]) -> Result<Vec<RegionState>, Unreadable> {
    let mut states = Vec::with_capacity(nodes.len());
    for Node { region, admin } in nodes {
        let unreadable = |source| Unreadable { region: region.clone(), source };
        let asked = timeout(ROUND_TIMEOUT, admin.status()).await;
        let status = match asked {
            Ok(answer) => answer.map_err(unreadable)?,
            Err(_) => {
                let attempts = Vec::new();
                return Err(unreadable(atoll_client::Error::Unreachable { attempts }));
            }
        };
        states.push(RegionState {
            region: region.clone(),
            root: status.root,
            // A node may or may not list an actor that has not written.
            vector: status.vector.into_iter().filter(|&(_, records)| records > 0).collect(),
            rows: status.rows,
        });
    }
    Ok(states)
}

fn all_equal(regions: &[RegionState]) -> bool {
    let Some((first, others)) = regions.split_first() else { return true };
    others.iter().all(|other| other.root == first.root && other.vector == first.vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_means_roots_and_vectors() {
        let state = |root: &str, records| RegionState {
            region: RegionName::new("eu-west-1").unwrap(),
            root: root.to_owned(),
            vector: BTreeMap::from([("ff".to_owned(), records)]),
            rows: 1,
        };
        assert!(all_equal(&[state("a", 1), state("a", 1)]));
        assert!(!all_equal(&[state("a", 1), state("b", 1)]));
        assert!(!all_equal(&[state("a", 1), state("a", 1), state("a", 2)]));
    }
}
