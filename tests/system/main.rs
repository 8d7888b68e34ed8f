//! Whole-system stories with real processes on loopback: what only the real thing can show.

mod attacks;
mod backup;
mod bucket;
mod cluster;
mod damage;
mod faults;
mod full_disk;
mod members;
mod reconcile;
mod restarts;
mod wan;

use anyhow::{Context, ensure};
use atoll_client::api::{DataType, ErrorCode, Key, MapPatch, Namespace, SetChange, WriteLevel};
use atoll_client::{Client, Error, KeysQuery, Options, Page, Request, Session};
use cluster::{Cluster, PATIENCE, atoll};
use std::time::{Duration, Instant};

const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-southeast-1"];

fn shop() -> Namespace {
    "shop".parse().expect("a valid namespace")
}

fn key(text: &str) -> Key {
    text.parse().expect("a valid key")
}

/// Goes on in another region with what this session has seen, ready to wait for it.
fn moved(session: &Session, to: &Client) -> anyhow::Result<Session> {
    let session = to.resume(&session.token().context("a session that has seen something")?);
    Ok(session.with_options(Options { wait: Some(Duration::from_secs(30)), ..Options::default() }))
}

#[tokio::test]
async fn what_a_session_wrote_in_one_region_it_reads_in_the_next_over_either_transport() -> anyhow::Result<()> {
    let cluster = Cluster::start(&REGIONS).await?;
    let session = cluster.nodes[0].http()?.session();
    session.register(&shop(), &key("greeting")).put("hello", Some("text/plain")).await?;
    ensure!(session.counter(&shop(), &key("visits")).add(5).await?.value == 5);
    let change = SetChange { add: vec!["milk".into(), "bread".into()], remove: Vec::new() };
    ensure!(session.set(&shop(), &key("cart:42")).change(&change).await?.value == 2);
    let patch = serde_json::from_value::<MapPatch>(serde_json::json!({
        "set": {"/address": {"city": "Paris", "zip": 75001}}, "add": {"/orders": 2},
        "members": {"/tags": {"add": ["vip"]}}
    }))?;
    session.map(&shop(), &key("user:7")).patch(&patch).await?;
    session.flag(&shop(), &key("beta")).put(true).await?;

    for node in &cluster.nodes[1..] {
        for client in [node.http()?, node.quic()?] {
            let there = moved(&session, &client)?;
            let register = there.register(&shop(), &key("greeting")).get().await?;
            ensure!(register.region.as_deref() == Some(node.region.as_str()));
            ensure!(register.staleness.is_some());
            ensure!(register.value.context("a value")?.body == "hello");
            ensure!(there.counter(&shop(), &key("visits")).get().await?.value == Some(5));
            let page = there.set(&shop(), &key("cart:42")).members(&Page::default()).await?.value.context("a set")?;
            ensure!(page.members == ["bread", "milk"] && page.size == 2);
            let map = there.map(&shop(), &key("user:7")).get(None).await?.value.context("a map")?;
            ensure!(
                map == serde_json::json!({"address": {"city": "Paris", "zip": 75001}, "orders": 2, "tags": ["vip"]}),
                "{map}"
            );
            ensure!(there.flag(&shop(), &key("beta")).get().await?.value == Some(true));
            let keys = there.keys(&shop(), &KeysQuery::default()).await?.value;
            ensure!(keys.keys.len() == 5, "{keys:?}");
        }
    }
    cluster.converged().await
}

