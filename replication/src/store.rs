//! What the replica needs of a store.
//!
//! **What always holds.** Rows read here include every entry appended so far, synced or not (the volatile state); what
//! clients read is the store's business, and is synced. An entry is durable when the driver hands in
//! [`crate::Input::Synced`] with its position, and a crash keeps a prefix of the entries.

use crate::apply::{Clocks, RowChanges};
use crate::aside::Aside;
use crate::clears::Cleared;
use crate::entry::{Entry, Start};
use crate::record::RecordBytes;
use crate::sketch::{Cell, RowId, Sketch};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ActorId, Hlc, ReadError, Row, RowKey, RowSource, VersionVector};

/// The place of an entry in the journal of one process: 1, 2, 3… in order of appending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// Rows that are damaged, with their ids: neither known nor absent. Reading one is [`ReadError::Damaged`].
pub type Holes = BTreeMap<RowKey, RowId>;

/// Holes that a store may have: one with more is no store any more, and its node takes everything over anew.
pub const HOLES_MAX: usize = 100_000;

/// The journal and the rows behind one trait.
///
/// A change whose `before` is the empty row fills a hole: what that held is not known. The sketch has for a hole what it
/// had for the row, so that it is that of the rows again when the hole is filled.
pub trait Store: RowSource + Aside {
    /// Appends one entry; `rows` is what it makes of the rows it touches, beside those of a layer that it names: where both
    /// mention a key, `rows` holds. From now on reads show it.
    fn append(&mut self, entry: Entry, rows: RowChanges) -> Position {
        self.append_clearing(entry, rows, Vec::new())
    }

    /// [`Self::append`] for an entry that also clears rows which are left to be removed in steps; `rows` has effect after
    /// the clears. From now on reads and counts show them as cleared.
    fn append_clearing(&mut self, entry: Entry, rows: RowChanges, clears: Vec<Cleared>) -> Position;

    /// Clears whose rows are not all removed. Sums, pins and sketches are those of the rows as they lie there until then.
    fn clearing(&self) -> usize;

    /// Removes rows of clears whose entries are synced, looking at no more than `rows_max`; `false` when it could not.
    ///
    /// # Errors
    /// The storage failed.
    fn clear_step(&mut self, rows_max: usize) -> Result<bool, ReadError>;

    /// Records of `actor` from `from` on, in order without a gap, at least one if there is one and else as many as fit
    /// in `bytes_max`. Also records that are not synced.
    ///
    /// # Errors
    /// The storage failed.
    fn log(&self, actor: ActorId, from: u64, bytes_max: usize) -> Result<Vec<RecordBytes>, ReadError>;

    /// The lowest seq of `actor` that the log still holds; `None` when it holds none.
    fn log_start(&self, actor: ActorId) -> Option<u64>;

    /// Drops from the log, oldest first, what it may: what `stable` covers and is old enough, and whatever is beyond the
    /// bounds of size and age that the store was given. Says whether anything went.
    fn truncate(&mut self, stable: &VersionVector) -> bool;

    /// The sum over all rows as of the last position that was reported as synced.
    fn synced_root(&self) -> Cell;

    /// The rows that were found damaged and are not repaired. Another list than the last one whenever it has changed.
    fn holes(&mut self) -> Arc<Holes>;

    /// Has every row read, soon, so that what is damaged becomes a hole.
    fn scrub(&self);

    /// The state as it is now, entries that are not synced included, to be read while the store goes on.
    fn pin(&mut self) -> Arc<dyn Pinned>;
}

/// A state that stays readable while the store goes on.
pub trait Pinned: RowSource + core::fmt::Debug + Send + Sync {
    /// The sketch of exactly these rows.
    fn sketch(&self) -> &Sketch;

    /// How many rows there are.
    fn rows(&self) -> u64;

    /// Visits, in any order, every row whose id is among `ids`, which are ascending. Cost: in proportion to `ids`.
    ///
    /// # Errors
    /// The storage failed.
    fn visit_ids(&self, ids: &[RowId], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>)) -> Result<(), ReadError>;
}

/// What a store found when it was opened: the state after the last whole entry.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The clocks at that state.
    pub clocks: Clocks,
    /// Every process that wrote to this disk before, oldest first.
    pub starts: Vec<Start>,
    /// The highest ceiling stored.
    pub ceiling: Hlc,
}

impl Recovered {
    /// Takes in one entry, after its effect on rows.
    pub fn replay(&mut self, entry: &Entry) {
        match entry {
            Entry::Start(start) => {
                match self.starts.last_mut() {
                    Some(last) if last.actor == start.actor => *last = *start,
                    _ => self.starts.push(*start),
                }
                self.ceiling = self.ceiling.max(start.ceiling);
            }
            Entry::Ceiling(ceiling) => self.ceiling = self.ceiling.max(*ceiling),
            Entry::Record(record) => self.clocks.record(record.dot()),
            Entry::Adopt(adoption) => self.clocks.adopt(adoption),
        }
    }
}
