//! Backups: taking them of a running node, keeping them in a directory or a bucket, and making data directories of them.
//!
//! **How it goes.** `take` reads a node's pinned state over its admin listener, page by page, and stores it as objects of some MiB; the
//! manifest comes last. `chain` reads backups again and checks them; `restore` makes a data directory of one; `prune` removes old ones.
//!
//! ```text
//! DEST/NODE/ID/rows-000001 …     rows: all of them, or those that changed since the parent
//!              ids-000001 …      ids and digests of all rows, by which the next backup finds what has changed
//!              manifest          written last
//! ```
//!
//! **What always holds.** B1: without a manifest there is no backup. B2: whatever is read is checked against the manifest, and the
//! manifest against itself, before it has an effect. B3: memory does not grow with the data: an object is what is held at once. B4: keys
//! of a cloud are known to this process alone; a node never sees them, and no message names them.
//!
//! **Why this way.** `docs/decisions/0012-backups-are-pulled-by-the-command-line.md`.

pub(crate) mod chain;
pub(crate) mod destination;
pub mod id;
pub mod manifest;
pub mod part;
mod progress;
pub(crate) mod prune;
pub(crate) mod restore;
mod s3;
pub(crate) mod take;
