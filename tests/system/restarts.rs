//! Restarts: fifty of one node, after which what clients carry is short and means the same in every region; and all regions one after the
//! other under load, of which clients notice nothing.

use crate::cluster::{Cluster, Node, PATIENCE};
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::{Client, Error, Options, Session};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

const RESTARTS: usize = 50;

async fn tag(session: &Session) -> anyhow::Result<()> {
    session.register(&shop(), &key("tag")).put("old", None).await?;
    Ok(())
}

#[tokio::test]
async fn tokens_and_contexts_stay_short_however_often_a_node_is_restarted() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS[..2]).await?;
    for round in 0..RESTARTS {
        ensure!(cluster.nodes[1].has_ended()?.is_none(), "{}", cluster.nodes[1].log());
        cluster.nodes[1].kill()?;
        cluster.nodes[1].spawn()?;
        cluster.nodes[1].ready().await?;
        let session = cluster.nodes[1].quic()?.session();
        session.counter(&shop(), &key("rounds")).add(1).await?;
        if round % 10 == 0 {
            tag(&session).await?;
        }
    }
    cluster
        .converged()
        .await
        .with_context(|| format!("{}\n=====\n{}", cluster.nodes[0].log(), cluster.nodes[1].log()))?;
    let vector = cluster.nodes[0].admin()?.status().await?.vector;
    ensure!(vector.len() > RESTARTS, "every process was an actor: {}", vector.len());
    let deadline = Instant::now() + PATIENCE;
    let (there, here) = (cluster.nodes[1].http()?.session(), cluster.nodes[0].http()?);
    let shown = loop {
        let shown = there.register(&shop(), &key("tag")).get().await?;
        let token = there.token().context("a read answers a token")?;
        let context = shown.context.as_ref().context("a read answers a context")?;
        if token.len() < 200 && context.as_str().len() < 200 {
            break shown;
        }
        ensure!(Instant::now() < deadline, "{} and {} characters", token.len(), context.as_str().len());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    };
    // A short token makes another region wait for what it stands for.
    there.counter(&shop(), &key("rounds")).add(1_000).await?;
    let moved = here.resume(&there.token().context("a token")?);
    let rounds = moved.counter(&shop(), &key("rounds")).get().await?.value;
    ensure!(rounds == Some(RESTARTS as i64 + 1_000), "{rounds:?}");
    // A short context names every dot that was shown, those of processes long gone too, and nothing newer.
    moved.register(&shop(), &key("tag")).put("newer", None).await?;
    let context = shown.context.context("a context")?;
    moved.register(&shop(), &key("tag")).with_context(context).put("by what was shown", None).await?;
    let siblings = moved.register(&shop(), &key("tag")).siblings().await?.value.context("there are values")?;
    let mut values: Vec<_> = siblings.siblings.into_iter().map(|sibling| sibling.value.to_vec()).collect();
    values.sort_unstable();
    ensure!(values == [&b"by what was shown"[..], b"newer"], "{values:?}");
    Ok(())
}

/// What the clients of a rolling restart saw.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// Adds that were acknowledged.
    added: AtomicI64,
    reads: AtomicI64,
    /// Of everything but adds whose answer was lost.
    errors: std::sync::Mutex<Vec<String>>,
    /// Those.
    unknown: AtomicI64,
}

/// Adds, puts and reads in one session until it is told to stop.
async fn keep_busy(client: Client, seen: Arc<Seen>, worker: usize) {
    let patient = Options { wait: Some(Duration::from_secs(20)), ..Options::default() };
    let session = client.session().with_options(patient);
    let (namespace, own) = (shop(), key(&format!("of worker {worker}")));
    let error = |error: Error| seen.errors.lock().expect("no worker panics").push(error.to_string());
    let mut round = 0_u64;
    while !seen.stop.load(Ordering::Relaxed) {
        round += 1;
        match session.counter(&namespace, &key("adds")).add(1).await {
            Ok(_) => _ = seen.added.fetch_add(1, Ordering::Relaxed),
            Err(Error::FateUnknown { .. }) => _ = seen.unknown.fetch_add(1, Ordering::Relaxed),
            Err(other) => error(other),
        }
        // A put of its own key may be repeated: whoever lost the answer writes the same again.
        let text = round.to_string();
        let mut put = session.register(&namespace, &own).put(text.clone(), None).await;
        if matches!(put, Err(Error::FateUnknown { .. })) {
            put = session.register(&namespace, &own).put(text.clone(), None).await;
        }
        put.map(drop).unwrap_or_else(error);
        match session.register(&namespace, &own).get().await {
            Ok(read) => {
                seen.reads.fetch_add(1, Ordering::Relaxed);
                if read.value.is_none_or(|value| value.body != text) {
                    seen.errors.lock().expect("no worker panics").push(format!("{own} is not {text}"));
                }
            }
            Err(other) => error(other),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_know_another_region_notice_nothing_of_a_rolling_restart() -> anyhow::Result<()> {
    let mut cluster = Cluster::new(&REGIONS)?;
    for node in &mut cluster.nodes {
        node.drain_grace = Some("1s");
        node.spawn()?;
    }
    for node in &cluster.nodes {
        node.ready().await?;
    }
    let seen = Arc::new(Seen::default());
    let mut workers = Vec::new();
    for worker in 0..12 {
        let nodes: Vec<&Node> = (0..3).map(|nth| &cluster.nodes[(worker + nth) % 3]).collect();
        let client = Node::client_of(&nodes, if worker % 2 == 0 { "quic" } else { "https" })?;
        workers.push(tokio::spawn(keep_busy(client, Arc::clone(&seen), worker)));
    }
    for index in 0..3 {
        let before = seen.reads.load(Ordering::Relaxed);
        let probe = cluster.nodes[index].http()?;
        let (stopped, drained) = tokio::join!(cluster.nodes[index].stop(), until_draining(&probe));
        ensure!(stopped?.success());
        drained.with_context(|| cluster.nodes[index].log())?;
        cluster.nodes[index].spawn()?;
        cluster.nodes[index].ready().await?;
        let deadline = Instant::now() + PATIENCE;
        while seen.reads.load(Ordering::Relaxed) < before + 50 {
            ensure!(Instant::now() < deadline, "the load goes on: {:?}", seen.errors.lock().expect("no worker panics"));
            tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
        }
    }
    seen.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await?;
    }
    let errors = std::mem::take(&mut *seen.errors.lock().expect("no worker panics"));
    ensure!(errors.is_empty(), "{} errors: {:?}", errors.len(), &errors[..errors.len().min(10)]);
    cluster.converged().await?;
    let (added, unknown) = (seen.added.load(Ordering::Relaxed), seen.unknown.load(Ordering::Relaxed));
    eprintln!("{added} adds, {unknown} of unknown fate, {} reads, no error", seen.reads.load(Ordering::Relaxed));
    ensure!(unknown == 0, "{unknown} answers of {added} were lost");
    for node in &cluster.nodes {
        let value = node.http()?.session().counter(&shop(), &key("adds")).get().await?.value;
        ensure!(value == Some(added), "{}: {value:?} of {added}", node.name);
    }
    Ok(())
}

/// Waits until a node says that it drains.
async fn until_draining(probe: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let readiness = probe.readiness(None).await.context("it answers while it drains")?;
        if readiness.reasons.iter().any(|reason| reason == "draining") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{readiness:?}");
        tokio::time::sleep(Duration::from_millis(5)).await; // sleep: between two looks at a condition
    }
}
