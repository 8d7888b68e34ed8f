//! The first flight of a session: a fixed number of bytes that settles few differences and measures many.
//!
//! ```text
//! opening = version 1 | sample_bits u8 | sample_block u32 | prefix_cells u32
//!         | the first 1,024 cells of the prefix                        24,576 B
//!         | brief of each of the 4,096 nodes of the summary            16,384 B
//!         | brief of each of 4,096 nodes of the level of sample_bits   16,384 B
//! ```
//! Numbers are little-endian; a brief is the low half of a cell's first sum.
//!
//! **What always holds.** O1: an opening has [`OPENING_BYTES`] bytes, whatever the number of rows. O2:
//! [`Verdict::Equal`] and [`Verdict::Decoded`] follow from whole cells, never from briefs or estimates.
//!
//! **Why both in one.** A root alone is smaller, and costs a round trip whenever it differs. 57 KB take half a
//! millisecond at 1 Gb/s; between regions a round trip takes a hundred.

use super::cell::{CELL_BYTES, Cell, read_cells};
use super::decoder::{PeelError, peel_whole};
use super::digest::Change;
use super::estimate::Estimate;
use super::leaves::{SUMMARY_BITS, SUMMARY_NODES};
use super::rateless::{PREFIX_CELLS_MAX, PREFIX_CELLS_MIN, reach_rows};
use super::{Sketch, read_u32};
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader};

/// Cells of the prefix in an opening.
pub const OPENING_CELLS: usize = PREFIX_CELLS_MIN;

/// Bytes of an opening. O1
pub const OPENING_BYTES: usize = HEADER_BYTES + OPENING_CELLS * CELL_BYTES + 2 * 4 * SUMMARY_NODES;

/// The finest level that is sampled. Counting is surest at one or two rows a node: with 2^17 nodes the deviation is at
/// most 4 in 100 from where the summary saturates, 2·10^4 rows, to the reach of the longest prefix, and something can be
/// said up to 10^6 rows; a sample of 2^21 leaves would be off by 7 in 100 at 10^5.
const SAMPLE_BITS_MAX: u32 = 17;

const HEADER_BYTES: usize = 10;
const VERSION: u8 = 1;

/// What one side says of its rows before it knows anything of the other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    sample_bits: u32,
    sample_block: u32,
    prefix_cells: u32,
    cells: Vec<Cell>,
    summary: Vec<u32>,
    sample: Vec<u32>,
}

/// What an opening says beside one's own rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides have the same rows in the same state.
    Equal,
    /// These rows differ, by id: ours less theirs.
    Decoded(Vec<Change>),
    /// About so many differ; send [`Estimate::cells_wanted`] cells.
    About(Estimate),
    /// More differ than the shorter prefix can name; about so many, if that much can be said. Compare leaves, or copy.
    TooMany(Option<Estimate>),
}

impl Opening {
    /// Says what `ours` holds. `peer_leaf_bits` is the size of the peer's array, so that the sample is of a level both
    /// have; `salt` chooses where the sample is taken, and is best another in each session.
    #[must_use]
    pub fn of(ours: &Sketch, peer_leaf_bits: u32, salt: u32) -> Self {
        let leaves = ours.leaves();
        let sample_bits = peer_leaf_bits.clamp(SUMMARY_BITS, leaves.bits().min(SAMPLE_BITS_MAX));
        let sample_block = salt % blocks(sample_bits);
        let sample = leaves.nodes(sample_bits, sample_block as usize * SUMMARY_NODES, SUMMARY_NODES);
        Self {
            sample_bits,
            sample_block,
            prefix_cells: ours.prefix().cells().len() as u32,
            cells: ours.prefix().cells()[..OPENING_CELLS].to_vec(),
            summary: leaves.summary().iter().map(Cell::brief).collect(),
            sample: sample.expect("the block is one of the level's").map(|cell| cell.brief()).collect(),
        }
    }

    /// How many cells the shorter of both prefixes has: no more are of use.
    #[must_use]
    pub fn prefix_cells(&self, ours: &Sketch) -> usize {
        ours.prefix().cells().len().min(self.prefix_cells as usize)
    }

