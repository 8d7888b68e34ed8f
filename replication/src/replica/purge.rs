//! Letting counters' markers go, slowly and in the background.
//!
//! **How it goes.** A delete of a counter leaves a marker: for each actor, the total that it saw. Every
//! [`crate::Limits::purge_every`] this node looks at some counters that hold one: those that records brought, and after a
//! start or a takeover those that a search through all rows finds, some rows at a time. What may go goes by an ordinary
//! record: the marker is removed, or written anew with the floors that still have to stay. The process with the lowest
//! actor does it; the others wait for their turn, and find nothing to do.
//!
//! **What always holds.** M1: a floor goes only when every record of its actor that had not seen the marker is in this
//! node's context, and none left a run that it cuts. That is known of an actor that is this process; of one that itself,
//! on a link that stands, told a whole durable context with the marker, when what it had written by then is here; and of one
//! whose *last word* is here. M2: a process writes nothing after its last word, a row of its own in `_system`. M3: a round
//! looks at no more rows, and remembers no more counters, than the constants below say. M4: where nothing changes, nothing
//! is written.
//!
//! **Why this way.** "Every member has told a context with the marker" is not enough: a member's later process cannot speak
//! for an earlier one. Records of that one may be under way, or held back at somebody, or still be written, beside a copy
//! of its disk. So whoever ended without a last word keeps its floors, until all is deleted that holds them.

use super::Replica;
use crate::apply::{RowChange, visit_known};
use crate::command::CommandError;
use crate::mutants::{Mutant, is};
use crate::status::Readiness;
use crate::store::Store;
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use atoll_crdt::counters::{self, Purge};
use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Draft, Op, Payload, ReadError, Row, RowKey, sets};
use core::ops::Bound;

/// Counters with markers that are remembered; a search finds the others later.
const DUE_MAX: usize = 4_096;
/// Counters looked at in a round.
const LOOKS_MAX: usize = 256;
/// Rows that a search passes in a round.
const SEARCH_ROWS_MAX: usize = 512;
/// Rounds that a process waits for each one before it in the order of turns.
const TURN_ROUNDS: u32 = 4;

/// What is known of counters with markers.
#[derive(Debug)]
pub(super) struct Purging {
    /// They, and since when something of each could go.
    due: BTreeMap<RowKey, Option<Instant>>,
    /// The last one that was looked at.
    looked_at: Option<RowKey>,
    /// Where the search for more goes on; `None`: all rows were seen.
    search_from: Option<Vec<u8>>,
    /// Some were passed over: another search is to follow.
    missed: bool,
    /// Actors whose last word is in this node's context; `None`: to be read anew.
    ended: Option<BTreeSet<ActorId>>,
    /// Where all last words are.
    words: Option<CollectionKey>,
    round_at: Instant,
    /// Whether this process put runs of counters, which markers may name.
    pub(super) wrote_runs: bool,
    /// It ends: nothing is written any more. M2
    pub(super) ending: bool,
}

