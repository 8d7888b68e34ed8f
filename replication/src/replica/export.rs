//! Records by hand: what a removed node alone holds is carried to a member as a file.
//!
//! **What always holds.** X1: records are given out verbatim and only when they are durable. X2: an imported record goes
//! the way of one that a peer sent: in its actor's order, once what its writer had seen is here, once.

use super::Replica;
use crate::effect::{Effect, LinkId};
use crate::record::RecordBytes;
use crate::store::Store;
use crate::time::Now;
use alloc::vec::Vec;
use atoll_crdt::{Dot, ReadError, VersionVector};

/// The link that imported records come from: none, drivers number theirs from 1.
const BY_HAND: LinkId = LinkId(0);

/// Durable records beyond some vector.
#[derive(Debug, Clone)]
pub struct Excerpt {
    /// Each actor's in order.
    pub records: Vec<RecordBytes>,
    /// The vector they reach up to, where it differs: ask beyond this next, until nothing comes.
    pub upto: VersionVector,
    /// Records of the actors at hand that the log holds no more: their effect is in the rows, and cannot be given out.
    pub missing: u64,
}

/// What became of imported records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Applied here, and not known before.
    pub new: u64,
    /// Known before.
    pub known: u64,
    /// Held back or dropped, because what they build on is not here.
    pub held_back: u64,
}

impl Replica {
    /// Durable records beyond a vector, whole actors until `bytes_max` are reached. X1
    ///
    /// # Errors
    /// The storage failed.
    pub fn export(&self, beyond: &VersionVector, bytes_max: usize, store: &dyn Store) -> Result<Excerpt, ReadError> {
        let mut excerpt = Excerpt { records: Vec::new(), upto: VersionVector::new(), missing: 0 };
        let mut bytes = 0;
        for dot in self.durable.iter() {
            let logged_upto = dot.seq.min(self.clocks.cursor.get(dot.actor));
            let first = self.log.starts.get(dot.actor).max(1);
            let mut from = beyond.get(dot.actor) + 1;
            if from < first && from <= logged_upto {
                excerpt.missing += first.min(logged_upto + 1) - from;
                from = first;
                excerpt.upto.include(Dot::new(dot.actor, logged_upto.min(first - 1)));
            }
            while from <= logged_upto && bytes < bytes_max {
                let records = store.log(dot.actor, from, bytes_max - bytes)?;
                let durable: Vec<_> = records.into_iter().take_while(|r| r.dot().seq <= logged_upto).collect();
                let Some(last) = durable.last().map(RecordBytes::dot) else { break };
                bytes += durable.iter().map(|record| record.as_bytes().len()).sum::<usize>();
                excerpt.records.extend(durable);
                excerpt.upto.include(last);
                from = last.seq + 1;
            }
            if bytes >= bytes_max {
                break;
            }
            // What was taken over as rows never was in this log.
            let rest = dot.seq.saturating_sub(beyond.get(dot.actor).max(logged_upto));
            if rest > 0 {
                excerpt.missing += rest;
                excerpt.upto.include(dot);
            }
        }
        Ok(excerpt)
    }

    /// Takes in records that another node exported; `None` when one claims to be of this process, which did not write
    /// it. X2
    ///
    /// # Errors
    /// The storage failed: the process must end.
    pub fn import(
        &mut self,
        now: Now,
        records: Vec<RecordBytes>,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Imported>, ReadError> {
        self.now = Now { instant: now.instant.max(self.now.instant), wall_ms: now.wall_ms };
        let dots: Vec<Dot> = records.iter().map(RecordBytes::dot).collect();
        let known = self.covered(&dots);
        if self.on_records(BY_HAND, records, store, out)?.is_err() {
            return Ok(None);
        }
        let held = self.covered(&dots);
        Ok(Some(Imported { new: held - known, known, held_back: dots.len() as u64 - held }))
    }

    fn covered(&self, dots: &[Dot]) -> u64 {
        dots.iter().filter(|dot| self.clocks.context.covers(**dot)).count() as u64
    }
}
