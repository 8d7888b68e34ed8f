//! Links to other nodes: one QUIC endpoint with a thread and a runtime of its own.
//!
//! **How it goes.** The thread listens, dials who is due (`schedule`), verifies who is there ([`crate::tls`]), and
//! then moves messages: from a peer to the replica's [`Inbox`], and from the replica through [`PeerHandle::send`] to the
//! peer (`link`). It decides nothing about their contents; of two connections of a pair the replica ends one.
//!
//! **What always holds.** P1: a peer is a holder of a certificate of the cluster's CA that names another node of this
//! cluster. P2: nothing here waits for a slow peer but that peer's own tasks; [`PeerHandle`] never waits. P3: everything
//! that a peer can grow is bounded: streams, windows, frames, queues, handshakes, connections. P4: a connection on which
//! the replica heard nothing for long is ended and dialled anew rather than kept: after an outage its congestion window
//! has collapsed, and a new one starts open.
//!
//! **What is not here.** Who is a member: the roster. Which of two connections stays, and when one is silent: the
//! replica.
//!
//! **Why a runtime of one thread.** Small paced messages cost a multi-threaded runtime several times the processor time
//! in wake-ups, and one core carries more than a region's writes.

mod config;
mod endpoint;
mod fault;
mod frames;
mod link;
mod outbox;
mod schedule;
mod sent;
#[cfg(test)]
mod tests;
mod transport;

pub use config::{Limits, Member, PeerConfig, StartError};
pub use fault::{Fault, FaultCounts};
pub use sent::Sent;

use crate::inbox::{Event, Inbox};
use atoll_replication::wire::Message;
use atoll_replication::{DisconnectReason, LinkId, NodeName, RegionName};
use endpoint::Shared;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The peer endpoint, from any thread. Clones are the same endpoint; when the last is dropped, it stops.
#[derive(Debug, Clone)]
pub struct PeerHandle(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// One connection, for metrics and status. Totals are the connection's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Which.
    pub link: LinkId,
    /// The peer.
    pub node: NodeName,
    /// Its region.
    pub region: RegionName,
    /// From where it talks.
    pub address: SocketAddr,
    /// Whether this side dialled.
    pub dialled: bool,
    /// Smoothed round trip, as QUIC measures it.
    pub rtt: Duration,
    /// Bytes that may be in flight.
    pub congestion_window_bytes: u64,
    /// Bytes sent, in UDP payloads.
    pub sent_bytes: u64,
    /// UDP packets sent.
    pub sent_packets: u64,
    /// Bytes received, in UDP payloads.
    pub received_bytes: u64,
    /// UDP packets received.
    pub received_packets: u64,
    /// QUIC packets given up as lost.
    pub lost_packets: u64,
}

impl PeerHandle {
    /// Binds the port and starts the thread. Inputs go to `inbox`; should the thread ever panic, so does
    /// [`Event::Stop`], because a node without peers must not look well.
    ///
    /// # Errors
    /// The port cannot be had, the TLS settings are refused, or there is no thread to be had.
    pub fn start(config: PeerConfig, inbox: Inbox) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bound = {
            let _within = runtime.enter();
            Shared::bind(config, inbox.clone())
        };
        let shared = match bound {
            Ok(shared) => Arc::new(shared),
            Err(error) => {
                // A caller may be within another runtime, where dropping this one is not allowed.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("peer".into()).spawn(move || {
            let alarm = StopOnPanic(inbox);
            runtime.block_on(endpoint::serve(served));
            // A name that is still being resolved must not hold up the end.
            runtime.shutdown_background();
            drop(alarm);
        })?;
        Ok(Self(Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// Queues a message for a peer; never waits. On a link that has ended it is dropped: `LinkDown` is on its way.
    pub fn send(&self, link: LinkId, message: Message) {
        if let Some(link) = self.0.shared.link(link) {
            link.outbox.push(message);
        }
    }

    /// Ends a connection. What was queued on it is dropped; `LinkDown` follows.
    pub fn disconnect(&self, link: LinkId, reason: DisconnectReason) {
        if let Some(link) = self.0.shared.link(link) {
            link.outbox.disconnect(reason);
        }
    }

    /// The members that the roster names now, with their addresses; this node among them is passed over.
    pub fn set_members(&self, members: Vec<Member>) {
        self.0.shared.reschedule(|schedule| schedule.set_members(members, Instant::now()));
    }

    /// Whether a node is neither dialled nor let in. Its present connection is the replica's to end.
    pub fn set_paused(&self, node: NodeName, paused: bool) {
        self.0.shared.reschedule(|schedule| schedule.set_paused(node, paused, Instant::now()));
    }

    /// Whether nobody at all is dialled or let in. Present connections are the replica's to end.
    pub fn set_held(&self, held: bool) {
        self.0.shared.reschedule(|schedule| schedule.set_held(held, Instant::now()));
    }

    /// The smoothed round trip of a connection, as QUIC measures it.
    #[must_use]
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.0.shared.link(link).map(|link| link.connection.rtt())
    }

    /// Every connection that stands.
    #[must_use]
    pub fn links(&self) -> Vec<LinkInfo> {
        let info = |link: Arc<link::Link>| {
            let stats = link.connection.stats();
            LinkInfo {
                link: link.id,
                node: link.identity.node.clone(),
                region: link.identity.region.clone(),
                address: link.connection.remote_address(),
                dialled: link.target.is_some(),
                rtt: stats.path.rtt,
                congestion_window_bytes: stats.path.cwnd,
                sent_bytes: stats.udp_tx.bytes,
                sent_packets: stats.udp_tx.datagrams,
                received_bytes: stats.udp_rx.bytes,
                received_packets: stats.udp_rx.datagrams,
                lost_packets: stats.path.lost_packets,
            }
        };
        self.0.shared.links().into_iter().map(info).collect()
    }

    /// How often connections were refused or ended by this side, and why.
    #[must_use]
    pub fn faults(&self) -> FaultCounts {
        self.0.shared.faults.snapshot()
    }

    /// What was sent since the process began, by type of message.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.0.shared.sent.snapshot()
    }

    /// Where the endpoint listens: tells the port when the configuration left it open.
    ///
    /// # Errors
    /// The socket does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.shared.endpoint.local_addr()
    }

    /// Ends every connection, tells the peers, and waits for the thread. Not for the async runtime: it blocks for up to
    /// a second.
    pub fn shutdown(&self) {
        self.0.shared.stop();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the peer thread had panicked");
        }
    }
}

/// Stops the node if the thread that holds it panics.
struct StopOnPanic(Inbox);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody to stop if nobody listens.
            let _ = self.0.send_blocking(Event::Stop);
        }
    }
}
