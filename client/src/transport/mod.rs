//! The two ways to carry a request, behind one call.

mod http;
mod quic;
mod stream;

pub(crate) use self::http::HttpTransport;
pub(crate) use self::quic::{QuicTransport, Sockets};

use std::time::Duration;

use tokio::time::Instant;

use crate::request::{Outgoing, Response};

/// What both transports are told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) connect_timeout: Duration,
    pub(crate) in_flight_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(3), in_flight_max: 1024 }
    }
}

/// A way to one endpoint.
pub(crate) enum Transport {
    Http(HttpTransport),
    Quic(QuicTransport),
}

/// Why there is no answer, by what it means for the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It never left, or reached nobody: certainly not done.
    NotSent(String),
    /// It left, and the connection went before the answer came.
    Lost(String),
    /// It left, and the deadline passed.
    NoAnswer,
    /// What came is no answer.
    Protocol(String),
    /// It cannot be sent as it is.
    BadInput(String),
}

impl Transport {
    /// Sends a request and waits for its answer until `deadline`. Dropping the future does not
    /// recall a request.
    pub(crate) async fn send(&self, outgoing: &Outgoing<'_>, deadline: Instant) -> Result<Response, Failure> {
        match self {
            Self::Http(transport) => transport.send(outgoing, deadline).await,
            Self::Quic(transport) => transport.send(outgoing, deadline).await,
        }
    }
}
