//! The world: every node, the network, the clients and the queue, driven by one seed.
//!
//! **What is not here.** What clients do (`clients`), what breaks (`faults`), what is said between nodes (`wire`),
//! and how it ends (`ending`).

mod agreement;
mod cells;
mod clients;
mod ending;
mod faults;
mod founding;
mod members;
mod versions;
mod wire;

use super::checks;
use super::history::History;
use super::network::Network;
use super::node::{Node, Presence};
use super::options::{Mix, Options};
use super::random::Random;
use super::store::MemStore;
use atoll_crdt::{ActorId, CollectionKey, Dot, Seen, VersionVector};
use atoll_replication::wire::Message;
use atoll_replication::{
    Config, DisconnectReason, Effect, Input, Instant, Limits, LinkId, LinkState, NodeName, Now, Readiness, RegionName,
    Replica, SeedIndex,
};
use ending::Phase;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

const TICK_US: u64 = 50_000;
/// How often every node has itself compared with all others, in ticks: true rows never contradict each other.
const VERIFY_TICKS: u64 = 1_000;
/// Every so many ticks of a node its links are looked at.
const LOOK_TICKS: u64 = 4;

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// A message arrives.
    Deliver {
        /// At this node.
        to: usize,
        /// By its number of the connection.
        link: LinkId,
        /// What was said.
        message: Box<Message>,
    },
    /// A node learns that a connection has ended.
    Hangup {
        /// Which node.
        to: usize,
        /// Its number of the connection.
        link: LinkId,
        /// Why the other side ended it, if it did.
        why: Option<DisconnectReason>,
    },
    /// The transport took bytes of a node.
    Sent {
        /// Which node.
        from: usize,
        /// Its number of the connection.
        link: LinkId,
        /// How many.
        bytes: usize,
    },
    /// A disk has what it was given.
    SyncDone {
        /// Whose.
        node: usize,
        /// Of which of its processes.
        boot: u64,
    },
    /// Time passes at a node.
    Tick {
        /// Which node.
        node: usize,
        /// Which of its processes.
        boot: u64,
    },
    /// Nodes dial each other.
    Connect,
    /// A client or a fault does something.
    Action,
    /// A process dies.
    Crash {
        /// Whose.
        node: usize,
    },
    /// A process that was told to end is gone.
    Ended {
        /// Whose.
        node: usize,
        /// Which of its processes.
        boot: u64,
    },
    /// A process begins.
    Restart {
        /// Whose.
        node: usize,
    },
    /// A process goes on.
    Thaw {
        /// Whose.
        node: usize,
    },
    /// An operator resumes a link.
    Resume {
        /// At which node.
        node: usize,
        /// To which other.
        peer: usize,
    },
    /// A node hears where members stand.
    Roster {
        /// Which node.
        node: usize,
    },
    /// The network carries everything again.
    Heal,
}

impl Event {
    /// The node to whose process it happens.
    fn process(&self) -> Option<usize> {
        match self {
            Self::Deliver { to: node, .. }
            | Self::Hangup { to: node, .. }
            | Self::Sent { from: node, .. }
            | Self::SyncDone { node, .. }
            | Self::Tick { node, .. }
            | Self::Roster { node }
            | Self::Ended { node, .. }
            | Self::Resume { node, .. } => Some(*node),
            Self::Connect
            | Self::Action
            | Self::Crash { .. }
            | Self::Restart { .. }
            | Self::Thaw { .. }
            | Self::Heal => None,
        }
    }
}

/// Who is told what happens.
pub type Trace = Box<dyn FnMut(&str)>;

/// What a run did: for coverage, and to see that a seed repeats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Events handled.
    pub events: u64,
    /// Records written.
    pub records: u64,
    /// Faults that were made to happen.
    pub faults: u64,
    /// Simulated microseconds.
    pub simulated_us: u64,
    /// How often each thing was reached.
    pub reached: BTreeMap<&'static str, u64>,
    /// A digest of everything that happened, in order.
    pub trace: u64,
}

impl Report {
    /// Adds up what another run did.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.records += other.records;
        self.faults += other.faults;
        self.simulated_us += other.simulated_us;
        for (what, count) in &other.reached {
            *self.reached.entry(what).or_default() += count;
        }
    }
}

#[derive(Debug, Default)]
struct Client {
    token: VersionVector,
    /// What this client really saw, kept apart from its token.
    saw: VersionVector,
}

