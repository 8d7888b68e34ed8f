//! The demo's nodes: real processes of this very program, and the ocean between them.
//!
//! *How it goes.* [`Cluster::prepare`] makes certificates, reserves ports, opens a relay for every
//! ordered pair and writes the configurations. [`Cluster::start`] starts the processes and waits
//! until every one is ready and linked to all others. [`Cluster::stop`] ends them.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use atoll_client::api::PeerState;
use atoll_client::{Admin, Client, Endpoint, Trust};
use atoll_geo::RegionName;
use atoll_loadgen::run::{Access, Target};
use atoll_loadgen::verify::{Node, settle};
use atoll_loadgen::wan::{Shape, Wan, WanConfig};
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, timeout};

use super::cannot_start;
use super::node_config::{NodeConfig, TlsFiles};
use crate::exit::{Exit, Failure};
use crate::pki;

/// The cluster's name, which its certificates carry.
const CLUSTER: &str = "demo";
/// How long a node may take to be ready. Starting is far quicker; a busy machine is not.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often a node is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(25);
/// How long a node may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The nodes and the emulator.
pub(super) struct Cluster {
    directory: PathBuf,
    access: Access,
    wan: Wan,
    nodes: Vec<DemoNode>,
}

/// One node.
struct DemoNode {
    name: String,
    region: RegionName,
    ports: Ports,
    config: PathBuf,
    /// Everything that it writes to its standard streams, over all its lives.
    log: PathBuf,
    child: Option<Child>,
}

/// A node's listeners.
#[derive(Debug, Clone, Copy)]
struct Ports {
    http: SocketAddr,
    quic: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
}

impl Cluster {
    /// Everything but the processes.
    pub(super) fn prepare(directory: PathBuf, regions: &[RegionName]) -> Result<Self, Failure> {
        let wan = Wan::start(WanConfig::default()).map_err(|error| cannot_start(error.to_string()))?;
        let pki_directory = directory.join("pki");
        let made = |error: pki::PkiError| cannot_start(error.to_string());
        let authority = pki::init(&pki_directory, CLUSTER).map_err(made)?;
        let trusted = fs::read(&authority.cert)
            .map_err(|error| cannot_start(error.to_string()))
            .and_then(|pem| Ok(Trust::from_pem(&pem)?))?;
        let ports =
            reserve(regions.len()).map_err(|error| cannot_start(format!("no free ports on loopback: {error}")))?;
        let nodes = regions.iter().zip(ports).enumerate().map(|(at, (region, ports))| {
            let name = format!("n{}", at + 1);
            DemoNode {
                region: region.clone(),
                ports,
                config: directory.join(format!("{name}.toml")),
                log: directory.join(format!("{name}.log")),
                name,
                child: None,
            }
        });
        let access = Access { trust: Some(trusted), bearer: None };
        let cluster = Self { access, wan, nodes: nodes.collect(), directory };
        for node in &cluster.nodes {
            let issued = pki::issue(
                &pki_directory,
                &pki::Node { name: node.name.clone(), region: node.region.to_string(), sans: Vec::new(), days: 1 },
            );
            cluster.write_config(node, &authority.cert, &issued.map_err(made)?)?;
        }
        Ok(cluster)
    }

    /// Opens the relays from `node` to all others and tells it to dial them there.
    fn write_config(&self, node: &DemoNode, ca: &Path, issued: &pki::Issued) -> Result<(), Failure> {
        let mut relays = Vec::with_capacity(self.nodes.len());
        for other in self.nodes.iter().filter(|other| other.name != node.name) {
            let shape = Shape::published(&node.region, &other.region).unwrap_or_default();
            let relay = self
                .wan
                .link(&node.region, &other.region, other.ports.peer, shape)
                .map_err(|error| cannot_start(error.to_string()))?;
            relays.push((other.name.as_str(), relay));
        }
        let config = NodeConfig {
            cluster: CLUSTER,
            node: &node.name,
            region: node.region.as_str(),
            regions: self.nodes.iter().map(|node| node.region.as_str()).collect(),
            data_dir: &self.directory.join(&node.name),
            http: node.ports.http,
            quic: node.ports.quic,
            peer: node.ports.peer,
            admin: node.ports.admin,
            seeds: relays.iter().map(|&(_, relay)| relay).collect(),
            peers: relays.into_iter().collect(),
            tls: TlsFiles { ca, cert: &issued.cert, key: &issued.key },
        };
        let text = toml::to_string(&config).map_err(|error| cannot_start(error.to_string()))?;
        fs::write(&node.config, text).map_err(|error| cannot_start(error.to_string()))
    }

