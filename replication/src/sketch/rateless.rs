//! The rateless prefix: an endless sequence of cells, of which as many are sent as there are differences.
//!
//! **How it goes.** A row is in cell 0, and in cell `i` with a chance of `1 / (1 + i/2)`. The indexes follow from its id
//! alone ([`Hits`]). So the first cells are in many rows and see whether anything differs, later ones are thin, and the
//! difference of two prefixes of `m` cells can be peeled ([`Decoder`](super::Decoder)) once `m` is about 1.36 times the
//! rows that differ. Each further cell is of use whatever was sent before, so a wrong guess costs what it missed.
//!
//! **What always holds.** P1: cell `i` is the sum over the rows that [`Hits`] puts there; cell 0 is the sum over all.
//! P2: a row's indexes ascend, begin with 0 and are the same on every machine: integers, and multiplication, division
//! and square root of floats, which IEEE 754 rounds in one way only.
//!
//! **What it costs.** 24 B a cell, 6 MiB for the longest; a change is about 25 additions of cells there.
//!
//! **Why by id and not by id and state.** A row that was overwritten is one unknown and not two, and a write is one pass
//! over the cells.

use super::cell::Cell;
use super::digest::{Change, RowId};
use alloc::vec;
use alloc::vec::Vec;

/// Cells of the shortest prefix: what an [`Opening`](super::Opening) carries.
pub const PREFIX_CELLS_MIN: usize = 1_024;

/// Cells of the longest prefix. It reaches 1.9·10^5 rows that differ; beyond, leaves are cheaper.
pub const PREFIX_CELLS_MAX: usize = 1 << 18;

/// The indexes of the cells a row is in, ascending. P2
#[derive(Debug, Clone, Copy)]
pub(super) struct Hits {
    state: u64,
    at: u32,
}

impl Hits {
    /// Begins at cell 0.
    pub(super) fn new(id: RowId) -> Self {
        Self { state: id.to_bits(), at: 0 }
    }

    /// Where it is.
    pub(super) fn at(&self) -> usize {
        self.at as usize
    }

    /// Goes to the next cell.
    ///
    /// From cell `i` the chance to jump beyond `j` is `((i + 1.5) / (j + 1.5))²`, so a uniform number `u` in (0, 1] is
    /// turned into a gap of `(i + 1.5) (1 / √u − 1)`, rounded up (Yang, Gilad, Alizadeh, SIGCOMM 2024, §4.2).
    pub(super) fn step(&mut self) {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // u · 2^32
        let uniform = (mixed(self.state) >> 32) + 1;
        let gap = (f64::from(self.at) + 1.5) * (65_536.0 / libm::sqrt(uniform as f64) - 1.0);
        let whole = gap as u32;
        let up = whole.saturating_add(u32::from(f64::from(whole) < gap)).max(1);
        self.at = self.at.saturating_add(up);
    }
}

/// The finishing steps of `SplitMix64`: every bit of the input decides about every bit of the output.
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first cells of the sequence, over all rows. It depends only on the set of rows, never on the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    cells: Vec<Cell>,
}

impl Prefix {
    /// A prefix without rows, its length moved into [`PREFIX_CELLS_MIN`]`..=`[`PREFIX_CELLS_MAX`].
    #[must_use]
    pub fn new(cells: usize) -> Self {
        Self { cells: vec![Cell::EMPTY; cells.clamp(PREFIX_CELLS_MIN, PREFIX_CELLS_MAX)] }
    }

    /// The number of `cells` must be within the bounds.
    pub(super) fn of_cells(cells: Vec<Cell>) -> Self {
        Self { cells }
    }

    /// The cells; those of a shorter prefix over the same rows are the first of these.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// How many rows may differ for this prefix to say which.
    #[must_use]
    pub fn reach_rows(&self) -> u64 {
        reach_rows(self.cells.len())
    }

