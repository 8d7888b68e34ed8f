//! Regions that were away for too long, wiped, restored from an older disk, or new: each ends equal, and nothing that was
//! acknowledged is lost, counted twice or brought back.

use crate::cluster::{Cluster, Node, PATIENCE, copy};
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::Session;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A log so short that whoever is away falls behind it at once.
const SHORT_LOG: &str = "[log]\nretain_max_bytes = \"1MiB\"\n";
const KEPT: usize = 40;
const FINISHED: &str = "atoll_reconciliations_total{outcome=\"finished\"}";

/// Writes that fill several segments of such a log; some keys are overwritten, and every third of the first is deleted.
async fn write_much(session: &Session, round: usize) -> anyhow::Result<()> {
    let namespace = shop();
    for chunk in (0..1_200).collect::<Vec<usize>>().chunks(100) {
        let puts = chunk.iter().map(async |n| {
            let name = key(&format!("k{}", n % 400));
            session.register(&namespace, &name).put(format!("{round}/{n}/{}", "x".repeat(1_200)), None).await
        });
        for outcome in futures_util::future::join_all(puts).await {
            outcome?;
        }
    }
    for n in 0..KEPT {
        let name = key(&format!("kept{n}"));
        if n % 3 == 0 {
            session.register(&namespace, &name).delete().await?;
        }
        session.counter(&namespace, &key("count")).add(1).await?;
    }
    Ok(())
}

/// Keys that a later part of the story deletes, or leaves.
async fn write_kept(session: &Session) -> anyhow::Result<()> {
    for n in 0..KEPT {
        session.register(&shop(), &key(&format!("kept{n}"))).put("here", None).await?;
    }
    Ok(())
}

/// What every node must show after `rounds` of [`write_much`].
async fn check(cluster: &Cluster, rounds: i64) -> anyhow::Result<()> {
    cluster.converged().await?;
    for node in &cluster.nodes {
        let session = node.http()?.session();
        for n in 0..KEPT {
            let found = session.register(&shop(), &key(&format!("kept{n}"))).get().await?.value.is_some();
            ensure!(found == (n % 3 != 0 || rounds == 0), "{}: kept{n} is there: {found}", node.name);
        }
        let count = session.counter(&shop(), &key("count")).get().await?.value;
        ensure!(count == (rounds > 0).then_some(rounds * KEPT as i64), "{} counts {count:?}", node.name);
    }
    Ok(())
}

/// A counter of `/metrics`.
pub(crate) async fn metric(node: &Node, name: &str) -> anyhow::Result<f64> {
    let text = node.metrics().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
}

