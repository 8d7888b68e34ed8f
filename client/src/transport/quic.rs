//! Requests over QUIC: one connection to an endpoint, a few pipelined streams on it.
//!
//! *What always holds.* One attempt to connect at a time; whoever needs the connection meanwhile
//! shares its outcome. A connection that is lost is replaced by the next request that needs one.
//!
//! *Why a few streams.* Answers on a stream come in order, so a request that waits for other
//! regions holds up those behind it. Requests that cannot wait share the first streams, where
//! they coalesce best; those that may wait are spread over the others, each joining the stream
//! with the fewest in flight.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_ok;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::stream::{Stream, close_code, end_of_connection};
use super::{Failure, Settings};
use crate::api::headers;
use crate::endpoint::Endpoint;
use crate::error::{Error, chain};
use crate::frame::{ALPN, Limits};
use crate::request::{Outgoing, Response};
use crate::session::lock;

/// Streams for requests that cannot wait for other regions.
const QUICK_STREAMS: usize = 2;
/// Streams for requests that may.
const PATIENT_STREAMS: usize = 6;

/// A node is asked for a sign of life this often, and given up after [`IDLE`] without one.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(10);

/// After a failed attempt, requests share its outcome for this long instead of connecting anew, so
/// that thousands of them do not become a storm of handshakes.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A host's second address is tried this long after the first, and so on (RFC 8305 recommends 250 ms).
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);
const ADDRESSES_MAX: usize = 4;

/// Bytes of requests in flight that count as one more request in the bound on their number.
const ROOM_UNIT_BYTES: usize = 64 * 1024;

/// Bytes of a UDP socket's buffers, where the system allows it: a burst of pipelined answers is a
/// few MB, and what overflows is lost and sent again.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A way to one `quic` endpoint.
pub(crate) struct QuicTransport {
    host: String,
    port: u16,
    config: quinn::ClientConfig,
    sockets: Arc<Sockets>,
    connect_timeout: Duration,
    limits: Limits,
    room: Arc<Semaphore>,
    room_max: u32,
    current: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting; keeps when and why the last attempt failed.
    connecting: AsyncMutex<Option<(Instant, String)>>,
}

impl QuicTransport {
    pub(crate) fn new(
        endpoint: &Endpoint,
        mut tls: rustls::ClientConfig,
        settings: &Settings,
        sockets: Arc<Sockets>,
    ) -> Result<Self, Error> {
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|error| Error::bad_input(format!("TLS for QUIC: {}", chain(&error))))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config()));
        Ok(Self {
            host: endpoint.host().to_owned(),
            port: endpoint.port(),
            config,
            sockets,
            connect_timeout: settings.connect_timeout,
            limits: Limits::default(),
            room: Arc::new(Semaphore::new(settings.in_flight_max as usize)),
            room_max: settings.in_flight_max,
            current: Mutex::new(None),
            connecting: AsyncMutex::new(None),
        })
    }

    pub(crate) async fn send(&self, outgoing: &Outgoing<'_>, deadline: Instant) -> Result<Response, Failure> {
        let units = u32::try_from(1 + outgoing.body.len() / ROOM_UNIT_BYTES).unwrap_or(u32::MAX);
        let units = units.min(self.room_max);
        let room = match self.room.try_acquire_many(units) {
            Ok(room) => room,
            Err(_) => match timeout_at(deadline, self.room.acquire_many(units)).await {
                Ok(Ok(room)) => room,
                _ => {
                    return Err(Failure::NotSent("too many requests are in flight".to_owned()));
                }
            },
        };
        let connection = match self.current() {
            Some(connection) => connection,
            None => self.connect().await.map_err(Failure::NotSent)?,
        };
        let answer = connection.stream_for(outgoing).submit(outgoing, &self.limits, room)?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome.map(Response::from_frame),
            // Q2 of a stream: unreachable while its tasks live, and they live until it has ended.
            Ok(Err(_)) => Err(Failure::Lost("the connection's task ended".to_owned())),
            Err(_) => Err(Failure::NoAnswer),
        }
    }

    fn current(&self) -> Option<Arc<Connection>> {
        lock(&self.current).as_ref().filter(|connection| connection.is_open()).cloned()
    }

    /// The open connection, made by this caller or by whoever was first.
    async fn connect(&self) -> Result<Arc<Connection>, String> {
        let mut last_failure = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if let Some((at, cause)) = &*last_failure
            && at.elapsed() < RECONNECT_PAUSE
        {
            return Err(cause.clone());
        }
        let outcome = timeout(self.connect_timeout, self.handshake())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", self.connect_timeout.as_millis())));
        match outcome {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *last_failure = None;
                *lock(&self.current) = Some(connection.clone());
                Ok(connection)
            }
            Err(cause) => {
                *last_failure = Some((Instant::now(), cause.clone()));
                Err(cause)
            }
        }
    }

    async fn handshake(&self) -> Result<Connection, String> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|error| format!("the host is unknown: {error}"))?;
        let mut addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
        // `localhost` has two addresses, nodes mostly listen on one, and UDP does not say which.
        addresses.sort_by_key(|address| address.ip().is_loopback() && address.is_ipv6());
        if addresses.is_empty() {
            return Err("the host has no address".to_owned());
        }
        let attempts = addresses.into_iter().zip(0..).map(|(address, nth)| {
            async move {
                sleep(ADDRESS_STAGGER * nth).await;
                self.sockets
                    .for_address(address)
                    .map_err(|error| format!("a UDP socket: {error}"))?
                    .connect_with(self.config.clone(), address, &self.host)
                    .map_err(|error| chain(&error))?
                    .await
                    .map_err(|error| chain(&error))
            }
            .boxed()
        });
        let (connection, _) = select_ok(attempts).await?;
        Connection::open(connection, &self.room).await
    }
}

