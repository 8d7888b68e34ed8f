//! Every segment of the journal, and its stored index: frame by frame, entry by entry, where it lies.
//!
//! **What is not here.** What entries do to rows ([`super::rehearsal`]).

use super::{DoctorError, Examination, Finding, JournalReport, Progress, Step, Verdict, io_error};
use crate::store::frame::{self, Frame, Parsed};
use crate::store::index::Index;
use crate::store::scan::{Ending, Scanned, scan};
use crate::store::segment;
use atoll_replication::{Entry, Position};
use std::io;
use std::path::{Path, PathBuf};

/// Findings about segments that are told one by one; of further damage the first of it tells enough.
const FINDINGS_MAX: usize = 100;

struct Reading<'a> {
    directory: &'a Path,
    checkpoint: Position,
    report: JournalReport,
    findings: Vec<Finding>,
}

/// Reads all of it.
pub(super) fn examine(
    directory: &Path,
    checkpoint: Position,
    found: &mut Examination,
    progress: &mut Progress<'_>,
) -> Result<(), DoctorError> {
    let segments = list(directory, found)?;
    let report = JournalReport { first: segments.first().map_or(0, |first| first.0), ..JournalReport::default() };
    let mut reading = Reading { directory, checkpoint, report, findings: Vec::new() };
    if let Some(first) = segments.first()
        && first.0 > checkpoint.0 + 1
        && found.rows.is_some()
    {
        let what = format!("entries {} to {} are missing before it", checkpoint.0 + 1, first.0 - 1);
        reading.damage(segment::path(directory, *first), 0, what, Verdict::RefusesToStart);
    }
    let mut done = 0;
    for (nth, first) in segments.iter().enumerate() {
        done += reading.segment(*first, segments.get(nth + 1).copied())?;
        progress(Step::Journal(done, found.bytes.journal));
    }
    let Reading { report, findings, .. } = reading;
    let reaches = segments.is_empty() || report.last >= checkpoint.0 || !findings.is_empty();
    if !reaches || (segments.is_empty() && checkpoint.0 > 0) {
        found.findings.push(Finding {
            means: Verdict::RefusesToStart,
            what: format!("the journal ends with entry {}, and the rows stand at {}", report.last, checkpoint.0),
            file: Some(directory.to_owned()),
            byte: None,
            lost: Some("everything that no peer holds".to_owned()),
            todo:
                "keep a copy of the directory, then start with an empty one: the node fetches everything from its peers"
                    .to_owned(),
        });
    }
    found.journal = report;
    found.findings.extend(findings.into_iter().take(FINDINGS_MAX));
    Ok(())
}

