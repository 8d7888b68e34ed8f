//! The side of a reconciliation that has the state: it says which rows differ, and sends them.

use super::message::{Open, RowState, Span, States, Step, Talk};
use crate::mutants::{Mutant, is};
use crate::sketch::{RowId, Verdict};
use crate::store::Pinned;
use crate::time::Instant;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ReadError, Row, RowKey};

/// Rows or ids of one chunk at most: bounds the work of one step.
const CHUNK_ROWS: usize = 256;
/// Chunks that the receiver has not said to have taken in, and their bytes: what it may have to hold while its disk is busy. Enough
/// for 50 MB/s at a round trip of 300 ms.
pub(super) const UNTAKEN_MAX: u32 = 64;
pub(super) const UNTAKEN_BYTES_MAX: usize = 16 << 20;

/// What is left to send.
#[derive(Debug)]
enum Plan {
    /// The receiver is working out which rows differ.
    Asked,
    /// Rows of these ids, from this place on.
    Ids(Arc<[RowId]>, usize),
    /// Every row above this key.
    Keys(Option<RowKey>),
    /// Rows that are damaged there, from this place on.
    Holes(usize),
    /// Nothing.
    Done,
}

/// One session, from the side that has the state.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) talk: Talk,
    /// When the receiver last said something, or was sent something.
    pub(crate) moved_at: Instant,
    pin: Arc<dyn Pinned>,
    theirs: Arc<Open>,
    plan: Plan,
    /// What chunks weigh that were sent and not taken, and how many were taken.
    untaken: VecDeque<usize>,
    chunks_taken: u32,
}

impl Source {
    /// Grants a session on a snapshot. Gives about how many rows it will mention, and what is said after [`Step::Accept`].
    pub(crate) fn open(
        mut talk: Talk,
        theirs: Arc<Open>,
        pin: Arc<dyn Pinned>,
        now: Instant,
    ) -> (Self, u64, Option<Step>) {
        // The opening was heard.
        talk.heard_opening();
        let sketch = pin.sketch();
        let mut cells = None;
        let mut about = pin.rows();
        let plan = match theirs.opening.compare(sketch) {
            Ok(Verdict::Equal) => {
                about = 0;
                Plan::Ids(Arc::from([]), 0)
            }
            Ok(Verdict::Decoded(changes)) => {
                about = changes.len() as u64;
                Plan::Ids(changes.iter().map(|change| change.id).collect(), 0)
            }
            Ok(Verdict::About(estimate)) => {
                let wanted = estimate.cells_wanted().min(theirs.opening.prefix_cells(sketch));
                cells = Some(Step::Cells(sketch.prefix().cells()[..wanted].into()));
                about = estimate.rows;
                Plan::Asked
            }
            // More than cells can tell, or nonsense by an unlikely accident: everything is compared.
            Ok(Verdict::TooMany(_)) | Err(_) => Plan::Keys(None),
        };
        (Self { talk, moved_at: now, pin, theirs, plan, untaken: VecDeque::new(), chunks_taken: 0 }, about, cells)
    }

    /// Whether what came after the first version of the protocol is said.
    pub(crate) fn speaks_new(&self) -> bool {
        self.theirs.more.is_some()
    }

    /// The receiver answers. `None`: it said something that does not belong here.
    pub(crate) fn on_step(&mut self, step: Step, now: Instant) -> Option<Option<Step>> {
        if let Step::Taken(chunks) = step {
            let more = chunks.checked_sub(self.chunks_taken)? as usize;
            if more > self.untaken.len() {
                return None;
            }
            self.untaken.drain(..more);
            (self.chunks_taken, self.moved_at) = (chunks, now);
            return Some(None);
        }
        if !matches!(self.plan, Plan::Asked) {
            return None;
        }
        self.moved_at = now;
        match step {
            Step::More { from, to } => {
                let cells = self.pin.sketch().prefix().cells().get(from as usize..to as usize)?;
                return (!cells.is_empty()).then(|| Some(Step::Cells(cells.into())));
            }
            Step::Want(ids) => self.plan = Plan::Ids(ids, 0),
            Step::WantAll => self.plan = Plan::Keys(None),
            _ => return None,
        }
        Some(None)
    }

