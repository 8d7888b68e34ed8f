//! Sets of strings: a row a member, additions win.
//!
//! **Concurrent pairs.** add ∥ remove: the member stays. add ∥ delete of the set: the member stays, alone.
//! remove ∥ remove: it is gone. An emptied set is not there.
//!
//! Cost: O(1) rows an operation, whatever the size of the set; the size itself is kept by the store.

use crate::{CollectionKey, Draft, Payload, ReadError, Row, RowKey};

/// Adds a member.
///
/// # Errors
/// The storage failed.
pub fn add(draft: &mut Draft<'_>, member: &RowKey) -> Result<(), ReadError> {
    draft.replace(member, Payload::Member)
}

/// Removes what was seen of a member.
///
/// # Errors
/// The storage failed.
pub fn remove(draft: &mut Draft<'_>, member: &RowKey) -> Result<(), ReadError> {
    draft.remove(member)
}

/// Removes every member that was seen, in one operation.
///
/// # Errors
/// The storage failed.
pub fn delete(draft: &mut Draft<'_>, set: &CollectionKey) -> Result<(), ReadError> {
    draft.clear(set.as_bytes())
}

/// Whether the member of this row is in the set.
#[must_use]
pub fn is_member(row: &Row) -> bool {
    !row.is_empty()
}
