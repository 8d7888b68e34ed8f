//! The QUIC client protocol: HTTP's requests and answers as frames on streams.
//!
//! **How it goes.** A client opens bidirectional streams; each carries frames of requests one way and of answers, in the
//! same order, the other way ([`atoll_client::frame`]). Every request becomes an HTTP request to the same router, so
//! that targets, headers and codes cannot differ (`stream`).
//!
//! **What always holds.** Q1: bytes that are no frame end their connection, with a counted and logged reason; the node
//! goes on. Q2: connections, streams, requests in flight on a stream, and bytes of unfinished frames are bounded. Q3: every
//! wait for a client has an end. Q4: addresses that have not proved that they are real are asked to, when many dial at once.
//! Q5: what all clients together may send ahead of what is read, and leave unacknowledged, is a few times
//! `limits.request_bytes_in_flight`, however many they are: each connection gets its share when it opens.
//!
//! **What is not here.** Bearer tokens and what requests mean: [`crate::api`]. Peers: [`crate::peer`].

mod stream;

use crate::api::{Shared, router};
use crate::auth::Gate;
use crate::http::{Place, Places, stopped};
use atoll_client::frame::STREAMS_MAX;
use axum::Router;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

/// Names this listener in metrics and the log.
const NAME: &str = "quic";

/// The codes with which this side closes a connection.
mod close_code {
    use quinn::VarInt;

    /// The node stops, or the client is done.
    pub(super) const DONE: VarInt = VarInt::from_u32(0);
    /// The client broke the protocol.
    pub(super) const PROTOCOL: VarInt = VarInt::from_u32(1);
    /// The client was too slow, or there was no room for its bytes.
    pub(super) const TOO_SLOW: VarInt = VarInt::from_u32(2);
}

/// Handshakes a second beyond which an address must prove that it is real. Q4
const HANDSHAKES_PER_SECOND: u32 = 50;
/// Handshakes that wait to be accepted.
const INCOMING_MAX: usize = 1_024;
const INCOMING_BUFFER_BYTES: u64 = 64 << 10;
const INCOMING_BUFFER_TOTAL_BYTES: u64 = 8 << 20;
/// Bytes that a client may send ahead of what is read: one request of the largest size would fit a stream's window
/// several times over at 100 ms and 100 Mb/s.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The same of a connection among very many, and of one that has not finished its handshake. Q5
const CONNECTION_WINDOW_MIN: u32 = 256 << 10;
/// A client that says nothing, not even that it lives, is given up.
const IDLE: Duration = Duration::from_secs(30);
/// Answers to a burst of requests leave in one round trip.
const INITIAL_WINDOW_BYTES: u64 = 256 << 10;
/// A UDP socket's buffers, where the system allows it.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Why the listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The address is taken, or not this machine's (operator).
    #[error("cannot listen for QUIC clients on {address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The TLS settings lack what QUIC begins with: a fault of this program.
    #[error("the TLS settings do not serve for QUIC")]
    Cipher,
}

/// Opens the listener.
///
/// # Errors
/// The address is taken, or not this machine's.
pub fn bind(address: SocketAddr, tls: rustls::ServerConfig, streams: u32) -> Result<quinn::Endpoint, QuicError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| QuicError::Cipher)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport(streams)))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
    let endpoint = || -> io::Result<quinn::Endpoint> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // Best effort: the system's bound holds, and the default works.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&address.into())?;
        quinn::Endpoint::new(EndpointConfig::default(), Some(config), socket.into(), Arc::new(TokioRuntime))
    };
    endpoint().map_err(|source| QuicError::Bind { address, source })
}

fn transport(streams: u32) -> TransportConfig {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams.max(1)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_MIN))
        .send_window(CONNECTION_WINDOW_MIN.into())
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .congestion_controller_factory(Arc::new(congestion));
    config
}

/// What all connections share.
struct Serving {
    router: Router,
    shared: Arc<Shared>,
}

