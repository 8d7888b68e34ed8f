//! The journal as the replica thread sees it: appending, and reading any actor's log.
//!
//! **What always holds.** J1: [`Journal::log`] shows every record appended, synced or not: what is not in a file is in the
//! tail. J2: bytes read from a file are checked again; a damaged one is an error and never a gap.
//!
//! **What is not here.** Writing ([`super::commit`]) and opening ([`super::replay`]).

use super::config::Retention;
use super::frame::{self, Frame, Parsed};
use super::group::{Group, Layout};
use super::index::{Index, STRIDE_BYTES};
use super::retention::{Droppable, Horizon, verdict};
use super::segment;
use super::tail::Tail;
use atoll_crdt::{ActorId, Dot, ReadError};
use atoll_replication::{Entry, Position, RecordBytes};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Read from a segment at once.
const READ_BYTES: usize = 2 * STRIDE_BYTES as usize;
/// Segments that are kept open for reading.
const FILES_MAX: usize = 32;

/// The journal.
#[derive(Debug)]
pub(super) struct Journal {
    layout: Layout,
    index: Index,
    tail: Tail,
    segments: Segments,
    /// Bytes of the files of full segments, oldest first, and of all of them.
    sealed: VecDeque<u64>,
    sealed_bytes: u64,
}

impl Journal {
    /// A journal that was opened; `sealed` are the bytes of the files of its full segments.
    pub(super) fn new(
        directory: PathBuf,
        layout: Layout,
        index: Index,
        sealed: VecDeque<u64>,
        tail_bytes: usize,
    ) -> Self {
        let segments = Segments { directory, files: RefCell::default() };
        let sealed_bytes = sealed.iter().sum();
        Self { layout, index, tail: Tail::new(tail_bytes), segments, sealed, sealed_bytes }
    }

    /// Appends an entry to the group that is gathering.
    pub(super) fn append(&mut self, entry: &Entry) -> Position {
        let (segment, bytes) = self.layout.segment();
        let position = self.layout.append(entry, &mut self.index);
        if self.layout.segment().0 != segment {
            self.sealed.push_back(bytes);
            self.sealed_bytes += bytes;
        }
        if let Entry::Record(record) = entry {
            self.tail.push(position, record.clone());
        }
        position
    }

    /// The position of the last entry.
    pub(super) fn last(&self) -> Position {
        self.layout.last()
    }

    /// What has gathered.
    pub(super) fn take_group(&mut self) -> Option<Group> {
        self.layout.take()
    }

    /// Everything up to here is in the files.
    pub(super) fn written(&mut self, position: Position) {
        self.tail.trim(position);
    }

    /// The lowest seq of an actor that can be read.
    pub(super) fn log_start(&self, actor: ActorId) -> Option<u64> {
        self.index.first(actor)
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.sealed_bytes + self.layout.segment().1
    }

    /// Segments that may go now, oldest first.
    pub(super) fn droppable(&self, rule: &Retention, horizon: &Horizon<'_>) -> Vec<Droppable> {
        let (mut found, mut bytes) = (Vec::new(), self.bytes());
        for (nth, (first, follows)) in self.index.sealed().enumerate() {
            // R1
            if follows.0 > horizon.checkpoint.0 + 1 {
                break;
            }
            let is_covered =
                self.index.newest_in(nth).all(|dot| horizon.stable.covers(dot) || horizon.unlogged.covers(dot));
            // R2
            let Some(by_cap) = verdict(rule, self.segments.age(first), bytes, is_covered) else { break };
            bytes -= self.sealed.get(nth).copied().unwrap_or_default();
            found.push(Droppable { first, follows, by_cap });
        }
        found
    }

    /// Forgets the oldest segment, whose file goes.
    pub(super) fn drop_oldest(&mut self, segment: Droppable) {
        self.index.drop_oldest();
        self.tail.forget(Position(segment.follows.0 - 1));
        self.segments.files.get_mut().remove(&segment.first);
        self.sealed_bytes -= self.sealed.pop_front().unwrap_or_default();
    }

    /// Records of an actor from `from` on, without a gap. J1
    pub(super) fn log(&self, actor: ActorId, from: u64, bytes_max: usize) -> Result<Vec<RecordBytes>, ReadError> {
        let from = from.max(1);
        let mut out = Batch { records: Vec::new(), bytes: 0, bytes_max };
        let Some(last) = self.index.last(actor).filter(|last| from <= *last) else { return Ok(out.records) };
        let in_memory = self.tail.first(actor).unwrap_or(last + 1);
        if from < in_memory {
            self.read(Dot::new(actor, from), in_memory, &mut out)?;
        }
        let next = out.records.last().map_or(from, |record| record.dot().seq + 1);
        if next >= in_memory {
            for record in self.tail.from(actor, next) {
                if !out.take(record) {
                    break;
                }
            }
        }
        Ok(out.records)
    }

