//! Maps: nested objects of values, counters and member sets.

use super::super::Failure;
use super::super::call::{Call, absent, found, json_text, key_failure, nothing, written};
use atoll_client::api::limits::VALUE_BYTES_MAX;
use atoll_client::api::{ErrorCode, MapPatch};
use atoll_crdt::{DataType, MapPath, maps};
use atoll_replication::{Command, MapChange};
use axum::response::Response;
use serde_json::Value;

pub(in super::super) async fn get(call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Map)?;
    let path = path(call.query.text("path").unwrap_or_default())?;
    let reading = call.read().await?;
    let Some(text) = reading.map(&key, path).await? else { return Err(absent(&reading)) };
    Ok(found(json_text(text), &reading))
}

pub(in super::super) async fn patch(mut call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Map)?;
    let changes = changes(call.json().await?)?;
    let done = call.write(vec![Command::MapPatch { key, changes }]).await?;
    Ok(written(nothing(), &done))
}

pub(in super::super) async fn delete(call: Call) -> Result<Response, Failure> {
    super::delete(call, DataType::Map).await
}

fn path(pointer: &str) -> Result<MapPath, Failure> {
    MapPath::from_pointer(pointer).map_err(key_failure)
}

/// A patch as changes in order: removals, values, counters, members.
pub(super) fn changes(patch: MapPatch) -> Result<Vec<MapChange>, Failure> {
    let mut changes = Vec::new();
    for pointer in &patch.remove {
        changes.push(MapChange::Remove(path(pointer)?));
    }
    for (pointer, json) in patch.set {
        changes.push(MapChange::Set(path(&pointer)?, value(json)?));
    }
    for (pointer, amount) in patch.add {
        changes.push(MapChange::Add(path(&pointer)?, amount));
    }
    for (pointer, change) in patch.members {
        let path = path(&pointer)?;
        changes.extend(change.remove.into_iter().map(|member| MapChange::RemoveMember(path.clone(), member)));
        changes.extend(change.add.into_iter().map(|member| MapChange::AddMember(path.clone(), member)));
    }
    Ok(changes)
}

/// What is set: each member of an object at its own place, anything else as one value. No deeper than JSON is read.
fn value(json: Value) -> Result<maps::Value, Failure> {
    if let Value::Object(members) = json {
        let members = members.into_iter().map(|(name, json)| Ok((name, value(json)?)));
        return Ok(maps::Value::Object(members.collect::<Result<_, Failure>>()?));
    }
    let text = serde_json::to_vec(&json).map_err(|error| Failure::new(ErrorCode::Malformed, error.to_string()))?;
    if text.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(ErrorCode::TooLarge, "a value of a map has more than 1 MiB of JSON"));
    }
    Ok(maps::Value::Json(text.into()))
}
