//! What happened so far, in numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::type_name;
use crate::history::{Outcome, Write};
use crate::latency::Latency;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Writes that were asked.
    pub asked: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes that were refused, not sent or lost.
    pub failed: u64,
}

/// Counts and latencies of a run under way.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) asked: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    summary: Mutex<Summary>,
}

/// The part of it that takes a lock.
#[derive(Debug, Clone, Default)]
pub(super) struct Summary {
    pub(super) acknowledged: u64,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) latency: Latency,
    pub(super) latency_by_type: BTreeMap<&'static str, Latency>,
}

impl Tally {
    pub(super) fn count(&self, write: &Write) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        if write.outcome == Outcome::Acknowledged {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
            let took = write.answered.since(write.intended); // R1
            summary.acknowledged += 1;
            summary.latency.record(took);
            let name = type_name(write.cell.data_type());
            summary.latency_by_type.entry(name).or_default().record(took);
        } else if let Some(name) = write.outcome.error_name() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            *summary.errors.entry(name).or_default() += 1;
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            asked: self.asked.load(Ordering::Relaxed),
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Everything, with the arrivals that were `shed`.
    pub(super) fn summary(&self, shed: u64) -> Summary {
        let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if shed > 0 {
            summary.errors.insert("shed", shed);
        }
        summary
    }
}
