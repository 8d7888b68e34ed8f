//! How members leave: drained, by force, or because somebody started their disk twice.

use crate::cluster::{Cluster, Node, PATIENCE, atoll, copy};
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::api::{SetChange, Standing, WriteLevel};
use atoll_client::{Error, Options};
use std::process::Output;
use std::time::{Duration, Instant};

fn admin_url(node: &Node) -> String {
    format!("http://127.0.0.1:{}", node.ports.admin)
}

/// Runs `atoll member …` against a node; its status and what it said come back.
async fn member(node: &Node, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let url = admin_url(node);
    let mut command = atoll(&["member", "--admin", &url]);
    command.args(arguments);
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.code().context("it ended by itself")?, said))
}

async fn done(node: &Node, arguments: &[&str]) -> anyhow::Result<String> {
    let (status, said) = member(node, arguments).await?;
    ensure!(status == 0, "member {arguments:?} ended with {status}: {said}");
    Ok(said)
}

async fn add(node: &Node, amount: i64) -> Result<(), Error> {
    node.http().expect("a client").session().counter(&shop(), &key("sum")).add(amount).await.map(drop)
}

async fn sum(node: &Node) -> anyhow::Result<Option<i64>> {
    Ok(node.http()?.session().counter(&shop(), &key("sum")).get().await?.value)
}

/// Waits until writes are refused here with this code.
async fn refused(node: &Node, code: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match node.http()?.session().flag(&shop(), &key("probe")).put(true).await {
            Err(Error::Refused { problem, .. }) if problem.code.as_str() == code => return Ok(()),
            other => ensure!(Instant::now() < deadline, "{} still writes: {other:?}", node.name),
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
}

/// Waits until a node takes writes.
async fn writes(node: &Node) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = node.http()?.session().flag(&shop(), &key("probe")).put(true).await {
        ensure!(Instant::now() < deadline, "{} takes no writes: {error}", node.name);
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

/// Waits until a node's list says so.
async fn stands(asked: &Node, node: &str, standing: Standing) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = asked.admin()?.members().await?.members;
        if members.iter().any(|member| member.node == node && member.standing == standing) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{}: {members:?}", asked.name);
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
}

#[tokio::test]
async fn a_member_drains_and_is_removed_and_the_others_wait_for_it_no_more() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS).await?;
    cluster.converged().await?;
    let (first, leaving) = (&cluster.nodes[0], &cluster.nodes[2]);
    stands(first, "n2", Standing::Active).await?;
    for _ in 0..50 {
        add(leaving, 1).await?;
    }
    let (status, said) = member(first, &["remove", "n2"]).await?;
    ensure!(status == 4 && said.contains("drain it first"), "{status}: {said}");
    let (status, said) = member(first, &["drain", "n9"]).await?;
    ensure!(status == 1 && said.contains("n9"), "{status}: {said}");
    let said = done(first, &["drain", "n2"]).await?;
    ensure!(said.contains("n2 has drained"), "{said}");
    refused(leaving, "draining").await?;
    ensure!(!leaving.http()?.readiness(None).await?.ready);
    ensure!(sum(leaving).await? == Some(50), "it still answers reads");
    // Drained means: all of it is here.
    ensure!(sum(first).await? == Some(50));
    done(first, &["drain", "n2", "--undo"]).await?;
    writes(leaving).await?;
    done(first, &["drain", "n2"]).await?;
    done(first, &["remove", "n2"]).await?;
    refused(leaving, "store_read_only").await?;
    let (status, said) = member(first, &["drain", "n2", "--undo"]).await?;
    ensure!(status == 4 && said.contains("not used again"), "{status}: {said}");
    stands(&cluster.nodes[1], "n2", Standing::Removed).await?;
    ensure!(done(&cluster.nodes[1], &["list"]).await?.contains("removed"));
    cluster.nodes[2].stop().await?;
    // Two regions are all there are.
    let options = Options { write_level: Some(WriteLevel::All), ..Options::default() };
    let session = cluster.nodes[0].http()?.session().with_options(options);
    let written = session.counter(&shop(), &key("sum")).add(1).await?;
    ensure!(written.acked.is_none(), "{:?}", written.acked);
    // Whatever it has on its disk, it is not let in again.
    cluster.nodes[2].spawn()?;
    refused(&cluster.nodes[2], "store_read_only").await?;
    ensure!(cluster.nodes[0].admin()?.status().await?.peers.iter().all(|peer| peer.node != "n2"));
    Ok(())
}

