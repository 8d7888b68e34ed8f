//! Reconciliation: staged rows, and one journal entry that gives them effect.
//!
//! **What always holds.** S1: an aborted session leaves nothing. S2: the last entry merges *every* row with the peer's in
//! its snapshot: one that was equal at the start stands for the peer's. S3: `LV` is raised only for lost actors: those
//! whose next record the peer, judged by its `CC`, cannot serve.

use super::node::{State, merged};
use super::places::places;
use super::variant::Variant;
use super::world::World;
use atoll_crdt::{Dot, Row, RowKey, VersionVector};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// One session: `to` takes in what `from` holds.
#[derive(Debug)]
pub(crate) struct Session {
    to: usize,
    from: usize,
    boots: (u32, u32),
    mine: Rc<State>,
    theirs: Rc<State>,
    lost: VersionVector,
    staged: BTreeMap<RowKey, Arc<Row>>,
    todo: BTreeSet<RowKey>,
}

impl Session {
    /// Whether there is anything to bring over.
    pub(crate) fn is_needed(&self) -> bool {
        !self.todo.is_empty() || !self.lost.is_empty()
    }

    /// Only under [`Variant::RowsAsTheyCome`]: a record within the session's context reached the receiver.
    pub(crate) fn record_arrived(&mut self, at: usize, dot: Dot) {
        if self.to == at && self.theirs.context.covers(dot) {
            self.todo.extend(places().all.iter().filter(|key| !self.staged.contains_key(*key)).cloned());
        }
    }
}

impl World {
    /// Both sides pin a snapshot.
    pub(crate) fn open_session(&self, to: usize, from: usize) -> Session {
        let (receiver, sender) = (&self.nodes[to], &self.nodes[from]);
        let mine = Rc::clone(receiver.appended());
        let volatile = matches!(self.variant, Some(Variant::ServeVolatile | Variant::RowsAsTheyCome));
        let theirs = Rc::clone(if volatile { sender.appended() } else { sender.durable() });
        let reach = if self.variant == Some(Variant::CursorByLv) { &theirs.cursor } else { &theirs.context };
        let is_lost = |last: &Dot| {
            let next = Dot::new(last.actor, mine.cursor.get(last.actor) + 1);
            !mine.cursor.covers(*last) && theirs.logged(next).is_none()
        };
        let lost = reach.iter().filter(is_lost).collect(); // S3
        let differs = |key: &&RowKey| mine.rows.get(key) != theirs.rows.get(key) || theirs.ahead.contains_key(*key);
        let todo = places().all.iter().filter(differs).cloned().collect();
        let boots = (receiver.boots, sender.boots);
        Session { to, from, boots, mine, theirs, lost, staged: BTreeMap::new(), todo }
    }

    /// The session `index` goes on by one row, ends, or is found to be over.
    pub(crate) fn session_step(&mut self, index: usize) {
        let session = &self.sessions[index];
        let boots = (self.nodes[session.to].boots, self.nodes[session.from].boots);
        if session.boots != boots {
            // S1: either end's process is gone, even if every row has arrived.
            self.sessions.remove(index);
            self.count("sessions aborted");
        } else if session.todo.is_empty() {
            let session = self.sessions.remove(index);
            self.finish(&session);
            self.count("sessions finished");
        } else {
            let waiting: Vec<RowKey> = session.todo.iter().cloned().collect();
            let key = self.dice.pick(&waiting);
            self.stage(index, &key);
        }
    }

    fn stage(&mut self, index: usize, key: &RowKey) {
        let (to, from) = (self.sessions[index].to, self.sessions[index].from);
        let live = self.variant == Some(Variant::LiveRows);
        let session = &mut self.sessions[index];
        let row = if live { self.nodes[from].state.rows.get(key) } else { session.theirs.rows.get(key) };
        session.todo.remove(key);
        session.staged.insert(key.clone(), row);
        if self.variant == Some(Variant::RowsAsTheyCome) {
            self.merge_at_once(to, from, key);
        }
    }

    /// Only under [`Variant::RowsAsTheyCome`].
    fn merge_at_once(&mut self, to: usize, from: usize, key: &RowKey) {
        for other in self.sessions.iter_mut().filter(|other| other.to == to && !other.staged.contains_key(key)) {
            other.todo.insert(key.clone());
        }
        let theirs = &self.nodes[from].state;
        let (row, their_context) = (theirs.rows.get(key), theirs.context_of(key));
        let state = &mut self.nodes[to].state;
        let row = merged(state, key, &row, &their_context);
        state.rows.set(key, row);
        state.ahead.entry(key.clone()).or_default().join(&their_context);
        state.settle_ahead();
        self.nodes[to].commit(self.variant);
    }

    /// The last entry. S2
    fn finish(&mut self, session: &Session) {
        let variant = self.variant;
        let stops_between = variant == Some(Variant::CommitInTwoEntries) && self.dice.chance(30);
        let node = &mut self.nodes[session.to];
        for key in places().all.iter().filter(|_| variant != Some(Variant::RowsAsTheyCome)) {
            let theirs = match session.staged.get(key) {
                Some(row) => Arc::clone(row),
                None if variant == Some(Variant::NoInFlightRule) => continue,
                None => session.mine.rows.get(key),
            };
            let row = merged(&node.state, key, &theirs, &session.theirs.context);
            node.state.rows.set(key, row);
        }
        for (actor, (total, baseline)) in &session.theirs.lattice {
            let mine = node.state.lattice.entry(*actor).or_default();
            *mine = (mine.0.max(*total), mine.1.max(*baseline));
        }
        if variant == Some(Variant::CommitInTwoEntries) {
            node.commit(variant);
            if stops_between {
                return;
            }
        }
        let adopts_lost_only = variant == Some(Variant::AdoptLostActorsOnly);
        node.state.context.join(if adopts_lost_only { &session.lost } else { &session.theirs.context });
        let everyone = variant == Some(Variant::AdoptEveryCursor);
        raise_cursor(&mut node.state, if everyone { &session.theirs.cursor } else { &session.lost });
        node.state.settle_ahead();
        node.commit(variant);
    }
}

/// Raises `LV`, and drops what the log holds of an actor whose cursor jumped.
fn raise_cursor(state: &mut State, to: &VersionVector) {
    for last in to.iter().filter(|last| !state.cursor.covers(*last)).collect::<Vec<_>>() {
        state.cursor.include(last);
        state.log.remove(&last.actor);
    }
}
