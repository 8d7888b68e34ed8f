//! The adversary: what happens next, how much each seed likes it, and the healing at the end.
//!
//! **Why tempers.** One mixture of actions meets one kind of trouble. Every seed draws how much it likes each action, each
//! type and old contexts; some are drawn from a list of characters that go after what chance alone seldom reaches.

use super::dice::Dice;
use super::node::State;
use super::variant::Variant;
use super::world::World;
use super::{Outcome, demand};

/// What can happen in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write,
    Burst,
    Pull,
    Truncate,
    Open,
    Session,
    Sync,
    Report,
    Read,
    CatchUp,
    ClientWrite,
    Crash,
    Image,
    Restore,
    Replace,
}

const ACTIONS: [Action; 15] = [
    Action::Write,
    Action::Burst,
    Action::Pull,
    Action::Truncate,
    Action::Open,
    Action::Session,
    Action::Sync,
    Action::Report,
    Action::Read,
    Action::CatchUp,
    Action::ClientWrite,
    Action::Crash,
    Action::Image,
    Action::Restore,
    Action::Replace,
];

/// How much one adversary likes what.
#[derive(Debug, Clone)]
pub(crate) struct Temper {
    weights: [u32; ACTIONS.len()],
    /// Registers, flags, the counter, the set, the counter in the map, the rest of the map.
    pub(crate) tastes: [u32; 6],
    pull_max: usize,
    pub(crate) stale_percent: usize,
    pub(crate) batch_percent: usize,
    pub(crate) purge_percent: usize,
}

impl Temper {
    //                          write burst pull trunc open sess sync rep read catch cwrite crash image restore replace
    const BALANCED: [u32; 15] = [240, 0, 200, 50, 90, 150, 70, 60, 50, 80, 30, 40, 15, 10, 5];
    const PURGING: [u32; 15] = [240, 0, 200, 10, 40, 100, 70, 60, 30, 140, 10, 10, 30, 30, 20];
    const ROAMING: [u32; 15] = [150, 0, 40, 5, 150, 400, 150, 20, 300, 10, 60, 10, 10, 2, 2];
    const SLOW_SESSIONS: [u32; 15] = [240, 0, 300, 40, 90, 60, 120, 20, 20, 10, 10, 10, 5, 3, 2];
    const LOSING: [u32; 15] = [200, 0, 80, 200, 120, 300, 60, 20, 30, 10, 30, 80, 20, 40, 20];

    /// A temper of this seed's own.
    pub(crate) fn drawn(dice: &mut Dice) -> Self {
        let mut temper = Self {
            weights: Self::BALANCED,
            tastes: [30; 6].map(|taste| taste * dice.pick(&[0, 1, 1, 4])),
            pull_max: dice.pick(&[1, 4, 4]),
            stale_percent: dice.pick(&[0, 15, 40]),
            batch_percent: dice.pick(&[10, 30]),
            purge_percent: 20,
        };
        match dice.below(12) {
            0..2 => temper.counting(Self::PURGING),
            2..4 => temper.weights = Self::ROAMING,
            4..6 => {
                temper.weights = Self::SLOW_SESSIONS;
                temper.pull_max = 1;
            }
            6 => temper.weights = Self::LOSING,
            7 => {
                temper.weights[1] = 30;
                temper.tastes = [60, 1, 1, 1, 1, 1];
            }
            _ => {
                temper.weights = Self::BALANCED.map(|weight| weight * dice.pick(&[0, 3, 10, 10, 30]) / 10);
            }
        }
        temper.weights[0] += 10;
        temper.tastes[dice.below(6)] += 10;
        temper
    }

    fn counting(&mut self, weights: [u32; 15]) {
        self.weights = weights;
        self.tastes = [1, 0, 60, 0, 30, 2];
        self.purge_percent = 60;
    }
}

impl World {
    /// One thing happens.
    pub(crate) fn step(&mut self) -> Outcome {
        let node = self.dice.below(self.nodes.len());
        let peer = (node + 1 + self.dice.below(self.nodes.len() - 1)) % self.nodes.len();
        let action = ACTIONS[self.dice.weighted(&self.temper.weights.clone())];
        self.steps.push((action, node, peer));
        self.act(action, node, peer)?;
        if self.variant == Some(Variant::LatticeCounter) {
            self.purge_lattice(node);
        }
        Ok(())
    }

    fn act(&mut self, action: Action, node: usize, peer: usize) -> Outcome {
        match action {
            Action::Write => drop(self.write(node)?),
            Action::Burst => self.burst(node)?,
            Action::Pull => {
                let limit = self.dice.between(1, self.temper.pull_max);
                self.pull(node, peer, limit);
            }
            Action::Truncate => self.truncate(node),
            Action::Open => {
                let session = self.open_session(node, peer);
                self.sessions.push(session);
            }
            Action::Session if self.sessions.is_empty() => {}
            Action::Session => {
                let index = self.dice.below(self.sessions.len());
                self.session_step(index);
            }
            Action::Sync => self.nodes[node].sync(),
            Action::Report => self.report(node),
            Action::Read => self.client_read(node % 2, peer)?,
            Action::CatchUp => {
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    self.pull(node, other, 9);
                }
                self.nodes[node].sync();
                self.report(node);
            }
            Action::ClientWrite => self.client_write(node % 2, peer)?,
            Action::Crash => self.crash(node)?,
            Action::Image => {
                let image = self.nodes[node].durable().clone();
                self.images[node].push(image);
            }
            Action::Restore if self.images[node].is_empty() => {}
            Action::Restore => {
                let image = self.dice.pick(&self.images[node]);
                self.roll_back(node, State::clone(&image));
            }
            Action::Replace => {
                // A new member in its place bootstraps by a session from nothing. The old disks are refused.
                self.roll_back(node, State::default());
                self.reported[node] = atoll_crdt::VersionVector::new();
                self.images[node].clear();
            }
        }
        Ok(())
    }

    /// No more failures: logs flow, and sessions run where clocks or rows say so. All must settle. T6
    pub(crate) fn heal(&mut self) -> Outcome {
        self.sessions.clear();
        for _ in 0..6 {
            for node in 0..self.nodes.len() {
                for peer in (0..self.nodes.len()).filter(|peer| *peer != node) {
                    self.pull(node, peer, usize::MAX);
                    self.nodes[peer].sync();
                    let session = self.open_session(node, peer);
                    if session.is_needed() {
                        self.sessions.push(session);
                    }
                    while !self.sessions.is_empty() {
                        self.session_step(0);
                    }
                }
            }
        }
        let first = &self.nodes[0].state;
        for (at, node) in self.nodes.iter().enumerate() {
            let state = &node.state;
            demand!(state.rows == first.rows, "nodes 0 and {at} diverge after healing");
            let settled = state.context == first.context && state.cursor == state.context && state.ahead.is_empty();
            demand!(settled, "node {at}: clocks never settle: LV {:?}, CC {:?}", state.cursor, state.context);
        }
        for client in self.clients.iter().filter(|_| !self.rolled_back) {
            demand!(client.token.leq(&first.context), "a token that nobody can ever cover");
        }
        Ok(())
    }
}
