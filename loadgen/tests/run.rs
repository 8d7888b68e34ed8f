//! Runs against servers that misbehave as no node does on command: they stall, refuse, or go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atoll_client::api::Namespace;
use atoll_geo::RegionName;
use atoll_loadgen::clock::Clock;
use atoll_loadgen::history::Outcome;
use atoll_loadgen::run::{Access, LoadRun, Loaded, Target};
use atoll_loadgen::workload::{Mix, Pace, Spread, Workload};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A server that says yes to everything, at a pace of its own.
struct Server {
    target: Target,
    behaviour: Arc<Behaviour>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Behaviour {
    /// Writes that were answered.
    answered: AtomicU64,
    /// From this write on, all wait until this moment.
    stall: Option<(u64, Duration)>,
    /// Writes are read and never answered.
    mute: AtomicBool,
}

impl Server {
    async fn start(name: &str, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: atoll_client::Endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let target =
            Target { region: RegionName::new(name).unwrap(), endpoint: endpoint.clone(), health: Some(endpoint) };
        let (behaviour, stop) = (Arc::new(behaviour), watch::Sender::new(false));
        let (served, mut stopped) = (behaviour.clone(), stop.subscribe());
        let task = tokio::spawn(async move {
            let (began, mut connections) = (Instant::now(), JoinSet::new());
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        connections.spawn(serve(accepted.unwrap().0, served.clone(), began));
                    }
                    // Listener and connections are dropped, as when a process is killed.
                    _ = stopped.wait_for(|stop| *stop) => return,
                }
            }
        });
        Self { target, behaviour, stop, task }
    }

    async fn kill(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

async fn serve(stream: TcpStream, behaviour: Arc<Behaviour>, began: Instant) {
    let mut stream = BufReader::new(stream);
    while let Some(is_read) = request(&mut stream).await {
        if is_read {
            let body = br#"{"ready":true}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
            continue;
        }
        if behaviour.mute.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let nth = behaviour.answered.fetch_add(1, Ordering::Relaxed);
        if let Some((from, until)) = behaviour.stall
            && nth >= from
        {
            tokio::time::sleep_until((began + until).into()).await; // sleep: the stall is the scenario
        }
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// Reads a request; whether it was a GET. `None` at the end.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<bool> {
    let (mut is_read, mut length, mut line) = (false, 0, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let text = line.trim_end().to_ascii_lowercase();
        is_read |= text.starts_with("get ");
        if let Some(value) = text.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        if text.is_empty() {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            return Some(is_read);
        }
    }
}

fn workload(per_second: f64, duration: Duration) -> Workload {
    Workload {
        mix: Mix::of_registers(1),
        pace: Pace::Open { per_second, spread: Spread::Constant },
        sessions_per_region: 4,
        probe_share: 0.0,
        ..Workload::mixed(Namespace::new("load").unwrap(), per_second, duration)
    }
}

async fn run(workload: Workload, targets: &[Target]) -> Loaded {
    let run = LoadRun::start(workload, targets, &Access::default(), Clock::start()).unwrap();
    run.finish(Duration::from_secs(1)).await
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn stall_is_in_the_latency_of_every_write_that_was_due_meanwhile() {
    // Answers nothing from the hundredth write on until a second after the start.
    let stall = Some((100, Duration::from_millis(1_000)));
    let server = Server::start("us-east-1", Behaviour { stall, ..Behaviour::default() }).await;
    let loaded = run(workload(500.0, SECOND), std::slice::from_ref(&server.target)).await;
    assert_eq!(loaded.acknowledged, 500);
    assert_eq!(loaded.history.len(), 500);
    // About 400 writes were due while 4 sessions hung: the median waited some 400 ms. Counted from
    // when a session was free, all but 4 of them would have taken no time.
    assert!(loaded.latency.ms(0.5) > 250.0, "{}", loaded.latency.ms(0.5));
    let from_start = |write: &atoll_loadgen::history::Write| write.answered.since(write.started);
    let slow = loaded.history.iter().filter(|write| from_start(write) > SECOND / 10).count();
    assert!(slow < 100, "{slow}");
}

#[tokio::test]
async fn more_than_can_wait_is_shed_and_said_so() {
    // Nothing is answered before all is due.
    let stall = Some((0, Duration::from_millis(3_500)));
    let server = Server::start("us-east-1", Behaviour { stall, ..Behaviour::default() }).await;
    let mut workload = workload(1_000.0, SECOND * 3);
    workload.sessions_per_region = 1;
    let loaded = run(workload, std::slice::from_ref(&server.target)).await;
    // Of 3,000 one is in flight and two seconds' worth may wait.
    assert_eq!(loaded.errors["shed"], 999);
    assert_eq!(loaded.acknowledged, 2_001);
}

#[tokio::test]
async fn clients_of_a_killed_region_go_elsewhere_and_what_was_in_flight_is_unknown() {
    let mute = AtomicBool::new(true);
    let dying = Server::start("us-east-1", Behaviour { mute, ..Behaviour::default() }).await;
    let other = Server::start("eu-west-1", Behaviour::default()).await;
    let targets = [dying.target.clone(), other.target.clone()];
    let workload = workload(200.0, SECOND * 3);
    let load = LoadRun::start(workload, &targets, &Access::default(), Clock::start()).unwrap();
    let asked = load.observer();
    // All four sessions of the first region hang; those of the other go on.
    while other.behaviour.answered.load(Ordering::Relaxed) < 50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.progress().failed, 0);
    dying.kill().await;
    let loaded = load.finish(SECOND).await;
    let of_dying =
        |outcome: Outcome| loaded.history.iter().filter(|write| write.region == 0 && write.outcome == outcome).count();
    assert_eq!(of_dying(Outcome::Acknowledged), 0);
    assert!((4..=8).contains(&of_dying(Outcome::Unknown)), "{:?}", loaded.errors);
    let moved = loaded.history.iter().filter(|write| write.home == 0 && write.region == 1).count();
    assert!(moved > 100, "{moved}");
    assert_eq!(loaded.history.len(), 600, "every write is in the history");
}

#[tokio::test]
async fn closed_loop_keeps_every_session_busy_until_the_end() {
    let server = Server::start("us-east-1", Behaviour::default()).await;
    let workload = Workload { pace: Pace::Closed, ..workload(1.0, SECOND / 2) };
    let loaded = run(workload, std::slice::from_ref(&server.target)).await;
    assert!(loaded.acknowledged > 500, "{}", loaded.acknowledged);
    let sessions: std::collections::BTreeSet<_> = loaded.history.iter().map(|write| write.session).collect();
    assert_eq!(sessions.len(), 4);
}
