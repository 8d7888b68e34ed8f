//! Messages between peers, as frames.
//!
//! ```text
//! frame = u32 big-endian length of the rest | type u8 | flags u8 (0) | body: MessagePack, positional
//! ```
//!
//! **Versions.** Both sides greet with [`Hello`], which never changes, and then speak the newest version that both know.
//! Version 1 has everything but [`Details`].
//!
//! **What always holds.** W1: the length is checked against the type's bound before anything is allocated. W2: bodies
//! nest at most [`DEPTH_MAX`] deep. W3: bytes from a peer never panic; they are a [`WireError`]. W4: a body
//! of one version never changes: what is new is a message, or a step of a reconciliation, of its own, and is said to
//! nobody who does not know it.

use crate::link::LogState;
use crate::reconcile::message::{RECONCILE_BYTES_MAX, Reconcile};
use crate::record::{RECORD_BYTES_MAX, RecordBytes};
use crate::sketch::Cell;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ActorId, VersionVector};
use serde::{Deserialize, Serialize};

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
    /// A step of a reconciliation.
    Reconcile(Reconcile),
    /// What the sender's rows add up to at what it holds durably: the proof that equal contexts have equal rows.
    Root {
        /// What it holds durably.
        durable: VersionVector,
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

#[derive(Serialize, Deserialize)]
struct HelloBody<'a> {
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
struct DurableBody<'a>(
    #[serde(with = "serde_bytes", borrow)] &'a [u8],
    #[serde(with = "serde_bytes", borrow)] &'a [u8],
);

#[derive(Serialize, Deserialize)]
struct RecordsBody<'a>(#[serde(borrow)] Vec<&'a serde_bytes::Bytes>);

#[derive(Serialize, Deserialize)]
struct BytesBody<'a>(#[serde(with = "serde_bytes", borrow)] &'a [u8]);

#[derive(Serialize, Deserialize)]
struct ResumeBody {
    actor: u64,
    from: u64,
}

#[derive(Serialize, Deserialize)]
struct DetailsBody {
    digests: u64,
}

#[derive(Serialize, Deserialize)]
struct PingBody {
    sent_us: u64,
}

#[derive(Serialize, Deserialize)]
struct PongBody<'a> {
    sent_us: u64,
    wall_ms: u64,
    #[serde(with = "serde_bytes", borrow)]
    durable: &'a [u8],
}

const HELLO: u8 = 1;
const DETAILS: u8 = 2;
const DURABLE: u8 = 4;
const RESUME: u8 = 5;
const PING: u8 = 7;
const PONG: u8 = 8;
const RECORDS: u8 = 10;
const RECONCILE: u8 = 20;
const ROOT: u8 = 21;

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
            DETAILS | DURABLE | RESUME | PING | PONG | ROOT => SMALL_BYTES_MAX,
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
                Message::Durable(vector(durable)?, log_state(log)?)
            }
            RESUME => {
                let body: ResumeBody = read(body)?;
                Message::Resume { actor: ActorId::new(body.actor), from: body.from }
            }
            PING => Message::Ping { sent_us: read::<PingBody>(body)?.sent_us },
            PONG => {
                let pong: PongBody<'_> = read(body)?;
                Message::Pong { sent_us: pong.sent_us, wall_ms: pong.wall_ms, durable: vector(pong.durable)? }
            }
            ROOT => {
                let DurableBody(durable, root) = read(body)?;
                let mut input = Reader::new(root);
                let root = Cell::decode_bytes(&mut input)?;
                input.finish()?;
                Message::Root { durable: vector(durable)?, root }
            }
            RECONCILE => {
                let mut input = Reader::new(read::<BytesBody<'_>>(body)?.0);
                let reconcile = Reconcile::decode(&mut input)?;
                input.finish()?;
                Message::Reconcile(reconcile)
            }
            _ => {
                let RecordsBody(all) = read(body)?;
                let records: Result<_, _> = all.into_iter().map(|b| RecordBytes::check(Arc::from(&b[..]))).collect();
                Message::Records(records?)
            }
        })
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, WireError> {
    let mut input = rmp_serde::Deserializer::from_read_ref(body);
    // W2
    input.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut input).map_err(|error| WireError::Body(alloc::format!("{error}")))
}

fn vector(bytes: &[u8]) -> Result<VersionVector, WireError> {
    let mut input = Reader::new(bytes);
    let vector = VersionVector::decode(&mut input)?;
    input.finish()?;
    Ok(vector)
}

fn vector_bytes(vector: &VersionVector) -> Vec<u8> {
    let mut out = Writer::new();
    vector.encode(&mut out);
    out.into_bytes()
}

