//! Building a layer of a peer's rows on disk, on a thread of its own; see [`atoll_replication::Aside`] for what it is for.
//!
//! **How it goes.** The replica thread hands rows, notes and passes over; this thread writes them to the row engine's keyspaces for
//! layers ([`super::aside_rows`]), keeps the sketch of the layer over its pin, and in a pass merges and sums up what the merged
//! rows change. A layer that is of no use any more is swept when there is nothing else to do.
//!
//! **What always holds.** J1: the replica thread never waits for this one's disk: what waits is bounded by the session, which tells the
//! source to go on only when it has gone down. J2: a layer is ready when a pass has ended, everything of it is synced, and the engine
//! holds what is older than its pin. J3: what is noted during a pass is for the next one: a pass merges with the pin it began with.
//!
//! J4: what is damaged is never taken for absent: a layer that needs such a row, of the pin or its own, is lost, which the session is
//! told, and dropped. The process goes on; if the row is this node's, the replica finds it among the suspects.
//!
//! **What is not here.** Adopting a layer ([`super::state`]) and moving it ([`super::flush`]).

use super::aside_rows::{AsideRow, MergedRow, StaleEntry, Sums};
use super::engine::{Engine, failed};
use super::error::{FailureHandler, StoreFailure};
use super::over::Over;
use atoll_crdt::{CollectionKey, DataType, ReadError, Row, RowKey, VersionVector};
use atoll_replication::sketch::{Change, RowDigest, Sketch};
use atoll_replication::{AsideUse, LayerId, Merged, Pinned, Position, RowChanges};
use fjall::PersistMode;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Tasks that may wait: a session keeps some dozens.
const TASKS_MAX: usize = 4_096;
/// Rows of a batch of a pass, and entries of one that sweeps.
const ROWS_AT_ONCE: usize = 1_024;

type Staged = Vec<(RowKey, Arc<Row>)>;

enum Task {
    Begin(LayerId, Arc<dyn Pinned>),
    Put(Staged, usize),
    Note(Vec<RowKey>, Arc<dyn Pinned>),
    /// The layer over its pin is wanted, by this number.
    Over(u64),
    /// A pass with its number, this side's context and the peer's.
    Merge(u64, VersionVector, VersionVector),
    /// It is adopted: nothing more is built on it.
    Leave,
    Drop,
}

/// What a pass found out.
#[derive(Debug, Clone)]
struct Ready {
    pass: u64,
    /// Rows in the layer.
    rows: u64,
    /// What the merged rows change, all in all.
    sketch: Arc<Sketch>,
    /// How many more rows hold something by them.
    more: i64,
}

#[derive(Debug, Default)]
struct Shared {
    usage: AsideUse,
    over: Option<(u64, Arc<Sketch>)>,
    ready: Option<Ready>,
}

/// A layer that an entry names, and what it changes beside the rows that the entry itself mentions.
#[derive(Debug)]
pub(super) struct Adopting {
    pub(super) layer: LayerId,
    pub(super) sketch: Sketch,
    pub(super) rows: i64,
    /// Rows of the layer that the entry mentions, and how many more rows each would have made.
    pub(super) shadowed: BTreeMap<RowKey, i64>,
}

/// The layer that is being built.
#[derive(Debug)]
struct Current {
    layer: LayerId,
    pin: Arc<dyn Pinned>,
    /// The last entry that the pin shows.
    position: Position,
    passes: u64,
    /// The number by which the layer over its pin was last asked for, and whether that is still what it will be.
    asked: (u64, bool),
}

