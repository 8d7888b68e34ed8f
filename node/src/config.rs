//! What a node is told before it starts: `node.toml`, flags and variables, checked as a whole.
//!
//! **How it goes.** [`Config::load`] reads the text of a file, puts flags and variables over it (last one wins), and checks
//! every rule before anything is opened. [`Config::KEYS`] is the one table of all keys: it decides which exist and of
//! what kind they are, the command line makes its flags from it, and the documentation is checked against it.
//!
//! **What always holds.** C1: a `Config` that exists breaks no rule. C2: nothing that was asked for is ignored: an unknown
//! key is an error that names the nearest known one, and a reserved section says that it is reserved. C3: an error names
//! the key, why it is wrong, and what to write instead.
//!
//! **What is not here.** Files, the environment and the command line: whoever starts a node reads those.

mod keys;
mod rules;
mod values;

use atoll_replication::{NodeName, RegionName};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use keys::{Key, Kind};
pub use values::HostPort;

/// A node's whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The cluster: peers of another one are refused.
    pub cluster: String,
    /// This node, unique in the cluster.
    pub node: NodeName,
    /// Where it stands.
    pub region: RegionName,
    /// The cluster's regions; `region` is one of them.
    pub regions: Vec<RegionName>,
    /// The directory with everything that survives the process.
    pub data_dir: PathBuf,
    /// Where HTTP clients connect; HTTPS when TLS is set.
    pub http: SocketAddr,
    /// Where QUIC clients connect; open only when TLS is set.
    pub quic: SocketAddr,
    /// Where other nodes connect; open only when TLS is set.
    pub peer: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// Peer addresses of nodes that may know the cluster.
    pub seeds: Vec<HostPort>,
    /// This node's share of requests among equals.
    pub weight: u32,
    /// What others are told.
    pub advertise: Advertise,
    /// Peers that are dialled elsewhere than where the roster says.
    pub peers: BTreeMap<NodeName, HostPort>,
    /// Certificates; without them there are no peers.
    pub tls: Option<TlsPaths>,
    /// Hashed bearer tokens, one a line.
    pub tokens_file: Option<PathBuf>,
    /// Where on Earth the node stands.
    pub location: Option<Location>,
    /// When a write counts as durable.
    pub sync: Sync,
    /// How much of the log is kept for peers that are away.
    pub log: Log,
    /// How long reading and checking every stored row once takes; `None`: it is not done.
    pub scrub_every: Option<Duration>,
    /// Bytes of rows kept in memory beyond what must be there.
    pub cache_bytes: u64,
    /// Bounds on what clients can make this node hold.
    pub limits: Limits,
}

/// Addresses that others are told; where one is absent, the listener's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advertise {
    /// For HTTP clients.
    pub http: Option<HostPort>,
    /// For QUIC clients.
    pub quic: Option<HostPort>,
    /// For peers.
    pub peer: Option<HostPort>,
}

/// The files of `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The cluster's CA.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A place on Earth, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Location {
    /// North is positive; -90 to 90.
    pub lat: f64,
    /// East is positive; -180 to 180.
    pub lon: f64,
}

/// When a write counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When the disk says so.
    Always,
    /// When it is handed to the system; the disk is synced this often, and a power cut loses what came since.
    Interval(Duration),
}

/// How much of the log is kept for peers that are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Kept at least this long.
    pub retain_min: Duration,
    /// Dropped after this long, even if a peer lacks it.
    pub retain_max: Duration,
    /// Dropped beyond this many bytes, even if a peer lacks it.
    pub retain_max_bytes: u64,
}

/// Bounds on what clients and peers can make this node hold, and for how long. At a bound a request is refused as overloaded, or a
/// connection is closed; both are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections a listener.
    pub connections: u32,
    /// Open connections a listener and client address.
    pub connections_per_ip: u32,
    /// How long a client may take for a TLS handshake, its first bytes, or a request's head.
    pub header_timeout: Duration,
    /// How long a client may take for a request's body, and for taking in a part of an answer.
    pub body_timeout: Duration,
    /// Requests being worked on.
    pub requests_in_flight: u32,
    /// Bytes of requests' bodies being read or worked on.
    pub request_bytes_in_flight: u64,
    /// How long a node that is asked to end goes on answering, as one that is drained.
    pub drain_grace: Option<Duration>,
    /// Concurrent streams of one QUIC client.
    pub quic_streams: u32,
    /// Reads that wait until this node has seen what their session has.
    pub waiting_reads: u32,
    /// Reads at once that walk many rows: pages, maps, listings.
    pub scans: u32,
    /// Bytes of rows that taking a peer's state over holds in memory.
    pub reconcile_memory: u64,
    /// Bytes of rows that it builds on disk.
    pub reconcile_disk: u64,
    /// Bytes of the disk that are kept free.
    pub disk_reserve: u64,
}

