//! Frames: how entries lie in a journal segment.
//!
//! **How it goes.** A frame is a header of sixteen bytes and a body, padded with zeros to a multiple of eight. There are
//! two kinds: an *entry*, and a *mark*, which the commit thread puts in front of everything it writes and which says how
//! far the journal was durable just before. `docs/internals/storage.md` has the byte table.
//!
//! **What always holds.** F1: a frame's checksum covers its length, its position and its body. F2: a length of zero is
//! where writing ended; segments are filled with zeros before they are used. F3: no bytes panic here.
//!
//! **Why marks.** A power cut may keep any of the pages of a write that was not synced, so a bad frame followed by good
//! ones is either an unfinished write (harmless: nobody was told it was durable) or damage to something that was
//! promised. Only a later mark tells the two apart.

use atoll_replication::{Entry, Position, RECORD_BYTES_MAX};

/// Bytes before the body: length, checksum, position.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of a whole mark.
pub(super) const MARK_BYTES: usize = HEADER_BYTES + 8;
/// Every frame begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;

/// Set in the length of a mark.
const MARK_FLAG: u32 = 1 << 31;
/// An entry is its kind and at most one record.
const BODY_BYTES_MAX: usize = RECORD_BYTES_MAX + 64;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The bytes of an entry.
    Entry {
        /// Its number.
        position: Position,
        /// What [`Entry::encode`] wrote.
        body: &'a [u8],
    },
    /// Where a write began.
    Mark {
        /// The entry that follows.
        next: Position,
        /// Everything up to here was durable before this write.
        durable: Position,
    },
}

/// What lies at some offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// A whole frame, and the bytes it takes with its padding.
    Frame(Frame<'a>, usize),
    /// Nothing was written here.
    End,
    /// Something that is no whole frame.
    Bad,
}

/// Bytes an entry's frame takes whose body has `body_bytes`.
pub(super) const fn frame_bytes(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(ALIGNMENT)
}

/// Appends an entry's frame; gives the bytes it takes.
pub(super) fn append_entry(out: &mut Vec<u8>, position: Position, entry: &Entry) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    entry.encode(out);
    let body_bytes = out.len() - start - HEADER_BYTES;
    debug_assert!((1..=BODY_BYTES_MAX).contains(&body_bytes), "an entry is at most one record");
    seal(&mut out[start..], body_bytes as u32, position);
    out.resize(start + frame_bytes(body_bytes), 0);
    out.len() - start
}

/// Appends room for a mark, to be filled by [`fill_mark`] when its write begins.
pub(super) fn reserve_mark(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; MARK_BYTES]);
}

/// Writes a mark over the first [`MARK_BYTES`] of `out`.
pub(super) fn fill_mark(out: &mut [u8], next: Position, durable: Position) {
    out[HEADER_BYTES..MARK_BYTES].copy_from_slice(&durable.0.to_le_bytes());
    seal(&mut out[..MARK_BYTES], MARK_FLAG | 8, next);
}

/// Fills in the header of a frame whose body is in place. F1
fn seal(frame: &mut [u8], length: u32, position: Position) {
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[8..HEADER_BYTES].copy_from_slice(&position.0.to_le_bytes());
    let checksum = checksum(frame);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// The length that a header claims, if it is one that we write: whether it is a mark, and the bytes of its body.
fn claimed(header: &[u8]) -> Option<(bool, usize)> {
    let length = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
    let (is_mark, body_bytes) = (length & MARK_FLAG != 0, (length & !MARK_FLAG) as usize);
    let valid = if is_mark { body_bytes == 8 } else { (1..=BODY_BYTES_MAX).contains(&body_bytes) };
    valid.then_some((is_mark, body_bytes))
}

/// Bytes of the whole frame whose header is at the front, as far as the header can be believed without its checksum.
pub(super) fn claimed_bytes(header: &[u8]) -> Option<usize> {
    claimed(header).map(|(_, body_bytes)| frame_bytes(body_bytes))
}

/// Reads the frame at the front of `bytes`, which reach to the end of the segment. F3
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return if bytes.iter().all(|b| *b == 0) { Parsed::End } else { Parsed::Bad };
    };
    if header[..4] == [0; 4] {
        return Parsed::End;
    }
    let Some((is_mark, body_bytes)) = claimed(header) else { return Parsed::Bad };
    let Some(frame) = bytes.get(..HEADER_BYTES + body_bytes) else { return Parsed::Bad };
    if number(&frame[4..8]) != u64::from(checksum(frame)) {
        return Parsed::Bad;
    }
    let (position, body) = (Position(number(&frame[8..HEADER_BYTES])), &frame[HEADER_BYTES..]);
    let parsed = if is_mark {
        Frame::Mark { next: position, durable: Position(number(body)) }
    } else {
        Frame::Entry { position, body }
    };
    // The file of an oversized segment may end before the padding does.
    Parsed::Frame(parsed, frame_bytes(body_bytes).min(bytes.len()))
}

/// The position that a header claims.
pub(super) fn claimed_position(bytes: &[u8]) -> Option<Position> {
    bytes.get(8..HEADER_BYTES).map(|raw| Position(number(raw)))
}

/// At most eight bytes, little-endian.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::Hlc;
    use proptest::prelude::*;

    fn framed(position: u64, ms: u64) -> Vec<u8> {
        let mut out = Vec::new();
        append_entry(&mut out, Position(position), &Entry::Ceiling(Hlc::at_ms(ms)));
        out
    }

    #[test]
    fn an_entry_and_a_mark_read_back() {
        let mut out = Vec::new();
        reserve_mark(&mut out);
        let taken = append_entry(&mut out, Position(7), &Entry::Ceiling(Hlc::at_ms(9)));
        fill_mark(&mut out, Position(7), Position(6));
        assert_eq!(out.len(), MARK_BYTES + taken);
        assert_eq!(parse(&out), Parsed::Frame(Frame::Mark { next: Position(7), durable: Position(6) }, MARK_BYTES));
        let Parsed::Frame(Frame::Entry { position, body }, bytes) = parse(&out[MARK_BYTES..]) else {
            panic!("no entry");
        };
        assert_eq!((position, bytes), (Position(7), taken));
        assert_eq!(Entry::decode(body), Ok(Entry::Ceiling(Hlc::at_ms(9))));
    }

    #[test]
    fn zeros_are_the_end_and_a_cut_frame_is_bad() {
        assert_eq!(parse(&[0; 64]), Parsed::End);
        assert_eq!(parse(&[]), Parsed::End);
        let whole = framed(1, 5);
        for cut in 1..HEADER_BYTES + 2 {
            assert_eq!(parse(&whole[..cut]), Parsed::Bad, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn one_flipped_bit_is_always_noticed(ms in any::<u32>(), bit in any::<prop::sample::Index>()) {
            let whole = framed(3, u64::from(ms));
            let Parsed::Frame(frame, _) = parse(&whole) else { panic!("no frame") };
            let mut damaged = whole.clone();
            let bit = bit.index(whole.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Padding is not part of the frame; whoever needs it to be zero looks at it.
            let Parsed::Frame(read, _) = parse(&damaged) else { return Ok(()) };
            prop_assert_eq!(read, frame);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            let _ = parse(&bytes);
            let _ = claimed_bytes(&bytes);
        }
    }
}
