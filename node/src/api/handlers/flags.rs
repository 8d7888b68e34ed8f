//! Flags: switches.

use super::super::Failure;
use super::super::call::{Call, absent, found, json, nothing, written};
use atoll_client::api::{FlagChange, FlagState};
use atoll_crdt::DataType;
use atoll_replication::Command;
use axum::response::Response;

pub(in super::super) async fn get(call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Flag)?;
    let reading = call.read().await?;
    let Some(enabled) = reading.flag(&key)? else { return Err(absent(&reading)) };
    Ok(found(json(&FlagState { enabled })?, &reading))
}

pub(in super::super) async fn put(mut call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Flag)?;
    let change: FlagChange = call.json().await?;
    let done = call.write(vec![Command::FlagSet { key, enabled: change.enabled }]).await?;
    Ok(written(nothing(), &done))
}

pub(in super::super) async fn delete(call: Call) -> Result<Response, Failure> {
    super::delete(call, DataType::Flag).await
}
