//! `atoll map …`

use atoll_client::api::{DataType, MapPatch, SetChange};
use serde_json::{Value, json};

use super::answer::Ask;
use crate::cli::{MapCommand, NameArgs};
use crate::exit::{Exit, Failure};

pub(super) async fn run(command: MapCommand, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    let mut change = MapPatch::default();
    let name = match command {
        MapCommand::Get { name, path } => return get(name, path, ask).await,
        MapCommand::Delete(name) => {
            let deleted = map(ask, &name).delete().await?;
            return ask.wrote(deleted);
        }
        MapCommand::Set { name, path, value, string } => {
            change.set.insert(path, to_json(value, string));
            name
        }
        MapCommand::Remove { name, paths } => {
            change.remove = paths;
            name
        }
        MapCommand::Add { name, path, add } => {
            change.add.insert(path, add);
            name
        }
        MapCommand::Members { name, path, add, remove } => {
            change.members.insert(path, SetChange { add, remove });
            name
        }
    };
    let patched = map(ask, &name).patch(&change).await?;
    ask.wrote(patched)
}

fn map<'a>(ask: &Ask<'a, '_>, NameArgs { name }: &NameArgs) -> atoll_client::Map<'a> {
    let map = ask.session.map(&name.namespace, &name.key);
    match &ask.context {
        Some(context) => map.with_context(context.clone()),
        None => map,
    }
}

/// What was typed as JSON where it is JSON, else as a string.
fn to_json(typed: String, string: bool) -> Value {
    match serde_json::from_str(&typed) {
        Ok(value) if !string => value,
        _ => Value::String(typed),
    }
}

async fn get(name: NameArgs, path: Option<String>, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    ask.reads()?;
    let read = map(ask, &name).get(path.as_deref()).await?;
    let value = read.value.as_ref().ok_or_else(|| {
        let at = path.as_deref().map(|path| format!("{path} in ")).unwrap_or_default();
        Failure::not_found(format!("{at}{} among {}", name.name, DataType::Maps))
    })?;
    ask.found(&read, json!({ "value": value }), |console| console.line(format_args!("{value:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_json_where_it_is_json() {
        let typed = |text: &str| to_json(text.to_owned(), false);
        assert_eq!(typed("Paris"), json!("Paris"));
        assert_eq!(typed("\"Paris\""), json!("Paris"));
        assert_eq!(typed("42"), json!(42));
        assert_eq!(typed("{\"a\":[null]}"), json!({"a": [null]}));
        assert_eq!(typed("{a}"), json!("{a}"));
        assert_eq!(typed(""), json!(""));
        assert_eq!(to_json("42".to_owned(), true), json!("42"));
    }
}
