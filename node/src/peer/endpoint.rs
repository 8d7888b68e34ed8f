//! The peer thread's own loop: accepts connections, dials what is due, and owns every link's task.

use super::config::{Limits, PeerConfig, StartError};
use super::fault::{Fault, FaultCounters};
use super::link::{self, Link, describe};
use super::outbox::Outbox;
use super::schedule::{Dial, Failure, Schedule, Target};
use super::sent::SentCounters;
use super::transport;
use crate::inbox::Inbox;
use crate::tls::{PEER_SERVER_NAME, PeerIdentity};
use atoll_replication::{Input, LinkId};
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, TokioRuntime};
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Log lines in a second about connections that were refused or ended; the counters tell of the rest.
const REPORTS_PER_S: u32 = 20;
/// How long a stopping node waits for its farewells to leave.
const FAREWELL: Duration = Duration::from_millis(300);

/// What the peer thread and its handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) inbox: Inbox,
    pub(super) endpoint: Endpoint,
    pub(super) faults: FaultCounters,
    pub(super) sent: SentCounters,
    identity: PeerIdentity,
    certificate: CertificateDer<'static>,
    schedule: Mutex<Schedule>,
    schedule_changed: Notify,
    links: Mutex<BTreeMap<LinkId, Arc<Link>>>,
    last_link: AtomicU64,
    handshakes: Arc<Semaphore>,
    reports: Mutex<PerSecond>,
    stop: watch::Sender<bool>,
}

