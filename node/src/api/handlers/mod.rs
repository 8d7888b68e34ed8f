//! What each operation does: parse into domain types, call the application once, show what it answered.

pub(super) mod batch;
pub(super) mod counters;
pub(super) mod flags;
pub(super) mod keys;
pub(super) mod maps;
pub(super) mod registers;
pub(super) mod sets;
pub(super) mod system;

use super::Failure;
use super::call::{Call, nothing, written};
use super::query::bad;
use atoll_client::api::limits::{PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX};
use atoll_crdt::DataType;
use atoll_replication::Command;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// `DELETE`: done too when nothing is there.
async fn delete(call: Call, data_type: DataType) -> Result<Response, Failure> {
    let key = call.key(data_type)?;
    let done = call.write(vec![Command::Delete { key }]).await?;
    Ok(written(nothing(), &done))
}

/// `?limit=` of a page.
fn limit(call: &Call) -> Result<usize, Failure> {
    Ok(call.query.count("limit", PAGE_LIMIT_MAX)?.unwrap_or(PAGE_LIMIT_DEFAULT) as usize)
}

/// `?after=`: where the page before ended.
fn after(call: &Call) -> Result<Option<Vec<u8>>, Failure> {
    let decoded = call.query.text("after").map(|text| URL_SAFE_NO_PAD.decode(text));
    decoded.transpose().map_err(|_| bad("after is the next of the page before"))
}

/// Where a page ends, as text for `?after=`.
fn cursor(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