impl Purging {
    /// Nothing is known yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: BTreeMap::new(),
            looked_at: None,
            search_from: Some(Vec::new()),
            missed: false,
            ended: None,
            words: CollectionKey::new("_system", DataType::Set, "ended").ok(),
            round_at: now,
            wrote_runs: false,
            ending: false,
        }
    }

    /// Rows have changed.
    pub(super) fn changed(&mut self, changes: &[RowChange]) {
        for change in changes {
            if counters::has_marker(&change.after) {
                self.note(&change.key);
            }
            if let (Some(words), Some(ended)) = (&self.words, &mut self.ended)
                && change.key.as_bytes().starts_with(words.as_bytes())
            {
                ended.extend(change.after.dots().map(|dot| dot.actor));
            }
        }
    }

    /// Rows have changed, nobody says which.
    pub(super) fn all_changed(&mut self) {
        self.missed = true;
        self.ended = None;
    }

    /// How many counters hold markers, as far as they were noted.
    pub(super) fn due(&self) -> usize {
        self.due.len()
    }

    fn note(&mut self, key: &RowKey) {
        if self.due.contains_key(key) {
            return;
        }
        if self.due.len() < DUE_MAX {
            self.due.insert(key.clone(), None);
        } else {
            self.missed = true;
        }
    }

    /// Nothing of it can go now: it makes room if others want it. M3
    fn nothing_goes(&mut self, key: &RowKey) {
        if self.due.len() >= DUE_MAX {
            self.due.remove(key);
            self.missed = true;
        } else if let Some(since) = self.due.get_mut(key) {
            *since = None;
        }
    }

    /// The next ones to look at, each in its turn.
    fn next(&mut self) -> Vec<RowKey> {
        let after = self.looked_at.take().map_or(Bound::Unbounded, Bound::Excluded);
        let keys: Vec<_> =
            self.due.range((after, Bound::Unbounded)).map(|(key, _)| key.clone()).take(LOOKS_MAX).collect();
        if keys.len() == LOOKS_MAX {
            self.looked_at = keys.last().cloned();
        }
        keys
    }

    /// Goes on with the search for counters that hold markers, and reads last words if they are not known.
    fn search(&mut self, store: &dyn Store) -> Result<(), ReadError> {
        if let (None, Some(words)) = (&self.ended, &self.words) {
            let mut ended = BTreeSet::new();
            visit_known(store, words.as_bytes(), words.as_bytes(), &mut |_| Ok(()), &mut |_, row| {
                ended.extend(row.dots().map(|dot| dot.actor));
                true
            })?;
            self.ended = Some(ended);
        }
        if self.search_from.is_none() && core::mem::take(&mut self.missed) {
            self.search_from = Some(Vec::new());
        }
        let Some(from) = self.search_from.take().filter(|_| self.due.len() < DUE_MAX) else { return Ok(()) };
        let (mut rows, mut goes_on) = (0, None);
        visit_known(store, &[], &from, &mut |_| Ok(()), &mut |key, row| {
            rows += 1;
            if rows > SEARCH_ROWS_MAX {
                goes_on = Some(key.as_bytes().to_vec());
                return false;
            }
            if counters::has_marker(row) {
                self.note(key);
            }
            true
        })?;
        self.search_from = goes_on;
        Ok(())
    }
}

impl Replica {
    /// One round. M3
    pub(super) fn tick_purge(&mut self, store: &mut dyn Store) -> Result<(), ReadError> {
        let now = self.now.instant;
        if now.since(self.purging.round_at) < self.config.limits.purge_every {
            return Ok(());
        }
        self.purging.round_at = now;
        let may = !self.purging.ending && self.readiness() == Readiness::Serving && self.fence().is_none();
        if !may || !self.holes.is_empty() {
            return Ok(());
        }
        self.purging.search(&*store)?;
        let ripe = self.ripe(store)?;
        self.let_go(ripe, store)
    }

    /// Counters of which something may go and whose time has come.
    fn ripe(&mut self, store: &mut dyn Store) -> Result<Vec<(RowKey, Purge)>, ReadError> {
        let now = self.now.instant;
        let before =
            self.links.values().filter_map(|link| link.hello.as_ref()).filter(|h| h.actor < self.actor).count();
        let turn = self.config.limits.purge_every * TURN_ROUNDS * u32::try_from(before).unwrap_or(u32::MAX);
        let mut ripe = Vec::new();
        for key in self.purging.next() {
            let row = match store.row(&key) {
                Ok(row) => row,
                Err(error) => {
                    self.known_hole(error, store)?;
                    continue;
                }
            };
            let Some(row) = row.filter(|row| counters::has_marker(row)) else {
                self.purging.due.remove(&key);
                continue;
            };
            let row = if is(Mutant::PurgeOverCut) { without_runs(&row) } else { Row::clone(&row) };
            match counters::purgeable(&row, &mut |actor, marker| self.is_settled(actor, marker)) {
                None => self.purging.nothing_goes(&key),
                Some(purge) => {
                    let since = self.purging.due.get_mut(&key).map(|since| *since.get_or_insert(now));
                    if since.is_some_and(|since| now.since(since) >= turn) {
                        ripe.push((key, purge));
                    }
                }
            }
        }
        Ok(ripe)
    }

