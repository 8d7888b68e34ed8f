//! The store of a node: what the replica thread owns, and what it hands to readers and to the disk.

use super::aside::AsideBuilder;
use super::backup::BackupSource;
use super::cache::RowCache;
use super::checkpoint::Checkpoint;
use super::commit::{CommitQueue, Committer, Durable};
use super::config::{Retention, StoreConfig};
use super::digests::{Digests, SketchSize};
use super::directory::Directory;
use super::engine::{Engine, HoleDigests};
use super::error::{FailureHandler, OpenError, StoreFailure};
use super::flush::Flusher;
use super::group::Group;
use super::journal::Journal;
use super::layers::Base;
use super::preparer::Preparer;
use super::replay::{Replayed, replay};
use super::retention::Horizon;
use super::room::Room;
use super::salvage;
use super::scrub::{ScrubCounts, Scrubber};
use super::sketch_file;
use super::state::{CheckpointRule, State};
use super::view::Views;
use atoll_crdt::{ActorId, CollectionKey, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::sketch::Cell;
use atoll_replication::sketch::Sketch;
use atoll_replication::{
    Aside, AsideUse, Changes, Cleared, Entry, Holes, Merged, Pinned, Position, RecordBytes, Recovered, RowChanges,
    Sides, Store,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of a segment: offsets in it are stored in 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Below this a segment would be mostly rolling over.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Segments that a log of the largest size consists of, at least.
const SEGMENTS_OF_LOG: u64 = 8;

/// What opening gives.
#[derive(Debug)]
pub struct Opened {
    /// For the replica thread.
    pub store: NodeStore,
    /// What the replica starts from.
    pub recovered: Recovered,
    /// For readers.
    pub views: Arc<Views>,
    /// For what the replica thread appended.
    pub commits: CommitQueue,
}

/// What publishing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// A row whose namespace begins with `_`.
    pub changed_system: bool,
}

/// Sizes that any thread may read, as of the last publish.
#[derive(Debug, Default)]
pub struct StoreStats {
    memtable_bytes: AtomicU64,
    tail_bytes: AtomicU64,
    row_cache_bytes: AtomicU64,
    checkpoint: AtomicU64,
    position: AtomicU64,
    cut_bytes: AtomicU64,
    log_bytes: AtomicU64,
    segments_dropped: AtomicU64,
    segments_dropped_by_cap: AtomicU64,
    scrub: Arc<ScrubCounts>,
}

/// The volatile state, owned by the replica thread.
#[derive(Debug)]
pub struct NodeStore {
    journal: Journal,
    state: State,
    views: Arc<Views>,
    stats: Arc<StoreStats>,
    retain: Retention,
    sketch_path: PathBuf,
    aside: AsideBuilder,
    on_failure: FailureHandler,
    scrubber: Scrubber,
    /// Whether the row engine is left alone.
    held: bool,
}

impl NodeStore {
    /// Opens a data directory, or makes one.
    ///
    /// `on_synced` is called by the commit thread with every position that has become durable. It must not wait for the
    /// replica thread: that may at this moment be waiting for the commit thread. `on_failure` is called once, by any
    /// thread, when the process must end.
    ///
    /// # Errors
    /// Another process has it open, it is of another version, or it is damaged; see [`OpenError`].
    pub fn open(
        mut config: StoreConfig,
        on_synced: impl Fn(Position) + Send + 'static,
        on_failure: impl Fn(StoreFailure) + Send + 'static,
    ) -> Result<Opened, OpenError> {
        // A log bounded to little has small segments, since whole ones go.
        let fitting = (config.retain.max_bytes / SEGMENTS_OF_LOG).max(SEGMENT_BYTES_MIN);
        config.segment_bytes = config.segment_bytes.min(SEGMENT_BYTES_MAX).min(fitting);
        let on_failure = FailureHandler::new(on_failure);
        let directory = Arc::new(Directory::open(&config.dir)?);
        directory.check_cluster(&config.cluster)?;
        let (engine, checkpoint, sketch, holes) = open_rows(&config, &directory)?;
        for key in holes.keys() {
            tracing::error!(row = ?key, "a stored row is damaged: it is not read until a peer has repaired it");
        }
        let digests = Digests::new(config.digest_key.clone(), sketch, holes);
        let (engine, cache) = (Arc::new(engine), Arc::new(RowCache::new(config.cache_bytes / 2)));
        // What is read while opening is synced before it is read.
        let durable = Arc::new(Durable::new(Position(u64::MAX)));
        let flusher = Flusher::start(
            Arc::clone(&engine),
            Arc::clone(&cache),
            Arc::clone(&durable),
            directory.journal(),
            on_failure.clone(),
        );
        let flusher = flusher.map_err(OpenError::io(&config.dir))?;
        let (snapshot, position) = (engine.snapshot(), checkpoint.position);
        let adopted = engine.adopted().map_err(|source| OpenError::Rows { path: directory.rows(), source })?;
        let base = Arc::new(Base { engine, cache, snapshot, generation: 0, position, adopted });
        let rule = CheckpointRule { memtable_bytes: config.memtable_bytes, every: config.checkpoint_every };
        let mut state = State::new(base, checkpoint, digests, flusher, rule);
        let replayed = replay(&directory.journal(), &config, &mut state)?;
        durable.advance(replayed.last);
        Self::start(&config, &directory, state, replayed, durable, on_synced, on_failure)
    }

    fn start(
        config: &StoreConfig,
        directory: &Arc<Directory>,
        mut state: State,
        replayed: Replayed,
        durable: Arc<Durable>,
        on_synced: impl Fn(Position) + Send + 'static,
        on_failure: FailureHandler,
    ) -> Result<Opened, OpenError> {
        let path = directory.journal();
        let preparer = Preparer::start(&path, config.segment_bytes).map_err(OpenError::io(&path))?;
        let committer = Committer {
            mode: config.sync,
            segment: replayed.segment,
            file: replayed.file,
            preparer,
            durable,
            on_synced,
            on_failure: on_failure.clone(),
            written: replayed.last,
            synced: replayed.last,
            _directory: Arc::clone(directory),
        };
        let commits = committer.start().map_err(OpenError::io(&path))?;
        let views = Arc::new(Views::new(Arc::new(state.view())));
        let stats = Arc::new(StoreStats::default());
        let engine = Arc::clone(&state.base().engine);
        let scrubber = Scrubber::start(engine, config.scrub_every, Arc::clone(&stats.scrub), on_failure.clone());
        let scrubber = scrubber.map_err(OpenError::io(&config.dir))?;
        stats.cut_bytes.store(replayed.cut_bytes, Relaxed);
        let (engine, adopted) = (&state.base().engine, state.base().adopted);
        let room = Room::new(directory.rows(), config.reserve_bytes);
        let aside =
            AsideBuilder::start(engine, adopted, room, on_failure.clone()).map_err(OpenError::io(&config.dir))?;
        let recovered = state.synced().state.clone();
        let store = Self {
            journal: replayed.journal,
            state,
            views: Arc::clone(&views),
            stats,
            retain: config.retain,
            sketch_path: directory.sketch(),
            aside,
            on_failure,
            scrubber,
            held: false,
        };
        store.count();
        Ok(Opened { store, recovered, views, commits })
    }

    /// The bytes of what was appended since this was last called, for [`CommitQueue::submit`].
    pub fn take_group(&mut self) -> Option<Group> {
        self.journal.take_group()
    }

    /// Shows readers everything up to `synced`, which was reported, and wakes those who waited for it. Blocks only while
    /// the memtable is twice its size and a checkpoint is still being written.
    pub fn publish(&mut self, synced: Position) -> Published {
        let settled = self.state.settle(synced);
        self.journal.written(synced);
        self.drive_checkpoints(settled.any);
        Published { changed_system: settled.system }
    }

    /// Begins and ends checkpoints, and shows readers a new view if anything changed.
    fn drive_checkpoints(&mut self, changed: bool) {
        let garbage = if self.held { None } else { self.state.drive_checkpoints() };
        if changed || garbage.is_some() {
            let before = self.views.publish(Arc::new(self.state.view()));
            if let Some(frozen) = garbage.flatten() {
                self.state.free(frozen, before);
            }
            self.count();
        }
    }

    /// The synced state, for a backup.
    #[must_use]
    pub fn backup(&self) -> BackupSource {
        self.state.backup()
    }

    /// Whether to begin no checkpoint for now, because the disk has no room: the journal has everything. For as long as
    /// nothing is written, since rows then stay in memory.
    pub fn hold_checkpoints(&mut self, held: bool) {
        self.held = held;
    }

    /// Has every row read at once; `false` while that is done already.
    pub fn begin_scrub(&self) -> bool {
        self.scrubber.begin()
    }

    /// Writes everything published to the row engine and waits for it, so that the next start has nothing to replay. For
    /// the end of a process; one that ends without it loses nothing.
    pub fn checkpoint(&mut self) {
        if self.held {
            return;
        }
        self.state.checkpoint();
        self.views.publish(Arc::new(self.state.view()));
        self.count();
        if let Some(sketch) = self.state.sketch_of_engine() {
            let key = self.state.base().engine.fingerprint();
            if let Err(error) = sketch_file::store(&self.sketch_path, self.state.synced(), key, &sketch) {
                // It only spares reading the rows.
                tracing::warn!(%error, "the sketch of all rows was not stored");
            }
        } else if let Err(error) = sketch_file::remove(&self.sketch_path) {
            tracing::warn!(%error, "an old sketch of all rows was not removed");
        }
    }

    /// The position of the last entry appended.
    #[must_use]
    pub fn last(&self) -> Position {
        self.journal.last()
    }

    /// Sizes, for metrics.
    #[must_use]
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.stats)
    }

    fn count(&self) {
        let stats = &self.stats;
        stats.memtable_bytes.store(self.state.memtable_bytes() as u64, Relaxed);
        stats.tail_bytes.store(self.journal.tail_bytes() as u64, Relaxed);
        stats.row_cache_bytes.store(self.state.base().cache.bytes(), Relaxed);
        stats.checkpoint.store(self.state.base().generation, Relaxed);
        stats.position.store(self.state.synced().position.0, Relaxed);
        stats.log_bytes.store(self.journal.bytes(), Relaxed);
    }
}

