//! What the peer endpoint is told when it starts.

use crate::tls::Tls;
use atoll_replication::{NodeName, RegionName};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How to reach peers, and how to be reached by them.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The UDP address to listen on and to dial from.
    pub listen: SocketAddr,
    /// Addresses (`host:port`) to ask for the cluster; their places in this list are their `SeedIndex`.
    pub seeds: Vec<String>,
    /// Addresses to dial instead of what the roster says: tunnels, relays.
    pub overrides: BTreeMap<NodeName, String>,
    /// Who this node is, and whom it believes.
    pub tls: Tls,
    /// Bounds and intervals.
    pub limits: Limits,
}

/// Bounds and intervals. The defaults suit links of 1 to 300 ms.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Congestion window of a new connection. Cubic does not open it while there is little to send, so a burst on a
    /// quiet link of 150 ms waits for as many round trips as doublings are missing. More than the path's buffers hold is
    /// lost and comes again: private links bear 4 MiB, the public internet 256 KiB.
    pub initial_window_bytes: u64,
    /// From a connection's start to the peer's greeting.
    pub greeting: Duration,
    /// From dialling to a verified connection; several round trips with a lost packet among them.
    pub handshake: Duration,
    /// How long to leave it to a member with a lower name to dial, before doing so: the lower name's connection is the
    /// one that a pair keeps.
    pub grace: Duration,
    /// Between two attempts to dial one peer, counted from their beginnings: the first pause, doubled each time ...
    pub redial_min: Duration,
    /// ... up to this.
    pub redial_max: Duration,
    /// A connection that lasted this long starts the pauses anew.
    pub lasted: Duration,
    /// Connections; one for each other member is needed.
    pub links: usize,
    /// Handshakes of others in progress.
    pub handshakes: usize,
    /// Handshakes of others in a second, beyond which a dialler must first prove that its address is its own.
    pub handshakes_per_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            initial_window_bytes: 1 << 20,
            greeting: Duration::from_secs(2),
            handshake: Duration::from_secs(3),
            grace: Duration::from_secs(1),
            redial_min: Duration::from_millis(100),
            redial_max: Duration::from_secs(5),
            lasted: Duration::from_secs(10),
            links: 256,
            handshakes: 64,
            handshakes_per_s: 50,
        }
    }
}

/// Another member of the cluster, as the roster names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: NodeName,
    /// Its region.
    pub region: RegionName,
    /// Where it listens for peers: `host:port`.
    pub address: String,
}

/// Why the peer endpoint did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or the address is not this machine's (operator).
    #[error("cannot listen for peers on UDP {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate's settings were refused (our fault).
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The crypto provider lacks what QUIC needs (our fault).
    #[error("the TLS provider has no cipher suite for QUIC")]
    Cipher,
    /// No thread, or no runtime on it (environment).
    #[error("cannot start the peer thread: {0}")]
    Thread(#[from] std::io::Error),
}
