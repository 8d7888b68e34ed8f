//! Rows and clocks at their three stages: appended, synced, in the row engine.
//!
//! **How it goes.** An entry is *absorbed* when it is appended: its rows lie in the overlay, which only the replica
//! reads. When it is synced it *settles*: its rows move into the memtable, and its clocks into the synced state. When
//! the memtable is large or old it is *frozen* and written to the engine as one checkpoint, with that synced state.
//!
//! An entry that names a layer makes its rows hold below those in memory and above those in the engine: first for the
//! replica, when it settles for all. The next checkpoint says so in the engine, and from then on the layer's rows are moved.
//!
//! **What always holds.** S1: the synced state and the memtable are those of one position, so a checkpoint is a state.
//! S2: the overlay holds the newest row of each key that an unsynced entry changed, and nothing else. S3: the count of a
//! set, that of all rows, and the sum over all rows change with the row that changes them, through all stages. S4: the rows in memory are bounded: one that would
//! make the memtable twice its size waits for the running checkpoint. S5: when an entry names a layer, no row in memory is older than
//! the layer's pin, and no checkpoint runs whose rows a snapshot might show before their generation. S6: rows lie here
//! as a pending clear has left them, and are read without what it covers; counts are of what is read, the number of rows, the sum over
//! them and the sketch of what lies there ([`super::clearing`]).

use super::aside::Adopting;
use super::backup::BackupSource;
use super::checkpoint::Checkpoint;
use super::digests::Digests;
use super::flush::{Done, Flusher, What};
use super::layer::Layer;
use super::layers::{Base, Layers};
use super::pin::Pin;
use super::view::View;
use atoll_crdt::{CollectionKey, DataType, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::sketch::{Cell, RowDigest, Sketch};
use atoll_replication::{Changes, Cleared, Clears, Entry, HOLES_MAX, Holes, LayerId, Position, RowChange, RowChanges};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a wait for a running checkpoint lasts before it is said in the log.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// What is appended and not synced. S2
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) rows: BTreeMap<RowKey, (Position, Arc<Row>)>,
    pub(super) counts: BTreeMap<CollectionKey, (Position, u64)>,
    pub(super) entries: VecDeque<Unsynced>,
}

#[derive(Debug)]
pub(super) struct Unsynced {
    position: Position,
    entry: Entry,
    rows: RowChanges,
    counts: Vec<(CollectionKey, u64)>,
    /// The sum over all rows after it.
    pub(super) root: Cell,
    /// How many more rows the layer that it names makes.
    layer_rows: i64,
    pub(super) clears: Vec<Cleared>,
}

/// What settling changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Settled {
    /// Anything.
    pub(super) any: bool,
    /// A row of a namespace that begins with `_`.
    pub(super) system: bool,
}

/// When to write a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckpointRule {
    /// When the memtable is this large.
    pub(super) memtable_bytes: usize,
    /// When its oldest change is this old.
    pub(super) every: Duration,
}

/// Rows and clocks.
#[derive(Debug)]
pub(super) struct State {
    pub(super) overlay: Overlay,
    pub(super) layers: Layers,
    /// Clears whose rows still lie there, those of unsynced entries too: what the replica reads by. S6
    pub(super) clears: Clears,
    /// The base as the replica sees it, while an entry that names a layer is not synced.
    pub(super) ahead: Option<Arc<Base>>,
    /// Whether the engine knows of the adopted layer.
    adopted_in_engine: bool,
    pub(super) digests: Digests,
    /// What has settled. S1
    pub(super) synced: Checkpoint,
    /// Its context, as views share it; `None` when it has moved since.
    context: Option<Arc<VersionVector>>,
    /// When the memtable's oldest change settled.
    pub(super) changed_at: Option<Instant>,
    pub(super) flusher: Flusher,
    pub(super) rule: CheckpointRule,
    /// The rows of [`Digests::holes`], as they are told.
    pub(super) holes: Arc<Holes>,
    /// Those that were found while [`Self::ahead`] is, with what the sketch has for them: the memtable takes them when the entry settles,
    /// since the engine's rows are what readers see until then.
    unsettled_holes: Vec<(RowKey, RowDigest)>,
    /// Whether the memtable, and what is frozen, have rows that were only written again. S5
    pub(super) rewritten: (bool, bool),
}

