//! Building a layer of a peer's rows on disk, from the replica thread's side; see [`atoll_replication::Aside`] for what it is for.
//!
//! **How it goes.** The replica thread hands rows, notes and passes over to a thread of their own ([`super::building`]), and asks
//! what has come of them. The closing entry takes the layer that is ready.
//!
//! **What always holds.** J1: the replica thread never waits for the other one's disk: what waits is bounded by the session, which tells
//! the source to go on only when it has gone down. J2: a layer is ready when a pass has ended, everything of it is synced, and the
//! engine holds what is older than its pin.
//!
//! **What is not here.** Adopting a layer ([`super::state`]) and moving it ([`super::flush`]).

use super::aside_rows::{AsideRow, Sums};
use super::building::{Building, ROWS_AT_ONCE, Shared, Staged, Task, lock};
use super::engine::{Engine, failed};
use super::error::{FailureHandler, StoreFailure};
use super::over::Over;
use super::room::Room;
use atoll_crdt::{ReadError, Row, RowKey};
use atoll_replication::sketch::{Change, RowDigest, Sketch};
use atoll_replication::{AsideUse, LayerId, Merged, Pinned, Position, RowChanges, Sides};
use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Tasks that may wait: a session keeps some dozens.
const TASKS_MAX: usize = 4_096;

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

impl AsideBuilder {
    /// Starts the thread; what lies there of other layers than `adopted` is swept.
    pub(super) fn start(
        engine: &Arc<Engine>,
        adopted: Option<LayerId>,
        room: Room,
        on_failure: FailureHandler,
    ) -> io::Result<Self> {
        let (tasks, todo) = sync_channel(TASKS_MAX);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let builder = Building::new(Arc::clone(engine), Arc::clone(&shared), room, adopted);
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

    pub(super) fn begin(&mut self, pin: Arc<dyn Pinned>, sides: Option<Sides>, position: Position) {
        let layer = match self.engine.new_layer() {
            Ok(layer) => layer,
            Err(error) => return self.on_failure.tell(StoreFailure::Rows(error)),
        };
        *lock(&self.shared) = Shared::default();
        self.send(Task::Begin(layer, Arc::clone(&pin), sides));
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

    pub(super) fn merge(&mut self, sides: Sides) {
        let Some(current) = &mut self.current else { return };
        current.passes += 1;
        let pass = current.passes;
        self.send(Task::Merge(pass, sides));
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
                engine.sums_of_damaged(&snapshot, layer, key.as_bytes())?
            }
        };
        engine.index_aside(&mut index, layer, (digests.id(&key), &key), Some(sums));
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