/// Serves until `stop` says so (its value becomes `true`, or its sender is gone), then finishes within `grace`.
pub async fn serve(
    endpoint: quinn::Endpoint,
    shared: Arc<Shared>,
    gate: Gate,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    if shared.limits().quic_streams < STREAMS_MAX {
        tracing::info!("clients want {STREAMS_MAX} streams, and limits.quic_streams gives them fewer");
    }
    let places = Places::new(shared.limits(), shared.metrics().connections(NAME));
    let serving = Arc::new(Serving { router: router(&shared, gate, NAME), shared });
    let mut handshakes = Handshakes::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            // Reaps what has ended.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break };
                if let Some((incoming, place)) = admit(incoming, &places, &mut handshakes, &serving.shared) {
                    let budget = serving.shared.limits().request_bytes_in_flight;
                    let window = places.share(budget, CONNECTION_WINDOW_MIN, CONNECTION_WINDOW);
                    connections.spawn(connection(incoming, Arc::clone(&serving), stop.clone(), place, window));
                }
            }
        }
    }
    let deadline = Instant::now() + grace;
    endpoint.set_server_config(None);
    while let Ok(Some(_)) = timeout_at(deadline, connections.join_next()).await {}
    endpoint.close(close_code::DONE, b"stopping");
    connections.shutdown().await;
    // Only so that clients are told; nothing depends on it.
    let _ = timeout(Duration::from_millis(100), endpoint.wait_idle()).await;
}

/// Lets a handshake begin, or tells its address to prove itself, or to go. Q2, Q4
fn admit(
    incoming: Incoming,
    places: &Places,
    handshakes: &mut Handshakes,
    shared: &Shared,
) -> Option<(Incoming, Place)> {
    if handshakes.are_many(Instant::now()) && !incoming.remote_address_validated() && incoming.may_retry() {
        shared.metrics().closed(NAME, "retried");
        // It fails for those alone who may not be told again.
        let _ = incoming.retry();
        return None;
    }
    match places.take(incoming.remote_address().ip()) {
        Some(place) => Some((incoming, place)),
        None => {
            shared.metrics().closed(NAME, "full");
            incoming.refuse();
            None
        }
    }
}

/// How many handshakes began in this second.
#[derive(Default)]
struct Handshakes {
    since: Option<Instant>,
    count: u32,
}

impl Handshakes {
    /// Counts one, and tells whether there are many.
    fn are_many(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count > HANDSHAKES_PER_SECOND
    }
}

/// One connection from its handshake to its end.
async fn connection(
    incoming: Incoming,
    serving: Arc<Serving>,
    stop: watch::Receiver<bool>,
    _place: Place,
    window: u32,
) {
    let from = incoming.remote_address();
    let metrics = serving.shared.metrics();
    let limits = serving.shared.limits();
    let refused = |reason: &'static str, detail: &dyn std::fmt::Display| {
        metrics.closed(NAME, reason);
        tracing::debug!(listener = NAME, %from, reason, "{detail}");
    };
    // Q3
    match timeout(limits.header_timeout, async { incoming.await }).await {
        Err(_) => refused("tls_timeout", &"the handshake took too long"),
        Ok(Err(error)) => refused("tls", &error),
        Ok(Ok(connection)) => {
            // Q5
            connection.set_receive_window(VarInt::from_u32(window));
            connection.set_send_window(window.into());
            streams(&connection, &serving, stop).await;
        }
    }
}

/// Serves a connection's streams until it ends, or the node stops.
async fn streams(connection: &Connection, serving: &Arc<Serving>, mut stop: watch::Receiver<bool>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Ok(Err(fault)) = ended {
                    end(connection, serving, &fault);
                    return;
                }
            }
            opened = connection.accept_bi() => {
                // The client is done or gone: streams that still run see the same end.
                let Ok(pair) = opened else { break };
                running.spawn(stream::serve(pair, Arc::clone(serving), stop.clone()));
            }
        }
    }
    while let Some(ended) = running.join_next().await {
        if let Ok(Err(fault)) = ended {
            end(connection, serving, &fault);
            return;
        }
    }
    connection.close(close_code::DONE, b"");
}

/// Ends a connection because of what its client did. Q1
fn end(connection: &Connection, serving: &Serving, fault: &stream::Fault) {
    let reason = fault.reason();
    serving.shared.metrics().closed(NAME, reason);
    tracing::info!(listener = NAME, from = %connection.remote_address(), reason, "closing a client's connection: {fault}");
    connection.close(fault.code(), reason.as_bytes());
}

#[cfg(test)]
mod tests;
