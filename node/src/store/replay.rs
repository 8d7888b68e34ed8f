//! Opening: from what a crash left to the state after the last whole entry.
//!
//! **How it goes.** The row engine says at which position it stands. Segments that lie wholly before that are taken in by
//! their stored index, if there is one. All others are read: every record is indexed, and every entry after the
//! checkpoint is applied, by the code that applies it live. An unfinished write at the end is cut off.
//!
//! **What always holds.** O1: what is applied was synced first, so a checkpoint taken meanwhile is not ahead of the journal.
//! O2: positions have no gap, across segments and against the checkpoint. O3: nothing is cut off that a later mark, a
//! later segment or the checkpoint proves to have been durable.

use super::StoreConfig;
use super::aside::readopt;
use super::error::OpenError;
use super::group::Layout;
use super::index::Index;
use super::journal::Journal;
use super::scan::{Ending, Scanned, scan};
use super::segment::{self, HeaderError};
use super::segment_file::SegmentFile;
use super::state::State;
use atoll_crdt::ReadError;
use atoll_crdt::codec::DecodeError;
use atoll_replication::{CLEARS_MAX, Changes, Entry, LayerId, Position, RowChanges, replayed_changes};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries between two looks at whether a checkpoint is due.
const DRIVE_EVERY: u64 = 256;
/// Rows of a clear that are changed at once; of a larger one the rows are removed later, as in a running store.
const CLEAR_ROWS: usize = if cfg!(test) { 3 } else { 4_096 };

/// What opening found.
pub(super) struct Replayed {
    pub(super) journal: Journal,
    /// The segment that is written to.
    pub(super) segment: Position,
    pub(super) file: Arc<SegmentFile>,
    /// The last entry.
    pub(super) last: Position,
    /// Bytes of an unfinished write that were cut off.
    pub(super) cut_bytes: u64,
}

/// Reads the journal in `directory` on top of `state`.
pub(super) fn replay(directory: &Path, config: &StoreConfig, state: &mut State) -> Result<Replayed, OpenError> {
    let segments = segment::list(directory).map_err(OpenError::io(directory))?;
    let checkpoint = state.synced().position;
    let mut reading =
        Reading { directory, state, checkpoint, index: Index::default(), sealed: VecDeque::new(), next: Position(1) };
    let Some((last_segment, sealed)) = segments.split_last() else {
        reading.check_reaches_checkpoint(&segment::path(directory, Position(1)), 0)?;
        return begin(directory, config, reading.index);
    };
    reading.next = segments[0];
    if segments[0].0 > checkpoint.0 + 1 {
        let path = segment::path(directory, segments[0]);
        return Err(damaged(
            path,
            0,
            format!("entries {} to {} are missing before it", checkpoint.0 + 1, segments[0].0 - 1),
        ));
    }
    for (first, follows) in sealed.iter().zip(&segments[1..]) {
        reading.sealed(*first, *follows)?;
    }
    reading.last(*last_segment, config)
}

/// The first segment of a new data directory.
fn begin(directory: &Path, config: &StoreConfig, mut index: Index) -> Result<Replayed, OpenError> {
    let first = Position(1);
    let make = || {
        let file = segment::prepare(directory, config.segment_bytes)?;
        segment::adopt(directory, &file, first)?;
        Ok(file)
    };
    let file = Arc::new(make().map_err(OpenError::io(segment::path(directory, first)))?);
    index.begin_segment(first);
    let layout = Layout::new(config.segment_bytes, first, segment::HEADER_BYTES as u64, first);
    let journal = Journal::new(directory.into(), layout, index, VecDeque::new(), config.tail_bytes);
    Ok(Replayed { journal, segment: first, file, last: Position(0), cut_bytes: 0 })
}

struct Reading<'a> {
    directory: &'a Path,
    state: &'a mut State,
    checkpoint: Position,
    index: Index,
    /// Bytes of the files of full segments.
    sealed: VecDeque<u64>,
    /// The entry that is read next.
    next: Position,
}

