//! Known-wrong rules, to see that the simulator catches them. Only with the feature `mutants`, which no default build has.
//!
//! Each variant leaves out one rule of the protocol. One is chosen for the whole process with `choose`.

/// One rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The rules.
    None,
    /// A record is applied without waiting for what its writer had seen.
    NoDeps,
    /// A write is answered when it is appended, before it is durable.
    AnswerBeforeSync,
    /// Peers are told what is not durable yet.
    TellVolatile,
    /// A write is taken although its session has seen more than this node.
    WriteIgnoresToken,
    /// This node's own region counts again when another of its nodes reports.
    OwnRegionTwice,
    /// What was sent is taken as arrived.
    NeverResend,
    /// Nobody sends other actors' records.
    NoRelay,
    /// A record's dependencies leave out what the writer took in since its last record.
    ForgetDeps,
    /// Rows that were equal when a reconciliation began, and changed since, are not merged at its end.
    ForgetInFlight,
    /// A reconciliation takes over the context for lost actors only.
    AdoptLostOnly,
    /// Lost actors are those whose log cursor at the peer is ahead of its log, not those whose context is.
    LostByCursor,
    /// A reconciliation raises the cursor of no actor.
    KeepCursor,
    /// Rows of a layer hold although they changed here while it was built.
    LayerOverNewer,
    /// A source sends a resumed session only what the receiver's context lacks.
    PartsForResumed,
    /// Peers go on from what the context covers, not from where the cursor is.
    PullFromContext,
    /// A damaged row is repaired from a peer that has not seen everything that may have touched it.
    RepairFromBehind,
    /// A node that joins waits for records whose last disk is gone.
    JoinForLost,
    /// An empty node founds the cluster although a seed is joining and has some of its data.
    FoundBesideJoining,
    /// A marker goes on an actor's own report, whether or not what it had written is here.
    PurgeUnseen,
    /// A marker goes although it cuts a run that is live.
    PurgeOverCut,
    /// A process speaks for the earlier ones of its disk: what a crash took from them may still arrive.
    PurgeBySuccessor,
    /// A process writes on after its last word.
    WriteAfterLastWord,
    /// Who reads sees what a pending clear has not removed yet.
    ShowHalfCleared,
    /// A step of a clear removes a row that holds something which the clear had not seen.
    StepDropsRow,
    /// A state is pinned and compared although rows of a clear are still to be removed.
    CompareHalfCleared,
}

impl Mutant {
    /// Every wrong variant.
    pub const ALL: [Self; 25] = [
        Self::NoDeps,
        Self::AnswerBeforeSync,
        Self::TellVolatile,
        Self::WriteIgnoresToken,
        Self::OwnRegionTwice,
        Self::NeverResend,
        Self::NoRelay,
        Self::ForgetDeps,
        Self::ForgetInFlight,
        Self::AdoptLostOnly,
        Self::LostByCursor,
        Self::KeepCursor,
        Self::LayerOverNewer,
        Self::PartsForResumed,
        Self::PullFromContext,
        Self::RepairFromBehind,
        Self::JoinForLost,
        Self::FoundBesideJoining,
        Self::PurgeUnseen,
        Self::PurgeOverCut,
        Self::PurgeBySuccessor,
        Self::WriteAfterLastWord,
        Self::ShowHalfCleared,
        Self::StepDropsRow,
        Self::CompareHalfCleared,
    ];
}

#[cfg(feature = "mutants")]
static CHOSEN: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Leaves out a rule from now on, in this process.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Mutant) {
    CHOSEN.store(mutant as u8, core::sync::atomic::Ordering::SeqCst);
}

/// Whether this rule is left out.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == mutant as u8
}

/// No rule is left out.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
