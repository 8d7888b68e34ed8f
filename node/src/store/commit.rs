//! The commit thread: one write and one sync for everything that has gathered.
//!
//! **How it goes.** It takes all groups that are queued, writes them, syncs, and reports the last position; meanwhile the
//! next groups gather. When a part begins a new segment, the last one is synced first and the prepared file takes its
//! place.
//!
//! **What always holds.** C1: with [`SyncMode::Always`] a position is reported after a sync that covers it. With
//! [`SyncMode::Interval`] it is reported once written: a power cut may lose as much as the interval, a crash of the
//! process nothing. C2: after a failed write or sync nothing is reported again, and the failure is told once; the
//! process must end, because what a failed sync left in the file is unknown. C3: at most [`QUEUED_MAX`] groups wait; one
//! more blocks whoever submits it. C4: a mark never claims more than was synced before its write.
//!
//! **Why no delay to gather more.** The groups that come while a sync runs are the next write; with 64 writers that
//! alone makes groups of some 45, and a lone writer waits for nobody.

use super::commit_stats::CommitStats;
use super::config::SyncMode;
use super::directory::Directory;
use super::error::{FailureHandler, StoreFailure};
use super::frame;
use super::group::{Group, Part};
use super::preparer::Preparer;
use super::segment_file::SegmentFile;
use atoll_replication::Position;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Groups that may wait for the commit thread.
pub const QUEUED_MAX: usize = 4;

/// Hands groups to the commit thread. Dropping it writes and syncs what is queued, and ends the thread.
#[derive(Debug)]
pub struct CommitQueue {
    groups: Option<SyncSender<Group>>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<CommitStats>,
}

impl CommitQueue {
    /// Hands in a group; blocks while [`QUEUED_MAX`] wait. After a failure it is dropped, and never reported durable.
    pub fn submit(&self, group: Group) {
        if let Some(groups) = &self.groups {
            // The thread is gone only after a failure, which was told.
            let _ = groups.send(group);
        }
    }

    /// What the commit thread has done so far.
    #[must_use]
    pub fn stats(&self) -> Arc<CommitStats> {
        Arc::clone(&self.stats)
    }
}