    /// Compares with `ours`. Cost: some 10,000 additions, and one addition for each of our leaves that the sample covers.
    ///
    /// # Errors
    /// The cells cannot have come from rows.
    pub fn compare(&self, ours: &Sketch) -> Result<Verdict, PeelError> {
        if ours.prefix().cells()[..OPENING_CELLS] == *self.cells {
            return Ok(Verdict::Equal); // O2
        }
        if let Some(changes) = peel_whole(ours.prefix(), &self.cells)? {
            return Ok(Verdict::Decoded(changes)); // O2
        }
        let summary = differing(ours.leaves().summary().iter().map(Cell::brief), &self.summary);
        let coarse = Estimate::from_nodes(summary, SUMMARY_NODES, SUMMARY_BITS);
        // A peer that did not know our size may have sampled a finer level than we have.
        let first = self.sample_block as usize * SUMMARY_NODES;
        let fine = ours.leaves().nodes(self.sample_bits, first, SUMMARY_NODES).ok().and_then(|nodes| {
            let sample = differing(nodes.map(|cell| cell.brief()), &self.sample);
            Estimate::from_nodes(sample, SUMMARY_NODES, self.sample_bits)
        });
        let estimate = Estimate::surer(coarse, fine);
        let reach = reach_rows(self.prefix_cells(ours));
        Ok(match estimate {
            Some(estimate) if estimate.rows <= reach => Verdict::About(estimate),
            estimate => Verdict::TooMany(estimate),
        })
    }

    /// The bytes. O1
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(OPENING_BYTES);
        out.push(VERSION);
        out.push(self.sample_bits as u8);
        out.extend_from_slice(&self.sample_block.to_le_bytes());
        out.extend_from_slice(&self.prefix_cells.to_le_bytes());
        self.cells.iter().for_each(|cell| cell.encode(&mut out));
        for brief in self.summary.iter().chain(&self.sample) {
            out.extend_from_slice(&brief.to_le_bytes());
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Another version, another length, or a number out of its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        match input.byte()? {
            VERSION => {}
            value => return Err(DecodeError::Unknown { what: "opening version", value }),
        }
        let sample_bits = u32::from(input.byte()?);
        if !(SUMMARY_BITS..=SAMPLE_BITS_MAX).contains(&sample_bits) {
            return Err(DecodeError::TooLarge { max: u64::from(SAMPLE_BITS_MAX) });
        }
        let sample_block = read_u32(&mut input)?;
        if sample_block >= blocks(sample_bits) {
            return Err(DecodeError::TooLarge { max: u64::from(blocks(sample_bits)) - 1 });
        }
        let prefix_cells = read_u32(&mut input)?;
        if !(PREFIX_CELLS_MIN..=PREFIX_CELLS_MAX).contains(&(prefix_cells as usize)) {
            return Err(DecodeError::TooLarge { max: PREFIX_CELLS_MAX as u64 });
        }
        let cells = read_cells(&mut input, OPENING_CELLS)?;
        let summary = read_briefs(&mut input)?;
        let sample = read_briefs(&mut input)?;
        input.finish()?;
        Ok(Self { sample_bits, sample_block, prefix_cells, cells, summary, sample })
    }
}

/// Stretches of 4,096 nodes in a level.
fn blocks(level_bits: u32) -> u32 {
    1 << (level_bits - SUMMARY_BITS)
}

fn differing(ours: impl Iterator<Item = u32>, theirs: &[u32]) -> usize {
    ours.zip(theirs).filter(|(ours, theirs)| ours != *theirs).count()
}

