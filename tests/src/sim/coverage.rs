//! What many seeds together must have reached: a simulation that never meets a fault proves nothing about it.

use super::Report;

/// Seeds after which something that was never reached is a fault of the simulator.
pub const SEEDS_MIN: u64 = 2_000;

/// Faults, each made to happen.
pub const FAULTS: &[&str] = &[
    "clocks that drift",
    "clocks that jump ahead",
    "clocks that jump back",
    "clogs",
    "connections reset",
    "crashes that lose entries",
    "crashes that lose nothing",
    "disks restored",
    "disks started twice",
    "disks that stall",
    "disks wiped",
    "half-open connections",
    "links paused by an operator",
    "lulls",
    "messages lost",
    "messages lost with their connection",
    "messages of an old connection",
    "messages repeated",
    "nodes cut off for ever",
    "nodes cut off one way for ever",
    "nodes down for ever",
    "nodes frozen for ever",
    "one-way cuts",
    "partitions that are not transitive",
    "processes paused",
    "processes paused for minutes",
    "sources that crash at the end",
    "two-way cuts",
    "writes with a forged token",
];

/// What the protocol does, on both sides. Not here, because less than one seed in thousands comes to it: a session that its
/// source breaks off or refuses for being busy, one that asks for more cells, and one that has everything compared.
pub const TRANSITIONS: &[&str] = &[
    "abort heard",
    "abort said",
    "accept heard",
    "accept said",
    "cells heard",
    "cells said",
    "close heard",
    "close said",
    "copies stopped",
    "copies that others took all from",
    "cores that heal alone",
    "duplicate",
    "empty nodes that took all over",
    "give up heard",
    "give up said",
    "healed clusters that fall silent",
    "levels a core cannot give",
    "levels a healed core gives",
    "links bootstrapping",
    "links catching up",
    "links connecting",
    "links down",
    "links live",
    "links paused",
    "links reconciling",
    "nodes that founded together",
    "open heard",
    "open said",
    "paused",
    "reads that must wait",
    "reconciliations finished",
    "reconciliations given up",
    "reconciliations granted",
    "records asked for",
    "records dropped that all have",
    "records dropped that somebody needs",
    "records lost with the last disk that held them",
    "records relayed",
    "refused: clock skew",
    "refused: not ready",
    "refused: overloaded",
    "refused: session behind",
    "refused: session write lost",
    "roots compared",
    "rows adopted",
    "session reads",
    "sessions refused: not ready",
    "silent",
    "states heard",
    "states said",
    "streams parked",
    "want heard",
    "want said",
    "write levels reached",
    "writes answered",
    "writes answered below their level",
    "writes that must wait",
    "writes that waited and went on",
];

/// What none of the seeds reached.
pub fn missing(report: &Report) -> impl Iterator<Item = &'static str> {
    let all = FAULTS.iter().chain(TRANSITIONS).copied();
    all.filter(|what| !report.reached.contains_key(what))
}
