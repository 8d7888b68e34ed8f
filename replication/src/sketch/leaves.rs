//! The Merkle tree as one flat array: a cell for each stretch of ids, of which every level is a sum.
//!
//! **How it goes.** Ids are spread evenly, so the top `bits` bits of an id say its leaf. A level of fewer nodes is the
//! array with neighbours added; the root is the sum of all.
//!
//! **What always holds.** T1: a leaf is the sum over the rows whose ids it spans, so the array, and its root, depend
//! only on the set of rows, never on the order of arrival. T2: folds of two arrays over the same rows are equal,
//! whatever the sizes of the arrays. T3: the kept summary is the fold to [`SUMMARY_BITS`].
//!
//! **What it costs.** 24 B a leaf, so 3 to 6 MB a million rows at the advised size, and 96 KiB for the summary; a change
//! is two additions of cells, 20 ns at a million rows and 90 at ten. Of those the summary takes 5 to 10, and saves each
//! session a fold of all leaves. An array cannot grow in place: a sum does not say which of its rows go left. Doubling it
//! is building it anew from the rows, so the size is chosen for the rows that are expected ([`leaf_bits_for`]).
//!
//! **Why not a tree of hashes.** Hashing the path to the root on every write multiplied the cost of writes in the stores
//! that tried, and its levels cost a round trip each. Sums take a write in constant time, in any order, and a leaf with
//! one differing row names it.

use super::cell::{Cell, sum};
use super::digest::{Change, ID_BITS, RowId};
use alloc::vec;
use alloc::vec::Vec;

/// Bits of the smallest array, and of the fold that is kept up to date beside a larger one.
pub const SUMMARY_BITS: u32 = 12;

/// Nodes of the summary.
pub const SUMMARY_NODES: usize = 1 << SUMMARY_BITS;

/// Bits of the largest array: 96 MiB, good for 3·10^7 rows.
pub const LEAF_BITS_MAX: u32 = 22;

/// The advised size for a number of rows: about eight rows a leaf, within the bounds.
#[must_use]
pub fn leaf_bits_for(rows: u64) -> u32 {
    let log_up = u64::BITS - rows.max(1).saturating_sub(1).leading_zeros();
    log_up.saturating_sub(3).clamp(SUMMARY_BITS, LEAF_BITS_MAX)
}

/// Ids from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first.
    pub first: RowId,
    /// The last.
    pub last: RowId,
}

impl IdRange {
    /// What node `at` of a level of 2^`bits` nodes spans. A node outside the level is taken for its last.
    #[must_use]
    pub fn of_node(bits: u32, at: usize) -> Self {
        let bits = bits.min(LEAF_BITS_MAX);
        let at = (at as u64).min((1 << bits) - 1);
        let shift = ID_BITS - bits;
        // The very last number is the modulus, which no id is.
        let last = (((at + 1) << shift) - 1).min(super::field::MODULUS - 1);
        let id = |bits| RowId::from_bits(bits).expect("below the modulus by the line above");
        Self { first: id(at << shift), last: id(last) }
    }

    /// Whether `id` is in it.
    #[must_use]
    pub fn contains(&self, id: RowId) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// A node that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeDifference {
    /// Where the rows are that differ.
    pub ids: IdRange,
    /// The row, if it is one: ours less theirs.
    pub only: Option<Change>,
}

impl NodeDifference {
    fn of(bits: u32, at: usize, difference: &Cell) -> Option<Self> {
        let ids = IdRange::of_node(bits, at);
        (!difference.is_empty()).then(|| {
            // A row that is not spanned is a false reading.
            Self { ids, only: difference.decode().filter(|change| ids.contains(change.id)) }
        })
    }
}

/// A stretch of a level that cannot be: the peer asks for what no array has, or for a finer level than ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such stretch of nodes: the array is unchanged, and the peer is at fault or must ask for a coarser level")]
pub struct NoSuchStretch;

/// One cell for each stretch of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafArray {
    bits: u32,
    cells: Vec<Cell>,
    /// T3; empty where the array itself is that fold.
    summary: Vec<Cell>,
}

