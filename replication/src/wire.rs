//! Messages between peers, as frames.
//!
//! ```text
//! frame = u32 big-endian length of the rest | type u8 | flags u8 (0) | body: MessagePack, positional
//! ```
//!
//! **Versions.** Both sides greet with [`Hello`], which never changes, and then speak the newest version that both know.
//! Version 2 says [`Details`] first, and what concerns whole vectors
//! by what changed in them and a digest: [`Message::Probe`], [`Beat`], [`Message::News`] and [`Message::Proof`] instead of
//! pings, pongs, reports and roots.
//!
//! **What always holds.** W1: the length is checked against the type's bound before anything is allocated. W2: bodies
//! nest at most [`DEPTH_MAX`] deep. W3: bytes from a peer never panic; they are a [`WireError`]. W4: a body
//! of one version never changes: what is new is a message, or a step of a reconciliation, of its own, and is said to
//! nobody who does not know it.

mod beat;
mod bodies;

pub use beat::{Beat, VectorDigest};

use crate::link::LogState;
use crate::reconcile::message::{RECONCILE_BYTES_MAX, Reconcile};
use crate::record::{RECORD_BYTES_MAX, RecordBytes};
use crate::sketch::Cell;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::codec::DecodeError;
use atoll_crdt::{ActorId, VersionVector};
use beat::{decode_log, decode_news, encode_log, encode_news};
use bodies::{
    BytesBody, DetailsBody, DurableBody, PingBody, PongBody, ProbeBody, RecordsBody, ResumeBody, bytes, hello,
    hello_body, read, whole, write,
};

/// The protocol name in TLS.
pub const ALPN: &[u8] = b"atoll-repl/1";
/// The version that this build speaks, and the oldest that it understands.
pub const PROTOCOL: (u16, u16) = (1, 2);
/// Nesting of a body.
pub const DEPTH_MAX: usize = 16;
/// Bytes before the body: length, type and flags.
pub const HEADER_BYTES: usize = 6;

// Vectors name every process there ever was.
const GREETING_BYTES_MAX: usize = 4 << 20;
const SMALL_BYTES_MAX: usize = 2 << 20;
const RECORDS_BYTES_MAX: usize = RECORD_BYTES_MAX + (64 << 10);
const FORMER_ACTORS_MAX: usize = 4_096;

/// What a node says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Versions it speaks: oldest and newest.
    pub protocol: (u16, u16),
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: String,
    /// Its region.
    pub region: String,
    /// The actor it writes as.
    pub actor: ActorId,
    /// Actors it wrote as before, which it will not write as again; the newest ones.
    pub former: Vec<ActorId>,
    /// Whether its data is founded: an empty node that is asked for data says no.
    pub founded: bool,
    /// When its data was founded, by its wall clock in milliseconds.
    pub founded_ms: u64,
    /// What it holds durably.
    pub durable: VersionVector,
    /// What its log can give and wants.
    pub log: LogState,
}

/// What a node says second, from version 2 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Under which secret it digests rows ([`crate::sketch::DigestKey::name`]). Under different ones the sums of equal
    /// rows differ.
    pub digests: u64,
}

/// One thing that peers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first message each way.
    Hello(Hello),
    /// The second, from version 2 on.
    Details(Details),
    /// Records, each actor's in order.
    Records(Vec<RecordBytes>),
    /// What the sender holds durably, where it has changed since it last said so, and all it has to say of its log.
    Durable(VersionVector, LogState),
    /// The same, and of its log only where that has changed.
    News(VersionVector, Option<LogState>),
    /// Asks for an actor's records: those sent found no room, which there is now; or something builds on them.
    Resume {
        /// Whose records.
        actor: ActorId,
        /// From which one on.
        from: u64,
    },
    /// Asks for a [`Message::Pong`].
    Ping {
        /// The asker's clock, in microseconds; comes back.
        sent_us: u64,
    },
    /// Answers a [`Message::Ping`].
    Pong {
        /// From the ping.
        sent_us: u64,
        /// The answerer's wall clock, in milliseconds since 1970.
        wall_ms: u64,
        /// All that the answerer holds durably: whatever report was lost before, this makes good.
        durable: VersionVector,
    },
    /// Asks for a [`Beat`].
    Probe {
        /// The asker's clock, in microseconds; comes back.
        sent_us: u64,
        /// Whether it is to name all there is: something that was told before is missing.
        whole: bool,
    },
    /// Answers a [`Message::Probe`].
    Beat(Beat),
    /// A step of a reconciliation.
    Reconcile(Reconcile),
    /// What the sender's rows add up to at what it holds durably: the proof that equal contexts have equal rows.
    Root {
        /// What it holds durably.
        durable: VersionVector,
        /// The sum over all its rows.
        root: Cell,
    },
    /// The same by a digest.
    Proof {
        /// What it holds durably.
        durable: VectorDigest,
        /// The sum over all its rows.
        root: Cell,
    },
}

