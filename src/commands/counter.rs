//! `atoll counter …`

use atoll_client::api::DataType;
use serde_json::json;

use super::answer::Ask;
use crate::cli::{CounterCommand, NameArgs};
use crate::exit::{Exit, Failure};

pub(super) async fn run(command: CounterCommand, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    match command {
        CounterCommand::Add { name, add } => {
            let added = counter(ask, &name).add(add).await?;
            ask.wrote_number("value", added)
        }
        CounterCommand::Get(name) => {
            ask.reads()?;
            let read = counter(ask, &name).get().await?;
            let value =
                read.value.ok_or_else(|| Failure::not_found(format!("{} among {}", name.name, DataType::Counters)))?;
            ask.found(&read, json!({ "value": value }), |console| console.line(value))
        }
        CounterCommand::Delete(name) => {
            let deleted = counter(ask, &name).delete().await?;
            ask.wrote(deleted)
        }
    }
}

fn counter<'a>(ask: &Ask<'a, '_>, NameArgs { name }: &NameArgs) -> atoll_client::Counter<'a> {
    let counter = ask.session.counter(&name.namespace, &name.key);
    match &ask.context {
        Some(context) => counter.with_context(context.clone()),
        None => counter,
    }
}
