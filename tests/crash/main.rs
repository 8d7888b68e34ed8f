//! Kill -9 at random moments, under load from clients in every region: what was acknowledged is there exactly once.
//!
//! **How it goes.** A round is some seconds of load on three real nodes. Every node dies on its own, again and again: while
//! it serves, while it starts, while it replays its journal. Each time it is ready, everything that it acknowledged in any
//! of its lives is read back from it ([`ledger`]). At the end of a round all must become equal, dumps of every region must
//! be the same and say what clients were told; then one disk is lost, and its node is killed while it takes over a peer's
//! state.
//!
//! ```text
//! cargo test --release -p atoll-tests --test crash
//! ATOLL_CRASH_KILLS=500 ATOLL_CRASH_SEED=7 cargo test --release -p atoll-tests --test crash
//! ```
//!
//! **What is not here.** Power cuts and failing disks: the store's own tests have them, below its files. The seed decides
//! what is planned, not how threads and processes interleave.

#[path = "../system/cluster.rs"]
#[expect(dead_code, reason = "shared with the stories of `system`, which use all of it")]
mod cluster;
mod ledger;
mod lives;

use anyhow::{Context, ensure};
use atoll_client::api::Namespace;
use atoll_geo::RegionName;
use atoll_loadgen::clock::Clock;
use atoll_loadgen::run::{Access, LoadRun, Loaded, Target};
use atoll_loadgen::verify::{self, dump, judge, settle};
use atoll_loadgen::workload::Workload;
use atoll_tests::sim::random::Random;
use cluster::{Cluster, Node, PATIENCE};
use futures_util::future::{join_all, try_join_all};
use ledger::Ledger;
use lives::Tally;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-southeast-1"];
/// Kills of the short form.
const KILLS: u64 = 100;
/// Load of a round.
const ROUND: Duration = Duration::from_secs(12);
/// Writes a second of all types, over all regions, beside those of the ledger.
const MIXED_PER_SECOND: f64 = 90.0;
/// A log that is cut off after little: segments of 128 KiB come and go, and a node that was away may have to reconcile.
const SMALL_LOG: &str = "[log]\nretain_min = \"1s\"\nretain_max_bytes = \"1MiB\"\n";
/// Clients of the ledger in each region.
const CLIENTS: usize = 2;

/// A number from the environment.
fn number(name: &str) -> anyhow::Result<Option<u64>> {
    std::env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name} is a number"))).transpose()
}

/// Says how far it is, past whatever catches a test's output.
fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "crash: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_exactly_once_however_often_nodes_are_killed() -> anyhow::Result<()> {
    let wanted = number("ATOLL_CRASH_KILLS")?.unwrap_or(KILLS);
    let from_clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_micros() as u64 % 1_000_000);
    let seed = number("ATOLL_CRASH_SEED")?.unwrap_or_else(from_clock);
    let repeat =
        format!("ATOLL_CRASH_SEED={seed} ATOLL_CRASH_KILLS={wanted} cargo test --release -p atoll-tests --test crash");
    say(&format!("{wanted} kills; to repeat: {repeat}"));
    let began = Instant::now();
    let mut cluster = Cluster::with(&REGIONS, SMALL_LOG).await?;
    let (ledger, tally) = (Arc::new(Ledger::default()), Tally::default());
    for round in 0.. {
        let outcome = play(&mut cluster, round, seed, &ledger, &tally).await;
        outcome.with_context(|| format!("round {round}, to repeat: {repeat}\n{}", ends_of_logs(&cluster)))?;
        let (of_ledger, elapsed) = (ledger.acknowledged(), began.elapsed());
        say(&format!("round {round}, {elapsed:.0?}: {}, {of_ledger} of them in the ledger", tally.summary()));
        if tally.kills() >= wanted {
            break;
        }
    }
    let summary = tally.summary();
    ensure!(ledger.acknowledged() > 10 * tally.kills(), "nodes were hardly written to: {summary}");
    ensure!(tally.while_starting() > 0 && tally.while_joining() > 0, "some moments were never met: {summary}");
    say(&format!("done in {:.0?}, seed {seed}: {summary}", began.elapsed()));
    Ok(())
}

