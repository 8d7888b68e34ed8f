//! A node of the model: its state, its journal, how it applies records and how it fails.
//!
//! **What always holds.** J1: every change of (rows, `LV`, `CC`, log) is one journal entry; a crash leaves a prefix of the
//! entries, and never less than what was synced. J2: a restart mints an actor.

use super::history::Record;
use super::places::places;
use super::variant::Variant;
use super::world::World;
use super::{Outcome, demand};
use crate::rows::Rows;
use atoll_crdt::{ActorId, Dot, Op, Row, RowKey, SIBLINGS_MAX, VersionVector};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The records of one actor that a node still has.
type ActorLog = BTreeMap<u64, Rc<Record>>;

/// What one journal entry changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) rows: Rows,
    /// `LV`: where to go on pulling.
    pub(crate) cursor: VersionVector,
    /// `CC`: every dot whose effect the rows contain.
    pub(crate) context: VersionVector,
    pub(crate) log: BTreeMap<ActorId, Rc<ActorLog>>,
    /// Only under [`Variant::RowsAsTheyCome`]: what a row contains beyond `context`.
    pub(crate) ahead: BTreeMap<RowKey, VersionVector>,
    /// Only under [`Variant::LatticeCounter`]: totals and baselines.
    pub(crate) lattice: BTreeMap<ActorId, (i128, i128)>,
}

impl State {
    /// What a row contains.
    pub(crate) fn context_of(&self, key: &RowKey) -> VersionVector {
        let mut context = self.context.clone();
        if let Some(ahead) = self.ahead.get(key) {
            context.join(ahead);
        }
        context
    }

    /// Takes in a record that is next in its actor's log.
    pub(crate) fn take_in(&mut self, record: &Rc<Record>) {
        let dot = record.dot;
        for op in &record.ops {
            match op {
                Op::Clear(clear) => {
                    for key in places().under(&clear.prefix) {
                        if !self.context_of(key).covers(dot) {
                            self.rows.change(key, |row| row.clear(&clear.context));
                        }
                    }
                }
                Op::Row(op) => {
                    if !self.context_of(&op.key).covers(dot) {
                        self.rows.change(&op.key, |row| op.apply(dot, row));
                    }
                }
            }
        }
        for (actor, total) in record.lattice.iter().flat_map(|lattice| &lattice.totals) {
            let entry = self.lattice.entry(*actor).or_default();
            entry.0 = entry.0.max(*total);
            if record.lattice.as_ref().is_some_and(|lattice| lattice.is_reset) {
                entry.1 = entry.1.max(*total);
            }
        }
        self.cursor.include(dot);
        self.context.include(dot);
        Rc::make_mut(self.log.entry(dot.actor).or_default()).insert(dot.seq, Rc::clone(record));
        self.settle_ahead();
    }

    /// Forgets row contexts that the whole context has caught up with.
    pub(crate) fn settle_ahead(&mut self) {
        let context = &self.context;
        self.ahead.retain(|_, ahead| !ahead.leq(context));
    }

    pub(crate) fn logged(&self, dot: Dot) -> Option<&Rc<Record>> {
        self.log.get(&dot.actor)?.get(&dot.seq)
    }

    /// Only under [`Variant::CapAtMerge`]: drops what is beyond the cap, whoever wrote it.
    fn trim(&mut self) {
        let key = &places().register;
        let row = self.rows.get(key);
        let beyond = row.iter().len().saturating_sub(SIBLINGS_MAX);
        let mut kills = super::write::oldest_first(&row, |_| true);
        kills.truncate(beyond);
        kills.sort_unstable();
        self.rows.change(key, |row| row.kill(&kills));
    }
}

/// One node: a process on a disk.
#[derive(Debug)]
pub(crate) struct Node {
    /// Counts process starts.
    pub(crate) boots: u32,
    pub(crate) actor: ActorId,
    /// Every actor this member has had.
    pub(crate) former: Vec<ActorId>,
    pub(crate) state: State,
    /// The first is durable; the others are appended and not synced.
    journal: Vec<Rc<State>>,
    /// What this disk has reported as durable.
    pub(crate) promised: VersionVector,
    /// Whether the state changed since the last check.
    pub(crate) unchecked: bool,
}

impl Node {
    pub(crate) fn new(actor: ActorId) -> Self {
        Self {
            boots: 0,
            actor,
            former: vec![actor],
            state: State::default(),
            journal: vec![Rc::default()],
            promised: VersionVector::new(),
            unchecked: true,
        }
    }

    /// Appends an entry. J1
    pub(crate) fn commit(&mut self, variant: Option<Variant>) {
        if variant == Some(Variant::CapAtMerge) {
            self.state.trim();
        }
        self.unchecked = true;
        self.journal.push(Rc::new(self.state.clone()));
    }

