//! Bodies of frames as MessagePack has them, and what they are made from.
//!
//! **What always holds.** A body never changes once a version of the protocol has it. Vectors and log states are opaque
//! bytes in it, in their canonical form.

use super::beat::decode_log;
use super::{DEPTH_MAX, FORMER_ACTORS_MAX, Hello, WireError};
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ActorId, VersionVector};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct HelloBody<'a> {
    protocol: (u16, u16),
    #[serde(borrow)]
    cluster: &'a str,
    node: &'a str,
    region: &'a str,
    actor: u64,
    former: Vec<u64>,
    founded: bool,
    founded_ms: u64,
    #[serde(with = "serde_bytes")]
    durable: &'a [u8],
    #[serde(with = "serde_bytes")]
    log: &'a [u8],
}

#[derive(Serialize, Deserialize)]
pub(super) struct DurableBody<'a>(
    #[serde(with = "serde_bytes", borrow)] pub(super) &'a [u8],
    #[serde(with = "serde_bytes", borrow)] pub(super) &'a [u8],
);

#[derive(Serialize, Deserialize)]
pub(super) struct RecordsBody<'a>(#[serde(borrow)] pub(super) Vec<&'a serde_bytes::Bytes>);

#[derive(Serialize, Deserialize)]
pub(super) struct BytesBody<'a>(#[serde(with = "serde_bytes", borrow)] pub(super) &'a [u8]);

#[derive(Serialize, Deserialize)]
pub(super) struct ResumeBody {
    pub(super) actor: u64,
    pub(super) from: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct DetailsBody {
    pub(super) digests: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PingBody {
    pub(super) sent_us: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ProbeBody {
    pub(super) sent_us: u64,
    pub(super) whole: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PongBody<'a> {
    pub(super) sent_us: u64,
    pub(super) wall_ms: u64,
    #[serde(with = "serde_bytes", borrow)]
    pub(super) durable: &'a [u8],
}

pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, WireError> {
    let mut input = rmp_serde::Deserializer::from_read_ref(body);
    // W2
    input.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut input).map_err(|error| WireError::Body(alloc::format!("{error}")))
}

pub(super) fn hello(body: &HelloBody<'_>) -> Result<Hello, WireError> {
    if body.former.len() > FORMER_ACTORS_MAX {
        return Err(DecodeError::TooLarge { max: FORMER_ACTORS_MAX as u64 }.into());
    }
    Ok(Hello {
        protocol: body.protocol,
        cluster: body.cluster.into(),
        node: body.node.into(),
        region: body.region.into(),
        actor: ActorId::new(body.actor),
        former: body.former.iter().map(|actor| ActorId::new(*actor)).collect(),
        founded: body.founded,
        founded_ms: body.founded_ms,
        durable: whole(body.durable, VersionVector::decode)?,
        log: whole(body.log, decode_log)?,
    })
}

pub(super) fn hello_body<'a>(hello: &'a Hello, durable: &'a [u8], log: &'a [u8]) -> HelloBody<'a> {
    HelloBody {
        protocol: hello.protocol,
        cluster: &hello.cluster,
        node: &hello.node,
        region: &hello.region,
        actor: hello.actor.get(),
        former: hello.former.iter().rev().take(FORMER_ACTORS_MAX).map(|actor| actor.get()).collect(),
        founded: hello.founded,
        founded_ms: hello.founded_ms,
        durable,
        log,
    }
}

pub(super) fn write<T: Serialize>(out: &mut Vec<u8>, body: &T) {
    rmp_serde::encode::write(out, body).expect("writing to memory does not fail");
}

/// Reads all of `bytes`.
pub(super) fn whole<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, WireError> {
    let mut input = Reader::new(bytes);
    let value = read(&mut input)?;
    input.finish()?;
    Ok(value)
}

/// What `write` wrote.
pub(super) fn bytes(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    write(&mut out);
    out.into_bytes()
}
