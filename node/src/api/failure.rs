//! What went wrong, as a problem document (RFC 9457).

use crate::app::AppError;
use atoll_client::api::{ErrorCode, Problem, Rejection, headers};
use atoll_crdt::ReadError;
use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Finds a request in the log. A client may bring its own.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that a client may bring.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// A request's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// Of what never came to be a request.
    pub(crate) fn none() -> Self {
        Self("none".to_owned())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives out ids: some digits of the process, and a count.
#[derive(Debug)]
pub(super) struct RequestIds {
    process: u32,
    count: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        Self { process: rand::random(), count: AtomicU64::new(1) }
    }

    /// The id that the request brings, if it can stand in a log line and a header, or a new one.
    pub(super) fn of(&self, headers: &HeaderMap) -> RequestId {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        let brought = headers
            .get(REQUEST_ID)
            .map(HeaderValue::as_bytes)
            .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(plain));
        match brought.and_then(|id| std::str::from_utf8(id).ok()) {
            Some(id) => RequestId(id.to_owned()),
            None => RequestId(format!("{:08x}-{:x}", self.process, self.count.fetch_add(1, Ordering::Relaxed))),
        }
    }
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    detail: String,
    /// Boxed: a header map alone would make every result large.
    headers: Box<HeaderMap>,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), headers: Box::default() }
    }

    /// Says where in the request it is.
    pub(super) fn at(mut self, place: fmt::Arguments<'_>) -> Self {
        self.detail = format!("{place}: {}", self.detail);
        self
    }

    /// Adds headers, such as those that a read answers even when it found nothing.
    pub(super) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    /// The answer to a client.
    pub(crate) fn into_response(self, id: &RequestId) -> Response {
        let Self { code, detail, headers } = self;
        if code.status() >= 500 && !code.is_retryable() && code != ErrorCode::NotSupported {
            tracing::error!(request_id = %id, %code, "{detail}");
        } else {
            tracing::debug!(request_id = %id, %code, "{detail}");
        }
        // Storage errors name files and offsets: they are for the log.
        let detail =
            if code == ErrorCode::Internal { "see the node's log for this request id".to_owned() } else { detail };
        let problem = Problem::new(code, detail, id.to_string());
        // A struct of texts always serializes.
        let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let out = response.headers_mut();
        out.extend(*headers);
        out.insert(CONTENT_TYPE, HeaderValue::from_static(headers::PROBLEM_JSON));
        if let Ok(id) = HeaderValue::from_str(&id.0) {
            out.insert(REQUEST_ID, id);
        }
        if code.is_retryable() {
            out.insert(RETRY_AFTER, HeaderValue::from_static("1")); // A3
        }
        if code == ErrorCode::Unauthenticated {
            out.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.detail)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        AppError::from(error).into()
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        let code = match &error {
            AppError::Level { .. } => ErrorCode::BadParameter,
            AppError::OutOfRange => ErrorCode::OutOfRange,
            AppError::Path(_) => ErrorCode::BadPath,
            AppError::TooLarge(_) => ErrorCode::TooLarge,
            AppError::SessionBehind { .. } => ErrorCode::SessionBehind,
            AppError::SessionLost => ErrorCode::SessionWriteLost,
            AppError::Draining | AppError::Stopping => ErrorCode::Draining,
            AppError::NotReady(_) | AppError::Damaged => ErrorCode::NotReady,
            AppError::ClockSkew { .. } => ErrorCode::ClockSkew,
            AppError::Overloaded => ErrorCode::Overloaded,
            AppError::ReadOnly(_) => ErrorCode::StoreReadOnly,
            AppError::Storage(_) => ErrorCode::Internal,
        };
        let mut failure = Self::new(code, error.to_string());
        if let AppError::SessionBehind { lag_ms } = &error {
            let lags: Vec<String> = lag_ms.iter().map(|(region, ms)| format!("{region}={ms}")).collect();
            if let Ok(lags) = HeaderValue::from_str(&lags.join(",")) {
                failure.headers.insert(HeaderName::from_static(headers::LAG), lags);
            }
        }
        failure
    }
}
