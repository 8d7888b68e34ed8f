//! A look at a stopped node's directory: what is in it, what of it is damaged, what a start would do. Nothing in it is changed.
//!
//! **How it goes.** The directory's lock is taken, so that no node starts meanwhile. A *likeness* of it is made beside it
//! ([`likeness`]), and the rows are read there ([`rows`]); the segments of the journal are read where they lie ([`journal`]). Then
//! the store is opened in a fresh likeness, by the code of a start ([`rehearsal`]), which says what a start would say.
//!
//! **What always holds.** K1: not a byte of the directory changes, and no name in it. K2: what is said of a start is what a start did, on
//! the same bytes. K3: what is found is named with its file and byte, with what is lost if nobody else has it, and with what to do.
//!
//! **Why a likeness.** The row engine has no opening that only reads: it cuts its own log, writes tables, compacts; and a start of ours
//! cuts unfinished writes and makes damaged files anew. A second opening that changes nothing would be another program, and
//! sooner or later say something else than the first.

mod findings;
mod journal;
mod likeness;
mod rehearsal;
mod rows;

use super::StoreConfig;
use super::checkpoint::Checkpoint;
use super::directory::{self, FormatFound};
use super::engine::Engine;
use super::error::OpenError;
use super::sketch_file;
use atoll_crdt::RowKey;
pub use findings::{Bytes, ClocksReport, Examination, Finding, JournalReport, RowsReport, Verdict};
use likeness::Likeness;
use rehearsal::Started;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What is to be looked at, and what is known of it.
#[derive(Debug, Clone)]
pub struct Patient {
    /// Its directory, and how a start would open it.
    pub store: StoreConfig,
    /// Whether `store.digest_key` is the cluster's. Without it rows are compared with their checksums alone, and no start is rehearsed:
    /// it would index every row anew.
    pub knows_secret: bool,
    /// Where the likeness is made; `None`: beside the directory. On the same file system most files are linked, not copied.
    pub scratch: Option<PathBuf>,
    /// How people name a row.
    pub name_of: fn(&RowKey) -> String,
}

/// What is being done, and how far it is: done, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Files are linked and copied: bytes.
    Likeness(u64, u64),
    /// Rows are read: rows, of about as many.
    Rows(u64, u64),
    /// The journal is read: bytes.
    Journal(u64, u64),
    /// A start is rehearsed, which reads every row once more.
    Start,
}

/// Told of every step.
pub type Progress<'a> = dyn FnMut(Step) + 'a;

/// Why nothing was looked at. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is no such directory (operator).
    #[error("{} is no directory", .dir.display())]
    NoDirectory {
        /// What was named.
        dir: PathBuf,
    },
    /// A node has it open (operator).
    #[error("{} is in use by a running process; stop the node first: what it writes meanwhile would look like damage", .dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The likeness does not fit (operator).
    #[error(
        "{} has room for {available} bytes, and {needed} are needed to rehearse a start; name another place with --scratch",
        .dir.display()
    )]
    NoRoom {
        /// Where it was to be made.
        dir: PathBuf,
        /// Bytes that there are.
        available: u64,
        /// Bytes that it takes.
        needed: u64,
    },
    /// The operating system refused something (environment).
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DoctorError {
    let path = path.to_owned();
    move |source| DoctorError::Io { path, source }
}

