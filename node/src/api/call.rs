//! One request on its way through an operation, and the answers that all operations have in common.

use super::body::ReadBody;
use super::edge::Edge;
use super::operations::Operation;
use super::query::{Query, bad};
use super::target::Target;
use super::{Failure, RequestId};
use crate::app::{App, ReadOptions, Reading, TokenError, WriteOptions, Written};
use atoll_client::api::limits::{WAIT_DEFAULT, WAIT_MAX, WRITE_TIMEOUT_DEFAULT};
use atoll_client::api::{DataType, ErrorCode, Namespace, headers, parse_json};
use atoll_crdt::{CollectionKey, DataType as RowType, KeyError, VersionVector};
use atoll_replication::Command;
use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest wait for a write level: beyond it a client asks again.
const WRITE_TIMEOUT_MAX: Duration = Duration::from_secs(600);

pub(super) const TOKEN: HeaderName = HeaderName::from_static(headers::TOKEN);
pub(super) const CONTEXT: HeaderName = HeaderName::from_static(headers::CONTEXT);
pub(super) const SIBLINGS: HeaderName = HeaderName::from_static(headers::SIBLINGS);
const REGION: HeaderName = HeaderName::from_static(headers::REGION);
const STALENESS_MS: HeaderName = HeaderName::from_static(headers::STALENESS_MS);
const ACKED: HeaderName = HeaderName::from_static(headers::ACKED);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request whose path and query are known to be good.
pub(super) struct Call {
    pub(super) edge: Arc<Edge>,
    pub(super) query: Query,
    target: Option<Target>,
    headers: HeaderMap,
    /// Never locked: what makes a call `Sync`, which a body alone is not.
    body: Mutex<Body>,
}

impl Call {
    /// Checks what can be checked before anything is waited for.
    pub(super) fn new(
        edge: Arc<Edge>,
        operation: &'static Operation,
        parts: Parts,
        body: Body,
    ) -> Result<Self, Failure> {
        let path = parts.uri.path();
        let target = if path.starts_with("/v1/") { Some(Target::parse(path)?) } else { None };
        let query = Query::parse(parts.uri.query().unwrap_or_default(), operation.parameter_names())?;
        // A1
        if parts.headers.contains_key(IDEMPOTENCY_KEY) {
            return Err(Failure::new(ErrorCode::NotSupported, "idempotency-key is reserved and not supported yet"));
        }
        Ok(Self { edge, query, target, headers: parts.headers, body: Mutex::new(body) })
    }

    pub(super) fn app(&self) -> &App {
        self.edge.app()
    }

    /// The namespace that the path names.
    pub(super) fn namespace(&self) -> Result<&Namespace, Failure> {
        self.target.as_ref().map(|target| &target.namespace).ok_or_else(unrouted)
    }

    /// The thing of this type that the path names.
    pub(super) fn key(&self, data_type: RowType) -> Result<CollectionKey, Failure> {
        let target = self.target.as_ref().ok_or_else(unrouted)?;
        let key = target.key.as_ref().ok_or_else(unrouted)?;
        CollectionKey::new(target.namespace.as_str(), data_type, key.as_str()).map_err(key_failure)
    }

    /// The set's member that the path names.
    pub(super) fn member(&self) -> Result<&str, Failure> {
        self.target.as_ref().and_then(|target| target.member.as_deref()).ok_or_else(unrouted)
    }

    /// The content type that the body comes with.
    pub(super) fn content_type(&self) -> Result<Option<&str>, Failure> {
        let ascii = |value: &HeaderValue| value.to_str().ok().map(str::len);
        match self.headers.get(CONTENT_TYPE) {
            None => Ok(None),
            Some(value) if ascii(value).is_some_and(|len| len <= atoll_crdt::CONTENT_TYPE_BYTES_MAX) => {
                Ok(value.to_str().ok().filter(|text| !text.is_empty()))
            }
            Some(_) => Err(bad("content-type is more than 255 bytes, or not ASCII")),
        }
    }

    /// The body's bytes, at most `max`.
    pub(super) async fn bytes(&mut self, max: usize) -> Result<ReadBody, Failure> {
        let body = self.take_body();
        self.edge.room().read_bytes(body, max).await
    }

    /// The body's bytes, which are to be JSON.
    pub(super) async fn json_bytes(&mut self) -> Result<ReadBody, Failure> {
        let body = self.take_body();
        self.edge.room().read_json(&self.headers, body).await
    }

    fn take_body(&mut self) -> Body {
        std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// The body's JSON.
    pub(super) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let body = self.json_bytes().await?;
        Ok(parse_json(&body.bytes)?)
    }

    /// A view that covers what the session has seen.
    pub(super) async fn read(&self) -> Result<Reading<'_>, Failure> {
        let options = ReadOptions {
            token: self.token()?,
            consistency: self.query.parsed("consistency")?.unwrap_or_default(),
            wait: self.wait()?,
        };
        Ok(self.app().read(&options).await?)
    }

    /// Does `commands`, all or none.
    pub(super) async fn write(&self, commands: Vec<Command>) -> Result<Written, Failure> {
        let context = self.headers.get(CONTEXT).map(|text| self.app().read_context(text.as_bytes()));
        let options = WriteOptions {
            token: self.token()?,
            context: context.transpose().map_err(|error| malformed(headers::CONTEXT, error))?,
            wait: self.wait()?,
            level: self.query.parsed("w")?.unwrap_or_default(),
            level_wait: self.query.duration("wtimeout", WRITE_TIMEOUT_MAX)?.unwrap_or(WRITE_TIMEOUT_DEFAULT),
        };
        Ok(self.app().write(commands, options).await?)
    }

    fn token(&self) -> Result<VersionVector, Failure> {
        let Some(text) = self.headers.get(TOKEN) else { return Ok(VersionVector::new()) };
        self.app().read_token(text.as_bytes()).map_err(|error| malformed(headers::TOKEN, error))
    }

    fn wait(&self) -> Result<Duration, Failure> {
        Ok(self.query.duration("wait", WAIT_MAX)?.unwrap_or(WAIT_DEFAULT))
    }
}

