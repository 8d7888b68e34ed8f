//! The client: a pool of connections to a list of endpoints, and the rule for trying them.
//!
//! *How it goes.* A request goes to the endpoint that answered last, at first the first one given.
//! An endpoint that cannot be reached is passed over for the next, until each was tried once; the
//! one that answered is asked first from then on. So is an endpoint passed over that refuses because of what it is itself: draining,
//! joining, without a disk to write to, or with a clock that is wrong.
//!
//! *What always holds.* C1: a write is taken at most once: it is sent again only to whom it was not sent, or after a refusal, which
//! changes nothing; when its answer is lost, the caller is
//! told that its fate is unknown. Repeating it would count twice in a counter, and in the other
//! types would undo what another client did in between. C2: a read, which changes nothing, is
//! repeated once on the same endpoint (its connection may merely have been stale) and then
//! elsewhere. C3: the bearer token is in no error, no `Debug` output, and goes in clear to no
//! other machine. C4: requests in flight are bounded, in number and in bytes; those beyond wait.
//!
//! *What is not here.* Asking the same endpoint again after a refusal (only the caller knows how long that is worth
//! it), asking others when one is overloaded (they would be next), choosing by distance or health, health checks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::api::{Problem, Readiness, format_duration, headers};
use crate::endpoint::{Endpoint, Scheme};
use crate::error::{Attempt, Error};
use crate::request::{Outgoing, Request, Response};
use crate::session::Session;
use crate::tls::{Identity, Trust, client_config};
use crate::transport::{Failure, HttpTransport, QuicTransport, Settings, Sockets, Transport};

/// An async client. Clones share connections. Must be used within the runtime it first ran in.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

struct Pool {
    routes: Vec<Route>,
    /// The route to try first.
    preferred: AtomicUsize,
    sockets: Arc<Sockets>,
    /// `Bearer …`, ready to be sent.
    authorization: Option<String>,
    answer_timeout: Duration,
}

struct Route {
    endpoint: Endpoint,
    transport: Transport,
}

/// Builds a [`Client`].
#[derive(Default)]
pub struct ClientBuilder {
    endpoints: Vec<Endpoint>,
    trust: Option<Trust>,
    identity: Option<Identity>,
    bearer: Option<String>,
    settings: Settings,
    answer_timeout: Option<Duration>,
}

/// How long a request may take beyond what it asks the server to wait for others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl ClientBuilder {
    /// Adds an endpoint; at least one is needed. Tried in the order given.
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Whose nodes to talk to; needed for `https` and `quic`.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = Some(trust);
        self
    }

    /// The client's own certificate.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The bearer token to send with every request.
    #[must_use]
    pub fn bearer(mut self, token: impl Into<String>) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// How long making a connection may take. Default 3 s: a handshake needs two or three round
    /// trips, and the longest between regions are 0.3 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long an answer may take, beyond what the request asks the server to wait. Default 10 s.
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = Some(timeout);
        self
    }

    /// How many requests may be in flight to one endpoint; more wait their turn. Default 1,024.
    /// Over HTTP/1.1, where each needs a connection of its own, 256 is the most. Together they
    /// hold at most 64 KiB for each request allowed.
    #[must_use]
    pub fn in_flight_max(mut self, count: u32) -> Self {
        self.settings.in_flight_max = count.max(1);
        self
    }

    /// The client. Connects to nothing yet.
    ///
    /// # Errors
    /// `BadInput` when endpoints, trust and bearer token do not go together.
    pub fn build(self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::bad_input("no endpoint is given"));
        }
        let authorization = self.bearer.as_deref().map(authorization).transpose()?;
        for endpoint in &self.endpoints {
            let clear = endpoint.scheme() == Scheme::Http;
            if !clear && self.trust.is_none() {
                return Err(Error::bad_input(format!(
                    "{endpoint} needs a CA to trust, to know that it is the right node"
                )));
            }
            if clear && authorization.is_some() && !endpoint.is_loopback() {
                // C3
                return Err(Error::bad_input(format!(
                    "a bearer token is not sent in clear to {endpoint}: use https or quic"
                )));
            }
        }
        let tls = client_config(self.trust.as_ref(), self.identity.as_ref())?;
        let sockets = Arc::new(Sockets::default());
        let routes = self.endpoints.into_iter().map(|endpoint| {
            let transport = match endpoint.scheme() {
                Scheme::Http | Scheme::Https => {
                    Transport::Http(HttpTransport::new(&endpoint, tls.clone(), &self.settings)?)
                }
                Scheme::Quic => {
                    Transport::Quic(QuicTransport::new(&endpoint, tls.clone(), &self.settings, sockets.clone())?)
                }
            };
            Ok(Route { endpoint, transport })
        });
        Ok(Client {
            pool: Arc::new(Pool {
                routes: routes.collect::<Result<_, Error>>()?,
                preferred: AtomicUsize::new(0),
                sockets,
                authorization,
                answer_timeout: self.answer_timeout.unwrap_or(ANSWER_TIMEOUT),
            }),
        })
    }
}

/// The header value for a bearer token.
fn authorization(token: &str) -> Result<String, Error> {
    let well_formed = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if well_formed {
        Ok(format!("Bearer {token}"))
    } else {
        Err(Error::bad_input("a bearer token is printable ASCII without spaces"))
    }
}

