//! Peels the difference of two prefixes until every row that differs is named.
//!
//! **How it goes.** A cell of the difference with one row names it; the row is taken out of all its cells, some of which
//! then have one row. If that ends before all cells are empty, further cells are taken in ([`Decoder::extend`]), from
//! which the rows known by then are taken out first. Rows that are known from elsewhere, from leaves, are taken out in
//! the same way ([`Decoder::knowing`]), so a prefix names what leaves could not, beyond its own reach.
//!
//! **What always holds.** K1: [`Progress::Complete`] means that every cell of the difference is empty, so the rows named
//! are the rows that differ, each with what it differs by. K2: work and memory are bounded by the cells taken in,
//! whatever these are: no more rows than cells are named beyond those known, and none twice; a cell waits at most once.
//! K3: a row is taken from a cell only if it belongs there.
//!
//! **What is not here.** How many cells to ask for at first ([`Estimate`](super::Estimate)).

use super::cell::Cell;
use super::digest::Change;
use super::rateless::{Hits, Prefix};
use alloc::vec::Vec;
use core::ops::Range;

/// How far the cells that were taken in go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Every row that differs is named. K1
    Complete,
    /// These cells are needed as well, and perhaps more after them.
    More(Range<usize>),
    /// All cells of the prefix were taken in: more rows differ than it can name.
    Exhausted,
}

/// Cells that are no difference of two prefixes. The peer is at fault (or, with a chance of 2 in 2^61 a reading, luck);
/// nothing is decided, the decoder is to be dropped, and leaves or a new session may do better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeelError {
    /// More cells than our prefix has.
    #[error("more cells than this side's prefix has")]
    TooLong,
    /// They name more rows than there are cells, or one row twice. K2
    #[error("the cells are no difference of two prefixes")]
    Absurd,
}

/// Peels a difference of prefixes.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    difference: Vec<Cell>,
    not_empty: usize,
    /// What was named, with the next of its cells.
    named: Vec<(Change, Hits)>,
    /// How many of them the caller brought.
    known: usize,
    waiting: Waiting,
}

impl Decoder {
    /// A decoder that has seen no cell.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder that has seen no cell, and is told rows that differ: ours less theirs. It names them as well.
    #[must_use]
    pub fn knowing(changes: impl IntoIterator<Item = Change>) -> Self {
        let named: Vec<_> = changes.into_iter().map(|change| (change, Hits::new(change.id))).collect();
        Self { known: named.len(), named, ..Self::default() }
    }

