//! Flags: on, off, or never set.
//!
//! **Concurrent pairs.** enable ∥ disable: enabled. set ∥ delete: the set stays. A flag that was disabled is `false`; a
//! flag that was deleted or never set is not there.

use crate::mutants::{Mutant, is_on};
use crate::{Draft, Payload, ReadError, Row, RowKey};

/// Sets the flag in place of what was seen.
///
/// # Errors
/// The storage failed.
pub fn set(draft: &mut Draft<'_>, key: &RowKey, enabled: bool) -> Result<(), ReadError> {
    draft.replace(key, Payload::Flag(enabled))
}

/// What is shown: enabled if any concurrent write enabled it; `None` when it is not set.
#[must_use]
pub fn state(row: &Row) -> Option<bool> {
    row.iter().fold(None, |state, (_, payload)| match payload {
        Payload::Flag(enabled) if is_on(Mutant::FlagDisableWins) => Some(state.unwrap_or(true) && *enabled),
        Payload::Flag(enabled) => Some(state.unwrap_or(false) || *enabled),
        _ => state,
    })
}
