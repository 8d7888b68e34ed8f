//! Tests of the whole store, on real directories.

mod backup;
mod bounds;
mod clearing;
mod commits;
mod damage;
mod disk;
mod doctor;
mod layered;
mod model;
mod recovery;
mod truncation;
mod views;

use super::{NodeStore, OpenError, Opened, Retention, StoreConfig, StoreFailure, SyncMode};
use atoll_crdt::{
    ActorId, ClearOp, CollectionKey, DataType, Dot, Draft, Hlc, Op, ReadError, Row, RowKey, RowSource, VersionVector,
    sets,
};
use atoll_replication::sketch::{Change, DigestKey, RowDigest, Sketch};
use atoll_replication::{
    Adoption, Entry, Position, Record, Recovered, RowChange, RowChanges, Start, Store, replayed_changes, row_changes,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// Longer than any disk takes: a wait that reaches it is a failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) type Rows = BTreeMap<RowKey, Arc<Row>>;

/// Small sizes, so that everything happens that takes a million rows otherwise.
pub(super) fn small(dir: &Path) -> StoreConfig {
    StoreConfig {
        cluster: String::new(),
        dir: dir.into(),
        cache_bytes: 1 << 20,
        memtable_bytes: 4 << 10,
        segment_bytes: 4 << 10,
        tail_bytes: 2 << 10,
        sync: SyncMode::Always,
        checkpoint_every: Duration::from_secs(3_600),
        retain: Retention { min: Duration::ZERO, max: Duration::from_secs(3_600), max_bytes: u64::MAX },
        scrub_every: None,
        digest_key: DigestKey::derive(b"test"),
        reserve_bytes: 0,
        sketch_rows_min: 0,
        sketch_cells: 0,
    }
}

/// A set of the tests.
pub(super) fn set(name: &str) -> CollectionKey {
    CollectionKey::new("shop", DataType::Set, name).expect("a valid key")
}

/// A store with a writer in front, as a replica would be one.
pub(super) struct Fixture {
    pub(super) opened: Opened,
    pub(super) actor: ActorId,
    pub(super) context: VersionVector,
    synced: Receiver<Position>,
}

impl Fixture {
    /// Opens a store and begins to write as `actor`.
    pub(super) fn open(config: StoreConfig, actor: u64) -> Result<Self, OpenError> {
        Self::open_telling(config, actor, |failure| panic!("the disk works in this test: {failure}"))
    }

    /// The same on a disk that may fail.
    pub(super) fn open_telling(
        config: StoreConfig,
        actor: u64,
        on_failure: impl Fn(StoreFailure) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (to_synced, synced) = sync_channel(1 << 16);
        let opened = NodeStore::open(
            config,
            move |position| {
                let _ = to_synced.try_send(position);
            },
            on_failure,
        )?;
        let context = opened.recovered.clocks.context.clone();
        Ok(Self { opened, actor: ActorId::new(actor), context, synced })
    }

    pub(super) fn store(&mut self) -> &mut NodeStore {
        &mut self.opened.store
    }

    pub(super) fn recovered(&self) -> &Recovered {
        &self.opened.recovered
    }

    /// Appends the entry of a process that begins.
    pub(super) fn start(&mut self) -> Position {
        let start = Start { actor: self.actor, ceiling: Hlc::at_ms(self.actor.get()), founded_ms: Some(1) };
        self.store().append(Entry::Start(start), Vec::new())
    }

    /// Appends a record of what `write` drafts; gives its place and what it made of rows.
    pub(super) fn write(
        &mut self,
        write: impl FnOnce(&mut Draft<'_>) -> Result<(), ReadError>,
    ) -> (Position, RowChanges) {
        let dot = Dot::new(self.actor, self.context.get(self.actor) + 1);
        let mut draft = Draft::new(&self.opened.store, dot, Hlc::at_ms(1), &self.context, None);
        write(&mut draft).expect("rows are readable");
        let ops = draft.into_ops();
        let record = Record { dot, at: Hlc::at_ms(1), deps: VersionVector::new(), ops };
        let rows = row_changes(&record, &self.context, &self.opened.store).expect("rows are readable");
        self.context.include(dot);
        (self.store().append(Entry::Record(record.encode()), rows.clone()), rows)
    }

    /// Appends a record that deletes a set and leaves its rows to be removed in steps, all but those of the actor's last
    /// `unseen` records, which it has not seen; gives what it makes of rows as they are read.
    pub(super) fn clear_later(&mut self, set: &CollectionKey, unseen: u64, is_known: bool) -> RowChanges {
        let last = self.context.get(self.actor);
        let others = self.context.iter().filter(|dot| dot.actor != self.actor);
        let own = Dot::new(self.actor, last.saturating_sub(unseen));
        let seen = others.chain([own]).collect::<VersionVector>();
        let op = ClearOp { prefix: set.as_bytes().into(), context: seen };
        let dot = Dot::new(self.actor, last + 1);
        let (at, deps) = (Hlc::at_ms(1), VersionVector::new());
        let record = Record { dot, at, deps, ops: vec![Op::Clear(op)] };
        let store = &self.opened.store;
        let all = row_changes(&record, &self.context, store).expect("rows are readable");
        let (mut changes, holes) = replayed_changes(&record, &self.context, store, 0).expect("rows are readable");
        assert!(holes.is_empty());
        let before = store.live_rows(set).expect("readable");
        for clear in changes.clears.iter_mut().filter(|_| is_known) {
            clear.live = before.checked_add_signed(all.iter().map(RowChange::rows).sum());
        }
        self.context.include(dot);
        self.store().append_clearing(Entry::Record(record.encode()), changes.rows, changes.clears);
        all
    }

    /// Appends the end of a reconciliation; gives what it made of rows.
    pub(super) fn adopt(&mut self, adoption: Adoption) -> RowChanges {
        let rows = adoption.row_changes(&self.opened.store).expect("rows are readable");
        self.context.join(&adoption.context);
        self.store().append(Entry::Adopt(Arc::new(adoption)), rows.clone());
        rows
    }

    /// Adds a member to a set.
    pub(super) fn add(&mut self, set: &CollectionKey, member: &str) -> Position {
        let member = set.member(member).expect("a valid member");
        self.write(|draft| sets::add(draft, &member)).0
    }

    /// Hands what was appended to the commit thread.
    pub(super) fn submit(&mut self) -> Option<Position> {
        let group = self.opened.store.take_group()?;
        let last = group.last();
        self.opened.commits.submit(group);
        Some(last)
    }

    /// Waits until `position` is reported.
    pub(super) fn wait_for(&mut self, position: Position) {
        while self.synced.recv_timeout(PATIENCE).expect("the commit thread reports") < position {}
    }

    /// Makes everything durable and visible.
    pub(super) fn commit(&mut self) -> Position {
        let last = self.submit().unwrap_or_else(|| self.opened.store.last());
        if last > Position(self.opened.store.stats().position()) {
            self.wait_for(last);
        }
        self.opened.store.publish(last);
        last
    }
}

/// Every row that a source shows.
pub(super) fn rows(source: &dyn RowSource) -> Rows {
    let mut found = Rows::new();
    let visit = source.visit(b"", b"", &mut |key, row| {
        assert!(!row.is_empty(), "an empty row is no row");
        assert!(found.last_key_value().is_none_or(|(last, _)| last < key), "rows come in order");
        found.insert(key.clone(), Arc::clone(row));
        true
    });
    visit.expect("rows are readable");
    found
}

/// The sketch of rows, made of nothing but them.
pub(super) fn sketch(key: &DigestKey, rows: &Rows) -> Sketch {
    let mut sketch = Sketch::new(0, 0);
    for (at, row) in rows {
        sketch.apply(Change::between(key.id(at), RowDigest::ABSENT, key.digest(at, row)));
    }
    sketch
}

/// Copies a data directory as a crash would leave it.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for item in std::fs::read_dir(from).expect("listed") {
        let path = item.expect("listed").path();
        let target = to.join(path.file_name().expect("named"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}
