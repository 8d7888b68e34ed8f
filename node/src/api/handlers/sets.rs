//! Sets of strings.

use super::super::Failure;
use super::super::call::{Call, absent, found, json, key_failure, nothing, written};
use super::super::query::bad;
use super::{after, cursor, limit};
use atoll_client::api::{ErrorCode, SetChange, SetPage, SetSize};
use atoll_crdt::{CollectionKey, DataType, RowKey};
use atoll_replication::{Answer, Command};
use axum::response::Response;

pub(in super::super) async fn get(call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Set)?;
    let (limit, after) = (limit(&call)?, after(&call)?);
    let after = after.map(String::from_utf8).transpose().map_err(|_| bad("after is the next of the page before"))?;
    let reading = call.read().await?;
    let Some(page) = reading.members(&key, after, limit).await? else { return Err(absent(&reading)) };
    let next = page.members.last().filter(|_| !page.is_last).map(|last| cursor(last.as_bytes()));
    let response = json(&SetPage { members: page.members, size: page.size, next })?;
    Ok(found(response, &reading))
}

pub(in super::super) async fn has(call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Set)?;
    let member = call.member()?.to_owned();
    let reading = call.read().await?;
    if reading.is_member(&key, &member)? { Ok(found(nothing(), &reading)) } else { Err(absent(&reading)) }
}

pub(in super::super) async fn change(mut call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Set)?;
    let change: SetChange = call.json().await?;
    let done = call.write(vec![command(key, &change)?]).await?;
    let [Answer::Size(size)] = done.answers[..] else {
        return Err(Failure::new(ErrorCode::Internal, "a set's write answered something else"));
    };
    Ok(written(json(&SetSize { size })?, &done))
}

pub(in super::super) async fn delete(call: Call) -> Result<Response, Failure> {
    super::delete(call, DataType::Set).await
}

/// A change of members as a command.
pub(super) fn command(key: CollectionKey, change: &SetChange) -> Result<Command, Failure> {
    let rows = |members: &[String]| -> Result<Vec<RowKey>, Failure> {
        members.iter().map(|member| key.member(member).map_err(key_failure)).collect()
    };
    let (add, remove) = (rows(&change.add)?, rows(&change.remove)?);
    Ok(Command::SetChange { key, add, remove })
}
