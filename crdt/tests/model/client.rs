//! Clients with tokens that move between nodes, and the session guarantees they are promised.
//!
//! **What always holds.** T4: a read shows everything that the client has read or written before; a write depends on it.
//! `saw` is a ghost that no rule looks at; the token is what the protocol gives the client to carry.

use super::places::places;
use super::variant::Variant;
use super::world::{Reading, World};
use super::{Outcome, demand};
use atoll_crdt::{Dot, VersionVector, counters};

/// One client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// The token.
    pub(crate) token: VersionVector,
    saw: VersionVector,
    /// The process it last spoke to: node and boot.
    last_at: Option<(usize, u32)>,
}

/// Readings that clients keep, to bring them along with a later write.
const READINGS_MAX: usize = 24;

impl World {
    pub(crate) fn client_read(&mut self, who: usize, at: usize) -> Outcome {
        let node = &self.nodes[at];
        let here = Some((at, node.boots));
        let view = if self.variant == Some(Variant::VolatileRead) { node.appended() } else { node.durable() }.clone();
        let key = self.dice.pick(&places().all);
        let shown = view.context_of(&key);
        let clock = if self.variant == Some(Variant::TokenFromCursor) { view.cursor.clone() } else { shown.clone() };
        let client = &mut self.clients[who];
        if !client.token.leq(&clock) {
            demand!(client.last_at != here, "node {at} refuses the token that it just gave");
            self.count("reads that must wait");
            return Ok(());
        }
        demand!(client.saw.leq(&shown), "a session read went back");
        client.saw.join(&shown);
        client.token.join(&clock);
        client.last_at = here;
        self.count("session reads");
        let counter_rows = [places().counter.clone(), places().p_n_counter()];
        let floors = counter_rows.map(|key| (key.clone(), counters::shown(&view.rows.get(&key)))).into();
        self.readings.push(Reading { context: view.context.clone(), floors });
        if self.readings.len() > READINGS_MAX {
            let oldest = self.dice.below(READINGS_MAX);
            self.readings.remove(oldest);
        }
        Ok(())
    }

    pub(crate) fn client_write(&mut self, who: usize, at: usize) -> Outcome {
        let (token, state) = (&self.clients[who].token, &self.nodes[at].state);
        let clock = if self.variant == Some(Variant::TokenFromCursor) { &state.cursor } else { &state.context };
        if !token.leq(clock) && self.variant != Some(Variant::WriteIgnoresToken) {
            self.count("writes that must wait");
            return Ok(());
        }
        let before = state.context.clone();
        let Some(dot) = self.write(at)? else {
            return Ok(());
        };
        self.nodes[at].sync(); // the answer waits for it
        let client = &mut self.clients[who];
        demand!(client.saw.leq(&before), "a session write does not follow what the client saw");
        demand!(!client.saw.covers(dot), "a client has seen {dot} before it was written");
        for vector in [&mut client.saw, &mut client.token] {
            vector.include(Dot::new(dot.actor, dot.seq));
        }
        client.last_at = Some((at, self.nodes[at].boots));
        self.count("session writes");
        Ok(())
    }
}
