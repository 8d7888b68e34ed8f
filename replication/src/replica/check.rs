//! Invariants, checked after every simulated step.

use super::Replica;
use alloc::format;
use alloc::string::String;

impl Replica {
    /// Checks what must always hold inside one replica.
    ///
    /// # Errors
    /// Says which invariant does not.
    pub fn check_invariants(&self) -> Result<(), String> {
        let limits = &self.config.limits;
        let check = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(format!(
                    "{what}; LV {:?} CC {:?} durable {:?}",
                    self.clocks.cursor, self.clocks.context, self.durable
                ))
            }
        };
        check(self.clocks.cursor.leq(&self.clocks.context), "LV is ahead of CC")?;
        check(self.durable.leq(&self.clocks.context), "durable is ahead of CC")?;
        check(self.clock.last() <= self.clock.ceiling(), "a stamp is above the ceiling")?;
        check(self.pending.check_invariants(), "the sums of held-back records are wrong")?;
        // One record beyond the bound may always be held: the next of its actor (H1).
        let slack = self.clocks.cursor.len() * crate::record::RECORD_BYTES_MAX;
        check(self.pending.bytes() <= limits.pending_total_bytes + slack, "too much is held back")?;
        check(self.waiting_writes() <= limits.waiting_writes, "too many writes wait")?;
        if let Some(receiver) = &self.receiving {
            check(receiver.staging.memory_bytes() <= limits.reconcile_memory, "too much is held aside")?;
        }
        if let Some(kept) = &self.kept {
            check(kept.staging.memory_bytes() <= limits.reconcile_memory, "too much is kept of a session")?;
            check(self.receiving.is_none() && kept.staging.is_on_disk(), "a session and what another one left")?;
        }
        check(self.sources.len() <= limits.sources, "too many sessions are served")?;
        for link in self.links.values() {
            let largest = crate::record::RECORD_BYTES_MAX.max(crate::reconcile::message::RECONCILE_BYTES_MAX);
            let bound = limits.link_window_bytes + limits.batch_bytes.max(largest);
            check(link.outstanding_bytes() <= bound, "a link holds more than its window")?;
            check(link.told.leq(&self.durable), "a peer was told more than is durable")?;
        }
        let positions = self.appended.iter().map(|(position, _)| position);
        check(positions.is_sorted_by(|a, b| a < b), "positions are out of order")
    }
}
