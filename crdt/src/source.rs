//! Where a write looks before it writes.

use crate::{CollectionKey, Row, RowKey};
use alloc::string::String;
use alloc::sync::Arc;

/// Rows could not be read: the environment's fault. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The storage failed (disk).
    #[error("rows cannot be read: {0}")]
    Failed(String),
    /// What is stored of this row is damaged (disk). It is a *hole*: not known, and not absent; what else is stored can
    /// be read.
    #[error("the stored row {} is damaged", .0.as_bytes().escape_ascii())]
    Damaged(RowKey),
}

/// A consistent view of rows. A row that is damaged is never shown as absent, and never passed over: reading it, and
/// visiting what it lies among, is an error that names it. What was visited before stands.
pub trait RowSource {
    /// One row; `None` when nothing is live there.
    ///
    /// # Errors
    /// The storage failed.
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError>;

    /// Visits, in order, the rows whose keys begin with `prefix` and are not below `from`, until the visitor says
    /// `false`. A row that holds nothing may be visited.
    ///
    /// # Errors
    /// The storage failed.
    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError>;

    /// How many rows of a collection are live. Cost: independent of that number.
    ///
    /// # Errors
    /// The storage failed.
    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError>;

    /// Whether rows under this prefix, or under one that it lies in, were cleared and are not all removed yet, so that a
    /// visit passes over them at a price.
    fn is_clearing(&self, prefix: &[u8]) -> bool {
        let _ = prefix;
        false
    }
}
