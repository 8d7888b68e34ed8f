//! A session that changes nothing: it finds rows about which two nodes cannot both be right.
//!
//! **How it goes.** The same words as a reconciliation, from the receiver's side. Both sides pin; the source sends, of the
//! rows that differ, the entries that are new here and the dots that are known here. Entries that only one side has seen
//! are no contradiction. What is: a dot that both contexts cover, live on one side and dead on the other. The side that
//! holds it may just not have seen its end yet: so the dot is only *suspect*. What is dead stays dead: once the holder's
//! context covers that of the other side, it must have let go. And two rows of the same dots with different digests
//! contradict each other at once: what was put under a dot never changes.
//!
//! **What always holds.** V1: a contradiction that is told is one: rows at these contexts differ from what the records
//! make of them, on one side or the other. V2: at most [`SUSPECTS_MAX`] rows are kept; more are counted.
//!
//! **What is not here.** Waiting for contexts and asking again: the replica.

use super::message::{Open, Reconcile, SessionId, Span, States, Step, Talk};
use super::search::Search;
use crate::effect::LinkId;
use crate::sketch::Opening;
use crate::store::Pinned;
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{Dot, ReadError, Row, RowKey, VersionVector};

/// Rows that one comparison keeps.
const SUSPECTS_MAX: usize = 10_000;

/// Where the two sides do not agree about one row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// Live here, dead there.
    pub(crate) here: Vec<Dot>,
    /// Live there, dead here.
    pub(crate) there: Vec<Dot>,
    /// The same dots, and different contents.
    pub(crate) contents: bool,
}

/// What a comparison found.
#[derive(Debug)]
pub(crate) struct Found {
    /// This node's context when it was pinned, and the peer's.
    pub(crate) ours: VersionVector,
    pub(crate) theirs: VersionVector,
    pub(crate) suspects: BTreeMap<RowKey, Suspect>,
    /// Suspects that were not kept. V2
    pub(crate) more: u64,
}

/// What a step of the source led to.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It goes on, and this is said if there is anything to say.
    Goes(Option<Step>),
    /// Everything was compared.
    Finished,
    /// The source said what cannot be: the peer is at fault.
    Wrong,
}

/// One comparison.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) talk: Talk,
    pub(crate) link: LinkId,
    /// When the source last said something.
    pub(crate) moved_at: Instant,
    pin: Arc<dyn Pinned>,
    ours: VersionVector,
    theirs: Option<VersionVector>,
    search: Search,
    suspects: BTreeMap<RowKey, Suspect>,
    more: u64,
    /// The last key compared, while everything is.
    compared: Option<RowKey>,
}

impl Comparison {
    /// Begins a comparison on a snapshot, at which the clocks were these; gives what is said first.
    pub(crate) fn open(
        session: SessionId,
        link: LinkId,
        pin: Arc<dyn Pinned>,
        (context, cursor): (VersionVector, VersionVector),
        now: Instant,
    ) -> (Self, Step) {
        let sketch = pin.sketch();
        let opening = Opening::of(sketch, sketch.leaves().bits(), session.0 as u32);
        let open = Open { context: context.clone(), cursor, opening, more: None };
        let comparison = Self {
            talk: Talk::new(session, 0),
            link,
            moved_at: now,
            pin,
            ours: context,
            theirs: None,
            search: Search::default(),
            suspects: BTreeMap::new(),
            more: 0,
            compared: None,
        };
        (comparison, Step::Open(Arc::new(open)))
    }

    /// Whether a message begins the source's part: it names the grant, which the rest then does.
    pub(crate) fn granted(&mut self, message: &Reconcile) {
        if self.theirs.is_none() && message.place == 0 && matches!(message.step, Step::Accept { .. } | Step::Abort) {
            self.talk.grant = message.grant;
        }
    }

    /// Takes in what the source says.
    pub(crate) fn on_step(&mut self, step: Step, now: Instant) -> Result<Heard, ReadError> {
        self.moved_at = now;
        let accepted = self.theirs.is_some();
        Ok(match step {
            Step::Accept { context, .. } if !accepted => {
                self.theirs = Some(context);
                Heard::Goes(None)
            }
            Step::Cells(cells) if accepted => {
                Heard::Goes(Some(self.search.on_cells(self.pin.sketch().prefix(), &cells)))
            }
            Step::States(states) if accepted => {
                if self.compare(states)? {
                    Heard::Goes(None)
                } else {
                    Heard::Wrong
                }
            }
            Step::Close if accepted => Heard::Finished,
            _ => Heard::Wrong,
        })
    }

    /// What was found, after everything was compared.
    pub(crate) fn finish(self) -> Found {
        let theirs = self.theirs.unwrap_or_default();
        Found { ours: self.ours, theirs, suspects: self.suspects, more: self.more }
    }

    /// Compares the rows that a chunk speaks of; `false` when it does not follow the last one.
    fn compare(&mut self, states: States) -> Result<bool, ReadError> {
        let mut mine: BTreeMap<RowKey, Arc<Row>> = BTreeMap::new();
        // Rows named by their ids have digests that differ; of rows named by keys nothing is known.
        let mut differ = false;
        match &states.span {
            Span::Ids(ids) => {
                self.pin.visit_ids(ids, &mut |key, row| drop(mine.insert(key.clone(), Arc::clone(row))))?;
                // Where two rows have one id, one is named for the other.
                let named = mine.len() + states.rows.iter().filter(|row| !mine.contains_key(&row.key)).count();
                differ = named == ids.len();
            }
            // None were asked for.
            Span::Holes(_) => return Ok(false),
            Span::Keys(after, upto) => {
                if *after != self.compared {
                    return Ok(false);
                }
                let from = after.as_ref().map_or_else(Vec::new, |key| [key.as_bytes(), &[0]].concat());
                self.pin.visit(&[], &from, &mut |key, row| {
                    let inside = upto.as_ref().is_none_or(|upto| key <= upto);
                    if inside && !row.is_empty() {
                        mine.insert(key.clone(), Arc::clone(row));
                    }
                    inside
                })?;
                self.compared.clone_from(upto);
            }
        }
        let empty = Arc::new(Row::empty());
        for theirs in states.rows {
            let row = mine.remove(&theirs.key).unwrap_or_else(|| Arc::clone(&empty));
            self.judge(&theirs.key, &row, &theirs.fresh, &theirs.kept, differ);
        }
        for (key, row) in mine {
            self.judge(&key, &row, &empty, &[], differ);
        }
        Ok(true)
    }

    /// One row: `fresh` is what is live there and new here, `kept` what is live there and covered here.
    fn judge(&mut self, key: &RowKey, mine: &Row, fresh: &Row, kept: &[Dot], differ: bool) {
        let Some(their_context) = &self.theirs else { return };
        let alone: Vec<Dot> = mine.dots().filter(|dot| !kept.contains(dot)).collect();
        let here: Vec<Dot> = alone.iter().copied().filter(|dot| their_context.covers(*dot)).collect();
        let there: Vec<Dot> = kept.iter().copied().filter(|dot| mine.get(*dot).is_none()).collect();
        let contents = differ && alone.is_empty() && there.is_empty() && fresh.is_empty();
        if here.is_empty() && there.is_empty() && !contents {
            return;
        }
        if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.insert(key.clone(), Suspect { here, there, contents });
        } else {
            self.more += 1;
        }
    }
}
