//! A whole node but for its sockets, for tests: the real store and replica, driven by a thread of few lines.

use super::{Shared, router};
use crate::app::{App, NodeStatus, Parts, RegionFreshness, Snapshot};
use crate::auth::Gate;
use crate::backup::Backups;
use crate::clock::Clock;
use crate::config::Limits;
use crate::inbox::{Event, Inbox};
use crate::metrics::{Metrics, Sources, StoreReading};
use crate::store::{CommitQueue, NodeStore, StoreConfig, Views};
use atoll_crdt::{ActorId, Hlc};
use atoll_replication::{
    Config, Effect, Input, NodeName, Now, Position, Readiness, RegionName, Replica, RequestId, Start,
};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

/// The actor that wrote on this disk before.
pub(crate) const FORMER: ActorId = ActorId::new(0xf0);
/// The actor that writes now.
pub(crate) const ACTOR: ActorId = ActorId::new(0xa1);

/// What differs from a lonely node with defaults.
pub(crate) struct Setup {
    pub(crate) regions: Vec<&'static str>,
    pub(crate) limits: Limits,
    pub(crate) replica: atoll_replication::Limits,
    pub(crate) gate: Gate,
    pub(crate) waiting_reads: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            regions: vec!["eu-west-1"],
            limits: Limits::default(),
            replica: atoll_replication::Limits::default(),
            gate: Gate::at(Ipv4Addr::LOCALHOST.into(), None),
            waiting_reads: 16,
        }
    }
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) router: Router,
    pub(crate) status: Arc<NodeStatus>,
    /// What operators told the replica of links.
    pub(crate) pauses: Arc<Mutex<Vec<(NodeName, bool)>>>,
    pub(crate) views: Arc<Views>,
    pub(crate) backups: Arc<Backups>,
    /// Added to what the wall clock says, in milliseconds.
    pub(crate) wall_shift_ms: Arc<AtomicI64>,
    ticker: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

impl Node {
    /// A lonely node with defaults.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// A node of the first region of `setup`, of which nobody else answers.
    pub(crate) async fn with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        let (inbox, events) = Inbox::new();
        let regions: Vec<_> = setup.regions.iter().map(|name| RegionName::new(name).unwrap()).collect();
        let (driver, views) = Driver::open(dir.path(), clock, &inbox, &regions, setup.replica);
        let (wall_shift_ms, pauses) = (Arc::clone(&driver.wall_shift_ms), Arc::clone(&driver.pauses));
        std::thread::spawn(move || driver.run(events));
        let status = Arc::new(NodeStatus::new(clock, serving(&regions)));
        let ticker = tokio::spawn(tick(inbox.clone()));
        let app = App::new(Parts {
            cluster: "shop".into(),
            region: regions[0].clone(),
            views: Arc::clone(&views),
            inbox,
            archives: Arc::default(),
            status: Arc::clone(&status),
            waiting_reads: setup.waiting_reads,
            scans: setup.limits.scans,
        });
        let metrics = Metrics::new(Sources {
            status: Arc::clone(&status),
            store: Box::new(StoreReading::default),
            peer_faults: Box::new(Vec::new),
            peer_sent: Box::new(Vec::new),
            certificate_not_after_unix_s: None,
        });
        let shared = Shared::new(Arc::new(app), Arc::new(metrics), setup.limits);
        let router = router(&shared, setup.gate, "http");
        let backups = Backups::of(dir.path());
        let node = Self { backups, router, shared, status, pauses, views, wall_shift_ms, ticker, _dir: dir };
        node.until_it_writes().await;
        node
    }

    /// Waits until the actor's first entry is durable.
    async fn until_it_writes(&self) {
        while self.send(Method::PUT, "/v1/warm/flags/up", &[], r#"{"enabled":true}"#).await.status == 503 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        send(&self.router, method, target, headers, body).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(Method::GET, target, &[], "").await
    }

    pub(crate) async fn put(&self, target: &str, body: &str) -> Answer {
        self.send(Method::PUT, target, &[], body.to_owned()).await
    }

    pub(crate) async fn post(&self, target: &str, body: &str) -> Answer {
        self.send(Method::POST, target, &[], body.to_owned()).await
    }

    pub(crate) async fn patch(&self, target: &str, body: &str) -> Answer {
        self.send(Method::PATCH, target, &[], body.to_owned()).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Answer {
        self.send(Method::DELETE, target, &[], "").await
    }

    /// Changes what the driver tells.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.status.snapshot());
        change(&mut snapshot);
        self.status.publish(snapshot);
    }
}

/// What the driver of a node tells that serves, and of which no other region has answered.
fn serving(regions: &[RegionName]) -> Snapshot {
    let mut snapshot = Snapshot::starting(ACTOR);
    snapshot.readiness = Readiness::Serving;
    snapshot.founded_ms = crate::clock::wall_ms();
    let others = regions[1..].iter().cloned();
    snapshot.regions = others.map(|region| RegionFreshness { region, as_of: None }).collect();
    snapshot
}

async fn tick(inbox: Inbox) {
    let mut every = tokio::time::interval(Duration::from_millis(2));
    loop {
        every.tick().await;
        inbox.tick();
    }
}

/// A certificate authority's PEM, and the TLS of a server on loopback that it vouches for.
pub(crate) fn tls(alpn: &[&[u8]]) -> (String, rustls::ServerConfig) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let chain = vec![certificate.der().clone()];
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    (issuer.pem(), config)
}