impl Reading<'_> {
    /// A full segment that ends where `follows` begins.
    fn sealed(&mut self, first: Position, follows: Position) -> Result<(), OpenError> {
        let path = segment::path(self.directory, first);
        self.sealed.push_back(std::fs::metadata(&path).map_err(OpenError::io(&path))?.len());
        if follows.0 <= self.checkpoint.0 + 1 && self.by_stored_index(first, follows) {
            self.next = follows;
            return Ok(());
        }
        let (_, scanned) = self.read(first)?;
        // O2, O3: a segment is synced before the next one holds anything.
        if scanned.next == follows {
            return Ok(());
        }
        Err(damaged(path, scanned.end as u64, format!("entries {} to {} are missing", scanned.next.0, follows.0 - 1)))
    }

    fn by_stored_index(&mut self, first: Position, follows: Position) -> bool {
        let Ok(stored) = std::fs::read(segment::index_path(self.directory, first)) else { return false };
        self.index.add_segment(first, Position(follows.0 - 1), &stored).is_ok()
    }

    /// The segment that is written to, or the one before it if a crash came between.
    fn last(mut self, first: Position, config: &StoreConfig) -> Result<Replayed, OpenError> {
        let path = segment::path(self.directory, first);
        let (file, scanned) = self.read(first)?;
        let cut_bytes = match scanned.ending {
            Ending::Clean => 0,
            Ending::Torn(bytes) if scanned.next > self.checkpoint => bytes,
            Ending::Torn(_) | Ending::Damaged => {
                let durable = scanned.durable.max(self.checkpoint);
                let what =
                    format!("entry {} is missing, and everything up to {} was durable", scanned.next.0, durable.0);
                return Err(damaged(path, scanned.end as u64, what));
            }
        };
        self.check_reaches_checkpoint(&path, scanned.end as u64)?;
        if cut_bytes > 0 {
            tracing::warn!(segment = %path.display(), at = scanned.end, bytes = cut_bytes, "an unfinished write was cut off");
            cut(&file, scanned.end as u64, cut_bytes).map_err(OpenError::io(&path))?;
        }
        let layout = Layout::new(config.segment_bytes, first, scanned.end as u64, scanned.next);
        let journal = Journal::new(self.directory.into(), layout, self.index, self.sealed, config.tail_bytes);
        let last = Position(scanned.next.0 - 1);
        Ok(Replayed { journal, segment: first, file: Arc::new(file), last, cut_bytes })
    }

    /// O2
    fn check_reaches_checkpoint(&self, path: &Path, offset: u64) -> Result<(), OpenError> {
        if self.next.0 > self.checkpoint.0 {
            return Ok(());
        }
        let what =
            format!("entries {} to {} are missing, and rows stand at the last of them", self.next.0, self.checkpoint.0);
        Err(damaged(path.into(), offset, what))
    }

    /// Reads a segment: indexes its records, applies what the checkpoint does not have.
    fn read(&mut self, first: Position) -> Result<(SegmentFile, Scanned), OpenError> {
        let path = segment::path(self.directory, first);
        let open = || {
            let file = SegmentFile::open(&path)?;
            // O1
            file.sync_data()?;
            Ok((std::fs::read(&path)?, file))
        };
        let (bytes, file) = open().map_err(OpenError::io(&path))?;
        segment::check_header(&bytes, first).map_err(|error| match error {
            HeaderError::Damaged => damaged(path.clone(), 0, error.to_string()),
            HeaderError::Version(found) => OpenError::unknown_part(&path, found.to_string(), segment::VERSION),
        })?;
        self.index.begin_segment(first);
        let scanned = scan(&bytes, first, |position, offset, body| self.entry(&path, position, offset, body))?;
        self.next = scanned.next;
        Ok((file, scanned))
    }

    /// An entry that names a layer: as when it was appended, everything before it is in the engine first.
    fn adopt(&mut self, layer: LayerId, position: Position, entry: Entry, rows: RowChanges) -> Result<(), ReadError> {
        // When it was appended, nothing was being cleared.
        self.state.clear_all(CLEAR_ROWS)?;
        self.state.checkpoint();
        let empty = self.state.digests().empty();
        let rows = self.state.with_repairs_of(layer, rows)?;
        let adopting = readopt(&self.state.base().engine, layer, &rows, empty, &*self.state)?;
        self.state.absorb_layer(position, entry, rows, &adopting)
    }

    fn entry(&mut self, path: &Path, position: Position, offset: usize, body: &[u8]) -> Result<(), OpenError> {
        let at = |what: String| damaged(path.into(), offset as u64, what);
        let entry = Entry::decode(body).map_err(|error| undecodable(path, offset, error))?;
        if let Entry::Record(record) = &entry {
            self.index.add(record.dot(), offset as u32);
        }
        if position <= self.checkpoint {
            return Ok(());
        }
        let changes = match &entry {
            Entry::Record(bytes) => {
                let record = bytes.decode().map_err(|error| undecodable(path, offset, error))?;
                let context = &self.state.synced().state.clocks.context;
                let clear_rows = if self.state.clearing() < CLEARS_MAX { CLEAR_ROWS } else { usize::MAX };
                let (changes, holes) = replayed_changes(&record, context, self.state, clear_rows)
                    .map_err(|error| at(error.to_string()))?;
                for key in &holes {
                    self.state.forget(key).map_err(|error| at(error.to_string()))?;
                }
                changes
            }
            Entry::Adopt(adoption) => {
                let rows = adoption.row_changes(self.state).map_err(|error| at(error.to_string()))?;
                Changes { rows, clears: Vec::new() }
            }
            Entry::Start(_) | Entry::Ceiling(_) => Changes::default(),
        };
        let layer = if let Entry::Adopt(adoption) = &entry { adoption.layer } else { None };
        let absorbed = match layer {
            None => self.state.absorb(position, entry, changes),
            Some(layer) => self.adopt(layer, position, entry, changes.rows),
        };
        absorbed.map_err(|error| at(error.to_string()))?;
        self.state.settle(position);
        if position.0.is_multiple_of(DRIVE_EVERY) {
            self.state.drive_checkpoints();
        }
        Ok(())
    }
}

/// Writes zeros over an unfinished write, so that what is appended over it never meets its remains.
fn cut(file: &SegmentFile, at: u64, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; bytes as usize];
    file.write_all_at(&zeros, at)?;
    file.sync_data()
}

fn damaged(path: PathBuf, offset: u64, what: String) -> OpenError {
    OpenError::Damaged { path, offset, what }
}

/// An entry whose checksum is right and that cannot be read: from a newer version, or our bug.
fn undecodable(path: &Path, offset: usize, error: DecodeError) -> OpenError {
    match error {
        DecodeError::Unknown { what, value } => {
            OpenError::unknown_part(path, format!("{what} {value} at byte {offset}"), segment::VERSION)
        }
        other => damaged(path.into(), offset as u64, other.to_string()),
    }
}
