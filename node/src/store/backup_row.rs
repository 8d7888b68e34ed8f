//! A row as a backup holds it: what the node tells of it, and what a restored data directory is made of.
//!
//! ```text
//! id (8 bytes) ‖ digest (8 bytes) ‖ length, key ‖ length, canonical bytes of the row        numbers big-endian, lengths varints
//! ```
//!
//! **What always holds.** K1: one that was read is well formed: its key parses, its bytes are those of a row in canonical form. K2: a
//! digest of zero, and only that, comes without key and row: nothing with this id is there.

use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{Row, RowKey};
use atoll_replication::sketch::{Cell, Change, RowDigest, RowId};

/// Bytes of a key: far above any valid one.
const KEY_BYTES_MAX: usize = 16 << 10;
/// Bytes of a row: what one answer of a node can hold.
const ROW_BYTES_MAX: usize = 8 << 20;

/// One row of a backup, or that an id has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRow<'a> {
    /// Its id under the cluster's secret.
    pub id: RowId,
    /// Its digest under the same.
    pub digest: RowDigest,
    /// Key and canonical bytes; `None` when no row has the id. K2
    pub row: Option<(RowKey, &'a [u8])>,
}

impl<'a> BackupRow<'a> {
    /// Says that no row has this id any more.
    #[must_use]
    pub fn gone(id: RowId) -> Self {
        Self { id, digest: RowDigest::ABSENT, row: None }
    }

    /// What it adds to the sum over all rows.
    #[must_use]
    pub fn cell(&self) -> Cell {
        cell(self.id, self.digest)
    }

    /// Appends the bytes.
    pub fn encode(&self, out: &mut Writer) {
        let (key, row) = self.row.as_ref().map_or((&[][..], &[][..]), |(key, row)| (key.as_bytes(), *row));
        encode_row(out, self.id, self.digest, key, row);
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are no row of a backup.
    pub fn decode(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (id, digest) = decode_pair(input)?;
        let (key, row) = (input.bytes(KEY_BYTES_MAX)?, input.bytes(ROW_BYTES_MAX)?);
        if digest == RowDigest::ABSENT {
            // K2
            return if key.is_empty() && row.is_empty() { Ok(Self::gone(id)) } else { Err(DecodeError::NotCanonical) };
        }
        let key = RowKey::parse(key).map_err(|_| DecodeError::NotCanonical)?;
        let mut bytes = Reader::new(row);
        // K1
        if Row::decode(&mut bytes)?.is_empty() {
            return Err(DecodeError::NotCanonical);
        }
        bytes.finish()?;
        Ok(Self { id, digest, row: Some((key, row)) })
    }
}

/// What a row adds to the sum over all rows.
#[must_use]
pub fn cell(id: RowId, digest: RowDigest) -> Cell {
    Cell::of(Change::between(id, RowDigest::ABSENT, digest))
}

/// Reads an id and a digest.
///
/// # Errors
/// Truncated, or numbers that none have.
pub fn decode_pair(input: &mut Reader<'_>) -> Result<(RowId, RowDigest), DecodeError> {
    let mut number = || {
        let mut raw = [0; 8];
        raw.copy_from_slice(input.raw(8)?);
        Ok(u64::from_be_bytes(raw))
    };
    let (id, digest) = (number()?, number()?);
    let id = RowId::from_bits(id).ok_or(DecodeError::NotCanonical)?;
    Ok((id, RowDigest::from_bits(digest).ok_or(DecodeError::NotCanonical)?))
}

/// Appends an id and a digest.
pub fn encode_pair(out: &mut Writer, id: RowId, digest: RowDigest) {
    out.raw(&id.to_bits().to_be_bytes());
    out.raw(&digest.to_bits().to_be_bytes());
}

pub(super) fn encode_row(out: &mut Writer, id: RowId, digest: RowDigest, key: &[u8], row: &[u8]) {
    encode_pair(out, id, digest);
    out.bytes(key);
    out.bytes(row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Payload};

    #[test]
    fn a_row_reads_back_and_no_changed_byte_of_its_frame_makes_another() {
        let key = CollectionKey::new("shop", DataType::Set, "s").unwrap().member("a").unwrap();
        let mut row = Row::empty();
        row.put(Dot::new(ActorId::new(1), 1), Payload::Member);
        let mut bytes = Writer::new();
        row.encode(&mut bytes);
        let (id, digest) = (RowId::from_bits(7).unwrap(), RowDigest::from_bits(9).unwrap());
        let one = BackupRow { id, digest, row: Some((key, bytes.as_bytes())) };
        for case in [one, BackupRow::gone(id)] {
            let mut out = Writer::new();
            case.encode(&mut out);
            let bytes = out.into_bytes();
            let mut input = Reader::new(&bytes);
            assert_eq!(BackupRow::decode(&mut input), Ok(case));
            assert!(input.is_empty());
            for short in 0..bytes.len() {
                assert!(BackupRow::decode(&mut Reader::new(&bytes[..short])).is_err(), "{short} bytes");
            }
        }
        let mut out = Writer::new();
        encode_row(&mut out, id, RowDigest::ABSENT, b"key", b"");
        assert!(BackupRow::decode(&mut Reader::new(out.as_bytes())).is_err(), "K2");
        let mut out = Writer::new();
        encode_row(&mut out, id, digest, b"no key", b"");
        assert!(BackupRow::decode(&mut Reader::new(out.as_bytes())).is_err(), "K1");
    }
}
