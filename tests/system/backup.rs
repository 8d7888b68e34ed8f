//! Backups of running nodes: taken under load, checked, restored into a node that catches up, and into a cluster of another name.

use crate::bucket::Bucket;
use crate::cluster::{Cluster, Node, PATIENCE, atoll, copy};
use crate::reconcile::metric;
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::Session;
use atoll_client::api::SetChange;
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Runs a command of the product beside what the test itself does.
async fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = atoll(arguments);
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// The JSON that a command answers with, which must end with this status.
async fn answer(arguments: &[&str], status: i32) -> anyhow::Result<Value> {
    let output = run(&[arguments, &["--json"]].concat()).await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(status), "{arguments:?}: {:?}: {errors}", output.status);
    Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

async fn backup(node: &Node, to: &str, more: &[&str]) -> anyhow::Result<Value> {
    let admin = format!("http://127.0.0.1:{}", node.ports.admin);
    answer(&[&["backup", "--to", to, "--admin", &admin, "--rate", "0"], more].concat(), 0).await
}

async fn verified(to: &str) -> anyhow::Result<Value> {
    answer(&["backup", "verify", "--to", to], 0).await
}

/// Registers that are there before the first backup; every third goes before the second, others change.
async fn write_rows(session: &Session, round: i64) -> anyhow::Result<()> {
    let namespace = shop();
    for chunk in (0..300).collect::<Vec<i64>>().chunks(50) {
        let puts = chunk.iter().map(async |n| {
            let name = key(&format!("k{n}"));
            match round {
                0 => session.register(&namespace, &name).put(format!("{n}/{}", "x".repeat(300)), None).await.map(drop),
                _ if n % 3 == 0 => session.register(&namespace, &name).delete().await.map(drop),
                _ if n % 5 == 0 => {
                    session.register(&namespace, &name).put(format!("round {round}"), None).await.map(drop)
                }
                _ => Ok(()),
            }
        });
        for outcome in futures_util::future::join_all(puts).await {
            outcome?;
        }
    }
    let change =
        SetChange { add: vec![format!("m{round}"), format!("n{round}")], remove: vec![format!("n{}", round - 1)] };
    session.set(&namespace, &key("set")).change(&change).await?;
    Ok(())
}

/// Adds one to a counter in every region, over and over, while `work` goes on; gives what it gave, and how many were acknowledged.
async fn under_load<T>(cluster: &[Session], work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, i64)> {
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicI64::new(0));
    let (namespace, visits) = (shop(), key("visits"));
    let load = futures_util::future::join_all(cluster.iter().map(async |session| {
        while !stop.load(Relaxed) {
            session.counter(&namespace, &visits).add(1).await?;
            acknowledged.fetch_add(1, Relaxed);
        }
        anyhow::Ok(())
    }));
    let work = async {
        let outcome = work.await;
        stop.store(true, Relaxed);
        outcome
    };
    let (outcomes, outcome) = tokio::join!(load, work);
    outcomes.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    Ok((outcome?, acknowledged.load(Relaxed)))
}