/// Looks at a directory.
///
/// # Errors
/// It cannot be looked at: see [`DoctorError`]. What is wrong *in* it is no error but a finding.
pub fn examine(patient: &Patient, progress: &mut Progress<'_>) -> Result<Examination, DoctorError> {
    let dir = patient.store.dir.canonicalize().ok().filter(|dir| dir.is_dir());
    let dir = dir.ok_or_else(|| DoctorError::NoDirectory { dir: patient.store.dir.clone() })?;
    let _lock = lock(&dir)?;
    let mut found = Examination::of(&dir, likeness::bytes(&dir)?);
    if !look_at_format(&dir, &mut found)? {
        return Ok(found.judged());
    }
    let (checkpoint, room) = {
        let likeness = Likeness::make(&dir, patient.scratch.as_deref(), progress)?;
        let config = StoreConfig { dir: likeness.path().to_owned(), ..patient.store.clone() };
        (look_at_rows(patient, &config, &dir, &mut found, progress), likeness.room()?)
    };
    let at = checkpoint.as_ref().map(|checkpoint| checkpoint.position).unwrap_or_default();
    journal::examine(&dir.join("journal"), at, &mut found, progress)?;
    if found.has_damaged_blocks && room < found.bytes.rows {
        found.findings.push(Finding::short_of_room(found.bytes.rows));
    } else if patient.knows_secret && checkpoint.is_some() {
        // Another one: the first has been opened, and an engine that has lost files is not the same after that. K2
        let likeness = Likeness::make(&dir, patient.scratch.as_deref(), progress)?;
        progress(Step::Start);
        let started = rehearsal::start(StoreConfig { dir: likeness.path().to_owned(), ..patient.store.clone() });
        tell_start(patient, &dir, &likeness, started, &mut found);
    }
    if let (None, Some(checkpoint)) = (&found.clocks, &checkpoint) {
        found.clocks = Some(ClocksReport::of(&checkpoint.state));
    }
    found.look_at_clocks(SystemTime::now());
    Ok(found.judged())
}

/// Keeps nodes from starting while it is held. A lock needs no write. K1
fn lock(dir: &Path) -> Result<Option<File>, DoctorError> {
    let path = dir.join("LOCK");
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io_error(&path))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(DoctorError::InUse { dir: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(DoctorError::Io { path, source }),
    }
}

/// Whether the rest is in a format that can be read.
fn look_at_format(dir: &Path, found: &mut Examination) -> Result<bool, DoctorError> {
    let path = dir.join("FORMAT");
    match directory::format_of(dir).map_err(io_error(&path))? {
        FormatFound::Empty => {
            found.findings.push(Finding::note("there is no data here: a start makes a new node of it"));
            Ok(false)
        }
        FormatFound::Known(version) => {
            found.format = Some(version.to_string());
            Ok(true)
        }
        FormatFound::Other(text) => {
            let error = OpenError::unknown_format(&path, text);
            found.findings.push(Finding {
                means: Verdict::RefusesToStart,
                what: error.to_string(),
                file: Some(path),
                byte: Some(0),
                lost: Some("nothing by this alone: another version reads it".to_owned()),
                todo: "run the version that wrote it, or one that reads it; nothing else here was looked at".to_owned(),
            });
            Ok(false)
        }
    }
}

/// The row engine and its checkpoint, as the likeness has them.
fn look_at_rows(
    patient: &Patient,
    config: &StoreConfig,
    dir: &Path,
    found: &mut Examination,
    progress: &mut Progress<'_>,
) -> Option<Checkpoint> {
    let opened = directory::Directory::open(&config.dir)
        .and_then(|directory| Engine::open(&Arc::new(directory), config.cache_bytes / 2, &config.digest_key));
    let (engine, checkpoint) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            found.findings.push(Finding::of_open(&error, dir, &config.dir, found.journal_begins_with_1(dir)));
            return None;
        }
    };
    found.sketch = rows::sketch_state(&sketch_file_of(dir), &engine, &checkpoint, config).to_owned();
    let report = rows::examine(&engine, &checkpoint, patient, found, progress);
    found.rows = Some(report);
    Some(checkpoint)
}

fn sketch_file_of(dir: &Path) -> PathBuf {
    dir.join(sketch_file::NAME)
}

/// What a start did. K2
fn tell_start(
    patient: &Patient,
    dir: &Path,
    likeness: &Likeness,
    started: Result<Started, OpenError>,
    found: &mut Examination,
) {
    match started {
        Err(error) => {
            let begins_with_1 = found.journal_begins_with_1(dir);
            found.findings.push(Finding::of_open(&error, dir, likeness.path(), begins_with_1));
        }
        Ok(started) => {
            found.clocks = Some(ClocksReport::of(&started.recovered));
            if let Some(rows) = &mut found.rows {
                // A start knows more: a newer row in the journal writes over a damaged one.
                rows.holes = started.holes.iter().map(|key| (patient.name_of)(key)).collect();
                rows.rows_after_start = Some(started.rows);
            }
            if let Some(failure) = started.failure {
                found.findings.push(Finding::failed_start(&failure));
            }
        }
    }
}
