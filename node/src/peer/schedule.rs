//! Whom to dial, and when. Pure: time and chance are arguments.
//!
//! **How it goes.** A target is a seed (an address; which node answers there is learned by dialling) or a member of the
//! roster. A target is due when nobody is connected to its node, nobody is dialling it, its node is not paused, and its
//! pause is over.
//!
//! **What always holds.** D1: in the long run a target is dialled less than once a second, whatever the network does:
//! pauses are counted from the beginnings of attempts and double up to a bound. D2: only a connection that lasted starts
//! them anew, so a peer that accepts and hangs up is not stormed. D3: a node that is connected or paused is not dialled.
//!
//! **Why an unanswered attempt is repeated at once.** It has taken the whole time of a handshake and cost its peer
//! nothing. When a cut network heals, the next packet must be on its way soon: attempts back to back send one at least
//! every 1.2 s, where a pause of five seconds would leave a healed region cut off for as long.

use super::config::{Limits, Member};
use atoll_replication::{NodeName, SeedIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Something to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Seed(SeedIndex),
    Member(NodeName),
}

/// One attempt to make now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dial {
    pub(super) target: Target,
    pub(super) address: String,
    /// Failed attempts before this one, since the last connection that lasted.
    pub(super) failures: u32,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody answered in the time of a handshake.
    Unanswered,
    /// Somebody refused, or the address does not resolve, or is not who was meant.
    Refused,
}

#[derive(Debug)]
struct Entry {
    address: String,
    /// Who answers there; of a seed, who did last time.
    node: Option<NodeName>,
    failures: u32,
    not_before: Instant,
    dialling_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Schedule {
    own: NodeName,
    overrides: BTreeMap<NodeName, String>,
    limits: Limits,
    entries: BTreeMap<Target, Entry>,
    connections: BTreeMap<NodeName, u32>,
    paused: BTreeSet<NodeName>,
    /// Nobody is dialled or let in.
    held: bool,
}

impl Schedule {
    pub(super) fn new(
        own: NodeName,
        seeds: &[String],
        overrides: BTreeMap<NodeName, String>,
        limits: Limits,
        now: Instant,
    ) -> Self {
        let seed = |(index, address): (u32, &String)| {
            let entry =
                Entry { address: address.clone(), node: None, failures: 0, not_before: now, dialling_since: None };
            (Target::Seed(SeedIndex(index)), entry)
        };
        let entries = (0..).zip(seeds).map(seed).collect();
        Self { own, overrides, limits, entries, connections: BTreeMap::new(), paused: BTreeSet::new(), held: false }
    }

    /// The roster's members; who was among them stays as it is.
    pub(super) fn set_members(&mut self, members: Vec<Member>, now: Instant) {
        let mut gone: BTreeSet<_> =
            self.entries.keys().filter(|target| matches!(target, Target::Member(_))).cloned().collect();
        for Member { node, region: _, address } in members {
            if node == self.own {
                continue;
            }
            let address = self.overrides.get(&node).cloned().unwrap_or(address);
            let target = Target::Member(node.clone());
            gone.remove(&target);
            let not_before = now + self.grace(&node);
            let fresh =
                Entry { address: String::new(), node: Some(node), failures: 0, not_before, dialling_since: None };
            self.entries.entry(target).or_insert(fresh).address = address;
        }
        self.entries.retain(|target, _| !gone.contains(target));
    }

    pub(super) fn set_paused(&mut self, node: NodeName, paused: bool, now: Instant) {
        if paused {
            self.paused.insert(node);
        } else if self.paused.remove(&node) {
            for entry in self.entries.values_mut().filter(|entry| entry.node.as_ref() == Some(&node)) {
                entry.failures = 0;
                entry.not_before = now;
            }
        }
    }

    /// Whether nobody at all is dialled or let in.
    pub(super) fn set_held(&mut self, held: bool, now: Instant) {
        if self.held && !held {
            for entry in self.entries.values_mut() {
                entry.failures = 0;
                entry.not_before = now;
            }
        }
        self.held = held;
    }

    pub(super) fn is_paused(&self, node: &NodeName) -> bool {
        self.held || self.paused.contains(node)
    }

