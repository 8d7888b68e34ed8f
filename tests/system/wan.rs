//! Regions between which packets are lost or cut: what the network does to a cluster, and that it ends equal and exact.
//!
//! Every link between two nodes goes through the WAN emulator, in both directions of dialling.

use crate::cluster::{Cluster, Node, PATIENCE};
use crate::reconcile::{count_until, metric};
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::KeysQuery;
use atoll_client::api::DataType;
use atoll_geo::RegionName;
use atoll_loadgen::wan::{Shape, ShapeSpec, Wan, WanConfig};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A cluster of one node a region, and what is between them.
struct Emulated {
    wan: Wan,
    cluster: Cluster,
}

fn wire(delay_ms: f64, loss: f64) -> anyhow::Result<Shape> {
    Ok(ShapeSpec { delay_ms, loss, ..ShapeSpec::default() }.check()?)
}

fn region(text: &str) -> anyhow::Result<RegionName> {
    Ok(text.parse()?)
}

impl Emulated {
    /// Starts one node a region, each of which reaches the others through links of this shape alone.
    async fn start(regions: &[&str], shape: Shape) -> anyhow::Result<Self> {
        let wan = Wan::start(WanConfig::default())?;
        let mut cluster = Cluster::new(regions)?;
        for node in &cluster.nodes {
            let (mut seeds, mut peers) = (Vec::new(), String::from("[peers]\n"));
            for other in cluster.nodes.iter().filter(|other| other.name != node.name) {
                let target = ([127, 0, 0, 1], other.ports.peer).into();
                let address = wan.link(&region(&node.region)?, &region(&other.region)?, target, shape)?;
                seeds.push(format!("\"{address}\""));
                peers.push_str(&format!("{} = \"{address}\"\n", other.name));
            }
            let text = std::fs::read_to_string(&node.config)?;
            let lines = text.lines().map(|line| match line.starts_with("seeds = ") {
                true => format!("seeds = [{}]", seeds.join(", ")),
                false => line.to_owned(),
            });
            let text = lines.chain([peers.clone()]).collect::<Vec<_>>().join("\n");
            std::fs::write(&node.config, text)?;
        }
        for node in &mut cluster.nodes {
            node.spawn()?;
        }
        for node in &cluster.nodes {
            node.ready().await?;
        }
        Ok(Self { wan, cluster })
    }

    fn node(&self, index: usize) -> &Node {
        &self.cluster.nodes[index]
    }

    fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        let (from, to) = (region(&self.node(from).region)?, region(&self.node(to).region)?);
        ensure!(self.wan.cut(&from, &to) > 0, "there is a link from {from} to {to}");
        Ok(())
    }

    /// The end of every story: equal roots and vectors, and everything that a client can read is the same everywhere.
    async fn ends_equal(&self, counted: i64) -> anyhow::Result<()> {
        self.wan.heal_all();
        self.cluster.converged().await?;
        let first = dump(self.node(0)).await?;
        ensure!(!first.is_empty(), "something was written");
        for node in &self.cluster.nodes {
            let count = node.http()?.session().counter(&shop(), &key("count")).get().await?.value;
            ensure!(count == Some(counted), "{} counts {count:?} of {counted}", node.name);
            ensure!(dump(node).await? == first, "{} shows something else than n0", node.name);
            ensure!(metric(node, "atoll_divergence_total").await? == 0.0);
        }
        Ok(())
    }
}

/// Every register of a node, by its key.
async fn dump(node: &Node) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let (session, mut all) = (node.http()?.session(), BTreeMap::new());
    let mut query = KeysQuery::default();
    loop {
        let page = session.keys(&shop(), &query).await?.value;
        for found in page.keys.into_iter().filter(|found| found.data_type == DataType::Registers) {
            let value = session.register(&shop(), &key(&found.key)).get().await?.value;
            all.insert(found.key, value.map(|value| String::from_utf8_lossy(&value.body).into_owned()));
        }
        match page.next {
            Some(next) => query.page.after = Some(next),
            None => return Ok(all),
        }
    }
}

/// Writes some registers, each once.
async fn write(node: &Node, what: &str, count: usize) -> anyhow::Result<()> {
    let session = node.quic()?.session();
    for n in 0..count {
        session.register(&shop(), &key(&format!("{what}{n}"))).put(format!("{what} {n}"), None).await?;
    }
    Ok(())
}

async fn add(node: &Node, count: i64) -> anyhow::Result<()> {
    let session = node.quic()?.session();
    for _ in 0..count {
        session.counter(&shop(), &key("count")).add(1).await?;
    }
    Ok(())
}

