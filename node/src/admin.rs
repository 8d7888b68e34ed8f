//! The operators' listener: metrics, status, digests, links, draining, members, backups.
//!
//! **What always holds.** O1: nothing here walks rows but for a backup's pages: a root is kept, not computed. O2: on a listener that is not loopback everything here needs a token.
//!
//! **What is not here.** Routing and policies: reserved, and `not_supported` until they are built.

mod backup;
mod members;
mod verify;

use crate::api::{Edge, Failure, RequestId, Shared, admitted, read_json};
use crate::app::AppError;
use crate::auth::Gate;
use crate::backup::Backups;
use crate::inbox::Event;
use atoll_client::api::{Digest as DigestAnswer, ErrorCode, LinkCommand, PeerState, PeerStatus, Status};
use atoll_crdt::VersionVector;
use atoll_replication::sketch::{CELL_BYTES, Cell};
use atoll_replication::{Input, LinkState, LinkStatus, NodeName};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{MethodRouter, any, get, post};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What Prometheus' text format is called.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Who this node is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: NodeName,
}

struct Admin {
    shared: Arc<Shared>,
    edge: Arc<Edge>,
    identity: Identity,
    backups: Arc<Backups>,
}

/// Everything that operators ask, at a listener whose gate this is.
pub fn router(shared: &Arc<Shared>, gate: Gate, identity: Identity, backups: Arc<Backups>) -> Router {
    let edge = Edge::new(Arc::clone(shared), gate, "admin");
    let admin = Arc::new(Admin { shared: Arc::clone(shared), edge: Arc::clone(&edge), identity, backups });
    let on = |handle: fn(&Arc<Admin>) -> MethodRouter| handle(&admin);
    let router = Router::new()
        .route("/metrics", on(|admin| get(answering(admin, metrics))))
        .route("/admin/status", on(|admin| get(answering(admin, status))))
        .route("/admin/digest", on(|admin| get(answering(admin, digests))))
        .route("/admin/links/{node}", on(|admin| post(answering(admin, link))))
        .route("/admin/drain", on(|admin| post(answering(admin, drain))))
        .route("/admin/members", on(|admin| get(answering(admin, members::list))))
        .route("/admin/members/{node}", on(|admin| post(answering(admin, members::decide))))
        .route("/admin/verify", on(|admin| get(answering(admin, verify::report)).post(answering(admin, verify::begin))))
        .route("/admin/scrub", on(|admin| post(answering(admin, scrub))))
        .route("/admin/backup", on(|admin| post(answering(admin, backup::begin))))
        .route("/admin/backup/{session}", on(|admin| post(answering(admin, backup::ask))))
        .route("/admin/export", on(|admin| post(answering(admin, members::export))))
        .route("/admin/import", on(|admin| post(answering(admin, members::import))))
        .route("/admin/route", any(reserved(&edge)))
        .route("/admin/policy", any(reserved(&edge)));
    admitted(router, &edge)
}

/// A handler whose failures become problem documents.
fn answering<F>(
    admin: &Arc<Admin>,
    handle: fn(Arc<Admin>, Request) -> F,
) -> impl Fn(Request) -> std::pin::Pin<Box<dyn Future<Output = Response> + Send>> + Clone + Send + Sync + 'static
where
    F: Future<Output = Result<Response, Failure>> + Send + 'static,
{
    let admin = Arc::clone(admin);
    move |request| {
        let admin = Arc::clone(&admin);
        Box::pin(async move {
            let id = request.extensions().get::<RequestId>().cloned();
            let id = id.unwrap_or_else(|| admin.edge.request_id(request.headers()));
            let asked = request.uri().query().is_none_or(str::is_empty);
            let unknown = || Failure::new(ErrorCode::BadParameter, "nothing here takes parameters");
            let outcome = if asked { handle(admin, request).await } else { Err(unknown()) };
            outcome.unwrap_or_else(|failure| failure.into_response(&id))
        })
    }
}

async fn metrics(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    let text = admin.shared.metrics().encode();
    let text = text.map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    Ok(with_body(METRICS_TYPE, text))
}