/// What QUIC is told, explicitly where a default would hurt.
fn transport_config() -> TransportConfig {
    let mut congestion = CubicConfig::default();
    // The default of 12 KB makes a burst of requests wait whole round trips, and never grows while
    // the client sends little.
    congestion.initial_window(256 * 1024);
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(congestion))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .initial_rtt(Duration::from_millis(200))
        // Room for every request in flight at intercontinental round trips, with a bound.
        .stream_receive_window(VarInt::from_u32(8 << 20))
        .receive_window(VarInt::from_u32(32 << 20))
        .send_window(32 << 20)
        // A node opens no streams towards a client, and the protocol has no datagrams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    config
}

/// A connection and its streams.
struct Connection {
    quic: quinn::Connection,
    quick: Vec<Arc<Stream>>,
    patient: Vec<Arc<Stream>>,
}

impl Connection {
    /// Opens as many streams as are wanted and the node allows.
    async fn open(quic: quinn::Connection, room: &Arc<Semaphore>) -> Result<Self, String> {
        let start = |pair| Stream::start(&quic, pair, room.clone());
        let mut streams = vec![start(quic.open_bi().await.map_err(|error| chain(&error))?)];
        while streams.len() < QUICK_STREAMS + PATIENT_STREAMS {
            match quic.open_bi().now_or_never() {
                Some(Ok(pair)) => streams.push(start(pair)),
                Some(Err(error)) => return Err(chain(&error)),
                None => break,
            }
        }
        let patient = streams.split_off(QUICK_STREAMS.min(streams.len().div_ceil(2)));
        Ok(Self { quic, quick: streams, patient })
    }

    fn is_open(&self) -> bool {
        self.quic.close_reason().is_none()
    }

    /// Where `outgoing` holds up the fewest and is held up least.
    fn stream_for(&self, outgoing: &Outgoing<'_>) -> &Stream {
        let may_wait = !outgoing.may_wait.is_zero() || outgoing.headers.iter().any(|&(name, _)| name == headers::TOKEN);
        let mut streams = self.quick.iter();
        if may_wait && !self.patient.is_empty() {
            streams = self.patient.iter();
        }
        // There is always a first stream.
        streams.min_by_key(|stream| stream.in_flight()).unwrap_or(&self.quick[0])
    }
}

impl Drop for Connection {
    /// Ends the streams' tasks, which hold the connection and would keep it alive.
    fn drop(&mut self) {
        let end = match self.quic.close_reason() {
            Some(reason) => end_of_connection(&reason),
            None => Failure::Lost("the client was closed".to_owned()),
        };
        self.quic.close(close_code::DONE, b"");
        for stream in self.quick.iter().chain(&self.patient) {
            stream.close(&end);
        }
    }
}

/// The UDP sockets of a client, one for each kind of address, shared by its QUIC endpoints.
#[derive(Default)]
pub(crate) struct Sockets {
    v4: Mutex<Option<quinn::Endpoint>>,
    v6: Mutex<Option<quinn::Endpoint>>,
}

impl Sockets {
    fn for_address(&self, address: SocketAddr) -> io::Result<quinn::Endpoint> {
        let (slot, domain, local) = match address {
            SocketAddr::V4(_) => (&self.v4, Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&self.v6, Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        let mut slot = lock(slot);
        if let Some(endpoint) = &*slot {
            return Ok(endpoint.clone());
        }
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        // Best effort: the system's bound holds, and the default works.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&local.into())?;
        let endpoint = quinn::Endpoint::new(EndpointConfig::default(), None, socket.into(), Arc::new(TokioRuntime))?;
        Ok(slot.insert(endpoint).clone())
    }

    /// Closes every connection and waits, briefly, until the peers were told.
    pub(crate) async fn close(&self) {
        for slot in [&self.v4, &self.v6] {
            let endpoint = lock(slot).take();
            if let Some(endpoint) = endpoint {
                endpoint.close(close_code::DONE, b"");
                // Idle means that the peers have forgotten too, some round trips later; that they
                // were told takes far less, and nothing depends on it.
                let _ = timeout(Duration::from_millis(20), endpoint.wait_idle()).await;
            }
        }
    }
}
