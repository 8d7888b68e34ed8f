//! The contract with users as types: what a request may say and what an answer looks like.
//!
//! *What always holds.* N1: a value of [`Namespace`], [`Key`] or [`DataType`] has passed the
//! contract's rules; untrusted text is `&str` until then. N2: whatever fails a rule fails as a
//! [`Rejection`], which carries the [`ErrorCode`] to answer with. N3: request bodies refuse unknown
//! members (nothing a user asked for is silently ignored); answers tolerate them (a newer server
//! may say more).
//!
//! *What is not here.* Routing, transports and the meaning of any operation.

mod batch;
mod error;
pub mod headers;
pub mod limits;
mod names;
mod operations;
mod params;
mod resources;

pub use batch::{BatchChange, BatchOp, BatchRequest, BatchResult, BatchResults, RegisterPut};
pub use error::{ErrorCode, Problem, Rejection};
pub use names::{DataType, Key, Namespace};
pub(crate) use names::{push_query_value, push_segment};
pub use operations::{
    BackupAsk, BackupBegun, BackupStart, DifferingRow, Digest, Export, ExportCommand, Exported, ImportCommand,
    Imported, LinkCommand, MemberCommand, MemberStatus, Members, PeerState, PeerStatus, Readiness, Standing, Status,
    Verdict, VerifyReport,
};
pub use params::{Consistency, WriteLevel, format_duration, parse_duration};
pub use resources::{
    CounterAdd, CounterValue, FlagChange, FlagState, KeyEntry, KeysPage, MapPatch, RegisterSiblings, SetChange,
    SetPage, SetSize, Sibling,
};

use serde::de::DeserializeOwned;

/// Reads a JSON request body, strictly.
///
/// # Errors
/// `malformed`, with what is wrong and where, when the bytes are not the JSON that `T` describes.
/// Nesting deeper than 128 is refused, so hostile bytes cannot exhaust the stack.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Rejection> {
    serde_json::from_slice(body).map_err(|error| Rejection::new(ErrorCode::Malformed, format!("the body: {error}")))
}
