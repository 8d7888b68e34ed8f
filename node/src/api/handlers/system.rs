//! What is asked of the node itself.

use super::super::Failure;
use super::super::call::{Call, json, with_body};
use atoll_client::api::{Readiness, headers};
use axum::response::Response;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use std::time::Duration;

pub(in super::super) async fn healthz(_call: Call) -> Result<Response, Failure> {
    Ok(with_body(HeaderValue::from_static("text/plain; charset=utf-8"), "ok\n"))
}

pub(in super::super) async fn readyz(call: Call) -> Result<Response, Failure> {
    let max_lag = call.query.duration("max_lag", Duration::MAX)?;
    let reasons = call.app().status().not_ready_reasons(max_lag);
    let ready = reasons.is_empty();
    let mut response = json(&Readiness { ready, reasons })?;
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}

pub(in super::super) async fn openapi(call: Call) -> Result<Response, Failure> {
    Ok(with_body(HeaderValue::from_static(headers::JSON), call.edge.openapi()))
}
