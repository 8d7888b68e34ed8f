//! The thread that builds a layer of a peer's rows on disk; the replica thread's side is [`super::aside`].
//!
//! **How it goes.** It writes what it is handed to the row engine's keyspaces for layers ([`super::aside_rows`]), keeps the sketch of the
//! layer over its pin, and another of what its merged rows change. Where the peer's context is known from the beginning, a
//! row is merged when it is put, with the pin of the beginning, so that it is written once; a pass then merges only what was noted.
//! A layer that is of no use any more is swept when there is nothing else to do.
//!
//! **What always holds.** L1: what is noted during a pass is for the next one: a pass merges with the pin it began with, and
//! takes back only the marks that were made for it. L2: the sketch of changes is the sum over all merged rows of what they
//! are after less what they were at the pin that they were merged with. L3: what is damaged is never taken for absent: a layer
//! that needs such a row, of a pin or its own, is lost, which the session is told, and dropped. The process goes on; if the row is
//! this node's, the replica finds it among the suspects. L4: a layer never takes the room that the node needs for its own writes
//! and for moving the layer: where that is all that is left, the layer is dropped, and the session told.
//!
//! **What is not here.** Adopting a layer ([`super::state`]) and moving it ([`super::flush`]).

use super::aside_rows::{AsideRow, MergedRow, StaleEntry, Sums};
use super::engine::{Engine, failed};
use super::room::Room;
use atoll_crdt::{CollectionKey, DataType, ReadError, Row, RowKey, VersionVector};
use atoll_replication::sketch::{Change, DigestKey, RowDigest, RowId, Sketch};
use atoll_replication::{AsideUse, LayerId, Pinned, Sides};
use fjall::{OwnedWriteBatch, PersistMode, Snapshot};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows of a batch of a pass, and entries of one that sweeps.
pub(super) const ROWS_AT_ONCE: usize = 1_024;

pub(super) type Staged = Vec<(RowKey, Arc<Row>)>;

/// What the thread is to do.
pub(super) enum Task {
    /// An empty layer over a pin; what is put is merged with that under these contexts.
    Begin(LayerId, Arc<dyn Pinned>, Option<Sides>),
    Put(Staged, usize),
    Note(Vec<RowKey>, Arc<dyn Pinned>),
    /// The layer over its pin is wanted, by this number.
    Over(u64),
    /// A pass with its number.
    Merge(u64, Sides),
    /// It is adopted: nothing more is built on it.
    Leave,
    Drop,
}

/// What a pass found out.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) pass: u64,
    /// Rows in the layer.
    pub(super) rows: u64,
    /// What the merged rows change, all in all.
    pub(super) sketch: Arc<Sketch>,
    /// How many more rows hold something by them.
    pub(super) more: i64,
}

/// What the two threads tell each other beside tasks.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) usage: AsideUse,
    pub(super) over: Option<(u64, Arc<Sketch>)>,
    pub(super) ready: Option<Ready>,
}

pub(super) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The layer, as its thread knows it.
struct Layer {
    number: LayerId,
    pin: Arc<dyn Pinned>,
    /// What is put is merged with the rows of this pin, under these contexts.
    at_once: Option<(Arc<dyn Pinned>, Sides)>,
    /// The context of the peer under which every row is merged that is not marked.
    merged_under: Option<VersionVector>,
    /// The number of the pass that merges what is noted now.
    next_pass: u64,
    keys: Keys,
    /// Of the layer over its pin.
    over: Sketch,
    /// What the merged rows change. L2
    changes: Arc<Sketch>,
    more: i64,
}

/// Which rows are in the layer.
#[derive(Default)]
struct Keys {
    rows: u64,
    /// The last one; who comes in order, as all of a peer's rows do, need not be looked for.
    last: Option<RowKey>,
}

impl Keys {
    /// The row as the layer has it.
    fn row(
        &self,
        (engine, snapshot): (&Engine, &Snapshot),
        layer: LayerId,
        key: &RowKey,
    ) -> Result<Option<AsideRow>, ReadError> {
        if self.last.as_ref().is_some_and(|last| key <= last) {
            engine.aside_row(snapshot, layer, key)
        } else {
            Ok(None)
        }
    }

    /// Another row is in the layer.
    fn add(&mut self, key: &RowKey) {
        self.rows += 1;
        if self.last.as_ref().is_none_or(|last| key > last) {
            self.last = Some(key.clone());
        }
    }
}

/// What a batch changes in counts of sets.
type Counts = BTreeMap<CollectionKey, i64>;

/// What the merged rows of a batch change. L2
struct Tally<'a> {
    digests: &'a DigestKey,
    changes: &'a mut Sketch,
    more: &'a mut i64,
    counts: Counts,
}

