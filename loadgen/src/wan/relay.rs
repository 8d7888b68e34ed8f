//! The relay thread: reads every socket of every link, and offers what it read to the switch.
//!
//! How it goes: each link has one *listener*, which clients dial. Each client address gets an *upstream*: a
//! socket of its own, connected to the target, so that the target sees each client as a distinct peer and its
//! replies find their way back. What a listener reads will leave through the client's upstream; what an
//! upstream reads will leave through the listener, to that client.
//!
//! What always holds:
//!
//! 1. **R1** A link never has more upstreams than its bound (`flows`), and idle ones are closed.
//! 2. **R2** No socket starves another: each is read for at most [`READS_PER_TURN_MAX`] datagrams in turn.
//! 3. **R3** Only datagrams from the target come back: an upstream is connected, the kernel refuses others.
//!
//! What is not here: any decision about a packet (`switch`), and sending (`delivery`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use super::exchange::{Arrival, Exchange, Packet};
use super::flows::FlowTable;
use super::report::FlowCounters;
use super::switch::PathId;

/// R2. At 5 µs each a socket holds up the others for a third of a millisecond at most.
const READS_PER_TURN_MAX: usize = 64;

/// The largest UDP datagram; with less room a larger one would be cut short unnoticed.
const DATAGRAM_BYTES_MAX: usize = 65_535;

const WAKER: Token = Token(0);

/// What the relay needs to know about its work, fixed at its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) flows_per_link_max: usize,
    pub(super) flow_idle_max: Duration,
    pub(super) socket_buffer_bytes: usize,
}

/// A link to take up. The answer comes back through `taken`.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) listener: UdpSocket,
    pub(super) target: SocketAddr,
    pub(super) there: PathId,
    pub(super) back: PathId,
    pub(super) taken: SyncSender<io::Result<()>>,
}

#[derive(Debug)]
pub(super) struct Relay {
    exchange: Arc<Exchange>,
    limits: Limits,
    poll: Poll,
    openings: Receiver<Opening>,
    links: Vec<Link>,
    sources: BTreeMap<Token, Source>,
    next_token: usize,
    /// Sockets that may have more to read. Readiness is told once, so it must be remembered.
    readable: VecDeque<Token>,
    arrivals: Vec<Arrival>,
    buffer: Vec<u8>,
    flows: FlowCounters,
    sweep_at: Duration,
}

#[derive(Debug)]
struct Link {
    listener: Arc<UdpSocket>,
    target: SocketAddr,
    there: PathId,
    back: PathId,
    flows: FlowTable<Upstream>,
}

#[derive(Debug, Clone)]
struct Upstream {
    token: Token,
    socket: Arc<UdpSocket>,
}

/// Whose datagrams a socket brings.
#[derive(Debug, Clone)]
enum Source {
    Listener { link: usize },
    Upstream { link: usize, client: SocketAddr, socket: Arc<UdpSocket> },
}

