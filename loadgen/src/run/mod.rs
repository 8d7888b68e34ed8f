//! A run: sessions in every region that write, probes that measure, and what they found.
//!
//! *How it goes.* [`LoadRun::start`] opens a client and its sessions per region and, for an open
//! loop, a pacer on a thread of its own that says when each write is due. A session asks one write
//! at a time and takes its token along. A share of the acknowledged writes is read back in every
//! other region ([`Convergence`]). [`LoadRun::finish`] waits for all of it.
//!
//! *What always holds.* R1: latency counts from the moment a write was due, whether or not a
//! session was free (no coordinated omission). R2: what is in flight is bounded by the number of
//! sessions, what waits by a queue, and what the queue cannot take is counted as shed. R3: every
//! write that was asked is in the history, whatever came of it. R4: a write whose region is lost
//! while it is in flight has an unknown fate; it is not sent again.
//!
//! *What is not here.* Faults: whoever runs the cluster causes them. Judgement:
//! [`verify`](crate::verify).

mod ask;
mod catch_up;
mod pacer;
mod probe;
mod router;
mod session;
mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_client::api::DataType;
use atoll_client::{Client, Endpoint, Error, Trust};
use atoll_geo::RegionName;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::history::Write;
use crate::latency::Latency;
use crate::workload::{Pace, Planner, SessionId, WRITES_MAX, Workload, WorkloadError};

use pacer::Pacer;
use probe::Prober;
use router::Router;
use session::{SessionTask, Source};
use tally::Tally;

pub use catch_up::{CatchUpError, catch_up};
pub use probe::{Convergence, ProbeCounts, Sample};
pub use tally::Progress;

/// How many seconds of arrivals may wait for a session before they are shed.
const BACKLOG_SECONDS: f64 = 2.0;
/// At least this many may, however low the rate.
const BACKLOG_MIN: usize = 256;

/// A region to load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub region: RegionName,
    /// Where its clients send their requests.
    pub endpoint: Endpoint,
    /// Where to ask whether it is ready. With it, clients go to the next region while it is not
    /// reachable, and come back; HTTP tells at once that a process has ended, QUIC does not.
    pub health: Option<Endpoint>,
}

/// How clients prove themselves and whom they trust.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The cluster's CA.
    pub trust: Option<Trust>,
    /// The bearer token.
    pub bearer: Option<String>,
}

impl Access {
    /// A client of `endpoint`.
    ///
    /// # Errors
    /// When they do not go together.
    pub fn client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        let mut builder = Client::builder().endpoint(endpoint.clone());
        if let Some(trust) = &self.trust {
            builder = builder.trust(trust.clone());
        }
        if let Some(bearer) = &self.bearer {
            builder = builder.bearer(bearer);
        }
        builder.build()
    }
}

