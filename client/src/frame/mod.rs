//! The QUIC client protocol's framing, for both of its sides.
//!
//! *How it goes.* Under ALPN [`ALPN`] each bidirectional stream carries requests one way and
//! answers, in the same order, the other way. A frame is a `u32` big-endian length and that many
//! bytes: one MessagePack map, `{"method","target","headers":{},"body":bin}` for a request,
//! `{"status","headers":{},"body":bin}` for an answer. Targets, headers and codes are HTTP's.
//!
//! *What always holds.* F1: a length is checked before anything is allocated for it. F2: bytes
//! from outside never panic and never recurse deeper than [`Limits::DEPTH_MAX`]. F3: a decoded
//! [`Text`] is printable ASCII, so it can go into a log line, an HTTP header or a target as it is.
//! F4: unknown members of the map are skipped, so that either side may learn new ones first.
//!
//! *What is not here.* What a target means; when to close a connection (whoever meets a
//! [`FrameError`] does, since the stream's boundaries are lost with it).
//!
//! *Why slices.* A decoded message's parts are slices of the frame they came in: nothing is copied,
//! and the cost of a message does not grow with its parts. Whoever keeps a part for long should
//! copy it, since it keeps the whole read buffer alive.

mod buffer;
mod codec;

pub use buffer::{FrameBuffer, FrameReader, ReadError};
pub use codec::{decode_request, decode_response, encode_request, encode_response};

use std::fmt;

use bytes::Bytes;
use http::Method;

use crate::api::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX};

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"atoll/1";

/// Streams a client may want on one connection; a server allows at least these.
pub const STREAMS_MAX: u32 = 16;

/// Bounds on what a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a frame, without its length. Must hold the largest body and its headers.
    pub frame_bytes_max: usize,
    /// Number of headers.
    pub headers_max: usize,
    /// Bytes of all header names and values together. A session token is the largest of them.
    pub header_bytes_max: usize,
    /// Bytes of a target. Must hold a key and a path, percent-encoded.
    pub target_bytes_max: usize,
}

impl Limits {
    /// How deep a map may nest, skipped members included. The protocol itself needs two.
    pub const DEPTH_MAX: usize = 8;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: MESSAGE_BYTES_MAX,
            headers_max: 32,
            header_bytes_max: 32 * 1024,
            // A key and a path at three characters a byte, and as much again for the rest.
            target_bytes_max: 4 * 3 * KEY_BYTES_MAX,
        }
    }
}

/// Why bytes are not a message. The peer's fault when decoding, the caller's when encoding; the
/// output buffer is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is, or would be, larger than allowed.
    #[error("a frame of {bytes} bytes; {max} is the most")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// One of the other bounds is exceeded.
    #[error("more than {max} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// The bytes are not the map that the protocol describes.
    #[error("not a message: {0}")]
    Malformed(String),
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
}

/// Printable ASCII, as a cheap slice of the bytes it came in.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Text(Bytes);

impl Text {
    /// The text in `bytes`, if it is printable ASCII.
    #[must_use]
    pub fn new(bytes: Bytes) -> Option<Self> {
        bytes.iter().all(|byte| matches!(byte, b' '..=b'~')).then_some(Self(bytes))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Printable ASCII is UTF-8, and nothing else is ever stored.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// The headers of a message, few and in the order they came.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Text, Text)>);

impl Headers {
    /// The value of the first header called `name`, in whatever case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Every header.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Headers {
    /// Names only: a value may be a bearer token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// A decoded request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query; begins with `/`.
    pub target: Text,
    /// The headers.
    pub headers: Headers,
    /// The body; empty when absent.
    pub body: Bytes,
}

/// A decoded answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status, 100 to 999.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    /// The body; empty when absent.
    pub body: Bytes,
}
