//! The store of a node: a journal, which is the database, and rows, which are a view of it.
//!
//! **How it goes.** The replica thread appends entries to a [`NodeStore`]; it sees them at once, nobody else does. It takes
//! what has gathered as a [`Group`] and submits it to the [`CommitQueue`], whose thread writes and syncs all that is
//! queued at once, and reports the position. The replica thread then *publishes*: rows up to there move into the view
//! that readers take ([`Views`]), and whoever waited for them is woken. Now and then what was published is written to the
//! row engine as one checkpoint. After a crash the engine is at some checkpoint, and the journal is replayed from there
//! by the code that applies entries live.
//!
//! **What always holds.**
//! * S1: one journal entry changes rows, clocks and log together; a crash leaves a prefix of the entries.
//! * S2: nothing is reported durable before the sync that covers it ([`SyncMode`] says what the exception costs).
//! * S3: readers see synced state only, and a view never changes.
//! * S4: a checkpoint is a state: rows, counts and clocks of one position, never ahead of the journal on disk.
//! * S5: nothing that was durable is dropped silently: a hole in the journal is an error, an unfinished write is not.
//! * S6: memory is bounded by [`StoreConfig`], disk by the data and by what the journal keeps for peers ([`Retention`]).
//! * S7: after any failed write or sync the process ends ([`StoreFailure`]).
//!
//! **What is not here.** What entries mean (`atoll-replication`), when segments may go, repair from peers.
//!
//! **Why this way.** The row engine alone was measured at half to three quarters of the rate and three to five times the
//! tail: it would write and sync every row twice where one append is enough. `docs/decisions/0003-journal-and-row-engine.md`
//! has the figures, `docs/internals/storage.md` the formats.

mod aside;
mod aside_rows;
mod backup;
mod backup_row;
mod building;
mod cache;
mod checkpoint;
mod clearing;
mod commit;
mod commit_stats;
mod config;
mod digests;
mod directory;
mod doctor;
mod engine;
mod error;
#[cfg(test)]
mod faults;
mod flush;
mod frame;
mod group;
mod index;
mod journal;
mod layer;
mod layers;
mod node_store;
mod over;
mod pin;
mod preparer;
mod reads;
mod replay;
mod restore;
mod retention;
mod room;
mod salvage;
mod scan;
mod scrub;
mod segment;
mod segment_file;
mod sketch_file;
mod state;
mod stored;
mod suspects;
mod tail;
#[cfg(test)]
mod tests;
mod view;
mod whole;

pub use backup::{BackupPage, BackupSource};
pub use backup_row::{BackupRow, cell, decode_pair, encode_pair};
pub use commit::{CommitQueue, QUEUED_MAX};
pub use commit_stats::{CommitStats, SYNC_BUCKETS_US};
pub use config::{Retention, StoreConfig, SyncMode};
pub use doctor::{
    Bytes, ClocksReport, DoctorError, Examination, Finding, JournalReport, Patient, Progress, RowsReport, Step,
    Verdict, examine,
};
pub use error::{OpenError, StoreFailure};
pub use group::Group;
pub use node_store::{NodeStore, Opened, Published, StoreStats};
pub use restore::{Origin, Restore, RestoreError};
pub use view::{Behind, View, Views, WAITERS_MAX};