#[tokio::test]
async fn regions_that_write_one_thing_at_once_keep_both_until_somebody_has_seen_them() -> anyhow::Result<()> {
    let cluster = Cluster::start(&REGIONS[..2]).await?;
    let (a, b) = (cluster.nodes[0].http()?.session(), cluster.nodes[1].http()?.session());
    let (shop, word) = (shop(), key("word"));
    a.counter(&shop, &key("n")).add(5).await?;
    cluster.converged().await?;
    cluster.nodes[0].admin()?.pause_link("n1", true).await?;
    a.register(&shop, &word).put("one", None).await?;
    b.register(&shop, &word).put("two", None).await?;
    // A delete takes what it saw; the increment that it did not see stays, exactly.
    a.counter(&shop, &key("n")).delete().await?;
    b.counter(&shop, &key("n")).add(2).await?;
    cluster.nodes[0].admin()?.pause_link("n1", false).await?;
    cluster.converged().await?;
    for session in [&a, &b] {
        let siblings = session.register(&shop, &word).siblings().await?.value.context("siblings")?.siblings;
        ensure!(siblings.len() == 2, "{siblings:?}");
        ensure!(siblings[0].at >= siblings[1].at && siblings[0].region != siblings[1].region);
        ensure!(session.counter(&shop, &key("n")).get().await?.value == Some(2));
    }
    let shown = a.register(&shop, &word).get().await?;
    ensure!(shown.value.context("a value")?.siblings == 2);
    let context = shown.context.context("a context")?;
    a.register(&shop, &word).with_context(context).put("three", None).await?;
    cluster.converged().await?;
    let value = b.register(&shop, &word).get().await?.value.context("a value")?;
    ensure!(value.body == "three" && value.siblings == 1);
    Ok(())
}

#[tokio::test]
async fn a_write_level_counts_regions_and_a_cut_one_is_reported_not_waited_for_beyond_the_time_out()
-> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS).await?;
    let all = Options { write_level: Some(WriteLevel::All), write_timeout: Some(PATIENCE), ..Options::default() };
    let session = cluster.nodes[0].quic()?.session().with_options(all);
    let written = session.counter(&shop(), &key("n")).add(1).await?;
    ensure!(written.acked.is_none(), "all three hold it: {written:?}");
    cluster.nodes[2].kill()?;
    let short = Options { write_timeout: Some(Duration::from_millis(300)), ..all };
    let written = session.with_options(short).counter(&shop(), &key("n")).add(1).await?;
    let acked = written.acked.context("the level was not reached")?;
    ensure!(written.value == 2 && acked.to_string() == "2/3", "{acked}");
    let majority = Options { write_level: Some(WriteLevel::Majority), ..all };
    ensure!(session.with_options(majority).counter(&shop(), &key("n")).add(1).await?.acked.is_none());
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    ensure!(session.counter(&shop(), &key("n")).add(1).await?.acked.is_none());
    cluster.converged().await
}

