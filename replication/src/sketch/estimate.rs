//! How many rows differ, guessed from how many nodes do, and how many cells that takes.
//!
//! **How it goes.** Rows fall into nodes evenly. If of many nodes the part `z` is equal, about `−ln z` rows a node differ
//! (linear counting). A coarse level counts few rows well and then saturates; a stretch of a fine level counts many.
//!
//! **What always holds.** G1: estimates are whole numbers, computed by a library and not by the machine's, so both sides
//! get the same from the same counts. G2: an estimate decides how much is sent and never what is equal.

use super::leaves::{LEAF_BITS_MAX, SUMMARY_BITS};
use super::rateless::PREFIX_CELLS_MAX;

/// Spare cells: what few rows need varies more than in proportion. Of 300 sessions each at 800 and at 1,200 rows, one
/// failed without them.
const CELLS_SPARE: usize = 100;

/// About how many rows differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The guess.
    pub rows: u64,
    /// Its standard deviation, in thousandths of the guess.
    pub deviation_permille: u32,
}

impl Estimate {
    /// From `unequal` of `nodes` nodes that were compared, of a level that has 2^`level_bits`; `None` if all are unequal,
    /// which says only that rows are many, or if nothing was compared.
    #[must_use]
    pub fn from_nodes(unequal: usize, nodes: usize, level_bits: u32) -> Option<Self> {
        let equal = nodes.checked_sub(unequal).filter(|equal| *equal > 0)?;
        if unequal == 0 {
            return Some(Self { rows: 0, deviation_permille: u32::MAX });
        }
        let (nodes, level) = (nodes as f64, (1_u64 << level_bits.min(61)) as f64);
        let rows_a_node = -libm::log(equal as f64 / nodes);
        // Of the rows as a whole none is missed if the level was compared as a whole.
        let variance = (nodes / equal as f64 - 1.0 - (nodes / level).min(1.0) * rows_a_node) / nodes;
        let deviation = libm::sqrt(variance.max(0.0)) / rows_a_node;
        Some(Self {
            rows: libm::round(rows_a_node * level) as u64,
            deviation_permille: libm::ceil(deviation * 1_000.0) as u32,
        })
    }

    /// The surer of two.
    #[must_use]
    pub fn surer(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if a.deviation_permille <= b.deviation_permille { a } else { b }),
            (one, other) => one.or(other),
        }
    }

    /// What is left of it when `named` of the rows are known.
    #[must_use]
    pub fn less(&self, named: u64) -> Self {
        let rows = self.rows.saturating_sub(named);
        // The deviation stays as it is in rows.
        let deviation = u128::from(self.deviation_permille) * u128::from(self.rows) / u128::from(rows.max(1));
        Self { rows, deviation_permille: u32::try_from(deviation).unwrap_or(u32::MAX) }
    }

    /// Bits of a level with two nodes a row, of which about 80 in 100 are then alone in theirs; within the bounds of an
    /// array.
    #[must_use]
    pub fn level_bits_wanted(&self) -> u32 {
        let nodes = self.rows.saturating_mul(2).clamp(1 << SUMMARY_BITS, 1 << LEAF_BITS_MAX);
        nodes.next_power_of_two().ilog2()
    }

    /// Cells of a prefix that are likely to name them all: 1.45 a row and two deviations more, and a few spare. At most
    /// [`PREFIX_CELLS_MAX`].
    #[must_use]
    pub fn cells_wanted(&self) -> usize {
        let with_deviations = 1_000 + 2 * u128::from(self.deviation_permille);
        let cells = (u128::from(self.rows) * 145 * with_deviations).div_ceil(100_000) + CELLS_SPARE as u128;
        usize::try_from(cells).map_or(PREFIX_CELLS_MAX, |cells| cells.min(PREFIX_CELLS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::spread;
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Estimates from the first 4,096 nodes of a level with `rows` rows in it.
    fn estimates(rows: u64, level_bits: u32) -> Vec<Option<Estimate>> {
        let one = |salt: u64| {
            let mut unequal = vec![false; 4_096];
            for row in 0..rows {
                let node = spread(spread(salt) ^ row) >> (64 - level_bits);
                if let Some(node) = unequal.get_mut(node as usize) {
                    *node = true;
                }
            }
            Estimate::from_nodes(unequal.iter().filter(|u| **u).count(), 4_096, level_bits)
        };
        (0..24).map(one).collect()
    }

    #[test]
    fn the_guess_is_off_by_about_its_deviation() {
        for (rows, level_bits) in [(200, 12), (2_000, 12), (20_000, 12), (50_000, 20), (200_000, 20)] {
            let found = estimates(rows, level_bits);
            let mut squares = 0.0;
            for estimate in &found {
                let estimate = estimate.unwrap();
                let off = (estimate.rows as f64 - rows as f64) / estimate.rows as f64 * 1_000.0;
                squares += (off / f64::from(estimate.deviation_permille)).powi(2);
            }
            let spread = (squares / found.len() as f64).sqrt();
            assert!((0.5..1.5).contains(&spread), "{rows} rows at 2^{level_bits}: off by {spread} deviations");
        }
    }

    #[test]
    fn nothing_unequal_says_little_and_all_unequal_says_nothing() {
        let none = Estimate::from_nodes(0, 4_096, 20).unwrap();
        let some = Estimate::from_nodes(10, 4_096, 12).unwrap();
        assert_eq!(none.rows, 0);
        assert_eq!(Estimate::surer(Some(none), Some(some)), Some(some));
        assert_eq!(Estimate::from_nodes(4_096, 4_096, 12), None);
        assert_eq!(Estimate::from_nodes(4_097, 4_096, 12), None);
        assert_eq!(Estimate::from_nodes(0, 0, 12), None);
        assert_eq!(Estimate::surer(None, Some(none)), Some(none));
    }

    #[test]
    fn guesses_and_cells_are_the_same_on_every_machine() {
        let estimate = Estimate::from_nodes(4_000, 4_096, 20).unwrap();
        assert_eq!(estimate, Estimate { rows: 3_935_744, deviation_permille: 27 });
        assert_eq!(estimate.cells_wanted(), PREFIX_CELLS_MAX);
        assert_eq!(Estimate { rows: 2_000, deviation_permille: 20 }.cells_wanted(), 3_116);
        assert_eq!(Estimate { rows: 0, deviation_permille: u32::MAX }.cells_wanted(), 100);
        assert_eq!(Estimate { rows: u64::MAX, deviation_permille: u32::MAX }.cells_wanted(), PREFIX_CELLS_MAX);
    }

    #[test]
    fn a_level_has_two_nodes_a_row_within_the_bounds() {
        let bits = |rows| Estimate { rows, deviation_permille: 0 }.level_bits_wanted();
        assert_eq!([0, 2_048, 2_049, 200_000, 1 << 21, u64::MAX].map(bits), [12, 12, 13, 19, 22, 22]);
    }

    #[test]
    fn what_is_known_is_taken_off_and_the_doubt_stays() {
        let all = Estimate { rows: 1_000, deviation_permille: 10 };
        assert_eq!(all.less(800), Estimate { rows: 200, deviation_permille: 50 });
        assert_eq!(all.less(5_000), Estimate { rows: 0, deviation_permille: 10_000 });
        assert_eq!(
            Estimate { rows: u64::MAX, deviation_permille: u32::MAX }.less(u64::MAX).deviation_permille,
            u32::MAX
        );
    }
}
