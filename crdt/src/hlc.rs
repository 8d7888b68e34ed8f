//! Hybrid logical time: stamps that order truly concurrent writes, and nothing else.
//!
//! **How it goes.** A stamp is 48 bits of milliseconds and 16 bits of counter. [`HlcClock::stamp`] gives the next one
//! from the wall reading it is told; [`HlcClock::observe`] learns of a peer's stamp.
//!
//! **What always holds.** H1: stamps of one clock strictly ascend, across restarts too: none is above the ceiling that
//! its owner has stored, and a restart begins above it. H2: a stamp is never more than [`DRIFT_MAX_MS`] ahead of the
//! wall reading, except within what H1 forces after a restart. H3: a peer's stamp moves this clock by at most
//! [`DRIFT_MAX_MS`] beyond the wall, so one bad clock poisons nobody else's.
//!
//! **What is not here.** The wall clock, and the median of peers' offsets against which a node refuses LWW writes.

use core::fmt;

/// How far a stamp may be ahead of the wall clock, in milliseconds: beyond it a peer's record is parked.
pub const DRIFT_MAX_MS: u64 = 500;

/// How far ahead of the wall a ceiling is stored, in milliseconds: one small write a second. After a crash the stamps
/// begin up to this far ahead, and peers park what is more than [`DRIFT_MAX_MS`] ahead of them: so it is short.
const CEILING_MS: u64 = 1_500;

/// Room above the last stamp where the wall is behind it, in milliseconds: each holds 65,536 stamps. A process that
/// crashes over and over moves its stamps ahead by no more than this each time.
const ROOM_MS: u64 = 10;

const COUNTER_BITS: u32 = 16;
const MS_MAX: u64 = (1 << 48) - 1;

/// One stamp: 48-bit milliseconds since 1970, 16-bit counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(u64);

impl Hlc {
    /// A stamp from its encoded number.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The number that is encoded.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The first stamp of a millisecond; beyond 48 bits the last one.
    #[must_use]
    pub const fn at_ms(ms: u64) -> Self {
        Self((if ms > MS_MAX { MS_MAX } else { ms }) << COUNTER_BITS)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.ms(), self.0 & 0xffff)
    }
}

/// Why no stamp was given. The clock is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// The wall clock stepped back (environment): stamps already given are too far ahead of it.
    #[error("the wall clock is {ahead_ms} ms behind stamps already given; wait, or correct the clock")]
    SteppedBack {
        /// How far the last stamp is ahead, in milliseconds.
        ahead_ms: u64,
    },
    /// The stored ceiling is reached (driver): store a higher one and call [`HlcClock::raise_ceiling`].
    #[error("the stored ceiling is reached; a higher one must be stored first")]
    CeilingReached,
    /// A peer's stamp is too far in the future (peer): park its stream.
    #[error("a peer's stamp is {ahead_ms} ms ahead of this node's clock")]
    PeerAhead {
        /// How far it is ahead, in milliseconds.
        ahead_ms: u64,
    },
}

/// The clock of one node.
#[derive(Debug, Clone)]
pub struct HlcClock {
    last: Hlc,
    /// The highest stamp that may be given before a higher ceiling is stored.
    ceiling: Hlc,
    /// Where this clock began: after a restart that may be ahead of the wall by what was stored.
    floor: Hlc,
}

impl HlcClock {
    /// The ceiling to store when `last` was the last stamp, or may have been.
    #[must_use]
    pub fn next_ceiling(wall_ms: u64, last: Hlc) -> Hlc {
        Hlc::at_ms((wall_ms + CEILING_MS).max(last.ms() + ROOM_MS))
    }

    /// A clock that begins above `stored_ceiling` (zero for a new disk) and may go up to `ceiling`.
    #[must_use]
    pub fn restart(stored_ceiling: Hlc, ceiling: Hlc) -> Self {
        Self { last: stored_ceiling, ceiling: ceiling.max(stored_ceiling), floor: stored_ceiling }
    }

    /// The last stamp given or observed.
    #[must_use]
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// The ceiling that was stored.
    #[must_use]
    pub fn ceiling(&self) -> Hlc {
        self.ceiling
    }

    /// Whether a higher ceiling should be stored soon: less than a third of the room is left.
    #[must_use]
    pub fn wants_ceiling(&self, wall_ms: u64) -> bool {
        self.ceiling.ms() < (wall_ms + CEILING_MS / 3).max(self.last.ms() + ROOM_MS / 3)
    }

    /// The caller has stored `ceiling` durably.
    pub fn raise_ceiling(&mut self, ceiling: Hlc) {
        self.ceiling = self.ceiling.max(ceiling);
    }

    /// The next stamp.
    ///
    /// # Errors
    /// The wall stepped back by more than [`DRIFT_MAX_MS`], or the ceiling is reached.
    pub fn stamp(&mut self, wall_ms: u64) -> Result<Hlc, ClockError> {
        let next = Hlc(self.last.0 + 1).max(Hlc::at_ms(wall_ms));
        let ahead_ms = next.ms().saturating_sub(wall_ms);
        // H2: what H1 forced at the start is no fault of the wall clock.
        if ahead_ms > DRIFT_MAX_MS && next.ms() > self.floor.ms() + DRIFT_MAX_MS {
            return Err(ClockError::SteppedBack { ahead_ms });
        }
        if next > self.ceiling {
            return Err(ClockError::CeilingReached);
        }
        self.last = next;
        Ok(next)
    }

