//! The edge of the API at one listener: who is let in, how many at once, and what becomes of a path without a route.

use super::body::BodyRoom;
use super::failure::RequestIds;
use super::operations::{Kind, OPERATIONS, Operation};
use super::{Failure, RequestId, call, openapi, target};
use crate::app::App;
use crate::auth::Gate;
use crate::config::Limits;
use crate::metrics::Metrics;
use atoll_client::api::ErrorCode;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use http::header::ORIGIN;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Paths that tell load balancers whether to send anybody here: open on every listener, and answered however much there
/// is to do.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// What all listeners share.
pub struct Shared {
    app: Arc<App>,
    metrics: Arc<Metrics>,
    limits: Limits,
    in_flight: Semaphore,
    room: BodyRoom,
    ids: RequestIds,
    openapi: Bytes,
}

impl Shared {
    /// The API of a node.
    #[must_use]
    pub fn new(app: Arc<App>, metrics: Arc<Metrics>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            app,
            metrics,
            in_flight: Semaphore::new(limits.requests_in_flight as usize),
            room: BodyRoom::new(limits.request_bytes_in_flight, limits.body_timeout),
            ids: RequestIds::new(),
            openapi: openapi::document().to_string().into(),
            limits,
        })
    }

    /// The node's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Bounds on clients.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The room that the bodies of all requests share.
    pub(crate) fn room(&self) -> &BodyRoom {
        &self.room
    }

    /// The application.
    pub(crate) fn app(&self) -> &Arc<App> {
        &self.app
    }
}

/// The API at one listener.
pub(crate) struct Edge {
    shared: Arc<Shared>,
    gate: Gate,
    listener: &'static str,
}

impl Edge {
    pub(crate) fn new(shared: Arc<Shared>, gate: Gate, listener: &'static str) -> Arc<Self> {
        Arc::new(Self { shared, gate, listener })
    }

    pub(crate) fn app(&self) -> &App {
        &self.shared.app
    }

    pub(super) fn room(&self) -> &BodyRoom {
        &self.shared.room
    }

    pub(super) fn openapi(&self) -> Bytes {
        self.shared.openapi.clone()
    }

    pub(crate) fn request_id(&self, headers: &HeaderMap) -> RequestId {
        self.shared.ids.of(headers)
    }

    /// Whether whoever sends this may.
    fn check(&self, request: &Request) -> Result<(), Failure> {
        if let Err(error) = self.gate.check(request.headers()) {
            return Err(Failure::new(ErrorCode::Unauthenticated, error.to_string()));
        }
        // Any page that a user of this machine opens can have the browser send requests to loopback. It reads no
        // answers, but a write would be done.
        if self.gate.is_open() && !request.method().is_safe() && request.headers().contains_key(ORIGIN) {
            return Err(Failure::new(ErrorCode::Forbidden, "a web page may not write where no token is asked for"));
        }
        Ok(())
    }

    /// Refuses a request that comes to no operation, and counts it.
    pub(crate) fn refuse(&self, request: &Request, failure: Failure) -> Response {
        let id = request.extensions().get::<RequestId>().cloned().unwrap_or_else(|| self.request_id(request.headers()));
        self.shared.metrics.refused(failure.code);
        failure.into_response(&id)
    }

    /// Counts what an operation came to.
    pub(super) fn count(&self, operation: &Operation, outcome: &Result<Response, Failure>, took: Duration) {
        let metrics = &self.shared.metrics;
        metrics.answered(self.listener, operation.id, took);
        let code = match outcome {
            Ok(response) if response.status() == StatusCode::ACCEPTED => "below_level",
            Ok(_) => "ok",
            Err(failure) => {
                metrics.refused(failure.code);
                failure.code.as_str()
            }
        };
        if let Kind::Write(data_type) = operation.kind {
            metrics.wrote(data_type, code);
        }
    }
}

/// Everything in the table, at a listener whose gate this is.
pub fn router(shared: &Arc<Shared>, gate: Gate, listener: &'static str) -> Router {
    let edge = Edge::new(Arc::clone(shared), gate, listener);
    let mut router = Router::new();
    for operation in OPERATIONS {
        let edge = Arc::clone(&edge);
        let handler = move |request: Request| call::run(Arc::clone(&edge), operation, request);
        for path in operation.routes() {
            router = router.route(path, on(filter(operation), handler.clone()));
        }
    }
    admitted(router, &edge)
}

fn filter(operation: &Operation) -> MethodFilter {
    MethodFilter::try_from(operation.method.clone()).expect("the table has methods that a router knows")
}

/// Puts the edge before a router: identity, token, room; and answers for paths and methods that it lacks.
pub(crate) fn admitted(router: Router, edge: &Arc<Edge>) -> Router {
    let (lost, refused) = (Arc::clone(edge), Arc::clone(edge));
    router
        .fallback(move |request: Request| {
            let failure = target::no_route(request.uri().path());
            std::future::ready(lost.refuse(&request, failure))
        })
        .method_not_allowed_fallback(move |request: Request| {
            let failure = Failure::new(ErrorCode::MethodNotAllowed, "see the Allow header for what this path takes");
            std::future::ready(refused.refuse(&request, failure))
        })
        .layer(from_fn_with_state(Arc::clone(edge), admit))
}

async fn admit(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let id = edge.request_id(request.headers());
    request.extensions_mut().insert(id);
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    if let Err(failure) = edge.check(&request) {
        return edge.refuse(&request, failure);
    }
    let Ok(_permit) = edge.shared.in_flight.try_acquire() else {
        let failure = Failure::new(ErrorCode::Overloaded, "too many requests are being worked on");
        return edge.refuse(&request, failure);
    };
    let _counted = edge.shared.metrics.in_flight();
    next.run(request).await
}
