//! The world: every node, the network, the clients and the queue, driven by one seed.

use super::checks;
use super::history::{History, Meaning};
use super::network::Network;
use super::node::{Node, OpenRequest};
use super::options::Options;
use super::random::Random;
use super::store::MemStore;
use super::workload;
use atoll_crdt::{ActorId, CollectionKey, Seen, VersionVector, counters};
use atoll_replication::wire::Message;
use atoll_replication::{
    Config, Effect, Input, Instant, Limits, LinkId, NodeName, Now, Reconcile, RegionName, Replica, RequestId, Step,
    Store as _, WriteError, WriteOutcome, WriteRequest,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

const TICK_US: u64 = 50_000;
const CONNECT_US: u64 = 100_000;
/// Simulated time within which a healed world must have converged: the longest pause between two attempts to send again
/// is 30 s, and a stamp of the future is waited for.
const CONVERGE_US: u64 = 180_000_000;

#[derive(Debug)]
enum Event {
    Deliver { to: usize, link: LinkId, message: Box<Message> },
    Hangup { to: usize, link: LinkId },
    Sent { from: usize, link: LinkId, bytes: usize },
    SyncDone { node: usize, boot: u64 },
    Tick { node: usize, boot: u64 },
    Connect,
    Action,
    Crash { node: usize },
    Restart { node: usize },
    Heal,
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
    healed: bool,
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
    /// Says what did not hold, and when.
    pub fn run(options: Options) -> Result<Report, String> {
        Self::traced(options, None)
    }

    /// The same; `trace` is told every event before it is handled.
    ///
    /// # Errors
    /// Says what did not hold, and when.
    pub fn traced(options: Options, trace: Option<Trace>) -> Result<Report, String> {
        let seed = options.seed;
        let mut world = Self::new(options);
        world.trace = trace;
        world.play().map_err(|what| format!("seed {seed} at {} us: {what}", world.now_us))?;
        for index in 0..world.nodes.len() {
            world.tally(index);
        }
        world.report.simulated_us = world.now_us;
        world.report.records = world.history.len() as u64;
        Ok(world.report)
    }

    fn new(options: Options) -> Self {
        let nodes = (0..options.nodes)
            .map(|index| Node::new(index, index % options.regions, MemStore::keeping(options.log_records_max)))
            .collect();
        let mut world = Self {
            random: Random::new(options.seed ^ 0xa7011),
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
            healed: false,
            report: Report::default(),
            trace: None,
            options,
        };
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

    /// Adds up what a process counted, at its end.
    fn tally(&mut self, index: usize) {
        let Some(replica) = &self.nodes[index].replica else { return };
        let counts = replica.counts();
        for (what, count) in [
            ("reconciliations finished", counts.sessions_finished),
            ("reconciliations given up", counts.sessions_given_up),
            ("reconciliations on disk", counts.sessions_on_disk),
            ("reconciliations resumed", counts.sessions_resumed),
            ("further passes over a layer", counts.further_passes),
            ("rows adopted", counts.rows_adopted),
            ("roots compared", counts.proofs),
            ("rows repaired", counts.rows_repaired),
        ] {
            if count > 0 {
                *self.report.reached.entry(what).or_default() += count;
            }
        }
    }

    fn play(&mut self) -> Result<(), String> {
        let mut deadline = u64::MAX;
        while let Some(Reverse((at, id))) = self.queue.pop() {
            let Some(event) = self.events.remove(&id) else { continue };
            self.now_us = at;
            self.report.events += 1;
            if let Some(trace) = &mut self.trace {
                trace(&format!("{at:>10} us {event:?}"));
            }
            self.report.trace = self.report.trace.rotate_left(5).wrapping_add(at ^ id);
            self.step(event)?;
            if self.report.events.is_multiple_of(64) {
                self.check_whole()?;
            }
            if self.actions_left == 0 && !self.healed {
                self.heal();
                deadline = self.now_us + CONVERGE_US;
            }
            if self.healed && self.report.events.is_multiple_of(16) && self.has_converged() {
                if !std::mem::take(&mut self.options.rot) {
                    return self.check_end();
                }
                // Once more, where every log is as short as it may be.
                let index = self.random.below(self.nodes.len() as u64) as usize;
                self.rot(index);
                self.nodes[index].store.scrub();
                deadline = self.now_us + CONVERGE_US;
            }
            if self.now_us > deadline {
                return Err(format!("not converged {} s after healing: {}", CONVERGE_US / 1_000_000, self.summary()));
            }
        }
        Err("the queue ran empty".into())
    }

    fn summary(&self) -> String {
        let line = |node: &Node| match &node.replica {
            Some(replica) => format!(
                "n{} CC {:?} LV {:?} log {:?} parked {:?} held back {} B {:?}",
                node.index,
                replica.context(),
                replica.cursor(),
                replica.log_state(),
                replica.parked(),
                replica.pending_bytes(),
                replica.counts()
            ),
            None => format!("n{} down", node.index),
        };
        self.nodes.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { to, link, message } => self.input(to, Input::LinkMessage(link, *message)),
            Event::Hangup { to, link } => self.input(to, Input::LinkDown(link)),
            Event::Sent { from, link, bytes } => self.input(from, Input::LinkSent(link, bytes)),
            Event::SyncDone { node, boot } => self.synced(node, boot),
            Event::Tick { node, boot } => {
                if self.nodes[node].boot != boot {
                    return Ok(());
                }
                self.at(TICK_US, Event::Tick { node, boot });
                self.input(node, Input::Tick)
            }
            Event::Connect => self.connect(),
            Event::Action => self.action(),
            Event::Crash { node } => self.crash(node),
            Event::Restart { node } => {
                if self.nodes[node].replica.is_none() {
                    self.start(node);
                }
                Ok(())
            }
            Event::Heal => {
                self.network.heal();
                Ok(())
            }
        }
    }

    // -- nodes ---------------------------------------------------------------------------------------------------

    fn start(&mut self, index: usize) {
        let off = self.options.clock_off_ms;
        self.nodes[index].clock_off_ms = self.random.between(0, 2 * off) as i64 - off as i64;
        self.next_actor += 1;
        // Not in order of time, as real ones are not.
        let actor = ActorId::new(self.next_actor.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let config = Config {
            cluster: "sim".into(),
            node: node_name(index),
            region: region(self.nodes[index].region),
            regions: (0..self.options.regions).map(region).collect(),
            seeds: 0,
            found: false,
            limits: Limits {
                ping_every: Duration::from_millis(250),
                prove_every: Duration::from_millis(500),
                batch_bytes: 2_048,
                pending_bytes: self.options.pending_bytes,
                link_window_bytes: self.options.window_bytes,
                waiting_writes: 64,
                reconcile_memory: self.options.reconcile_memory,
                closing_rows: self.options.closing_rows,
                resume_within: Duration::from_millis(self.options.resume_within_ms),
                ..Limits::default()
            },
        };
        let now = self.now(index);
        let node = &mut self.nodes[index];
        node.boot += 1;
        node.syncing = None;
        node.context = node.recovered.clocks.context.clone();
        node.cursor = node.recovered.clocks.cursor.clone();
        let mut replica =
            Replica::start(config, actor, now, node.recovered.clone(), &mut node.store).expect("memory does not fail");
        let members = (0..self.options.nodes).map(|n| (node_name(n), region(n % self.options.regions))).collect();
        replica.handle(now, Input::Members(members), &mut node.store, &mut Vec::new()).expect("memory does not fail");
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
            replica.handle(now, input, &mut node.store, &mut effects).map_err(|error| error.to_string())?;
            checks::after_step(node, &mut self.history).map_err(|what| format!("n{index}: {what}"))?;
        }
        self.begin_sync(index);
        for effect in effects {
            self.effect(index, effect)?;
        }
        Ok(())
    }

    fn begin_sync(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.syncing.is_none() && node.store.unsynced() > 0 {
            node.syncing = Some(node.store.last());
            let boot = node.boot;
            let takes = self.random.between(self.options.sync_us.0, self.options.sync_us.1);
            self.at(takes, Event::SyncDone { node: index, boot });
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

    fn crash(&mut self, index: usize) -> Result<(), String> {
        self.tally(index);
        let node = &mut self.nodes[index];
        let Some(replica) = node.replica.take() else { return Ok(()) };
        let unsynced = node.store.unsynced();
        let keep = self.random.below(unsynced as u64 + 1) as usize;
        let recovered = node.store.crash(keep);
        checks::after_crash(replica.durable(), &recovered.clocks.context)?;
        node.recovered = recovered;
        node.open.clear();
        node.boot += 1;
        for (other, link) in self.network.disconnect_all(index) {
            let delay = self.random.between(0, 2_000_000);
            self.at(delay, Event::Hangup { to: other, link });
        }
        self.reach(if keep < unsynced { "crashes that lose entries" } else { "crashes that lose nothing" });
        let down_us = self.random.between(1_000, 3_000_000);
        self.at(down_us, Event::Restart { node: index });
        Ok(())
    }

    // -- network -------------------------------------------------------------------------------------------------

    fn connect(&mut self) -> Result<(), String> {
        self.at(CONNECT_US, Event::Connect);
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let up = a != b && self.nodes[a].replica.is_some() && self.nodes[b].replica.is_some();
                // Both sides dial now and then, so that one of two connections has to go.
                let dials = !self.network.are_connected(a, b) || self.random.permille(5);
                if up && dials && self.network.carries(a, b) && self.network.carries(b, a) && self.random.permille(700)
                {
                    self.link_up(a, b)?;
                }
            }
        }
        Ok(())
    }

    fn link_up(&mut self, a: usize, b: usize) -> Result<(), String> {
        let connection = self.network.connect(a, b);
        for ((node, link), peer, dialled) in [(connection.a, b, true), (connection.b, a, false)] {
            let region = region(self.nodes[peer].region);
            self.input(node, Input::LinkUp { link, node: node_name(peer), region, dialled, seed: None })?;
        }
        Ok(())
    }

    fn effect(&mut self, index: usize, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Reply(request, outcome) => self.replied(index, request, outcome),
            Effect::Send(link, message) => self.send(index, link, &message),
            Effect::Disconnect(link, reason) => {
                self.reach(reason.as_str());
                if let Some((other, link)) = self.network.disconnect(index, link) {
                    let delay = self.random.between(self.options.delay_us.0, self.options.delay_us.1);
                    self.at(delay, Event::Hangup { to: other, link });
                }
                Ok(())
            }
        }
    }

    fn send(&mut self, from: usize, link: LinkId, message: &Message) -> Result<(), String> {
        let weight = message.weight();
        if let Some((permille, what)) = worst_moment(message)
            && self.options.crashes
            && !self.healed
            && self.random.permille(permille)
        {
            self.reach(what);
            self.at(1, Event::Crash { node: from });
        }
        if let Some((to, other)) = self.network.other_side(from, link) {
            let fate = self.network.fate((from, link), to, message, self.now_us, &self.options, &mut self.random);
            if fate.arrivals_us.is_empty() {
                self.reach("messages lost");
            }
            for after_us in fate.arrivals_us {
                // Through its bytes, as on a real wire.
                let message = Box::new(recoded(message)?);
                self.at(after_us, Event::Deliver { to, link: other, message });
            }
        }
        if weight > 0 {
            // Later, as a transport does: what was said before goes out before what this makes room for.
            self.at(0, Event::Sent { from, link, bytes: weight });
        }
        Ok(())
    }

    // -- clients -------------------------------------------------------------------------------------------------

    fn action(&mut self) -> Result<(), String> {
        if self.actions_left == 0 {
            return Ok(());
        }
        self.actions_left -= 1;
        let gap = self.random.between(100, 40_000);
        self.at(gap, Event::Action);
        let index = self.random.below(self.nodes.len() as u64) as usize;
        if self.random.permille(self.options.fault_share) {
            return self.fault(index);
        }
        if self.random.permille(250) {
            return self.read(index);
        }
        for _ in 0..self.random.between(1, self.options.burst) {
            self.write(index)?;
        }
        Ok(())
    }

    /// A row rots, if another node is sure to keep what it held: else there would be nothing to repair it from.
    fn rot(&mut self, index: usize) {
        let context = &self.nodes[index].context;
        let held = |node: &Node| {
            node.index != index
                && context.leq(node.replica.as_ref().map_or(&node.recovered.clocks.context, Replica::durable))
        };
        if self.nodes.iter().any(|node| node.store.has_rot()) || !self.nodes.iter().any(held) {
            return;
        }
        let keys: Vec<_> = self.nodes[index].store.rows().keys().cloned().collect();
        for _ in 0..self.random.between(1, 3) {
            if let Some(key) = self.random.pick(&keys)
                && self.nodes[index].store.rots(key)
            {
                self.reach("rows that rot");
            }
        }
    }

    fn fault(&mut self, index: usize) -> Result<(), String> {
        // With short logs, what a node held at its next start may be in no log and at no other node: then it is for an
        // operator to say what the row held.
        let repairable = self.options.log_records_max == usize::MAX;
        if self.options.rot && repairable && self.random.permille(300) {
            self.rot(index);
            return Ok(());
        }
        if self.options.crashes && self.random.permille(500) {
            return self.crash(index);
        }
        if self.options.partitions {
            for other in (0..self.nodes.len()).filter(|other| *other != index) {
                if self.random.permille(700) {
                    self.network.cut(index, other);
                    if !self.options.one_way || self.random.permille(500) {
                        self.network.cut(other, index);
                        self.reach("two-way cuts");
                    } else {
                        self.reach("one-way cuts");
                    }
                }
            }
            let heals = self.random.between(50_000, 5_000_000);
            self.at(heals, Event::Heal);
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<(), String> {
        let client = self.random.below(self.clients.len() as u64) as usize;
        let node = &self.nodes[index];
        let Some(replica) = &node.replica else { return Ok(()) };
        let client = &mut self.clients[client];
        if !client.token.leq(replica.durable()) {
            self.reach("reads that must wait");
            return Ok(());
        }
        // Invariant 14: a session never goes back.
        if !client.saw.leq(replica.durable()) {
            return Err(format!("a session read at n{index} went back"));
        }
        client.saw.join(replica.durable());
        client.token.join(replica.durable());
        let keys = workload::counters();
        if let Some(key) = self.random.pick(&keys) {
            if node.store.has_rotted(&key.row()) {
                self.reach("reads of damaged rows");
                return Ok(());
            }
            let floors = node.store.synced_rows().get(&key.row()).map(|row| counters::shown(row)).unwrap_or_default();
            self.shown.push((key.clone(), Seen { context: replica.durable().clone(), floors: Some(floors) }));
        }
        self.reach("session reads");
        Ok(())
    }

    fn write(&mut self, index: usize) -> Result<(), String> {
        let Some(replica) = &self.nodes[index].replica else { return Ok(()) };
        let context = replica.context().clone();
        let covered: Vec<_> = self.shown.iter().filter(|(_, seen)| seen.context.leq(&context)).cloned().collect();
        let shown = self.random.pick(&covered).cloned();
        let plain = shown.as_ref().map(|(_, seen)| Seen { context: seen.context.clone(), floors: None });
        let write =
            workload::draw(&mut self.random, self.options.counter_share, &context, shown.as_ref(), plain.as_ref());
        let client = self.random.permille(300).then(|| self.random.below(self.clients.len() as u64) as usize);
        let token = client.map(|client| self.clients[client].token.clone()).unwrap_or_default();
        // What a write means for counters is known when it is made; one that waits would be made on another state.
        let waits = !token.leq(&context);
        let (commands, meanings, seen) = if waits {
            (vec![waiting_write(&mut self.random)], Vec::new(), None)
        } else {
            (write.commands, write.meanings, write.seen)
        };
        let regions = self.random.between(1, self.options.regions as u64) as u32;
        let request = WriteRequest {
            commands,
            seen,
            token: token.clone(),
            wait: Duration::from_millis(self.random.between(0, 500)),
            regions,
            regions_wait: Duration::from_millis(self.random.between(0, 2_000)),
        };
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.nodes[index].open.insert(id, OpenRequest { token, client, regions });
        if waits {
            self.reach("writes that must wait");
        }
        self.write_meaning(index, id, request, &meanings)
    }

    /// Hands in a write; its meaning for counters is told to the history before the checks look.
    fn write_meaning(
        &mut self,
        index: usize,
        id: RequestId,
        request: WriteRequest,
        meanings: &[Meaning],
    ) -> Result<(), String> {
        if let Some(replica) = &self.nodes[index].replica {
            let dot = atoll_crdt::Dot::new(replica.actor(), replica.cursor().get(replica.actor()) + 1);
            let before = replica.counts().written;
            let now = self.now(index);
            let node = &mut self.nodes[index];
            let mut effects = Vec::new();
            if let Some(replica) = &mut node.replica {
                replica
                    .handle(now, Input::Write(id, request), &mut node.store, &mut effects)
                    .map_err(|e| e.to_string())?;
                if replica.counts().written > before {
                    self.history.meant(dot, meanings);
                }
            }
            checks::after_step(&mut self.nodes[index], &mut self.history)
                .map_err(|what| format!("n{index}: {what}"))?;
            for effect in effects {
                self.effect(index, effect)?;
            }
        }
        self.input(index, Input::Drained)
    }

    fn replied(
        &mut self,
        index: usize,
        id: RequestId,
        outcome: Result<WriteOutcome, WriteError>,
    ) -> Result<(), String> {
        let Some(request) = self.nodes[index].open.remove(&id) else {
            return Err(format!("n{index} answered {id:?} twice, or unasked"));
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(WriteError::SessionLost) => {
                return Err(format!("n{index} says that a session's write is lost; none is"));
            }
            Err(error) => {
                self.reach(refusal(&error));
                return Ok(());
            }
        };
        self.reach(if outcome.reached { "writes answered" } else { "writes answered below their level" });
        // Invariant 6: what is acknowledged is durable here, and in as many regions as it says.
        if let Some(dot) = outcome.dot {
            if !self.nodes[index].replica.as_ref().is_some_and(|replica| replica.durable().covers(dot)) {
                return Err(format!("{dot} was acknowledged before it was durable"));
            }
            let mut regions: Vec<_> =
                self.nodes.iter().filter(|node| durable_covers(node, dot)).map(|n| n.region).collect();
            regions.sort_unstable();
            regions.dedup();
            if (regions.len() as u32) < outcome.acked || (outcome.reached && outcome.acked < request.regions) {
                return Err(format!(
                    "{dot}: acknowledged by {} of {} regions, held by {regions:?}",
                    outcome.acked, request.regions
                ));
            }
        }
        // Invariant 14
        if !request.token.leq(&outcome.token) {
            return Err(format!("the token of {id:?} went back"));
        }
        if let Some(client) = request.client {
            let client = &mut self.clients[client];
            client.token.join(&outcome.token);
            client.saw.join(&outcome.token);
        }
        Ok(())
    }

    // -- checks --------------------------------------------------------------------------------------------------

    fn check_whole(&self) -> Result<(), String> {
        for node in &self.nodes {
            checks::whole(node, &self.history).map_err(|what| format!("n{}: {what}", node.index))?;
        }
        self.check_equal_contexts()
    }

    /// Invariant 12: equal contexts, equal rows.
    fn check_equal_contexts(&self) -> Result<(), String> {
        for (i, a) in self.nodes.iter().enumerate() {
            for b in &self.nodes[i + 1..] {
                let same = a.replica.is_some() && b.replica.is_some() && a.context == b.context;
                if same && a.store.rows() != b.store.rows() {
                    return Err(format!("n{} and n{} have equal contexts and different rows", a.index, b.index));
                }
            }
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.healed = true;
        self.network.heal();
        (self.options.loss, self.options.duplication) = (0, 0);
        for index in 0..self.nodes.len() {
            self.nodes[index].store.scrub();
            if self.nodes[index].replica.is_none() {
                self.start(index);
            }
        }
    }

    fn has_converged(&self) -> bool {
        let first = self.nodes[0].replica.as_ref().map(Replica::context);
        self.nodes.iter().all(|node| {
            node.replica.as_ref().is_some_and(|replica| {
                let context = replica.context();
                Some(context) == first && replica.durable() == context && replica.cursor() == context
            }) && node.open.is_empty()
                && !node.store.has_rot()
        })
    }

    fn check_end(&self) -> Result<(), String> {
        self.check_whole()?;
        if let Some(client) = self.clients.iter().find(|client| !client.token.leq(&self.nodes[0].context)) {
            return Err(format!("a token that nobody can ever cover: {:?}", client.token));
        }
        Ok(())
    }
}

/// Messages behind which a node dies now and then, how often of a thousand, and what that is called.
fn worst_moment(message: &Message) -> Option<(u64, &'static str)> {
    let Message::Reconcile(Reconcile { step, .. }) = message else { return None };
    match step {
        // The receiver takes over what dies here before it was synced.
        Step::Close => Some((200, "sources that crash at the end")),
        // The receiver is left with a part of it.
        Step::States(_) => Some((150, "sources that crash in the middle")),
        _ => None,
    }
}

fn durable_covers(node: &Node, dot: atoll_crdt::Dot) -> bool {
    node.replica.as_ref().map_or(&node.recovered.clocks.context, Replica::durable).covers(dot)
}

fn waiting_write(random: &mut Random) -> atoll_replication::Command {
    let key = CollectionKey::new("sim", atoll_crdt::DataType::Register, "w").expect("a valid name");
    let bytes = std::sync::Arc::from(random.next().to_be_bytes().as_slice());
    atoll_replication::Command::RegisterPut { key, content_type: "text/plain".into(), bytes }
}

fn refusal(error: &WriteError) -> &'static str {
    match error {
        WriteError::SessionBehind => "refused: session behind",
        WriteError::SessionLost => "refused: session write lost",
        WriteError::ClockSkew { .. } => "refused: clock skew",
        WriteError::NotReady => "refused: not ready",
        WriteError::Damaged => "refused: damaged row",
        WriteError::Overloaded => "refused: overloaded",
        WriteError::Command(_) => "refused: command",
    }
}

fn recoded(message: &Message) -> Result<Message, String> {
    use atoll_replication::wire::{HEADER_BYTES, Header};
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    let (head, body) = bytes.split_at(HEADER_BYTES);
    let head = head.try_into().map_err(|_| "a frame has a header")?;
    Header::parse(head).and_then(|header| header.message(body)).map_err(|error| format!("our own frame: {error}"))
}
