//! Who may found: an empty node, and only when no seed has said that there is data.

use super::World;
use atoll_replication::Readiness;
use atoll_replication::wire::Hello;

impl World {
    /// What a node is about to hear of another's data. Who once said that it has none has answered, whatever it has later.
    pub(super) fn note_answer(&mut self, to: usize, hello: &Hello) {
        let name = hello.node.trim_start_matches('n').parse().unwrap_or(usize::MAX);
        let said_none = hello.durable.is_empty();
        *self.nodes[to].has_said_none.entry(name).or_default() |= said_none;
    }

    /// An empty node that asked its seeds, and serves now, was told by each of them that it has nothing. One that has data may
    /// have been on its way before it was restarted, and lack nothing of what it is told.
    pub(super) fn check_founding(&self, index: usize, before: Readiness) -> Result<(), String> {
        let node = &self.nodes[index];
        let Some(replica) = &node.replica else { return Ok(()) };
        let serves = matches!(replica.readiness(), Readiness::Serving | Readiness::Starting);
        let founds = before == Readiness::Asking && serves && replica.context().is_empty();
        if founds && let Some((of, _)) = node.has_said_none.iter().find(|(_, said_none)| !**said_none) {
            return Err(format!("n{index} founds, and n{of} has said that it has data"));
        }
        Ok(())
    }
}
