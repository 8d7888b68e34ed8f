//! Everything that one region shows of a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_client::api::{DataType, Key, KeyEntry, Namespace, Sibling, limits};
use atoll_client::{Client, Error, KeysQuery, Page, Session};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How many keys are read at a time.
const READS_IN_FLIGHT: usize = 32;
/// Keys or members of a page.
const PAGE: u32 = 1_000;

/// Everything in a namespace, by type and key.
pub type Dump = BTreeMap<(DataType, String), Observed>;

/// What was read at a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Observed {
    /// A register's values, the winner first.
    Register(Vec<Sibling>),
    /// A counter's value.
    Counter(i64),
    /// A set's members.
    Set(BTreeSet<String>),
    /// A map.
    Map(Value),
    /// A flag.
    Flag(bool),
    /// The key is listed, and there is nothing.
    Nothing,
}

/// Reads every key of `namespace` at `client`'s region. The region must be at rest: what changes
/// meanwhile is read as it is then.
///
/// # Errors
/// The first of a read or of a page.
pub async fn dump(client: &Client, namespace: &Namespace) -> Result<Dump, Error> {
    let room = Arc::new(Semaphore::new(READS_IN_FLIGHT));
    let mut reads: JoinSet<Result<_, Error>> = JoinSet::new();
    let mut dump = Dump::new();
    let session = client.without_session();
    let mut page = Page { limit: Some(PAGE.min(limits::PAGE_LIMIT_MAX)), after: None };
    loop {
        let query = KeysQuery { page: page.clone(), ..KeysQuery::default() };
        let answer = session.keys(namespace, &query).await?.value;
        for entry in answer.keys {
            let Ok(permit) = room.clone().acquire_owned().await else { break };
            while let Some(read) = reads.try_join_next() {
                keep(&mut dump, read)?;
            }
            let (session, namespace) = (session.clone(), namespace.clone());
            reads.spawn(async move {
                let observed = read(&session, &namespace, &entry).await?;
                drop(permit);
                Ok(((entry.data_type, entry.key), observed))
            });
        }
        match answer.next {
            // A page that does not advance would be read for ever.
            Some(next) if page.after.as_ref() != Some(&next) => page.after = Some(next),
            _ => break,
        }
    }
    while let Some(read) = reads.join_next().await {
        keep(&mut dump, read)?;
    }
    Ok(dump)
}

type Entry = ((DataType, String), Observed);

fn keep(dump: &mut Dump, read: Result<Result<Entry, Error>, tokio::task::JoinError>) -> Result<(), Error> {
    let (key, observed) = read.expect("a read does not panic")?;
    dump.insert(key, observed);
    Ok(())
}

async fn read(session: &Session, namespace: &Namespace, entry: &KeyEntry) -> Result<Observed, Error> {
    let key = Key::new(&entry.key)?;
    let found = match entry.data_type {
        DataType::Registers => {
            let read = session.register(namespace, &key).siblings().await?;
            read.value.map(|register| Observed::Register(register.siblings))
        }
        DataType::Counters => session.counter(namespace, &key).get().await?.value.map(Observed::Counter),
        DataType::Sets => members(session, namespace, &key).await?.map(Observed::Set),
        DataType::Maps => session.map(namespace, &key).get(None).await?.value.map(Observed::Map),
        DataType::Flags => session.flag(namespace, &key).get().await?.value.map(Observed::Flag),
        DataType::Docs => None,
    };
    Ok(found.unwrap_or(Observed::Nothing))
}

async fn members(session: &Session, namespace: &Namespace, key: &Key) -> Result<Option<BTreeSet<String>>, Error> {
    let mut members = BTreeSet::new();
    let mut page = Page { limit: Some(PAGE), after: None };
    loop {
        let Some(answer) = session.set(namespace, key).members(&page).await?.value else {
            return Ok(Some(members).filter(|members| !members.is_empty()));
        };
        members.extend(answer.members);
        match answer.next {
            Some(next) if page.after.as_ref() != Some(&next) => page.after = Some(next),
            _ => return Ok(Some(members)),
        }
    }
}
