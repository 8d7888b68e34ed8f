//! What clients do: writes and reads at any node, with sessions that go from one to another, and what answers must be.

use super::{Event, World};
use crate::sim::checks;
use crate::sim::history::Meaning;
use crate::sim::node::{Expects, Node, OpenRequest};
use crate::sim::random::Random;
use crate::sim::workload::{self, Write};
use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Seen, VersionVector, counters, maps};
use atoll_replication::{Command, Fence, Input, RequestId, WriteError, WriteOutcome, WriteRequest};
use std::time::Duration;

impl World {
    pub(super) fn action(&mut self) -> Result<(), String> {
        if self.actions_left == 0 {
            return Ok(());
        }
        self.actions_left -= 1;
        let mut gap = self.random.between(100, 40_000).max(self.silent_until_us.saturating_sub(self.now_us));
        if self.options.rare.lulls && self.random.permille(15) {
            self.reach("lulls");
            gap = self.random.between(1_000_000, 20_000_000);
        }
        self.at(gap, Event::Action);
        self.take_image();
        self.remove_drained()?;
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

    fn read(&mut self, index: usize) -> Result<(), String> {
        let client = self.random.below(self.clients.len() as u64) as usize;
        let node = &self.nodes[index];
        let Some(replica) = node.replica.as_ref().filter(|_| node.is_up()) else { return Ok(()) };
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
            let floors = node.store.seen_synced(&key.row()).map(|row| counters::shown(&row)).unwrap_or_default();
            self.shown.push((key.clone(), Seen { context: replica.durable().clone(), floors: Some(floors) }));
        }
        self.reach("session reads");
        Ok(())
    }

    fn write(&mut self, index: usize) -> Result<(), String> {
        if !self.nodes[index].is_up() {
            return Ok(());
        }
        if self.options.rare.forged_tokens && self.random.permille(30) {
            return self.forged_write(index);
        }
        let Some(replica) = &self.nodes[index].replica else { return Ok(()) };
        let context = replica.context().clone();
        let covered: Vec<_> = self.shown.iter().filter(|(_, seen)| seen.context.leq(&context)).cloned().collect();
        let shown = self.random.pick(&covered).cloned();
        let plain = shown.as_ref().map(|(_, seen)| Seen { context: seen.context.clone(), floors: None });
        let write = workload::draw(&mut self.random, &self.options, &context, shown.as_ref(), plain.as_ref());
        let write = self.looked_through(index, write);
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
        if waits {
            self.reach("writes that must wait");
        }
        let open = OpenRequest { token, client, regions, waits, expects: Expects::Anything };
        let id = self.open_request(index, open);
        self.write_meaning(index, id, request, &meanings)
    }

    /// Has a reader look through a map that is to be deleted, as a node does: what it does not see is not reset.
    fn looked_through(&mut self, index: usize, mut write: Write) -> Write {
        let node = &self.nodes[index];
        let ([Command::Delete { key }], None, Some(replica)) =
            (write.commands.as_slice(), &write.seen, node.replica.as_ref())
        else {
            return write;
        };
        if key.data_type() != DataType::Map || self.random.permille(300) {
            return write;
        }
        let mut found = maps::Found::nothing(replica.durable().clone());
        for (row, state) in node.store.seen_synced_under(key) {
            found.note(&row, &state);
        }
        write.meanings.retain(|meaning| !matches!(meaning, Meaning::Reset(of, _) if !found.counters().contains(of)));
        write.commands = vec![Command::MapDelete { key: key.clone(), found }];
        self.reach("maps looked through and deleted");
        write
    }

