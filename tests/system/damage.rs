//! Rows that a disk has damaged: refused and never absent, repaired from a peer, and equal again.

use crate::cluster::{Cluster, Node, PATIENCE, atoll};
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::api::ErrorCode;
use atoll_client::{Error, Session};
use std::time::{Duration, Instant};

/// A gauge or counter of `/metrics`.
async fn metric(node: &Node, name: &str) -> anyhow::Result<f64> {
    let text = node.metrics().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
}

async fn metric_becomes(node: &Node, name: &str, wanted: f64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while metric(node, name).await? != wanted {
        ensure!(Instant::now() < deadline, "{}: {name} is {}", node.name, metric(node, name).await?);
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

/// Flips a bit in the stored value of every row whose key contains `name`, so that the row engine's own checksums are
/// right; the node does not run.
fn damage(node: &Node, name: &str) -> anyhow::Result<usize> {
    let database = fjall::Database::builder(node.data_dir.join("rows")).open()?;
    let rows = database.keyspace("rows", fjall::KeyspaceCreateOptions::default)?;
    let mut damaged = Vec::new();
    for entry in rows.iter() {
        let (key, value) = entry.into_inner()?;
        if key.windows(name.len()).any(|part| part == name.as_bytes()) {
            let mut value = value.to_vec();
            *value.last_mut().context("a value has bytes")? ^= 1;
            damaged.push((key, value));
        }
    }
    for (key, value) in &damaged {
        rows.insert(key.clone(), value.clone())?;
    }
    database.persist(fjall::PersistMode::SyncAll)?;
    Ok(damaged.len())
}

/// What a refusal because of damage looks like.
fn is_refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> anyhow::Result<()> {
    match outcome {
        Err(Error::Refused { problem, .. }) if problem.code == ErrorCode::NotReady => {
            ensure!(problem.detail.contains("damaged"), "{problem:?}");
            Ok(())
        }
        other => anyhow::bail!("{other:?}"),
    }
}

/// Waits until a process takes writes: its first entry is on the disk then.
async fn takes_writes(session: &Session) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = session.flag(&shop(), &key("takes-writes")).put(true).await {
        ensure!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

async fn write(session: &Session) -> anyhow::Result<()> {
    for n in 0..20 {
        session.register(&shop(), &key(&format!("whole{n}"))).put(format!("value {n}"), None).await?;
    }
    session.register(&shop(), &key("torn")).put("here", None).await?;
    session.counter(&shop(), &key("torn-count")).add(5).await?;
    Ok(())
}

#[tokio::test]
async fn damaged_rows_are_refused_and_not_absent_until_a_peer_has_repaired_them() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS).await?;
    write(&cluster.nodes[0].http()?.session()).await?;
    cluster.converged().await?;
    for node in &mut cluster.nodes {
        ensure!(node.stop().await?.success(), "{}", node.name);
    }
    ensure!(damage(&cluster.nodes[2], "torn")? == 2);

    // Alone, it has nobody to repair it.
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    let there = cluster.nodes[2].http()?.session();
    takes_writes(&there).await?;
    is_refused(there.register(&shop(), &key("torn")).get().await)?;
    is_refused(there.register(&shop(), &key("torn")).put("over", None).await)?;
    is_refused(there.counter(&shop(), &key("torn-count")).get().await)?;
    is_refused(there.counter(&shop(), &key("torn-count")).add(1).await)?;
    metric_becomes(&cluster.nodes[2], "atoll_holes", 2.0).await?;
    // The others are read and written as ever.
    ensure!(there.register(&shop(), &key("whole7")).get().await?.value.context("a value")?.body == "value 7");
    there.register(&shop(), &key("whole7")).put("changed", None).await?;
    // Damage is found again after a restart, before anybody reads it.
    ensure!(cluster.nodes[2].stop().await?.success());
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    metric_becomes(&cluster.nodes[2], "atoll_holes", 2.0).await?;

    cluster.nodes[0].spawn()?;
    cluster.nodes[1].spawn()?;
    cluster.nodes[0].ready().await?;
    // What is written elsewhere waits for the repair, and then counts once.
    cluster.nodes[0].http()?.session().counter(&shop(), &key("torn-count")).add(2).await?;
    metric_becomes(&cluster.nodes[2], "atoll_holes", 0.0).await?;
    ensure!(metric(&cluster.nodes[2], "atoll_rows_repaired_total").await? == 2.0);
    cluster.converged().await?;
    for node in &cluster.nodes {
        let session = node.http()?.session();
        ensure!(session.register(&shop(), &key("torn")).get().await?.value.context("a value")?.body == "here");
        ensure!(session.counter(&shop(), &key("torn-count")).get().await?.value == Some(7), "{}", node.name);
        ensure!(session.register(&shop(), &key("whole7")).get().await?.value.context("a value")?.body == "changed");
        ensure!(metric(node, "atoll_divergence_total").await? == 0.0);
    }
    Ok(())
}

#[tokio::test]
async fn the_scrubber_finds_damage_that_nobody_reads() -> anyhow::Result<()> {
    let mut cluster = Cluster::with(&REGIONS[..2], "[scrub]\ninterval = \"500ms\"\n").await?;
    write(&cluster.nodes[0].http()?.session()).await?;
    cluster.converged().await?;
    ensure!(cluster.nodes[1].stop().await?.success());
    ensure!(damage(&cluster.nodes[1], "torn")? == 2);
    cluster.nodes[1].spawn()?;
    cluster.nodes[1].ready().await?;
    metric_becomes(&cluster.nodes[1], "atoll_rows_repaired_total", 2.0).await?;
    ensure!(metric(&cluster.nodes[1], "atoll_scrub_failures_total").await? >= 2.0);
    metric_becomes(&cluster.nodes[1], "atoll_holes", 0.0).await?;
    cluster.converged().await
}

#[tokio::test]
async fn an_operator_has_every_row_read_and_damage_is_found_at_once() -> anyhow::Result<()> {
    // Nothing reads rows by itself.
    let mut cluster = Cluster::with(&REGIONS[..2], "[scrub]\ninterval = \"0s\"\n").await?;
    write(&cluster.nodes[0].http()?.session()).await?;
    cluster.converged().await?;
    ensure!(cluster.nodes[1].stop().await?.success());
    ensure!(damage(&cluster.nodes[1], "torn")? == 2);
    cluster.nodes[1].spawn()?;
    cluster.nodes[1].ready().await?;
    cluster.converged().await?;
    let node = &cluster.nodes[1];
    ensure!(metric(node, "atoll_scrub_rounds_total").await? == 0.0, "nobody has asked");
    ensure!(metric(node, "atoll_rows_repaired_total").await? == 0.0, "and nothing is known of it");
    node.admin()?.begin_scrub().await?;
    metric_becomes(node, "atoll_rows_repaired_total", 2.0).await?;
    metric_becomes(node, "atoll_holes", 0.0).await?;
    metric_becomes(node, "atoll_scrub_running", 0.0).await?;
    ensure!(metric(node, "atoll_scrub_rounds_total").await? == 1.0);
    ensure!(metric(node, "atoll_scrub_failures_total").await? >= 2.0);
    // It can be asked for again.
    node.admin()?.begin_scrub().await?;
    metric_becomes(node, "atoll_scrub_rounds_total", 2.0).await?;
    cluster.converged().await
}

/// `atoll doctor` on a node's directory: how it ended, and what it printed.
fn doctor(node: &Node, more: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let config = node.config.to_str().context("a path in UTF-8")?;
    let output = atoll(&[&["doctor", "--config", config], more].concat()).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test]
async fn the_doctor_tells_a_running_node_a_healthy_one_and_one_that_its_peers_will_repair() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS[..2]).await?;
    write(&cluster.nodes[0].http()?.session()).await?;
    cluster.converged().await?;
    let (exit, said) = doctor(&cluster.nodes[1], &[])?;
    ensure!(exit == Some(4) && said.contains("in use by a running process"), "{exit:?}: {said}");
    cluster.nodes[1].kill()?;
    let (exit, said) = doctor(&cluster.nodes[1], &[])?;
    ensure!(exit == Some(0) && said.ends_with("healthy: it starts, and nothing is missing\n"), "{exit:?}: {said}");
    // A checkpoint is written when it ends in order.
    cluster.nodes[1].spawn()?;
    cluster.nodes[1].ready().await?;
    ensure!(cluster.nodes[1].stop().await?.success());
    ensure!(damage(&cluster.nodes[1], "torn")? == 2);
    let (exit, said) = doctor(&cluster.nodes[1], &[])?;
    ensure!(exit == Some(1) && said.contains("damaged    registers shop/torn\n"), "{exit:?}: {said}");
    ensure!(said.contains("what these 2 rows held; everything else is there"), "{said}");
    let (exit, said) = doctor(&cluster.nodes[1], &["--json"])?;
    let told: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(exit == Some(1) && told["verdict"] == "repairs_itself", "{exit:?}: {said}");
    ensure!(told["rows"]["holes"].as_array().is_some_and(|holes| holes.len() == 2), "{said}");
    let directory = cluster.nodes[1].data_dir.to_str().context("a path in UTF-8")?;
    let alone = atoll(&["doctor", "--data-dir", directory]).output()?;
    let said = String::from_utf8_lossy(&alone.stdout).into_owned();
    ensure!(alone.status.code() == Some(1) && said.contains("no start was rehearsed"), "{said}");
    cluster.nodes[1].spawn()?;
    cluster.nodes[1].ready().await?;
    metric_becomes(&cluster.nodes[1], "atoll_holes", 0.0).await?;
    cluster.converged().await
}