fn log_state(bytes: &[u8]) -> Result<LogState, WireError> {
    let mut input = Reader::new(bytes);
    let log = LogState { wanted: VersionVector::decode(&mut input)?, starts: VersionVector::decode(&mut input)? };
    input.finish()?;
    Ok(log)
}

fn log_state_bytes(log: &LogState) -> Vec<u8> {
    let mut out = Writer::new();
    log.wanted.encode(&mut out);
    log.starts.encode(&mut out);
    out.into_bytes()
}

fn hello(body: &HelloBody<'_>) -> Result<Hello, WireError> {
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
        durable: vector(body.durable)?,
        log: log_state(body.log)?,
    })
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
                let (durable, log) = (vector_bytes(&hello.durable), log_state_bytes(&hello.log));
                write(out, &hello_body(hello, &durable, &log));
            }
            Self::Details(details) => write(out, &DetailsBody { digests: details.digests }),
            Self::Records(records) => {
                write(out, &RecordsBody(records.iter().map(|r| serde_bytes::Bytes::new(r.as_bytes())).collect()));
            }
            Self::Durable(durable, log) => {
                write(out, &DurableBody(&vector_bytes(durable), &log_state_bytes(log)));
            }
            Self::Resume { actor, from } => write(out, &ResumeBody { actor: actor.get(), from: *from }),
            Self::Reconcile(reconcile) => {
                let mut bytes = Writer::new();
                reconcile.encode(&mut bytes);
                write(out, &BytesBody(bytes.as_bytes()));
            }
            Self::Root { durable, root } => {
                let mut bytes = Vec::new();
                root.encode(&mut bytes);
                write(out, &DurableBody(&vector_bytes(durable), &bytes));
            }
            Self::Ping { sent_us } => write(out, &PingBody { sent_us: *sent_us }),
            Self::Pong { sent_us, wall_ms, durable } => {
                let durable = vector_bytes(durable);
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
            RESUME => "resume",
            PING => "ping",
            PONG => "pong",
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
            Self::Resume { .. } => RESUME,
            Self::Ping { .. } => PING,
            Self::Pong { .. } => PONG,
        }
    }
}

fn hello_body<'a>(hello: &'a Hello, durable: &'a [u8], log: &'a [u8]) -> HelloBody<'a> {
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