    /// How many cells were taken in: the peer's next one is this one.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.difference.len()
    }

    /// How many rows are named so far, those included that were known.
    #[must_use]
    pub fn named(&self) -> usize {
        self.named.len()
    }

    /// Takes in the peer's next cells, and peels. `ours` must be the same at every call: a snapshot.
    ///
    /// # Errors
    /// The cells are more than ours, or no difference of two prefixes.
    pub fn extend(&mut self, ours: &Prefix, theirs: &[Cell]) -> Result<Progress, PeelError> {
        let begin = self.difference.len();
        let end = begin.checked_add(theirs.len()).ok_or(PeelError::TooLong)?;
        let ours_more = ours.cells().get(begin..end).ok_or(PeelError::TooLong)?;
        self.difference.extend(ours_more.iter().zip(theirs).map(|(ours, theirs)| {
            let mut cell = *ours;
            cell -= *theirs;
            cell
        }));
        for (change, hits) in &mut self.named {
            let cell = Cell::of(*change);
            while let Some(hit) = self.difference.get_mut(hits.at()) {
                *hit -= cell;
                hits.step();
            }
        }
        self.not_empty += self.difference[begin..].iter().filter(|cell| !cell.is_empty()).count();
        self.waiting.grow(end);
        for (at, cell) in self.difference.iter().enumerate().skip(begin) {
            if cell.may_be_one_row() {
                self.waiting.push(at);
            }
        }
        self.peel()?;
        Ok(self.progress(ours.cells().len()))
    }

    /// The rows that differ, by id: ours less theirs. Until [`Progress::Complete`], those named so far.
    ///
    /// # Errors
    /// One row is named twice. K2
    pub fn into_changes(self) -> Result<Vec<Change>, PeelError> {
        let mut changes: Vec<Change> = self.named.into_iter().map(|(change, _)| change).collect();
        changes.sort_unstable_by_key(|change| change.id);
        if changes.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(PeelError::Absurd);
        }
        Ok(changes)
    }

    fn progress(&self, prefix_cells: usize) -> Progress {
        let cells = self.difference.len();
        if self.not_empty == 0 && cells > 0 {
            Progress::Complete // K1
        } else if cells >= prefix_cells {
            Progress::Exhausted
        } else {
            // Half as many again: of ten wrong guesses nine are off by less.
            Progress::More(cells..(cells + (cells / 2).max(1)).min(prefix_cells))
        }
    }

    fn peel(&mut self) -> Result<(), PeelError> {
        let mut places = Vec::new();
        while let Some(at) = self.waiting.pop() {
            let Some(change) = self.difference[at].decode() else { continue };
            let mut hits = Hits::new(change.id);
            places.clear();
            while hits.at() < self.difference.len() {
                places.push(hits.at());
                hits.step();
            }
            if places.binary_search(&at).is_err() {
                continue; // K3
            }
            if self.named.len() - self.known >= self.difference.len() {
                return Err(PeelError::Absurd); // K2
            }
            let cell = Cell::of(change);
            for place in &places {
                self.take_out(*place, cell);
            }
            self.named.push((change, hits));
        }
        Ok(())
    }

    fn take_out(&mut self, at: usize, row: Cell) {
        let cell = &mut self.difference[at];
        let before = usize::from(!cell.is_empty());
        *cell -= row;
        self.not_empty = self.not_empty + usize::from(!cell.is_empty()) - before;
        if cell.may_be_one_row() {
            self.waiting.push(at);
        }
    }
}

/// Cells to look at, each at most once. K2
#[derive(Debug, Clone, Default)]
struct Waiting {
    stack: Vec<u32>,
    is_in: Vec<bool>,
}

impl Waiting {
    fn grow(&mut self, cells: usize) {
        self.is_in.resize(cells, false);
    }

