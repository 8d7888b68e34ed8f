//! Journal entries: the unit in which state changes (S1).
//!
//! The store frames, checksums and syncs them; what they mean is decided here. A journal that holds a kind unknown
//! to this build is not opened.

use crate::adoption::Adoption;
use crate::aside::LayerId;
use crate::record::RecordBytes;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ActorId, Hlc};

/// A process began, and will write as this actor. Said again by one that had yet to join, once it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Freshly minted.
    pub actor: ActorId,
    /// Stamps up to here may be given before a higher ceiling is stored.
    pub ceiling: Hlc,
    /// When the node's data was founded, by the wall clock in milliseconds: no write in it is older. `None` while the node has not
    /// got what there was when it joined: what it holds is no state to serve.
    pub founded_ms: Option<u64>,
}

impl Start {
    /// [`Self::founded_ms`] as it is stored: zero for none.
    #[must_use]
    pub fn stored_founded_ms(&self) -> u64 {
        self.founded_ms.unwrap_or(0)
    }

    /// What [`Self::stored_founded_ms`] told.
    #[must_use]
    pub fn founded_of_stored(ms: u64) -> Option<u64> {
        (ms > 0).then_some(ms)
    }
}

/// One change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A process began.
    Start(Start),
    /// Stamps up to here may be given.
    Ceiling(Hlc),
    /// A record of any actor, verbatim.
    Record(RecordBytes),
    /// The end of a reconciliation.
    Adopt(Arc<Adoption>),
}

impl Entry {
    /// Appends the bytes to a journal frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::appending(core::mem::take(out));
        match self {
            Self::Start(start) => {
                writer.byte(1);
                writer.actor(start.actor);
                writer.number(start.ceiling.to_bits());
                writer.number(start.stored_founded_ms());
            }
            Self::Ceiling(ceiling) => {
                writer.byte(2);
                writer.number(ceiling.to_bits());
            }
            Self::Record(record) => {
                writer.byte(3);
                writer.raw(record.as_bytes());
            }
            Self::Adopt(adoption) => {
                match adoption.layer {
                    None => writer.byte(4),
                    Some(layer) => {
                        writer.byte(5);
                        writer.number(layer.0);
                    }
                }
                adoption.encode(&mut writer);
            }
        }
        *out = writer.into_bytes();
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are no entry of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let entry = match input.byte()? {
            1 => Self::Start(Start {
                actor: input.actor()?,
                ceiling: Hlc::from_bits(input.number()?),
                founded_ms: Start::founded_of_stored(input.number()?),
            }),
            2 => Self::Ceiling(Hlc::from_bits(input.number()?)),
            3 => return RecordBytes::check(input.rest().into()).map(Self::Record),
            4 => Self::Adopt(Arc::new(Adoption::decode(None, &mut input)?)),
            5 => {
                let layer = LayerId(input.number()?);
                Self::Adopt(Arc::new(Adoption::decode(Some(layer), &mut input)?))
            }
            value => return Err(DecodeError::Unknown { what: "journal entry", value }),
        };
        input.finish()?;
        Ok(entry)
    }
}