    /// Syncs the journal.
    pub(crate) fn sync(&mut self) {
        let last = self.journal.pop().expect("a journal is never empty");
        self.journal.clear();
        self.journal.push(last);
    }

    /// What is synced.
    pub(crate) fn durable(&self) -> &Rc<State> {
        &self.journal[0]
    }

    /// What is appended.
    pub(crate) fn appended(&self) -> &Rc<State> {
        self.journal.last().expect("a journal is never empty")
    }
}

impl World {
    /// Applies a record where it is next and its dependencies are there; whether it was.
    pub(crate) fn apply(&mut self, at: usize, record: &Rc<Record>) -> bool {
        let variant = self.variant;
        let state = &self.nodes[at].state;
        if record.dot.seq != state.cursor.get(record.dot.actor) + 1 {
            return false;
        }
        let ready = state.context.covers(record.dot) || record.deps.leq(&state.context);
        if !ready && variant != Some(Variant::NoDeps) {
            return false;
        }
        if variant == Some(Variant::RowsAsTheyCome) {
            for session in &mut self.sessions {
                session.record_arrived(at, record.dot);
            }
        }
        let node = &mut self.nodes[at];
        node.state.take_in(record);
        node.commit(variant);
        true
    }

    /// Takes up to `limit` records of each actor from a peer's log, synced there or not: records go out in parallel with
    /// the sync.
    pub(crate) fn pull(&mut self, at: usize, from: usize, limit: usize) {
        let actors: Vec<ActorId> = self.nodes[from].state.log.keys().copied().collect();
        for actor in actors {
            for _ in 0..limit {
                let next = Dot::new(actor, self.nodes[at].state.cursor.get(actor) + 1);
                let Some(record) = self.nodes[from].state.logged(next).cloned() else {
                    break;
                };
                if !self.apply(at, &record) {
                    break;
                }
            }
        }
    }

    /// The hard cap: logs are cut, whoever still needs them.
    pub(crate) fn truncate(&mut self, at: usize) {
        let actors: Vec<ActorId> = self.nodes[at].state.log.keys().copied().collect();
        for actor in actors {
            let log = Rc::make_mut(self.nodes[at].state.log.get_mut(&actor).expect("listed"));
            for _ in 0..self.dice.below(log.len() + 1) {
                log.pop_first();
            }
        }
        self.nodes[at].commit(self.variant);
    }

    fn restart(&mut self, at: usize, mut state: State) {
        let node = &mut self.nodes[at];
        node.boots += 1;
        if self.variant == Some(Variant::ClockSurvivesCrash) {
            state.cursor = node.state.cursor.clone();
            state.context = node.state.context.clone();
        }
        node.state = state;
        node.journal = vec![Rc::new(node.state.clone())];
        node.unchecked = true;
        if self.variant != Some(Variant::ReuseActor) {
            // J2
            let actor = self.fresh_actor();
            self.nodes[at].actor = actor;
            self.nodes[at].former.push(actor);
        }
    }

    /// The process ends; some prefix of the unsynced entries survives. T5
    pub(crate) fn crash(&mut self, at: usize) -> Outcome {
        let survives = self.dice.pick(&self.nodes[at].journal);
        if !Rc::ptr_eq(&survives, self.nodes[at].appended()) {
            self.count("crashes that lose entries");
        }
        self.restart(at, State::clone(&survives));
        let node = &self.nodes[at];
        demand!(node.promised.leq(&node.state.context), "node {at}: lost what it had reported as durable");
        Ok(())
    }

    /// The disk is another one: an older image, or an empty one in a new member's place.
    pub(crate) fn roll_back(&mut self, at: usize, state: State) {
        self.rolled_back = true;
        self.count("disks restored or replaced");
        self.nodes[at].promised = VersionVector::new();
        self.restart(at, state);
    }

    /// A node tells the others what it holds durably. A restarted or replacing node says nothing until it holds what any
    /// member has of its former actors: a tail that it lost.
    pub(crate) fn report(&mut self, at: usize) {
        let node = &self.nodes[at];
        let view = if self.variant == Some(Variant::VolatileAck) { &node.state } else { node.durable() };
        self.said.insert(node.actor, view.context.clone());
        let former = node.former.iter().filter(|actor| **actor != node.actor);
        let held_everywhere = former.map(|actor| {
            let seq = self.nodes.iter().map(|other| other.state.context.get(*actor)).max().unwrap_or(0);
            Dot::new(*actor, seq)
        });
        if held_everywhere.collect::<VersionVector>().leq(&view.context) {
            let report = view.context.clone();
            self.nodes[at].promised = report.clone();
            self.reported[at] = report;
        }
    }
}

/// The merge rule over a state and something of another.
pub(crate) fn merged(state: &State, key: &RowKey, theirs: &Row, their_context: &VersionVector) -> Row {
    state.rows.get(key).merge(&state.context_of(key), theirs, their_context)
}