    /// The attempts that are due; they count as begun. Call [`Self::failed`] or [`Self::connected`] for each.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Dial> {
        let ready: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.not_before <= now)
            .map(|(target, _)| target.clone())
            .collect();
        let mut dials = Vec::new();
        for target in ready {
            // Asked one by one: a node that is dialled as a seed is not dialled as a member too (D3).
            if self.is_wanted(&self.entries[&target])
                && let Some(entry) = self.entries.get_mut(&target)
            {
                entry.dialling_since = Some(now);
                dials.push(Dial { target, address: entry.address.clone(), failures: entry.failures });
            }
        }
        dials
    }

    /// When something will be due, if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| self.is_wanted(entry)).map(|entry| entry.not_before).min()
    }

    fn is_wanted(&self, entry: &Entry) -> bool {
        let free = |node: &NodeName| {
            !self.paused.contains(node)
                && !self.connections.contains_key(node)
                && !self.entries.values().any(|e| e.dialling_since.is_some() && e.node.as_ref() == Some(node))
        };
        !self.held && entry.dialling_since.is_none() && entry.node.as_ref().is_none_or(free)
    }

    /// An attempt came to nothing. `chance` is from 0.5 to 1.
    pub(super) fn failed(&mut self, target: &Target, failure: Failure, now: Instant, chance: f64) {
        let limits = self.limits;
        if let Some(entry) = self.entries.get_mut(target)
            && let Some(since) = entry.dialling_since.take()
        {
            entry.failures = entry.failures.saturating_add(1);
            let max = match failure {
                Failure::Unanswered => limits.redial_max.min(limits.handshake),
                Failure::Refused => limits.redial_max,
            };
            entry.not_before = now.max(since + pause(&limits, entry.failures).min(max).mul_f64(chance));
        }
    }

    /// The target is this node itself: it is not dialled again.
    pub(super) fn is_own(&mut self, target: &Target) {
        self.entries.remove(target);
    }

    /// A connection stands; `target` if this side dialled it.
    pub(super) fn connected(&mut self, target: Option<&Target>, node: &NodeName) {
        *self.connections.entry(node.clone()).or_default() += 1;
        if let Some(entry) = target.and_then(|target| self.entries.get_mut(target)) {
            entry.dialling_since = None;
            entry.node = Some(node.clone());
        }
    }

    /// A connection ended that [`Self::connected`] told of. `chance` is from 0.5 to 1.
    pub(super) fn ended(&mut self, node: &NodeName, lasted: Duration, now: Instant, chance: f64) {
        match self.connections.get_mut(node) {
            Some(open) if *open > 1 => {
                *open -= 1;
                return;
            }
            _ => self.connections.remove(node),
        };
        let (limits, grace) = (self.limits, self.grace(node));
        for entry in self.entries.values_mut().filter(|entry| entry.node.as_ref() == Some(node)) {
            // D2
            entry.failures = if lasted >= limits.lasted { 0 } else { entry.failures.saturating_add(1) };
            entry.not_before = now + pause(&limits, entry.failures).mul_f64(chance) + grace;
        }
    }

    fn grace(&self, node: &NodeName) -> Duration {
        if *node < self.own { self.limits.grace } else { Duration::ZERO }
    }
}

