//! `atoll register …`

use std::io::Read as _;

use atoll_client::api::DataType;
use atoll_client::api::limits::VALUE_BYTES_MAX;
use serde_json::json;

use super::answer::Ask;
use crate::cli::{NameArgs, RegisterCommand};
use crate::connect::read_at_most;
use crate::exit::{Exit, Failure};

/// What a value typed on the command line is, unless it is said.
const TYPED: &str = "text/plain; charset=utf-8";

pub(super) async fn run(command: RegisterCommand, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    match command {
        RegisterCommand::Put { name, value, file, content_type } => {
            let typed = value.as_deref().is_some_and(|value| value != "-");
            let value = match (value, file) {
                (Some(value), None) if typed => value.into_bytes(),
                (_, Some(path)) => read_at_most(&path, VALUE_BYTES_MAX as u64)
                    .map_err(|error| Failure::usage(format!("--file: {} cannot be read: {error}", path.display())))?,
                _ => read_value(ask)?,
            };
            let content_type = content_type.as_deref().or(typed.then_some(TYPED));
            let put = register(ask, &name).put(value, content_type).await?;
            ask.wrote(put)
        }
        RegisterCommand::Get(name) => get(name, ask).await,
        RegisterCommand::Delete(name) => {
            let deleted = register(ask, &name).delete().await?;
            ask.wrote(deleted)
        }
    }
}

fn register<'a>(ask: &Ask<'a, '_>, NameArgs { name }: &NameArgs) -> atoll_client::Register<'a> {
    let register = ask.session.register(&name.namespace, &name.key);
    match &ask.context {
        Some(context) => register.with_context(context.clone()),
        None => register,
    }
}

/// The value on standard input.
fn read_value(ask: &mut Ask<'_, '_>) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let bound = VALUE_BYTES_MAX as u64 + 1;
    ask.console
        .stdin()
        .take(bound)
        .read_to_end(&mut value)
        .map_err(|error| Failure::usage(format!("standard input cannot be read: {error}")))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::usage(format!("the value on standard input is larger than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(value)
}

async fn get(name: NameArgs, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    ask.reads()?;
    let missing = || Failure::not_found(format!("{} among {}", name.name, DataType::Registers));
    if ask.console.is_json() {
        let read = register(ask, &name).siblings().await?;
        let siblings = &read.value.as_ref().ok_or_else(missing)?.siblings;
        return ask.found(&read, json!({ "siblings": siblings }), |_| Ok(()));
    }
    let read = register(ask, &name).get().await?;
    let value = read.value.ok_or_else(missing)?;
    ask.console.bytes(&value.body)?;
    if value.siblings > 1 {
        ask.console.complain(&format!(
            "{} concurrent values; this is the winner, --json shows all, a put replaces them",
            value.siblings
        ));
    }
    Ok(Exit::Done)
}