impl Tally<'_> {
    /// A row is merged now, or was.
    fn add(&mut self, key: &RowKey, id: RowId, sums: Sums, is_merged: bool) {
        let change = Change::between(id, sums.before, sums.after);
        self.changes.apply(if is_merged { change } else { change.negated() });
        let more = if is_merged { sums.rows() } else { -sums.rows() };
        *self.more += more;
        let collection = (more != 0).then(|| key.collection());
        if let Some(collection) = collection.filter(|collection| collection.data_type() == DataType::Set) {
            *self.counts.entry(collection).or_default() += more;
        }
    }

    /// Takes back what a row has changed until now.
    fn take_back(&mut self, key: &RowKey, id: RowId, row: Option<&AsideRow>) {
        if let Some(merged) = row.and_then(|row| row.merged.as_ref()) {
            self.add(key, id, merged.sums(self.digests, key), false);
        }
    }

    /// Merges a row. `raw_digest` is that of the raw one, if it is known.
    fn merge(
        &mut self,
        (key, id): (&RowKey, RowId),
        (mine, raw): (&Row, &Arc<Row>),
        sides: &Sides,
        raw_digest: Option<RowDigest>,
    ) -> (MergedRow, Sums) {
        let after = mine.merge(&sides.ours, raw, &sides.theirs);
        let (after, known) = if after == **raw { (Arc::clone(raw), raw_digest) } else { (Arc::new(after), None) };
        let before = self.digests.digest(key, mine);
        let sums = Sums { before, after: known.unwrap_or_else(|| self.digests.digest(key, &after)) };
        self.add(key, id, sums, true);
        (MergedRow { before, after }, sums)
    }
}

/// The thread's own.
pub(super) struct Building {
    engine: Arc<Engine>,
    shared: Arc<Mutex<Shared>>,
    room: Room,
    layer: Option<Layer>,
    /// The layer that is not to be swept.
    kept: Option<LayerId>,
    sweep: Option<Box<dyn Iterator<Item = StaleEntry> + Send>>,
}

impl Building {
    pub(super) fn new(engine: Arc<Engine>, shared: Arc<Mutex<Shared>>, room: Room, adopted: Option<LayerId>) -> Self {
        let sweep = Some(engine.stale_aside(adopted));
        Self { engine, shared, room, layer: None, kept: adopted, sweep }
    }

    /// Does tasks until there is nobody to give any.
    ///
    /// # Errors
    /// The storage failed: the process must end.
    pub(super) fn run(mut self, todo: &Receiver<Task>) -> Result<(), ReadError> {
        loop {
            let task = match self.sweep.is_some() {
                true => match todo.try_recv() {
                    Ok(task) => task,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                    Err(TryRecvError::Empty) => {
                        self.sweep_some()?;
                        continue;
                    }
                },
                false => match todo.recv() {
                    Ok(task) => task,
                    Err(_) => return Ok(()),
                },
            };
            match self.task(task, todo) {
                Err(ReadError::Damaged(key)) => self.lose(&key),
                done => done?,
            }
        }
    }

    /// L3
    fn lose(&mut self, key: &RowKey) {
        tracing::warn!(row = ?key, "a layer of rows that is built aside needs a row that is damaged, and is dropped");
        self.leave_off().usage.is_lost = true;
    }

    /// L4
    fn has_room(&mut self, bytes: usize) -> Result<bool, ReadError> {
        let Some(short) = self.room.short_of(bytes as u64)? else { return Ok(true) };
        tracing::warn!(
            available_bytes = short.available,
            needed_bytes = short.needed,
            "the disk has no room for the rows of a peer beside what the node needs itself: they are dropped"
        );
        self.leave_off().usage.is_full = true;
        self.kept = None;
        self.sweep = Some(self.engine.stale_aside(None));
        Ok(false)
    }

