//! Heartbeats from version 2 on: what changed and a digest of the whole, so that they stay small after any number of
//! restarts.
//!
//! **What always holds.** B1: a vector of which a digest agrees is the one that was digested: 64 bits of BLAKE3, between
//! members. B2: all of a [`Beat`] was so at one moment.

use crate::link::LogState;
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ActorId, VersionVector};

/// Processes that a beat may name: more than a cluster has members.
const LINKS_MAX: usize = 4_096;
const DIGEST_BYTES: usize = 8;

/// Vectors, told apart from all others. Cost: O(actors).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorDigest(u64);

impl VectorDigest {
    /// Of some vectors in this order.
    #[must_use]
    pub fn of<const N: usize>(vectors: [&VersionVector; N]) -> Self {
        let mut bytes = Writer::new();
        for vector in vectors {
            vector.encode(&mut bytes);
        }
        let hash = blake3::hash(bytes.as_bytes());
        let mut first = [0; DIGEST_BYTES];
        first.copy_from_slice(&hash.as_bytes()[..DIGEST_BYTES]);
        Self(u64::from_be_bytes(first))
    }

    pub(super) fn encode(self, out: &mut Writer) {
        out.raw(&self.0.to_be_bytes());
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut bytes = [0; DIGEST_BYTES];
        bytes.copy_from_slice(input.raw(DIGEST_BYTES)?);
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

/// The answer to a [`super::Message::Probe`]. B2
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// From the probe.
    pub sent_us: u64,
    /// The answerer's wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// What has become durable at the answerer since it last told the asker; all that is, if the asker wanted that.
    pub news: VersionVector,
    /// What there is to say of its log, where that has changed or the asker wanted it.
    pub log: Option<LogState>,
    /// All that it holds durably and has to say of its log.
    pub digest: VectorDigest,
    /// What it has taken in beyond that: applied and not durable yet, or held back.
    pub volatile: VersionVector,
    /// The processes it is connected to.
    pub links: Vec<ActorId>,
}

impl Beat {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.number(self.sent_us);
        out.number(self.wall_ms);
        encode_news(&self.news, self.log.as_ref(), out);
        self.digest.encode(out);
        self.volatile.encode(out);
        out.length(self.links.len());
        for actor in &self.links {
            out.actor(*actor);
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (sent_us, wall_ms) = (input.number()?, input.number()?);
        let (news, log) = decode_news(input)?;
        let digest = VectorDigest::decode(input)?;
        let volatile = VersionVector::decode(input)?;
        let links = (0..input.length(8, LINKS_MAX)?).map(|_| input.actor()).collect::<Result<_, _>>()?;
        Ok(Self { sent_us, wall_ms, news, log, digest, volatile, links })
    }
}

pub(super) fn encode_log(log: &LogState, out: &mut Writer) {
    log.wanted.encode(out);
    log.starts.encode(out);
}

pub(super) fn decode_log(input: &mut Reader<'_>) -> Result<LogState, DecodeError> {
    Ok(LogState { wanted: VersionVector::decode(input)?, starts: VersionVector::decode(input)? })
}

pub(super) fn encode_news(durable: &VersionVector, log: Option<&LogState>, out: &mut Writer) {
    durable.encode(out);
    out.byte(u8::from(log.is_some()));
    if let Some(log) = log {
        encode_log(log, out);
    }
}

pub(super) fn decode_news(input: &mut Reader<'_>) -> Result<(VersionVector, Option<LogState>), DecodeError> {
    let durable = VersionVector::decode(input)?;
    let log = match input.byte()? {
        0 => None,
        1 => Some(decode_log(input)?),
        _ => return Err(DecodeError::NotCanonical),
    };
    Ok((durable, log))
}