    /// Bytes it takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.cells)
    }

    /// Takes in what happened to one row.
    pub fn apply(&mut self, change: Change) {
        self.add(change.id, Cell::of(change));
    }

    /// Adds `cell`, the effect of a change of row `id`.
    pub(super) fn add(&mut self, id: RowId, cell: Cell) {
        let mut hits = Hits::new(id);
        while let Some(hit) = self.cells.get_mut(hits.at()) {
            *hit += cell;
            hits.step();
        }
    }

    /// Adds another prefix over other rows: parts built side by side make the whole.
    ///
    /// # Panics
    /// The prefixes are of different lengths.
    pub fn absorb(&mut self, other: &Self) {
        assert_eq!(self.cells.len(), other.cells.len(), "parts of one prefix are of one length");
        for (cell, more) in self.cells.iter_mut().zip(&other.cells) {
            *cell += *more;
        }
    }

    /// The sum over all rows.
    #[must_use]
    pub fn root(&self) -> Cell {
        self.cells[0]
    }
}

/// How many rows that differ `cells` cells are good for: 1.36 cells a row where there are many, and a little more.
pub(super) const fn reach_rows(cells: usize) -> u64 {
    cells as u64 * 100 / 138
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Rows, spread};
    use super::*;
    use proptest::prelude::*;

    fn hits(id: u64, cells: usize) -> Vec<usize> {
        let mut hits = Hits::new(RowId::from_bits(id).unwrap());
        let mut found = Vec::new();
        while hits.at() < cells {
            found.push(hits.at());
            hits.step();
        }
        found
    }

    #[test]
    fn the_cells_of_a_row_are_the_same_on_every_machine() {
        assert_eq!(hits(0, 2_000), [0, 1, 3, 27, 28, 89, 157, 379, 432, 874, 896, 1424, 1633]);
        assert_eq!(
            hits(1, 2_000),
            [0, 1, 2, 3, 6, 10, 12, 13, 19, 37, 42, 67, 87, 130, 180, 274, 673, 839, 930, 1127, 1199]
        );
        assert_eq!(hits(0x0123_4567_89ab_cdef, 2_000), [0, 4, 5, 14, 18, 278, 981, 1155, 1579, 1600]);
        assert_eq!(hits(super::super::field::MODULUS - 1, 2_000), [0, 3, 11, 12, 13, 16, 64, 101, 116, 233, 390]);
        let mut sum = 0_u64;
        for id in 0..2_000 {
            for at in hits(spread(id) >> 3, PREFIX_CELLS_MAX) {
                sum = mixed(sum ^ at as u64);
            }
        }
        assert_eq!(sum, 5_501_777_615_622_876_477);
    }

    #[test]
    fn a_cell_is_hit_as_often_as_it_should_be() {
        const ROWS: u64 = 40_000;
        let mut counts = vec![0_u32; 1_024];
        for id in 0..ROWS {
            for at in hits(spread(id) >> 3, counts.len()) {
                counts[at] += 1;
            }
        }
        assert_eq!(u64::from(counts[0]), ROWS);
        for (from, to) in [(1, 4), (4, 16), (16, 64), (64, 256), (256, 1_024)] {
            let expected: f64 = (from..to).map(|i| ROWS as f64 / (1.0 + i as f64 / 2.0)).sum();
            let found: u32 = counts[from..to].iter().sum();
            let off = f64::from(found) / expected - 1.0;
            // The rounding of gaps makes the second cell a little likelier than the formula.
            assert!(off.abs() < 0.05, "cells {from}..{to} are hit {found} times, {expected} expected");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn indexes_ascend_from_zero_and_end(id in 0..super::super::field::MODULUS) {
            let hits = hits(id, PREFIX_CELLS_MAX);
            prop_assert_eq!(hits[0], 0);
            prop_assert!(hits.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(hits.len() < 200);
        }

        #[test]
        fn the_prefix_depends_on_the_rows_alone(rows in Rows::any(100), detours: u64, more in 0..3_000_usize) {
            let (mut straight, mut winding) = (Prefix::new(0), Prefix::new(PREFIX_CELLS_MIN + more));
            rows.changes().into_iter().for_each(|change| straight.apply(change));
            rows.changes_with_detours(detours).into_iter().for_each(|change| winding.apply(change));
            prop_assert_eq!(straight.cells(), &winding.cells()[..PREFIX_CELLS_MIN]); // P1
        }
    }
}