    fn push(&mut self, at: usize) {
        if !core::mem::replace(&mut self.is_in[at], true) {
            self.stack.push(at as u32);
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let at = self.stack.pop()? as usize;
        self.is_in[at] = false;
        Some(at)
    }
}

/// Peels the first cells of two prefixes against each other; the rows that differ, if that names all of them.
///
/// # Errors
/// As of [`Decoder::extend`].
pub(super) fn peel_whole(ours: &Prefix, theirs: &[Cell]) -> Result<Option<Vec<Change>>, PeelError> {
    let mut decoder = Decoder::new();
    match decoder.extend(ours, theirs)? {
        Progress::Complete => decoder.into_changes().map(Some),
        Progress::More(_) | Progress::Exhausted => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest::RowId;
    use super::super::field::Residue;
    use super::super::rateless::{PREFIX_CELLS_MAX, PREFIX_CELLS_MIN};
    use super::super::rows::{Rows, spread};
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn prefix(cells: usize, changes: &[Change]) -> Prefix {
        let mut prefix = Prefix::new(cells);
        for change in changes {
            prefix.apply(*change);
        }
        prefix
    }

    /// Peels as a session does, from `first` cells on; gives the rows and how many cells that took.
    fn reconcile(ours: &Prefix, theirs: &Prefix, first: usize) -> Option<(Vec<Change>, usize)> {
        let mut decoder = Decoder::new();
        let mut wanted = 0..first;
        loop {
            match decoder.extend(ours, &theirs.cells()[wanted]).unwrap() {
                Progress::Complete => break,
                Progress::More(more) => wanted = more,
                Progress::Exhausted => return None,
            }
        }
        let cells = decoder.cells();
        Some((decoder.into_changes().unwrap(), cells))
    }

    #[test]
    fn exactly_the_rows_that_differ_are_named() {
        for changed in [0, 1, 2, 10, 1_000, 10_000] {
            let ours = Rows::of(changed as u64, 12_000);
            let theirs = ours.with_changed(changed, 99);
            let expected = ours.less(&theirs);
            assert_eq!(expected.len(), changed);
            let (a, b) = (prefix(1 << 16, &ours.changes()), prefix(1 << 17, &theirs.changes()));
            for first in [1, 100, 1 << 16] {
                let (found, cells) = reconcile(&a, &b, first).unwrap();
                assert_eq!(found, expected);
                assert!(cells <= (expected.len() * 9 / 4 + 30).max(first), "{cells} cells for {}", expected.len());
            }
        }
    }

    #[test]
    fn a_long_prefix_names_a_row_for_each_1_38_cells() {
        let theirs = Rows::of(3, 20_000);
        let cells = 20_000 * 138 / 100;
        let (a, b) = (prefix(PREFIX_CELLS_MAX, &[]), prefix(PREFIX_CELLS_MAX, &theirs.changes()));
        let (found, taken) = reconcile(&a, &b, cells).unwrap();
        assert_eq!((found.len(), taken), (20_000, cells));
    }

    #[test]
    fn too_many_rows_exhaust_a_prefix_and_none_is_promised() {
        let (a, b) = (prefix(PREFIX_CELLS_MIN, &[]), prefix(PREFIX_CELLS_MIN, &Rows::of(1, 5_000).changes()));
        assert_eq!(reconcile(&a, &b, 10), None);
    }

    #[test]
    fn what_leaves_name_is_beyond_the_reach_of_the_prefix_and_the_rest_within() {
        let theirs = Rows::of(8, 3_000);
        let changes = theirs.changes();
        let (a, b) = (prefix(PREFIX_CELLS_MIN, &[]), prefix(PREFIX_CELLS_MIN, &changes));
        assert_eq!(reconcile(&a, &b, 1_024), None);
        let mut decoder = Decoder::knowing(changes[500..].iter().map(|change| change.negated()));
        assert_eq!(decoder.extend(&a, &b.cells()[..400]), Ok(Progress::More(400..600)));
        assert_eq!(decoder.extend(&a, &b.cells()[400..]), Ok(Progress::Complete));
        assert_eq!(decoder.into_changes(), Ok(Rows::of(0, 0).less(&theirs)));
    }

    #[test]
    fn a_row_that_is_known_by_mistake_is_never_part_of_a_complete_answer() {
        let rows = Rows::of(8, 100).changes();
        let (a, b) = (prefix(PREFIX_CELLS_MIN, &rows), prefix(PREFIX_CELLS_MIN, &rows[1..]));
        let mistake = Change { id: RowId::from_bits(4).unwrap(), delta: Residue::ONE };
        let mut decoder = Decoder::knowing([mistake]);
        // Peeling names it once more, to take the mistake back.
        assert_eq!(decoder.extend(&a, b.cells()), Ok(Progress::Complete));
        assert_eq!(decoder.into_changes(), Err(PeelError::Absurd));
    }

    #[test]
    fn rows_of_one_id_are_named_together() {
        let id = RowId::from_bits(77).unwrap();
        let change = |delta| Change { id, delta: Residue::reduced(delta) };
        let (a, b) = (prefix(PREFIX_CELLS_MIN, &[change(5), change(6)]), prefix(PREFIX_CELLS_MIN, &[]));
        assert_eq!(reconcile(&a, &b, 4).unwrap().0, [change(11)]);
    }

    #[test]
    fn no_cells_promise_nothing() {
        let ours = Prefix::new(PREFIX_CELLS_MIN);
        assert_eq!(Decoder::new().extend(&ours, &[]), Ok(Progress::More(0..1)));
        assert_eq!(Decoder::new().extend(&ours, &[Cell::EMPTY; PREFIX_CELLS_MIN + 1]), Err(PeelError::TooLong));
    }

    #[test]
    fn a_row_is_not_read_from_a_cell_where_it_does_not_belong() {
        let change = Change { id: RowId::from_bits(9).unwrap(), delta: Residue::ONE };
        let ours = prefix(PREFIX_CELLS_MIN, &[change]);
        let elsewhere = ours.cells().iter().position(Cell::is_empty).unwrap();
        let mut theirs = [Cell::EMPTY; PREFIX_CELLS_MIN];
        theirs[elsewhere] = Cell::of(change);
        let mut decoder = Decoder::new();
        // The sequence is as long as it gets, and something is left.
        assert_eq!(decoder.extend(&Prefix::new(0), &theirs), Ok(Progress::Exhausted));
        assert_eq!(decoder.named(), 0); // K3
    }

    #[test]
    fn a_cell_waits_once() {
        let mut waiting = Waiting::default();
        waiting.grow(3);
        [2, 0, 2, 2].into_iter().for_each(|at| waiting.push(at));
        assert_eq!([waiting.pop(), waiting.pop(), waiting.pop()], [Some(0), Some(2), None]); // K2
        waiting.push(2);
        assert_eq!(waiting.pop(), Some(2));
    }

    #[test]
    fn cells_that_name_rows_without_end_are_refused() {
        // Every cell claims another row that belongs there. Taking one out spoils others, which never come to rest.
        let ours = Prefix::new(PREFIX_CELLS_MIN);
        let mut theirs = Vec::new();
        let mut salt = 0;
        while theirs.len() < PREFIX_CELLS_MIN {
            salt += 1;
            let change = Change { id: RowId::from_bits(spread(salt) >> 3).unwrap(), delta: Residue::ONE };
            let mut hits = Hits::new(change.id);
            while hits.at() < theirs.len() {
                hits.step();
            }
            if hits.at() == theirs.len() {
                theirs.push(Cell::of(change));
            }
        }
        let mut decoder = Decoder::new();
        let progress = decoder.extend(&ours, &theirs);
        assert_ne!(progress, Ok(Progress::Complete));
        assert!(decoder.named() <= theirs.len()); // K2
    }

    #[test]
    fn a_row_named_twice_is_refused() {
        let change = Change { id: RowId::from_bits(9).unwrap(), delta: Residue::ONE };
        let decoder = Decoder { named: vec![(change, Hits::new(change.id)); 2], ..Decoder::new() };
        assert_eq!(decoder.into_changes(), Err(PeelError::Absurd));
    }

    /// Cells as a peer could make them up: some of nothing, some of one row, some of anything.
    fn hostile() -> impl Strategy<Value = Vec<Cell>> {
        let row =
            |id: u64, delta: u64| Change { id: RowId::from_bits(id >> 4).unwrap(), delta: Residue::reduced(delta) };
        let cell = prop_oneof![
            Just(Cell::EMPTY),
            any::<(u64, u64)>().prop_map(move |(id, delta)| Cell::of(row(id, delta))),
            (0..20_u64, 0..3_u64).prop_map(move |(id, delta)| Cell::of(row(id << 4, delta))),
            any::<[(u64, u64); 3]>().prop_map(move |rows| {
                let mut cell = Cell::EMPTY;
                rows.into_iter().for_each(|(id, delta)| cell += Cell::of(row(id, delta)));
                cell
            }),
        ];
        proptest::collection::vec(cell, 0..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_cells_make_it_panic_or_name_more_rows_than_cells(first in hostile(), more in hostile(), rows in Rows::any(50)) {
            let ours = prefix(PREFIX_CELLS_MIN, &rows.changes());
            let mut decoder = Decoder::new();
            for cells in [first, more] {
                let progress = decoder.extend(&ours, &cells);
                prop_assert!(decoder.named() <= decoder.cells()); // K2
                match progress {
                    Ok(Progress::Complete) => prop_assert!(decoder.difference.iter().all(Cell::is_empty)), // K1
                    Ok(_) => {}
                    Err(_) => return Ok(()),
                }
            }
            let _ = decoder.into_changes();
        }

        #[test]
        fn sizes_and_portions_do_not_matter(rows in Rows::any(300), changed in 0..60_usize, salt: u64, first in 1..200_usize, longer in 0..2_000_usize) {
            let theirs = rows.with_changed(changed, salt);
            let (a, b) = (prefix(2_000, &rows.changes()), prefix(2_000 + longer, &theirs.changes()));
            prop_assert_eq!(reconcile(&a, &b, first).unwrap().0, rows.less(&theirs));
        }
    }
}
