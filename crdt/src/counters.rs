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
//! **Why not two `PNCounter`s.** Totals and a baseline, joined as lattices and dropped at zero, lose increments: a live
//! actor starts again at 1 where another replica still joins (5, 5). The model finds it.

use crate::draft::shared;
use crate::mutants::{Mutant, is_on};
use crate::{Count, Dot, Draft, Floor, Floors, Payload, ReadError, Row, RowKey, Run};
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

fn raise(floors: &mut Floors, actor: crate::ActorId, floor: Floor) {
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
