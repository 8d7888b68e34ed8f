//! The side of a reconciliation that takes state over: it finds out which rows differ, and collects them aside.

use super::message::{self, IDS_MAX, Open, Reconcile, RowState, SessionId, Span, States, Step, Talk};
use crate::adoption::Adoption;
use crate::apply::visit_known;
use crate::effect::LinkId;
use crate::mutants::{Mutant, is};
use crate::sketch::{Decoder, Opening, Progress, RowId};
use crate::store::{Holes, Pinned};
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ReadError, Row, RowKey, RowSource, VersionVector};

/// What a step of the source led to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The session goes on, and this is said if there is anything to say.
    Goes(Option<Step>),
    /// Everything is here: the entry may be made.
    Finished,
    /// The source said what cannot be: the peer is at fault.
    Wrong,
    /// More than may be held aside.
    TooMuch,
}

/// What the source told of its snapshot.
#[derive(Debug)]
struct Theirs {
    context: VersionVector,
    lost: VersionVector,
}

/// One session, from the side that takes state over.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) talk: Talk,
    pub(crate) link: LinkId,
    /// When the source last said something.
    pub(crate) moved_at: Instant,
    pin: Arc<dyn Pinned>,
    theirs: Option<Theirs>,
    decoder: Decoder,
    /// The source's rows where they differ from the pinned ones.
    staged: BTreeMap<RowKey, Arc<Row>>,
    staged_bytes: usize,
    /// The last key compared, while everything is.
    compared: Option<RowKey>,
    /// Rows that changed here since the snapshot. C2
    changed: BTreeSet<RowKey>,
    /// Rows that were damaged when it began, what the source must cover to repair them (C5), and those not yet sent.
    holes: Arc<Holes>,
    holes_context: VersionVector,
    unrepaired: BTreeSet<RowId>,
    hole_ids: BTreeSet<RowId>,
}

/// What a session begins from, beside the pinned rows.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) context: VersionVector,
    pub(crate) cursor: VersionVector,
    pub(crate) holes: Arc<Holes>,
    /// The context at which the last of them was found.
    pub(crate) holes_context: VersionVector,
}

impl Receiver {
    /// Begins a session on a snapshot; gives what is said first.
    pub(crate) fn open(
        session: SessionId,
        link: LinkId,
        pin: Arc<dyn Pinned>,
        begin: Beginning,
        now: Instant,
    ) -> (Self, Step) {
        let sketch = pin.sketch();
        let opening = Opening::of(sketch, sketch.leaves().bits(), session.0 as u32);
        let unrepaired: BTreeSet<RowId> = begin.holes.values().copied().collect();
        let holes_context = if unrepaired.is_empty() { VersionVector::new() } else { begin.holes_context };
        let holes = message::Holes { ids: unrepaired.iter().copied().collect(), context: holes_context.clone() };
        let open = Open { context: begin.context, cursor: begin.cursor, opening, holes };
        let receiver = Self {
            talk: Talk::new(session, 0),
            link,
            moved_at: now,
            pin,
            theirs: None,
            decoder: Decoder::new(),
            staged: BTreeMap::new(),
            staged_bytes: 0,
            compared: None,
            changed: BTreeSet::new(),
            holes: begin.holes,
            holes_context,
            hole_ids: unrepaired.clone(),
            unrepaired,
        };
        (receiver, Step::Open(Arc::new(open)))
    }

    /// Whether a message begins the source's part: it names the grant, which the rest of the session then does.
    pub(crate) fn granted(&mut self, message: &Reconcile) {
        if self.theirs.is_none() && message.place == 0 && matches!(message.step, Step::Accept { .. } | Step::Abort) {
            self.talk.grant = message.grant;
        }
    }

