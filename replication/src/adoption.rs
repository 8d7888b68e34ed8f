//! Taking over a peer's state: what one closing entry of a reconciliation changes.
//!
//! **What always holds.** A reconciliation has effect by this one entry or not at all: rows as they are afterwards, and
//! both clocks. D1: every row is the merge of this side's row as it stood at the entry with the peer's row in its
//! pinned state, so that `state = f(CC)` holds after it as before. D2: the log cursor is raised for lost actors only,
//! those whose next record the peer could not serve; their records up to there are in no log here. D3: an entry that names a
//! layer makes its merged rows the truth for their keys, but for the keys that the entry itself mentions: those of the layer
//! that changed since its last pass are all among them.

use crate::apply::{RowChange, RowChanges};
use crate::aside::LayerId;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ReadError, Row, RowKey, RowSource, VersionVector};

/// Bytes of a row's key in an entry: far above any valid one.
const KEY_BYTES_MAX: usize = 16 << 10;

/// The closing entry of a reconciliation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The peer's whole context at its snapshot.
    pub context: VersionVector,
    /// How far the cursors of lost actors go now. D2
    pub cursor: VersionVector,
    /// Rows as they are afterwards, where that differs, ascending by key; the empty row is one that is gone.
    pub rows: Vec<(RowKey, Arc<Row>)>,
    /// The layer that holds the other rows, when they were too many for one entry. D3
    pub layer: Option<LayerId>,
}

impl Adoption {
    /// What the entry makes of rows that `source` still shows as they were. Damaged ones are repaired by it.
    ///
    /// # Errors
    /// The storage failed.
    pub fn row_changes(&self, source: &dyn RowSource) -> Result<RowChanges, ReadError> {
        let change = |(key, after): &(RowKey, Arc<Row>)| {
            let before = match source.row(key) {
                Err(ReadError::Damaged(_)) => Some(Arc::new(Row::empty())),
                read => read?,
            };
            Ok(RowChange { key: key.clone(), before, after: Arc::clone(after) })
        };
        self.rows.iter().map(change).collect()
    }

    /// Appends the canonical bytes, less the layer.
    pub(crate) fn encode(&self, out: &mut Writer) {
        self.context.encode(out);
        self.cursor.encode(out);
        out.length(self.rows.len());
        for (key, row) in &self.rows {
            out.bytes(key.as_bytes());
            row.encode(out);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(layer: Option<LayerId>, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (context, cursor) = (VersionVector::decode(input)?, VersionVector::decode(input)?);
        let count = input.length(4, usize::MAX)?;
        let mut rows: Vec<(RowKey, Arc<Row>)> = Vec::with_capacity(count.min(4_096));
        for _ in 0..count {
            let key = RowKey::parse(input.bytes(KEY_BYTES_MAX)?).map_err(|_| DecodeError::NotCanonical)?;
            if rows.last().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::NotCanonical);
            }
            rows.push((key, Arc::new(Row::decode(input)?)));
        }
        Ok(Self { context, cursor, rows, layer })
    }
}
