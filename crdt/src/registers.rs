//! Registers: the last writer wins, and who lost stays readable.
//!
//! **Concurrent pairs.** put ∥ put: both stay as siblings; the one with the higher (stamp, actor) is shown.
//! put ∥ delete: the put stays. A put that *saw* another always replaces it, whatever the clocks say; the clock decides
//! only between writes neither of which saw the other.

use crate::mutants::{Mutant, is_on};
use crate::{Dot, Draft, Hlc, Payload, ReadError, Row, RowKey};
use alloc::sync::Arc;
use alloc::vec::Vec;
use crdts::LWWReg;

/// One of the concurrent values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// Who wrote it.
    pub dot: Dot,
    /// When, by its writer's clock.
    pub at: Hlc,
    /// As it was put.
    pub content_type: Arc<str>,
    /// As it was put.
    pub bytes: Arc<[u8]>,
}

/// Puts a value in place of what was seen.
///
/// # Errors
/// The storage failed.
pub fn put(draft: &mut Draft<'_>, key: &RowKey, content_type: &str, bytes: &[u8]) -> Result<(), ReadError> {
    let at = draft.at();
    draft.replace(key, Payload::Value { at, content_type: content_type.into(), bytes: bytes.into() })
}

/// The concurrent values, the winner first; empty when there is none.
#[must_use]
pub fn siblings(row: &Row) -> Vec<Sibling> {
    let mut found: Vec<_> = row
        .iter()
        .filter_map(|(dot, payload)| match payload {
            Payload::Value { at, content_type, bytes } => {
                Some(Sibling { dot, at: *at, content_type: Arc::clone(content_type), bytes: Arc::clone(bytes) })
            }
            _ => None,
        })
        .collect();
    found.sort_by_key(|sibling| core::cmp::Reverse(marker(sibling.at, sibling.dot)));
    found
}

/// The value that is shown.
#[must_use]
pub fn winner(row: &Row) -> Option<(Hlc, &str, &Arc<[u8]>)> {
    fold(row.iter().filter_map(|(dot, payload)| match payload {
        Payload::Value { at, content_type, bytes } => Some((dot, *at, (*at, &**content_type, bytes))),
        _ => None,
    }))
}

/// Folds concurrent entries into the one with the highest (stamp, actor, seq); the seq decides only between two dots
/// of one actor with one stamp, which no honest writer makes.
pub(crate) fn fold<V: PartialEq>(entries: impl Iterator<Item = (Dot, Hlc, V)>) -> Option<V> {
    let mut register: Option<LWWReg<V, _>> = None;
    for (dot, at, val) in entries {
        let marker = marker(at, dot);
        match &mut register {
            Some(register) => register.update(val, marker),
            None => register = Some(LWWReg { val, marker }),
        }
    }
    register.map(|register| register.val)
}

fn marker(at: Hlc, dot: Dot) -> (Hlc, Dot) {
    if is_on(Mutant::RegisterFoldsByDot) {
        return (Hlc::default(), dot);
    }
    (at, dot)
}
