//! Anti-entropy as mathematics: what a node keeps about its rows so that two nodes find, in a round trip or two, which
//! of them differ.
//!
//! **How it goes.** Each row has an id and a digest ([`DigestKey`]). A write is a [`Change`]: new digest less old one.
//! A [`Sketch`] takes changes into sums ([`Cell`]): an array of leaves, the Merkle tree ([`LeafArray`]), and a prefix of
//! rateless cells ([`Prefix`]).
//! 1. The initiator sends an [`Opening`] of a snapshot (a clone) of its sketch.
//! 2. The other side compares it with a snapshot of its own ([`Opening::compare`]). Equal, or few rows: done. Else it
//!    sends as many of its own cells as the estimate wants.
//! 3. The initiator peels ([`Decoder`]); if cells are missing it asks for more, and only for those.
//! 4. Too many rows for that: a level of the leaves is streamed ([`LeafArray::nodes`], [`LeafArray::compare`]), which
//!    names four of five rows, and the prefix names the rest ([`Decoder::knowing`]).
//!
//! **What always holds.** H1: a sketch depends only on the set of rows and their states, never on the order of arrival.
//! H2: leaves and prefix are over the same rows: the sum of all leaves is cell 0. H3: a sketch is linear: a clone that
//! gets recent changes negated ([`Change::negated`]) is the sketch from before them, so what the log is delivering
//! anyway can be left out of a comparison. H4: whatever a peer sends, work and memory are bounded.
//!
//! **What is not here.** Messages and their order, which rows a session exchanges and which clocks it adopts; keeping
//! old digests beside rows; finding rows by id.
//!
//! **What holds only for honest peers.** Sums are no signatures: whoever has the cluster's secret can make rows that add
//! up to nothing. Members are trusted with the data itself; clients do not have the secret.

mod cell;
mod decoder;
mod digest;
mod estimate;
mod field;
mod leaves;
mod opening;
mod rateless;
#[cfg(test)]
mod rows;

pub use cell::{CELL_BYTES, Cell, decode_cells, encode_cells};
pub use decoder::{Decoder, PeelError, Progress};
pub use digest::{Change, DIGEST_VERSION, DigestKey, ID_BITS, RowDigest, RowId};
pub use estimate::Estimate;
pub use field::{MODULUS, Residue};
pub use leaves::{
    IdRange, LEAF_BITS_MAX, LeafArray, NoSuchStretch, NodeDifference, SUMMARY_BITS, SUMMARY_NODES, leaf_bits_for,
};
pub use opening::{OPENING_BYTES, OPENING_CELLS, Opening, Verdict};
pub use rateless::{PREFIX_CELLS_MAX, PREFIX_CELLS_MIN, Prefix};

use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader};
use cell::read_cells;

const VERSION: u8 = 1;

/// Leaves and prefix over all rows of a node.
///
/// Memory: 24 B a leaf and a cell of the prefix, and 96 KiB. For 10^6 rows 3 + 6 MiB, for 10^7 rows 48 + 6 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    leaves: LeafArray,
    prefix: Prefix,
}

impl Sketch {
    /// A sketch of no rows. `leaf_bits` as [`leaf_bits_for`] advises, `prefix_cells` as many rows may differ and a half
    /// more; both are moved into their bounds.
    #[must_use]
    pub fn new(leaf_bits: u32, prefix_cells: usize) -> Self {
        Self { leaves: LeafArray::new(leaf_bits), prefix: Prefix::new(prefix_cells) }
    }

    /// A sketch of no rows, sized for `rows` of them, with the longest prefix.
    #[must_use]
    pub fn for_rows(rows: u64) -> Self {
        Self::new(leaf_bits_for(rows), PREFIX_CELLS_MAX)
    }

    /// Takes in what happened to one row.
    pub fn apply(&mut self, change: Change) {
        if !change.is_nothing() {
            let cell = Cell::of(change);
            self.leaves.add(change.id, cell);
            self.prefix.add(change.id, cell);
        }
    }

    /// Adds the sketch of other rows: parts built side by side make the whole.
    ///
    /// # Panics
    /// The sketches are of different sizes.
    pub fn absorb(&mut self, other: &Self) {
        self.leaves.absorb(&other.leaves);
        self.prefix.absorb(&other.prefix);
    }

    /// The sum over all rows: equal on two nodes that hold the same rows. Cost: none.
    #[must_use]
    pub fn root(&self) -> Cell {
        self.prefix.root()
    }

    /// The leaves.
    #[must_use]
    pub fn leaves(&self) -> &LeafArray {
        &self.leaves
    }

