//! The contract with clients over HTTP and QUIC: paths, parameters, headers and bodies, and what they mean to [`crate::app`].
//!
//! **How it goes.** `operations::OPERATIONS` is the one table of what exists. The router, the checks of parameters, the
//! OpenAPI document and its test are made from it. A request passes the edge (identity, bearer token, room), is parsed
//! into domain types, calls one method of the application, and is answered; a failure becomes a problem document.
//!
//! **What always holds.** A1: nothing that a user asked for is silently ignored: an unknown parameter or member is an error,
//! and what the contract reserves is `not_supported`. A2: a refused request changed nothing. A3: every failure carries
//! a code of the closed list and a request id, and every 503 says when to come back. A4: a path is taken apart as it came,
//! and each part decoded on its own, so that a key may hold any character.
//!
//! **What is not here.** Sockets and framing: [`crate::http`] and [`crate::quic`], which call the same router.

mod body;
mod call;
mod edge;
mod failure;
mod handlers;
mod openapi;
mod operations;
mod query;
mod target;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use body::read_json;
pub(crate) use call::api_type;
pub(crate) use edge::{Edge, admitted};
pub use edge::{Shared, router};
pub(crate) use failure::{Failure, RequestId};
