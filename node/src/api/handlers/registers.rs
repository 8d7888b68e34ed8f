//! Registers: any bytes with their media type; concurrent values stay readable.

use super::super::Failure;
use super::super::call::{Call, SIBLINGS, absent, found, json, nothing, with_body, written};
use super::super::query::bad;
use crate::app::Reading;
use atoll_client::api::limits::{MESSAGE_BYTES_MAX, VALUE_BYTES_MAX};
use atoll_client::api::{ErrorCode, RegisterSiblings, Sibling, headers};
use atoll_crdt::{DataType, registers};
use atoll_replication::Command;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::X_CONTENT_TYPE_OPTIONS;
use time::OffsetDateTime;
use time::macros::format_description;

pub(in super::super) async fn get(call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Register)?;
    let all = match call.query.text("siblings") {
        None => false,
        Some("all") => true,
        Some(_) => return Err(bad("siblings is all, or not there")),
    };
    let reading = call.read().await?;
    let siblings = reading.register(&key)?;
    let Some(winner) = siblings.first() else { return Err(absent(&reading)) };
    let count = siblings.len();
    let mut response = if all { all_of(&reading, siblings)? } else { value(winner) };
    response.headers_mut().insert(SIBLINGS, count.into());
    Ok(found(response, &reading))
}

pub(in super::super) async fn put(mut call: Call) -> Result<Response, Failure> {
    let key = call.key(DataType::Register)?;
    let content_type = call.content_type()?.unwrap_or(headers::OCTET_STREAM).to_owned();
    let body = call.bytes(VALUE_BYTES_MAX).await?;
    let put = Command::RegisterPut { key, content_type, bytes: body.bytes[..].into() };
    let done = call.write(vec![put]).await?;
    Ok(written(nothing(), &done))
}

pub(in super::super) async fn delete(call: Call) -> Result<Response, Failure> {
    super::delete(call, DataType::Register).await
}

fn value(winner: &registers::Sibling) -> Response {
    let octets = HeaderValue::from_static(headers::OCTET_STREAM);
    let content_type = HeaderValue::from_str(&winner.content_type).unwrap_or(octets);
    let mut response = with_body(content_type, Bytes::copy_from_slice(&winner.bytes));
    // What a client put is not to be run as something else by another's browser.
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn all_of(reading: &Reading<'_>, siblings: Vec<registers::Sibling>) -> Result<Response, Failure> {
    // Base64 takes four bytes for three.
    let bytes: usize = siblings.iter().map(|sibling| sibling.bytes.len().div_ceil(3) * 4 + 512).sum();
    if bytes > MESSAGE_BYTES_MAX {
        let detail =
            "the values are larger than one answer may be; put one in their place with the context of this read";
        return Err(Failure::new(ErrorCode::TooLarge, detail));
    }
    let siblings = siblings.into_iter().map(|sibling| {
        let sibling = reading.sibling(sibling);
        Sibling {
            value: sibling.bytes.to_vec(),
            content_type: sibling.content_type.to_string(),
            region: sibling.region,
            at: rfc3339(sibling.at_ms),
        }
    });
    json(&RegisterSiblings { siblings: siblings.collect() })
}

/// RFC 3339, UTC, milliseconds.
fn rfc3339(ms: u64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&format).ok()).unwrap_or_else(|| "9999-12-31T23:59:59.999Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
