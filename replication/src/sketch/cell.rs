//! A cell: three sums over rows, from whose difference a single row can be read.
//!
//! ```text
//! s1 = Σ digest      s2 = Σ id · digest      s3 = Σ id² · digest        modulo 2^61 − 1, 8 bytes each
//! ```
//!
//! **What always holds.** L1: a cell depends only on the set of rows in it, and a difference of two cells only on the
//! rows that differ. L2: a difference of exactly one row decodes to that row. L3: a difference of exactly two rows with
//! two ids never decodes; one of more rows decodes, falsely, with a chance of at most 2 in 2^61. Whoever reads a row
//! from a cell still checks that the row belongs into that cell.
//!
//! **Why the square of the id.** The third sum is there to tell one row from several: for one row `s1 · s3 = s2²`.
//! For two, `s1·s3 − s2²` is `a·b·(id_a − id_b)²`, which is not zero; for more it is a polynomial of degree two in
//! digests nobody can predict. A keyed hash of the id in place of the square is no stronger, and a peeler asks a
//! hundred times for each answer: three products instead of a division and a hash.

use super::digest::{Change, RowId};
use super::field::Residue;
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader};
use core::ops::{AddAssign, SubAssign};

/// Bytes of an encoded cell.
pub const CELL_BYTES: usize = 24;

/// Three sums over rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    s1: Residue,
    s2: Residue,
    s3: Residue,
}

impl Cell {
    /// The cell without rows.
    pub const EMPTY: Self = Self { s1: Residue::ZERO, s2: Residue::ZERO, s3: Residue::ZERO };

    /// What a change adds to every cell that its row is in.
    #[must_use]
    pub fn of(change: Change) -> Self {
        let id = change.id.residue();
        let s2 = id * change.delta;
        Self { s1: change.delta, s2, s3: id * s2 }
    }

    /// Whether all sums are zero: of a difference, that nothing differs (but for a chance of 1 in 2^183).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The one row in which the two sides of this difference differ, and by how much; `None` if there is none or it
    /// is not one. L2, L3
    #[must_use]
    pub fn decode(&self) -> Option<Change> {
        if !self.may_be_one_row() {
            return None;
        }
        let id = self.s2 * self.s1.inverse()?;
        Some(Change { id: RowId::from_residue(id), delta: self.s1 })
    }

    /// Whether [`Self::decode`] gives something; cheaper.
    pub(super) fn may_be_one_row(&self) -> bool {
        !self.s1.is_zero() && self.s1 * self.s3 == self.s2 * self.s2
    }

    /// The low half of the first sum: enough to see, not to say, that two cells differ.
    #[must_use]
    pub fn brief(&self) -> u32 {
        self.s1.get() as u32
    }

    /// Appends the 24 bytes: the three sums, little-endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for sum in [self.s1, self.s2, self.s3] {
            out.extend_from_slice(&sum.get().to_le_bytes());
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Truncated, or a sum that is no residue.
    pub fn decode_bytes(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut sum = || {
            let mut raw = [0; 8];
            raw.copy_from_slice(input.raw(8)?);
            Residue::new(u64::from_le_bytes(raw)).ok_or(DecodeError::NotCanonical)
        };
        Ok(Self { s1: sum()?, s2: sum()?, s3: sum()? })
    }
}

impl AddAssign for Cell {
    fn add_assign(&mut self, other: Self) {
        self.s1 += other.s1;
        self.s2 += other.s2;
        self.s3 += other.s3;
    }
}

impl SubAssign for Cell {
    fn sub_assign(&mut self, other: Self) {
        self.s1 -= other.s1;
        self.s2 -= other.s2;
        self.s3 -= other.s3;
    }
}

/// The sum of cells.
pub(super) fn sum<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> Cell {
    let mut total = Cell::EMPTY;
    for cell in cells {
        total += *cell;
    }
    total
}

/// The bytes of cells, one after the other.
#[must_use]
pub fn encode_cells(cells: &[Cell]) -> Vec<u8> {
    let mut out = Vec::with_capacity(cells.len() * CELL_BYTES);
    for cell in cells {
        cell.encode(&mut out);
    }
    out
}

