//! Where records lie: `(actor, seq) → place`, sparse.
//!
//! **What always holds.** X1: the first record of an actor in each segment has a place, and so has every record of it
//! that lies [`STRIDE_BYTES`] or more behind that actor's last place. So a record is found by reading on from the place
//! at or before it, for at most the stride and within one segment. X2: the places of an actor ascend in seq and in
//! position. X3: from [`Index::first`] to [`Index::last`] an actor's records have no gap.
//!
//! Memory: 16 bytes a place; at most one place per actor and stride, or one a record if records are larger or rarer.
//! 10 GiB of journal written by three actors at once: 8 MB.

use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ActorId, Dot};
use atoll_replication::Position;
use std::collections::{BTreeMap, VecDeque};

/// Between two places of one actor, in bytes of the journal. Read from memory, this many cost some 20 µs.
pub(super) const STRIDE_BYTES: u32 = 64 << 10;

const VERSION: u8 = 1;

/// Where the frame of a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Which segment, by the index's own count, which dropped ones take part in.
    segment: u32,
    /// The byte in it.
    pub(super) offset: u32,
}

#[derive(Debug, Default)]
struct ActorPlaces {
    places: Vec<(u64, Place)>,
    last: u64,
}

/// The index of a journal.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// What the segments' numbers stand for.
    segments: VecDeque<Position>,
    /// Segments that were dropped: the number of the first that is there.
    dropped: u32,
    actors: BTreeMap<ActorId, ActorPlaces>,
}

impl Index {
    /// What follows lies in the segment that begins with `first`.
    pub(super) fn begin_segment(&mut self, first: Position) {
        self.segments.push_back(first);
    }

    /// The number of the segment begun last.
    fn current(&self) -> u32 {
        (self.dropped + self.segments.len() as u32).saturating_sub(1)
    }

    /// A record's frame begins at `offset` of the segment begun last.
    pub(super) fn add(&mut self, dot: Dot, offset: u32) {
        let segment = self.current();
        let actor = self.actors.entry(dot.actor).or_default();
        if dot.seq != actor.last + 1 {
            // X3
            actor.places.clear();
        }
        actor.last = dot.seq;
        let near =
            actor.places.last().is_some_and(|(_, last)| last.segment == segment && offset - last.offset < STRIDE_BYTES);
        if !near {
            actor.places.push((dot.seq, Place { segment, offset }));
        }
    }

    /// The lowest seq that can be read.
    pub(super) fn first(&self, actor: ActorId) -> Option<u64> {
        self.actors.get(&actor)?.places.first().map(|(seq, _)| *seq)
    }

    /// The highest.
    pub(super) fn last(&self, actor: ActorId) -> Option<u64> {
        self.actors.get(&actor).map(|actor| actor.last)
    }

    /// Where to begin reading for a record: its segment, and a place at or before it.
    pub(super) fn find(&self, dot: Dot) -> Option<(Position, Place)> {
        let actor = self.actors.get(&dot.actor).filter(|actor| dot.seq <= actor.last)?;
        let after = actor.places.partition_point(|(seq, _)| *seq <= dot.seq);
        let (_, place) = *actor.places.get(after.checked_sub(1)?)?;
        Some((self.segments[(place.segment - self.dropped) as usize], place))
    }

    /// Full segments from the oldest on: the position that each begins with, and the one that follows it.
    pub(super) fn sealed(&self) -> impl Iterator<Item = (Position, Position)> {
        self.segments.iter().copied().zip(self.segments.iter().copied().skip(1))
    }

    /// The newest record of each actor in the `nth` segment. X1: the next place of an actor beyond it says where that ends.
    pub(super) fn newest_in(&self, nth: usize) -> impl Iterator<Item = Dot> {
        let segment = self.dropped + nth as u32;
        self.actors.iter().filter_map(move |(id, actor)| {
            let after = actor.places.partition_point(|(_, place)| place.segment <= segment);
            let (_, last) = actor.places.get(after.checked_sub(1)?)?;
            let newest = actor.places.get(after).map_or(actor.last, |(seq, _)| seq - 1);
            (last.segment == segment).then_some(Dot::new(*id, newest))
        })
    }

    /// Forgets the oldest segment. What was last of an actor stays known, so that a jump is still one.
    pub(super) fn drop_oldest(&mut self) {
        if self.segments.pop_front().is_none() {
            return;
        }
        self.dropped += 1;
        for actor in self.actors.values_mut() {
            let gone = actor.places.partition_point(|(_, place)| place.segment < self.dropped);
            actor.places.drain(..gone);
        }
    }