fn write<T: Serialize>(out: &mut Vec<u8>, body: &T) {
    rmp_serde::encode::write(out, body).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::message::Step;
    use atoll_crdt::Dot;
    use proptest::prelude::*;

    fn frame(message: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    fn back(bytes: &[u8]) -> Result<Message, WireError> {
        let (head, body) = bytes.split_at(HEADER_BYTES);
        let header = Header::parse(head.try_into().unwrap())?;
        assert!(header.body_bytes() <= body.len(), "a frame says how long it is");
        header.message(&body[..header.body_bytes()])
    }

    fn samples() -> Vec<Message> {
        let durable: VersionVector = [Dot::new(ActorId::new(7), 9)].into_iter().collect();
        let record = crate::Record {
            dot: Dot::new(ActorId::new(3), 1),
            at: atoll_crdt::Hlc::at_ms(5),
            deps: durable.clone(),
            ops: Vec::new(),
        };
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: "shop".into(),
            node: "n1".into(),
            region: "eu-west-1".into(),
            actor: ActorId::new(1),
            former: alloc::vec![ActorId::new(2)],
            founded: true,
            founded_ms: 1,
            durable: durable.clone(),
            log: LogState { wanted: durable.clone(), starts: durable.clone() },
        };
        let log = LogState { wanted: VersionVector::new(), starts: durable.clone() };
        alloc::vec![
            Message::Hello(hello),
            Message::Details(Details { digests: 9 }),
            Message::Records(alloc::vec![record.encode()]),
            Message::Durable(durable.clone(), log),
            Message::Resume { actor: ActorId::new(4), from: 5 },
            Message::Ping { sent_us: 1 },
            Message::Pong { sent_us: 1, wall_ms: 2, durable: durable.clone() },
            Message::Root { durable: durable.clone(), root: Cell::EMPTY },
        ]
        .into_iter()
        .chain(reconciliation(&durable))
        .collect()
    }

    fn reconciliation(vector: &VersionVector) -> Vec<Message> {
        let sketch = crate::sketch::Sketch::new(12, 1_024);
        let ids: Vec<_> = (1..4).filter_map(crate::sketch::RowId::from_bits).collect();
        let key = atoll_crdt::CollectionKey::new("t", atoll_crdt::DataType::Flag, "f").unwrap().row();
        let mut fresh = atoll_crdt::Row::empty();
        fresh.put(Dot::new(ActorId::new(7), 1), atoll_crdt::Payload::Flag(true));
        let rows = alloc::vec![crate::RowState { key: key.clone(), fresh, kept: vector.iter().collect() }];
        let opening = crate::sketch::Opening::of(&sketch, 12, 1);
        let holes = crate::OpenHoles { ids: ids.clone(), context: vector.clone() };
        let more = crate::OpenMore { whole: true, holes };
        let open =
            |more| crate::Open { context: vector.clone(), cursor: vector.clone(), opening: opening.clone(), more };
        let states = |span, checked| Step::States(crate::States { span, rows: rows.clone(), checked });
        let steps = [
            Step::Open(Arc::new(open(None))),
            Step::Open(Arc::new(open(Some(more)))),
            Step::Accept { context: vector.clone(), lost: vector.clone(), rows: None },
            Step::Accept { context: vector.clone(), lost: vector.clone(), rows: Some(7) },
            Step::Taken(3),
            Step::Cells(sketch.prefix().cells()[..2].into()),
            Step::More { from: 2, to: 5 },
            Step::Want(ids.clone().into()),
            Step::WantAll,
            states(crate::Span::Ids(ids.clone()), false),
            states(crate::Span::Ids(ids.clone()), true),
            states(crate::Span::Holes(ids), true),
            states(crate::Span::Keys(None, Some(key.clone())), false),
            states(crate::Span::Keys(None, Some(key)), true),
            Step::Close,
            Step::Abort,
            Step::GiveUp,
        ];
        let message = |step| Message::Reconcile(Reconcile { session: crate::SessionId(3), grant: 4, place: 5, step });
        steps.into_iter().map(message).collect()
    }

    #[test]
    fn every_message_reads_back() {
        for message in samples() {
            assert_eq!(back(&frame(&message)), Ok(message));
        }
    }

    /// Peers of the first version read these bytes.
    #[test]
    fn steps_of_the_first_version_have_its_codes_and_nothing_more() {
        let vector: VersionVector = [Dot::new(ActorId::new(7), 3)].into_iter().collect();
        let bytes = |message: &Message| {
            let Message::Reconcile(message) = message else { panic!("{message:?}") };
            let mut out = Writer::new();
            message.encode(&mut out);
            out.into_bytes()
        };
        let codes: Vec<u8> = reconciliation(&vector).iter().map(|message| bytes(message)[3]).collect();
        assert_eq!(codes, [1, 11, 2, 12, 14, 3, 4, 5, 6, 7, 13, 13, 7, 13, 8, 9, 10]);
        let step = Step::Accept { context: vector.clone(), lost: vector.clone(), rows: None };
        let accept = Message::Reconcile(Reconcile { session: crate::SessionId(3), grant: 4, place: 5, step });
        let mut body = Writer::new();
        vector.encode(&mut body);
        vector.encode(&mut body);
        assert_eq!(bytes(&accept), [&[3, 4, 5, 2], body.as_bytes()].concat());
    }

    #[test]
    fn a_length_beyond_the_types_bound_is_refused_by_the_header_alone() {
        for kind in [HELLO, DETAILS, DURABLE, RESUME, PING, PONG, RECORDS, RECONCILE, ROOT] {
            assert!(matches!(Header::parse([0xff, 0xff, 0xff, 0xff, kind, 0]), Err(WireError::Length { .. })));
            assert!(matches!(Header::parse([0, 0, 0, 1, kind, 0]), Err(WireError::Length { .. })));
        }
        assert_eq!(Header::parse([0, 0, 0, 2, 99, 0]), Err(WireError::Type(99)));
    }

    /// Every message of version 1, as a build of that version wrote them.
    const RECORDED: &[u8] = include_bytes!("../tests/recorded/protocol-1.frames");

    #[test]
    fn what_version_1_said_is_understood_and_said_in_the_same_bytes() {
        let mut rest = RECORDED;
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize + 4;
            let (one, more) = rest.split_at(length);
            let message = back(one).unwrap();
            assert_eq!(frame(&message), one, "{message:?}");
            kinds.push(one[4]);
            rest = more;
        }
        assert_eq!(kinds.len(), 18);
        assert_eq!(kinds[..7], [HELLO, RECORDS, DURABLE, RESUME, PING, PONG, ROOT]);
    }

    proptest! {
        #[test]
        fn damaged_frames_are_errors_or_messages_and_never_panic(which in 0_usize..25, at in 0_usize..200, byte: u8, cut in 0_usize..200) {
            let mut bytes = frame(&samples()[which]);
            let at = HEADER_BYTES + at % (bytes.len() - HEADER_BYTES);
            bytes[at] = byte;
            let _ = back(&bytes);
            let body = &bytes[HEADER_BYTES..];
            let _ = Header { kind: bytes[4], body_bytes: body.len() }.message(&body[..cut.min(body.len())]);
        }
    }
}
