//! Reconciliation: how a node comes by state that no log can bring it any more.
//!
//! **How it goes.** The *receiver* pins its state and opens a session with a *source*, which pins its own. The sketches
//! tell which rows differ; the source sends those, less what the receiver's context makes unnecessary. The receiver
//! collects them aside, in memory or in a layer on disk. When everything was said, one journal entry ([`crate::Adoption`]) merges
//! every row that differed, and every row that was equal and changed here since, and takes over the source's context.
//! The next session after one that was cut off goes on with the layer that this one left.
//!
//! **What always holds.** C1: until that entry nothing has happened, so a session that ends early has changed nothing.
//! C2: a row that was equal at the start stands for the source's: the receiver's own pinned copy is merged wherever the row
//! changed since. C3: a session ends with either side's process, and with the connection, unless the source had said
//! everything. C4: a receiver has one session at a time; what it may hold in memory and on disk is bounded.
//!
//! **Holes.** Rows of the receiver that are damaged ([`crate::Holes`]) are repaired by a session, whatever began it: the
//! opening names them with the context `H` at which they were found, and the source, once it covers `H`, sends them whole.
//! C5: that row is `f(CC)` of the joined context. What the receiver covers beyond `H` does not touch it, for a record that
//! does is held back and a write refused; so nothing of it is missing from the source's row, which is `f` of a context that covers `H`.
//!
//! Beside it stands the *comparison*, which uses the same words and changes nothing.
//!
//! **What is not here.** Which peer to ask and when, and the entry: the replica.

pub(crate) mod comparison;
pub(crate) mod message;
pub(crate) mod receiver;
pub(crate) mod search;
pub(crate) mod source;
pub(crate) mod staging;
