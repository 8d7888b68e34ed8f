//! A session: a line of requests in which each sees what those before it have seen.
//!
//! *How it goes.* Every answer may bring a token; the next request takes it along, to whichever
//! node it goes, and that node waits until it has seen as much. The server joins what a request
//! brings with what its answer has seen, so the client only keeps the newest.
//!
//! *What always holds.* S1: requests sent one after another carry a token that covers all earlier
//! answers. Requests of one session that are in flight together each carry what was known when
//! they were sent, and the last answer to arrive decides what the next will carry: whoever needs
//! more runs several sessions, which share connections.
//!
//! *What is not here.* The token's meaning: it is opaque, and only a node can join two.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::api::limits::WRITE_TIMEOUT_DEFAULT;
use crate::api::{Consistency, WriteLevel, format_duration, headers};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::request::{Outgoing, Request, Response};

/// What every request of a session asks for; what is `None` is left to the server's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// How many regions shall hold a write durably before it is answered.
    pub write_level: Option<WriteLevel>,
    /// How long a write waits for that.
    pub write_timeout: Option<Duration>,
    /// How long a request waits for a node to see what the session has seen.
    pub wait: Option<Duration>,
    /// What a read must have seen.
    pub consistency: Option<Consistency>,
}

/// A session. Clones are the same session.
#[derive(Clone)]
pub struct Session {
    client: Client,
    /// `None`: tokens are neither kept nor sent.
    token: Option<Arc<Mutex<Option<Bytes>>>>,
    options: Options,
}

/// What kind of request it is, as far as parameters go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

impl Session {
    pub(crate) fn new(client: Client, token: Option<&str>) -> Self {
        let token = token.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        Self { client, token: Some(Arc::new(Mutex::new(token))), options: Options::default() }
    }

    pub(crate) fn without_token(client: Client) -> Self {
        Self { client, token: None, options: Options::default() }
    }

    /// The same session asking for `options` from here on.
    #[must_use]
    pub fn with_options(&self, options: Options) -> Self {
        Self { options, ..self.clone() }
    }

    /// What this session's requests ask for.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// The session's token, to go on elsewhere with [`Client::resume`].
    #[must_use]
    pub fn token(&self) -> Option<String> {
        self.token_bytes().and_then(|token| String::from_utf8(token.to_vec()).ok())
    }

    /// The client whose connections it uses.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends `request` as it is, with this session's token and the client's bearer token, and
    /// returns the answer whatever its status.
    ///
    /// # Errors
    /// When there is no answer to return. A refusal is an answer here.
    pub async fn request(&self, request: &Request) -> Result<Response, Error> {
        let mut outgoing = Outgoing::from_request(request);
        outgoing.may_wait = self.may_wait(Kind::Write);
        let (response, _) = self.exchange(outgoing).await?;
        Ok(response)
    }

    /// Sends a typed request: `target` gets the session's parameters appended.
    pub(crate) async fn call(
        &self,
        kind: Kind,
        method: Method,
        mut target: String,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(Response, &Endpoint), Error> {
        self.push_parameters(kind, &mut target);
        let outgoing =
            Outgoing { method, target: &target, headers: headers.to_vec(), body, may_wait: self.may_wait(kind) };
        self.exchange(outgoing).await
    }

    async fn exchange<'s>(&'s self, mut outgoing: Outgoing<'_>) -> Result<(Response, &'s Endpoint), Error> {
        let token = self.token_bytes();
        if let Some(token) = &token {
            // Tokens come out of headers, so they are text.
            outgoing.headers.push((headers::TOKEN, std::str::from_utf8(token).unwrap_or_default()));
        }
        let (response, endpoint) = self.client.exchange(outgoing).await?;
        self.keep_token(&response);
        Ok((response, endpoint))
    }

    fn push_parameters(&self, kind: Kind, target: &mut String) {
        let mut separator = if target.contains('?') { '&' } else { '?' };
        let mut push = |name: &str, value: &dyn fmt::Display| {
            use fmt::Write as _;
            // Values here are words, numbers and durations: nothing to encode. Writing to a
            // string does not fail.
            let _ = write!(target, "{separator}{name}={value}");
            separator = '&';
        };
        let Options { write_level, write_timeout, wait, consistency } = &self.options;
        if let Some(wait) = wait {
            push("wait", &format_duration(*wait));
        }
        match kind {
            Kind::Write => {
                if let Some(level) = write_level {
                    push("w", level);
                }
                if let Some(timeout) = write_timeout {
                    push("wtimeout", &format_duration(*timeout));
                }
            }
            Kind::Read => {
                if let Some(consistency) = consistency {
                    push("consistency", consistency);
                }
            }
        }
    }

    /// How long the server may take because it was asked to wait.
    fn may_wait(&self, kind: Kind) -> Duration {
        let for_token = self.options.wait.unwrap_or_default();
        let for_level = match (kind, self.options.write_level) {
            (Kind::Write, Some(level)) if level != WriteLevel::Local => {
                self.options.write_timeout.unwrap_or(WRITE_TIMEOUT_DEFAULT)
            }
            _ => Duration::ZERO,
        };
        for_token.saturating_add(for_level)
    }

    fn token_bytes(&self) -> Option<Bytes> {
        self.token.as_deref().and_then(|token| lock(token).clone())
    }

    fn keep_token(&self, response: &Response) {
        if let (Some(kept), Some(token)) = (&self.token, response.token()) {
            // Copied: a slice would keep the whole read buffer alive for the session's life.
            let token = Bytes::copy_from_slice(token.as_bytes());
            *lock(kept) = Some(token); // S1
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("client", &self.client).finish_non_exhaustive()
    }
}

/// A value behind a mutex is whole at every moment here, so a panic elsewhere leaves it usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
