//! Real nodes as processes on loopback, for tests that need the whole thing.
//!
//! **What always holds.** Every process ends with its [`Node`], by its id. Waiting is for a condition, with a deadline.

use anyhow::{Context, bail};
use atoll::pki;
use atoll_client::{Admin, Client, Endpoint, Trust};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails. Generous: the machine is small and shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The addresses of one node.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) quic: u16,
    pub(crate) peer: u16,
    pub(crate) admin: u16,
}

/// Where ports of nodes are looked for: below those that systems give to outgoing connections, so that nobody's client
/// takes the port of a node that is being restarted.
const PORTS: std::ops::Range<u16> = 16_000..32_000;

/// Ports that were free a moment ago.
fn free_ports() -> anyhow::Result<Ports> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (first, count) = (PORTS.start, PORTS.end - PORTS.start);
    // Other processes begin elsewhere, this one never comes back.
    let begin = (std::process::id().wrapping_mul(0x9e37_79b9) >> 16) as u16 % count;
    let mut free = (0..count).filter_map(|_| {
        let port = first + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        is_free.then_some(port)
    });
    let mut next = || free.next().context("no port is free");
    Ok(Ports { http: next()?, admin: next()?, quic: next()?, peer: next()? })
}

/// A cluster's files, and its nodes.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
}

/// One node: its files, and its process while it runs.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) ports: Ports,
    pub(crate) config: PathBuf,
    pub(crate) data_dir: PathBuf,
    ca: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// How long it drains when it is asked to end.
    pub(crate) drain_grace: Option<&'static str>,
}

impl Cluster {
    /// Files for one node a region; nothing runs yet.
    pub(crate) fn new(regions: &[&str]) -> anyhow::Result<Self> {
        Self::files("test", regions, regions.len(), "")
    }

    /// The same, of another cluster.
    pub(crate) fn named(cluster: &str, regions: &[&str]) -> anyhow::Result<Self> {
        Self::files(cluster, regions, regions.len(), "")
    }

    fn files(cluster: &str, regions: &[&str], seeds: usize, more: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let keys = dir.path().join("pki");
        pki::init(&keys, cluster)?;
        let ports = regions.iter().map(|_| free_ports()).collect::<Result<Vec<_>, _>>()?;
        let seeds: Vec<String> = ports[..seeds].iter().map(|ports| format!("\"127.0.0.1:{}\"", ports.peer)).collect();
        let mut nodes = Vec::new();
        for (index, (region, ports)) in regions.iter().zip(ports).enumerate() {
            let name = format!("n{index}");
            pki::issue(&keys, &pki::Node { name: name.clone(), region: (*region).into(), sans: Vec::new(), days: 2 })?;
            let data_dir = dir.path().join(&name);
            let config = dir.path().join(format!("{name}.toml"));
            let quoted: Vec<_> = regions.iter().map(|region| format!("\"{region}\"")).collect();
            let text = format!(
                "cluster = \"{cluster}\"\nnode = \"{name}\"\nregion = \"{region}\"\nregions = [{}]\ndata_dir = \"{}\"\n\
                 http = \"127.0.0.1:{}\"\nquic = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:{}\"\n\
                 seeds = [{}]\n[tls]\nca = \"{k}/ca.crt\"\ncert = \"{k}/{name}.crt\"\nkey = \"{k}/{name}.key\"\n{more}",
                quoted.join(", "),
                data_dir.display(),
                ports.http,
                ports.quic,
                ports.peer,
                ports.admin,
                seeds.join(", "),
                k = keys.display(),
            );
            std::fs::write(&config, text)?;
            let log = dir.path().join(format!("{name}.log"));
            let (region, ca) = ((*region).into(), keys.join("ca.crt"));
            nodes.push(Node { name, region, ports, config, data_dir, ca, log, child: None, drain_grace: None });
        }
        Ok(Self { dir, nodes })
    }

    /// Starts every node and waits until all are ready.
    pub(crate) async fn start(regions: &[&str]) -> anyhow::Result<Self> {
        Self::with(regions, "").await
    }

    /// The same, with `more` at the end of every configuration.
    pub(crate) async fn with(regions: &[&str], more: &str) -> anyhow::Result<Self> {
        Self::starting(regions, regions.len(), more).await
    }

    /// The same, of which the first `count` are started, and are each other's seeds and everybody's.
    pub(crate) async fn starting(regions: &[&str], count: usize, more: &str) -> anyhow::Result<Self> {
        let mut cluster = Self::files("test", regions, count, more)?;
        for node in &mut cluster.nodes[..count] {
            node.spawn()?;
        }
        for node in &cluster.nodes[..count] {
            node.ready().await?;
        }
        Ok(cluster)
    }

