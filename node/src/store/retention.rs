//! How much of the journal is kept for peers that are away.
//!
//! **What always holds.** R1: what the row engine does not hold durably stays, and so does the segment that is written to,
//! whatever the bounds say. R2: segments go oldest first. R3: within the bounds of age and size, what some member may
//! still ask for stays.

use super::config::Retention;
use atoll_crdt::VersionVector;
use atoll_replication::Position;
use std::time::Duration;

/// What a truncation goes by.
#[derive(Debug)]
pub(super) struct Horizon<'a> {
    /// What every member holds durably.
    pub(super) stable: &'a VersionVector,
    /// What nobody is served from this log.
    pub(super) unlogged: &'a VersionVector,
    /// Where the row engine stands, durably.
    pub(super) checkpoint: Position,
}

/// A segment that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Droppable {
    /// The position that it begins with.
    pub(super) first: Position,
    /// The position that follows it.
    pub(super) follows: Position,
    /// A member may still ask for what is in it.
    pub(super) by_cap: bool,
}

/// Whether the oldest segment may go; if so, whether only because a cap says so.
pub(super) fn verdict(rule: &Retention, age: Duration, log_bytes: u64, is_covered: bool) -> Option<bool> {
    let by_rule = is_covered && age >= rule.min;
    let by_cap = age >= rule.max || log_bytes > rule.max_bytes;
    // R3
    (by_rule || by_cap).then_some(!is_covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_waits_for_its_age_and_what_is_not_for_a_cap() {
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        let rule = Retention { min: hours(1), max: hours(72), max_bytes: 1_000 };
        for (age, log_bytes, is_covered, expected) in [
            (hours(0), 1_000, true, None),
            (hours(1), 1_000, true, Some(false)),
            (hours(1), 1_000, false, None),
            (hours(71), 1_000, false, None),
            (hours(72), 0, false, Some(true)),
            (hours(72), 0, true, Some(false)),
            (hours(0), 1_001, false, Some(true)),
            (hours(0), 1_001, true, Some(false)),
        ] {
            assert_eq!(verdict(&rule, age, log_bytes, is_covered), expected, "{age:?} {log_bytes} {is_covered}");
        }
    }
}