/// The last lines that every node logged.
fn ends_of_logs(cluster: &Cluster) -> String {
    let end_of = |node: &Node| {
        let log = node.log();
        let lines: Vec<_> = log.lines().rev().take(25).collect();
        format!("=== {}\n{}", node.name, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    };
    cluster.nodes.iter().map(end_of).collect::<Vec<_>>().join("\n")
}

async fn play(cluster: &mut Cluster, round: u64, seed: u64, ledger: &Arc<Ledger>, tally: &Tally) -> anyhow::Result<()> {
    let mut plan = Random::new(seed.wrapping_add(round << 32));
    let workload = Workload {
        seed: plan.next(),
        sessions_per_region: 8,
        probe_share: 0.0,
        ..Workload::mixed(Namespace::new(&format!("mixed-{round}"))?, MIXED_PER_SECOND, ROUND)
    };
    let access = Access { trust: Some(cluster.nodes[0].trust()?), bearer: None };
    let targets = cluster.nodes.iter().map(target).collect::<anyhow::Result<Vec<_>>>()?;
    let clients = cluster.nodes.iter().map(Node::http).collect::<anyhow::Result<Vec<_>>>()?;
    let load = LoadRun::start(workload.clone(), &targets, &access, Clock::start())?;
    let is_over = AtomicBool::new(false);
    let writers = (0..CLIENTS * clients.len()).map(|n| {
        let (clients, random) = (clients.clone(), Random::new(plan.next()));
        ledger.write(n % REGIONS.len(), clients, random, &is_over)
    });
    let writers = join_all(writers.collect::<Vec<_>>());
    let lives =
        cluster.nodes.iter_mut().enumerate().map(|(nth, node)| {
            lives::kill_again_and_again(node, nth, Random::new(plan.next()), ledger, tally, &is_over)
        });
    let lives = async {
        let outcome = try_join_all(lives.collect::<Vec<_>>()).await;
        // The writers end with a failure, too.
        is_over.store(true, Ordering::Relaxed);
        outcome
    };
    let load = async {
        let loaded = load.finish(Duration::ZERO).await;
        is_over.store(true, Ordering::Relaxed);
        loaded
    };
    let (loaded, _, outcome) = tokio::join!(load, writers, lives);
    outcome?;
    tally.add_acknowledged(loaded.acknowledged);
    check_all(cluster, &workload, &targets, &access, &loaded, ledger).await?;
    tally.set_ledger(ledger.acknowledged());
    let loser = (round % cluster.nodes.len() as u64) as usize;
    lives::lose_disk(&mut cluster.nodes[loser], &mut plan, tally).await?;
    ledger.check(&cluster.nodes[loser], |_| true).await.context("after its disk was lost")?;
    equal(cluster).await
}

fn target(node: &Node) -> anyhow::Result<Target> {
    Ok(Target {
        region: RegionName::new(&node.region)?,
        endpoint: format!("quic://127.0.0.1:{}", node.ports.quic).parse()?,
        health: Some(format!("https://127.0.0.1:{}", node.ports.http).parse()?),
    })
}

/// Waits until all regions have the same root and the same vector.
async fn equal(cluster: &Cluster) -> anyhow::Result<()> {
    let admin = |node: &Node| Ok(verify::Node { region: RegionName::new(&node.region)?, admin: node.admin()? });
    let nodes = cluster.nodes.iter().map(admin).collect::<anyhow::Result<Vec<_>>>()?;
    let settled = settle(&nodes, PATIENCE).await?;
    ensure!(settled.equal, "not equal after {PATIENCE:?}: {:?}", settled.regions);
    Ok(())
}

/// Everything is equal everywhere, and what clients were told.
async fn check_all(
    cluster: &Cluster,
    workload: &Workload,
    targets: &[Target],
    access: &Access,
    loaded: &Loaded,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    equal(cluster).await?;
    let regions: Vec<_> = targets.iter().map(|target| target.region.clone()).collect();
    let (mut mixed, mut ledgers) = (Vec::new(), Vec::new());
    for target in targets {
        let client = access.client(&target.endpoint)?;
        mixed.push(dump(&client, &workload.namespace).await?);
        ledgers.push(dump(&client, &ledger::namespace()).await?);
        client.close().await;
    }
    let verdict = judge(workload, &regions, &loaded.history, &mixed);
    ensure!(verdict.is_clean(), "{:#?}", verdict.explanations);
    let comparison = verify::compare(&regions, &ledgers);
    ensure!(comparison.differing == 0, "{:#?}", comparison.explanations);
    for node in &cluster.nodes {
        ledger.check(node, |_| true).await.context("after all regions were equal")?;
        let metrics = node.metrics().await?;
        ensure!(metrics.contains("\natoll_divergence_total 0\n"), "{} saw regions differ", node.name);
    }
    Ok(())
}
