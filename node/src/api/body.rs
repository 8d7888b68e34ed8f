//! A request's body: bounded in size, in time, and in what all bodies together hold.

use super::Failure;
use super::query::bad;
use atoll_client::api::headers::JSON;
use atoll_client::api::{ErrorCode, parse_json};
use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, ORIGIN};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Largest JSON body: a record.
const JSON_BYTES_MAX: usize = atoll_client::api::limits::RECORD_BYTES_MAX;

/// How many times its size a JSON body may take up while it is worked on: a list of short texts costs that many bytes
/// in memory for each of its own.
const JSON_ROOM_FACTOR: usize = 8;

/// The unit in which the room for bodies is counted.
const ROOM_UNIT_BYTES: usize = 1 << 10;

/// The room that the bodies of all requests share.
#[derive(Debug, Clone)]
pub(crate) struct BodyRoom {
    units: Arc<Semaphore>,
    timeout: Duration,
}

/// A body that was read, with its room.
#[derive(Debug)]
pub(crate) struct ReadBody {
    pub(crate) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl BodyRoom {
    /// Room for `bytes` of bodies, of which each may take `timeout` to arrive.
    pub(crate) fn new(bytes: u64, timeout: Duration) -> Self {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX) / ROOM_UNIT_BYTES;
        Self { units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))), timeout }
    }

    /// How long a body may take to arrive.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Takes room for `bytes`; `None` when there is none.
    pub(crate) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.units).try_acquire_many_owned(units).ok()
    }

    /// Waits for room for `bytes`; `None` when there is none within the time that a body may take.
    pub(crate) async fn wait_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX);
        timeout(self.timeout, Arc::clone(&self.units).acquire_many_owned(units)).await.ok()?.ok()
    }

    /// Reads a body of at most `max` bytes that is kept as it is.
    pub(super) async fn read_bytes(&self, body: Body, max: usize) -> Result<ReadBody, Failure> {
        self.read(body, max, 1).await
    }

    /// Reads a body that is to be JSON.
    pub(super) async fn read_json(&self, headers: &HeaderMap, body: Body) -> Result<ReadBody, Failure> {
        check_is_json(headers)?;
        self.read(body, JSON_BYTES_MAX, JSON_ROOM_FACTOR).await
    }

    /// Reads a body of at most `max` bytes, which will take up `factor` times its size.
    async fn read(&self, body: Body, max: usize, factor: usize) -> Result<ReadBody, Failure> {
        let too_large = || Failure::new(ErrorCode::TooLarge, format!("the body has more than {max} bytes"));
        let hint = body.size_hint();
        if hint.lower() > max as u64 {
            return Err(too_large());
        }
        let expected = hint.exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(max);
        let room = self
            .take(expected.saturating_mul(factor))
            .ok_or_else(|| Failure::new(ErrorCode::Overloaded, "too many bytes of requests are being worked on"))?;
        let late = || Failure::new(ErrorCode::Malformed, "the body did not arrive in time");
        let read = timeout(self.timeout, Limited::new(body, max).collect()).await.map_err(|_| late())?;
        match read {
            Ok(whole) => Ok(ReadBody { bytes: whole.to_bytes(), _room: room }),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(_) => Err(Failure::new(ErrorCode::Malformed, "the body broke off")),
        }
    }
}

/// What common clients name when their user names nothing.
const UNSAID: &str = "application/x-www-form-urlencoded";

/// Whether a body may be read as JSON: it says so, or says nothing. What clients say when nobody told them counts as
/// nothing, but not from a web page: there it is what a form of a foreign site can send without being asked.
fn check_is_json(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = content_type.to_str().map_err(|_| bad("content-type is not ASCII"))?;
    let media_type = text.split(';').next().unwrap_or_default().trim();
    let unsaid = media_type.eq_ignore_ascii_case(UNSAID) && !headers.contains_key(ORIGIN);
    if unsaid || media_type.eq_ignore_ascii_case(JSON) {
        return Ok(());
    }
    let detail = "the body is JSON: send content-type: application/json, or none";
    Err(Failure::new(ErrorCode::UnsupportedMediaType, detail))
}

/// Reads a JSON body.
pub(crate) async fn read_json<T: DeserializeOwned>(
    room: &BodyRoom,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Failure> {
    let body = room.read_json(headers, body).await?;
    Ok(parse_json(&body.bytes)?)
}