/// The world.
pub struct World {
    options: Options,
    random: Random,
    now_us: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    nodes: Vec<Node>,
    network: Network,
    history: History,
    clients: Vec<Client>,
    shown: Vec<(CollectionKey, Seen)>,
    next_request: u64,
    next_actor: u64,
    actions_left: u64,
    /// Until when no client does anything.
    silent_until_us: u64,
    /// Writes that were acknowledged.
    acknowledged: Vec<Dot>,
    /// For actors of whom a disk took the last copy of something along: up to where no disk ever lost anything.
    safe_upto: BTreeMap<ActorId, u64>,
    /// How far ahead any wall clock ever was.
    clock_max_ms: i64,
    dials: BTreeMap<(usize, usize), wire::Dial>,
    phase: Phase,
    /// The nodes that must converge.
    core: Vec<usize>,
    /// Who bears the name of another, and goes as soon as others hold what it does.
    leaving: Option<(usize, usize)>,
    /// Who is drained, or was and is gone.
    draining: Option<usize>,
    /// Who was removed by force, and what of it was carried over by hand.
    removed: Option<usize>,
    carried: VersionVector,
    /// Messages within the core since it is only watched, by kind, and dials.
    said: BTreeMap<&'static str, u64>,
    report: Report,
    trace: Option<Trace>,
}

fn region(index: usize) -> RegionName {
    RegionName::new(&format!("r{index}")).expect("a valid name")
}

fn node_name(index: usize) -> NodeName {
    NodeName::new(&format!("n{index}")).expect("a valid name")
}

impl World {
    /// Plays a seed: the faulty phase, then the healed one.
    ///
    /// # Errors
    /// Says what did not hold, when, and how to see it again.
    pub fn run(options: Options) -> Result<Report, String> {
        Self::traced(options, None)
    }

    /// The same; `trace` is told every event before it is handled.
    ///
    /// # Errors
    /// Says what did not hold, when, and how to see it again.
    pub fn traced(options: Options, trace: Option<Trace>) -> Result<Report, String> {
        let seed = options.seed;
        let mut world = Self::new(options);
        world.trace = trace;
        world.play().map_err(|what| {
            let again = format!("cargo run --release -p atoll-tests --bin sim -- run --seed {seed}");
            format!("seed {seed} at {} us: {what}\nto repeat: {again}", world.now_us)
        })?;
        for index in 0..world.nodes.len() {
            world.tally(index);
        }
        world.report.simulated_us = world.now_us;
        world.report.records = world.history.len() as u64;
        Ok(world.report)
    }

    fn new(options: Options) -> Self {
        let random = Random::new(options.seed ^ 0xa7011);
        let prefix_cells = if options.mix == Mix::HugeSets { options.huge.1 } else { 0 };
        let store = || MemStore::keeping(options.log_records_max, prefix_cells);
        let nodes = (0..options.nodes).map(|index| Node::new(index, index % options.regions, store())).collect();
        let mut world = Self {
            random,
            now_us: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            nodes,
            network: Network::default(),
            history: History::default(),
            clients: (0..3).map(|_| Client::default()).collect(),
            shown: Vec::new(),
            next_request: 0,
            next_actor: 0,
            actions_left: options.steps,
            silent_until_us: 0,
            acknowledged: Vec::new(),
            safe_upto: BTreeMap::new(),
            clock_max_ms: i64::MIN,
            dials: BTreeMap::new(),
            phase: Phase::Faulty,
            core: Vec::new(),
            leaving: None,
            draining: None,
            removed: None,
            carried: VersionVector::new(),
            said: BTreeMap::new(),
            report: Report::default(),
            trace: None,
            options,
        };
        match world.options.mix {
            Mix::Ordinary => {}
            Mix::HotKeys => world.reach("hot keys"),
            Mix::HugeSets => world.reach("huge sets"),
            Mix::Deletes => world.reach("deletes above all"),
        }
        world.draw_versions();
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world.at(0, Event::Connect);
        world.at(1_000, Event::Action);
        world
    }

    fn at(&mut self, after_us: u64, event: Event) {
        self.queue.push(Reverse((self.now_us + after_us, self.next_event)));
        self.events.insert(self.next_event, event);
        self.next_event += 1;
    }

    fn reach(&mut self, what: &'static str) {
        *self.report.reached.entry(what).or_default() += 1;
    }

    /// A fault was made to happen.
    fn fault_of(&mut self, what: &'static str) {
        self.report.faults += 1;
        self.reach(what);
    }

    /// Adds up what a process counted, at its end.
    fn tally(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(replica) = &node.replica else { return };
        let counts = replica.counts();
        let dropped = std::mem::take(&mut node.store.dropped);
        for (what, count) in [
            ("reconciliations finished", counts.sessions_finished),
            ("reconciliations given up", counts.sessions_given_up),
            ("reconciliations granted", counts.sessions_granted),
            ("reconciliations on disk", counts.sessions_on_disk),
            ("reconciliations resumed", counts.sessions_resumed),
            ("further passes over a layer", counts.further_passes),
            ("rows repaired", counts.rows_repaired),
            ("clears in steps", counts.clears_in_steps),
            ("steps of clears", counts.clear_steps),
            ("rows adopted", counts.rows_adopted),
            ("markers let go", counts.markers_purged),
            ("floors let go", counts.floors_purged),
            ("roots compared", counts.proofs),
            ("records dropped that all have", dropped.0),
            ("records dropped that somebody needs", dropped.1),
        ] {
            if count > 0 {
                *self.report.reached.entry(what).or_default() += count;
            }
        }
    }