impl State {
    /// The state at a checkpoint, which the engine of `base` holds.
    pub(super) fn new(
        base: Arc<Base>,
        synced: Checkpoint,
        digests: Digests,
        flusher: Flusher,
        rule: CheckpointRule,
    ) -> Self {
        let adopted_in_engine = base.adopted.is_some();
        let clears = Arc::clone(&synced.clears);
        let mut layers = Layers { memtable: Layer::default(), frozen: None, base, clears };
        // Some may be there and be others than they should be.
        layers.memtable.unknown = digests.holes().iter().map(|(key, digest)| (key.clone(), *digest)).collect();
        let holes = told(&digests);
        Self {
            overlay: Overlay::default(),
            clears: Clears::clone(&layers.clears),
            layers,
            ahead: None,
            adopted_in_engine,
            digests,
            synced,
            context: None,
            changed_at: None,
            flusher,
            rule,
            holes,
            unsettled_holes: Vec::new(),
            rewritten: (false, false),
        }
    }

    /// The rows that are damaged, after a look at what reads came upon since the last time.
    ///
    /// # Errors
    /// The storage failed, or so many are that it is no store any more.
    pub(super) fn holes(&mut self) -> Result<&Arc<Holes>, ReadError> {
        let suspects = Arc::clone(&self.layers.base.engine.suspects);
        if suspects.has_blocks() {
            let what = "its files are damaged; the next start copies what can be read of them into new ones";
            return Err(ReadError::Failed(what.into()));
        }
        for key in suspects.take() {
            self.examine(&key)?;
        }
        Ok(&self.holes)
    }