fn read_briefs(input: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    let raw = input.raw(4 * SUMMARY_NODES)?;
    Ok(raw.as_chunks().0.iter().map(|brief| u32::from_le_bytes(*brief)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::rows::Rows;
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn sketch(leaf_bits: u32, prefix_cells: usize, rows: &Rows) -> Sketch {
        let mut sketch = Sketch::new(leaf_bits, prefix_cells);
        rows.changes().iter().for_each(|change| sketch.apply(*change));
        sketch
    }

    /// What `b` finds in the opening of `a`, by way of bytes.
    fn verdict(a: &Sketch, b: &Sketch, salt: u32) -> Verdict {
        let bytes = Opening::of(a, b.leaves().bits(), salt).encode();
        assert_eq!(bytes.len(), OPENING_BYTES); // O1
        Opening::decode(&bytes).unwrap().compare(b).unwrap()
    }

    #[test]
    fn the_first_flight_is_57_kb() {
        assert_eq!(OPENING_BYTES, 57_354);
    }

    #[test]
    fn few_differences_are_named_and_many_are_measured() {
        let rows = Rows::of(5, 40_000);
        let ours = sketch(14, 1 << 17, &rows);
        for (changed, salt) in [(0, 0), (1, 1), (20, 2), (600, 3), (3_000, 4), (20_000, 5)] {
            let other = rows.with_changed(changed, 11);
            // The other side is larger, or as large.
            let theirs = sketch(14 + salt % 2, 1 << 17, &other);
            let expected = rows.less(&other);
            match verdict(&theirs, &ours, salt) {
                Verdict::Equal => assert!(expected.is_empty()),
                Verdict::Decoded(found) => assert_eq!(found, expected),
                Verdict::About(estimate) => {
                    assert!(changed > 600);
                    let off = estimate.rows.abs_diff(expected.len() as u64) * 1_000 / expected.len() as u64;
                    assert!(off <= 4 * u64::from(estimate.deviation_permille), "{estimate:?} of {}", expected.len());
                    assert!(estimate.deviation_permille < 100);
                }
                Verdict::TooMany(estimate) => panic!("{changed} are within reach: {estimate:?}"),
            }
        }
    }

    #[test]
    fn more_than_the_shorter_prefix_can_name_is_too_many() {
        let (short, long) = (sketch(12, 1_024, &Rows::of(1, 0)), sketch(12, 1 << 16, &Rows::of(1, 5_000)));
        for (a, b) in [(&short, &long), (&long, &short)] {
            let Verdict::TooMany(Some(estimate)) = verdict(a, b, 0) else { panic!("1,024 cells name no 5,000 rows") };
            assert!((4_000..6_000).contains(&estimate.rows));
        }
    }

    #[test]
    fn a_sample_of_a_level_that_we_do_not_have_is_left_aside() {
        let rows = Rows::of(5, 20_000);
        let (small, large) = (sketch(12, 1 << 16, &Rows::of(1, 0)), sketch(16, 1 << 16, &rows));
        // The larger side does not know that the other is smaller.
        let opening = Opening::of(&large, 16, 3);
        let Ok(Verdict::About(estimate)) = opening.compare(&small) else { panic!("the summary tells enough") };
        assert!((16_000..24_000).contains(&estimate.rows));
        // With every node of the summary unequal, nothing is left to say.
        let many = sketch(16, 1_024, &Rows::of(9, 90_000));
        assert_eq!(Opening::of(&many, 16, 3).compare(&small), Ok(Verdict::TooMany(None)));
    }

    #[test]
    fn a_sample_taken_anywhere_measures_what_the_summary_cannot() {
        let rows = Rows::of(1, 100_000);
        let (ours, theirs) = (sketch(16, 1 << 18, &rows), sketch(16, 1 << 18, &rows.with_changed(80_000, 2)));
        for salt in [0, 1, 7, 15, u32::MAX] {
            let Verdict::About(estimate) = verdict(&theirs, &ours, salt) else { panic!("80,000 are within reach") };
            assert!((70_000..90_000).contains(&estimate.rows), "{estimate:?}");
        }
    }

    #[test]
    fn numbers_out_of_their_bounds_are_refused() {
        let bytes = Opening::of(&sketch(13, 1_024, &Rows::of(1, 10)), 13, 1).encode();
        let with = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            Opening::decode(&bytes)
        };
        assert!(Opening::decode(&bytes).is_ok());
        assert!(matches!(with(0, 2), Err(DecodeError::Unknown { .. })));
        for (at, value) in [(1, 11), (1, 18), (2, 2), (5, 1), (7, 3), (9, 1)] {
            assert!(matches!(with(at, value), Err(DecodeError::TooLarge { .. })), "byte {at} = {value}");
        }
        assert_eq!(with(17, 0xff), Err(DecodeError::NotCanonical));
        assert_eq!(Opening::decode(&bytes[..bytes.len() - 1]), Err(DecodeError::Truncated));
        assert_eq!(Opening::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_bytes_are_refused_or_compared(
            noise in proptest::collection::vec((0..OPENING_BYTES, any::<u8>()), 0..60),
            plain: bool, salt: u32, rows in Rows::any(300)
        ) {
            let ours = sketch(13, 1_024, &rows);
            let mut bytes = if plain { vec![0; OPENING_BYTES] } else { Opening::of(&ours, 13, salt).encode() };
            bytes[0] = VERSION;
            for (at, byte) in noise {
                bytes[at] = byte;
            }
            if let Ok(opening) = Opening::decode(&bytes) {
                prop_assert_eq!(opening.encode(), bytes);
                let _ = opening.compare(&ours);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Opening::decode(&bytes).is_err());
        }
    }
}
