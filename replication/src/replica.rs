//! The replica: one node's part in the protocol.
//!
//! **How it goes.** [`Replica::start`] mints the actor's first journal entry; nothing is written before that is durable.
//! A write becomes a record on the rows as they stand, is appended, and answered when it is durable; meanwhile it goes
//! to peers. A peer's record is held back until it is next in its actor's log and what its writer had seen is here;
//! then it is applied and appended in one entry.
//!
//! **What always holds.** S1 to S6 of the crate. Here: R1: an answer is given while handling [`Input::Synced`] (or, for
//! what was durable already, at once) and never before. R2: peers are told the durable context only. R3: records
//! leave for peers before they are durable, which is safe because no actor is ever used again (S4).
//!
//! **What is not here.** Choosing the actor's number, the disk, the sockets: the driver. Conversations with peers:
//! [`peers`], [`heartbeat`], [`reconcile`], [`sources`].

mod check;
mod clearing;
mod doubts;
mod export;
mod heartbeat;
mod peers;
mod purge;
mod reconcile;
mod reports;
mod sources;
mod verify;
mod writes;

pub use export::{Excerpt, Imported};

use crate::apply::{Changes, Clocks, changes_in_steps, touched};
use crate::config::Config;
use crate::effect::{Effect, Input, LinkId, RequestId, SeedIndex, WriteOutcome};
use crate::entry::{Entry, Start};
use crate::freshness::Freshness;
use crate::levels::Levels;
use crate::link::{Link, LogState};
use crate::mutants::{Mutant, is};
use crate::names::NodeName;
use crate::pending::Pending;
use crate::reconcile::message::{Open, SessionId};
use crate::reconcile::receiver::Receiver;
use crate::reconcile::source::Source;
use crate::reconcile::staging::Staging;
use crate::record::{Record, RecordBytes};
use crate::roster::Roster;
use crate::status::{Counts, Readiness};
use crate::store::{Holes, Position, Recovered, Store};
use crate::time::{Instant, Now};
use crate::waits::Waits;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ActorId, Dot, Hlc, HlcClock, Payload, ReadError, Row, VersionVector, check_not_ahead};

/// A write that is appended and not yet durable.
#[derive(Debug)]
struct Unsynced {
    position: Position,
    request: RequestId,
    outcome: WriteOutcome,
    regions: u32,
    deadline: Instant,
}

/// What an entry adds to the durable context.
#[derive(Debug)]
enum Unapplied {
    Nothing,
    Record(Dot),
    Context(VersionVector),
}

/// A record that others build on, and when to ask for it.
#[derive(Debug)]
struct Lack {
    seq: u64,
    ask_at: Instant,
}

/// What a session left when it was cut off, for the next one.
#[derive(Debug)]
struct Kept {
    staging: Staging,
    since: Instant,
    /// How far it was, of a thousand.
    permille: u64,
}

/// Where a node without data stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Seeds that have not answered, and whether any that did had no data.
    Asking(BTreeSet<SeedIndex>),
    /// What the cluster held when this node joined.
    Joining(VersionVector),
    Serving,
}

