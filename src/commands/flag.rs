//! `atoll flag …`

use atoll_client::api::DataType;
use serde_json::json;

use super::answer::Ask;
use crate::cli::{FlagCommand, NameArgs};
use crate::exit::{Exit, Failure};

pub(super) async fn run(command: FlagCommand, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    let (name, enabled) = match command {
        FlagCommand::Enable(name) => (name, true),
        FlagCommand::Disable(name) => (name, false),
        FlagCommand::Get(name) => {
            ask.reads()?;
            let read = flag(ask, &name).get().await?;
            let enabled =
                read.value.ok_or_else(|| Failure::not_found(format!("{} among {}", name.name, DataType::Flags)))?;
            let answer = json!({ "enabled": enabled });
            return ask.found(&read, answer, |console| console.line(enabled));
        }
        FlagCommand::Delete(name) => {
            let deleted = flag(ask, &name).delete().await?;
            return ask.wrote(deleted);
        }
    };
    let put = flag(ask, &name).put(enabled).await?;
    ask.wrote(put)
}

fn flag<'a>(ask: &Ask<'a, '_>, NameArgs { name }: &NameArgs) -> atoll_client::Flag<'a> {
    let flag = ask.session.flag(&name.namespace, &name.key);
    match &ask.context {
        Some(context) => flag.with_context(context.clone()),
        None => flag,
    }
}