    /// A read found a row damaged. It is a hole until it is repaired, even if its bytes come back; unless something newer is
    /// in memory, which will be written over it, or what it held is known from the cache.
    fn examine(&mut self, key: &RowKey) -> Result<(), ReadError> {
        if self.holes.contains_key(key) || self.is_in_memory(key) {
            return Ok(());
        }
        let base = Arc::clone(self.base_now());
        if base.engine.is_whole(&base.snapshot, base.adopted, key.as_bytes())? {
            return Ok(());
        }
        let digest = base.engine.digest(&base.snapshot, base.adopted, key.as_bytes())?;
        if digest == RowDigest::ABSENT {
            // Of an adopted layer, which says that it is gone.
            return Ok(());
        }
        self.changed_at.get_or_insert_with(Instant::now);
        match self.layers.row_on(&base, key) {
            // The next read finds it again.
            Ok(Some(row)) if self.ahead.is_some() && self.digests.key().digest(key, &row) == digest => {}
            Ok(Some(row)) if self.digests.key().digest(key, &row) == digest => {
                self.rewritten.0 = true;
                tracing::warn!(row = ?key, "a stored row was found damaged and is at hand: it is written again");
                self.layers.memtable.put(key.clone(), row);
            }
            Ok(_) | Err(ReadError::Damaged(_)) => {
                if self.holes.len() >= HOLES_MAX {
                    return Err(ReadError::Failed(format!("more than {HOLES_MAX} rows are damaged")));
                }
                tracing::error!(row = ?key, "a stored row is damaged: it is not read until a peer has repaired it");
                self.add_hole(key, digest);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn add_hole(&mut self, key: &RowKey, digest: RowDigest) {
        if self.ahead.is_some() {
            self.unsettled_holes.push((key.clone(), digest));
        } else {
            self.layers.memtable.unknown.insert(key.clone(), digest);
        }
        self.digests.add_hole(key.clone(), digest);
        self.holes = told(&self.digests);
    }

    /// What an entry changes that names a layer: holes are repaired by the layer's merged rows, like by rows of the entry itself,
    /// which are newer where both mention a key. A row that is damaged in the layer too stays a hole; see [`Self::absorb_layer`].
    pub(super) fn with_repairs_of(&self, layer: LayerId, mut rows: RowChanges) -> Result<RowChanges, ReadError> {
        if self.holes.is_empty() {
            return Ok(rows);
        }
        let (engine, own) = (&self.layers.base.engine, rows.len());
        let snapshot = engine.snapshot();
        for key in self.holes.keys() {
            let is_own = rows[..own].binary_search_by(|change| change.key.cmp(key)).is_ok();
            if is_own {
                continue;
            }
            match engine.adopted_row(&snapshot, layer, key) {
                Ok(Some(after)) => {
                    let before = Some(Arc::new(Row::empty()));
                    rows.push(RowChange { key: key.clone(), before, after });
                }
                Ok(None) | Err(ReadError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(rows)
    }

    fn is_in_memory(&self, key: &RowKey) -> bool {
        let layers = &self.layers;
        self.overlay.rows.contains_key(key)
            || layers.memtable.rows.contains_key(key)
            || layers.frozen.as_ref().is_some_and(|frozen| frozen.rows.contains_key(key))
    }

    /// A replay could not bring a damaged row to where it was: what the engine has of it is behind.
    pub(super) fn forget(&mut self, key: &RowKey) -> Result<(), ReadError> {
        self.examine(key)?;
        if self.holes.contains_key(key) {
            let digest = self.layers.base.engine.unknown(key.as_bytes());
            self.layers.memtable.unknown.insert(key.clone(), digest);
            self.synced.root = self.digests.forget(key, digest);
        }
        Ok(())
    }

    /// The state after every synced entry.
    pub(super) fn synced(&self) -> &Checkpoint {
        &self.synced
    }

    /// Takes in an appended entry.
    ///
    /// # Errors
    /// The storage failed: the process must end.
    pub(super) fn absorb(&mut self, position: Position, entry: Entry, changes: Changes) -> Result<(), ReadError> {
        let Changes { mut rows, clears } = changes;
        let mut counts = self.counts_after(&rows)?;
        self.lying_before(&mut rows)?;
        for change in rows.iter().filter(|change| change.is_repair()) {
            // One that was found this moment.
            self.examine(&change.key)?;
        }
        let root = self.digests.absorb(&rows);
        if self.holes.len() != self.digests.holes().len() {
            let repaired = self.holes.len() - self.digests.holes().len();
            self.holes = told(&self.digests);
            tracing::info!(repaired, left = self.holes.len(), "damaged rows were repaired from a peer");
        }
        for change in &rows {
            self.overlay.rows.insert(change.key.clone(), (position, Arc::clone(&change.after)));
        }
        clears.iter().for_each(|clear| self.clears.add(&clear.op));
        counts.extend(self.counts_cleared(&clears)?);
        for (collection, count) in &counts {
            self.overlay.counts.insert(collection.clone(), (position, *count));
        }
        self.overlay.entries.push_back(Unsynced { position, entry, rows, counts, root, layer_rows: 0, clears });
        Ok(())
    }

    /// Takes in an appended entry that names a layer. S5
    ///
    /// # Errors
    /// The storage failed: the process must end.
    pub(super) fn absorb_layer(
        &mut self,
        position: Position,
        entry: Entry,
        rows: RowChanges,
        adopting: &Adopting,
    ) -> Result<(), ReadError> {
        let base = Arc::new(self.layers.base.again(Some(adopting.layer)));
        let counts = self.counts_on(&base, &rows, adopting)?;
        self.digests.absorb_sketch(&adopting.sketch);
        for key in self.holes.keys().filter(|key| !adopting.shadowed.contains_key(*key)) {
            if let Some(sums) = base.engine.aside_sums(&base.snapshot, adopting.layer, key.as_bytes())? {
                // Damaged in the layer too: the sketch has for it now what the layer made of it.
                self.digests.add_hole(key.clone(), sums.after);
                self.unsettled_holes.push((key.clone(), sums.after));
            }
        }
        self.ahead = Some(base);
        for (collection, count) in &counts {
            self.overlay.counts.insert(collection.clone(), (position, *count));
        }
        self.absorb(position, entry, Changes { rows, clears: Vec::new() })?;
        if let Some(unsynced) = self.overlay.entries.back_mut() {
            unsynced.layer_rows = adopting.rows;
            // Those that the entry itself changes are counted in, and come last.
            let own = std::mem::replace(&mut unsynced.counts, counts);
            unsynced.counts.extend(own);
        }
        Ok(())
    }

    /// The counts in memory, which say nothing of the layer yet, and those of rows that the entry itself sets, as the layer leaves
    /// them without these rows. S3
    fn counts_on(
        &self,
        base: &Base,
        rows: &RowChanges,
        adopting: &Adopting,
    ) -> Result<Vec<(CollectionKey, u64)>, ReadError> {
        let mut less: BTreeMap<CollectionKey, i64> = BTreeMap::new();
        let frozen = self.layers.frozen.iter().flat_map(|layer| layer.counts.keys());
        for collection in self.overlay.counts.keys().chain(self.layers.memtable.counts.keys()).chain(frozen) {
            less.insert(collection.clone(), 0);
        }
        for change in rows {
            if let Some(shadowed) = adopting.shadowed.get(&change.key) {
                let collection = change.key.collection();
                if collection.data_type() == DataType::Set {
                    *less.entry(collection).or_default() += shadowed;
                }
            }
        }
        let counts = less.into_iter().map(|(collection, less)| {
            let more = base.engine.adopted_change(&base.snapshot, adopting.layer, &collection)?;
            let before = self.live_rows(&collection)?;
            Ok((collection, before.saturating_add_signed(more - less)))
        });
        counts.collect()
    }

    /// The counts of sets as these rows will leave them. S3
    fn counts_after(&self, rows: &RowChanges) -> Result<Vec<(CollectionKey, u64)>, ReadError> {
        // Rows are in order, and those of one collection lie together.
        let mut changes: Vec<(CollectionKey, i64)> = Vec::new();
        for row in rows {
            let (collection, change) = (row.key.collection(), row.rows());
            if collection.data_type() != DataType::Set {
                continue;
            }
            match changes.last_mut() {
                Some((last, total)) if *last == collection => *total += change,
                _ => changes.push((collection, change)),
            }
        }
        changes.retain(|(_, change)| *change != 0);
        let counts = changes.into_iter().map(|(collection, change)| {
            let before = self.live_rows(&collection)?;
            debug_assert!(before.checked_add_signed(change).is_some(), "S3: a set has no fewer members than none");
            Ok((collection, before.saturating_add_signed(change)))
        });
        counts.collect()
    }

    /// Everything up to `position` is synced.
    pub(super) fn settle(&mut self, position: Position) -> Settled {
        let mut settled = Settled::default();
        while self.overlay.entries.front().is_some_and(|unsynced| unsynced.position <= position) {
            let Some(unsynced) = self.overlay.entries.pop_front() else { break };
            settled.any = true;
            if matches!(unsynced.entry, Entry::Record(_) | Entry::Adopt(_)) {
                self.context = None;
            }
            self.synced.state.replay(&unsynced.entry);
            self.synced.position = unsynced.position;
            self.synced.root = unsynced.root;
            self.synced.rows = self.synced.rows.saturating_add_signed(unsynced.layer_rows);
            if matches!(&unsynced.entry, Entry::Adopt(adoption) if adoption.layer.is_some()) {
                self.adopt_layer(&mut settled);
            }
            for clear in &unsynced.clears {
                Arc::make_mut(&mut self.layers.clears).add(&clear.op);
            }
            self.settle_rows(unsynced, &mut settled);
        }
        if !self.layers.memtable.is_empty() {
            self.changed_at.get_or_insert_with(Instant::now);
        }
        settled
    }

    /// The layer holds for readers too.
    fn adopt_layer(&mut self, settled: &mut Settled) {
        if let Some(base) = self.ahead.take() {
            self.layers.base = base;
        }
        self.layers.memtable.unknown.extend(std::mem::take(&mut self.unsettled_holes));
        self.adopted_in_engine = false;
        settled.system = true;
    }

    fn settle_rows(&mut self, unsynced: Unsynced, settled: &mut Settled) {
        for change in unsynced.rows {
            self.synced.rows = self.synced.rows.saturating_add_signed(change.rows());
            let key = change.key;
            settled.system |= key.as_bytes().first() == Some(&b'_');
            // S2: a later entry may have changed it again.
            if self.overlay.rows.get(&key).is_some_and(|(at, _)| *at == unsynced.position) {
                self.overlay.rows.remove(&key);
            }
            self.layers.memtable.put(key, change.after);
        }
        for (collection, count) in unsynced.counts {
            if self.overlay.counts.get(&collection).is_some_and(|(at, _)| *at == unsynced.position) {
                self.overlay.counts.remove(&collection);
            }
            self.layers.memtable.put_count(collection, count);
        }
    }

    /// Picks up what has ended, and begins what is due. Gives what became garbage by it, if the view must change.
    pub(super) fn drive_checkpoints(&mut self) -> Option<Option<Arc<Layer>>> {
        let mut ended = self.flusher.ended();
        let bytes = self.layers.memtable.bytes();
        if ended.is_none() && self.flusher.is_running() && bytes >= self.rule.memtable_bytes.saturating_mul(2) {
            ended = self.wait_for_checkpoint();
        }
        let garbage = ended.map(|done| self.switch_to(done));
        let old = self.changed_at.is_some_and(|at| at.elapsed() >= self.rule.every);
        // The sooner the engine knows of a layer, the sooner its rows are moved.
        if bytes >= self.rule.memtable_bytes || old || self.has_news_of_layer() {
            self.begin_checkpoint();
        }
        if let Some(layer) = self.layers.base.adopted
            && self.adopted_in_engine
            && !self.flusher.is_running()
            && !self.flusher.is_moving()
        {
            self.flusher.begin_move(layer, self.layers.base.position);
        }
        garbage
    }

    /// Whether the engine must be told of a layer.
    fn has_news_of_layer(&self) -> bool {
        self.layers.base.adopted.is_some() && !self.adopted_in_engine
    }

    /// S4
    fn wait_for_checkpoint(&mut self) -> Option<Done> {
        loop {
            match self.flusher.wait(LONG_WAIT) {
                Some(done) if matches!(done.what, What::Moved(_)) => _ = self.switch_to(done),
                Some(done) => return Some(done),
                None if !self.flusher.is_running() => return None,
                None => {}
            }
            tracing::warn!("writes wait for a checkpoint: the disk does not keep up");
        }
    }

    /// Views may read from the engine what was frozen.
    fn switch_to(&mut self, done: Done) -> Option<Arc<Layer>> {
        let mut base = done.base;
        base.adopted = self.layers.base.adopted.filter(|_| done.what != What::Moved(true));
        if let Some(adopted) = self.ahead.as_ref().and_then(|ahead| ahead.adopted) {
            self.ahead = Some(Arc::new(base.again(Some(adopted))));
        }
        self.layers.base = Arc::new(base);
        match done.what {
            What::Moved(_) => None,
            What::Wrote(adopted) => {
                self.adopted_in_engine |= adopted.is_some() && adopted == self.layers.base.adopted;
                self.rewritten.1 = false;
                self.layers.frozen.take()
            }
        }
    }

    /// Whether the engine holds every row of `position` and before, and nothing is written to it now, so that a layer over the state
    /// at `position` may be adopted. If not, it begins what is needed. S5
    pub(super) fn is_below(&mut self, position: Position) -> bool {
        if self.rewritten != (false, false) {
            // Those are older than the pin, and lie in memory.
            self.begin_checkpoint();
            return false;
        }
        let all_stored = self.layers.memtable.is_empty() && self.layers.frozen.is_none();
        let stored = if all_stored { self.synced.position } else { self.layers.base.position };
        if stored < position {
            // What is not synced yet would need another one.
            if self.synced.position >= position {
                self.begin_checkpoint();
            }
            return false;
        }
        !self.flusher.is_running() && self.layers.base.adopted.is_none()
    }

    /// Whether a layer is adopted that is not wholly moved.
    pub(super) fn is_moving(&self) -> bool {
        self.layers.base.adopted.is_some() || self.ahead.is_some()
    }

    /// Hands the memtable to the flush thread, if it is free.
    pub(super) fn begin_checkpoint(&mut self) {
        // What is frozen is in no other place until its checkpoint has ended, also if that failed.
        let nothing_new = self.layers.memtable.is_empty() && !self.has_news_of_layer();
        if nothing_new || self.layers.frozen.is_some() {
            return;
        }
        let frozen = Arc::new(std::mem::take(&mut self.layers.memtable));
        self.changed_at = None;
        self.layers.frozen = Some(Arc::clone(&frozen));
        self.rewritten = (false, self.rewritten.0);
        self.synced.clears = Arc::clone(&self.layers.clears);
        self.flusher.begin(frozen, self.synced.clone(), self.layers.base.adopted);
    }

    /// Writes everything that has settled, and waits for it.
    pub(super) fn checkpoint(&mut self) {
        // One may be running; what has settled since needs another.
        for _ in 0..2 {
            if let Some(done) = self.wait_for_checkpoint() {
                self.switch_to(done);
            }
            self.begin_checkpoint();
        }
    }

    /// What readers may see now.
    pub(super) fn view(&mut self) -> View {
        let context = self.context.get_or_insert_with(|| Arc::new(self.synced.state.clocks.context.clone()));
        let Checkpoint { position, rows, root, .. } = self.synced;
        View::new(self.layers.clone(), Arc::clone(context), position, rows, root)
    }

    /// What readers see now, with all that a copy of it needs to begin from.
    pub(super) fn backup(&self) -> BackupSource {
        BackupSource::new(self.layers.clone(), &self.layers.base.engine, &self.synced)
    }

    /// The volatile state as it is now.
    pub(super) fn pin(&self) -> Pin {
        debug_assert!(self.clears.is_empty(), "a pin's sketch is that of what it shows");
        let mut layers = self.layers.clone();
        layers.base = Arc::clone(self.base_now());
        for (key, (_, row)) in &self.overlay.rows {
            layers.memtable.put(key.clone(), Arc::clone(row));
        }
        for (collection, (_, count)) in &self.overlay.counts {
            layers.memtable.put_count(collection.clone(), *count);
        }
        let rows_of = |entry: &Unsynced| entry.layer_rows + entry.rows.iter().map(RowChange::rows).sum::<i64>();
        let unsynced = self.overlay.entries.iter().map(rows_of).sum();
        let rows = self.synced.rows.saturating_add_signed(unsynced);
        Pin::new(layers, self.digests.sketch(), rows, self.digests.key().clone(), self.flusher.bin())
    }

    /// The sketch of the rows in the engine, if that holds everything that was appended.
    pub(super) fn sketch_of_engine(&self) -> Option<Arc<Sketch>> {
        // The next start reads every row, and so finds what is damaged.
        if !self.holes.is_empty() || !self.layers.memtable.is_empty() || self.layers.frozen.is_some() {
            return None;
        }
        let holds_all = self.overlay.entries.is_empty() && self.layers.base.position == self.synced.position;
        holds_all.then(|| self.digests.sketch())
    }

    /// Has segments of the journal deleted by another thread; `false` when that has no time.
    pub(super) fn remove_segments(&self, segments: Vec<Position>) -> bool {
        self.flusher.remove(segments)
    }

    /// Has something freed by another thread.
    pub(super) fn free(&self, frozen: Arc<Layer>, view: Arc<View>) {
        self.flusher.bin().free((frozen, view));
    }

    /// Bytes of rows in memory that the engine does not have.
    pub(super) fn memtable_bytes(&self) -> usize {
        self.layers.memtable.bytes() + self.layers.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }

    /// The engine as readers see it now.
    pub(super) fn base(&self) -> &Base {
        &self.layers.base
    }

    /// The engine as the replica sees it.
    pub(super) fn base_now(&self) -> &Arc<Base> {
        self.ahead.as_ref().unwrap_or(&self.layers.base)
    }

    /// The secret that rows are digested with, and the sketch as it is now.
    pub(super) fn digests(&self) -> &Digests {
        &self.digests
    }
}

fn told(digests: &Digests) -> Arc<Holes> {
    Arc::new(digests.holes().keys().map(|key| (key.clone(), digests.key().id(key))).collect())
}
