//! What a dot carries in a row.
//!
//! **What always holds.** P1: a row holds only payloads of its own type ([`Payload::fits`]); bytes from outside that say
//! otherwise are refused. P2: equal payloads have equal bytes.

use crate::codec::{DecodeError, Reader, Writer};
use crate::{ActorId, DataType, Hlc, LeafKind, RowKey, VersionVector};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// Bytes of a register's value or a map's JSON value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// How much of one actor's total a reset had seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor {
    /// The seq of the dot under which that total stood.
    pub seq: u64,
    /// The total.
    pub total: i128,
}

/// What a dot carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A register's value.
    Value {
        /// When, by its writer's clock: decides between concurrent writes only.
        at: Hlc,
        /// As the writer named it.
        content_type: Arc<str>,
        /// As the writer put it.
        bytes: Arc<[u8]>,
    },
    /// A map's value: JSON text.
    Leaf {
        /// When, by its writer's clock.
        at: Hlc,
        /// One JSON value.
        json: Arc<[u8]>,
    },
    /// A set member is there.
    Member,
    /// A flag's state.
    Flag(bool),
    /// A part of a counter.
    Count(Count),
}

/// Per actor, how much of its total resets had seen.
pub type Floors = BTreeMap<ActorId, Floor>;

/// A part of a counter: an actor's running total, or what a reset had seen, or (in one batch) both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Count {
    /// The running total of the dot's actor.
    pub run: Option<Run>,
    /// The marker that a reset leaves; empty without one.
    pub floors: Arc<Floors>,
}

/// An actor's running total of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The seq at which this run of the total began: a floor cuts only runs that were born before it.
    pub birth: u64,
    /// Sum of that actor's increments since.
    pub total: i128,
}

impl Payload {
    /// Whether a row of this key may hold it. P1
    #[must_use]
    pub fn fits(&self, key: &RowKey) -> bool {
        match (key.data_type(), key.leaf_kind()) {
            (DataType::Register, _) => matches!(self, Self::Value { .. }),
            (DataType::Counter, _) | (DataType::Map, Some(LeafKind::Counter)) => {
                matches!(self, Self::Count(_))
            }
            (DataType::Set, _) | (DataType::Map, Some(LeafKind::Member)) => matches!(self, Self::Member),
            (DataType::Map, _) => matches!(self, Self::Leaf { .. }),
            (DataType::Flag, _) => matches!(self, Self::Flag(_)),
        }
    }

    /// Bytes it holds beyond the row's own, for accounting.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Value { content_type, bytes, .. } => content_type.len() + bytes.len(),
            Self::Leaf { json, .. } => json.len(),
            Self::Count(count) => count.floors.len() * 48,
            Self::Member | Self::Flag(_) => 0,
        }
    }

    /// Appends the canonical bytes.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Self::Value { at, content_type, bytes } => {
                out.byte(1);
                out.number(at.to_bits());
                out.bytes(content_type.as_bytes());
                out.bytes(bytes);
            }
            Self::Leaf { at, json } => {
                out.byte(2);
                out.number(at.to_bits());
                out.bytes(json);
            }
            Self::Member => out.byte(3),
            Self::Flag(enabled) => out.byte(if *enabled { 5 } else { 4 }),
            Self::Count(count) => {
                out.byte(6 + u8::from(count.run.is_some()));
                if let Some(run) = count.run {
                    out.number(run.birth);
                    out.signed(run.total);
                }
                encode_floors(out, &count.floors);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are not canonical, or beyond a bound.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.byte()? {
            1 => Self::Value {
                at: Hlc::from_bits(input.number()?),
                content_type: input.text(CONTENT_TYPE_BYTES_MAX)?.into(),
                bytes: input.bytes(VALUE_BYTES_MAX)?.into(),
            },
            2 => Self::Leaf { at: Hlc::from_bits(input.number()?), json: input.bytes(VALUE_BYTES_MAX)?.into() },
            3 => Self::Member,
            4 => Self::Flag(false),
            5 => Self::Flag(true),
            6 => Self::Count(Count { run: None, floors: Arc::new(decode_floors(input)?) }),
            7 => {
                let run = Run { birth: input.number()?, total: input.signed()? };
                Self::Count(Count { run: Some(run), floors: Arc::new(decode_floors(input)?) })
            }
            value => return Err(DecodeError::Unknown { what: "payload", value }),
        })
    }
}

/// Appends floors: a count, then actor, seq and total of each in order.
pub fn encode_floors(out: &mut Writer, floors: &Floors) {
    out.length(floors.len());
    for (actor, floor) in floors {
        out.actor(*actor);
        out.number(floor.seq);
        out.signed(floor.total);
    }
}

/// Reads what [`encode_floors`] wrote.
///
/// # Errors
/// Truncated, out of order, or too many.
pub fn decode_floors(input: &mut Reader<'_>) -> Result<Floors, DecodeError> {
    let count = input.length(10, VersionVector::ACTORS_MAX)?;
    let mut floors = Floors::new();
    for _ in 0..count {
        let actor = input.actor()?;
        if floors.last_key_value().is_some_and(|(last, _)| *last >= actor) {
            return Err(DecodeError::NotCanonical);
        }
        floors.insert(actor, Floor { seq: input.number()?, total: input.signed()? });
    }
    Ok(floors)
}
