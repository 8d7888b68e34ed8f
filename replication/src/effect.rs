//! What comes in and what goes out: the whole interface between the protocol and its driver.

use crate::command::{Answer, Command, CommandError};
use crate::names::{NodeName, RegionName};
use crate::roster::{Fence, Member};
use crate::store::Position;
use crate::wire::Message;
use alloc::vec::Vec;
use atoll_crdt::{Dot, Seen, VersionVector};
use core::time::Duration;

/// One connection to a peer, numbered by the driver and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// One client request, numbered by the driver and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Which of the configured seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedIndex(pub u32);

/// A client's write: all of it or nothing.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// In this order; each sees those before it.
    pub commands: Vec<Command>,
    /// What the client was shown, if it said so: exactly that is replaced.
    pub seen: Option<Seen>,
    /// What the session has seen: the write waits until this node has too.
    pub token: VersionVector,
    /// How long to wait for that.
    pub wait: Duration,
    /// How many regions must hold it durably before the answer; 1 is this node.
    pub regions: u32,
    /// How long to wait for the others.
    pub regions_wait: Duration,
}

/// What a write came to. Everything it tells is durable here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOutcome {
    /// One for each command.
    pub answers: Vec<Answer>,
    /// The record; `None` when there was nothing to do.
    pub dot: Option<Dot>,
    /// What the session has seen now.
    pub token: VersionVector,
    /// Regions that are known to hold it durably.
    pub acked: u32,
    /// Whether that is as many as were asked for.
    pub reached: bool,
}

/// Why a write was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This node has not seen what the session has, and did not within the wait (retry, or ask another region).
    #[error("this region has not yet seen what the session has")]
    SessionBehind,
    /// The session saw a write that no member holds any more (its disk was lost or restored).
    #[error("a write that this session saw is held by no member any more")]
    SessionLost,
    /// This node's clock is off, and the write is one that clocks may decide (operator).
    #[error("this node's clock is {skew_ms} ms away from its peers'")]
    ClockSkew {
        /// How far, in milliseconds.
        skew_ms: u64,
    },
    /// This node takes no client's writes (ask another one).
    #[error("this node takes no writes: {0:?}")]
    Fenced(Fence),
    /// This node is still joining.
    #[error("this node is joining and has not caught up")]
    NotReady,
    /// A row that the write needs is damaged here and not repaired yet (disk; retry, or ask another region).
    #[error("a row that this needs is damaged here, and is being repaired from another node")]
    Damaged,
    /// Too many writes wait already (retry).
    #[error("too many writes are waiting")]
    Overloaded,
    /// The commands cannot be done.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A client writes.
    Write(RequestId, WriteRequest),
    /// Everything up to this position is durable.
    Synced(Position),
    /// A connection to a peer stands; its certificate says who it is.
    LinkUp {
        /// Which connection.
        link: LinkId,
        /// The peer's node, by its certificate.
        node: NodeName,
        /// The peer's region, by its certificate.
        region: RegionName,
        /// Whether this side dialled.
        dialled: bool,
        /// The seed that was dialled, if it was one.
        seed: Option<SeedIndex>,
    },
    /// A peer said something.
    LinkMessage(LinkId, Message),
    /// The transport took this many bytes of messages of a link.
    LinkSent(LinkId, usize),
    /// The peer ended a connection, and says why.
    Refused(LinkId, DisconnectReason),
    /// A connection ended.
    LinkDown(LinkId),
    /// A seed turned out to be this node itself.
    SeedIsSelf(SeedIndex),
    /// The members that the roster names now, this node among them.
    Members(Vec<Member>),
    /// An operator stops or resumes the link to a node; other links still relay.
    Pause(NodeName, bool),
    /// This node can take nothing in, or can again: while it cannot, it has no links.
    Hold(bool),
    /// An operator has this node compared with all others.
    Verify,
    /// The process is about to end in order: it writes nothing any more, and says so to whom it concerns.
    Ending,
    /// Time has passed; may come late, early or twice.
    Tick,
    /// The driver's queue is empty: what has gathered may go out.
    Drained,
}

/// The driver is to do this, in order.
#[derive(Debug)]
pub enum Effect {
    /// Answer a client.
    Reply(RequestId, Result<WriteOutcome, WriteError>),
    /// Send to a peer; when the transport has taken it, say [`Input::LinkSent`] with [`Message::weight`].
    Send(LinkId, Message),
    /// End a connection.
    Disconnect(LinkId, DisconnectReason),
}

/// Why a connection is ended. Each is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DisconnectReason {
    /// Another connection to the same node is kept.
    Duplicate,
    /// The peer's greeting does not match its certificate, or names another cluster (peer).
    Identity,
    /// No protocol version in common.
    Version,
    /// The peer sent something that no honest peer sends (peer).
    Protocol,
    /// The peer claims records of the actor that this process writes as: a copied disk, or a lie.
    Impostor,
    /// Nothing was heard for too long.
    Silent,
    /// An operator paused the link.
    Paused,
    /// The peer was removed from the cluster.
    Removed,
    /// Another process of the peer's name is connected, and the peer is no later life of that one: one of the two runs
    /// on a copy of the other's disk.
    Twin,
}

impl DisconnectReason {
    /// A word for logs, metrics and the peer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Identity => "identity",
            Self::Version => "version",
            Self::Protocol => "protocol",
            Self::Impostor => "impostor",
            Self::Silent => "silent",
            Self::Paused => "paused",
            Self::Removed => "removed",
            Self::Twin => "twin",
        }
    }
}