impl Client {
    /// Begins to build a client.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A new session that has seen nothing yet.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self.clone(), None)
    }

    /// The session whose [`token`](Session::token) this is, wherever it was before.
    #[must_use]
    pub fn resume(&self, token: &str) -> Session {
        Session::new(self.clone(), Some(token))
    }

    /// Requests that stand alone: tokens are neither kept nor sent.
    #[must_use]
    pub fn without_session(&self) -> Session {
        Session::without_token(self.clone())
    }

    /// The endpoints, in the order they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.pool.routes.iter().map(|route| &route.endpoint)
    }

    /// Whether the process at the first endpoint that answers is alive (`GET /healthz`).
    ///
    /// # Errors
    /// When none answers.
    pub async fn is_healthy(&self) -> Result<bool, Error> {
        let (response, _) = self.get("/healthz").await?;
        Ok(response.is_success())
    }

    /// Whether that node should be sent requests; `max_lag` is how far behind it may be.
    ///
    /// # Errors
    /// When none answers, or refuses to say.
    pub async fn readiness(&self, max_lag: Option<Duration>) -> Result<Readiness, Error> {
        let target = max_lag
            .map_or_else(|| "/readyz".to_owned(), |max_lag| format!("/readyz?max_lag={}", format_duration(max_lag)));
        let (response, endpoint) = self.get(&target).await?;
        match response.status() {
            200 => response.json(endpoint),
            // A node that is not up to answering this at all says so in a problem document.
            503 => response.json(endpoint).or_else(|_| {
                let problem = Problem::from_answer(503, response.body());
                Ok(Readiness { ready: false, reasons: vec![problem.detail] })
            }),
            _ => Err(response.into_refusal(endpoint)),
        }
    }

    /// The server's OpenAPI document.
    ///
    /// # Errors
    /// When none answers, or refuses.
    pub async fn openapi(&self) -> Result<serde_json::Value, Error> {
        let (response, endpoint) = self.get("/openapi.json").await?;
        if response.is_success() { response.json(endpoint) } else { Err(response.into_refusal(endpoint)) }
    }

    /// Closes every QUIC connection and gives the nodes a moment to hear of it, so that they need
    /// not wait for silence. Requests in flight fail; later ones connect anew.
    pub async fn close(&self) {
        self.pool.sockets.close().await;
    }

    pub(crate) async fn get(&self, target: &str) -> Result<(Response, &Endpoint), Error> {
        self.exchange(Outgoing::from_request(&Request::new(Method::GET, target))).await
    }

    /// Sends `outgoing` to the first endpoint that takes it.
    pub(crate) async fn exchange(&self, mut outgoing: Outgoing<'_>) -> Result<(Response, &Endpoint), Error> {
        let Pool { routes, preferred, authorization, answer_timeout, .. } = &*self.pool;
        if let Some(authorization) = authorization {
            outgoing.headers.push((headers::AUTHORIZATION, authorization));
        }
        let patience = answer_timeout.saturating_add(outgoing.may_wait);
        let (mut attempts, mut refusal) = (Vec::new(), None);
        let first = preferred.load(Ordering::Relaxed);
        for step in 0..routes.len() {
            let at = (first + step) % routes.len();
            let Route { endpoint, transport } = &routes[at];
            match send(transport, &outgoing, patience).await {
                Ok(response) if is_for_others(&response) => _ = refusal.get_or_insert((response, endpoint)),
                Ok(response) => {
                    if at != first {
                        preferred.store(at, Ordering::Relaxed);
                    }
                    return Ok((response, endpoint));
                }
                Err(failure) => {
                    let attempt = verdict(failure, endpoint, &outgoing, patience)?;
                    attempts.push(attempt);
                }
            }
        }
        // That it was refused says more than that others were not to be reached.
        refusal.ok_or(Error::Unreachable { attempts })
    }
}

/// One endpoint's turn.
async fn send(transport: &Transport, outgoing: &Outgoing<'_>, patience: Duration) -> Result<Response, Failure> {
    let deadline = Instant::now() + patience;
    match transport.send(outgoing, deadline).await {
        Err(Failure::Lost(_)) if outgoing.is_read() => transport.send(outgoing, deadline).await, // C2
        outcome => outcome,
    }
}

/// Whether another endpoint may well take what this one refused.
fn is_for_others(response: &Response) -> bool {
    use crate::api::ErrorCode as E;
    // A readiness that is told with 503 is an answer.
    let problem = (response.status() == 503).then(|| serde_json::from_slice::<Problem>(response.body()).ok()).flatten();
    problem.is_some_and(|problem| matches!(problem.code, E::Draining | E::NotReady | E::StoreReadOnly | E::ClockSkew))
}

/// Whether a failure leaves room for the next endpoint: then it is one more attempt.
fn verdict(
    failure: Failure,
    endpoint: &Endpoint,
    outgoing: &Outgoing<'_>,
    patience: Duration,
) -> Result<Attempt, Error> {
    let endpoint = endpoint.clone();
    match failure {
        Failure::NotSent(cause) => Ok(Attempt { endpoint, cause }),
        Failure::Lost(cause) if outgoing.is_read() => Ok(Attempt { endpoint, cause }),
        // C1
        Failure::Lost(cause) => Err(Error::FateUnknown { endpoint, cause }),
        Failure::NoAnswer if outgoing.is_read() => Err(Error::Timeout { endpoint, after: patience }),
        Failure::NoAnswer => {
            Err(Error::FateUnknown { endpoint, cause: format!("no answer within {} ms", patience.as_millis()) })
        }
        Failure::Protocol(cause) => Err(Error::Protocol { endpoint, cause }),
        Failure::BadInput(cause) => Err(Error::bad_input(cause)),
    }
}

impl fmt::Debug for Client {
    /// Endpoints only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.endpoints().map(ToString::to_string)).finish()
    }
}

impl fmt::Debug for ClientBuilder {
    /// Endpoints only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.endpoints.iter().map(ToString::to_string)).finish()
    }
}
