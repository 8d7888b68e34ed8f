//! The flush thread: writes checkpoints while the replica thread goes on.
//!
//! **How it goes.** The replica thread freezes its memtable and hands it over with the state it stands at. This thread
//! waits until the journal is on disk up to there, writes one batch, corrects the cache, and leaves the new base to be
//! picked up; until then views read the frozen rows from memory.
//!
//! In between it moves the rows of an adopted layer to where rows lie, in batches, until another task comes.
//!
//! It also does what else would hold up the replica thread: frees large memory, and deletes segments of the journal.
//!
//! **What always holds.** K1: a checkpoint is never ahead of the journal on disk, also when the journal is synced at
//! intervals. K2: at most one checkpoint runs, and nothing is moved meanwhile. K3: a checkpoint that cannot be written ends the process. K4: segments are deleted oldest first, and one that
//! cannot be deleted keeps those behind it, so that a crash never leaves a hole.

use super::aside_rows::{MOVED_AT_ONCE, Place};
use super::cache::RowCache;
use super::checkpoint::Checkpoint;
use super::commit::Durable;
use super::engine::Engine;
use super::error::{FailureHandler, StoreFailure};
use super::layer::Layer;
use super::layers::Base;
use super::segment;
use atoll_crdt::ReadError;
use atoll_replication::{LayerId, Position};
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// What may be large to free, so that the replica thread need not.
type Garbage = Box<dyn Any + Send>;

enum Task {
    Write(Arc<Layer>, Checkpoint, Option<LayerId>),
    /// Moves rows of an adopted layer, on an engine that stands at this position.
    Move(LayerId, Position),
    Free(Garbage),
    /// Segments, oldest first.
    Remove(Vec<Position>),
}

/// Where garbage may be left. The thread ends with its [`Flusher`], whoever still has one of these.
#[derive(Debug, Clone)]
pub(super) struct Bin(Weak<SyncSender<Task>>);

impl Bin {
    /// Has something freed by the thread, if that has time; else it is freed here.
    pub(super) fn free(&self, garbage: impl Any + Send) {
        if let Some(tasks) = self.0.upgrade() {
            let _ = tasks.try_send(Task::Free(Box::new(garbage)));
        }
    }
}

/// What the thread has done.
#[derive(Debug)]
pub(super) struct Done {
    /// The engine as it is now; which layer is adopted the other side knows.
    pub(super) base: Base,
    pub(super) what: What,
}

/// Which task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A checkpoint; the layer that it said to be adopted.
    Wrote(Option<LayerId>),
    /// Rows were moved; whether all.
    Moved(bool),
}

/// The replica thread's side.
#[derive(Debug)]
pub(super) struct Flusher {
    tasks: Option<Arc<SyncSender<Task>>>,
    done: Receiver<Done>,
    is_running: bool,
    is_moving: bool,
    durable: Arc<Durable>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread over an engine and its cache.
    pub(super) fn start(
        engine: Arc<Engine>,
        cache: Arc<RowCache>,
        durable: Arc<Durable>,
        journal_directory: PathBuf,
        on_failure: FailureHandler,
    ) -> io::Result<Self> {
        let (tasks, todo) = sync_channel(4);
        // One of each kind.
        let (to_done, done) = sync_channel(2);
        let journal = Arc::clone(&durable);
        let thread = std::thread::Builder::new().name("atoll-checkpoint".into()).spawn(move || {
            let mut unwanted = VecDeque::new();
            let mut next = None;
            while let Some(task) = next.take().or_else(|| todo.recv().ok()) {
                match task {
                    Task::Remove(segments) => {
                        unwanted.extend(segments);
                        remove(&journal_directory, &mut unwanted);
                    }
                    Task::Free(garbage) => drop(garbage),
                    Task::Move(layer, position) => {
                        let is_wanted = || {
                            next.is_none()
                                && todo.try_recv().map_or_else(
                                    |error| error == TryRecvError::Empty,
                                    |task| {
                                        next = Some(task);
                                        false
                                    },
                                )
                        };
                        match move_rows(&engine, &cache, layer, position, is_wanted) {
                            Ok(moved) => {
                                let _ = to_done.send(moved);
                            }
                            Err(error) => return on_failure.tell(StoreFailure::Read(error)),
                        }
                    }
                    Task::Write(layer, checkpoint, adopted) => {
                        // K1
                        if !journal.wait_for(checkpoint.position) {
                            return;
                        }
                        match write(&engine, &cache, &layer, &checkpoint, adopted) {
                            Ok(base) => {
                                let _ = to_done.send(Done { base, what: What::Wrote(adopted) });
                            }
                            // K3
                            Err(error) => return on_failure.tell(StoreFailure::Rows(error)),
                        }
                    }
                }
            }
        })?;
        let (tasks, thread) = (Some(Arc::new(tasks)), Some(thread));
        Ok(Self { tasks, done, is_running: false, is_moving: false, durable, thread })
    }

    /// Whether a checkpoint was begun and its end not yet picked up.
    pub(super) fn is_running(&self) -> bool {
        self.is_running
    }

