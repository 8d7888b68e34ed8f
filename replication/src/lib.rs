//! The replication protocol, sans IO: records, logs, the replica and its conversations with peers.
//!
//! **How it goes.** A driver owns one [`Replica`] and a [`Store`]. For everything that happens it calls
//! [`Replica::handle`] with the time and an [`Input`], then carries out the [`Effect`]s in order. When its queue is empty
//! it hands in [`Input::Drained`], and what has gathered goes to peers. The simulator is another driver over the same
//! code.
//!
//! **What always holds.** The theorem everything stands on: a row's state is a function of the causal context alone,
//! `state(r) = f(CC)`: the dots put into it by records in the context, minus the dots killed in it by records in the
//! context. Around it:
//! * S1: state is (rows, `LV`, `CC`, log), and one journal [`Entry`] changes all of it; a crash leaves a prefix.
//! * S2: an actor's records are applied in order, each once its dependencies are covered; twice is once.
//! * S3: whatever promises durability (an answer, a position told to a peer) is said only after the store reported it.
//! * S4: a restart mints an actor; a dot is never used for two records.
//! * S5: nothing here reads a clock, randomness, a file or a socket, or iterates in an order that depends on the process.
//! * S6: everything that bytes from a peer can grow has a bound ([`Limits`]).
//!
//! **What is not here.** Data types (`atoll-crdt`), bytes on disk and on the wire's transport (`atoll-node`), choosing a
//! region for a client (`atoll-geo`).
#![no_std]

extern crate alloc;

mod adoption;
mod apply;
mod aside;
mod clears;
mod command;
mod config;
mod effect;
mod entry;
mod freshness;
mod levels;
mod link;
#[cfg_attr(not(feature = "mutants"), allow(dead_code, unreachable_pub))]
pub mod mutants;
mod names;
mod pending;
mod reconcile;
mod record;
mod replica;
mod roster;
pub mod sketch;
mod status;
mod store;
mod time;
mod waits;
pub mod wire;

pub use adoption::Adoption;
pub use apply::{Changes, Clocks, RowChange, RowChanges, replayed_changes, row_changes};
pub use aside::{Aside, AsideUse, LayerId, Merged, Sides};
pub use clears::{CLEARS_MAX, ClearStep, Cleared, Clears};
pub use command::{Answer, Command, CommandError, MapChange};
pub use config::{Config, Limits};
pub use effect::{
    DisconnectReason, Effect, Input, LinkId, RequestId, SeedIndex, WriteError, WriteOutcome, WriteRequest,
};
pub use entry::{Entry, Start};
pub use link::LogState;
pub use names::{NameError, NodeName, RegionName};
pub use reconcile::message::{Holes as OpenHoles, Open, OpenMore, Reconcile, RowState, SessionId, Span, States, Step};
pub use record::{RECORD_BYTES_MAX, Record, RecordBytes};
pub use replica::{Excerpt, Imported, Replica};
pub use roster::{Fence, Member, Membership};
pub use status::{Contradiction, Counts, LinkState, LinkStatus, PeerVerdict, Readiness, Verification};
pub use store::{HOLES_MAX, Holes, Pinned, Position, Recovered, Store};
pub use time::{Instant, Now};
