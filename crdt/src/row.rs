//! A row: the dots that are live in one place, and the one merge rule.
//!
//! **What always holds.** R1: entries are strictly ascending by dot. R2: [`Row::merge`] is commutative, associative and
//! idempotent for truthful contexts, and for contexts closed under kills `merge(f(C), f(D)) = f(C ⊔ D)`.
//! R3: equal rows have equal bytes.
//!
//! **Why no tombstones.** A dot that is absent here and covered by this side's context was killed; that is all a merge
//! needs to know (C2). A region that was away for a year brings nothing back.

use crate::codec::{DecodeError, Reader, Writer};
use crate::mutants::{Mutant, is_on};
use crate::{Dot, Payload, VersionVector};
use alloc::vec::Vec;

/// The live dots of one row with what they carry. The empty row is the same as no row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    entries: Vec<(Dot, Payload)>,
}

const VERSION: u8 = 1;

impl Row {
    /// Entries that an encoded row may hold: bounds bytes from outside. Honest rows stay far below: siblings of one
    /// actor are capped by its own records, and a set member has at most one dot per concurrent writer.
    pub const ENTRIES_MAX: usize = 65_536;

    /// The row that holds nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self { entries: Vec::new() }
    }

    /// Whether nothing is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The live dots with what they carry, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Dot, &Payload)> {
        self.entries.iter().map(|(dot, payload)| (*dot, payload))
    }

    /// The live dots, ascending.
    pub fn dots(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.entries.iter().map(|(dot, _)| *dot)
    }

    /// What `dot` carries here.
    #[must_use]
    pub fn get(&self, dot: Dot) -> Option<&Payload> {
        self.entries.binary_search_by_key(&dot, |(d, _)| *d).ok().map(|at| &self.entries[at].1)
    }

    /// Makes `dot` live. Putting it twice is putting it once.
    pub fn put(&mut self, dot: Dot, payload: Payload) {
        if let Err(at) = self.entries.binary_search_by_key(&dot, |(d, _)| *d) {
            self.entries.insert(at, (dot, payload));
        }
    }

    /// Kills dots; those that are not there are dead already.
    pub fn kill(&mut self, kills: &[Dot]) {
        if !kills.is_empty() {
            self.entries.retain(|(dot, _)| kills.binary_search(dot).is_err());
        }
    }

    /// Kills everything that `context` covers.
    pub fn clear(&mut self, context: &VersionVector) {
        self.entries.retain(|(dot, _)| !context.covers(*dot));
    }

    /// The one merge rule (C1). Cost: O(entries of both × log actors).
    #[must_use]
    pub fn merge(&self, context: &VersionVector, theirs: &Self, their_context: &VersionVector) -> Self {
        let nothing = VersionVector::new();
        let context = if is_on(Mutant::MergeIgnoresOwnContext) { &nothing } else { context };
        let their_context = if is_on(Mutant::MergeIgnoresTheirContext) { &nothing } else { their_context };
        let stays = |dot: Dot, other: &Self, other_context: &VersionVector| {
            !other_context.covers(dot) || other.get(dot).is_some()
        };
        let mut entries: Vec<_> =
            self.entries.iter().filter(|(dot, _)| stays(*dot, theirs, their_context)).cloned().collect();
        let mine = entries.len();
        entries.extend(
            theirs.entries.iter().filter(|(dot, _)| stays(*dot, self, context) && self.get(*dot).is_none()).cloned(),
        );
        if entries.len() > mine {
            entries.sort_unstable_by_key(|(dot, _)| *dot);
        }
        Self { entries }
    }

    /// Bytes it takes in memory, for accounting.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.iter().map(|(_, p)| size_of::<(Dot, Payload)>() + p.heap_bytes()).sum::<usize>()
    }

    /// Appends the canonical bytes: version, count, then dot and payload of each.
    pub fn encode(&self, out: &mut Writer) {
        out.byte(VERSION);
        out.length(self.entries.len());
        for (dot, payload) in &self.entries {
            out.dot(*dot);
            payload.encode(out);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are of another version, not canonical, or beyond a bound.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.byte()? {
            VERSION => {}
            value => return Err(DecodeError::Unknown { what: "row version", value }),
        }
        let count = input.length(10, Self::ENTRIES_MAX)?;
        let mut row = Self { entries: Vec::with_capacity(count) };
        for _ in 0..count {
            let dot = input.dot()?;
            // R1, R3
            if row.entries.last().is_some_and(|(last, _)| *last >= dot) {
                return Err(DecodeError::NotCanonical);
            }
            row.entries.push((dot, Payload::decode(input)?));
        }
        Ok(row)
    }

    /// Whether R1 holds; for simulations and tests.
    #[must_use]
    pub fn check_invariants(&self) -> bool {
        self.entries.windows(2).all(|pair| pair[0].0 < pair[1].0)
    }
}
