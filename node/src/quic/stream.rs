//! One stream: requests in, answers out in the same order.
//!
//! **How it goes.** Up to [`IN_FLIGHT_MAX`] requests of a stream are worked on at once. Whenever the oldest is answered, it
//! and all that are answered behind it leave in one piece.
//!
//! **What always holds.** S1: answers leave in the order of requests. S2: a frame that is not whole takes room among all
//! bodies once it is larger than [`FREE_BYTES`], and has as long to arrive as a body. S3: when the node stops, requests
//! that were begun are answered, and no further one is begun.

use super::{Serving, close_code};
use crate::api::{Failure, RequestId};
use crate::http::stopped;
use atoll_client::api::ErrorCode;
use atoll_client::frame::{self, FrameBuffer, FrameError, Limits};
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::BodyExt as _;
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tower::ServiceExt as _;

/// Requests of one stream that are worked on at once.
const IN_FLIGHT_MAX: usize = 256;
/// Bytes of answers that leave in one piece, about.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of a frame that is not whole, for which no room is taken.
const FREE_BYTES: usize = 64 << 10;
/// Chunks taken from a stream at once. One is at most a packet.
const CHUNKS_AT_ONCE: usize = 32;

/// Why a stream ends its connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The client sent what is no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A frame was begun and did not arrive in time.
    #[error("a request did not arrive in time")]
    Late,
    /// Too many bytes of requests are being read already.
    #[error("there is no room for a large request")]
    NoRoom,
    /// The client does not take in its answers.
    #[error("answers were not taken in in time")]
    Stalled,
}

impl Fault {
    /// A word for metrics, the log and the client.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Frame(_) => "frame",
            Self::Late => "body_timeout",
            Self::NoRoom => "no_room",
            Self::Stalled => "stalled",
        }
    }

    /// The code that the client is told.
    pub(super) const fn code(&self) -> VarInt {
        match self {
            Self::Frame(_) => close_code::PROTOCOL,
            Self::Late | Self::NoRoom | Self::Stalled => close_code::TOO_SLOW,
        }
    }
}

/// Serves a stream until the client ends it.
pub(super) async fn serve(
    (mut send, recv): (SendStream, RecvStream),
    serving: Arc<Serving>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let limits = Limits::default();
    let mut requests = Requests::new(recv, limits);
    let mut answers: FuturesOrdered<BoxFuture<'static, Response>> = FuturesOrdered::new();
    let mut is_open = true;
    let mut out = BytesMut::new();
    while is_open || !answers.is_empty() {
        if answers.len() >= IN_FLIGHT_MAX {
            requests.pause();
        }
        tokio::select! {
            biased;
            Some(answer) = answers.next(), if !answers.is_empty() => {
                encode(answer, &mut out, &limits).await;
                // S1: those behind it that are ready too, in the same piece.
                while out.len() < PIECE_BYTES {
                    let Some(Some(answer)) = answers.next().now_or_never() else { break };
                    encode(answer, &mut out, &limits).await;
                }
                match write(&mut send, out.split().freeze(), &serving).await {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(fault) => return Err(fault),
                }
            }
            // S3
            () = stopped(&mut stop), if is_open => is_open = false,
            frame = requests.next(&serving), if is_open && answers.len() < IN_FLIGHT_MAX => match frame? {
                None => is_open = false,
                Some(frame) => {
                    answers.push_back(answer(&frame, &serving.router, &limits)?);
                    while answers.len() < IN_FLIGHT_MAX && let Some(frame) = requests.arrived()? {
                        answers.push_back(answer(&frame, &serving.router, &limits)?);
                    }
                }
            },
        }
    }
    // The client has what it asked for, whether it hears of the stream's end or not.
    let _ = send.finish();
    Ok(())
}

/// Hands a piece to the client; `false` when nobody is there to take it.
async fn write(send: &mut SendStream, piece: Bytes, serving: &Serving) -> Result<bool, Fault> {
    match timeout(serving.shared.limits().body_timeout, send.write_chunk(piece)).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_) | WriteError::ClosedStream)) => Ok(false),
        Ok(Err(WriteError::ZeroRttRejected)) => Ok(false),
        Err(_) => Err(Fault::Stalled),
    }
}