fn malformed(header: &str, error: TokenError) -> Failure {
    let code = if error == TokenError::Unknown { ErrorCode::SessionBehind } else { ErrorCode::Malformed };
    Failure::new(code, format!("{header}: {error}"))
}

/// The table gave a handler a path that it cannot serve: a fault of this program.
fn unrouted() -> Failure {
    Failure::new(ErrorCode::Internal, "an operation was called on a path of another")
}

/// Which name was refused.
pub(super) fn key_failure(error: KeyError) -> Failure {
    let code = match error {
        KeyError::Namespace => ErrorCode::BadNamespace,
        KeyError::UserKey => ErrorCode::BadKey,
        KeyError::Member | KeyError::Path => ErrorCode::BadPath,
        KeyError::Malformed => ErrorCode::Internal,
    };
    Failure::new(code, error.to_string())
}

/// A type of rows as the contract names it.
pub(crate) const fn api_type(data_type: RowType) -> DataType {
    match data_type {
        RowType::Register => DataType::Registers,
        RowType::Counter => DataType::Counters,
        RowType::Set => DataType::Sets,
        RowType::Map => DataType::Maps,
        RowType::Flag => DataType::Flags,
    }
}

/// A type of the contract as rows have it.
pub(super) fn row_type(data_type: DataType) -> Result<RowType, Failure> {
    Ok(match data_type {
        DataType::Registers => RowType::Register,
        DataType::Counters => RowType::Counter,
        DataType::Sets => RowType::Set,
        DataType::Maps => RowType::Map,
        DataType::Flags => RowType::Flag,
        DataType::Docs => {
            return Err(Failure::new(ErrorCode::NotSupported, "docs are reserved and not supported yet"));
        }
    })
}

/// An answer with a body of a content type.
pub(super) fn with_body(content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer of JSON text.
pub(super) fn json_text(text: Vec<u8>) -> Response {
    with_body(HeaderValue::from_static(headers::JSON), text)
}

/// An answer of JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Response, Failure> {
    let text = serde_json::to_vec(value).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    Ok(json_text(text))
}

/// An answer that has nothing to say.
pub(super) fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// What every read tells, found or not.
fn reading_headers(reading: &Reading<'_>, context: &str) -> HeaderMap {
    let text = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let mut out = HeaderMap::with_capacity(6);
    out.insert(TOKEN, text(reading.token()));
    out.insert(CONTEXT, text(context));
    out.insert(REGION, text(reading.region()));
    // Rounded up: it is an upper bound.
    let staleness_ms = reading.staleness().as_micros().div_ceil(1_000);
    out.insert(STALENESS_MS, u64::try_from(staleness_ms).unwrap_or(u64::MAX).into());
    out
}

/// The answer to a read that found something.
pub(super) fn found(mut response: Response, reading: &Reading<'_>) -> Response {
    response.headers_mut().extend(reading_headers(reading, &reading.context()));
    response
}

/// Like [`found`], of a counter: its context tells what was shown exactly.
pub(super) fn found_counter(mut response: Response, reading: &Reading<'_>, context: &str) -> Response {
    response.headers_mut().extend(reading_headers(reading, context));
    response
}

/// The answer to a read that found nothing.
pub(super) fn absent(reading: &Reading<'_>) -> Failure {
    let headers = reading_headers(reading, &reading.context());
    Failure::new(ErrorCode::NotFound, "there is nothing here").with_headers(headers)
}

/// The answer to a write: as it would be, or 202 when its level was not reached in time.
pub(super) fn written(mut response: Response, written: &Written) -> Response {
    if let Some((held, asked)) = written.acked {
        *response.status_mut() = StatusCode::ACCEPTED;
        if let Ok(acked) = HeaderValue::from_str(&format!("{held}/{asked}")) {
            response.headers_mut().insert(ACKED, acked);
        }
    }
    if let Ok(token) = HeaderValue::from_str(&written.token) {
        response.headers_mut().insert(TOKEN, token);
    }
    response
}

/// Runs an operation for a request, and answers.
pub(super) async fn run(edge: Arc<Edge>, operation: &'static Operation, request: axum::extract::Request) -> Response {
    let started = std::time::Instant::now();
    let (parts, body) = request.into_parts();
    let id = parts.extensions.get::<RequestId>().cloned().unwrap_or_else(|| edge.request_id(&parts.headers));
    let outcome = match Call::new(Arc::clone(&edge), operation, parts, body) {
        Ok(call) => (operation.handler)(call).await,
        Err(failure) => Err(failure),
    };
    edge.count(operation, &outcome, started.elapsed());
    outcome.unwrap_or_else(|failure| failure.into_response(&id))
}
