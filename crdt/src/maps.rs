//! Maps: nested objects whose leaves are values, counters and member sets, a row a leaf.
//!
//! **How it goes.** A place is a JSON Pointer. Setting a value at `/a` removes what is seen under `/a/…` and replaces the
//! value at `/a`; writing anything at `/a/b` removes a value seen at `/a`. Setting an object sets each of its members in
//! place of what was there; an empty object is nothing.
//!
//! **Concurrent pairs.** Per leaf: value ∥ value: as registers. counter ∥ counter, member ∥ member: as counters and sets.
//! write under a place ∥ removal of the place: the write stays, alone. value at `/a` ∥ write at `/a/b`: both stay and the
//! object is shown. A counter, a member set and a value at one place are three things; shown is, in this order, the
//! object, the set, the counter, the value. (In automerge a removal of an object wins over an edit inside it.)
//!
//! **What always holds.** M1: an emptied map is not there; nothing but leaves exists. M2: a counter is only ever removed
//! by a reset, so increments that a removal had not seen survive it exactly.

use crate::mutants::{Mutant, is_on};
use crate::{
    CollectionKey, Draft, Hlc, KeyError, LeafKind, MapPath, Payload, ReadError, Row, RowKey, RowPath, RowSource,
    VersionVector, counters, registers, sets,
};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What is to be set at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Each member at its own place.
    Object(Vec<(String, Value)>),
    /// One JSON value that is no object, as text.
    Json(Arc<[u8]>),
}

/// Why a change of a map was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A place that cannot be (caller).
    #[error(transparent)]
    Path(#[from] KeyError),
    /// The whole map can only be an object (caller).
    #[error("the whole map ('') can only be set to an object, and holds no counter or set of its own")]
    Root,
    /// The rows could not be read (environment).
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A counter at its limit (caller).
    #[error(transparent)]
    Add(#[from] counters::AddError),
}

/// Sets what is at and under a place.
///
/// # Errors
/// The place cannot be, or the storage failed.
pub fn set(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath, value: &Value) -> Result<(), MapError> {
    if path.is_root() && matches!(value, Value::Json(_)) {
        return Err(MapError::Root);
    }
    remove_under(draft, map, path)?;
    match value {
        Value::Object(members) => {
            if !path.is_root() {
                draft.remove(&path.leaf(map, LeafKind::Value))?;
            }
            remove_values_above(draft, map, path)?;
            for (name, value) in members {
                put(draft, map, &path.child(name)?, value)?;
            }
            Ok(())
        }
        Value::Json(_) => {
            remove_values_above(draft, map, path)?;
            put(draft, map, path, value)
        }
    }
}

/// Puts values at places whose surroundings are clean already.
fn put(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath, value: &Value) -> Result<(), MapError> {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                put(draft, map, &path.child(name)?, value)?;
            }
        }
        Value::Json(json) => {
            let at = draft.at();
            draft.replace(&path.leaf(map, LeafKind::Value), Payload::Leaf { at, json: Arc::clone(json) })?;
        }
    }
    Ok(())
}

/// Adds to the counter at a place.
///
/// # Errors
/// The place is the root, the counter is at its limit, or the storage failed.
pub fn add(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath, amount: i64) -> Result<i64, MapError> {
    if path.is_root() {
        return Err(MapError::Root);
    }
    remove_values_above(draft, map, path)?;
    Ok(counters::add(draft, &path.leaf(map, LeafKind::Counter), amount)?)
}

/// Adds a member to the set at a place.
///
/// # Errors
/// The place is the root, the member is too long, or the storage failed.
pub fn add_member(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath, member: &str) -> Result<(), MapError> {
    if path.is_root() {
        return Err(MapError::Root);
    }
    remove_values_above(draft, map, path)?;
    Ok(sets::add(draft, &path.member(map, member)?)?)
}

/// Removes a member from the set at a place.
///
/// # Errors
/// The place is the root, the member is too long, or the storage failed.
pub fn remove_member(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath, member: &str) -> Result<(), MapError> {
    if path.is_root() {
        return Err(MapError::Root);
    }
    Ok(sets::remove(draft, &path.member(map, member)?)?)
}

/// Removes everything at and under a place; with the root, the map. One operation, and one reset a counter (M2).
///
/// # Errors
/// The storage failed.
pub fn remove(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath) -> Result<(), MapError> {
    let subtree = path.subtree(map);
    let shows = |key: &RowKey, row: &Row| key.leaf_kind().is_some_and(|kind| is_visible(kind, row));
    let is_counter = |key: &RowKey| key.leaf_kind() == Some(LeafKind::Counter);
    let mut any = false;
    let rows = draft.rows_under_if(&subtree, &mut |key, row| {
        any |= shows(key, row);
        is_counter(key)
    })?;
    if !any && !rows.iter().any(|(key, row)| shows(key, row)) {
        return Ok(());
    }
    for (key, _) in rows.iter().filter(|(key, _)| is_counter(key)) {
        if is_on(Mutant::ClearForgetsCounters) {
            break;
        }
        counters::reset_before_clear(draft, key)?;
    }
    Ok(draft.clear(&subtree)?)
}

/// What a reader saw of a map, so that whoever deletes it need not look through it. Cost: O(rows) to make, O(counters) to
/// use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the reader had seen: later writes are concurrent with the deletion.
    context: VersionVector,
    counters: Vec<RowKey>,
    any: bool,
}

impl Found {
    /// Nothing yet, of a reader with this context.
    #[must_use]
    pub fn nothing(context: VersionVector) -> Self {
        Self { context, counters: Vec::new(), any: false }
    }

