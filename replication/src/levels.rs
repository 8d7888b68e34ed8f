//! Writes that wait for other regions.
//!
//! **What always holds.** W1: a region counts once one node of it is known to hold the write durably; this node's own
//! region counts from the start. W2: a write is answered once, when its level is reached or its time is up, and stands
//! either way. W3: at most `waiting_writes` wait (the replica counts).
//!
//! Cost: the actor's seqs that `k` regions hold are a prefix, so a report of a peer answers the front of one ordered map
//! a level, whatever the number of writes that wait.

use crate::effect::{RequestId, WriteOutcome};
use crate::names::RegionName;
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    outcome: WriteOutcome,
    deadline: Instant,
}

/// Every write that waits, by its level and its seq in this process's own log.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    by_level: BTreeMap<u32, BTreeMap<u64, Waiting>>,
    deadlines: BTreeSet<(Instant, u32, u64)>,
    /// How far each other region is known to hold this process's own log durably.
    regions: BTreeMap<RegionName, u64>,
}

impl Levels {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// A node of `region`, which is not this process's own, holds this process's log durably up to `seq`. W1
    pub(crate) fn region_holds(&mut self, region: &RegionName, seq: u64) {
        let held = self.regions.entry(region.clone()).or_default();
        *held = (*held).max(seq);
    }

    /// How many regions hold `seq` durably, this one included.
    pub(crate) fn held_by(&self, seq: u64) -> u32 {
        1 + self.regions.values().filter(|held| **held >= seq).count() as u32
    }

    /// A durable write that waits for `level` regions.
    pub(crate) fn wait(&mut self, level: u32, seq: u64, deadline: Instant, request: RequestId, outcome: WriteOutcome) {
        self.deadlines.insert((deadline, level, seq));
        self.by_level.entry(level).or_default().insert(seq, Waiting { request, outcome, deadline });
    }

    /// Takes out the writes whose level is reached by now.
    pub(crate) fn reached(&mut self) -> Vec<(RequestId, WriteOutcome)> {
        if self.deadlines.is_empty() {
            return Vec::new();
        }
        let mut held: Vec<u64> = self.regions.values().copied().collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let mut done = Vec::new();
        for (level, waiting) in &mut self.by_level {
            // `level` regions hold it when `level - 1` others do.
            let Some(seq) = held.get(*level as usize - 2) else { continue };
            let still = waiting.split_off(&(seq + 1));
            for (seq, write) in core::mem::replace(waiting, still) {
                self.deadlines.remove(&(write.deadline, *level, seq));
                done.push((seq, write));
            }
        }
        done.into_iter().map(|(seq, write)| self.answer(seq, write, true)).collect()
    }

    /// Takes out the writes whose time is up.
    pub(crate) fn timed_out(&mut self, now: Instant) -> Vec<(RequestId, WriteOutcome)> {
        let mut done = Vec::new();
        while let Some((deadline, level, seq)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            if let Some(write) = self.by_level.get_mut(&level).and_then(|waiting| waiting.remove(&seq)) {
                done.push(self.answer(seq, write, false));
            }
        }
        done
    }

    fn answer(&self, seq: u64, write: Waiting, reached: bool) -> (RequestId, WriteOutcome) {
        (write.request, WriteOutcome { acked: self.held_by(seq), reached, ..write.outcome })
    }
}
