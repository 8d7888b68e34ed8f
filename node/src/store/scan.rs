//! Reading a segment from its beginning: what is whole, what was never finished, what is damaged.
//!
//! **How it goes.** Frames are read in order until one is not whole. If nothing but zeros follows, the segment ends
//! there. Else every later aligned offset is tried for a whole frame, and the marks found decide: one that says "durable
//! up to at least the missing entry" proves that something promised is gone.
//!
//! **What always holds.** N1: an entry that was reported durable is never dropped by this: its absence is *damage*, as
//! long as anything was written after it was reported. N2: only the last segment that holds anything may end in an
//! unfinished write.

use super::frame::{self, Frame, Parsed};
use super::segment;
use atoll_replication::Position;

/// How the frames of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing follows.
    Clean,
    /// A write that was never finished, and was not reported durable, takes this many bytes.
    Torn(u64),
    /// The entry expected here was durable, and is gone.
    Damaged,
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The entry that would follow.
    pub(super) next: Position,
    /// Where it would begin.
    pub(super) end: usize,
    /// What is there instead.
    pub(super) ending: Ending,
    /// The highest position that a mark found here says was durable.
    pub(super) durable: Position,
}

/// Reads a whole segment that begins with `first`, calling `entry` with the position, offset and body of each.
pub(super) fn scan<E>(
    bytes: &[u8],
    first: Position,
    mut entry: impl FnMut(Position, usize, &[u8]) -> Result<(), E>,
) -> Result<Scanned, E> {
    let mut at = segment::HEADER_BYTES.min(bytes.len());
    let (mut next, mut durable) = (first, Position(0));
    loop {
        match frame::parse(&bytes[at..]) {
            Parsed::Frame(Frame::Entry { position, body }, taken) if position == next => {
                entry(position, at, body)?;
                next = Position(next.0 + 1);
                at += taken;
            }
            Parsed::Frame(Frame::Mark { next: follows, durable: mark }, taken) if follows == next => {
                durable = durable.max(mark);
                at += taken;
            }
            _ => break,
        }
    }
    let ending = ending(&bytes[at..], next, &mut durable);
    Ok(Scanned { next, end: at, ending, durable })
}

/// What is behind the last whole frame, when entry `missing` should be.
fn ending(rest: &[u8], missing: Position, durable: &mut Position) -> Ending {
    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Ending::Clean };
    let written = last + 1;
    // No later frame can have a position beyond this: it takes at least a header.
    let highest = missing.0 + (rest.len() / frame::HEADER_BYTES) as u64;
    for at in (0..written).step_by(frame::ALIGNMENT) {
        let claimed = frame::claimed_position(&rest[at..]);
        if !claimed.is_some_and(|position| (missing.0..=highest).contains(&position.0)) {
            continue;
        }
        if let Parsed::Frame(Frame::Mark { durable: mark, .. }, _) = frame::parse(&rest[at..]) {
            *durable = (*durable).max(mark);
        }
    }
    if *durable >= missing { Ending::Damaged } else { Ending::Torn(written as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::Hlc;
    use atoll_replication::Entry;
    use std::convert::Infallible;

    /// A segment of writes, each of as many entries as told, each synced before the next.
    fn written(writes: &[u64]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut next) = (vec![0; segment::HEADER_BYTES], 1);
        let mut ends = Vec::new();
        for count in writes {
            let start = bytes.len();
            frame::reserve_mark(&mut bytes);
            frame::fill_mark(&mut bytes[start..], Position(next), Position(next - 1));
            for _ in 0..*count {
                frame::append_entry(&mut bytes, Position(next), &Entry::Ceiling(Hlc::at_ms(next << 20)));
                next += 1;
                ends.push(bytes.len());
            }
        }
        (bytes, ends)
    }

    fn scanned(bytes: &[u8]) -> (Scanned, u64) {
        let mut count = 0;
        let scanned = scan(bytes, Position(1), |position, _, body| {
            count += 1;
            assert_eq!(position, Position(count));
            assert_eq!(Entry::decode(body), Ok(Entry::Ceiling(Hlc::at_ms(count << 20))));
            Ok::<_, Infallible>(())
        });
        let Ok(scanned) = scanned;
        (scanned, count)
    }

    #[test]
    fn a_whole_segment_ends_cleanly_in_its_zeros_or_at_its_last_byte() {
        let (mut bytes, ends) = written(&[2, 3]);
        let whole = bytes.len();
        assert_eq!(ends.last(), Some(&whole));
        assert_eq!((scanned(&bytes).0.ending, scanned(&bytes).1), (Ending::Clean, 5));
        bytes.resize(whole + 999, 0);
        let (found, count) = scanned(&bytes);
        assert_eq!((found.ending, found.end, found.next, count), (Ending::Clean, whole, Position(6), 5));
        assert_eq!(found.durable, Position(2));
    }

    #[test]
    fn the_last_write_torn_at_any_byte_is_cut_to_its_whole_frames() {
        let (bytes, ends) = written(&[2, 3]);
        for cut in ends[1]..bytes.len() {
            let mut torn = bytes.clone();
            torn[cut..].fill(0);
            torn.resize(bytes.len() + 100, 0);
            let (found, count) = scanned(&torn);
            let kept = ends.iter().filter(|end| **end <= cut).count() as u64;
            // Cut inside its padding of zeros, a frame is whole.
            assert!(count == kept || count == kept + 1, "cut at {cut}: {count} of {kept}");
            assert_ne!(found.ending, Ending::Damaged, "cut at {cut}");
            assert!(found.end <= cut.next_multiple_of(8));
        }
    }

    #[test]
    fn any_pages_of_the_last_write_may_be_missing_without_an_alarm() {
        let (bytes, ends) = written(&[2, 3]);
        let mut torn = bytes.clone();
        // Without its first frame; then without its mark too.
        for from in [ends[1] + frame::MARK_BYTES, ends[1]] {
            torn[from..ends[2]].fill(0);
            let (found, count) = scanned(&torn);
            assert!(matches!(found.ending, Ending::Torn(_)), "{found:?}");
            assert_eq!((found.next, count), (Position(3), 2));
        }
    }

    #[test]
    fn a_flipped_bit_below_a_later_mark_is_damage_at_every_byte() {
        let (bytes, ends) = written(&[2, 3, 1]);
        for at in segment::HEADER_BYTES..ends[4] {
            for bit in [0, 3, 7] {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let (found, count) = scanned(&damaged);
                let lost_something = count < 6;
                assert_eq!(found.ending == Ending::Damaged, lost_something, "byte {at} bit {bit}: {found:?}");
                // Only padding may change without harm.
                assert!(lost_something || bytes[at] == 0, "byte {at}");
            }
        }
    }

    #[test]
    fn a_length_that_became_zero_is_no_end_while_frames_follow() {
        let (mut bytes, ends) = written(&[2, 3, 1]);
        bytes[ends[0]..ends[0] + 4].fill(0);
        let (found, count) = scanned(&bytes);
        assert_eq!((found.ending, found.end, count), (Ending::Damaged, ends[0], 1));
    }
}