/// The replica thread's side.
#[derive(Debug)]
pub(super) struct AsideBuilder {
    engine: Arc<Engine>,
    tasks: Option<SyncSender<Task>>,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
    current: Option<Current>,
    on_failure: FailureHandler,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsideBuilder {
    /// Starts the thread; what lies there of other layers than `adopted` is swept.
    pub(super) fn start(
        engine: &Arc<Engine>,
        adopted: Option<LayerId>,
        on_failure: FailureHandler,
    ) -> io::Result<Self> {
        let (tasks, todo) = sync_channel(TASKS_MAX);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let builder = Building::new(Arc::clone(engine), Arc::clone(&shared), adopted);
        let tell = on_failure.clone();
        let thread = std::thread::Builder::new().name("atoll-aside".into()).spawn(move || {
            if let Err(error) = builder.run(&todo) {
                tell.tell(StoreFailure::Read(error));
            }
        })?;
        let (engine, tasks, thread) = (Arc::clone(engine), Some(tasks), Some(thread));
        Ok(Self { engine, tasks, shared, thread, current: None, on_failure })
    }

    fn send(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // The thread is gone only after a failure, which was told.
            let _ = tasks.send(task);
        }
    }

    pub(super) fn begin(&mut self, pin: Arc<dyn Pinned>, position: Position) {
        let layer = match self.engine.new_layer() {
            Ok(layer) => layer,
            Err(error) => return self.on_failure.tell(StoreFailure::Rows(error)),
        };
        *lock(&self.shared) = Shared::default();
        self.send(Task::Begin(layer, Arc::clone(&pin)));
        self.current = Some(Current { layer, pin, position, passes: 0, asked: (0, false) });
    }

    pub(super) fn put(&mut self, rows: Staged) {
        self.outdate();
        let bytes = rows.iter().map(|(key, row)| key.as_bytes().len() + row.memory_bytes()).sum();
        let mut shared = lock(&self.shared);
        shared.usage.bytes += bytes as u64;
        shared.usage.waiting_bytes += bytes;
        drop(shared);
        self.send(Task::Put(rows, bytes));
    }

    /// What was asked for before is not what is wanted any more.
    fn outdate(&mut self) {
        if let Some(current) = &mut self.current {
            current.asked.1 = false;
        }
    }

    pub(super) fn note(&mut self, changed: Vec<RowKey>, pin: Arc<dyn Pinned>, position: Position) {
        self.outdate();
        self.send(Task::Note(changed, Arc::clone(&pin)));
        if let Some(current) = &mut self.current {
            (current.pin, current.position) = (pin, position);
        }
    }

    /// Asks for the layer over its pin, and gives it when asked again after everything was written.
    pub(super) fn over(&mut self) -> Option<Arc<dyn Pinned>> {
        let current = self.current.as_mut()?;
        if !current.asked.1 {
            current.asked = (current.asked.0 + 1, true);
            let asked = current.asked.0;
            self.send(Task::Over(asked));
            return None;
        }
        let mut shared = lock(&self.shared);
        let (_, sketch) = shared.over.take_if(|(number, _)| *number == current.asked.0)?;
        drop(shared);
        current.asked.1 = false;
        let (pin, engine) = (Arc::clone(&current.pin), Arc::clone(&self.engine));
        Some(Arc::new(Over::new(pin, engine, current.layer, sketch)))
    }

    pub(super) fn merge(&mut self, context: VersionVector, theirs: VersionVector) {
        let Some(current) = &mut self.current else { return };
        current.passes += 1;
        let pass = current.passes;
        self.send(Task::Merge(pass, context, theirs));
    }

    /// The layer, if the last pass has ended, and what is older than this entry must be in the engine. J2
    pub(super) fn merged(&self) -> Option<(Merged, Position)> {
        let current = self.current.as_ref()?;
        let shared = lock(&self.shared);
        let ready = shared.ready.as_ref().filter(|ready| ready.pass == current.passes)?;
        Some((Merged { layer: current.layer, rows: ready.rows }, current.position))
    }

    pub(super) fn raw(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        let Some(current) = &self.current else { return Ok(None) };
        let row = self.engine.aside_row(&self.engine.snapshot(), current.layer, key)?;
        Ok(row.map(|row| row.raw))
    }

    pub(super) fn usage(&self) -> AsideUse {
        lock(&self.shared).usage
    }

