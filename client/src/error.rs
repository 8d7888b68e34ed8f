//! What can go wrong with a request: whose fault, what state, what now.

use std::fmt;
use std::time::Duration;

use crate::api::{ErrorCode, Problem, Rejection};
use crate::endpoint::Endpoint;

/// Why a request has no answer to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's fault: what was asked breaks a rule of the contract, or the client is set up
    /// wrongly. Nothing was sent.
    #[error("{0}")]
    BadInput(#[from] Rejection),
    /// The environment's fault: no endpoint took the request. Nothing was changed; ask again when
    /// the network or the nodes are back.
    #[error("no endpoint took the request: {}", Attempts(attempts))]
    Unreachable {
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// The server refused. Nothing was changed; the problem's code says whether asking again or
    /// elsewhere can help.
    #[error("{endpoint} refused: {}: {}", problem.code, problem.detail)]
    Refused {
        /// Who refused.
        endpoint: Endpoint,
        /// Why.
        problem: Box<Problem>,
        /// When to ask again, where the server says so.
        retry_after: Option<Duration>,
        /// `region=ms,…`: how far behind the session's token the node is, with `session_behind`.
        lag: Option<String>,
    },
    /// A write was sent and its answer never came: it may have been applied or not, and it was not
    /// sent again, because a write applied twice (a counter's above all) is wrong too. Read, then
    /// decide.
    #[error("the write was sent to {endpoint}, but its fate is unknown: {cause}")]
    FateUnknown {
        /// Whom it was sent to.
        endpoint: Endpoint,
        /// What happened instead of an answer.
        cause: String,
    },
    /// A read was sent and its answer did not come in time. Nothing was changed; ask again.
    #[error("{endpoint} did not answer within {} ms", after.as_millis())]
    Timeout {
        /// Who did not answer.
        endpoint: Endpoint,
        /// How long the client waited.
        after: Duration,
    },
    /// The peer's fault: what answered does not speak the contract. Is it an Atoll node's client
    /// listener? A write's fate is unknown.
    #[error("{endpoint} does not answer as an Atoll node does: {cause}")]
    Protocol {
        /// Who answered.
        endpoint: Endpoint,
        /// What is wrong with the answer.
        cause: String,
    },
}

impl Error {
    /// The code of a refusal, the server's or the client's own.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::BadInput(rejection) => Some(rejection.code),
            Self::Refused { problem, .. } => Some(problem.code),
            Self::Unreachable { .. } | Self::FateUnknown { .. } | Self::Timeout { .. } | Self::Protocol { .. } => None,
        }
    }

    pub(crate) fn bad_input(detail: impl Into<String>) -> Self {
        Self::BadInput(Rejection::new(ErrorCode::BadParameter, detail))
    }
}

/// One endpoint that did not take a request.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which.
    pub endpoint: Endpoint,
    /// Why not.
    pub cause: String,
}

/// Writes attempts in one line.
struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Attempt { endpoint, cause }) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{endpoint}: {cause}")?;
        }
        Ok(())
    }
}

/// An error and its sources in one line, for causes that end up as text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Some libraries repeat their source in their own words.
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
