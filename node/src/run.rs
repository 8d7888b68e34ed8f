//! A node from its configuration to its end: what starts in which order, and what stops in which.
//!
//! **How it goes.** Certificates, the data directory, the replica, the peer endpoint, the listeners; each failure is one
//! clear error and leaves nothing running. At the end: no new requests, those under way are answered, what is appended
//! is synced, peers are told good-bye.
//!
//! **What always holds.** Nothing is written before the actor of this process is durable: the replica refuses until then.

use crate::api::{self, Shared};
use crate::app::{App, NodeStatus, Parts, RegionFreshness, Snapshot};
use crate::archive::Archives;
use crate::auth::{Gate, Tokens, TokensError};
use crate::backup::Backups;
use crate::clock::Clock;
use crate::config::{Config, Sync};
use crate::divergence::Alarm;
use crate::driver::{Driver, Report, SyncedUpTo, fail};
use crate::http::{self, Serving};
use crate::inbox::{Event, Inbox};
use crate::metrics::{Metrics, Sources, StoreReading};
use crate::peer::{self, FaultCounts, PeerConfig, PeerHandle};
use crate::room::{LOOK_EVERY, Room};
use crate::roster::{self, MemberRow};
use crate::store::{
    CommitStats, NodeStore, OpenError, Opened, Retention, SYNC_BUCKETS_US, StoreConfig, StoreStats, SyncMode, Views,
};
use crate::tls::{PeerIdentity, Tls, TlsError, TlsFiles};
use crate::{admin, quic};
use atoll_crdt::ActorId;
use atoll_crdt::codec::Writer;
use atoll_replication::sketch::DigestKey;
use atoll_replication::{Fence, Input, Limits, Position, Replica};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Between two ticks of the protocol: its punctuality.
const TICK_EVERY: Duration = Duration::from_millis(5);
/// How long open connections may take to finish when the node stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why a node did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates cannot be used (operator).
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data directory cannot be opened (operator, disk).
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Peers cannot be listened for (operator).
    #[error(transparent)]
    Peer(#[from] peer::StartError),
    /// Rows could not be read while starting (disk).
    #[error(transparent)]
    Read(#[from] atoll_crdt::ReadError),
    /// A listener's address cannot be had (operator).
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Listen {
        /// What it is for.
        purpose: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The file of bearer tokens cannot be used (operator).
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// Clients' QUIC listener cannot be opened (operator).
    #[error(transparent)]
    Quic(#[from] quic::QuicError),
    /// No thread to be had (environment).
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What runs below the listeners.
struct Engine {
    inbox: Inbox,
    views: Arc<Views>,
    status: Arc<NodeStatus>,
    room: Arc<Room>,
    archives: Arc<Archives>,
    peers: Option<PeerHandle>,
    commit_stats: Arc<CommitStats>,
    store_stats: Arc<StoreStats>,
    system_changes: watch::Receiver<u64>,
    actor: ActorId,
    backups: Arc<Backups>,
    replica_thread: std::thread::JoinHandle<()>,
    /// Closed when the replica thread has ended.
    replica_ended: mpsc::Receiver<()>,
}

/// Sockets that are bound and not served yet: a port in use is found before anything is touched.
struct Listeners {
    http: TcpListener,
    admin: TcpListener,
    quic: Option<quinn::Endpoint>,
}

/// A running node.
pub struct Node {
    inbox: Inbox,
    status: Arc<NodeStatus>,
    peers: Option<PeerHandle>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    replica_thread: std::thread::JoinHandle<()>,
    replica_ended: Mutex<mpsc::Receiver<()>>,
    drain_grace: Option<Duration>,
}

impl Node {
    /// Starts a node. `found`: begin a new cluster even though seeds are given and do not answer.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(config: Config, found: bool) -> Result<Self, StartError> {
        let drain_grace = config.limits.drain_grace;
        let tls = tls(&config)?;
        let tokens = config.tokens_file.as_deref().map(Tokens::load).transpose()?;
        let listeners = bind(&config, tls.as_ref()).await?;
        let (engine_config, engine_tls) = (config.clone(), tls.clone());
        let engine = tokio::task::spawn_blocking(move || start_engine(&engine_config, engine_tls.as_ref(), found))
            .await
            .map_err(|error| StartError::Thread(std::io::Error::other(error)))??;
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        serve(&mut tasks, &config, tls.as_ref(), tokens.as_ref(), listeners, &engine, &stopping)?;
        keep(&mut tasks, &config, &engine, &stopping);
        tracing::info!(
            cluster = config.cluster, node = %config.node, region = %config.region, actor = %engine.actor,
            http = %config.http, admin = %config.admin, "started"
        );
        Ok(Self {
            inbox: engine.inbox,
            status: engine.status,
            peers: engine.peers,
            stop,
            tasks,
            replica_thread: engine.replica_thread,
            replica_ended: Mutex::new(engine.replica_ended),
            drain_grace,
        })
    }

    /// Waits until the node cannot go on.
    pub async fn failed(&self) {
        // Nothing is ever sent; the channel closes with the thread.
        let _ = self.replica_ended.lock().await.recv().await;
        tracing::error!("the replica thread has ended by itself");
    }

    /// Sends clients elsewhere and waits until they have had the time to go: `/readyz` says `draining`, writes are refused as that,
    /// everything else is answered. What stops afterwards is asked for nothing any more.
    pub async fn drain(&self) {
        self.status.drain();
        if let Some(grace) = self.drain_grace {
            tracing::info!(grace_ms = grace.as_millis() as u64, "draining");
            tokio::time::sleep(grace).await;
        }
    }

    /// How long ago the replica thread said how it is.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.status.silent_for()
    }

    /// Stops: answers what is under way, syncs what is appended, tells peers good-bye.
    pub async fn stop(mut self) {
        self.status.drain();
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        // A full queue is being worked off; one that is closed needs no telling.
        let _ = self.inbox.stop().await;
        let thread = self.replica_thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        if let Some(peers) = self.peers {
            let _ = tokio::task::spawn_blocking(move || peers.shutdown()).await;
        }
        tracing::info!("stopped");
    }
}

async fn bind(config: &Config, tls: Option<&Tls>) -> Result<Listeners, StartError> {
    let tcp = |purpose, address| async move {
        TcpListener::bind(address).await.map_err(|source| StartError::Listen { purpose, address, source })
    };
    let quic = match tls {
        Some(tls) => Some(quic::bind(config.quic, tls.quic_server()?, config.limits.quic_streams)?),
        None => None,
    };
    Ok(Listeners { http: tcp("HTTP", config.http).await?, admin: tcp("operators", config.admin).await?, quic })
}

fn serve(
    tasks: &mut JoinSet<()>,
    config: &Config,
    tls: Option<&Tls>,
    tokens: Option<&Tokens>,
    listeners: Listeners,
    engine: &Engine,
    stopping: &watch::Receiver<bool>,
) -> Result<(), StartError> {
    let app = Arc::new(App::new(Parts {
        cluster: config.cluster.clone(),
        region: config.region.clone(),
        views: Arc::clone(&engine.views),
        inbox: engine.inbox.clone(),
        archives: Arc::clone(&engine.archives),
        status: Arc::clone(&engine.status),
        waiting_reads: config.limits.waiting_reads,
        scans: config.limits.scans,
    }));
    let metrics = Arc::new(Metrics::new(sources(config, tls, engine)));
    let shared = Shared::new(app, Arc::clone(&metrics), config.limits);
    let gate = |address: SocketAddr| Gate::at(address.ip(), tokens);
    let serving = |name, router, tls| Serving {
        name,
        router,
        tls,
        limits: config.limits,
        metrics: Arc::clone(&metrics),
        grace: STOP_GRACE,
    };
    let https = tls.map(Tls::https_server).transpose()?.map(Arc::new);
    let http = serving("http", api::router(&shared, gate(config.http), "http"), https);
    tasks.spawn(http::serve(listeners.http, http, stopping.clone()));
    let identity = admin::Identity { cluster: config.cluster.clone(), node: config.node.clone() };
    let operators = admin::router(&shared, gate(config.admin), identity, Arc::clone(&engine.backups));
    let operators = serving("admin", operators, None);
    tasks.spawn(http::serve(listeners.admin, operators, stopping.clone()));
    if let Some(endpoint) = listeners.quic {
        tasks.spawn(quic::serve(endpoint, shared, gate(config.quic), stopping.clone(), STOP_GRACE));
    }
    Ok(())
}

/// What other parts know, for whoever reads the metrics.
fn sources(config: &Config, tls: Option<&Tls>, engine: &Engine) -> Sources {
    let (commits, dir, peers) = (Arc::clone(&engine.commit_stats), config.data_dir.clone(), engine.peers.clone());
    let (views, log) = (Arc::clone(&engine.views), Arc::clone(&engine.store_stats));
    let room = Arc::clone(&engine.room);
    let backups = Arc::clone(&engine.backups);
    Sources {
        status: Arc::clone(&engine.status),
        store: Box::new(move || {
            let bounds = SYNC_BUCKETS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
            StoreReading {
                rows: views.current().rows(),
                disk_bytes: disk_bytes(&dir).ok(),
                disk_available_bytes: room.available_bytes(),
                commits: bounds.zip(commits.buckets()).collect(),
                commit_seconds: commits.sync_us() as f64 / 1e6,
                log_bytes: log.log_bytes(),
                segments_dropped: log.segments_dropped(),
                segments_dropped_by_cap: log.segments_dropped_by_cap(),
                scrub_rows: log.scrub_rows(),
                scrub_failures: log.scrub_failures(),
                scrub_rounds: log.scrub_rounds(),
                is_scrubbing: log.is_scrubbing(),
                last_backup_ms: backups.since_last_ms(crate::clock::wall_ms()),
            }
        }),
        peer_sent: Box::new({
            let peers = peers.clone();
            move || peers.as_ref().map(PeerHandle::sent).unwrap_or_default()
        }),
        peer_faults: Box::new(move || {
            let faults = peers.as_ref().map(PeerHandle::faults);
            faults.iter().flat_map(FaultCounts::iter).map(|(fault, count)| (fault.as_str(), count)).collect()
        }),
        certificate_not_after_unix_s: tls.map(Tls::not_after_unix_s),
    }
}

/// Bytes of every file under a directory.
fn disk_bytes(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// The tasks that keep the protocol going: time, and the roster.
fn keep(tasks: &mut JoinSet<()>, config: &Config, engine: &Engine, stopping: &watch::Receiver<bool>) {
    let (inbox, mut stop) = (engine.inbox.clone(), stopping.clone());
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(TICK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !*stop.borrow_and_update() {
            ticks.tick().await;
            inbox.tick();
        }
    });
    tasks.spawn(watch_room(Arc::clone(&engine.room), config.data_dir.clone(), engine.inbox.clone(), stopping.clone()));
    let (announced, announcement) = watch::channel(member_row(config));
    let announce = roster::announce(engine.inbox.clone(), engine.actor, announcement);
    let follower = roster::Follower {
        views: Arc::clone(&engine.views),
        inbox: engine.inbox.clone(),
        peers: engine.peers.clone(),
        own: config.node.clone(),
        archives: Arc::clone(&engine.archives),
        announced,
    };
    let follow = follower.run(engine.system_changes.clone());
    let mut stop = stopping.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = http::stopped(&mut stop) => {}
            _ = async { tokio::join!(announce, follow) } => {}
        }
    });
}

