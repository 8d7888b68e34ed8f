//! One connection to a peer, from its verified handshake to its end.
//!
//! ```text
//! uni stream 1 = control, priority 100: Hello first, then Durable, Ping, Pong
//! uni stream 2 = live,    priority  50: Records
//! uni stream 3 = bulk,    priority -10: Reconcile
//! ```
//!
//! **How it goes.** Each side opens all streams. What arrives goes to the replica, each stream in order; when the
//! replica's queue is full, the stream waits, and its flow control makes the peer wait. Records are not read before the
//! peer's greeting has been passed on: streams are not ordered among each other, and nor is anything of a reconciliation.
//!
//! **What always holds.** C1: the replica hears `LinkUp`, then messages, then `LinkDown` exactly once and nothing of this
//! link after it: one task does all of it, and has dropped the rest before it says so. C2: a peer that breaks the
//! protocol costs its own connection only; the reason is counted and logged. C3: `LinkSent` is said once QUIC has taken
//! the bytes, for each message exactly once.
//!
//! **Why whole buffers are written.** QUIC keeps every write apart until it is acknowledged; many small ones cost it
//! several times the work. A writer takes what has gathered, in one piece.

use super::endpoint::Shared;
use super::fault::Fault;
use super::frames::{End, Frames};
use super::outbox::{Lane, Outbox};
use super::schedule::Target;
use crate::inbox::Inbox;
use crate::tls::PeerIdentity;
use atoll_replication::wire::Message;
use atoll_replication::{Input, LinkId};
use quinn::{Connection, ConnectionError, SendStream, WriteError};
use std::sync::Arc;
use std::time::Instant;

/// Bytes that one stream may hand on before others get their turn on the thread.
const TURN_BYTES: usize = 64 << 10;

/// A connection whose peer was found welcome.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) identity: PeerIdentity,
    /// What was dialled, if this side did.
    pub(super) target: Option<Target>,
    pub(super) connection: Connection,
    pub(super) outbox: Outbox,
}

/// Lives as long as the connection.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) {
    let began = Instant::now();
    let (id, node) = (link.id, link.identity.node.clone());
    shared.open(&link);
    let seed = match link.target {
        Some(Target::Seed(seed)) => Some(seed),
        Some(Target::Member(_)) | None => None,
    };
    let region = link.identity.region.clone();
    let up = Input::LinkUp { link: id, node: node.clone(), region, dialled: link.target.is_some(), seed };
    let announced = tokio::select! {
        up = shared.inbox.input(up) => up.is_ok(),
        () = shared.stopping() => false,
    };
    let end = if announced { converse(&shared, &link).await } else { End::Stopped };
    let fault = report(&shared, &link, &end);
    link.connection.close(fault.code(), fault.as_str().as_bytes());
    shared.close(&link, began.elapsed());
    if announced {
        if let Some(reason) = told(&end).and_then(Fault::about_us) {
            tracing::error!(peer = %link.identity, "the peer refuses this node: {}", reason.as_str());
            shared.tell_last(Input::Refused(id, reason)).await;
        }
        // C1
        shared.tell_last(Input::LinkDown(id)).await;
    }
}

/// Reads and writes until something ends it; whatever that is, nothing of this goes on afterwards.
async fn converse(shared: &Shared, link: &Link) -> End {
    let address = link.connection.remote_address();
    tracing::info!(peer = %link.identity, %address, dialled = link.target.is_some(), "linked");
    tokio::select! {
        end = read(shared, link) => end,
        end = write(shared, link) => end,
        fault = link.outbox.ended() => End::Here(fault, String::new()),
        error = link.connection.closed() => End::There(error),
        () = shared.stopping() => End::Stopped,
    }
}

async fn read(shared: &Shared, link: &Link) -> End {
    let (connection, inbox) = (&link.connection, &shared.inbox);
    let greeted = tokio::time::timeout(shared.limits.greeting, greeting(connection));
    let (control, hello) = match greeted.await {
        Err(_) => return End::Here(Fault::Greeting, "no greeting in time".into()),
        Ok(Err(end)) => return end,
        Ok(Ok(greeted)) => greeted,
    };
    if inbox.input(Input::LinkMessage(link.id, hello)).await.is_err() {
        return End::Stopped;
    }
    tokio::select! {
        end = pass_on(control, link.id, inbox) => end,
        end = live(connection, link.id, inbox) => end,
    }
}

