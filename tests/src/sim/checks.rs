//! What must hold after every step, at every node.
//!
//! The numbers are those of the list in `docs/internals/testing.md`.

use super::history::{History, Reach};
use super::node::{Checked, Node};
use atoll_crdt::{DataType, Dot, LeafKind, Row, RowKey, SIBLINGS_MAX, VersionVector, counters};
use atoll_replication::Entry;
use std::collections::BTreeSet;
use std::sync::Arc;

fn is_counter(key: &RowKey) -> bool {
    key.data_type() == DataType::Counter || key.leaf_kind() == Some(LeafKind::Counter)
}

/// Invariants 1, 3, 7, 13 for what a node has just appended, and 4, 5, 16 for its replica.
///
/// # Errors
/// Says what does not hold.
pub fn after_step(node: &mut Node, history: &mut History) -> Result<(), String> {
    let Some(replica) = &node.replica else { return Ok(()) };
    let mut touched = BTreeSet::new();
    let mut adopted = false;
    for entry in node.store.take_appended() {
        let bytes = match entry {
            Entry::Record(bytes) => bytes,
            Entry::Adopt(adoption) => {
                node.context.join(&adoption.context);
                node.cursor.join(&adoption.cursor);
                adopted = true;
                continue;
            }
            Entry::Start(_) | Entry::Ceiling(_) => continue,
        };
        let record = bytes.decode().map_err(|error| format!("an appended record does not read: {error}"))?;
        if record.dot.actor == replica.actor() {
            history.written(&bytes, &record, &node.context)?;
        }
        history.arrived(&bytes, &node.context)?;
        if record.dot.seq != node.cursor.get(record.dot.actor) + 1 {
            return Err(format!("record {} was applied out of order", record.dot));
        }
        node.cursor.include(record.dot);
        node.context.include(record.dot);
        touched.extend(history.touched(&record));
    }
    if node.context != *replica.context() || node.cursor != *replica.cursor() {
        return Err(format!("the context is {:?}, its entries make {:?}", replica.context(), node.context));
    }
    if adopted {
        touched.extend(history.row_keys().cloned());
    }
    if !touched.is_empty() {
        let reach = history.reach(&node.context);
        for key in &touched {
            row(node, history, &reach, key)?;
        }
    }
    if replica.counts().divergences > 0 {
        return Err("a peer with an equal context has another root".into());
    }
    if replica.counts().contradictions > 0 {
        return Err(format!("rows were found to contradict a peer's: {:?}", replica.verification()));
    }
    replica.check_invariants()
}

/// The dots of a row, in order; a row that is there has some.
fn dots(row: Option<&Arc<Row>>) -> Vec<Dot> {
    row.map(|row| row.dots().collect()).unwrap_or_default()
}

/// Invariant 3 for one row: `state(row) = f(CC)`, and a counter's true value.
fn row(node: &Node, history: &History, reach: &Reach, key: &RowKey) -> Result<(), String> {
    let live = history.live(key, reach)?;
    let row = node.store.seen(key);
    let held = dots(row.as_ref());
    if held != live {
        return Err(format!("{key:?} holds {held:?}, f(CC) is {live:?}"));
    }
    let Some(row) = row else { return Ok(()) };
    if !row.check_invariants() {
        return Err(format!("{key:?} is out of order"));
    }
    // The cap is in the writer's record: it bounds each actor's entries, not what several write at once.
    if let Some(actor) = row
        .dots()
        .map(|dot| dot.actor)
        .find(|actor| row.dots().filter(|dot| dot.actor == *actor).count() > SIBLINGS_MAX)
    {
        return Err(format!("{key:?} holds more than the cap of {actor}"));
    }
    if is_counter(key) {
        let (shown, is) = (counters::value(&row).unwrap_or(0), history.counter(key, reach));
        if shown != is {
            return Err(format!("{key:?} shows {shown}, is {is}: {row:?}; {}", history.counter_story(key)));
        }
    }
    Ok(())
}

/// Invariant 3 for every row of a node, and for what its readers see. A state that was found right is not looked at
/// again: what `f` gives for a context never changes.
///
/// # Errors
/// Says what does not hold.
pub fn whole(node: &mut Node, history: &History) -> Result<(), String> {
    let Some(replica) = &node.replica else { return Ok(()) };
    let state =
        Checked { version: node.store.version(), context: node.context.clone(), durable: replica.durable().clone() };
    if node.checked.as_ref() == Some(&state) {
        return Ok(());
    }
    if !node.store.check_sketch() {
        return Err("the sketch is not that of the rows".into());
    }
    if let Some(what) = node.store.miscounted() {
        return Err(what.into());
    }
    let (all, durable) = (history.reach(&node.context), history.reach(replica.durable()));
    for key in history.row_keys() {
        row(node, history, &all, key)?;
        let live = history.live(key, &durable)?;
        let held = dots(node.store.seen_synced(key).as_ref());
        if held != live {
            return Err(format!("readers of {key:?} see {held:?}, f(durable) is {live:?}"));
        }
    }
    node.checked = Some(state);
    Ok(())
}

/// Invariant 5: what a restart finds includes everything that was durable.
///
/// # Errors
/// Something durable is gone.
pub fn after_crash(durable: &VersionVector, recovered: &VersionVector) -> Result<(), String> {
    if durable.leq(recovered) { Ok(()) } else { Err(format!("{durable:?} was durable, {recovered:?} came back")) }
}