impl LeafArray {
    /// An array of 2^`bits` leaves without rows, `bits` moved into [`SUMMARY_BITS`]`..=`[`LEAF_BITS_MAX`].
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let bits = bits.clamp(SUMMARY_BITS, LEAF_BITS_MAX);
        Self::of_cells(bits, vec![Cell::EMPTY; 1 << bits])
    }

    /// `cells` must be 2^`bits`, and `bits` within the bounds.
    pub(super) fn of_cells(bits: u32, cells: Vec<Cell>) -> Self {
        let summary =
            if bits == SUMMARY_BITS { Vec::new() } else { fold(&cells, 1 << (bits - SUMMARY_BITS)).collect() };
        Self { bits, cells, summary }
    }

    /// The binary logarithm of the number of leaves.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The leaves, in the order of ids.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Bytes it takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.cells) + size_of_val(&*self.summary)
    }

    /// Takes in what happened to one row.
    pub fn apply(&mut self, change: Change) {
        self.add(change.id, Cell::of(change));
    }

    /// Adds `cell`, the effect of a change of row `id`.
    pub(super) fn add(&mut self, id: RowId, cell: Cell) {
        self.cells[(id.to_bits() >> (ID_BITS - self.bits)) as usize] += cell;
        if let Some(node) = self.summary.get_mut((id.to_bits() >> (ID_BITS - SUMMARY_BITS)) as usize) {
            *node += cell;
        }
    }

    /// Adds another array over other rows: parts built side by side make the whole.
    ///
    /// # Panics
    /// The arrays are of different sizes.
    pub fn absorb(&mut self, other: &Self) {
        assert_eq!(self.bits, other.bits, "parts of one array are of one size");
        for (cell, more) in self.cells.iter_mut().zip(&other.cells) {
            *cell += *more;
        }
        for (node, more) in self.summary.iter_mut().zip(&other.summary) {
            *node += *more;
        }
    }

    /// The fold to [`SUMMARY_BITS`], which is kept up to date.
    #[must_use]
    pub fn summary(&self) -> &[Cell] {
        if self.bits == SUMMARY_BITS { &self.cells } else { &self.summary }
    }

    /// The sum over all rows. Cost: 4,096 additions.
    #[must_use]
    pub fn root(&self) -> Cell {
        sum(self.summary())
    }

    /// All nodes of the level of 2^`bits`; of a finer level than the leaves, the leaves. Cost: one addition a leaf.
    #[must_use]
    pub fn fold(&self, bits: u32) -> Vec<Cell> {
        let bits = bits.min(self.bits);
        self.nodes(bits, 0, 1 << bits).map(Iterator::collect).unwrap_or_default()
    }

    /// This array with fewer leaves: 2^`bits`, moved into [`SUMMARY_BITS`]`..=`[`Self::bits`]. T2
    #[must_use]
    pub fn folded(&self, bits: u32) -> Self {
        let bits = bits.clamp(SUMMARY_BITS, self.bits);
        Self::of_cells(bits, self.fold(bits))
    }

    /// `count` nodes of the level of 2^`bits`, from node `first`.
    ///
    /// # Errors
    /// The level is finer than the leaves, or ends before the stretch does.
    pub fn nodes(
        &self,
        bits: u32,
        first: usize,
        count: usize,
    ) -> Result<impl ExactSizeIterator<Item = Cell> + '_, NoSuchStretch> {
        let width = self.bits.checked_sub(bits).map(|more| 1_usize << more).ok_or(NoSuchStretch)?;
        let end = first.checked_add(count).filter(|end| *end <= 1 << bits).ok_or(NoSuchStretch)?;
        Ok(fold(&self.cells[first * width..end * width], width))
    }

    /// Compares nodes of the level of 2^`bits` from node `first` on with a peer's; gives those that differ.
    ///
    /// # Errors
    /// The level is finer than our leaves, or ends before theirs do.
    pub fn compare<'a>(
        &'a self,
        bits: u32,
        first: usize,
        theirs: &'a [Cell],
    ) -> Result<impl Iterator<Item = NodeDifference> + 'a, NoSuchStretch> {
        let ours = self.nodes(bits, first, theirs.len())?;
        Ok(ours.zip(theirs).enumerate().filter_map(move |(at, (mut difference, theirs))| {
            difference -= *theirs;
            NodeDifference::of(bits, first + at, &difference)
        }))
    }

    /// Ours less theirs, at the size of the smaller of the two. T2
    #[must_use]
    pub fn difference(&self, theirs: &Self) -> Self {
        let bits = self.bits.min(theirs.bits);
        let mut cells = self.fold(bits);
        let folded;
        let theirs = if theirs.bits == bits {
            &theirs.cells
        } else {
            folded = theirs.fold(bits);
            &folded
        };
        for (cell, less) in cells.iter_mut().zip(theirs) {
            *cell -= *less;
        }
        Self::of_cells(bits, cells)
    }

    /// Of a difference, the leaves that are not empty, in the order of ids; those of a single row say which.
    pub fn differing(&self) -> impl Iterator<Item = NodeDifference> + '_ {
        self.cells.iter().enumerate().filter_map(|(at, cell)| NodeDifference::of(self.bits, at, cell))
    }

    /// Whether T3 holds; for simulations and tests.
    #[must_use]
    pub fn check_invariants(&self) -> bool {
        self.cells.len() == 1 << self.bits && self.summary() == self.fold(SUMMARY_BITS)
    }
}

/// Sums of `width` neighbours.
fn fold(cells: &[Cell], width: usize) -> impl ExactSizeIterator<Item = Cell> + '_ {
    cells.chunks(width).map(sum)
}

#[cfg(test)]
mod tests {
    use super::super::field::Residue;
    use super::super::rows::{Rows, spread};
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    fn array(bits: u32, rows: &Rows) -> LeafArray {
        let mut array = LeafArray::new(bits);
        for change in rows.changes() {
            array.apply(change);
        }
        array
    }

