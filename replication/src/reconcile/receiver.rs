//! The side of a reconciliation that takes state over: it finds out which rows differ, and collects them.
//!
//! **How it goes.** It compares the source's rows with its own pinned ones; or, when a session before was cut off, with what
//! that one had collected over the pinned ones ([`crate::Aside`]). When everything was said, it closes, at once or after passes
//! over what lies on disk; for those it needs the source no more.
//!
//! **Holes** are asked for anew by every session, also by one that goes on with a layer. The source's rows for them are kept in
//! memory, apart from what is staged, and become rows of the closing entry itself: neither a layer nor a pass has to do with
//! them. Up to [`REPAIRS_BYTES_MAX`] of them are; the others stay holes for the next session.

use super::message::{
    self, Open, OpenMore, RECONCILE_BYTES_MAX, Reconcile, RowState, SessionId, Span, States, Step, Talk,
};
use super::search::Search;
use super::source::{UNTAKEN_BYTES_MAX, UNTAKEN_MAX};
use super::staging::{Closing, Staging};
use crate::adoption::Adoption;
use crate::apply::visit_known;
use crate::aside::Sides;
use crate::config::Limits;
use crate::effect::LinkId;
use crate::mutants::{Mutant, is};
use crate::sketch::{Opening, RowId};
use crate::store::{Holes, Pinned, Store};
use crate::time::Instant;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ReadError, Row, RowKey, VersionVector};

/// Chunks that are taken in before the source is told.
const TAKEN_EVERY: u32 = 8;
/// Passes over a layer, the first included. If as much changes during each, the closing entry merges more than it should.
const PASSES_MAX: u32 = 8;
/// Bytes of rows that repair holes, and one row: what one closing entry takes in.
const REPAIRS_BYTES_MAX: usize = 64 << 20;

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
    /// About how many rows it will mention.
    rows: Option<u64>,
}

/// A closing entry that may be made.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) adoption: Adoption,
    /// Rows of the layer.
    pub(crate) layer_rows: u64,
    /// Passes over it.
    pub(crate) passes: u32,
    /// Whether rows stay holes although the source's are known: more than one entry takes in.
    pub(crate) repairs_left: bool,
}

/// What a session begins from, beside the rows that it compares.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) context: VersionVector,
    pub(crate) cursor: VersionVector,
    pub(crate) holes: Arc<Holes>,
    /// The context at which the last of them was found.
    pub(crate) holes_context: VersionVector,
    /// Whether the source knows more than the first version of the protocol; if not, there are no holes.
    pub(crate) speaks_new: bool,
}

/// Rows that were damaged when a session began.
#[derive(Debug)]
struct Repairs {
    holes: Arc<Holes>,
    ids: BTreeSet<RowId>,
    /// What the source must cover. C5
    context: VersionVector,
    /// Those that it has not sent.
    unsent: BTreeSet<RowId>,
    /// What it has for them.
    rows: BTreeMap<RowKey, Arc<Row>>,
    bytes: usize,
    /// Whether some were too many.
    left: bool,
}

impl Repairs {
    fn new(begin: &Beginning) -> Self {
        let ids: BTreeSet<RowId> = begin.holes.values().copied().collect();
        let context = if ids.is_empty() { VersionVector::new() } else { begin.holes_context.clone() };
        let (holes, unsent) = (Arc::clone(&begin.holes), ids.clone());
        Self { holes, ids, context, unsent, rows: BTreeMap::new(), bytes: 0, left: false }
    }

    fn put(&mut self, key: RowKey, row: Row) {
        if self.bytes > REPAIRS_BYTES_MAX {
            self.left = true;
            return;
        }
        self.bytes += key.as_bytes().len() + row.memory_bytes();
        self.rows.insert(key, Arc::new(row));
    }
}