#[cfg(test)]
impl NodeStore {
    /// Flips a bit of a stored row.
    pub(super) fn damage(&self, key: &RowKey) {
        self.state.base().engine.damage(key).expect("written");
    }

    /// Has the engine write tables.
    pub(super) fn flush(&self) {
        self.state.base().engine.flush().expect("written");
    }

    /// Stores another row under a key, past the index, as an engine that lost a write would show an older one.
    pub(super) fn put_back(&self, key: &RowKey, row: &Row) {
        self.state.base().engine.put_back(key, row).expect("written");
    }
}

impl Drop for NodeStore {
    fn drop(&mut self) {
        self.views.stop();
    }
}

impl StoreStats {
    /// Bytes of rows in memory that the row engine does not have.
    #[must_use]
    pub fn memtable_bytes(&self) -> u64 {
        self.memtable_bytes.load(Relaxed)
    }

    /// Bytes of records kept in memory for peers.
    #[must_use]
    pub fn tail_bytes(&self) -> u64 {
        self.tail_bytes.load(Relaxed)
    }

    /// Bytes of the hot row cache.
    #[must_use]
    pub fn row_cache_bytes(&self) -> u64 {
        self.row_cache_bytes.load(Relaxed)
    }

    /// Checkpoints written since the process began.
    #[must_use]
    pub fn checkpoints(&self) -> u64 {
        self.checkpoint.load(Relaxed)
    }

