//! What can be left out of the rules: each must be noticed; and two liberties, which must never hurt.

/// One rule changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Liberty.
    AdoptEveryCursor,
    /// Liberty.
    ServeVolatile,
    RowsAsTheyCome,
    LiveRows,
    NoInFlightRule,
    AdoptLostActorsOnly,
    CommitInTwoEntries,
    ClockSurvivesCrash,
    ReuseActor,
    NoDeps,
    CursorByLv,
    ClearUnclipped,
    VolatileAck,
    VolatileRead,
    TokenFromCursor,
    WriteIgnoresToken,
    CapAtMerge,
    CounterWithoutMarker,
    CounterWithoutBirth,
    PurgeOnReport,
    PurgeShadowing,
    LatticeCounter,
}

impl Variant {
    /// Claimed to be harmless.
    pub(crate) const LIBERTIES: [Self; 2] = [Self::AdoptEveryCursor, Self::ServeVolatile];

    /// Known to be wrong.
    pub(crate) const MUTANTS: [Self; 20] = [
        Self::RowsAsTheyCome,
        Self::LiveRows,
        Self::NoInFlightRule,
        Self::AdoptLostActorsOnly,
        Self::CommitInTwoEntries,
        Self::ClockSurvivesCrash,
        Self::ReuseActor,
        Self::NoDeps,
        Self::CursorByLv,
        Self::ClearUnclipped,
        Self::VolatileAck,
        Self::VolatileRead,
        Self::TokenFromCursor,
        Self::WriteIgnoresToken,
        Self::CapAtMerge,
        Self::CounterWithoutMarker,
        Self::CounterWithoutBirth,
        Self::PurgeOnReport,
        Self::PurgeShadowing,
        Self::LatticeCounter,
    ];

    /// What is different, in a sentence.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::AdoptEveryCursor => "a session raises LV to the peer's for every actor, not only for lost ones",
            Self::ServeVolatile => "a session serves rows and a context that its sender has not synced",
            Self::RowsAsTheyCome => "a session merges rows one by one, each with a context of its own",
            Self::LiveRows => "a session reads the peer's rows live and adopts the context of its start",
            Self::NoInFlightRule => "rows that were equal at a session's start are not merged at its end",
            Self::AdoptLostActorsOnly => "a session adopts the peer's context for lost actors only",
            Self::CommitInTwoEntries => "a session's rows and its clocks are two journal entries",
            Self::ClockSurvivesCrash => "a crash rolls the rows back and not the clocks",
            Self::ReuseActor => "a restart keeps its actor id",
            Self::NoDeps => "records are applied in order per actor, whatever they depend on",
            Self::CursorByLv => "an actor is lost when the peer's LV, not its CC, is ahead of what it can serve",
            Self::ClearUnclipped => "a clear carries a client's context that is ahead of the node",
            Self::VolatileAck => "a node reports positions before they are synced",
            Self::VolatileRead => "reads and tokens show what is not synced",
            Self::TokenFromCursor => "tokens, and the test for them, use LV instead of CC",
            Self::WriteIgnoresToken => "a node that is behind a write's token takes the write",
            Self::CapAtMerge => "siblings beyond the cap are dropped by whoever holds them, not by a record",
            Self::CounterWithoutMarker => "a counter's reset leaves no marker",
            Self::CounterWithoutBirth => "an actor's total runs on over resets it has seen",
            Self::PurgeOnReport => {
                "a marker goes once the processes it names saw it, whatever of theirs the purger has seen"
            }
            Self::PurgeShadowing => "a marker goes while a live total that it cuts is there",
            Self::LatticeCounter => "a counter is two joined maps, dropped at zero once every member saw the reset",
        }
    }
}
