//! What a session has collected of a peer's rows: in memory while that is little, else in a layer on disk.
//!
//! **How it goes.** Rows that differ from the pinned ones are put here, and the keys of rows that change here meanwhile. When
//! both together are larger than may be held in memory, a layer is begun ([`crate::Aside`]) and the rows go there; when the
//! keys alone are, they are noted in the layer and the pin moves on. At the end, what is in memory is merged by the closing entry;
//! a layer is merged in passes while writes go on, until so few rows have changed since the last pass that the entry can
//! merge those.
//!
//! **What always holds.** G1: memory is bounded by [`Limits::reconcile_memory`] and one row. G2: for every key the peer's row
//! is known: it is what was put, or else the pinned one, and of a key that changed, the one from before the change. G3: the
//! closing entry mentions every row of the layer that changed since the pin of the last pass, which is the pin that holds.
//!
//! **Why `state = f(CC)` holds after it.** Let `N` be this node's context at the entry, `D` the peer's, `C` that of the pin with
//! which a row of the layer was merged last. A row that changed since was noted, and merged by a later pass, or is merged under `N` with the peer's row, which is `f(D)` by G2: `merge(f(N), f(D)) = f(N ⊔ D)`. A
//! row that did not change is `f(N)` as it is `f(C)`, and was merged under `C` instead of `N`. The two differ only in dots of
//! the peer's row that are in `N` and not in `C`. Such a dot came by a record that was applied since the pin, and that
//! record put it into this very row: so the row changed. There is none.

use crate::adoption::Adoption;
use crate::aside::Sides;
use crate::config::Limits;
use crate::mutants::{Mutant, is};
use crate::store::{Pinned, Store};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ReadError, Row, RowKey, VersionVector};

/// Rows handed to the layer at once.
const BATCH_ROWS: usize = 256;
/// What a key or row takes in a map beside its own bytes.
const OVERHEAD_BYTES: usize = 64;

#[derive(Debug)]
enum Place {
    Memory { rows: BTreeMap<RowKey, Arc<Row>>, bytes: usize },
    Disk { batch: Vec<(RowKey, Arc<Row>)>, bytes: usize },
}

/// What the closing entry is made with, beside what was staged.
#[derive(Debug)]
pub(crate) struct Closing<'a> {
    /// This node's context.
    pub(crate) context: &'a VersionVector,
    /// The peer's.
    pub(crate) theirs: &'a VersionVector,
    /// Its rows for those that are damaged here. C5
    pub(crate) repairs: &'a BTreeMap<RowKey, Arc<Row>>,
}

/// The peer's rows where they differ from this node's.
#[derive(Debug)]
pub(crate) struct Staging {
    /// What rows that are not kept here are compared with.
    pin: Arc<dyn Pinned>,
    /// Rows that changed here since. C2
    changed: BTreeSet<RowKey>,
    changed_bytes: usize,
    place: Place,
    /// Whether rows were noted since the last pass began, which it does not merge with what they are now.
    noted: bool,
    /// What rows are merged under when they are put into a layer that is begun: once the peer's context is known.
    sides: Option<Sides>,
}

impl Staging {
    /// Nothing, over a pinned state.
    pub(crate) fn new(pin: Arc<dyn Pinned>) -> Self {
        let place = Place::Memory { rows: BTreeMap::new(), bytes: 0 };
        Self { pin, changed: BTreeSet::new(), changed_bytes: 0, place, noted: false, sides: None }
    }

    /// The peer's context is known. A layer that was begun before, or by another session, stays raw until a pass.
    pub(crate) fn accepted(&mut self, sides: Sides) {
        self.sides = Some(sides);
    }