    /// Learns of a peer's stamp, so that what follows it here is stamped after it.
    ///
    /// # Errors
    /// The stamp is too far ahead of the wall; the clock is unchanged.
    pub fn observe(&mut self, stamp: Hlc, wall_ms: u64) -> Result<(), ClockError> {
        check_not_ahead(stamp, wall_ms)?;
        // H1: never above what is stored; the next stamp then comes from the wall or waits for a ceiling.
        self.last = self.last.max(stamp.min(self.ceiling));
        Ok(())
    }
}

/// Whether a peer's stamp is believable at this wall reading.
///
/// # Errors
/// It is more than [`DRIFT_MAX_MS`] ahead.
pub fn check_not_ahead(stamp: Hlc, wall_ms: u64) -> Result<(), ClockError> {
    let ahead_ms = stamp.ms().saturating_sub(wall_ms);
    if ahead_ms > DRIFT_MAX_MS { Err(ClockError::PeerAhead { ahead_ms }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clock(wall_ms: u64) -> HlcClock {
        HlcClock::restart(Hlc::default(), Hlc::at_ms(wall_ms + CEILING_MS))
    }

    #[test]
    fn stamps_follow_the_wall_and_count_within_a_millisecond() {
        let mut clock = clock(1_000);
        let first = clock.stamp(1_000).unwrap();
        let second = clock.stamp(1_000).unwrap();
        assert_eq!((first.ms(), second.ms()), (1_000, 1_000));
        assert!(second > first);
        assert_eq!(clock.stamp(1_001).unwrap(), Hlc::at_ms(1_001));
    }

    #[test]
    fn a_wall_that_stepped_back_far_is_an_error_and_a_little_is_not() {
        let mut clock = clock(10_000);
        clock.stamp(10_000).unwrap();
        assert!(clock.stamp(9_600).unwrap() > Hlc::at_ms(10_000));
        assert_eq!(clock.stamp(9_000), Err(ClockError::SteppedBack { ahead_ms: 1_000 }));
        assert!(clock.stamp(10_001).is_ok());
    }

    #[test]
    fn no_stamp_is_given_above_the_stored_ceiling() {
        let mut clock = clock(1_000);
        assert_eq!(clock.stamp(1_000 + CEILING_MS + 1), Err(ClockError::CeilingReached));
        assert!(!clock.wants_ceiling(1_000) && clock.wants_ceiling(1_000 + CEILING_MS - 400));
        clock.raise_ceiling(Hlc::at_ms(9_000));
        assert!(clock.stamp(1_000 + CEILING_MS + 1).is_ok());
    }

    #[test]
    fn a_restart_begins_above_the_stored_ceiling_even_when_the_wall_is_behind_it() {
        let mut before = clock(1_000);
        let last = before.stamp(1_000).unwrap();
        let mut after = HlcClock::restart(before.ceiling(), HlcClock::next_ceiling(1_001, before.ceiling()));
        let first = after.stamp(1_001).unwrap();
        assert!(first > last && first > before.ceiling());
    }

    #[test]
    fn a_process_that_crashes_over_and_over_does_not_run_away_from_the_wall() {
        let mut ceiling = Hlc::at_ms(1_000 + CEILING_MS);
        for round in 0..100 {
            let wall_ms = 1_000 + 20 * round;
            let mut clock = HlcClock::restart(ceiling, HlcClock::next_ceiling(wall_ms, ceiling));
            assert!(clock.stamp(wall_ms).unwrap().ms() <= wall_ms + CEILING_MS + ROOM_MS);
            ceiling = clock.ceiling();
        }
    }

    #[test]
    fn a_peers_stamp_far_ahead_is_refused_and_moves_nothing() {
        let mut clock = clock(1_000);
        assert_eq!(clock.observe(Hlc::at_ms(1_501), 1_000), Err(ClockError::PeerAhead { ahead_ms: 501 }));
        assert_eq!(clock.last(), Hlc::default());
        clock.observe(Hlc::at_ms(1_400), 1_000).unwrap();
        assert!(clock.stamp(1_000).unwrap() > Hlc::at_ms(1_400));
    }

    proptest! {
        #[test]
        fn stamps_ascend_whatever_the_wall_and_the_peers_do(
            steps in proptest::collection::vec((0_u64..4_000, proptest::option::of(0_u64..4_000), any::<bool>()), 1..60)
        ) {
            let mut clock = HlcClock::restart(Hlc::default(), Hlc::at_ms(1_000));
            let mut last = None;
            for (wall, peer, restart) in steps {
                if restart {
                    clock = HlcClock::restart(clock.ceiling(), Hlc::at_ms(wall.max(clock.ceiling().ms()) + 500));
                }
                if let Some(peer) = peer {
                    let _ = clock.observe(Hlc::at_ms(peer), wall);
                }
                if let Ok(stamp) = clock.stamp(wall) {
                    prop_assert!(last.is_none_or(|l| stamp > l));
                    prop_assert!(stamp <= clock.ceiling());
                    last = Some(stamp);
                }
            }
        }
    }
}