    /// The last journal position that readers see.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.load(Relaxed)
    }

    /// Bytes of the journal.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Relaxed)
    }

    /// Segments of the journal that were dropped since the process began.
    #[must_use]
    pub fn segments_dropped(&self) -> u64 {
        self.segments_dropped.load(Relaxed)
    }

    /// Those of them that a member may still have asked for, dropped because of a bound.
    #[must_use]
    pub fn segments_dropped_by_cap(&self) -> u64 {
        self.segments_dropped_by_cap.load(Relaxed)
    }

    /// Rows that the scrubber has read.
    #[must_use]
    pub fn scrub_rows(&self) -> u64 {
        self.scrub.rows.load(Relaxed)
    }

    /// Those of them that were damaged.
    #[must_use]
    pub fn scrub_failures(&self) -> u64 {
        self.scrub.failures.load(Relaxed)
    }

    /// Rounds of it that came to the last row.
    #[must_use]
    pub fn scrub_rounds(&self) -> u64 {
        self.scrub.rounds.load(Relaxed)
    }

    /// Whether a round goes that was asked for.
    #[must_use]
    pub fn is_scrubbing(&self) -> bool {
        self.scrub.is_asked.load(Relaxed)
    }

    /// Bytes of an unfinished write that were cut off when the store was opened.
    #[must_use]
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes.load(Relaxed)
    }
}

