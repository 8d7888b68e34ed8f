//! Canonical bytes: one encoding per state, bounded decoding.
//!
//! **How it goes.** Integers are LEB128 varints (signed ones zigzagged first), ids are eight bytes big-endian, byte
//! strings carry their length. There is no self-description: what is read is what the reader asks for, and every
//! stored or sent thing begins with a version byte.
//!
//! **What always holds.** E1: a value has one encoding; a longer form of a number, unsorted lists and trailing bytes
//! are refused. E2: a count is checked against the bytes that are left before anything is allocated for it.
//! E3: no input panics.
//!
//! **Why not MessagePack here.** Its decoders accept many encodings of one value, so a digest of bytes would not be a
//! digest of state. Protocol messages, which nobody digests, are MessagePack (`atoll-replication`).

use crate::{ActorId, Dot};
use alloc::vec::Vec;

/// Bytes that are not what we write. The replica is unchanged; whose fault it is depends on where they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("the bytes end early")]
    Truncated,
    /// Something follows the value.
    #[error("bytes follow the value")]
    Trailing,
    /// The value is readable, but written in another form than ours.
    #[error("the encoding is not canonical")]
    NotCanonical,
    /// A length or number is above its bound.
    #[error("a length or number is above its bound of {max}")]
    TooLarge {
        /// The bound.
        max: u64,
    },
    /// An unknown version or kind byte.
    #[error("unknown {what} {value}")]
    Unknown {
        /// What the byte was to tell.
        what: &'static str,
        /// The byte.
        value: u8,
    },
    /// Text that is not UTF-8, or a name against its rules.
    #[error("malformed text")]
    Text,
    /// The checksum does not match: damaged on the way or at rest.
    #[error("the checksum does not match")]
    Checksum,
}

/// Appends canonical bytes to a growing buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer that appends to `bytes`.
    #[must_use]
    pub fn appending(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// What was written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One byte.
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// A varint of 1 to 10 bytes.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A signed number: zigzag, then a varint of 1 to 19 bytes.
    pub fn signed(&mut self, value: i128) {
        let mut zigzag = ((value << 1) ^ (value >> 127)) as u128;
        while zigzag >= 0x80 {
            self.bytes.push((zigzag & 0x7f) as u8 | 0x80);
            zigzag >>= 7;
        }
        self.bytes.push(zigzag as u8);
    }

    /// A count of what follows.
    pub fn length(&mut self, count: usize) {
        self.number(count as u64);
    }

    /// A byte string with its length.
    pub fn bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.bytes.extend_from_slice(value);
    }

    /// Bytes as they are; the reader must know how many.
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// Eight bytes.
    pub fn actor(&mut self, actor: ActorId) {
        self.bytes.extend_from_slice(&actor.get().to_be_bytes());
    }

    /// An actor and a varint.
    pub fn dot(&mut self, dot: Dot) {
        self.actor(dot.actor);
        self.number(dot.seq);
    }
}

