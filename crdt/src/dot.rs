//! Who wrote what: actors and dots.
//!
//! **What always holds.** D1: an [`ActorId`] is minted at every process start that will accept writes and never used
//! again. D2: a [`Dot`] names one record for ever: the place `seq` (from 1) in the log of `actor`.
//!
//! **Why not `crdts::Dot`.** That type orders dots of different actors as "not comparable", which is right for
//! causality and useless for a sorted row; [`Dot`] is totally ordered by (actor, seq), and converts both ways.

use core::fmt;
use core::str::FromStr;

/// A random 64-bit id of one process lifetime that may write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(u64);

impl ActorId {
    /// Wraps a random number. The caller owns the promise D1.
    #[must_use]
    pub const fn new(random: u64) -> Self {
        Self(random)
    }

    /// The number itself, for encoding.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text is not sixteen hexadecimal digits; the caller's input is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an actor id is sixteen hexadecimal digits")]
pub struct ParseActorError;

impl FromStr for ActorId {
    type Err = ParseActorError;

    fn from_str(text: &str) -> Result<Self, ParseActorError> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseActorError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ParseActorError)
    }
}

/// One record's name: the `seq`-th record (from 1) of `actor`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who wrote it.
    pub actor: ActorId,
    /// Its place in that actor's log, from 1.
    pub seq: u64,
}

impl Dot {
    /// The record `seq` of `actor`.
    #[must_use]
    pub const fn new(actor: ActorId, seq: u64) -> Self {
        Self { actor, seq }
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.actor, self.seq)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<Dot> for crdts::Dot<ActorId> {
    fn from(dot: Dot) -> Self {
        Self::new(dot.actor, dot.seq)
    }
}

impl From<crdts::Dot<ActorId>> for Dot {
    fn from(dot: crdts::Dot<ActorId>) -> Self {
        Self::new(dot.actor, dot.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_actor_reads_back_from_its_text_and_nothing_else_does() {
        let actor = ActorId::new(0x00ab_cdef_0123_4567);
        assert_eq!(actor.to_string(), "00abcdef01234567");
        assert_eq!("00abcdef01234567".parse(), Ok(actor));
        for bad in ["", "abc", "00abcdef0123456z", "+0abcdef01234567", "00abcdef012345678"] {
            assert_eq!(bad.parse::<ActorId>(), Err(ParseActorError), "{bad}");
        }
    }
}