    /// Nothing more is built on the layer.
    fn leave_off(&mut self) -> MutexGuard<'_, Shared> {
        self.layer = None;
        let mut shared = lock(&self.shared);
        (shared.ready, shared.over) = (None, None);
        shared
    }

    fn task(&mut self, task: Task, todo: &Receiver<Task>) -> Result<(), ReadError> {
        match task {
            Task::Begin(layer, pin, sides) => {
                self.begin(layer, pin, sides);
                let mut shared = lock(&self.shared);
                (shared.usage.is_lost, shared.usage.is_full) = (false, false);
            }
            Task::Put(rows, bytes) => {
                self.put(rows, bytes)?;
                let mut shared = lock(&self.shared);
                shared.usage.waiting_bytes = shared.usage.waiting_bytes.saturating_sub(bytes);
            }
            Task::Note(changed, pin) => self.note(&changed, pin)?,
            Task::Over(number) => {
                if let Some(layer) = &mut self.layer {
                    // Whoever goes on with it may be told another context.
                    (layer.at_once, layer.merged_under) = (None, None);
                    lock(&self.shared).over = Some((number, Arc::new(layer.over.clone())));
                }
            }
            Task::Merge(pass, sides) => self.merge(pass, sides, todo)?,
            Task::Leave => self.layer = None,
            Task::Drop => {
                (self.layer, self.kept) = (None, None);
                self.sweep = Some(self.engine.stale_aside(None));
            }
        }
        Ok(())
    }

    fn begin(&mut self, number: LayerId, pin: Arc<dyn Pinned>, sides: Option<Sides>) {
        self.kept = Some(number);
        self.sweep = Some(self.engine.stale_aside(self.kept));
        self.room.begin();
        let over = pin.sketch().clone();
        let changes = Arc::new(Sketch::new(over.leaves().bits(), over.prefix().cells().len()));
        let merged_under = sides.as_ref().map(|sides| sides.theirs.clone());
        let at_once = sides.map(|sides| (Arc::clone(&pin), sides));
        let (keys, next_pass, more) = (Keys::default(), 0, 0);
        self.layer = Some(Layer { number, pin, at_once, merged_under, next_pass, keys, over, changes, more });
    }

    fn put(&mut self, rows: Staged, bytes: usize) -> Result<(), ReadError> {
        if self.layer.is_none() || !self.has_room(bytes)? {
            return Ok(());
        }
        let Some(layer) = &mut self.layer else { return Ok(()) };
        let (engine, snapshot, digests) = (&self.engine, self.engine.snapshot(), &self.engine.digest_key);
        let mut batch = OwnedWriteBatch::with_capacity(engine.database.clone(), rows.len() * 2);
        // A peer may name a row twice.
        let rows: BTreeMap<RowKey, Arc<Row>> = rows.into_iter().collect();
        let Layer { number, pin, at_once, keys, over, changes, more, .. } = layer;
        let mut tally = Tally { digests, changes: Arc::make_mut(changes), more, counts: Counts::new() };
        for (key, raw) in rows {
            let id = digests.id(&key);
            let known = keys.row((engine, &snapshot), *number, &key)?;
            tally.take_back(&key, id, known.as_ref());
            let is_new = known.is_none();
            let shown = match known {
                Some(known) => known.raw,
                None => pin.row(&key)?.unwrap_or_default(),
            };
            let (old, new) = (digests.digest(&key, &shown), digests.digest(&key, &raw));
            over.apply(Change::between(id, old, new));
            let merged = match at_once {
                None => None,
                Some((pinned, _)) if is_new && Arc::ptr_eq(pinned, pin) => Some(shown),
                Some((pinned, _)) => Some(pinned.row(&key)?.unwrap_or_default()),
            };
            let merged = merged.zip(at_once.as_ref());
            let merged = merged.map(|(mine, (_, sides))| tally.merge((&key, id), (&mine, &raw), sides, Some(new)));
            let (merged, sums) = merged.unzip();
            if is_new {
                keys.add(&key);
            }
            engine.put_aside(&mut batch, *number, (id, &key), &AsideRow { raw, merged }, sums);
        }
        let counts = tally.counts;
        add_counts(engine, &mut batch, *number, counts)?;
        batch.commit().map_err(|error| failed(&error))
    }

    fn note(&mut self, changed: &[RowKey], pin: Arc<dyn Pinned>) -> Result<(), ReadError> {
        let Some(layer) = &mut self.layer else { return Ok(()) };
        let (engine, digests) = (&self.engine, &self.engine.digest_key);
        for keys in changed.chunks(ROWS_AT_ONCE) {
            let snapshot = engine.snapshot();
            let mut batch = engine.database.batch();
            for key in keys {
                if layer.keys.row((engine, &snapshot), layer.number, key)?.is_none() {
                    let raw = layer.pin.row(key)?.unwrap_or_default();
                    let row = AsideRow { raw, merged: None };
                    engine.put_aside(&mut batch, layer.number, (digests.id(key), key), &row, None);
                    layer.keys.add(key);
                }
                engine.mark_dirty(&mut batch, layer.number, layer.next_pass, key);
            }
            batch.commit().map_err(|error| failed(&error))?;
        }
        layer.pin = pin;
        Ok(())
    }

    /// A pass. What is told meanwhile is done between two batches, so that it does not gather. L1
    fn merge(&mut self, pass: u64, sides: Sides, todo: &Receiver<Task>) -> Result<(), ReadError> {
        let Some(layer) = &mut self.layer else { return Ok(()) };
        let (number, pin, marked_for) = (layer.number, Arc::clone(&layer.pin), layer.next_pass);
        layer.next_pass += 1;
        let snapshot = self.engine.snapshot();
        let mut rows: Box<dyn Iterator<Item = Read>> = if layer.merged_under.as_ref() == Some(&sides.theirs) {
            let (engine, snapshot) = (Arc::clone(&self.engine), snapshot.clone());
            let marked = engine.dirty_keys(&snapshot, number, marked_for);
            Box::new(marked.map(move |key| {
                let key = key?;
                let row = engine.aside_row(&snapshot, number, &key)?;
                let row = row.ok_or_else(|| ReadError::Failed(format!("{key:?} was noted, and is in no layer")))?;
                Ok((key, row))
            }))
        } else {
            Box::new(
                self.engine
                    .aside_rows_from(&snapshot, number, &[])
                    .map(|row| row.and_then(|(key, row)| Ok((key, row?)))),
            )
        };
        loop {
            let some: Vec<_> = rows.by_ref().take(ROWS_AT_ONCE).collect::<Result<_, _>>()?;
            if some.is_empty() {
                break;
            }
            self.merge_some(some, &*pin, &sides)?;
            loop {
                match todo.try_recv() {
                    Ok(task) => self.task(task, todo)?,
                    Err(TryRecvError::Empty) => break,
                    // The process ends.
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            if self.layer.as_ref().is_none_or(|layer| layer.number != number) {
                return Ok(());
            }
        }
        self.unmark(number, marked_for)?;
        self.passed(pass, sides.theirs)
    }

    /// Rows as the layer had them when the pass began: nothing but a pass changes them meanwhile.
    fn merge_some(&mut self, rows: Vec<(RowKey, AsideRow)>, pin: &dyn Pinned, sides: &Sides) -> Result<(), ReadError> {
        // Each is written once more.
        let bytes = rows.iter().map(|(key, row)| key.as_bytes().len() + row.raw.memory_bytes()).sum();
        if !self.has_room(bytes)? {
            return Ok(());
        }
        let Some(layer) = &mut self.layer else { return Ok(()) };
        let (engine, digests, number) = (&self.engine, &self.engine.digest_key, layer.number);
        let mut batch = OwnedWriteBatch::with_capacity(engine.database.clone(), rows.len() * 2);
        let changes = Arc::make_mut(&mut layer.changes);
        let mut tally = Tally { digests, changes, more: &mut layer.more, counts: Counts::new() };
        for (key, row) in rows {
            let id = digests.id(&key);
            tally.take_back(&key, id, Some(&row));
            let mine = pin.row(&key)?.unwrap_or_default();
            let (merged, sums) = tally.merge((&key, id), (&mine, &row.raw), sides, None);
            let row = AsideRow { raw: row.raw, merged: Some(merged) };
            engine.put_aside(&mut batch, number, (id, &key), &row, Some(sums));
        }
        let counts = tally.counts;
        add_counts(engine, &mut batch, number, counts)?;
        batch.commit().map_err(|error| failed(&error))
    }

    /// A pass has done what was marked for it.
    fn unmark(&self, layer: LayerId, pass: u64) -> Result<(), ReadError> {
        let mut marked = self.engine.dirty_keys(&self.engine.snapshot(), layer, pass).peekable();
        while marked.peek().is_some() {
            let mut batch = self.engine.database.batch();
            for key in marked.by_ref().take(ROWS_AT_ONCE) {
                self.engine.unmark_dirty(&mut batch, layer, pass, &key?);
            }
            batch.commit().map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// A pass has ended: the layer is synced, and ready.
    fn passed(&mut self, pass: u64, theirs: VersionVector) -> Result<(), ReadError> {
        let Some(layer) = &mut self.layer else { return Ok(()) };
        layer.merged_under = Some(theirs);
        let mut batch = self.engine.database.batch();
        self.engine.make_ready(&mut batch, layer.number);
        let synced = batch.commit().and_then(|()| self.engine.database.persist(PersistMode::SyncAll));
        synced.map_err(|error| failed(&error))?;
        let sketch = Arc::clone(&layer.changes);
        lock(&self.shared).ready = Some(Ready { pass, rows: layer.keys.rows, sketch, more: layer.more });
        Ok(())
    }

    fn sweep_some(&mut self) -> Result<(), ReadError> {
        let Some(sweep) = &mut self.sweep else { return Ok(()) };
        let stale: Vec<_> = sweep.by_ref().take(ROWS_AT_ONCE).collect::<Result<_, _>>()?;
        if stale.is_empty() {
            self.sweep = None;
        }
        self.engine.remove_aside(stale).map_err(|error| failed(&error))
    }
}

/// A row that a pass merges.
type Read = Result<(RowKey, AsideRow), ReadError>;

/// Adds to what a layer adds to counts.
fn add_counts(engine: &Engine, batch: &mut OwnedWriteBatch, layer: LayerId, counts: Counts) -> Result<(), ReadError> {
    for (collection, change) in counts.into_iter().filter(|(_, change)| *change != 0) {
        engine.add_aside_count(batch, layer, &collection, change)?;
    }
    Ok(())
}