    /// One more row of the map.
    pub fn note(&mut self, key: &RowKey, row: &Row) {
        let Some(kind) = key.leaf_kind().filter(|_| !row.is_empty()) else { return };
        self.any |= is_visible(kind, row);
        if kind == LeafKind::Counter {
            self.counters.push(key.clone());
        }
    }

    /// The counters that a deletion resets: all of a map that shows anything.
    #[must_use]
    pub fn counters(&self) -> &[RowKey] {
        if self.any { &self.counters } else { &[] }
    }
}

/// Looks through a map that a reader with `context` sees.
///
/// # Errors
/// The storage failed.
pub fn look(source: &dyn RowSource, map: &CollectionKey, context: VersionVector) -> Result<Found, ReadError> {
    let (mut found, all) = (Found::nothing(context), MapPath::root().subtree(map));
    source.visit(&all, &all, &mut |key, row| {
        found.note(key, row);
        true
    })?;
    Ok(found)
}

/// Removes what a reader found in a map: its counters as they stand, and of everything else what the reader had seen. One
/// operation, and one reset a counter (M2).
///
/// # Errors
/// The storage failed.
pub fn remove_found(draft: &mut Draft<'_>, map: &CollectionKey, found: &Found) -> Result<(), MapError> {
    for key in found.counters().iter().filter(|_| !is_on(Mutant::ClearForgetsCounters)) {
        counters::reset_before_clear(draft, key)?;
    }
    if found.any { Ok(draft.clear_seen(&MapPath::root().subtree(map), found.context.clone())?) } else { Ok(()) }
}

/// Removes what is strictly under a place, leaf by leaf: what is at the place itself stays.
fn remove_under(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath) -> Result<(), MapError> {
    let depth = path.segments().len();
    for (key, _) in draft.rows_under(&path.subtree(map))? {
        let RowPath::Leaf(at, kind, _) = key.parts().3 else { continue };
        if at.segments().len() == depth || is_on(Mutant::SetLeavesWhatIsUnder) {
            continue;
        }
        match kind {
            LeafKind::Counter => counters::reset(draft, &key)?,
            LeafKind::Member | LeafKind::Value => draft.remove(&key)?,
        }
    }
    Ok(())
}

fn remove_values_above(draft: &mut Draft<'_>, map: &CollectionKey, path: &MapPath) -> Result<(), MapError> {
    if is_on(Mutant::WriteLeavesValueAbove) {
        return Ok(());
    }
    for above in path.ancestors().filter(|above| !above.is_root()) {
        draft.remove(&above.leaf(map, LeafKind::Value))?;
    }
    Ok(())
}

/// What is shown at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Members by name.
    Object(BTreeMap<String, Shown>),
    /// The members of a set, ascending.
    Members(Vec<String>),
    /// A counter's exact value.
    Counter(i128),
    /// JSON text.
    Json(Arc<[u8]>),
}

#[derive(Default)]
struct Node {
    children: BTreeMap<String, Node>,
    members: Vec<String>,
    counter: Option<i128>,
    json: Option<Arc<[u8]>>,
}

impl Node {
    fn shown(self) -> Option<Shown> {
        let children: BTreeMap<_, _> =
            self.children.into_iter().filter_map(|(name, node)| Some((name, node.shown()?))).collect();
        if !children.is_empty() {
            Some(Shown::Object(children))
        } else if !self.members.is_empty() {
            Some(Shown::Members(self.members))
        } else {
            self.counter.map(Shown::Counter).or(self.json.map(Shown::Json))
        }
    }
}

/// Builds what is shown from rows of one map, taken in the order of their keys.
#[derive(Default)]
pub struct View {
    root: Node,
}

impl View {
    /// Takes in one row.
    pub fn row(&mut self, key: &RowKey, row: &Row) {
        let RowPath::Leaf(path, kind, member) = key.parts().3 else { return };
        if !is_visible(kind, row) {
            return;
        }
        let node =
            path.segments().iter().fold(&mut self.root, |node, name| node.children.entry(name.clone()).or_default());
        match kind {
            LeafKind::Counter => node.counter = counters::value(row),
            LeafKind::Member => node.members.push(member),
            LeafKind::Value => node.json = leaf(row),
        }
    }

    /// What is shown at `path`, which lies in the part whose rows were taken in; `None` when nothing is.
    #[must_use]
    pub fn shown(self, path: &MapPath) -> Option<Shown> {
        let mut node = self.root;
        for name in path.segments() {
            node = node.children.remove(name)?;
        }
        node.shown()
    }
}

/// Whether a leaf's row shows anything.
#[must_use]
pub fn is_visible(kind: LeafKind, row: &Row) -> bool {
    match kind {
        LeafKind::Counter => counters::value(row).is_some(),
        LeafKind::Member | LeafKind::Value => !row.is_empty(),
    }
}

fn leaf(row: &Row) -> Option<Arc<[u8]>> {
    registers::fold(row.iter().filter_map(|(dot, payload)| match payload {
        Payload::Leaf { at, json } => Some((dot, *at, json)),
        _ => None,
    }))
    .cloned()
}

/// The stamps of a value's concurrent entries, the winner's first: more than one is a conflict.
#[must_use]
pub fn stamps(row: &Row) -> Vec<Hlc> {
    let mut stamps: Vec<_> = row
        .iter()
        .filter_map(|(dot, payload)| match payload {
            Payload::Leaf { at, .. } => Some((*at, dot)),
            _ => None,
        })
        .collect();
    stamps.sort_unstable_by(|a, b| b.cmp(a));
    stamps.into_iter().map(|(at, _)| at).collect()
}