/// The rows, and what is known of them. If the engine finds its files damaged, they are made anew.
fn open_rows(
    config: &StoreConfig,
    directory: &Arc<Directory>,
) -> Result<(Engine, Checkpoint, Sketch, HoleDigests), OpenError> {
    salvage::settle(directory)?;
    let open = || Engine::open(directory, config.cache_bytes / 2, &config.digest_key);
    let (engine, mut checkpoint) = open()?;
    match open_sketch(config, directory, &engine, &mut checkpoint) {
        Err(OpenError::RowsDamaged { .. }) if engine.has_damaged_blocks() => {
            salvage::salvage(engine, directory, &config.digest_key)?;
            let (engine, mut checkpoint) = open()?;
            let (sketch, holes) = open_sketch(config, directory, &engine, &mut checkpoint)?;
            Ok((engine, checkpoint, sketch, holes))
        }
        opened => opened.map(|(sketch, holes)| (engine, checkpoint, sketch, holes)),
    }
}

/// The sketch of the rows at a checkpoint: as it was left, or by reading them all.
fn open_sketch(
    config: &StoreConfig,
    directory: &Directory,
    engine: &Engine,
    checkpoint: &mut Checkpoint,
) -> Result<(Sketch, HoleDigests), OpenError> {
    let path = directory.rows();
    let damaged = |error: ReadError| OpenError::RowsDamaged { path: path.clone(), what: error.to_string() };
    let size = SketchSize { rows_min: config.sketch_rows_min, cells: config.sketch_cells };
    if !engine.is_indexed().map_err(|source| OpenError::Rows { path: path.clone(), source })? {
        tracing::info!(rows = checkpoint.rows, "the cluster's secret is another one: every row is indexed anew");
        return engine.reindex(checkpoint, size).map_err(damaged);
    }
    let stored = sketch_file::load(&directory.sketch(), checkpoint, engine.fingerprint(), size);
    // It is for one start: whoever starts after a process that found damage, or ended by it, reads every row.
    sketch_file::remove(&directory.sketch()).map_err(OpenError::io(directory.sketch()))?;
    match stored {
        Some(sketch) => Ok((sketch, HoleDigests::new())),
        None => engine.scan(checkpoint, size).map_err(damaged),
    }
}

#[cfg(test)]
impl NodeStore {
    /// Flips a bit of a layer's row.
    pub(super) fn damage_aside(&self, layer: atoll_replication::LayerId, key: &RowKey) {
        self.state.base().engine.damage_aside(layer, key).expect("written");
    }

    /// Entries that the engine has of layers.
    pub(super) fn aside_entries(&self) -> usize {
        self.state.base().engine.aside_entries()
    }
}

impl RowSource for NodeStore {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        self.state.row(key)
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        self.state.visit(prefix, from, visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        self.state.live_rows(collection)
    }

    fn is_clearing(&self, prefix: &[u8]) -> bool {
        self.state.is_clearing(prefix)
    }
}