    fn open_request(&mut self, index: usize, open: OpenRequest) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.nodes[index].open.insert(id, open);
        id
    }

    /// A write with a token that names what never was.
    fn forged_write(&mut self, index: usize) -> Result<(), String> {
        let actors: Vec<_> = self.nodes.iter().filter_map(|node| Some(node.replica.as_ref()?.actor())).collect();
        let known = self.random.pick(&actors).copied().filter(|_| self.random.permille(700));
        let actor = known.unwrap_or(ActorId::new(self.random.next()));
        let token: VersionVector = [Dot::new(actor, 1 << 40)].into_iter().collect();
        let wait = Duration::from_millis(self.random.between(0, 500));
        let request = WriteRequest {
            commands: vec![waiting_write(&mut self.random)],
            seen: None,
            token: token.clone(),
            wait,
            regions: 1,
            regions_wait: Duration::ZERO,
        };
        self.fault_of("writes with a forged token");
        let open = OpenRequest { token, client: None, regions: 1, waits: true, expects: Expects::Refusal };
        let id = self.open_request(index, open);
        self.write_meaning(index, id, request, &[])
    }

    /// A write at a healed node that asks for a level of which it is known whether it can be had.
    pub(super) fn probe(&mut self, index: usize, regions: u32, wait: Duration, expects: Expects) -> Result<(), String> {
        let request = WriteRequest {
            commands: vec![unstamped_write(&mut self.random)],
            seen: None,
            token: VersionVector::new(),
            wait: Duration::ZERO,
            regions,
            regions_wait: wait,
        };
        let open = OpenRequest { token: VersionVector::new(), client: None, regions, waits: false, expects };
        let id = self.open_request(index, open);
        self.write_meaning(index, id, request, &[])
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
            let dot = Dot::new(replica.actor(), replica.cursor().get(replica.actor()) + 1);
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

    pub(super) fn replied(
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
            Err(error) => return self.refused(index, &request, &error),
        };
        match request.expects {
            Expects::Refusal => return Err(format!("n{index} took a write whose token names what never was")),
            Expects::Level if !outcome.reached => {
                return Err(format!("n{index} has {} of {} healed regions", outcome.acked, request.regions));
            }
            Expects::BelowLevel if outcome.reached => {
                return Err(format!("n{index} counts {} regions, of which some are cut off", outcome.acked));
            }
            _ => {}
        }
        self.reach(if outcome.reached { "writes answered" } else { "writes answered below their level" });
        if outcome.reached && request.regions > 1 && outcome.dot.is_some() {
            self.reach("write levels reached");
        }
        if request.waits {
            self.reach("writes that waited and went on");
        }
        // Invariant 6: what is acknowledged is durable here, and in as many regions as it says.
        if let Some(dot) = outcome.dot {
            self.acknowledged.push(dot);
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
        // Invariant 14.
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

    fn refused(&mut self, index: usize, request: &OpenRequest, error: &WriteError) -> Result<(), String> {
        self.reach(refusal(error));
        if matches!(request.expects, Expects::Level | Expects::BelowLevel) {
            return Err(format!("n{index} is healed and refuses: {error}"));
        }
        if *error == WriteError::SessionLost {
            // Invariant 14: only of what no disk holds. Of two nodes with one name one answers for both: what the other one
            // holds is not asked for, and for a while not when it is alone again.
            // And who is removed is asked no more.
            let one_each = self.nodes.len() == self.options.nodes && self.removed.is_none();
            let held = |dot: Dot| self.nodes.iter().filter_map(Node::durable).any(|durable| durable.covers(dot));
            if one_each && request.token.iter().all(held) {
                return Err(format!(
                    "n{index} says that a session's write is lost; none is: {:?} {}",
                    request.token,
                    self.summary()
                ));
            }
            if let Some(client) = request.client {
                // It begins anew.
                self.clients[client] = super::Client::default();
            }
        }
        Ok(())
    }
}

fn durable_covers(node: &Node, dot: Dot) -> bool {
    // A disk that was replaced since had it when it said so.
    node.durable().is_some_and(|durable| durable.covers(dot)) || node.held_once.covers(dot)
}

fn waiting_write(random: &mut Random) -> Command {
    let key = CollectionKey::new("sim", DataType::Register, "w").expect("a valid name");
    let bytes = std::sync::Arc::from(random.next().to_be_bytes().as_slice());
    Command::RegisterPut { key, content_type: "text/plain".into(), bytes }
}

/// One that no clock decides.
fn unstamped_write(random: &mut Random) -> Command {
    let key = CollectionKey::new("sim", DataType::Set, "probes").expect("a valid name");
    let member = key.member(&random.next().to_string()).expect("a short member");
    Command::SetChange { key, add: vec![member], remove: Vec::new() }
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
        WriteError::Fenced(Fence::Draining) => "refused: draining",
        WriteError::Fenced(_) => "refused: fenced",
    }
}
