//! What is said between nodes: connections, messages, and what of the protocol they show.

use super::{Event, Phase, World, node_name, region};
use atoll_replication::wire::{HEADER_BYTES, Header, Message};
use atoll_replication::{DisconnectReason, Input, LinkId, OpenMore, Readiness, Reconcile, SeedIndex, Step};

const CONNECT_US: u64 = 100_000;
/// Between two attempts to dial one peer: the first pause, and the longest; a connection that lasted this long ends the
/// doubling. As the node's own schedule has it.
const REDIAL_US: (u64, u64) = (100_000, 5_000_000);
const LASTED_US: u64 = 10_000_000;

/// Attempts of one node to reach another.
#[derive(Debug, Default)]
pub(super) struct Dial {
    began_us: u64,
    not_before_us: u64,
    failures: u32,
    /// In which of its processes the one who dials learned who is at the other's address.
    knows_since_boot: u64,
}

impl World {
    pub(super) fn connect(&mut self) -> Result<(), String> {
        self.at(CONNECT_US, Event::Connect);
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let up = a != b && self.nodes[a].is_up() && self.nodes[b].is_up();
                // Both sides dial now and then, so that one of two connections has to go.
                let dials = !self.knows_seed(a, b)
                    || !self.network.are_connected(a, b)
                    || (!self.phase.is_watched() && self.random.permille(5));
                let carries = self.network.carries(a, b) && self.network.carries(b, a);
                if up && dials && carries && self.may_dial(a, b) && self.random.permille(700) {
                    self.link_up(a, b)?;
                }
            }
        }
        Ok(())
    }

    /// Whether it is time to dial. Only where two nodes bear one name do connections end all the time.
    fn may_dial(&self, a: usize, b: usize) -> bool {
        let doubled = self.nodes.len() > self.options.nodes;
        !doubled || self.dials.get(&(a, b)).is_none_or(|dial| dial.not_before_us <= self.now_us)
    }

    /// Whether a node that asks its seeds has met the one at this address: until then it dials it, connected or not.
    fn knows_seed(&self, a: usize, b: usize) -> bool {
        let known = self.dials.get(&(a, b)).map_or(0, |dial| dial.knows_since_boot);
        !self.options.founding || b >= self.options.nodes || known == self.nodes[a].boot
    }

    fn link_up(&mut self, a: usize, b: usize) -> Result<(), String> {
        if self.core.contains(&a) && self.core.contains(&b) {
            *self.said.entry("dials").or_default() += 1;
        }
        let (now_us, boot) = (self.now_us, self.nodes[a].boot);
        let dial = self.dials.entry((a, b)).or_default();
        (dial.began_us, dial.knows_since_boot) = (now_us, boot);
        let connection = self.network.connect(a, b);
        for ((node, link), peer, dialled) in [(connection.a, b, true), (connection.b, a, false)] {
            let (region, name) = (region(self.nodes[peer].region), self.nodes[peer].name);
            let seed = (dialled && self.options.founding).then_some(SeedIndex(name as u32));
            self.input(node, Input::LinkUp { link, node: node_name(name), region, dialled, seed })?;
        }
        Ok(())
    }

    /// A node ends a connection.
    pub(super) fn disconnect(&mut self, index: usize, link: LinkId, reason: DisconnectReason) -> Result<(), String> {
        self.reach(reason.as_str());
        self.note_refusal(index, link, reason);
        // Every node here is honest, whatever happened to its disk and its clock.
        if matches!(reason, DisconnectReason::Protocol | DisconnectReason::Impostor | DisconnectReason::Version) {
            return Err(format!("n{index} refuses an honest peer: {}", reason.as_str()));
        }
        if let Some((other, link)) = self.network.disconnect(index, link) {
            self.redial_later(index, other);
            self.redial_later(other, index);
            let delay = self.random.between(self.options.delay_us.0, self.options.delay_us.1);
            self.at(delay, Event::Hangup { to: other, link, why: Some(reason) });
        }
        Ok(())
    }

    fn redial_later(&mut self, a: usize, b: usize) {
        let now_us = self.now_us;
        let dial = self.dials.entry((a, b)).or_default();
        dial.failures = if now_us - dial.began_us >= LASTED_US { 1 } else { (dial.failures + 1).min(16) };
        dial.not_before_us = now_us + (REDIAL_US.0 << (dial.failures - 1)).min(REDIAL_US.1);
    }

    pub(super) fn deliver(&mut self, to: usize, link: LinkId, message: Message) -> Result<(), String> {
        if self.network.is_severed(to, link) {
            self.reach("messages lost with their connection");
            return Ok(());
        }
        if self.nodes[to].replica.is_some() && self.network.other_side(to, link).is_none() {
            self.reach("messages of an old connection");
        }
        if let Message::Reconcile(Reconcile { step, .. }) = &message {
            self.reach(heard(step));
        }
        self.note_versions(to, link, &message);
        if let Message::Hello(hello) = &message {
            self.note_answer(to, hello);
        }
        self.input(to, Input::LinkMessage(link, message))
    }

    pub(super) fn send(&mut self, from: usize, link: LinkId, message: Message) -> Result<(), String> {
        // What the replica counts against the window.
        let weight = message.weight();
        let message = &self.with_wrong_cells(from, message);
        self.note(from, message);
        let crashes = self.options.crashes && self.phase == Phase::Faulty;
        if let Some((permille, what)) = worst_moment(message)
            && crashes
            && self.random.permille(permille)
        {
            self.fault_of(what);
            self.at(1, Event::Crash { node: from });
        }
        let mut taken_us = 0;
        if let Some((to, other)) = self.network.other_side(from, link) {
            if self.core.contains(&from) && self.core.contains(&to) {
                *self.said.entry(kind(message)).or_default() += 1;
            }
            self.check_version(from, to, message)?;
            let fate = self.network.fate((from, link), to, message, self.now_us, &self.options, &mut self.random);
            match fate.arrivals_us.len() {
                0 => self.reach("messages lost"),
                1 => {}
                _ => self.reach("messages repeated"),
            }
            if fate.overtakes {
                self.reach("messages that overtake others");
            }
            taken_us = fate.taken_us;
            for after_us in fate.arrivals_us {
                // Through its bytes, as on a real wire.
                let message = Box::new(recoded(message)?);
                self.at(after_us, Event::Deliver { to, link: other, message });
            }
        }
        if weight > 0 {
            // Later, as a transport does: what was said before goes out before what this makes room for.
            if taken_us > 0 {
                self.reach("messages that wait for bandwidth");
            }
            self.at(taken_us, Event::Sent { from, link, bytes: weight });
        }
        Ok(())
    }

    /// Counts what a message shows of the protocol.
    fn note(&mut self, from: usize, message: &Message) {
        match message {
            Message::Resume { .. } => self.reach("records asked for"),
            Message::Records(records) => {
                let Some(replica) = &self.nodes[from].replica else { return };
                let relayed = records.iter().any(|record| {
                    let actor = record.dot().actor;
                    actor != replica.actor() && !replica.former().contains(&actor)
                });
                if relayed {
                    self.reach("records relayed");
                }
            }
            Message::Reconcile(Reconcile { step, place, .. }) => {
                self.reach(said(step));
                if let Step::Open(open) = step
                    && let Some(more) = &open.more
                {
                    self.reach(purpose(more));
                }
                if matches!(step, Step::Abort) {
                    let serving =
                        self.nodes[from].replica.as_ref().is_some_and(|r| r.readiness() == Readiness::Serving);
                    self.reach(match (place, serving) {
                        (0, true) => "sessions refused: busy",
                        (0, false) => "sessions refused: not ready",
                        _ => "sessions broken off by the source",
                    });
                }
            }
            _ => {}
        }
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

/// What an opening of the second form is for.
fn purpose(more: &OpenMore) -> &'static str {
    match (more.holes.ids.is_empty(), more.whole) {
        (false, _) => "sessions for damaged rows",
        (true, true) => "sessions that go on with a layer",
        (true, false) => "sessions for what no log can give",
    }
}