impl Reading<'_> {
    /// One segment; gives its bytes.
    fn segment(&mut self, first: Position, follows: Option<Position>) -> Result<u64, DoctorError> {
        let path = segment::path(self.directory, first);
        let bytes = std::fs::read(&path).map_err(io_error(&path))?;
        self.report.segments += 1;
        let read_by_start = self.index(first, follows, &bytes)?;
        // What a start does not read it does not refuse.
        let means = if read_by_start { Verdict::RefusesToStart } else { Verdict::NeedsAttention };
        if let Err(error) = segment::check_header(&bytes, first) {
            self.damage(path, 0, error.to_string(), means);
            return Ok(bytes.len() as u64);
        }
        let mut unreadable = None;
        let outcome = scan(&bytes, first, |position, offset, body| {
            self.report.last = self.report.last.max(position.0);
            self.report.entries += 1;
            match readable(body) {
                Ok(is_record) => self.report.records += u64::from(is_record),
                Err(what) => _ = unreadable.get_or_insert((offset, position, what)),
            }
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(scanned) = outcome;
        if let Some((offset, position, what)) = unreadable {
            self.damage(path.clone(), offset as u64, format!("entry {} does not read: {what}", position.0), means);
        }
        self.ending(path, &bytes, &scanned, follows, means);
        Ok(bytes.len() as u64)
    }

    fn ending(&mut self, path: PathBuf, bytes: &[u8], scanned: &Scanned, follows: Option<Position>, means: Verdict) {
        let at = scanned.end as u64;
        match (follows, scanned.ending) {
            (Some(follows), _) if scanned.next != follows => {
                let what = missing(bytes, scanned, Position(follows.0 - 1));
                self.damage(path, at, what, means);
            }
            (None, Ending::Torn(cut)) if scanned.next > self.checkpoint => {
                self.report.unfinished_bytes = cut;
                let what =
                    format!("a write of {cut} bytes was never finished, and nobody was told that it was durable");
                self.findings.push(Finding {
                    file: Some(path),
                    byte: Some(at),
                    lost: Some("nothing that was acknowledged".to_owned()),
                    todo: "nothing: a start cuts it off".to_owned(),
                    ..Finding::note(&what)
                });
            }
            (None, Ending::Torn(_) | Ending::Damaged) => {
                let durable = scanned.durable.max(self.checkpoint);
                let what = missing(bytes, scanned, durable);
                self.damage(path, at, what, Verdict::RefusesToStart);
            }
            _ => {}
        }
    }

    /// Whether a start reads the segment, and does not take it in by its index. An index that says other than the segment is
    /// told here.
    fn index(&mut self, first: Position, follows: Option<Position>, bytes: &[u8]) -> Result<bool, DoctorError> {
        let Some(follows) = follows else { return Ok(true) };
        let path = segment::index_path(self.directory, first);
        let stored = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            stored => stored.map_err(io_error(&path))?,
        };
        let last = Position(follows.0 - 1);
        if Index::default().add_segment(first, last, &stored).is_err() {
            self.findings.push(Finding {
                file: Some(path),
                todo: "nothing: a start reads the segment instead".to_owned(),
                ..Finding::note("a stored index is damaged")
            });
            return Ok(true);
        }
        let read_by_start = follows.0 > self.checkpoint.0 + 1;
        let mut index = Index::default();
        index.begin_segment(first);
        let Ok(scanned) = scan(bytes, first, |_, offset, body| {
            if let Ok(Entry::Record(record)) = Entry::decode(body) {
                index.add(record.dot(), offset as u32);
            }
            Ok::<(), std::convert::Infallible>(())
        });
        if scanned.next != follows || index.encode_segment(last, scanned.end as u32) == stored {
            self.report.indexes += u64::from(scanned.next == follows);
        } else {
            self.findings.push(Finding {
                means: Verdict::NeedsAttention,
                file: Some(path),
                lost: Some("nothing".to_owned()),
                todo: "delete this file: the segment is read instead".to_owned(),
                ..Finding::note("a stored index is not that of its segment, although its checksum is right")
            });
        }
        Ok(read_by_start)
    }

    fn damage(&mut self, path: PathBuf, byte: u64, what: String, means: Verdict) {
        let behind = if means == Verdict::RefusesToStart {
            "whatever of the entries from there on no peer holds"
        } else {
            "nothing that is shown: the rows have these entries; peers that lack them cannot get them from here"
        };
        let todo = if means == Verdict::RefusesToStart {
            "keep a copy of the directory, then start with an empty one: the node fetches everything from its peers"
        } else {
            "a start does not read this, but ends when a peer asks for it: keep a copy, then start with an empty directory"
        };
        self.findings.push(Finding {
            means,
            what,
            file: Some(path),
            byte: Some(byte),
            lost: Some(behind.to_owned()),
            todo: todo.to_owned(),
        });
    }
}

/// What is missing of what was durable, and where whole entries go on.
fn missing(bytes: &[u8], scanned: &Scanned, durable: Position) -> String {
    let next = scanned.next;
    let up_to = format!("entry {} is damaged, and everything up to {} was durable", next.0, durable.0);
    let later = (scanned.end..bytes.len()).step_by(frame::ALIGNMENT).skip(1).find_map(|at| {
        let claimed = frame::claimed_position(&bytes[at..]).filter(|position| *position > next)?;
        // Without this every offset would be summed up.
        (claimed.0 <= next.0 + bytes.len() as u64).then_some(())?;
        match frame::parse(&bytes[at..]) {
            Parsed::Frame(Frame::Entry { position, .. }, _) => Some((position, at)),
            _ => None,
        }
    });
    match later {
        Some((position, at)) => format!("{up_to}; whole entries go on with {} at byte {at}", position.0),
        None => format!("{up_to}; no whole entry follows in this file"),
    }
}

/// Whether an entry is a record, if it reads.
fn readable(body: &[u8]) -> Result<bool, String> {
    match Entry::decode(body).map_err(|error| error.to_string())? {
        Entry::Record(record) => record.decode().map(|_| true).map_err(|error| error.to_string()),
        Entry::Adopt(_) | Entry::Start(_) | Entry::Ceiling(_) => Ok(false),
    }
}

/// The segments, in order. What a start deletes is said.
fn list(directory: &Path, found: &mut Examination) -> Result<Vec<Position>, DoctorError> {
    let mut segments = Vec::new();
    let items = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(segments),
        items => items.map_err(io_error(directory))?,
    };
    for item in items {
        let path = item.map_err(io_error(directory))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| u64::from_str_radix(stem, 16).ok());
        match (path.extension().and_then(|extension| extension.to_str()), stem) {
            (Some("seg"), Some(first)) => segments.push(Position(first)),
            (Some("seg"), None) => {
                let what = format!("{} is not named as a journal segment is", path.display());
                found.findings.push(Finding {
                    means: Verdict::RefusesToStart,
                    file: Some(path),
                    todo: "move it away if it is not ours".to_owned(),
                    ..Finding::note(&what)
                });
            }
            (Some("idx"), _) if !path.with_extension("seg").exists() => {
                found.findings.push(Finding {
                    file: Some(path),
                    todo: "nothing: a start deletes it".to_owned(),
                    ..Finding::note("an index lies here without its segment")
                });
            }
            _ => {}
        }
    }
    segments.sort_unstable();
    Ok(segments)
}