/// Waits until the node's metrics have a line. Fails a test that hangs.
pub(crate) async fn until_counted(shared: &Shared, line: &str) {
    let counted = async {
        while !shared.metrics().encode().unwrap().lines().any(|known| known == line) {
            tokio::time::sleep(Duration::from_millis(1)).await; // sleep: between two looks at a condition
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), counted).await.is_err() {
        panic!("{line} is not in\n{}", shared.metrics().encode().unwrap());
    }
}

/// Sends a request to a router.
pub(crate) async fn send(
    router: &Router,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// An answer, taken in.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{name} is missing: {self:?}")).to_str().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status of a success.
    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// The code of a failure, which is whole as the contract describes it.
    #[track_caller]
    pub(crate) fn code(&self) -> &'static str {
        let problem: atoll_client::api::Problem =
            serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!((problem.status, problem.code.status()), (self.status, self.status));
        assert_eq!(self.header("x-request-id"), problem.request_id);
        assert_eq!(problem.title, problem.code.title());
        assert!(!problem.detail.is_empty() && !problem.detail.contains('\n'), "{problem:?}");
        assert_eq!(self.headers.contains_key("retry-after"), problem.code.is_retryable(), "{self:?}");
        assert!(StatusCode::from_u16(self.status).is_ok());
        problem.code.as_str()
    }
}

/// A replica thread that does what must be done and nothing else.
struct Driver {
    replica: Replica,
    store: NodeStore,
    commits: CommitQueue,
    clock: Clock,
    wall_shift_ms: Arc<AtomicI64>,
    synced: Arc<AtomicU64>,
    published: u64,
    answers: HashMap<RequestId, crate::inbox::Answer>,
    count: u64,
    pauses: Arc<Mutex<Vec<(NodeName, bool)>>>,
}

impl Driver {
    /// A driver over a new store, whose disk another process wrote to before.
    fn open(
        dir: &std::path::Path,
        clock: Clock,
        inbox: &Inbox,
        regions: &[RegionName],
        limits: atoll_replication::Limits,
    ) -> (Self, Arc<Views>) {
        let synced = Arc::new(AtomicU64::new(0));
        let (nudge, reached) = (inbox.clone(), Arc::clone(&synced));
        let opened = NodeStore::open(
            StoreConfig { cache_bytes: 4 << 20, segment_bytes: 16 << 20, ..StoreConfig::new(dir) },
            move |position| {
                reached.fetch_max(position.0, Ordering::Release);
                nudge.tick();
            },
            |failure| panic!("{failure}"),
        );
        let opened = opened.unwrap();
        let config = Config {
            cluster: "shop".into(),
            node: NodeName::new("n1").unwrap(),
            region: regions[0].clone(),
            regions: regions.to_vec(),
            seeds: 0,
            digests: 0,
            found: false,
            limits,
        };
        let (mut store, mut recovered, now) = (opened.store, opened.recovered, clock.now());
        recovered.starts.push(Start { actor: FORMER, ceiling: Hlc::default(), founded_ms: Some(now.wall_ms) });
        let driver = Self {
            replica: Replica::start(config, ACTOR, now, recovered, &mut store).unwrap(),
            store,
            commits: opened.commits,
            clock,
            wall_shift_ms: Arc::default(),
            synced,
            published: 0,
            answers: HashMap::new(),
            count: 0,
            pauses: Arc::default(),
        };
        (driver, opened.views)
    }

    fn now(&self) -> Now {
        let now = self.clock.now();
        let shift = self.wall_shift_ms.load(Ordering::Relaxed);
        Now { wall_ms: now.wall_ms.saturating_add_signed(shift), ..now }
    }

    fn run(mut self, mut events: mpsc::Receiver<Event>) {
        self.handle(Input::Drained);
        while let Some(event) = events.blocking_recv() {
            match event {
                Event::Write(request, answer) => {
                    self.count += 1;
                    self.answers.insert(RequestId(self.count), answer);
                    self.handle(Input::Write(RequestId(self.count), request));
                }
                Event::Input(input) => {
                    if let Input::Pause(node, paused) = &input {
                        self.pauses.lock().unwrap().push((node.clone(), *paused));
                    }
                    self.handle(input);
                }
                Event::IsLost(token, waited, answer) => {
                    let since = self.clock.instant().as_micros().saturating_sub(waited.as_micros() as u64);
                    let since = atoll_replication::Instant::from_micros(since);
                    let _ = answer.send(self.replica.is_lost(&token, since));
                }
                Event::Export(beyond, answer) => {
                    let _ = answer.send(self.replica.export(&beyond, 1 << 20, &self.store));
                }
                Event::Import(records, answer) => {
                    let imported = self.replica.import(self.now(), records, &mut self.store, &mut Vec::new());
                    let _ = answer.send(imported.unwrap());
                }
                Event::Scrub(answer) => {
                    let _ = answer.send(self.store.begin_scrub());
                }
                Event::Backup(answer) => drop(answer.send(self.store.backup())),
                Event::Stop => break,
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let synced = self.synced.load(Ordering::Acquire);
        let mut inputs = vec![input];
        if synced > self.published {
            self.published = synced;
            self.store.publish(Position(synced));
            inputs.push(Input::Synced(Position(synced)));
        }
        let (now, mut effects) = (self.now(), Vec::new());
        for input in inputs {
            self.replica.handle(now, input, &mut self.store, &mut effects).unwrap();
        }
        if let Some(group) = self.store.take_group() {
            self.commits.submit(group);
        }
        for effect in effects {
            if let Effect::Reply(request, outcome) = effect {
                let _ = self.answers.remove(&request).unwrap().send(outcome);
            }
        }
    }
}