    /// Reads from files: records from `from` on and below `until`, as long as there is room.
    fn read(&self, from: Dot, until: u64, out: &mut Batch) -> Result<(), ReadError> {
        let mut wanted = from;
        while wanted.seq < until {
            let Some((segment, place)) = self.index.find(wanted) else { return Ok(()) };
            let found = wanted.seq;
            let mut reader = self.segments.reader(segment, u64::from(place.offset))?;
            // X1: beyond a stride without a hit, the index knows better.
            let mut seen_at = reader.offset;
            while let Some(record) = reader.next_record()? {
                if record.dot() == wanted {
                    if !out.take(&record) {
                        return Ok(());
                    }
                    wanted.seq += 1;
                    seen_at = reader.offset;
                }
                if wanted.seq == until || reader.offset - seen_at > 2 * u64::from(STRIDE_BYTES) {
                    break;
                }
            }
            if wanted.seq == found {
                return Err(damaged(&segment::path(&self.segments.directory, segment), reader.offset));
            }
        }
        Ok(())
    }

    /// Bytes of records kept in memory.
    pub(super) fn tail_bytes(&self) -> usize {
        self.tail.bytes()
    }
}

/// Records for one message.
struct Batch {
    records: Vec<RecordBytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Batch {
    /// Takes a record if there is room; the first one always.
    fn take(&mut self, record: &RecordBytes) -> bool {
        let bytes = self.bytes + record.as_bytes().len();
        let fits = self.records.is_empty() || bytes <= self.bytes_max;
        if fits {
            self.bytes = bytes;
            self.records.push(record.clone());
        }
        fits
    }
}

/// The files, opened when they are first read.
#[derive(Debug)]
struct Segments {
    directory: PathBuf,
    files: RefCell<BTreeMap<Position, File>>,
}

impl Segments {
    /// How long ago a full segment was written last; no time at all if that cannot be said.
    fn age(&self, first: Position) -> Duration {
        let modified =
            std::fs::metadata(segment::path(&self.directory, first)).and_then(|metadata| metadata.modified());
        modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
    }

    fn reader(&self, first: Position, offset: u64) -> Result<Reader<'_>, ReadError> {
        let mut files = self.files.borrow_mut();
        if !files.contains_key(&first) {
            if files.len() >= FILES_MAX {
                files.pop_first();
            }
            let path = segment::path(&self.directory, first);
            let file = File::open(&path).map_err(|error| failed(&path, &error))?;
            files.insert(first, file);
        }
        Ok(Reader { segments: self, first, offset, buffer: Vec::new(), at: 0 })
    }
}

/// Reads records of one segment, front to back.
struct Reader<'a> {
    segments: &'a Segments,
    first: Position,
    /// Of the next frame.
    offset: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl Reader<'_> {
    /// The next record of any actor; `None` at the end.
    fn next_record(&mut self) -> Result<Option<RecordBytes>, ReadError> {
        loop {
            self.fill(frame::HEADER_BYTES)?;
            if let Some(needed) = frame::claimed_bytes(&self.buffer[self.at..]) {
                self.fill(needed)?;
            }
            match frame::parse(&self.buffer[self.at..]) {
                Parsed::Frame(frame, taken) => {
                    let entry = match frame {
                        Frame::Entry { body, .. } => Some(Entry::decode(body)),
                        Frame::Mark { .. } => None,
                    };
                    let at = self.offset;
                    self.at += taken;
                    self.offset += taken as u64;
                    match entry {
                        Some(Ok(Entry::Record(record))) => return Ok(Some(record)),
                        Some(Err(_)) => return Err(damaged(&self.path(), at)),
                        Some(Ok(_)) | None => {}
                    }
                }
                Parsed::End => return Ok(None),
                // J2
                Parsed::Bad => return Err(damaged(&self.path(), self.offset)),
            }
        }
    }

    /// Has at least `needed` bytes in the buffer, unless the file ends.
    fn fill(&mut self, needed: usize) -> Result<(), ReadError> {
        if self.buffer.len() - self.at >= needed {
            return Ok(());
        }
        let files = self.segments.files.borrow();
        let Some(file) = files.get(&self.first) else { return Ok(()) };
        self.buffer.clear();
        self.at = 0;
        self.buffer.resize(needed.max(READ_BYTES), 0);
        let mut filled = 0;
        while filled < self.buffer.len() {
            match file.read_at(&mut self.buffer[filled..], self.offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&self.path(), &error)),
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        segment::path(&self.segments.directory, self.first)
    }
}

fn damaged(path: &std::path::Path, offset: u64) -> ReadError {
    ReadError::Failed(format!("{} is damaged at byte {offset}", path.display()))
}

fn failed(path: &std::path::Path, error: &std::io::Error) -> ReadError {
    ReadError::Failed(format!("{}: {error}", path.display()))
}
