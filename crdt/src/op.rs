//! What a record does to rows.
//!
//! **What always holds.** O1: kills name dots that the writer had seen, so they are covered by the record's
//! dependencies. O2: a record holds at most one [`RowOp`] a row, so one dot never carries two payloads in a row.
//! O3: a clear's context is at most its writer's; it never covers the record's own dot.

use crate::codec::{DecodeError, Reader, Writer, read_dots, write_dots};
use crate::mutants::{Mutant, is_on};
use crate::{Dot, Payload, Row, RowKey, VersionVector};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Bytes of an encoded row key: namespace, type, key and path, every byte escaped.
const ROW_KEY_BYTES_MAX: usize = 8 << 10;

/// One row's part of a record: kill what was seen, put what is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOp {
    /// Which row.
    pub key: RowKey,
    /// Dots that the writer had seen and replaces or removes, ascending.
    pub kills: Vec<Dot>,
    /// What the record's dot carries here; `None` removes only.
    pub put: Option<Payload>,
}

impl RowOp {
    /// Does it to a row, under the record's dot.
    pub fn apply(&self, dot: Dot, row: &mut Row) {
        if !is_on(Mutant::ApplyLeavesKillsOut) {
            row.kill(&self.kills);
        }
        if let Some(payload) = &self.put {
            row.put(dot, payload.clone());
        }
    }
}

/// Kills everything under a prefix that a context covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearOp {
    /// With what the rows' keys begin: a collection, or a place in a map.
    pub prefix: Arc<[u8]>,
    /// What was seen.
    pub context: VersionVector,
}

/// One of the things a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// To one row.
    Row(RowOp),
    /// To all rows under a prefix.
    Clear(ClearOp),
}

impl Op {
    /// Appends the canonical bytes.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Self::Row(op) => {
                out.byte(if op.put.is_some() { 2 } else { 1 });
                out.bytes(op.key.as_bytes());
                write_dots(out, &op.kills);
                if let Some(payload) = &op.put {
                    payload.encode(out);
                }
            }
            Self::Clear(op) => {
                out.byte(3);
                out.bytes(&op.prefix);
                op.context.encode(out);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote; checks that a payload is of its row's type.
    ///
    /// # Errors
    /// The bytes are not canonical, beyond a bound, or mix types.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = input.byte()?;
        match kind {
            1 | 2 => {
                let key = RowKey::parse(input.bytes(ROW_KEY_BYTES_MAX)?).map_err(|_| DecodeError::Text)?;
                let kills = read_dots(input, Row::ENTRIES_MAX)?;
                let put = if kind == 2 { Some(Payload::decode(input)?) } else { None };
                if put.as_ref().is_some_and(|payload| !payload.fits(&key)) {
                    return Err(DecodeError::NotCanonical);
                }
                Ok(Self::Row(RowOp { key, kills, put }))
            }
            3 => {
                let prefix = input.bytes(ROW_KEY_BYTES_MAX)?.into();
                Ok(Self::Clear(ClearOp { prefix, context: VersionVector::decode(input)? }))
            }
            value => Err(DecodeError::Unknown { what: "operation", value }),
        }
    }
}