impl Store for NodeStore {
    fn append_clearing(&mut self, entry: Entry, rows: RowChanges, clears: Vec<Cleared>) -> Position {
        let position = self.journal.append(&entry);
        let layer = if let Entry::Adopt(adoption) = &entry { adoption.layer } else { None };
        let absorbed = match layer {
            None => self.state.absorb(position, entry, Changes { rows, clears }),
            Some(layer) => self.state.with_repairs_of(layer, rows).and_then(|rows| {
                let adopting = self.aside.adopt(layer, &rows)?;
                self.state.absorb_layer(position, entry, rows, &adopting)
            }),
        };
        if let Err(error) = absorbed {
            // The rows it changes were read a moment ago; now the counts of their sets cannot be.
            self.on_failure.tell(StoreFailure::Read(error));
        }
        position
    }

    fn clearing(&self) -> usize {
        self.state.clearing()
    }

    fn clear_step(&mut self, rows_max: usize) -> Result<bool, ReadError> {
        let moved = self.state.clear_step(rows_max)?;
        if moved || self.state.clearing() > 0 {
            self.drive_checkpoints(false);
        }
        if self.state.clearing() == 0 {
            // Readers may compare what they see from now on.
            self.views.publish(Arc::new(self.state.view()));
        }
        Ok(moved)
    }

    fn log(&self, actor: ActorId, from: u64, bytes_max: usize) -> Result<Vec<RecordBytes>, ReadError> {
        self.journal.log(actor, from, bytes_max)
    }

    fn log_start(&self, actor: ActorId) -> Option<u64> {
        self.journal.log_start(actor)
    }

    fn truncate(&mut self, stable: &VersionVector) -> bool {
        // On a node at rest nothing else does.
        self.drive_checkpoints(false);
        let unlogged = &self.state.synced().state.clocks.unlogged;
        let horizon = Horizon { stable, unlogged, checkpoint: self.state.base().position };
        let found = self.journal.droppable(&self.retain, &horizon);
        if found.is_empty() && self.journal.bytes() > self.retain.max_bytes {
            // Nothing goes that the row engine does not hold: once it does, the next call drops it.
            self.state.begin_checkpoint();
            self.drive_checkpoints(false);
            return false;
        }
        let files = found.iter().map(|segment| segment.first).collect();
        if found.is_empty() || !self.state.remove_segments(files) {
            return false;
        }
        let by_cap = found.iter().filter(|segment| segment.by_cap).count() as u64;
        self.stats.segments_dropped.fetch_add(found.len() as u64, Relaxed);
        self.stats.segments_dropped_by_cap.fetch_add(by_cap, Relaxed);
        found.into_iter().for_each(|segment| self.journal.drop_oldest(segment));
        self.count();
        true
    }

    fn holes(&mut self) -> Arc<Holes> {
        match self.state.holes() {
            Ok(holes) => Arc::clone(holes),
            Err(error) => {
                self.on_failure.tell(StoreFailure::Read(error));
                Arc::default()
            }
        }
    }

    fn scrub(&self) {
        self.scrubber.now();
    }

    fn synced_root(&self) -> Cell {
        self.views.current().root()
    }

    fn pin(&mut self) -> Arc<dyn Pinned> {
        Arc::new(self.state.pin())
    }
}

impl Aside for NodeStore {
    fn begin_aside(&mut self, pinned: Arc<dyn Pinned>, sides: Option<Sides>) {
        let position = self.last();
        self.aside.begin(pinned, sides, position);
    }

    fn put_aside(&mut self, rows: Vec<(RowKey, Arc<Row>)>) {
        self.aside.put(rows);
    }

    fn note_aside(&mut self, changed: Vec<RowKey>, pinned: Arc<dyn Pinned>) {
        let position = self.last();
        self.aside.note(changed, pinned, position);
    }

    fn over_aside(&mut self) -> Option<Arc<dyn Pinned>> {
        self.aside.over()
    }

    fn merge_aside(&mut self, sides: Sides) {
        self.aside.merge(sides);
    }

    fn merged_aside(&mut self) -> Option<Merged> {
        let (merged, position) = self.aside.merged()?;
        self.drive_checkpoints(false);
        self.state.is_below(position).then_some(merged)
    }

    fn aside_row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        self.aside.raw(key)
    }

    fn aside_use(&self) -> AsideUse {
        self.aside.usage()
    }

    fn drop_aside(&mut self) {
        self.aside.drop_layer();
    }

    fn is_moving_aside(&self) -> bool {
        self.state.is_moving()
    }
}