impl Shared {
    /// Binds the port. To be called within the runtime that will serve it.
    pub(super) fn bind(config: PeerConfig, inbox: Inbox) -> Result<Self, StartError> {
        let PeerConfig { listen, seeds, overrides, tls, limits } = config;
        let server = transport::server(tls.peer_server()?, &limits)?;
        let client = transport::client(tls.peer_client()?, &limits)?;
        let socket = transport::bind(listen)?;
        let runtime = Arc::new(TokioRuntime);
        let mut endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime)?;
        endpoint.set_default_client_config(client);
        let identity = tls.identity().clone();
        let schedule = Schedule::new(identity.node.clone(), &seeds, overrides, limits, Instant::now());
        Ok(Self {
            limits,
            inbox,
            endpoint,
            faults: FaultCounters::default(),
            sent: SentCounters::default(),
            identity,
            certificate: tls.certificate().clone(),
            schedule: Mutex::new(schedule),
            schedule_changed: Notify::new(),
            links: Mutex::default(),
            last_link: AtomicU64::new(0),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            reports: Mutex::default(),
            stop: watch::Sender::new(false),
        })
    }

    /// Changes the schedule and lets the dialler look at it anew.
    pub(super) fn reschedule<T>(&self, change: impl FnOnce(&mut Schedule) -> T) -> T {
        let changed = change(&mut lock(&self.schedule));
        self.schedule_changed.notify_one();
        changed
    }

    pub(super) fn link(&self, id: LinkId) -> Option<Arc<Link>> {
        lock(&self.links).get(&id).cloned()
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).values().cloned().collect()
    }

    /// From now on the replica can send on this link.
    pub(super) fn open(&self, link: &Arc<Link>) {
        lock(&self.links).insert(link.id, Arc::clone(link));
        self.reschedule(|schedule| schedule.connected(link.target.as_ref(), &link.identity.node));
    }

    pub(super) fn close(&self, link: &Link, lasted: Duration) {
        lock(&self.links).remove(&link.id);
        self.reschedule(|schedule| {
            schedule.ended(&link.identity.node, lasted, Instant::now(), chance());
        });
    }

    /// Hands in an input that must arrive, unless the node is stopping and nobody may be reading any more.
    pub(super) async fn tell_last(&self, input: Input) {
        let late = async {
            self.stopping().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            // The node is stopping when nobody hears it.
            _ = self.inbox.input(input) => {}
            () = late => {}
        }
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the node stops.
    pub(super) async fn stopping(&self) {
        // The sender is here, so it is not gone.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Counts why a connection was refused or ended, and logs it.
    pub(super) fn report(&self, fault: Fault, address: SocketAddr, peer: Option<&PeerIdentity>, detail: &str) {
        self.faults.count(fault);
        let peer = peer.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let loud = fault.is_alarming() && lock(&self.reports).count(Instant::now()) <= REPORTS_PER_S;
        if loud {
            tracing::warn!(%peer, %address, reason = fault.as_str(), "peer connection refused or ended: {detail}");
        } else {
            tracing::debug!(%peer, %address, reason = fault.as_str(), "peer connection refused or ended: {detail}");
        }
    }

    /// Whether the other end of a verified connection is welcome.
    fn admit(&self, connection: Connection, target: Option<Target>) -> Result<Link, Fault> {
        let refuse = |fault: Fault, peer: Option<&PeerIdentity>, detail: &str| {
            self.report(fault, connection.remote_address(), peer, detail);
            connection.close(fault.code(), fault.as_str().as_bytes());
            Err(fault)
        };
        let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let Some(leaf) = chain.as_ref().and_then(|chain| chain.first()) else {
            return refuse(Fault::Certificate, None, "no certificate");
        };
        let identity = match PeerIdentity::of_certificate(leaf) {
            Ok((identity, _)) => identity,
            Err(error) => return refuse(Fault::Identity, None, &error.to_string()),
        };
        if let Err((fault, detail)) = self.judge(&identity, leaf, target.as_ref()) {
            return refuse(fault, Some(&identity), &detail);
        }
        let id = LinkId(self.last_link.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(Link { id, identity, target, connection, outbox: Outbox::default() })
    }

    fn judge(
        &self,
        peer: &PeerIdentity,
        certificate: &CertificateDer<'_>,
        target: Option<&Target>,
    ) -> Result<(), (Fault, String)> {
        if peer.cluster != self.identity.cluster {
            return Err((Fault::Identity, format!("this cluster is {}", self.identity.cluster)));
        }
        if peer.node == self.identity.node {
            return Err(if *certificate == self.certificate {
                (Fault::Own, "this node reached itself".into())
            } else {
                (Fault::Identity, "another certificate with this node's own name".into())
            });
        }
        if let Some(Target::Member(meant)) = target
            && *meant != peer.node
        {
            return Err((Fault::Identity, format!("the roster says that {meant} is there")));
        }
        if lock(&self.schedule).is_paused(&peer.node) {
            return Err((Fault::Replica(atoll_replication::DisconnectReason::Paused), String::new()));
        }
        if target.is_none() && lock(&self.links).len() >= self.limits.links {
            return Err((Fault::Full, "too many connections".into()));
        }
        Ok(())
    }
}

/// Serves until the node stops; then says farewell to every peer.
pub(super) async fn serve(shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut arrivals = PerSecond::default();
    loop {
        let next = begin_dials(&shared, &mut tasks);
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stopping() => break,
            incoming = shared.endpoint.accept() => match incoming {
                Some(incoming) => accept(&shared, incoming, &mut arrivals, &mut tasks),
                None => break,
            },
            Some(done) = tasks.join_next() => done.expect("no task of a link panics"),
            () = shared.schedule_changed.notified() => {}
            () = due => {}
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no task of a link panics");
    }
    shared.endpoint.close(Fault::Stopping.code(), Fault::Stopping.as_str().as_bytes());
    // Late farewells are lost ones: peers then notice by silence.
    let _ = timeout(FAREWELL, shared.endpoint.wait_idle()).await;
}

fn accept(shared: &Arc<Shared>, incoming: Incoming, arrivals: &mut PerSecond, tasks: &mut JoinSet<()>) {
    let flooded = arrivals.count(Instant::now()) > shared.limits.handshakes_per_s;
    if flooded && !incoming.remote_address_validated() && incoming.may_retry() {
        shared.faults.count(Fault::Retried);
        // Fails where a retry was made already, which was just asked.
        let _ = incoming.retry();
        return;
    }
    let Ok(room) = Arc::clone(&shared.handshakes).try_acquire_owned() else {
        shared.report(Fault::Full, incoming.remote_address(), None, "too many handshakes at once");
        incoming.refuse();
        return;
    };
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        let address = incoming.remote_address();
        let handshake = async { incoming.accept()?.await };
        let connected = tokio::select! {
            connected = timeout(shared.limits.handshake, handshake) => connected,
            () = shared.stopping() => return,
        };
        drop(room);
        match connected.unwrap_or(Err(ConnectionError::TimedOut)) {
            Ok(connection) => {
                if let Ok(link) = shared.admit(connection, None) {
                    link::run(shared, Arc::new(link)).await;
                }
            }
            Err(error) => {
                let fault = if is_certificate(&error) { Fault::Certificate } else { Fault::Handshake };
                shared.report(fault, address, None, &describe(&error));
            }
        }
    });
}

