//! Version vectors: how far along every actor's log somebody is.
//!
//! A causal context (`CC`: every dot whose effect the rows contain), a log cursor (`LV`: where to go on pulling), a
//! session token and a record's dependencies are all of this shape; what differs is what they promise, which the
//! field that holds one says.
//!
//! **What always holds.** V1: an entry is never zero. V2: [`VersionVector::join`] is commutative, associative,
//! idempotent and never lowers an entry. Cost: O(log actors) a look-up, O(actors) a join or comparison.
//!
//! The map inside is `crdts::VClock`; this type adds the vocabulary of the design (`covers`, `leq`, `meet`) and
//! canonical bytes.

use crate::codec::{DecodeError, Reader, Writer};
use crate::{ActorId, Dot};
use core::fmt;
use crdts::{CmRDT, CvRDT, VClock};

/// For each actor, the highest `seq` up to which everything is included.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct VersionVector {
    clock: VClock<ActorId>,
}

impl VersionVector {
    /// Actors that one encoded vector may name: bounds what bytes from outside can make us hold.
    pub const ACTORS_MAX: usize = 32_768;

    /// The vector that covers nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The highest covered `seq` of `actor`; 0 when none is.
    #[must_use]
    pub fn get(&self, actor: ActorId) -> u64 {
        self.clock.get(&actor)
    }

    /// Whether `dot` is included.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.actor) >= dot.seq
    }

    /// Whether everything in `self` is included in `other`.
    #[must_use]
    pub fn leq(&self, other: &Self) -> bool {
        self.iter().all(|dot| other.covers(dot))
    }

    /// The first dot of `self` that `other` does not cover, in the order of actors.
    #[must_use]
    pub fn first_missing_in(&self, other: &Self) -> Option<Dot> {
        self.iter().find(|dot| !other.covers(*dot))
    }

    /// Raises the entry of `dot.actor` to at least `dot.seq`.
    pub fn include(&mut self, dot: Dot) {
        if dot.seq > 0 {
            self.clock.apply(dot.into());
        }
    }

    /// The least vector that includes both.
    pub fn join(&mut self, other: &Self) {
        for dot in other.iter() {
            self.include(dot);
        }
    }

    /// The greatest vector that both include.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        self.iter().map(|dot| Dot::new(dot.actor, dot.seq.min(other.get(dot.actor)))).collect()
    }

    /// Entries of `self` that `other` does not cover: joined to `other` they give what `self` joined to it gives.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        self.iter().filter(|dot| !other.covers(*dot)).collect()
    }

    /// The last dot of every actor, in the order of actors.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        self.clock.iter().map(|dot| Dot::new(*dot.actor, dot.counter))
    }

    /// How many actors are named.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clock.dots.len()
    }

    /// Whether nothing is covered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clock.is_empty()
    }

    /// Appends the canonical bytes: the number of actors, then actor and seq of each in order.
    pub fn encode(&self, out: &mut Writer) {
        out.length(self.len());
        for dot in self.iter() {
            out.dot(dot);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are truncated, not in canonical order, or name more than [`Self::ACTORS_MAX`] actors.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.length(9, Self::ACTORS_MAX)?;
        let mut out = Self::new();
        let mut previous = None;
        for _ in 0..count {
            let dot = input.dot()?;
            if previous.is_some_and(|p| p >= dot.actor) {
                return Err(DecodeError::NotCanonical);
            }
            previous = Some(dot.actor);
            out.include(dot);
        }
        Ok(out)
    }
}

impl CvRDT for VersionVector {
    type Validation = core::convert::Infallible;

    fn validate_merge(&self, _: &Self) -> Result<(), Self::Validation> {
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.clock.merge(other.clock);
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<T: IntoIterator<Item = Dot>>(dots: T) -> Self {
        let mut out = Self::new();
        for dot in dots {
            out.include(dot);
        }
        out
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|dot| (dot.actor, dot.seq))).finish()
    }
}