    /// The next chunk, of about `bytes`; [`Step::Close`] is the last. `None` while the receiver is asked or
    /// has not taken in enough, and after that.
    pub(crate) fn next(&mut self, bytes: usize, now: Instant) -> Result<Option<Step>, ReadError> {
        let untaken_bytes: usize = self.untaken.iter().sum();
        if self.untaken.len() >= UNTAKEN_MAX as usize || untaken_bytes >= UNTAKEN_BYTES_MAX {
            return Ok(None);
        }
        let chunk = match &self.plan {
            Plan::Asked | Plan::Done => return Ok(None),
            Plan::Ids(ids, at) => {
                let (ids, at) = (Arc::clone(ids), *at);
                match self.ids(&ids, at, bytes)? {
                    Some(states) => Some(states),
                    None => self.holes(0, bytes)?,
                }
            }
            Plan::Holes(at) => {
                let at = *at;
                self.holes(at, bytes)?
            }
            Plan::Keys(after) => {
                let after = after.clone();
                Some(self.keys(after, bytes)?)
            }
        };
        self.moved_at = now;
        let step = chunk.map_or(Step::Close, Step::States);
        match &step {
            Step::Close => self.plan = Plan::Done,
            // Of the first form nothing is told to be taken.
            _ if !self.speaks_new() => {}
            _ => self.untaken.push_back(step.weight()),
        }
        Ok(Some(step))
    }

    /// What is damaged there, with every entry. C5
    fn holes(&mut self, at: usize, bytes: usize) -> Result<Option<States>, ReadError> {
        let theirs = Arc::clone(&self.theirs);
        let ids = theirs.more.as_ref().map_or(&[][..], |more| &more.holes.ids);
        let (rows, end) = self.rows_of(ids, at, bytes, true)?;
        self.plan = Plan::Holes(end);
        let checked = self.speaks_new();
        Ok((end > at).then(|| States { span: Span::Holes(ids[at..end].to_vec()), rows, checked }))
    }

    fn ids(&mut self, ids: &Arc<[RowId]>, at: usize, bytes: usize) -> Result<Option<States>, ReadError> {
        let (rows, end) = self.rows_of(ids, at, bytes, false)?;
        self.plan = Plan::Ids(Arc::clone(ids), end);
        let checked = self.speaks_new();
        Ok((end > at).then(|| States { span: Span::Ids(ids[at..end].to_vec()), rows, checked }))
    }

    /// A chunk's rows of these ids from a place on, and the place behind them.
    fn rows_of(
        &self,
        ids: &[RowId],
        at: usize,
        bytes: usize,
        whole: bool,
    ) -> Result<(Vec<RowState>, usize), ReadError> {
        let mut rows = Vec::new();
        let (mut end, mut weight) = (at, 0);
        while end < ids.len() && end - at < CHUNK_ROWS && weight < bytes {
            self.pin.visit_ids(&ids[end..=end], &mut |key, row| {
                weight += row.memory_bytes();
                rows.push(if whole {
                    RowState { key: key.clone(), fresh: Row::clone(row), kept: Vec::new() }
                } else {
                    self.state(key, row)
                });
            })?;
            end += 1;
        }
        Ok((rows, end))
    }

    fn keys(&mut self, after: Option<RowKey>, bytes: usize) -> Result<States, ReadError> {
        let mut rows = Vec::new();
        let mut weight = 0;
        let mut upto = None;
        let from = after.as_ref().map_or_else(Vec::new, |key| [key.as_bytes(), &[0]].concat());
        self.pin.visit(&[], &from, &mut |key, row| {
            weight += row.memory_bytes();
            rows.push(self.state(key, row));
            let goes_on = rows.len() < CHUNK_ROWS && weight < bytes;
            upto = (!goes_on).then(|| key.clone());
            goes_on
        })?;
        self.plan = upto.clone().map_or(Plan::Ids(Arc::from([]), 0), |key| Plan::Keys(Some(key)));
        Ok(States { span: Span::Keys(after, upto), rows, checked: self.speaks_new() })
    }

    /// A row, less what the receiver's context makes unnecessary.
    fn state(&self, key: &RowKey, row: &Row) -> RowState {
        let mut state = RowState { key: key.clone(), fresh: Row::empty(), kept: Vec::new() };
        let whole = self.theirs.more.as_ref().is_some_and(|more| more.whole);
        if whole && !is(Mutant::PartsForResumed) {
            state.fresh = row.clone();
            return state;
        }
        for (dot, payload) in row.iter() {
            if self.theirs.context.covers(dot) {
                state.kept.push(dot);
            } else {
                state.fresh.put(dot, payload.clone());
            }
        }
        state
    }
}
