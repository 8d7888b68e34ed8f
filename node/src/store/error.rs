//! What can go wrong with the store, whose fault it is, and what to do.

use super::directory;
use atoll_crdt::ReadError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a data directory was not opened. Nothing in it was changed, except where a variant says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open (operator: end that one, or give this one its own directory).
    #[error("{} is in use by another process", .dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// It was written by a version that this one does not know (operator: what is advised).
    #[error("{} has format {found}, and this program reads format {known}; {advice}", .path.display())]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this program reads.
        known: u32,
        /// What to do.
        advice: String,
    },
    /// A backup was being restored into it, and that has not ended (operator: restore it again).
    #[error(
        "{} is half restored from a backup; run 'atoll restore' into it again, or, to start without the backup, remove \
         'restoring' from it", .dir.display()
    )]
    HalfRestored {
        /// The data directory.
        dir: PathBuf,
    },
    /// It was restored for a cluster of another name (operator: configure that name, or restore it for this cluster).
    #[error("{} was restored for the cluster '{found}', and the node is configured for '{configured}'", .dir.display())]
    Cluster {
        /// The data directory.
        dir: PathBuf,
        /// For which cluster it was restored.
        found: String,
        /// For which one the node is configured.
        configured: String,
    },
    /// The journal lost something that was durable (disk). Nothing was dropped.
    #[error(
        "{} is damaged at byte {offset}: {what}. The data directory was not changed. Keep a copy of it, then start with \
         an empty one: the node fetches everything from its peers", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is missing or wrong.
        what: String,
    },
    /// The row engine cannot be opened or read (disk). It is a view of the journal.
    #[error(
        "the row engine in {} cannot be read; move that directory away: it is built again from the journal, or, if old \
         segments of that were dropped, start with an empty data directory: the node fetches everything from its peers",
        .path.display()
    )]
    Rows {
        /// The engine's directory.
        path: PathBuf,
        /// What the engine said.
        source: fjall::Error,
    },
    /// The checkpoint or the rows read from it are no state of ours (disk).
    #[error(
        "the row engine in {} is damaged ({what}); move that directory away: it is built again from the journal, or, if \
         old segments of that were dropped, start with an empty data directory: the node fetches everything from its peers",
        .path.display()
    )]
    RowsDamaged {
        /// The engine's directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused something (environment).
    #[error("{}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl OpenError {
    /// A part whose version is not one of ours.
    pub(super) fn unknown_part(path: impl Into<PathBuf>, found: String, known: u32) -> Self {
        let advice = "run the version that wrote it, or a newer one".to_owned();
        Self::Format { path: path.into(), found, known, advice }
    }

    /// A directory whose `FORMAT` is not one that is read.
    pub(super) fn unknown_format(path: &Path, found: String) -> Self {
        let advice = directory::advice(&found);
        Self::Format { path: path.into(), found, known: directory::FORMAT, advice }
    }

    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// The store can no longer keep its promises: the process must end, at once and without writing anything more.
#[derive(Debug, thiserror::Error)]
pub enum StoreFailure {
    /// The journal could not be written or synced (disk). What of it is durable is known after a restart only.
    #[error("the journal cannot be written")]
    Journal(#[source] io::Error),
    /// A checkpoint could not be written (disk). The journal still has everything.
    #[error("the row engine cannot be written")]
    Rows(#[source] fjall::Error),
    /// Rows could not be read (disk).
    #[error("rows cannot be read")]
    Read(#[source] ReadError),
    /// A thread could not be started or ended early (environment, or our bug).
    #[error("a thread of the store has ended: {0}")]
    Thread(&'static str),
}

/// Tells a failure to whoever opened the store, from any thread, once.
#[derive(Clone)]
pub(super) struct FailureHandler {
    tell: Arc<Mutex<Option<Tell>>>,
}

type Tell = Box<dyn FnOnce(StoreFailure) + Send>;

impl FailureHandler {
    pub(super) fn new(tell: impl FnOnce(StoreFailure) + Send + 'static) -> Self {
        Self { tell: Arc::new(Mutex::new(Some(Box::new(tell)))) }
    }

    /// Only the first failure is told: what follows from it would hide it.
    pub(super) fn tell(&self, failure: StoreFailure) {
        let tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tell) = tell {
            tell(failure);
        }
    }
}

impl std::fmt::Debug for FailureHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailureHandler")
    }
}