/// The first stream, and what must be first on it.
async fn greeting(connection: &Connection) -> Result<(Frames, Message), End> {
    let mut control = Frames::new(connection.accept_uni().await?, Lane::Control);
    match control.next().await? {
        (hello @ Message::Hello(_), _) => Ok((control, hello)),
        _ => Err(End::Here(Fault::Frame, "no greeting first".into())),
    }
}

/// The second stream, and beside it the rest.
async fn live(connection: &Connection, id: LinkId, inbox: &Inbox) -> End {
    match connection.accept_uni().await {
        Ok(stream) => tokio::select! {
            end = pass_on(Frames::new(stream, Lane::Live), id, inbox) => end,
            end = bulk(connection, id, inbox) => end,
        },
        Err(error) => End::There(error),
    }
}

/// The third stream, which shows itself with the first reconciliation, and no fourth.
async fn bulk(connection: &Connection, id: LinkId, inbox: &Inbox) -> End {
    let stream = match connection.accept_uni().await {
        Ok(stream) => Frames::new(stream, Lane::Bulk),
        Err(error) => return End::There(error),
    };
    tokio::select! {
        end = pass_on(stream, id, inbox) => end,
        extra = connection.accept_uni() => match extra {
            Ok(_) => End::Here(Fault::Stream, "a stream too many".into()),
            Err(error) => End::There(error),
        },
    }
}

async fn pass_on(mut frames: Frames, id: LinkId, inbox: &Inbox) -> End {
    let mut turn_bytes = 0;
    loop {
        let (message, bytes) = match frames.next().await {
            Ok(next) => next,
            Err(end) => return end,
        };
        if inbox.input(Input::LinkMessage(id, message)).await.is_err() {
            return End::Stopped;
        }
        turn_bytes += bytes;
        if turn_bytes >= TURN_BYTES {
            turn_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}

async fn write(shared: &Shared, link: &Link) -> End {
    // In this order: the peer tells them apart by it.
    let control = link.connection.open_uni().await;
    let live = link.connection.open_uni().await;
    let bulk = link.connection.open_uni().await;
    match (control, live, bulk) {
        (Ok(control), Ok(live), Ok(bulk)) => tokio::select! {
            end = write_lane(control, Lane::Control, link, shared) => end,
            end = write_lane(live, Lane::Live, link, shared) => end,
            end = write_lane(bulk, Lane::Bulk, link, shared) => end,
        },
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => End::There(error),
    }
}

async fn write_lane(mut stream: SendStream, lane: Lane, link: &Link, shared: &Shared) -> End {
    // Fails on a closed stream only, and this one was just opened.
    let _ = stream.set_priority(lane.priority());
    loop {
        let mut bytes = Vec::new();
        let weight = link.outbox.next_write(lane, &mut bytes).await;
        let bytes = bytes::Bytes::from(bytes);
        match stream.write_chunk(bytes.clone()).await {
            Ok(()) => shared.sent.count(&bytes),
            Err(WriteError::ConnectionLost(error)) => return End::There(error),
            Err(error) => return End::Here(Fault::Stream, error.to_string()),
        }
        // C3
        if weight > 0 && shared.inbox.input(Input::LinkSent(link.id, weight)).await.is_err() {
            return End::Stopped;
        }
    }
}

/// Counts and logs the end; what the peer is told of it comes back.
fn report(shared: &Shared, link: &Link, end: &End) -> Fault {
    match end {
        End::Here(fault, detail) => {
            shared.report(*fault, link.connection.remote_address(), Some(&link.identity), detail);
            *fault
        }
        End::There(error) => {
            tracing::info!(peer = %link.identity, address = %link.connection.remote_address(), "link ended: {}", describe(error));
            Fault::Stopping
        }
        End::Stopped => Fault::Stopping,
    }
}

/// What the peer says of why it ended the connection.
fn told(end: &End) -> Option<Fault> {
    match end {
        End::There(ConnectionError::ApplicationClosed(close)) => Fault::from_code(close.error_code),
        End::There(_) | End::Here(..) | End::Stopped => None,
    }
}

/// What ended a connection from outside, without the peer's own words.
pub(super) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => match Fault::from_code(close.error_code) {
            Some(fault) => format!("the peer ended it ({})", fault.as_str()),
            None => format!("the peer ended it (code {})", close.error_code),
        },
        ConnectionError::ConnectionClosed(close) => {
            format!("the peer's QUIC ended it ({})", close.error_code)
        }
        other => other.to_string(),
    }
}