async fn status(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    let app = admin.shared.app();
    let view = app.view();
    let snapshot = app.status().snapshot();
    let mut vector = snapshot.vector.clone();
    vector.join(view.context());
    json(&Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: admin.identity.cluster.clone(),
        node: admin.identity.node.as_str().to_owned(),
        region: app.region().as_str().to_owned(),
        actor: snapshot.actor.to_string(),
        vector: seqs(&vector),
        durable: seqs(view.context()),
        peers: snapshot.peers.iter().map(peer).collect(),
        rows: view.rows(),
        root: root(view.root()),
        clock_skew_ms: snapshot.clock_skew_ms.map(|skew| skew as f64),
    })
}

async fn digests(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    let view = admin.shared.app().view();
    if view.is_clearing() {
        // The root is with rows that nobody reads any more: another node with this vector may have another.
        return Err(Failure::new(ErrorCode::NotReady, "rows of a deleted key are still being removed; ask again"));
    }
    json(&DigestAnswer { root: root(view.root()), vector: seqs(view.context()) })
}

async fn link(admin: Arc<Admin>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let name = parts.uri.path().strip_prefix("/admin/links/").unwrap_or_default();
    // A name that follows the rule needs no percent-encoding.
    let node = NodeName::new(name).ok();
    let command: LinkCommand = read_json(admin.shared.room(), &parts.headers, body).await?;
    let app = admin.shared.app();
    let known = node.filter(|node| app.status().snapshot().peers.iter().any(|peer| peer.node == *node));
    let Some(node) = known else { return Err(Failure::new(ErrorCode::NotFound, "no peer has this name")) };
    app.inbox().input(Input::Pause(node, command.paused)).await.map_err(AppError::from)?;
    Ok(done())
}

async fn drain(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    admin.shared.app().status().drain();
    Ok(done())
}

/// Has every stored row read; how far it is, the metrics tell.
async fn scrub(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    let (answer, begun) = oneshot::channel();
    admin.shared.app().inbox().event(Event::Scrub(answer)).await.map_err(AppError::from)?;
    if !begun.await.map_err(|_| AppError::Stopping)? {
        let detail = "every row is being read already; atoll_scrub_running is 0 when that is done";
        return Err(Failure::new(ErrorCode::Overloaded, detail));
    }
    Ok(accepted())
}

/// What the contract reserves is not supported, whatever is asked of it.
fn reserved(edge: &Arc<Edge>) -> impl Fn(Request) -> std::future::Ready<Response> + Clone + Send + Sync + 'static {
    let edge = Arc::clone(edge);
    move |request| {
        let failure = Failure::new(ErrorCode::NotSupported, "this is reserved and not supported yet");
        std::future::ready(edge.refuse(&request, failure))
    }
}

/// A sum over rows, in hexadecimal.
fn root(cell: Cell) -> String {
    let mut bytes = Vec::with_capacity(CELL_BYTES);
    cell.encode(&mut bytes);
    bytes.iter().fold(String::with_capacity(2 * CELL_BYTES), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn peer(of: &LinkStatus) -> PeerStatus {
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let is_connected = of.state.carries_records();
    PeerStatus {
        node: of.node.as_str().to_owned(),
        region: of.region.as_str().to_owned(),
        state: peer_state(of.state),
        rtt_ms: of.rtt.map(ms),
        lag_ms: of.lag.map(ms),
        lag_records: is_connected.then_some(of.lag_records),
    }
}

fn peer_state(state: LinkState) -> PeerState {
    match state {
        LinkState::Down => PeerState::Down,
        LinkState::Connecting => PeerState::Connecting,
        LinkState::Live => PeerState::Live,
        LinkState::CatchingUp => PeerState::CatchingUp,
        LinkState::Reconciling => PeerState::Reconciling,
        LinkState::Bootstrapping => PeerState::Bootstrapping,
        LinkState::Paused => PeerState::Paused,
    }
}

fn seqs(vector: &VersionVector) -> BTreeMap<String, u64> {
    vector.iter().map(|dot| (dot.actor.to_string(), dot.seq)).collect()
}

fn json(value: &impl Serialize) -> Result<Response, Failure> {
    let text = serde_json::to_vec(value).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    Ok(with_body(atoll_client::api::headers::JSON, text))
}

fn with_body(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn done() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn accepted() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

#[cfg(test)]
mod tests;
