//! Where a write looks before it writes.

use crate::{CollectionKey, Row, RowKey};
use alloc::string::String;
use alloc::sync::Arc;

/// Rows could not be read: the environment's fault. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rows cannot be read: {0}")]
pub struct ReadError(pub String);

/// A consistent view of rows.
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
}
