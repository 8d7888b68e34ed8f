//! Which client stands behind which upstream socket: the bounded table of one link's flows.
//!
//! What always holds: there are never more flows than the bound; a client that comes when the table is full
//! takes the place of the one that has been silent for longest. A process that is killed and started again
//! comes back from a new port each time, so refusing newcomers would shut it out until the dead flows expire,
//! while whoever is still talking is never the longest silent, unless more talk at once than the bound.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// The flows of one link. `U` is what a client's packets leave through.
#[derive(Debug)]
pub(super) struct FlowTable<U> {
    flows: BTreeMap<SocketAddr, Flow<U>>,
    flows_max: usize,
}

#[derive(Debug)]
struct Flow<U> {
    upstream: U,
    last_active: Duration,
}

impl<U> FlowTable<U> {
    /// An empty table for at most `flows_max` flows, but for one at least.
    pub(super) fn new(flows_max: usize) -> Self {
        Self { flows: BTreeMap::new(), flows_max: flows_max.max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The upstream of `client`, if it has one; notes that it was active at `now`.
    pub(super) fn touch(&mut self, client: SocketAddr, now: Duration) -> Option<&U> {
        let flow = self.flows.get_mut(&client)?;
        flow.last_active = now;
        Some(&flow.upstream)
    }

    /// Adds a flow; returns the upstream that had to leave for it, if the table was full.
    pub(super) fn insert(&mut self, client: SocketAddr, upstream: U, now: Duration) -> Option<U> {
        let is_full = self.flows.len() >= self.flows_max && !self.flows.contains_key(&client);
        let evicted = if is_full { self.evict_longest_idle() } else { None };
        let replaced = self.flows.insert(client, Flow { upstream, last_active: now });
        evicted.or(replaced.map(|flow| flow.upstream))
    }

    fn evict_longest_idle(&mut self) -> Option<U> {
        let longest_idle = self.flows.iter().min_by_key(|(_, flow)| flow.last_active);
        let client = *longest_idle?.0;
        self.flows.remove(&client).map(|flow| flow.upstream)
    }

    /// Removes every flow that has been idle for `idle_max` at `now`, and returns their upstreams.
    pub(super) fn expire(&mut self, now: Duration, idle_max: Duration) -> Vec<U> {
        let idle = self.flows.extract_if(.., |_, flow| now.saturating_sub(flow.last_active) >= idle_max);
        idle.map(|(_, flow)| flow.upstream).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_client_keeps_its_upstream() {
        let mut flows = FlowTable::new(4);
        assert_eq!(flows.insert(client(1), "one", MS), None);
        assert_eq!(flows.insert(client(2), "two", MS), None);
        assert_eq!(flows.touch(client(1), 2 * MS), Some(&"one"));
        assert_eq!(flows.touch(client(2), 2 * MS), Some(&"two"));
        assert_eq!(flows.touch(client(3), 2 * MS), None);
    }

    #[test]
    fn at_the_bound_the_longest_silent_gives_way() {
        let mut flows = FlowTable::new(3);
        for port in 1..=3 {
            flows.insert(client(port), port, MS * u32::from(port));
        }
        flows.touch(client(1), 4 * MS);
        assert_eq!(flows.insert(client(4), 4, 5 * MS), Some(2));
        assert_eq!(flows.insert(client(5), 5, 6 * MS), Some(3));
        assert_eq!(flows.len(), 3);
        assert_eq!(flows.touch(client(1), 7 * MS), Some(&1));
        assert_eq!(flows.insert(client(1), 9, 8 * MS), Some(1), "replaced, nobody evicted");
        assert_eq!(flows.len(), 3);
    }

    #[test]
    fn idle_flows_expire_and_active_ones_stay() {
        let mut flows = FlowTable::new(3);
        flows.insert(client(1), 1, MS);
        flows.insert(client(2), 2, MS);
        flows.touch(client(2), 50 * MS);
        assert_eq!(flows.expire(100 * MS, 60 * MS), [1]);
        assert!(flows.expire(109 * MS, 60 * MS).is_empty());
        assert_eq!(flows.expire(110 * MS, 60 * MS), [2]);
        assert_eq!(flows.len(), 0);
    }
}
