//! What must hold between nodes, seen from above.

use super::World;
use crate::sim::checks;
use crate::sim::node::{Node, Presence};
use atoll_crdt::Dot;

impl World {
    pub(super) fn check_whole(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            checks::whole(node, &self.history).map_err(|what| format!("n{}: {what}", node.index))?;
        }
        self.check_equal_contexts()
    }

    /// Invariant 12: equal contexts, equal rows.
    fn check_equal_contexts(&self) -> Result<(), String> {
        for (i, a) in self.nodes.iter().enumerate() {
            for b in &self.nodes[i + 1..] {
                let same = a.replica.is_some() && b.replica.is_some() && a.context == b.context;
                if same && a.store.seen_rows() != b.store.seen_rows() {
                    return Err(format!("n{} and n{} have equal contexts and different rows", a.index, b.index));
                }
            }
        }
        Ok(())
    }

    /// Invariant 10: what a log drops because everybody has it, every member holds durably, or did until its disk was
    /// replaced.
    pub(super) fn check_truncation(&mut self, index: usize) -> Result<(), String> {
        let dropped = self.nodes[index].store.take_dropped();
        let held = |name, dot| {
            let mut bearers = self.nodes.iter().filter(|node| node.name == name);
            bearers.any(|node| self.has_left(node) || has_held(node, dot))
        };
        for dot in dropped.iter() {
            if let Some(name) = (0..self.options.nodes).find(|name| !held(*name, dot)) {
                return Err(format!("n{index} dropped {dot} from its log as everybody's, and n{name} never held it"));
            }
        }
        Ok(())
    }

    fn has_left(&self, node: &Node) -> bool {
        node.presence == Presence::Gone || self.removed == Some(node.name)
    }
}

fn has_held(node: &Node, dot: Dot) -> bool {
    node.durable().is_some_and(|durable| durable.covers(dot)) || node.held_once.covers(dot)
}
