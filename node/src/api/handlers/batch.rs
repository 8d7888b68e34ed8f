//! Batches: several writes that happen together or not at all.

use super::super::Failure;
use super::super::call::{Call, json, row_type, written};
use super::{maps, sets};
use atoll_client::api::limits::VALUE_BYTES_MAX;
use atoll_client::api::{
    BatchChange, BatchOp, BatchRequest, BatchResult, BatchResults, ErrorCode, Namespace, RegisterPut,
};
use atoll_crdt::{CONTENT_TYPE_BYTES_MAX, CollectionKey};
use atoll_replication::{Answer, Command};
use axum::response::Response;

/// What a register's value in a batch is, when it does not say: the batch is JSON, so it is text.
const TEXT: &str = "text/plain; charset=utf-8";

pub(in super::super) async fn post(mut call: Call) -> Result<Response, Failure> {
    let body = call.json_bytes().await?;
    let batch = BatchRequest::from_json(&body.bytes)?;
    let namespace = call.namespace()?;
    let commands = batch
        .ops
        .into_iter()
        .enumerate()
        .map(|(at, op)| command(namespace, op).map_err(|failure| failure.at(format_args!("op {at}"))));
    let commands = commands.collect::<Result<Vec<_>, _>>()?;
    let done = call.write(commands).await?;
    let results = BatchResults { results: done.answers.iter().map(result).collect() };
    Ok(written(json(&results)?, &done))
}

fn command(namespace: &Namespace, op: BatchOp) -> Result<Command, Failure> {
    let key = CollectionKey::new(namespace.as_str(), row_type(op.data_type())?, op.key.as_str())
        .map_err(super::super::call::key_failure)?;
    Ok(match op.change {
        BatchChange::Register(put) => register(key, put)?,
        BatchChange::Counter(amount) => Command::CounterAdd { key, amount },
        BatchChange::Set(change) => sets::command(key, &change)?,
        BatchChange::Map(patch) => Command::MapPatch { key, changes: maps::changes(patch)? },
        BatchChange::Flag(enabled) => Command::FlagSet { key, enabled },
        BatchChange::Delete(_) => Command::Delete { key },
    })
}

fn register(key: CollectionKey, put: RegisterPut) -> Result<Command, Failure> {
    let content_type = put.content_type.unwrap_or_else(|| TEXT.to_owned());
    let plain = content_type.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if content_type.is_empty() || content_type.len() > CONTENT_TYPE_BYTES_MAX || !plain {
        return Err(Failure::new(ErrorCode::Malformed, "content_type is 1 to 255 printable ASCII characters"));
    }
    if put.value.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(ErrorCode::TooLarge, "the value has more than 1 MiB"));
    }
    Ok(Command::RegisterPut { key, content_type, bytes: put.value.into_bytes().into() })
}

fn result(answer: &Answer) -> BatchResult {
    match answer {
        Answer::Done => BatchResult::DONE,
        Answer::Value(value) => BatchResult::value(*value),
        Answer::Size(size) => BatchResult::size(*size),
    }
}