/// What a node must show after so many rounds of [`write_rows`].
async fn check(node: &Node, rounds: i64, visits: i64) -> anyhow::Result<()> {
    let session = node.http()?.session();
    for n in 0..300 {
        let found = session.register(&shop(), &key(&format!("k{n}"))).get().await?.value;
        ensure!(found.is_some() == (n % 3 != 0 || rounds == 1), "{}: k{n} after {rounds} rounds: {found:?}", node.name);
    }
    let set =
        session.set(&shop(), &key("set")).members(&atoll_client::Page::default()).await?.value.context("a set")?;
    ensure!(set.size == rounds as u64 + 1 && set.members.len() as i64 == rounds + 1, "{}: {set:?}", node.name);
    let found = session.counter(&shop(), &key("visits")).get().await?.value;
    ensure!(found == Some(visits), "{} counts {found:?} of {visits}", node.name);
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[tokio::test]
async fn a_node_that_is_wiped_is_restored_from_increments_taken_under_load_and_catches_up() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS).await?;
    let sessions: Vec<Session> =
        cluster.nodes.iter().map(|node| anyhow::Ok(node.quic()?.session())).collect::<Result<_, _>>()?;
    let dest = cluster.dir().join("backups");
    let (to, writer) = (text(&dest)?, &sessions[1]);
    write_rows(writer, 0).await?;
    cluster.converged().await?;
    let (first, mut visits) = under_load(&sessions, backup(&cluster.nodes[0], to, &[])).await?;
    ensure!(first["parent"].is_null() && first["changed"] == first["rows"], "{first}");
    ensure!(metric(&cluster.nodes[0], "atoll_last_backup_seconds").await? < PATIENCE.as_secs_f64());
    write_rows(writer, 1).await?;
    cluster.converged().await?;
    let (second, more) = under_load(&sessions, backup(&cluster.nodes[0], to, &[])).await?;
    visits += more;
    ensure!(second["parent"] == first["id"] && second["gone"].as_u64() >= Some(100), "{second}");
    ensure!(second["changed"].as_u64() < Some(100), "only what has changed: {second}");
    write_rows(writer, 2).await?;
    let (third, more) = under_load(&sessions, backup(&cluster.nodes[0], to, &[])).await?;
    visits += more;
    let whole = verified(to).await?;
    ensure!(whole["whole"].as_array().is_some_and(|whole| whole.len() == 3), "{whole}");

    // Its disk is lost, and the others go on.
    cluster.nodes[0].kill()?;
    std::fs::remove_dir_all(&cluster.nodes[0].data_dir)?;
    write_rows(writer, 3).await?;
    let data_dir = cluster.nodes[0].data_dir.clone();
    let restored = answer(&["restore", "--from", to, "--data-dir", text(&data_dir)?], 0).await?;
    ensure!(restored["id"] == third["id"] && restored["root"] == third["root"] && restored["rows"] == third["rows"]);
    answer(&["restore", "--from", to, "--data-dir", text(&data_dir)?], 4).await?;
    cluster.nodes[0].spawn()?;
    cluster.nodes[0].ready().await?;
    cluster.converged().await?;
    for node in &cluster.nodes {
        check(node, 4, visits).await?;
    }
    ensure!(metric(&cluster.nodes[0], "atoll_divergence_total").await? == 0.0);
    let admin = format!("http://127.0.0.1:{}", cluster.nodes[0].ports.admin);
    ensure!(answer(&["verify", "--admin", &admin], 0).await?["equal"] == true);
    // It goes on from its own former backups, and is no other node for that.
    let fourth = backup(&cluster.nodes[0], to, &[]).await?;
    ensure!(fourth["parent"] == third["id"], "{fourth}");
    verified(to).await.map(drop)
}

#[tokio::test]
async fn a_damaged_object_is_named_and_never_restored_and_pruning_keeps_what_is_needed() -> anyhow::Result<()> {
    let cluster = Cluster::start(&REGIONS[..1]).await?;
    let session = cluster.nodes[0].quic()?.session();
    let dest = cluster.dir().join("backups");
    let to = text(&dest)?;
    let mut ids = Vec::new();
    for (round, more) in [(0, &[][..]), (1, &[]), (2, &["--full"])] {
        write_rows(&session, round).await?;
        ids.push(backup(&cluster.nodes[0], to, more).await?["id"].as_str().context("an id")?.to_owned());
    }
    // Somebody reads a state and goes away: nobody else may, until that is given up.
    let admin = cluster.nodes[0].admin()?;
    let begun = admin.begin_backup().await?;
    let url = format!("http://127.0.0.1:{}", cluster.nodes[0].ports.admin);
    answer(&["backup", "--to", to, "--admin", &url], 4).await?;
    admin.ask_backup(&begun.session, &atoll_client::api::BackupAsk::Abandon).await?;

    let object = dest.join("n0").join(&ids[0]).join("rows-000001");
    let whole = std::fs::read(&object)?;
    let mut damaged = whole.clone();
    *damaged.last_mut().context("it has bytes")? ^= 1;
    std::fs::write(&object, &damaged)?;
    let told = answer(&["backup", "verify", "--to", to], 1).await?;
    ensure!(told["wrong"][0].as_str().is_some_and(|wrong| wrong.contains("rows-000001")), "{told}");
    ensure!(told["whole"].as_array().is_some_and(|whole| whole.len() == 1), "the second goes on from it: {told}");
    let target = cluster.dir().join("restored");
    answer(&["restore", "--from", to, "--backup", &ids[1], "--data-dir", text(&target)?], 1).await?;
    ensure!(std::fs::read_dir(&target)?.next().is_none(), "nothing is left of it");
    std::fs::remove_file(&object)?;
    answer(&["backup", "verify", "--to", to, "--backup", &ids[1]], 1).await?;
    std::fs::write(&object, &whole)?;
    verified(to).await?;

    let listed = answer(&["backup", "list", "--to", to], 0).await?;
    ensure!(listed["backups"].as_array().is_some_and(|backups| backups.len() == 3), "{listed}");
    let kept = answer(&["backup", "prune", "--to", to, "--keep", "2"], 0).await?;
    ensure!(kept["removed"].as_array().is_some_and(Vec::is_empty), "the second goes on from the first: {kept}");
    let removed = answer(&["backup", "prune", "--to", to, "--keep", "1"], 0).await?;
    ensure!(removed["removed"] == serde_json::json!([ids[1], ids[0]]), "{removed}");
    verified(to).await?;
    // Without its manifest it is no backup.
    std::fs::remove_file(dest.join("n0").join(&ids[2]).join("manifest"))?;
    answer(&["restore", "--from", to, "--data-dir", text(&target)?], 1).await.map(drop)
}