    pub(super) fn drop_layer(&mut self) {
        if self.current.take().is_some() {
            *lock(&self.shared) = Shared::default();
            self.send(Task::Drop);
        }
    }

    /// The layer that an entry names, which changes these rows itself.
    pub(super) fn adopt(&mut self, layer: LayerId, rows: &RowChanges) -> Result<Adopting, ReadError> {
        let unknown = || ReadError::Failed(format!("an entry names layer {}, which is not ready", layer.0));
        let ready = lock(&self.shared).ready.take().ok_or_else(unknown)?;
        self.current.take().filter(|current| current.layer == layer).ok_or_else(unknown)?;
        self.send(Task::Leave);
        let (mut sketch, mut more, mut shadowed) = (ready.sketch.as_ref().clone(), ready.more, BTreeMap::new());
        let (snapshot, digests) = (self.engine.snapshot(), &self.engine.digest_key);
        for change in rows {
            if let Some(sums) = self.engine.aside_sums(&snapshot, layer, change.key.as_bytes())? {
                sketch.apply(Change::between(digests.id(&change.key), sums.before, sums.after).negated());
                more -= sums.rows();
                shadowed.insert(change.key.clone(), sums.rows());
            }
        }
        Ok(Adopting { layer, sketch, rows: more, shadowed })
    }
}

impl Drop for AsideBuilder {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What an entry that is replayed makes of its layer, on rows as they were before it. Reads the whole layer.
pub(super) fn readopt(
    engine: &Engine,
    layer: LayerId,
    rows: &RowChanges,
    mut sketch: Sketch,
    before: &dyn atoll_crdt::RowSource,
) -> Result<Adopting, ReadError> {
    if !engine.is_ready(layer).map_err(|error| failed(&error))? {
        return Err(ReadError::Failed(format!(
            "its rows were built aside in the row engine, as layer {}, and are not there",
            layer.0
        )));
    }
    let (mut more, mut shadowed) = (0, BTreeMap::new());
    let digests = &engine.digest_key;
    let mut index = engine.database.batch();
    let snapshot = engine.snapshot();
    for row in engine.aside_rows_from(&snapshot, layer, &[]) {
        let (key, row) = row?;
        // The secret may be another one than when it was built.
        let sums = match row {
            Ok(AsideRow { merged: Some(merged), .. }) => {
                Sums { before: merged.before, after: digests.digest(&key, &merged.after) }
            }
            Ok(_) => return Err(ReadError::Failed(format!("no pass has merged {key:?}"))),
            // It is a hole, once the replica looks at what reads came upon.
            Err(error) => {
                engine.suspects.note(error);
                let unknown = engine.unknown(key.as_bytes());
                let known = engine.aside_sums(&snapshot, layer, key.as_bytes())?;
                known.unwrap_or(Sums { before: unknown, after: unknown })
            }
        };
        engine.index_aside(&mut index, layer, &key, Some(sums));
        if index.len() >= ROWS_AT_ONCE {
            let full = std::mem::replace(&mut index, engine.database.batch());
            full.commit().map_err(|error| failed(&error))?;
        }
        if rows.binary_search_by(|change| change.key.cmp(&key)).is_ok() {
            shadowed.insert(key, sums.rows());
            continue;
        }
        let old = match before.row(&key) {
            Ok(old) => old.map_or(RowDigest::ABSENT, |row| digests.digest(&key, &row)),
            // The layer has another in its place; the sketch has for it what the index says.
            Err(ReadError::Damaged(_)) => engine.digest(&snapshot, None, key.as_bytes())?,
            Err(error) => return Err(error),
        };
        sketch.apply(Change::between(digests.id(&key), old, sums.after));
        more += Sums { before: old, after: sums.after }.rows();
    }
    index.commit().map_err(|error| failed(&error))?;
    Ok(Adopting { layer, sketch, rows: more, shadowed })
}

/// The layer, as its thread knows it.
struct Layer {
    number: LayerId,
    pin: Arc<dyn Pinned>,
    /// Of the layer over its pin.
    over: Sketch,
    rows: u64,
    /// Whether a pass has ended.
    merged: bool,
    /// What the merged rows change.
    changes: Arc<Sketch>,
    more: i64,
}

/// The thread's own.
struct Building {
    engine: Arc<Engine>,
    shared: Arc<Mutex<Shared>>,
    layer: Option<Layer>,
    /// The layer that is not to be swept.
    kept: Option<LayerId>,
    sweep: Option<Box<dyn Iterator<Item = StaleEntry> + Send>>,
}

impl Building {
    fn new(engine: Arc<Engine>, shared: Arc<Mutex<Shared>>, adopted: Option<LayerId>) -> Self {
        let sweep = Some(engine.stale_aside(adopted));
        Self { engine, shared, layer: None, kept: adopted, sweep }
    }