fn said(step: &Step) -> &'static str {
    match step {
        Step::Open(open) if open.more.is_none() => "open of the first form said",
        Step::Open(_) => "open said",
        Step::Accept { rows: None, .. } => "accept of the first form said",
        Step::Accept { .. } => "accept said",
        Step::Cells(_) => "cells said",
        Step::More { .. } => "more said",
        Step::Want(_) => "want said",
        Step::WantAll => "want all said",
        Step::States(states) if !states.checked => "states of the first form said",
        Step::States(_) => "states said",
        Step::Taken(_) => "taken said",
        Step::Close => "close said",
        Step::Abort => "abort said",
        Step::GiveUp => "give up said",
    }
}

fn heard(step: &Step) -> &'static str {
    match step {
        Step::Open(open) if open.more.is_none() => "open of the first form heard",
        Step::Open(_) => "open heard",
        Step::Accept { rows: None, .. } => "accept of the first form heard",
        Step::Accept { .. } => "accept heard",
        Step::Cells(_) => "cells heard",
        Step::More { .. } => "more heard",
        Step::Want(_) => "want heard",
        Step::WantAll => "want all heard",
        Step::States(states) if !states.checked => "states of the first form heard",
        Step::States(_) => "states heard",
        Step::Taken(_) => "taken heard",
        Step::Close => "close heard",
        Step::Abort => "abort heard",
        Step::GiveUp => "give up heard",
    }
}

const fn kind(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "hello",
        Message::Details(_) => "details",
        Message::Records(_) => "records",
        Message::Durable(..) => "durable",
        Message::Resume { .. } => "resume",
        Message::Ping { .. } => "ping",
        Message::Pong { .. } => "pong",
        Message::Reconcile(_) => "reconcile",
        Message::Root { .. } => "root",
        Message::News(..) => "news",
        Message::Probe { .. } => "probe",
        Message::Beat(_) => "beat",
        Message::Proof { .. } => "proof",
    }
}

fn recoded(message: &Message) -> Result<Message, String> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    let (head, body) = bytes.split_at(HEADER_BYTES);
    let head = head.try_into().map_err(|_| "a frame has a header")?;
    Header::parse(head).and_then(|header| header.message(body)).map_err(|error| format!("our own frame: {error}"))
}
