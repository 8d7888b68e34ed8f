//! A store in memory whose crash loses any part of what was not synced.
//!
//! **What always holds.** M1: `synced` is the state after the durable prefix of the entries, `rows` after all of them.
//! M2: a crash keeps the durable prefix and any number of entries after it, and rebuilds the rest by the same replay
//! that a real store does.

use atoll_crdt::{ActorId, CollectionKey, DataType, ReadError, Row, RowKey, RowSource};
use atoll_replication::{Entry, Position, RecordBytes, Recovered, RowChanges, Store, row_changes};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

type Rows = BTreeMap<RowKey, Arc<Row>>;

/// The store.
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    rows: Rows,
    synced: Rows,
    /// What a restart would find if nothing unsynced survived.
    synced_state: Recovered,
    log: BTreeMap<ActorId, Vec<RecordBytes>>,
    unsynced: VecDeque<(Position, Entry, RowChanges)>,
    last: Position,
    /// Records appended since this was last taken, for the checks.
    appended: Vec<RecordBytes>,
}

fn change(rows: &mut Rows, changes: &RowChanges) {
    for change in changes {
        let replaced = if change.after.is_empty() {
            rows.remove(&change.key)
        } else {
            rows.insert(change.key.clone(), Arc::clone(&change.after))
        };
        assert_eq!(replaced, change.before, "a change says what it replaces");
    }
}

impl MemStore {
    /// Makes everything up to `position` durable.
    pub fn sync_to(&mut self, position: Position) {
        while self.unsynced.front().is_some_and(|(at, _, _)| *at <= position) {
            if let Some((_, entry, changes)) = self.unsynced.pop_front() {
                change(&mut self.synced, &changes);
                self.synced_state.replay(&entry);
            }
        }
    }

    /// The last position appended.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// How many entries a crash may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Crashes, keeping the first `keep` unsynced entries, and gives what a restart finds. M2
    pub fn crash(&mut self, keep: usize) -> Recovered {
        self.rows.clone_from(&self.synced);
        let kept: Vec<_> = self.unsynced.drain(..).take(keep).collect();
        let mut recovered = self.synced_state.clone();
        for records in self.log.values_mut() {
            records.retain(|record| recovered.clocks.cursor.covers(record.dot()));
        }
        for (_, entry, _) in kept {
            if let Entry::Record(bytes) = &entry {
                let record = bytes.decode().expect("what was appended reads back");
                let changes = row_changes(&record, &recovered.clocks.context, self).expect("memory does not fail");
                change(&mut self.rows, &changes);
                self.log.entry(record.dot.actor).or_default().push(bytes.clone());
            }
            recovered.replay(&entry);
        }
        self.synced.clone_from(&self.rows);
        self.synced_state = recovered.clone();
        self.appended.clear();
        recovered
    }

    /// Every row, entries that are not synced included.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<RowKey, Arc<Row>> {
        &self.rows
    }

    /// Every row that readers may see.
    #[must_use]
    pub fn synced_rows(&self) -> &BTreeMap<RowKey, Arc<Row>> {
        &self.synced
    }

    /// Records appended since the last call.
    pub fn take_appended(&mut self) -> Vec<RecordBytes> {
        std::mem::take(&mut self.appended)
    }
}

impl RowSource for MemStore {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.rows.get(key).cloned())
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let from = prefix.max(from);
        for (key, row) in self.rows.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded)) {
            if !key.as_bytes().starts_with(prefix) || !visitor(key, row) {
                break;
            }
        }
        Ok(())
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        debug_assert_eq!(collection.data_type(), DataType::Set);
        let mut count = 0;
        self.visit(collection.as_bytes(), collection.as_bytes(), &mut |_, _| {
            count += 1;
            true
        })?;
        Ok(count)
    }
}

impl Store for MemStore {
    fn append(&mut self, entry: Entry, rows: RowChanges) -> Position {
        self.last = Position(self.last.0 + 1);
        change(&mut self.rows, &rows);
        if let Entry::Record(record) = &entry {
            self.log.entry(record.dot().actor).or_default().push(record.clone());
            self.appended.push(record.clone());
        }
        self.unsynced.push_back((self.last, entry, rows));
        self.last
    }

    fn log(&self, actor: ActorId, from: u64, bytes_max: usize) -> Result<Vec<RecordBytes>, ReadError> {
        let Some(records) = self.log.get(&actor) else { return Ok(Vec::new()) };
        let mut bytes = 0;
        let fits = |record: &&RecordBytes| {
            bytes += record.as_bytes().len();
            bytes <= bytes_max || bytes == record.as_bytes().len()
        };
        Ok(records.iter().skip(from as usize - 1).take_while(fits).cloned().collect())
    }

    fn log_start(&self, actor: ActorId) -> Option<u64> {
        self.log.get(&actor).filter(|records| !records.is_empty()).map(|_| 1)
    }
}
