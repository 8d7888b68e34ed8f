//! Makes the next segment ahead of time, on a thread of its own, so that rolling does not wait for a disk.
//!
//! **What always holds.** Q1: at most one segment is prepared ahead. Q2: it is begun when a quarter of the current one is
//! full: an idle node keeps one segment only, and at 100 MB/s there is half a second left to fill 64 MiB with zeros. Q3: one
//! that could not be prepared ahead is tried once more when it is needed: what was missing, room say, may be there again.

use super::segment;
use super::segment_file::SegmentFile;
use atoll_replication::Position;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Stored indexes that may wait; one more is not stored, and that segment is read when the store is opened.
const INDEXES_MAX: usize = 16;

enum Task {
    Prepare,
    StoreIndex(Position, Vec<u8>),
}

/// The commit thread's side.
#[derive(Debug)]
pub(super) struct Preparer {
    directory: PathBuf,
    segment_bytes: u64,
    asked: bool,
    tasks: Option<SyncSender<Task>>,
    prepared: Receiver<io::Result<SegmentFile>>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// Starts the thread.
    pub(super) fn start(directory: &Path, segment_bytes: u64) -> io::Result<Self> {
        let (tasks, todo) = sync_channel(INDEXES_MAX);
        let (done, prepared) = sync_channel(1);
        let path = directory.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("atoll-segments".into())
            .spawn(move || run(&path, segment_bytes, &todo, &done))?;
        let (tasks, thread) = (Some(tasks), Some(thread));
        Ok(Self { directory: directory.to_path_buf(), segment_bytes, asked: false, tasks, prepared, thread })
    }

    /// The current segment is written up to here. Q2
    pub(super) fn filled_to(&mut self, offset: u64) {
        if !self.asked && offset > self.segment_bytes / 4 {
            self.ask();
        }
    }

    fn ask(&mut self) {
        if let Some(tasks) = &self.tasks {
            self.asked = tasks.send(Task::Prepare).is_ok();
        }
    }

    /// The next segment, ready to be written; waits if it is not prepared yet. Q3
    pub(super) fn next_segment(&mut self, first: Position) -> io::Result<SegmentFile> {
        let was_ahead = self.asked;
        let file = match self.take() {
            Err(error) if was_ahead => {
                tracing::warn!(%error, "the next journal segment was not prepared, and is tried again");
                self.take()?
            }
            taken => taken?,
        };
        segment::adopt(&self.directory, &file, first)?;
        Ok(file)
    }

    fn take(&mut self) -> io::Result<SegmentFile> {
        if !self.asked {
            self.ask();
        }
        self.asked = false;
        self.prepared.recv().map_err(|_| io::Error::other("the preparing thread has ended"))?
    }

    /// Stores the index of a full segment, sooner or later or never.
    pub(super) fn store_index(&self, first: Position, index: Vec<u8>) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.try_send(Task::StoreIndex(first, index));
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(directory: &Path, segment_bytes: u64, todo: &Receiver<Task>, done: &SyncSender<io::Result<SegmentFile>>) {
    for task in todo {
        match task {
            Task::Prepare => {
                if done.send(segment::prepare(directory, segment_bytes)).is_err() {
                    return;
                }
            }
            Task::StoreIndex(first, index) => {
                if let Err(error) = store_index(directory, first, &index) {
                    // It only spares reading the segment.
                    tracing::warn!(%error, segment = first.0, "the index of a journal segment was not stored");
                }
            }
        }
    }
}

fn store_index(directory: &Path, first: Position, index: &[u8]) -> io::Result<()> {
    let path = segment::index_path(directory, first);
    let new = path.with_extension("idx.tmp");
    std::fs::write(&new, index)?;
    std::fs::rename(new, path)
}