    /// Starts every node and waits until each is ready and linked to all others, and all hold the
    /// same.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        for node in &mut self.nodes {
            node.spawn()?;
        }
        let peers = self.nodes.len() - 1;
        for node in &mut self.nodes {
            node.wait_until_ready(&self.access).await?;
        }
        for node in &mut self.nodes {
            node.wait_until_linked(peers).await?;
        }
        // What they told each other of themselves has arrived, too.
        let settled = settle(&self.admins()?, READY_WITHIN).await.map_err(|error| cannot_start(error.to_string()))?;
        if !settled.equal {
            let within = READY_WITHIN.as_secs();
            return Err(cannot_start(format!("the nodes do not agree with each other within {within} s")));
        }
        Ok(())
    }

    /// Ends the process of node `at` as a power cut would.
    pub(super) async fn kill(&mut self, at: usize) -> Result<(), Failure> {
        let Some(mut child) = self.nodes[at].child.take() else { return Ok(()) };
        child.kill().await.map_err(|error| cannot_start(format!("a node cannot be killed: {error}")))
    }

    /// Starts node `at` again and waits until it is ready.
    pub(super) async fn restart(&mut self, at: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[at];
        node.spawn()?;
        node.wait_until_ready(&self.access).await
    }

    /// Whether every node still runs; who does not makes all that follows meaningless.
    pub(super) fn check_alive(&mut self) -> Result<(), Failure> {
        let ended = self.nodes.iter_mut().find_map(|node| node.ended().map(|status| (status, &*node)));
        ended.map_or(Ok(()), |(status, node)| {
            let message = node.failure(&format!("ended by itself ({status})")).message;
            Err(Failure::new(Exit::No, message))
        })
    }

    /// Asks every node to end, and ends those that do not.
    pub(super) async fn stop(&mut self) {
        for child in self.nodes.iter().filter_map(|node| node.child.as_ref()) {
            terminate(child);
        }
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            if timeout(END_WITHIN, child.wait()).await.is_err() {
                // It has ended meanwhile, or the system will not let go of it: nothing left to do.
                let _ = child.kill().await;
            }
        }
    }

    /// What to load, in the order of the regions.
    pub(super) fn targets(&self) -> Vec<Target> {
        let target = |node: &DemoNode| Target {
            region: node.region.clone(),
            endpoint: endpoint("quic", node.ports.quic),
            health: Some(endpoint("https", node.ports.http)),
        };
        self.nodes.iter().map(target).collect()
    }

    /// The admin listeners, in the order of the regions.
    pub(super) fn admins(&self) -> Result<Vec<Node>, Failure> {
        let admin = |node: &DemoNode| Ok(Node { region: node.region.clone(), admin: node.admin()? });
        self.nodes.iter().map(admin).collect()
    }

    /// How clients prove themselves.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// The emulator.
    pub(super) fn wan(&self) -> &Wan {
        &self.wan
    }

    /// How to use the nodes by hand.
    pub(super) fn manual(&self, namespace: &str) -> String {
        use std::fmt::Write as _;
        let ca = self.directory.join("pki").join("ca.crt");
        let mut text = String::from("\nThe nodes go on until Ctrl-C:\n");
        // Writing to a string does not fail.
        for node in &self.nodes {
            let Ports { http, quic, admin, .. } = node.ports;
            let region = &node.region;
            let _ = writeln!(text, "  {region:<16} https://{http}  quic://{quic}  admin http://{admin}");
        }
        let (first, last) = (&self.nodes[0].ports, &self.nodes[self.nodes.len() - 1].ports);
        let _ = write!(
            text,
            "\n  curl --cacert {ca} -X PUT -d hello 'https://{}/v1/{namespace}/registers/greeting'\
             \n  curl --cacert {ca} 'https://{}/v1/{namespace}/registers/greeting'\n",
            first.http,
            last.http,
            ca = ca.display(),
        );
        text
    }
}