    fn run(mut self, todo: &Receiver<Task>) -> Result<(), ReadError> {
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

    /// J4
    fn lose(&mut self, key: &RowKey) {
        tracing::warn!(row = ?key, "a layer of rows that is built aside needs a row that is damaged, and is dropped");
        self.layer = None;
        let mut shared = lock(&self.shared);
        shared.ready = None;
        shared.over = None;
        shared.usage.is_lost = true;
    }

    fn task(&mut self, task: Task, todo: &Receiver<Task>) -> Result<(), ReadError> {
        match task {
            Task::Begin(layer, pin) => {
                lock(&self.shared).usage.is_lost = false;
                self.begin(layer, pin);
            }
            Task::Put(rows, bytes) => {
                self.put(rows)?;
                let mut shared = lock(&self.shared);
                shared.usage.waiting_bytes = shared.usage.waiting_bytes.saturating_sub(bytes);
            }
            Task::Note(changed, pin) => self.note(&changed, pin)?,
            Task::Over(number) => {
                if let Some(layer) = &self.layer {
                    lock(&self.shared).over = Some((number, Arc::new(layer.over.clone())));
                }
            }
            Task::Merge(pass, context, theirs) => self.merge(pass, &context, &theirs, todo)?,
            Task::Leave => self.layer = None,
            Task::Drop => {
                (self.layer, self.kept) = (None, None);
                self.sweep = Some(self.engine.stale_aside(None));
            }
        }
        Ok(())
    }

    fn begin(&mut self, number: LayerId, pin: Arc<dyn Pinned>) {
        self.kept = Some(number);
        self.sweep = Some(self.engine.stale_aside(self.kept));
        let over = pin.sketch().clone();
        let changes = Arc::new(Sketch::new(over.leaves().bits(), over.prefix().cells().len()));
        self.layer = Some(Layer { number, pin, over, rows: 0, merged: false, changes, more: 0 });
    }

    fn put(&mut self, rows: Staged) -> Result<(), ReadError> {
        let Some(layer) = &mut self.layer else { return Ok(()) };
        let (snapshot, digests) = (self.engine.snapshot(), &self.engine.digest_key);
        let mut batch = self.engine.database.batch();
        // A peer may name a row twice.
        let rows: BTreeMap<RowKey, Arc<Row>> = rows.into_iter().collect();
        for (key, raw) in rows {
            let known = self.engine.aside_row(&snapshot, layer.number, &key)?;
            layer.rows += u64::from(known.is_none());
            let shown = match known {
                Some(known) => known.raw,
                None => layer.pin.row(&key)?.unwrap_or_default(),
            };
            let (old, new) = (digests.digest(&key, &shown), digests.digest(&key, &raw));
            layer.over.apply(Change::between(digests.id(&key), old, new));
            self.engine.put_aside(&mut batch, layer.number, &key, &AsideRow { raw, merged: None });
        }
        batch.commit().map_err(|error| failed(&error))
    }

    fn note(&mut self, changed: &[RowKey], pin: Arc<dyn Pinned>) -> Result<(), ReadError> {
        let Some(layer) = &mut self.layer else { return Ok(()) };
        for keys in changed.chunks(ROWS_AT_ONCE) {
            let snapshot = self.engine.snapshot();
            let mut batch = self.engine.database.batch();
            for key in keys {
                if self.engine.aside_row(&snapshot, layer.number, key)?.is_none() {
                    let raw = layer.pin.row(key)?.unwrap_or_default();
                    self.engine.put_aside(&mut batch, layer.number, key, &AsideRow { raw, merged: None });
                    layer.rows += 1;
                }
                self.engine.mark_dirty(&mut batch, layer.number, key);
            }
            batch.commit().map_err(|error| failed(&error))?;
        }
        layer.pin = pin;
        Ok(())
    }

    /// A pass. What is told meanwhile is done between two batches, so that it does not gather. J3
    fn merge(
        &mut self,
        pass: u64,
        context: &VersionVector,
        theirs: &VersionVector,
        todo: &Receiver<Task>,
    ) -> Result<(), ReadError> {
        let Some(layer) = &self.layer else { return Ok(()) };
        let (number, pin, is_first) = (layer.number, Arc::clone(&layer.pin), !layer.merged);
        let snapshot = self.engine.snapshot();
        let mut keys = self.engine.keys_to_merge(&snapshot, number, is_first);
        loop {
            let some: Vec<RowKey> = keys.by_ref().take(ROWS_AT_ONCE).collect::<Result<_, _>>()?;
            if some.is_empty() {
                break;
            }
            self.merge_some(some, &pin, context, theirs)?;
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
        let Some(layer) = &mut self.layer else { return Ok(()) };
        layer.merged = true;
        let mut batch = self.engine.database.batch();
        self.engine.make_ready(&mut batch, number);
        batch
            .commit()
            .and_then(|()| self.engine.database.persist(PersistMode::SyncAll))
            .map_err(|error| failed(&error))?;
        let ready = Ready { pass, rows: layer.rows, sketch: Arc::clone(&layer.changes), more: layer.more };
        lock(&self.shared).ready = Some(ready);
        Ok(())
    }

    fn merge_some(
        &mut self,
        keys: Vec<RowKey>,
        pin: &Arc<dyn Pinned>,
        context: &VersionVector,
        theirs: &VersionVector,
    ) -> Result<(), ReadError> {
        let Some(layer) = &mut self.layer else { return Ok(()) };
        let (snapshot, digests) = (self.engine.snapshot(), &self.engine.digest_key);
        let mut batch = self.engine.database.batch();
        let mut counts: BTreeMap<CollectionKey, i64> = BTreeMap::new();
        let changes = Arc::make_mut(&mut layer.changes);
        let unique: BTreeSet<RowKey> = keys.into_iter().collect();
        for key in unique {
            let Some(row) = self.engine.aside_row(&snapshot, layer.number, &key)? else { continue };
            let mine = pin.row(&key)?.unwrap_or_default();
            let id = digests.id(&key);
            let after = Arc::new(mine.merge(context, &row.raw, theirs));
            let merged = MergedRow { before: digests.digest(&key, &mine), after };
            let sums = merged.sums(digests, &key);
            let mut more = sums.rows();
            changes.apply(Change::between(id, sums.before, sums.after));
            if let Some(old) = row.merged.map(|old| old.sums(digests, &key)) {
                more -= old.rows();
                changes.apply(Change::between(id, old.before, old.after).negated());
            }
            layer.more += more;
            let collection = key.collection();
            if more != 0 && collection.data_type() == DataType::Set {
                *counts.entry(collection).or_default() += more;
            }
            let row = AsideRow { raw: row.raw, merged: Some(merged) };
            self.engine.put_merged(&mut batch, layer.number, &key, &row);
        }
        for (collection, change) in counts.into_iter().filter(|(_, change)| *change != 0) {
            self.engine.add_aside_count(&mut batch, layer.number, &collection, change)?;
        }
        batch.commit().map_err(|error| failed(&error))
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