/// Why a configuration is refused. Nothing was started; the operator corrects the key that is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not TOML.
    #[error("line {line}: {why}; the file is TOML: `key = value` lines and `[section]` heads")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// No such key.
    #[error("unknown key `{key}`; the nearest known key is `{nearest}`")]
    Unknown {
        /// As it was given.
        key: String,
        /// What was probably meant.
        nearest: &'static str,
    },
    /// A section that a later version reads.
    #[error("[{section}] is not supported yet; remove the section")]
    NotSupported {
        /// Which.
        section: &'static str,
    },
    /// The value is of the wrong kind.
    #[error("`{key}` is {found}, and must be {expected}")]
    Value {
        /// Which key.
        key: String,
        /// What it is.
        found: String,
        /// What it must be, with an example.
        expected: String,
    },
    /// A key that has no default.
    #[error("`{key}` is not set: {fix}")]
    Missing {
        /// Which key.
        key: &'static str,
        /// What to write.
        fix: &'static str,
    },
    /// A value that does not go together with the others.
    #[error("`{key}`: {why}; {fix}")]
    Rule {
        /// Which key.
        key: &'static str,
        /// Which rule it breaks.
        why: String,
        /// What to write.
        fix: &'static str,
    },
}

impl Config {
    /// Every key there is.
    pub const KEYS: &[Key] = keys::KEYS;

    /// Reads a file's text, puts `overrides` (dotted key, text) over it in order, and checks the whole.
    ///
    /// # Errors
    /// The first thing that is wrong, with its key and what to write instead.
    pub fn load(text: &str, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut values = values::Values::from_toml(text)?;
        for (key, text) in overrides {
            values.set(key, text)?;
        }
        let config = Self::from_values(&mut values)?;
        rules::check(&config)?;
        Ok(config)
    }

    fn from_values(values: &mut values::Values) -> Result<Self, ConfigError> {
        let region = rules::region(
            "region",
            &values.required("region", "the region this node stands in, such as \"eu-west-1\"")?,
        )?;
        let regions = match values.list("regions")? {
            Some(names) => names.iter().map(|name| rules::region("regions", name)).collect::<Result<_, _>>()?,
            None => vec![region.clone()],
        };
        Ok(Self {
            cluster: values.required("cluster", "a name that all nodes of the cluster share, such as \"shop\"")?,
            node: rules::node(
                "node",
                &values.required("node", "a name that no other node of the cluster has, such as \"n1\"")?,
            )?,
            region,
            regions,
            data_dir: values.required("data_dir", "a directory for this node's data")?.into(),
            http: values.address("http")?,
            quic: values.address("quic")?,
            peer: values.address("peer")?,
            admin: values.address("admin")?,
            seeds: values.hosts("seeds")?,
            weight: values.integer("weight", 0..=10_000)?,
            advertise: Advertise {
                http: values.host("advertise.http")?,
                quic: values.host("advertise.quic")?,
                peer: values.host("advertise.peer")?,
            },
            peers: values.peers()?,
            tls: rules::tls(values)?,
            tokens_file: values.text("auth.tokens_file")?.map(PathBuf::from),
            location: rules::location(values)?,
            sync: rules::sync(values)?,
            log: Log {
                retain_min: values.duration("log.retain_min")?,
                retain_max: values.duration("log.retain_max")?,
                retain_max_bytes: values.bytes("log.retain_max_bytes", 1 << 20)?,
            },
            scrub_every: values.duration_or_none("scrub.interval")?,
            cache_bytes: values.bytes("cache.bytes", 1 << 20)?,
            limits: Limits::from_values(values)?,
        })
    }

    /// Every listener with the key that set it.
    #[must_use]
    pub fn listeners(&self) -> [(&'static str, SocketAddr); 4] {
        [("http", self.http), ("quic", self.quic), ("peer", self.peer), ("admin", self.admin)]
    }
}

impl Limits {
    fn from_values(values: &mut values::Values) -> Result<Self, ConfigError> {
        Ok(Self {
            connections: values.integer("limits.connections", 1..=1_000_000)?,
            connections_per_ip: values.integer("limits.connections_per_ip", 1..=1_000_000)?,
            header_timeout: values.duration("limits.header_timeout")?,
            body_timeout: values.duration("limits.body_timeout")?,
            requests_in_flight: values.integer("limits.requests_in_flight", 1..=1_000_000)?,
            // One JSON request of the largest size must fit, with what it takes up in memory.
            request_bytes_in_flight: values.bytes("limits.request_bytes_in_flight", 64 << 20)?,
            drain_grace: values.duration_or_none("limits.drain_grace")?,
            quic_streams: values.integer("limits.quic_streams", 1..=1_024)?,
            waiting_reads: values.integer("limits.waiting_reads", 0..=1_000_000)?,
            scans: values.integer("limits.scans", 1..=1_024)?,
            reconcile_memory: values.bytes("limits.reconcile_memory", 1 << 20)?,
            reconcile_disk: values.bytes("limits.reconcile_disk", 64 << 20)?,
            disk_reserve: values.bytes("limits.disk_reserve", 0)?,
        })
    }
}

impl Default for Limits {
    /// As [`Config::KEYS`] says.
    fn default() -> Self {
        Self::from_values(&mut values::Values::default()).expect("the defaults of the table are of their kinds")
    }
}

#[cfg(test)]
mod tests;
