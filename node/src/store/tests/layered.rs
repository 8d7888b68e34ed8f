//! Layers: built as a session would build one, and what must come of it.

use super::{PATIENCE, Rows, set};
use crate::store::NodeStore;
use atoll_crdt::{ActorId, Dot, Payload, Row, RowKey, VersionVector};
use atoll_replication::{Adoption, Aside, Merged, Pinned, RowChange, RowChanges, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// A layer that is being built, kept plainly beside it.
pub(super) struct Built {
    /// The peer's rows that were put or noted.
    raw: Rows,
    /// Rows at the pin.
    pinned: Rows,
    /// The peer's context.
    pub(super) theirs: VersionVector,
    /// Rows that changed since the pin.
    pub(super) changed: BTreeSet<RowKey>,
}

fn spread(n: u64) -> u64 {
    (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

impl Built {
    /// Begins one over the rows as they are `now`, at a context. The peer has seen that, and more of `elsewhere`: it has a third of the
    /// members of all sets anew, and a third not.
    pub(super) fn begin(
        store: &mut NodeStore,
        seed: u8,
        now: Rows,
        (context, elsewhere): (&VersionVector, ActorId),
    ) -> Self {
        let pin = store.pin();
        store.begin_aside(pin);
        let mut theirs = context.clone();
        let mut raw = Rows::new();
        for n in 0..36_u64 {
            let key = set(&(n / 12).to_string()).member(&(n % 12).to_string()).expect("valid");
            let mut row = Row::empty();
            match spread(u64::from(seed) * 36 + n) % 3 {
                0 => {
                    let dot = Dot::new(elsewhere, theirs.get(elsewhere) + 1);
                    theirs.include(dot);
                    row.put(dot, Payload::Member);
                }
                1 if now.contains_key(&key) => {}
                _ => continue,
            }
            raw.insert(key, Arc::new(row));
        }
        for part in raw.clone().into_iter().collect::<Vec<_>>().chunks(5) {
            // First something else, as a peer may that does not know its own mind.
            let other = part.iter().map(|(key, _)| (key.clone(), Arc::new(Row::empty()))).take(1).collect();
            store.put_aside(other);
            store.put_aside(part.to_vec());
        }
        Self { raw, pinned: now, theirs, changed: BTreeSet::new() }
    }

    /// Moves the pin on.
    pub(super) fn note(&mut self, store: &mut NodeStore, now: Rows) {
        let changed = std::mem::take(&mut self.changed);
        for key in &changed {
            let pinned = self.pinned.get(key).cloned().unwrap_or_default();
            self.raw.entry(key.clone()).or_insert(pinned);
        }
        let pin = store.pin();
        store.note_aside(changed.into_iter().collect(), pin);
        self.pinned = now;
    }

    /// The layer over its pin, and what it must show.
    pub(super) fn over(&self, store: &mut NodeStore) -> (Arc<dyn Pinned>, Rows) {
        let mut expected = self.pinned.clone();
        expected.extend(self.raw.clone());
        expected.retain(|_, row| !row.is_empty());
        (wait(|| store.over_aside()), expected)
    }

    /// The entry that ends it, and all that it makes of the rows that there are `now`, under a context.
    pub(super) fn close(self, store: &mut NodeStore, now: &Rows, context: &VersionVector) -> (Adoption, RowChanges) {
        let merged: Merged = wait(|| store.merged_aside());
        let after = |key: &RowKey| {
            let mine = now.get(key).cloned().unwrap_or_default();
            let theirs = self.raw.get(key).or_else(|| self.pinned.get(key)).cloned().unwrap_or_default();
            Arc::new(mine.merge(context, &theirs, &self.theirs))
        };
        let mut rows = Vec::new();
        for key in &self.changed {
            let raw = store.aside_row(key).expect("readable");
            assert_eq!(raw.as_ref(), self.raw.get(key), "raw rows stay as they were put");
            rows.push((key.clone(), after(key)));
        }
        let all: BTreeMap<&RowKey, ()> = self.raw.keys().chain(&self.changed).map(|key| (key, ())).collect();
        let change = |key: &RowKey| RowChange { key: key.clone(), before: now.get(key).cloned(), after: after(key) };
        let changes = all.into_keys().map(change).collect();
        let layer = Some(merged.layer);
        (Adoption { context: self.theirs.clone(), cursor: VersionVector::new(), rows, layer }, changes)
    }
}

/// Asks until there is an answer.
fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "nothing comes of it");
        std::thread::yield_now();
    }
}