    /// Where the cluster's files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until every running node has the same root and vector.
    pub(crate) async fn converged(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut digests = Vec::new();
            for node in self.nodes.iter().filter(|node| node.child.is_some()) {
                let digest = node.admin()?.digest().await?;
                digests.push((digest.root, digest.vector));
            }
            if digests.windows(2).all(|pair| pair[0] == pair[1]) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not equal after {PATIENCE:?}: {digests:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
        }
    }
}

/// The product's binary with arguments, its input and output not those of the test.
pub(crate) fn atoll(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll-under-test"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Node {
    /// Starts the process; its log goes to a file.
    pub(crate) fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let config = self.config.to_str().context("a path in UTF-8")?;
        let mut command = atoll(&["serve", "--config", config]);
        // No client of most stories has another region to go to.
        let grace = self.drain_grace.unwrap_or("0s");
        let child = command.env("ATOLL_LIMITS_DRAIN_GRACE", grace).stdout(Stdio::null()).stderr(log).spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// The same node, to be started once more: from another directory, on other ports.
    pub(crate) fn copied(&self, data_dir: &Path) -> anyhow::Result<Self> {
        let ports = free_ports()?;
        let mut text = std::fs::read_to_string(&self.config)?;
        let own_seed = format!("\"127.0.0.1:{}\"", self.ports.peer);
        for (old, new) in [
            (self.ports.http, ports.http),
            (self.ports.quic, ports.quic),
            (self.ports.peer, ports.peer),
            (self.ports.admin, ports.admin),
        ] {
            text = text.replace(&format!("127.0.0.1:{old}\""), &format!("127.0.0.1:{new}\""));
        }
        let dirs = (self.data_dir.display().to_string(), data_dir.display().to_string());
        text = text.replace(&dirs.0, &dirs.1);
        anyhow::ensure!(!text.contains(&own_seed), "it does not dial the other one");
        let config = data_dir.with_extension("toml");
        std::fs::write(&config, text)?;
        Ok(Self {
            name: self.name.clone(),
            region: self.region.clone(),
            ports,
            config,
            data_dir: data_dir.to_owned(),
            ca: self.ca.clone(),
            log: data_dir.with_extension("log"),
            child: None,
            drain_grace: self.drain_grace,
        })
    }

    /// The process's id, while it runs.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.child.as_ref().context("the node runs")?.id())
    }

    /// What the process has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills the process as a power cut would.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// How the process ended, if it did so by itself.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the node was started")?;
        Ok(child.try_wait()?)
    }

    /// Asks the process to end, and waits for it.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("the node runs")?;
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "kill -TERM");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "{} does not end", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await; // sleep: between two looks at a condition
        }
    }

    /// Whom its clients trust.
    pub(crate) fn trust(&self) -> anyhow::Result<Trust> {
        Ok(Trust::from_pem(&std::fs::read(&self.ca)?)?)
    }

    /// A client over HTTPS.
    pub(crate) fn http(&self) -> anyhow::Result<Client> {
        self.client(&format!("https://127.0.0.1:{}", self.ports.http))
    }

    /// A client over QUIC.
    pub(crate) fn quic(&self) -> anyhow::Result<Client> {
        self.client(&format!("quic://127.0.0.1:{}", self.ports.quic))
    }

    /// A client that knows these nodes, in this order, over one scheme.
    pub(crate) fn client_of(nodes: &[&Self], scheme: &str) -> anyhow::Result<Client> {
        let mut builder = Client::builder().trust(nodes[0].trust()?);
        for node in nodes {
            let port = if scheme == "quic" { node.ports.quic } else { node.ports.http };
            builder = builder.endpoint(format!("{scheme}://127.0.0.1:{port}").parse::<Endpoint>()?);
        }
        Ok(builder.build()?)
    }

    fn client(&self, endpoint: &str) -> anyhow::Result<Client> {
        Ok(Client::builder().endpoint(endpoint.parse::<Endpoint>()?).trust(self.trust()?).build()?)
    }

    /// The admin listener.
    pub(crate) fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Admin::new(self.client(&format!("http://127.0.0.1:{}", self.ports.admin))?))
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.ports.admin)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Waits until the node is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let client = self.http()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client.readiness(None).await {
                Ok(readiness) if readiness.ready => return Ok(()),
                answer if Instant::now() > deadline => bail!("{} is not ready: {answer:?}\n{}", self.name, self.log()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await, // sleep: between two looks at a condition
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A process that cannot be ended has ended.
        let _ = self.kill();
    }
}

/// Copies a directory with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from)? {
        let path = item?.path();
        let target = to.join(path.file_name().context("a named file")?);
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Waits for a process to end by itself.
pub(crate) fn wait(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("the process did not end");
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks at a condition; a process has no other news")]
        std::thread::sleep(Duration::from_millis(10)); // sleep: between two looks at a condition
    }
}