    /// Begins a checkpoint; none is running. K2
    pub(super) fn begin(&mut self, layer: Arc<Layer>, checkpoint: Checkpoint, adopted: Option<LayerId>) {
        debug_assert!(!self.is_running, "K2");
        if let Some(tasks) = &self.tasks {
            self.is_running = tasks.send(Task::Write(layer, checkpoint, adopted)).is_ok();
        }
    }

    /// Begins to move rows of the adopted layer, or goes on; nothing else is under way.
    pub(super) fn begin_move(&mut self, layer: LayerId, position: Position) {
        if let Some(tasks) = &self.tasks {
            self.is_moving = tasks.try_send(Task::Move(layer, position)).is_ok();
        }
    }

    /// Whether rows are being moved.
    pub(super) fn is_moving(&self) -> bool {
        self.is_moving
    }

    /// What has ended, if anything has.
    pub(super) fn ended(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        Some(self.note(done))
    }

    fn note(&mut self, done: Done) -> Done {
        match done.what {
            What::Wrote(_) => self.is_running = false,
            What::Moved(_) => self.is_moving = false,
        }
        done
    }

    /// Waits for what is under way; `None` when no checkpoint is, when it failed, or after `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> Option<Done> {
        if !self.is_running {
            return None;
        }
        match self.done.recv_timeout(timeout) {
            Ok(done) => Some(self.note(done)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.is_running = false;
                None
            }
        }
    }

    /// Has segments deleted by this thread, oldest first; `false` when it has no time, and nothing will be deleted.
    pub(super) fn remove(&self, segments: Vec<Position>) -> bool {
        self.tasks.as_ref().is_some_and(|tasks| tasks.try_send(Task::Remove(segments)).is_ok())
    }

    /// For leaving garbage.
    pub(super) fn bin(&self) -> Bin {
        Bin(self.tasks.as_ref().map(Arc::downgrade).unwrap_or_default())
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.tasks = None;
        // A checkpoint that still waits for the journal is given up: the journal has it all.
        self.durable.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes a checkpoint and gives the base that has it.
fn write(
    engine: &Arc<Engine>,
    cache: &Arc<RowCache>,
    layer: &Layer,
    checkpoint: &Checkpoint,
    adopted: Option<LayerId>,
) -> Result<Base, fjall::Error> {
    engine.write(layer, checkpoint, adopted)?;
    let snapshot = engine.snapshot();
    let generation = cache.advance(layer);
    let position = checkpoint.position;
    Ok(Base { engine: Arc::clone(engine), cache: Arc::clone(cache), snapshot, generation, position, adopted: None })
}

/// Moves rows of the adopted layer until all are moved or it is not wanted any longer.
fn move_rows(
    engine: &Arc<Engine>,
    cache: &Arc<RowCache>,
    layer: LayerId,
    position: Position,
    mut is_wanted: impl FnMut() -> bool,
) -> Result<Done, ReadError> {
    let mut place = Place::Rows(Vec::new());
    loop {
        let moved = engine.move_adopted(layer, &place, MOVED_AT_ONCE)?;
        let snapshot = engine.snapshot();
        let generation = cache.advance(&moved.rows);
        match moved.next {
            Some(next) if is_wanted() => place = next,
            next => {
                let (engine, cache) = (Arc::clone(engine), Arc::clone(cache));
                let base = Base { engine, cache, snapshot, generation, position, adopted: None };
                return Ok(Done { base, what: What::Moved(next.is_none()) });
            }
        }
    }
}

/// Deletes segments from the front of `unwanted`; what cannot be deleted is tried again with the next ones. K4
fn remove(journal: &Path, unwanted: &mut VecDeque<Position>) {
    while let Some(first) = unwanted.front() {
        if let Err(error) = segment::remove(journal, *first) {
            tracing::warn!(%error, segment = first.0, "a journal segment that is not needed cannot be deleted");
            return;
        }
        unwanted.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_cannot_be_deleted_keeps_those_behind_it_until_it_can() {
        let journal = tempfile::tempdir().expect("temporary directory");
        let path = |n: u64| segment::path(journal.path(), Position(n));
        for n in [1, 3, 4] {
            std::fs::write(path(n), b"full").expect("written");
            std::fs::write(segment::index_path(journal.path(), Position(n)), b"index").expect("written");
        }
        // Nothing deletes a directory as a file.
        std::fs::create_dir(path(2)).expect("made");
        let mut unwanted = (1..=3).map(Position).collect();
        remove(journal.path(), &mut unwanted);
        assert_eq!(unwanted, [Position(2), Position(3)]);
        assert_eq!([1, 2, 3, 4].map(|n| path(n).exists()), [false, true, true, true]);
        std::fs::remove_dir(path(2)).expect("removed");
        unwanted.push_back(Position(4));
        remove(journal.path(), &mut unwanted);
        assert!(unwanted.is_empty(), "{unwanted:?}");
        assert_eq!(std::fs::read_dir(journal.path()).expect("listed").count(), 0);
    }
}