#[tokio::test]
async fn a_whole_cluster_is_restored_at_one_point_in_time_under_another_name() -> anyhow::Result<()> {
    let old = Cluster::start(&REGIONS).await?;
    let session = old.nodes[0].quic()?.session();
    write_rows(&session, 0).await?;
    for _ in 0..7 {
        session.counter(&shop(), &key("visits")).add(1).await?;
    }
    old.converged().await?;
    // What operators decided of the old cluster's members is none of the new one's business.
    let admin = old.nodes[2].admin()?;
    let command = atoll_client::api::MemberCommand { standing: atoll_client::api::Standing::Removed, force: true };
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = admin.decide("n0", command).await {
        // A node that has just joined has yet to say who it is.
        ensure!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    let dest = old.dir().join("backups");
    let to = text(&dest)?;
    backup(&old.nodes[2], to, &[]).await?;
    write_rows(&old.nodes[2].quic()?.session(), 1).await?;

    let mut new = Cluster::named("second", &REGIONS)?;
    let data_dir = new.nodes[0].data_dir.clone();
    let restored =
        answer(&["restore", "--from", to, "--data-dir", text(&data_dir)?, "--new-cluster", "second"], 0).await?;
    ensure!(restored["cluster"] == "second", "{restored}");
    answer(&["restore", "--from", to, "--data-dir", text(&new.dir().join("x"))?, "--new-cluster", "test"], 2).await?;
    // A node of the old cluster does not open it.
    let stolen = old.dir().join("stolen");
    copy(&data_dir, &stolen)?;
    let stolen = old.nodes[0].copied(&stolen)?;
    let output = run(&["serve", "--config", text(&stolen.config)?]).await?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(5) && why.contains("was restored for the cluster 'second'"), "{why}");

    for node in &mut new.nodes {
        node.spawn()?;
    }
    for node in &new.nodes {
        node.ready().await?;
    }
    new.converged().await?;
    let session = new.nodes[0].quic()?.session();
    session.counter(&shop(), &key("visits")).add(1).await?;
    new.converged().await?;
    for node in &new.nodes {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let members = node.admin()?.members().await?.members;
            let names: Vec<&str> = members.iter().map(|member| member.node.as_str()).collect();
            if names == ["n0", "n1", "n2"] && metric(node, "atoll_peers_connected").await? == 2.0 {
                break;
            }
            ensure!(Instant::now() < deadline, "{} knows {names:?}", node.name);
            tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
        }
    }
    new.converged().await?;
    for node in &new.nodes {
        check(node, 1, 8).await?;
        ensure!(metric(node, "atoll_divergence_total").await? == 0.0);
    }
    Ok(())
}

#[tokio::test]
async fn a_bucket_keeps_backups_as_a_directory_does_and_no_key_is_ever_shown() -> anyhow::Result<()> {
    const SECRET: &str = "a-secret-that-nobody-may-see";
    let (cluster, bucket) = (Cluster::start(&REGIONS[..1]).await?, Bucket::start()?);
    let admin = format!("http://127.0.0.1:{}", cluster.nodes[0].ports.admin);
    let (to, target) = ("s3://bucket/shop/eu", cluster.dir().join("restored"));
    let ask = async |arguments: &[&str], endpoint: &str, status: i32| {
        let mut command = atoll(arguments);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", SECRET).env("AWS_REGION", "eu-west-1");
        command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ALLOW_HTTP", "true");
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(!told.contains(SECRET), "a secret is shown");
        ensure!(output.status.code() == Some(status), "{arguments:?}: {:?}: {told}", output.status);
        Ok(serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null))
    };
    let take = ["backup", "--to", to, "--admin", &admin, "--json"];
    write_rows(&cluster.nodes[0].quic()?.session(), 0).await?;
    let first = ask(&take, &bucket.endpoint, 0).await?;
    write_rows(&cluster.nodes[0].quic()?.session(), 1).await?;
    let second = ask(&take, &bucket.endpoint, 0).await?;
    ensure!(second["parent"] == first["id"], "{second}");
    ensure!(bucket.names().len() == 6 && bucket.names().iter().all(|name| name.starts_with("shop/eu/n0/")));
    ask(&["backup", "verify", "--to", to], &bucket.endpoint, 0).await?;
    let restored = ask(&["restore", "--from", to, "--data-dir", text(&target)?, "--json"], &bucket.endpoint, 0).await?;
    ensure!(restored["root"] == second["root"], "{restored}");
    ask(&[&take[..], &["--full"]].concat(), &bucket.endpoint, 0).await?;
    ask(&["backup", "prune", "--to", to, "--keep", "1"], &bucket.endpoint, 0).await?;
    ensure!(bucket.names().len() == 3, "{:?}", bucket.names());
    Ok(())
}