/// One session, from the side that takes state over.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) talk: Talk,
    pub(crate) link: LinkId,
    /// When the source last said something.
    pub(crate) moved_at: Instant,
    /// What the source's rows are compared with.
    compared: Arc<dyn Pinned>,
    /// This side's context when it was pinned, until the source has told its own.
    context: VersionVector,
    theirs: Option<Theirs>,
    search: Search,
    /// The source's rows where they differ.
    pub(crate) staging: Staging,
    /// Its rows for those that are damaged here.
    repairs: Repairs,
    speaks_new: bool,
    /// The last key compared, while everything is.
    compared_upto: Option<RowKey>,
    chunks: u32,
    /// As many as the source was told.
    chunks_taken: u32,
    /// Rows that the source has mentioned.
    rows_told: u64,
    /// How far the session was when it was taken up, of a thousand.
    began_permille: u64,
    /// Passes that were begun; none while the source speaks.
    passes: u32,
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
        let staging = Staging::new(Arc::clone(&pin));
        Self::begin(session, link, (pin, staging), begin, now)
    }

    /// Takes up what a session before has `staging`, which shows what `over` does.
    pub(crate) fn resume(
        session: SessionId,
        link: LinkId,
        (over, staging, permille): (Arc<dyn Pinned>, Staging, u64),
        begin: Beginning,
        now: Instant,
    ) -> (Self, Step) {
        let (mut receiver, step) = Self::begin(session, link, (over, staging), begin, now);
        receiver.began_permille = permille;
        (receiver, step)
    }

    fn begin(
        session: SessionId,
        link: LinkId,
        (compared, staging): (Arc<dyn Pinned>, Staging),
        begin: Beginning,
        now: Instant,
    ) -> (Self, Step) {
        let sketch = compared.sketch();
        let opening = Opening::of(sketch, sketch.leaves().bits(), session.0 as u32);
        // Raw rows of another source stand at a context that is nobody's here: parts of rows would not fit them.
        let whole = staging.is_on_disk();
        let repairs = Repairs::new(&begin);
        let holes = message::Holes { ids: repairs.ids.iter().copied().collect(), context: repairs.context.clone() };
        let more = begin.speaks_new.then_some(OpenMore { whole, holes });
        let open = Open { context: begin.context.clone(), cursor: begin.cursor, opening, more };
        let receiver = Self {
            talk: Talk::new(session, 0),
            link,
            moved_at: now,
            compared,
            context: begin.context,
            theirs: None,
            search: Search::default(),
            staging,
            repairs,
            speaks_new: begin.speaks_new,
            compared_upto: None,
            chunks: 0,
            chunks_taken: 0,
            rows_told: 0,
            began_permille: 0,
            passes: 0,
        };
        (receiver, Step::Open(Arc::new(open)))
    }

    /// How far the session is, of a thousand, by rows.
    pub(crate) fn permille(&self) -> u64 {
        let Some(theirs) = &self.theirs else { return self.began_permille };
        let rows = theirs.rows.unwrap_or(0);
        let told = self.rows_told.min(rows).saturating_mul(1_000) / rows.max(1);
        self.began_permille + (1_000 - self.began_permille) * told / 1_000
    }

    /// Whether the source has said everything, and only passes are left.
    pub(crate) fn is_settling(&self) -> bool {
        self.passes > 0
    }

    /// Whether a message begins the source's part: it names the grant, which the rest of the session then does.
    pub(crate) fn granted(&mut self, message: &Reconcile) {
        if self.theirs.is_none() && message.place == 0 && matches!(message.step, Step::Accept { .. } | Step::Abort) {
            self.talk.grant = message.grant;
        }
    }

    /// Takes in what the source says.
    pub(crate) fn on_step(
        &mut self,
        step: Step,
        limits: &Limits,
        store: &mut dyn Store,
        now: Instant,
    ) -> Result<Outcome, ReadError> {
        self.moved_at = now;
        let accepted = self.theirs.is_some();
        Ok(match step {
            Step::Accept { context, lost, rows }
                if !accepted
                    && rows.is_some() == self.speaks_new
                    && lost.leq(&context)
                    // C5
                    && (self.repairs.context.leq(&context) || is(Mutant::RepairFromBehind)) =>
            {
                self.staging.accepted(Sides { ours: core::mem::take(&mut self.context), theirs: context.clone() });
                self.theirs = Some(Theirs { context, lost, rows });
                Outcome::Goes(None)
            }
            Step::Cells(cells) if accepted => {
                let ask = self.search.on_cells(self.compared.sketch().prefix(), &cells);
                if let (Step::Want(ids), Some(theirs)) = (&ask, &mut self.theirs) {
                    theirs.rows = Some(ids.len() as u64);
                }
                Outcome::Goes(Some(ask))
            }
            Step::States(states) if accepted && states.checked == self.speaks_new => {
                if !self.is_covered(&states) || !self.stage(states, limits, store)? {
                    return Ok(Outcome::Wrong);
                }
                self.chunks += 1;
                self.staging.hand_over(store);
                if self.is_flooded(limits, store) {
                    // One that is not told what was taken in cannot know better.
                    return Ok(if self.speaks_new { Outcome::Wrong } else { Outcome::TooMuch });
                }
                if store.aside_use().bytes > limits.reconcile_disk && self.staging.is_on_disk() {
                    return Ok(Outcome::TooMuch);
                }
                Outcome::Goes(self.taken(limits, store))
            }
            Step::Close if accepted && self.repairs.unsent.is_empty() => Outcome::Finished,
            _ => Outcome::Wrong,
        })
    }

    /// Whether the source sends more than it may.
    fn is_flooded(&self, limits: &Limits, store: &dyn Store) -> bool {
        let waiting_max = limits.reconcile_memory + UNTAKEN_BYTES_MAX + RECONCILE_BYTES_MAX;
        (self.speaks_new && self.chunks - self.chunks_taken > UNTAKEN_MAX)
            || (self.staging.is_on_disk() && store.aside_use().waiting_bytes > waiting_max)
    }

    /// Tells the source that it may send more, if it may and has not been told.
    pub(crate) fn taken(&mut self, limits: &Limits, store: &dyn Store) -> Option<Step> {
        let is_due = self.speaks_new && self.chunks - self.chunks_taken >= TAKEN_EVERY;
        if !is_due || (self.staging.is_on_disk() && store.aside_use().waiting_bytes > limits.reconcile_memory) {
            return None;
        }
        self.chunks_taken = self.chunks;
        Some(Step::Taken(self.chunks))
    }

    /// Whether a chunk speaks of nothing that the source's context does not cover.
    fn is_covered(&self, states: &States) -> bool {
        let Some(theirs) = &self.theirs else { return false };
        let mut dots = states.rows.iter().flat_map(|row| row.fresh.dots().chain(row.kept.iter().copied()));
        dots.all(|dot| theirs.context.covers(dot))
    }

    /// Keeps what differs from the compared rows; `false` when the chunk does not follow the last one.
    fn stage(&mut self, states: States, limits: &Limits, store: &mut dyn Store) -> Result<bool, ReadError> {
        self.rows_told += match &states.span {
            Span::Ids(ids) | Span::Holes(ids) => ids.len() as u64,
            Span::Keys(..) => states.rows.len() as u64,
        };
        let mut theirs: BTreeMap<RowKey, RowState> =
            states.rows.into_iter().map(|row| (row.key.clone(), row)).collect();
        let repairs = &mut self.repairs;
        if let Span::Holes(ids) = &states.span {
            if !ids.iter().all(|id| repairs.unsent.remove(id)) {
                return Ok(false);
            }
            let holes = Arc::clone(&repairs.holes);
            for (key, _) in holes.iter().filter(|(_, id)| ids.binary_search(id).is_ok()) {
                repairs.put(key.clone(), theirs.remove(key).map_or_else(Row::empty, |state| state.fresh));
            }
        } else {
            // These come whole.
            theirs.retain(|key, _| !repairs.holes.contains_key(key));
        }
        let repairs = &self.repairs;
        let (compared, staging) = (Arc::clone(&self.compared), &mut self.staging);
        let mut pair = |key: &RowKey, mine: &Arc<Row>| {
            let row = theirs.remove(key).map_or_else(Row::empty, |state| restored(state, Some(mine)));
            if **mine != row {
                staging.put(key.clone(), row, limits, store);
            }
        };
        match &states.span {
            Span::Ids(ids) => {
                let known: Vec<RowId> = ids.iter().filter(|id| !repairs.ids.contains(id)).copied().collect();
                compared.visit_ids(&known, &mut |key, mine| pair(key, mine))?;
            }
            // What is left are other rows that have a hole's id by accident, and come whole too.
            Span::Holes(_) => {}
            Span::Keys(after, upto) => {
                if *after != self.compared_upto {
                    return Ok(false);
                }
                let from = after.as_ref().map_or_else(Vec::new, |key| [key.as_bytes(), &[0]].concat());
                let mut hole =
                    |key| if repairs.holes.contains_key(&key) { Ok(()) } else { Err(ReadError::Damaged(key)) };
                visit_known(&*compared, &[], &from, &mut hole, &mut |key, mine| {
                    let inside = upto.as_ref().is_none_or(|upto| key <= upto);
                    if inside {
                        pair(key, mine);
                    }
                    inside
                })?;
                self.compared_upto.clone_from(upto);
            }
        }
        for state in theirs.into_values() {
            let key = state.key.clone();
            let row = restored(state, None);
            let differs = match &states.span {
                Span::Holes(_) => compared.row(&key)?.is_none_or(|mine| *mine != row),
                _ => true,
            };
            if differs && !row.is_empty() {
                self.staging.put(key, row, limits, store);
            }
        }
        Ok(true)
    }

    /// Everything was said: the closing entry, or `None` while a pass over a layer runs. Is called until it gives one.
    pub(crate) fn settle(
        &mut self,
        context: &VersionVector,
        limits: &Limits,
        store: &mut dyn Store,
    ) -> Result<Option<Closed>, ReadError> {
        let Some(theirs) = &self.theirs else { return Ok(None) };
        let mut merged = None;
        if self.staging.is_on_disk() {
            if self.passes > 0 {
                merged = store.merged_aside();
                if merged.is_none() {
                    return Ok(None);
                }
            }
            let enough = |changed| changed <= limits.closing_rows || self.passes >= PASSES_MAX;
            if self.passes == 0 || !self.staging.changed_since_pass().is_some_and(enough) {
                self.passes += 1;
                let sides = Sides { ours: context.clone(), theirs: theirs.context.clone() };
                self.staging.begin_pass(sides, store);
                return Ok(None);
            }
        }
        let staging = core::mem::replace(&mut self.staging, Staging::new(Arc::clone(&self.compared)));
        let closing = Closing { context, theirs: &theirs.context, repairs: &self.repairs.rows };
        let mut adoption = staging.close(&closing, store)?;
        if is(Mutant::AdoptLostOnly) {
            adoption.context.clone_from(&theirs.lost);
        }
        adoption.cursor.clone_from(&theirs.lost);
        adoption.layer = merged.map(|merged| merged.layer);
        let layer_rows = merged.map_or(0, |merged| merged.rows);
        let repairs_left = self.repairs.left;
        Ok(Some(Closed { adoption, layer_rows, passes: self.passes, repairs_left }))
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
