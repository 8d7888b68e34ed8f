//! Real endpoints on loopback sockets. Nothing sleeps: every wait is for an input of a replica's queue.

mod hostile;
mod links;

use super::*;
use crate::tls::Tls;
use crate::tls::tests::Ca;
use atoll_crdt::{ActorId, Dot, Hlc, VersionVector};
use atoll_replication::sketch::Cell;
use atoll_replication::wire::{Hello, PROTOCOL};
use atoll_replication::{Input, LogState, Reconcile, Record, SessionId, Step};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(20);

/// An endpoint, and the receiving end of what would be its replica's queue.
struct Node {
    peers: PeerHandle,
    events: mpsc::Receiver<Event>,
    open: BTreeSet<LinkId>,
    ended: BTreeSet<LinkId>,
}

/// What a test may want to change about a node.
#[derive(Default)]
struct Setup {
    seeds: Vec<String>,
    port: u16,
    limits: Limits,
}

impl Setup {
    fn seed(node: &Node) -> Self {
        Self { seeds: vec![node.address()], ..Self::default() }
    }
}

impl Node {
    fn start(tls: Tls, setup: Setup) -> Self {
        let (inbox, events) = Inbox::new();
        let config = PeerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], setup.port)),
            seeds: setup.seeds,
            overrides: BTreeMap::new(),
            tls,
            limits: setup.limits,
        };
        let peers = PeerHandle::start(config, inbox).unwrap();
        Self { peers, events, open: BTreeSet::new(), ended: BTreeSet::new() }
    }

    fn port(&self) -> u16 {
        self.peers.local_addr().unwrap().port()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The next input; what always holds of links is checked on the way.
    async fn next(&mut self) -> Input {
        let event = tokio::time::timeout(LONG, self.events.recv()).await.expect("an input in time");
        let Some(Event::Input(input)) = event else { panic!("not an input: {event:?}") };
        match &input {
            Input::LinkUp { link, .. } => {
                assert!(!self.ended.contains(link) && self.open.insert(*link), "each link is up once");
            }
            Input::LinkMessage(link, _) | Input::LinkSent(link, _) => {
                assert!(self.open.contains(link), "nothing of a link that is not up: {input:?}");
            }
            Input::LinkDown(link) => {
                assert!(self.open.remove(link) && self.ended.insert(*link), "each link is down once");
            }
            _ => {}
        }
        input
    }

    /// Waits for a link to `node` to come up.
    async fn up(&mut self, node: &str) -> LinkId {
        loop {
            if let Input::LinkUp { link, node: peer, .. } = self.next().await
                && peer.as_str() == node
            {
                return link;
            }
        }
    }

    /// Waits for a link to end.
    async fn down(&mut self, link: LinkId) {
        while !self.ended.contains(&link) {
            self.next().await;
        }
    }

    /// Waits for a link to `node` over which it has greeted, and greets back.
    async fn greeted(&mut self, node: &str) -> LinkId {
        loop {
            match self.next().await {
                Input::LinkUp { link, .. } => self.peers.send(link, hello("any")),
                Input::LinkMessage(link, Message::Hello(_)) if self.is_linked(link, node) => {
                    return link;
                }
                _ => {}
            }
        }
    }

    fn is_linked(&self, link: LinkId, node: &str) -> bool {
        self.peers.links().iter().any(|info| info.link == link && info.node.as_str() == node)
    }

    /// Waits for a ping and returns its number.
    async fn ping(&mut self) -> u64 {
        loop {
            if let Input::LinkMessage(_, Message::Ping { sent_us }) = self.next().await {
                return sent_us;
            }
        }
    }

    fn count(&self, fault: Fault) -> u64 {
        self.peers.faults().get(fault)
    }
}

/// Waits for a condition that no input tells of.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("the condition in time");
}

fn hello(node: &str) -> Message {
    Message::Hello(Hello {
        protocol: PROTOCOL,
        cluster: "shop".into(),
        node: node.into(),
        region: "eu-west-1".into(),
        actor: ActorId::new(1),
        former: Vec::new(),
        founded: true,
        founded_ms: 1,
        durable: VersionVector::new(),
        log: LogState::default(),
    })
}

/// Records of about a kilobyte each.
fn records(seqs: std::ops::Range<u64>) -> Message {
    let deps: VersionVector = (100..180).map(|actor| Dot::new(ActorId::new(actor << 40), 1 << 30)).collect();
    let record =
        |seq| Record { dot: Dot::new(ActorId::new(3), seq), at: Hlc::at_ms(5), deps: deps.clone(), ops: vec![] };
    Message::Records(seqs.map(|seq| record(seq).encode()).collect())
}

/// A step of a reconciliation of 24 bytes a cell.
fn cells(count: usize) -> Message {
    let step = Step::Cells(vec![Cell::EMPTY; count].into());
    Message::Reconcile(Reconcile { session: SessionId(1), grant: 0, place: 0, step })
}

fn ping(sent_us: u64) -> Message {
    Message::Ping { sent_us }
}

fn name(node: &str) -> NodeName {
    NodeName::new(node).unwrap()
}

fn tls(ca: &Ca, node: &str) -> Tls {
    ca.node(&format!("atoll://shop/eu-west-1/{node}"))
}
