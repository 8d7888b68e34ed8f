//! What clients wrote page by page, and whether a node has it exactly once.
//!
//! **What always holds.** L1: a page is written by one client to one node, one write after the other, and is closed by the
//! first write whose fate is unknown; so at most one write of a page is in doubt. L2: each kind of write has its own row on
//! the page, so what a node shows of it is a number between what was acknowledged and what was asked. L3: a write to the
//! map adds one to a counter and a member of its own to a set, in one record: the counter is exactly the number of members,
//! whatever clients know.

use crate::cluster::Node;
use anyhow::{Context, ensure};
use atoll_client::api::{Key, MapPatch, Namespace, SetChange};
use atoll_client::{Client, Error, Page as Members, Session};
use atoll_tests::sim::random::Random;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Writes on a page.
const PAGE_WRITES: u32 = 60;
/// Writes in another region before a client looks whether its own is back.
const WRITES_AWAY: u32 = 20;
/// Between two writes of a client: the load is there to be interrupted, not to fill the machine.
const PAUSE_MS: u64 = 12;
/// Reads of a check that are under way at once.
const READS_IN_FLIGHT: usize = 16;

/// Where pages lie.
pub(crate) fn namespace() -> Namespace {
    Namespace::new("ledger").expect("a valid namespace")
}

/// The kinds of rows on a page.
const KINDS: usize = 4;
const REGISTER: usize = 0;
const SET: usize = 1;
const COUNTER: usize = 2;
const MAP: usize = 3;

/// One page.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Page {
    number: usize,
    /// The node it was written to, by its place.
    pub(crate) node: usize,
    /// For each kind, how many writes may have happened, and how many were acknowledged.
    asked: [u32; KINDS],
    acknowledged: [u32; KINDS],
}

/// What came of a write, as far as a page goes on or not.
enum Fate {
    Acknowledged,
    Refused,
    NotSent,
    Unknown,
}

/// Every page.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pages: Mutex<Vec<Page>>,
}

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Vec<Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, node: usize) -> Page {
        let mut pages = self.pages();
        let page = Page { number: pages.len(), node, ..Page::default() };
        pages.push(page);
        page
    }

    /// How many writes were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.pages().iter().flat_map(|page| page.acknowledged).map(u64::from).sum()
    }

    /// A client of one region, which goes to the next one while its own does not answer.
    pub(crate) async fn write(&self, home: usize, clients: Vec<Client>, mut random: Random, is_over: &AtomicBool) {
        let mut node = home;
        let mut page = self.begin(node);
        while !is_over.load(Ordering::Relaxed) {
            let session = clients[node].without_session();
            match self.one(&session, &mut page, random.below(KINDS as u64) as usize).await {
                Fate::Acknowledged => {}
                Fate::Refused => tokio::time::sleep(Duration::from_millis(50)).await, // sleep: as a client that is refused
                // L1
                Fate::NotSent | Fate::Unknown => {
                    node = (node + 1) % clients.len();
                    page = self.begin(node);
                }
            }
            let written: u32 = page.acknowledged.iter().sum();
            if written >= PAGE_WRITES || (node != home && written >= WRITES_AWAY) {
                node = home;
                page = self.begin(node);
            }
            tokio::time::sleep(Duration::from_millis(random.below(2 * PAUSE_MS))).await; // sleep: the load's pace
        }
    }

    /// One write: on the page before it is sent, so that whoever reads finds it expected.
    async fn one(&self, session: &Session, page: &mut Page, kind: usize) -> Fate {
        page.asked[kind] += 1;
        self.pages()[page.number] = *page;
        let written = put(session, page, kind).await;
        let fate = match written {
            Ok(()) => Fate::Acknowledged,
            Err(Error::Refused { problem, .. }) if problem.code != atoll_client::api::ErrorCode::Internal => {
                Fate::Refused
            }
            Err(Error::Unreachable { .. }) => Fate::NotSent,
            Err(_) => Fate::Unknown,
        };
        match fate {
            Fate::Acknowledged => page.acknowledged[kind] += 1,
            Fate::Refused | Fate::NotSent => page.asked[kind] -= 1,
            Fate::Unknown => {}
        }
        self.pages()[page.number] = *page;
        fate
    }

    /// Whether a node shows every page of a choice as it must be.
    pub(crate) async fn check(&self, node: &Node, of: impl Fn(&Page) -> bool) -> anyhow::Result<()> {
        let pages: Vec<Page> = self.pages().iter().filter(|page| of(page)).copied().collect();
        let client = node.http()?;
        let session = client.without_session();
        let checks = stream::iter(pages).map(|before| {
            let session = &session;
            async move {
                let shown = Shown::read(session, before.number).await;
                let shown = shown.with_context(|| format!("page {} at {}", before.number, node.name))?;
                // What was acknowledged before the read must show, and what was asked after it may.
                let after = self.pages()[before.number];
                shown.check(&before, &after).with_context(|| format!("{} shows {shown:?} of {before:?}", node.name))
            }
        });
        checks.buffer_unordered(READS_IN_FLIGHT).try_collect::<()>().await?;
        client.close().await;
        Ok(())
    }
}