#[tokio::test]
async fn a_link_that_is_cut_is_gone_around_through_the_third_region() -> anyhow::Result<()> {
    let cluster = Cluster::start(&REGIONS).await?;
    cluster.nodes[0].admin()?.pause_link("n2", true).await?;
    let session = cluster.nodes[0].http()?.session();
    session.register(&shop(), &key("k")).put("round", None).await?;
    let there = moved(&session, &cluster.nodes[2].quic()?)?;
    let value = there.register(&shop(), &key("k")).get().await?.value.context("it came through n1")?;
    ensure!(value.body == "round");
    let status = cluster.nodes[0].admin()?.status().await?;
    let peer = status.peers.iter().find(|peer| peer.node == "n2").context("n2 is a member")?;
    ensure!(peer.state.as_str() == "paused", "{peer:?}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_killed_under_load_keeps_every_write_it_acknowledged() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS[..2]).await?;
    let mut acknowledged = 0_i64;
    let mut unknown = 0_i64;
    for round in 0..3 {
        let session = cluster.nodes[0].quic()?.session();
        let deadline = Instant::now() + Duration::from_millis(400 + 150 * round);
        let counter = key("count");
        while Instant::now() < deadline {
            let namespace = shop();
            let adds = (0..16).map(|_| async { session.counter(&namespace, &counter).add(1).await });
            for outcome in futures_util::future::join_all(adds).await {
                outcome?;
                acknowledged += 1;
            }
        }
        // One more burst whose answers nobody waits for: the process dies under it.
        let namespace = shop();
        let adds = (0..64).map(|_| async { session.counter(&namespace, &counter).add(1).await });
        let burst = futures_util::future::join_all(adds);
        let (outcomes, killed) = tokio::join!(burst, async { cluster.nodes[0].kill() });
        killed?;
        for outcome in outcomes {
            match outcome {
                Ok(_) => acknowledged += 1,
                Err(_) => unknown += 1,
            }
        }
        cluster.nodes[0].spawn()?;
        cluster.nodes[0].ready().await?;
    }
    cluster.converged().await?;
    for node in &cluster.nodes {
        let value = node.http()?.session().counter(&shop(), &key("count")).get().await?.value.context("a counter")?;
        ensure!(
            (acknowledged..=acknowledged + unknown).contains(&value),
            "{}: {value} of {acknowledged} acknowledged and {unknown} unknown",
            node.name
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_node_without_data_joins_and_one_with_data_serves_alone() -> anyhow::Result<()> {
    let mut cluster = Cluster::new(&REGIONS)?;
    // Nobody answers: it waits, and says why.
    cluster.nodes[0].spawn()?;
    let client = cluster.nodes[0].http()?;
    let deadline = Instant::now() + PATIENCE;
    let reasons = loop {
        match client.readiness(None).await {
            Ok(readiness) => break readiness.reasons,
            Err(error) => ensure!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    };
    ensure!(reasons.iter().any(|reason| reason.contains("seed")), "{reasons:?}");
    let refused = client.session().flag(&shop(), &key("f")).put(true).await;
    ensure!(
        matches!(&refused, Err(Error::Refused { problem, .. }) if problem.code == ErrorCode::NotReady),
        "{refused:?}"
    );
    // All answer, and all are empty: they found together.
    for node in &mut cluster.nodes[1..] {
        node.spawn()?;
    }
    for node in &cluster.nodes {
        node.ready().await?;
    }
    let session = client.session();
    for n in 0..200 {
        session.register(&shop(), &key(&format!("k{n}"))).put(format!("v{n}"), None).await?;
    }
    cluster.converged().await?;
    // A wiped one joins again.
    cluster.nodes[2].kill()?;
    std::fs::remove_dir_all(&cluster.nodes[2].data_dir)?;
    cluster.nodes[2].spawn()?;
    cluster.nodes[2].ready().await?;
    let there = cluster.nodes[2].http()?.session();
    ensure!(there.register(&shop(), &key("k199")).get().await?.value.context("it joined")?.body == "v199");
    // One with data serves with nobody around.
    for node in &mut cluster.nodes {
        ensure!(node.stop().await?.success());
    }
    cluster.nodes[1].spawn()?;
    cluster.nodes[1].ready().await?;
    let alone = cluster.nodes[1].http()?.session();
    ensure!(alone.register(&shop(), &key("k7")).get().await?.value.context("its own data")?.body == "v7");
    Ok(())
}

#[tokio::test]
async fn every_operation_of_the_document_is_there_and_what_comes_later_says_so() -> anyhow::Result<()> {
    let cluster = Cluster::start(&REGIONS[..1]).await?;
    let client = cluster.nodes[0].http()?;
    let document = client.openapi().await?;
    ensure!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let session = client.session();
    for (method, target) in [
        (atoll_client::Method::GET, "/v1/shop/docs/d"),
        (atoll_client::Method::GET, "/v1/shop/_watch"),
        (atoll_client::Method::POST, "/v1/shop/_read"),
    ] {
        let response = session.request(&Request::new(method, target)).await?;
        ensure!(response.status() == 501, "{target}: {}", response.status());
    }
    session.flag(&shop(), &key("f")).put(true).await?;
    let metrics = cluster.nodes[0].admin()?.metrics().await?;
    for name in ["atoll_writes_total", "atoll_request_seconds", "atoll_commit_seconds", "atoll_peers_connected"] {
        ensure!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    let keys =
        session.keys(&shop(), &KeysQuery { data_type: Some(DataType::Registers), ..KeysQuery::default() }).await?;
    ensure!(keys.value.keys.is_empty(), "a flag is no register");
    Ok(())
}

#[test]
fn the_demo_cuts_a_region_off_and_ends_with_equal_regions_and_nothing_lost() -> anyhow::Result<()> {
    let output = atoll(&["demo", "--duration", "6s", "--rate", "300", "--partition", "--json"]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {errors}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["equal"] == true && report["lost"] == 0 && report["duplicated"] == 0, "{report}");
    ensure!(report["acked_writes"].as_u64().is_some_and(|writes| writes > 1_000), "{report}");
    ensure!(report["regions"].as_array().is_some_and(|regions| regions.len() == 3), "{report}");
    ensure!(report["pairs"].as_array().is_some_and(|pairs| pairs.len() == 6), "{report}");
    Ok(())
}
