//! An object with rows or with ids: a head, and entries that are compressed if that makes them smaller.
//!
//! ```text
//! "atollbak" ‖ version 1 ‖ kind: 1 rows, 2 ids ‖ codec: 0 as they are, 1 LZ4 ‖ 0 ‖ length of the entries (4 bytes, big-endian) ‖ entries
//! ```
//!
//! **What always holds.** P1: a length is checked before anything is allocated for it. P2: an object is at most [`PART_BYTES_MAX`] large.

use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_node::store::{BackupRow, decode_pair};
use atoll_replication::sketch::{RowDigest, RowId};

/// Bytes of entries after which an object ends, before they are compressed.
pub(super) const PART_BYTES: usize = 16 << 20;
/// Bytes of entries that an object has at most: one answer of a node comes on top.
const RAW_BYTES_MAX: usize = 32 << 20;
/// Bytes of an object at most.
pub const PART_BYTES_MAX: usize = RAW_BYTES_MAX + HEAD_BYTES;

const HEAD_BYTES: usize = 16;
const MAGIC: &[u8] = b"atollbak";
const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;
/// Bytes of a pair.
const PAIR_BYTES: usize = 16;

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows.
    Rows,
    /// Ids with digests.
    Ids,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Rows => 1,
            Self::Ids => 2,
        }
    }

    /// The name of the nth object, from 1 on.
    pub(super) fn name(self, n: usize) -> String {
        match self {
            Self::Rows => format!("rows-{n:06}"),
            Self::Ids => format!("ids-{n:06}"),
        }
    }
}

/// The bytes of an object with these entries.
#[must_use]
pub fn encode(kind: Kind, entries: &[u8]) -> Vec<u8> {
    let packed = lz4_flex::block::compress(entries);
    let (codec, body) = if packed.len() < entries.len() { (LZ4, &packed[..]) } else { (PLAIN, entries) };
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, kind.byte(), codec, 0]);
    out.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// The entries of an object.
///
/// # Errors
/// It is none of this kind and version, or damaged. P1
pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut input = Reader::new(bytes);
    if input.raw(MAGIC.len())? != MAGIC {
        return Err(DecodeError::NotCanonical);
    }
    match input.byte()? {
        VERSION => {}
        value => return Err(DecodeError::Unknown { what: "version of an object", value }),
    }
    match input.byte()? {
        byte if byte == kind.byte() => {}
        value => return Err(DecodeError::Unknown { what: "kind of an object", value }),
    }
    let (codec, zero) = (input.byte()?, input.byte()?);
    let mut length = [0; 4];
    length.copy_from_slice(input.raw(4)?);
    let length = u32::from_be_bytes(length) as usize;
    if length > RAW_BYTES_MAX {
        return Err(DecodeError::TooLarge { max: RAW_BYTES_MAX as u64 });
    }
    let body = input.rest();
    let entries = match (codec, zero) {
        (PLAIN, 0) => body.to_vec(),
        // No byte of LZ4 stands for more than 255.
        (LZ4, 0) if length / 255 <= body.len() => {
            lz4_flex::block::decompress(body, length).map_err(|_| DecodeError::Checksum)?
        }
        (LZ4, 0) => return Err(DecodeError::Truncated),
        (value, _) => return Err(DecodeError::Unknown { what: "codec of an object", value }),
    };
    if entries.len() == length { Ok(entries) } else { Err(DecodeError::Truncated) }
}

/// The rows among entries.
///
/// # Errors
/// Something does not read.
pub fn rows(entries: &[u8]) -> impl Iterator<Item = Result<BackupRow<'_>, DecodeError>> {
    let mut input = Reader::new(entries);
    std::iter::from_fn(move || {
        if input.is_empty() {
            return None;
        }
        let row = BackupRow::decode(&mut input);
        if row.is_err() {
            input = Reader::new(&[]);
        }
        Some(row)
    })
}

/// The ids and digests among entries: ascending, and none of them absent.
///
/// # Errors
/// Something does not read.
pub fn ids(entries: &[u8]) -> Result<Vec<(RowId, RowDigest)>, DecodeError> {
    let mut input = Reader::new(entries);
    let mut ids: Vec<(RowId, RowDigest)> = Vec::with_capacity(entries.len() / PAIR_BYTES);
    while !input.is_empty() {
        let pair = decode_pair(&mut input)?;
        if pair.1 == RowDigest::ABSENT || ids.last().is_some_and(|last| *last > pair) {
            return Err(DecodeError::NotCanonical);
        }
        ids.push(pair);
    }
    Ok(ids)
}

/// What any bytes are taken for, for fuzzing: an object of either kind, and what is in it.
pub fn any(bytes: &[u8]) {
    if let Ok(entries) = decode(Kind::Rows, bytes) {
        let mut out = Writer::new();
        let is_whole = rows(&entries).all(|row| row.map(|row| row.encode(&mut out)).is_ok());
        assert!(!is_whole || out.as_bytes() == entries, "a row has one form");
    }
    if let Ok(entries) = decode(Kind::Ids, bytes) {
        let _ = ids(&entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_packed_or_not_and_damage_is_refused_within_bounds() {
        let noise: Vec<u8> = (0..4_096_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        for entries in [vec![7; 100_000], noise, Vec::new()] {
            let bytes = encode(Kind::Rows, &entries);
            assert_eq!(decode(Kind::Rows, &bytes).as_ref(), Ok(&entries));
            assert!(decode(Kind::Ids, &bytes).is_err());
            for at in 0..HEAD_BYTES {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(decode(Kind::Rows, &changed).is_err(), "byte {at} of {} bytes", bytes.len());
            }
        }
        let mut bomb = encode(Kind::Rows, &[7; 1_000]);
        bomb[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(decode(Kind::Rows, &bomb), Err(DecodeError::TooLarge { max: RAW_BYTES_MAX as u64 }));
        bomb[12..16].copy_from_slice(&(RAW_BYTES_MAX as u32).to_be_bytes());
        assert_eq!(decode(Kind::Rows, &bomb), Err(DecodeError::Truncated), "P1");
    }

    #[test]
    fn ids_that_are_not_in_order_are_refused() {
        let pair = |id: u64| [id.to_be_bytes(), 5_u64.to_be_bytes()].concat();
        assert_eq!(ids(&[pair(1), pair(2)].concat()).unwrap().len(), 2);
        assert!(ids(&[pair(2), pair(1)].concat()).is_err());
        assert!(ids(&pair(u64::MAX)).is_err());
        assert!(ids(&[1_u64.to_be_bytes(), [0; 8]].concat()).is_err());
        assert!(ids(&pair(1)[..15]).is_err());
    }
}
