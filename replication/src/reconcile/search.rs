//! What the side that compares asks next, while the source's cells tell which rows differ.

use super::message::{IDS_MAX, Step};
use crate::sketch::{Cell, Decoder, Prefix, Progress};

/// The cells of one session so far.
#[derive(Debug, Default)]
pub(crate) struct Search(Decoder);

impl Search {
    /// Takes in the source's next cells, beside ours; what to ask comes back: more of them, the rows that differ, or
    /// everything where that is too much for cells.
    pub(crate) fn on_cells(&mut self, ours: &Prefix, cells: &[Cell]) -> Step {
        match self.0.extend(ours, cells) {
            Ok(Progress::More(range)) => Step::More { from: range.start as u32, to: range.end as u32 },
            Ok(Progress::Complete) => match core::mem::take(&mut self.0).into_changes() {
                Ok(changes) if changes.len() <= IDS_MAX => Step::Want(changes.iter().map(|change| change.id).collect()),
                _ => Step::WantAll,
            },
            Ok(Progress::Exhausted) | Err(_) => Step::WantAll,
        }
    }
}
