//! Messages out of a stream's bytes.
//!
//! **What always holds.** F1: a header is checked before its body is allocated, so a peer can make this side hold one
//! frame of a known type's bound for each stream, and no more. F2: a lane carries its own messages only. F3: bytes never
//! panic; what does not read ends the connection.

use super::fault::Fault;
use super::outbox::Lane;
use atoll_replication::wire::{HEADER_BYTES, Header, Message};
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream};

/// A buffer beyond this is not kept for the next frame.
const BODY_KEPT_BYTES: usize = 512 << 10;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// This side ends it.
    Here(Fault, String),
    /// The peer ended it, or the network did.
    There(ConnectionError),
    /// Nobody here takes in messages any more.
    Stopped,
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        Self::There(error)
    }
}

/// One stream of a peer.
#[derive(Debug)]
pub(super) struct Frames {
    stream: RecvStream,
    lane: Lane,
    body: Vec<u8>,
}

impl Frames {
    pub(super) fn new(stream: RecvStream, lane: Lane) -> Self {
        Self { stream, lane, body: Vec::new() }
    }

    /// The next message, and how many bytes it took. Not to be dropped half way and called again.
    pub(super) async fn next(&mut self) -> Result<(Message, usize), End> {
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).await.map_err(|error| unread(error, true))?;
        // F1
        let header = Header::parse(head).map_err(|error| End::Here(Fault::Frame, error.to_string()))?;
        self.body.clear();
        self.body.resize(header.body_bytes(), 0);
        self.stream.read_exact(&mut self.body).await.map_err(|error| unread(error, false))?;
        let message = header.message(&self.body).map_err(|error| End::Here(Fault::Frame, error.to_string()))?;
        // F2
        if Lane::of(&message) != self.lane {
            return Err(End::Here(Fault::Stream, format!("a message that does not belong on {:?}", self.lane)));
        }
        if self.body.capacity() > BODY_KEPT_BYTES {
            self.body = Vec::new();
        }
        Ok((message, HEADER_BYTES + header.body_bytes()))
    }
}

fn unread(error: ReadExactError, at_boundary: bool) -> End {
    match error {
        ReadExactError::FinishedEarly(0) if at_boundary => End::Here(Fault::Stream, "a stream ended".into()),
        ReadExactError::FinishedEarly(_) => End::Here(Fault::Frame, "a frame that is cut short".into()),
        ReadExactError::ReadError(ReadError::ConnectionLost(error)) => End::There(error),
        ReadExactError::ReadError(error) => End::Here(Fault::Stream, error.to_string()),
    }
}