/// How long after the beginning of an attempt the next one may begin. D1
fn pause(limits: &Limits, failures: u32) -> Duration {
    let doubled = limits.redial_min.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(limits.redial_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_replication::RegionName;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn member(name: &str) -> Member {
        Member { node: node(name), region: RegionName::new("r").unwrap(), address: format!("{name}:1") }
    }

    fn schedule(seeds: &[&str]) -> (Schedule, Instant) {
        let now = Instant::now();
        let seeds: Vec<_> = seeds.iter().map(ToString::to_string).collect();
        let overrides = BTreeMap::from([(node("z9"), "tunnel:9".to_owned())]);
        (Schedule::new(node("n5"), &seeds, overrides, Limits::default(), now), now)
    }

    fn addresses(dials: &[Dial]) -> Vec<&str> {
        dials.iter().map(|dial| dial.address.as_str()).collect()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn members_with_higher_names_are_dialled_at_once_and_lower_ones_after_a_grace() {
        let (mut schedule, now) = schedule(&[]);
        schedule.set_members(vec![member("n1"), member("n5"), member("n7"), member("z9")], now);
        assert_eq!(addresses(&schedule.due(now)), ["n7:1", "tunnel:9"], "not itself, and z9 by its tunnel");
        assert_eq!(schedule.next_due(), Some(now + 1_000 * MS));
        assert_eq!(addresses(&schedule.due(now + 1_000 * MS)), ["n1:1"]);
        assert_eq!(schedule.next_due(), None, "all are being dialled");
    }

    #[test]
    fn whoever_is_connected_or_paused_is_not_dialled() {
        let (mut schedule, now) = schedule(&["s:1"]);
        schedule.set_members(vec![member("n7"), member("n8")], now);
        schedule.connected(None, &node("n7"));
        schedule.set_paused(node("n8"), true, now);
        assert_eq!(addresses(&schedule.due(now)), ["s:1"], "who the seed is nobody knows yet");
        schedule.connected(Some(&Target::Seed(SeedIndex(0))), &node("n7"));
        schedule.ended(&node("n7"), Duration::ZERO, now, 1.0);
        assert_eq!(schedule.next_due(), None, "one of two connections is left");
        schedule.set_paused(node("n8"), false, now);
        schedule.set_held(true, now);
        assert!(schedule.is_paused(&node("n8")) && schedule.next_due().is_none() && schedule.due(now).is_empty());
        schedule.set_held(false, now);
        assert_eq!(addresses(&schedule.due(now)), ["n8:1"]);
        schedule.ended(&node("n7"), 60_000 * MS, now, 1.0);
        assert_eq!(addresses(&schedule.due(now + 100 * MS)), ["s:1"], "one attempt for a node that is seed and member");
    }

    #[test]
    fn attempts_that_fail_are_repeated_ever_more_rarely_and_never_storm() {
        for failure in [Failure::Unanswered, Failure::Refused] {
            let (mut schedule, start) = schedule(&["s:1"]);
            let (mut now, mut attempts) = (start, 0_u32);
            while now < start + Duration::from_secs(300) {
                let dials = schedule.due(now);
                attempts += dials.len() as u32;
                if let Some(dial) = dials.first() {
                    let took = if failure == Failure::Unanswered { 3_000 * MS } else { MS };
                    schedule.failed(&dial.target, failure, now + took, 0.5);
                }
                now = schedule.next_due().unwrap().max(now);
            }
            assert!((30..300).contains(&attempts), "{attempts} attempts in 300 s");
        }
    }

    #[test]
    fn an_unanswered_attempt_is_followed_at_once_so_that_a_healed_network_is_noticed() {
        let (mut schedule, mut now) = schedule(&["s:1"]);
        for _ in 0..20 {
            let dial = schedule.due(now).remove(0);
            now += 3_000 * MS;
            schedule.failed(&dial.target, Failure::Unanswered, now, 1.0);
            assert_eq!(schedule.next_due(), Some(now));
        }
    }

    #[test]
    fn only_a_connection_that_lasted_starts_the_pauses_anew() {
        let (mut schedule, now) = schedule(&["s:1"]);
        let seed = Target::Seed(SeedIndex(0));
        let mut redial = |lasted: Duration| {
            let begun = schedule.next_due().unwrap();
            assert_eq!(schedule.due(begun).len(), 1);
            schedule.connected(Some(&seed), &node("n9"));
            schedule.ended(&node("n9"), lasted, begun, 1.0);
            schedule.next_due().unwrap() - begun
        };
        assert_eq!(redial(MS), 100 * MS);
        assert_eq!(redial(MS), 200 * MS);
        for _ in 0..20 {
            redial(MS);
        }
        assert_eq!(redial(MS), 5_000 * MS);
        assert_eq!(redial(10_000 * MS), 100 * MS);
        assert!(now <= schedule.next_due().unwrap());
    }

    #[test]
    fn a_seed_that_is_this_node_and_a_member_that_left_are_forgotten() {
        let (mut schedule, now) = schedule(&["self:1"]);
        schedule.set_members(vec![member("n7")], now);
        let dials = schedule.due(now);
        schedule.is_own(&Target::Seed(SeedIndex(0)));
        schedule.set_members(Vec::new(), now);
        for dial in dials {
            schedule.failed(&dial.target, Failure::Refused, now, 1.0);
        }
        assert_eq!(schedule.next_due(), None);
    }
}
