//! A digest of all rows: equal rows give equal roots, whatever the order in which they came to be.
//!
//! **What always holds.** D1: the root is a sum over rows, so it depends on the set of rows alone. D2: rows that hold
//! nothing count as no rows. Cost: every row, in bounded memory.
//!
//! **What is not here.** Finding out which rows differ: that takes a tree of such sums.

use crate::store::View;
use atoll_crdt::codec::Writer;
use atoll_crdt::{ReadError, RowSource as _};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// What a walk over all rows found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The sum, in hexadecimal.
    pub root: String,
    /// How many rows hold something.
    pub rows: u64,
}

/// Walks all rows of a view.
///
/// # Errors
/// The storage failed.
pub fn digest(view: &View) -> Result<Digest, ReadError> {
    let (mut sums, mut rows) = ([0_u64; 4], 0);
    let mut bytes = Writer::new();
    view.visit(&[], &[], &mut |key, row| {
        if row.is_empty() {
            return true;
        }
        let mut out = Writer::appending({
            let mut spent = std::mem::take(&mut bytes).into_bytes();
            spent.clear();
            spent
        });
        out.bytes(key.as_bytes());
        row.encode(&mut out);
        let hash = Sha256::digest(out.as_bytes());
        for (sum, part) in sums.iter_mut().zip(hash.chunks_exact(8)) {
            let mut lane = [0; 8];
            lane.copy_from_slice(part);
            *sum = sum.wrapping_add(u64::from_be_bytes(lane));
        }
        bytes = out;
        rows += 1;
        true
    })?;
    let mut root = String::with_capacity(64);
    for sum in sums {
        // Writing to a string does not fail.
        let _ = write!(root, "{sum:016x}");
    }
    Ok(Digest { root, rows })
}
