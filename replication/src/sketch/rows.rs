//! Sets of rows for tests: what a sketch must agree with, kept plainly.

use super::digest::{Change, RowDigest, RowId};
use super::field::MODULUS;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use proptest::prelude::*;

/// A number that looks random and follows from `n`.
pub(super) fn spread(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn digest(n: u64) -> RowDigest {
    RowDigest::from_bits(spread(n) % (MODULUS - 1) + 1).expect("below the modulus")
}

/// Rows by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows(BTreeMap<RowId, RowDigest>);

impl Rows {
    /// `count` rows that follow from `seed`.
    pub(super) fn of(seed: u64, count: usize) -> Self {
        let row = |n| (RowId::from_bits(spread(n) % MODULUS).expect("below the modulus"), digest(!n));
        Self((0..count as u64).map(|n| row(spread(seed).wrapping_add(n))).collect())
    }

    /// Up to `rows_max` rows.
    pub(super) fn any(rows_max: usize) -> impl Strategy<Value = Self> {
        (any::<u64>(), 0..=rows_max).prop_map(|(seed, count)| Self::of(seed, count))
    }

    /// What builds them.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.0.iter().map(|(id, digest)| Change::between(*id, RowDigest::ABSENT, *digest)).collect()
    }

    /// What builds them too, in another order, by way of overwritten values and of rows that were removed again.
    pub(super) fn changes_with_detours(&self, salt: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (n, (id, last)) in self.0.iter().enumerate() {
            let between = digest(salt ^ n as u64);
            changes.push(Change::between(*id, RowDigest::ABSENT, between));
            changes.push(Change::between(*id, between, *last));
        }
        for (id, digest) in Self::of(!salt, 20).0 {
            let change = Change::between(id, RowDigest::ABSENT, digest);
            changes.extend([change, change.negated()]);
        }
        changes.sort_by_key(|change| spread(change.id.to_bits() ^ change.delta.get() ^ salt));
        changes
    }

    /// The same rows but for `count`, of which a third each is overwritten, removed and new, while there are rows.
    pub(super) fn with_changed(&self, count: usize, salt: u64) -> Self {
        let mut other = self.clone();
        let mut victims: Vec<RowId> = self.0.keys().copied().collect();
        victims.sort_by_key(|id| spread(id.to_bits() ^ spread(salt)));
        for n in 0..count as u64 {
            let victim = if n % 3 < 2 { victims.pop() } else { None };
            let state = digest(spread(salt).wrapping_add(n));
            match victim {
                Some(id) if n % 3 == 0 => _ = other.0.insert(id, state),
                Some(id) => _ = other.0.remove(&id),
                None => {
                    let new = RowId::from_bits(spread(!spread(salt).wrapping_add(n)) % MODULUS);
                    other.0.insert(new.expect("below the modulus"), state);
                }
            }
        }
        other
    }

    /// Ours less theirs, by id.
    pub(super) fn less(&self, theirs: &Self) -> Vec<Change> {
        let ids: BTreeSet<RowId> = self.0.keys().chain(theirs.0.keys()).copied().collect();
        let digest = |rows: &Self, id| rows.0.get(&id).copied().unwrap_or(RowDigest::ABSENT);
        let changes = ids.into_iter().map(|id| Change::between(id, digest(theirs, id), digest(self, id)));
        changes.filter(|change| !change.is_nothing()).collect()
    }
}