impl Drop for CommitQueue {
    fn drop(&mut self) {
        self.groups = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How far the journal is on disk, for a checkpoint that must not be ahead of it.
#[derive(Debug, Default)]
pub(super) struct Durable {
    state: Mutex<(Position, bool)>,
    changed: Condvar,
}

impl Durable {
    /// A journal that is durable up to `position`.
    pub(super) fn new(position: Position) -> Self {
        Self { state: Mutex::new((position, false)), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, (Position, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to `position` is on disk.
    pub(super) fn advance(&self, position: Position) {
        self.state().0 = position;
        self.changed.notify_all();
    }

    /// Nobody waits any longer for what is not on disk now.
    pub(super) fn end(&self) {
        self.state().1 = true;
        self.changed.notify_all();
    }

    /// Waits until everything up to `position` is on disk; `false` when it will not be waited for any longer.
    pub(super) fn wait_for(&self, position: Position) -> bool {
        let state = self.state();
        let waiting = |state: &mut (Position, bool)| state.0 < position && !state.1;
        self.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner).0 >= position
    }
}

/// The thread's own.
pub(super) struct Committer<F> {
    pub(super) mode: SyncMode,
    /// The segment that is written to.
    pub(super) segment: Position,
    pub(super) file: Arc<SegmentFile>,
    pub(super) preparer: Preparer,
    pub(super) durable: Arc<Durable>,
    pub(super) on_synced: F,
    pub(super) on_failure: FailureHandler,
    /// What was written last, and synced last.
    pub(super) written: Position,
    pub(super) synced: Position,
    /// The lock, for as long as something may be written.
    pub(super) _directory: Arc<Directory>,
}

impl<F: Fn(Position) + Send + 'static> Committer<F> {
    /// Starts the thread.
    pub(super) fn start(self) -> io::Result<CommitQueue> {
        let stats = Arc::new(CommitStats::default());
        let (groups, receiver) = sync_channel(QUEUED_MAX);
        let of_thread = Arc::clone(&stats);
        let thread =
            std::thread::Builder::new().name("atoll-commit".into()).spawn(move || self.run(&receiver, &of_thread))?;
        Ok(CommitQueue { groups: Some(groups), thread: Some(thread), stats })
    }

    fn run(mut self, groups: &Receiver<Group>, stats: &CommitStats) {
        if let Err(error) = self.commit_all(groups, stats) {
            // C2
            tracing::error!(%error, "the journal cannot be written");
            self.on_failure.tell(StoreFailure::Journal(error));
        }
        self.durable.end();
    }

    fn commit_all(&mut self, groups: &Receiver<Group>, stats: &CommitStats) -> io::Result<()> {
        let mut sync_due = None;
        loop {
            let next = match sync_due {
                None => groups.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => groups.recv_timeout(Instant::saturating_duration_since(&due, Instant::now())),
            };
            match next {
                Ok(first) => {
                    let (last, entries, bytes) = self.write_all(first, groups)?;
                    match self.mode {
                        SyncMode::Always => self.sync(stats)?,
                        SyncMode::Interval(every) => {
                            sync_due.get_or_insert_with(|| Instant::now() + every);
                        }
                    }
                    stats.wrote(entries, bytes);
                    // C1
                    (self.on_synced)(last);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return if self.synced < self.written { self.sync(stats) } else { Ok(()) };
                }
            }
            if sync_due.is_some_and(|due| due <= Instant::now()) {
                self.sync(stats)?;
                sync_due = None;
            }
        }
    }

    /// Writes `first` and all that is queued behind it.
    fn write_all(&mut self, first: Group, groups: &Receiver<Group>) -> io::Result<(Position, u64, u64)> {
        let (mut last, mut entries, mut bytes) = (first.last, first.entries, 0);
        let mut parts = first.parts;
        for group in groups.try_iter().take(QUEUED_MAX) {
            (last, entries) = (group.last, entries + group.entries);
            parts.extend(group.parts);
        }
        let mut run: Option<Part> = None;
        for mut part in parts {
            bytes += part.bytes.len() as u64;
            // C4; after a roll inside this write more is synced, and claiming less is no harm.
            frame::fill_mark(&mut part.bytes, part.first, self.synced);
            match &mut run {
                Some(run) if run.segment == part.segment => run.bytes.extend_from_slice(&part.bytes),
                _ => {
                    if let Some(run) = run.replace(part) {
                        self.write(run)?;
                    }
                }
            }
        }
        if let Some(run) = run {
            self.write(run)?;
        }
        self.written = last;
        Ok((last, entries, bytes))
    }

    fn write(&mut self, part: Part) -> io::Result<()> {
        if part.segment != self.segment {
            self.roll(part.segment, part.sealed_index)?;
        }
        self.file.write_all_at(&part.bytes, part.offset)?;
        self.preparer.filled_to(part.offset + part.bytes.len() as u64);
        Ok(())
    }

    /// The last segment must be whole before the next one holds anything.
    fn roll(&mut self, first: Position, sealed_index: Option<Vec<u8>>) -> io::Result<()> {
        self.file.sync_data()?;
        let sealed = std::mem::replace(&mut self.segment, first);
        self.file = Arc::new(self.preparer.next_segment(first)?);
        if let Some(index) = sealed_index {
            self.preparer.store_index(sealed, index);
        }
        Ok(())
    }

    fn sync(&mut self, stats: &CommitStats) -> io::Result<()> {
        let begin = Instant::now();
        self.file.sync_data()?;
        stats.synced(begin.elapsed());
        self.synced = self.written;
        self.durable.advance(self.synced);
        Ok(())
    }
}
