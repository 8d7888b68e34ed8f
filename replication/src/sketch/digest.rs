//! What a row looks like in a sketch: 61 bits of its key, 61 bits of its state, both keyed.
//!
//! **What always holds.** D1: a [`RowId`] depends on the key and the row key's bytes alone, a [`RowDigest`] on the key,
//! the row key's bytes and the row's canonical bytes alone; never on time, place or order of arrival. D2: the row that
//! holds nothing, and only it, has the digest [`RowDigest::ABSENT`]: a deleted row leaves no trace in a sum. D3: both
//! are below the field's modulus.
//!
//! **What is not here.** Canonical bytes (`atoll_crdt::Row::encode`).
//!
//! **Why keyed.** Clients choose keys and values. Without the secret they would choose rows whose ids collide, or whose
//! digests add up to nothing.

use super::field::Residue;
use alloc::vec::Vec;
use atoll_crdt::codec::Writer;
use atoll_crdt::{Row, RowKey};

/// Of which definition ids and digests are. Two nodes compare sketches only if they agree on it.
pub const DIGEST_VERSION: u8 = 1;

/// Bits of an id.
pub const ID_BITS: u32 = 61;

const CONTEXT_OF_IDS: &str = "atoll 2026-11 row ids v1";
const CONTEXT_OF_DIGESTS: &str = "atoll 2026-11 row digests v1";

/// The key under which one cluster digests its rows.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestKey {
    ids: [u8; 32],
    digests: [u8; 32],
}

impl DigestKey {
    /// The key that follows from what all nodes of a cluster share. Whoever else knows it can make rows whose sums collide.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        let key = |context| blake3::derive_key(context, secret);
        Self { ids: key(CONTEXT_OF_IDS), digests: key(CONTEXT_OF_DIGESTS) }
    }

    /// Tells secrets apart without telling them; zero for none.
    #[must_use]
    pub fn name(&self) -> u64 {
        self.digest_of_bytes(b"", b"").to_bits()
    }

    /// The id of the row with this key. Cost: one hash of the key.
    #[must_use]
    pub fn id(&self, key: &RowKey) -> RowId {
        self.id_of_bytes(key.as_bytes())
    }

    /// [`Self::id`], of the bytes of a row key.
    #[must_use]
    pub fn id_of_bytes(&self, key: &[u8]) -> RowId {
        RowId(residue(&blake3::keyed_hash(&self.ids, key)))
    }

    /// The digest of a row. Cost: one encoding, one hash of key and row.
    #[must_use]
    pub fn digest(&self, key: &RowKey, row: &Row) -> RowDigest {
        if row.is_empty() {
            return RowDigest::ABSENT;
        }
        let mut out = Writer::appending(Vec::with_capacity(256));
        out.bytes(key.as_bytes());
        row.encode(&mut out);
        RowDigest::of_hash(&blake3::keyed_hash(&self.digests, out.as_bytes()))
    }

    /// [`Self::digest`] of a row that is not empty, from the bytes of its key and its canonical bytes.
    #[must_use]
    pub fn digest_of_bytes(&self, key: &[u8], row: &[u8]) -> RowDigest {
        // The length before the key says where it ends, so that no two pairs have the same bytes.
        let mut out = Writer::appending(Vec::with_capacity(key.len() + row.len() + 10));
        out.bytes(key);
        out.raw(row);
        RowDigest::of_hash(&blake3::keyed_hash(&self.digests, out.as_bytes()))
    }
}

impl core::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DigestKey(secret)")
    }
}

/// The first 61 bits of a hash. D3
fn residue(hash: &blake3::Hash) -> Residue {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    Residue::reduced(u64::from_le_bytes(first) >> (64 - ID_BITS))
}

/// Names a row: 61 bits of its key's hash. Ids are spread evenly, and a store keeps rows in their order, or an index.
///
/// Two rows may have one id: at 10^7 rows with a chance of 2·10^-5. They are then always found, and exchanged, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(Residue);

impl RowId {
    /// The smallest.
    pub const MIN: Self = Self(Residue::ZERO);

    /// An id from outside: from a peer or a disk. `None` if no row can have it.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Residue::new(bits).map(Self)
    }

    /// The number, below 2^61 − 1.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    pub(super) const fn from_residue(residue: Residue) -> Self {
        Self(residue)
    }

    pub(super) const fn residue(self) -> Residue {
        self.0
    }
}

/// Stands for the state of a row: 61 bits of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowDigest(Residue);

impl RowDigest {
    /// The digest of the row that holds nothing. D2
    pub const ABSENT: Self = Self(Residue::ZERO);

