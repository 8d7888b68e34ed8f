//! What a look at a directory found, and what it comes to.

use crate::store::directory::{CLUSTER, RESTORING};
use crate::store::error::OpenError;
use crate::store::segment;
use atoll_replication::{Position, Recovered};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Stamps may be this far ahead of a clock that is right: the room that is stored ahead, and some.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// What a start of the node comes to; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It starts, and nothing is missing.
    Healthy,
    /// It starts, and peers repair what is damaged.
    RepairsItself,
    /// It starts, and something needs a person: what is damaged is not met by the start, or is no matter of the disk.
    NeedsAttention,
    /// It does not start.
    RefusesToStart,
}

impl Verdict {
    /// In plain words.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Healthy => "healthy: it starts, and nothing is missing",
            Self::RepairsItself => "it starts, and peers repair what is damaged",
            Self::NeedsAttention => "it starts, and something here needs you",
            Self::RefusesToStart => "it refuses to start",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it means for a start; [`Verdict::Healthy`] for what is only said.
    pub means: Verdict,
    /// What it is.
    pub what: String,
    /// In which file.
    pub file: Option<PathBuf>,
    /// From which byte of it on.
    pub byte: Option<u64>,
    /// What is lost if no peer has it.
    pub lost: Option<String>,
    /// What to do.
    pub todo: String,
}

/// The journal's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JournalReport {
    /// Segments.
    pub segments: u64,
    /// Their stored indexes that read and say the same as the segment.
    pub indexes: u64,
    /// The first entry that is there.
    pub first: u64,
    /// The last whole entry.
    pub last: u64,
    /// Whole entries.
    pub entries: u64,
    /// Records among them.
    pub records: u64,
    /// Bytes of an unfinished write at the end: nobody was told that it was durable.
    pub unfinished_bytes: u64,
}

/// The stored rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowsReport {
    /// The journal's entry that they stand at.
    pub checkpoint: u64,
    /// Rows that were read.
    pub rows: u64,
    /// Rows that the checkpoint says there are.
    pub rows_of_checkpoint: u64,
    /// Whether they were compared with their digests, and not with their checksums alone.
    pub with_digests: bool,
    /// Rows whose stored bytes are damaged, or that are missing.
    pub damaged: Vec<String>,
    /// Rows that a start does not know, after it has replayed the journal.
    pub holes: Vec<String>,
    /// Rows after a start; `None` if none was rehearsed, or it refused.
    pub rows_after_start: Option<u64>,
    /// Deletes of many rows that are not seen through yet.
    pub clears_pending: usize,
    /// The layer of a peer's state that is adopted, and being moved.
    pub layer_being_moved: Option<u64>,
    /// The last layer that is whole and that an entry may name.
    pub layer_ready: Option<u64>,
}

/// Clocks, and the processes that wrote here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClocksReport {
    /// Processes that ran on this disk.
    pub starts: usize,
    /// The last one's actor.
    pub actor: Option<String>,
    /// When the node's data was founded, by the wall clock in milliseconds; `None`: it never finished joining.
    pub founded_ms: Option<u64>,
    /// Stamps were given up to here, or may have been: milliseconds by the wall clock.
    pub ceiling_ms: u64,
    /// Actors that it has records of.
    pub actors: usize,
    /// Records that it has seen.
    pub records_seen: u64,
    /// Records of the last process.
    pub own_records: u64,
    /// Whether no log is ahead of the context.
    pub in_order: bool,
}

impl ClocksReport {
    pub(super) fn of(recovered: &Recovered) -> Self {
        let context = &recovered.clocks.context;
        let last = recovered.starts.last();
        Self {
            starts: recovered.starts.len(),
            actor: last.map(|start| start.actor.to_string()),
            founded_ms: last.and_then(|start| start.founded_ms),
            ceiling_ms: recovered.ceiling.ms(),
            actors: context.len(),
            records_seen: context.iter().fold(0, |sum, dot| sum.saturating_add(dot.seq)),
            own_records: last.map_or(0, |start| context.get(start.actor)),
            in_order: recovered.clocks.cursor.leq(context),
        }
    }
}