/// Bytes that are no message. The connection is closed; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A frame longer than its type may be.
    #[error("a frame of {bytes} bytes, which its type does not have")]
    Length {
        /// What the header says.
        bytes: usize,
    },
    /// A type that this version does not know.
    #[error("an unknown frame type {0}")]
    Type(u8),
    /// The body does not read.
    #[error("a malformed body: {0}")]
    Body(String),
    /// Something in the body is not canonical, damaged, or beyond a bound.
    #[error(transparent)]
    Content(#[from] DecodeError),
}

const HELLO: u8 = 1;
const DETAILS: u8 = 2;
const NEWS: u8 = 3;
const DURABLE: u8 = 4;
const RESUME: u8 = 5;
const PROBE: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;
const BEAT: u8 = 9;
const RECORDS: u8 = 10;
const RECONCILE: u8 = 20;
const ROOT: u8 = 21;
const PROOF: u8 = 22;

/// A frame's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    body_bytes: usize,
}

impl Header {
    /// Reads a header. W1
    ///
    /// # Errors
    /// The type is unknown, or the length beyond its bound.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [a, b, c, d, kind, _flags] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let max = match kind {
            HELLO => GREETING_BYTES_MAX,
            RECORDS => RECORDS_BYTES_MAX,
            RECONCILE => RECONCILE_BYTES_MAX,
            DETAILS | DURABLE | NEWS | RESUME | PING | PONG | PROBE | BEAT | ROOT | PROOF => SMALL_BYTES_MAX,
            kind => return Err(WireError::Type(kind)),
        };
        let body_bytes = length.checked_sub(2).ok_or(WireError::Length { bytes: length })?;
        if body_bytes > max {
            return Err(WireError::Length { bytes: length });
        }
        Ok(Self { kind, body_bytes })
    }

    /// How many bytes of body follow.
    #[must_use]
    pub fn body_bytes(self) -> usize {
        self.body_bytes
    }

    /// Reads the body.
    ///
    /// # Errors
    /// It is no message of this type.
    pub fn message(self, body: &[u8]) -> Result<Message, WireError> {
        Ok(match self.kind {
            HELLO => Message::Hello(hello(&read(body)?)?),
            DETAILS => Message::Details(Details { digests: read::<DetailsBody>(body)?.digests }),
            DURABLE => {
                let DurableBody(durable, log) = read(body)?;
                Message::Durable(whole(durable, VersionVector::decode)?, whole(log, decode_log)?)
            }
            NEWS => {
                let (durable, log) = whole(read::<BytesBody<'_>>(body)?.0, decode_news)?;
                Message::News(durable, log)
            }
            RESUME => {
                let body: ResumeBody = read(body)?;
                Message::Resume { actor: ActorId::new(body.actor), from: body.from }
            }
            PING => Message::Ping { sent_us: read::<PingBody>(body)?.sent_us },
            PROBE => {
                let ProbeBody { sent_us, whole } = read(body)?;
                Message::Probe { sent_us, whole }
            }
            BEAT => Message::Beat(whole(read::<BytesBody<'_>>(body)?.0, Beat::decode)?),
            PONG => {
                let pong: PongBody<'_> = read(body)?;
                Message::Pong {
                    sent_us: pong.sent_us,
                    wall_ms: pong.wall_ms,
                    durable: whole(pong.durable, VersionVector::decode)?,
                }
            }
            ROOT => {
                let DurableBody(durable, root) = read(body)?;
                Message::Root {
                    durable: whole(durable, VersionVector::decode)?,
                    root: whole(root, Cell::decode_bytes)?,
                }
            }
            PROOF => {
                let (durable, root) = whole(read::<BytesBody<'_>>(body)?.0, |input| {
                    Ok((VectorDigest::decode(input)?, Cell::decode_bytes(input)?))
                })?;
                Message::Proof { durable, root }
            }
            RECONCILE => Message::Reconcile(whole(read::<BytesBody<'_>>(body)?.0, Reconcile::decode)?),
            _ => {
                let RecordsBody(all) = read(body)?;
                let records: Result<_, _> = all.into_iter().map(|b| RecordBytes::check(Arc::from(&b[..]))).collect();
                Message::Records(records?)
            }
        })
    }
}

impl Message {
    /// What it weighs against a link's window, in bytes: records and rows, the rest is small and rare.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Records(records) => records.iter().map(|record| record.as_bytes().len()).sum(),
            Self::Reconcile(reconcile) => reconcile.step.weight(),
            Self::Hello(_)
            | Self::Details(_)
            | Self::Durable(..)
            | Self::News(..)
            | Self::Probe { .. }
            | Self::Beat(_)
            | Self::Proof { .. }
            | Self::Resume { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Root { .. } => 0,
        }
    }

    /// Appends the frame.
    ///
    /// # Panics
    /// Never: our own messages always encode.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, self.kind(), 0]);
        match self {
            Self::Hello(hello) => {
                let (durable, log) = (bytes(|out| hello.durable.encode(out)), bytes(|out| encode_log(&hello.log, out)));
                write(out, &hello_body(hello, &durable, &log));
            }
            Self::Details(details) => write(out, &DetailsBody { digests: details.digests }),
            Self::Records(records) => {
                write(out, &RecordsBody(records.iter().map(|r| serde_bytes::Bytes::new(r.as_bytes())).collect()));
            }
            Self::Durable(durable, log) => {
                write(out, &DurableBody(&bytes(|out| durable.encode(out)), &bytes(|out| encode_log(log, out))));
            }
            Self::News(durable, log) => {
                write(out, &BytesBody(&bytes(|out| encode_news(durable, log.as_ref(), out))));
            }
            Self::Resume { actor, from } => write(out, &ResumeBody { actor: actor.get(), from: *from }),
            Self::Reconcile(reconcile) => {
                write(out, &BytesBody(&bytes(|out| reconcile.encode(out))));
            }
            Self::Root { durable, root } => {
                let mut sum = Vec::new();
                root.encode(&mut sum);
                write(out, &DurableBody(&bytes(|out| durable.encode(out)), &sum));
            }
            Self::Proof { durable, root } => {
                let mut sum = Vec::new();
                root.encode(&mut sum);
                let body = bytes(|out| {
                    durable.encode(out);
                    out.raw(&sum);
                });
                write(out, &BytesBody(&body));
            }
            Self::Ping { sent_us } => write(out, &PingBody { sent_us: *sent_us }),
            Self::Probe { sent_us, whole } => write(out, &ProbeBody { sent_us: *sent_us, whole: *whole }),
            Self::Beat(beat) => write(out, &BytesBody(&bytes(|out| beat.encode(out)))),
            Self::Pong { sent_us, wall_ms, durable } => {
                let durable = bytes(|out| durable.encode(out));
                write(out, &PongBody { sent_us: *sent_us, wall_ms: *wall_ms, durable: &durable });
            }
        }
        let length = u32::try_from(out.len() - start - 4).expect("batches are far below 4 GiB");
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// The word for a frame's type, by the fifth byte of the frame.
    #[must_use]
    pub const fn type_name(kind: u8) -> Option<&'static str> {
        Some(match kind {
            HELLO => "hello",
            DETAILS => "details",
            RECORDS => "records",
            RECONCILE => "reconcile",
            ROOT => "root",
            DURABLE => "durable",
            NEWS => "news",
            RESUME => "resume",
            PING => "ping",
            PONG => "pong",
            PROBE => "probe",
            BEAT => "beat",
            PROOF => "proof",
            _ => return None,
        })
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::Details(_) => DETAILS,
            Self::Records(_) => RECORDS,
            Self::Reconcile(_) => RECONCILE,
            Self::Root { .. } => ROOT,
            Self::Durable(..) => DURABLE,
            Self::News(..) => NEWS,
            Self::Probe { .. } => PROBE,
            Self::Beat(_) => BEAT,
            Self::Proof { .. } => PROOF,
            Self::Resume { .. } => RESUME,
            Self::Ping { .. } => PING,
            Self::Pong { .. } => PONG,
        }
    }
}

#[cfg(test)]
mod tests;
