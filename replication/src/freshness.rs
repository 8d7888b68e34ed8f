//! How stale a read here can be, without believing anybody's clock; and how far this node's clock is from its peers'.
//!
//! **How it goes.** A ping leaves at `t0` by this node's own clock; the answer names what the peer held durably when it
//! answered. Once this node's readers see all of that, they miss nothing that the peer had acknowledged at `t0`.
//!
//! **What always holds.** F1: a bound is never too small: it only moves to a `t0` whose answer is wholly covered by the
//! durable context. F2: at most [`ANSWERS_MAX`] uncovered answers a member are kept; dropping one only makes the bound
//! larger than it need be.

use crate::names::{NodeName, RegionName};
use crate::time::Instant;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use atoll_crdt::VersionVector;

/// Uncovered answers kept a member.
const ANSWERS_MAX: usize = 64;

#[derive(Debug)]
struct Member {
    region: RegionName,
    /// As of when readers here miss nothing of this member.
    fresh: Option<Instant>,
    /// Answers not yet covered, oldest first: (t0, what the member held).
    answers: VecDeque<(Instant, VersionVector)>,
}

/// What is known about every other member.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    members: BTreeMap<NodeName, Member>,
}

impl Freshness {
    /// A member exists.
    pub(crate) fn member(&mut self, node: &NodeName, region: &RegionName) {
        self.members.entry(node.clone()).or_insert_with(|| Member {
            region: region.clone(),
            fresh: None,
            answers: VecDeque::new(),
        });
    }

    /// A member was removed.
    pub(crate) fn forget(&mut self, node: &NodeName) {
        self.members.remove(node);
    }

    /// Every member that exists.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&NodeName, &RegionName)> {
        self.members.iter().map(|(node, member)| (node, &member.region))
    }

    /// A member answered a ping of `sent` by what it held.
    pub(crate) fn answered(&mut self, node: &NodeName, sent: Instant, held: &VersionVector, durable: &VersionVector) {
        let Some(member) = self.members.get_mut(node) else { return };
        if held.leq(durable) {
            member.fresh = member.fresh.max(Some(sent));
            member.answers.clear();
            return;
        }
        if member.answers.len() >= ANSWERS_MAX {
            // F2: the second oldest goes, so that the oldest can still be reached and the newest is known.
            member.answers.remove(1);
        }
        member.answers.push_back((sent, held.clone()));
    }

    /// Readers here see `durable` now.
    pub(crate) fn advanced(&mut self, durable: &VersionVector) {
        for member in self.members.values_mut() {
            while let Some((sent, held)) = member.answers.front() {
                if !held.leq(durable) {
                    break;
                }
                // F1
                member.fresh = member.fresh.max(Some(*sent));
                member.answers.pop_front();
            }
        }
    }

    /// As of when readers here miss nothing of `node`.
    pub(crate) fn of(&self, node: &NodeName) -> Option<Instant> {
        self.members.get(node).and_then(|member| member.fresh)
    }

    /// As of when readers here miss nothing of any other region; `None` while a region was never heard of, or a member
    /// never answered. With no other region: always `now`.
    pub(crate) fn of_all(&self, now: Instant, own: &RegionName, regions: &[RegionName]) -> Option<Instant> {
        let mut oldest = now;
        for region in regions.iter().filter(|region| *region != own) {
            oldest = oldest.min(self.of_region(region)?);
        }
        Some(oldest)
    }

    /// As of when readers here miss nothing of `region`.
    pub(crate) fn of_region(&self, region: &RegionName) -> Option<Instant> {
        let mut oldest = None;
        for member in self.members.values().filter(|member| member.region == *region) {
            let fresh = member.fresh?;
            oldest = Some(oldest.map_or(fresh, |oldest: Instant| oldest.min(fresh)));
        }
        oldest
    }
}

/// The median of the peers' clock offsets in milliseconds (of two in the middle, the smaller), zero without peers.
pub(crate) fn median_offset_ms(mut offsets: Vec<i64>) -> i64 {
    offsets.sort_unstable();
    match offsets.len() {
        0 => 0,
        n if n % 2 == 1 => offsets[n / 2],
        n => {
            let (a, b) = (offsets[n / 2 - 1], offsets[n / 2]);
            if a.unsigned_abs() <= b.unsigned_abs() { a } else { b }
        }
    }
}