/// Bytes of the directory's parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Of the journal.
    pub journal: u64,
    /// Of the row engine, its log included.
    pub rows: u64,
    /// Of the sketch.
    pub sketch: u64,
    /// Of everything else.
    pub other: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// What it comes to.
    pub verdict: Verdict,
    /// The directory, as an absolute path.
    pub data_dir: PathBuf,
    /// What `FORMAT` says.
    pub format: Option<String>,
    /// In the order in which they were found.
    pub findings: Vec<Finding>,
    /// The journal's files.
    pub journal: JournalReport,
    /// The stored rows, if the engine can be opened.
    pub rows: Option<RowsReport>,
    /// The state of the sketch of all rows.
    pub sketch: String,
    /// Clocks, after a start where one was rehearsed.
    pub clocks: Option<ClocksReport>,
    /// Sizes.
    pub bytes: Bytes,
    #[serde(skip)]
    pub(super) has_damaged_blocks: bool,
}

impl Finding {
    pub(super) fn note(what: &str) -> Self {
        Self {
            means: Verdict::Healthy,
            what: what.to_owned(),
            file: None,
            byte: None,
            lost: None,
            todo: "nothing".to_owned(),
        }
    }

    /// A refusal. What it says of the likeness is said of the directory.
    pub(super) fn of_open(error: &OpenError, dir: &Path, likeness: &Path, journal_begins_with_1: bool) -> Self {
        let real = |path: &Path| path.strip_prefix(likeness).map_or_else(|_| path.to_owned(), |part| dir.join(part));
        let mut what = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            what = format!("{what} ({source})");
        }
        let what = what.replace(&likeness.display().to_string(), &dir.display().to_string());
        let all_but_peers = "everything that no peer holds: at least the writes that this node took last".to_owned();
        let rebuilt =
            "nothing: the journal begins with its first entry, and the rows are built from it again".to_owned();
        let (file, byte, lost, todo) = match error {
            OpenError::Damaged { path, offset, .. } => (
                Some(real(path)),
                Some(*offset),
                all_but_peers,
                "keep a copy of the directory, then start with an empty one: the node fetches everything from its peers",
            ),
            OpenError::Rows { path, .. } | OpenError::RowsDamaged { path, .. } if journal_begins_with_1 => {
                (Some(real(path)), None, rebuilt, "move that directory away and start")
            }
            OpenError::Rows { path, .. } | OpenError::RowsDamaged { path, .. } => (
                Some(real(path)),
                None,
                all_but_peers,
                "keep a copy of the directory, then start with an empty one: old segments of the journal are gone, and it alone \
                 cannot build the rows",
            ),
            OpenError::Format { path, .. } => (
                Some(real(path)),
                None,
                "nothing by this alone".to_owned(),
                "run the version that wrote it, or a newer one",
            ),
            OpenError::HalfRestored { .. } => (
                Some(dir.join(RESTORING)),
                None,
                "nothing by this alone".to_owned(),
                "run 'atoll restore' into it again, or, to start without the backup, remove that directory",
            ),
            OpenError::Cluster { .. } => (
                Some(dir.join(CLUSTER)),
                None,
                "nothing by this alone".to_owned(),
                "configure the cluster that it was restored for, or restore the backup for this one",
            ),
            OpenError::InUse { .. } | OpenError::Io { .. } => {
                (None, None, "not known".to_owned(), "see what the system said, and look again")
            }
        };
        Self { means: Verdict::RefusesToStart, what, file, byte, lost: Some(lost), todo: todo.to_owned() }
    }

    pub(super) fn failed_start(failure: &str) -> Self {
        Self {
            means: Verdict::RefusesToStart,
            what: format!("a start came up and ended at once: {failure}"),
            file: None,
            byte: None,
            lost: Some("everything that no peer holds".to_owned()),
            todo:
                "keep a copy of the directory, then start with an empty one: the node fetches everything from its peers"
                    .to_owned(),
        }
    }

    pub(super) fn unreadable_rows(error: &str, has_damaged_blocks: bool) -> Self {
        let todo = if has_damaged_blocks {
            "start it: what can be read is copied into new files, which takes as much room again for a while"
        } else {
            "see what a start says below"
        };
        Self {
            means: Verdict::RepairsItself,
            what: format!("the row engine's files are damaged: {error}"),
            file: None,
            byte: None,
            lost: None,
            todo: todo.to_owned(),
        }
    }

    pub(super) fn short_of_room(needed: u64) -> Self {
        Self {
            means: Verdict::NeedsAttention,
            what: format!(
                "a start makes the row engine's files anew, which takes {needed} bytes, and there is less room"
            ),
            file: None,
            byte: None,
            lost: Some("not known: a start could not be rehearsed".to_owned()),
            todo: "make room, or name another place with --scratch, and look again".to_owned(),
        }
    }
}

