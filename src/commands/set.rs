//! `atoll set …`

use atoll_client::Page;
use atoll_client::api::{DataType, SetChange};
use serde_json::json;

use super::answer::Ask;
use super::keys::next_page;
use crate::cli::{MembersArgs, NameArgs, PageArgs, SetCommand};
use crate::console::OneLine;
use crate::exit::{Exit, Failure};

pub(super) async fn run(command: SetCommand, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    match command {
        SetCommand::Add(MembersArgs { name, members }) => {
            let change = SetChange { add: members, remove: Vec::new() };
            let changed = set(ask, &name).change(&change).await?;
            ask.wrote_number("size", changed)
        }
        SetCommand::Remove(MembersArgs { name, members }) => {
            let change = SetChange { add: Vec::new(), remove: members };
            let changed = set(ask, &name).change(&change).await?;
            ask.wrote_number("size", changed)
        }
        SetCommand::Members { name, page } => members(name, page, ask).await,
        SetCommand::Has { name, member } => {
            ask.reads()?;
            let read = set(ask, &name).has(&member).await?;
            let has = read.value;
            let line = if has { "yes" } else { "no" };
            ask.found(&read, json!({ "member": has }), |console| console.line(line))?;
            Ok(if has { Exit::Done } else { Exit::No })
        }
        SetCommand::Delete(name) => {
            let deleted = set(ask, &name).delete().await?;
            ask.wrote(deleted)
        }
    }
}

fn set<'a>(ask: &Ask<'a, '_>, NameArgs { name }: &NameArgs) -> atoll_client::Set<'a> {
    let set = ask.session.set(&name.namespace, &name.key);
    match &ask.context {
        Some(context) => set.with_context(context.clone()),
        None => set,
    }
}

async fn members(
    name: NameArgs,
    PageArgs { limit, after, all }: PageArgs,
    ask: &mut Ask<'_, '_>,
) -> Result<Exit, Failure> {
    ask.reads()?;
    let set = set(ask, &name);
    let mut page = Page { limit, after };
    loop {
        let read = set.members(&page).await?;
        let found =
            read.value.as_ref().ok_or_else(|| Failure::not_found(format!("{} among {}", name.name, DataType::Sets)))?;
        let answer = json!({ "members": found.members, "size": found.size, "next": found.next });
        ask.found(&read, answer, |console| found.members.iter().try_for_each(|member| console.line(OneLine(member))))?;
        match next_page(&page, found.next.as_deref(), all, ask.console)? {
            Some(next) => page = next,
            None => return Ok(Exit::Done),
        }
    }
}