    /// Rows changed here.
    pub(crate) fn changed<'a>(&mut self, keys: impl Iterator<Item = &'a RowKey>) {
        self.changed.extend(keys.cloned());
    }

    /// Bytes held aside.
    pub(crate) fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Takes in what the source says.
    pub(crate) fn on_step(&mut self, step: Step, bytes_max: usize, now: Instant) -> Result<Outcome, ReadError> {
        self.moved_at = now;
        let accepted = self.theirs.is_some();
        Ok(match step {
            // C5
            Step::Accept { context, lost }
                if !accepted
                    && lost.leq(&context)
                    && (self.holes_context.leq(&context) || is(Mutant::RepairFromBehind)) =>
            {
                self.theirs = Some(Theirs { context, lost });
                Outcome::Goes(None)
            }
            Step::Cells(cells) if accepted => {
                Outcome::Goes(Some(match self.decoder.extend(self.pin.sketch().prefix(), &cells) {
                    Ok(Progress::More(range)) => Step::More { from: range.start as u32, to: range.end as u32 },
                    Ok(Progress::Complete) => self.want(),
                    Ok(Progress::Exhausted) | Err(_) => Step::WantAll,
                }))
            }
            Step::States(states) if accepted => {
                if !self.is_covered(&states) {
                    return Ok(Outcome::Wrong);
                }
                match self.stage(states)? {
                    true if self.staged_bytes > bytes_max => Outcome::TooMuch,
                    true => Outcome::Goes(None),
                    false => Outcome::Wrong,
                }
            }
            Step::Close if accepted && self.unrepaired.is_empty() => Outcome::Finished,
            _ => Outcome::Wrong,
        })
    }

    fn want(&mut self) -> Step {
        match core::mem::take(&mut self.decoder).into_changes() {
            Ok(changes) if changes.len() <= IDS_MAX => Step::Want(changes.iter().map(|change| change.id).collect()),
            _ => Step::WantAll,
        }
    }

    /// Whether a chunk speaks of nothing that the source's context does not cover.
    fn is_covered(&self, states: &States) -> bool {
        let Some(theirs) = &self.theirs else { return false };
        let mut dots = states.rows.iter().flat_map(|row| row.fresh.dots().chain(row.kept.iter().copied()));
        dots.all(|dot| theirs.context.covers(dot))
    }

    /// Keeps what differs from the pinned rows; `false` when the chunk does not follow the last one.
    fn stage(&mut self, states: States) -> Result<bool, ReadError> {
        let mut theirs: BTreeMap<RowKey, RowState> =
            states.rows.into_iter().map(|row| (row.key.clone(), row)).collect();
        if !matches!(states.span, Span::Holes(_)) {
            // These come whole.
            theirs.retain(|key, _| !self.holes.contains_key(key));
        }
        let mut pairs: Vec<(RowKey, Option<Arc<Row>>, Row)> = Vec::new();
        let mut pair = |key: &RowKey, mine: &Arc<Row>, theirs: &mut BTreeMap<RowKey, RowState>| {
            let row = theirs.remove(key).map_or_else(Row::empty, |state| restored(state, Some(mine)));
            pairs.push((key.clone(), Some(Arc::clone(mine)), row));
        };
        match &states.span {
            Span::Ids(ids) => {
                let known: Vec<RowId> = ids.iter().filter(|id| !self.hole_ids.contains(id)).copied().collect();
                self.pin.visit_ids(&known, &mut |key, mine| pair(key, mine, &mut theirs))?;
            }
            Span::Holes(ids) => {
                if !ids.iter().all(|id| self.unrepaired.remove(id)) {
                    return Ok(false);
                }
                for (key, _) in self.holes.iter().filter(|(_, id)| ids.binary_search(id).is_ok()) {
                    let row = theirs.remove(key).map_or_else(Row::empty, |state| state.fresh);
                    self.staged_bytes += key.as_bytes().len() + row.memory_bytes();
                    self.staged.insert(key.clone(), Arc::new(row));
                }
                // Another row that has a hole's id by accident.
                for key in theirs.keys() {
                    let mine = self.pin.row(key)?;
                    pairs.extend(mine.map(|mine| (key.clone(), Some(mine), Row::empty())));
                }
                for (key, _, row) in &mut pairs {
                    *row = theirs.remove(key).map_or_else(Row::empty, |state| state.fresh);
                }
            }
            Span::Keys(after, upto) => {
                if *after != self.compared {
                    return Ok(false);
                }
                let from = after.as_ref().map_or_else(Vec::new, |key| [key.as_bytes(), &[0]].concat());
                let mut hole = |key| if self.holes.contains_key(&key) { Ok(()) } else { Err(ReadError::Damaged(key)) };
                visit_known(&*self.pin, &[], &from, &mut hole, &mut |key, mine| {
                    let inside = upto.as_ref().is_none_or(|upto| key <= upto);
                    if inside && !mine.is_empty() {
                        pair(key, mine, &mut theirs);
                    }
                    inside
                })?;
                self.compared.clone_from(upto);
            }
        }
        pairs.extend(theirs.into_values().map(|state| (state.key.clone(), None, restored(state, None))));
        for (key, mine, row) in pairs {
            if mine.as_deref().unwrap_or(&Row::empty()) != &row {
                self.staged_bytes += key.as_bytes().len() + row.memory_bytes();
                self.staged.insert(key, Arc::new(row));
            }
        }
        Ok(true)
    }

    /// The closing entry, on rows as they are now under `context`. Rows that differed, and rows that were equal and
    /// changed here since: for those the pinned copy stands for the source's (C2).
    pub(crate) fn close(&self, context: &VersionVector, now: &dyn RowSource) -> Result<Option<Adoption>, ReadError> {
        let Some(theirs) = &self.theirs else { return Ok(None) };
        let mut rows = Vec::new();
        let mut merge = |key: &RowKey, their_row: &Row| -> Result<(), ReadError> {
            let mine = match now.row(key) {
                // C5
                Err(ReadError::Damaged(_)) if self.holes.contains_key(key) => {
                    rows.push((key.clone(), Arc::new(their_row.clone())));
                    return Ok(());
                }
                read => read?,
            };
            let before = mine.as_deref().cloned().unwrap_or_default();
            let after = before.merge(context, their_row, &theirs.context);
            if after != before {
                rows.push((key.clone(), Arc::new(after)));
            }
            Ok(())
        };
        for (key, row) in &self.staged {
            merge(key, row)?;
        }
        if !is(Mutant::ForgetInFlight) {
            for key in self.changed.iter().filter(|key| !self.staged.contains_key(*key)) {
                let pinned = self.pin.row(key)?;
                merge(key, pinned.as_deref().unwrap_or(&Row::empty()))?;
            }
        }
        // Staged ones and changed ones are each in order, not together.
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let context = if is(Mutant::AdoptLostOnly) { theirs.lost.clone() } else { theirs.context.clone() };
        Ok(Some(Adoption { context, cursor: theirs.lost.clone(), rows }))
    }
}

/// A row of the source: what it sent, and what of this side's it kept.
fn restored(state: RowState, mine: Option<&Arc<Row>>) -> Row {
    let mut row = state.fresh;
    for dot in state.kept {
        if let Some(payload) = mine.and_then(|mine| mine.get(dot)) {
            row.put(dot, payload.clone());
        }
    }
    row
}
