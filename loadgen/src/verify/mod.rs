//! Judgement: did the regions end equal, and is everything that was acknowledged there, once?
//!
//! *How it goes.* [`settle()`] waits until every region's root and vector are equal. [`dump()`] reads
//! everything in the namespace, region by region, through the public API. [`judge`] compares the
//! dumps with each other and each with the history.
//!
//! *What always holds.* V1: the dumps are compared in full; equal digests alone prove nothing about
//! a bug in what they digest. V2: a violation that is reported is one: where an order is not
//! certain from what clients saw, both outcomes pass. The rules are with the functions in
//! `check`. V3: whatever is there and was never asked for is a violation too.
//!
//! *What is not here.* Rules that need the whole of every session's reads; the simulator checks
//! the state against the model after every step.

mod check;
mod compare;
mod dump;
mod settle;

use atoll_client::Error;
use atoll_geo::RegionName;

pub use check::{Findings, check};
pub use compare::{Comparison, compare};
pub use dump::{Dump, Observed, dump};
pub use settle::{Node, RegionState, Settled, settle};

use crate::history::Write;
use crate::workload::Workload;

/// Violations that are told in words; all are counted.
pub const EXPLANATIONS_MAX: usize = 10;

/// Why there is no judgement: a region cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("{region} cannot be read: {source}")]
pub struct Unreadable {
    /// Which.
    pub region: RegionName,
    /// Why not.
    #[source]
    pub source: Error,
}

/// What the dumps say.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// How many keys were compared.
    pub keys: usize,
    /// How many of them differ between regions.
    pub differing: usize,
    /// Acknowledged writes without effect: the most in one region.
    pub lost: u64,
    /// Writes that took effect more than once: the most in one region.
    pub duplicated: u64,
    /// Things that are there though nobody asked for them: the most in one region.
    pub foreign: u64,
    /// What was found in each region.
    pub regions: Vec<Findings>,
    /// The first violations, each in one line.
    pub explanations: Vec<String>,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.differing == 0 && self.lost == 0 && self.duplicated == 0 && self.foreign == 0
    }
}

/// Judges what every region holds. `regions` are in the order of the history's numbers, and so are
/// the dumps.
#[must_use]
pub fn judge(workload: &Workload, regions: &[RegionName], history: &[Write], dumps: &[Dump]) -> Verdict {
    let mut verdict = Verdict::default();
    let comparison = compare(regions, dumps); // V1
    verdict.keys = comparison.keys;
    verdict.differing = comparison.differing;
    verdict.explanations = comparison.explanations;
    for (region, dump) in regions.iter().zip(dumps) {
        let findings = check(workload, regions, history, region, dump);
        verdict.lost = verdict.lost.max(findings.lost);
        verdict.duplicated = verdict.duplicated.max(findings.duplicated);
        verdict.foreign = verdict.foreign.max(findings.foreign);
        // Where the regions agree, the first one's tell everything.
        if verdict.differing > 0 || verdict.regions.is_empty() {
            let room = EXPLANATIONS_MAX.saturating_sub(verdict.explanations.len());
            verdict.explanations.extend(findings.explanations.iter().take(room).cloned());
        }
        verdict.regions.push(findings);
    }
    verdict
}
