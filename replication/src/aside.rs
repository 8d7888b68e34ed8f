//! A layer of rows on disk that have no effect yet: where a difference is built that is larger than memory.
//!
//! **How it goes.** A layer is begun over a pinned state. The rows of a peer are put into it, *raw*: as the peer has them; and
//! merged with the pinned ones, if the peer's context is known by then. What changes here meanwhile is noted, and the pin
//! moves on. When the peer has said everything, passes merge every raw row that is not merged under its context, or was
//! noted, with the pinned one; the closing entry then names the layer, and from there on the merged rows are the truth for
//! their keys. The store moves them to where rows lie in its own time.
//!
//! **What always holds.** W1: until an entry that names it is durable, a layer has no effect, and a crash drops it. W2: it
//! holds a raw row for every key whose row at the peer is not the row of the pin that holds now: of what was put, and of what was
//! noted, for which the pinned row from before the change stands for the peer's. So a layer *over* its pin is the peer's
//! state as far as it is known, at whatever pin. W3: a merged row is the merge of the raw one with the row of a pin, under the
//! context of that pin and the peer's, and what changed since that pin is noted, or changed since the pin that holds. W4: at most one layer is built, and none while the last one is still being moved.
//!
//! **Why raw rows.** Merged ones would stand at the context of one peer, and be worth nothing when that peer is gone:
//! another one stands elsewhere. Raw rows over the pin are a state like any other, which a next source compares its own with.
//!
//! **Why merged when put.** A row that is merged later is read and written once more. What a session with one source takes
//! over, a bootstrap above all, is then one write a row, and its passes find only what changed here.

use crate::store::Pinned;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ReadError, Row, RowKey, VersionVector};

/// A layer, numbered by its store and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

/// A layer that an entry may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Which.
    pub layer: LayerId,
    /// How many rows are in it.
    pub rows: u64,
}

/// The contexts under which rows of two sides are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sides {
    /// This side's: that of a pin.
    pub ours: VersionVector,
    /// The peer's.
    pub theirs: VersionVector,
}

/// What a layer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AsideUse {
    /// Bytes that were put into it.
    pub bytes: u64,
    /// Of these, bytes that are still in memory because the disk is slower than the peer.
    pub waiting_bytes: usize,
    /// A row that it needs is damaged, of the pin or its own: nothing is built any more, and it is to be dropped. What is
    /// damaged is never taken for absent.
    pub is_lost: bool,
    /// The disk has no more room than the node needs itself: nothing is built any more, and it is to be dropped.
    pub is_full: bool,
}

/// The part of a store that builds layers. Nothing here waits for a disk.
pub trait Aside {
    /// Begins an empty layer over `pinned`. What there was of another one is dropped. Where the peer's context is known, what is put
    /// is merged with this pin's rows at once, until [`Self::over_aside`] is asked. W3
    fn begin_aside(&mut self, pinned: Arc<dyn Pinned>, sides: Option<Sides>);

    /// Keeps rows of the peer, the empty ones too; later ones replace earlier ones.
    fn put_aside(&mut self, rows: Vec<(RowKey, Arc<Row>)>);

    /// Moves to another pin. Of `changed`, the rows that changed since the last one, it first keeps what that pin shows, where it
    /// keeps nothing else yet. W2
    fn note_aside(&mut self, changed: Vec<RowKey>, pinned: Arc<dyn Pinned>);

    /// The layer over its pin, as a state to be compared. `None` while something of it is on its way to the disk.
    fn over_aside(&mut self) -> Option<Arc<dyn Pinned>>;

    /// Begins a pass that merges with the pinned rows, which stand at the context of this side: what is not merged under the
    /// peer's, or was noted since the last pass. W3
    fn merge_aside(&mut self, sides: Sides);

    /// The layer, once the pass is done and an entry may name it: everything in it is durable, and so is every row from
    /// before its pin, at its final place.
    fn merged_aside(&mut self) -> Option<Merged>;

    /// The raw row that is kept for a key, if any.
    ///
    /// # Errors
    /// The storage failed.
    fn aside_row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError>;

    /// What the layer takes.
    fn aside_use(&self) -> AsideUse;

    /// Drops the layer.
    fn drop_aside(&mut self);

    /// Whether the layer that was adopted last is not wholly moved: no other may be begun. W4
    fn is_moving_aside(&self) -> bool;
}
