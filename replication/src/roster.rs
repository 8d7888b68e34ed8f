//! Who belongs to the cluster, as rows of the database tell it, and what this node may do by that.
//!
//! **What always holds.** R1: a wrong roster may cost traffic and time, never data: it decides with whom to talk, what to
//! count and when to refuse clients, and nothing about rows. R2: whoever was removed stays removed: the name is not
//! used again. R3: a node that drains or was removed takes no client's write, whoever else asks.
//!
//! **What is not here.** The rows themselves, and who may change them: the node.

use crate::names::{NodeName, RegionName};
use crate::time::Instant;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// Where a member stands, as operators have decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    /// It takes part in everything.
    Active,
    /// It takes no client's writes any more, and goes on replicating.
    Draining,
    /// It is refused by every other member.
    Removed,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: NodeName,
    /// Its region.
    pub region: RegionName,
    /// Where it stands.
    pub membership: Membership,
}

/// Why this node takes no client's write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fence {
    /// The cluster's operators drain it.
    Draining,
    /// It was removed from the cluster. It still answers reads, and gives out what only it holds.
    Removed,
    /// Another process runs under this node's name: a copied disk or virtual machine, most likely. What is written here
    /// would reach nobody as long as that one is connected.
    Twin,
}

/// What the replica keeps of the roster.
#[derive(Debug)]
pub(crate) struct Roster {
    removed: BTreeSet<NodeName>,
    /// The regions that were declared, and those of members, less those whose members were all removed.
    regions: Vec<RegionName>,
    own: Membership,
    /// A peer said that it took another process for this node, and until when that is taken to be so.
    twin_until: Option<Instant>,
}

impl Roster {
    /// Before anything is known: the declared regions.
    pub(crate) fn new(declared: Vec<RegionName>) -> Self {
        Self { removed: BTreeSet::new(), regions: declared, own: Membership::Active, twin_until: None }
    }

    /// Takes in what the rows say now; gives who was removed since. R2
    pub(crate) fn update(&mut self, own: &NodeName, declared: &[RegionName], members: &[Member]) -> Vec<NodeName> {
        let mut news = Vec::new();
        for member in members {
            if member.node == *own {
                // R2
                self.own = if self.own == Membership::Removed { self.own } else { member.membership };
            } else if member.membership == Membership::Removed && self.removed.insert(member.node.clone()) {
                news.push(member.node.clone());
            }
        }
        let is_here = |member: &&Member| member.membership != Membership::Removed;
        let mut regions: BTreeSet<_> = members.iter().filter(is_here).map(|member| member.region.clone()).collect();
        let left: BTreeSet<_> = members.iter().map(|member| &member.region).filter(|r| !regions.contains(*r)).collect();
        let declared: Vec<_> = declared.iter().filter(|region| !left.contains(region)).cloned().collect();
        regions.extend(declared);
        self.regions = regions.into_iter().collect();
        news
    }

    /// A peer refuses this node as removed.
    pub(crate) fn was_removed(&mut self) {
        self.own = Membership::Removed;
    }

    /// A peer refuses this node because it talks to another process of its name.
    pub(crate) fn has_twin(&mut self, until: Instant) {
        self.twin_until = Some(until);
    }

    /// A peer takes this process for this node.
    pub(crate) fn is_recognised(&mut self) {
        self.twin_until = None;
    }

    pub(crate) fn is_removed(&self, node: &NodeName) -> bool {
        self.removed.contains(node)
    }

    /// What write levels count and staleness is about.
    pub(crate) fn regions(&self) -> &[RegionName] {
        &self.regions
    }

    /// Why this node takes no client's write now. R3
    pub(crate) fn fence(&self, now: Instant) -> Option<Fence> {
        match self.own {
            Membership::Removed => Some(Fence::Removed),
            _ if self.twin_until.is_some_and(|until| now < until) => Some(Fence::Twin),
            Membership::Draining => Some(Fence::Draining),
            Membership::Active => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: &str, region: &str, membership: Membership) -> Member {
        Member { node: NodeName::new(node).unwrap(), region: RegionName::new(region).unwrap(), membership }
    }

    fn regions(names: &[&str]) -> Vec<RegionName> {
        names.iter().map(|name| RegionName::new(name).unwrap()).collect()
    }

    #[test]
    fn regions_are_those_declared_and_joined_less_those_that_everybody_left() {
        let own = NodeName::new("n1").unwrap();
        let declared = regions(&["a", "b", "c"]);
        let mut roster = Roster::new(declared.clone());
        let news = roster.update(
            &own,
            &declared,
            &[
                member("n1", "a", Membership::Active),
                member("n2", "b", Membership::Removed),
                member("n3", "d", Membership::Draining),
            ],
        );
        assert_eq!(news, [NodeName::new("n2").unwrap()]);
        assert_eq!(roster.regions(), regions(&["a", "c", "d"]), "c was declared and nobody is there yet");
        let back = [member("n1", "a", Membership::Active), member("n4", "b", Membership::Active)];
        assert!(roster.update(&own, &declared, &back).is_empty());
        assert_eq!(roster.regions(), regions(&["a", "b", "c"]));
        assert!(roster.is_removed(&NodeName::new("n2").unwrap()), "a row that went missing brings nobody back");
    }

    #[test]
    fn whoever_was_removed_stays_so_whatever_the_rows_say_later() {
        let own = NodeName::new("n1").unwrap();
        let now = Instant::from_micros(0);
        let mut roster = Roster::new(regions(&["a"]));
        roster.update(&own, &[], &[member("n1", "a", Membership::Draining)]);
        assert_eq!(roster.fence(now), Some(Fence::Draining));
        roster.update(&own, &[], &[member("n1", "a", Membership::Active)]);
        assert_eq!(roster.fence(now), None);
        roster.was_removed();
        roster.update(&own, &[], &[member("n1", "a", Membership::Active)]);
        assert_eq!(roster.fence(now), Some(Fence::Removed));
    }
}
