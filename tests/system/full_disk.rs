//! A disk that runs full: writes are refused before anything fails, and the node goes on by itself when there is room.

use crate::cluster::{Cluster, Node, PATIENCE};
use crate::{REGIONS, key, shop};
use anyhow::{Context, ensure};
use atoll_client::api::{ErrorCode, WriteLevel};
use atoll_client::{Error, Options};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// What nodes keep free: writes end below it, links below half of it.
const RESERVE_MIB: u64 = 64;

/// A filesystem of a few MiB in memory, mounted where only one process sees it and gone with that.
struct SmallDisk {
    holder: Child,
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where the system does not let us mount anything.
    fn mount(at: &Path, mib: u64) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let script = r#"mount -t tmpfs -o "size=$2m" tmpfs "$1" && echo mounted && exec cat"#;
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .args([at.as_os_str(), mib.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().context("its output")?).read_line(&mut said)?;
        let at = at.strip_prefix("/")?;
        let path = PathBuf::from(format!("/proc/{}/root", holder.id())).join(at);
        let disk = Self { holder, path };
        Ok((said == "mounted\n").then_some(disk))
    }

    /// Fills it up to so much that stays free.
    fn fill(&self, name: &str, available: u64, but_mib: u64) -> anyhow::Result<()> {
        let bytes = available.checked_sub(but_mib * MIB).context("there is more room than that")?;
        Ok(std::fs::write(self.path.join(name), vec![1; usize::try_from(bytes)?])?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A holder that cannot be ended has ended.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Puts a node's data on a small disk, and `more` at the end of its configuration; it does not run yet.
fn on(disk: &SmallDisk, node: &mut Node, more: &str) -> anyhow::Result<()> {
    let data_dir = disk.path.join(&node.name);
    let text = std::fs::read_to_string(&node.config)?;
    let moved = text.replace(&format!("{}\"", node.data_dir.display()), &format!("{}\"", data_dir.display()));
    ensure!(moved != text, "the directory is in the file");
    std::fs::write(&node.config, moved + more)?;
    node.data_dir = data_dir;
    Ok(())
}

async fn metric(node: &Node, name: &str) -> anyhow::Result<f64> {
    let text = node.metrics().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
}

async fn metric_becomes(node: &Node, name: &str, wanted: f64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while metric(node, name).await.ok() != Some(wanted) {
        ensure!(Instant::now() < deadline, "{}: {name} is {:?}\n{}", node.name, metric(node, name).await, node.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

async fn available(node: &Node) -> anyhow::Result<u64> {
    Ok(metric(node, "atoll_disk_available_bytes").await? as u64)
}

async fn add(node: &Node, level: WriteLevel) -> Result<Option<String>, Error> {
    let timeout = if level == WriteLevel::All { Some(Duration::from_secs(2)) } else { None };
    let options = Options { write_level: Some(level), write_timeout: timeout, ..Options::default() };
    let session = node.http().expect("a client").session().with_options(options);
    let written = session.counter(&shop(), &key("sum")).add(1).await?;
    Ok(written.acked.map(|acked| acked.to_string()))
}

async fn sum(node: &Node) -> anyhow::Result<Option<i64>> {
    Ok(node.http()?.session().counter(&shop(), &key("sum")).get().await?.value)
}

/// Writes are refused as the contract says once the node is up, and reads are answered.
async fn is_read_only(node: &Node) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let problem = loop {
        match add(node, WriteLevel::Local).await {
            Err(Error::Refused { problem, .. }) if problem.code == ErrorCode::StoreReadOnly => break problem,
            Err(Error::Refused { problem, .. }) if problem.code == ErrorCode::NotReady => {}
            other => anyhow::bail!("{other:?}"),
        }
        ensure!(Instant::now() < deadline, "{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    };
    ensure!(problem.status == 503 && problem.detail.contains("limits.disk_reserve"), "{problem:?}");
    let reasons = node.http()?.readiness(None).await?.reasons;
    ensure!(reasons.iter().any(|reason| reason.contains("takes no writes: the disk has")), "{reasons:?}");
    ensure!(metric(node, "atoll_ready").await? == 0.0);
    ensure!(sum(node).await?.is_some(), "it is read");
    Ok(())
}

#[tokio::test]
async fn a_node_whose_disk_has_less_than_the_reserve_starts_and_takes_no_writes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&REGIONS[..1]).await?;
    ensure!(add(&cluster.nodes[0], WriteLevel::Local).await?.is_none());
    ensure!(cluster.nodes[0].stop().await?.success());
    let config = cluster.nodes[0].config.clone();
    // No disk has so much.
    std::fs::write(&config, std::fs::read_to_string(&config)? + "[limits]\ndisk_reserve = \"1000000TiB\"\n")?;
    cluster.nodes[0].spawn()?;
    metric_becomes(&cluster.nodes[0], "atoll_read_only", 1.0).await?;
    is_read_only(&cluster.nodes[0]).await?;
    ensure!(cluster.nodes[0].stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_writes_before_anything_fails_and_the_node_goes_on_by_itself_with_room()
-> anyhow::Result<()> {
    let mut cluster = Cluster::new(&REGIONS)?;
    let Some(disk) = SmallDisk::mount(&cluster.dir().join("small"), 200)? else {
        eprintln!("nothing was shown: this system lets nobody but its owner mount a filesystem");
        return Ok(());
    };
    let more = format!("[log]\nretain_max_bytes = \"16MiB\"\n[limits]\ndisk_reserve = \"{RESERVE_MIB}MiB\"\n");
    on(&disk, &mut cluster.nodes[1], &more)?;
    for node in &mut cluster.nodes {
        node.spawn()?;
    }
    for node in &cluster.nodes {
        node.ready().await?;
    }
    let mut written = 0;
    for node in &cluster.nodes {
        ensure!(add(node, WriteLevel::All).await?.is_none(), "all three hold it");
        written += 1;
    }

    // Less than the reserve: clients are refused, and what others acknowledged is still stored.
    let small = &cluster.nodes[1];
    ensure!(metric(small, "atoll_read_only").await? == 0.0);
    disk.fill("ballast", available(small).await?, RESERVE_MIB * 3 / 4)?;
    metric_becomes(small, "atoll_read_only", 1.0).await?;
    is_read_only(small).await?;
    ensure!(add(&cluster.nodes[0], WriteLevel::All).await?.is_none(), "all three hold it");
    written += 1;
    ensure!(sum(small).await? == Some(written));

    // Less than half of it: links are held, nobody is told that it holds anything, and others go on.
    disk.fill("more", available(small).await?, RESERVE_MIB / 4)?;
    metric_becomes(small, "atoll_peers_connected", 0.0).await?;
    ensure!(add(&cluster.nodes[0], WriteLevel::All).await?.as_deref() == Some("2/3"));
    written += 1;
    is_read_only(small).await?;
    ensure!(sum(small).await? == Some(written - 1), "it has not taken the last one");
    let small = &mut cluster.nodes[1];
    ensure!(small.has_ended()?.is_none(), "{}", small.log());
    // A crash meanwhile changes nothing.
    small.kill()?;
    small.spawn()?;
    metric_becomes(small, "atoll_read_only", 1.0).await?;
    is_read_only(small).await?;
    ensure!(sum(small).await? == Some(written - 1));

    std::fs::remove_file(disk.path.join("ballast"))?;
    std::fs::remove_file(disk.path.join("more"))?;
    small.ready().await?;
    metric_becomes(small, "atoll_read_only", 0.0).await?;
    metric_becomes(small, "atoll_peers_connected", 2.0).await?;
    ensure!(add(&cluster.nodes[1], WriteLevel::All).await?.is_none(), "all three hold it");
    written += 1;
    cluster.converged().await?;
    for node in &cluster.nodes {
        ensure!(sum(node).await? == Some(written), "{}", node.name);
    }
    ensure!(cluster.nodes[1].has_ended()?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_disk_that_fails_the_journal_ends_the_process_and_nothing_acknowledged_is_lost() -> anyhow::Result<()> {
    let mut cluster = Cluster::new(&REGIONS[..1])?;
    let Some(disk) = SmallDisk::mount(&cluster.dir().join("small"), 100)? else {
        eprintln!("nothing was shown: this system lets nobody but its owner mount a filesystem");
        return Ok(());
    };
    on(&disk, &mut cluster.nodes[0], "[log]\nretain_max_bytes = \"1MiB\"\n[limits]\ndisk_reserve = \"0B\"\n")?;
    cluster.nodes[0].spawn()?;
    cluster.nodes[0].ready().await?;
    let node = &mut cluster.nodes[0];
    let deadline = Instant::now() + PATIENCE;
    while available(node).await.is_err() {
        ensure!(Instant::now() < deadline, "{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    disk.fill("ballast", available(node).await?, 0)?;
    let session = node.quic()?.session();
    let mut acknowledged = 0;
    let refused = loop {
        let written = session.register(&shop(), &key(&format!("k{acknowledged}"))).put("v".repeat(8_192), None).await;
        match written {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        ensure!(acknowledged < 10_000, "a disk without room takes everything");
    };
    ensure!(matches!(refused, Error::FateUnknown { .. } | Error::Unreachable { .. }), "{refused}");
    while node.has_ended()?.is_none() {
        ensure!(Instant::now() < deadline + PATIENCE, "it goes on: {}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    ensure!(node.log().contains("the store failed, and the process ends"), "{}", node.log());
    std::fs::remove_file(disk.path.join("ballast"))?;
    node.spawn()?;
    node.ready().await?;
    let session = node.http()?.session();
    for n in 0..acknowledged {
        let read = session.register(&shop(), &key(&format!("k{n}"))).get().await?;
        ensure!(read.value.is_some_and(|value| value.body.len() == 8_192), "k{n} of {acknowledged} is lost");
    }
    ensure!(add(node, WriteLevel::Local).await?.is_none(), "it takes writes");
    Ok(())
}
