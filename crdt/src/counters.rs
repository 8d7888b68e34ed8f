//! Counters: exact sums of increments, with a delete that takes exactly what it saw.
//!
//! **How it goes.** A counter is a dotted row like any other. An increment puts its actor's running total, with the seq
//! at which that run was born, under the new dot, and kills the actor's previous one. A reset (a delete is one) kills
//! what it sees and leaves a marker: for each actor, the seq and total it saw. The value is Σ (total − floor), where a
//! floor cuts only a run whose birth is not after it.
//!
//! **Concurrent pairs.** add ∥ add: both count. add ∥ delete: exactly the increments that the delete had not seen stay.
//! delete ∥ delete: like one. A deleted counter is not there; zero is a value.
//!
//! **Letting markers go.** A floor stays as long as it may cut a run that somebody writes on with. It can go once every
//! record of its actor that had not seen the marker is here, and none of them left a run that it cuts: what that actor
//! writes afterwards begins a run of its own, or goes on with one that a higher floor cuts. No value changes by it
//! ([`purgeable`]).
//!
//! **Why not two `PNCounter`s.** Totals and a baseline, joined as lattices and dropped at zero, lose increments: a live
//! actor starts again at 1 where another replica still joins (5, 5). The model finds it.

use crate::draft::shared;
use crate::mutants::{Mutant, is_on};
use crate::{ActorId, Count, Dot, Draft, Floor, Floors, Payload, ReadError, Row, RowKey, Run};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Why an increment was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The sum would leave the range of an i64 here (caller).
    #[error("the counter would leave the range of a signed 64-bit number")]
    OutOfRange,
    /// The rows could not be read (environment).
    #[error(transparent)]
    Read(#[from] ReadError),
}

fn parts(row: &Row) -> impl Iterator<Item = (Dot, &Count)> {
    row.iter().filter_map(|(dot, payload)| match payload {
        Payload::Count(count) => Some((dot, count)),
        _ => None,
    })
}

fn raise(floors: &mut Floors, actor: ActorId, floor: Floor) {
    let entry = floors.entry(actor).or_insert(floor);
    *entry = (*entry).max(floor);
}

/// Every marker in the row, joined.
#[must_use]
pub fn floors(row: &Row) -> Floors {
    let mut joined = Floors::new();
    for (_, count) in parts(row) {
        for (actor, floor) in count.floors.iter() {
            raise(&mut joined, *actor, *floor);
        }
    }
    joined
}

/// What a reset of this row has seen: each live run's total, joined with the markers.
#[must_use]
pub fn shown(row: &Row) -> Floors {
    let mut seen = floors(row);
    for (dot, count) in parts(row) {
        if let Some(run) = count.run {
            raise(&mut seen, dot.actor, Floor { seq: dot.seq, total: run.total });
        }
    }
    seen
}

/// The exact value; `None` when the counter was never written or is deleted. Cost: O(actors that ever added).
#[must_use]
pub fn value(row: &Row) -> Option<i128> {
    let floors = if is_on(Mutant::CounterIgnoresFloors) { Floors::new() } else { floors(row) };
    let mut sum = None;
    for (dot, count) in parts(row) {
        if let Some(run) = count.run {
            let floor = floors
                .get(&dot.actor)
                .filter(|floor| floor.seq >= run.birth || is_on(Mutant::CounterIgnoresBirth))
                .map_or(0, |floor| floor.total);
            // Saturating: totals of a lying peer must not end the process. Honest sums stay far below.
            sum = Some(sum.unwrap_or(0_i128).saturating_add(run.total.saturating_sub(floor)));
        }
    }
    sum
}

