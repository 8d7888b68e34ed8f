//! Sources that are wrong about how much differs, or whose cells make no sense: reconciliation takes longer, and ends as ever.

use super::World;
use crate::sim::options::CellsFault;
use atoll_replication::sketch::Cell;
use atoll_replication::wire::Message;
use atoll_replication::{Reconcile, Step, Store as _};
use std::sync::Arc;

impl World {
    /// What a source says that is wrong in this seed's way.
    pub(super) fn with_wrong_cells(&mut self, from: usize, message: Message) -> Message {
        let (Some(fault), Message::Reconcile(said)) = (self.options.cells_fault, &message) else { return message };
        let Step::Cells(cells) = &said.step else { return message };
        // The source's guess shows in the first of them alone.
        let is_first = said.place == 1;
        let (what, cells): (_, Arc<[Cell]>) = match fault {
            CellsFault::Tenth if is_first => ("estimates that are too low", cells[..cells.len().div_ceil(10)].into()),
            CellsFault::Tenfold if is_first => {
                let pin = self.nodes[from].store.pin();
                let all = pin.sketch().prefix().cells();
                let wanted = (cells.len() * 10).min(all.len());
                if all.get(..cells.len()) != Some(&**cells) || wanted <= cells.len() {
                    return message;
                }
                ("estimates that are too high", all[..wanted].into())
            }
            CellsFault::Senseless => ("cells that make no sense", cells.iter().rev().copied().collect()),
            CellsFault::Tenth | CellsFault::Tenfold => return message,
        };
        let step = Step::Cells(cells);
        let message = Message::Reconcile(Reconcile { step, ..said.clone() });
        self.fault_of(what);
        message
    }
}