    /// Whether every record of `actor` that had not seen the marker is here, and none comes any more. M1
    fn is_settled(&self, actor: ActorId, marker: Dot) -> bool {
        let context = &self.clocks.context;
        let ended = || self.purging.ended.as_ref().is_some_and(|ended| ended.contains(&actor));
        // Of the rest only the process itself can speak: what it told is by its own journal, so what it had not written by
        // then it writes on top of the marker. It has to be told in one piece: of parts, the one that names the last run may be
        // lost, and the one that names the marker arrive.
        let by_itself = || {
            self.links.values().any(|link| {
                let is_it = link.hello.as_ref().is_some_and(|hello| hello.actor == actor)
                    || (is(Mutant::PurgeBySuccessor) && link.speaks_for(actor));
                let told = link.whole();
                let is_here = context.covers(Dot::new(actor, told.get(actor))) || is(Mutant::PurgeUnseen);
                is_it && told.covers(marker) && is_here
            })
        };
        actor == self.actor || ended() || by_itself() || (is(Mutant::PurgeBySuccessor) && self.is_own(actor))
    }

    /// Writes one record of all this. One that would be too large lets the first go alone.
    fn let_go(&mut self, mut ripe: Vec<(RowKey, Purge)>, store: &mut dyn Store) -> Result<(), ReadError> {
        while !ripe.is_empty() {
            // A clock that cannot stamp now can later.
            let Ok(at) = self.clock.stamp(self.now.wall_ms) else { return Ok(()) };
            let mut draft = Draft::new(store, self.next_dot(), at, &self.clocks.context, None);
            let mut gone = (0, 0);
            let mut staged = Ok(());
            for (key, purge) in &ripe {
                gone = (gone.0 + u64::from(purge.is_whole()), gone.1 + purge.floors() as u64);
                staged = staged.and_then(|()| counters::purge(&mut draft, key, purge.clone()));
            }
            let ops = draft.into_ops();
            match staged.map_err(CommandError::Read).and_then(|()| self.append_own(at, ops, store)) {
                Ok(_) => {
                    self.counts.markers_purged += gone.0;
                    self.counts.floors_purged += gone.1;
                    return Ok(());
                }
                Err(CommandError::Read(error)) => return self.known_hole(error, store),
                Err(_) if ripe.len() > 1 => ripe.truncate(1),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// The process ends in order: nothing is written by it any more, and if floors may name it, it says so. M2
    pub(super) fn on_ending(&mut self, store: &mut dyn Store) -> Result<(), ReadError> {
        let says = !core::mem::replace(&mut self.purging.ending, true) && self.purging.wrote_runs;
        let word = self.purging.words.as_ref().and_then(|words| words.member(&format!("{}", self.actor)).ok());
        let (Some(word), Ok(at), true) = (word, self.clock.stamp(self.now.wall_ms), says) else { return Ok(()) };
        let mut draft = Draft::new(store, self.next_dot(), at, &self.clocks.context, None);
        let staged = sets::add(&mut draft, &word);
        let ops = draft.into_ops();
        match staged.map_err(CommandError::Read).and_then(|()| self.append_own(at, ops, store)) {
            Err(CommandError::Read(error)) => self.known_hole(error, store),
            _ => Ok(()),
        }
    }

    /// Counters with markers that are known here: 4,096 at most are remembered at a time.
    #[must_use]
    pub fn counters_marked(&self) -> usize {
        self.purging.due()
    }
}

/// Whether operations put runs of a counter, which floors may name later.
pub(super) fn puts_runs(ops: &[Op]) -> bool {
    ops.iter()
        .any(|op| matches!(op, Op::Row(row) if matches!(&row.put, Some(Payload::Count(count)) if count.run.is_some())))
}

/// A row as a purge sees it that forgets what markers are for.
fn without_runs(row: &Row) -> Row {
    let mut without = row.clone();
    let runs: Vec<Dot> = row
        .iter()
        .filter(|(_, payload)| matches!(payload, Payload::Count(count) if count.run.is_some()))
        .map(|(dot, _)| dot)
        .collect();
    without.kill(&runs);
    without
}