/// The value as it is read: clamped to an i64.
#[must_use]
pub fn clamped(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Adds `amount` and gives the new value.
///
/// # Errors
/// The value would leave the range of an i64 here, or the storage failed.
pub fn add(draft: &mut Draft<'_>, key: &RowKey, amount: i64) -> Result<i64, AddError> {
    let row = draft.row(key)?;
    let after = value(&row).unwrap_or(0).saturating_add(i128::from(amount));
    let shown = i64::try_from(after).map_err(|_| AddError::OutOfRange)?;
    let own: Vec<(Dot, &Count)> = parts(&row).filter(|(dot, _)| dot.actor == draft.actor()).collect();
    let run = own.iter().find_map(|(_, count)| count.run).unwrap_or(Run { birth: draft.dot().seq, total: 0 });
    // A marker under a dot that is killed now moves on with it; markers under other dots stay where they are.
    let kills: Vec<Dot> =
        own.iter().filter(|(dot, count)| count.run.is_some() || *dot == draft.dot()).map(|(dot, _)| *dot).collect();
    let kills = match () {
        () if is_on(Mutant::AddKillsEveryRun) => row.dots().collect(),
        () if is_on(Mutant::AddLeavesOldRun) => Vec::new(),
        () => kills,
    };
    let mut carried = Floors::new();
    for (_, count) in own.iter().filter(|(dot, _)| kills.contains(dot)) {
        for (actor, floor) in count.floors.iter() {
            raise(&mut carried, *actor, *floor);
        }
    }
    let run = Run { birth: run.birth, total: run.total.saturating_add(i128::from(amount)) };
    draft.stage(key, &row, kills, Some(Payload::Count(Count { run: Some(run), floors: shared(carried) })));
    Ok(shown)
}

/// Deletes what was seen of the counter. With a client's context of this counter the cut is exact at what was shown;
/// with another context, runs that have moved on since stay whole.
///
/// # Errors
/// The storage failed.
pub fn reset(draft: &mut Draft<'_>, key: &RowKey) -> Result<(), ReadError> {
    let row = draft.row(key)?;
    if parts(&row).any(|(_, count)| count.run.is_some()) { mark(draft, key) } else { Ok(()) }
}

/// Like [`reset`], before a clear of a prefix: the clear kills every dot it covers, old markers too, so what they
/// hold moves into a new one even when no run is live.
pub(crate) fn reset_before_clear(draft: &mut Draft<'_>, key: &RowKey) -> Result<(), ReadError> {
    mark(draft, key)
}

fn mark(draft: &mut Draft<'_>, key: &RowKey) -> Result<(), ReadError> {
    draft.take_back_run(key)?;
    let row = draft.row(key)?;
    let kills: Vec<Dot> = row.dots().filter(|dot| draft.observed(*dot)).collect();
    let mut marker = Floors::new();
    for (dot, count) in parts(&row).filter(|(dot, _)| kills.contains(dot)) {
        for (actor, floor) in count.floors.iter().filter(|_| !is_on(Mutant::ResetForgetsOldMarkers)) {
            raise(&mut marker, *actor, *floor);
        }
        // Never of this very record: a floor under its dot would cut what the batch adds next.
        if let Some(run) = count.run {
            raise(&mut marker, dot.actor, Floor { seq: dot.seq, total: run.total });
        }
    }
    if let Some(floors) =
        draft.seen().and_then(|s| s.floors.as_ref()).filter(|_| !is_on(Mutant::ResetIgnoresShownTotals))
    {
        for (actor, floor) in floors {
            raise(&mut marker, *actor, *floor);
        }
    }
    if is_on(Mutant::ResetLeavesNoMarker) {
        marker.clear();
    }
    if kills.is_empty() && marker.is_empty() {
        return Ok(());
    }
    draft.stage(key, &row, kills, Some(Payload::Count(Count { run: None, floors: shared(marker) })));
    Ok(())
}

/// Markers of a row that can go, or be written anew with fewer floors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purge {
    kills: Vec<Dot>,
    put: Option<Payload>,
    floors: usize,
}

impl Purge {
    /// How many floors go.
    #[must_use]
    pub const fn floors(&self) -> usize {
        self.floors
    }

    /// Whether nothing of these markers is left.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.put.is_none()
    }
}

/// Whether a row holds a marker that [`purgeable`] may let go of one day.
#[must_use]
pub fn has_marker(row: &Row) -> bool {
    parts(row).any(|(_, count)| count.run.is_none())
}

/// What may go of a counter's markers. `is_settled(actor, marker)` says that every record of the actor that
/// had not seen the marker is in the writer's context, and that it writes none any more without having seen it.
/// `None` while less than half of any marker can go: so each is written anew a few times at most.
#[must_use]
pub fn purgeable(row: &Row, is_settled: &mut dyn FnMut(ActorId, Dot) -> bool) -> Option<Purge> {
    let mut births: BTreeMap<ActorId, u64> = BTreeMap::new();
    for (dot, run) in parts(row).filter_map(|(dot, count)| Some((dot, count.run?))) {
        let birth = births.entry(dot.actor).or_insert(run.birth);
        *birth = run.birth.min(*birth);
    }
    let cuts = |actor: &ActorId, floor: &Floor| {
        births.get(actor).is_some_and(|birth| floor.seq >= *birth) && !is_on(Mutant::PurgeIgnoresRuns)
    };
    let (mut purge, mut kept) = (Purge::default(), Floors::new());
    // A marker that shares its dot with a run stays: put anew, the run would outlive a delete that had seen it, and show a
    // deleted counter as one of zero.
    for (dot, count) in parts(row).filter(|(_, count)| count.run.is_none()) {
        let needed = count.floors.iter().filter(|(actor, floor)| cuts(actor, floor) || !is_settled(**actor, dot));
        let rest: Vec<_> = needed.collect();
        if rest.len() * 2 > count.floors.len() {
            continue;
        }
        purge.kills.push(dot);
        purge.floors += count.floors.len() - rest.len();
        for (actor, floor) in rest {
            raise(&mut kept, *actor, *floor);
        }
    }
    if !kept.is_empty() {
        purge.put = Some(Payload::Count(Count { run: None, floors: shared(kept) }));
    }
    (!purge.kills.is_empty()).then_some(purge)
}

/// Lets them go. The row must not have changed since.
///
/// # Errors
/// The storage failed.
pub fn purge(draft: &mut Draft<'_>, key: &RowKey, purge: Purge) -> Result<(), ReadError> {
    let row = draft.row(key)?;
    draft.stage(key, &row, purge.kills, purge.put);
    Ok(())
}