/// Looks at the disk now and then, and has links held while there is no room for what they bring.
async fn watch_room(room: Arc<Room>, dir: PathBuf, inbox: Inbox, mut stop: watch::Receiver<bool>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow_and_update() {
        looks.tick().await;
        let (looking, path) = (Arc::clone(&room), dir.clone());
        // A disk that hangs must not take others' threads.
        match tokio::task::spawn_blocking(move || looking.look(&path)).await {
            Ok(Ok(Some(hold))) => {
                if inbox.input(Input::Hold(hold)).await.is_err() {
                    return;
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the system does not tell how much room the disk has"),
            Err(_) => return,
        }
    }
}

pub(crate) fn tls(config: &Config) -> Result<Option<Tls>, TlsError> {
    let Some(paths) = &config.tls else { return Ok(None) };
    let files = TlsFiles { ca: paths.ca.clone(), cert: paths.cert.clone(), key: paths.key.clone() };
    let tls = Tls::load(&files)?;
    let configured =
        PeerIdentity { cluster: config.cluster.clone(), region: config.region.clone(), node: config.node.clone() };
    tls.check_is(&configured, &files)?;
    Ok(Some(tls))
}

/// The secret under which this cluster digests rows: all its nodes have the CA's certificate, and derive the same.
fn digest_key(config: &Config, tls: Option<&Tls>) -> DigestKey {
    let mut secret = Writer::new();
    secret.bytes(config.cluster.as_bytes());
    secret.bytes(tls.map_or(&[], |tls| tls.ca().as_ref()));
    DigestKey::derive(secret.as_bytes())
}

pub(crate) fn store_config(config: &Config, tls: Option<&Tls>) -> StoreConfig {
    StoreConfig {
        cluster: config.cluster.clone(),
        digest_key: digest_key(config, tls),
        retain: Retention {
            min: config.log.retain_min,
            max: config.log.retain_max,
            max_bytes: config.log.retain_max_bytes,
        },
        scrub_every: config.scrub_every,
        reserve_bytes: config.limits.disk_reserve,
        dir: config.data_dir.clone(),
        cache_bytes: usize::try_from(config.cache_bytes).unwrap_or(usize::MAX),
        sync: match config.sync {
            Sync::Always => SyncMode::Always,
            Sync::Interval(every) => SyncMode::Interval(every),
        },
        ..StoreConfig::default()
    }
}

fn replica_config(config: &Config, tls: Option<&Tls>, found: bool) -> atoll_replication::Config {
    atoll_replication::Config {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        region: config.region.clone(),
        regions: config.regions.clone(),
        seeds: config.seeds.len() as u32,
        digests: digest_key(config, tls).name(),
        found,
        limits: Limits {
            reconcile_memory: usize::try_from(config.limits.reconcile_memory).unwrap_or(usize::MAX),
            reconcile_disk: config.limits.reconcile_disk,
            ..Limits::default()
        },
    }
}

/// Starts everything below the listeners.
fn start_engine(config: &Config, tls: Option<&Tls>, found: bool) -> Result<Engine, StartError> {
    let clock = Clock::start();
    let (inbox, events) = Inbox::new();
    let synced = SyncedUpTo::default();
    let opened = open_store(config, tls, &inbox, &synced)?;
    let Opened { mut store, recovered, views, commits } = opened;
    roster::tell_first(&views, &inbox);
    let actor = ActorId::new(rand::random());
    let replica = Replica::start(replica_config(config, tls, found), actor, clock.now(), recovered, &mut store)?;
    let room = Arc::new(Room::new(config.limits.disk_reserve));
    let untold = |source| OpenError::Io { path: config.data_dir.clone(), source };
    if room.look(&config.data_dir).map_err(untold)? == Some(true) {
        // Nobody has been dialled: the queue has room.
        let _ = inbox.send_blocking(Event::Input(Input::Hold(true)));
    }
    let status = Arc::new(NodeStatus::new(clock, snapshot(&replica, &room, config, clock)));
    let peers = match tls {
        Some(tls) => Some(PeerHandle::start(peer_config(config, tls), inbox.clone())?),
        None => None,
    };
    let (system_changes, changes) = watch::channel(0);
    let (alive, replica_ended) = mpsc::channel(1);
    let (commit_stats, store_stats) = (commits.stats(), store.stats());
    let driver = Driver {
        replica,
        store,
        commits,
        synced,
        peers: peers.clone(),
        clock,
        report: report(Arc::clone(&status), Arc::clone(&room), config.clone(), clock),
        system_changes,
        answers: HashMap::new(),
        next_request: 0,
        published: Position::default(),
        reported_at: clock.instant(),
        effects: Vec::new(),
        alive,
    };
    let replica_thread = driver.spawn(events)?;
    let system_changes = changes;
    Ok(Engine {
        inbox,
        views,
        status,
        room,
        archives: Arc::default(),
        peers,
        commit_stats,
        store_stats,
        system_changes,
        actor,
        backups: Backups::of(&config.data_dir),
        replica_thread,
        replica_ended,
    })
}

fn open_store(config: &Config, tls: Option<&Tls>, inbox: &Inbox, synced: &SyncedUpTo) -> Result<Opened, OpenError> {
    let (synced, nudge) = (synced.clone(), inbox.clone());
    NodeStore::open(
        store_config(config, tls),
        move |position| {
            synced.raise(position);
            nudge.tick();
        },
        |failure| fail(&failure),
    )
}

fn peer_config(config: &Config, tls: &Tls) -> PeerConfig {
    PeerConfig {
        listen: config.peer,
        seeds: config.seeds.iter().map(ToString::to_string).collect(),
        overrides: config.peers.iter().map(|(node, address)| (node.clone(), address.to_string())).collect(),
        tls: tls.clone(),
        limits: peer::Limits::default(),
    }
}

/// What the driver tells everybody else, now and then.
fn report(status: Arc<NodeStatus>, room: Arc<Room>, config: Config, clock: Clock) -> Report {
    let mut alarm = Alarm::default();
    Box::new(move |replica, _| {
        status.publish_freshness(replica.fresh_as_of(clock.instant()));
        let snapshot = snapshot(replica, &room, &config, clock);
        alarm.tell(&snapshot.divergent);
        status.publish(snapshot);
    })
}

fn snapshot(replica: &Replica, room: &Room, config: &Config, clock: Clock) -> Snapshot {
    let peers = replica.peers(clock.instant());
    let others = replica.regions().iter().filter(|region| **region != config.region);
    Snapshot {
        readiness: replica.readiness(),
        actor: replica.actor(),
        vector: replica.context().clone(),
        founded_ms: replica.founded_ms(),
        clock_skew_ms: (!peers.is_empty()).then(|| replica.clock_skew_ms()),
        peers,
        regions: others
            .map(|region| RegionFreshness { region: region.clone(), as_of: replica.fresh_of_region(region) })
            .collect(),
        counts: replica.counts(),
        verification: replica.verification().cloned(),
        divergent: replica.divergent(),
        holes: replica.holes(),
        counters_marked: replica.counters_marked(),
        parked_actors: replica.parked().len(),
        pending_bytes: replica.pending_bytes(),
        draining: replica.fence() == Some(Fence::Draining),
        read_only: replica.fence().and_then(read_only).or_else(|| room.read_only()),
    }
}

/// Why a fence keeps all writes off, in words.
fn read_only(fence: Fence) -> Option<String> {
    let text = match fence {
        Fence::Draining => return None,
        Fence::Removed => {
            "this node was removed from the cluster; what only it holds can be exported, see 'atoll member export'"
        }
        Fence::Twin => {
            "another process runs under this node's name, on a copy of its disk or with its certificate; stop one of them"
        }
    };
    Some(text.to_owned())
}

/// What others are told of this node.
fn member_row(config: &Config) -> MemberRow {
    let or = |told: &Option<crate::config::HostPort>, own: SocketAddr| {
        told.as_ref().map_or_else(|| own.to_string(), ToString::to_string)
    };
    MemberRow {
        node: config.node.to_string(),
        region: config.region.to_string(),
        peer: or(&config.advertise.peer, config.peer),
        http: or(&config.advertise.http, config.http),
        quic: or(&config.advertise.quic, config.quic),
        weight: config.weight,
        accepting: true,
    }
}