/// One node's part in the protocol.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    actor: ActorId,
    /// Actors of earlier processes on this disk, oldest first.
    former: Vec<ActorId>,
    /// The same, to be searched.
    formerly: BTreeSet<ActorId>,
    clocks: Clocks,
    /// The context that is durable: what peers are told, and what readers see.
    durable: VersionVector,
    /// Appended entries that are not durable: their place, and what becomes durable with them.
    appended: VecDeque<(Position, Unapplied)>,
    last_position: Position,
    unsynced: VecDeque<Unsynced>,
    /// How many of those will wait for other regions.
    unsynced_levels: usize,
    /// The stamp clock, and the ceiling that is appended and not yet durable.
    clock: HlcClock,
    ceiling_appended: Option<(Position, Hlc)>,
    start_position: Position,
    started: bool,
    founded_ms: u64,
    /// Whether the disk says that this node has joined, or founded.
    stored_as_founded: bool,
    /// What this actor's previous record depended on, its own records included.
    deps: VersionVector,
    phase: Phase,
    /// Since when no connected peer holds what this node joins for.
    target_unheld_since: Option<Instant>,
    links: BTreeMap<LinkId, Link>,
    /// Which node a seed turned out to be: whichever connection of a pair stays, the seed has answered.
    seed_nodes: BTreeMap<SeedIndex, NodeName>,
    paused: BTreeSet<NodeName>,
    /// Whether all links are kept off, whoever is paused.
    held: bool,
    roster: Roster,
    pending: Pending,
    /// What held-back records wait for.
    lacking: BTreeMap<ActorId, Lack>,
    levels: Levels,
    waits: Waits,
    /// What there is to say of the log.
    log: LogState,
    /// What each other member was last known to hold durably.
    held_by: BTreeMap<NodeName, VersionVector>,
    /// The session in which this node takes state over.
    receiving: Option<Receiver>,
    /// What the last session left.
    kept: Option<Kept>,
    /// A layer that nobody goes on with is to be dropped.
    aside_unwanted: bool,
    /// Sessions in which peers do.
    sources: BTreeMap<LinkId, Source>,
    /// Openings of peers with damaged rows, until this node covers what those held.
    early: BTreeMap<LinkId, (SessionId, Arc<Open>)>,
    /// Damaged rows, and the context at which the last of them was found: nothing beyond it touches them (C5).
    holes: Arc<Holes>,
    holes_context: VersionVector,
    clearing: clearing::Clearing,
    next_session: u64,
    /// Since when no peer could send what is lacking.
    lost_since: Option<Instant>,
    /// Sessions that failed in a row, and on which link the last one did.
    failed: (u32, Option<LinkId>),
    verifying: verify::Verifying,
    doubts: doubts::Doubts,
    purging: purge::Purging,
    truncated_at: Instant,
    freshness: Freshness,
    counts: Counts,
    /// Actors whose streams stopped at a record that cannot be believed; for the alarm.
    parked: Vec<ActorId>,
    now: Now,
}

impl Replica {
    /// A replica over what a store recovered. `actor` is random and was never used; `now` begins its time.
    ///
    /// # Errors
    /// The storage failed.
    pub fn start(
        config: Config,
        actor: ActorId,
        now: Now,
        recovered: Recovered,
        store: &mut dyn Store,
    ) -> Result<Self, ReadError> {
        let (phase, founded_ms) = first_phase(&config, &recovered);
        let founded_ms = founded_ms.unwrap_or(now.wall_ms);
        let ceiling = HlcClock::next_ceiling(now.wall_ms, recovered.ceiling);
        let stored_as_founded = phase == Phase::Serving;
        let start = Start { actor, ceiling, founded_ms: stored_as_founded.then_some(founded_ms) };
        let position = store.append(Entry::Start(start), Vec::new());
        let mut freshness = Freshness::default();
        freshness.advanced(&recovered.clocks.context);
        let mut replica = Self {
            roster: Roster::new(config.regions.clone()),
            config,
            actor,
            former: recovered.starts.iter().map(|start| start.actor).collect(),
            formerly: recovered.starts.iter().map(|start| start.actor).collect(),
            durable: recovered.clocks.context.clone(),
            clocks: recovered.clocks,
            appended: VecDeque::from([(position, Unapplied::Nothing)]),
            last_position: position,
            unsynced: VecDeque::new(),
            unsynced_levels: 0,
            clock: HlcClock::restart(recovered.ceiling, ceiling),
            ceiling_appended: None,
            start_position: position,
            started: false,
            founded_ms,
            stored_as_founded,
            deps: VersionVector::new(),
            phase,
            target_unheld_since: None,
            links: BTreeMap::new(),
            seed_nodes: BTreeMap::new(),
            paused: BTreeSet::new(),
            held: false,
            pending: Pending::default(),
            lacking: BTreeMap::new(),
            levels: Levels::default(),
            waits: Waits::default(),
            log: LogState::default(),
            held_by: BTreeMap::new(),
            receiving: None,
            kept: None,
            aside_unwanted: false,
            sources: BTreeMap::new(),
            early: BTreeMap::new(),
            holes: Arc::default(),
            holes_context: VersionVector::new(),
            clearing: clearing::Clearing::default(),
            next_session: 0,
            lost_since: None,
            failed: (0, None),
            verifying: verify::Verifying::default(),
            doubts: doubts::Doubts::new(),
            purging: purge::Purging::new(now.instant),
            truncated_at: now.instant,
            freshness,
            counts: Counts::default(),
            parked: Vec::new(),
            now,
        };
        replica.refresh_log(store);
        replica.notice_holes(store);
        Ok(replica)
    }