    /// A digest from outside. `None` if no row can have it.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Residue::new(bits).map(Self)
    }

    /// The number, below 2^61 − 1; to be kept with the row, so that a write knows what it replaces.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    fn of_hash(hash: &blake3::Hash) -> Self {
        let residue = residue(hash);
        // D2
        Self(if residue.is_zero() { Residue::ONE } else { residue })
    }
}

/// What a write did to the digest of one row: the only thing a sketch is told.
///
/// The law: changes add. A row's changes in any order and grouping sum to new minus old, and a change with its
/// negation to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// The row.
    pub id: RowId,
    /// Its new digest less its old one.
    pub delta: Residue,
}

impl Change {
    /// The row had the digest `old` and has `new`.
    #[must_use]
    pub fn between(id: RowId, old: RowDigest, new: RowDigest) -> Self {
        Self { id, delta: new.0 - old.0 }
    }

    /// What takes this back: a copy of a sketch to which recent changes are applied negated is the sketch from before.
    #[must_use]
    pub fn negated(self) -> Self {
        Self { id: self.id, delta: -self.delta }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self.delta.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{ActorId, CollectionKey, Count, DataType, Dot, Payload};
    use proptest::prelude::*;

    fn key(name: &str) -> RowKey {
        CollectionKey::new("shop", DataType::Counter, name).unwrap().row()
    }

    fn row(seq: u64) -> Row {
        let mut row = Row::empty();
        row.put(Dot::new(ActorId::new(7), seq), Payload::Count(Count::default()));
        row
    }

    #[test]
    fn ids_and_digests_are_the_same_on_every_machine() {
        let secret = DigestKey::derive(b"a cluster");
        // The first three were computed by another implementation of BLAKE3 as well.
        assert_eq!(secret.id_of_bytes(b"").to_bits(), 328_624_911_469_520_656);
        assert_eq!(secret.id_of_bytes(b"a row").to_bits(), 1_284_850_940_620_671_163);
        assert_eq!(secret.digest_of_bytes(b"a row", b"its state").to_bits(), 490_089_811_394_269_370);
        assert_eq!(secret.digest(&key("likes"), &row(3)).to_bits(), 722_093_675_241_517_580);
    }

    #[test]
    fn a_digest_is_bound_to_its_key_and_to_its_secret() {
        let secret = DigestKey::derive(b"a cluster");
        let digest = secret.digest(&key("likes"), &row(3));
        assert_ne!(digest, secret.digest(&key("like"), &row(3)));
        assert_ne!(digest, secret.digest(&key("likes"), &row(4)));
        assert_ne!(digest, DigestKey::derive(b"another").digest(&key("likes"), &row(3)));
        // Where the key ends is part of what is hashed.
        assert_ne!(secret.digest_of_bytes(b"ab", b"c"), secret.digest_of_bytes(b"a", b"bc"));
    }

    #[test]
    fn the_empty_row_is_absent_and_no_other_row_is() {
        let secret = DigestKey::derive(b"a cluster");
        assert_eq!(secret.digest(&key("likes"), &Row::empty()), RowDigest::ABSENT);
        assert_eq!(RowDigest::of_hash(&blake3::Hash::from_bytes([0; 32])), RowDigest(Residue::ONE));
        // 61 one bits are the modulus, which is zero.
        assert_eq!(RowDigest::of_hash(&blake3::Hash::from_bytes([0xff; 32])), RowDigest(Residue::ONE));
    }

    proptest! {
        #[test]
        fn a_row_and_its_bytes_have_one_digest(name in "[a-z]{1,300}", seq in 1_u64..1_000_000) {
            let secret = DigestKey::derive(b"a cluster");
            let mut bytes = Writer::new();
            row(seq).encode(&mut bytes);
            prop_assert_eq!(
                secret.digest(&key(&name), &row(seq)),
                secret.digest_of_bytes(key(&name).as_bytes(), bytes.as_bytes())
            );
            prop_assert_eq!(secret.id(&key(&name)), secret.id_of_bytes(key(&name).as_bytes()));
        }

        #[test]
        fn changes_of_one_row_add_up(a in 0_u64..1 << 60, b in 0_u64..1 << 60, c in 0_u64..1 << 60) {
            let digest = |bits| RowDigest::from_bits(bits).unwrap();
            let id = RowId::MIN;
            let through = Change::between(id, digest(a), digest(b)).delta + Change::between(id, digest(b), digest(c)).delta;
            prop_assert_eq!(through, Change::between(id, digest(a), digest(c)).delta);
            prop_assert!(Change::between(id, digest(a), digest(a)).is_nothing());
            prop_assert_eq!(Change::between(id, RowDigest::ABSENT, digest(a)).delta.get(), a);
        }
    }
}