fn key(page: usize) -> Key {
    Key::new(&format!("page-{page}")).expect("a valid key")
}

async fn put(session: &Session, page: &Page, kind: usize) -> Result<(), Error> {
    let (namespace, key, nth) = (namespace(), key(page.number), page.asked[kind]);
    match kind {
        REGISTER => session.register(&namespace, &key).put(nth.to_string(), None).await.map(drop),
        SET => {
            let change = SetChange { add: vec![nth.to_string()], remove: Vec::new() };
            session.set(&namespace, &key).change(&change).await.map(drop)
        }
        COUNTER => session.counter(&namespace, &key).add(1).await.map(drop),
        _ => {
            let patch =
                serde_json::json!({ "add": { "/sum": 1 }, "members": { "/ids": { "add": [nth.to_string()] } } });
            let patch = serde_json::from_value::<MapPatch>(patch).expect("a valid patch");
            session.map(&namespace, &key).patch(&patch).await.map(drop)
        }
    }
}

/// What a node shows of a page.
#[derive(Debug)]
struct Shown {
    register: u32,
    members: Vec<u32>,
    counter: i64,
    sum: i64,
    ids: Vec<u32>,
}

fn numbers<'a>(texts: impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<u32>> {
    let mut numbers = texts.map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

impl Shown {
    async fn read(session: &Session, page: usize) -> anyhow::Result<Self> {
        let (namespace, key) = (namespace(), key(page));
        let register = session.register(&namespace, &key).get().await?.value;
        let register = register.map(|value| String::from_utf8(value.body.to_vec())).transpose()?;
        let members = session.set(&namespace, &key).members(&Members { limit: Some(1_000), after: None }).await?.value;
        let members = members.map(|page| page.members).unwrap_or_default();
        let counter = session.counter(&namespace, &key).get().await?.value;
        let map = session.map(&namespace, &key).get(None).await?.value.unwrap_or_default();
        let ids = map["ids"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            register: register.map_or(Ok(0), |text| text.parse())?,
            members: numbers(members.iter().map(|member| &**member))?,
            counter: counter.unwrap_or_default(),
            sum: map["sum"].as_i64().unwrap_or_default(),
            ids: numbers(ids.iter().filter_map(serde_json::Value::as_str))?,
        })
    }

    fn check(&self, before: &Page, after: &Page) -> anyhow::Result<()> {
        let is_possible = |kind: usize, shown: u32| (before.acknowledged[kind]..=after.asked[kind]).contains(&shown);
        ensure!(is_possible(REGISTER, self.register), "a value that was acknowledged is lost");
        ensure!(is_possible(COUNTER, u32::try_from(self.counter)?), "an increment is lost, or counts twice");
        for (kind, members) in [(SET, &self.members), (MAP, &self.ids)] {
            // What is there are the first ones, without a gap.
            ensure!(members.iter().copied().eq(1..=members.len() as u32), "a member in the middle is lost");
            ensure!(is_possible(kind, members.len() as u32), "a member is lost");
        }
        // L3
        ensure!(self.sum == self.ids.len() as i64, "a record was applied in part, or twice");
        Ok(())
    }
}
