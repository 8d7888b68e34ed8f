//! `atoll keys …`, and how any list goes from page to page.

use atoll_client::{KeysQuery, Page};
use serde_json::json;

use super::answer::Ask;
use crate::cli::{KeysArgs, PageArgs};
use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};

pub(super) async fn run(args: KeysArgs, ask: &mut Ask<'_, '_>) -> Result<Exit, Failure> {
    ask.reads()?;
    let KeysArgs { namespace, data_type, prefix, page: PageArgs { limit, after, all } } = args;
    let mut query = KeysQuery { data_type, prefix, page: Page { limit, after } };
    loop {
        let read = ask.session.keys(&namespace, &query).await?;
        let found = &read.value;
        let answer = json!({ "keys": found.keys, "next": found.next });
        ask.found(&read, answer, |console| {
            found
                .keys
                .iter()
                .try_for_each(|entry| console.line(format_args!("{}\t{}", entry.data_type, OneLine(&entry.key))))
        })?;
        match next_page(&query.page, found.next.as_deref(), all, ask.console)? {
            Some(next) => query.page = next,
            None => return Ok(Exit::Done),
        }
    }
}

/// The page after `page`, when all are wanted; else a word about it for people.
pub(super) fn next_page(
    page: &Page,
    next: Option<&str>,
    all: bool,
    console: &mut Console<'_>,
) -> Result<Option<Page>, Failure> {
    let Some(next) = next else { return Ok(None) };
    if !all {
        if !console.is_json() {
            console.complain(&format!("there is more: --after '{next}' shows it, --all shows all"));
        }
        return Ok(None);
    }
    if page.after.as_deref() == Some(next) {
        // Else a server's mistake would go on for ever.
        return Err(Failure::new(
            Exit::Unreachable,
            "the node answers the same page again and again; its list cannot be shown to the end",
        ));
    }
    Ok(Some(Page { limit: page.limit, after: Some(next.to_owned()) }))
}