    #[test]
    fn the_advice_is_about_eight_rows_a_leaf() {
        let advised = [0, 1, 32_768, 32_769, 1_000_000, 8_388_608, 10_000_000, 1 << 40, u64::MAX].map(leaf_bits_for);
        assert_eq!(advised, [12, 12, 12, 13, 17, 20, 21, 22, 22]);
    }

    #[test]
    fn nodes_span_all_ids_without_gap() {
        for bits in [0, 1, 12, 22] {
            let nodes = 1_usize << bits;
            assert_eq!(IdRange::of_node(bits, 0).first, RowId::MIN);
            assert_eq!(IdRange::of_node(bits, nodes - 1).last.to_bits(), super::super::field::MODULUS - 1);
            for at in [0, nodes / 2, nodes.saturating_sub(2)].into_iter().filter(|at| at + 1 < nodes) {
                let (here, next) = (IdRange::of_node(bits, at), IdRange::of_node(bits, at + 1));
                assert_eq!(here.last.to_bits() + 1, next.first.to_bits());
            }
        }
        // What a peer may ask for never panics.
        assert_eq!(IdRange::of_node(u32::MAX, usize::MAX), IdRange::of_node(LEAF_BITS_MAX, usize::MAX));
    }

    #[test]
    fn a_stretch_that_cannot_be_is_refused() {
        let array = LeafArray::new(13);
        assert!(array.nodes(14, 0, 1).is_err());
        assert!(array.nodes(u32::MAX, 0, 1).is_err());
        assert!(array.nodes(13, usize::MAX, 2).is_err());
        assert!(array.nodes(13, 8_191, 2).is_err());
        assert!(array.compare(12, 4_000, &[Cell::EMPTY; 97]).is_err());
        assert_eq!(array.nodes(13, 8_190, 2).map(|nodes| nodes.len()), Ok(2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_array_depends_on_the_rows_alone(rows in Rows::any(200), detours: u64) {
            let straight = array(13, &rows);
            let mut winding = LeafArray::new(13);
            for change in rows.changes_with_detours(detours) {
                winding.apply(change);
            }
            prop_assert!(winding.check_invariants()); // T3
            prop_assert_eq!(winding, straight); // T1
        }

        #[test]
        fn folds_are_equal_whatever_the_size(rows in Rows::any(200), small in 12..15_u32, more in 0..3_u32, level in 0..13_u32) {
            let (small, large) = (array(small, &rows), array(small + more, &rows));
            prop_assert_eq!(&large.folded(small.bits()), &small); // T2
            prop_assert_eq!(large.fold(level), small.fold(level));
            prop_assert_eq!(large.fold(0), [large.root()]);
            prop_assert_eq!(large.root(), small.root());
            prop_assert!(large.difference(&small).differing().next().is_none());
        }

        #[test]
        fn a_difference_names_each_leaf_that_differs(rows in Rows::any(500), changed in 0..40_usize, salt: u64, more in 0..2_u32) {
            let other = rows.with_changed(changed, salt);
            let difference = array(14, &rows).difference(&array(14 + more, &other));
            let mut expected: BTreeMap<u64, Vec<Change>> = BTreeMap::new();
            for change in rows.less(&other) {
                expected.entry(change.id.to_bits() >> (ID_BITS - 14)).or_default().push(change);
            }
            let found: Vec<_> = difference.differing().collect();
            prop_assert_eq!(found.len(), expected.len());
            for (node, (leaf, changes)) in found.iter().zip(&expected) {
                prop_assert_eq!(node.ids, IdRange::of_node(14, *leaf as usize));
                prop_assert_eq!(node.only, (changes.len() == 1).then_some(changes[0]));
            }
            let cells = array(14, &other).fold(14);
            let compared: Vec<_> = array(15, &rows).compare(14, 0, &cells).unwrap().collect();
            prop_assert_eq!(compared, found);
        }

        #[test]
        fn parts_add_up_to_the_whole(rows in Rows::any(100), other in Rows::any(100)) {
            let mut both = array(13, &rows);
            both.absorb(&array(13, &other));
            let mut expected = array(13, &rows);
            for change in other.changes() {
                expected.apply(change);
            }
            prop_assert_eq!(both, expected);
        }
    }

    #[test]
    fn a_summary_of_other_leaves_is_noticed() {
        let mut array = array(13, &Rows::of(1, 10));
        assert!(array.check_invariants());
        array.summary[5] += Cell::of(Change { id: RowId::MIN, delta: Residue::ONE });
        assert!(!array.check_invariants()); // T3
    }

    #[test]
    fn a_reading_outside_the_leaf_is_no_row() {
        let elsewhere = RowId::from_bits(super::super::field::MODULUS - 1).unwrap();
        let cell = Cell::of(Change { id: elsewhere, delta: Residue::ONE });
        let node = NodeDifference::of(12, 3, &cell).unwrap();
        assert_eq!((node.ids, node.only), (IdRange::of_node(12, 3), None));
        assert_ne!(spread(1), spread(2));
    }
}
