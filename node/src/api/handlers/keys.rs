//! Which keys a namespace holds.

use super::super::Failure;
use super::super::call::{Call, api_type, found, json, row_type};
use super::super::query::bad;
use super::{after, cursor, limit};
use crate::app::{Cursor, KeysQuery};
use atoll_client::api::limits::KEY_BYTES_MAX;
use atoll_client::api::{DataType, KeyEntry, KeysPage};
use axum::response::Response;

pub(in super::super) async fn get(call: Call) -> Result<Response, Failure> {
    let prefix = call.query.text("prefix").unwrap_or_default();
    if prefix.len() > KEY_BYTES_MAX {
        return Err(bad("prefix has more than 1,024 bytes"));
    }
    let place = |bytes: Vec<u8>| Cursor::from_bytes(&bytes).ok_or_else(|| bad("after is the next of the page before"));
    let query = KeysQuery {
        namespace: call.namespace()?.clone(),
        data_type: call.query.parsed::<DataType>("type")?.map(row_type).transpose()?,
        prefix: prefix.to_owned(),
        after: after(&call)?.map(place).transpose()?,
        limit: limit(&call)?,
    };
    let reading = call.read().await?;
    let page = reading.keys(query).await?;
    let keys = page.keys.into_iter().map(|(data_type, key)| KeyEntry { data_type: api_type(data_type), key });
    let next = page.next.map(|next| cursor(&next.to_bytes()));
    Ok(found(json(&KeysPage { keys: keys.collect(), next })?, &reading))
}