    /// How many places are kept.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.actors.values().map(|actor| actor.places.len()).sum()
    }

    /// The part of the segment begun last, to be stored beside it when it is full: it ends with `last`, and its frames
    /// end at `end`.
    pub(super) fn encode_segment(&self, last: Position, end: u32) -> Vec<u8> {
        let segment = self.current();
        let first = self.segments.back().copied().unwrap_or_default();
        let mut out = Writer::new();
        out.byte(VERSION);
        out.number(first.0);
        out.number(last.0);
        out.number(u64::from(end));
        for (id, actor) in &self.actors {
            let from = actor.places.partition_point(|(_, place)| place.segment < segment);
            let places = &actor.places[from..];
            if places.is_empty() {
                continue;
            }
            out.actor(*id);
            out.number(actor.last);
            out.length(places.len());
            for (seq, place) in places {
                out.number(*seq);
                out.number(u64::from(place.offset));
            }
        }
        let checksum = crc32fast::hash(out.as_bytes());
        let mut bytes = out.into_bytes();
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Takes in the segment of the entries from `first` to `last` by what [`Self::encode_segment`] stored of it. After an
    /// error nothing of it was taken in.
    pub(super) fn add_segment(&mut self, first: Position, last: Position, stored: &[u8]) -> Result<(), DecodeError> {
        let part = SegmentPart::decode(stored)?;
        if (part.first, part.last) != (first, last) {
            return Err(DecodeError::NotCanonical);
        }
        self.begin_segment(first);
        let segment = self.current();
        for (id, last, places) in part.actors {
            let actor = self.actors.entry(id).or_default();
            if places.first().is_some_and(|(seq, _)| *seq != actor.last + 1) {
                actor.places.clear();
            }
            actor.last = last;
            actor.places.extend(places.into_iter().map(|(seq, offset)| (seq, Place { segment, offset })));
        }
        Ok(())
    }
}

/// A stored index, read and checked as a whole before any of it is believed.
struct SegmentPart {
    first: Position,
    last: Position,
    actors: Vec<ActorPart>,
}

/// An actor's last seq in a segment, and its places there as seq and offset.
type ActorPart = (ActorId, u64, Vec<(u64, u32)>);

impl SegmentPart {
    fn decode(stored: &[u8]) -> Result<Self, DecodeError> {
        let (body, checksum) = stored.split_last_chunk::<4>().ok_or(DecodeError::Truncated)?;
        if crc32fast::hash(body).to_le_bytes() != *checksum {
            return Err(DecodeError::Checksum);
        }
        let mut input = Reader::new(body);
        match input.byte()? {
            VERSION => {}
            value => return Err(DecodeError::Unknown { what: "stored index version", value }),
        }
        let (first, last) = (Position(input.number()?), Position(input.number()?));
        let end = input.number()?;
        let mut actors = Vec::new();
        while !input.is_empty() {
            let (id, actor_last) = (input.actor()?, input.number()?);
            let count = input.length(2, body.len())?;
            let mut places: Vec<(u64, u32)> = Vec::with_capacity(count);
            for _ in 0..count {
                let (seq, offset) = (input.number()?, input.number()?);
                let ascends = places.last().is_none_or(|(s, o)| *s < seq && u64::from(*o) < offset);
                if !ascends || seq > actor_last || offset >= end {
                    return Err(DecodeError::NotCanonical);
                }
                places.push((seq, u32::try_from(offset).map_err(|_| DecodeError::NotCanonical)?));
            }
            actors.push((id, actor_last, places));
        }
        Ok(Self { first, last, actors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ActorId = ActorId::new(1);
    const B: ActorId = ActorId::new(2);

    fn filled() -> Index {
        let mut index = Index::default();
        index.begin_segment(Position(1));
        let mut offset = 32;
        for n in 1..=2_000 {
            index.add(Dot::new(A, n), offset);
            offset += 320;
            if n % 500 == 0 {
                index.add(Dot::new(B, n / 500), offset);
                offset += 320;
            }
        }
        index
    }

    #[test]
    fn a_record_lies_within_a_stride_of_its_place() {
        let index = filled();
        assert!(index.places() < 20, "{}", index.places());
        for n in 1..=2_000_u64 {
            let (segment, place) = index.find(Dot::new(A, n)).expect("it is there");
            let offset = 32 + (n - 1) * 320 + (n - 1) / 500 * 320;
            assert_eq!(segment, Position(1));
            assert!(u64::from(place.offset) <= offset && offset - u64::from(place.offset) < u64::from(STRIDE_BYTES));
        }
        assert_eq!((index.first(B), index.last(B)), (Some(1), Some(4)));
        assert_eq!(index.find(Dot::new(B, 5)), None);
        assert_eq!(index.find(Dot::new(ActorId::new(3), 1)), None);
    }

    #[test]
    fn a_stored_segment_index_reads_back_as_it_was() {
        let index = filled();
        let stored = index.encode_segment(Position(2_004), 700_000);
        let mut back = Index::default();
        assert_eq!(back.add_segment(Position(1), Position(2_004), &stored), Ok(()));
        for n in 1..=2_000 {
            assert_eq!(back.find(Dot::new(A, n)), index.find(Dot::new(A, n)));
        }
        assert_eq!((back.first(B), back.last(B)), (Some(1), Some(4)));
        assert_eq!(back.places(), index.places());
    }

    #[test]
    fn a_damaged_stored_index_is_refused_at_every_byte() {
        let stored = filled().encode_segment(Position(2_004), 700_000);
        for at in 0..stored.len() {
            let mut damaged = stored.clone();
            damaged[at] ^= 0x10;
            let mut index = Index::default();
            assert!(index.add_segment(Position(1), Position(2_004), &damaged).is_err(), "byte {at}");
            assert_eq!(index.places(), 0);
        }
        for (first, last) in [(2, 2_004), (1, 2_003)] {
            let mut index = Index::default();
            assert!(index.add_segment(Position(first), Position(last), &stored).is_err(), "another segment's");
        }
    }

    #[test]
    fn a_log_that_jumps_begins_where_it_landed() {
        let mut index = filled();
        index.add(Dot::new(B, 9), 5_000_000);
        assert_eq!((index.first(B), index.last(B)), (Some(9), Some(9)));
        assert_eq!(index.find(Dot::new(B, 4)), None);
    }
}