    /// The rateless cells.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Bytes it takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.leaves.memory_bytes() + self.prefix.memory_bytes()
    }

    /// Whether H2 and the invariants of the parts hold; for simulations and tests.
    #[must_use]
    pub fn check_invariants(&self) -> bool {
        self.leaves.check_invariants() && self.leaves.root() == self.prefix.root()
    }

    /// The bytes of a checkpoint, which is a cache: version, bits of the leaves, number of cells, leaves, cells.
    /// Whoever stores them adds a checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (leaves, cells) = (self.leaves.cells(), self.prefix.cells());
        let mut out = Vec::with_capacity(6 + (leaves.len() + cells.len()) * CELL_BYTES);
        out.push(VERSION);
        out.push(self.leaves.bits() as u8);
        out.extend_from_slice(&(cells.len() as u32).to_le_bytes());
        leaves.iter().chain(cells).for_each(|cell| cell.encode(&mut out));
        out
    }

    /// Reads what [`Self::encode`] wrote. On any error the sketch is to be built anew from the rows.
    ///
    /// # Errors
    /// Another version, sizes out of their bounds, another length, or leaves that do not add up to cell 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        match input.byte()? {
            VERSION => {}
            value => return Err(DecodeError::Unknown { what: "sketch version", value }),
        }
        let leaf_bits = u32::from(input.byte()?);
        if !(SUMMARY_BITS..=LEAF_BITS_MAX).contains(&leaf_bits) {
            return Err(DecodeError::TooLarge { max: u64::from(LEAF_BITS_MAX) });
        }
        let prefix_cells = read_u32(&mut input)? as usize;
        if !(PREFIX_CELLS_MIN..=PREFIX_CELLS_MAX).contains(&prefix_cells) {
            return Err(DecodeError::TooLarge { max: PREFIX_CELLS_MAX as u64 });
        }
        let leaves = LeafArray::of_cells(leaf_bits, read_cells(&mut input, 1 << leaf_bits)?);
        let prefix = Prefix::of_cells(read_cells(&mut input, prefix_cells)?);
        input.finish()?;
        if leaves.root() != prefix.root() {
            return Err(DecodeError::Checksum); // H2
        }
        Ok(Self { leaves, prefix })
    }
}

/// Four bytes, little-endian.
fn read_u32(input: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let mut raw = [0; 4];
    raw.copy_from_slice(input.raw(4)?);
    Ok(u32::from_le_bytes(raw))
}

#[cfg(test)]
mod tests {
    use super::rows::Rows;
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn sketch(changes: &[Change]) -> Sketch {
        let mut sketch = Sketch::new(12, 2_000);
        changes.iter().for_each(|change| sketch.apply(*change));
        sketch
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn equal_rows_have_equal_sketches_and_checkpoints(rows in Rows::any(300), detours: u64) {
            let straight = sketch(&rows.changes());
            let winding = sketch(&rows.changes_with_detours(detours));
            prop_assert!(winding.check_invariants()); // H2
            prop_assert_eq!(&winding, &straight); // H1
            prop_assert_eq!(Sketch::decode(&winding.encode()), Ok(straight));
        }

        #[test]
        fn taking_back_recent_changes_gives_the_sketch_from_before(rows in Rows::any(200), changed in 0..50_usize, salt: u64) {
            let later = rows.with_changed(changed, salt);
            let mut copy = sketch(&later.changes());
            for change in later.less(&rows) {
                copy.apply(change.negated());
            }
            prop_assert_eq!(copy, sketch(&rows.changes())); // H3
        }

        #[test]
        fn parts_add_up_to_the_whole(rows in Rows::any(200), parts in 1..5_usize) {
            let changes = rows.changes();
            let mut whole = sketch(&[]);
            for part in changes.chunks(changes.len().div_ceil(parts).max(1)) {
                whole.absorb(&sketch(part));
            }
            prop_assert_eq!(whole, sketch(&changes));
        }

        #[test]
        fn a_damaged_checkpoint_is_refused_or_is_another_sketch(rows in Rows::any(50), at: proptest::sample::Index, byte: u8) {
            let sketch = sketch(&rows.changes());
            let mut bytes = sketch.encode();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert_ne!(Sketch::decode(&bytes), Ok(sketch));
        }
    }

    #[test]
    fn a_checkpoint_whose_parts_disagree_is_refused() {
        let (few, many) = (sketch(&Rows::of(1, 10).changes()), sketch(&Rows::of(2, 20).changes()));
        let torn = Sketch { leaves: few.leaves.clone(), prefix: many.prefix.clone() };
        assert!(few.check_invariants() && !torn.check_invariants());
        assert_eq!(Sketch::decode(&torn.encode()), Err(DecodeError::Checksum));
    }

    #[test]
    fn sizes_out_of_their_bounds_are_refused_before_allocation() {
        let bytes = |leaf_bits: u8, cells: u32| [&[VERSION, leaf_bits][..], &cells.to_le_bytes(), &[0; 999]].concat();
        for (leaf_bits, cells) in [(11, 1_024), (23, 1_024), (255, 1_024), (12, 1_023), (12, 1 << 19), (12, u32::MAX)] {
            assert!(matches!(Sketch::decode(&bytes(leaf_bits, cells)), Err(DecodeError::TooLarge { .. })));
        }
        assert_eq!(Sketch::decode(&bytes(22, 1 << 18)), Err(DecodeError::Truncated));
        assert_eq!(Sketch::decode(&[]), Err(DecodeError::Truncated));
        assert_eq!(Sketch::decode(&[2]), Err(DecodeError::Unknown { what: "sketch version", value: 2 }));
        assert_eq!(Sketch::decode(&[sketch(&[]).encode(), vec![0]].concat()), Err(DecodeError::Trailing));
    }

    #[test]
    fn sizes_are_moved_into_their_bounds() {
        let small = Sketch::new(0, 0);
        assert_eq!((small.leaves().bits(), small.prefix().cells().len()), (SUMMARY_BITS, PREFIX_CELLS_MIN));
        let usual = Sketch::for_rows(1_000_000);
        assert_eq!((usual.leaves().bits(), usual.prefix().cells().len()), (17, PREFIX_CELLS_MAX));
        assert_eq!(usual.memory_bytes().div_ceil(1 << 20), 10);
    }
}