    fn play(&mut self) -> Result<(), String> {
        while let Some(Reverse((at, id))) = self.queue.pop() {
            let Some(event) = self.events.remove(&id) else { continue };
            self.now_us = at;
            self.report.events += 1;
            if let Some(trace) = &mut self.trace {
                trace(&format!("{at:>10} us {event:?}"));
            }
            self.report.trace = self.report.trace.rotate_left(5).wrapping_add(at ^ id);
            match event.process() {
                Some(node) if self.nodes[node].presence != Presence::Here => self.nodes[node].frozen.push(event),
                _ => self.step(event)?,
            }
            if self.report.events.is_multiple_of(64) {
                self.check_whole()?;
            }
            if self.has_ended()? {
                return Ok(());
            }
        }
        Err("the queue ran empty".into())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { to, link, message } => self.deliver(to, link, *message),
            Event::Hangup { to, link, why } => {
                if let Some(reason) = why {
                    self.input(to, Input::Refused(link, reason))?;
                }
                self.input(to, Input::LinkDown(link))
            }
            Event::Sent { from, link, bytes } => self.input(from, Input::LinkSent(link, bytes)),
            Event::SyncDone { node, boot } => self.synced(node, boot),
            Event::Tick { node, boot } => {
                if self.nodes[node].boot != boot {
                    return Ok(());
                }
                self.at(TICK_US, Event::Tick { node, boot });
                if !self.phase.is_watched() && (self.now_us / TICK_US).is_multiple_of(VERIFY_TICKS) {
                    self.input(node, Input::Verify)?;
                }
                self.input(node, Input::Tick)?;
                self.check_truncation(node)?;
                self.look(node);
                Ok(())
            }
            Event::Connect => self.connect(),
            Event::Action => self.action(),
            Event::Crash { node } if self.phase == Phase::Faulty => self.crash(node),
            Event::Crash { .. } => Ok(()),
            Event::Ended { node, boot } if self.nodes[node].boot == boot => self.crash(node),
            Event::Ended { .. } => Ok(()),
            // A copy that stands still begins when its turn comes.
            Event::Restart { node } if self.leaving.is_some_and(|(_, stays)| stays == node) => Ok(()),
            Event::Restart { node } => {
                if self.nodes[node].presence == Presence::Here && self.nodes[node].replica.is_none() {
                    self.start(node);
                }
                Ok(())
            }
            Event::Thaw { node } => {
                self.thaw(node);
                Ok(())
            }
            Event::Roster { node } => self.told_of_members(node),
            Event::Resume { node, peer } => self.input(node, Input::Pause(node_name(peer), false)),
            Event::Heal => {
                if self.phase == Phase::Faulty {
                    self.network.heal();
                }
                Ok(())
            }
        }
    }

    // -- nodes ---------------------------------------------------------------------------------------------------

    fn config(&self, index: usize) -> Config {
        Config {
            cluster: "sim".into(),
            node: node_name(self.nodes[index].name),
            region: region(self.nodes[index].region),
            regions: (0..self.options.regions).map(region).collect(),
            seeds: if self.options.founding { self.options.nodes as u32 } else { 0 },
            digests: 0,
            found: false,
            limits: Limits {
                protocol_max: self.nodes[index].protocol,
                ping_every: Duration::from_millis(250),
                prove_every: Duration::from_millis(500),
                batch_bytes: 2_048,
                pending_bytes: self.options.pending_bytes,
                link_window_bytes: self.options.window_bytes,
                waiting_writes: 64,
                reconcile_memory: self.options.reconcile_memory,
                closing_rows: self.options.closing_rows,
                resume_bytes_min: 0,
                resume_within: Duration::from_millis(self.options.resume_within_ms),
                sources: self.options.sources,
                purge_every: Duration::from_millis(100),
                clear_rows: self.options.clear_rows,
                catching_up_records: 20,
                ..Limits::default()
            },
        }
    }

    fn start(&mut self, index: usize) {
        let off = self.options.clock_off_ms;
        let drift = self.options.drift_ppm;
        self.nodes[index].clock_off_ms = self.random.between(0, 2 * off).cast_signed() - off.cast_signed();
        self.clock_max_ms = self.clock_max_ms.max(self.nodes[index].clock_off_ms);
        if drift > 0 {
            self.nodes[index].drift_ppm = self.random.between(0, 2 * drift).cast_signed() - drift.cast_signed();
            self.reach("clocks that drift");
        }
        if self.nodes[index].clock_off_ms != 0 {
            self.reach("clocks that are off");
        }
        if self.phase != Phase::Faulty {
            self.set_clock(index);
        }
        self.next_actor += 1;
        // Not in order of time, as real ones are not.
        let actor = ActorId::new(self.next_actor.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let config = self.config(index);
        let now = self.now(index);
        // From its own rows, as a node has them that was told before it stopped.
        let members = self.members(index);
        let node = &mut self.nodes[index];
        node.boot += 1;
        node.ending = false;
        node.syncing = None;
        node.has_said_none.clear();
        node.context = node.recovered.clocks.context.clone();
        node.cursor = node.recovered.clocks.cursor.clone();
        let mut replica =
            Replica::start(config, actor, now, node.recovered.clone(), &mut node.store).expect("memory does not fail");
        let mut inputs = vec![Input::Members(members)];
        if self.options.founding {
            inputs.push(Input::SeedIsSelf(SeedIndex(node.name as u32)));
        }
        for input in inputs {
            replica.handle(now, input, &mut node.store, &mut Vec::new()).expect("memory does not fail");
        }
        node.readiness = replica.readiness();
        node.replica = Some(replica);
        let boot = node.boot;
        self.at(TICK_US, Event::Tick { node: index, boot });
        self.begin_sync(index);
    }

    fn now(&self, node: usize) -> Now {
        Now { instant: Instant::from_micros(self.now_us), wall_ms: self.nodes[node].wall_ms(self.now_us) }
    }

    /// Hands one input to a node that is up, then lets it send, then checks.
    fn input(&mut self, index: usize, input: Input) -> Result<(), String> {
        let now = self.now(index);
        let mut effects = Vec::new();
        for input in [input, Input::Drained] {
            let node = &mut self.nodes[index];
            let Some(replica) = &mut node.replica else { return Ok(()) };
            let before = replica.readiness();
            replica.handle(now, input, &mut node.store, &mut effects).map_err(|error| error.to_string())?;
            checks::after_step(node, &mut self.history).map_err(|what| format!("n{index}: {what}"))?;
            self.check_founding(index, before)?;
        }
        self.begin_sync(index);
        for effect in effects {
            self.effect(index, effect)?;
        }
        Ok(())
    }

    /// Carries out one thing that a node wants.
    fn effect(&mut self, index: usize, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Reply(request, outcome) => self.replied(index, request, outcome),
            Effect::Send(link, message) => self.send(index, link, message),
            Effect::Disconnect(link, reason) => self.disconnect(index, link, reason),
        }
    }

    /// Counts what a node's links and its readiness have come to.
    fn look(&mut self, index: usize) {
        let now = self.now(index).instant;
        let node = &mut self.nodes[index];
        let Some(replica) = &node.replica else { return };
        let (was, is) = (node.readiness, replica.readiness());
        node.readiness = is;
        let mut found = Vec::new();
        match (was, is) {
            (Readiness::Asking, Readiness::Serving) => found.push("nodes that founded together"),
            (Readiness::Joining { .. }, Readiness::Serving) => found.push("empty nodes that took all over"),
            _ => {}
        }
        let joined = found.contains(&"empty nodes that took all over");
        if !replica.parked().is_empty() {
            found.push("streams parked");
        }
        if (self.now_us / TICK_US).is_multiple_of(LOOK_TICKS) {
            found.extend(replica.peers(now).iter().map(|peer| match peer.state {
                LinkState::Down => "links down",
                LinkState::Connecting => "links connecting",
                LinkState::Live => "links live",
                LinkState::CatchingUp => "links catching up",
                LinkState::Reconciling => "links reconciling",
                LinkState::Bootstrapping => "links bootstrapping",
                LinkState::Paused => "links paused",
            }));
        }
        for what in found {
            self.reach(what);
        }
        if joined {
            self.note_join(index);
        }
    }

    fn begin_sync(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.syncing.is_none() && node.store.unsynced() > 0 {
            node.syncing = Some(node.store.last());
            let boot = node.boot;
            let stalled = node.stalled_until_us.saturating_sub(self.now_us);
            let takes = self.random.between(self.options.sync_us.0, self.options.sync_us.1);
            self.at(takes + stalled, Event::SyncDone { node: index, boot });
        }
    }

    fn synced(&mut self, index: usize, boot: u64) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if node.boot != boot || node.replica.is_none() {
            return Ok(());
        }
        let Some(position) = node.syncing.take() else { return Ok(()) };
        node.store.sync_to(position);
        self.input(index, Input::Synced(position))
    }
}
