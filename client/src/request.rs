//! A request and its answer, whichever transport carries them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::de::DeserializeOwned;

use crate::api::{Problem, headers};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::frame;

/// A request as the contract spells it, for what has no typed method.
#[derive(Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Request {
    /// A request to `target`: an absolute path and perhaps a query, both percent-encoded.
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

impl fmt::Debug for Request {
    /// Without header values: one may be a bearer token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.method, self.target, self.body.len())
    }
}

/// A request about to be sent, borrowed from whoever asks.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a str,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) body: Bytes,
    /// How long the server may take because it was asked to wait for others; on top of this come
    /// the client's own limits.
    pub(crate) may_wait: Duration,
}

impl<'a> Outgoing<'a> {
    /// `request` as it is.
    pub(crate) fn from_request(request: &'a Request) -> Self {
        Self {
            method: request.method.clone(),
            target: &request.target,
            headers: request.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
            body: request.body.clone(),
            may_wait: Duration::ZERO,
        }
    }

    /// Whether sending it twice is the same as sending it once.
    pub(crate) fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    status: u16,
    headers: ResponseHeaders,
    body: Bytes,
}

/// Headers as the transport delivered them; converting each answer's would cost more than the few
/// look-ups.
#[derive(Debug, Clone)]
enum ResponseHeaders {
    Http(HeaderMap),
    Frame(frame::Headers),
}

/// `Atoll-Acked: held/wanted`: a write stands, but its write level was not reached in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// How many regions held it durably.
    pub held: u16,
    /// How many were asked for.
    pub wanted: u16,
}

impl fmt::Display for Acked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.held, self.wanted)
    }
}

impl Response {
    pub(crate) fn from_http(status: u16, headers: HeaderMap, body: Bytes) -> Self {
        Self { status, headers: ResponseHeaders::Http(headers), body }
    }

    pub(crate) fn from_frame(response: frame::Response) -> Self {
        Self { status: response.status, headers: ResponseHeaders::Frame(response.headers), body: response.body }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the request was done.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// A header, by its name in whatever case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        match &self.headers {
            ResponseHeaders::Http(map) => map.get(name)?.to_str().ok(),
            ResponseHeaders::Frame(headers) => headers.get(name),
        }
    }

    /// The session's token after this request.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.header(headers::TOKEN)
    }

    /// What the read showed.
    #[must_use]
    pub fn context(&self) -> Option<&str> {
        self.header(headers::CONTEXT)
    }

    /// How many concurrent values the register holds.
    #[must_use]
    pub fn siblings(&self) -> Option<u32> {
        self.header(headers::SIBLINGS)?.parse().ok()
    }

    /// The region that answered the read.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.header(headers::REGION)
    }

    /// How old the oldest acknowledged write of another region that the read missed can be.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.header(headers::STALENESS_MS)?.parse().ok().map(Duration::from_millis)
    }

    /// How far the write got, when its level was not reached in time.
    #[must_use]
    pub fn acked(&self) -> Option<Acked> {
        let (held, wanted) = self.header(headers::ACKED)?.split_once('/')?;
        Some(Acked { held: held.parse().ok()?, wanted: wanted.parse().ok()? })
    }

    /// `region=ms,…`: how far behind the session's token the node is.
    #[must_use]
    pub fn lag(&self) -> Option<&str> {
        self.header(headers::LAG)
    }

    /// When to ask again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.header(headers::RETRY_AFTER)?.parse().ok().map(Duration::from_secs)
    }

    /// The media type of the body.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.header(headers::CONTENT_TYPE)
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, endpoint: &Endpoint) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Protocol {
            endpoint: endpoint.clone(),
            cause: format!("the body of a {}: {error}", self.status),
        })
    }

    /// The refusal that this answer is.
    pub(crate) fn into_refusal(self, endpoint: &Endpoint) -> Error {
        if !(400..600).contains(&self.status) {
            return Error::Protocol { endpoint: endpoint.clone(), cause: format!("a status of {}", self.status) };
        }
        Error::Refused {
            endpoint: endpoint.clone(),
            problem: Box::new(Problem::from_answer(self.status, &self.body)),
            retry_after: self.retry_after(),
            lag: self.lag().map(str::to_owned),
        }
    }
}