impl Relay {
    pub(super) fn new(
        exchange: Arc<Exchange>,
        limits: Limits,
        openings: Receiver<Opening>,
    ) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let relay = Self {
            exchange,
            limits,
            poll,
            openings,
            links: Vec::new(),
            sources: BTreeMap::new(),
            next_token: WAKER.0 + 1,
            readable: VecDeque::new(),
            arrivals: Vec::with_capacity(READS_PER_TURN_MAX),
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            flows: FlowCounters::default(),
            sweep_at: Duration::ZERO,
        };
        Ok((relay, waker))
    }

    /// Relays until the exchange stops.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.exchange.is_stopping() {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the WAN emulator can no longer wait for packets; every link is dead");
                    return;
                }
            }
            for token in events.iter().map(mio::event::Event::token) {
                if token != WAKER && !self.readable.contains(&token) {
                    self.readable.push_back(token);
                }
            }
            self.take_openings();
            for _ in 0..self.readable.len() {
                self.read_next();
            }
            self.sweep();
        }
    }

    /// Not at all while there is more to read; else until a flow may have expired; else until an event.
    fn timeout(&self) -> Option<Duration> {
        if !self.readable.is_empty() {
            return Some(Duration::ZERO);
        }
        let has_flows = self.flows.open > 0;
        has_flows.then(|| self.sweep_at.saturating_sub(self.exchange.now()))
    }

    fn take_openings(&mut self) {
        while let Ok(opening) = self.openings.try_recv() {
            let Opening { mut listener, target, there, back, taken } = opening;
            let token = self.mint_token();
            let registered = self.poll.registry().register(&mut listener, token, Interest::READABLE);
            if registered.is_ok() {
                self.sources.insert(token, Source::Listener { link: self.links.len() });
                let flows = FlowTable::new(self.limits.flows_per_link_max);
                let listener = Arc::new(listener);
                self.links.push(Link { listener, target, there, back, flows });
            }
            // Whoever asked may have given up waiting; the link is open all the same.
            let _ = taken.try_send(registered);
        }
    }

    fn mint_token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        token
    }

    /// Reads the socket whose turn it is, and queues it again if it may have more.
    fn read_next(&mut self) {
        let Some(token) = self.readable.pop_front() else {
            return;
        };
        // A token of a flow that was closed meanwhile leads nowhere.
        let Some(source) = self.sources.get(&token).cloned() else {
            return;
        };
        let is_drained = match source {
            Source::Listener { link } => self.read_listener(link),
            Source::Upstream { link, client, socket } => self.read_upstream(link, client, &socket),
        };
        self.exchange.offer(&mut self.arrivals);
        if !is_drained {
            self.readable.push_back(token);
        }
    }

    /// Reads datagrams of clients; returns whether none is left.
    fn read_listener(&mut self, link: usize) -> bool {
        for _ in 0..READS_PER_TURN_MAX {
            let (bytes, client) = match self.links[link].listener.recv_from(&mut self.buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => continue, // Interrupted, or the fate of an earlier packet: the next read clears it.
            };
            let at = self.exchange.now();
            let Some(via) = self.upstream_of(link, client, at) else {
                self.flows.refused_packets += 1;
                self.exchange.set_flows(self.flows);
                continue;
            };
            let packet = Packet { payload: Arc::from(&self.buffer[..bytes]), via, to: None };
            self.arrivals.push(Arrival { at, path: self.links[link].there, packet });
        }
        false
    }

    /// Reads datagrams of the target for one client; returns whether none is left.
    fn read_upstream(&mut self, link: usize, client: SocketAddr, socket: &UdpSocket) -> bool {
        for _ in 0..READS_PER_TURN_MAX {
            let bytes = match socket.recv(&mut self.buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => continue, // As above; here also: nobody listens at the target.
            };
            let at = self.exchange.now();
            let link = &mut self.links[link];
            link.flows.touch(client, at);
            let via = Arc::clone(&link.listener);
            let payload = Arc::from(&self.buffer[..bytes]);
            let packet = Packet { payload, via, to: Some(client) };
            self.arrivals.push(Arrival { at, path: link.back, packet });
        }
        false
    }

    /// The client's upstream, opened if it is new; `None` if the system has no socket for it.
    fn upstream_of(&mut self, link: usize, client: SocketAddr, now: Duration) -> Option<Arc<UdpSocket>> {
        if let Some(upstream) = self.links[link].flows.touch(client, now) {
            return Some(Arc::clone(&upstream.socket));
        }
        match self.open_upstream(link, client, now) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!(%client, %error, "no upstream for this client; its packet is dropped");
                None
            }
        }
    }

    fn open_upstream(&mut self, link: usize, client: SocketAddr, now: Duration) -> io::Result<Arc<UdpSocket>> {
        let target = self.links[link].target;
        let mut socket = upstream_socket(target, self.limits.socket_buffer_bytes)?;
        let token = self.mint_token();
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        let socket = Arc::new(socket);
        let source = Source::Upstream { link, client, socket: Arc::clone(&socket) };
        self.sources.insert(token, source);
        let upstream = Upstream { token, socket: Arc::clone(&socket) };
        match self.links[link].flows.insert(client, upstream, now) {
            Some(evicted) => {
                self.sources.remove(&evicted.token);
                self.flows.evicted += 1;
            }
            None => self.flows.open += 1,
        }
        self.exchange.set_flows(self.flows);
        Ok(socket)
    }

    /// Closes idle flows, now and then: a flow lives between one and one and a half times its idle time. A
    /// socket closes, and leaves the poll, when the last of its packets under way has been sent.
    fn sweep(&mut self) {
        let now = self.exchange.now();
        if now < self.sweep_at {
            return;
        }
        let idle_max = self.limits.flow_idle_max;
        self.sweep_at = now + (idle_max / 2).max(Duration::from_millis(1));
        let expired: Vec<_> = self.links.iter_mut().flat_map(|link| link.flows.expire(now, idle_max)).collect();
        if expired.is_empty() {
            return;
        }
        self.flows.expired += expired.len() as u64;
        for upstream in expired {
            self.sources.remove(&upstream.token);
        }
        self.flows.open = self.links.iter().map(|link| link.flows.len() as u64).sum();
        self.exchange.set_flows(self.flows);
    }
}

/// A listener for clients of this machine, at a port of the system's choice.
pub(super) fn listener_socket(buffer_bytes: usize) -> io::Result<UdpSocket> {
    bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), buffer_bytes)
}

/// A socket that talks to `target` alone (R3).
fn upstream_socket(target: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let local = match target {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    };
    let socket = bind(local, buffer_bytes)?;
    socket.connect(target)?;
    Ok(socket)
}

fn bind(local: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    // The system may grant less, or refuse beyond its own limit; the emulator works with what it gets.
    if let Err(error) =
        socket.set_recv_buffer_size(buffer_bytes).and_then(|()| socket.set_send_buffer_size(buffer_bytes))
    {
        tracing::debug!(%error, buffer_bytes, "socket buffers stay at the system's default");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}