    /// Whether there is a layer, which outlasts the session.
    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self.place, Place::Disk { .. })
    }

    /// Bytes held in memory. G1
    pub(crate) fn memory_bytes(&self) -> usize {
        let (Place::Memory { bytes, .. } | Place::Disk { bytes, .. }) = &self.place;
        bytes + self.changed_bytes
    }

    /// Rows changed here, a moment ago.
    pub(crate) fn changed(&mut self, keys: impl Iterator<Item = RowKey>, limits: &Limits, store: &mut dyn Store) {
        for key in keys {
            let bytes = key.as_bytes().len() + OVERHEAD_BYTES;
            if self.changed.insert(key) {
                self.changed_bytes += bytes;
            }
        }
        self.bound(limits, store);
    }

    /// Keeps a row of the peer; the empty one is none.
    pub(crate) fn put(&mut self, key: RowKey, row: Row, limits: &Limits, store: &mut dyn Store) {
        let weight = key.as_bytes().len() + row.memory_bytes() + OVERHEAD_BYTES;
        let row = Arc::new(row);
        match &mut self.place {
            Place::Memory { rows, bytes } => {
                *bytes += weight;
                let key_bytes = key.as_bytes().len();
                if let Some(old) = rows.insert(key, row) {
                    *bytes -= key_bytes + old.memory_bytes() + OVERHEAD_BYTES;
                }
            }
            Place::Disk { batch, bytes } => {
                *bytes += weight;
                batch.push((key, row));
                if batch.len() >= BATCH_ROWS {
                    self.hand_over(store);
                }
            }
        }
        self.bound(limits, store);
    }

    /// Hands what has gathered to the layer, if there is one.
    pub(crate) fn hand_over(&mut self, store: &mut dyn Store) {
        if let Place::Disk { batch, bytes } = &mut self.place
            && !batch.is_empty()
        {
            *bytes = 0;
            store.put_aside(core::mem::take(batch));
        }
    }

    /// G1
    fn bound(&mut self, limits: &Limits, store: &mut dyn Store) {
        if self.memory_bytes() <= limits.reconcile_memory {
            return;
        }
        if let Place::Memory { rows, .. } = &mut self.place {
            let batch = core::mem::take(rows).into_iter().collect();
            store.begin_aside(Arc::clone(&self.pin), self.sides.take());
            self.place = Place::Disk { batch, bytes: 0 };
        }
        self.hand_over(store);
        if self.memory_bytes() > limits.reconcile_memory {
            self.move_pin(store);
        }
    }

    /// Goes on from the state as it is now. W2
    fn move_pin(&mut self, store: &mut dyn Store) {
        self.hand_over(store);
        self.pin = store.pin();
        self.changed_bytes = 0;
        self.noted = true;
        let changed = core::mem::take(&mut self.changed).into_iter().collect();
        store.note_aside(changed, Arc::clone(&self.pin));
    }

    /// Begins a pass over the layer, on the state as it is now, which stands at this side's context.
    pub(crate) fn begin_pass(&mut self, sides: Sides, store: &mut dyn Store) {
        self.move_pin(store);
        self.noted = false;
        store.merge_aside(sides);
    }

    /// Whether the last pass merged with the pin that holds now, and how many rows changed since. G3
    pub(crate) fn changed_since_pass(&self) -> Option<usize> {
        (!self.noted).then_some(self.changed.len())
    }

    /// The closing entry, on rows as they are now. With a layer, a pass has ended. A damaged row that it needs and does not
    /// repair is an error, of which the session ends.
    pub(crate) fn close(self, closing: &Closing<'_>, store: &dyn Store) -> Result<Adoption, ReadError> {
        let Closing { context, theirs, repairs } = closing;
        let mut rows = Vec::new();
        let mut merge = |key: &RowKey, their_row: &Row, always: bool| -> Result<(), ReadError> {
            let mine = match store.row(key) {
                // C5
                Err(ReadError::Damaged(_)) if repairs.contains_key(key) => {
                    rows.push((key.clone(), Arc::new(their_row.clone())));
                    return Ok(());
                }
                read => read?,
            };
            let before = mine.as_deref().cloned().unwrap_or_default();
            let after = before.merge(context, their_row, theirs);
            if always || after != before {
                rows.push((key.clone(), Arc::new(after)));
            }
            Ok(())
        };
        let of_pin = |key: &RowKey| Ok(self.pin.row(key)?.as_deref().cloned().unwrap_or_default());
        match &self.place {
            Place::Memory { rows: staged, .. } => {
                for (key, row) in staged {
                    merge(key, row, false)?;
                }
                if !is(Mutant::ForgetInFlight) {
                    for key in self.changed.iter().filter(|key| !staged.contains_key(*key)) {
                        merge(key, &of_pin(key)?, false)?;
                    }
                }
            }
            Place::Disk { .. } if is(Mutant::LayerOverNewer) => {}
            Place::Disk { .. } => {
                for key in &self.changed {
                    match store.aside_row(key)? {
                        // Also when it stays as it is: the layer would say otherwise. G3
                        Some(row) => merge(key, &row, true)?,
                        None => merge(key, &of_pin(key)?, false)?,
                    }
                }
            }
        }
        for (key, row) in *repairs {
            // If a layer names the row too, this one is newer.
            let is_in_layer = self.is_on_disk() && store.aside_row(key)?.is_some();
            merge(key, row, is_in_layer)?;
        }
        // Staged ones, changed ones and repaired ones are each in order, not together.
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Adoption { context: (*theirs).clone(), cursor: VersionVector::new(), rows, layer: None })
    }
}