/// Begins to work on a request.
fn answer(frame: &Bytes, router: &Router, limits: &Limits) -> Result<BoxFuture<'static, Response>, Fault> {
    let request = frame::decode_request(frame, limits)?;
    let request = match to_http(request) {
        Ok(request) => request,
        // Whole, but not what HTTP would take: HTTP's answer to that.
        Err(detail) => return Ok(std::future::ready(refusal(ErrorCode::Malformed, detail)).boxed()),
    };
    let answering = router.clone().oneshot(request);
    Ok(async move { answering.await.unwrap_or_else(|never| match never {}) }.boxed())
}

fn to_http(request: frame::Request) -> Result<Request<Body>, &'static str> {
    let mut out = Request::new(Body::from(request.body));
    *out.method_mut() = request.method;
    *out.uri_mut() = request.target.parse::<Uri>().map_err(|_| "the target is no path and query")?;
    let headers = out.headers_mut();
    for (name, value) in request.headers.iter() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header has no proper name")?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| "a header has no proper value")?);
    }
    Ok(out)
}

/// Appends an answer's frame.
async fn encode(answer: Response, out: &mut BytesMut, limits: &Limits) {
    let (parts, body) = answer.into_parts();
    // The body is whole already: collecting it does not wait.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if frame::encode_response(out, parts.status.as_u16(), &texts(&parts.headers), &body, limits).is_err() {
        let refusal = refusal(ErrorCode::TooLarge, "the answer is larger than a frame may be");
        let (parts, body) = refusal.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        // A refusal is far below every bound.
        let _ = frame::encode_response(out, parts.status.as_u16(), &texts(&parts.headers), &body, limits);
    }
}

fn texts(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect()
}

fn refusal(code: ErrorCode, detail: &str) -> Response {
    Failure::new(code, detail).into_response(&RequestId::none())
}

/// The frames of a stream's receiving side, bounded in bytes and time. S2
struct Requests {
    recv: RecvStream,
    buffer: FrameBuffer,
    /// Bytes taken from the stream and not yet handed on in a frame.
    held: usize,
    /// Since when a frame is not whole.
    begun: Option<Instant>,
    room: Option<OwnedSemaphorePermit>,
    frame_bytes_max: usize,
}

impl Requests {
    fn new(recv: RecvStream, limits: Limits) -> Self {
        let frame_bytes_max = limits.frame_bytes_max;
        Self { recv, buffer: FrameBuffer::new(&limits), held: 0, begun: None, room: None, frame_bytes_max }
    }

    /// A frame that has arrived already.
    fn arrived(&mut self) -> Result<Option<Bytes>, FrameError> {
        let frame = self.buffer.next_frame()?;
        if let Some(frame) = &frame {
            self.held = self.held.saturating_sub(4 + frame.len());
            self.begun = None;
            self.room = None;
        }
        Ok(frame)
    }

    /// Nothing is read for a while, which is not the client's fault.
    fn pause(&mut self) {
        self.begun = None;
    }

    /// The next frame; `None` when the client has ended the stream or is gone. May be dropped and called again.
    async fn next(&mut self, serving: &Serving) -> Result<Option<Bytes>, Fault> {
        let body_room = serving.shared.room();
        loop {
            if let Some(frame) = self.arrived()? {
                return Ok(Some(frame));
            }
            if self.held > FREE_BYTES && self.room.is_none() {
                self.room = Some(body_room.wait_for(self.frame_bytes_max).await.ok_or(Fault::NoRoom)?);
            }
            let mut chunks = [const { Bytes::new() }; CHUNKS_AT_ONCE];
            let read = self.recv.read_chunks(&mut chunks);
            let read = if self.buffer.is_empty() {
                read.await
            } else {
                let begun = *self.begun.get_or_insert_with(Instant::now);
                timeout_at(begun + body_room.timeout(), read).await.map_err(|_| Fault::Late)?
            };
            match read {
                Ok(Some(count)) => {
                    for chunk in &chunks[..count] {
                        self.held += chunk.len();
                        self.buffer.extend(chunk);
                    }
                }
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(FrameError::Truncated.into()),
                Err(ReadError::Reset(_) | ReadError::ConnectionLost(_) | ReadError::ClosedStream) => return Ok(None),
                // Only asked for by reading out of order or before the handshake, which this does not.
                Err(ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => return Ok(None),
            }
        }
    }
}
