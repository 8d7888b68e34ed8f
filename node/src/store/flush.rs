//! The flush thread: writes checkpoints while the replica thread goes on.
//!
//! **How it goes.** The replica thread freezes its memtable and hands it over with the state it stands at. This thread
//! waits until the journal is on disk up to there, writes one batch, corrects the cache, and leaves the new base to be
//! picked up; until then views read the frozen rows from memory.
//!
//! **What always holds.** K1: a checkpoint is never ahead of the journal on disk, also when the journal is synced at
//! intervals. K2: at most one checkpoint runs. K3: a checkpoint that cannot be written ends the process.

use super::cache::RowCache;
use super::checkpoint::Checkpoint;
use super::commit::Durable;
use super::engine::Engine;
use super::error::{FailureHandler, StoreFailure};
use super::layer::Layer;
use super::layers::Base;
use super::view::View;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was replaced and may be large to free, so that the replica thread need not.
#[derive(Debug)]
pub(super) struct Garbage {
    pub(super) _frozen: Option<Arc<Layer>>,
    pub(super) _view: Arc<View>,
}

enum Task {
    Write(Arc<Layer>, Checkpoint),
    Free(Garbage),
}

/// The replica thread's side.
#[derive(Debug)]
pub(super) struct Flusher {
    tasks: Option<SyncSender<Task>>,
    written: Receiver<Arc<Base>>,
    is_running: bool,
    durable: Arc<Durable>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread over an engine and its cache.
    pub(super) fn start(
        engine: Arc<Engine>,
        cache: Arc<RowCache>,
        durable: Arc<Durable>,
        on_failure: FailureHandler,
    ) -> io::Result<Self> {
        let (tasks, todo) = sync_channel(4);
        let (done, written) = sync_channel(1);
        let journal = Arc::clone(&durable);
        let thread = std::thread::Builder::new().name("atoll-checkpoint".into()).spawn(move || {
            for task in todo {
                match task {
                    Task::Free(garbage) => drop(garbage),
                    Task::Write(layer, checkpoint) => {
                        // K1
                        if !journal.wait_for(checkpoint.position) {
                            return;
                        }
                        match write(&engine, &cache, &layer, &checkpoint) {
                            Ok(base) => {
                                let _ = done.send(Arc::new(base));
                            }
                            // K3
                            Err(error) => return on_failure.tell(StoreFailure::Rows(error)),
                        }
                    }
                }
            }
        })?;
        Ok(Self { tasks: Some(tasks), written, is_running: false, durable, thread: Some(thread) })
    }

    /// Whether a checkpoint was begun and its end not yet picked up.
    pub(super) fn is_running(&self) -> bool {
        self.is_running
    }

    /// Begins a checkpoint; none is running. K2
    pub(super) fn begin(&mut self, layer: Arc<Layer>, checkpoint: Checkpoint) {
        debug_assert!(!self.is_running, "K2");
        if let Some(tasks) = &self.tasks {
            self.is_running = tasks.send(Task::Write(layer, checkpoint)).is_ok();
        }
    }

    /// The new base, if a checkpoint has ended.
    pub(super) fn ended(&mut self) -> Option<Arc<Base>> {
        let base = self.written.try_recv().ok()?;
        self.is_running = false;
        Some(base)
    }

    /// Waits for the running checkpoint; `None` when there is none, when it failed, or after `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> Option<Arc<Base>> {
        if !self.is_running {
            return None;
        }
        match self.written.recv_timeout(timeout) {
            Ok(base) => {
                self.is_running = false;
                Some(base)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.is_running = false;
                None
            }
        }
    }

    /// Has something freed by this thread.
    pub(super) fn free(&self, garbage: Garbage) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.try_send(Task::Free(garbage));
        }
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
) -> Result<Base, fjall::Error> {
    engine.write(layer, checkpoint)?;
    let snapshot = engine.snapshot();
    let generation = cache.advance(layer);
    Ok(Base { engine: Arc::clone(engine), cache: Arc::clone(cache), snapshot, generation })
}