/// Reads canonical bytes front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// Something is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }

    /// The next `count` bytes as they are.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// One byte.
    ///
    /// # Errors
    /// None is left.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.raw(1)?[0])
    }

    /// A varint.
    ///
    /// # Errors
    /// Truncated, beyond 64 bits, or longer than needed.
    pub fn number(&mut self) -> Result<u64, DecodeError> {
        u64::try_from(self.varint(64)?).map_err(|_| DecodeError::TooLarge { max: u64::MAX })
    }

    /// A zigzagged number.
    ///
    /// # Errors
    /// Truncated, beyond 128 bits, or longer than needed.
    pub fn signed(&mut self) -> Result<i128, DecodeError> {
        let zigzag = self.varint(128)?;
        Ok((zigzag >> 1) as i128 ^ -((zigzag & 1) as i128))
    }

    fn varint(&mut self, bits: u32) -> Result<u128, DecodeError> {
        let mut value = 0_u128;
        let mut shift = 0_u32;
        loop {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if shift >= bits || (shift + 7 > bits && part >> (bits - shift) != 0) {
                return Err(DecodeError::TooLarge { max: u64::MAX });
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                // E1: the last byte of a longer form would be zero.
                return if byte == 0 && shift > 0 { Err(DecodeError::NotCanonical) } else { Ok(value) };
            }
            shift += 7;
        }
    }

    /// A count of things that take at least `bytes_each` bytes, at most `max` of them.
    ///
    /// # Errors
    /// More than `max`, or more than the bytes that are left can hold.
    pub fn length(&mut self, bytes_each: usize, max: usize) -> Result<usize, DecodeError> {
        let count = self.number()?;
        if count > max as u64 {
            return Err(DecodeError::TooLarge { max: max as u64 });
        }
        // E2
        let count = count as usize;
        if count.saturating_mul(bytes_each) > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    /// A byte string of at most `max` bytes.
    ///
    /// # Errors
    /// Longer than `max`, or truncated.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let count = self.length(1, max)?;
        self.raw(count)
    }

    /// UTF-8 text of at most `max` bytes.
    ///
    /// # Errors
    /// Longer than `max`, truncated, or not UTF-8.
    pub fn text(&mut self, max: usize) -> Result<&'a str, DecodeError> {
        core::str::from_utf8(self.bytes(max)?).map_err(|_| DecodeError::Text)
    }

    /// An actor.
    ///
    /// # Errors
    /// Truncated.
    pub fn actor(&mut self) -> Result<ActorId, DecodeError> {
        let mut raw = [0; 8];
        raw.copy_from_slice(self.raw(8)?);
        Ok(ActorId::new(u64::from_be_bytes(raw)))
    }

    /// A dot; its seq is at least 1 and at most `i64::MAX`, so that counting on never wraps.
    ///
    /// # Errors
    /// Truncated, or a seq out of range.
    pub fn dot(&mut self) -> Result<Dot, DecodeError> {
        let actor = self.actor()?;
        let seq = self.number()?;
        if seq == 0 {
            return Err(DecodeError::NotCanonical);
        }
        if seq > SEQ_MAX {
            return Err(DecodeError::TooLarge { max: SEQ_MAX });
        }
        Ok(Dot::new(actor, seq))
    }
}

/// The highest seq that is believed: a poisoned one near the end of u64 must not make arithmetic wrap.
pub const SEQ_MAX: u64 = i64::MAX as u64;

/// The one encoding of a strictly ascending list of dots.
pub fn write_dots(out: &mut Writer, dots: &[Dot]) {
    out.length(dots.len());
    for dot in dots {
        out.dot(*dot);
    }
}

/// Reads what [`write_dots`] wrote.
///
/// # Errors
/// More than `max`, truncated, or not strictly ascending.
pub fn read_dots(input: &mut Reader<'_>, max: usize) -> Result<Vec<Dot>, DecodeError> {
    let count = input.length(9, max)?;
    let mut dots: Vec<Dot> = Vec::with_capacity(count);
    for _ in 0..count {
        let dot = input.dot()?;
        if dots.last().is_some_and(|last| *last >= dot) {
            return Err(DecodeError::NotCanonical);
        }
        dots.push(dot);
    }
    Ok(dots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back_and_have_one_form(value: u64, signed: i128) {
            let mut out = Writer::new();
            out.number(value);
            out.signed(signed);
            let bytes = out.into_bytes();
            let mut input = Reader::new(&bytes);
            prop_assert_eq!(input.number(), Ok(value));
            prop_assert_eq!(input.signed(), Ok(signed));
            prop_assert_eq!(input.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_that_decode_encode_to_themselves(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            let mut input = Reader::new(&bytes);
            if let Ok(value) = input.signed() {
                let mut out = Writer::new();
                out.signed(value);
                prop_assert_eq!(out.as_bytes(), &bytes[..bytes.len() - input.rest().len()]);
            }
        }
    }

    #[test]
    fn a_longer_form_and_an_overlong_number_are_refused() {
        assert_eq!(Reader::new(&[0x80, 0x00]).number(), Err(DecodeError::NotCanonical));
        assert!(Reader::new(&[0xff; 11]).number().is_err());
        let mut eleven = [0x80; 10];
        eleven[9] = 0x02;
        assert!(matches!(Reader::new(&eleven).number(), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn a_count_beyond_the_bytes_left_is_refused_before_allocation() {
        let mut out = Writer::new();
        out.number(u64::from(u32::MAX));
        let bytes = out.into_bytes();
        assert_eq!(read_dots(&mut Reader::new(&bytes), usize::MAX), Err(DecodeError::Truncated));
        assert_eq!(read_dots(&mut Reader::new(&bytes), 10), Err(DecodeError::TooLarge { max: 10 }));
    }
}