/// Begins what is due; when the next attempt is comes back.
fn begin_dials(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> Option<Instant> {
    let (dials, next) = {
        let mut schedule = lock(&shared.schedule);
        (schedule.due(Instant::now()), schedule.next_due())
    };
    for dial in dials {
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            let connected = tokio::select! {
                connected = connect(&shared, &dial) => connected,
                () = shared.stopping() => return,
            };
            match connected {
                Ok(connection) => dialled(shared, dial, connection).await,
                Err((failure, detail)) => {
                    failed(&shared, &dial, failure);
                    if dial.failures == 0 {
                        tracing::warn!(peer = ?dial.target, address = dial.address, "cannot dial, and will go on trying: {detail}");
                    } else {
                        tracing::debug!(peer = ?dial.target, address = dial.address, "cannot dial: {detail}");
                    }
                }
            }
        });
    }
    next
}

async fn dialled(shared: Arc<Shared>, dial: Dial, connection: Connection) {
    match shared.admit(connection, Some(dial.target.clone())) {
        Ok(link) => link::run(shared, Arc::new(link)).await,
        Err(Fault::Own) if let Target::Seed(seed) = dial.target => {
            shared.reschedule(|schedule| schedule.is_own(&dial.target));
            shared.tell_last(Input::SeedIsSelf(seed)).await;
        }
        Err(_) => failed(&shared, &dial, Failure::Refused),
    }
}

fn failed(shared: &Shared, dial: &Dial, failure: Failure) {
    shared.reschedule(|schedule| schedule.failed(&dial.target, failure, Instant::now(), chance()));
}

async fn connect(shared: &Shared, dial: &Dial) -> Result<Connection, (Failure, String)> {
    let refused = |detail: String| (Failure::Refused, detail);
    let patience = shared.limits.handshake;
    let found = match timeout(patience, tokio::net::lookup_host(&dial.address)).await {
        Ok(found) => found.map_err(|error| refused(format!("the address does not resolve: {error}")))?,
        Err(_) => return Err(refused("the address does not resolve in time".into())),
    };
    // A socket of the old family cannot reach the new one.
    let v4_only = shared.endpoint.local_addr().is_ok_and(|own| own.is_ipv4());
    let found: Vec<_> = found.filter(|address| address.is_ipv4() || !v4_only).collect();
    let turn = dial.failures as usize % found.len().max(1);
    let address = *found.get(turn).ok_or_else(|| refused("no address of this socket's family".into()))?;
    let connecting = shared.endpoint.connect(address, PEER_SERVER_NAME).map_err(|error| refused(error.to_string()))?;
    match timeout(patience, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Err(_) | Ok(Err(ConnectionError::TimedOut)) => Err((Failure::Unanswered, "nobody answers".into())),
        Ok(Err(error)) => {
            if is_certificate(&error) {
                shared.report(Fault::Certificate, address, None, &describe(&error));
            }
            Err(refused(describe(&error)))
        }
    }
}

/// Whether TLS ended it: one of the two certificates does not please the other side.
fn is_certificate(error: &ConnectionError) -> bool {
    // RFC 9001, section 4.8: 0x100 and a TLS alert.
    let is_alert = |code: u64| (0x100..0x200).contains(&code);
    match error {
        ConnectionError::TransportError(error) => is_alert(error.code.into()),
        ConnectionError::ConnectionClosed(close) => is_alert(close.error_code.into()),
        _ => false,
    }
}

/// Spreads attempts of nodes that lost each other at the same moment.
fn chance() -> f64 {
    rand::random_range(0.5..=1.0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts events of the current second.
#[derive(Debug, Default)]
struct PerSecond {
    began: Option<Instant>,
    count: u32,
}

impl PerSecond {
    /// Counts one; how many there were in its second comes back.
    fn count(&mut self, now: Instant) -> u32 {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(1)) {
            *self = Self { began: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}
