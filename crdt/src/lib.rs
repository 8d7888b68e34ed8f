//! Values and their laws: dots, causal contexts, clocks, rows, data types, canonical bytes.
//!
//! **How it goes.** The whole database is one map from [`RowKey`] to [`Row`]; a row is a sorted list of
//! `(`[`Dot`]`, `[`Payload`]`)`. A write is a [`RowOp`]: it puts at most one payload under the dot of its
//! record and kills dots that its writer had seen. Every data type ([`registers`], [`counters`], [`sets`],
//! [`maps`], [`flags`]) is a view of rows.
//!
//! **What always holds.**
//! * C1: there is one merge rule, [`Row::merge`], for every type: a dot stays if both sides hold it, or if one
//!   side holds it and the other side's context does not cover it.
//! * C2: there are no tombstones. "Absent, and covered by the context" means deleted.
//! * C3: equal states have equal bytes ([`codec`]); decoding is bounded, and accepts only canonical bytes.
//! * C4: nothing here reads a clock, a random source, a file or a socket.
//!
//! **What is not here.** Records, logs, contexts of a whole node and everything that talks: `atoll-replication`.
//!
//! **Why this way.** A collection kept as one value costs O(members) per write (measured: 114 ms and 2.7 MB for one
//! add to a set of 100,000); a row a member costs a small row whatever the size.
#![no_std]
#![cfg_attr(test, allow(clippy::unwrap_used))]

extern crate alloc;

pub mod codec;
mod context;
pub mod counters;
mod dot;
mod draft;
pub mod flags;
mod hlc;
mod key;
pub mod maps;
#[cfg(feature = "mutants")]
pub mod mutants;
#[cfg(not(feature = "mutants"))]
mod mutants;
mod op;
mod payload;
pub mod registers;
mod row;
pub mod sets;
mod source;

pub use context::VersionVector;
pub use dot::{ActorId, Dot, ParseActorError};
pub use draft::{Draft, SIBLINGS_MAX, Seen};
pub use hlc::{ClockError, DRIFT_MAX_MS, Hlc, HlcClock, check_not_ahead};
pub use key::{
    CollectionKey, DataType, KeyError, LeafKind, MapPath, NAMESPACE_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX, RowKey,
    RowPath, USER_KEY_BYTES_MAX,
};
pub use op::{ClearOp, Op, RowOp};
pub use payload::{
    CONTENT_TYPE_BYTES_MAX, Count, Floor, Floors, Payload, Run, VALUE_BYTES_MAX, decode_floors, encode_floors,
};
pub use row::Row;
pub use source::{ReadError, RowSource};