impl DemoNode {
    fn spawn(&mut self) -> Result<(), Failure> {
        let program = std::env::current_exe()
            .map_err(|error| cannot_start(format!("this program's file is unknown: {error}")))?;
        let log = || File::options().create(true).append(true).open(&self.log);
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(&self.config).stdin(Stdio::null()).kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            // Meant for a node of the user's, each would override the file; but for how much is logged.
            if variable.to_string_lossy().starts_with("ATOLL_") && variable != "ATOLL_LOG" {
                command.env_remove(variable);
            }
        }
        // Ctrl-C is for this process, which then ends the nodes in order.
        #[cfg(unix)]
        command.process_group(0);
        let spawned = (|| command.stdout(log()?).stderr(log()?).spawn())();
        let child = spawned.map_err(|error| cannot_start(format!("node {} does not start: {error}", self.name)))?;
        self.child = Some(child);
        Ok(())
    }

    fn admin(&self) -> Result<Admin, Failure> {
        let client = Client::builder().endpoint(endpoint("http", self.ports.admin)).build()?;
        Ok(Admin::new(client))
    }

    /// Waits until the node says that it is ready. It is asked again and again: it cannot tell
    /// before its listener is open.
    async fn wait_until_ready(&mut self, access: &Access) -> Result<(), Failure> {
        let client = access.client(&endpoint("https", self.ports.http))?;
        let ask = async || match client.readiness(None).await {
            Ok(readiness) if readiness.ready => Ok(()),
            Ok(readiness) => Err(readiness.reasons.join(", ")),
            Err(error) => Err(error.to_string()),
        };
        self.wait_until("ready", ask).await
    }

    /// Waits until the node exchanges records with `peers` others: what is measured before is the
    /// start of a cluster.
    async fn wait_until_linked(&mut self, peers: usize) -> Result<(), Failure> {
        let admin = self.admin()?;
        let ask = async || match admin.status().await {
            Ok(status) => {
                let live = status.peers.iter().filter(|peer| peer.state == PeerState::Live).count();
                if live >= peers { Ok(()) } else { Err(format!("{live} of {peers} links are live")) }
            }
            Err(error) => Err(error.to_string()),
        };
        self.wait_until("linked to all others", ask).await
    }

    async fn wait_until(&mut self, what: &str, ask: impl AsyncFn() -> Result<(), String>) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut ticks = interval(ASK_EVERY);
        loop {
            ticks.tick().await;
            if let Some(status) = self.ended() {
                return Err(self.failure(&format!("ended ({status}) before it was {what}")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match timeout(left, ask()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => why,
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() >= deadline {
                let within = READY_WITHIN.as_secs();
                return Err(self.failure(&format!("is not {what} within {within} s: {why}")));
            }
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// What happened to this node, and the last thing it said.
    fn failure(&self, what: &str) -> Failure {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        cannot_start(format!("node {} ({}) {what}; it said last: {last}", self.name, self.region))
    }
}

fn endpoint(scheme: &str, address: SocketAddr) -> Endpoint {
    format!("{scheme}://{address}").parse().expect("a scheme and an address are an endpoint")
}

/// Free ports for `nodes` nodes. They are held together while they are found, so that no two are
/// the same, and let go for the nodes to take; who comes between makes a node fail, loudly.
fn reserve(nodes: usize) -> io::Result<Vec<Ports>> {
    let (mut held, mut found) = (Vec::new(), Vec::with_capacity(nodes));
    for _ in 0..nodes {
        let tcp = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        let udp = [UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?];
        found.push(Ports {
            http: tcp[0].local_addr()?,
            quic: udp[0].local_addr()?,
            peer: udp[1].local_addr()?,
            admin: tcp[1].local_addr()?,
        });
        held.push((tcp, udp));
    }
    Ok(found)
}

/// Asks a process to end; one that has ended is none the worse.
fn terminate(child: &Child) {
    #[cfg(unix)]
    if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    #[cfg(not(unix))]
    let _ = child;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn regions() -> Vec<RegionName> {
        atoll_geo::built_in_regions().iter().take(3).map(atoll_geo::CloudRegion::name).collect()
    }

    #[test]
    fn every_port_is_another() {
        let ports = reserve(9).unwrap();
        let tcp: BTreeSet<_> = ports.iter().flat_map(|ports| [ports.http, ports.admin]).collect();
        let udp: BTreeSet<_> = ports.iter().flat_map(|ports| [ports.quic, ports.peer]).collect();
        assert_eq!((tcp.len(), udp.len()), (18, 18));
    }

    #[test]
    fn nodes_dial_each_other_through_the_emulator_only() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = Cluster::prepare(directory.path().to_owned(), &regions()).unwrap();
        let listeners: BTreeSet<_> = cluster.nodes.iter().map(|node| node.ports.peer.to_string()).collect();
        let mut dialled = BTreeSet::new();
        for node in &cluster.nodes {
            let read: toml::Table = fs::read_to_string(&node.config).unwrap().parse().unwrap();
            let seeds = read["seeds"].as_array().unwrap().iter();
            let peers = read["peers"].as_table().unwrap();
            assert_eq!(peers.len(), 2);
            for address in seeds.chain(peers.values()) {
                let address = address.as_str().unwrap().to_owned();
                assert!(!listeners.contains(&address));
                dialled.insert(address);
            }
        }
        assert_eq!(dialled.len(), 6, "each direction has a relay of its own");
    }
}