/// Waits until a node shows a register.
async fn shows(node: &Node, name: &str) -> anyhow::Result<()> {
    let (session, deadline) = (node.http()?.session(), Instant::now() + PATIENCE);
    while session.register(&shop(), &key(name)).get().await?.value.is_none() {
        ensure!(Instant::now() < deadline, "{} does not show {name}", node.name);
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

/// The lag of `node` behind `peer`, in seconds; nothing while it is unknown.
async fn lag(node: &Node, peer: &Node) -> Option<f64> {
    metric(node, &format!("atoll_replication_lag_seconds{{peer=\"{}\"}}", peer.name)).await.ok()
}

#[tokio::test]
async fn regions_that_are_cut_from_each_other_meet_through_the_one_that_sees_both() -> anyhow::Result<()> {
    let world = Emulated::start(&REGIONS, wire(10.0, 0.0)?).await?;
    let (a, b, c) = (world.node(0), world.node(1), world.node(2));
    write(a, "before", 5).await?;
    world.cluster.converged().await?;
    world.cut(0, 2)?;
    world.cut(2, 0)?;
    // The cut shows: what C knows of A itself is ever older, while what A writes arrives through B.
    let deadline = Instant::now() + PATIENCE;
    while lag(c, a).await.is_none_or(|lag| lag < 4.0) {
        ensure!(Instant::now() < deadline, "C says that it is cut from A: {:?}", lag(c, a).await);
        tokio::time::sleep(Duration::from_millis(50)).await; // sleep: between two looks at a condition
    }
    write(a, "from-a", 20).await?;
    write(c, "from-c", 20).await?;
    add(a, 25).await?;
    add(c, 17).await?;
    shows(c, "from-a19").await?;
    shows(a, "from-c19").await?;
    ensure!(lag(c, a).await.is_none_or(|lag| lag >= 4.0), "only A can say that nothing of it is missing");
    ensure!(lag(b, a).await.context("B hears A")? < 4.0);
    world.ends_equal(42).await?;
    let deadline = Instant::now() + PATIENCE;
    while lag(c, a).await.is_none_or(|lag| lag > 1.0) {
        ensure!(Instant::now() < deadline, "C is close to A again: {:?}", lag(c, a).await);
        tokio::time::sleep(Duration::from_millis(50)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

#[tokio::test]
async fn a_direction_that_carries_nothing_loses_nothing() -> anyhow::Result<()> {
    let world = Emulated::start(&REGIONS[..2], wire(5.0, 0.0)?).await?;
    let (a, b) = (world.node(0), world.node(1));
    let mut counted = 0;
    for (round, (from, to)) in [(0, 1), (1, 0)].into_iter().enumerate() {
        world.cut(from, to)?;
        // Both go on while one of them cannot be heard, and after it has been given up.
        let deadline = Instant::now() + PATIENCE;
        for node in [a, b] {
            write(node, &format!("{}-{round}-", node.name), 10).await?;
            while metric(node, "atoll_peers_connected").await? > 0.0 {
                ensure!(Instant::now() < deadline, "{} gives up a peer that it cannot talk with", node.name);
                add(node, 1).await?;
                counted += 1;
            }
            add(node, 5).await?;
            counted += 5;
        }
        world.ends_equal(counted).await?;
    }
    Ok(())
}

#[tokio::test]
async fn links_that_lose_every_tenth_packet_lose_no_write() -> anyhow::Result<()> {
    let world = Emulated::start(&REGIONS, wire(10.0, 0.1)?).await?;
    let stop = AtomicBool::new(false);
    let load = async {
        let work = async {
            write(world.node(0), "first", 150).await?;
            write(world.node(2), "second", 150).await
        };
        let outcome = work.await;
        stop.store(true, Ordering::Relaxed);
        outcome
    };
    let counts = world.cluster.nodes.iter().map(|node| count_until(node, &stop));
    let (counted, load) = tokio::join!(futures_util::future::join_all(counts), load);
    load?;
    let counted = counted.into_iter().sum::<anyhow::Result<i64>>()?;
    let lost: u64 = world.wan.report().directions.iter().map(|direction| direction.counters.lost).sum();
    ensure!(counted > 0 && lost > 100, "{counted} writes, {lost} packets lost");
    world.ends_equal(counted).await
}

/// Messages and bytes of each type that a node has sent.
async fn sent(node: &Node) -> anyhow::Result<BTreeMap<&'static str, (f64, f64)>> {
    let mut sent = BTreeMap::new();
    for kind in ["hello", "records", "news", "resume", "probe", "beat", "reconcile", "proof"] {
        let of = async |what| metric(node, &format!("atoll_peer_sent_{what}_total{{kind=\"{kind}\"}}")).await;
        sent.insert(kind, (of("messages").await?, of("bytes").await?));
    }
    Ok(sent)
}

#[tokio::test]
async fn an_idle_cluster_says_ten_heartbeats_a_second_and_a_root_every_ten_and_nothing_else() -> anyhow::Result<()> {
    let world = Emulated::start(&REGIONS[..2], wire(1.0, 0.0)?).await?;
    write(world.node(0), "k", 50).await?;
    add(world.node(1), 7).await?;
    world.ends_equal(7).await?;
    // Until logs are truncated and that is told, and roots have been compared.
    let deadline = Instant::now() + PATIENCE;
    let mut before = sent(world.node(0)).await?;
    while before["proof"].0 < 2.0 {
        ensure!(Instant::now() < deadline, "roots are told: {before:?}");
        tokio::time::sleep(Duration::from_millis(100)).await; // sleep: between two looks at a condition
        before = sent(world.node(0)).await?;
    }
    let (began, mut after) = (Instant::now(), before.clone());
    while after["proof"].0 < before["proof"].0 + 2.0 {
        ensure!(Instant::now() < deadline, "roots are told: {after:?}");
        tokio::time::sleep(Duration::from_millis(100)).await; // sleep: between two looks at a condition
        after = sent(world.node(0)).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let since = |kind: &str| (after[kind].0 - before[kind].0, after[kind].1 - before[kind].1);
    for kind in ["hello", "records", "news", "resume", "reconcile"] {
        ensure!(since(kind) == (0.0, 0.0), "{kind} in {seconds} s: {:?}", since(kind));
    }
    // Two periods of ten seconds lie between three roots; one that was due may have come just before.
    ensure!((10.0..32.0).contains(&seconds), "two roots in {seconds} s");
    let (heartbeats, bytes) = (since("probe").0 + since("beat").0, since("probe").1 + since("beat").1);
    ensure!(heartbeats <= 20.0 * seconds + 4.0 && heartbeats > 5.0 * seconds, "{heartbeats} in {seconds} s");
    ensure!(bytes / heartbeats < 100.0 && since("proof").1 / since("proof").0 < 100.0, "they are small");
    Ok(())
}