/// Why a run did not start: nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The caller's fault.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The caller's fault: endpoints and credentials do not go together.
    #[error(transparent)]
    Client(#[from] Error),
    /// The caller's fault.
    #[error("there is no region to load")]
    NoTarget,
    /// The environment's fault.
    #[error("the pacer's thread does not start: {0}")]
    Pacer(#[source] std::io::Error),
}

/// What all parts of a run share.
struct Shared {
    workload: Arc<Workload>,
    clock: Clock,
    clients: Vec<Client>,
    router: Router,
    tally: Tally,
    prober: Option<Prober>,
}

/// A run under way. Dropping it stops it.
pub struct LoadRun {
    shared: Arc<Shared>,
    sessions: JoinSet<Vec<Write>>,
    /// `None` in a closed loop.
    pacer: Option<Pacer>,
    health: JoinSet<()>,
}

/// What a run did.
#[derive(Debug)]
pub struct Loaded {
    /// Every write in the order in which they were asked, if the workload keeps them.
    pub history: Vec<Write>,
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How many were not, by code: a refusal's, `unreachable`, `fate_unknown`, or `shed` for those
    /// that were due and never asked.
    pub errors: BTreeMap<&'static str, u64>,
    /// How long acknowledged writes took, counted from when they were due.
    pub latency: Latency,
    /// The same by data type.
    pub latency_by_type: BTreeMap<&'static str, Latency>,
    /// How much later than due writes were handed to a session's queue: the generator's own error.
    pub pacer_late: Latency,
    /// From the start to the last answer.
    pub took: Duration,
    /// What the probes found.
    pub convergence: Convergence,
}

impl LoadRun {
    /// Starts `workload` on `targets` as of now on `clock`. Must be called within a runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(workload: Workload, targets: &[Target], access: &Access, clock: Clock) -> Result<Self, StartError> {
        workload.check()?;
        if targets.is_empty() {
            return Err(StartError::NoTarget);
        }
        let workload = Arc::new(workload);
        let of = |endpoint| access.client(endpoint);
        let clients = targets.iter().map(|target| of(&target.endpoint)).collect::<Result<_, _>>()?;
        let prober = (workload.probe_share > 0.0 && targets.len() > 1 && workload.tokens)
            .then(|| Prober::new(&workload, targets, access, clock))
            .transpose()?;
        let mut health = JoinSet::new();
        let router = Router::new(targets, access, &mut health)?;
        let tally = Tally::default();
        let shared = Arc::new(Shared { workload: workload.clone(), clock, clients, router, tally, prober });
        let (sources, pacer) = sources(&shared, targets.len())?;
        for region in 0..targets.len() {
            health.spawn(hang_up(shared.clone(), region));
        }
        let mut sessions = JoinSet::new();
        for (home, source) in sources.into_iter().enumerate() {
            for nth in 0..u32::from(workload.sessions_per_region) {
                let first = u32::try_from(home).unwrap_or(u32::MAX) * u32::from(workload.sessions_per_region);
                let id = SessionId(first + nth);
                let planner = Planner::new(workload.clone(), id);
                sessions.spawn(SessionTask::new(shared.clone(), id, home, planner, source.clone()).run());
            }
        }
        Ok(Self { shared, sessions, pacer, health })
    }

    /// Tells how far it is, also while [`finish`](Self::finish) waits.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer(self.shared.clone())
    }

    /// Waits until every write that was asked has its outcome and every probe its answer, the
    /// latter for `patience` at most.
    pub async fn finish(mut self, patience: Duration) -> Loaded {
        let mut history = Vec::new();
        while let Some(session) = self.sessions.join_next().await {
            // A session that panicked has said so, and its writes are lost to the history: go no
            // further, for a verdict without them would be worth nothing.
            history.extend(session.expect("a session does not panic"));
        }
        let took = self.shared.clock.now().since(crate::clock::Moment::from_us(0));
        history.sort_by_key(|write| (write.started, write.number));
        let convergence = match &self.shared.prober {
            Some(prober) => prober.finish(patience).await,
            None => Convergence::default(),
        };
        self.health.abort_all();
        let (shed, pacer_late) = self.pacer.take().map(Pacer::finish).unwrap_or_default();
        for client in &self.shared.clients {
            client.close().await;
        }
        let summary = self.shared.tally.summary(shed);
        Loaded {
            history,
            acknowledged: summary.acknowledged,
            errors: summary.errors,
            latency: summary.latency,
            latency_by_type: summary.latency_by_type,
            pacer_late,
            took,
            convergence,
        }
    }
}

/// Watches a run.
#[derive(Clone)]
pub struct Observer(Arc<Shared>);

impl Observer {
    /// How far the run is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.tally.progress()
    }
}

/// Where each region's sessions learn when to write, and who tells them.
fn sources(shared: &Arc<Shared>, regions: usize) -> Result<(Vec<Source>, Option<Pacer>), StartError> {
    let workload = &shared.workload;
    let Pace::Open { per_second, .. } = workload.pace else {
        let end = crate::clock::Moment::after_start(workload.duration);
        return Ok((vec![Source::Closed { end }; regions], None));
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, at most 2e6")]
    let backlog = ((per_second * BACKLOG_SECONDS) as usize / regions).max(BACKLOG_MIN);
    let (senders, sources) = (0..regions)
        .map(|_| {
            let (sender, receiver) = mpsc::channel(backlog); // R2
            (sender, Source::Open(Arc::new(AsyncMutex::new(receiver))))
        })
        .unzip();
    let pacer = Pacer::start(workload, shared.clock, senders).map_err(StartError::Pacer)?;
    Ok((sources, Some(pacer)))
}

/// Lets the connections to `region` go whenever it is lost: a process that comes back does not know
/// them, and QUIC would hold on to them until they have been silent for long.
async fn hang_up(shared: Arc<Shared>, region: usize) {
    loop {
        shared.router.lost(region).await;
        shared.clients[region].close().await;
        if let Some(prober) = &shared.prober {
            prober.hang_up(region).await;
        }
        shared.router.found(region).await;
    }
}

impl Shared {
    /// Whether the history has no room for more.
    fn is_full(&self) -> bool {
        self.workload.record && self.tally.asked.load(Ordering::Relaxed) >= WRITES_MAX
    }
}

/// The name of a type in reports.
fn type_name(data_type: DataType) -> &'static str {
    data_type.as_str()
}
