//! One replica with its store and a clock, and a peer whose every word the test chooses.

use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Hlc, Op, Payload, RowOp, VersionVector};
use atoll_replication::wire::{Hello, Message, PROTOCOL};
use atoll_replication::{
    Command, Config, DisconnectReason, Effect, Input, Instant, Limits, LinkId, LogState, NodeName, Now, Record,
    RecordBytes, RegionName, Replica, RequestId, SeedIndex, WriteError, WriteOutcome, WriteRequest,
};
use atoll_tests::sim::store::MemStore;
use std::time::Duration;

pub(super) const WALL_MS: u64 = 1_800_000_000_000;
pub(super) const ME: ActorId = ActorId::new(0xa);
pub(super) const PEER: ActorId = ActorId::new(0xb);
pub(super) const LINK: LinkId = LinkId(1);

/// One replica with its store, at a time of the test's own.
pub(super) struct Bench {
    pub(super) replica: Replica,
    pub(super) store: MemStore,
    pub(super) us: u64,
    pub(super) requests: u64,
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a valid name")
}

pub(super) fn region(text: &str) -> RegionName {
    RegionName::new(text).expect("a valid name")
}

pub(super) fn counter() -> CollectionKey {
    CollectionKey::new("t", DataType::Counter, "c").expect("a valid name")
}

pub(super) fn register() -> CollectionKey {
    CollectionKey::new("t", DataType::Register, "r").expect("a valid name")
}

pub(super) fn put() -> Command {
    Command::RegisterPut { key: register(), content_type: "text/plain".into(), bytes: b"v".as_slice().into() }
}

impl Bench {
    pub(super) fn new(seeds: u32) -> Self {
        Self::begin("me", "here", ME, seeds, Limits::default())
    }

    pub(super) fn with_limits(seeds: u32, limits: Limits) -> Self {
        Self::begin("me", "here", ME, seeds, limits)
    }

    /// A node without seeds, of this name.
    pub(super) fn named(node: &str, home: &str, actor: ActorId) -> Self {
        Self::begin(node, home, actor, 0, Limits::default())
    }

    /// The node ends, whatever of its disk's was not synced is lost, and it starts again.
    pub(super) fn restart(self, seeds: u32, actor: ActorId) -> Self {
        Self::on_disk(("me", "here"), actor, seeds, Limits::default(), self.store)
    }

    fn begin(node: &str, home: &str, actor: ActorId, seeds: u32, limits: Limits) -> Self {
        Self::on_disk((node, home), actor, seeds, limits, MemStore::default())
    }

    fn on_disk((node, home): (&str, &str), actor: ActorId, seeds: u32, limits: Limits, mut store: MemStore) -> Self {
        let config = Config {
            cluster: "t".into(),
            node: name(node),
            region: region(home),
            regions: vec![region("here"), region("there")],
            seeds,
            digests: 1,
            found: false,
            limits,
        };
        let recovered = store.crash(0);
        let now = Now { instant: Instant::from_micros(0), wall_ms: WALL_MS };
        let replica = Replica::start(config, actor, now, recovered, &mut store).expect("memory does not fail");
        let mut bench = Self { replica, store, us: 0, requests: 0 };
        bench.sync();
        bench
    }

    pub(super) fn handle(&mut self, input: Input) -> Vec<Effect> {
        let now = Now { instant: Instant::from_micros(self.us), wall_ms: WALL_MS + self.us / 1_000 };
        let mut effects = Vec::new();
        self.replica.handle(now, input, &mut self.store, &mut effects).expect("memory does not fail");
        self.replica.handle(now, Input::Drained, &mut self.store, &mut effects).expect("memory does not fail");
        self.replica.check_invariants().expect("invariants hold");
        effects
    }

    pub(super) fn wait(&mut self, duration: Duration) -> Vec<Effect> {
        self.us += duration.as_micros() as u64;
        self.handle(Input::Tick)
    }

    pub(super) fn sync(&mut self) -> Vec<Effect> {
        let position = self.store.last();
        self.store.sync_to(position);
        self.handle(Input::Synced(position))
    }

    pub(super) fn link_up(&mut self, link: LinkId, seed: Option<u32>) -> Vec<Effect> {
        let (node, region) = (name("peer"), region("there"));
        self.handle(Input::LinkUp { link, node, region, dialled: true, seed: seed.map(SeedIndex) })
    }

    pub(super) fn greet(&mut self, change: impl FnOnce(&mut Hello)) -> Vec<Effect> {
        self.link_up(LINK, None);
        let mut hello = hello();
        change(&mut hello);
        self.say(Message::Hello(hello))
    }

    pub(super) fn say(&mut self, message: Message) -> Vec<Effect> {
        self.say_on(LINK, message)
    }

    pub(super) fn say_on(&mut self, link: LinkId, message: Message) -> Vec<Effect> {
        self.handle(Input::LinkMessage(link, message))
    }

    /// A second peer, connected and greeted.
    pub(super) fn greet_as(&mut self, link: LinkId, node: &str, actor: ActorId) {
        let (dialled, seed) = (true, None);
        self.handle(Input::LinkUp { link, node: name(node), region: region("there"), dialled, seed });
        self.say_on(link, Message::Hello(Hello { node: node.into(), actor, ..hello() }));
    }

    /// Writes, and gives what came back without a sync.
    pub(super) fn write(&mut self, command: Command, change: impl FnOnce(&mut WriteRequest)) -> Vec<Effect> {
        self.requests += 1;
        let mut request = WriteRequest {
            commands: vec![command],
            seen: None,
            token: VersionVector::new(),
            wait: Duration::from_millis(200),
            regions: 1,
            regions_wait: Duration::from_secs(1),
        };
        change(&mut request);
        self.handle(Input::Write(RequestId(self.requests), request))
    }
}

pub(super) fn asks_for(asked: ActorId, effects: &[Effect]) -> bool {
    let is_ask = |message: &Message| matches!(message, Message::Resume { actor, from: 1 } if *actor == asked);
    effects.iter().any(|effect| matches!(effect, Effect::Send(LINK, message) if is_ask(message)))
}

pub(super) fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        cluster: "t".into(),
        node: "peer".into(),
        region: "there".into(),
        actor: PEER,
        former: Vec::new(),
        founded: true,
        founded_ms: WALL_MS,
        durable: VersionVector::new(),
        log: LogState::default(),
    }
}

pub(super) fn durable(dots: &[(ActorId, u64)]) -> Message {
    Message::Durable(vector(dots), LogState::default())
}

pub(super) fn vector(dots: &[(ActorId, u64)]) -> VersionVector {
    dots.iter().map(|(actor, seq)| Dot::new(*actor, *seq)).collect()
}

pub(super) fn record(actor: ActorId, seq: u64, ahead_ms: u64, deps: &[(ActorId, u64)]) -> RecordBytes {
    let at = Hlc::at_ms(WALL_MS + ahead_ms);
    let put = Payload::Value { at, content_type: "text/plain".into(), bytes: b"theirs".as_slice().into() };
    let op = Op::Row(RowOp { key: register().row(), kills: Vec::new(), put: Some(put) });
    Record { dot: Dot::new(actor, seq), at, deps: vector(deps), ops: vec![op] }.encode()
}

pub(super) fn replies(effects: &[Effect]) -> Vec<&Result<WriteOutcome, WriteError>> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Reply(_, outcome) = effect { Some(outcome) } else { None })
        .collect()
}

pub(super) fn ended(effects: &[Effect]) -> Option<DisconnectReason> {
    effects.iter().find_map(|effect| if let Effect::Disconnect(_, reason) = effect { Some(*reason) } else { None })
}