/// Waits until a node has dropped part of its log.
async fn log_dropped(node: &Node) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while metric(node, "atoll_log_segments_dropped_total").await? < 2.0 {
        ensure!(Instant::now() < deadline, "{} keeps its log", node.name);
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

#[tokio::test]
async fn a_region_that_was_away_past_the_end_of_the_log_takes_state_over() -> anyhow::Result<()> {
    let mut cluster = Cluster::with(&REGIONS, SHORT_LOG).await?;
    write_kept(&cluster.nodes[0].quic()?.session()).await?;
    cluster.converged().await?;
    cluster.nodes[2].kill()?;
    write_much(&cluster.nodes[0].quic()?.session(), 1).await?;
    write_much(&cluster.nodes[1].quic()?.session(), 2).await?;
    log_dropped(&cluster.nodes[0]).await?;
    log_dropped(&cluster.nodes[1]).await?;
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    check(&cluster, 2).await?;
    ensure!(metric(&cluster.nodes[2], FINISHED).await? >= 1.0);
    Ok(())
}

#[tokio::test]
async fn a_wiped_region_is_not_ready_until_it_has_what_the_others_hold() -> anyhow::Result<()> {
    let mut cluster = Cluster::with(&REGIONS, SHORT_LOG).await?;
    write_kept(&cluster.nodes[1].quic()?.session()).await?;
    write_much(&cluster.nodes[1].quic()?.session(), 1).await?;
    cluster.converged().await?;
    log_dropped(&cluster.nodes[0]).await?;
    log_dropped(&cluster.nodes[1]).await?;
    cluster.nodes[2].kill()?;
    std::fs::remove_dir_all(&cluster.nodes[2].data_dir)?;
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    // Ready means that all of it is here.
    let there = cluster.nodes[2].http()?.session();
    ensure!(there.counter(&shop(), &key("count")).get().await?.value == Some(KEPT as i64));
    check(&cluster, 1).await
}

#[tokio::test]
async fn a_wiped_region_builds_on_disk_what_is_more_than_its_memory_may_hold_and_survives_a_kill() -> anyhow::Result<()>
{
    let more = format!("{SHORT_LOG}[limits]\nreconcile_memory = \"1MiB\"\n");
    let mut cluster = Cluster::with(&REGIONS, &more).await?;
    let (session, namespace) = (cluster.nodes[0].quic()?.session(), shop());
    for chunk in (0..3_000).collect::<Vec<usize>>().chunks(100) {
        let puts = chunk
            .iter()
            .map(async |n| session.register(&namespace, &key(&format!("large{n}"))).put("x".repeat(1_200), None).await);
        for outcome in futures_util::future::join_all(puts).await {
            outcome?;
        }
    }
    cluster.converged().await?;
    log_dropped(&cluster.nodes[0]).await?;
    log_dropped(&cluster.nodes[1]).await?;
    cluster.nodes[2].kill()?;
    std::fs::remove_dir_all(&cluster.nodes[2].data_dir)?;
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    ensure!(metric(&cluster.nodes[2], "atoll_reconciliations_total{outcome=\"on_disk\"}").await? >= 1.0);
    // At once: its rows may not have been moved yet.
    cluster.nodes[2].kill()?;
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    session.counter(&namespace, &key("count")).add(1).await?;
    cluster.converged().await?;
    let there = cluster.nodes[2].http()?.session();
    for n in (0..3_000).step_by(100) {
        let found = there.register(&namespace, &key(&format!("large{n}"))).get().await?.value;
        ensure!(found.is_some(), "large{n} is not there");
    }
    Ok(())
}

#[tokio::test]
async fn a_region_restored_from_an_older_disk_gets_back_what_it_had_acknowledged_since() -> anyhow::Result<()> {
    let mut cluster = Cluster::with(&REGIONS[..2], SHORT_LOG).await?;
    write_kept(&cluster.nodes[1].quic()?.session()).await?;
    cluster.converged().await?;
    ensure!(cluster.nodes[1].stop().await?.success());
    let yesterday = cluster.dir().join("yesterday");
    copy(&cluster.nodes[1].data_dir, &yesterday)?;
    cluster.nodes[1].spawn()?;
    cluster.nodes[1].ready().await?;
    write_much(&cluster.nodes[1].quic()?.session(), 1).await?;
    cluster.converged().await?;
    log_dropped(&cluster.nodes[0]).await?;
    ensure!(cluster.nodes[1].stop().await?.success());
    std::fs::remove_dir_all(&cluster.nodes[1].data_dir)?;
    copy(&yesterday, &cluster.nodes[1].data_dir)?;
    cluster.nodes[1].spawn()?;
    cluster.nodes[1].ready().await?;
    write_much(&cluster.nodes[1].quic()?.session(), 2).await?;
    check(&cluster, 2).await
}

/// Adds one to a counter until told to stop, and says how often that was acknowledged.
pub(crate) async fn count_until(node: &Node, stop: &AtomicBool) -> anyhow::Result<i64> {
    let (session, namespace, count) = (node.quic()?.session(), shop(), key("count"));
    let mut acknowledged = 0;
    while !stop.load(Ordering::Relaxed) {
        let adds = (0..8).map(|_| async { session.counter(&namespace, &count).add(1).await });
        for outcome in futures_util::future::join_all(adds).await {
            outcome?;
            acknowledged += 1;
        }
    }
    Ok(acknowledged)
}

#[tokio::test]
async fn a_fourth_region_joins_while_the_others_write() -> anyhow::Result<()> {
    let regions = [&REGIONS[..], &["sa-east-1"]].concat();
    let mut cluster = Cluster::starting(&regions, 3, SHORT_LOG).await?;
    write_much(&cluster.nodes[0].quic()?.session(), 1).await?;
    cluster.converged().await?;
    for node in &cluster.nodes[..3] {
        log_dropped(node).await?;
    }
    let stop = AtomicBool::new(false);
    let (others, joining) = cluster.nodes.split_at_mut(3);
    let joins = async {
        joining[0].spawn()?;
        let joined = joining[0].ready().await;
        stop.store(true, Ordering::Relaxed);
        joined
    };
    let (first, second, joined) = tokio::join!(count_until(&others[0], &stop), count_until(&others[1], &stop), joins);
    joined?;
    let acknowledged = KEPT as i64 + first? + second?;
    cluster.converged().await?;
    for node in &cluster.nodes {
        let count = node.http()?.session().counter(&shop(), &key("count")).get().await?.value;
        ensure!(count == Some(acknowledged), "{} counts {count:?} of {acknowledged}", node.name);
    }
    ensure!(metric(&cluster.nodes[3], FINISHED).await? >= 1.0);
    Ok(())
}

#[tokio::test]
async fn every_region_is_restarted_in_turn_while_the_next_one_writes() -> anyhow::Result<()> {
    let mut cluster = Cluster::with(&REGIONS, SHORT_LOG).await?;
    let mut acknowledged = 0;
    for turn in 0..REGIONS.len() {
        cluster.nodes.rotate_left(turn.min(1));
        let stop = AtomicBool::new(false);
        let (restarting, others) = cluster.nodes.split_at_mut(1);
        let restarts = async {
            let ended = restarting[0].stop().await?;
            ensure!(ended.success(), "{} ended with {ended}", restarting[0].name);
            restarting[0].spawn()?;
            let ready = restarting[0].ready().await;
            stop.store(true, Ordering::Relaxed);
            ready
        };
        let (counted, restarted) = tokio::join!(count_until(&others[0], &stop), restarts);
        restarted?;
        acknowledged += counted?;
    }
    cluster.converged().await?;
    for node in &cluster.nodes {
        let count = node.http()?.session().counter(&shop(), &key("count")).get().await?.value;
        ensure!(count == Some(acknowledged), "{} counts {count:?} of {acknowledged}", node.name);
    }
    Ok(())
}

#[tokio::test]
async fn regions_that_hold_the_same_exchange_roots_and_heartbeats_and_nothing_else() -> anyhow::Result<()> {
    let cluster = Cluster::start(&REGIONS[..2]).await?;
    write_kept(&cluster.nodes[0].quic()?.session()).await?;
    cluster.converged().await?;
    let deadline = Instant::now() + PATIENCE;
    for node in &cluster.nodes {
        // Two roots are a period apart.
        while metric(node, "atoll_proofs_total").await? < 2.0 {
            ensure!(Instant::now() < deadline, "{} compares no roots", node.name);
            tokio::time::sleep(Duration::from_millis(100)).await; // sleep: between two looks at a condition
        }
        ensure!(metric(node, "atoll_divergence_total").await? == 0.0);
        for outcome in ["finished", "given_up", "granted"] {
            let name = format!("atoll_reconciliations_total{{outcome=\"{outcome}\"}}");
            ensure!(metric(node, &name).await? == 0.0, "{}: {name}", node.name);
        }
    }
    Ok(())
}