/// Reads what [`encode_cells`] wrote: at most `cells_max` cells, and nothing else.
///
/// # Errors
/// Too many, a part of a cell, or a sum that is no residue.
pub fn decode_cells(bytes: &[u8], cells_max: usize) -> Result<Vec<Cell>, DecodeError> {
    if bytes.len() / CELL_BYTES > cells_max {
        return Err(DecodeError::TooLarge { max: cells_max as u64 });
    }
    if !bytes.len().is_multiple_of(CELL_BYTES) {
        return Err(DecodeError::Truncated);
    }
    let mut input = Reader::new(bytes);
    read_cells(&mut input, bytes.len() / CELL_BYTES)
}

/// Reads `count` cells, a number that the caller has bounded.
pub(super) fn read_cells(input: &mut Reader<'_>, count: usize) -> Result<Vec<Cell>, DecodeError> {
    if count.saturating_mul(CELL_BYTES) > input.rest().len() {
        return Err(DecodeError::Truncated);
    }
    let mut cells = Vec::with_capacity(count);
    for _ in 0..count {
        cells.push(Cell::decode_bytes(input)?);
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::super::field::MODULUS;
    use super::*;
    use proptest::prelude::*;

    fn change(id: u64, delta: u64) -> Change {
        Change { id: RowId::from_residue(Residue::reduced(id)), delta: Residue::reduced(delta) }
    }

    fn cell(changes: &[Change]) -> Cell {
        let mut cell = Cell::EMPTY;
        for change in changes {
            cell += Cell::of(*change);
        }
        cell
    }

    proptest! {
        #[test]
        fn one_row_decodes_to_itself_and_two_never_decode(ids: [u64; 2], deltas: [u64; 2]) {
            let (a, b) = (change(ids[0], deltas[0]), change(ids[1], deltas[1]));
            prop_assume!(a.id != b.id && !a.is_nothing() && !b.is_nothing());
            prop_assert_eq!(cell(&[a]).decode(), Some(a));
            prop_assert_eq!(cell(&[a, b]).decode(), None);
            prop_assert_eq!(cell(&[a, b, b.negated()]).decode(), Some(a));
        }

        #[test]
        fn several_rows_do_not_decode(rows in proptest::collection::btree_map(any::<u64>(), 1..MODULUS, 3..20)) {
            let rows: Vec<Change> = rows.into_iter().map(|(id, delta)| change(id, delta)).collect();
            prop_assert_eq!(cell(&rows).decode(), None);
        }

        #[test]
        fn bytes_read_back_and_others_are_refused(rows in proptest::collection::vec(any::<(u64, u64)>(), 0..5), cut in 1..CELL_BYTES) {
            let cells: Vec<Cell> = rows.iter().map(|(id, delta)| cell(&[change(*id, *delta)])).collect();
            let bytes = encode_cells(&cells);
            prop_assert_eq!(decode_cells(&bytes, 5), Ok(cells.clone()));
            if !cells.is_empty() {
                prop_assert_eq!(decode_cells(&bytes, cells.len() - 1), Err(DecodeError::TooLarge { max: cells.len() as u64 - 1 }));
                prop_assert_eq!(decode_cells(&bytes[..bytes.len() - cut], 5), Err(DecodeError::Truncated));
            }
        }

        #[test]
        fn any_bytes_that_are_cells_are_their_only_form(bytes in proptest::collection::vec(any::<u8>(), 0..72)) {
            if let Ok(cells) = decode_cells(&bytes, 3) {
                prop_assert_eq!(encode_cells(&cells), bytes);
            }
        }
    }

    #[test]
    fn two_rows_of_one_id_decode_together() {
        let (a, b) = (change(5, 100), change(5, 11));
        assert_eq!(cell(&[a, b]).decode(), Some(change(5, 111)));
    }

    #[test]
    fn a_sum_that_is_no_residue_is_refused() {
        for place in [0, 8, 16] {
            let mut bytes = [0; CELL_BYTES];
            bytes[place..place + 8].copy_from_slice(&MODULUS.to_le_bytes());
            assert_eq!(decode_cells(&bytes, 1), Err(DecodeError::NotCanonical));
        }
    }
}