#[tokio::test]
async fn what_a_member_that_was_removed_by_force_alone_holds_is_carried_over_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(&REGIONS).await?;
    cluster.converged().await?;
    let (first, gone) = (&cluster.nodes[0], &cluster.nodes[2]);
    add(gone, 1).await?;
    stands(first, "n2", Standing::Active).await?;
    cluster.converged().await?;
    for peer in ["n0", "n1"] {
        gone.admin()?.pause_link(peer, true).await?;
    }
    for _ in 0..20 {
        add(gone, 5).await?;
    }
    add(first, 1_000).await?;
    done(first, &["remove", "n2", "--force"]).await?;
    stands(&cluster.nodes[1], "n2", Standing::Removed).await?;
    for peer in ["n0", "n1"] {
        gone.admin()?.pause_link(peer, false).await?;
    }
    refused(gone, "store_read_only").await?;
    ensure!(sum(gone).await? == Some(101));
    ensure!(sum(first).await? == Some(1_001));
    let file = cluster.dir().join("n2.export");
    let file = file.to_str().context("a path in UTF-8")?;
    done(gone, &["export", "--beyond", &admin_url(first), file]).await?;
    let (status, said) = member(first, &["import", "/dev/null"]).await?;
    ensure!(status == 2 && said.contains("is no export"), "{status}: {said}");
    for said in [done(first, &["import", file]).await?, done(&cluster.nodes[1], &["import", file]).await?] {
        ensure!(said.contains("records"), "{said}");
    }
    ensure!(done(first, &["import", file]).await?.starts_with("0 records taken over"), "a second time does nothing");
    let deadline = Instant::now() + PATIENCE;
    for node in &cluster.nodes[..2] {
        while sum(node).await? != Some(1_101) {
            ensure!(Instant::now() < deadline, "{} counts {:?}", node.name, sum(node).await?);
            tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
        }
    }
    Ok(())
}

#[tokio::test]
async fn of_a_disk_that_was_started_twice_one_process_serves_and_the_other_loses_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS).await?;
    add(&cluster.nodes[2], 1).await?;
    cluster.converged().await?;
    ensure!(cluster.nodes[2].stop().await?.success());
    let mut twin = cluster.nodes[2].copied(&cluster.dir().join("twin"))?;
    copy(&cluster.nodes[2].data_dir, &twin.data_dir)?;
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    add(&cluster.nodes[2], 10).await?;
    cluster.converged().await?;
    twin.spawn()?;
    refused(&twin, "store_read_only").await?;
    ensure!(twin.log().contains("twin"), "{}", twin.log());
    add(&cluster.nodes[2], 100).await?;
    cluster.nodes[2].kill()?;
    writes(&twin).await?;
    add(&twin, 1_000).await?;
    cluster.nodes[2].spawn()?;
    refused(&cluster.nodes[2], "store_read_only").await?;
    twin.stop().await?;
    writes(&cluster.nodes[2]).await?;
    let deadline = Instant::now() + PATIENCE;
    for node in &cluster.nodes {
        while sum(node).await? != Some(1_111) {
            ensure!(Instant::now() < deadline, "{} counts {:?}", node.name, sum(node).await?);
            tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
        }
    }
    cluster.converged().await
}

#[tokio::test]
async fn regions_are_found_equal_while_they_write() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS).await?;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (cluster.nodes.iter())
        .map(|node| {
            let (client, stop) = (node.quic()?, std::sync::Arc::clone(&stop));
            anyhow::Ok(tokio::spawn(async move {
                let session = client.session();
                let mut n = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    session.register(&shop(), &key(&format!("k{}", n % 50))).put(format!("{n}"), None).await?;
                    let change = SetChange { add: vec![format!("m{}", n % 7)], remove: Vec::new() };
                    session.set(&shop(), &key("hot")).change(&change).await?;
                    n += 1;
                }
                Ok::<_, Error>(n)
            }))
        })
        .collect::<Result<_, _>>()?;
    for node in &cluster.nodes {
        let url = admin_url(node);
        let output =
            tokio::task::spawn_blocking(move || atoll(&["verify", "--json", "--admin", &url]).output()).await??;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.code() == Some(0) && said["equal"] == true, "{said}");
        ensure!(said["peers"].as_array().is_some_and(|peers| peers.len() == 2), "{said}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        ensure!(writer.await?? > 0);
    }
    cluster.nodes[2].kill()?;
    let url = admin_url(&cluster.nodes[0]);
    let output = tokio::task::spawn_blocking(move || atoll(&["verify", "--admin", &url]).output()).await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3) && said.contains("n2 was not compared"), "{said}");
    Ok(())
}
