//! Counters: signed sums.

use super::super::Failure;
use super::super::call::{Call, absent, found_counter, json, written};
use atoll_client::api::{CounterAdd, CounterValue, ErrorCode};
use atoll_crdt::{DataType, counters};
use atoll_replication::{Answer, Command};
use axum::response::Response;

pub(in super::super) async fn get(call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Counter)?;
    let reading = call.read().await?;
    let row = reading.row(&key)?;
    let Some(sum) = counters::value(&row) else { return Err(absent(&reading)) };
    let response = json(&CounterValue { value: counters::clamped(sum) })?;
    Ok(found_counter(response, &reading, &reading.counter_context(&key, &row)))
}

pub(in super::super) async fn add(mut call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Counter)?;
    let change: CounterAdd = call.json().await?;
    let done = call.write(vec![Command::CounterAdd { key, amount: change.add }]).await?;
    let [Answer::Value(value)] = done.answers[..] else {
        return Err(Failure::new(ErrorCode::Internal, "a counter's write answered something else"));
    };
    Ok(written(json(&CounterValue { value })?, &done))
}

pub(in super::super) async fn delete(call: Call) -> Result<Response, Failure> {
    super::delete(call, DataType::Counter).await
}
