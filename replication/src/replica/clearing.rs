//! When clears of many rows may be left to be done in steps, and when the steps are.
//!
//! **What always holds.** Sums over rows say something only while no clear is pending ([`crate::Clears`], P4): until then
//! no root is told or compared, and no state is pinned for a session. One that waits for that has clears done at once
//! meanwhile, so that it does not wait for ever; and one that runs has them done at once too, because it must know every
//! row that changes.

use super::{Replica, Unapplied};
use crate::clears::CLEARS_MAX;
use crate::mutants::{Mutant, is};
use crate::store::Store;
use atoll_crdt::ReadError;

/// Where clears in steps stand.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    /// A session or a comparison waits until nothing is being cleared.
    pub(super) quiet_wanted: bool,
    /// The last step got further, and there is more to do.
    goes_on: bool,
}

impl Replica {
    /// Whether rows of clears are still to be removed, so that sums over rows say nothing.
    pub(super) fn is_clearing(&self, store: &dyn Store) -> bool {
        store.clearing() > 0 && !is(Mutant::CompareHalfCleared)
    }

    /// Whether the root of synced rows is that of what they should be. Not while a repair is under way to the disk: the sum
    /// may have had for the row what no row has.
    pub(super) fn may_compare_roots(&self, store: &dyn Store) -> bool {
        let is_repairing = self.appended.iter().any(|(_, entry)| matches!(entry, Unapplied::Context(_)));
        self.holes.is_empty() && !is_repairing && !self.is_clearing(store)
    }

    /// Whether a clear may be left to be done in steps.
    pub(super) fn may_leave_clears(&self, store: &dyn Store) -> bool {
        let in_session = self.receiving.is_some() || self.kept.is_some();
        let is_waited_for = self.clearing.quiet_wanted || !self.early.is_empty();
        !in_session && !is_waited_for && store.clearing() < CLEARS_MAX
    }

    /// One step of what is being cleared.
    pub(super) fn clear_step(&mut self, store: &mut dyn Store) -> Result<(), ReadError> {
        let has_moved = store.clearing() > 0 && store.clear_step(self.config.limits.clear_rows)?;
        self.counts.clear_steps += u64::from(has_moved);
        self.clearing.goes_on = has_moved && store.clearing() > 0;
        Ok(())
    }

    /// Whether another [`crate::Input::Drained`] would go on with something, whatever else happens.
    #[must_use]
    pub fn has_more_to_do(&self) -> bool {
        self.clearing.goes_on
    }
}