impl Examination {
    pub(super) fn of(dir: &Path, bytes: Bytes) -> Self {
        Self {
            verdict: Verdict::Healthy,
            data_dir: dir.to_owned(),
            format: None,
            findings: Vec::new(),
            journal: JournalReport::default(),
            rows: None,
            sketch: "not looked at".to_owned(),
            clocks: None,
            bytes,
            has_damaged_blocks: false,
        }
    }

    /// Whether nothing of the journal was ever dropped.
    pub(super) fn journal_begins_with_1(&self, dir: &Path) -> bool {
        segment::path(&dir.join("journal"), Position(1)).exists()
    }

    /// With its verdict.
    pub(super) fn judged(mut self) -> Self {
        if let Some(rows) = &self.rows {
            self.findings.extend(of_rows(rows));
        }
        self.verdict = self.findings.iter().map(|finding| finding.means).max().unwrap_or(Verdict::Healthy);
        self
    }

    /// Whether stamps and contexts can be.
    pub(super) fn look_at_clocks(&mut self, now: SystemTime) {
        let Some(clocks) = &self.clocks else { return };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ahead = Duration::from_millis(clocks.ceiling_ms).saturating_sub(now);
        if ahead > AHEAD_MAX {
            self.findings.push(Finding {
                means: Verdict::NeedsAttention,
                what: format!("stamps were given up to {} s ahead of this machine's clock", ahead.as_secs()),
                file: None,
                byte: None,
                lost: Some(
                    "nothing: new writes are stamped from there on, and win over those of other regions".to_owned(),
                ),
                todo: "set the clock right before the start".to_owned(),
            });
        }
        if !clocks.in_order {
            self.findings.push(Finding {
                means: Verdict::NeedsAttention,
                what: "a log is ahead of what was seen: this is a mistake of the program".to_owned(),
                file: None,
                byte: None,
                lost: None,
                todo: "keep a copy of the directory and report it".to_owned(),
            });
        }
    }
}

/// What damaged rows come to.
fn of_rows(rows: &RowsReport) -> Option<Finding> {
    let holes = if rows.rows_after_start.is_some() { &rows.holes } else { &rows.damaged };
    if holes.is_empty() {
        let rewritten = rows.damaged.len();
        return (rewritten > 0).then(|| {
            Finding::note(&format!(
                "{rewritten} stored rows are damaged, and the journal has newer ones: nothing is missing"
            ))
        });
    }
    let count = holes.len();
    Some(Finding {
        means: Verdict::RepairsItself,
        what: format!("{count} rows are damaged"),
        file: None,
        byte: None,
        lost: Some(format!("what these {count} rows held; everything else is there")),
        todo: "start it with its peers: they repair these rows; until then requests for them are answered not_ready"
            .to_owned(),
    })
}
