//! The world of one run: nodes, clients, what has happened, and who decides what happens next.

use super::Reached;
use super::adversary::{Action, Temper};
use super::client::Client;
use super::dice::Dice;
use super::history::History;
use super::node::{Node, State};
use super::session::Session;
use super::variant::Variant;
use atoll_crdt::{ActorId, Floors, RowKey, VersionVector};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a client was shown: it may bring this along with a later write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) context: VersionVector,
    /// What each counter's totals were.
    pub(crate) floors: BTreeMap<RowKey, Floors>,
}

/// Everything in one run.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) variant: Option<Variant>,
    pub(crate) temper: Temper,
    pub(crate) history: History,
    pub(crate) nodes: Vec<Node>,
    pub(crate) sessions: Vec<Session>,
    /// What the others believe is durable at each node.
    pub(crate) reported: Vec<VersionVector>,
    /// What each process last said of what is durable where it runs.
    pub(crate) said: BTreeMap<ActorId, VersionVector>,
    /// Backups of each node's disk.
    pub(crate) images: Vec<Vec<Rc<State>>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) readings: Vec<Reading>,
    /// Some disk was restored or replaced: acknowledged writes may be gone.
    pub(crate) rolled_back: bool,
    pub(crate) reached: Reached,
    pub(crate) steps: Vec<(Action, usize, usize)>,
}

impl World {
    /// A fresh world. Every seed has another adversary.
    pub(crate) fn new(seed: u64, variant: Option<Variant>) -> Self {
        let mut dice = Dice::new(seed);
        let node_count = dice.pick(&[2, 3, 3, 4]);
        let nodes = (0..node_count).map(|_| Node::new(ActorId::new(dice.number()))).collect();
        let temper = Temper::drawn(&mut dice);
        Self {
            dice,
            variant,
            temper,
            history: History::default(),
            nodes,
            sessions: Vec::new(),
            reported: vec![VersionVector::new(); node_count],
            said: BTreeMap::new(),
            images: vec![Vec::new(); node_count],
            clients: vec![Client::default(), Client::default()],
            readings: vec![Reading::default()],
            rolled_back: false,
            reached: Reached::new(),
            steps: Vec::new(),
        }
    }

    /// An actor id that nobody has had.
    pub(crate) fn fresh_actor(&mut self) -> ActorId {
        ActorId::new(self.dice.number())
    }

    /// Something was reached.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    /// The end of the story so far.
    pub(crate) fn last_steps(&self) -> String {
        let from = self.steps.len().saturating_sub(6);
        let told = self.steps[from..].iter().map(|(action, node, peer)| format!("{action:?} {node}<{peer}"));
        told.collect::<Vec<_>>().join(", ")
    }
}
