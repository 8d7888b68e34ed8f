//! Known mistakes that a test can switch on, one at a time, to see that the suite notices.
//!
//! **What always holds.** X1: without the feature `mutants` (never part of a default build) `is_on` is a constant `false`,
//! and every mistake is compiled away. X2: one mistake at most is on, in the whole process: tests that switch take turns.

/// One mistake in this crate's own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "mutants"), allow(unreachable_pub))]
pub enum Mutant {
    /// A merge keeps what it holds, whatever the other side's context covers.
    MergeIgnoresTheirContext,
    /// A merge takes what the other side holds, whatever its own context covers.
    MergeIgnoresOwnContext,
    /// An operation is applied without its kills.
    ApplyLeavesKillsOut,
    /// A draft makes operations without kills.
    DraftLeavesKillsOut,
    /// A write replaces all its writer holds, whatever its client had seen.
    SeenIsIgnored,
    /// A draft leaves any number of siblings.
    SiblingsUncapped,
    /// A draft does not count the rows that it makes and empties.
    LiveRowsUncounted,
    /// A clear covers the record's own dot.
    ClearCoversItsOwnDot,
    /// A clear takes counters away without a reset.
    ClearForgetsCounters,
    /// A counter's value ignores the markers.
    CounterIgnoresFloors,
    /// A counter's marker cuts runs that were born after it.
    CounterIgnoresBirth,
    /// A counter's reset kills and leaves no marker.
    ResetLeavesNoMarker,
    /// A counter's reset drops what the markers that it kills had seen.
    ResetForgetsOldMarkers,
    /// A counter's reset ignores the totals that its client was shown.
    ResetIgnoresShownTotals,
    /// A reset takes a batch's own increments for something that others may have seen.
    ResetKeepsOwnIncrements,
    /// A marker goes although it cuts a live run.
    PurgeIgnoresRuns,
    /// An increment kills every actor's run.
    AddKillsEveryRun,
    /// An increment leaves its actor's previous run alive.
    AddLeavesOldRun,
    /// Concurrent values are folded in the order of their dots.
    RegisterFoldsByDot,
    /// A concurrent disable wins over an enable.
    FlagDisableWins,
    /// Setting a value in a map leaves what is under its place.
    SetLeavesWhatIsUnder,
    /// Writing under a value in a map leaves the value.
    WriteLeavesValueAbove,
}

#[cfg(feature = "mutants")]
pub use switch::{ALL, switch};

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use core::sync::atomic::{AtomicU8, Ordering};

    /// Every mistake.
    pub const ALL: [Mutant; 22] = [
        Mutant::MergeIgnoresTheirContext,
        Mutant::MergeIgnoresOwnContext,
        Mutant::ApplyLeavesKillsOut,
        Mutant::DraftLeavesKillsOut,
        Mutant::SeenIsIgnored,
        Mutant::SiblingsUncapped,
        Mutant::LiveRowsUncounted,
        Mutant::ClearCoversItsOwnDot,
        Mutant::ClearForgetsCounters,
        Mutant::CounterIgnoresFloors,
        Mutant::CounterIgnoresBirth,
        Mutant::ResetLeavesNoMarker,
        Mutant::ResetForgetsOldMarkers,
        Mutant::ResetIgnoresShownTotals,
        Mutant::ResetKeepsOwnIncrements,
        Mutant::PurgeIgnoresRuns,
        Mutant::AddKillsEveryRun,
        Mutant::AddLeavesOldRun,
        Mutant::RegisterFoldsByDot,
        Mutant::FlagDisableWins,
        Mutant::SetLeavesWhatIsUnder,
        Mutant::WriteLeavesValueAbove,
    ];

    const NONE: u8 = u8::MAX;
    static ON: AtomicU8 = AtomicU8::new(NONE);

    /// Switches one mistake on and any other off; `None` switches all off.
    pub fn switch(mutant: Option<Mutant>) {
        ON.store(mutant.map_or(NONE, |mutant| mutant as u8), Ordering::SeqCst);
    }

    pub(crate) fn is_on(mutant: Mutant) -> bool {
        ON.load(Ordering::Relaxed) == mutant as u8
    }
}

#[cfg(feature = "mutants")]
pub(crate) use switch::is_on;

/// Whether a mistake is to be made. X1
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}
