//! Fifty restarts: what clients carry stays short, and means the same in every region.

use crate::cluster::{Cluster, PATIENCE};
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::Session;
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