    /// Handles one input; what is to be done about it is appended to `out`.
    ///
    /// # Errors
    /// The storage failed: the process must end. What was appended before stands.
    pub fn handle(
        &mut self,
        now: Now,
        input: Input,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<(), ReadError> {
        // The driver promises a monotonic clock; a step back is read as no time passed.
        self.now = Now { instant: now.instant.max(self.now.instant), wall_ms: now.wall_ms };
        match input {
            Input::Write(request, write) => self.on_write(request, write, store, out)?,
            Input::Synced(position) => self.on_synced(position, store, out)?,
            Input::LinkUp { link, node, region, dialled, seed } => {
                if let Some(seed) = seed {
                    self.on_seed(seed, &node);
                }
                self.on_link_up(Link::new(link, node, region, dialled, self.now.instant), out);
            }
            Input::LinkMessage(link, message) => self.on_message(link, message, store, out)?,
            Input::LinkSent(link, bytes) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.taken(bytes);
                }
            }
            Input::Refused(link, reason) => self.on_refused(link, reason),
            Input::LinkDown(link) => {
                self.links.remove(&link);
                self.link_gone(link, out);
            }
            Input::SeedIsSelf(seed) => self.seed_answered(seed, None),
            Input::Members(members) => self.on_members(&members, out),
            Input::Pause(node, paused) => self.on_pause(node, paused, out),
            Input::Hold(held) => self.on_hold(held, out),
            Input::Verify => self.on_verify(&*store, out),
            Input::Ending => self.on_ending(store)?,
            Input::Tick => self.on_tick(store, out)?,
            Input::Drained => self.on_drained(store, out)?,
        }
        self.store_as_founded(store);
        Ok(())
    }

    /// Has the disk say that this node has joined, before anything that it does as one that has.
    fn store_as_founded(&mut self, store: &mut dyn Store) {
        if self.stored_as_founded || self.phase != Phase::Serving {
            return;
        }
        let ceiling = self.ceiling_appended.map_or(self.clock.ceiling(), |(_, ceiling)| ceiling);
        let start = Start { actor: self.actor, ceiling, founded_ms: Some(self.founded_ms) };
        let position = store.append(Entry::Start(start), Vec::new());
        self.appended.push_back((position, Unapplied::Nothing));
        self.last_position = position;
        self.stored_as_founded = true;
    }

    /// Appends one entry and what it makes of rows; the clocks move with it (S1).
    fn append_record(&mut self, record: &Record, bytes: RecordBytes, store: &mut dyn Store) -> Result<(), ReadError> {
        let clear_rows = if self.may_leave_clears(store) { self.config.limits.clear_rows } else { usize::MAX };
        let Changes { rows, clears } = changes_in_steps(record, &self.clocks.context, store, clear_rows)?;
        if record.dot.actor != self.actor {
            self.counts.conflicts += rows.iter().filter(|change| is_conflict(&change.after)).count() as u64;
        }
        self.purging.changed(&rows);
        let staging = self.receiving.as_mut().map(|receiver| &mut receiver.staging);
        let staging = staging.or_else(|| self.kept.as_mut().map(|kept| &mut kept.staging));
        let changed: Vec<_> = match staging {
            Some(_) => rows.iter().map(|change| change.key.clone()).collect(),
            None => Vec::new(),
        };
        self.counts.clears_in_steps += clears.len() as u64;
        let position = store.append_clearing(Entry::Record(bytes), rows, clears);
        if let Some(staging) = staging {
            staging.changed(changed.into_iter(), &self.config.limits, store);
        }
        self.clocks.record(record.dot);
        self.cursor_moved(record.dot.actor);
        self.appended.push_back((position, Unapplied::Record(record.dot)));
        self.last_position = position;
        let own = self.is_own(record.dot.actor);
        for link in self.links.values_mut().filter(|link| link.is_live()) {
            link.exists(record.dot, own, self.now.instant, &self.config.limits);
        }
        Ok(())
    }

    /// Applies what can be applied of what peers sent (S2), and lets waiting writes go on.
    fn apply_pending(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        let wall_ms = self.now.wall_ms;
        let mut applied = false;
        while let Some((bytes, record)) = self.pending.next(&self.clocks, |record, context| {
            check_not_ahead(record.at, wall_ms).is_ok()
                && record.is_closed_in(context)
                && touched(record, &self.holes).is_none()
        }) {
            // The stamp was just found believable, so it moves the clock.
            let _ = self.clock.observe(record.at, wall_ms);
            if let Err(error) = self.append_record(&record, bytes.clone(), store) {
                self.known_hole(error, store)?;
                self.pending.put_back(bytes, record, self.now.instant);
                continue;
            }
            self.counts.applied += 1;
            self.counts.last_applied = Some(record.dot);
            applied = true;
        }
        self.parked = self.pending.parked();
        if applied {
            self.pending.forget_applied(&self.clocks);
            self.ask_for_dropped(out);
            self.context_grew(store, out)?;
        }
        Ok(())
    }

    /// Takes in which rows the store has found damaged.
    fn notice_holes(&mut self, store: &mut dyn Store) {
        let holes = store.holes();
        if !Arc::ptr_eq(&holes, &self.holes) {
            if holes.keys().any(|key| !self.holes.contains_key(key)) {
                self.holes_context.clone_from(&self.clocks.context);
            }
            self.holes = holes;
        }
    }

    /// A read failed: a damaged row is known from now on and waits to be repaired, unless it can be read again, because it
    /// was written anew since, say.
    ///
    /// # Errors
    /// Any other failure of the storage.
    fn known_hole(&mut self, error: ReadError, store: &mut dyn Store) -> Result<(), ReadError> {
        self.notice_holes(store);
        match &error {
            ReadError::Damaged(key) if self.holes.contains_key(key) || store.row(key).is_ok() => Ok(()),
            _ => Err(error),
        }
    }

    /// What waited for the context goes on.
    fn context_grew(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        for (request, write) in self.waits.covered(&self.clocks.context) {
            self.on_write(request, write, store, out)?;
        }
        if matches!(self.phase, Phase::Asking(_)) {
            // Data exists: somebody has founded meanwhile.
            let mut held = VersionVector::new();
            self.links.values().for_each(|link| held.join(link.peer()));
            self.phase = Phase::Joining(held);
        }
        Ok(())
    }

    /// Every link learns what there is in the log for its peer.
    fn tell_links_what_exists(&mut self) {
        let ours: Vec<_> = self.clocks.cursor.iter().map(|dot| (dot, self.is_own(dot.actor))).collect();
        for link in self.links.values_mut().filter(|link| link.is_live()) {
            for (dot, own) in &ours {
                link.exists(*dot, *own, self.now.instant, &self.config.limits);
            }
        }
    }

    fn on_synced(&mut self, position: Position, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        if position > self.last_position {
            // Not ours to panic over: a position of the future promises nothing.
            return Ok(());
        }
        let mut advanced = false;
        while self.appended.front().is_some_and(|(at, _)| *at <= position) {
            advanced |= match self.appended.pop_front() {
                Some((_, Unapplied::Record(dot))) => {
                    self.durable.include(dot);
                    true
                }
                Some((_, Unapplied::Context(context))) => {
                    self.durable.join(&context);
                    true
                }
                _ => false,
            };
        }
        if let Some((at, ceiling)) = self.ceiling_appended.filter(|(at, _)| *at <= position) {
            debug_assert!(at <= position, "S3");
            self.clock.raise_ceiling(ceiling);
            self.ceiling_appended = None;
        }
        self.started |= position >= self.start_position;
        if advanced {
            self.freshness.advanced(&self.durable);
            self.joined_yet();
        }
        self.answer_synced(position, out);
        self.raise_ceiling_if_needed(store);
        Ok(())
    }

    fn raise_ceiling_if_needed(&mut self, store: &mut dyn Store) {
        if self.ceiling_appended.is_none() && self.clock.wants_ceiling(self.now.wall_ms) {
            let ceiling = HlcClock::next_ceiling(self.now.wall_ms, self.clock.last());
            let position = store.append(Entry::Ceiling(ceiling), Vec::new());
            self.appended.push_back((position, Unapplied::Nothing));
            self.last_position = position;
            self.ceiling_appended = Some((position, ceiling));
        }
    }

    fn on_tick(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        self.raise_ceiling_if_needed(store);
        self.notice_holes(store);
        self.time_out(out);
        self.tick_links(out);
        self.tick_prove(&*store, out);
        self.tick_truncate(store);
        self.tick_reconcile(store, out);
        self.tick_verify(store, out)?;
        self.tick_purge(store)?;
        self.tick_join();
        self.pending.expire(self.now.instant, &self.config.limits);
        if !self.parked.is_empty() {
            self.apply_pending(store, out)?;
        }
        Ok(())
    }

    fn on_drained(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        self.settle_session(store, out)?;
        self.clear_step(store)?;
        self.tell_durable(out);
        self.ask_for_lacking(out);
        self.send_records(store, out)?;
        self.send_states(store, out)
    }

    /// Whether records of `actor` are this disk's to send.
    fn is_own(&self, actor: ActorId) -> bool {
        actor == self.actor || self.formerly.contains(&actor)
    }

    /// A seed said whether it has data; `None`: it is this node itself.
    fn seed_answered(&mut self, seed: SeedIndex, durable: Option<&VersionVector>) {
        if let Phase::Asking(open) = &mut self.phase {
            open.remove(&seed);
            if let Some(durable) = durable {
                self.phase = Phase::Joining(durable.clone());
            } else if open.is_empty() {
                // All answered and all are empty: they found together.
                self.phase = Phase::Serving;
            }
        }
        self.joined_yet();
    }

    fn joined_yet(&mut self) {
        if let Phase::Joining(target) = &self.phase
            && target.leq(&self.durable)
        {
            self.phase = Phase::Serving;
        }
    }

    /// What this node joins for may be gone with the disk of whoever told it, and with every disk that held it. After a
    /// while in which nobody here holds all of it, what a founded peer holds is enough; and what is here, when every
    /// member is connected and none has more to offer.
    fn tick_join(&mut self) {
        let target = match &self.phase {
            Phase::Joining(target) => target,
            Phase::Asking(open) => return self.tick_asking(&open.clone()),
            Phase::Serving => return,
        };
        let live = || self.links.values().filter(|link| link.is_live());
        if live().any(|link| target.leq(link.peer())) {
            self.target_unheld_since = None;
            return;
        }
        let since = *self.target_unheld_since.get_or_insert(self.now.instant);
        if self.now.instant.since(since) < self.config.limits.join_patience || is(Mutant::JoinForLost) {
            return;
        }
        let founded = live().find(|link| link.hello.as_ref().is_some_and(|hello| hello.founded));
        let enough = match founded {
            Some(link) => link.peer().clone(),
            None if self.freshness.members().all(|(node, _)| self.live_link(node).is_some()) => self.durable.clone(),
            None => return,
        };
        self.phase = Phase::Joining(enough);
        self.target_unheld_since = None;
        self.joined_yet();
    }

    /// A node that was joining before it restarted, and that no seed tells what for: they are joining themselves. After a while
    /// in which every seed and every member is connected and none has more to offer, what is here is enough.
    fn tick_asking(&mut self, open: &BTreeSet<SeedIndex>) {
        let is_there = |seed| self.seed_nodes.get(seed).is_some_and(|node| self.live_link(node).is_some());
        let all_there =
            open.iter().all(is_there) && self.freshness.members().all(|(node, _)| self.live_link(node).is_some());
        let more = || self.links.values().any(|link| link.is_live() && !link.peer().leq(&self.durable));
        if self.durable.is_empty() || !all_there || more() {
            self.target_unheld_since = None;
            return;
        }
        let since = *self.target_unheld_since.get_or_insert(self.now.instant);
        if self.now.instant.since(since) >= self.config.limits.join_patience {
            self.target_unheld_since = None;
            self.phase = Phase::Serving;
        }
    }

    /// Whether the node may serve.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        match &self.phase {
            Phase::Asking(_) => Readiness::Asking,
            Phase::Joining(target) => {
                let left = self.kept.as_ref().map(|kept| kept.permille);
                if let Some(permille) = self.receiving.as_ref().map(Receiver::permille).or(left) {
                    // By rows; it is not done before its closing entry.
                    return Readiness::Joining { percent: (permille / 10).min(99) as u8 };
                }
                let total: u128 = target.iter().map(|dot| u128::from(dot.seq)).sum();
                let held: u128 =
                    target.iter().map(|dot| u128::from(dot.seq.min(self.clocks.context.get(dot.actor)))).sum();
                Readiness::Joining { percent: (held * 100 / total.max(1)) as u8 }
            }
            Phase::Serving if !self.started => Readiness::Starting,
            Phase::Serving => Readiness::Serving,
        }
    }
}

/// Where a process begins, and when its data was founded if it was.
fn first_phase(config: &Config, recovered: &Recovered) -> (Phase, Option<u64>) {
    let founded_ms = recovered.starts.iter().filter_map(|start| start.founded_ms).min();
    // One that was joining has data too, and not all that there is.
    let founded = founded_ms.is_some() && !recovered.clocks.context.is_empty();
    let phase = match config.seeds {
        0 => Phase::Serving,
        _ if founded || config.found => Phase::Serving,
        seeds => Phase::Asking((0..seeds).map(SeedIndex).collect()),
    };
    (phase, founded_ms)
}

/// Whether concurrent values are kept side by side, of which the clock chose the one that is shown.
fn is_conflict(row: &Row) -> bool {
    row.iter().filter(|(_, payload)| matches!(payload, Payload::Value { .. } | Payload::Leaf { .. })).nth(1).is_some()
}
