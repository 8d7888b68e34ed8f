//! Records: what a log consists of, and travels between nodes verbatim.
//!
//! ```text
//! record = version 1 | dot | stamp | deps | count | operations | crc32 (4 bytes, big-endian) of all before
//! ```
//!
//! **What always holds.** E1: `deps` is the writer's whole causal context, less what the same actor's previous record
//! already depended on and that record itself; so a replica that has applied the previous record and covers `deps`
//! covers everything the writer had seen. E2: the bytes of a dot are the same everywhere, for ever: whoever relays a
//! record relays its bytes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{Dot, Hlc, Op, VersionVector};

/// Bytes of one encoded record.
pub const RECORD_BYTES_MAX: usize = 4 << 20;

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// One write, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub dot: Dot,
    /// When, by its writer's clock.
    pub at: Hlc,
    /// What must be applied before it, beyond the same actor's previous record.
    pub deps: VersionVector,
    /// What it does, atomically.
    pub ops: Vec<Op>,
}

impl Record {
    /// Whether what it kills is in a context that covers its dependencies, as everything a truthful writer had seen is:
    /// the context stays closed under kills. One that is not would kill what has yet to arrive.
    #[must_use]
    pub fn is_closed_in(&self, context: &VersionVector) -> bool {
        self.ops.iter().all(|op| match op {
            Op::Row(op) => op.kills.iter().all(|dot| context.covers(*dot)),
            Op::Clear(clear) => clear.context.leq(context),
        })
    }
}

/// A record as bytes that were checked: the checksum matches and the header reads.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBytes {
    dot: Dot,
    at: Hlc,
    bytes: Arc<[u8]>,
}

impl Record {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> RecordBytes {
        let mut out = Writer::new();
        out.byte(VERSION);
        out.dot(self.dot);
        out.number(self.at.to_bits());
        self.deps.encode(&mut out);
        out.length(self.ops.len());
        for op in &self.ops {
            op.encode(&mut out);
        }
        let checksum = crc32fast::hash(out.as_bytes());
        out.raw(&checksum.to_be_bytes());
        RecordBytes { dot: self.dot, at: self.at, bytes: out.into_bytes().into() }
    }
}

impl RecordBytes {
    /// Checks bytes from a peer or a disk: length, checksum and header, not yet the operations.
    ///
    /// # Errors
    /// They are no record, or damaged.
    pub fn check(bytes: Arc<[u8]>) -> Result<Self, DecodeError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(DecodeError::TooLarge { max: RECORD_BYTES_MAX as u64 });
        }
        let body = body(&bytes)?;
        let mut input = Reader::new(body);
        match input.byte()? {
            VERSION => {}
            value => return Err(DecodeError::Unknown { what: "record version", value }),
        }
        let dot = input.dot()?;
        let at = Hlc::from_bits(input.number()?);
        Ok(Self { dot, at, bytes })
    }

    /// The record's name.
    #[must_use]
    pub fn dot(&self) -> Dot {
        self.dot
    }

    /// The record's stamp.
    #[must_use]
    pub fn at(&self) -> Hlc {
        self.at
    }

    /// The bytes, to be relayed and stored as they are.
    #[must_use]
    pub fn as_bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Decodes all of it.
    ///
    /// # Errors
    /// The operations are not canonical, or beyond a bound.
    pub fn decode(&self) -> Result<Record, DecodeError> {
        let mut input = Reader::new(body(&self.bytes)?);
        input.byte()?;
        let (dot, at) = (input.dot()?, Hlc::from_bits(input.number()?));
        let deps = VersionVector::decode(&mut input)?;
        let count = input.length(3, RECORD_BYTES_MAX)?;
        let mut ops = Vec::with_capacity(count.min(1_024));
        for _ in 0..count {
            ops.push(Op::decode(&mut input)?);
        }
        input.finish()?;
        Ok(Record { dot, at, deps, ops })
    }
}

/// What is before the checksum, if that matches.
fn body(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let (body, checksum) =
        bytes.len().checked_sub(CHECKSUM_BYTES).map(|at| bytes.split_at(at)).ok_or(DecodeError::Truncated)?;
    if crc32fast::hash(body).to_be_bytes() == checksum { Ok(body) } else { Err(DecodeError::Checksum) }
}

impl core::fmt::Debug for RecordBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "record {} of {} bytes", self.dot, self.bytes.len())
    }
}
